//! Virtual servers of IPVS that another plane has taken the place of: they take no new connections, keep
//! those they have until these end or a limit passes, and then go with their addresses.
//!
//! To take a virtual server away resets its connections, so it is not done at once; new connections are
//! translated before IPVS sees them.

use crate::Error;
use crate::ipvs::DEVICE;
use model::Prefix;
use netlink::conntrack::{self, Detail, Filter, Masked, STATUS_DESTINATION_NAT};
use netlink::ipvs::{Ipvs, ServiceKey};
use netlink::route::{RouteFilter, RouteKind, TABLE_LOCAL};
use netlink::{Netfilter, Route, Socket};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The NodePorts of clusters that do not choose others.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// TCP, the one protocol whose connections end by themselves.
const TCP: u8 = 6;
/// How often it is looked whether connections have ended.
const LOOK: Duration = Duration::from_secs(2);

/// Where virtual servers stand that are a proxy's.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Those that are known to be.
    pub(super) known: BTreeSet<ServiceKey>,
    /// Another proxy's count, too: those at addresses of its device, and at NodePorts.
    pub(super) theirs: bool,
    /// NodePorts that are in use, besides those of the usual range.
    pub(super) node_ports: BTreeSet<u16>,
    /// Networks in which virtual servers are somebody else's.
    pub(super) excluded: Vec<Prefix>,
}

/// The virtual servers that are to go; `None` where the kernel has no IPVS.
pub(super) fn find(places: &Places) -> Result<Option<(Ipvs, BTreeSet<ServiceKey>)>, Error> {
    let mut ipvs = match Ipvs::open() {
        Ok(ipvs) => ipvs,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut route: Socket<Route> = Socket::open()?;
    let device = device(&mut route)?;
    let theirs = match device {
        Some(device) => addresses(&mut route, device)?,
        None => HashSet::new(),
    };
    let elsewhere = route.addresses(None)?.into_iter().filter(|address| Some(address.link) != device);
    let nodes: HashSet<IpAddr> = elsewhere.map(|address| address.prefix.address).collect();
    let is_ours = |key: &ServiceKey| {
        let ServiceKey::Address { address, port, .. } = key else { return false };
        if places.known.contains(key) {
            return true;
        }
        let at_node =
            || nodes.contains(address) && (NODE_PORTS.contains(port) || places.node_ports.contains(port));
        places.theirs
            && !places.excluded.iter().any(|network| network.contains(*address))
            && (theirs.contains(address) || at_node())
    };
    let keys = ipvs.services()?.into_iter().map(|found| found.service.key).filter(is_ours).collect();
    Ok(Some((ipvs, keys)))
}

/// Has them take no new connections and waits until they have none, at most so long; then takes them
/// away. Returns how many there were.
pub(super) fn retire(
    ipvs: &mut Ipvs,
    mut keys: BTreeSet<ServiceKey>,
    limit: Duration,
) -> Result<usize, Error> {
    let begin = Instant::now();
    let count = keys.len();
    loop {
        let over = begin.elapsed() >= limit;
        let mut idle = BTreeSet::new();
        let mut requests = ipvs.requests();
        for key in &keys {
            let found = match ipvs.destinations(key) {
                Ok(found) => found,
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            let busy = found.iter().any(|one| one.active > 0 || one.inactive > 0);
            if over || !busy || !matches!(key, ServiceKey::Address { protocol: TCP, .. }) {
                idle.insert(*key);
                requests.delete_service(key);
                continue;
            }
            for one in found.iter().filter(|one| one.destination.weight > 0) {
                requests.set_destination(key, &netlink::ipvs::Destination { weight: 0, ..one.destination });
            }
        }
        if !requests.is_empty() {
            tolerate(ipvs.send(&"retire virtual servers", &mut requests))?;
        }
        forget(&idle)?;
        keys.retain(|key| !idle.contains(key));
        if keys.is_empty() {
            return Ok(count);
        }
        std::thread::sleep(LOOK);
    }
}

/// What has gone meanwhile need not go again.
fn tolerate(done: Result<(), netlink::Error>) -> Result<(), netlink::Error> {
    match done {
        Err(error) if !error.refused().is_empty() => {
            let only = error.refused().iter().all(|refused| refused.refusal.is_not_found());
            if only { Ok(()) } else { Err(error) }
        }
        other => other,
    }
}

/// Forgets flows that are not connections and went to these, so that their next packet is translated.
fn forget(gone: &BTreeSet<ServiceKey>) -> Result<(), Error> {
    let protocols: BTreeSet<u8> = gone.iter().filter_map(protocol).filter(|p| *p != TCP).collect();
    if protocols.is_empty() {
        return Ok(());
    }
    let mut socket: Socket<Netfilter> = Socket::open()?;
    for protocol in protocols {
        let status = Some(Masked { mask: STATUS_DESTINATION_NAT, value: 0 });
        let filter = Filter { protocol: Some(protocol), status, ..Filter::default() };
        let mut flows = conntrack::flows(&mut socket, &filter)?;
        flows.retain(|flow| {
            let Detail::Ports { destination: port, .. } = flow.original.detail else { return false };
            gone.contains(&ServiceKey::Address { protocol, address: flow.original.destination, port })
        });
        if !flows.is_empty() {
            conntrack::forget(&mut socket, &flows)?;
        }
    }
    Ok(())
}

fn protocol(key: &ServiceKey) -> Option<u8> {
    match key {
        ServiceKey::Address { protocol, .. } => Some(*protocol),
        ServiceKey::Mark { .. } => None,
    }
}

fn device(route: &mut Socket<Route>) -> Result<Option<u32>, Error> {
    match route.link(DEVICE) {
        Ok(link) => Ok(Some(link.index)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is the node's own by this device, as an address on it or as a route of its own.
fn addresses(route: &mut Socket<Route>, device: u32) -> Result<HashSet<IpAddr>, Error> {
    let filter = RouteFilter {
        table: Some(TABLE_LOCAL),
        link: Some(device),
        kind: Some(RouteKind::Local),
        protocol: None,
    };
    Ok(route.routes(filter)?.into_iter().map(|route| route.destination.address).collect())
}

/// Takes the device for Services' addresses away with all that is on it, unless virtual servers of
/// somebody else stand at one of them. Says whether it was there.
pub(super) fn remove_device(ipvs: &mut Ipvs) -> Result<bool, Error> {
    let mut route: Socket<Route> = Socket::open()?;
    let Some(device) = device(&mut route)? else { return Ok(false) };
    let on_it = addresses(&mut route, device)?;
    let others = ipvs.services()?.into_iter().any(|found| match found.service.key {
        ServiceKey::Address { address, .. } => on_it.contains(&address),
        ServiceKey::Mark { .. } => false,
    });
    if others {
        return Ok(false);
    }
    route.delete_link(device)?;
    Ok(true)
}
