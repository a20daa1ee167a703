//! Which flows to forget after a change.
//!
//! The kernel remembers where it sent a flow for as long as packets come. A TCP connection to a
//! backend that goes ends by itself; a UDP or SCTP client on one source port would be sent there for
//! ever. So flows through our frontends whose backend no longer answers are forgotten, and with them
//! those that began before there was a frontend and were never translated. Flows to backends that
//! are leaving but still serve are kept, as are all of TCP.

use model::{Family, Protocol};
use plan::{At, Delta, PortRules, ServiceRules};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
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
                |rules: &Option<Arc<ServiceRules>>| rules.clone().map_or_else(Vec::new, |r| r.ports.clone());
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
