//! nf_tables: tables, chains, rules, sets and their elements, as a data plane needs them.
//!
//! What changes goes into a [`Batch`], which the kernel carries out whole or not at all; what is
//! read comes from [`tables`], [`chains`], [`rules`], [`sets`], [`elements`]. A rule is a list of
//! [`Expression`]s over [`Register`]s, the kernel's own little program: there is no textual
//! language here and no knowledge of what the rules are for.
//!
//! *Limits.* No stateful objects, flowtables, netdev hooks or concatenated intervals.
//! "Destroy if present" came with 6.3 and is not used: ask the error whether it
//! [`is_not_found`](crate::Error::is_not_found).

mod batch;
mod chain;
mod decode;
mod display;
pub(crate) mod element;
mod encode;
mod expression;
mod numbers;
pub(crate) mod rule;
pub(crate) mod set;
mod table;
pub mod userdata;

pub use batch::Batch;
pub use chain::{Base, Chain, ChainInfo, ChainKind, Hook, Policy, chains};
pub use element::{Data, Element, ElementWriter, elements, get_element, peek_elements};
pub use expression::{
    Bitwise, CtDirection, CtKey, DynsetOperation, Expression, FibResult, MetaKey, NatKind, NumgenKind,
    Operator, PayloadBase, Register, Reject, SocketKey, Verdict,
};
pub use rule::{RuleInfo, RulePlace, rules};
pub use set::{Datatype, Set, SetData, SetInfo, SetRef, sets};
pub use table::{Generation, TableInfo, generation, tables};

pub use expression::{
    FIB_DADDR, FIB_IIF, FIB_MARK, FIB_OIF, FIB_PRESENT, FIB_SADDR, NAT_PERSISTENT, NAT_RANDOM,
    NAT_RANDOM_FULLY,
};

use crate::attribute::Attributes;
use crate::message::Message;
use crate::socket::nfgenmsg;

pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// The message types, `enum nf_tables_msg_types`.
mod kind {
    const fn kind(number: u16) -> u16 {
        (super::NFNL_SUBSYS_NFTABLES << 8) | number
    }
    pub(super) const NEW_TABLE: u16 = kind(0);
    pub(super) const GET_TABLE: u16 = kind(1);
    pub(super) const DEL_TABLE: u16 = kind(2);
    pub(super) const NEW_CHAIN: u16 = kind(3);
    pub(super) const GET_CHAIN: u16 = kind(4);
    pub(super) const DEL_CHAIN: u16 = kind(5);
    pub(super) const NEW_RULE: u16 = kind(6);
    pub(super) const GET_RULE: u16 = kind(7);
    pub(super) const DEL_RULE: u16 = kind(8);
    pub(super) const NEW_SET: u16 = kind(9);
    pub(super) const GET_SET: u16 = kind(10);
    pub(super) const DEL_SET: u16 = kind(11);
    pub(super) const NEW_ELEMENT: u16 = kind(12);
    pub(super) const GET_ELEMENT: u16 = kind(13);
    pub(super) const DEL_ELEMENT: u16 = kind(14);
    pub(super) const NEW_GENERATION: u16 = kind(15);
    pub(super) const GET_GENERATION: u16 = kind(16);
}

/// The list entry that wraps each expression and each element.
const NFTA_LIST_ELEM: u16 = 1;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// One of the families we do not use, by its number.
    Other(u8),
}

impl Family {
    /// The kernel's number, `NFPROTO_*`.
    pub const fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Ip6 => 10,
            Family::Other(number) => number,
        }
    }

    /// The family of this number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Family::Inet,
            2 => Family::Ip,
            10 => Family::Ip6,
            number => Family::Other(number),
        }
    }

    fn header(self) -> [u8; HEADER] {
        nfgenmsg(self.number(), 0)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Family::Inet => f.write_str("inet"),
            Family::Ip => f.write_str("ip"),
            Family::Ip6 => f.write_str("ip6"),
            Family::Other(number) => write!(f, "family-{number}"),
        }
    }
}

/// A table by name: where everything else lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
}

impl std::fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// The family and the attributes of a message of this kind; `None` for any other.
fn open<'a>(message: &Message<'a>, kind: u16) -> Option<(Family, Attributes<'a>)> {
    let [family, ..] = *message.header::<HEADER>()?;
    (message.kind == kind).then(|| (Family::from_number(family), message.attributes(HEADER)))
}

/// Reads the message as each of our objects; see [`fuzz_parse`](crate::fuzz_parse).
pub(crate) fn fuzz(message: &Message<'_>) {
    let table = Table { family: Family::Ip, name: "portolan" };
    let as_kind = |kind| Message { kind, ..*message };
    let _ = (table::read(&as_kind(kind::NEW_TABLE)), table::read_generation(&as_kind(kind::NEW_GENERATION)));
    let _ = (chain::read(&as_kind(kind::NEW_CHAIN), table), set::read(&as_kind(kind::NEW_SET)));
    let mut keys = 0;
    let _ = element::each_element(&as_kind(kind::NEW_ELEMENT), &mut |element| keys += element.key.len());
    if let Some(rule) = rule::read(&as_kind(kind::NEW_RULE)) {
        fuzz_expressions(&rule.raw);
    }
}

/// Reads expressions, and reads what is written of those that were understood.
pub(crate) fn fuzz_expressions(raw: &[u8]) {
    for expression in decode::decode_all(raw) {
        let _ = expression.to_string();
        if let Expression::Unknown { .. } = expression {
            continue;
        }
        let mut batch = Batch::new();
        let table = Table { family: Family::Ip, name: "t" };
        batch.add_rule(table, "c", std::slice::from_ref(&expression), &[]);
        let written = crate::message::messages(batch.as_bytes()).next();
        let rule = written.and_then(|message| rule::read(&message));
        // What is too long to be written is not sent either.
        if batch.messages.flaw.is_none() {
            assert_eq!(rule.map(|rule| rule.expressions()), Some(vec![expression]));
        }
    }
}
