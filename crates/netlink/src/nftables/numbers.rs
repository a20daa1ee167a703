//! The attribute numbers of the expressions, from the kernel's `nf_tables.h`: one list for
//! `encode.rs` and `decode.rs`.

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

pub(super) const PAYLOAD_DREG: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LEN: u16 = 4;
pub(super) const PAYLOAD_SREG: u16 = 5;
pub(super) const PAYLOAD_CSUM_TYPE: u16 = 6;
pub(super) const PAYLOAD_CSUM_OFFSET: u16 = 7;
pub(super) const PAYLOAD_CSUM_FLAGS: u16 = 8;
/// The Internet's checksum, as IPv4's header has it.
pub(super) const PAYLOAD_CSUM_INET: u32 = 1;
/// What is written is part of the pseudo header that TCP's and UDP's checksums cover.
pub(super) const PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;

pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SREG: u16 = 3;

pub(super) const CT_DREG: u16 = 1;
pub(super) const CT_KEY: u16 = 2;
pub(super) const CT_DIRECTION: u16 = 3;
pub(super) const CT_SREG: u16 = 4;

pub(super) const CMP_SREG: u16 = 1;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;

pub(super) const RANGE_SREG: u16 = 1;
pub(super) const RANGE_OP: u16 = 2;
pub(super) const RANGE_FROM: u16 = 3;
pub(super) const RANGE_TO: u16 = 4;

pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;
pub(super) const BITWISE_OP: u16 = 6;
pub(super) const BITWISE_DATA: u16 = 7;
pub(super) const BITWISE_OP_MASK_XOR: u32 = 0;
pub(super) const BITWISE_OP_LEFT: u32 = 1;
pub(super) const BITWISE_OP_RIGHT: u32 = 2;

pub(super) const BYTEORDER_SREG: u16 = 1;
pub(super) const BYTEORDER_DREG: u16 = 2;
pub(super) const BYTEORDER_OP: u16 = 3;
pub(super) const BYTEORDER_LEN: u16 = 4;
pub(super) const BYTEORDER_SIZE: u16 = 5;

pub(super) const IMMEDIATE_DREG: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;

pub(super) const LOOKUP_SET: u16 = 1;
pub(super) const LOOKUP_SREG: u16 = 2;
pub(super) const LOOKUP_DREG: u16 = 3;
pub(super) const LOOKUP_SET_ID: u16 = 4;
pub(super) const LOOKUP_FLAGS: u16 = 5;
pub(super) const LOOKUP_INVERT: u32 = 1;

pub(super) const DYNSET_SET_NAME: u16 = 1;
pub(super) const DYNSET_SET_ID: u16 = 2;
pub(super) const DYNSET_OP: u16 = 3;
pub(super) const DYNSET_SREG_KEY: u16 = 4;
pub(super) const DYNSET_SREG_DATA: u16 = 5;
pub(super) const DYNSET_TIMEOUT: u16 = 6;
pub(super) const DYNSET_FLAGS: u16 = 9;
pub(super) const DYNSET_INVERT: u32 = 1;

pub(super) const NUMGEN_DREG: u16 = 1;
pub(super) const NUMGEN_MODULUS: u16 = 2;
pub(super) const NUMGEN_TYPE: u16 = 3;
pub(super) const NUMGEN_OFFSET: u16 = 4;

pub(super) const HASH_SREG: u16 = 1;
pub(super) const HASH_DREG: u16 = 2;
pub(super) const HASH_LEN: u16 = 3;
pub(super) const HASH_MODULUS: u16 = 4;
pub(super) const HASH_SEED: u16 = 5;
pub(super) const HASH_OFFSET: u16 = 6;
pub(super) const HASH_TYPE: u16 = 7;
pub(super) const HASH_JENKINS: u32 = 0;

pub(super) const FIB_DREG: u16 = 1;
pub(super) const FIB_RESULT: u16 = 2;
pub(super) const FIB_FLAGS: u16 = 3;

pub(super) const SOCKET_KEY: u16 = 1;
pub(super) const SOCKET_DREG: u16 = 2;

pub(super) const NAT_TYPE: u16 = 1;
pub(super) const NAT_FAMILY: u16 = 2;
pub(super) const NAT_ADDR_MIN: u16 = 3;
pub(super) const NAT_ADDR_MAX: u16 = 4;
pub(super) const NAT_PROTO_MIN: u16 = 5;
pub(super) const NAT_PROTO_MAX: u16 = 6;
pub(super) const NAT_FLAGS: u16 = 7;
/// What the kernel adds to a NAT's flags by itself (`NF_NAT_RANGE_MAP_IPS`, `_PROTO_SPECIFIED`).
pub(super) const NAT_FLAGS_IMPLIED: u32 = 1 | 2;

pub(super) const MASQ_FLAGS: u16 = 1;
pub(super) const MASQ_PROTO_MIN: u16 = 2;

pub(super) const REJECT_TYPE: u16 = 1;
pub(super) const REJECT_CODE: u16 = 2;
pub(super) const REJECT_ICMP: u32 = 0;
pub(super) const REJECT_TCP: u32 = 1;
pub(super) const REJECT_ICMPX: u32 = 2;

pub(super) const COUNTER_BYTES: u16 = 1;
pub(super) const COUNTER_PACKETS: u16 = 2;

pub(super) const LOG_GROUP: u16 = 1;
pub(super) const LOG_PREFIX: u16 = 2;
pub(super) const LOG_SNAPLEN: u16 = 3;

pub(super) const LIMIT_RATE: u16 = 1;
pub(super) const LIMIT_UNIT: u16 = 2;
pub(super) const LIMIT_BURST: u16 = 3;
pub(super) const LIMIT_TYPE: u16 = 4;
pub(super) const LIMIT_FLAGS: u16 = 5;
pub(super) const LIMIT_PACKETS: u32 = 0;
pub(super) const LIMIT_INVERT: u32 = 1;
