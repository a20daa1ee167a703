//! Reading expressions back. The kernel repeats what we wrote with its defaults filled in; those
//! are taken out again, so that what is read equals what was written. An expression that we do
//! not know, or that has a side we do not know, stays as it came ([`Expression::Unknown`]).

use std::time::Duration;

use super::element::{Data, read_data, read_value};
use super::expression::*;
use super::numbers::*;
use super::set::SetRef;
use super::{Family, NFTA_LIST_ELEM};
use crate::attribute::{Attributes, attributes};

/// Decodes the value of an attribute that lists expressions.
pub(super) fn decode_all(bytes: &[u8]) -> Vec<Expression> {
    attributes(bytes)
        .filter(|element| element.kind == NFTA_LIST_ELEM)
        .filter_map(|element| {
            let name = element.nested().find(EXPR_NAME)?.str()?;
            let body = element.nested().find(EXPR_DATA).map_or(&[][..], |data| data.value);
            Some(
                decode(name, &Body(attributes(body))).unwrap_or_else(|| Expression::Unknown {
                    name: name.to_string(),
                    attributes: body.to_vec(),
                }),
            )
        })
        .collect()
}

fn decode(name: &str, body: &Body<'_>) -> Option<Expression> {
    match name {
        "payload" => payload(body),
        "meta" => meta(body),
        "ct" => ct(body),
        "cmp" => compare(body),
        "range" => range(body),
        "bitwise" => bitwise(body),
        "byteorder" => byte_order(body),
        "immediate" => immediate(body),
        "lookup" => lookup(body),
        "dynset" => dynset(body),
        "numgen" => numgen(body),
        "hash" => hash(body),
        "fib" => fib(body),
        "socket" => socket(body),
        "nat" => nat(body),
        "masq" => masquerade(body),
        "reject" => reject(body),
        "counter" => counter(body),
        "log" => log(body),
        "limit" => limit(body),
        "notrack" => Some(Expression::NoTrack),
        _ => None,
    }
}

/// One expression's attributes.
struct Body<'a>(Attributes<'a>);

impl<'a> Body<'a> {
    fn has(&self, kind: u16) -> bool {
        self.0.find(kind).is_some()
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.0.find(kind)?.be32()
    }

    fn number_or_zero(&self, kind: u16) -> u32 {
        self.number(kind).unwrap_or(0)
    }

    fn long(&self, kind: u16) -> Option<u64> {
        self.0.find(kind)?.be64()
    }

    fn register(&self, kind: u16) -> Option<Register> {
        Register::from_number(self.number(kind)?)
    }

    /// The register, if one is given; the outer `None` is one we do not know.
    fn maybe_register(&self, kind: u16) -> Option<Option<Register>> {
        match self.0.find(kind) {
            Some(register) => Some(Some(Register::from_number(register.be32()?)?)),
            None => Some(None),
        }
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        read_value(self.0.find(kind)?).map(<[u8]>::to_vec)
    }

    fn set(&self, kind: u16) -> Option<SetRef> {
        self.0.find(kind)?.str().map(SetRef::from)
    }
}

fn payload(body: &Body<'_>) -> Option<Expression> {
    if let Some(from) = body.register(PAYLOAD_SREG) {
        let base = PayloadBase::from_number(body.number(PAYLOAD_BASE)?)?;
        let (offset, len) = (body.number(PAYLOAD_OFFSET)?, body.number(PAYLOAD_LEN)?);
        let at = body.number(PAYLOAD_CSUM_OFFSET).unwrap_or(0);
        let checksum = match body.number(PAYLOAD_CSUM_TYPE).unwrap_or(0) {
            0 if at == 0 => None,
            PAYLOAD_CSUM_INET => Some(at),
            _ => return None,
        };
        let flags = body.number(PAYLOAD_CSUM_FLAGS).unwrap_or(0);
        let is_address = base == PayloadBase::Network && flags == PAYLOAD_L4CSUM_PSEUDOHDR;
        return is_address.then_some(Expression::PayloadSet { from, offset, len, checksum });
    }
    Some(Expression::Payload {
        into: body.register(PAYLOAD_DREG)?,
        base: PayloadBase::from_number(body.number(PAYLOAD_BASE)?)?,
        offset: body.number(PAYLOAD_OFFSET)?,
        len: body.number(PAYLOAD_LEN)?,
    })
}

fn meta(body: &Body<'_>) -> Option<Expression> {
    let key = MetaKey::from_number(body.number(META_KEY)?)?;
    match body.register(META_SREG) {
        Some(from) => Some(Expression::MetaSet { from, key }),
        None => Some(Expression::Meta { into: body.register(META_DREG)?, key }),
    }
}

fn ct(body: &Body<'_>) -> Option<Expression> {
    let key = CtKey::from_number(body.number(CT_KEY)?)?;
    let direction = match body.0.find(CT_DIRECTION) {
        Some(direction) => Some(CtDirection::from_number(u32::from(direction.u8()?))?),
        None => None,
    };
    match body.register(CT_SREG) {
        Some(from) if direction.is_none() => Some(Expression::CtSet { from, key }),
        Some(_) => None,
        None => Some(Expression::Ct { into: body.register(CT_DREG)?, key, direction }),
    }
}

fn compare(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Compare {
        from: body.register(CMP_SREG)?,
        operator: Operator::from_number(body.number(CMP_OP)?)?,
        value: body.value(CMP_DATA)?,
    })
}

fn range(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Range {
        from: body.register(RANGE_SREG)?,
        invert: boolean(body.number(RANGE_OP)?)?,
        low: body.value(RANGE_FROM)?,
        high: body.value(RANGE_TO)?,
    })
}

fn bitwise(body: &Body<'_>) -> Option<Expression> {
    let shift = || Some(u32::from_ne_bytes(*body.value(BITWISE_DATA)?.first_chunk()?));
    let operation = match body.number_or_zero(BITWISE_OP) {
        BITWISE_OP_MASK_XOR => {
            Bitwise::MaskXor { mask: body.value(BITWISE_MASK)?, xor: body.value(BITWISE_XOR)? }
        }
        BITWISE_OP_LEFT => Bitwise::ShiftLeft(shift()?),
        BITWISE_OP_RIGHT => Bitwise::ShiftRight(shift()?),
        _ => return None,
    };
    Some(Expression::Bitwise {
        from: body.register(BITWISE_SREG)?,
        into: body.register(BITWISE_DREG)?,
        len: body.number(BITWISE_LEN)?,
        operation,
    })
}

fn byte_order(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::ByteOrder {
        from: body.register(BYTEORDER_SREG)?,
        into: body.register(BYTEORDER_DREG)?,
        to_network: boolean(body.number(BYTEORDER_OP)?)?,
        len: body.number(BYTEORDER_LEN)?,
        size: body.number(BYTEORDER_SIZE)?,
    })
}

fn immediate(body: &Body<'_>) -> Option<Expression> {
    let into = body.register(IMMEDIATE_DREG)?;
    match read_data(body.0.find(IMMEDIATE_DATA)?)? {
        Data::Verdict(verdict) if into == Register::VERDICT => {
            Some(Expression::Verdict(verdict.into_owned()))
        }
        Data::Value(value) if into != Register::VERDICT => {
            Some(Expression::Immediate { into, value: value.to_vec() })
        }
        _ => None,
    }
}

fn lookup(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Lookup {
        set: SetRef { id: body.number_or_zero(LOOKUP_SET_ID), ..body.set(LOOKUP_SET)? },
        key: body.register(LOOKUP_SREG)?,
        into: body.maybe_register(LOOKUP_DREG)?,
        invert: body.number_or_zero(LOOKUP_FLAGS) & LOOKUP_INVERT != 0,
    })
}

fn dynset(body: &Body<'_>) -> Option<Expression> {
    // An expression of its own in each element (a counter, a limit) is what we do not know.
    if body.number_or_zero(DYNSET_FLAGS) & !DYNSET_INVERT != 0 {
        return None;
    }
    Some(Expression::Dynset {
        operation: DynsetOperation::from_number(body.number(DYNSET_OP)?)?,
        set: SetRef { id: body.number_or_zero(DYNSET_SET_ID), ..body.set(DYNSET_SET_NAME)? },
        key: body.register(DYNSET_SREG_KEY)?,
        data: body.maybe_register(DYNSET_SREG_DATA)?,
        timeout: body.long(DYNSET_TIMEOUT).filter(|&time| time != 0).map(Duration::from_millis),
        invert: body.number_or_zero(DYNSET_FLAGS) & DYNSET_INVERT != 0,
    })
}

fn numgen(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Numgen {
        into: body.register(NUMGEN_DREG)?,
        kind: NumgenKind::from_number(body.number(NUMGEN_TYPE)?)?,
        modulus: body.number(NUMGEN_MODULUS)?,
        offset: body.number_or_zero(NUMGEN_OFFSET),
    })
}

fn hash(body: &Body<'_>) -> Option<Expression> {
    if body.number_or_zero(HASH_TYPE) != HASH_JENKINS {
        return None;
    }
    Some(Expression::Hash {
        from: body.register(HASH_SREG)?,
        into: body.register(HASH_DREG)?,
        len: body.number(HASH_LEN)?,
        modulus: body.number(HASH_MODULUS)?,
        seed: body.number(HASH_SEED),
        offset: body.number_or_zero(HASH_OFFSET),
    })
}

fn fib(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Fib {
        into: body.register(FIB_DREG)?,
        result: FibResult::from_number(body.number(FIB_RESULT)?)?,
        flags: body.number(FIB_FLAGS)?,
    })
}

fn socket(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Socket {
        into: body.register(SOCKET_DREG)?,
        key: SocketKey::from_number(body.number(SOCKET_KEY)?)?,
    })
}

fn nat(body: &Body<'_>) -> Option<Expression> {
    let family = u8::try_from(body.number(NAT_FAMILY)?).ok()?;
    let (address, port) = (body.maybe_register(NAT_ADDR_MIN)?, body.maybe_register(NAT_PROTO_MIN)?);
    Some(Expression::Nat {
        kind: NatKind::from_number(body.number(NAT_TYPE)?)?,
        family: Family::from_number(family),
        address,
        address_max: body.maybe_register(NAT_ADDR_MAX)?.filter(|max| Some(*max) != address),
        port,
        port_max: body.maybe_register(NAT_PROTO_MAX)?.filter(|max| Some(*max) != port),
        flags: body.number_or_zero(NAT_FLAGS) & !NAT_FLAGS_IMPLIED,
    })
}

fn masquerade(body: &Body<'_>) -> Option<Expression> {
    let flags = body.number_or_zero(MASQ_FLAGS);
    (!body.has(MASQ_PROTO_MIN)).then_some(Expression::Masquerade { flags })
}

fn reject(body: &Body<'_>) -> Option<Expression> {
    let code = || body.0.find(REJECT_CODE).and_then(|code| code.u8());
    Some(Expression::Reject(match body.number(REJECT_TYPE)? {
        REJECT_ICMP => Reject::Icmp(code()?),
        REJECT_TCP => Reject::TcpReset,
        REJECT_ICMPX => Reject::Icmpx(code()?),
        _ => return None,
    }))
}

fn counter(body: &Body<'_>) -> Option<Expression> {
    Some(Expression::Counter {
        packets: body.long(COUNTER_PACKETS).unwrap_or(0),
        bytes: body.long(COUNTER_BYTES).unwrap_or(0),
    })
}

fn log(body: &Body<'_>) -> Option<Expression> {
    let prefix = body.0.find(LOG_PREFIX).and_then(|prefix| prefix.str()).unwrap_or_default();
    Some(Expression::Log {
        group: body.0.find(LOG_GROUP)?.be16()?,
        prefix: prefix.to_string(),
        snaplen: body.number_or_zero(LOG_SNAPLEN),
    })
}

fn limit(body: &Body<'_>) -> Option<Expression> {
    if body.number_or_zero(LIMIT_TYPE) != LIMIT_PACKETS {
        return None;
    }
    Some(Expression::Limit {
        rate: body.long(LIMIT_RATE)?,
        per_s: body.long(LIMIT_UNIT)?,
        burst: body.number_or_zero(LIMIT_BURST),
        invert: body.number_or_zero(LIMIT_FLAGS) & LIMIT_INVERT != 0,
    })
}

fn boolean(number: u32) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
