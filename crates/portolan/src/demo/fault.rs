//! `portolan demo --fault`: a backend or a node fails while connections flow, and the clients should
//! not see it. The endpoints stay as they are: nobody tells the daemon.

use super::cluster::Cluster;
use super::{FAILED, Voice};
use crate::daemon::Line;
use crate::error::Error;
use crate::janitor::Janitor;
use clap::ValueEnum;
use lab::{Failure, Load, Protocol, Report};
use serde::Serialize;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// One of three backends says nothing any more
    SilentBackend,
    /// One of three backends refuses connections
    RefusingBackend,
    /// A node loses its cable, and with it one of the three backends of each of many Services
    SilentNode,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::SilentBackend => "silent-backend",
            Fault::RefusingBackend => "refusing-backend",
            Fault::SilentNode => "silent-node",
        }
    }
}

/// How many connections there are, and after which the fault comes.
const CONNECTIONS: u64 = 200;
const BEFORE: u64 = 50;
/// How many a second, where the machine can do that.
pub(super) const RATE: u32 = 50;
/// How long a client waits for its connection.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// What a client may notice: its second SYN is sent after 1 s, its third after 3 s.
const NOTICED: Duration = Duration::from_secs(1);
const SLOWEST_MAX_S: f64 = 3.1;
/// Who connects, and who fails, on which node.
const CLIENT: &str = "shell-a";
const FAILING: &str = "web-2";
const FAILING_NODE: &str = "node-b";
/// `shop/web`, and others with the same backends: the last two digits of their ClusterIPs, and the port.
const WEB: (u8, u16) = (10, 80);
const OTHERS: [(u8, u16); 6] = [(11, 80), (12, 80), (13, 80), (14, 8080), (15, 80), (20, 80)];

/// What came of it, in the form that other programs read.
#[derive(Serialize)]
struct Summary {
    mode: String,
    fault: &'static str,
    connections: u64,
    failed: u64,
    over_1s: usize,
    slowest_s: f64,
    /// From the fault to the daemon's word; none where it said nothing.
    set_aside_after_s: Option<f64>,
}

/// What is to be shown.
pub(super) struct Task<'a> {
    pub(super) mode: &'a str,
    pub(super) fault: Fault,
    /// Connections a second.
    pub(super) rate: u32,
    /// The way it would be without.
    pub(super) off: bool,
    pub(super) json: bool,
}

/// Shows it.
pub(super) fn run(task: &Task<'_>) -> Result<ExitCode, Error> {
    let Task { mode, fault, rate, off, json } = *task;
    let janitor = Janitor::on_duty()?;
    let voice = Voice { to_stderr: json };
    let flags: &[&str] = if off { &["--set-aside", "off"] } else { &[] };
    let mut cluster = Cluster::with(mode, flags, &janitor)?;
    let ready = cluster.wait("synced")?;
    let mode = ready.as_ref().and_then(|line| line.field("mode")).unwrap_or(mode).to_owned();
    let without = if off { ", but nobody is set aside" } else { "" };
    voice.say(format_args!(
        "{CONNECTIONS} connections, {rate} a second, from {CLIENT} through Services of three backends{without}."
    ));
    let (report, failed_at) = flow(&mut cluster, fault, rate, voice)?;
    let aside = cluster.heard("backend", |line| line.message.contains(" is set aside"));
    let after = |line: &Line| round(line.at_s - failed_at);
    let summary = Summary {
        mode,
        fault: fault.name(),
        connections: report.answered() + report.failed(),
        failed: report.failed(),
        over_1s: report.latencies.longer_than(NOTICED) + timed_out(&report),
        slowest_s: round(report.latencies.max().as_secs_f64()),
        set_aside_after_s: aside.as_ref().map(after),
    };
    tell(voice, fault, &summary, &report);
    if json {
        let line = serde_json::to_string(&summary).map_err(|e| Error::Output(e.into()))?;
        writeln!(std::io::stdout(), "{line}").map_err(Error::Output)?;
    }
    let good = match fault {
        // A refusal reaches its client before anybody can do anything about it: the first ones count.
        Fault::RefusingBackend => aside.is_some(),
        Fault::SilentBackend | Fault::SilentNode => summary.failed == 0,
    };
    Ok(ExitCode::from(if good && summary.slowest_s <= SLOWEST_MAX_S { 0 } else { FAILED }))
}

/// How many were given up.
fn timed_out(report: &Report) -> usize {
    report.failures.get(&Failure::TimedOut).map_or(0, |count| usize::try_from(*count).unwrap_or(usize::MAX))
}

fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Lets connections flow and something fail; says what came of them, and when it failed.
fn flow(cluster: &mut Cluster, fault: Fault, rate: u32, voice: Voice) -> Result<(Report, f64), Error> {
    let at = |(last, port): (u8, u16)| SocketAddr::from((Ipv4Addr::new(10, 96, 0, last), port));
    let mut load = Load::new(Protocol::Tcp, at(WEB)).own_ports().per_second(rate).timeout(CLIENT_PATIENCE);
    if fault == Fault::SilentNode {
        load = OTHERS.into_iter().fold(load, |load, other| load.and(at(other)));
    }
    let client = cluster.hosts.find(CLIENT)?.clone();
    // The last one ends before the fault comes: one that is open when its backend dies is beyond help.
    let mut report = load.clone().count(BEFORE).run(&[&client])?;
    let failed_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match fault {
        Fault::SilentBackend => cluster.hosts.find(FAILING)?.silence()?,
        Fault::RefusingBackend => cluster.hosts.hang_up(FAILING),
        Fault::SilentNode => cluster.hosts.unplug(FAILING_NODE)?,
    }
    voice.say(match fault {
        Fault::SilentBackend => format!("From the {BEFORE}th on, {FAILING} is silent."),
        Fault::RefusingBackend => format!("From the {BEFORE}th on, {FAILING} refuses."),
        Fault::SilentNode => format!("From the {BEFORE}th on, {FAILING_NODE} is off the wire."),
    });
    report.merge(load.count(CONNECTIONS - BEFORE).run(&[&client])?);
    Ok((report, failed_at.as_secs_f64()))
}

fn tell(voice: Voice, fault: Fault, summary: &Summary, report: &Report) {
    let Summary { failed, over_1s, slowest_s, set_aside_after_s, .. } = summary;
    let by = super::checks::counts(&report.per_backend);
    voice.say(format_args!("Answered by {by}; {failed} failed."));
    voice.say(format_args!("{over_1s} took longer than 1 s, the slowest that was answered {slowest_s} s."));
    match set_aside_after_s {
        Some(seconds) => voice.say(format_args!("The backend was set aside after {seconds} s.")),
        None => voice.say("Nobody was set aside."),
    }
    if fault == Fault::RefusingBackend {
        voice.say(
            "A refusal is passed on to its client: those before the backend was set aside count as failed.",
        );
    }
    for (failure, count) in &report.failures {
        voice.say(format_args!("  {count} × {failure}"));
    }
}
