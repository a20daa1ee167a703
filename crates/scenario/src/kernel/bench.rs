//! The hosts of a scenario, who listens on them, and the plane in the node under test.

use crate::run::News;
use crate::setup::{self, NODE, Setup};
use crate::subject::Tables;
use crate::{Mode, Scenario};
use dataplane::{Plane, PlaneOptions, iptables, ipvs};
use lab::{Config, Host, Lab, Node, Server};
use model::{Family, Prefix, Protocol};
use plan::Rules;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The node that the Service networks are routed through, and the other one.
const NODE_A: [&str; 2] = ["172.18.0.2", "fd00:172:18::2"];
const NODE_B: [&str; 2] = ["172.18.0.3", "fd00:172:18::3"];
/// An address of node-a that the cluster does not know, on an interface of its own.
const NODE_A_OTHER: &str = "172.19.0.2";
const NODE_A_OTHER_LENGTH: u8 = 16;
/// The networks that nodes are in, and pods.
const NODES: [&str; 2] = ["172.18.0.0/24", "fd00:172:18::/64"];
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// What is sent to node-a by everybody on the wire.
const SERVICES: [&str; 7] = [
    "10.96.0.0/15",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "fd00:10:96::/48",
    "2001:db8:2::/48",
    "2001:db8:51::/48",
    "172.19.0.2/32",
];
/// ICMP errors are answers here, and none may be saved.
const SYSCTLS: [(&str, &str); 2] = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];
/// Source ports of flows; each is used once, so that no flow meets another's connection.
const FIRST_SOURCE_PORT: u16 = 33_000;

/// Where an address is at home.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    NodeA,
    NodeB,
    /// A pod of node-a or node-b, by the last part of its addresses: 10.244.1.5 and
    /// fd00:10:244:1::5 are the same pod's.
    PodA(String),
    PodB(String),
    /// A client outside, likewise.
    Outside(String),
}

/// The networks of pods and clients, and what makes an address of the last part.
type Part = (fn(String) -> Home, [&'static str; 2], [&'static str; 2]);
const PARTS: [Part; 3] = [
    (Home::PodA, ["10.244.1.0/24", "fd00:10:244:1::/64"], ["10.244.1.", "fd00:10:244:1::"]),
    (Home::PodB, ["10.244.2.0/24", "fd00:10:244:2::/64"], ["10.244.2.", "fd00:10:244:2::"]),
    (Home::Outside, ["203.0.113.0/24", "2001:db8:113::/64"], ["203.0.113.", "2001:db8:113::"]),
];

impl Home {
    /// Where an address is at home, if anywhere.
    fn of(ip: IpAddr) -> Option<Home> {
        let text = ip.to_string();
        let is = |known: &str| setup::address(known) == Some(ip);
        if ip.is_loopback() || NODE_A.into_iter().any(is) || is(NODE_A_OTHER) {
            return Some(Home::NodeA);
        }
        if NODE_B.into_iter().any(is) {
            return Some(Home::NodeB);
        }
        let (home, ..) = PARTS.iter().find(|(_, networks, _)| networks.iter().any(|n| holds(n, ip)))?;
        let last = text.rsplit(['.', ':']).next()?;
        Some(home(last.to_owned()))
    }

    /// The addresses of a pod or client.
    fn addresses(&self) -> Vec<IpAddr> {
        let (index, last) = match self {
            Home::NodeA => return NODE_A.into_iter().filter_map(setup::address).collect(),
            Home::NodeB => return NODE_B.into_iter().filter_map(setup::address).collect(),
            Home::PodA(last) => (0, last),
            Home::PodB(last) => (1, last),
            Home::Outside(last) => (2, last),
        };
        let forms = PARTS.get(index).map_or([""; 2], |(_, _, forms)| *forms);
        forms.iter().filter_map(|form| setup::address(&format!("{form}{last}"))).collect()
    }
}

fn holds(network: &str, ip: IpAddr) -> bool {
    network.parse::<Prefix>().is_ok_and(|network| network.contains(ip))
}

/// The lab of one scenario, with the plane in it.
pub(crate) struct Bench {
    /// Keeps the hosts' wire, and the far end of the node's other one.
    _lab: (Lab, Host),
    node: Node,
    hosts: BTreeMap<IpAddr, Host>,
    servers: BTreeMap<(SocketAddr, Protocol), Server>,
    plane: Option<Plane>,
    source_port: AtomicU16,
    has_sctp: bool,
    mode: Mode,
}

impl Bench {
    /// Builds the lab for all flows of a scenario.
    pub(crate) fn new(
        scenario: &Scenario,
        mode: Mode,
        variant: Option<iptables::Variant>,
    ) -> Result<Bench, String> {
        let wanted = Wanted::of(scenario, mode);
        let Built { lab, elsewhere, node, hosts } = build(&wanted).map_err(|e| e.to_string())?;
        let has_sctp = node.has_sctp();
        let mut servers = BTreeMap::new();
        for (socket, protocol) in wanted.sockets {
            if protocol == Protocol::Sctp && !has_sctp {
                continue;
            }
            if let Some(host) = hosts.get(&socket.ip()) {
                let server = serve(host, protocol, socket).map_err(|e| e.to_string())?;
                servers.insert((socket, protocol), server);
            }
        }
        let plane =
            node.run(|| Plane::open(plane_mode(mode), &options(variant))).map_err(|e| e.to_string())?;
        let plane = Some(plane.map_err(|e| e.to_string())?);
        let source_port = AtomicU16::new(FIRST_SOURCE_PORT);
        Ok(Bench { _lab: (lab, elsewhere), node, hosts, servers, plane, source_port, has_sctp, mode })
    }

    /// Brings the plane up to date. What holds for all Services may have changed too.
    pub(crate) fn update(&mut self, rules: &Rules, setup: &Setup, news: &News) -> Vec<String> {
        let Some(plane) = &mut self.plane else { return vec![] };
        let done = self.node.run(|| -> Result<Vec<String>, dataplane::Error> {
            let report = if news.node_changed {
                plane.reconcile(&rules.node, rules.services.values().map(|s| &**s))?
            } else {
                plane.apply(&news.deltas)
            };
            let mut wrong: Vec<String> =
                report.failures.iter().map(|(owner, what)| format!("{owner:?}: {what}")).collect();
            wrong.extend(compare(plane, rules, setup, false)?);
            // What is only leaving is given no time, so that what is gone is seen to be.
            let settled = plane.tick(Instant::now());
            wrong.extend(settled.failures.iter().map(|(_, what)| what.clone()));
            wrong.extend(compare(plane, rules, setup, true)?);
            Ok(wrong)
        });
        match done {
            Ok(Ok(wrong)) => wrong,
            Ok(Err(error)) => vec![error.to_string()],
            Err(error) => vec![error.to_string()],
        }
    }

    /// Takes the plane away; nothing of it must be left.
    pub(crate) fn remove(&mut self) -> Vec<String> {
        let Some(mut plane) = self.plane.take() else { return vec![] };
        let left = self.node.run(|| -> Result<bool, dataplane::Error> {
            plane.remove()?;
            Ok(match plane {
                Plane::Nftables(mut plane) => plane.read()?.iter().any(|(_, image)| image.is_some()),
                Plane::Ipvs(mut plane) => plane.read()?.iter().any(|(_, image)| image.is_some()),
                Plane::Iptables(mut plane) => plane.read()?.iter().any(|(_, image)| image.is_some()),
            })
        });
        match left {
            Ok(Ok(false)) => vec![],
            Ok(Ok(true)) => vec![format!("{NODE} still has tables after they were taken away")],
            Ok(Err(error)) => vec![error.to_string()],
            Err(error) => vec![error.to_string()],
        }
    }

    /// What the plane is.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The host that has an address, if any.
    pub(crate) fn host(&self, ip: IpAddr) -> Option<&Host> {
        self.hosts.get(&ip)
    }

    /// Whether an address is the node under test's own.
    pub(crate) fn is_node(&self, ip: IpAddr) -> bool {
        Home::of(ip) == Some(Home::NodeA)
    }

    /// Whether somebody listens there.
    pub(crate) fn serves(&self, socket: SocketAddr, protocol: Protocol) -> bool {
        self.servers.contains_key(&(socket, protocol))
    }

    /// Whether flows of this protocol can be sent at all.
    pub(crate) fn speaks(&self, protocol: Protocol) -> bool {
        protocol != Protocol::Sctp || self.has_sctp
    }

    /// A source port that no flow has had.
    pub(crate) fn source_port(&self) -> u16 {
        self.source_port.fetch_add(1, Ordering::Relaxed)
    }
}

/// A mode as the planes call it.
fn plane_mode(mode: Mode) -> dataplane::Mode {
    match mode {
        Mode::Nftables => dataplane::Mode::Nftables,
        Mode::Ipvs => dataplane::Mode::Ipvs,
        Mode::Iptables => dataplane::Mode::Iptables,
    }
}

fn options(variant: Option<iptables::Variant>) -> PlaneOptions {
    let ipvs = ipvs::Configuration { drain_limit: Duration::ZERO, ..ipvs::Configuration::default() };
    let iptables = iptables::Configuration { variant, ..iptables::Configuration::default() };
    PlaneOptions { families: Family::ALL.to_vec(), drop_invalid: true, ipvs, iptables }
}

/// Compares what the kernel holds with what it should, when all that is leaving has gone or before.
fn compare(
    plane: &mut Plane,
    rules: &Rules,
    setup: &Setup,
    settled: bool,
) -> Result<Vec<String>, dataplane::Error> {
    Ok(match plane {
        Plane::Nftables(_) | Plane::Iptables(_) if settled => vec![],
        Plane::Nftables(plane) => differences(plane.read()?, rules, setup, settled),
        Plane::Ipvs(plane) => differences(plane.read()?, rules, setup, settled),
        Plane::Iptables(plane) => differences(plane.read()?, rules, setup, settled),
    })
}

fn differences<I: Tables>(
    has: Vec<(Family, Option<I>)>,
    rules: &Rules,
    setup: &Setup,
    settled: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (family, has) in has {
        let wants = I::of(rules, family, setup);
        let has = if settled { has } else { has.map(|has| has.settled(&wants)) };
        match has {
            None => wrong.push(format!("{family}: {NODE} has no tables")),
            Some(has) if has != wants => {
                wrong.push(format!("{family}: {NODE} has\n{has}and should have\n{wants}"))
            }
            Some(_) => {}
        }
    }
    wrong
}

/// What a scenario needs of the lab.
struct Wanted {
    homes: BTreeSet<Home>,
    /// Where somebody listens: at all backends, and at whatever address of ours a flow goes to,
    /// so that whatever is to be refused or balanced would find somebody there.
    sockets: BTreeSet<(SocketAddr, Protocol)>,
}

impl Wanted {
    fn of(scenario: &Scenario, mode: Mode) -> Wanted {
        let mut wanted = Wanted { homes: BTreeSet::new(), sockets: BTreeSet::new() };
        let flows = scenario.steps.iter().flat_map(|step| &step.verdicts).map(|(_, flow)| flow);
        for flow in flows.filter(|f| f.no_packets.is_none() && f.is_for(mode)) {
            let plan::Packet { from, interface: _, to, port, protocol } = flow.packet;
            wanted.homes.extend(Home::of(from));
            let to = SocketAddr::new(to, port);
            for socket in flow.expected.backends.iter().copied().chain([to]) {
                if let Some(home) = Home::of(socket.ip()) {
                    wanted.homes.insert(home);
                    wanted.sockets.insert((socket, protocol));
                }
            }
        }
        wanted
    }
}

/// The hosts, by their addresses.
struct Built {
    lab: Lab,
    elsewhere: Host,
    node: Node,
    hosts: BTreeMap<IpAddr, Host>,
}

fn build(wanted: &Wanted) -> Result<Built, lab::Error> {
    let networks = |texts: [&str; 2]| texts.into_iter().filter_map(network).collect();
    let mut lab = Lab::with(Config { nodes: networks(NODES), pods: networks(PODS), ..Config::default() })?;
    let node_at = |lab: &mut Lab, name: &str, home: Home, part: usize| {
        let pods = PARTS.get(part).map_or([""; 2], |(_, networks, _)| *networks);
        lab.node_at(name, &home.addresses(), &networks(pods))
    };
    let a = node_at(&mut lab, NODE, Home::NodeA, 0)?;
    let b = node_at(&mut lab, "node-b", Home::NodeB, 1)?;
    let elsewhere = Host::new("elsewhere")?;
    lab::cable(&a, "eth1", &elsewhere, "eth0")?;
    if let Some(address) = setup::address(NODE_A_OTHER) {
        a.add_address("eth1", lab::Prefix { address, length: NODE_A_OTHER_LENGTH })?;
    }
    let mut hosts = BTreeMap::new();
    let mut add = |host: &Host, addresses: Vec<IpAddr>| -> Result<(), lab::Error> {
        for (name, value) in SYSCTLS {
            host.set_sysctl(name, value)?;
        }
        hosts.extend(addresses.into_iter().map(|ip| (ip, host.clone())));
        Ok(())
    };
    let others = ["127.0.0.1", "::1", NODE_A_OTHER].into_iter().filter_map(setup::address);
    add(&a, Home::NodeA.addresses().into_iter().chain(others).collect())?;
    add(&b, Home::NodeB.addresses())?;
    let mut on_wire = vec![b.host().clone()];
    for home in &wanted.homes {
        let addresses = home.addresses();
        let host = match home {
            Home::NodeA | Home::NodeB => continue,
            Home::PodA(last) => lab.pod_at(&a, &format!("pod-a-{last}"), &addresses)?,
            Home::PodB(last) => lab.pod_at(&b, &format!("pod-b-{last}"), &addresses)?,
            Home::Outside(last) => {
                let host = lab.outside_at(&format!("client-{last}"), &addresses)?;
                on_wire.push(host.clone());
                host
            }
        };
        add(&host, addresses)?;
    }
    for host in on_wire {
        for services in SERVICES.into_iter().filter_map(network) {
            let via = NODE_A.into_iter().filter_map(setup::address);
            for gateway in via.filter(|ip| ip.is_ipv4() == services.address.is_ipv4()) {
                host.route_via(services, gateway)?;
            }
        }
    }
    Ok(Built { lab, elsewhere, node: a, hosts })
}

fn network(text: &str) -> Option<lab::Prefix> {
    let network: Prefix = text.parse().ok()?;
    Some(lab::Prefix { address: network.network(), length: network.length() })
}

/// Listens there, and answers with that very address for a name.
fn serve(host: &Host, protocol: Protocol, socket: SocketAddr) -> Result<Server, lab::Error> {
    Server::start(host.namespace(), &socket.to_string(), super::flow::wire(protocol), socket)
}
