//! A table's fixed program as a value: its chains, their rules, its sets, not what is in them.
//!
//! What the kernel has is compared with it by a fingerprint that each rule carries in its user data
//! beside its comment, so that a program that is right is left alone and one that somebody changed
//! is put right in one transaction. Both the nftables plane and the table beside IPVS are such.

use netlink::nftables::{
    Base, Batch, Chain, ChainInfo, Datatype, Expression, Family, Hook, RuleInfo, Set, SetData, SetInfo,
    Table, userdata,
};
use netlink::{Netfilter, Socket};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainSpec {
    /// Its name.
    pub(crate) name: String,
    /// Where packets enter it, if not from other chains only.
    pub(crate) base: Option<Base>,
    /// Its rules in order.
    pub(crate) rules: Vec<Rule>,
}

/// A rule: what it says and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What `nft list` prints behind it.
    pub(crate) comment: String,
    /// What it does.
    pub(crate) expressions: Vec<Expression>,
}

/// A set or map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetSpec {
    /// Its name.
    pub(crate) name: String,
    /// The parts of its key.
    pub(crate) key: Vec<Datatype>,
    /// What it maps to.
    pub(crate) data: SetValue,
    /// For those that rules write to.
    pub(crate) dynamic: Option<Dynamic>,
}

/// What is decided of a set that rules write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// How many elements it may come to.
    pub(crate) most: u32,
    /// How often the kernel collects those that have expired or that rules have deleted, if not as it
    /// likes.
    pub(crate) collect_every: Option<Duration>,
}

/// What a set maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetValue {
    /// Nothing: it is a plain set.
    Nothing,
    /// Data.
    Data(Vec<Datatype>),
    /// A verdict.
    Verdict,
}

impl SetSpec {
    /// As the wire has it.
    pub(crate) fn set(&self) -> Set<'_> {
        let set = match &self.data {
            SetValue::Nothing => Set::new(&self.name, &self.key),
            SetValue::Data(parts) => Set::map(&self.name, &self.key, SetData::Value(parts)),
            SetValue::Verdict => Set::map(&self.name, &self.key, SetData::Verdict),
        };
        match self.dynamic {
            // The rules say how long an element lives, so the set itself has no time-out to give.
            Some(Dynamic { most, collect_every }) => Set {
                dynamic: true,
                timeout: Some(Duration::ZERO),
                gc_interval: collect_every,
                size: Some(most),
                ..set
            },
            None => set,
        }
    }
}

/// The whole program of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its chains: those that others jump to come first.
    pub(crate) chains: Vec<ChainSpec>,
    /// Its sets.
    pub(crate) sets: Vec<SetSpec>,
}

/// What the kernel has in place of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Installed {
    /// Chains with the fingerprints of their rules; `None` for a rule that is not ours.
    pub(crate) chains: BTreeMap<String, (Option<Base>, Vec<Option<Fingerprint>>)>,
    /// Sets.
    pub(crate) sets: BTreeMap<String, SetInfo>,
}

/// What a rule does, in eight bytes.
pub(crate) type Fingerprint = [u8; 8];

/// The type of our entry in a rule's user data. `nft` passes over types it does not know.
const FINGERPRINT: u8 = 0x50;

/// The user data of a rule: its comment and its fingerprint.
pub(crate) fn rule_userdata(table: Table<'_>, rule: &Rule) -> Vec<u8> {
    let mut bytes = if rule.comment.is_empty() { Vec::new() } else { userdata::comment(&rule.comment) };
    let fingerprint = fingerprint(table, rule);
    bytes.extend([FINGERPRINT, fingerprint.len() as u8]);
    bytes.extend(fingerprint);
    bytes
}

fn fingerprint(table: Table<'_>, rule: &Rule) -> Fingerprint {
    // The rule as it goes over the wire, comment included, is what it is.
    let mut batch = Batch::new();
    batch.add_rule(table, "", &rule.expressions, &userdata::comment(&rule.comment));
    let digest: [u8; 32] = Sha256::digest(batch.as_bytes()).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

/// The fingerprint that a rule carries, if it is one of ours.
pub(crate) fn read_fingerprint(rule: &RuleInfo) -> Option<Fingerprint> {
    let mut rest = &rule.userdata[..];
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == FINGERPRINT {
            return value.try_into().ok();
        }
        rest = tail.get(value.len()..)?;
    }
    None
}

impl Installed {
    /// Reads what the kernel has.
    pub(crate) fn read(
        socket: &mut netlink::Socket<netlink::Netfilter>,
        table: Table<'_>,
    ) -> Result<Installed, netlink::Error> {
        let mut installed = Installed::default();
        for set in netlink::nftables::sets(socket, table)? {
            installed.sets.insert(set.name.clone(), set);
        }
        for chain in netlink::nftables::chains(socket, table)? {
            installed.chains.insert(chain.name, (chain.base, Vec::new()));
        }
        for rule in netlink::nftables::rules(socket, table, None)? {
            if let Some((_, rules)) = installed.chains.get_mut(&rule.chain) {
                rules.push(read_fingerprint(&rule));
            }
        }
        Ok(installed)
    }
}

/// Whether sets that are there have another shape than the program's: only a new table helps.
pub(crate) fn needs_new_table(installed: &Installed, program: &Program) -> bool {
    program.sets.iter().any(|set| installed.sets.get(&set.name).is_some_and(|has| !has.is(&set.set())))
}

/// Writes what makes the kernel have the program, and returns what that is in words: nothing when it
/// has it already. Chains and sets that the program does not have go.
pub(crate) fn install(
    table: Table<'_>,
    installed: &Installed,
    program: &Program,
    batch: &mut Batch,
) -> Vec<String> {
    let mut said = Vec::new();
    for set in program.sets.iter().filter(|set| !installed.sets.contains_key(&set.name)) {
        batch.add_set(table, &set.set());
        said.push(format!("+ set {}", set.name));
    }
    let mut write = Vec::new();
    for chain in &program.chains {
        let fingerprints = || chain.rules.iter().map(|rule| Some(fingerprint(table, rule)));
        match installed.chains.get(&chain.name) {
            Some((base, rules)) if *base == chain.base && rules.iter().copied().eq(fingerprints()) => {}
            Some((base, _)) if *base == chain.base => {
                batch.flush_chain(table, &chain.name);
                said.push(format!("~ chain {}", chain.name));
                write.push(chain);
            }
            other => {
                if other.is_some() {
                    // A base chain cannot change its hook; nothing jumps to one, so it can go first.
                    batch.flush_chain(table, &chain.name);
                    batch.delete_chain(table, &chain.name);
                }
                batch.add_chain(table, &Chain { name: &chain.name, base: chain.base, userdata: &[] });
                said.push(format!("+ chain {}", chain.name));
                write.push(chain);
            }
        }
    }
    let strange_chains =
        installed.chains.keys().filter(|name| !program.chains.iter().any(|c| c.name == **name));
    let strange_chains: Vec<_> = strange_chains.collect();
    strange_chains.iter().for_each(|name| batch.flush_chain(table, name));
    for chain in write {
        for rule in &chain.rules {
            batch.add_rule(table, &chain.name, &rule.expressions, &rule_userdata(table, rule));
        }
    }
    for name in strange_chains {
        batch.delete_chain(table, name);
        said.push(format!("- chain {name}"));
    }
    for name in installed.sets.keys().filter(|name| !program.sets.iter().any(|s| s.name == **name)) {
        batch.delete_set(table, name);
        said.push(format!("- set {name}"));
    }
    said
}

/// How long a packet may need for its way through a table that it has entered.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// Takes a table away through which packets may be on their way: first where they enter it, then, a moment
/// later, the rest. In one commit a packet that has just entered would find maps empty, which end at once
/// (`nft_map_deactivate`), and sets not yet: no Service, but the address of one, and be refused. Connections
/// that are known go on, and the first packets of others still have their source translated.
pub(crate) fn remove_table(socket: &mut Socket<Netfilter>, table: Table<'_>) -> Result<(), netlink::Error> {
    let mut batch = Batch::new();
    let entrance = |chain: &ChainInfo| chain.base.is_some_and(|base| base.hook != Hook::Postrouting);
    for chain in netlink::nftables::chains(socket, table)?.iter().filter(|chain| entrance(chain)) {
        batch.delete_chain(table, &chain.name);
    }
    if !batch.is_empty() {
        batch.commit(socket, &format_args!("unhook nftables table {table}"), None)?;
        std::thread::sleep(ON_THE_WAY);
        batch.clear();
    }
    batch.delete_table(table);
    batch.commit(socket, &format_args!("remove nftables table {table}"), None)
}

/// A table of one family.
pub(crate) fn table(family: model::Family, name: &'static str) -> Table<'static> {
    Table { family: nft_family(family), name }
}

/// The family as nftables has it.
pub(crate) fn nft_family(family: model::Family) -> Family {
    match family {
        model::Family::V4 => Family::Ip,
        model::Family::V6 => Family::Ip6,
    }
}
