//! A small cluster: nodes on a wire, pods behind each node, clients outside, all of them hosts in
//! namespaces of their own.
//!
//! ```text
//!   pod  pod        pod  pod
//!     \  /            \  /          routed, one veth a pod
//!    node-a          node-b
//!       \              /
//!   =====================  the wire (a bridge in a namespace of its own; at .254 the
//!       /              \            cluster's default gateway, which knows no way and is silent)
//!    client           another
//! ```
//!
//! Pods are routed, not bridged: a pod has a /32 and /128 and its default route at the node's
//! end of its veth, which is 169.254.1.1 and fe80::1 on every one. So all of a pod's packets pass
//! the node's IP hooks, also those for a pod beside it, and **hairpin** (a pod that reaches itself
//! through a Service) needs nothing but that the balancer masquerades it: no hairpin mode of a
//! bridge port, no `bridge-nf-call-iptables`. The node's own address is what masqueraded
//! connections are seen from.
//!
//! Everybody on the wire knows the way to all pods, outside clients too. To Service addresses
//! nobody knows one, until told with [`Host::route_via`]; packets for them go to the default
//! gateway, from which no answer ever comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::fd::AsFd;

use netlink::route::{Action, LinkChange, NewLink, Prefix, RouteEntry};

use crate::config::{Config, gateway, nth};
use crate::error::{Doing, Error};
use crate::host::{Host, has_ipv6};

/// The node's end of every pod's veth.
const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// A pod's own link-local address. Nothing is asked for it; neighbour discovery needs one.
const POD_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// The first number given to an outside client on the wire; nodes count from 1.
const FIRST_OUTSIDE: u32 = 100;
/// The first number given to a pod in its node's network.
const FIRST_POD: u32 = 2;

/// The link of every host that has but one.
const LINK: &str = "eth0";
const BRIDGE: &str = "br0";

/// A cluster in namespaces. All of it goes when the lab and the last handle to a host are dropped.
#[derive(Debug)]
pub struct Lab {
    config: Config,
    wire: Wire,
    hosts: Vec<Host>,
    nodes: u32,
    outside: u32,
}

/// A node: a host that forwards for its pods.
#[derive(Debug, Clone)]
pub struct Node {
    host: Host,
    pod_networks: Vec<Prefix>,
}

impl Node {
    /// The networks its pods have their addresses in.
    pub fn pod_networks(&self) -> &[Prefix] {
        &self.pod_networks
    }

    /// The same as a host.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// The nodes' network.
#[derive(Debug)]
struct Wire {
    host: Host,
    bridge: u32,
    /// So many links were made; their names count.
    links: u32,
    members: Vec<Member>,
}

/// A host on the wire, and what it tells the others about the ways through it.
#[derive(Debug)]
struct Member {
    host: Host,
    /// The name of the wire's end of its link.
    port: String,
    /// Networks that are reached through it.
    behind: Vec<Prefix>,
}

impl Lab {
    /// A wire with nobody on it, in the default networks.
    ///
    /// # Errors
    /// When namespaces cannot be made or set up.
    pub fn new() -> Result<Lab, Error> {
        Lab::with(Config::default())
    }

    /// A wire with nobody on it, in these networks.
    ///
    /// # Errors
    /// When namespaces cannot be made or set up.
    pub fn with(config: Config) -> Result<Lab, Error> {
        let wire = Wire::new(&config)?;
        Ok(Lab { config, wire, hosts: Vec::new(), nodes: 0, outside: FIRST_OUTSIDE })
    }

    /// A node with the next addresses of the node networks, and the next of the pod networks
    /// behind it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node(&mut self, name: &str) -> Result<Node, Error> {
        self.nodes += 1;
        let addresses: Vec<_> =
            self.config.nodes.iter().map(|network| nth(*network, self.nodes).address).collect();
        let pods = self.config.pods_of(self.nodes);
        self.node_at(name, &addresses, &pods)
    }

    /// A node with these addresses, in the lab's networks or not, and these networks for its pods.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node_at(&mut self, name: &str, addresses: &[IpAddr], pods: &[Prefix]) -> Result<Node, Error> {
        let host = Host::router(name)?;
        self.wire.join(&self.config, &host, addresses, pods)?;
        self.hosts.push(host.clone());
        Ok(Node { host, pod_networks: pods.to_vec() })
    }

    /// A pod on this node, with the next address of each of the node's pod networks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod(&mut self, node: &Node, name: &str) -> Result<Host, Error> {
        let free = |network: &Prefix| {
            let taken: Vec<IpAddr> = self.hosts.iter().flat_map(Host::addresses).collect();
            let mut numbers = FIRST_POD..u32::from(u16::MAX);
            let address = numbers.find_map(|number| {
                let address = nth(*network, number).address;
                (!taken.contains(&address)).then_some(address)
            });
            address
                .filter(|address| network.contains(*address))
                .ok_or_else(|| Error::Refused(format!("no address is left in {network} for pod {name}")))
        };
        let addresses = node.pod_networks.iter().map(free).collect::<Result<Vec<_>, _>>()?;
        self.pod_at(node, name, &addresses)
    }

    /// A pod on this node with these addresses, in the node's pod networks or not.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod_at(&mut self, node: &Node, name: &str, addresses: &[IpAddr]) -> Result<Host, Error> {
        let pod = Host::new(name)?;
        let node_end = format!("veth{}", self.hosts.len());
        let peer = NewLink::Veth { peer: LINK, namespace: Some(pod.as_fd()) };
        node.netlink().add_link(&node_end, peer).doing(|| node.name())?;
        let node_link = node.set_up(&node_end)?;
        let pod_link = pod.set_up(LINK)?;
        pod.wait_until_ready(LINK)?;
        node.wait_until_ready(&node_end)?;

        node.add_address(&node_end, Prefix::host(POD_GATEWAY_V4.into()))?;
        pod.change_route(Action::Add, &RouteEntry::direct(Prefix::host(POD_GATEWAY_V4.into()), pod_link))?;
        if has_ipv6() {
            node.add_address(&node_end, Prefix { address: POD_GATEWAY_V6.into(), length: 64 })?;
            pod.add_address(LINK, Prefix { address: POD_LINK_LOCAL.into(), length: 64 })?;
        }
        for &address in addresses {
            let to_pod = Prefix::host(address);
            pod.add_address(LINK, to_pod)?;
            // With the node's own address as the source: 169.254.1.1 would be the kernel's choice.
            let source = node.address_like(address);
            node.change_route(Action::Add, &RouteEntry { source, ..RouteEntry::direct(to_pod, node_link) })?;
            let gateway = match address {
                IpAddr::V4(_) => POD_GATEWAY_V4.into(),
                IpAddr::V6(_) => POD_GATEWAY_V6.into(),
            };
            let default = RouteEntry::via(any_like(address), gateway, Some(pod_link));
            pod.change_route(Action::Replace, &default)?;
            if !node.pod_networks.iter().any(|network| network.contains(address)) {
                self.wire.announce(node, to_pod)?;
            }
        }
        self.hosts.push(pod.clone());
        Ok(pod)
    }

    /// A client outside the cluster, on the nodes' own wire.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn outside(&mut self, name: &str) -> Result<Host, Error> {
        let number = self.outside;
        self.outside += 1;
        let addresses: Vec<_> =
            self.config.nodes.iter().map(|network| nth(*network, number).address).collect();
        self.outside_at(name, &addresses)
    }

    /// The same with these addresses, in the lab's networks or not.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn outside_at(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Host, Error> {
        let host = Host::new(name)?;
        self.wire.join(&self.config, &host, addresses, &[])?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Takes a host away for good, as a deleted pod or a scrapped node. Its namespace goes with
    /// the caller's last handle to it, and with it its links.
    pub fn remove(&mut self, host: &Host) {
        self.hosts.retain(|other| !other.is(host));
        self.wire.members.retain(|member| !member.host.is(host));
    }

    /// Pulls the cable of a host on the wire: a node that lost its power, as others see it.
    ///
    /// # Errors
    /// When the host is not on the wire.
    pub fn unplug(&self, host: &Host) -> Result<(), Error> {
        self.wire.change_port(host, LinkChange::Down)
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// When the host is not on the wire.
    pub fn plug(&self, host: &Host) -> Result<(), Error> {
        self.wire.change_port(host, LinkChange::Up)?;
        host.wait_until_ready(LINK)
    }

    /// Who is where, and how to look inside while the lab lives: one line a host.
    pub fn map(&self) -> String {
        let line = |host: &Host| {
            let addresses: Vec<_> = host.addresses().iter().map(ToString::to_string).collect();
            let path = host.namespace().path();
            format!("{}: {} (nsenter --net={})\n", host.name(), addresses.join(" "), path.display())
        };
        std::iter::once(&self.wire.host).chain(&self.hosts).map(line).collect()
    }
}

impl Wire {
    fn new(config: &Config) -> Result<Wire, Error> {
        let host = Host::new("wire")?;
        host.netlink().add_link(BRIDGE, NewLink::Bridge).doing(|| "wire")?;
        let bridge = host.set_up(BRIDGE)?;
        for network in &config.nodes {
            host.add_address(BRIDGE, gateway(*network))?;
        }
        Ok(Wire { host, bridge, links: 0, members: Vec::new() })
    }

    /// Puts `host` on the wire and tells everybody the way to it and through it.
    fn join(
        &mut self,
        config: &Config,
        host: &Host,
        addresses: &[IpAddr],
        behind: &[Prefix],
    ) -> Result<(), Error> {
        self.links += 1;
        let port = format!("port{}", self.links);
        self.connect(host, &port)?;
        if has_ipv6() {
            let link_local = Ipv6Addr::from_bits(POD_LINK_LOCAL.to_bits() + u128::from(self.links));
            host.add_address(LINK, Prefix { address: link_local.into(), length: 64 })?;
        }
        for &address in addresses {
            let network = config.nodes.iter().find(|network| network.contains(address));
            let length = network.map_or(Prefix::host(address).length, |network| network.length);
            host.add_address(LINK, Prefix { address, length })?;
        }
        for network in &config.nodes {
            reach(host, *network)?;
        }
        let member = Member { host: host.clone(), port, behind: behind.to_vec() };
        for other in &self.members {
            tell(config, &member, other)?;
            tell(config, other, &member)?;
        }
        self.members.push(member);
        Ok(())
    }

    fn connect(&self, host: &Host, port: &str) -> Result<(), Error> {
        let name = || format!("connect {} to the wire", host.name());
        let peer = NewLink::Veth { peer: LINK, namespace: Some(host.as_fd()) };
        self.host.netlink().add_link(port, peer).doing(name)?;
        let index = self.host.set_up(port)?;
        host.set_up(LINK)?;
        self.host.wait_until_ready(port)?;
        let master = LinkChange::Master(Some(self.bridge));
        self.host.netlink().change_link(index, master).doing(name)?;
        host.wait_until_ready(LINK)
    }

    /// Tells everybody that `prefix` is behind `through`.
    fn announce(&mut self, through: &Host, prefix: Prefix) -> Result<(), Error> {
        for member in &mut self.members {
            if member.host.is(through) {
                member.behind.push(prefix);
            } else if let Some(gateway) = through.address_like(prefix.address) {
                member.host.route_via(prefix, gateway)?;
            }
        }
        Ok(())
    }

    fn change_port(&self, host: &Host, change: LinkChange<'_>) -> Result<(), Error> {
        let member = self.members.iter().find(|member| member.host.is(host));
        let member = member.ok_or_else(|| Error::Refused(format!("{} is not on the wire", host.name())))?;
        let mut netlink = self.host.netlink();
        let index = netlink.link(&member.port).doing(|| host.name())?.index;
        netlink.change_link(index, change).doing(|| host.name())
    }
}

/// The way to the nodes' network, and to all else by its gateway.
fn reach(host: &Host, network: Prefix) -> Result<(), Error> {
    let gateway = gateway(network).address;
    let link = host.netlink().link(LINK).doing(|| host.name())?.index;
    let Some(own) = host.address_like(gateway) else { return Ok(()) };
    if !network.contains(own) {
        let route = RouteEntry { source: Some(own), ..RouteEntry::direct(network, link) };
        host.change_route(Action::Replace, &route)?;
    }
    host.change_route(Action::Add, &RouteEntry::via(any_like(gateway), gateway, Some(link)))
}

/// All addresses of this one's family.
fn any_like(address: IpAddr) -> Prefix {
    match address {
        IpAddr::V4(_) => Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 },
        IpAddr::V6(_) => Prefix { address: Ipv6Addr::UNSPECIFIED.into(), length: 0 },
    }
}

/// Tells `listener` the way to `member` and what is behind it.
fn tell(config: &Config, member: &Member, listener: &Member) -> Result<(), Error> {
    for address in member.host.addresses() {
        if !config.nodes.iter().any(|network| network.contains(address)) {
            let link = listener.host.netlink().link(LINK).doing(|| listener.host.name())?.index;
            let source = listener.host.address_like(address);
            let route = RouteEntry { source, ..RouteEntry::direct(Prefix::host(address), link) };
            listener.host.change_route(Action::Replace, &route)?;
        }
    }
    for prefix in &member.behind {
        if let Some(gateway) = member.host.address_like(prefix.address) {
            listener.host.route_via(*prefix, gateway)?;
        }
    }
    Ok(())
}
