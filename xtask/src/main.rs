//! The project's chores, run as `cargo xtask COMMAND`: one file for each command.
#![forbid(unsafe_code)]

mod check;
mod tally;
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
    /// Check format, lints and the architecture's invariants
    Check,
    /// Run tests or a program on a kernel with IPVS, in a virtual machine
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check => check::main(&commands()).map(|()| ExitCode::SUCCESS),
        Command::Vm(arguments) => vm::main(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn commands() -> Vec<String> {
    Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}
