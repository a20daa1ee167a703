//! What the tables of one family should hold, as a value.
//!
//! An [`Image`] is a set of [`Item`]s; each Service asks for some of them ([`items`]) and the image
//! of a plan ([`Image::of`]) holds those of all its Services. Nothing here talks to the kernel; how
//! an item is spelled in table elements is `spell.rs`'s.

use crate::PoolId;
use crate::pool::Slot;
use model::{Family, Prefix, Protocol};
use plan::{At, Frontend, Masquerade, PoolKind, PortRules, Rules, ServiceRules, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Where a frontend is found: at an address, or at a port of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where.
    pub at: At,
    /// The protocol.
    pub protocol: Protocol,
}

/// Which of the four maps a pick starts from, and so which key its packet is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// A frontend at an address.
    Address,
    /// A NodePort.
    Node,
    /// The short circuit of a frontend at an address.
    AddressInside,
    /// The short circuit of a NodePort.
    NodeInside,
}

impl Placement {
    /// All of them.
    pub const ALL: [Placement; 4] =
        [Placement::Address, Placement::Node, Placement::AddressInside, Placement::NodeInside];

    pub(crate) fn of(at: At, inside: bool) -> Placement {
        match (at, inside) {
            (At::Address(..), false) => Placement::Address,
            (At::NodePort(_), false) => Placement::Node,
            (At::Address(..), true) => Placement::AddressInside,
            (At::NodePort(_), true) => Placement::NodeInside,
        }
    }
}

/// A chain that picks one of so many backends: one for each number that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// From which map.
    pub placement: Placement,
    /// Of how many.
    pub count: u32,
    /// The client stays with its backend for so long; 0 for no affinity.
    pub affinity_seconds: u32,
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Jump {
    /// To the chain that picks one of `count` backends.
    Pick {
        /// Of how many.
        count: u32,
        /// The affinity's time-out, or 0.
        affinity_seconds: u32,
    },
    /// It is refused.
    Reject,
    /// It is dropped.
    Drop,
    /// Its source is looked up among those allowed; then as `Inside`.
    Sources,
    /// Local clients leave by the short circuit, others as the frontend's `last` says.
    Inside,
    /// The kernel's IPVS balances it.
    Ipvs,
}

/// When a connection through a frontend is masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerading {
    /// Never.
    Never,
    /// When the client is no local pod.
    OffCluster,
    /// Always.
    Always,
    /// When the client is the node itself.
    Node,
}

/// The most backends that a pool can have and the longest affinity: what fits a [`Jump`]'s 32 bits.
pub(crate) const BACKENDS_MAX: u32 = (1 << 15) - 1;
/// See [`BACKENDS_MAX`]. Kubernetes allows 86,400.
pub(crate) const AFFINITY_SECONDS_MAX: u32 = (1 << 17) - 1;

/// The value of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The port's name, for those who read the tables.
    pub label: Arc<str>,
    /// The pool that `last` picks from.
    pub pool: PoolId,
    /// Where its packets go first.
    pub first: Jump,
    /// Where they go in the end: `Pick`, `Ipvs`, `Reject` or `Drop`.
    pub last: Jump,
    /// Masquerade.
    pub masquerading: Masquerading,
}

/// The value of a frontend's short circuit for local clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The pool.
    pub pool: PoolId,
    /// How many backends it has.
    pub count: u32,
    /// The affinity's time-out, or 0.
    pub affinity_seconds: u32,
}

impl Front {
    /// Whether the frontend's packets go to this pick chain.
    pub(super) fn leads_to(&self, key: &Key, pick: &Pick) -> bool {
        let Pick { placement, count, affinity_seconds } = *pick;
        placement == Placement::of(key.at, false) && self.last == Jump::Pick { count, affinity_seconds }
    }
}

impl Inside {
    /// Whether the short circuit leads to this pick chain.
    pub(super) fn leads_to(&self, key: &Key, pick: &Pick) -> bool {
        let same = (self.count, self.affinity_seconds) == (pick.count, pick.affinity_seconds);
        pick.placement == Placement::of(key.at, true) && same
    }
}

/// One thing that an image holds. Equal keys exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frontend.
    Frontend(Key, Front),
    /// A frontend's short circuit.
    Inside(Key, Inside),
    /// A pool: its backends by number, and whether clients stay with theirs.
    Pool(PoolId, Vec<Slot>, bool),
    /// A backend that may be its own client.
    Near(IpAddr),
    /// A ClusterIP.
    ClusterIp(IpAddr),
    /// A network whose clients a frontend serves.
    Source(Key, Prefix),
    /// A pick chain.
    Pick(Pick),
}

/// Which item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKey {
    /// A frontend.
    Frontend(Key),
    /// A frontend's short circuit.
    Inside(Key),
    /// A pool.
    Pool(PoolId),
    /// A backend that may be its own client.
    Near(IpAddr),
    /// A ClusterIP.
    ClusterIp(IpAddr),
    /// A network whose clients a frontend serves.
    Source(Key, Prefix),
    /// A pick chain.
    Pick(Pick),
}

impl Item {
    /// Which item it is.
    pub fn key(&self) -> ItemKey {
        match *self {
            Item::Frontend(key, _) => ItemKey::Frontend(key),
            Item::Inside(key, _) => ItemKey::Inside(key),
            Item::Pool(id, ..) => ItemKey::Pool(id),
            Item::Near(ip) => ItemKey::Near(ip),
            Item::ClusterIp(ip) => ItemKey::ClusterIp(ip),
            Item::Source(key, network) => ItemKey::Source(key, network),
            Item::Pick(pick) => ItemKey::Pick(pick),
        }
    }
}

/// What the tables of one family hold.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Frontends.
    pub frontends: HashMap<Key, Front>,
    /// Short circuits.
    pub inside: HashMap<Key, Inside>,
    /// Pools; a slot's number is its place.
    pub pools: HashMap<PoolId, Vec<Slot>>,
    /// Backends that remembered clients may go back to, of pools with affinity.
    pub living: HashSet<(PoolId, Slot)>,
    /// Backends that may be their own clients.
    pub near: HashSet<IpAddr>,
    /// ClusterIPs.
    pub cluster_ips: HashSet<IpAddr>,
    /// Networks whose clients a frontend serves.
    pub sources: HashSet<(Key, Prefix)>,
    /// Pick chains.
    pub picks: BTreeSet<Pick>,
    /// Beside IPVS: the virtual servers that are ours.
    pub owned: HashSet<Key>,
    /// Beside IPVS: how the kernel's switches that we have set stood before, by their numbers.
    pub earlier: BTreeMap<u32, u32>,
}

/// Images are equal when they do the same: who sits at which number of a pool is of no importance,
/// and neither are pick chains that nothing leads to, or how the kernel's switches once stood.
impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        let Image { frontends, inside, pools, living, near, cluster_ips, sources, picks, owned, earlier: _ } =
            self;
        let seats = |slots: &Vec<Slot>| {
            let mut slots = slots.clone();
            slots.sort_unstable();
            slots
        };
        let same_pools = pools.len() == other.pools.len()
            && pools.iter().all(|(id, slots)| other.pools.get(id).is_some_and(|o| seats(o) == seats(slots)));
        same_pools
            && *frontends == other.frontends
            && *inside == other.inside
            && *living == other.living
            && *near == other.near
            && *cluster_ips == other.cluster_ips
            && *sources == other.sources
            && self.used_picks().is_subset(&other.picks)
            && other.used_picks().is_subset(picks)
            && *owned == other.owned
    }
}

impl Image {
    /// The image of a whole plan: the specification of what the steps lead to.
    pub fn of(rules: &Rules, family: Family) -> Image {
        let mut image = Image::default();
        for service in rules.services.values() {
            items(service, family, |item| image.put(item));
        }
        image
    }

    /// The pick chains that frontends lead to.
    pub fn used_picks(&self) -> BTreeSet<Pick> {
        let fronts = self.frontends.iter().filter_map(|(key, front)| match front.last {
            Jump::Pick { count, affinity_seconds } => {
                Some(Pick { placement: Placement::of(key.at, false), count, affinity_seconds })
            }
            _ => None,
        });
        let insides = self.inside.iter().map(|(key, inside)| {
            let Inside { pool: _, count, affinity_seconds } = *inside;
            Pick { placement: Placement::of(key.at, true), count, affinity_seconds }
        });
        fronts.chain(insides).collect()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        *self == Image::default()
    }

    /// Enters an item in place of one with the same key.
    pub fn put(&mut self, item: Item) {
        match item {
            Item::Frontend(key, front) => {
                self.frontends.insert(key, front);
            }
            Item::Inside(key, inside) => {
                self.inside.insert(key, inside);
            }
            Item::Pool(id, slots, sticky) => {
                if sticky {
                    self.living.extend(slots.iter().map(|slot| (id, *slot)));
                }
                self.pools.insert(id, slots);
            }
            Item::Near(ip) => {
                self.near.insert(ip);
            }
            Item::ClusterIp(ip) => {
                self.cluster_ips.insert(ip);
            }
            Item::Source(key, network) => {
                self.sources.insert((key, network));
            }
            Item::Pick(pick) => {
                self.picks.insert(pick);
            }
        }
    }

    /// All items, those that others refer to first.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let Image {
            frontends,
            inside,
            pools,
            living,
            near,
            cluster_ips,
            sources,
            picks,
            owned: _,
            earlier: _,
        } = self;
        let sticky = |id: &PoolId, slots: &[Slot]| slots.first().is_some_and(|s| living.contains(&(*id, *s)));
        let picks = picks.iter().map(|pick| Item::Pick(*pick));
        let pools = pools.iter().map(move |(id, slots)| Item::Pool(*id, slots.clone(), sticky(id, slots)));
        let near = near.iter().map(|ip| Item::Near(*ip));
        let sources = sources.iter().map(|(key, network)| Item::Source(*key, *network));
        let inside = inside.iter().map(|(key, inside)| Item::Inside(*key, *inside));
        let frontends = frontends.iter().map(|(key, front)| Item::Frontend(*key, front.clone()));
        let cluster_ips = cluster_ips.iter().map(|ip| Item::ClusterIp(*ip));
        picks.chain(pools).chain(near).chain(sources).chain(inside).chain(frontends).chain(cluster_ips)
    }

    /// The keys of all items.
    pub fn keys(&self) -> impl Iterator<Item = ItemKey> {
        let Image {
            frontends,
            inside,
            pools,
            living: _,
            near,
            cluster_ips,
            sources,
            picks,
            owned: _,
            earlier: _,
        } = self;
        let picks = picks.iter().map(|pick| ItemKey::Pick(*pick));
        let pools = pools.keys().map(|id| ItemKey::Pool(*id));
        let near = near.iter().map(|ip| ItemKey::Near(*ip));
        let sources = sources.iter().map(|(key, network)| ItemKey::Source(*key, *network));
        let inside = inside.keys().map(|key| ItemKey::Inside(*key));
        let frontends = frontends.keys().map(|key| ItemKey::Frontend(*key));
        let cluster_ips = cluster_ips.iter().map(|ip| ItemKey::ClusterIp(*ip));
        picks.chain(pools).chain(near).chain(sources).chain(inside).chain(frontends).chain(cluster_ips)
    }

    /// The lengths of the networks in `sources`: each has a set and a rule of its own.
    pub fn source_lengths(&self) -> BTreeSet<u8> {
        self.sources.iter().map(|(_, network)| network.length()).collect()
    }
}

/// What one Service asks for in one family, those items that others refer to first.
pub(super) fn items(service: &ServiceRules, family: Family, mut put: impl FnMut(Item)) {
    for port in service.ports.iter().filter(|p| p.family == family) {
        for kind in [PoolKind::Cluster, PoolKind::Local] {
            let pool = port.pool(kind);
            if port.uses(kind) && !pool.is_empty() {
                let slots = pool.iter().take(BACKENDS_MAX as usize).map(Slot::from).collect();
                put(Item::Pool(PoolId::of(&port.name, kind), slots, port.affinity_seconds.is_some()));
                pool.iter().filter(|b| b.near).for_each(|b| put(Item::Near(b.address)));
            }
        }
        let label = Arc::from(port.name.to_string());
        for frontend in &port.frontends {
            frontend_items(port, frontend, &label, &mut put);
        }
    }
}

fn frontend_items(port: &PortRules, frontend: &Frontend, label: &Arc<str>, put: &mut impl FnMut(Item)) {
    let key = Key { at: frontend.at, protocol: port.protocol() };
    let affinity_seconds = port.affinity_seconds.unwrap_or(0).min(AFFINITY_SECONDS_MAX);
    let count = |kind| u32::try_from(port.pool(kind).len()).map_or(BACKENDS_MAX, |n| n.min(BACKENDS_MAX));
    if frontend.kind == plan::FrontendKind::ClusterIp
        && let At::Address(ip, _) = frontend.at
    {
        put(Item::ClusterIp(ip));
    }
    let (pool, last) = match frontend.outside {
        Target::Reject => (PoolId(0), Jump::Reject),
        Target::Drop => (PoolId(0), Jump::Drop),
        Target::Balance(kind) => {
            let count = count(kind);
            put(Item::Pick(Pick { placement: Placement::of(key.at, false), count, affinity_seconds }));
            (PoolId::of(&port.name, kind), Jump::Pick { count, affinity_seconds })
        }
    };
    if frontend.short_circuit {
        let (pool, count) = (PoolId::of(&port.name, PoolKind::Cluster), count(PoolKind::Cluster));
        put(Item::Pick(Pick { placement: Placement::of(key.at, true), count, affinity_seconds }));
        put(Item::Inside(key, Inside { pool, count, affinity_seconds }));
    }
    for network in frontend.sources.iter().flat_map(|s| s.iter()) {
        put(Item::Source(key, *network));
    }
    let first = match (&frontend.sources, frontend.short_circuit) {
        (Some(_), _) => Jump::Sources,
        (None, true) => Jump::Inside,
        (None, false) => last,
    };
    let masquerading = match frontend.masquerade {
        Masquerade::Never if frontend.short_circuit => Masquerading::Node,
        Masquerade::Never => Masquerading::Never,
        Masquerade::OffCluster => Masquerading::OffCluster,
        Masquerade::Always => Masquerading::Always,
    };
    put(Item::Frontend(key, Front { label: label.clone(), pool, first, last, masquerading }));
}

/// How many Services ask for an item that several may ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    near: HashMap<IpAddr, u32>,
    cluster_ips: HashMap<IpAddr, u32>,
    picks: HashMap<Pick, u32>,
}

impl Shared {
    /// Whether several Services may ask for such an item.
    pub(crate) fn is_shared(key: &ItemKey) -> bool {
        match key {
            ItemKey::Near(_) | ItemKey::ClusterIp(_) | ItemKey::Pick(_) => true,
            ItemKey::Frontend(_) | ItemKey::Inside(_) | ItemKey::Pool(_) | ItemKey::Source(..) => false,
        }
    }

    /// One more, or one fewer, asks for it. Says nothing of items that are not shared.
    pub(crate) fn count(&mut self, key: &ItemKey, more: bool) {
        match key {
            ItemKey::Near(ip) => count(&mut self.near, ip, more),
            ItemKey::ClusterIp(ip) => count(&mut self.cluster_ips, ip, more),
            ItemKey::Pick(pick) => count(&mut self.picks, pick, more),
            ItemKey::Frontend(_) | ItemKey::Inside(_) | ItemKey::Pool(_) | ItemKey::Source(..) => {}
        }
    }

    /// Whether anybody asks for it.
    pub(crate) fn holds(&self, key: &ItemKey) -> bool {
        match key {
            ItemKey::Near(ip) => self.near.contains_key(ip),
            ItemKey::ClusterIp(ip) => self.cluster_ips.contains_key(ip),
            ItemKey::Pick(pick) => self.picks.contains_key(pick),
            ItemKey::Frontend(_) | ItemKey::Inside(_) | ItemKey::Pool(_) | ItemKey::Source(..) => false,
        }
    }
}

fn count<K: Copy + Eq + std::hash::Hash>(uses: &mut HashMap<K, u32>, key: &K, more: bool) {
    if more {
        *uses.entry(*key).or_insert(0) += 1;
    } else if let Some(left) = uses.get_mut(key) {
        *left -= 1;
        if *left == 0 {
            uses.remove(key);
        }
    }
}
