//! `portolan demo`: a whole small cluster in network namespaces, with the real daemon on its nodes
//! and real connections to Services of every kind. It touches nothing outside of those namespaces.

mod checks;
mod cluster;
mod fault;
mod hosts;
mod upheaval;

use crate::error::Error;
use crate::janitor::Janitor;
use crate::rights;
use checks::{Answers, merge};
use clap::Args;
use cluster::Cluster;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;
use upheaval::Flow;

/// Watch a whole small cluster at work, in network namespaces of its own
#[derive(Args)]
pub(crate) struct Arguments {
    /// How to route: auto, ipvs, nftables, iptables or ebpf
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: String,
    /// End with one line of JSON; the rest goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave the cluster running until Ctrl-C, to look around in it
    #[arg(long)]
    keep: bool,
    /// Show instead what clients notice when this fails
    #[arg(long, value_name = "FAULT", conflicts_with = "keep")]
    fault: Option<fault::Fault>,
    /// With --fault: the way it would be if backends that do not answer were not set aside
    #[arg(long, requires = "fault")]
    off: bool,
    /// With --fault: connections a second, for a machine too slow for so many
    #[arg(long, requires = "fault", value_name = "N", default_value_t = fault::RATE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(fault::RATE)))]
    rate: u32,
}

/// The exit code when something did not come out as it must.
const FAILED: u8 = 1;

/// Where the demo's words go.
#[derive(Clone, Copy)]
struct Voice {
    to_stderr: bool,
}

impl Voice {
    /// Says a line. Nobody listening is no reason to stop.
    fn say(self, line: impl Display) {
        let _ = match self.to_stderr {
            true => writeln!(std::io::stderr(), "{line}"),
            false => writeln!(std::io::stdout(), "{line}"),
        };
    }
}

/// What came of it, in the form that other programs read.
#[derive(Serialize)]
struct Summary {
    mode: String,
    connections: u64,
    failed: usize,
    per_backend: BTreeMap<String, u64>,
    /// Names are not part of the demo's cluster.
    dns_answers: u64,
    seconds: f64,
}

/// Shows it.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Arguments { mode, json, keep, fault, off, rate } = arguments;
    let begin = Instant::now();
    let unprivileged = rights::become_root()?;
    if let Some(fault) = fault {
        return fault::run(&fault::Task { mode: &mode, fault, rate, off, json });
    }
    let janitor = Janitor::on_duty()?;
    let voice = Voice { to_stderr: json };
    let mut cluster = Cluster::new(&mode, &janitor)?;
    let ready = cluster.wait("synced")?;
    let mode = ready.as_ref().and_then(|line| line.field("mode")).unwrap_or(&mode).to_owned();
    voice.say(format_args!(
        "A cluster in network namespaces, and `portolan run`, mode {mode}, on its nodes:\n"
    ));
    cluster.hosts.draw(voice);
    if let Some(line) = &ready {
        let of = |key| line.field(key).unwrap_or("?");
        voice.say(format_args!(
            "node-a routes {} Services, {} s after it had read them.\n",
            of("services"),
            of("full_sync_s")
        ));
    }
    let Answers { connections, per_backend, wrong, .. } = show(&mut cluster, voice)?;
    for wrong in &wrong {
        voice.say(format_args!("NO {wrong}"));
    }
    let failed = wrong.len();
    let seconds = (begin.elapsed().as_secs_f64() * 1e3).round() / 1e3;
    voice.say(format_args!(
        "{connections} connections in {seconds:.1} s; {failed} did not come out as they must."
    ));
    look(&mut cluster, &mode, keep.then_some(unprivileged), voice);
    if json {
        let summary = Summary { mode, connections, failed, per_backend, dns_answers: 0, seconds };
        let line = serde_json::to_string(&summary).map_err(|e| Error::Output(e.into()))?;
        writeln!(std::io::stdout(), "{line}").map_err(Error::Output)?;
    }
    let code = if failed == 0 { 0 } else { FAILED };
    if keep {
        janitor.expect_signal(code);
        loop {
            std::thread::park();
        }
    }
    Ok(ExitCode::from(code))
}

/// All that there is to see.
fn show(cluster: &mut Cluster, voice: Voice) -> Result<Answers, Error> {
    let flow = Flow::start(cluster)?;
    let mut all = checks::ask(&cluster.hosts)?;
    all.tell(voice);
    let flowed = flow.disturb(cluster, voice)?;
    all.connections += flowed.connections;
    merge(&mut all.per_backend, &flowed.per_backend);
    all.wrong.extend(flowed.wrong);
    all.wrong.extend(cluster.complaints());
    Ok(all)
}

/// What shows Services on a node.
const LOOK_NFTABLES: [&str; 3] = ["nft list map ip portolan frontends", "nft list ruleset", "ip route"];
const LOOK_IPVS: [&str; 3] =
    ["ipvsadm -Ln", "ip route show table local dev kube-ipvs0", "nft list table ip portolan-ipvs"];

/// How to look inside, if it stays: also for who has entered a user namespace.
fn look(cluster: &mut Cluster, mode: &str, stays: Option<bool>, voice: Voice) {
    let (Some(process), Some(unprivileged)) = (cluster.process(), stays) else {
        voice.say(format_args!("To look around in it: portolan demo --mode {mode} --keep"));
        return;
    };
    let user = if unprivileged { " --user --preserve-credentials" } else { "" };
    voice.say("It stays until Ctrl-C. Meanwhile, on node-a:");
    for command in if mode == "ipvs" { LOOK_IPVS } else { LOOK_NFTABLES } {
        voice.say(format_args!("  nsenter --target {process}{user} --net {command}"));
    }
}
