//! What the plan does with one packet: the reference answer for every data plane.

use crate::{At, Backend, Frontend, FrontendKind, Masquerade, PoolKind, PortRules, Rules, Target};
use model::{Family, PortName, Protocol};
use std::net::IpAddr;

/// The first packet of a connection, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub from: IpAddr,
    /// The interface it comes in through, where the question says so.
    pub interface: Option<String>,
    /// Where it is sent.
    pub to: IpAddr,
    /// The port it is sent to.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// It goes to one of the backends.
    Dnat,
    /// It is refused, so that the sender knows at once.
    Reject,
    /// It is dropped.
    Drop,
    /// It is none of our business.
    Pass,
}

impl VerdictKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            VerdictKind::Dnat => "dnat",
            VerdictKind::Reject => "reject",
            VerdictKind::Drop => "drop",
            VerdictKind::Pass => "pass",
        }
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub kind: VerdictKind,
    /// The port of the Service that it is for.
    pub service: Option<PortName>,
    /// How it found it.
    pub frontend: Option<FrontendKind>,
    /// Where it may go.
    pub backends: Vec<Backend>,
    /// It leaves with the node's address as its source; where only some backends would have it
    /// masqueraded, because they are the sender itself, still true.
    pub masquerade: bool,
    /// The sender stays with its backend for so long.
    pub affinity_seconds: Option<u32>,
}

impl Verdict {
    /// A verdict on a packet that is for no Service.
    fn plain(kind: VerdictKind) -> Verdict {
        Verdict {
            kind,
            service: None,
            frontend: None,
            backends: Vec::new(),
            masquerade: false,
            affinity_seconds: None,
        }
    }
}

/// Asks the plan about one packet. `node_addresses` are the addresses on the node's interfaces;
/// loopback counts always.
pub fn trace(rules: &Rules, node_addresses: &[IpAddr], packet: &Packet) -> Verdict {
    let is_node = |ip: IpAddr| ip.is_loopback() || node_addresses.contains(&ip);
    let found = find(rules, packet, is_node(packet.to));
    let Some((port, frontend)) = found else { return no_service(rules, packet, is_node(packet.to)) };
    let verdict = |kind| Verdict {
        service: Some(port.name.clone()),
        frontend: Some(frontend.kind),
        ..Verdict::plain(kind)
    };
    if let Some(sources) = &frontend.sources
        && !sources.iter().any(|s| s.contains(packet.from))
    {
        return verdict(VerdictKind::Drop);
    }
    let from_pod = rules.node.is_local_pod(packet);
    let from_node = is_node(packet.from);
    let (target, masquerade) = if frontend.short_circuit && (from_pod || from_node) {
        (Target::Balance(PoolKind::Cluster), !from_pod)
    } else {
        let masquerade = match frontend.masquerade {
            Masquerade::Never => false,
            Masquerade::OffCluster => !from_pod,
            Masquerade::Always => true,
        };
        (frontend.outside, masquerade)
    };
    let pool = match target {
        Target::Reject => return verdict(VerdictKind::Reject),
        Target::Drop => return verdict(VerdictKind::Drop),
        Target::Balance(kind) => port.pool(kind),
    };
    Verdict {
        backends: pool.to_vec(),
        masquerade: masquerade || pool.iter().any(|b| b.address == packet.from),
        affinity_seconds: port.affinity_seconds,
        ..verdict(VerdictKind::Dnat)
    }
}

fn find<'a>(rules: &'a Rules, packet: &Packet, to_node: bool) -> Option<(&'a PortRules, &'a Frontend)> {
    let family = Family::of(packet.to);
    let ports = || {
        let ports = rules.services.values().flat_map(|s| &s.ports);
        ports.filter(|p| p.family == family && p.protocol() == packet.protocol)
    };
    let at = |at: At| ports().find_map(|p| p.frontends.iter().find(|f| f.at == at).map(|f| (p, f)));
    at(At::Address(packet.to, packet.port)).or_else(|| {
        let served = to_node && rules.node.serves_node_ports(packet.to);
        served.then(|| at(At::NodePort(packet.port))).flatten()
    })
}

/// Addresses of ours that are no frontend: ports of a ClusterIP that are no Service's are refused,
/// and addresses that Services could have but none has lead nowhere. Where other addresses of
/// Services are the node's own for their sake, the same holds for those.
fn no_service(rules: &Rules, packet: &Packet, to_node: bool) -> Verdict {
    let mut frontends = rules.services.values().flat_map(|s| &s.ports).flat_map(|p| &p.frontends);
    let ours = |kind| kind == FrontendKind::ClusterIp || rules.node.owns_addresses && !to_node;
    let is_ours = frontends.any(|f| ours(f.kind) && matches!(f.at, At::Address(ip, _) if ip == packet.to));
    if is_ours {
        Verdict::plain(VerdictKind::Reject)
    } else if rules.node.service_cidrs.iter().any(|c| c.contains(packet.to)) {
        Verdict::plain(VerdictKind::Drop)
    } else {
        Verdict::plain(VerdictKind::Pass)
    }
}
