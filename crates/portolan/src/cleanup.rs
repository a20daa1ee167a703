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
        let families = Family::ALL.to_vec();
        let options = PlaneOptions { families, drop_invalid: false, ipvs: Default::default() };
        let mut plane = match Plane::open(mode, &options) {
            Ok(plane) => plane,
            // What the kernel does not have holds nothing of ours.
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        for removed in plane.remove()? {
            any = true;
            match removed.strip_prefix("~ ") {
                Some(switch) => writeln!(out, "set back {switch}"),
                None => writeln!(out, "removed {removed}"),
            }
            .map_err(Error::Output)?;
        }
    }
    if !any {
        writeln!(out, "nothing of ours is there").map_err(Error::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}
