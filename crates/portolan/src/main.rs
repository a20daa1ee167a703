//! The binary: arguments in, one subcommand out. What each does is in the module of its name.
#![forbid(unsafe_code)]

mod aside;
mod bench;
mod checkpoint;
mod cleanup;
mod daemon;
mod demo;
#[cfg(test)]
mod deploy;
mod dns;
mod doctor;
mod error;
mod explain;
mod health_ports;
mod janitor;
mod kube_proxy;
mod metrics;
mod node;
mod observe;
mod output;
mod pages;
mod plan;
mod publish;
mod rights;
mod run;
mod show;
mod start;
mod system;
mod trace;

use clap::{Parser, Subcommand};
use error::Error;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The Service layer of a Kubernetes node: routes what kube-proxy routes, names what CoreDNS names
#[derive(Parser)]
#[command(name = "portolan", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as it takes to read it")]
enum Command {
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    Doctor(Box<doctor::Arguments>),
    Run(run::Arguments),
    Plan(plan::Arguments),
    Show(show::Arguments),
    Cleanup(cleanup::Arguments),
    Trace(trace::Arguments),
    /// Answer DNS questions as CoreDNS does: its Corefile, its flags (`portolan dns -help`), its signals
    #[command(disable_help_flag = true)]
    Dns(DnsArguments),
}

/// CoreDNS' flags are spelled as Go spells them, so they are read elsewhere.
#[derive(clap::Args)]
struct DnsArguments {
    /// CoreDNS' flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// The name under which the program is CoreDNS.
const COREDNS: &str = "coredns";

fn main() -> ExitCode {
    // Images link us under the names of the programs that we replace.
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name).file_name();
    if name == Some(OsStr::new(COREDNS)) {
        return finish(dns::run(words.collect()));
    }
    if name == Some(OsStr::new(kube_proxy::NAME)) {
        let arguments = words.map(|argument| argument.to_string_lossy().into_owned());
        return kube_proxy::run(arguments).unwrap_or_else(|error| {
            output::error(&error);
            // kube-proxy has no other code for it.
            ExitCode::FAILURE
        });
    }
    // Arguments that make no sense end here, with code 2.
    let Arguments { command } = Arguments::parse();
    let done: Result<ExitCode, Error> = match command {
        Command::Bench(arguments) => bench::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Doctor(arguments) => doctor::run(*arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Cleanup(_) => cleanup::run(),
        Command::Trace(arguments) => trace::run(arguments),
        Command::Dns(DnsArguments { flags }) => dns::run(flags),
    };
    finish(done)
}

fn finish(done: Result<ExitCode, Error>) -> ExitCode {
    done.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(output::CANNOT)
    })
}
