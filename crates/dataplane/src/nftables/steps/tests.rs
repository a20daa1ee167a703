//! Steps lead from any image to any other, and on the way no frontend does what neither the old nor
//! the new plan says; also when the kernel refuses one step in ten.

use super::super::half::{Half, Tables};
use super::super::ruleset::Options;
use super::super::walk::walk;
use super::*;
use crate::{Error, Failure};
use model::{Cluster, Family, Touched};
use plan::{NodeRules, Packet, Planner, Rules, Settings, VerdictKind, rules};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

/// Tables that are as strict as the kernel: what is there cannot be put, what is not cannot be
/// taken, and nothing refers to a chain that is not there.
#[derive(Debug, Default)]
struct Fake {
    options: Option<Options>,
    image: Image,
    chains: BTreeSet<Pick>,
    lengths: BTreeSet<u8>,
    /// Refuses one step in so many; 0 for none.
    faults: u32,
    dice: u32,
    /// The image after each commit.
    history: Vec<Image>,
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
        };
        let leads = |element: &Element| match element {
            Element::Frontend(key, front) => match front.last {
                super::super::image::Jump::Pick { .. } => image.picks.iter().any(|p| front.leads_to(key, p)),
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

fn half() -> Half<Fake> {
    Half::new(Family::V4, Fake::default())
}

fn options(node: &NodeRules) -> Options {
    Options { node: node.clone(), drop_invalid: true }
}

fn plan_of(changes: &[model::Change], settings: &Settings) -> Rules {
    let mut cluster = Cluster::new();
    for change in changes {
        cluster.apply(change.clone());
    }
    rules(&cluster, settings)
}

/// What an image does with packets to a frontend, from outside and from a node.
fn behaviour(image: &Image, node: &NodeRules, key: &Key) -> Vec<(VerdictKind, BTreeSet<Slot>)> {
    let node_address = "192.168.0.1".parse().unwrap();
    let (to, port) = match key.at {
        plan::At::Address(ip, port) => (ip, port),
        plan::At::NodePort(port) => (node_address, port),
    };
    let node = NodeRules {
        node_port_networks: vec!["0.0.0.0/0".parse().unwrap()],
        service_cidrs: vec![],
        ..node.clone()
    };
    let from = |from: &str| {
        let packet =
            Packet { from: from.parse().unwrap(), interface: None, to, port, protocol: key.protocol };
        let walk = walk(image, &node, &[node_address], &packet);
        (walk.kind, walk.backends.into_iter().collect())
    };
    vec![from("203.0.113.7"), from("192.168.0.1")]
}

fn keys(rules: &Rules) -> HashSet<Key> {
    let ports = rules.services.values().flat_map(|s| &s.ports).filter(|p| p.family == Family::V4);
    ports.flat_map(|p| p.frontends.iter().map(|f| Key { at: f.at, protocol: p.protocol() })).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_turn_one_image_into_the_other(
        settings in sample::settings(),
        a in proptest::collection::vec(sample::change(), 0..20),
        b in proptest::collection::vec(sample::change(), 0..20),
    ) {
        let (a, b) = (plan_of(&a, &settings), plan_of(&b, &settings));
        let (a, b) = (Image::of(&a, Family::V4), Image::of(&b, Family::V4));
        let mut image = a.clone();
        for commit in steps(&a, &b) {
            commit.iter().flat_map(|group| &group.steps).for_each(|step| step.apply(&mut image));
        }
        prop_assert_eq!(&image, &b);
        prop_assert!(steps(&b, &b).is_empty());
        prop_assert!(steps(&image, &b).is_empty());
    }

    #[test]
    fn incremental_is_whole(
        settings in sample::settings(),
        history in proptest::collection::vec(sample::change(), 1..40),
        batch in 1usize..6,
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let mut half = half();
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        for changes in history.chunks(batch) {
            let mut touched = Touched::default();
            changes.iter().for_each(|change| touched.merge(cluster.apply(change.clone())));
            let before = planner.rules();
            let deltas = planner.update(&cluster, &touched);
            let after = planner.rules();
            half.tables().history.clear();
            let was = half.image().clone();
            let report = half.apply(&deltas);
            prop_assert_eq!(report.failures, vec![]);
            let wants = Image::of(&after, Family::V4);
            prop_assert_eq!(half.image(), &wants);
            prop_assert_eq!(&half.tables().image, &wants);
            prop_assert!(half.tables().chains.is_superset(&wants.picks));
            prop_assert_eq!(half.tables().source_lengths(), wants.source_lengths());
            // On the way, every frontend did as the old plan says, or as the new one does.
            let history = std::mem::take(&mut half.tables().history);
            for key in keys(&before).intersection(&keys(&after)) {
                let old = behaviour(&was, &before.node, key);
                let new = behaviour(&wants, &after.node, key);
                let mut turned = false;
                for image in &history {
                    let now = behaviour(image, &after.node, key);
                    prop_assert!(now == new || (!turned && now == old), "{key}: {old:?}, then {now:?}, then {new:?}");
                    turned |= now == new && old != new;
                }
            }
            // Once more from what the kernel has: nothing to do but to sweep chains out of use.
            let services: Vec<_> = after.services.values().cloned().collect();
            half.reconcile(options(&after.node), services.iter().map(|s| &**s)).unwrap();
            prop_assert_eq!(&half.tables().chains, &wants.picks);
            let report = half.reconcile(options(&after.node), services.iter().map(|s| &**s)).unwrap();
            prop_assert!(report.is_quiet(), "{report:?}");
        }
    }

    #[test]
    fn adopts_whatever_is_there(
        settings in sample::settings(),
        a in proptest::collection::vec(sample::change(), 0..20),
        b in proptest::collection::vec(sample::change(), 0..20),
        holes in proptest::collection::vec(0usize..4, 0..4),
    ) {
        let (a, b) = (plan_of(&a, &settings), plan_of(&b, &settings));
        let mut half = half();
        let services: Vec<_> = a.services.values().cloned().collect();
        half.reconcile(options(&a.node), services.iter().map(|s| &**s)).unwrap();
        // Somebody took elements out, as with `nft delete element`.
        for (slots, hole) in half.tables().image.pools.values_mut().zip(holes) {
            if hole + 1 < slots.len() {
                slots[hole] = Slot::HOLE;
            }
        }
        let services: Vec<_> = b.services.values().cloned().collect();
        half.tables().faults = 0;
        half.reconcile(options(&b.node), services.iter().map(|s| &**s)).unwrap();
        prop_assert_eq!(half.image(), &Image::of(&b, Family::V4));
        half.reconcile(options(&b.node), std::iter::empty()).unwrap();
        prop_assert!(half.image().is_empty());
        prop_assert!(half.tables().chains.is_empty() && half.tables().lengths.is_empty());
    }

    #[test]
    fn converges_though_one_step_in_ten_is_refused(
        settings in sample::settings(),
        history in proptest::collection::vec(sample::change(), 1..30),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let mut half = half();
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        half.tables().faults = 10;
        let mut failed = false;
        for change in history {
            let touched = cluster.apply(change);
            let deltas = planner.update(&cluster, &touched);
            failed |= !half.apply(&deltas).failures.is_empty();
        }
        let rules = planner.rules();
        let services: Vec<_> = rules.services.values().cloned().collect();
        let retry = |half: &mut Half<Fake>| {
            half.reconcile(options(&rules.node), services.iter().map(|s| &**s)).unwrap().failures.is_empty()
        };
        let mut tries = 0;
        while failed && !retry(&mut half) {
            tries += 1;
            prop_assert!(tries < 200, "still not there");
        }
        prop_assert_eq!(half.image(), &Image::of(&rules, Family::V4));
        prop_assert_eq!(&half.tables().image, &Image::of(&rules, Family::V4));
    }
}

#[test]
fn a_change_of_one_endpoint_is_a_few_steps() {
    let slots = |numbers: std::ops::Range<u8>| -> Vec<Slot> {
        numbers.map(|n| Slot { address: [10, 0, 0, n].into(), port: 80 }).collect()
    };
    let mut has = Image::default();
    for pool in 0..1000 {
        has.put(Item::Pool(PoolId(pool), slots(1..100), false));
    }
    let mut draft = Draft::new(None);
    draft.want(&has, &Item::Pool(PoolId(7), slots(2..101), false));
    assert_eq!(draft.len(), 1, "one comes, one goes: {:?}", draft.phases);
    let mut draft = Draft::new(None);
    draft.want(&has, &Item::Pool(PoolId(7), slots(2..100), false));
    assert_eq!(draft.len(), 2, "the last takes the place of who went: {:?}", draft.phases);
}
