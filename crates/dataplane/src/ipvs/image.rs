//! What the kernel should hold in one family, as a value: virtual servers with their real servers,
//! addresses, and the table beside them.
//!
//! Each Service asks for [`Item`]s ([`items`]); an [`Image`] holds those of all. An image read from
//! the kernel may hold more: real servers of weight 0 that still have connections, and the virtual
//! servers and addresses that they need.

use super::schedulers;
use crate::PoolId;
use crate::nftables::image::{AFFINITY_SECONDS_MAX, BACKENDS_MAX};
use crate::nftables::{self, Front, Inside, Jump, Key, Masquerading, Pick, Placement};
use crate::pool::Slot;
use model::{Family, Name, Prefix, Protocol};
use plan::{At, Frontend, Masquerade, NodeRules, Pool, PoolKind, PortRules, Rules, ServiceRules, Target};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What of the image the configuration and the node decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What holds for the node.
    pub node: NodeRules,
    /// The addresses on the node's interfaces, the device for Services' addresses left out.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The scheduler of Services that do not ask for another.
    pub scheduler: Name,
    /// Schedulers that Services ask for in vain.
    pub lacking: BTreeSet<Name>,
    /// Drop forwarded packets that belong to no connection.
    pub drop_invalid: bool,
    /// Networks in which virtual servers of others are left alone even where a Service asks for
    /// their place.
    pub excluded: Vec<Prefix>,
}

impl Options {
    /// The scheduler of a Service.
    fn scheduler_of<'a>(&'a self, service: &'a ServiceRules) -> &'a Name {
        schedulers::asked(service).filter(|name| !self.lacking.contains(*name)).unwrap_or(&self.scheduler)
    }

    /// The options of the table beside.
    pub fn table(&self) -> nftables::Options {
        nftables::Options {
            node: self.node.clone(),
            drop_invalid: self.drop_invalid,
            balancer: nftables::Balancer::Ipvs,
        }
    }

    /// Where the NodePorts of a family are served, localhost aside.
    fn node_port_addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        // Of link-local addresses the same may be found on many interfaces; IPVS cannot tell them.
        let link_local = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        self.node_addresses.iter().copied().filter(move |ip| {
            Family::of(*ip) == family
                && !ip.is_loopback()
                && !link_local(ip)
                && self.node.serves_node_ports(*ip)
        })
    }

    /// Whether servers of others at an address are left alone in any case.
    pub fn is_excluded(&self, ip: IpAddr) -> bool {
        self.excluded.iter().any(|network| network.contains(ip))
    }

    /// Whether an address is the node's own, whatever Services say.
    pub fn is_node(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.node_addresses.contains(&ip)
    }
}

/// A virtual server's address, port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl ServerKey {
    /// As the table beside has it.
    pub fn key(&self) -> Key {
        Key { at: At::Address(self.address, self.port), protocol: self.protocol }
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a virtual server balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The scheduler's name, as the kernel knows it.
    pub scheduler: Name,
    /// A client whose hash leads to a server of weight 0 is sent to another.
    pub fallback: bool,
    /// A client stays with its server for so long.
    pub affinity_seconds: Option<u32>,
}

impl Config {
    /// The scheduler's usual configuration. Under sh and mh a server of weight 0 would refuse all
    /// clients whose hash leads to it, unless told otherwise.
    pub fn new(scheduler: Name, affinity_seconds: Option<u32>) -> Config {
        let fallback = matches!(&*scheduler, "sh" | "mh");
        Config { scheduler, fallback, affinity_seconds }
    }

    /// Whether a server of weight 0 leaves its clients to others. Under dh it refuses them.
    fn can_drain(&self) -> bool {
        &*self.scheduler != "dh"
    }
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it balances.
    pub config: Config,
    /// Its real servers and their weights.
    pub backends: BTreeMap<Slot, u16>,
}

/// How real servers leave a virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They take no new connections, and go when they have none.
    Empty,
    /// They take no new connections, and go when they do not answer any more: these do. (A UDP client
    /// on one port stays with a server of weight 0 for ever.)
    Silent(Pool),
    /// At once.
    Now,
}

impl Leaving {
    /// How those of a virtual server leave.
    pub fn of(protocol: Protocol, config: &Config, serving: &Pool) -> Leaving {
        match protocol {
            _ if !config.can_drain() => Leaving::Now,
            Protocol::Tcp => Leaving::Empty,
            Protocol::Udp | Protocol::Sctp => Leaving::Silent(serving.clone()),
        }
    }
}

/// An address that is the node's own for the sake of Services.
pub type Address = IpAddr;

/// One thing that an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Something in the table beside.
    Table(nftables::Item),
    /// A virtual server and its real ones, and how those leave that it has no more.
    Server(ServerKey, Server, Leaving),
    /// An address.
    Address(Address),
}

/// Which item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKey {
    /// Something in the table beside.
    Table(nftables::ItemKey),
    /// A virtual server.
    Server(ServerKey),
    /// An address.
    Address(Address),
}

impl Item {
    /// Which item it is.
    pub fn key(&self) -> ItemKey {
        match self {
            Item::Table(item) => ItemKey::Table(item.key()),
            Item::Server(key, ..) => ItemKey::Server(*key),
            Item::Address(ip) => ItemKey::Address(*ip),
        }
    }
}

/// What the kernel holds in one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// The table beside. Its `cluster_ips` are the addresses that are guarded, its `owned` the
    /// virtual servers that are ours.
    pub table: nftables::Image,
    /// Virtual servers.
    pub servers: BTreeMap<ServerKey, Server>,
    /// Addresses.
    pub addresses: HashSet<Address>,
}

impl Image {
    /// The image of a whole plan: the specification of what the steps lead to.
    pub fn of(rules: &Rules, family: Family, options: &Options) -> Image {
        let mut image = Image::default();
        for service in rules.services.values() {
            items(service, family, options, |item| image.put(item));
        }
        image
    }

    /// Enters an item in place of one with the same key.
    pub fn put(&mut self, item: Item) {
        match item {
            Item::Table(item) => self.table.put(item),
            Item::Server(key, server, _) => {
                self.table.owned.insert(key.key());
                self.servers.insert(key, server);
            }
            Item::Address(ip) => {
                self.table.cluster_ips.insert(ip);
                self.addresses.insert(ip);
            }
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty() && self.servers.is_empty() && self.addresses.is_empty()
    }

    /// The keys of all items. What is only known to be ours, but not there, counts too.
    pub fn keys(&self) -> impl Iterator<Item = ItemKey> {
        let server = |key: &Key| match key.at {
            At::Address(address, port) => Some(ServerKey { address, port, protocol: key.protocol }),
            At::NodePort(_) => None,
        };
        let owned = self.table.owned.iter().filter_map(server);
        let lost = owned.filter(|key| !self.servers.contains_key(key)).map(ItemKey::Server);
        let servers = self.servers.keys().map(|key| ItemKey::Server(*key)).chain(lost);
        let is_address = |key: &nftables::ItemKey| matches!(key, nftables::ItemKey::ClusterIp(_));
        let table = self.table.keys().filter(move |key| !is_address(key)).map(ItemKey::Table);
        let addresses = self.table.cluster_ips.union(&self.addresses).map(|ip| ItemKey::Address(*ip));
        table.chain(servers).chain(addresses)
    }

    /// Whether there is a virtual server at an address.
    pub fn serves_at(&self, address: IpAddr) -> bool {
        let first = ServerKey { address, port: 0, protocol: Protocol::Tcp };
        self.servers.range(first..).next().is_some_and(|(key, _)| key.address == address)
    }
}

/// What one Service asks for in one family.
pub fn items(service: &ServiceRules, family: Family, options: &Options, mut put: impl FnMut(Item)) {
    let scheduler = options.scheduler_of(service);
    for port in service.ports.iter().filter(|p| p.family == family) {
        let mut asked = Asked { port, picked: BTreeSet::new(), put: &mut put };
        for kind in [PoolKind::Cluster, PoolKind::Local] {
            let pool = port.pool(kind).iter().filter(|b| b.near && port.uses(kind));
            pool.for_each(|b| (asked.put)(Item::Table(nftables::Item::Near(b.address))));
        }
        let label = Arc::from(port.name.to_string());
        let fixed = |at: &At| matches!(at, At::Address(..));
        let taken: HashSet<At> = port.frontends.iter().map(|f| f.at).filter(fixed).collect();
        for frontend in &port.frontends {
            match frontend.at {
                At::Address(ip, number) => {
                    if !options.is_node(ip) {
                        (asked.put)(Item::Address(ip));
                    }
                    asked.frontend(frontend, ip, number, scheduler, &label);
                }
                At::NodePort(number) => {
                    let free = |ip: &IpAddr| !taken.contains(&At::Address(*ip, number));
                    for ip in options.node_port_addresses(family).filter(free) {
                        asked.frontend(frontend, ip, number, scheduler, &label);
                    }
                    if family == Family::V4 && options.node.localhost_node_ports {
                        asked.localhost(frontend, number, &label);
                    }
                }
            }
        }
    }
}

/// What one port of a Service has asked for so far.
struct Asked<'a, F> {
    port: &'a PortRules,
    /// Pools that picks use, and so are in the table.
    picked: BTreeSet<PoolKind>,
    put: &'a mut F,
}

impl<F: FnMut(Item)> Asked<'_, F> {
    fn table(&mut self, item: nftables::Item) {
        (self.put)(Item::Table(item));
    }

    /// A frontend at an address: its virtual server, if it balances at all, and what the table must
    /// know of it.
    fn frontend(&mut self, frontend: &Frontend, ip: IpAddr, number: u16, scheduler: &Name, label: &Arc<str>) {
        let protocol = self.port.protocol();
        let server = ServerKey { address: ip, port: number, protocol };
        let last = match frontend.outside {
            Target::Reject => Jump::Reject,
            Target::Drop => Jump::Drop,
            Target::Balance(kind) => {
                let config = Config::new(scheduler.clone(), self.port.affinity_seconds);
                let leaving = Leaving::of(protocol, &config, &self.port.serving);
                let backends = self.port.pool(kind).iter().map(|b| (Slot::from(b), b.weight)).collect();
                (self.put)(Item::Server(server, Server { config, backends }, leaving));
                Jump::Ipvs
            }
        };
        if frontend.short_circuit {
            self.inside(server.key(), PoolKind::Cluster);
        }
        for network in frontend.sources.iter().flat_map(|s| s.iter()) {
            self.table(nftables::Item::Source(server.key(), *network));
        }
        let first = match (&frontend.sources, frontend.short_circuit) {
            (Some(_), _) => Jump::Sources,
            (None, true) => Jump::Inside,
            (None, false) => last,
        };
        let masquerading = masquerading(frontend);
        let front = Front { label: label.clone(), pool: PoolId(0), first, last, masquerading };
        self.table(nftables::Item::Frontend(server.key(), front));
    }

    /// A NodePort at localhost, where no virtual server works: clients are picked for in the table.
    fn localhost(&mut self, frontend: &Frontend, number: u16, label: &Arc<str>) {
        let key = Key { at: At::NodePort(number), protocol: self.port.protocol() };
        let last = match frontend.outside {
            Target::Reject => Jump::Reject,
            Target::Drop => Jump::Drop,
            Target::Balance(_) => Jump::Ipvs,
        };
        match (frontend.outside, frontend.short_circuit) {
            (_, true) => self.inside(key, PoolKind::Cluster),
            (Target::Balance(kind), false) => self.inside(key, kind),
            (Target::Reject | Target::Drop, false) => {}
        }
        let masquerading = masquerading(frontend);
        let front = Front { label: label.clone(), pool: PoolId(0), first: last, last, masquerading };
        self.table(nftables::Item::Frontend(key, front));
    }

    /// Some clients of this frontend are not balanced by IPVS: the table picks for them.
    fn inside(&mut self, key: Key, kind: PoolKind) {
        let pool = self.port.pool(kind);
        let id = PoolId::of(&self.port.name, kind);
        let affinity_seconds = self.port.affinity_seconds.unwrap_or(0).min(AFFINITY_SECONDS_MAX);
        let count = u32::try_from(pool.len()).map_or(BACKENDS_MAX, |n| n.min(BACKENDS_MAX));
        if count == 0 {
            return;
        }
        if self.picked.insert(kind) {
            let slots = pool.iter().take(BACKENDS_MAX as usize).map(Slot::from).collect();
            self.table(nftables::Item::Pool(id, slots, self.port.affinity_seconds.is_some()));
        }
        let placement = Placement::of(key.at, true);
        self.table(nftables::Item::Pick(Pick { placement, count, affinity_seconds }));
        self.table(nftables::Item::Inside(key, Inside { pool: id, count, affinity_seconds }));
    }
}

fn masquerading(frontend: &Frontend) -> Masquerading {
    match frontend.masquerade {
        Masquerade::Never if frontend.short_circuit => Masquerading::Node,
        Masquerade::Never => Masquerading::Never,
        Masquerade::OffCluster => Masquerading::OffCluster,
        Masquerade::Always => Masquerading::Always,
    }
}
