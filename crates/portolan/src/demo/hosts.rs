//! Who is where in the demo's cluster, and what they serve.

use super::Voice;
use crate::error::Error;
use lab::{Host, Lab, Node, Protocol, Server};
use std::net::{IpAddr, SocketAddr};

/// What the pods serve, with the names of their Services' ports.
pub(super) const HTTP: (&str, u16) = ("http", 8080);
pub(super) const METRICS: (&str, u16) = ("metrics", 9090);
pub(super) const DNS: (&str, u16) = ("dns", 5353);

/// Pods, and on which node, counted from 0.
const PODS: [(&str, usize); 7] =
    [("shell-a", 0), ("web-1", 0), ("web-3", 0), ("dns-1", 0), ("shell-b", 1), ("web-2", 1), ("dns-2", 1)];

/// The pods behind `shop/web`, and behind most others.
pub(super) const WEB: [&str; 3] = ["web-1", "web-2", "web-3"];

/// All hosts. They go when this value goes.
pub(super) struct Hosts {
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<Pod>,
    outside: Vec<Host>,
    servers: Vec<(String, Server)>,
    lab: Lab,
}

/// A pod, and on which node it is.
pub(super) struct Pod {
    pub(super) host: Host,
    pub(super) node: usize,
}

impl Hosts {
    /// Makes them.
    pub(super) fn new() -> Result<Hosts, Error> {
        let mut lab = Lab::new()?;
        let nodes = vec![lab.node("node-a")?, lab.node("node-b")?];
        let outside = vec![lab.outside("visitor")?, lab.outside("stranger")?];
        let mut pods = Vec::new();
        for (name, node) in PODS {
            if let Some(on) = nodes.get(node) {
                pods.push(Pod { host: lab.pod(on, name)?, node });
            }
        }
        let servers = serve(&pods)?;
        for client in &outside {
            // Their router sends the load balancer's addresses to node-a.
            if let (Some(node), Some(network)) = (nodes.first(), balancer_network()) {
                client.route_via(network, node.ipv4().into())?;
            }
        }
        Ok(Hosts { nodes, pods, outside, servers, lab })
    }

    /// The host of this name.
    pub(super) fn find(&self, name: &str) -> Result<&Host, Error> {
        let pods = self.pods.iter().map(|pod| &pod.host);
        let nodes = self.nodes.iter().map(Node::host);
        let mut all = pods.chain(nodes).chain(&self.outside);
        all.find(|host| host.name() == name).ok_or_else(|| Error::Demo(format!("there is no host {name}")))
    }

    /// A pod serves nothing any more: it refuses.
    pub(super) fn hang_up(&mut self, pod: &str) {
        self.servers.retain(|(name, _)| name != pod);
    }

    /// A node loses its cable.
    pub(super) fn unplug(&self, node: &str) -> Result<(), Error> {
        Ok(self.lab.unplug(self.find(node)?)?)
    }

    /// Whether this kernel speaks IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.nodes.iter().any(|node| node.addresses().iter().any(IpAddr::is_ipv6))
    }

    /// Draws who is where.
    pub(super) fn draw(&self, voice: Voice) {
        let spell = |host: &Host| {
            let addresses: Vec<_> = host.addresses().iter().map(|ip| format!("{ip:15}")).collect();
            format!("{:9} {}", host.name(), addresses.join(""))
        };
        voice.say("  ══ the wire, a bridge ═══════════════════════════════");
        for (place, node) in self.nodes.iter().enumerate() {
            voice.say(format_args!("  ║"));
            voice.say(format_args!("  ╠═ {:46}runs portolan", spell(node)));
            let pods: Vec<_> = self.pods.iter().filter(|pod| pod.node == place).collect();
            for (index, pod) in pods.iter().enumerate() {
                let corner = if index + 1 == pods.len() { '└' } else { '├' };
                voice.say(format_args!("  ║    {corner}─ {}", spell(&pod.host)));
            }
        }
        for (index, client) in self.outside.iter().enumerate() {
            let last = index + 1 == self.outside.len();
            voice.say("  ║");
            voice.say(format_args!("  {}═ {}", if last { '╚' } else { '╠' }, spell(client)));
        }
        voice.say("");
    }
}

/// The network that the addresses of load balancers and external IPs are in.
fn balancer_network() -> Option<lab::Prefix> {
    Some(lab::Prefix { address: "198.51.100.0".parse().ok()?, length: 24 })
}

/// Everybody who is a backend answers with the name of the pod.
fn serve(pods: &[Pod]) -> Result<Vec<(String, Server)>, Error> {
    let mut servers = Vec::new();
    for Pod { host, .. } in pods {
        if WEB.contains(&host.name()) {
            for (_, port) in [HTTP, METRICS] {
                servers.push((host.name().to_owned(), host.serve(Protocol::Tcp, port)?));
            }
        } else if host.name().starts_with("dns") {
            for address in host.addresses() {
                let server = host.serve_at(Protocol::Udp, SocketAddr::new(address, DNS.1))?;
                servers.push((host.name().to_owned(), server));
            }
        }
    }
    Ok(servers)
}
