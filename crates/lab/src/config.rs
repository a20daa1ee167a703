//! Which addresses the lab gives out, and the arithmetic for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::route::Prefix;

use crate::host::has_ipv6;

/// Added to the length of an IPv4 pod network for the part each node gets: a /16 makes /24s.
const NODE_BITS_V4: u8 = 8;
/// The length of the part of an IPv4 far network each far client gets.
const FAR_LENGTH_V4: u8 = 28;
/// The length of the parts of IPv6 networks.
const PART_LENGTH_V6: u8 = 64;

/// The networks of a lab: one of each family, or of one family only. They exist inside the lab's
/// namespaces alone, so they may be any.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where nodes have their addresses, and outside clients that are next to them.
    pub nodes: Vec<Prefix>,
    /// Where pods have theirs: node number n gets the n-th /24 or /64 of it.
    pub pods: Vec<Prefix>,
    /// Where clients have theirs that are several hops away: each gets a /28 or /64 of it.
    pub far: Vec<Prefix>,
}

impl Default for Config {
    /// Nodes in 192.168.77.0/24 and fd00:77::/64, pods in 10.244.0.0/16 and fd00:10:244::/48, far
    /// clients in 203.0.113.0/24 and 2001:db8:113::/48. IPv4 only where the kernel has no IPv6.
    fn default() -> Config {
        let mut config = Config {
            nodes: vec![v4([192, 168, 77, 0], 24)],
            pods: vec![v4([10, 244, 0, 0], 16)],
            far: vec![v4([203, 0, 113, 0], 24)],
        };
        if has_ipv6() {
            config.nodes.push(v6([0xfd00, 0x77, 0, 0, 0, 0, 0, 0], 64));
            config.pods.push(v6([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 48));
            config.far.push(v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0], 48));
        }
        config
    }
}

impl Config {
    /// The networks of one family only.
    #[must_use]
    pub fn only(mut self, family: Family) -> Config {
        let keep = |prefix: &Prefix| prefix.address.is_ipv4() == (family == Family::V4);
        for networks in [&mut self.nodes, &mut self.pods, &mut self.far] {
            networks.retain(keep);
        }
        self
    }

    /// The part of the pod networks that belongs to node number `number`.
    pub(crate) fn pods_of(&self, number: u32) -> Vec<Prefix> {
        let length = |network: &Prefix| network.length.saturating_add(NODE_BITS_V4);
        self.pods.iter().map(|network| subnet(*network, length(network), number)).collect()
    }

    /// The part of the far networks that belongs to far client number `number`.
    pub(crate) fn far_of(&self, number: u32) -> Vec<Prefix> {
        self.far.iter().map(|network| subnet(*network, FAR_LENGTH_V4, number)).collect()
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

fn v4(address: [u8; 4], length: u8) -> Prefix {
    Prefix { address: IpAddr::from(address), length }
}

fn v6(address: [u16; 8], length: u8) -> Prefix {
    Prefix { address: IpAddr::from(address), length }
}

/// The address `number` after the network's own, with the network's length. A number too large
/// for the network runs over into the next, as the kernel will say soon enough.
pub(crate) fn nth(network: Prefix, number: u32) -> Prefix {
    let address = match network.address {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(number))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(number.into()))),
    };
    Prefix { address, length: network.length }
}

/// The last address of an IPv4 network but one; for IPv6 the same number, which is as good.
pub(crate) fn gateway(network: Prefix) -> Prefix {
    let hosts = 32_u8.saturating_sub(network.length).clamp(2, 8);
    nth(network, if network.address.is_ipv4() { (1 << hosts) - 2 } else { 0xfe })
}

/// The part of this number of a network cut in parts of `length_v4`, or /64.
fn subnet(network: Prefix, length_v4: u8, number: u32) -> Prefix {
    match network.address {
        IpAddr::V4(base) => {
            let length = length_v4.clamp(network.length, 30);
            let address = base.to_bits().wrapping_add(number << (32 - length));
            Prefix { address: IpAddr::V4(Ipv4Addr::from_bits(address)), length }
        }
        IpAddr::V6(base) => {
            let length = PART_LENGTH_V6.max(network.length);
            let step = u128::from(number).wrapping_shl(u32::from(128 - length));
            Prefix { address: IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(step))), length }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_cut_as_documented() {
        let texts =
            |prefixes: Vec<Prefix>| -> Vec<String> { prefixes.iter().map(ToString::to_string).collect() };
        let config = Config::default();
        assert_eq!(texts(config.pods_of(2)), ["10.244.2.0/24", "fd00:10:244:2::/64"]);
        assert_eq!(texts(config.far_of(1)), ["203.0.113.16/28", "2001:db8:113:1::/64"]);
        assert_eq!(nth(config.nodes[0], 2).to_string(), "192.168.77.2/24");
        assert_eq!(nth(config.nodes[1], 2).to_string(), "fd00:77::2/64");
        assert_eq!(gateway(config.nodes[0]).to_string(), "192.168.77.254/24");
        assert_eq!(texts(config.only(Family::V6).pods), ["fd00:10:244::/48"]);
    }
}
