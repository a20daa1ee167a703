//! Writing expressions. Attributes go in the order in which `nft` puts them, so that recorded
//! bytes can be compared.

use super::element::{put_value, put_verdict};
use super::expression::{Bitwise, Expression, PayloadBase, Register, Reject};
use super::numbers::*;
use super::set::{SetRef, milliseconds};
use crate::message::Writer;

impl Expression {
    /// The kernel's name for it.
    pub fn name(&self) -> &str {
        match self {
            Expression::Payload { .. } | Expression::PayloadSet { .. } => "payload",
            Expression::Meta { .. } | Expression::MetaSet { .. } => "meta",
            Expression::Ct { .. } | Expression::CtSet { .. } => "ct",
            Expression::Compare { .. } => "cmp",
            Expression::Range { .. } => "range",
            Expression::Bitwise { .. } => "bitwise",
            Expression::ByteOrder { .. } => "byteorder",
            Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
            Expression::Lookup { .. } => "lookup",
            Expression::Dynset { .. } => "dynset",
            Expression::Numgen { .. } => "numgen",
            Expression::Hash { .. } => "hash",
            Expression::Fib { .. } => "fib",
            Expression::Socket { .. } => "socket",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade { .. } => "masq",
            Expression::Reject(_) => "reject",
            Expression::Counter { .. } => "counter",
            Expression::Log { .. } => "log",
            Expression::Limit { .. } => "limit",
            Expression::NoTrack => "notrack",
            Expression::Unknown { name, .. } => name,
        }
    }

    /// Writes the name and the attributes.
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.put_str(EXPR_NAME, self.name());
        match self {
            // Nothing but its name, as `nft` sends it.
            Expression::NoTrack => {}
            _ => w.nest(EXPR_DATA, |w| self.encode_body(w)),
        }
    }

    fn encode_body(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Payload { .. }
            | Expression::PayloadSet { .. }
            | Expression::Meta { .. }
            | Expression::MetaSet { .. }
            | Expression::Ct { .. }
            | Expression::CtSet { .. }
            | Expression::Numgen { .. }
            | Expression::Fib { .. }
            | Expression::Socket { .. } => self.encode_load(w),
            Expression::Compare { .. }
            | Expression::Range { .. }
            | Expression::Bitwise { .. }
            | Expression::ByteOrder { .. }
            | Expression::Immediate { .. }
            | Expression::Hash { .. } => self.encode_value(w),
            Expression::Lookup { .. } | Expression::Dynset { .. } => self.encode_set(w),
            Expression::Verdict(_)
            | Expression::Nat { .. }
            | Expression::Masquerade { .. }
            | Expression::Reject(_) => self.encode_end(w),
            Expression::Counter { .. } | Expression::Log { .. } | Expression::Limit { .. } => {
                self.encode_effect(w);
            }
            Expression::NoTrack => {}
            Expression::Unknown { attributes, .. } => w.raw(attributes),
        }
    }

    /// What brings a value from the packet and its surroundings, or sets it there.
    fn encode_load(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Payload { into, base, offset, len } => {
                register(w, PAYLOAD_DREG, *into);
                w.put_be32(PAYLOAD_BASE, *base as u32);
                w.put_be32(PAYLOAD_OFFSET, *offset);
                w.put_be32(PAYLOAD_LEN, *len);
            }
            Expression::PayloadSet { from, offset, len, checksum } => {
                register(w, PAYLOAD_SREG, *from);
                w.put_be32(PAYLOAD_BASE, PayloadBase::Network as u32);
                w.put_be32(PAYLOAD_OFFSET, *offset);
                w.put_be32(PAYLOAD_LEN, *len);
                w.put_be32(PAYLOAD_CSUM_TYPE, checksum.map_or(0, |_| PAYLOAD_CSUM_INET));
                w.put_be32(PAYLOAD_CSUM_OFFSET, checksum.unwrap_or(0));
                w.put_be32(PAYLOAD_CSUM_FLAGS, PAYLOAD_L4CSUM_PSEUDOHDR);
            }
            Expression::Meta { into, key } => {
                w.put_be32(META_KEY, *key as u32);
                register(w, META_DREG, *into);
            }
            Expression::MetaSet { from, key } => {
                w.put_be32(META_KEY, *key as u32);
                register(w, META_SREG, *from);
            }
            Expression::Ct { into, key, direction } => {
                w.put_be32(CT_KEY, *key as u32);
                register(w, CT_DREG, *into);
                if let Some(direction) = direction {
                    w.put_u8(CT_DIRECTION, *direction as u8);
                }
            }
            Expression::CtSet { from, key } => {
                w.put_be32(CT_KEY, *key as u32);
                register(w, CT_SREG, *from);
            }
            Expression::Numgen { into, kind, modulus, offset } => {
                register(w, NUMGEN_DREG, *into);
                w.put_be32(NUMGEN_MODULUS, *modulus);
                w.put_be32(NUMGEN_TYPE, *kind as u32);
                w.put_be32(NUMGEN_OFFSET, *offset);
            }
            Expression::Fib { into, result, flags } => {
                w.put_be32(FIB_FLAGS, *flags);
                w.put_be32(FIB_RESULT, *result as u32);
                register(w, FIB_DREG, *into);
            }
            Expression::Socket { into, key } => {
                w.put_be32(SOCKET_KEY, *key as u32);
                register(w, SOCKET_DREG, *into);
            }
            _ => {}
        }
    }

    /// What works on values in registers.
    fn encode_value(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Compare { from, operator, value } => {
                register(w, CMP_SREG, *from);
                w.put_be32(CMP_OP, *operator as u32);
                put_value(w, CMP_DATA, value);
            }
            Expression::Range { from, invert, low, high } => {
                register(w, RANGE_SREG, *from);
                w.put_be32(RANGE_OP, u32::from(*invert));
                put_value(w, RANGE_FROM, low);
                put_value(w, RANGE_TO, high);
            }
            Expression::Bitwise { from, into, len, operation } => {
                register(w, BITWISE_SREG, *from);
                register(w, BITWISE_DREG, *into);
                let (number, shift) = match operation {
                    Bitwise::MaskXor { .. } => (BITWISE_OP_MASK_XOR, 0),
                    Bitwise::ShiftLeft(bits) => (BITWISE_OP_LEFT, *bits),
                    Bitwise::ShiftRight(bits) => (BITWISE_OP_RIGHT, *bits),
                };
                w.put_be32(BITWISE_OP, number);
                w.put_be32(BITWISE_LEN, *len);
                match operation {
                    Bitwise::MaskXor { mask, xor } => {
                        put_value(w, BITWISE_MASK, mask);
                        put_value(w, BITWISE_XOR, xor);
                    }
                    // A shift is a number in this machine's order (`nft_bitwise_init_shift`).
                    _ => put_value(w, BITWISE_DATA, &shift.to_ne_bytes()),
                }
            }
            Expression::ByteOrder { from, into, to_network, len, size } => {
                register(w, BYTEORDER_SREG, *from);
                register(w, BYTEORDER_DREG, *into);
                w.put_be32(BYTEORDER_OP, u32::from(*to_network));
                w.put_be32(BYTEORDER_LEN, *len);
                w.put_be32(BYTEORDER_SIZE, *size);
            }
            Expression::Immediate { into, value } => {
                register(w, IMMEDIATE_DREG, *into);
                put_value(w, IMMEDIATE_DATA, value);
            }
            Expression::Hash { from, into, len, modulus, seed, offset } => {
                register(w, HASH_SREG, *from);
                register(w, HASH_DREG, *into);
                w.put_be32(HASH_LEN, *len);
                w.put_be32(HASH_MODULUS, *modulus);
                if let Some(seed) = seed {
                    w.put_be32(HASH_SEED, *seed);
                }
                w.put_be32(HASH_OFFSET, *offset);
                w.put_be32(HASH_TYPE, HASH_JENKINS);
            }
            _ => {}
        }
    }

    /// What looks into sets and changes them.
    fn encode_set(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Lookup { set, key, into, invert } => {
                register(w, LOOKUP_SREG, *key);
                maybe_register(w, LOOKUP_DREG, *into);
                put_set(w, LOOKUP_SET, LOOKUP_SET_ID, set);
                if *invert {
                    w.put_be32(LOOKUP_FLAGS, LOOKUP_INVERT);
                }
            }
            Expression::Dynset { operation, set, key, data, timeout, invert } => {
                register(w, DYNSET_SREG_KEY, *key);
                maybe_register(w, DYNSET_SREG_DATA, *data);
                w.put_be32(DYNSET_OP, *operation as u32);
                if let Some(timeout) = timeout {
                    w.put_be64(DYNSET_TIMEOUT, milliseconds(*timeout));
                }
                put_set(w, DYNSET_SET_NAME, DYNSET_SET_ID, set);
                if *invert {
                    w.put_be32(DYNSET_FLAGS, DYNSET_INVERT);
                }
            }
            _ => {}
        }
    }

    /// What decides the packet's way.
    fn encode_end(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Verdict(verdict) => {
                register(w, IMMEDIATE_DREG, Register::VERDICT);
                w.nest(IMMEDIATE_DATA, |w| put_verdict(w, verdict));
            }
            Expression::Nat { kind, family, address, address_max, port, port_max, flags } => {
                w.put_be32(NAT_TYPE, *kind as u32);
                w.put_be32(NAT_FAMILY, u32::from(family.number()));
                maybe_register(w, NAT_ADDR_MIN, *address);
                maybe_register(w, NAT_ADDR_MAX, *address_max);
                maybe_register(w, NAT_PROTO_MIN, *port);
                maybe_register(w, NAT_PROTO_MAX, *port_max);
                if *flags != 0 {
                    w.put_be32(NAT_FLAGS, *flags);
                }
            }
            Expression::Masquerade { flags } if *flags != 0 => w.put_be32(MASQ_FLAGS, *flags),
            Expression::Reject(reject) => {
                let (kind, code) = match reject {
                    Reject::Icmp(code) => (REJECT_ICMP, *code),
                    Reject::TcpReset => (REJECT_TCP, 0),
                    Reject::Icmpx(code) => (REJECT_ICMPX, *code),
                };
                w.put_be32(REJECT_TYPE, kind);
                w.put_u8(REJECT_CODE, code);
            }
            _ => {}
        }
    }

    /// What counts, logs and limits.
    fn encode_effect(&self, w: &mut Writer<'_>) {
        match self {
            Expression::Counter { packets, bytes } if (*packets, *bytes) != (0, 0) => {
                w.put_be64(COUNTER_BYTES, *bytes);
                w.put_be64(COUNTER_PACKETS, *packets);
            }
            Expression::Log { group, prefix, snaplen } => {
                if !prefix.is_empty() {
                    w.put_str(LOG_PREFIX, prefix);
                }
                w.put_be16(LOG_GROUP, *group);
                if *snaplen != 0 {
                    w.put_be32(LOG_SNAPLEN, *snaplen);
                }
            }
            Expression::Limit { rate, per_s, burst, invert } => {
                w.put_be64(LIMIT_RATE, *rate);
                w.put_be64(LIMIT_UNIT, *per_s);
                w.put_be32(LIMIT_BURST, *burst);
                w.put_be32(LIMIT_TYPE, LIMIT_PACKETS);
                w.put_be32(LIMIT_FLAGS, if *invert { LIMIT_INVERT } else { 0 });
            }
            _ => {}
        }
    }
}

fn register(w: &mut Writer<'_>, kind: u16, register: Register) {
    w.put_be32(kind, register.number());
}

fn maybe_register(w: &mut Writer<'_>, kind: u16, given: Option<Register>) {
    if let Some(given) = given {
        register(w, kind, given);
    }
}

fn put_set(w: &mut Writer<'_>, name: u16, id: u16, set: &SetRef) {
    w.put_str(name, &set.name);
    if set.id != 0 {
        w.put_be32(id, set.id);
    }
}
