//! `portolan cleanup`: takes away what is ours in the kernel, of every mode, and nothing else.

use crate::dns::default_addresses;
use crate::error::Error;
use clap::Args;
use dataplane::evidence::Evidence;
use dataplane::iptables::Variant;
use dataplane::steer::Steer;
use dataplane::{Mode, Plane, PlaneOptions, iptables};
use model::Family;
use netlink::nftables::{self, Batch, Table, tables};
use netlink::{Netfilter, Socket};
use std::io::Write as _;
use std::process::ExitCode;

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

/// The table of kube-proxy's nftables mode.
const KUBE_PROXY: &str = "kube-proxy";

/// Cleans up as kube-proxy does: what is ours, and the tables of kube-proxy's own nftables mode. Its
/// iptables chains and virtual servers are left for its own `--cleanup`, which has the tools for it.
pub(crate) fn as_kube_proxy() -> Result<ExitCode, Error> {
    let code = run()?;
    let mut socket: Socket<Netfilter> = Socket::open().map_err(dataplane::Error::from)?;
    for table in tables(&mut socket).map_err(dataplane::Error::from)? {
        if table.name != KUBE_PROXY || !matches!(table.family, nftables::Family::Ip | nftables::Family::Ip6) {
            continue;
        }
        let mut batch = Batch::new();
        batch.delete_table(Table { family: table.family, name: KUBE_PROXY });
        let doing = format!("delete kube-proxy's table of {:?}", table.family);
        batch.commit(&mut socket, &doing, None).map_err(dataplane::Error::from)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "removed kube-proxy's nftables table ({:?})", table.family).map_err(Error::Output)?;
    }
    Ok(code)
}
