//! Tables of memory for tests, as strict as the kernel's.

use super::half::Tables;
use super::image::{Image, Jump, Pick};
use super::ruleset::Options;
use super::steps::{Element, Group, Step, dependents};
use crate::{Error, Failure};
use std::collections::BTreeSet;

/// Tables that are as strict as the kernel: what is there cannot be put, what is not cannot be
/// taken, and nothing refers to a chain that is not there.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    options: Option<Options>,
    pub(crate) image: Image,
    pub(crate) chains: BTreeSet<Pick>,
    pub(crate) lengths: BTreeSet<u8>,
    /// Refuses one step in so many; 0 for none.
    pub(crate) faults: u32,
    dice: u32,
    /// The image after each commit.
    pub(crate) history: Vec<Image>,
}

impl Fake {
    fn check(
        &self,
        image: &Image,
        chains: &BTreeSet<Pick>,
        lengths: &BTreeSet<u8>,
        step: &Step,
    ) -> Result<(), String> {
        let there = |element: &Element| match element {
            Element::Frontend(key, _) => image.frontends.contains_key(key),
            Element::Inside(key, _) => image.inside.contains_key(key),
            Element::Slot(id, index, _) => image.pools.get(id).is_some_and(|s| s.len() > *index as usize),
            Element::Living(id, slot) => image.living.contains(&(*id, *slot)),
            Element::Near(ip) => image.near.contains(ip),
            Element::ClusterIp(ip) => image.cluster_ips.contains(ip),
            Element::Source(key, network) => image.sources.contains(&(*key, *network)),
            Element::Owned(key) => image.owned.contains(key),
            Element::Earlier(number, ..) => image.earlier.contains_key(number),
        };
        let leads = |element: &Element| match element {
            Element::Frontend(key, front) => match front.last {
                Jump::Pick { .. } => image.picks.iter().any(|p| front.leads_to(key, p)),
                _ => true,
            },
            Element::Inside(key, inside) => image.picks.iter().any(|pick| inside.leads_to(key, pick)),
            Element::Source(_, network) => lengths.contains(&network.length()),
            _ => true,
        };
        let ok = match step {
            Step::Put(element) => !there(element) && leads(element),
            Step::Replace(element) => there(element) && leads(element),
            Step::Remove(element) => there(element),
            Step::AddPick(pick) => !image.picks.contains(pick),
            Step::UnlinkPick(pick) => image.picks.contains(pick),
            Step::DropPick(pick) => chains.contains(pick) && !image.picks.contains(pick),
            Step::AddSourceLength(length) => !lengths.contains(length),
            Step::DropSourceLength(length) => {
                lengths.contains(length) && !image.sources.iter().any(|(_, n)| n.length() == *length)
            }
        };
        if ok { Ok(()) } else { Err(format!("the kernel would refuse: {step}")) }
    }
}

impl Tables for Fake {
    fn options(&self) -> Option<&Options> {
        self.options.as_ref()
    }

    fn set_options(&mut self, options: Options) {
        self.options = Some(options);
    }

    fn install(&mut self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    fn read(&mut self) -> Result<Option<Image>, Error> {
        // Chains that nothing leads to are not ours to keep.
        self.chains = self.image.picks.clone();
        Ok(Some(self.image.clone()))
    }

    fn source_lengths(&self) -> BTreeSet<u8> {
        self.lengths.clone()
    }

    fn commit(&mut self, groups: &[Group]) -> Vec<Failure> {
        let mut failures: Vec<Failure> = Vec::new();
        loop {
            let (mut image, mut chains, mut lengths) =
                (self.image.clone(), self.chains.clone(), self.lengths.clone());
            let mut refused = Vec::new();
            for (index, group) in groups.iter().enumerate() {
                if failures.iter().any(|f| f.group == index) {
                    continue;
                }
                for step in &group.steps {
                    self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if self.faults > 0 && (self.dice >> 16).is_multiple_of(self.faults) {
                        refused.push(Failure { group: index, error: "no such luck".into() });
                        break;
                    }
                    if let Err(error) = self.check(&image, &chains, &lengths, step) {
                        // With faults, what others did not get done may be missing here.
                        assert!(self.faults > 0, "{error}");
                        refused.push(Failure { group: index, error });
                        break;
                    }
                    step.apply(&mut image);
                    match step {
                        Step::AddPick(pick) => drop(chains.insert(*pick)),
                        Step::DropPick(pick) => drop(chains.remove(pick)),
                        Step::AddSourceLength(length) => drop(lengths.insert(*length)),
                        Step::DropSourceLength(length) => drop(lengths.remove(length)),
                        _ => {}
                    }
                }
            }
            if refused.is_empty() {
                (self.image, self.chains, self.lengths) = (image, chains, lengths);
                self.history.push(self.image.clone());
                return failures;
            }
            let indices = refused.iter().map(|f| f.group).collect();
            for group in dependents(groups, &indices) {
                if !failures.iter().any(|f| f.group == group) {
                    refused.push(Failure { group, error: "needs that".into() });
                }
            }
            failures.append(&mut refused);
        }
    }
}
