//! What is written is read, for any value there is; and no bytes whatever make a reader panic.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::LazyJust;

use crate::attribute::{NLA_F_NESTED, attributes};
use crate::conntrack::{Detail, Tuple};
use crate::ip::IpVersion;
use crate::ipvs::{self, Service, ServiceKey};
use crate::message::{Messages, NLM_F_REQUEST, messages};
use crate::nftables::*;
use crate::{Netfilter, fuzz_parse};

const T: Table<'_> = Table { family: Family::Inet, name: "portolan" };

fn name() -> impl Strategy<Value = String> {
    "[a-z_][a-z0-9_]{0,40}"
}

fn register() -> impl Strategy<Value = Register> {
    (0..Register::COUNT).prop_map(Register::new)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=64)
}

fn verdict() -> impl Strategy<Value = Verdict<'static>> {
    prop_oneof![
        select(vec![Verdict::Accept, Verdict::Drop, Verdict::Continue, Verdict::Break, Verdict::Return]),
        name().prop_map(|chain| Verdict::Jump(Cow::Owned(chain))),
        name().prop_map(|chain| Verdict::Goto(Cow::Owned(chain))),
    ]
}

fn set_ref() -> impl Strategy<Value = SetRef> {
    (name(), 0..4u32).prop_map(|(name, id)| SetRef { name, id })
}

fn milliseconds() -> impl Strategy<Value = Duration> {
    (1..=u64::MAX).prop_map(Duration::from_millis)
}

fn loads() -> impl Strategy<Value = Expression> {
    let ct = (register(), select(CtKey::ALL), of(select(CtDirection::ALL)));
    prop_oneof![
        (register(), select(PayloadBase::ALL), any::<u32>(), any::<u32>())
            .prop_map(|(into, base, offset, len)| Expression::Payload { into, base, offset, len }),
        (register(), any::<u32>(), any::<u32>(), of(any::<u32>()))
            .prop_map(|(from, offset, len, checksum)| Expression::PayloadSet { from, offset, len, checksum }),
        (register(), select(MetaKey::ALL)).prop_map(|(into, key)| Expression::Meta { into, key }),
        (register(), select(MetaKey::ALL)).prop_map(|(from, key)| Expression::MetaSet { from, key }),
        ct.prop_map(|(into, key, direction)| Expression::Ct { into, key, direction }),
        (register(), select(CtKey::ALL)).prop_map(|(from, key)| Expression::CtSet { from, key }),
        (register(), select(NumgenKind::ALL), any::<u32>(), any::<u32>())
            .prop_map(|(into, kind, modulus, offset)| Expression::Numgen { into, kind, modulus, offset }),
        (register(), select(FibResult::ALL), any::<u32>())
            .prop_map(|(into, result, flags)| Expression::Fib { into, result, flags }),
        (register(), select(SocketKey::ALL)).prop_map(|(into, key)| Expression::Socket { into, key }),
    ]
}

fn bitwise() -> impl Strategy<Value = Bitwise> {
    prop_oneof![
        (value(), value()).prop_map(|(mask, xor)| Bitwise::MaskXor { mask, xor }),
        any::<u32>().prop_map(Bitwise::ShiftLeft),
        any::<u32>().prop_map(Bitwise::ShiftRight),
    ]
}

fn values() -> impl Strategy<Value = Expression> {
    let hash = (register(), register(), any::<[u32; 3]>(), of(any::<u32>()));
    let order = (register(), register(), any::<bool>(), any::<u32>(), any::<u32>());
    prop_oneof![
        (register(), select(Operator::ALL), value())
            .prop_map(|(from, operator, value)| Expression::Compare { from, operator, value }),
        (register(), any::<bool>(), value(), value())
            .prop_map(|(from, invert, low, high)| Expression::Range { from, invert, low, high }),
        (register(), register(), any::<u32>(), bitwise())
            .prop_map(|(from, into, len, operation)| Expression::Bitwise { from, into, len, operation }),
        order.prop_map(|(from, into, to_network, len, size)| Expression::ByteOrder {
            from,
            into,
            to_network,
            len,
            size
        }),
        (register(), value()).prop_map(|(into, value)| Expression::Immediate { into, value }),
        hash.prop_map(|(from, into, [len, modulus, offset], seed)| Expression::Hash {
            from,
            into,
            len,
            modulus,
            seed,
            offset
        }),
    ]
}

fn in_sets() -> impl Strategy<Value = Expression> {
    let into = of(prop_oneof![register(), Just(Register::VERDICT)]);
    let data = (of(register()), of(milliseconds()), any::<bool>());
    prop_oneof![
        (set_ref(), register(), into, any::<bool>())
            .prop_map(|(set, key, into, invert)| Expression::Lookup { set, key, into, invert }),
        (select(DynsetOperation::ALL), set_ref(), register(), data).prop_map(
            |(operation, set, key, (data, timeout, invert))| Expression::Dynset {
                operation,
                set,
                key,
                data,
                timeout,
                invert
            }
        ),
    ]
}

fn nat() -> impl Strategy<Value = Expression> {
    let family = select(vec![Family::Ip, Family::Ip6, Family::Inet]);
    let pair = || of((register(), of(register())));
    let flags = any::<u32>().prop_map(|flags| flags & !3);
    (select(NatKind::ALL), family, pair(), pair(), flags).prop_map(|(kind, family, address, port, flags)| {
        // The kernel says a maximum that is the minimum; so it reads as none.
        let max = |pair: Option<(Register, Option<Register>)>| {
            pair.and_then(|(min, max)| max.filter(|max| *max != min))
        };
        let (address_max, port_max) = (max(address), max(port));
        let [address, port] = [address, port].map(|pair| pair.map(|(min, _)| min));
        Expression::Nat { kind, family, address, address_max, port, port_max, flags }
    })
}

fn effects() -> impl Strategy<Value = Expression> {
    let reject = prop_oneof![
        any::<u8>().prop_map(Reject::Icmp),
        Just(Reject::TcpReset),
        any::<u8>().prop_map(Reject::Icmpx),
    ];
    prop_oneof![
        verdict().prop_map(Expression::Verdict),
        nat(),
        any::<u32>().prop_map(|flags| Expression::Masquerade { flags }),
        reject.prop_map(Expression::Reject),
        any::<[u64; 2]>().prop_map(|[packets, bytes]| Expression::Counter { packets, bytes }),
        (any::<u16>(), "[ -~]{0,40}", any::<u32>()).prop_map(|(group, prefix, snaplen)| Expression::Log {
            group,
            prefix,
            snaplen
        }),
        (any::<[u64; 2]>(), any::<u32>(), any::<bool>())
            .prop_map(|([rate, per_s], burst, invert)| { Expression::Limit { rate, per_s, burst, invert } }),
        LazyJust::new(|| Expression::NoTrack),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    prop_oneof![loads(), values(), in_sets(), effects()]
}

/// An element as owned parts.
type Parts = (Vec<u8>, Option<Vec<u8>>, Option<(Vec<u8>, Option<Verdict<'static>>)>, u32, Option<Duration>);

fn parts() -> impl Strategy<Value = Parts> {
    (value(), of(value()), of((value(), of(verdict()))), any::<u32>(), of(milliseconds()))
}

fn element(parts: &Parts) -> Element<'_> {
    let (key, key_end, data, flags, timeout) = parts;
    let data = data.as_ref().map(|(value, verdict)| match verdict {
        Some(verdict) => Data::Verdict(verdict.clone()),
        None => Data::Value(value),
    });
    Element { key, key_end: key_end.as_deref(), data, flags: *flags, timeout: *timeout, ..Element::default() }
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let address = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
        any::<[[u8; 16]; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
    ];
    let detail = prop_oneof![
        any::<[u16; 2]>().prop_map(|[source, destination]| Detail::Ports { source, destination }),
        (any::<u16>(), any::<[u8; 2]>()).prop_map(|(id, [kind, code])| Detail::Icmp { id, kind, code }),
        Just(Detail::None),
    ];
    (address, any::<u8>(), detail).prop_map(|([source, destination], protocol, detail)| Tuple {
        source,
        destination,
        protocol,
        detail,
    })
}

fn datatypes() -> impl Strategy<Value = Vec<Datatype>> {
    use Datatype::*;
    vec(select(vec![Ipv4Addr, Ipv6Addr, InetProto, InetService, Mark, IfIndex, IfName]), 1..=5)
}

proptest! {
    #[test]
    fn rules(expressions in vec(expression(), 0..20), comment in "[ -~]{0,60}") {
        let mut batch = Batch::new();
        batch.add_rule(T, "chain", &expressions, &userdata::comment(&comment));
        let rule = rule::read(&messages(batch.as_bytes()).next().unwrap()).unwrap();
        prop_assert_eq!(rule.expressions(), expressions);
        prop_assert_eq!(rule.chain.as_str(), "chain");
        prop_assert_eq!(userdata::read_comment(&rule.userdata), Some(comment.as_str()));
    }

    #[test]
    fn elements(all in vec(parts(), 0..20), copies in 1..40usize) {
        let wants: Vec<_> = (0..copies).flat_map(|_| all.iter().map(element)).collect();
        let mut batch = Batch::new();
        batch.add_elements(T, "set", |writer| wants.iter().for_each(|element| writer.element(element)));
        prop_assert!(batch.messages.flaw.is_none());
        let mut read = Vec::new();
        for message in messages(batch.as_bytes()) {
            element::each_element(&message, &mut |element| read.push(element)).unwrap();
        }
        prop_assert_eq!(read, wants);
    }

    #[test]
    fn sets(
        (name, key, data) in (name(), datatypes(), of(of(datatypes()))),
        [anonymous, constant, dynamic] in any::<[bool; 3]>(),
        (timeout, size) in (of(milliseconds()), of(1..=u32::MAX)),
        comment in of("[ -~]{0,60}"),
    ) {
        let data = data.as_ref().map(|data| match data {
            Some(parts) => SetData::Value(parts),
            None => SetData::Verdict,
        });
        let comment = comment.as_deref();
        let set = Set { data, anonymous, constant, dynamic, timeout, size, comment, ..Set::new(&name, &key) };
        let mut batch = Batch::new();
        batch.add_set(T, &set);
        let read = set::read(&messages(batch.as_bytes()).next().unwrap()).unwrap();
        prop_assert!(read.is(&set), "{:?}", read);
        let other = Set { constant: !constant, ..set };
        prop_assert!(!read.is(&other));
    }

    #[test]
    fn tuples(original in tuple(), reply in tuple()) {
        let one = Messages::<Netfilter>::one(crate::conntrack::CT_NEW, 0, &[0; 4], |w| {
            w.nest(1, |w| crate::conntrack::put_tuple(w, &original));
            w.nest(2, |w| crate::conntrack::put_tuple(w, &reply));
        });
        let flow = crate::conntrack::read_flow(&messages(one.as_bytes()).next().unwrap()).unwrap();
        prop_assert_eq!((flow.original, flow.reply), (original, reply));
        prop_assert_eq!(IpVersion::of(flow.reply.source), IpVersion::of(reply.source));
    }

    #[test]
    fn services(
        (to, mark) in (tuple(), of((1..=u32::MAX, any::<bool>()))),
        (scheduler, engine) in (name(), of(name())),
        (flags, timeout_s, prefix) in (any::<u32>(), any::<u32>(), any::<u8>()),
    ) {
        let key = match (mark, to.detail) {
            (Some((mark, true)), _) => ServiceKey::Mark { mark, version: IpVersion::V4 },
            (Some((mark, false)), _) => ServiceKey::Mark { mark, version: IpVersion::V6 },
            (None, Detail::Ports { source: port, .. }) => {
                ServiceKey::Address { protocol: to.protocol, address: to.source, port }
            }
            (None, _) => ServiceKey::Address { protocol: to.protocol, address: to.source, port: 0 },
        };
        let whole = Service::new(key, &scheduler);
        // Bit 1 is the kernel's own.
        let (flags, client_prefix) = (flags & !2, prefix.min(whole.client_prefix));
        let service = Service { flags, timeout_s, client_prefix, engine, ..whole };
        let read = ipvs::read_back(&service).unwrap();
        prop_assert_eq!(read.service, service);
    }

    #[test]
    fn attributes_and_messages(all in vec((0..1000u16, vec((1..0x3fffu16, vec(any::<u8>(), 0..40)), 0..6)), 0..8)) {
        let mut written = Messages::<Netfilter>::new();
        for (kind, values) in &all {
            written.push(*kind, 0, &[7; 4], |w| {
                w.nest(5, |w| values.iter().for_each(|(kind, value)| w.put(*kind, value)));
            });
        }
        let mut read = Vec::new();
        for message in messages(written.as_bytes()) {
            prop_assert_eq!(message.flags, NLM_F_REQUEST);
            prop_assert_eq!(message.header(), Some(&[7; 4]));
            let nested = message.attributes(4).next().unwrap();
            prop_assert_eq!(u16::from_ne_bytes([message.payload[6], message.payload[7]]), 5 | NLA_F_NESTED);
            read.push((message.kind, nested.nested().map(|a| (a.kind, a.value.to_vec())).collect::<Vec<_>>()));
        }
        prop_assert_eq!(read, all);
    }

    #[test]
    fn any_bytes(data in vec(any::<u8>(), 0..400)) {
        fuzz_parse(&data);
        prop_assert!(attributes(&data).count() <= data.len() / 4 + 1);
    }

    /// Any bytes with a header before them that makes a message of them.
    #[test]
    fn any_payload(kind in any::<u16>(), flags in any::<u16>(), payload in vec(any::<u8>(), 0..400)) {
        fuzz_parse(Messages::<Netfilter>::one(kind, flags, &payload, |_| ()).as_bytes());
    }

    /// Good messages with some bytes changed or cut off.
    #[test]
    fn damaged_messages(
        expressions in vec(expression(), 1..8),
        all in vec(parts(), 1..8),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut batch = Batch::new();
        batch.add_rule(T, "chain", &expressions, &[]);
        batch.add_elements(T, "set", |w| all.iter().for_each(|parts| w.element(&element(parts))));
        let mut bytes = batch.as_bytes().to_vec();
        for (place, byte) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        fuzz_parse(&bytes);
        fuzz_parse(&bytes[..end.index(bytes.len())]);
    }
}
