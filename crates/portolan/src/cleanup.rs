//! `portolan cleanup`: takes away what is ours in the kernel, of every mode, and nothing else.

use crate::dns::default_addresses;
use crate::error::Error;
use clap::Args;
use dataplane::evidence::Evidence;
use dataplane::iptables::Variant;
use dataplane::steer::Steer;
use dataplane::{Mode, Plane, PlaneOptions, Withdrawal, iptables};
use model::Family;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Take away all that is ours in the kernel; Services are routed no more
#[derive(Args)]
pub(crate) struct Arguments {}

/// Cleans up.
pub(crate) fn run() -> Result<ExitCode, Error> {
    let mut out = std::io::stdout().lock();
    let mut any = false;
    // Both kinds of iptables, for the node may have changed over.
    let kinds = Mode::ALL.into_iter().flat_map(|mode| {
        match mode {
            Mode::Iptables => Variant::ALL.map(Some).to_vec(),
            Mode::Nftables | Mode::Ipvs => vec![None],
        }
        .into_iter()
        .map(move |variant| (mode, variant))
    });
    for (mode, variant) in kinds {
        if variant.is_some_and(|variant| !variant.may_hold_anything()) {
            continue;
        }
        let families = Family::ALL.to_vec();
        let iptables = iptables::Configuration { variant, ..iptables::Configuration::default() };
        let options = PlaneOptions { families, drop_invalid: false, ipvs: Default::default(), iptables };
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
    for removed in Steer::remove(&default_addresses())? {
        any = true;
        writeln!(out, "removed {removed}").map_err(Error::Output)?;
    }
    match Evidence::open(&Family::ALL, Mode::Nftables).and_then(|mut evidence| evidence.remove()) {
        Ok(removed) => {
            for removed in removed {
                any = true;
                writeln!(out, "removed {removed}").map_err(Error::Output)?;
            }
        }
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error.into()),
    }
    if !any {
        writeln!(out, "nothing of ours is there").map_err(Error::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Cleans up as kube-proxy does: what is ours, and what a kube-proxy of any mode has left. Connections
/// through virtual servers are not waited for.
pub(crate) fn as_kube_proxy() -> Result<ExitCode, Error> {
    let code = run()?;
    let withdrawal = Withdrawal {
        at_work: None,
        theirs: true,
        patience: Duration::ZERO,
        node_ports: BTreeSet::new(),
        options: PlaneOptions {
            families: Family::ALL.to_vec(),
            drop_invalid: false,
            ipvs: Default::default(),
            iptables: Default::default(),
        },
    };
    let mut out = std::io::stdout().lock();
    let mut first = None;
    let mut said = |what: String| drop(writeln!(out, "removed {what}"));
    withdrawal.carry_out(&mut said, &mut |error| {
        first.get_or_insert(error);
    });
    first.map_or(Ok(code), |error| Err(error.into()))
}
