//! A packet's way through an image: the same look-ups in the same order as the rules make them.
//!
//! What the rules ask of the packet and the node beside the tables (is this address the node's, is
//! the sender a local pod) comes from the same [`NodeRules`] that the rules are made of.

use super::image::{Image, Inside, Jump, Key, Masquerading};
use crate::PoolId;
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
struct Sender {
    pod: bool,
    node: bool,
}

struct Walker<'a> {
    image: &'a Image,
    packet: &'a Packet,
    sender: Sender,
    lookups: u32,
}

impl Walker<'_> {
    fn end(&self, kind: VerdictKind) -> Walk {
        Walk { kind, backends: vec![], masquerade: vec![], affinity_seconds: None, lookups: self.lookups }
    }

    fn frontend(&mut self, key: &Key) -> Walk {
        let Some(front) = self.image.frontends.get(key) else { return self.end(VerdictKind::Pass) };
        let mut jump = front.first;
        if jump == Jump::Sources {
            self.lookups += 1;
            let from = self.packet.from;
            let lengths = self.image.source_lengths();
            let networks = lengths.into_iter().filter_map(|length| Prefix::new(from, length));
            if !networks.into_iter().any(|network| self.image.sources.contains(&(*key, network))) {
                return self.end(VerdictKind::Drop);
            }
            jump = Jump::Inside;
        }
        if jump == Jump::Inside {
            self.lookups += 1;
            jump = front.last;
            if (self.sender.pod || self.sender.node)
                && let Some(Inside { pool, count, affinity_seconds }) = self.image.inside.get(key)
            {
                return self.pick(*pool, *count, *affinity_seconds, front.masquerading);
            }
        }
        match jump {
            Jump::Pick { count, affinity_seconds } => {
                self.pick(front.pool, count, affinity_seconds, front.masquerading)
            }
            Jump::Reject => self.end(VerdictKind::Reject),
            // `last` is never one of the two that lead on, and only the walk through IPVS knows of that.
            Jump::Drop | Jump::Sources | Jump::Inside | Jump::Ipvs => self.end(VerdictKind::Drop),
        }
    }

    fn pick(&mut self, pool: PoolId, count: u32, affinity_seconds: u32, masquerading: Masquerading) -> Walk {
        self.lookups += 2;
        let slots = self.image.pools.get(&pool).map_or(&[][..], Vec::as_slice);
        let backends: Vec<Slot> = slots.iter().take(count as usize).copied().collect();
        if backends.len() != count as usize || backends.is_empty() {
            return self.end(VerdictKind::Drop);
        }
        let masquerade = match masquerading {
            Masquerading::Never => false,
            Masquerading::OffCluster => !self.sender.pod,
            Masquerading::Always => true,
            Masquerading::Node => self.sender.node && !self.sender.pod,
        };
        let hairpin =
            |slot: &Slot| slot.address == self.packet.from && self.image.near.contains(&slot.address);
        Walk {
            masquerade: backends.iter().map(|slot| masquerade || hairpin(slot)).collect(),
            backends,
            affinity_seconds: (affinity_seconds > 0).then_some(affinity_seconds),
            ..self.end(VerdictKind::Dnat)
        }
    }
}
