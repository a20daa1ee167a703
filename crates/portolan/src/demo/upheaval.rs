//! What must not be noticed: an endpoint goes and comes back, the daemon is killed and started
//! again, all while connections flow.

use super::Voice;
use super::checks::{Answers, counts};
use super::cluster::Cluster;
use super::hosts::WEB;
use crate::error::Error;
use lab::{Held, Load, Protocol, Running};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `shop/web`.
const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);
/// Who connects.
const CLIENT: &str = "shell-a";
/// Who goes and comes back.
const LEAVING: &str = "web-2";
/// Connections a second.
const RATE: u32 = 50;
/// Of which so many may be under way: two seconds' worth. A machine that cannot keep up would else only
/// fall further behind.
const AT_ONCE: usize = 2 * RATE as usize;
/// How long each state of affairs is watched: enough connections for each backend to be seen.
const WATCHED: Duration = Duration::from_millis(900);
/// Connections that stay open all the time, and how often each is asked.
const HELD: usize = 9;
const HELD_EVERY: Duration = Duration::from_millis(100);

/// The flow of connections.
pub(super) struct Flow {
    load: Running,
    held: Option<Held>,
    begin: Instant,
    /// The load's phase. Those with odd numbers are changes under way: any backend may answer.
    phase: usize,
    /// Who must answer the connections of a phase: each of these and nobody else.
    expected: Vec<(usize, Vec<&'static str>)>,
    wrong: Vec<String>,
}

impl Flow {
    /// Connections begin to flow.
    pub(super) fn start(cluster: &Cluster) -> Result<Flow, Error> {
        let client = cluster.hosts.find(CLIENT)?;
        let mut wrong = Vec::new();
        let held = client.client(Protocol::Tcp).hold(TARGET, HELD, HELD_EVERY);
        let held = held.map_err(|failure| wrong.push(format!("shop/web does not answer: {failure}"))).ok();
        let load = Load::new(Protocol::Tcp, TARGET).own_ports().per_second(RATE).at_once(AT_ONCE);
        let load = load.start(&[client])?;
        Ok(Flow { load, held, begin: Instant::now(), phase: 0, expected: Vec::new(), wrong })
    }

    /// Does one thing after another to the cluster, and watches the flow.
    pub(super) fn disturb(mut self, cluster: &mut Cluster, voice: Voice) -> Result<Answers, Error> {
        voice.say(format_args!(
            "{RATE} connections a second flow from {CLIENT} to shop/web all the while, and {HELD} stay open."
        ));
        self.watch(&WEB, voice);

        let rest: Vec<_> = WEB.into_iter().filter(|pod| *pod != LEAVING).collect();
        let micros = self.change(|| set(cluster, &rest))?;
        self.tell(voice, format_args!("{LEAVING} goes; the daemon has told the kernel within {micros} µs"));
        self.watch(&rest, voice);

        let micros = self.change(|| set(cluster, &WEB))?;
        self.tell(voice, format_args!("{LEAVING} comes back, within {micros} µs"));
        self.watch(&WEB, voice);

        let complaints = self.change(|| Ok(cluster.kill()))?;
        self.wrong.extend(complaints);
        self.tell(voice, format_args!("the daemon on node-a is killed; what is routed stays routed"));
        self.watch(&WEB, voice);

        let line = self.change(|| cluster.revive())?;
        let seconds = line.field("full_sync_s").unwrap_or("?");
        self.tell(voice, format_args!("it is started again, and has read its tables back after {seconds} s"));
        self.watch(&WEB, voice);
        self.finish(voice)
    }

    /// Changes something. Connections that begin meanwhile are counted apart, for they may find
    /// the old state of affairs or the new.
    fn change<T>(&mut self, change: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.load.next_phase();
        let done = change()?;
        self.load.next_phase();
        self.phase += 2;
        Ok(done)
    }

    fn tell(&self, voice: Voice, what: std::fmt::Arguments<'_>) {
        voice.say(format_args!("  {:4.1} s  {what}", self.begin.elapsed().as_secs_f64()));
    }

    /// Watches for a while: these backends, and no others, must answer what begins now.
    fn watch(&mut self, backends: &[&'static str], voice: Voice) {
        self.expected.push((self.phase, backends.to_vec()));
        sleep(WATCHED);
        let phases = self.load.phases();
        voice.say(format_args!("          {}", counts(phases.get(self.phase).unwrap_or(&BTreeMap::new()))));
    }

    fn finish(self, voice: Voice) -> Result<Answers, Error> {
        let Flow { load, held, expected, mut wrong, .. } = self;
        let report = load.stop()?;
        let held = held.map(Held::finish).unwrap_or_default();
        for (phase, backends) in expected {
            let answered = report.phases.get(phase).cloned().unwrap_or_default();
            if !answered.keys().eq(&backends) {
                let by = counts(&answered);
                wrong.push(format!("shop/web: answered by {by}, where it should be each of {backends:?}"));
            }
        }
        for (failure, count) in &report.failures {
            wrong.extend((0..*count).map(|_| format!("shop/web: a connection failed: {failure}")));
        }
        for (failure, count) in &held.lost {
            wrong.extend((0..*count).map(|_| format!("shop/web: an open connection was lost: {failure}")));
        }
        if held.moved > 0 {
            wrong.push(format!("shop/web: {} answers on open connections came from elsewhere", held.moved));
        }
        let connections = report.answered() + report.failed();
        let to_leaving = held.per_backend.get(LEAVING).copied().unwrap_or(0);
        voice.say(format_args!(
            "  {connections} connections, {} failed. {HELD} open ones, {to_leaving} of them to {LEAVING}: {} lost.",
            report.failed(),
            held.lost.values().sum::<u64>()
        ));
        voice.say("");
        let connections = connections + held.per_backend.values().sum::<u64>();
        Ok(Answers { connections, per_backend: report.per_backend, wrong, ..Answers::default() })
    }
}

/// Puts these pods behind `shop/web` and waits until all daemons have taken it in; says how long
/// the one on node-a took, in microseconds.
fn set(cluster: &mut Cluster, pods: &[&str]) -> Result<String, Error> {
    cluster.set_web(pods)?;
    let line = cluster.wait("changed")?;
    Ok(line.as_ref().and_then(|line| line.field("took_us")).unwrap_or("?").to_owned())
}
