//! A packet's way through an image: the same look-ups in the same order as the rules make them.
//!
//! What the rules ask of the packet and the node beside the tables (is this address the node's, is
//! the sender a local pod) comes from the same [`NodeRules`] that the rules are made of.

use super::image::{Front, Image, Inside, Jump, Key, Masquerading};
use crate::pool::Slot;
use model::Prefix;
use plan::{At, NodeRules, Packet, VerdictKind};
use std::net::IpAddr;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What becomes of it.
    pub kind: VerdictKind,
    /// Where it may go.
    pub backends: Vec<Slot>,
    /// Whether it is masqueraded on the way to each of the backends.
    pub masquerade: Vec<bool>,
    /// The sender stays with its backend for so long.
    pub affinity_seconds: Option<u32>,
    /// How many hash tables were asked: the same whatever the number of Services.
    pub lookups: u32,
}

/// Sends a packet through the tables of its family.
pub fn walk(image: &Image, node: &NodeRules, node_addresses: &[IpAddr], packet: &Packet) -> Walk {
    let is_node = |ip: IpAddr| ip.is_loopback() || node_addresses.contains(&ip);
    let sender = Sender { pod: node.is_local_pod(packet), node: is_node(packet.from) };
    let mut walker = Walker { image, packet, sender, lookups: 0 };
    let address = Key { at: At::Address(packet.to, packet.port), protocol: packet.protocol };
    let node_port = Key { at: At::NodePort(packet.port), protocol: packet.protocol };
    walker.lookups += 1;
    if image.frontends.contains_key(&address) {
        return walker.frontend(&address);
    }
    walker.lookups += 1;
    if image.frontends.contains_key(&node_port) && is_node(packet.to) && node.serves_node_ports(packet.to) {
        return walker.frontend(&node_port);
    }
    walker.lookups += 1;
    if image.cluster_ips.contains(&packet.to) {
        return walker.end(VerdictKind::Reject);
    }
    walker.lookups += 1;
    if node.service_cidrs.iter().any(|c| c.contains(packet.to)) {
        return walker.end(VerdictKind::Drop);
    }
    walker.end(VerdictKind::Pass)
}

/// Who sends the packet, as the rules tell.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) pod: bool,
    pub(crate) node: bool,
}

/// A packet on its way through the tables. Those beside IPVS are made of the same rules, so the walk
/// through IPVS is made of this one.
pub(crate) struct Walker<'a> {
    pub(crate) image: &'a Image,
    pub(crate) packet: &'a Packet,
    pub(crate) sender: Sender,
    pub(crate) lookups: u32,
}

/// Where a frontend's checks lead.
pub(crate) enum Turn {
    /// Nowhere: clients from there are not served.
    NotServed,
    /// By the short circuit of local clients.
    Inside(Inside),
    /// On.
    On(Jump),
}

impl Walker<'_> {
    pub(crate) fn end(&self, kind: VerdictKind) -> Walk {
        Walk { kind, backends: vec![], masquerade: vec![], affinity_seconds: None, lookups: self.lookups }
    }

    /// Through the checks of a frontend: source networks, and who is local.
    pub(crate) fn turn(&mut self, key: &Key, front: &Front) -> Turn {
        let mut jump = front.first;
        if jump == Jump::Sources {
            self.lookups += 1;
            let from = self.packet.from;
            let lengths = self.image.source_lengths();
            let mut networks = lengths.into_iter().filter_map(|length| Prefix::new(from, length));
            if !networks.any(|network| self.image.sources.contains(&(*key, network))) {
                return Turn::NotServed;
            }
            jump = Jump::Inside;
        }
        if jump == Jump::Inside {
            self.lookups += 1;
            jump = front.last;
            if (self.sender.pod || self.sender.node)
                && let Some(inside) = self.image.inside.get(key)
            {
                return Turn::Inside(*inside);
            }
        }
        Turn::On(jump)
    }

    fn frontend(&mut self, key: &Key) -> Walk {
        let Some(front) = self.image.frontends.get(key) else { return self.end(VerdictKind::Pass) };
        let masquerade = self.masquerades(front.masquerading);
        match self.turn(key, front) {
            Turn::Inside(inside) => self.pick(inside, masquerade),
            Turn::On(Jump::Pick { count, affinity_seconds }) => {
                self.pick(Inside { pool: front.pool, count, affinity_seconds }, masquerade)
            }
            Turn::On(Jump::Reject) => self.end(VerdictKind::Reject),
            // `last` is never one of the two that lead on, and only the walk through IPVS knows of that.
            Turn::NotServed | Turn::On(Jump::Drop | Jump::Sources | Jump::Inside | Jump::Ipvs) => {
                self.end(VerdictKind::Drop)
            }
        }
    }

    /// Whether the packet is masqueraded, whichever backend it goes to.
    pub(crate) fn masquerades(&self, masquerading: Masquerading) -> bool {
        match masquerading {
            Masquerading::Never => false,
            Masquerading::OffCluster => !self.sender.pod,
            Masquerading::Always => true,
            Masquerading::Node => self.sender.node && !self.sender.pod,
        }
    }

    /// To one of a pool.
    pub(crate) fn pick(&mut self, inside: Inside, masquerade: bool) -> Walk {
        let Inside { pool, count, affinity_seconds } = inside;
        self.lookups += 2;
        let slots = self.image.pools.get(&pool).map_or(&[][..], Vec::as_slice);
        let backends: Vec<Slot> = slots.iter().take(count as usize).copied().collect();
        if backends.len() != count as usize || backends.is_empty() {
            return self.end(VerdictKind::Drop);
        }
        self.dnat(backends, (affinity_seconds > 0).then_some(affinity_seconds), masquerade)
    }

    /// To one of these backends; who comes back to itself is masqueraded in any case.
    pub(crate) fn dnat(&self, backends: Vec<Slot>, affinity_seconds: Option<u32>, masquerade: bool) -> Walk {
        let hairpin =
            |slot: &Slot| slot.address == self.packet.from && self.image.near.contains(&slot.address);
        Walk {
            masquerade: backends.iter().map(|slot| masquerade || hairpin(slot)).collect(),
            backends,
            affinity_seconds,
            ..self.end(VerdictKind::Dnat)
        }
    }
}
