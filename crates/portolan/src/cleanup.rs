//! `portolan cleanup`: takes away what is ours in the kernel, of every mode, and nothing else.

use crate::error::Error;
use clap::Args;
use dataplane::{Mode, Plane, PlaneOptions};
use model::Family;
use std::io::Write as _;
use std::process::ExitCode;

/// Take away all that is ours in the kernel; Services are routed no more
#[derive(Args)]
pub(crate) struct Arguments {}

/// Cleans up.
pub(crate) fn run() -> Result<ExitCode, Error> {
    let mut out = std::io::stdout().lock();
    let mut any = false;
    for mode in Mode::ALL {
        let options = PlaneOptions { families: Family::ALL.to_vec(), drop_invalid: false };
        for removed in Plane::open(mode, &options)?.remove()? {
            any = true;
            writeln!(out, "removed {removed}").map_err(Error::Output)?;
        }
    }
    if !any {
        writeln!(out, "nothing of ours is there").map_err(Error::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}
