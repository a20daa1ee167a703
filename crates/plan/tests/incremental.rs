//! The plan kept up to date change by change is the plan made from nothing, for any history.

use model::*;
use plan::{Aside, BackendKey, Planner, Settings, rules, rules_beside};
use proptest::prelude::*;
use sample::{change, settings};
use std::collections::HashMap;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_is_whole(settings in settings(), history in proptest::collection::vec(change(), 1..40), batch in 1usize..5) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings.clone());
        // What somebody who only sees the deltas believes.
        let mut told = HashMap::new();
        for changes in history.chunks(batch) {
            let mut touched = Touched::default();
            for change in changes {
                touched.merge(cluster.apply(change.clone()));
            }
            for delta in planner.update(&cluster, &touched) {
                prop_assert_ne!(&delta.before, &delta.after);
                let name = delta.before.as_ref().or(delta.after.as_ref()).map(|r| r.name.clone()).unwrap();
                let was = match delta.after {
                    Some(after) => told.insert(name, after),
                    None => told.remove(&name),
                };
                prop_assert_eq!(was, delta.before);
            }
            let whole = rules(&cluster, &settings);
            prop_assert_eq!(&planner.rules(), &whole);
            prop_assert_eq!(told.clone().into_iter().collect::<std::collections::BTreeMap<_, _>>(), whole.services);
        }
    }

    /// The same while backends are set aside and come back; nobody loses more than half of a pool.
    #[test]
    fn incremental_is_whole_beside(
        settings in settings(),
        history in proptest::collection::vec((change(), proptest::collection::vec((20u8..26, any::<bool>()), 0..4)), 1..30),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings.clone());
        let mut told = std::collections::BTreeMap::new();
        for (change, aside) in history {
            let key = |(n, udp)| match udp {
                false => BackendKey { protocol: Protocol::Tcp, at: ([10, 1, 0, n], 8080).into() },
                true => BackendKey { protocol: Protocol::Udp, at: ([10, 1, 0, n], 53).into() },
            };
            let aside: Aside = aside.into_iter().map(key).collect();
            let touched = cluster.apply(change);
            let mut deltas = planner.update(&cluster, &touched);
            deltas.extend(planner.set_aside(&cluster, aside.clone()));
            for delta in deltas {
                let name = delta.before.as_ref().or(delta.after.as_ref()).map(|r| r.name.clone()).unwrap();
                let was = match delta.after {
                    Some(after) => told.insert(name, after),
                    None => told.remove(&name),
                };
                prop_assert_eq!(was, delta.before);
            }
            let whole = rules_beside(&cluster, &settings, &aside);
            prop_assert_eq!(&planner.rules(), &whole);
            prop_assert_eq!(&told, &whole.services);
            // Against the plan in which nobody is.
            let full = rules(&cluster, &settings);
            for (with, without) in whole.services.values().zip(full.services.values()) {
                for (with, without) in with.ports.iter().zip(&without.ports) {
                    for (with, without) in [(&with.cluster, &without.cluster), (&with.local, &without.local)] {
                        prop_assert!(2 * with.len() >= without.len());
                        prop_assert!(with.iter().all(|backend| without.contains(backend)));
                    }
                    prop_assert_eq!(&with.frontends, &without.frontends);
                }
            }
        }
    }

    /// No frontend is held by two Services, whatever they ask for.
    #[test]
    fn frontends_have_one_holder(history in proptest::collection::vec(change(), 1..40)) {
        let mut cluster = Cluster::new();
        for change in history {
            cluster.apply(change);
        }
        let rules = rules(&cluster, &Settings { node_name: "n1".into(), ..Settings::default() });
        let mut holders = HashMap::new();
        for port in rules.services.values().flat_map(|s| &s.ports) {
            for frontend in &port.frontends {
                let key = (port.family, port.protocol(), frontend.at);
                let other = holders.insert(key, port.name.clone());
                prop_assert_eq!(other, None, "{:?}", key);
            }
        }
    }

    /// The plan does not depend on the order in which objects arrive.
    #[test]
    fn order_does_not_matter(objects in proptest::collection::vec(change(), 1..20)) {
        let settings = Settings { node_name: "n1".into(), ..Settings::default() };
        let mut last = HashMap::new();
        for change in objects {
            if let Change::Apply(object) = change {
                last.insert(object.key(), object);
            }
        }
        let mut objects: Vec<_> = last.into_values().collect();
        let plan = |objects: &[Object]| {
            let mut cluster = Cluster::new();
            for object in objects {
                cluster.apply(Change::Apply(object.clone()));
            }
            rules(&cluster, &settings)
        };
        let forwards = plan(&objects);
        objects.reverse();
        prop_assert_eq!(forwards, plan(&objects));
    }
}
