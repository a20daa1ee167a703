//! What holds for all Services of a node: where its own pods' traffic comes from, at which of its
//! addresses NodePorts are served, which networks hold ClusterIPs.

use model::{Cluster, Family, Name, Prefix};
use std::net::{IpAddr, Ipv4Addr};

/// How traffic of this node's pods is told from other traffic, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// It is not.
    #[default]
    Off,
    /// By source address in the cluster's pod networks.
    ClusterCidr(Vec<Prefix>),
    /// By source address in this node's pod networks.
    NodeCidr,
    /// By the bridge it comes in through.
    BridgeInterface(Name),
    /// By the beginning of the name of the interface it comes in through.
    InterfaceNamePrefix(Name),
}

/// At which addresses of the node NodePorts are served, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// At all.
    #[default]
    All,
    /// At the primary address of each family.
    Primary,
    /// At those in these networks.
    Networks(Vec<Prefix>),
}

/// What the plan needs to know beside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node_name: Name,
    /// Primary addresses that configuration names; the Node's own stand in for a missing family.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses on the node's interfaces, which stand in where there is no Node object either.
    pub interface_addresses: Vec<IpAddr>,
    /// How local traffic is told.
    pub detect_local: DetectLocal,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// Where NodePorts are served.
    pub node_ports: NodePortAddresses,
    /// Serve NodePorts at 127.0.0.1 too.
    pub localhost_node_ports: bool,
    /// Leave `externalIPs` alone.
    pub ignore_external_ips: bool,
    /// Every address of a Service becomes the node's own, as IPVS wants it.
    pub owns_addresses: bool,
}

/// How traffic of this node's pods is told from other traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalSources {
    /// It is not: nobody counts as local, and nobody as off-cluster either.
    #[default]
    Unknown,
    /// By source address.
    Networks(Vec<Prefix>),
    /// By the interface it comes in through.
    Interface(Name),
    /// By the beginning of that interface's name.
    InterfacePrefix(Name),
}

/// What holds for all Services of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRules {
    /// The node's name.
    pub name: Name,
    /// Its zone.
    pub zone: Option<Name>,
    /// Its primary addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The networks of its own pods.
    pub pod_cidrs: Vec<Prefix>,
    /// How its pods' traffic is told.
    pub local_sources: LocalSources,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// NodePorts are served at those of the node's addresses that are in these networks, loopback
    /// excepted.
    pub node_port_networks: Vec<Prefix>,
    /// NodePorts are served at 127.0.0.0/8 too.
    pub localhost_node_ports: bool,
    /// Networks that ClusterIPs are taken from; what is not allocated in them goes nowhere.
    pub service_cidrs: Vec<Prefix>,
    /// Leave `externalIPs` alone.
    pub ignore_external_ips: bool,
    /// Every address of a Service becomes the node's own, so that its other ports are refused and
    /// not somebody else's.
    pub owns_addresses: bool,
}

/// The network that localhost is in.
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

impl NodeRules {
    /// What holds for the node that the settings name.
    pub fn new(cluster: &Cluster, settings: &Settings) -> NodeRules {
        let Settings {
            node_name,
            node_addresses,
            interface_addresses,
            detect_local,
            masquerade_all,
            node_ports,
            localhost_node_ports,
            ignore_external_ips,
            owns_addresses,
        } = settings;
        let node = cluster.node(node_name);
        let own = node.map_or(&[][..], |n| &n.addresses);
        let addresses = primary_addresses(&[node_addresses, own, interface_addresses]);
        let pod_cidrs = node.map_or_else(Vec::new, |n| n.pod_cidrs.clone());
        let local_sources = match detect_local {
            DetectLocal::Off => LocalSources::Unknown,
            DetectLocal::ClusterCidr(networks) if networks.is_empty() => LocalSources::Unknown,
            DetectLocal::ClusterCidr(networks) => LocalSources::Networks(networks.clone()),
            DetectLocal::NodeCidr if pod_cidrs.is_empty() => LocalSources::Unknown,
            DetectLocal::NodeCidr => LocalSources::Networks(pod_cidrs.clone()),
            DetectLocal::BridgeInterface(name) => LocalSources::Interface(name.clone()),
            DetectLocal::InterfaceNamePrefix(prefix) => LocalSources::InterfacePrefix(prefix.clone()),
        };
        let node_port_networks = match node_ports {
            NodePortAddresses::All => Family::ALL.into_iter().filter_map(everything).collect(),
            NodePortAddresses::Primary => addresses.iter().map(|ip| Prefix::host(*ip)).collect(),
            NodePortAddresses::Networks(networks) => sorted(networks.iter().copied()),
        };
        // NodePorts at localhost are asked for by the option, and by no list that leaves it out.
        let selects_loopback = match node_ports {
            NodePortAddresses::All | NodePortAddresses::Primary => true,
            NodePortAddresses::Networks(networks) => networks.iter().any(overlaps_loopback),
        };
        NodeRules {
            name: node_name.clone(),
            zone: node.and_then(|n| n.zone.clone()),
            addresses,
            pod_cidrs,
            local_sources,
            masquerade_all: *masquerade_all,
            node_port_networks,
            localhost_node_ports: *localhost_node_ports && selects_loopback,
            service_cidrs: sorted(cluster.service_cidrs().flat_map(|c| c.cidrs.iter().copied())),
            ignore_external_ips: *ignore_external_ips,
            owns_addresses: *owns_addresses,
        }
    }

    /// Whether NodePorts are served at this address, if it is the node's.
    pub fn serves_node_ports(&self, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return ip.is_ipv4() && self.localhost_node_ports;
        }
        self.node_port_networks.iter().any(|n| n.contains(ip))
    }

    /// Whether the sender counts as a pod of this node. Where that is told by the interface and the
    /// question does not name one, the node's pod networks stand in.
    pub fn is_local_pod(&self, packet: &crate::Packet) -> bool {
        let within = |networks: &[Prefix]| networks.iter().any(|n| n.contains(packet.from));
        match (&self.local_sources, &packet.interface) {
            (LocalSources::Unknown, _) => false,
            (LocalSources::Networks(networks), _) => within(networks),
            (LocalSources::Interface(name), Some(interface)) => **name == **interface,
            (LocalSources::InterfacePrefix(prefix), Some(interface)) => interface.starts_with(&**prefix),
            (LocalSources::Interface(_) | LocalSources::InterfacePrefix(_), None) => within(&self.pod_cidrs),
        }
    }

    /// Whether the way of telling local traffic can tell it in this family. Without one, nobody is
    /// off-cluster.
    pub fn tells_local(&self, family: Family) -> bool {
        match &self.local_sources {
            LocalSources::Unknown => false,
            LocalSources::Networks(networks) => networks.iter().any(|n| n.family() == family),
            LocalSources::Interface(_) | LocalSources::InterfacePrefix(_) => true,
        }
    }
}

fn everything(family: Family) -> Option<Prefix> {
    let ip = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    Prefix::new(ip, 0)
}

fn overlaps_loopback(network: &Prefix) -> bool {
    let (loopback, length) = LOOPBACK;
    let loopback = IpAddr::V4(loopback);
    network.contains(loopback) || Prefix::new(loopback, length).is_some_and(|l| l.contains(network.network()))
}

/// The first address of each family, in order of the sources.
fn primary_addresses(sources: &[&[IpAddr]]) -> Vec<IpAddr> {
    let all = || sources.iter().flat_map(|source| source.iter().copied());
    Family::ALL.into_iter().filter_map(|family| all().find(|ip| Family::of(*ip) == family)).collect()
}

fn sorted(networks: impl Iterator<Item = Prefix>) -> Vec<Prefix> {
    let mut networks: Vec<_> = networks.collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}
