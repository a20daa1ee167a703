//! Steps lead from any image to any other, and on the way no frontend does what neither the old nor
//! the new plan says; also when the kernel refuses one step in ten.

use super::super::fake::Fake;
use super::super::half::{Half, Tables};
use super::super::ruleset::{Balancer, Options};
use super::super::walk::walk;
use super::*;
use model::{Cluster, Family, Touched};
use plan::{NodeRules, Packet, Planner, Rules, Settings, VerdictKind, rules};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

fn half() -> Half<Fake> {
    Half::new(Family::V4, Fake::default())
}

fn options(node: &NodeRules) -> Options {
    Options { node: node.clone(), drop_invalid: true, balancer: Balancer::Maps }
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
