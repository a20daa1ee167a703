//! Chains: base chains, which a hook calls, and regular chains, which rules and maps call.

use super::{Batch, Table, kind, open};
use crate::attribute::Attribute;
use crate::error::Error;
use crate::message::{Messages, NLM_F_CREATE, NLM_F_EXCL};
use crate::protocol::Netfilter;
use crate::socket::Socket;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_HANDLE: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_CHAIN_USERDATA: u16 = 12;

const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// A chain to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where packets enter it; `None` for one that is only called.
    pub base: Option<Base>,
    /// What we write on it; see [`userdata`](super::userdata).
    pub userdata: &'a [u8],
}

/// How packets enter a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// What its rules may do.
    pub kind: ChainKind,
    /// Where in the packet's way.
    pub hook: Hook,
    /// Its place among those at the same hook: lower runs earlier.
    pub priority: i32,
    /// What becomes of packets that reach its end.
    pub policy: Policy,
}

/// What the rules of a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Judge.
    Filter,
    /// Translate addresses; sees the first packet of a connection only.
    Nat,
    /// Judge, and route anew what was changed (output only).
    Route,
}

/// Where in a packet's way, as IPv4, IPv6 and inet number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// What becomes of packets that no rule judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// They are dropped.
    Drop = 0,
    /// They go on.
    Accept = 1,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// How packets enter it. `None` for a chain that is only called, or whose hook we do not know.
    pub base: Option<Base>,
    /// How many rules it has and how often it is called from rules and maps.
    pub uses: u32,
    /// What its creator wrote on it.
    pub userdata: Vec<u8>,
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        }
    }
}

impl Batch {
    /// Adds the chain if it is not there.
    pub fn add_chain(&mut self, table: Table<'_>, chain: &Chain<'_>) {
        self.new_chain(table, chain, NLM_F_CREATE);
    }

    /// Creates the chain; refused if it is there.
    pub fn create_chain(&mut self, table: Table<'_>, chain: &Chain<'_>) {
        self.new_chain(table, chain, NLM_F_CREATE | NLM_F_EXCL);
    }

    fn new_chain(&mut self, table: Table<'_>, chain: &Chain<'_>, flags: u16) {
        self.step(kind::NEW_CHAIN, flags, table, |w| {
            w.put_str(NFTA_CHAIN_TABLE, table.name);
            w.put_str(NFTA_CHAIN_NAME, chain.name);
            if !chain.userdata.is_empty() {
                w.put(NFTA_CHAIN_USERDATA, chain.userdata);
            }
            let Some(base) = chain.base else { return };
            w.put_str(NFTA_CHAIN_TYPE, base.kind.name());
            w.put_be32(NFTA_CHAIN_POLICY, base.policy as u32);
            w.nest(NFTA_CHAIN_HOOK, |w| {
                w.put_be32(NFTA_HOOK_HOOKNUM, base.hook as u32);
                w.put_be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
        });
    }

    /// Deletes the chain with its rules; refused while something calls it.
    pub fn delete_chain(&mut self, table: Table<'_>, name: &str) {
        self.step(kind::DEL_CHAIN, 0, table, |w| {
            w.put_str(NFTA_CHAIN_TABLE, table.name);
            w.put_str(NFTA_CHAIN_NAME, name);
        });
    }
}

/// Reads the table's chains; none if there is no such table.
pub fn chains(socket: &mut Socket<Netfilter>, table: Table<'_>) -> Result<Vec<ChainInfo>, Error> {
    // The kernel lists the chains of the whole family (`nf_tables_dump_chains`).
    let mut request = Messages::one(kind::GET_CHAIN, 0, &table.family.header(), |_| ());
    let doing = format_args!("list chains of nftables table {table}");
    let all = socket.dump(&doing, &mut request, |message| read(&message, table))?;
    Ok(all.into_iter().flatten().collect())
}

/// Reads one chain. The outer `None`: it makes no sense; the inner: it is another table's.
pub(super) fn read(message: &crate::Message<'_>, table: Table<'_>) -> Option<Option<ChainInfo>> {
    let (family, attributes) = open(message, kind::NEW_CHAIN)?;
    let mut chain = ChainInfo { name: String::new(), handle: 0, base: None, uses: 0, userdata: Vec::new() };
    let (mut policy, mut chain_kind, mut hook) = (Policy::Accept, None, None);
    if family != table.family {
        return Some(None);
    }
    for attribute in attributes {
        match attribute.kind {
            NFTA_CHAIN_TABLE if attribute.str()? != table.name => return Some(None),
            NFTA_CHAIN_NAME => chain.name = attribute.str()?.to_string(),
            NFTA_CHAIN_HANDLE => chain.handle = attribute.be64()?,
            NFTA_CHAIN_USE => chain.uses = attribute.be32()?,
            NFTA_CHAIN_USERDATA => chain.userdata = attribute.value.to_vec(),
            NFTA_CHAIN_POLICY if attribute.be32()? == 0 => policy = Policy::Drop,
            NFTA_CHAIN_TYPE => chain_kind = read_kind(attribute.str()?),
            NFTA_CHAIN_HOOK => hook = read_hook(attribute),
            _ => {}
        }
    }
    if let (Some(kind), Some((hook, priority))) = (chain_kind, hook) {
        chain.base = Some(Base { kind, hook, priority, policy });
    }
    Some(Some(chain))
}

fn read_kind(name: &str) -> Option<ChainKind> {
    [ChainKind::Filter, ChainKind::Nat, ChainKind::Route].into_iter().find(|kind| kind.name() == name)
}

fn read_hook(attribute: Attribute<'_>) -> Option<(Hook, i32)> {
    let hook = match attribute.nested().find(NFTA_HOOK_HOOKNUM)?.be32()? {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        4 => Hook::Postrouting,
        _ => return None,
    };
    Some((hook, attribute.nested().find(NFTA_HOOK_PRIORITY)?.be32()?.cast_signed()))
}

impl ChainInfo {
    /// Whether it is what `chain` asks for, so that adding it would change nothing.
    pub fn is(&self, chain: &Chain<'_>) -> bool {
        self.name == chain.name && self.base == chain.base && self.userdata == chain.userdata
    }
}
