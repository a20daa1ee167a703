//! How one image becomes another, in three parts, each one `iptables-restore`.
//!
//! The kernel takes the changes of one table as one, but there is nothing that holds tables
//! together, and a packet passes nat before filter. So:
//!
//! 1. filter: who will be refused or dropped. As long as nat translates his packets, none fits.
//! 2. nat: all of it.
//! 3. filter: those who are no longer refused or dropped; until now nat may not have had a way for
//!    them.
//!
//! ClusterIPs at other ports go the other way round: out in part 1, in in part 3, so that the port
//! that is coming is not refused before it is there. Between any two parts a frontend does what one
//! plan says or the other, and does not turn back.

use super::image::{Gate, Image};
use super::name::{Chain, Table};
use super::rule::Rule;
use std::collections::HashSet;
use std::fmt::Write;

/// How many parts a change has.
pub(crate) const PARTS: usize = 3;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes a chain whole; makes it if need be.
    Put(Table, Chain, Vec<Rule>),
    /// Empties a chain, or makes it.
    Flush(Table, Chain),
    /// Takes an empty chain away.
    Drop(Table, Chain),
    /// Puts a rule before all others.
    Insert(Table, Chain, Rule),
    /// Puts a rule behind all others.
    Append(Table, Chain, Rule),
    /// Takes a rule out.
    Delete(Table, Chain, Rule),
}

impl Step {
    /// The table.
    pub fn table(&self) -> Table {
        match self {
            Step::Put(table, ..)
            | Step::Flush(table, _)
            | Step::Drop(table, _)
            | Step::Insert(table, ..)
            | Step::Append(table, ..)
            | Step::Delete(table, ..) => *table,
        }
    }

    /// Writes, as `iptables-restore` reads it, which chain is made or emptied, if one is. All of these
    /// lines go before all others: where they alternate, iptables-nft takes twice as long.
    pub(crate) fn declare(&self, out: &mut String) -> usize {
        let (Step::Put(_, chain, _) | Step::Flush(_, chain)) = self else { return 0 };
        // To a String, which does not fail.
        let _ = writeln!(out, ":{chain} - [0:0]");
        1
    }

    /// Writes the rest of it, and says how many lines that was.
    pub(crate) fn write(&self, out: &mut String, comments: bool) -> usize {
        let mut line = |verb: &str, chain: &Chain, rule: &Rule| {
            let _ = match comments || verb == "-D" || rule.comment.is_none() {
                true => writeln!(out, "{verb} {chain} {rule}"),
                false => writeln!(out, "{verb} {chain} {}", Rule { comment: None, ..rule.clone() }),
            };
        };
        match self {
            Step::Insert(_, chain, rule) => line("-I", chain, rule),
            Step::Append(_, chain, rule) => line("-A", chain, rule),
            Step::Delete(_, chain, rule) => line("-D", chain, rule),
            Step::Put(_, chain, rules) => {
                rules.iter().for_each(|rule| line("-A", chain, rule));
                return rules.len();
            }
            Step::Flush(..) => return 0,
            Step::Drop(_, chain) => {
                let _ = writeln!(out, "-X {chain}");
            }
        }
        1
    }

    /// Does it to an image.
    pub fn apply(&self, image: &mut Image) {
        match self {
            Step::Put(table, chain, rules) => {
                image.chains.insert((*table, *chain), rules.clone());
            }
            Step::Flush(table, chain) => {
                image.chains.insert((*table, *chain), vec![]);
            }
            Step::Drop(table, chain) => {
                image.chains.remove(&(*table, *chain));
            }
            Step::Insert(table, chain, rule) => {
                image.chains.entry((*table, *chain)).or_default().insert(0, rule.clone());
            }
            Step::Append(table, chain, rule) => {
                image.chains.entry((*table, *chain)).or_default().push(rule.clone());
            }
            Step::Delete(table, chain, rule) => {
                let rules = image.chains.entry((*table, *chain)).or_default();
                if let Some(place) = rules.iter().position(|other| other == rule) {
                    rules.remove(place);
                }
            }
        }
    }
}

/// The part in which a line comes into a gate, and the one in which it goes.
pub(crate) fn line_parts(gate: Gate) -> (usize, usize) {
    match gate {
        Gate::Services | Gate::NodePorts => (1, 1),
        Gate::ClusterIps => (2, 0),
        Gate::Rejects | Gate::ExternalRejects | Gate::Firewall | Gate::HealthChecks => (0, 2),
    }
}

/// The steps from one image to another.
pub fn steps(has: &Image, wants: &Image) -> [Vec<Step>; PARTS] {
    let mut parts: [Vec<Step>; PARTS] = Default::default();
    let [first, nat, last] = &mut parts;
    for ((table, chain), rules) in wants.chains.iter().filter(|((_, chain), _)| chain.is_ours()) {
        let part = if *table == Table::Nat { &mut *nat } else { &mut *first };
        let there = has.chains.get(&(*table, *chain));
        match Gate::at(*table, *chain) {
            Some(_) if there.is_none() => part.push(Step::Flush(*table, *chain)),
            Some(_) => {}
            None if there != Some(rules) => part.push(Step::Put(*table, *chain, rules.clone())),
            None => {}
        }
    }
    // A gate that goes whole need not go line by line.
    for gate in Gate::ALL.into_iter().filter(|gate| wants.chains.contains_key(&gate.place())) {
        gate_steps(gate, has, wants, [first, nat, last]);
    }
    for ((table, chain), rules) in wants.chains.iter().filter(|((_, chain), _)| !chain.is_ours()) {
        let part = if *table == Table::Nat { &mut *nat } else { &mut *first };
        let there = has.rules(*table, *chain);
        let missing = rules.iter().filter(|rule| !there.contains(rule));
        part.extend(missing.map(|rule| Step::Insert(*table, *chain, rule.clone())));
    }
    for ((table, chain), rules) in has.chains.iter().filter(|((_, chain), _)| !chain.is_ours()) {
        let wanted = wants.rules(*table, *chain);
        let part = if *table == Table::Nat { &mut *nat } else { &mut *last };
        let strays = rules.iter().filter(|rule| !wanted.contains(rule));
        part.extend(strays.map(|rule| Step::Delete(*table, *chain, rule.clone())));
    }
    let gone = |of: &(Table, Chain)| of.1.is_ours() && !wants.chains.contains_key(of);
    let gone: Vec<(Table, Chain)> = has.chains.keys().copied().filter(gone).collect();
    for make in [Step::Flush as fn(Table, Chain) -> Step, Step::Drop] {
        for (table, chain) in &gone {
            let part = if *table == Table::Nat { &mut *nat } else { &mut *last };
            part.push(make(*table, *chain));
        }
    }
    parts
}

fn gate_steps(gate: Gate, has: &Image, wants: &Image, parts: [&mut Vec<Step>; PARTS]) {
    let (table, chain) = gate.place();
    let (has, wants) = (has.rules(table, chain), wants.rules(table, chain));
    let (come, go) = line_parts(gate);
    let there: HashSet<&Rule> = has.iter().collect();
    let wanted: HashSet<&Rule> = wants.iter().collect();
    for (index, part) in parts.into_iter().enumerate() {
        for rule in wants.iter().filter(|rule| !there.contains(rule)) {
            // What belongs to the end of a filter chain leads on to others, which must be whole.
            let last = gate.is_last(rule);
            if index == (if last && table == Table::Filter { PARTS - 1 } else { come }) {
                let make = if last { Step::Append } else { Step::Insert };
                part.push(make(table, chain, rule.clone()));
            }
        }
        for rule in has.iter().filter(|rule| !wanted.contains(rule)) {
            let last = gate.is_last(rule) && table == Table::Filter;
            if index == (if last { PARTS - 1 } else { go }) {
                part.push(Step::Delete(table, chain, rule.clone()));
            }
        }
    }
}
