//! The plane of one family at work: what its tables have, what the Services ask for, and the commits
//! between.
//!
//! [`Tables`] is the seam to the kernel. What it refuses is left out for the one Service concerned;
//! [`Half::reconcile`] tries again from what the kernel says it has.

use super::image::{Image, Item, ItemKey, Key, Shared, items};
use super::kernel::Kernel;
use super::ruleset::Options;
use super::steps::{Draft, Element, Group, PHASES, Step, strays};
use crate::{Error, Failure, Report};
use model::{Family, ObjectName};
use plan::{Delta, ServiceRules};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How many steps one commit has at most, give or take those of one Service: a commit is one
/// message to the kernel, and memory for it is bounded.
const COMMIT_STEPS: usize = 2048;

/// The kernel, or what stands in for it, for the tables of one family.
pub trait Tables {
    /// What of the program the configuration decides.
    fn options(&self) -> Option<&Options>;
    /// Changes that; [`Tables::install`] carries it out.
    fn set_options(&mut self, options: Options);
    /// Puts the fixed program right and says what that took: nothing when it was right.
    fn install(&mut self) -> Result<Vec<String>, Error>;
    /// Reads what the tables hold; `None` when there are none.
    fn read(&mut self) -> Result<Option<Image>, Error>;
    /// The lengths of source networks that there are sets for.
    fn source_lengths(&self) -> BTreeSet<u8>;
    /// Carries the groups out as one, without those that are refused and those that [`need`](steps::dependents)
    /// them, all of which it returns.
    fn commit(&mut self, groups: &[Group]) -> Vec<Failure>;
}

/// The plane of one family.
#[derive(Debug)]
pub struct Half<T> {
    family: Family,
    tables: T,
    has: Image,
    shared: Shared,
    source_lengths: BTreeMap<u8, u32>,
}

impl<T: Tables> Half<T> {
    /// A plane over tables that nothing is known of yet.
    pub fn new(family: Family, tables: T) -> Half<T> {
        Half {
            family,
            tables,
            has: Image::default(),
            shared: Shared::default(),
            source_lengths: BTreeMap::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The tables.
    pub fn tables(&mut self) -> &mut T {
        &mut self.tables
    }

    /// What the tables hold, as far as we know.
    pub fn image(&self) -> &Image {
        &self.has
    }

    /// Makes the tables hold what these Services ask for, whatever they hold now, touching only
    /// what is wrong.
    pub fn reconcile<'a>(
        &mut self,
        options: Options,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        if self.tables.options() != Some(&options) {
            self.tables.set_options(options);
        }
        let program = self.tables.install()?;
        let mut report = Report { commits: usize::from(!program.is_empty()), program, ..Report::default() };
        self.has = self.tables.read()?.unwrap_or_default();
        self.shared = Shared::default();
        self.source_lengths = BTreeMap::new();
        for service in services.clone() {
            self.count(service, true);
        }
        let mut drafts = Drafts::default();
        let mut lengths = Draft::new(None);
        self.new_lengths(&mut lengths);
        drafts.push(lengths);
        self.run(&mut drafts, &mut report);
        let adopted = !self.has.is_empty() || !self.has.picks.is_empty();
        for service in services.clone() {
            drafts.push(self.wants(service));
            if drafts.steps >= COMMIT_STEPS {
                self.run(&mut drafts, &mut report);
            }
        }
        self.run(&mut drafts, &mut report);
        if adopted {
            drafts.push(self.leftovers(services));
            self.run(&mut drafts, &mut report);
        }
        Ok(report)
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        let mut drafts = Drafts::default();
        let taken = self.taken(deltas);
        for chunk in deltas.chunks(DELTAS_AT_ONCE) {
            for delta in chunk {
                delta.after.iter().for_each(|rules| self.count(rules, true));
                delta.before.iter().for_each(|rules| self.count(rules, false));
            }
            let mut lengths = Draft::new(None);
            self.new_lengths(&mut lengths);
            drafts.push(lengths);
            let mut gone = Draft::new(None);
            let mut unshared = HashSet::new();
            for delta in chunk {
                drafts.push(self.turn(delta, &taken, &mut unshared));
            }
            // A count that is out of use is likely to be back with the next endpoint, and a chain less
            // or more costs the kernel a grace period. They go when everything is compared.
            let spare = self.has.picks.len() <= PICKS_MAX;
            let idle = |key: &&ItemKey| spare && matches!(key, ItemKey::Pick(_));
            unshared.iter().filter(|key| !idle(key)).for_each(|key| gone.forget(&self.has, key));
            self.old_lengths(&mut gone);
            drafts.push(gone);
            self.run(&mut drafts, &mut report);
        }
        report
    }

    /// What changed Services ask for now. One may have what another had before, and who loses it must
    /// not take it away.
    fn taken(&self, deltas: &[Delta]) -> HashSet<ItemKey> {
        let mut taken = HashSet::new();
        if deltas.len() > 1 {
            for rules in deltas.iter().filter_map(|delta| delta.after.as_ref()) {
                items(rules, self.family, |item| {
                    taken.insert(item.key());
                });
            }
        }
        taken
    }

    /// What it takes from a Service's old rules to its new ones. Shared items that nobody asks for
    /// any more go into `unshared`.
    fn turn(&self, delta: &Delta, taken: &HashSet<ItemKey>, unshared: &mut HashSet<ItemKey>) -> Draft {
        let name = delta.after.as_ref().or(delta.before.as_ref()).map(|rules| rules.name.clone());
        let mut draft = Draft::new(name);
        let mut wanted = HashSet::new();
        if let Some(after) = &delta.after {
            items(after, self.family, |item| {
                wanted.insert(item.key());
                draft.want(&self.has, &item);
            });
        }
        if let Some(before) = &delta.before {
            items(before, self.family, |item| {
                let key = item.key();
                if Shared::is_shared(&key) {
                    if !self.shared.holds(&key) {
                        unshared.insert(key);
                    }
                } else if wanted.insert(key) && !taken.contains(&key) {
                    draft.forget(&self.has, &key);
                }
            });
        }
        draft
    }

    fn wants(&self, service: &ServiceRules) -> Draft {
        let mut draft = Draft::new(Some(service.name.clone()));
        items(service, self.family, |item| draft.want(&self.has, &item));
        draft
    }

    /// What the tables hold and no Service asks for.
    fn leftovers<'a>(&self, services: impl Iterator<Item = &'a ServiceRules>) -> Draft {
        let mut wanted = HashSet::new();
        let mut living = HashSet::new();
        for service in services {
            items(service, self.family, |item| {
                wanted.insert(item.key());
                if let Item::Pool(id, slots, true) = item {
                    living.extend(slots.into_iter().map(|slot| (id, slot)));
                }
            });
        }
        let mut draft = Draft::new(None);
        for key in self.has.keys().filter(|key| !wanted.contains(key)) {
            draft.forget(&self.has, &key);
        }
        strays(&self.has, |entry| living.contains(entry), &mut draft);
        self.old_lengths(&mut draft);
        draft
    }

    fn count(&mut self, service: &ServiceRules, more: bool) {
        let Half { family, shared, source_lengths, .. } = self;
        items(service, *family, |item| {
            let key = item.key();
            shared.count(&key, more);
            if let ItemKey::Source(_, network) = key {
                let uses = source_lengths.entry(network.length()).or_insert(0);
                *uses = if more { *uses + 1 } else { uses.saturating_sub(1) };
            }
        });
        source_lengths.retain(|_, uses| *uses > 0);
    }

    fn new_lengths(&self, draft: &mut Draft) {
        let old = self.tables.source_lengths();
        let new = self.source_lengths.keys().filter(|length| !old.contains(length));
        new.for_each(|length| draft.phases[0].push(Step::AddSourceLength(*length)));
    }

    fn old_lengths(&self, draft: &mut Draft) {
        let old = self.tables.source_lengths().into_iter();
        let gone = old.filter(|length| !self.source_lengths.contains_key(length));
        gone.for_each(|length| draft.phases[PHASES - 1].push(Step::DropSourceLength(length)));
    }

    /// Carries drafts out, phase by phase, and leaves them empty.
    fn run(&mut self, drafts: &mut Drafts, report: &mut Report) {
        let mut failed: HashSet<Option<ObjectName>> = HashSet::new();
        for groups in drafts.take() {
            // Whose steps were refused has its others wait: they build upon each other.
            let groups: Vec<Group> = groups.into_iter().filter(|g| !failed.contains(&g.owner)).collect();
            let groups = once(groups);
            if groups.is_empty() {
                continue;
            }
            let failures = self.tables.commit(&groups);
            report.commits += 1;
            let refused: HashSet<usize> = failures.iter().map(|f| f.group).collect();
            for (index, group) in groups.iter().enumerate() {
                if refused.contains(&index) {
                    failed.insert(group.owner.clone());
                } else {
                    group.steps.iter().for_each(|step| step.apply(&mut self.has));
                    report.steps += group.steps.len();
                }
            }
            for failure in failures {
                let owner = groups.get(failure.group).and_then(|g| g.owner.clone());
                report.failures.push((owner, failure.error));
            }
        }
    }
}

impl Half<Kernel> {
    /// Whether the tables look right at a glance.
    pub(super) fn looks_right(&mut self) -> Result<bool, Error> {
        looks_right(&mut self.tables, &self.has)
    }
}

/// Whether tables look right at a glance: the program is as it should be (if not, it is put right at
/// once), and one element of each map is still there, so nobody has emptied it.
pub(crate) fn looks_right(tables: &mut Kernel, has: &Image) -> Result<bool, Error> {
    if !tables.install()?.is_empty() {
        return Ok(false);
    }
    let Image { frontends, inside, pools, living, near, cluster_ips, sources, picks: _, owned, earlier } =
        has;
    let pool = pools.iter().find_map(|(id, slots)| Some(Element::Slot(*id, 0, *slots.first()?)));
    let at_node = |key: &Key| matches!(key.at, plan::At::NodePort(_));
    // Each kind of frontend has a map of its own.
    let frontend = |node: bool| {
        let found = frontends.iter().find(|(key, _)| at_node(key) == node);
        found.map(|(key, front)| Element::Frontend(*key, front.clone()))
    };
    let short_circuit = |node: bool| {
        let found = inside.iter().find(|(key, _)| at_node(key) == node);
        found.map(|(key, inside)| Element::Inside(*key, *inside))
    };
    let samples = [
        frontend(false),
        frontend(true),
        short_circuit(false),
        short_circuit(true),
        pool,
        living.iter().next().map(|(id, slot)| Element::Living(*id, *slot)),
        near.iter().next().map(|ip| Element::Near(*ip)),
        cluster_ips.iter().next().map(|ip| Element::ClusterIp(*ip)),
        sources.iter().next().map(|(key, network)| Element::Source(*key, *network)),
        owned.iter().next().map(|key| Element::Owned(*key)),
        earlier.iter().next().map(|(number, value)| Element::Earlier(*number, *value, "")),
    ];
    for sample in samples.into_iter().flatten() {
        if !tables.holds(&sample)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many pick chains there may be before those out of use go at once.
pub(crate) const PICKS_MAX: usize = 256;

/// How many Services' changes are committed together.
const DELTAS_AT_ONCE: usize = 128;

/// Items that several Services ask for are put once, before all else, and what is nobody's in
/// particular stands or falls step by step.
pub(crate) fn once(groups: Vec<Group>) -> Vec<Group> {
    let mut seen = HashSet::new();
    let mut common = Vec::new();
    let mut own = Vec::new();
    for mut group in groups {
        if group.owner.is_none() {
            common.append(&mut group.steps);
            continue;
        }
        group.steps.retain(|step| match step.shared_key() {
            Some(key) => {
                if seen.insert(key) {
                    common.push(step.clone());
                }
                false
            }
            None => true,
        });
        if !group.steps.is_empty() {
            own.push(group);
        }
    }
    let common = common.into_iter().map(|step| Group { owner: None, steps: vec![step] });
    common.chain(own).collect()
}

/// Drafts that will share their commits.
#[derive(Default)]
struct Drafts {
    phases: [Vec<Group>; PHASES],
    steps: usize,
}

impl Drafts {
    fn push(&mut self, draft: Draft) {
        self.steps += draft.len();
        for (groups, steps) in self.phases.iter_mut().zip(draft.phases) {
            if !steps.is_empty() {
                groups.push(Group { owner: draft.owner.clone(), steps });
            }
        }
    }

    fn take(&mut self) -> [Vec<Group>; PHASES] {
        self.steps = 0;
        std::mem::take(&mut self.phases)
    }
}
