//! The names of a cluster: a snapshot for readers, and the writer that makes the next one.

use crate::shards::{Item, Shards, mix};
use model::{Cluster, Ingress, Name as Word, Namespace, ObjectName, Pod, Service, Slice, Touched};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A Service and its endpoints.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: ObjectName,
    /// Slices may come before their Service.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) slices: Box<[Arc<Slice>]>,
    /// No two endpoints have an address or a name in common, so answers need not look for doubles.
    pub(crate) distinct: bool,
}

impl Entry {
    /// The addresses of its ready endpoints.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &model::Endpoint> {
        self.slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter())
            .filter(|endpoint| endpoint.conditions.ready)
    }
}

/// A Service in the table, by the hash of its name.
#[derive(Clone, Debug)]
struct ByName {
    hash: u32,
    entry: Arc<Entry>,
}

impl Item for ByName {
    type Key = u32;

    fn key(&self) -> u32 {
        self.hash
    }

    fn spread(key: u32) -> u32 {
        key
    }
}

/// An address, and the hash of the name of a Service that has it. Whether it really has is seen there.
#[derive(Clone, Copy, Debug)]
struct By<A> {
    address: A,
    service: u32,
}

impl Item for By<u32> {
    type Key = u32;

    fn key(&self) -> u32 {
        self.address
    }

    fn spread(key: u32) -> u32 {
        mix(key)
    }
}

impl Item for By<u128> {
    type Key = u128;

    fn key(&self) -> u128 {
        self.address
    }

    fn spread(key: u128) -> u32 {
        let [a, b, c, d] = [key as u32, (key >> 32) as u32, (key >> 64) as u32, (key >> 96) as u32];
        mix(mix(mix(mix(a) ^ b) ^ c) ^ d)
    }
}

/// Which Services have an address.
#[derive(Clone, Debug, Default)]
struct Reverse {
    v4: Shards<By<u32>>,
    v6: Shards<By<u128>>,
}

impl Reverse {
    fn insert(&mut self, address: IpAddr, service: u32) {
        match address {
            IpAddr::V4(ip) => self.v4.insert(By { address: u32::from(ip), service }),
            IpAddr::V6(ip) => self.v6.insert(By { address: u128::from(ip), service }),
        }
    }

    fn remove(&mut self, address: IpAddr, service: u32) {
        match address {
            IpAddr::V4(ip) => self.v4.remove(u32::from(ip), |item| item.service == service),
            IpAddr::V6(ip) => self.v6.remove(u128::from(ip), |item| item.service == service),
        }
    }

    fn get(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let (v4, v6) = match address {
            IpAddr::V4(ip) => (self.v4.get(u32::from(ip)), &[][..]),
            IpAddr::V6(ip) => (&[][..], self.v6.get(u128::from(ip))),
        };
        v4.iter().map(|item| item.service).chain(v6.iter().map(|item| item.service))
    }
}

/// A pod, by its address.
#[derive(Clone, Debug)]
struct PodAt {
    address: u128,
    pod: Arc<Pod>,
}

impl Item for PodAt {
    type Key = u128;

    fn key(&self) -> u128 {
        self.address
    }

    fn spread(key: u128) -> u32 {
        By::<u128>::spread(key)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The names of a cluster at one time.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    services: Shards<ByName>,
    cluster_ips: Reverse,
    external_ips: Reverse,
    endpoint_ips: Reverse,
    /// Those that exist: they have an object, or hold a Service. The object is for its labels.
    namespaces: Arc<HashMap<Word, Option<Arc<Namespace>>>>,
    pods: Shards<PodAt>,
    synced: bool,
    serial: u32,
}

fn hash(namespace: &[u8], name: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    for &byte in namespace.iter().chain(b"/").chain(name) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    mix(hash)
}

impl Zone {
    /// Whether all that was there at the start is in it.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The SOA's serial: when it last changed, in seconds since 1970.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// All Services, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.services.iter().map(|item| &*item.entry)
    }

    pub(crate) fn entry(&self, namespace: &[u8], name: &[u8]) -> Option<&Entry> {
        let found = self.services.get(hash(namespace, name)).iter().map(|item| &*item.entry);
        found
            .into_iter()
            .find(|entry| entry.name.namespace.as_bytes() == namespace && entry.name.name.as_bytes() == name)
    }

    /// A namespace that exists, and its object where there is one.
    pub(crate) fn namespace(&self, name: &[u8]) -> Option<Option<&Arc<Namespace>>> {
        let name = std::str::from_utf8(name).ok()?;
        self.namespaces.get(name).map(Option::as_ref)
    }

    /// The Services that have this ClusterIP.
    pub(crate) fn with_cluster_ip(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.by(self.cluster_ips.get(address)).filter(move |entry| {
            entry.service.as_ref().is_some_and(|service| service.cluster_ips.contains(&address))
        })
    }

    /// The Services that have this address for the world outside the cluster.
    pub(crate) fn with_external_ip(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.by(self.external_ips.get(address))
            .filter(move |entry| external_ips(entry).any(|other| other == address))
    }

    /// The Services that have this ready endpoint.
    pub(crate) fn with_endpoint(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.by(self.endpoint_ips.get(address))
            .filter(move |entry| entry.ready().any(|endpoint| endpoint.address == address))
    }

    fn by(&self, hashes: impl Iterator<Item = u32>) -> impl Iterator<Item = &Entry> {
        hashes.flat_map(|hash| self.services.get(hash)).map(|item| &*item.entry)
    }

    /// The namespace of a pod that has this address.
    pub fn namespace_of_pod(&self, address: IpAddr) -> Option<&str> {
        self.pod_at(address).map(|name| &*name.namespace)
    }

    /// A pod that has this address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&ObjectName> {
        self.pods_at(address).next().map(|pod| &pod.name)
    }

    /// The pods that have this address.
    pub(crate) fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.get(bits(address)).iter().map(|item| &item.pod)
    }
}

/// The writer of a cluster's names.
#[derive(Debug, Default)]
pub struct Names {
    zone: Arc<Zone>,
    /// How many Services each namespace holds.
    held: HashMap<Word, u32>,
    /// Pods as they are in the zone, to be found again when they change.
    pods: HashMap<ObjectName, Arc<Pod>>,
}

impl Names {
    /// Names of a cluster of which nothing is known.
    pub fn new() -> Names {
        Names::default()
    }

    /// The names as they are now.
    pub fn zone(&self) -> Arc<Zone> {
        self.zone.clone()
    }

    /// Takes in what has been touched in the cluster. `now_s` is the time, in seconds since 1970.
    pub fn update(&mut self, cluster: &Cluster, touched: &Touched, now_s: u32) {
        if touched.services.is_empty() && touched.namespaces.is_empty() && touched.pods.is_empty() {
            return;
        }
        let mut namespaces: Vec<Word> = touched.namespaces.iter().cloned().collect();
        for name in &touched.services {
            self.service(cluster, name, &mut namespaces);
        }
        for name in namespaces {
            self.namespace(cluster, name);
        }
        for name in &touched.pods {
            self.pod(cluster, name);
        }
        Arc::make_mut(&mut self.zone).serial = now_s;
    }

    /// All that was there at the start has come.
    pub fn set_synced(&mut self) {
        if !self.zone.synced {
            Arc::make_mut(&mut self.zone).synced = true;
        }
    }

    fn service(&mut self, cluster: &Cluster, name: &ObjectName, namespaces: &mut Vec<Word>) {
        let hash = hash(name.namespace.as_bytes(), name.name.as_bytes());
        let new = entry(cluster, name).map(Arc::new);
        let zone = Arc::make_mut(&mut self.zone);
        let is_it = |item: &&ByName| item.entry.name == *name;
        let old = zone.services.get(hash).iter().find(is_it).map(|item| item.entry.clone());
        let cluster_ips = |entry: &Arc<Entry>| -> Vec<IpAddr> {
            let service = entry.service.as_ref();
            sorted(service.map(|service| service.cluster_ips.to_vec()).unwrap_or_default())
        };
        let endpoint_ips =
            |entry: &Arc<Entry>| sorted(entry.ready().map(|endpoint| endpoint.address).collect());
        let both = |addresses: &dyn Fn(&Arc<Entry>) -> Vec<IpAddr>| {
            [&old, &new].map(|entry| entry.as_ref().map(addresses).unwrap_or_default())
        };
        let external_ips = |entry: &Arc<Entry>| sorted(external_ips(entry).collect());
        for (reverse, [before, after]) in [
            (&mut zone.cluster_ips, both(&cluster_ips)),
            (&mut zone.external_ips, both(&external_ips)),
            (&mut zone.endpoint_ips, both(&endpoint_ips)),
        ] {
            for address in before.iter().filter(|address| after.binary_search(address).is_err()) {
                reverse.remove(*address, hash);
            }
            for address in after.iter().filter(|address| before.binary_search(address).is_err()) {
                reverse.insert(*address, hash);
            }
        }
        let holds = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| entry.service.is_some());
        match (holds(&old), holds(&new)) {
            (false, true) => *self.held.entry(name.namespace.clone()).or_default() += 1,
            (true, false) => {
                if let Some(held) = self.held.get_mut(&name.namespace) {
                    *held = held.saturating_sub(1);
                }
            }
            _ => {}
        }
        if holds(&old) != holds(&new) {
            namespaces.push(name.namespace.clone());
        }
        if old.is_some() {
            zone.services.remove(hash, |item| item.entry.name == *name);
        }
        if let Some(entry) = new {
            zone.services.insert(ByName { hash, entry });
        }
    }

    fn namespace(&mut self, cluster: &Cluster, name: Word) {
        let object = cluster.namespace(&name).cloned();
        let held = self.held.get(&name).copied().unwrap_or(0);
        if held == 0 {
            self.held.remove(&name);
        }
        let is = (object.is_some() || held > 0).then_some(object);
        if self.zone.namespaces.get(&name) == is.as_ref() {
            return;
        }
        let namespaces = Arc::make_mut(&mut Arc::make_mut(&mut self.zone).namespaces);
        match is {
            Some(object) => namespaces.insert(name, object),
            None => namespaces.remove(&name),
        };
    }

    fn pod(&mut self, cluster: &Cluster, name: &ObjectName) {
        let zone = Arc::make_mut(&mut self.zone);
        if let Some(old) = self.pods.remove(name) {
            for &address in &old.addresses {
                zone.pods.remove(bits(address), |item| item.pod.name == *name);
            }
        }
        let Some(pod) = cluster.pod(name) else { return };
        for &address in &pod.addresses {
            zone.pods.insert(PodAt { address: bits(address), pod: pod.clone() });
        }
        self.pods.insert(name.clone(), pod.clone());
    }
}

/// The addresses by which the world outside the cluster reaches a Service.
pub(crate) fn external_ips(entry: &Entry) -> impl Iterator<Item = IpAddr> {
    entry.service.iter().flat_map(|service| {
        let others = service.other_ingress.iter().filter_map(|ingress| match ingress {
            Ingress::Address(address) => Some(*address),
            Ingress::Host(_) => None,
        });
        service.external_ips.iter().chain(&service.load_balancer_ips).copied().chain(others)
    })
}

/// A Service as the cluster has it; nothing where there is neither it nor endpoints.
fn entry(cluster: &Cluster, name: &ObjectName) -> Option<Entry> {
    let service = cluster.service(name).cloned();
    let slices: Box<[Arc<Slice>]> = cluster.slices(name).cloned().collect();
    if service.is_none() && slices.is_empty() {
        return None;
    }
    // The cluster's own copy of the name, where there is one, so that none is kept for us alone.
    let name = service.as_ref().map_or_else(|| name.clone(), |service| service.name.clone());
    let mut entry = Entry { name, service, slices, distinct: false };
    entry.distinct = is_distinct(&entry);
    Some(entry)
}

/// Whether no two ready endpoints have an address or a name in common.
fn is_distinct(entry: &Entry) -> bool {
    fn differ<T: Ord>(mut all: Vec<T>) -> bool {
        all.sort_unstable();
        all.windows(2).all(|pair| matches!(pair, [a, b] if a != b))
    }
    let identities = || entry.ready().filter_map(|endpoint| endpoint.identity.as_deref());
    differ(entry.ready().map(|endpoint| endpoint.address).collect())
        && differ(identities().filter_map(|identity| identity.hostname.as_deref()).collect())
        && differ(identities().filter_map(|identity| identity.pod.as_deref()).collect())
}

/// Sorted, each once.
fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests;
