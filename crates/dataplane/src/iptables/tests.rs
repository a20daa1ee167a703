//! The plane of one family over tables of memory that read what `iptables-restore` reads and are as
//! strict: whatever the history, what is there is what the plan asks for, and on the way no frontend
//! does what neither plan says.

use super::half::{Half, Refusal, Saved, Sink, Tables};
use super::image::{Image, Options};
use super::name::{Chain, Table};
use super::rule::{Rule, Target};
use super::walk::walk;
use crate::Error;
use model::{Change, Cluster, Family};
use plan::{At, NodeRules, Packet, Planner, Rules, VerdictKind};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Tables of memory.
#[derive(Debug, Default)]
struct Fake {
    image: Image,
    /// After each table of each restore.
    history: Vec<Image>,
    /// Lines with this are refused, and where that is told.
    refused: Option<(&'static str, bool)>,
    restores: usize,
    lines: usize,
}

fn refusal(what: impl Into<String>, line: Option<usize>) -> Refusal {
    Refusal { what: what.into(), line, in_general: false }
}

impl Fake {
    fn line(image: &mut Image, table: Table, line: &str) -> Result<(), String> {
        let chain = |name: &str| name.parse::<Chain>().map_err(|_| format!("strange chain {name}"));
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.strip_suffix(" - [0:0]").ok_or("an odd chain")?;
            image.chains.insert((table, chain(name)?), vec![]);
            return Ok(());
        }
        let (verb, rest) = line.split_at_checked(3).ok_or("a short line")?;
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let place = (table, chain(name)?);
        if verb == "-X " {
            let leads = |rule: &Rule| rule.target == Some(Target::Jump(place.1));
            let used = image.chains.iter().any(|((t, _), rules)| *t == table && rules.iter().any(leads));
            return match image.chains.remove(&place) {
                Some(rules) if rules.is_empty() && !used => Ok(()),
                _ => Err(format!("{name} is not there, not empty, or in use")),
            };
        }
        let rule = Rule::read(text).ok_or("a rule that cannot be read back")?;
        if rule.to_string() != text.trim() {
            return Err(format!("read back as {rule}"));
        }
        if let Some(Target::Jump(to)) = rule.target
            && !image.chains.contains_key(&(table, to))
        {
            return Err(format!("{to} is not there"));
        }
        let rules = match place.1.is_ours() {
            true => image.chains.get_mut(&place).ok_or(format!("{name} is not there"))?,
            false => image.chains.entry(place).or_default(),
        };
        match verb {
            "-A " => rules.push(rule),
            "-I " => rules.insert(0, rule),
            "-D " => {
                let same = |other: &Rule| *other == rule && other.comment == rule.comment;
                let at = rules.iter().position(same).ok_or("no such rule")?;
                rules.remove(at);
            }
            _ => return Err(format!("{verb} is no verb")),
        }
        Ok(())
    }
}

impl Tables for Fake {
    fn services_at_once(&self) -> usize {
        2
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(Saved<'_>)) -> Result<(), Error> {
        for ((_, chain), rules) in self.image.chains.iter().filter(|((t, _), _)| *t == table) {
            let name = chain.to_string();
            visit(Saved::Chain(&name));
            rules.iter().for_each(|rule| visit(Saved::Rule(&name, &rule.to_string())));
        }
        Ok(())
    }

    fn restore(&mut self, feed: &mut dyn FnMut(Sink<'_>)) -> Result<(), Refusal> {
        let mut text = String::new();
        feed(&mut |piece| text.push_str(piece));
        self.restores += 1;
        let mut at: Option<(Table, Image)> = None;
        for (index, line) in text.lines().enumerate() {
            self.lines += 1;
            if let Some((word, told)) = self.refused
                && line.contains(word)
            {
                return Err(refusal("refused", told.then_some(index + 1)));
            }
            let table = line.strip_prefix('*').and_then(|n| Table::ALL.into_iter().find(|t| t.name() == n));
            match (&mut at, table, line) {
                (None, Some(table), _) => at = Some((table, self.image.clone())),
                (Some(_), None, "COMMIT") => {
                    if let Some((_, image)) = at.take() {
                        self.history.push(image.clone());
                        self.image = image;
                    }
                }
                (Some((table, image)), None, line) => {
                    let done = Fake::line(image, *table, line);
                    done.map_err(|what| refusal(format!("{line}: {what}"), None))?;
                }
                _ => return Err(refusal(format!("{line} at an odd place"), None)),
            }
        }
        if at.is_some() { Err(refusal("no COMMIT", None)) } else { Ok(()) }
    }
}

fn options(node: &NodeRules) -> Options {
    Options { node: node.clone(), drop_invalid: true, mark: 0x4000, random_fully: true }
}

fn half() -> Half<Fake> {
    Half::new(Family::V4, Options::default(), Fake::default())
}

fn changes(cluster: &mut Cluster, changes: Vec<Change>) -> model::Touched {
    let mut touched = model::Touched::default();
    changes.into_iter().for_each(|change| touched.merge(cluster.apply(change)));
    touched
}

fn fate(image: &Image, rules: &Rules, at: At, protocol: model::Protocol) -> (VerdictKind, Vec<SocketAddr>) {
    let node_address = IpAddr::from([172, 18, 0, 2]);
    let to = match at {
        At::Address(ip, port) => SocketAddr::new(ip, port),
        At::NodePort(port) => SocketAddr::new(node_address, port),
    };
    let from = IpAddr::from([203, 0, 113, 9]);
    let packet = Packet { from, interface: None, to: to.ip(), port: to.port(), protocol };
    let verdict = walk(image, &rules.node, &[node_address], &packet).verdict;
    let backends = verdict.backends.iter().map(|slot| SocketAddr::new(slot.address, slot.port));
    (verdict.kind, backends.collect())
}

fn frontends(rules: &Rules) -> BTreeSet<(At, u8)> {
    let ports = rules.services.values().flat_map(|s| &s.ports).filter(|p| p.family == Family::V4);
    ports.flat_map(|p| p.frontends.iter().map(|f| (f.at, p.protocol().number()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the history, incremental = whole; between two tables a frontend that is in both
    /// plans does what the one says or the other, and does not turn back; a process that starts
    /// finds nothing to do.
    #[test]
    fn histories(
        history in proptest::collection::vec(proptest::collection::vec(sample::change(), 1..6), 1..8),
        settings in sample::settings(),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let mut half = half();
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        for batch in history {
            let before = planner.rules();
            let touched = changes(&mut cluster, batch);
            let deltas = planner.update(&cluster, &touched);
            let after = planner.rules();
            half.tables().history.clear();
            let first = half.tables().image.clone();
            let report = if before.node == after.node {
                half.apply(&deltas)
            } else {
                half.reconcile(options(&after.node), after.services.values().map(|s| &**s)).unwrap()
            };
            prop_assert_eq!(&report.failures, &vec![]);
            let wants = Image::of(&after, Family::V4, &options(&after.node));
            prop_assert!(half.tables().image == wants, "has\n{}\nwants\n{}", half.tables().image, wants);
            if before.node == after.node {
                let stages = half.tables().history.clone();
                for (at, number) in frontends(&before).intersection(&frontends(&after)) {
                    let protocol = model::Protocol::from_number(*number).unwrap();
                    let old = fate(&first, &before, *at, protocol);
                    let new = fate(&wants, &after, *at, protocol);
                    let mut turned = false;
                    for stage in &stages {
                        let now = fate(stage, &after, *at, protocol);
                        turned |= now != old;
                        prop_assert!(now == new || (!turned && now == old), "{at:?}: {old:?} {now:?} {new:?}");
                    }
                }
            }
            // The next process.
            let image = half.tables().image.clone();
            let mut next = Half::new(Family::V4, Options::default(), Fake { image, ..Fake::default() });
            let report =
                next.reconcile(options(&after.node), after.services.values().map(|s| &**s)).unwrap();
            prop_assert!(report.is_quiet(), "{report:?}");
            prop_assert!(next.is_unchanged().unwrap());
        }
    }

    /// One Service's lines are refused, whether the line is told or not: the others are served, and
    /// it is the one that is named.
    #[test]
    fn refusals(
        history in proptest::collection::vec(sample::change(), 1..40),
        settings in sample::settings(),
        told in any::<bool>(),
        at_start in any::<bool>(),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let mut half = half();
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        let touched = changes(&mut cluster, history);
        let deltas = planner.update(&cluster, &touched);
        let rules = planner.rules();
        half.reconcile(options(&rules.node), std::iter::empty()).unwrap();
        half.tables().refused = Some(("ns/s1:", told));
        let report = if at_start {
            half.reconcile(options(&rules.node), rules.services.values().map(|s| &**s)).unwrap()
        } else {
            half.apply(&deltas)
        };
        let named: BTreeSet<_> = report.failures.iter().map(|(owner, _)| owner.clone()).collect();
        prop_assert!(named.iter().flatten().all(|name| &*name.name == "s1"), "{named:?}");
        // The others' chains and lines are all there.
        let mut others = rules.clone();
        others.services.retain(|name, _| &*name.name != "s1");
        let wants = Image::of(&others, Family::V4, &options(&rules.node));
        let has = half.tables().image.clone();
        for (place, rules) in &wants.chains {
            for rule in rules.iter().filter(|rule| !is_about_everybody(rule)) {
                prop_assert!(has.chains.get(place).is_some_and(|has| has.contains(rule)), "{place:?} {rule}");
            }
        }
        // Nothing is refused any more, and the next try puts all right.
        half.tables().refused = None;
        half.reconcile(options(&rules.node), rules.services.values().map(|s| &**s)).unwrap();
        let wants = Image::of(&rules, Family::V4, &options(&rules.node));
        prop_assert!(half.tables().image == wants, "has\n{}\nwants\n{}", half.tables().image, wants);
    }

    /// Whatever somebody did to what is ours is noticed, and put right with the next comparison.
    #[test]
    fn damage(
        history in proptest::collection::vec(sample::change(), 1..40),
        settings in sample::settings(),
        place in any::<proptest::sample::Index>(),
        rule in any::<proptest::sample::Index>(),
        what in 0u8..4,
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let mut half = half();
        let touched = changes(&mut cluster, history);
        planner.update(&cluster, &touched);
        let rules = planner.rules();
        half.reconcile(options(&rules.node), rules.services.values().map(|s| &**s)).unwrap();
        prop_assert!(half.is_unchanged().unwrap());
        let wants = half.tables().image.clone();
        let places: Vec<_> = wants.chains.keys().copied().collect();
        let place = *place.get(&places);
        let chain = half.tables().image.chains.get_mut(&place).unwrap();
        match what {
            0 => chain.clear(),
            1 if !chain.is_empty() => {
                let at = rule.index(chain.len());
                chain.remove(at);
            }
            2 if !chain.is_empty() => chain.reverse(),
            _ => chain.push(Rule::to(Target::Accept)),
        }
        // Chains that we share with others may hold more.
        let shared = !place.1.is_ours() || place.1 == Chain::Firewall;
        let harmless = half.tables().image == wants || (shared && what == 3);
        prop_assert!(half.is_unchanged().unwrap() == harmless, "{place:?} {what}");
        half.reconcile(options(&rules.node), rules.services.values().map(|s| &**s)).unwrap();
        if place.1.is_ours() && place.1 != Chain::Firewall {
            prop_assert!(half.tables().image == wants, "has\n{}\nwants\n{}", half.tables().image, wants);
        }
        prop_assert!(half.is_unchanged().unwrap());
    }
}

/// Rules at the ends of gates depend on all Services.
fn is_about_everybody(rule: &Rule) -> bool {
    matches!(rule.target, Some(Target::Jump(Chain::ClusterIps | Chain::NodePorts)))
}
