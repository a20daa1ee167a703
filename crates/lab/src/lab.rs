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
//!    client          router - router - far client
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

use std::net::IpAddr;
use std::ops::Deref;

use netlink::route::{LinkChange, Prefix};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, nth};
use crate::error::{Doing, Error};
use crate::host::Host;
use crate::wire::{LINK, Wire, attach};

/// The first number given to an outside client on the wire; nodes count from 1.
const FIRST_OUTSIDE: u32 = 100;
/// The first number given to a pod in its node's network.
const FIRST_POD: u32 = 2;
/// How far away a far client can be.
const HOPS_MAX: u32 = 12;

/// A cluster in namespaces. All of it goes when the lab and the last handle to a host are dropped.
#[derive(Debug)]
pub struct Lab {
    config: Config,
    wire: Wire,
    hosts: Vec<Host>,
    nodes: u32,
    outside: u32,
    far: u32,
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

/// A client several hops away.
#[derive(Debug, Clone)]
pub struct FarClient {
    host: Host,
    routers: Vec<Host>,
}

impl FarClient {
    /// The routers on the way, the one on the nodes' wire first: that one is to be told the way
    /// to Services.
    pub fn routers(&self) -> &[Host] {
        &self.routers
    }

    /// The same as a host.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Deref for FarClient {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Lab {
    /// A wire with nobody on it, in the default networks.
    ///
    /// # Errors
    /// When namespaces cannot be made or set up.
    pub fn new() -> Result<Lab, Error> {
        Lab::with(Config::default())
    }

    /// A wire with nobody on it, in these networks. Raises the process's limit of open files as
    /// far as it may: each host takes two, each connection one.
    ///
    /// # Errors
    /// When namespaces cannot be made or set up.
    pub fn with(config: Config) -> Result<Lab, Error> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).doing(|| "read the limit of open files")?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).doing(|| "raise the limit of open files")?;
        let wire = Wire::new(&config.nodes)?;
        Ok(Lab { config, wire, hosts: Vec::new(), nodes: 0, outside: FIRST_OUTSIDE, far: 0 })
    }

    /// A node with the next addresses of the node networks, and the next of the pod networks
    /// behind it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node(&mut self, name: &str) -> Result<Node, Error> {
        self.nodes += 1;
        let addresses = nths(&self.config.nodes, self.nodes);
        let pods = self.config.pods_of(self.nodes);
        self.node_at(name, &addresses, &pods)
    }

    /// A node with these addresses, in the lab's networks or not, and these networks for its pods.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node_at(&mut self, name: &str, addresses: &[IpAddr], pods: &[Prefix]) -> Result<Node, Error> {
        let host = Host::router(name)?;
        self.wire.join(&host, addresses, pods)?;
        self.hosts.push(host.clone());
        Ok(Node { host, pod_networks: pods.to_vec() })
    }

    /// A pod on this node, with the next address of each of the node's pod networks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod(&mut self, node: &Node, name: &str) -> Result<Host, Error> {
        let taken: Vec<IpAddr> = self.hosts.iter().flat_map(Host::addresses).collect();
        let free = |network: &Prefix| {
            (FIRST_POD..u32::from(u16::MAX))
                .map(|number| nth(*network, number).address)
                .take_while(|address| network.contains(*address))
                .find(|address| !taken.contains(address))
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
        attach(node, &format!("veth{}", self.hosts.len()), &pod, addresses)?;
        for &address in addresses {
            if !node.pod_networks.iter().any(|network| network.contains(address)) {
                self.wire.announce(node, Prefix::host(address))?;
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
        let addresses = self.next_outside();
        self.outside_at(name, &addresses)
    }

    /// The same with these addresses, in the lab's networks or not.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn outside_at(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Host, Error> {
        let host = Host::new(name)?;
        self.wire.join(&host, addresses, &[])?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    fn next_outside(&mut self) -> Vec<IpAddr> {
        let number = self.outside;
        self.outside += 1;
        nths(&self.config.nodes, number)
    }

    /// A client outside the cluster with so many routers, at least one, between it and the wire.
    ///
    /// # Errors
    /// When it cannot be made, or is too far away.
    pub fn far_outside(&mut self, name: &str, hops: u32) -> Result<FarClient, Error> {
        if !(1..=HOPS_MAX).contains(&hops) {
            return Err(Error::Refused(format!("{name} cannot be {hops} hops away, only 1 to {HOPS_MAX}")));
        }
        let networks = self.config.far_of(self.far);
        self.far += 1;
        let border = Host::router(&format!("{name}-router1"))?;
        let addresses = self.next_outside();
        self.wire.join(&border, &addresses, &networks)?;
        let mut routers = vec![border];
        for hop in 2..=hops {
            let router = Host::router(&format!("{name}-router{hop}"))?;
            self.behind(&mut routers, router, &networks, hop)?;
        }
        let mut chain = routers.clone();
        self.behind(&mut chain, Host::new(name)?, &networks, 1)?;
        let host = chain.pop().ok_or_else(|| Error::Refused(name.to_owned()))?;
        self.hosts.extend(routers.iter().cloned());
        self.hosts.push(host.clone());
        Ok(FarClient { host, routers })
    }

    /// Puts `host` at the end of the chain, where it has the networks' addresses of this number,
    /// and tells the one before it that the networks are there.
    fn behind(
        &self,
        chain: &mut Vec<Host>,
        host: Host,
        networks: &[Prefix],
        number: u32,
    ) -> Result<(), Error> {
        let Some(last) = chain.last() else { return Ok(()) };
        attach(last, "down", &host, &nths(networks, number))?;
        for network in networks {
            last.route_via(*network, nth(*network, number).address)?;
        }
        chain.push(host);
        Ok(())
    }

    /// Takes a host away for good, as a deleted pod or a scrapped node. Its namespace goes with
    /// the caller's last handle to it, and with it its links.
    pub fn remove(&mut self, host: &Host) {
        self.hosts.retain(|other| !other.is(host));
        self.wire.forget(host);
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
        std::iter::once(self.wire.host()).chain(&self.hosts).map(line).collect()
    }
}

/// The address of this number in each network.
fn nths(networks: &[Prefix], number: u32) -> Vec<IpAddr> {
    networks.iter().map(|network| nth(*network, number).address).collect()
}
