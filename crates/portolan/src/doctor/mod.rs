//! `portolan doctor`: can this node run each mode, and what is in the way if not.
//!
//! It asks the kernel rather than lists of what a kernel should have: each mode is tried with a
//! Service of every kind, in a network namespace of its own that is gone afterwards (`modes.rs`). Lists
//! (`modules.rs`) only explain what was refused. What else works on the same corner of the node is
//! looked for in `neighbours.rs`, the node's switches in `switches.rs`. Nothing is changed. How names are
//! looked up from here is another question, and another command: `names.rs`.

mod modes;
mod modules;
mod names;
mod neighbours;
mod switches;

use crate::error::Error;
use crate::{node, output, rights};
use clap::{Args, Subcommand};
use modules::Modules;
use serde::Serialize;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tell whether this node can run each mode, and what is missing if not
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    of: Option<Of>,
    /// A KubeProxyConfiguration: its mode and its scheduler are looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The mode that must work: auto, ipvs, nftables, iptables or ebpf
    #[arg(long, value_name = "MODE", value_parser = node::mode)]
    mode: Option<config::Mode>,
    /// Print one JSON object, on one line
    #[arg(long)]
    json: bool,
}

/// What else there is to look at.
#[derive(Subcommand)]
enum Of {
    Names(names::Arguments),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Services will not be routed, or by two at once.
    Error,
    /// Something is likely to go wrong.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    what: String,
    /// What mends it: a command, as a rule.
    mend: Option<String>,
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { severity, what: what.into(), mend: Some(mend.into()) }
    }

    fn note(what: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, what: what.into(), mend: None }
    }
}

/// What became of one mode.
#[derive(Debug, Serialize)]
struct ModeAnswer {
    mode: &'static str,
    works: bool,
    /// What is missing, where it does not work; what is worth knowing, where it does.
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Answer {
    node: String,
    kernel: String,
    healthy: bool,
    /// The mode that was asked for.
    asked: &'static str,
    /// The mode that `run` would take.
    mode: Option<&'static str>,
    modes: Vec<ModeAnswer>,
    findings: Vec<Finding>,
}

/// Looks at the node.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    if let Some(Of::Names(arguments)) = arguments.of {
        return names::run(arguments);
    }
    telemetry::log::quiet();
    let node::Loaded { configuration, .. } = node::load(arguments.config.as_deref())?;
    let asked = arguments.mode.unwrap_or(configuration.mode);
    let modules = Modules::read();
    // First what is in the node's own namespaces: with a user namespace of our own we may look at
    // them no more.
    let mut findings = neighbours::look();
    findings.extend(switches::look());
    let modes = match rights::become_root() {
        Ok(_) => modes::try_all(&configuration, &modules),
        Err(error) => modes::untried(&output::chain(&error)),
    };
    let mode = chosen(asked, &modes);
    if mode.is_none() {
        let what = match asked {
            config::Mode::Auto => "no mode works here".to_owned(),
            asked => format!("mode {}, which was asked for, does not work here", asked.name()),
        };
        findings.insert(0, Finding { severity: Severity::Error, what, mend: None });
    }
    let healthy = findings.iter().all(|finding| finding.severity != Severity::Error);
    let answer = Answer {
        node: node::hostname()?,
        kernel: modules.release.clone(),
        healthy,
        asked: asked.name(),
        mode,
        modes,
        findings,
    };
    print(&answer, arguments.json).map_err(Error::Output)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(output::NO) })
}

/// The mode that `run` would take, if it works.
fn chosen(asked: config::Mode, modes: &[ModeAnswer]) -> Option<&'static str> {
    let wanted = match asked {
        config::Mode::Auto => node::PREFERRED.map(|mode| mode.name()).to_vec(),
        asked => vec![asked.name()],
    };
    let working = |name: &str| modes.iter().any(|answer| answer.works && answer.mode == name);
    wanted.into_iter().find(|name| working(name))
}

fn print(answer: &Answer, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, answer)?;
        return writeln!(out);
    }
    writeln!(out, "{}, Linux {}", answer.node, answer.kernel)?;
    for ModeAnswer { mode, works, findings } in &answer.modes {
        let chosen = answer.mode == Some(mode);
        let word = match (works, chosen) {
            (true, true) => "works, and is what run takes",
            (true, false) => "works",
            (false, _) => "does not work",
        };
        writeln!(out, "{mode:9} {word}")?;
        for finding in findings {
            tell(&mut out, finding, "          ")?;
        }
    }
    for finding in &answer.findings {
        tell(&mut out, finding, "")?;
    }
    writeln!(out, "{}", if answer.healthy { "healthy" } else { "not healthy" })
}

fn tell(out: &mut impl std::io::Write, finding: &Finding, margin: &str) -> std::io::Result<()> {
    let word = match finding.severity {
        Severity::Error => "error: ",
        Severity::Warning => "warning: ",
        Severity::Note => "",
    };
    writeln!(out, "{margin}{word}{}", finding.what)?;
    match &finding.mend {
        Some(mend) => writeln!(out, "{margin}  mend: {mend}"),
        None => Ok(()),
    }
}
