//! A packet's way through an image: the same look-ups in the same order as the rules and the kernel
//! make them.

use super::image::{Image, Options, ServerKey};
use crate::nftables::{self, Inside, Jump, Key, Masquerading, Sender, Turn, Walk};
use crate::pool::Slot;
use plan::{At, Packet, VerdictKind};

/// Sends a packet through the tables and servers of its family.
///
/// What the node itself sends to an address of Services has that address as its source, so it is
/// masqueraded whatever the plan says: the plan knows nothing of such sources.
pub fn walk(image: &Image, options: &Options, packet: &Packet) -> Walk {
    let node = options.is_node(packet.from) || image.addresses.contains(&packet.from);
    let sender = Sender { pod: options.node.is_local_pod(packet), node };
    let table = nftables::Walker { image: &image.table, packet, sender, lookups: 1 };
    let mut walker = Walker { image, table };
    let server = ServerKey { address: packet.to, port: packet.port, protocol: packet.protocol };
    if image.table.frontends.contains_key(&server.key()) {
        return walker.frontend(server);
    }
    walker.table.lookups += 1;
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

/// A packet on its way through the table beside, and the servers.
struct Walker<'a> {
    image: &'a Image,
    table: nftables::Walker<'a>,
}

impl Walker<'_> {
    fn end(&self, kind: VerdictKind) -> Walk {
        self.table.end(kind)
    }

    fn rest(&mut self, options: &Options) -> Walk {
        let unknown = options.node.service_cidrs.iter().any(|c| c.contains(self.table.packet.to));
        self.end(if unknown { VerdictKind::Drop } else { VerdictKind::Pass })
    }

    fn frontend(&mut self, server: ServerKey) -> Walk {
        let key = server.key();
        let Some(front) = self.image.table.frontends.get(&key) else { return self.end(VerdictKind::Pass) };
        match self.table.turn(&key, front) {
            Turn::Inside(inside) => self.pick(inside, front.masquerading),
            Turn::On(Jump::Ipvs) => self.balance(server, front.masquerading),
            Turn::On(Jump::Reject) => self.end(VerdictKind::Reject),
            // Nothing else is ever last here.
            Turn::NotServed | Turn::On(Jump::Drop | Jump::Sources | Jump::Inside | Jump::Pick { .. }) => {
                self.end(VerdictKind::Drop)
            }
        }
    }

    fn localhost(&mut self, options: &Options) -> Walk {
        let key = Key { at: At::NodePort(self.table.packet.port), protocol: self.table.packet.protocol };
        self.table.lookups += 2;
        let Some(front) = self.image.table.frontends.get(&key) else { return self.rest(options) };
        match (self.image.table.inside.get(&key), front.last) {
            (Some(inside), _) => self.pick(*inside, front.masquerading),
            (None, Jump::Reject) => self.end(VerdictKind::Reject),
            (None, _) => self.end(VerdictKind::Drop),
        }
    }

    /// IPVS takes it, if it has anybody to send it to.
    fn balance(&mut self, key: ServerKey, masquerading: Masquerading) -> Walk {
        self.table.lookups += 1;
        let Some(server) = self.image.servers.get(&key) else { return self.end(VerdictKind::Reject) };
        let backends: Vec<Slot> =
            server.backends.iter().filter(|(_, weight)| **weight > 0).map(|(slot, _)| *slot).collect();
        if backends.is_empty() {
            return self.end(VerdictKind::Reject);
        }
        self.table.dnat(backends, server.config.affinity_seconds, self.masquerades(masquerading))
    }

    /// The table picks one of a pool.
    fn pick(&mut self, inside: Inside, masquerading: Masquerading) -> Walk {
        let masquerade = self.masquerades(masquerading);
        self.table.pick(inside, masquerade)
    }

    fn masquerades(&self, masquerading: Masquerading) -> bool {
        let by_address_of_service =
            self.table.sender.node && self.image.addresses.contains(&self.table.packet.to);
        by_address_of_service || self.table.masquerades(masquerading)
    }
}
