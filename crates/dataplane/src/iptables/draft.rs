//! From what the tables have to what Services ask for: the steps of one part, made one by one and
//! written as they come.

use super::half::Sink;
use super::held::{Effect, Held, fingerprint, line_print};
use super::image::{Gate, Options, PortNames, chains, lines};
use super::name::{Chain, Table};
use super::rule::Rule;
use super::steps::{PARTS, Step, line_parts};
use model::{Family, ObjectName};
use plan::ServiceRules;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What one Service, or nobody in particular, wants changed.
pub(super) enum Work<'a> {
    Service(Option<&'a ServiceRules>, Option<&'a ServiceRules>),
    Steps([Vec<Step>; PARTS]),
}

impl Work<'_> {
    pub(super) fn owner(&self) -> Option<ObjectName> {
        match self {
            Work::Service(before, after) => after.or(*before).map(|rules| rules.name.clone()),
            Work::Steps(_) => None,
        }
    }
}

/// How often anybody asks for a line.
pub(super) type Wanted = HashMap<(Gate, u64), u32>;

/// How much text is gathered before it is poured.
const POUR: usize = 64 << 10;

/// Writes steps, and notes what they do.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) comments: bool,
    pub(super) text: String,
    pub(super) lines: usize,
    pub(super) steps: usize,
    /// Lines that are no declarations.
    pub(super) rules: usize,
    pub(super) effects: Vec<Effect>,
    put: HashSet<(Gate, u64)>,
    taken: HashSet<(Gate, u64)>,
}

impl Writer {
    pub(super) fn head(&mut self, table: Table) {
        self.text.push_str(&format!("*{table}\n"));
        self.lines += 1;
    }

    pub(super) fn pour(&mut self, sink: Sink<'_>, all: bool) {
        if all || self.text.len() >= POUR {
            sink(&self.text);
            self.text.clear();
        }
    }

    /// Declares the chain of a step.
    pub(super) fn declare(&mut self, step: &Step) {
        self.lines += step.declare(&mut self.text);
    }

    /// Writes a step whose chain is declared. Lines that several Services share are put, and taken, once.
    pub(super) fn step(&mut self, step: Step) {
        let new = match &step {
            Step::Insert(table, chain, rule) | Step::Append(table, chain, rule) => {
                Gate::at(*table, *chain).is_none_or(|gate| self.put.insert((gate, line_print(rule))))
            }
            Step::Delete(table, chain, rule) => {
                Gate::at(*table, *chain).is_none_or(|gate| self.taken.insert((gate, line_print(rule))))
            }
            Step::Put(..) | Step::Flush(..) | Step::Drop(..) => true,
        };
        if !new {
            return;
        }
        let lines = step.write(&mut self.text, self.comments);
        self.lines += lines;
        self.rules += lines;
        self.steps += 1;
        let comment = |rule: &Rule| rule.comment.clone().filter(|_| self.comments);
        let effect = match step {
            Step::Put(_, chain, rules) => Some(Effect::Chain(chain, Some(fingerprint(&rules)))),
            Step::Drop(_, chain) => Some(Effect::Chain(chain, None)),
            Step::Flush(table, chain) => Gate::at(table, chain).map(Effect::Clear),
            Step::Insert(table, chain, rule) | Step::Append(table, chain, rule) => Gate::at(table, chain)
                .map(|gate| match gate.is_last(&rule) {
                    true => Effect::Last(gate, rule, true),
                    false => Effect::Line(gate, line_print(&rule), Some(comment(&rule))),
                }),
            Step::Delete(table, chain, rule) => {
                Gate::at(table, chain).map(|gate| match gate.is_last(&rule) {
                    true => Effect::Last(gate, rule, false),
                    false => Effect::Line(gate, line_print(&rule), None),
                })
            }
        };
        self.effects.extend(effect);
    }
}

/// What it takes from what the tables have to what works ask for, in one part.
pub(super) struct Drafter<'a> {
    pub(super) family: Family,
    pub(super) options: &'a Options,
    pub(super) has: &'a Held,
    pub(super) wanted: &'a Wanted,
    pub(super) part: usize,
    pub(super) anew: &'a BTreeSet<Gate>,
}

impl Drafter<'_> {
    /// Whether a gate is written anew in this part. A filter's is so in the last, after what is
    /// missing was added in the first.
    pub(super) fn rewrites(&self, gate: Gate) -> bool {
        let (table, _) = gate.place();
        self.anew.contains(&gate) && self.part == if table == Table::Nat { 1 } else { PARTS - 1 }
    }

    /// Whether a work has nothing to do in this part.
    pub(super) fn is_idle(&self, work: &Work<'_>) -> bool {
        let mut idle = true;
        self.draft(work, &mut |_| idle = false);
        idle
    }

    pub(super) fn draft(&self, work: &Work<'_>, put: &mut impl FnMut(Step)) {
        match work {
            Work::Steps(parts) => {
                // What a gate that is written anew should lose or gain, it does in any case.
                let moot = |step: &Step| match step {
                    Step::Delete(table, chain, _) | Step::Append(table, chain, _) => {
                        Gate::at(*table, *chain).is_some_and(|gate| self.anew.contains(&gate))
                    }
                    _ => false,
                };
                let steps = parts.get(self.part).map_or(&[][..], Vec::as_slice);
                steps.iter().filter(|step| !moot(step)).cloned().for_each(put);
            }
            Work::Service(before, after) => self.service(*before, *after, put),
        }
    }

    fn service(
        &self,
        before: Option<&ServiceRules>,
        after: Option<&ServiceRules>,
        put: &mut impl FnMut(Step),
    ) {
        let mut kept = HashSet::new();
        if let Some(service) = after
            && self.part == 1
        {
            self.chains(service, &mut |chain, rules| {
                kept.insert(chain);
                if self.has.chains.get(&chain) != Some(&fingerprint(&rules)) {
                    put(Step::Put(Table::Nat, chain, rules));
                }
            });
        }
        if let Some(service) = after {
            lines(service, self.family, self.options, &mut |gate, rule| self.line(gate, rule, put));
        }
        if let Some(service) = before {
            lines(service, self.family, self.options, &mut |gate, rule| {
                let (table, chain) = gate.place();
                let key = (gate, line_print(&rule));
                let (_, go) = line_parts(gate);
                if go != self.part || self.wanted.contains_key(&key) {
                    return;
                }
                if let Some(comment) = self.has.lines.get(&key) {
                    // The program takes a rule out by its whole text.
                    put(Step::Delete(table, chain, Rule { comment: comment.clone(), ..rule }));
                }
            });
        }
        if self.part == 1 {
            let mut gone = Vec::new();
            if let Some(service) = before {
                self.chains(service, &mut |chain, _| {
                    if !kept.contains(&chain) && self.has.chains.contains_key(&chain) {
                        gone.push(chain);
                    }
                });
            }
            gone.iter().for_each(|chain| put(Step::Flush(Table::Nat, *chain)));
            gone.iter().for_each(|chain| put(Step::Drop(Table::Nat, *chain)));
        }
    }

    fn line(&self, gate: Gate, rule: Rule, put: &mut impl FnMut(Step)) {
        let (table, chain) = gate.place();
        if self.rewrites(gate) {
            return put(Step::Append(table, chain, rule));
        }
        let (come, _) = line_parts(gate);
        if come == self.part && !self.has.lines.contains_key(&(gate, line_print(&rule))) {
            put(Step::Insert(table, chain, rule));
        }
    }

    fn chains(&self, service: &ServiceRules, visit: &mut impl FnMut(Chain, Vec<Rule>)) {
        for port in service.ports.iter().filter(|p| p.family == self.family) {
            chains(&PortNames::of(service, port), port, self.options, visit);
        }
    }
}
