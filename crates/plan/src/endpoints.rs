//! Which endpoints a port of a Service has, and which of them which traffic uses.

use crate::{Aside, Backend, NodeRules, Pool};
use model::{Conditions, Endpoint, Family, Hints, Protocol, Slice};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// The weight of a backend that nobody gave one.
const DEFAULT_WEIGHT: u16 = 1;
/// The annotation (of a slice or a Service) that gives backends another weight.
const WEIGHT_ANNOTATION: &str = "weight";

/// One endpoint of a port, as the policies see it.
struct Candidate<'a> {
    conditions: Conditions,
    local: bool,
    near: bool,
    weight: u16,
    hints: &'a Hints,
}

impl Candidate<'_> {
    /// Of two slices that list the same endpoint, the one whose word counts: that it is not leaving
    /// before that it is, that it is ready, and that it is here.
    fn rank(&self) -> (bool, bool, bool, bool) {
        let Conditions { ready, serving, terminating } = self.conditions;
        (!terminating, ready, serving, self.local)
    }
}

/// All endpoints of one port of a Service in one family.
pub(crate) struct Candidates<'a> {
    by_socket: BTreeMap<(IpAddr, u16), Candidate<'a>>,
}

/// The pools of a port, and whether it has any endpoint at all for Local policies to miss.
pub(crate) struct Pools {
    pub(crate) cluster: Pool,
    pub(crate) local: Pool,
    pub(crate) serving: Pool,
    pub(crate) any: bool,
}

impl Pools {
    /// The same without those that are set aside, and who that is. Who is out of every pool that it was
    /// in does not serve either: flows to it are forgotten.
    pub(crate) fn without(self, protocol: Protocol, aside: &Aside) -> (Pools, Pool) {
        if aside.is_empty() {
            return (self, no_backends());
        }
        let Pools { cluster, local, serving, any } = self;
        let mut out = Vec::new();
        let cluster = aside.thin(protocol, cluster, &mut out);
        let local = aside.thin(protocol, local, &mut out);
        if out.is_empty() {
            return (Pools { cluster, local, serving, any }, no_backends());
        }
        out.sort_unstable();
        out.dedup();
        let gone = |b: &Backend| out.contains(b) && !cluster.contains(b) && !local.contains(b);
        let serving = if serving.iter().any(gone) {
            serving.iter().filter(|b| !gone(b)).copied().collect()
        } else {
            serving
        };
        (Pools { cluster, local, serving, any }, Pool::from(out))
    }
}

/// Which pools anybody asks for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) cluster: bool,
    pub(crate) local: bool,
    pub(crate) serving: bool,
}

impl<'a> Candidates<'a> {
    pub(crate) fn of(
        slices: impl Iterator<Item = &'a Slice>,
        port: (&str, Protocol),
        family: Family,
        node: &NodeRules,
        service_weight: Option<u16>,
    ) -> Candidates<'a> {
        let mut by_socket: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
        for slice in slices.filter(|s| s.family == family) {
            let weight = weight(&slice.annotations).or(service_weight).unwrap_or(DEFAULT_WEIGHT);
            let numbers = slice.ports.iter().filter(|p| (&*p.name, p.protocol) == port);
            for number in numbers {
                for endpoint in &slice.endpoints {
                    let candidate = candidate(endpoint, node, weight);
                    let key = (endpoint.address, number.port);
                    match by_socket.get(&key) {
                        Some(other) if other.rank() >= candidate.rank() => {}
                        _ => {
                            by_socket.insert(key, candidate);
                        }
                    }
                }
            }
        }
        Candidates { by_socket }
    }

    /// Sorts the endpoints into pools. Endpoints that are leaving but still serve are used where no
    /// ready one is; that is decided for each pool by itself.
    pub(crate) fn pools(&self, node: &NodeRules, wanted: Wanted) -> Pools {
        let ready = |c: &Candidate| c.conditions.ready;
        let leaving = |c: &Candidate| c.conditions.serving && c.conditions.terminating && !c.conditions.ready;
        let cluster = if wanted.cluster {
            let topology = self.topology(node);
            let near = self.pool(|c| ready(c) && topology.admits(c, node));
            if near.is_empty() { self.pool(leaving) } else { near }
        } else {
            no_backends()
        };
        let local = if wanted.local {
            let local = self.pool(|c| c.local && ready(c));
            if local.is_empty() { self.pool(|c| c.local && leaving(c)) } else { local }
        } else {
            no_backends()
        };
        let serving =
            if wanted.serving { self.pool(|c| ready(c) || c.conditions.serving) } else { no_backends() };
        Pools { cluster, local, serving, any: self.by_socket.values().any(|c| ready(c) || leaving(c)) }
    }

    /// How many endpoints on this node a load balancer may count on.
    pub(crate) fn local_ready(&self) -> impl Iterator<Item = IpAddr> {
        self.by_socket.iter().filter(|(_, c)| c.local && c.conditions.ready).map(|((ip, _), _)| *ip)
    }

    fn pool(&self, admits: impl Fn(&Candidate) -> bool) -> Pool {
        let chosen = self.by_socket.iter().filter(|(_, c)| admits(c));
        let backends =
            chosen.map(|(&(address, port), c)| Backend { address, port, weight: c.weight, near: c.near });
        Arc::from_iter(backends)
    }

    /// Hints count only if every ready endpoint has them and one is meant for us: all or nothing.
    fn topology(&self, node: &NodeRules) -> Topology {
        let ready = || self.by_socket.values().filter(|c| c.conditions.ready);
        let node_hinted = |c: &Candidate| !c.hints.nodes.is_empty();
        let zone_hinted = |c: &Candidate| !c.hints.zones.is_empty();
        let fits = |topology: Topology| ready().any(|c| topology.admits(c, node));
        if ready().all(node_hinted) && fits(Topology::SameNode) {
            Topology::SameNode
        } else if ready().all(zone_hinted) && fits(Topology::SameZone) {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }
}

/// The pool without backends. Nearly every port has one or two, so they share it.
fn no_backends() -> Pool {
    static NO_BACKENDS: LazyLock<Pool> = LazyLock::new(|| Pool::from([]));
    NO_BACKENDS.clone()
}

#[derive(Clone, Copy)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

impl Topology {
    fn admits(self, candidate: &Candidate, node: &NodeRules) -> bool {
        let hints = candidate.hints;
        match self {
            Topology::Anywhere => true,
            Topology::SameNode => hints.nodes.contains(&node.name),
            Topology::SameZone => node.zone.as_ref().is_some_and(|zone| hints.zones.contains(zone)),
        }
    }
}

fn candidate<'a>(endpoint: &'a Endpoint, node: &NodeRules, weight: u16) -> Candidate<'a> {
    let local = endpoint.is_on(&node.name);
    Candidate {
        conditions: endpoint.conditions,
        local,
        near: local || endpoint.place.node.is_none(),
        weight,
        hints: &endpoint.place.hints,
    }
}

/// The weight that annotations give; a value that is no number gives none.
pub(crate) fn weight(annotations: &model::Words) -> Option<u16> {
    annotations.get(WEIGHT_ANNOTATION)?.parse().ok()
}
