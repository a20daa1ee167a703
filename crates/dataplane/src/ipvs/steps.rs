//! From one image to another, in phases that lose no packet.
//!
//! IPVS has no transactions, so the order does the work: what a packet meets first is put last, and
//! taken away first. A frontend at an address that is not guarded yet is told to the table before
//! there is a server, so that no connection goes unmasqueraded; one at an address that is guarded,
//! or that was refused so far, only when its server can take it. Real servers come before others
//! leave. Each Service's steps are a group of their own, so that a refusal holds up no other's.

use super::image::{Config, Image, Item, ItemKey, Leaving, Server, ServerKey};
use crate::nftables::{self, Element, Front, Jump, Key};
use crate::pool::{PoolId, Slot};
use model::ObjectName;
use plan::At;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

/// The smallest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One of the table beside.
    Table(nftables::Step),
    /// Makes a virtual server, without real ones.
    AddServer(ServerKey, Config),
    /// Has it balance otherwise.
    EditServer(ServerKey, Config),
    /// Takes it away, with all that is left of its real ones and their connections.
    RemoveServer(ServerKey),
    /// Adds a real server.
    AddBackend(ServerKey, Slot, u16),
    /// Gives it another weight.
    SetWeight(ServerKey, Slot, u16),
    /// Takes it away.
    RemoveBackend(ServerKey, Slot),
    /// Makes an address the node's own.
    AddAddress(IpAddr),
    /// Takes it back.
    RemoveAddress(IpAddr),
}

/// The phases of a change, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The table learns what must be known before a packet comes, and cuts off what is gone.
    Prepare,
    /// Virtual and real servers come, weights change, leaving servers get none.
    Serve,
    /// Addresses come.
    Appear,
    /// The table lets packets through to what can now take them.
    Open,
    /// Real and virtual servers go.
    Retire,
    /// Addresses go.
    Vanish,
    /// The table forgets what nothing refers to any more.
    Forget,
    /// Chains and sets go that are empty of use.
    Sweep,
}

/// The number of phases.
pub const PHASES: usize = Phase::ALL.len();

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Prepare,
        Phase::Serve,
        Phase::Appear,
        Phase::Open,
        Phase::Retire,
        Phase::Vanish,
        Phase::Forget,
        Phase::Sweep,
    ];
}

/// What one Service, or nobody, has to do.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The Service.
    pub owner: Option<ObjectName>,
    /// The steps of each phase.
    pub phases: [Vec<Step>; PHASES],
    /// Real servers that take no new connections and go when they have none.
    pub leaving: Vec<(ServerKey, Slot)>,
    /// Real servers that are given no connections and stay all the same.
    pub staying: Vec<(ServerKey, Slot)>,
    /// Frontends that turn when all else is there.
    pub(super) opens: HashSet<Key>,
}

impl Draft {
    /// A draft with nothing in it.
    pub fn new(owner: Option<ObjectName>) -> Draft {
        Draft { owner, ..Draft::default() }
    }

    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.phases.iter().map(Vec::len).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a step.
    pub fn add(&mut self, phase: Phase, step: Step) {
        if let Some(steps) = self.phases.get_mut(phase as usize) {
            steps.push(step);
        }
    }

    fn put(&mut self, phase: Phase, element: Element) {
        self.add(phase, Step::Table(nftables::Step::Put(element)));
    }

    fn take(&mut self, phase: Phase, element: Element) {
        self.add(phase, Step::Table(nftables::Step::Remove(element)));
    }

    /// Adds what makes `has` hold this item.
    pub fn want(&mut self, has: &Image, item: &Item) {
        match item {
            Item::Table(item) => {
                let mut draft = nftables::Draft::new(None);
                draft.want(&has.table, item);
                self.table(has, draft);
            }
            Item::Server(key, server, leaving) => self.want_server(has, *key, server, leaving),
            Item::Address(ip) => {
                if !has.table.cluster_ips.contains(ip) {
                    self.put(Phase::Prepare, Element::ClusterIp(*ip));
                }
                if !has.addresses.contains(ip) {
                    self.add(Phase::Appear, Step::AddAddress(*ip));
                }
            }
        }
    }

    /// Adds what makes `has` not hold this item. An address goes by [`Draft::forget_address`], when
    /// it is seen that no server is left there.
    pub fn forget(&mut self, has: &Image, key: &ItemKey) {
        match key {
            ItemKey::Table(key) => {
                let mut draft = nftables::Draft::new(None);
                draft.forget(&has.table, key);
                self.table(has, draft);
            }
            ItemKey::Server(key) => self.forget_server(has, *key),
            ItemKey::Address(_) => {}
        }
    }

    /// Adds what takes an address back.
    pub fn forget_address(&mut self, has: &Image, ip: IpAddr) {
        if has.addresses.contains(&ip) {
            self.add(Phase::Vanish, Step::RemoveAddress(ip));
        }
        if has.table.cluster_ips.contains(&ip) {
            self.take(Phase::Forget, Element::ClusterIp(ip));
        }
    }

    /// Adds what takes remembered backends away that are in no pool.
    pub(super) fn strays(&mut self, has: &Image, wanted: impl Fn(&(PoolId, Slot)) -> bool) {
        let mut draft = nftables::Draft::new(None);
        nftables::steps::strays(&has.table, wanted, &mut draft);
        self.table(has, draft);
    }

    /// Sorts the table's steps into phases.
    fn table(&mut self, has: &Image, draft: nftables::Draft) {
        let [first, second, third] = draft.phases;
        for step in first {
            let phase = match &step {
                nftables::Step::Put(Element::Frontend(key, front)) => on_entry(has, key, front),
                nftables::Step::Replace(Element::Frontend(key, front)) => on_turn(has, key, front),
                nftables::Step::Remove(Element::Frontend(key, _)) => on_exit(has, key),
                // Its frontend leads to it until it turns.
                nftables::Step::Remove(Element::Inside(key, _)) if self.opens.contains(key) => Phase::Open,
                _ => Phase::Prepare,
            };
            if let (Phase::Open, nftables::Step::Replace(Element::Frontend(key, front))) = (phase, &step) {
                self.opens.insert(*key);
                self.tighten(has, key, front);
            }
            self.add(phase, Step::Table(step));
        }
        second.into_iter().for_each(|step| self.add(Phase::Forget, Step::Table(step)));
        third.into_iter().for_each(|step| self.add(Phase::Sweep, Step::Table(step)));
    }

    /// Where the end of a frontend's way opens and its beginning gets narrower, that comes first.
    fn tighten(&mut self, has: &Image, key: &Key, front: &Front) {
        let Some(old) = has.table.frontends.get(key) else { return };
        if strictness(&front.first) > strictness(&old.first) && front.first != front.last {
            let narrow = Front { last: old.last, ..front.clone() };
            let step = nftables::Step::Replace(Element::Frontend(*key, narrow));
            self.add(Phase::Prepare, Step::Table(step));
        }
    }

    fn want_server(&mut self, has: &Image, key: ServerKey, wants: &Server, leaving: &Leaving) {
        if !has.table.owned.contains(&key.key()) {
            self.put(Phase::Prepare, Element::Owned(key.key()));
        }
        let none = BTreeMap::new();
        let old = match has.servers.get(&key) {
            Some(server) => {
                if server.config != wants.config {
                    self.add(Phase::Serve, Step::EditServer(key, wants.config.clone()));
                }
                &server.backends
            }
            None => {
                self.add(Phase::Serve, Step::AddServer(key, wants.config.clone()));
                &none
            }
        };
        for (slot, weight) in &wants.backends {
            if *weight == 0 {
                self.staying.push((key, *slot));
            }
            match old.get(slot) {
                Some(has) if has == weight => {}
                Some(_) => self.add(Phase::Serve, Step::SetWeight(key, *slot, *weight)),
                None => self.add(Phase::Serve, Step::AddBackend(key, *slot, *weight)),
            }
        }
        for (slot, weight) in old.iter().filter(|(slot, _)| !wants.backends.contains_key(slot)) {
            self.leave(key, *slot, *weight, leaving);
        }
    }

    /// Says whether the real server stays for a while.
    fn leave(&mut self, key: ServerKey, slot: Slot, weight: u16, leaving: &Leaving) -> bool {
        let stays = match leaving {
            Leaving::Empty => {
                self.leaving.push((key, slot));
                true
            }
            Leaving::Silent(serving) => serving.iter().any(|backend| Slot::from(backend) == slot),
            Leaving::Now => false,
        };
        if !stays {
            self.add(Phase::Retire, Step::RemoveBackend(key, slot));
        } else if weight != 0 {
            self.add(Phase::Serve, Step::SetWeight(key, slot, 0));
        }
        stays
    }

    fn forget_server(&mut self, has: &Image, key: ServerKey) {
        let mut stays = false;
        if let Some(server) = has.servers.get(&key) {
            let leaving = Leaving::of(key.protocol, &server.config, &plan::Pool::from([]));
            for (slot, weight) in &server.backends {
                stays |= self.leave(key, *slot, *weight, &leaving);
            }
        }
        if !stays {
            self.remove_server(has, key);
        }
    }

    /// Adds what takes a virtual server away, and then the word that it is ours.
    pub fn remove_server(&mut self, has: &Image, key: ServerKey) {
        if has.servers.contains_key(&key) {
            self.add(Phase::Retire, Step::RemoveServer(key));
        }
        if has.table.owned.contains(&key.key()) {
            self.take(Phase::Forget, Element::Owned(key.key()));
        }
    }
}

/// Whether packets to ports that are not in the table are refused at this address.
fn is_guarded(has: &Image, key: &Key) -> bool {
    matches!(key.at, At::Address(ip, _) if has.table.cluster_ips.contains(&ip))
}

/// When a new frontend enters the table.
fn on_entry(has: &Image, key: &Key, front: &Front) -> Phase {
    if front.last == Jump::Ipvs && is_guarded(has, key) { Phase::Open } else { Phase::Prepare }
}

/// How few packets go on.
fn strictness(jump: &Jump) -> u8 {
    match jump {
        Jump::Ipvs => 0,
        Jump::Inside => 1,
        Jump::Sources => 2,
        Jump::Reject | Jump::Drop | Jump::Pick { .. } => 3,
    }
}

/// When a frontend that is there changes: one that lets more packets through to its server, when
/// that has its new backends.
pub(super) fn on_turn(has: &Image, key: &Key, front: &Front) -> Phase {
    let Some(old) = has.table.frontends.get(key) else { return on_entry(has, key, front) };
    let opens = old.last != Jump::Ipvs || strictness(&front.first) < strictness(&old.first);
    if front.last == Jump::Ipvs && opens && old != front { Phase::Open } else { Phase::Prepare }
}

/// When a frontend leaves the table.
fn on_exit(has: &Image, key: &Key) -> Phase {
    if is_guarded(has, key) { Phase::Prepare } else { Phase::Forget }
}

/// The steps from one image to another, as those of nobody in particular. Which UDP servers still
/// answer is not known here, so those that nobody wants go at once.
pub fn steps(has: &Image, wants: &Image) -> Draft {
    let mut draft = Draft::new(None);
    let (old_lengths, new_lengths) = (has.table.source_lengths(), wants.table.source_lengths());
    for length in new_lengths.difference(&old_lengths) {
        draft.add(Phase::Prepare, Step::Table(nftables::Step::AddSourceLength(*length)));
    }
    let is_address = |item: &nftables::Item| matches!(item, nftables::Item::ClusterIp(_));
    for item in wants.table.items().filter(|item| !is_address(item)) {
        draft.want(has, &Item::Table(item));
    }
    for (key, server) in &wants.servers {
        let leaving = Leaving::of(key.protocol, &server.config, &plan::Pool::from([]));
        draft.want(has, &Item::Server(*key, server.clone(), leaving));
    }
    wants.addresses.iter().for_each(|ip| draft.want(has, &Item::Address(*ip)));
    let wanted: HashSet<ItemKey> = wants.keys().collect();
    let drains = |draft: &Draft, ip: IpAddr| draft.leaving.iter().any(|(key, _)| key.address == ip);
    for key in has.keys().filter(|key| !wanted.contains(key)) {
        draft.forget(has, &key);
        if let ItemKey::Address(ip) = key
            && !drains(&draft, ip)
        {
            draft.forget_address(has, ip);
        }
    }
    draft.strays(has, |entry| wants.table.living.contains(entry));
    for length in old_lengths.difference(&new_lengths) {
        draft.add(Phase::Sweep, Step::Table(nftables::Step::DropSourceLength(*length)));
    }
    draft
}

impl Step {
    /// The virtual server that it changes, if it does.
    pub fn server(&self) -> Option<ServerKey> {
        match self {
            Step::AddServer(key, _)
            | Step::EditServer(key, _)
            | Step::RemoveServer(key)
            | Step::AddBackend(key, ..)
            | Step::SetWeight(key, ..)
            | Step::RemoveBackend(key, _) => Some(*key),
            Step::Table(_) | Step::AddAddress(_) | Step::RemoveAddress(_) => None,
        }
    }

    /// Does to an image what the step does to the kernel.
    pub fn apply(&self, image: &mut Image) {
        let servers = &mut image.servers;
        match self {
            Step::Table(step) => step.apply(&mut image.table),
            Step::AddServer(key, config) => {
                servers.insert(*key, Server { config: config.clone(), backends: BTreeMap::new() });
            }
            Step::EditServer(key, config) => {
                if let Some(server) = servers.get_mut(key) {
                    server.config = config.clone();
                }
            }
            Step::RemoveServer(key) => {
                servers.remove(key);
            }
            Step::AddBackend(key, slot, weight) | Step::SetWeight(key, slot, weight) => {
                if let Some(server) = servers.get_mut(key) {
                    server.backends.insert(*slot, *weight);
                }
            }
            Step::RemoveBackend(key, slot) => {
                if let Some(server) = servers.get_mut(key) {
                    server.backends.remove(slot);
                }
            }
            Step::AddAddress(ip) => {
                image.addresses.insert(*ip);
            }
            Step::RemoveAddress(ip) => {
                image.addresses.remove(ip);
            }
        }
    }
}

#[cfg(test)]
mod tests;
