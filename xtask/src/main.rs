//! The project's chores, run as `cargo xtask COMMAND`: one file for each command.
#![forbid(unsafe_code)]

mod check;
mod fuzz;
mod packages;
mod tally;
mod test;
mod vm;
mod workspace;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Portolan's chores", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run `portolan bench` from a release build; ARGS are its own
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Check format, lints and the architecture's invariants
    Check,
    /// Run the fuzz targets with mutated seeds; `fuzz --help` for its arguments
    #[command(disable_help_flag = true)]
    Fuzz(Passed),
    /// Run every test: on this host, in the virtual machine, and the fuzz targets for a moment
    Test(test::Arguments),
    /// Run tests or a program on a kernel with IPVS, in a virtual machine
    Vm(vm::Arguments),
}

/// Arguments that go to another program as they are.
#[derive(clap::Args)]
struct Passed {
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Bench(passed) => bench(&passed.arguments).map(|()| ExitCode::SUCCESS),
        Command::Check => check::main(&commands()).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(passed) => fuzz::main(&passed.arguments).map(|()| ExitCode::SUCCESS),
        Command::Test(arguments) => test::main(&arguments),
        Command::Vm(arguments) => vm::main(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let words = ["run", "--quiet", "--locked", "--release", "--package", "portolan", "--", "bench"];
    workspace::run(workspace::cargo().args(words).args(arguments))
}

fn commands() -> Vec<String> {
    Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}
