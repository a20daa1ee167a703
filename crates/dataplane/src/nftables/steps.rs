//! From one image to another, in three commits that lose no packet:
//!
//! 1. everything new comes, frontends turn to it, what must not be reached any more is cut off;
//! 2. what nothing refers to any more goes (a packet under way may have read the old count of a
//!    pool, so its last slots outlive the commit that shrank it);
//! 3. chains and sets that are empty of use go (older kernels count references lazily).
//!
//! Steps of several Services share commits. Each Service's steps are a [`Group`], so that a refusal
//! by the kernel holds up no other's.

use super::image::{Front, Image, Inside, Item, ItemKey, Key, Pick};
use crate::PoolId;
use crate::pool::{Slot, reseat};
use model::{ObjectName, Prefix};
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// A frontend.
    Frontend(Key, Front),
    /// A short circuit.
    Inside(Key, Inside),
    /// A place in a pool.
    Slot(PoolId, u32, Slot),
    /// A backend that remembered clients may go back to.
    Living(PoolId, Slot),
    /// A backend that may be its own client.
    Near(IpAddr),
    /// A ClusterIP.
    ClusterIp(IpAddr),
    /// A network whose clients a frontend serves.
    Source(Key, Prefix),
    /// A virtual server of IPVS that is ours.
    Owned(Key),
    /// How one of the kernel's switches stood before we set it, and its name.
    Earlier(u32, u32, &'static str),
}

/// The smallest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enters an element that is not there.
    Put(Element),
    /// Enters an element in place of one with the same key.
    Replace(Element),
    /// Takes an element out.
    Remove(Element),
    /// Makes a pick chain and the way to it.
    AddPick(Pick),
    /// Takes the way to a pick chain away.
    UnlinkPick(Pick),
    /// Takes the chain away.
    DropPick(Pick),
    /// Makes the set for source networks of one length, and its rule.
    AddSourceLength(u8),
    /// Takes them away.
    DropSourceLength(u8),
}

/// Steps that stand or fall together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The Service they are for; `None` for what is everybody's or nobody's any more.
    pub owner: Option<ObjectName>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Steps that take effect at once, as one.
pub type Commit = Vec<Group>;

/// A pool of fewer backends is kept in just as much memory as it needs.
const SMALL_POOL: usize = 64;

/// The number of commits that a change takes.
pub(crate) const PHASES: usize = 3;

/// What one Service, or nobody, has to do in each of the commits.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The Service.
    pub owner: Option<ObjectName>,
    /// The steps of each commit.
    pub phases: [Vec<Step>; PHASES],
}

impl Draft {
    /// A draft with nothing in it.
    pub fn new(owner: Option<ObjectName>) -> Draft {
        Draft { owner, phases: Default::default() }
    }

    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.phases.iter().map(Vec::len).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn first(&mut self, step: Step) {
        self.phases[0].push(step);
    }

    fn second(&mut self, step: Step) {
        self.phases[1].push(step);
    }

    fn third(&mut self, step: Step) {
        self.phases[2].push(step);
    }

    /// Adds what makes `has` hold this item. Items that others refer to must come first.
    pub fn want(&mut self, has: &Image, item: &Item) {
        match item {
            Item::Frontend(key, front) => {
                let element = Element::Frontend(*key, front.clone());
                match has.frontends.get(key) {
                    Some(old) if old == front => {}
                    Some(_) => self.first(Step::Replace(element)),
                    None => self.first(Step::Put(element)),
                }
            }
            Item::Inside(key, inside) => {
                let element = Element::Inside(*key, *inside);
                match has.inside.get(key) {
                    Some(old) if old == inside => {}
                    Some(_) => self.first(Step::Replace(element)),
                    None => self.first(Step::Put(element)),
                }
            }
            Item::Pool(id, slots, sticky) => self.want_pool(has, *id, slots, *sticky),
            Item::Near(ip) => {
                if !has.near.contains(ip) {
                    self.first(Step::Put(Element::Near(*ip)));
                }
            }
            Item::ClusterIp(ip) => {
                if !has.cluster_ips.contains(ip) {
                    self.first(Step::Put(Element::ClusterIp(*ip)));
                }
            }
            Item::Source(key, network) => {
                if !has.sources.contains(&(*key, *network)) {
                    self.first(Step::Put(Element::Source(*key, *network)));
                }
            }
            Item::Pick(pick) => {
                if !has.picks.contains(pick) {
                    self.first(Step::AddPick(*pick));
                }
            }
        }
    }

    fn want_pool(&mut self, has: &Image, id: PoolId, wants: &[Slot], sticky: bool) {
        let old = has.pools.get(&id).map_or(&[][..], Vec::as_slice);
        let after = reseat(old, wants);
        for (index, slot) in (0u32..).zip(&after) {
            let element = Element::Slot(id, index, *slot);
            match old.get(index as usize) {
                Some(seated) if seated == slot => {}
                Some(seated) if !seated.is_hole() => self.first(Step::Replace(element)),
                _ => self.first(Step::Put(element)),
            }
        }
        if sticky {
            for slot in wants.iter().filter(|slot| !has.living.contains(&(id, **slot))) {
                self.first(Step::Put(Element::Living(id, *slot)));
            }
        }
        let staying: HashSet<&Slot> = if sticky { wants.iter().collect() } else { HashSet::new() };
        for slot in old.iter().filter(|slot| !staying.contains(slot) && has.living.contains(&(id, **slot))) {
            self.first(Step::Remove(Element::Living(id, *slot)));
        }
        // From the end on, so that a pool has no holes in between.
        let rest: Vec<_> = (0u32..).zip(old).skip(after.len()).collect();
        for (index, slot) in rest.into_iter().rev().filter(|(_, slot)| !slot.is_hole()) {
            self.second(Step::Remove(Element::Slot(id, index, *slot)));
        }
    }

    /// Adds what makes `has` not hold this item.
    pub fn forget(&mut self, has: &Image, key: &ItemKey) {
        match key {
            ItemKey::Frontend(key) => {
                if let Some(front) = has.frontends.get(key) {
                    self.first(Step::Remove(Element::Frontend(*key, front.clone())));
                }
            }
            ItemKey::Inside(key) => {
                if let Some(inside) = has.inside.get(key) {
                    self.first(Step::Remove(Element::Inside(*key, *inside)));
                }
            }
            ItemKey::Pool(id) => self.want_pool(has, *id, &[], false),
            ItemKey::Near(ip) => {
                if has.near.contains(ip) {
                    self.second(Step::Remove(Element::Near(*ip)));
                }
            }
            ItemKey::ClusterIp(ip) => {
                if has.cluster_ips.contains(ip) {
                    self.second(Step::Remove(Element::ClusterIp(*ip)));
                }
            }
            ItemKey::Source(key, network) => {
                if has.sources.contains(&(*key, *network)) {
                    self.second(Step::Remove(Element::Source(*key, *network)));
                }
            }
            ItemKey::Pick(pick) => {
                if has.picks.contains(pick) {
                    self.second(Step::UnlinkPick(*pick));
                    self.third(Step::DropPick(*pick));
                }
            }
        }
    }
}

/// The steps from one image to another.
pub fn steps(has: &Image, wants: &Image) -> Vec<Commit> {
    let mut draft = Draft::new(None);
    let (old_lengths, new_lengths) = (has.source_lengths(), wants.source_lengths());
    new_lengths.difference(&old_lengths).for_each(|length| draft.first(Step::AddSourceLength(*length)));
    wants.items().for_each(|item| draft.want(has, &item));
    let wanted: HashSet<ItemKey> = wants.keys().collect();
    for key in has.keys().filter(|key| !wanted.contains(key)) {
        draft.forget(has, &key);
    }
    strays(has, |entry| wants.living.contains(entry), &mut draft);
    old_lengths.difference(&new_lengths).for_each(|length| draft.third(Step::DropSourceLength(*length)));
    let commits = draft.phases.into_iter().filter(|steps| !steps.is_empty());
    commits.map(|steps| vec![Group { owner: None, steps }]).collect()
}

/// Groups that lead to chains and sets which the refused ones would have made.
pub(super) fn dependents(groups: &[Group], refused: &BTreeSet<usize>) -> BTreeSet<usize> {
    let steps = || refused.iter().filter_map(|index| groups.get(*index)).flat_map(|group| &group.steps);
    let picks: Vec<_> =
        steps().filter_map(|s| if let Step::AddPick(pick) = s { Some(*pick) } else { None }).collect();
    let lengths: Vec<_> = steps()
        .filter_map(|s| if let Step::AddSourceLength(length) = s { Some(*length) } else { None })
        .collect();
    let needs = |step: &Step| match step {
        Step::Put(element) | Step::Replace(element) => match element {
            Element::Frontend(key, front) => picks.iter().any(|pick| front.leads_to(key, pick)),
            Element::Inside(key, inside) => picks.iter().any(|pick| inside.leads_to(key, pick)),
            Element::Source(_, network) => lengths.contains(&network.length()),
            _ => false,
        },
        _ => false,
    };
    if picks.is_empty() && lengths.is_empty() {
        return BTreeSet::new();
    }
    let dependents = groups.iter().enumerate().filter(|(_, group)| group.steps.iter().any(needs));
    dependents.map(|(index, _)| index).filter(|index| !refused.contains(index)).collect()
}

/// Living backends of no pool: only another's hand leaves such.
pub(crate) fn strays(has: &Image, wanted: impl Fn(&(PoolId, Slot)) -> bool, draft: &mut Draft) {
    let seated = |(id, slot): &(PoolId, Slot)| has.pools.get(id).is_some_and(|slots| slots.contains(slot));
    for entry in has.living.iter().filter(|entry| !seated(entry) && !wanted(entry)) {
        draft.first(Step::Remove(Element::Living(entry.0, entry.1)));
    }
}

impl Step {
    /// The item that it puts, if several Services may ask for it.
    pub(crate) fn shared_key(&self) -> Option<ItemKey> {
        match self {
            Step::Put(Element::Near(ip)) => Some(ItemKey::Near(*ip)),
            Step::Put(Element::ClusterIp(ip)) => Some(ItemKey::ClusterIp(*ip)),
            Step::AddPick(pick) => Some(ItemKey::Pick(*pick)),
            _ => None,
        }
    }

    /// Does to an image what the step does to the kernel.
    pub fn apply(&self, image: &mut Image) {
        match self {
            Step::Put(element) | Step::Replace(element) => put(image, element.clone()),
            Step::Remove(element) => remove(image, element),
            Step::AddPick(pick) => {
                image.picks.insert(*pick);
            }
            Step::UnlinkPick(pick) => {
                image.picks.remove(pick);
            }
            Step::DropPick(_) | Step::AddSourceLength(_) | Step::DropSourceLength(_) => {}
        }
    }
}

fn put(image: &mut Image, element: Element) {
    match element {
        Element::Frontend(key, front) => {
            image.frontends.insert(key, front);
        }
        Element::Inside(key, inside) => {
            image.inside.insert(key, inside);
        }
        Element::Slot(id, index, slot) => {
            let slots = image.pools.entry(id).or_default();
            match slots.get_mut(index as usize) {
                Some(seat) => *seat = slot,
                None => {
                    // Pools are many and hardly grow: no room in advance.
                    if slots.len() < SMALL_POOL {
                        slots.reserve_exact(1);
                    }
                    slots.push(slot);
                }
            }
        }
        Element::Living(id, slot) => {
            image.living.insert((id, slot));
        }
        Element::Near(ip) => {
            image.near.insert(ip);
        }
        Element::ClusterIp(ip) => {
            image.cluster_ips.insert(ip);
        }
        Element::Source(key, network) => {
            image.sources.insert((key, network));
        }
        Element::Owned(key) => {
            image.owned.insert(key);
        }
        Element::Earlier(number, value, _) => {
            image.earlier.insert(number, value);
        }
    }
}

fn remove(image: &mut Image, element: &Element) {
    match element {
        Element::Frontend(key, _) => {
            image.frontends.remove(key);
        }
        Element::Inside(key, _) => {
            image.inside.remove(key);
        }
        Element::Slot(id, index, _) => {
            // Slots go from the end on; what is behind this one are holes.
            if let Some(slots) = image.pools.get_mut(id) {
                slots.truncate(*index as usize);
                while slots.last().is_some_and(Slot::is_hole) {
                    slots.pop();
                }
                if slots.is_empty() {
                    image.pools.remove(id);
                }
            }
        }
        Element::Living(id, slot) => {
            image.living.remove(&(*id, *slot));
        }
        Element::Near(ip) => {
            image.near.remove(ip);
        }
        Element::ClusterIp(ip) => {
            image.cluster_ips.remove(ip);
        }
        Element::Source(key, network) => {
            image.sources.remove(&(*key, *network));
        }
        Element::Owned(key) => {
            image.owned.remove(key);
        }
        Element::Earlier(number, ..) => {
            image.earlier.remove(number);
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Put(element) => write!(f, "+ {element}"),
            Step::Replace(element) => write!(f, "~ {element}"),
            Step::Remove(element) => write!(f, "- {element}"),
            Step::AddPick(pick) => write!(f, "+ chain {pick}"),
            Step::UnlinkPick(pick) => write!(f, "- way to chain {pick}"),
            Step::DropPick(pick) => write!(f, "- chain {pick}"),
            Step::AddSourceLength(length) => write!(f, "+ set sources-{length}"),
            Step::DropSourceLength(length) => write!(f, "- set sources-{length}"),
        }
    }
}

#[cfg(test)]
mod tests;
