//! Who holds a frontend that several Services ask for.
//!
//! A ClusterIP is the API server's to give, so it goes before anything a user may write. Else the
//! older Service keeps the frontend, ties by name: never the order of arrival.

use crate::{At, FrontendKind, ServiceRules};
use model::{Cluster, Family, ObjectName, Protocol, Service, ServicePort};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// A frontend, whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClaimKey {
    pub(crate) at: At,
    pub(crate) protocol: Protocol,
}

/// All frontends and who asks for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    claimants: HashMap<ClaimKey, Claimants>,
}

/// Nearly every frontend has one claimant, which is worth a case of its own at 100,000 of them.
#[derive(Clone, Debug)]
enum Claimants {
    One(ObjectName),
    Many(Vec<ObjectName>),
}

impl Claimants {
    fn names(&self) -> &[ObjectName] {
        match self {
            Claimants::One(name) => std::slice::from_ref(name),
            Claimants::Many(names) => names,
        }
    }
}

impl Claims {
    /// Enters a claim. A Service that claims a frontend twice claims it once.
    pub(crate) fn add(&mut self, key: ClaimKey, name: &ObjectName) {
        match self.claimants.entry(key) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Claimants::One(name.clone()));
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                if !entry.get().names().contains(name) {
                    let mut names = entry.get().names().to_vec();
                    names.push(name.clone());
                    entry.insert(Claimants::Many(names));
                }
            }
        }
    }

    /// Takes a claim back.
    pub(crate) fn remove(&mut self, key: &ClaimKey, name: &ObjectName) {
        let Some(claimants) = self.claimants.get_mut(key) else { return };
        let mut names = claimants.names().to_vec();
        names.retain(|n| n != name);
        match names.pop() {
            None => {
                self.claimants.remove(key);
            }
            Some(last) if names.is_empty() => *claimants = Claimants::One(last),
            Some(last) => {
                names.push(last);
                *claimants = Claimants::Many(names);
            }
        }
    }

    /// The Services that claim the same frontend as this one does.
    pub(crate) fn rivals(&self, key: &ClaimKey, name: &ObjectName, into: &mut BTreeSet<ObjectName>) {
        if let Some(Claimants::Many(names)) = self.claimants.get(key) {
            into.extend(names.iter().filter(|n| *n != name).cloned());
        }
    }

    /// Who holds the frontend.
    pub(crate) fn holder(&self, key: &ClaimKey, cluster: &Cluster) -> Option<&ObjectName> {
        match self.claimants.get(key)? {
            Claimants::One(name) => Some(name),
            Claimants::Many(names) => names.iter().min_by_key(|name| {
                let service = cluster.service(name);
                let rank = service.map(|s| (!has_cluster_ip(s, key), s.created.is_none(), s.created));
                (service.is_none(), rank, (*name).clone())
            }),
        }
    }
}

fn has_cluster_ip(service: &Service, key: &ClaimKey) -> bool {
    matches!(key.at, At::Address(ip, _) if service.cluster_ips.contains(&ip))
}

/// A Service's ports by their numbers in the list. The API server refuses a port that is there twice;
/// a manifest may have one all the same, and it counts once.
pub(crate) fn ports(service: &Service) -> impl Iterator<Item = (usize, &ServicePort)> {
    let first = |index: usize, port: &ServicePort| {
        let same = |p: &ServicePort| (&p.name, p.protocol, p.port) == (&port.name, port.protocol, port.port);
        !service.ports.iter().take(index).any(same)
    };
    service.ports.iter().enumerate().filter(move |(index, port)| first(*index, port))
}

fn has_family(service: &Service, ip: IpAddr) -> bool {
    service.cluster_ips.iter().any(|own| Family::of(*own) == Family::of(ip))
}

/// The frontends that a Service asked for when these rules were made: those it has and those that
/// others have.
pub(crate) fn had_asked(rules: &ServiceRules) -> impl Iterator<Item = ClaimKey> {
    let of_port = |port: &'_ crate::PortRules| port.protocol();
    let held = rules.ports.iter().flat_map(move |port| {
        port.frontends.iter().map(move |frontend| ClaimKey { at: frontend.at, protocol: of_port(port) })
    });
    held.chain(rules.contested.iter().map(|other| ClaimKey { at: other.at, protocol: other.protocol }))
}

/// The frontends that a Service asks for, in the order in which a kind goes before another where
/// one Service asks for the same address twice. Addresses of a family that it has no ClusterIP of are
/// not served, so it does not ask for them.
pub(crate) fn asked(
    service: &Service,
    ignore_external_ips: bool,
) -> impl Iterator<Item = (usize, FrontendKind, ClaimKey)> {
    let external_ips: &[_] = if ignore_external_ips { &[] } else { &service.external_ips };
    let addresses = [
        (FrontendKind::ClusterIp, &*service.cluster_ips),
        // Before external IPs: source ranges restrict the address, however often it is listed
        // (kube-proxy checks its map `firewall-ips` before any other).
        (FrontendKind::LoadBalancer, &*service.load_balancer_ips),
        (FrontendKind::ExternalIp, external_ips),
    ];
    ports(service).flat_map(move |(index, port)| {
        let fixed = addresses.into_iter().flat_map(move |(kind, ips)| {
            let served = ips.iter().filter(|ip| has_family(service, **ip));
            served.map(move |ip| (index, kind, At::Address(*ip, port.port)))
        });
        let node_port = port.node_port.map(|n| (index, FrontendKind::NodePort, At::NodePort(n)));
        let protocol = port.protocol;
        fixed.chain(node_port).map(move |(index, kind, at)| (index, kind, ClaimKey { at, protocol }))
    })
}
