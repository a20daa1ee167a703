//! `portolan plan`: a dry run. The steps that `run` would take, printed and not done.

use crate::error::Error;
use crate::{node, output};
use clap::{Args, ValueEnum};
use dataplane::Plane;
use model::{Change, Cluster};
use serde::Serialize;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use watch::Keep;

/// Print the steps that would bring the kernel up to date, without doing them; exit code 1 if there are any
#[derive(Args)]
pub(crate) struct Arguments {
    /// A directory or file of Kubernetes manifests
    #[arg(long, value_name = "PATH")]
    manifests: PathBuf,
    /// The node that the plan is for
    #[arg(long, value_name = "NAME", conflicts_with = "hostname_override")]
    node: Option<String>,
    #[command(flatten)]
    this_node: node::NodeArguments,
    /// What the steps lead from
    #[arg(long, value_enum, default_value = "kernel")]
    against: Against,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    /// What this kernel holds
    Kernel,
    /// Nothing
    None,
}

#[derive(Serialize)]
struct Answer<'a> {
    mode: &'a str,
    node: &'a str,
    services: usize,
    steps: usize,
    commits: Vec<Commit>,
    contested: Vec<String>,
}

#[derive(Serialize)]
struct Commit {
    family: String,
    steps: Vec<String>,
}

/// Prints the plan.
pub(crate) fn run(mut arguments: Arguments) -> Result<ExitCode, Error> {
    telemetry::log::quiet();
    if let Some(node) = arguments.node {
        arguments.this_node.hostname_override = Some(node);
    }
    let node::Prepared { settings, mode, options, .. } = arguments.this_node.prepare()?;
    let mut cluster = Cluster::new();
    let problems = watch::load_each(&arguments.manifests, Keep::default(), |object| {
        cluster.apply(Change::Apply(object));
    })?;
    problems.iter().for_each(output::warning);
    let rules = plan::rules(&cluster, &settings);
    let mut plane = Plane::open(mode, &options)?;
    let previews = plane.preview(&rules, arguments.against == Against::None)?;
    let services = rules.services.values();
    let contested = services.flat_map(|s| s.contested.iter().map(|c| format!("Service {}: {c}", s.name)));
    let answer = Answer {
        mode: mode.name(),
        node: &rules.node.name,
        services: rules.services.len(),
        steps: previews.iter().map(|preview| preview.steps.len()).sum(),
        commits: previews
            .into_iter()
            .map(|preview| Commit { family: preview.family.to_string(), steps: preview.steps })
            .collect(),
        contested: contested.collect(),
    };
    print(&answer, arguments.json).map_err(Error::Output)?;
    Ok(if answer.steps == 0 { ExitCode::SUCCESS } else { ExitCode::from(output::NO) })
}

fn print(answer: &Answer<'_>, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, answer)?;
        return writeln!(out);
    }
    for line in &answer.contested {
        writeln!(out, "! {line}")?;
    }
    for (number, commit) in answer.commits.iter().enumerate() {
        writeln!(out, "commit {} ({}):", number + 1, commit.family)?;
        for step in &commit.steps {
            writeln!(out, "  {step}")?;
        }
    }
    let Answer { mode, node, services, steps, .. } = answer;
    writeln!(out, "{steps} steps for {services} Services on node {node} in mode {mode}")
}
