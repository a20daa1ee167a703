//! `portolan show`: what the kernel holds now, read back as Services. Nothing else is asked.

use crate::error::Error;
use crate::node;
use clap::Args;
use dataplane::{Plane, ShownFrontend, ShownService};
use plan::At;
use serde::Serialize;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Show what the kernel holds, read back as Services
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: node::NodeArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    mode: &'a str,
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    service: &'a str,
    frontends: Vec<Frontend<'a>>,
}

#[derive(Serialize)]
struct Frontend<'a> {
    at: String,
    protocol: &'a str,
    verdict: &'a str,
    backends: Vec<String>,
    backends_for_local_clients: Option<Vec<String>>,
    affinity_seconds: Option<u32>,
    masquerade: &'a str,
    sources: Vec<String>,
}

/// Shows what the kernel holds.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    telemetry::log::quiet();
    let node::Prepared { mode, options, .. } = arguments.node.prepare()?;
    let shown = Plane::open(mode, &options)?.show()?;
    let answer = Answer { mode: mode.name(), services: shown.iter().map(service).collect() };
    print(&answer, arguments.json).map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn service(shown: &ShownService) -> Service<'_> {
    Service { service: &shown.name, frontends: shown.frontends.iter().map(frontend).collect() }
}

fn frontend(shown: &ShownFrontend) -> Frontend<'_> {
    let texts = |slots: &[dataplane::Slot]| slots.iter().map(ToString::to_string).collect::<Vec<_>>();
    Frontend {
        at: match shown.at {
            At::Address(ip, port) => SocketAddr::new(ip, port).to_string(),
            At::NodePort(port) => format!("node:{port}"),
        },
        protocol: shown.protocol.name(),
        verdict: shown.verdict,
        backends: texts(&shown.backends),
        backends_for_local_clients: shown.backends_for_local_clients.as_deref().map(texts),
        affinity_seconds: shown.affinity_seconds,
        masquerade: shown.masquerade,
        sources: shown.sources.iter().map(ToString::to_string).collect(),
    }
}

fn print(answer: &Answer<'_>, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, answer)?;
        return writeln!(out);
    }
    for Service { service, frontends } in &answer.services {
        writeln!(out, "{service}")?;
        for frontend in frontends {
            let Frontend { at, protocol, verdict, backends, .. } = frontend;
            write!(out, "  {at}/{protocol}: {verdict}")?;
            if !backends.is_empty() {
                write!(out, " to {}", backends.join(" "))?;
            }
            if let Some(local) = &frontend.backends_for_local_clients {
                write!(out, "; local clients to {}", local.join(" "))?;
            }
            if let Some(seconds) = frontend.affinity_seconds {
                write!(out, "; affinity {seconds} s")?;
            }
            if !frontend.sources.is_empty() {
                write!(out, "; only from {}", frontend.sources.join(" "))?;
            }
            writeln!(out, "; masquerade {}", frontend.masquerade)?;
        }
    }
    if answer.services.is_empty() {
        writeln!(out, "nothing of ours in mode {}", answer.mode)?;
    }
    Ok(())
}
