//! A packet's way through an image: the same look-ups in the same order as the rules and the kernel
//! make them.

use super::image::{Image, Options, ServerKey};
use crate::PoolId;
use crate::nftables::{Inside, Jump, Key, Masquerading, Walk};
use crate::pool::Slot;
use model::Prefix;
use plan::{At, Packet, VerdictKind};

/// Sends a packet through the tables and servers of its family.
///
/// What the node itself sends to an address of Services has that address as its source, so it is
/// masqueraded whatever the plan says: the plan knows nothing of such sources.
pub fn walk(image: &Image, options: &Options, packet: &Packet) -> Walk {
    let node = options.is_node(packet.from) || image.addresses.contains(&packet.from);
    let sender = Sender { pod: options.node.is_local_pod(packet), node };
    let mut walker = Walker { image, packet, sender, lookups: 1 };
    let server = ServerKey { address: packet.to, port: packet.port, protocol: packet.protocol };
    if image.table.frontends.contains_key(&server.key()) {
        return walker.frontend(server);
    }
    walker.lookups += 1;
    if image.table.cluster_ips.contains(&packet.to) {
        return walker.end(VerdictKind::Reject);
    }
    if packet.to.is_loopback() && options.node.serves_node_ports(packet.to) {
        return walker.localhost(options);
    }
    if image.servers.contains_key(&server) {
        // It has only connections left: a NodePort's, for no address but the node's own gets here.
        return walker.balance(server, Masquerading::Never);
    }
    walker.rest(options)
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

    fn rest(&mut self, options: &Options) -> Walk {
        let unknown = options.node.service_cidrs.iter().any(|c| c.contains(self.packet.to));
        self.end(if unknown { VerdictKind::Drop } else { VerdictKind::Pass })
    }

    fn frontend(&mut self, server: ServerKey) -> Walk {
        let key = server.key();
        let Some(front) = self.image.table.frontends.get(&key) else { return self.end(VerdictKind::Pass) };
        let mut jump = front.first;
        if jump == Jump::Sources {
            self.lookups += 1;
            let from = self.packet.from;
            let lengths = self.image.table.source_lengths();
            let mut networks = lengths.into_iter().filter_map(|length| Prefix::new(from, length));
            if !networks.any(|network| self.image.table.sources.contains(&(key, network))) {
                return self.end(VerdictKind::Drop);
            }
            jump = Jump::Inside;
        }
        if jump == Jump::Inside {
            self.lookups += 1;
            jump = front.last;
            if (self.sender.pod || self.sender.node)
                && let Some(inside) = self.image.table.inside.get(&key)
            {
                return self.pick(*inside, front.masquerading);
            }
        }
        match jump {
            Jump::Ipvs => self.balance(server, front.masquerading),
            Jump::Reject => self.end(VerdictKind::Reject),
            // Nothing else is ever last here.
            Jump::Drop | Jump::Sources | Jump::Inside | Jump::Pick { .. } => self.end(VerdictKind::Drop),
        }
    }

    fn localhost(&mut self, options: &Options) -> Walk {
        let key = Key { at: At::NodePort(self.packet.port), protocol: self.packet.protocol };
        self.lookups += 2;
        let Some(front) = self.image.table.frontends.get(&key) else { return self.rest(options) };
        match (self.image.table.inside.get(&key), front.last) {
            (Some(inside), _) => self.pick(*inside, front.masquerading),
            (None, Jump::Reject) => self.end(VerdictKind::Reject),
            (None, _) => self.end(VerdictKind::Drop),
        }
    }

    /// IPVS takes it, if it has anybody to send it to.
    fn balance(&mut self, key: ServerKey, masquerading: Masquerading) -> Walk {
        self.lookups += 1;
        let Some(server) = self.image.servers.get(&key) else { return self.end(VerdictKind::Reject) };
        let backends: Vec<Slot> =
            server.backends.iter().filter(|(_, weight)| **weight > 0).map(|(slot, _)| *slot).collect();
        self.dnat(backends, server.config.affinity_seconds, masquerading)
    }

    /// The table picks one of a pool.
    fn pick(&mut self, inside: Inside, masquerading: Masquerading) -> Walk {
        let Inside { pool, count, affinity_seconds } = inside;
        self.lookups += 2;
        let seconds = (affinity_seconds > 0).then_some(affinity_seconds);
        self.dnat(self.pool(pool, count), seconds, masquerading)
    }

    fn pool(&self, pool: PoolId, count: u32) -> Vec<Slot> {
        let slots = self.image.table.pools.get(&pool).map_or(&[][..], Vec::as_slice);
        slots.iter().take(count as usize).copied().collect()
    }

    fn dnat(&self, backends: Vec<Slot>, affinity_seconds: Option<u32>, masquerading: Masquerading) -> Walk {
        if backends.is_empty() {
            return self.end(VerdictKind::Reject);
        }
        let by_address_of_service = self.sender.node && self.image.addresses.contains(&self.packet.to);
        let masquerade = match masquerading {
            _ if by_address_of_service => true,
            Masquerading::Never => false,
            Masquerading::OffCluster => !self.sender.pod,
            Masquerading::Always => true,
            Masquerading::Node => self.sender.node && !self.sender.pod,
        };
        let near = &self.image.table.near;
        let hairpin = |slot: &Slot| slot.address == self.packet.from && near.contains(&slot.address);
        Walk {
            masquerade: backends.iter().map(|slot| masquerade || hairpin(slot)).collect(),
            backends,
            affinity_seconds,
            ..self.end(VerdictKind::Dnat)
        }
    }
}
