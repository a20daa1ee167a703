//! The plane of one family at work: what its tables have, what the Services ask for, and the
//! restores between.
//!
//! What the tables have is remembered as fingerprints of chains, not as their text, and what is
//! written is rendered Service by Service on its way to the program that reads it: at 20,000
//! Services the text is some 100 MB, and never in one place.

use super::draft::{Drafter, Wanted, Work, Writer};
use super::held::{Held, Strays, line_print, read_rule};
use super::image::{
    COMMENTED_ENDPOINTS_MAX, ClusterIps, Gate, Image, Options, PortNames, chains, last_lines, lines,
};
use super::name::{Chain, Table};
use super::program::program;
use super::rule::{Rule, Target};
use super::steps::{PARTS, Step, line_parts};
use crate::{Error, Report};
use model::Family;
use plan::{Delta, PoolKind, ServiceRules};
use std::collections::{BTreeSet, HashSet};

pub use super::held::Saved;

/// So many lines too many in a gate, and it is written anew: to take one out, the program compares
/// it with all.
const STRAYS_MAX: usize = 64;
/// So many restores are tried to find out whose lines are refused; then the rest counts as refused.
const TRIES_MAX: u32 = 64;

/// A restore that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was said.
    pub what: String,
    /// The line that was refused, from 1, if it was told.
    pub line: Option<usize>,
    /// It was not for what is in it: another one holds the lock, or the program cannot run.
    pub in_general: bool,
}

/// How many rules of ours one table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The family.
    pub family: Family,
    /// nat or filter.
    pub table: Table,
    /// All of them.
    pub total: usize,
    /// So many were written in the last sync.
    pub last: usize,
}

/// What takes text, piece by piece.
pub type Sink<'a> = &'a mut dyn FnMut(&str);

/// The kernel's tables of one family, or what stands in for them.
pub trait Tables {
    /// Reads one table.
    fn read(&mut self, table: Table, visit: &mut dyn FnMut(Saved<'_>)) -> Result<(), Error>;
    /// How many Services' chains should be written in one restore at most, where they are all new.
    fn services_at_once(&self) -> usize;
    /// Restores what `feed` writes; all of each table in it, or nothing.
    fn restore(&mut self, feed: &mut dyn FnMut(Sink<'_>)) -> Result<(), Refusal>;
}

/// The plane of one family.
#[derive(Debug)]
pub struct Half<T> {
    family: Family,
    tables: T,
    options: Options,
    has: Held,
    wanted: Wanted,
    cluster_ips: ClusterIps,
    endpoints: usize,
    /// How many rules were written in the last sync, to nat and to filter.
    written: [usize; 2],
}

impl<T: Tables> Half<T> {
    /// A plane over tables that nothing is known of yet.
    pub fn new(family: Family, options: Options, tables: T) -> Half<T> {
        Half {
            family,
            tables,
            options,
            has: Held::default(),
            wanted: Wanted::new(),
            cluster_ips: ClusterIps::default(),
            endpoints: 0,
            written: [0; 2],
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What is decided for it.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The tables.
    pub fn tables(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Reads what the tables hold; `None` where there is nothing of ours.
    pub fn image(&mut self) -> Result<Option<Image>, Error> {
        let mut image = Image::default();
        for table in Table::ALL {
            self.tables.read(table, &mut |saved| match saved {
                Saved::Chain(name) => {
                    if let Ok(chain) = name.parse::<Chain>() {
                        image.chains.entry((table, chain)).or_default();
                    }
                }
                Saved::Rule(name, text) => {
                    let Ok(chain) = name.parse::<Chain>() else { return };
                    let rules = image.chains.entry((table, chain)).or_default();
                    rules.extend(read_rule(chain, text));
                }
            })?;
        }
        Ok((!image.is_empty()).then_some(image))
    }

    /// Makes the tables hold what these Services ask for, whatever they hold now, touching only
    /// what is wrong.
    pub fn reconcile<'a>(
        &mut self,
        options: Options,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        self.written = [0; 2];
        self.options = options;
        let mut strays = self.read()?;
        self.install(&mut report)?;
        self.wanted = Wanted::new();
        self.cluster_ips = ClusterIps::default();
        self.endpoints = 0;
        let mut kept: HashSet<Chain> = HashSet::new();
        for service in services.clone() {
            self.count(service, true);
            self.each_chain(service, &mut |chain, _| {
                kept.insert(chain);
            });
        }
        strays.retain(|key, _| !self.wanted.contains_key(key));
        let anew = self.to_be_rewritten(&strays);
        // By name, so that where a Service stands does not depend on chance.
        let mut sorted: Vec<&ServiceRules> = services.collect();
        sorted.sort_unstable_by_key(|service| service.name.words());
        if !anew.contains(&Gate::Services) {
            // The last one inserted comes first.
            sorted.reverse();
        }
        strays.retain(|(gate, _), _| !anew.contains(gate));
        let leftovers = self.leftovers(strays, &kept);
        drop(kept);
        let works = sorted.into_iter().map(|service| Work::Service(None, Some(service)));
        let mut works: Vec<Work<'_>> = [self.new_ends()].into_iter().chain(works).collect();
        if anew.is_empty() {
            // Nothing is taken away before all is there, so it need not be one restore.
            let at_once = self.tables.services_at_once().max(1);
            for piece in works.chunks(at_once) {
                self.run(piece, &anew, &mut report);
            }
            self.run(&[leftovers], &anew, &mut report);
        } else {
            works.push(leftovers);
            self.run(&works, &anew, &mut report);
        }
        self.uninstall(&mut report);
        Ok(report)
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        self.written = [0; 2];
        for delta in deltas {
            delta.after.iter().for_each(|rules| self.count(rules, true));
            delta.before.iter().for_each(|rules| self.count(rules, false));
        }
        let works = deltas.iter().map(|delta| Work::Service(delta.before.as_deref(), delta.after.as_deref()));
        let mut works: Vec<Work<'_>> = works.collect();
        let at_once = self.tables.services_at_once().max(1);
        if works.len() > at_once {
            // What comes, piece by piece, before anything goes: one Service may have what another had.
            let come =
                deltas.iter().filter_map(|delta| Some(Work::Service(None, Some(delta.after.as_deref()?))));
            for piece in come.collect::<Vec<_>>().chunks(at_once) {
                self.run(piece, &BTreeSet::new(), &mut report);
            }
            self.run(&[self.new_ends()], &BTreeSet::new(), &mut report);
            for piece in works.chunks(at_once) {
                self.run(piece, &BTreeSet::new(), &mut report);
            }
            return report;
        }
        works.push(self.new_ends());
        self.run(&works, &BTreeSet::new(), &mut report);
        report
    }

    /// Whether the tables hold what we left in them.
    pub fn is_unchanged(&mut self) -> Result<bool, Error> {
        let mut has = Held::default();
        for table in Table::ALL {
            self.tables.read(table, &mut |saved| has.take(table, saved, &mut Strays::new()))?;
        }
        Ok(has.is_as(&self.has))
    }

    /// How many chains and lines of Services the tables hold, as far as we know.
    pub fn size(&self) -> usize {
        self.has.chains.len() + self.has.lines.len()
    }

    /// How many rules of ours are in the tables, and how many of them the last sync wrote.
    pub fn rule_counts(&self) -> [RuleCount; 2] {
        let [nat, filter] = self.written;
        let of = |table, last| RuleCount { family: self.family, table, total: self.has.rules(table), last };
        [of(Table::Nat, nat), of(Table::Filter, filter)]
    }

    /// Reads what the tables hold, and returns all lines in gates.
    fn read(&mut self) -> Result<Strays, Error> {
        let mut has = Held::default();
        let mut strays = Strays::new();
        for table in Table::ALL {
            self.tables.read(table, &mut |saved| has.take(table, saved, &mut strays))?;
        }
        self.has = has;
        Ok(strays)
    }

    /// Puts right what is there whatever the Services.
    fn install(&mut self, report: &mut Report) -> Result<(), Error> {
        let program = program(&self.options, self.family);
        let mut steps = Vec::new();
        for ((table, chain), rules) in program.iter().filter(|((_, chain), _)| chain.is_ours()) {
            let there = self.has.program.get(&(*table, *chain));
            match there {
                None => steps.push(Step::Put(*table, *chain, rules.clone())),
                Some(_) if Gate::at(*table, *chain).is_some() => {}
                // Older kubelets have rules in there, too.
                Some(there) if *chain == Chain::Firewall => {
                    let missing = rules.iter().filter(|rule| !there.contains(rule));
                    steps.extend(missing.map(|rule| Step::Append(*table, *chain, rule.clone())));
                }
                Some(there) if there != rules => steps.push(Step::Put(*table, *chain, rules.clone())),
                Some(_) => {}
            }
        }
        for ((table, chain), rules) in program.iter().filter(|((_, chain), _)| !chain.is_ours()) {
            let there = self.has.program.get(&(*table, *chain)).map_or(&[][..], Vec::as_slice);
            // The last one inserted comes first.
            let missing = rules.iter().rev().filter(|rule| !there.contains(rule));
            steps.extend(missing.map(|rule| Step::Insert(*table, *chain, rule.clone())));
        }
        if !steps.is_empty() {
            steps.sort_by_key(Step::table);
            report.commits +=
                restore_steps(&mut self.tables, &steps).map_err(|refusal| Error::Restore(refusal.what))?;
            report.program.extend(steps.iter().map(ToString::to_string));
        }
        // What is right now is what is looked for later.
        for (place, rules) in program {
            let there = self.has.program.entry(place).or_default();
            match place.1.is_ours() {
                true => *there = rules,
                false => {
                    let new: Vec<Rule> = rules.into_iter().filter(|rule| !there.contains(rule)).collect();
                    there.extend(new);
                }
            }
        }
        Ok(())
    }

    /// Takes away what no longer belongs to the program.
    fn uninstall(&mut self, report: &mut Report) {
        let program = program(&self.options, self.family);
        let shared = |chain: Chain| chain == Chain::Firewall && self.has.kubelet;
        let mut steps = Vec::new();
        for ((table, chain), rules) in self.has.program.iter().filter(|((_, chain), _)| !chain.is_ours()) {
            let wanted = program.get(&(*table, *chain)).map_or(&[][..], Vec::as_slice);
            for (index, rule) in rules.iter().enumerate() {
                let Some(Target::Jump(to)) = rule.target else { continue };
                let twice = rules.iter().take(index).any(|other| other == rule);
                if (twice || !wanted.contains(rule)) && !shared(to) {
                    steps.push(Step::Delete(*table, *chain, rule.clone()));
                }
            }
        }
        let gone = self.has.program.keys().filter(|place| place.1.is_ours() && !program.contains_key(place));
        let gone: Vec<_> = gone.copied().filter(|(_, chain)| !shared(*chain)).collect();
        steps.extend(gone.iter().map(|(table, chain)| Step::Flush(*table, *chain)));
        steps.extend(gone.iter().map(|(table, chain)| Step::Drop(*table, *chain)));
        self.has.program = program;
        if steps.is_empty() {
            return;
        }
        steps.sort_by_key(Step::table);
        match restore_steps(&mut self.tables, &steps) {
            Ok(tables) => {
                report.commits += tables;
                report.program.extend(steps.iter().map(ToString::to_string));
            }
            Err(refusal) => report.failures.push((None, refusal.what)),
        }
    }

    /// The gates that are written anew, and not line by line.
    fn to_be_rewritten(&self, strays: &Strays) -> BTreeSet<Gate> {
        let wrong = |gate: &Gate| {
            let strays = strays.keys().filter(|(other, _)| other == gate).count();
            strays > STRAYS_MAX || self.has.crooked.contains(gate)
        };
        Gate::ALL.into_iter().filter(wrong).collect()
    }

    /// What the tables hold and no Service asks for.
    fn leftovers(&self, strays: Strays, kept: &HashSet<Chain>) -> Work<'static> {
        let mut parts: [Vec<Step>; PARTS] = Default::default();
        for ((gate, _), rule) in strays {
            let (table, chain) = gate.place();
            let (_, go) = line_parts(gate);
            if let Some(part) = parts.get_mut(go) {
                part.push(Step::Delete(table, chain, rule));
            }
        }
        let [_, nat, _] = &mut parts;
        let gone: Vec<Chain> = self.has.chains.keys().copied().filter(|c| !kept.contains(c)).collect();
        nat.extend(gone.iter().map(|chain| Step::Flush(Table::Nat, *chain)));
        nat.extend(gone.iter().map(|chain| Step::Drop(Table::Nat, *chain)));
        Work::Steps(parts)
    }

    /// What has to change at the ends of gates.
    fn new_ends(&self) -> Work<'static> {
        let mut parts: [Vec<Step>; PARTS] = Default::default();
        for gate in Gate::ALL {
            let (table, chain) = gate.place();
            let wants = last_lines(gate, self.family, &self.options, &self.cluster_ips);
            let has = self.has.last.get(&gate).map_or(&[][..], Vec::as_slice);
            let (come, _) = line_parts(gate);
            let part = if table == Table::Filter { PARTS - 1 } else { come };
            let Some(part) = parts.get_mut(part) else { continue };
            let new = wants.iter().filter(|rule| !has.contains(rule));
            part.extend(new.map(|rule| Step::Append(table, chain, rule.clone())));
            let old = has.iter().filter(|rule| !wants.contains(rule));
            part.extend(old.map(|rule| Step::Delete(table, chain, rule.clone())));
        }
        Work::Steps(parts)
    }

    fn count(&mut self, service: &ServiceRules, more: bool) {
        let Half { family, options, wanted, cluster_ips, endpoints, .. } = self;
        lines(service, *family, options, &mut |gate, rule| {
            let key = (gate, line_print(&rule));
            let uses = wanted.entry(key).or_insert(0);
            *uses = if more { *uses + 1 } else { uses.saturating_sub(1) };
            if *uses == 0 {
                wanted.remove(&key);
            }
        });
        cluster_ips.count(service, *family, options, more);
        for port in service.ports.iter().filter(|p| p.family == *family) {
            let kind = if port.uses(PoolKind::Cluster) { PoolKind::Cluster } else { PoolKind::Local };
            let count = port.pool(kind).len();
            *endpoints = if more { *endpoints + count } else { endpoints.saturating_sub(count) };
        }
    }

    fn each_chain(&self, service: &ServiceRules, visit: &mut impl FnMut(Chain, Vec<Rule>)) {
        for port in service.ports.iter().filter(|p| p.family == self.family) {
            chains(&PortNames::of(service, port), port, &self.options, visit);
        }
    }

    /// Carries works out, part by part.
    fn run(&mut self, works: &[Work<'_>], anew: &BTreeSet<Gate>, report: &mut Report) {
        let mut good: Vec<usize> = (0..works.len()).collect();
        for part in 0..PARTS {
            self.carry(part, works, &mut good, anew, report);
        }
    }

    /// Carries out one part of works. Those that are refused are left out, here and in the parts to
    /// come.
    fn carry(
        &mut self,
        part: usize,
        works: &[Work<'_>],
        good: &mut Vec<usize>,
        anew: &BTreeSet<Gate>,
        report: &mut Report,
    ) {
        let mut tries = TRIES_MAX;
        loop {
            let refusal = match self.attempt(part, works, good, anew, report) {
                Ok(()) => return,
                Err(refusal) => refusal,
            };
            tries = tries.saturating_sub(1);
            let Attempted { refusal, culprit } = refusal;
            if refusal.in_general || good.len() <= 1 || tries == 0 {
                fail(works, good, &refusal, report);
                good.clear();
                return;
            }
            let Some(culprit) = culprit else { break };
            fail(works, &[culprit], &refusal, report);
            good.retain(|index| *index != culprit);
        }
        // Nobody says whose lines are refused. Gates are not written anew while that is found out,
        // for they would lack the others' lines.
        let mut failed = HashSet::new();
        let all = std::mem::take(good);
        self.bisect(part, works, &all, &mut failed, &mut tries, report);
        *good = all.into_iter().filter(|index| !failed.contains(index)).collect();
        if !anew.is_empty()
            && let Err(Attempted { refusal, .. }) = self.attempt(part, works, good, anew, report)
        {
            report.failures.push((None, refusal.what));
        }
    }

    fn bisect(
        &mut self,
        part: usize,
        works: &[Work<'_>],
        set: &[usize],
        failed: &mut HashSet<usize>,
        tries: &mut u32,
        report: &mut Report,
    ) {
        let Err(Attempted { refusal, .. }) = self.attempt(part, works, set, &BTreeSet::new(), report) else {
            return;
        };
        *tries = tries.saturating_sub(1);
        if set.len() <= 1 || *tries == 0 || refusal.in_general {
            fail(works, set, &refusal, report);
            failed.extend(set.iter().copied());
            return;
        }
        let (left, right) = set.split_at(set.len() / 2);
        self.bisect(part, works, left, failed, tries, report);
        self.bisect(part, works, right, failed, tries, report);
    }

    /// Tries one part of these works as one restore.
    fn attempt(
        &mut self,
        part: usize,
        works: &[Work<'_>],
        set: &[usize],
        anew: &BTreeSet<Gate>,
        report: &mut Report,
    ) -> Result<(), Attempted> {
        let Half { family, tables, options, has, wanted, cluster_ips, endpoints, written } = self;
        let drafter = Drafter { family: *family, options, has, wanted, part, anew };
        let anew_here: Vec<Gate> = anew.iter().copied().filter(|gate| drafter.rewrites(*gate)).collect();
        let is_idle = |index: &usize| works.get(*index).is_none_or(|work| drafter.is_idle(work));
        if anew_here.is_empty() && set.iter().all(is_idle) {
            return Ok(());
        }
        let table = if part == 1 { Table::Nat } else { Table::Filter };
        let mut writer = Writer::default();
        writer.comments = *endpoints <= COMMENTED_ENDPOINTS_MAX;
        let mut starts: Vec<(usize, usize)> = Vec::new();
        let done = tables.restore(&mut |sink: Sink<'_>| {
            writer.head(table);
            let flushes = || anew_here.iter().map(|gate| gate.place()).map(|(t, c)| Step::Flush(t, c));
            flushes().for_each(|step| writer.declare(&step));
            let works = || set.iter().filter_map(|index| Some((*index, works.get(*index)?)));
            for (index, work) in works() {
                starts.push((writer.lines + 1, index));
                drafter.draft(work, &mut |step| writer.declare(&step));
                writer.pour(sink, false);
            }
            flushes().for_each(|step| writer.step(step));
            for (index, work) in works() {
                starts.push((writer.lines + 1, index));
                drafter.draft(work, &mut |step| writer.step(step));
                writer.pour(sink, false);
            }
            starts.push((writer.lines + 1, usize::MAX));
            for gate in &anew_here {
                let (table, chain) = gate.place();
                for rule in last_lines(*gate, *family, options, cluster_ips) {
                    writer.step(Step::Append(table, chain, rule));
                }
            }
            writer.text.push_str("COMMIT\n");
            writer.pour(sink, true);
        });
        match done {
            Ok(()) => {
                report.commits += 1;
                report.steps += writer.steps;
                written[usize::from(table == Table::Filter)] += writer.rules;
                for effect in writer.effects {
                    has.note(effect);
                }
                Ok(())
            }
            Err(refusal) => {
                let place = refusal.line.map(|line| starts.partition_point(|(start, _)| *start <= line));
                let found = place.and_then(|place| starts.get(place.checked_sub(1)?));
                let culprit = found.map(|(_, index)| *index).filter(|index| *index != usize::MAX);
                Err(Attempted { refusal, culprit })
            }
        }
    }
}

/// A restore that was refused, and for whose sake, if that was told.
struct Attempted {
    refusal: Refusal,
    culprit: Option<usize>,
}

fn fail(works: &[Work<'_>], set: &[usize], refusal: &Refusal, report: &mut Report) {
    if refusal.in_general {
        report.failures.push((None, refusal.what.clone()));
        return;
    }
    let owners = set.iter().filter_map(|index| works.get(*index)).map(Work::owner);
    report.failures.extend(owners.map(|owner| (owner, refusal.what.clone())));
}

/// Restores steps, and says of how many tables.
fn restore_steps(tables: &mut impl Tables, steps: &[Step]) -> Result<usize, Refusal> {
    let mut text = String::new();
    let mut count = 0;
    for table in Table::ALL {
        let of_table: Vec<_> = steps.iter().filter(|step| step.table() == table).collect();
        if of_table.is_empty() {
            continue;
        }
        count += 1;
        text.push_str(&format!("*{table}\n"));
        for step in &of_table {
            step.declare(&mut text);
        }
        for step in of_table {
            step.write(&mut text, true);
        }
        text.push_str("COMMIT\n");
    }
    tables.restore(&mut |sink: Sink<'_>| sink(&text))?;
    Ok(count)
}
