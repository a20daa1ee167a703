//! `portolan show`: what the kernel holds now, read back as Services. Nothing else is asked.

use crate::error::Error;
use crate::node;
use clap::Args;
use dataplane::evidence::{Evidence, Noted};
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
    /// Backends that are left out because they do not answer.
    aside: Vec<Aside>,
}

#[derive(Serialize)]
struct Aside {
    backend: String,
    protocol: &'static str,
    /// In one word.
    why: String,
    since: String,
    /// How many times in a row.
    times: u32,
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
    let noted = match Evidence::open(&options.families, mode).and_then(|mut evidence| evidence.noted()) {
        Err(error) if !error.is_missing() => return Err(error.into()),
        noted => noted.unwrap_or_default(),
    };
    let aside = noted.iter().map(aside).collect();
    let answer = Answer { mode: mode.name(), services: shown.iter().map(service).collect(), aside };
    print(&answer, arguments.json).map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// The daemon's word on it: `silent since 2026-01-01T00:00:00Z times 1`.
fn aside(noted: &Noted) -> Aside {
    let words: Vec<&str> = noted.word.split(' ').collect();
    let behind = |name| {
        let place = words.iter().position(|word| *word == name)?;
        words.get(place + 1).copied()
    };
    Aside {
        backend: noted.backend.at.to_string(),
        protocol: noted.backend.protocol.name(),
        why: words.first().copied().unwrap_or_default().to_owned(),
        since: behind("since").unwrap_or_default().to_owned(),
        times: behind("times").and_then(|times| times.parse().ok()).unwrap_or_default(),
    }
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
    for Aside { backend, protocol, why, since, times } in &answer.aside {
        write!(out, "set aside: {backend}/{protocol}, {why} since {since}")?;
        writeln!(
            out,
            "{}",
            if *times > 1 { format!(", for the {times}th time in a row") } else { String::new() }
        )?;
    }
    if answer.services.is_empty() {
        writeln!(out, "nothing of ours in mode {}", answer.mode)?;
    }
    Ok(())
}
