//! `cargo xtask fuzz`: starts the driver of the fuzz targets, a program of its own because xtask
//! must build without the product.

use crate::workspace::{cargo, run};
use anyhow::Result;
use std::process::Command;

/// As many inputs for each target as take a few seconds without optimisation.
const SHORT_RUN_ITERATIONS: &str = "10000";

/// A moment's run, always the same, by the build that the tests have made already.
pub(crate) fn short() -> Command {
    driver("dev", &["--iterations".to_owned(), SHORT_RUN_ITERATIONS.to_owned()])
}

pub(crate) fn main(arguments: &[String]) -> Result<()> {
    run(&mut driver("fuzz", arguments))
}

fn driver(profile: &str, arguments: &[String]) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--locked", "--package", "fuzz-targets", "--profile", profile, "--"]);
    command.args(arguments);
    command
}
