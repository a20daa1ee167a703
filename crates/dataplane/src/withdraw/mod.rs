//! What stands in the kernel from before and is not the plane's at work: our own from another mode, and
//! what a kube-proxy of any mode has left. To be withdrawn once the plane at work is programmed, so that
//! at every moment at least one of them takes new connections, and never the other way round.
//!
//! Established connections go on: those that were translated are remembered by the connection tracker,
//! those of IPVS are waited for.

mod chains;
mod servers;

use crate::iptables::{self, Variant};
use crate::ipvs::{self, Left};
use crate::program::remove_table;
use crate::{Error, Mode, PlaneOptions, nftables};
use model::Family;
use netlink::ipvs::ServiceKey;
use netlink::nftables::{Table, tables};
use netlink::{Netfilter, Socket, ipset};
use plan::At;
use servers::Places;
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) use chains::remove_ours;
use chains::{Which, remove};

/// The tables of kube-proxy's nftables mode.
const KUBE_PROXY_TABLE: &str = "kube-proxy";
/// What the names of its ipsets begin with.
const KUBE_PROXY_SETS: &str = "KUBE-";

/// What is to be withdrawn.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    /// The mode of the plane at work, whose own stays; `None` where none is.
    pub at_work: Option<Mode>,
    /// What a kube-proxy has left, too.
    pub theirs: bool,
    /// How long virtual servers may keep their connections.
    pub patience: Duration,
    /// NodePorts in use, by which another proxy's virtual servers are known.
    pub node_ports: BTreeSet<u16>,
    /// What decides planes.
    pub options: PlaneOptions,
}

impl Withdrawal {
    /// Withdraws all of it and tells what that was, piece by piece. What fails is told by `failed` and
    /// holds up nothing else. Takes as long as connections through virtual servers do.
    pub fn carry_out(&self, said: &mut dyn FnMut(String), failed: &mut dyn FnMut(Error)) {
        for part in [Self::tables, Self::chains, Self::sets, Self::servers] {
            match part(self, said) {
                Err(error) if !error.is_missing() => failed(error),
                _ => {}
            }
        }
    }

    fn tables(&self, said: &mut dyn FnMut(String)) -> Result<(), Error> {
        if self.at_work != Some(Mode::Nftables) {
            let mut plane = nftables::Plane::open(&Family::ALL, false)?;
            plane.remove()?.into_iter().for_each(&mut *said);
        }
        if !self.theirs {
            return Ok(());
        }
        let mut socket: Socket<Netfilter> = Socket::open()?;
        for table in tables(&mut socket)? {
            let families = [netlink::nftables::Family::Ip, netlink::nftables::Family::Ip6];
            if table.name != KUBE_PROXY_TABLE || !families.contains(&table.family) {
                continue;
            }
            let table = Table { family: table.family, name: KUBE_PROXY_TABLE };
            remove_table(&mut socket, table)?;
            said(format!("kube-proxy's table {table}"));
        }
        Ok(())
    }

    fn chains(&self, said: &mut dyn FnMut(String)) -> Result<(), Error> {
        let at_work = match self.at_work {
            Some(Mode::Iptables) => Some(iptables::Kernel::variant_in_use(self.options.iptables.variant)?),
            _ => None,
        };
        for variant in Variant::ALL.into_iter().filter(|variant| variant.may_hold_anything()) {
            let mut families = Vec::new();
            for family in Family::ALL.into_iter().filter(|family| variant.may_hold_of(*family)) {
                match iptables::Kernel::of_variant(variant, family) {
                    Err(error) if error.is_missing() => {}
                    tables => families.push((family, tables?)),
                }
            }
            let mut tables: Vec<_> = families.iter_mut().map(|(_, tables)| tables).collect();
            let each = |tables: Vec<&mut iptables::Kernel>, which| -> Result<Vec<usize>, Error> {
                tables.into_iter().map(|tables| remove(tables, which)).collect()
            };
            let counts = match (at_work == Some(variant), self.theirs) {
                (true, true) => each(tables, Which::Strange)?,
                (true, false) => continue,
                (false, true) => each(tables, Which::All)?,
                (false, false) => remove_ours(&mut tables)?,
            };
            for (count, (family, _)) in counts.into_iter().zip(&families).filter(|(count, _)| *count > 0) {
                said(format!("{count} chains of iptables-{variant} ({family})"));
            }
        }
        Ok(())
    }

    /// Chains refer to sets, so these go after them.
    fn sets(&self, said: &mut dyn FnMut(String)) -> Result<(), Error> {
        if !self.theirs {
            return Ok(());
        }
        let mut socket: Socket<Netfilter> = Socket::open()?;
        let names = ipset::names(&mut socket)?.into_iter().filter(|name| name.starts_with(KUBE_PROXY_SETS));
        let mut count = 0;
        for name in names {
            ipset::destroy(&mut socket, &name)?;
            count += 1;
        }
        if count > 0 {
            said(format!("{count} ipsets of kube-proxy"));
        }
        Ok(())
    }

    fn servers(&self, said: &mut dyn FnMut(String)) -> Result<(), Error> {
        if self.at_work == Some(Mode::Ipvs) {
            return Ok(());
        }
        let PlaneOptions { ipvs, .. } = &self.options;
        let mut plane = ipvs::Plane::open(&Family::ALL, false, ipvs.clone())?;
        let left = plane.give_up()?;
        left.tables.iter().cloned().for_each(&mut *said);
        let places = Places {
            known: left.servers.iter().filter_map(service_key).collect(),
            // Once the tables are gone nothing else tells which were ours, when this is done again.
            theirs: self.theirs,
            node_ports: self.node_ports.clone(),
            excluded: ipvs.excluded.clone(),
        };
        let Some((mut kernel, keys)) = servers::find(&places)? else { return Ok(()) };
        if !keys.is_empty() {
            let count = servers::retire(&mut kernel, keys, self.patience)?;
            said(format!("{count} virtual servers"));
        }
        if (self.theirs || left.is_any()) && servers::remove_device(&mut kernel)? {
            said(format!("device {}", ipvs::DEVICE));
        }
        plane.restore_switches(&left)?.into_iter().for_each(said);
        Ok(())
    }
}

impl Left {
    fn is_any(&self) -> bool {
        !self.tables.is_empty()
    }
}

fn service_key(key: &nftables::Key) -> Option<ServiceKey> {
    match key.at {
        At::Address(address, port) => {
            Some(ServiceKey::Address { protocol: key.protocol.number(), address, port })
        }
        At::NodePort(_) => None,
    }
}
