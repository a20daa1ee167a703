//! Rules: lists of expressions in a chain.

use super::decode::decode_all;
use super::{Batch, Expression, NFTA_LIST_ELEM, Table, kind, open};
use crate::error::Error;
use crate::message::{Message, Messages, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use crate::protocol::Netfilter;
use crate::socket::Socket;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_POSITION: u16 = 6;
const NFTA_RULE_USERDATA: u16 = 7;

/// Where in its chain a new rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulePlace {
    /// At the end.
    Last,
    /// At the beginning.
    First,
    /// After the rule of this handle.
    After(u64),
    /// Before the rule of this handle.
    Before(u64),
    /// Instead of the rule of this handle.
    Replace(u64),
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// What its creator wrote on it.
    pub userdata: Vec<u8>,
    /// The expressions as the kernel sent them, for [`expressions`](Self::expressions).
    pub raw: Vec<u8>,
}

impl RuleInfo {
    /// The expressions, decoded. What we do not know comes as [`Expression::Unknown`].
    pub fn expressions(&self) -> Vec<Expression> {
        decode_all(&self.raw)
    }
}

impl Batch {
    /// Adds a rule at the end of the chain. (Without `NLM_F_APPEND` the kernel puts it first:
    /// `nf_tables_newrule`.)
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, expressions: &[Expression], userdata: &[u8]) {
        self.insert_rule(table, chain, RulePlace::Last, expressions, userdata);
    }

    /// Adds a rule at a place of the caller's choice.
    pub fn insert_rule(
        &mut self,
        table: Table<'_>,
        chain: &str,
        place: RulePlace,
        expressions: &[Expression],
        userdata: &[u8],
    ) {
        let flags = match place {
            RulePlace::Last | RulePlace::After(_) => NLM_F_CREATE | NLM_F_APPEND,
            RulePlace::First | RulePlace::Before(_) => NLM_F_CREATE,
            RulePlace::Replace(_) => NLM_F_REPLACE,
        };
        self.step(kind::NEW_RULE, flags, table, |w| {
            w.put_str(NFTA_RULE_TABLE, table.name);
            w.put_str(NFTA_RULE_CHAIN, chain);
            match place {
                RulePlace::Last | RulePlace::First => {}
                RulePlace::After(handle) | RulePlace::Before(handle) => {
                    w.put_be64(NFTA_RULE_POSITION, handle);
                }
                RulePlace::Replace(handle) => w.put_be64(NFTA_RULE_HANDLE, handle),
            }
            if !userdata.is_empty() {
                w.put(NFTA_RULE_USERDATA, userdata);
            }
            w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                for expression in expressions {
                    w.nest(NFTA_LIST_ELEM, |w| expression.encode(w));
                }
            });
        });
    }

    /// Deletes one rule.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        self.step(kind::DEL_RULE, 0, table, |w| {
            w.put_str(NFTA_RULE_TABLE, table.name);
            w.put_str(NFTA_RULE_CHAIN, chain);
            w.put_be64(NFTA_RULE_HANDLE, handle);
        });
    }

    /// Deletes all rules of the chain and keeps the chain.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        self.step(kind::DEL_RULE, 0, table, |w| {
            w.put_str(NFTA_RULE_TABLE, table.name);
            w.put_str(NFTA_RULE_CHAIN, chain);
        });
    }
}

/// Reads the rules of the table, or of one of its chains, in their order within each chain; none
/// if there is no such table.
pub fn rules(
    socket: &mut Socket<Netfilter>,
    table: Table<'_>,
    chain: Option<&str>,
) -> Result<Vec<RuleInfo>, Error> {
    let mut request = Messages::one(kind::GET_RULE, 0, &table.family.header(), |w| {
        w.put_str(NFTA_RULE_TABLE, table.name);
        if let Some(chain) = chain {
            w.put_str(NFTA_RULE_CHAIN, chain);
        }
    });
    let doing = format_args!("list rules of nftables table {table}");
    socket.dump(&doing, &mut request, |message| read(&message))
}

pub(crate) fn read(message: &Message<'_>) -> Option<RuleInfo> {
    let (_, attributes) = open(message, kind::NEW_RULE)?;
    let mut rule = RuleInfo { chain: String::new(), handle: 0, userdata: Vec::new(), raw: Vec::new() };
    for attribute in attributes {
        match attribute.kind {
            NFTA_RULE_CHAIN => rule.chain = attribute.str()?.to_string(),
            NFTA_RULE_HANDLE => rule.handle = attribute.be64()?,
            NFTA_RULE_USERDATA => rule.userdata = attribute.value.to_vec(),
            NFTA_RULE_EXPRESSIONS => rule.raw = attribute.value.to_vec(),
            _ => {}
        }
    }
    Some(rule)
}
