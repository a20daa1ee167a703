//! Which flows to forget after a change.
//!
//! The kernel remembers where it sent a flow for as long as packets come. A TCP connection to a
//! backend that goes ends by itself; a UDP or SCTP client on one source port would be sent there for
//! ever. So flows through our frontends whose backend no longer answers are forgotten, and with them
//! those that began before there was a frontend and were never translated. Flows to backends that
//! are leaving but still serve are kept, as are all of TCP.

use crate::Error;
use model::{Family, Protocol};
use netlink::conntrack::{self, Detail, Ends, Filter, IpVersion, Masked, STATUS_SEEN_REPLY};
use netlink::{Netfilter, Route, Socket};
use plan::{At, Delta, NodeRules, PortRules, ServiceRules};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is remembered of one flow, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where its first packet was sent.
    pub destination: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
}

/// Backends that still answer.
type Serving = Arc<HashSet<SocketAddr>>;

/// The frontends that flows may have gone stale behind, and for each the backends that still answer.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    frontends: HashMap<(Family, Protocol, At), Serving>,
}

impl Suspects {
    /// Those of changed Services.
    pub fn of_changes(deltas: &[Delta]) -> Suspects {
        let mut suspects = Suspects::default();
        for delta in deltas {
            // What the Service has now counts; frontends that it only had have nobody behind them.
            let rules =
                |rules: &Option<Arc<ServiceRules>>| rules.clone().map_or_else(Vec::new, |r| r.ports.to_vec());
            for port in rules(&delta.before) {
                suspects.add(&port, false);
            }
            for port in rules(&delta.after) {
                suspects.add(&port, true);
            }
        }
        suspects
    }

    /// Those of all Services: for a start, when what happened before is not known.
    pub fn of_all<'a>(services: impl Iterator<Item = &'a ServiceRules>) -> Suspects {
        let mut suspects = Suspects::default();
        for port in services.flat_map(|service| &service.ports) {
            suspects.add(port, true);
        }
        suspects
    }

    fn add(&mut self, port: &PortRules, alive: bool) {
        if port.protocol() == Protocol::Tcp {
            return;
        }
        let serving = match alive {
            true => Serving::new(port.serving.iter().map(|b| b.socket()).collect()),
            false => Serving::default(),
        };
        for frontend in &port.frontends {
            let key = (port.family, port.protocol(), frontend.at);
            self.frontends.insert(key, serving.clone());
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// The families concerned.
    pub fn families(&self) -> Vec<Family> {
        let concerned = |family: &Family| self.frontends.keys().any(|(other, _, _)| other == family);
        Family::ALL.into_iter().filter(concerned).collect()
    }

    /// Those of one family.
    pub fn of_family(&self, family: Family) -> Suspects {
        let frontends = self.frontends.iter().filter(|((other, _, _), _)| *other == family);
        Suspects { frontends: frontends.map(|(key, serving)| (*key, serving.clone())).collect() }
    }

    /// The families and protocols concerned.
    pub fn kinds(&self) -> HashSet<(Family, Protocol)> {
        self.frontends.keys().map(|(family, protocol, _)| (*family, *protocol)).collect()
    }

    /// Whether the flow should be forgotten. `is_node_port_address` tells the node's addresses at
    /// which NodePorts are served.
    pub fn is_stale(&self, flow: &Flow, is_node_port_address: impl Fn(&SocketAddr) -> bool) -> bool {
        let family = Family::of(flow.destination.ip());
        let find = |at| self.frontends.get(&(family, flow.protocol, at));
        let at = At::Address(flow.destination.ip(), flow.destination.port());
        let serving = find(at).or_else(|| {
            let at = At::NodePort(flow.destination.port());
            find(at).filter(|_| is_node_port_address(&flow.destination))
        });
        serving.is_some_and(|serving| !serving.contains(&flow.backend))
    }
}

/// Forgets the stale flows that the kernel remembers, and says how many there were.
pub fn forget(suspects: &Suspects, node: &NodeRules) -> Result<usize, Error> {
    let mut socket: Socket<Netfilter> = Socket::open()?;
    let own = own_addresses()?;
    let is_node_port_address = |at: &SocketAddr| {
        node.serves_node_ports(at.ip()) && (at.ip().is_loopback() || own.contains(&at.ip()))
    };
    let mut stale = Vec::new();
    for (family, protocol) in suspects.kinds() {
        let version = match family {
            Family::V4 => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        let filter =
            Filter { version: Some(version), protocol: Some(protocol.number()), ..Filter::default() };
        let flows = conntrack::flows(&mut socket, &filter)?;
        let is_stale = |entry: &conntrack::Flow| {
            read(entry, protocol).is_some_and(|flow| suspects.is_stale(&flow, is_node_port_address))
        };
        stale.extend(flows.into_iter().filter(is_stale));
    }
    if stale.is_empty() {
        return Ok(0);
    }
    Ok(conntrack::forget(&mut socket, &stale)?)
}

/// Forgets TCP connections that were sent to one of these backends and have seen no answer, and says
/// how many there were. The others are not touched.
pub fn forget_unanswered(backends: &[SocketAddr]) -> Result<usize, Error> {
    if backends.is_empty() {
        return Ok(0);
    }
    let mut socket: Socket<Netfilter> = Socket::open()?;
    let wanted: HashSet<_> = backends.iter().copied().collect();
    let mut unanswered = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut own = wanted.iter().filter(|at| IpVersion::of(at.ip()) == version);
        let Some(first) = own.next() else { continue };
        let mut filter = Filter {
            version: Some(version),
            protocol: Some(Protocol::Tcp.number()),
            status: Some(Masked { mask: STATUS_SEEN_REPLY, value: 0 }),
            ..Filter::default()
        };
        // One alone the kernel finds by itself.
        if own.next().is_none() {
            filter.reply =
                Ends { source: Some(first.ip()), source_port: Some(first.port()), ..Ends::default() };
        }
        let flows = conntrack::flows(&mut socket, &filter)?.into_iter();
        unanswered.extend(flows.filter(|flow| {
            read(flow, Protocol::Tcp)
                .is_some_and(|flow| flow.destination != flow.backend && wanted.contains(&flow.backend))
        }));
    }
    if unanswered.is_empty() {
        return Ok(0);
    }
    Ok(conntrack::forget(&mut socket, &unanswered)?)
}

fn own_addresses() -> Result<HashSet<IpAddr>, Error> {
    let mut socket: Socket<Route> = Socket::open()?;
    Ok(socket.addresses(None)?.into_iter().map(|address| address.prefix.address).collect())
}

fn read(entry: &conntrack::Flow, protocol: Protocol) -> Option<Flow> {
    let Detail::Ports { destination, .. } = entry.original.detail else { return None };
    let Detail::Ports { source, .. } = entry.reply.detail else { return None };
    Some(Flow {
        protocol,
        destination: SocketAddr::new(entry.original.destination, destination),
        backend: SocketAddr::new(entry.reply.source, source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ObjectName, PortName};
    use plan::{Backend, Frontend, FrontendKind, Masquerade, PoolKind, Target};

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn rules(protocol: Protocol, serving: &[&str]) -> Arc<ServiceRules> {
        let backend = |text: &&str| {
            let at = socket(text);
            Backend { address: at.ip(), port: at.port(), weight: 1, near: false }
        };
        let frontend = |kind, at| Frontend {
            kind,
            at,
            outside: Target::Balance(PoolKind::Cluster),
            short_circuit: false,
            sources: None,
            masquerade: Masquerade::Never,
        };
        let service = ObjectName::new("ns", "s");
        Arc::new(ServiceRules {
            name: service.clone(),
            ports: Box::new([PortRules {
                name: PortName { service, port: "dns".into(), number: 53, protocol },
                family: Family::V4,
                affinity_seconds: None,
                cluster: serving.iter().map(backend).collect(),
                local: Arc::from([]),
                serving: serving.iter().map(backend).collect(),
                aside: Arc::from([]),
                frontends: Box::new([
                    frontend(FrontendKind::ClusterIp, At::Address("10.96.0.10".parse().unwrap(), 53)),
                    frontend(FrontendKind::NodePort, At::NodePort(30053)),
                ]),
            }]),
            health_check: None,
            contested: Box::new([]),
            annotations: Default::default(),
        })
    }

    #[test]
    fn stale_flows() {
        let before = Some(rules(Protocol::Udp, &["10.1.0.1:53", "10.1.0.2:53"]));
        let changed = Delta { before: before.clone(), after: Some(rules(Protocol::Udp, &["10.1.0.2:53"])) };
        let emptied = Delta { before: before.clone(), after: Some(rules(Protocol::Udp, &[])) };
        let removed = Delta { before: before.clone(), after: None };
        let tcp = Delta { before: None, after: Some(rules(Protocol::Tcp, &[])) };
        let cases = [
            // After, where it went, who answers: is it stale?
            (&changed, "10.96.0.10:53", "10.1.0.1:53", true),
            (&changed, "10.96.0.10:53", "10.1.0.2:53", false),
            (&changed, "10.96.0.10:53", "10.96.0.10:53", true),
            (&changed, "10.96.0.10:54", "10.1.0.1:53", false),
            (&changed, "192.168.0.1:30053", "10.1.0.1:53", true),
            (&changed, "192.168.0.1:30053", "10.1.0.2:53", false),
            // That port at somebody else's address is none of ours.
            (&changed, "192.168.0.2:30053", "10.1.0.1:53", false),
            (&emptied, "10.96.0.10:53", "10.1.0.2:53", true),
            (&removed, "10.96.0.10:53", "10.1.0.2:53", true),
            (&tcp, "10.96.0.10:53", "10.1.0.1:53", false),
        ];
        for (delta, destination, backend, stale) in cases {
            let suspects = Suspects::of_changes(std::slice::from_ref(delta));
            let flow =
                Flow { protocol: Protocol::Udp, destination: socket(destination), backend: socket(backend) };
            let ours = |at: &SocketAddr| at.ip() == socket("192.168.0.1:0").ip();
            assert_eq!(suspects.is_stale(&flow, ours), stale, "{destination} {backend} {delta:?}");
        }
    }
}
