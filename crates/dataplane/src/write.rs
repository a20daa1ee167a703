//! Writing rules: the handful of things that ours ask of a packet, as expressions.

use crate::program::Rule;
use model::{Family, Prefix, Protocol};
use netlink::nftables::{
    Bitwise, CtDirection, CtKey, Expression, FIB_DADDR, FIB_SADDR, FibResult, MetaKey, NAT_RANDOM_FULLY,
    NatKind, Operator, PayloadBase, Register, Reject, Verdict,
};
use std::net::IpAddr;

/// `RTN_LOCAL`: the kind of route that leads to this host.
const RTN_LOCAL: u32 = 2;
/// `IPS_DST_NAT`: the connection's destination is translated.
const IPS_DST_NAT: u32 = 1 << 5;
/// The state of packets that belong to no connection and begin none (`NF_CT_STATE_INVALID_BIT`).
const STATE_INVALID: u32 = 1;
/// ICMP's "port unreachable".
const ICMP_PORT_UNREACHABLE: u8 = 3;
const ICMPV6_PORT_UNREACHABLE: u8 = 4;
/// ICMP's own number among the protocols.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The loopback interface, with the NUL that ends its name.
const LOOPBACK_INTERFACE: &[u8] = b"lo\0";
/// `IFNAMSIZ`, the length of the kernel's interface names.
const INTERFACE_NAME_LEN: usize = 16;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A rule in the making.
#[derive(Clone, Debug)]
pub(crate) struct RuleWriter {
    family: Family,
    expressions: Vec<Expression>,
}

/// A rule for packets of one family.
pub(crate) fn rule(family: Family) -> RuleWriter {
    RuleWriter { family, expressions: Vec::new() }
}

/// How many bytes an address has.
pub(crate) fn address_len(family: Family) -> usize {
    usize::from(family.bits() / 8)
}

impl RuleWriter {
    fn with(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }

    /// Ends the rule with what it is about.
    pub(crate) fn end(self, comment: impl Into<String>) -> Rule {
        Rule { comment: comment.into(), expressions: self.expressions }
    }

    /// Loads an address of the packet.
    pub(crate) fn address(self, end: End, into: Register) -> Self {
        let (source, len) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        let offset = if end == End::Source { source } else { source + len };
        self.with(Expression::Payload { into, base: PayloadBase::Network, offset, len })
    }

    /// Loads the packet's protocol.
    pub(crate) fn protocol(self, into: Register) -> Self {
        self.with(Expression::Meta { into, key: MetaKey::L4Proto })
    }

    /// Loads the packet's destination port, at the same place in TCP, UDP and SCTP.
    pub(crate) fn port(self, into: Register) -> Self {
        self.with(Expression::Payload { into, base: PayloadBase::Transport, offset: 2, len: 2 })
    }

    /// Loads where the connection's first packet was sent to, whatever became of it.
    pub(crate) fn original_destination(self, into: Register) -> Self {
        let key = match self.family {
            Family::V4 => CtKey::DstIp,
            Family::V6 => CtKey::DstIp6,
        };
        self.with(Expression::Ct { into, key, direction: Some(CtDirection::Original) })
    }

    /// Loads the port that the connection's first packet was sent to.
    pub(crate) fn original_port(self, into: Register) -> Self {
        self.with(Expression::Ct { into, key: CtKey::ProtoDst, direction: Some(CtDirection::Original) })
    }

    /// Goes on if the value of this key is in a set.
    pub(crate) fn if_in(self, set: &str, key: Register) -> Self {
        self.with(Expression::Lookup { set: set.into(), key, into: None, invert: false })
    }

    /// Loads what a map has for this key; goes on if it has something.
    pub(crate) fn lookup(self, map: &str, key: Register, into: Register) -> Self {
        self.with(Expression::Lookup { set: map.into(), key, into: Some(into), invert: false })
    }

    /// Does what a map of verdicts has for this key; goes on if it has none.
    pub(crate) fn dispatch(self, map: &str, key: Register) -> Self {
        self.lookup(map, key, Register::VERDICT)
    }

    /// Goes on if the value is (or is not) this.
    pub(crate) fn compare(self, from: Register, operator: Operator, value: &[u8]) -> Self {
        self.with(Expression::Compare { from, operator, value: value.to_vec() })
    }

    /// Clears the bits that are not in the mask.
    pub(crate) fn mask(self, from: Register, mask: Vec<u8>) -> Self {
        let len = mask.len() as u32;
        let operation = Bitwise::MaskXor { xor: vec![0; mask.len()], mask };
        self.with(Expression::Bitwise { from, into: from, len, operation })
    }

    /// Goes on if this address of the packet is in a network. `scratch` has room for an address.
    pub(crate) fn if_within(self, end: End, network: Prefix, scratch: Register) -> Self {
        if network.length() == 0 {
            return self;
        }
        let loaded = self.address(end, scratch);
        let masked = if network.length() == network.family().bits() {
            loaded
        } else {
            loaded.mask(scratch, octets(network.netmask()))
        };
        masked.compare(scratch, Operator::Equal, &octets(network.network()))
    }

    /// Goes on if this address of the packet is one of the host's.
    pub(crate) fn if_host(self, end: End, scratch: Register) -> Self {
        let flags = match end {
            End::Source => FIB_SADDR,
            End::Destination => FIB_DADDR,
        };
        self.with(Expression::Fib { into: scratch, result: FibResult::AddrType, flags }).compare(
            scratch,
            Operator::Equal,
            &RTN_LOCAL.to_ne_bytes(),
        )
    }

    /// Goes on if the packet came in through this interface.
    pub(crate) fn if_interface(self, name: &str, scratch: Register) -> Self {
        let mut value = name.as_bytes().to_vec();
        value.resize(INTERFACE_NAME_LEN, 0);
        self.with(Expression::Meta { into: scratch, key: MetaKey::IifName }).compare(
            scratch,
            Operator::Equal,
            &value,
        )
    }

    /// Goes on if the packet came in through an interface whose name begins so.
    pub(crate) fn if_interface_prefix(self, prefix: &str, scratch: Register) -> Self {
        self.with(Expression::Meta { into: scratch, key: MetaKey::IifName }).compare(
            scratch,
            Operator::Equal,
            prefix.as_bytes(),
        )
    }

    /// Goes on if the packet came in through anything but loopback.
    pub(crate) fn if_not_loopback(self, scratch: Register) -> Self {
        self.with(Expression::Meta { into: scratch, key: MetaKey::IifName }).compare(
            scratch,
            Operator::NotEqual,
            LOOPBACK_INTERFACE,
        )
    }

    /// Goes on if the connection's destination is (or is not) translated.
    pub(crate) fn if_translated(self, yes: bool, scratch: Register) -> Self {
        let operator = if yes { Operator::NotEqual } else { Operator::Equal };
        self.with(Expression::Ct { into: scratch, key: CtKey::Status, direction: None })
            .mask(scratch, IPS_DST_NAT.to_ne_bytes().to_vec())
            .compare(scratch, operator, &[0; 4])
    }

    /// Goes on if the packet belongs to no connection and begins none.
    pub(crate) fn if_invalid(self, scratch: Register) -> Self {
        self.with(Expression::Ct { into: scratch, key: CtKey::State, direction: None })
            .mask(scratch, STATE_INVALID.to_ne_bytes().to_vec())
            .compare(scratch, Operator::NotEqual, &[0; 4])
    }

    /// Goes on if the packet's protocol is this.
    pub(crate) fn if_protocol(self, protocol: Protocol, scratch: Register) -> Self {
        self.protocol(scratch).compare(scratch, Operator::Equal, &[protocol.number()])
    }

    /// Goes on if the packet is not an answer.
    pub(crate) fn if_no_answer(self, scratch: Register) -> Self {
        self.with(Expression::Ct { into: scratch, key: CtKey::Direction, direction: None }).compare(
            scratch,
            Operator::Equal,
            &[CtDirection::Original as u8],
        )
    }

    /// Goes on if the packet is ICMP of the rule's family.
    pub(crate) fn if_icmp(self, scratch: Register) -> Self {
        let number = match self.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        self.protocol(scratch).compare(scratch, Operator::Equal, &[number])
    }

    /// Lets the packet pass this hook.
    pub(crate) fn accept(self) -> Self {
        self.with(Expression::Verdict(Verdict::Accept))
    }

    /// What has been written so far.
    pub(crate) fn expressions(self) -> Vec<Expression> {
        self.expressions
    }

    /// Any expression.
    pub(crate) fn and(self, expression: Expression) -> Self {
        self.with(expression)
    }

    /// Loads a number.
    pub(crate) fn number(self, value: u32, into: Register) -> Self {
        self.with(Expression::Immediate { into, value: value.to_ne_bytes().to_vec() })
    }

    /// Goes to another chain for good.
    pub(crate) fn goto(self, chain: &str) -> Self {
        self.with(Expression::Verdict(Verdict::Goto(chain.to_owned().into())))
    }

    /// Goes to another chain and comes back if it decides nothing.
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.with(Expression::Verdict(Verdict::Jump(chain.to_owned().into())))
    }

    /// Ends the chain.
    pub(crate) fn back(self) -> Self {
        self.with(Expression::Verdict(Verdict::Return))
    }

    /// Drops the packet.
    pub(crate) fn drop(self) -> Self {
        self.with(Expression::Verdict(Verdict::Drop))
    }

    /// Resets the TCP connection.
    pub(crate) fn reset(self) -> Self {
        self.with(Expression::Reject(Reject::TcpReset))
    }

    /// Says that nobody listens at this port.
    pub(crate) fn unreachable(self) -> Self {
        let code = match self.family {
            Family::V4 => ICMP_PORT_UNREACHABLE,
            Family::V6 => ICMPV6_PORT_UNREACHABLE,
        };
        self.with(Expression::Reject(Reject::Icmp(code)))
    }

    /// Sends the connection to the address and port at these registers.
    pub(crate) fn translate(self, address: Register, port: Register) -> Self {
        let family = crate::program::nft_family(self.family);
        self.with(Expression::Nat {
            kind: NatKind::Destination,
            family,
            address: Some(address),
            address_max: None,
            port: Some(port),
            port_max: None,
            flags: 0,
        })
    }

    /// Lets the connection leave with the host's address as its source.
    pub(crate) fn masquerade(self) -> Self {
        self.with(Expression::Masquerade { flags: NAT_RANDOM_FULLY })
    }
}

/// An address as it is on the wire.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
