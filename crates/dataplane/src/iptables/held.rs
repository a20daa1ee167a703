//! What the tables have, remembered as fingerprints: enough to know what to write, and at 20,000
//! Services a hundredth of the text.

use super::image::Gate;
use super::name::{Chain, Table};
use super::rule::{Rule, Target};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

/// What becomes of a line of `iptables-save`.
#[derive(Clone, Copy, Debug)]
pub enum Saved<'a> {
    /// There is such a chain, by its name.
    Chain(&'a str),
    /// It holds this rule next.
    Rule(&'a str, &'a str),
}

/// What the tables have, as far as we know.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Chains of Services, by what is in them.
    pub(super) chains: HashMap<Chain, u64>,
    /// Lines in gates, with their comments.
    pub(super) lines: HashMap<(Gate, u64), Option<Box<str>>>,
    /// The rules at the ends of gates.
    pub(super) last: BTreeMap<Gate, Vec<Rule>>,
    /// The rest, and the rules that lead to it.
    pub(super) program: BTreeMap<(Table, Chain), Vec<Rule>>,
    /// Gates in which there is more wrong than a line too many or too few.
    pub(super) crooked: BTreeSet<Gate>,
    /// A kubelet looks after chains of its own, one of which it shares with us.
    pub(super) kubelet: bool,
}

/// What is left over in the tables.
pub(super) type Strays = HashMap<(Gate, u64), Rule>;

/// The lowest bits of a chain's fingerprint are how many rules it has, up to this.
const RULES_MAX: u64 = 0xffff;

/// What is in a chain.
pub(super) fn fingerprint(rules: &[Rule]) -> u64 {
    rules.iter().fold(0, next_fingerprint)
}

fn next_fingerprint(before: u64, rule: &Rule) -> u64 {
    let count = (before & RULES_MAX) + 1;
    hash(before, rule) & !RULES_MAX | count.min(RULES_MAX)
}

/// What one line is.
pub(super) fn line_print(rule: &Rule) -> u64 {
    hash(0, rule)
}

fn hash(before: u64, rule: &Rule) -> u64 {
    let mut hasher = DefaultHasher::new();
    before.hash(&mut hasher);
    rule.hash(&mut hasher);
    hasher.finish()
}

/// What a step does to what we know.
pub(super) enum Effect {
    Chain(Chain, Option<u64>),
    Line(Gate, u64, Option<Option<Box<str>>>),
    Clear(Gate),
    Last(Gate, Rule, bool),
}

/// Reads a rule of a chain that we know of. Of the kernel's own chains only those count that lead to
/// ours; a rule of ours that nobody understands becomes one that nobody wants.
pub(super) fn read_rule(chain: Chain, text: &str) -> Option<Rule> {
    let rule = Rule::read(text);
    if chain.is_ours() {
        return Some(rule.unwrap_or_default());
    }
    rule.filter(|rule| matches!(rule.target, Some(Target::Jump(to)) if to.is_ours()))
}

/// Chains by which a kubelet is known.
const KUBELETS: [&str; 2] = ["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"];

impl Held {
    /// Whether there is the same in both.
    pub(super) fn is_as(&self, other: &Held) -> bool {
        let same_ends = Gate::ALL.iter().all(|gate| {
            let [a, b] = [self, other].map(|held| held.last.get(gate).map_or(&[][..], Vec::as_slice));
            a.len() == b.len() && a.iter().all(|rule| b.contains(rule))
        });
        let has = |place: &(Table, Chain)| self.program.get(place).map_or(&[][..], Vec::as_slice);
        // Chains that we share with others may hold more.
        let shared = |chain: Chain| !chain.is_ours() || chain == Chain::Firewall;
        let whole = other.program.iter().all(|(place, rules)| match shared(place.1) {
            true => rules.iter().all(|rule| has(place).contains(rule)),
            false => self.program.contains_key(place) && has(place) == *rules,
        });
        let same_lines = self.lines.len() == other.lines.len()
            && self.lines.keys().all(|key| other.lines.contains_key(key));
        self.crooked.is_empty() && self.chains == other.chains && same_lines && same_ends && whole
    }

    /// How many rules of ours a table has.
    pub(super) fn rules(&self, table: Table) -> usize {
        let of_services: u64 = match table {
            Table::Nat => self.chains.values().map(|print| print & RULES_MAX).sum(),
            Table::Filter | Table::Mangle => 0,
        };
        let gates = |gate: &Gate| gate.place().0 == table;
        let lines = self.lines.keys().filter(|(gate, _)| gates(gate)).count();
        let last = self.last.iter().filter(|(gate, _)| gates(gate)).map(|(_, rules)| rules.len());
        let program = self.program.iter().filter(|((of, _), _)| *of == table).map(|(_, rules)| rules.len());
        usize::try_from(of_services).unwrap_or(usize::MAX) + lines + last.chain(program).sum::<usize>()
    }

    pub(super) fn take(&mut self, table: Table, saved: Saved<'_>, strays: &mut Strays) {
        match saved {
            Saved::Chain(name) => {
                self.kubelet |= KUBELETS.contains(&name);
                match name.parse() {
                    Ok(chain @ Chain::Of(..)) if table == Table::Nat => {
                        self.chains.entry(chain).or_insert(0);
                    }
                    Ok(Chain::Of(..)) | Err(_) => {}
                    Ok(chain) => {
                        self.program.entry((table, chain)).or_default();
                    }
                }
            }
            Saved::Rule(name, text) => {
                let Ok(chain) = name.parse::<Chain>() else { return };
                let Some(rule) = read_rule(chain, text) else { return };
                match Gate::at(table, chain) {
                    Some(gate) => self.take_line(gate, rule, strays),
                    None if matches!(chain, Chain::Of(..)) => {
                        let print = self.chains.entry(chain).or_insert(0);
                        *print = next_fingerprint(*print, &rule);
                    }
                    None => self.program.entry((table, chain)).or_default().push(rule),
                }
            }
        }
    }

    fn take_line(&mut self, gate: Gate, rule: Rule, strays: &mut Strays) {
        let ended = self.last.get(&gate).is_some_and(|last| !last.is_empty());
        if gate.is_last(&rule) {
            let last = self.last.entry(gate).or_default();
            if last.contains(&rule) {
                self.crooked.insert(gate);
            }
            last.push(rule);
            return;
        }
        let key = (gate, line_print(&rule));
        let twice = self.lines.insert(key, rule.comment.clone()).is_some();
        if ended || twice || rule.target.is_none() {
            self.crooked.insert(gate);
        }
        strays.insert(key, rule);
    }

    pub(super) fn note(&mut self, effect: Effect) {
        match effect {
            Effect::Chain(chain, Some(print)) => {
                self.chains.insert(chain, print);
            }
            Effect::Chain(chain, None) => {
                self.chains.remove(&chain);
            }
            Effect::Line(gate, print, Some(comment)) => {
                self.lines.insert((gate, print), comment);
            }
            Effect::Line(gate, print, None) => {
                self.lines.remove(&(gate, print));
            }
            Effect::Clear(gate) => {
                self.lines.retain(|(other, _), _| *other != gate);
                self.last.remove(&gate);
                self.crooked.remove(&gate);
            }
            Effect::Last(gate, rule, true) => self.last.entry(gate).or_default().push(rule),
            Effect::Last(gate, rule, false) => {
                self.last.entry(gate).or_default().retain(|other| *other != rule);
            }
        }
    }
}
