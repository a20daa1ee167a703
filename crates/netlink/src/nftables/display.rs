//! Expressions as text, in the notation of `nft --debug=netlink` (libnftnl's), which those who
//! debug a rule know, and which lets tests compare with what `nft` itself printed.

use std::fmt::{Display, Formatter, Result};

use super::expression::*;

impl Display for Register {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "reg {}", self.number())
    }
}

impl Display for Verdict<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Break => f.write_str("break"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump -> {chain}"),
            Verdict::Goto(chain) => write!(f, "goto -> {chain}"),
        }
    }
}

/// Bytes as libnftnl prints them: words in this machine's order.
struct Words<'a>(&'a [u8]);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, chunk) in self.0.chunks(4).enumerate() {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{:#010x}", u32::from_ne_bytes(word))?;
        }
        Ok(())
    }
}

/// Text that is there only when its value is.
struct Maybe<'a, T>(&'a str, Option<T>);

impl<T: Display> Display for Maybe<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.1 {
            Some(value) => write!(f, "{}{value}", self.0),
            None => Ok(()),
        }
    }
}

fn nonzero(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("[ ")?;
        match self {
            Expression::Payload { .. }
            | Expression::PayloadSet { .. }
            | Expression::Meta { .. }
            | Expression::MetaSet { .. }
            | Expression::Ct { .. }
            | Expression::CtSet { .. }
            | Expression::Numgen { .. }
            | Expression::Fib { .. }
            | Expression::Socket { .. } => self.load(f)?,
            Expression::Compare { .. }
            | Expression::Range { .. }
            | Expression::Bitwise { .. }
            | Expression::ByteOrder { .. }
            | Expression::Immediate { .. }
            | Expression::Hash { .. } => self.value(f)?,
            _ => self.rest(f)?,
        }
        f.write_str(" ]")
    }
}

impl Expression {
    fn load(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expression::Payload { into, base, offset, len } => {
                let base = match base {
                    PayloadBase::Link => "link",
                    PayloadBase::Network => "network",
                    PayloadBase::Transport => "transport",
                };
                write!(f, "payload load {len}b @ {base} header + {offset} => {into}")
            }
            Expression::PayloadSet { from, offset, len, .. } => {
                write!(f, "payload write {from} => {len}b @ network header + {offset}")
            }
            Expression::Meta { into, key } => write!(f, "meta load {} => {into}", meta_name(*key)),
            Expression::MetaSet { from, key } => write!(f, "meta set {} with {from}", meta_name(*key)),
            Expression::Ct { into, key, direction } => {
                let direction = direction.map(|direction| match direction {
                    CtDirection::Original => "original",
                    CtDirection::Reply => "reply",
                });
                write!(f, "ct load {} => {into}{}", ct_name(*key), Maybe(" , dir ", direction))
            }
            Expression::CtSet { from, key } => write!(f, "ct set {} with {from}", ct_name(*key)),
            Expression::Numgen { into, kind, modulus, offset } => {
                let kind = match kind {
                    NumgenKind::Incremental => "inc",
                    NumgenKind::Random => "random",
                };
                write!(f, "numgen {into} = {kind} mod {modulus}{}", Maybe(" offset ", nonzero(*offset)))
            }
            Expression::Fib { into, result, flags } => fib(f, *into, *result, *flags),
            Expression::Socket { into, key } => {
                let key = match key {
                    SocketKey::Transparent => "transparent",
                    SocketKey::Mark => "mark",
                    SocketKey::Wildcard => "wildcard",
                };
                write!(f, "socket load {key} => {into}")
            }
            _ => Ok(()),
        }
    }

    fn value(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expression::Compare { from, operator, value } => {
                let operator = match operator {
                    Operator::Equal => "eq",
                    Operator::NotEqual => "neq",
                    Operator::Less => "lt",
                    Operator::LessOrEqual => "lte",
                    Operator::Greater => "gt",
                    Operator::GreaterOrEqual => "gte",
                };
                write!(f, "cmp {operator} {from} {}", Words(value))
            }
            Expression::Range { from, invert, low, high } => {
                let operator = if *invert { "neq" } else { "eq" };
                write!(f, "range {operator} {from} {} {}", Words(low), Words(high))
            }
            Expression::Bitwise { from, into, operation, .. } => match operation {
                Bitwise::MaskXor { mask, xor } => {
                    write!(f, "bitwise {into} = ( {from} & {} ) ^ {}", Words(mask), Words(xor))
                }
                Bitwise::ShiftLeft(bits) => write!(f, "bitwise {into} = ( {from} << {bits:#010x} )"),
                Bitwise::ShiftRight(bits) => write!(f, "bitwise {into} = ( {from} >> {bits:#010x} )"),
            },
            Expression::ByteOrder { from, into, to_network, len, size } => {
                let function = if *to_network { "hton" } else { "ntoh" };
                write!(f, "byteorder {into} = {function}({from}, {size}, {len})")
            }
            Expression::Immediate { into, value } => write!(f, "immediate {into} {}", Words(value)),
            Expression::Hash { from, into, len, modulus, seed, offset } => write!(
                f,
                "hash {into} = jhash({from}, {len}, {:#x}) % mod {modulus}{}",
                seed.unwrap_or(0),
                Maybe(" offset ", nonzero(*offset))
            ),
            _ => Ok(()),
        }
    }

    fn rest(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expression::Verdict(verdict) => write!(f, "immediate reg 0 {verdict}"),
            Expression::Lookup { set, key, into, invert } => {
                let into = into.map(Register::number);
                let invert = if *invert { " 0x1" } else { "" };
                write!(f, "lookup {key} set {}{}{invert}", set.name, Maybe(" dreg ", into))
            }
            Expression::Dynset { operation, set, key, data, timeout, invert } => {
                let operation = match operation {
                    DynsetOperation::Add => "add",
                    DynsetOperation::Update => "update",
                    DynsetOperation::Delete => "delete",
                };
                write!(f, "dynset {operation} reg_key {} set {}", key.number(), set.name)?;
                write!(f, "{}", Maybe(" sreg_data ", data.map(Register::number)))?;
                write!(f, "{}", Maybe(" timeout ", timeout.map(|t| format!("{}ms", t.as_millis()))))?;
                f.write_str(if *invert { " 0x1" } else { "" })
            }
            Expression::Nat { .. } => self.nat(f),
            Expression::Masquerade { flags } => write!(f, "masq{}", Flags(*flags)),
            Expression::Reject(reject) => {
                let (kind, code) = match reject {
                    Reject::Icmp(code) => (0, *code),
                    Reject::TcpReset => (1, 0),
                    Reject::Icmpx(code) => (2, *code),
                };
                write!(f, "reject type {kind} code {code}")
            }
            Expression::Counter { packets, bytes } => write!(f, "counter pkts {packets} bytes {bytes}"),
            Expression::Log { group, prefix, snaplen } => {
                let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
                write!(f, "log{} group {group} snaplen {snaplen} qthreshold 0", Maybe(" prefix ", prefix))
            }
            Expression::Limit { rate, per_s, burst, invert } => {
                let unit = match per_s {
                    1 => "second",
                    60 => "minute",
                    3_600 => "hour",
                    86_400 => "day",
                    604_800 => "week",
                    _ => "?",
                };
                let flags = u8::from(*invert);
                write!(f, "limit rate {rate}/{unit} burst {burst} type packets flags {flags:#x}")
            }
            Expression::NoTrack => f.write_str("notrack"),
            Expression::Unknown { name, .. } => write!(f, "{name} ?"),
            _ => Ok(()),
        }
    }

    fn nat(&self, f: &mut Formatter<'_>) -> Result {
        let Expression::Nat { kind, family, address, address_max, port, port_max, flags } = self else {
            return Ok(());
        };
        let kind = match kind {
            NatKind::Source => "snat",
            NatKind::Destination => "dnat",
        };
        write!(f, "nat {kind} {family}")?;
        write!(f, "{}{}", Maybe(" addr_min ", *address), Maybe(" addr_max ", *address_max))?;
        write!(f, "{}{}{}", Maybe(" proto_min ", *port), Maybe(" proto_max ", *port_max), Flags(*flags))
    }
}

struct Flags(u32);

impl Display for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            0 => Ok(()),
            flags => write!(f, " flags {flags:#x}"),
        }
    }
}

fn fib(f: &mut Formatter<'_>, into: Register, result: FibResult, flags: u32) -> Result {
    let names =
        [(FIB_SADDR, "saddr"), (FIB_DADDR, "daddr"), (FIB_MARK, "mark"), (FIB_IIF, "iif"), (FIB_OIF, "oif")];
    let set: Vec<&str> = names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    let result = match result {
        FibResult::Oif => "oif",
        FibResult::OifName => "oifname",
        FibResult::AddrType => "type",
    };
    let present = if flags & FIB_PRESENT != 0 { " present" } else { "" };
    write!(f, "fib {} {result}{present} => {into}", set.join(" . "))
}

fn meta_name(key: MetaKey) -> &'static str {
    match key {
        MetaKey::Mark => "mark",
        MetaKey::Iif => "iif",
        MetaKey::Oif => "oif",
        MetaKey::IifName => "iifname",
        MetaKey::OifName => "oifname",
        MetaKey::SkUid => "skuid",
        MetaKey::Nftrace => "nftrace",
        MetaKey::NfProto => "nfproto",
        MetaKey::L4Proto => "l4proto",
        MetaKey::PktType => "pkttype",
        MetaKey::Cpu => "cpu",
    }
}

fn ct_name(key: CtKey) -> &'static str {
    match key {
        CtKey::State => "state",
        CtKey::Direction => "direction",
        CtKey::Status => "status",
        CtKey::Mark => "mark",
        CtKey::Expiration => "expiration",
        CtKey::L3Protocol => "l3protocol",
        CtKey::Src => "src",
        CtKey::Dst => "dst",
        CtKey::Protocol => "protocol",
        CtKey::ProtoSrc => "proto_src",
        CtKey::ProtoDst => "proto_dst",
        CtKey::Zone => "zone",
        CtKey::SrcIp => "src_ip",
        CtKey::DstIp => "dst_ip",
        CtKey::SrcIp6 => "src_ip6",
        CtKey::DstIp6 => "dst_ip6",
        CtKey::Id => "id",
    }
}
