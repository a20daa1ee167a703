//! Steps lead from any image to any other, and on the way no frontend does what neither the old nor
//! the new plan says, nothing is reached that should not be, and nothing of ours is without its mark;
//! also when the kernel refuses one step in ten.

use super::super::half::{Half, Held, Servers};
use super::super::image::Options;
use super::super::switches::{Number, Wrong};
use super::super::walk::walk;
use super::*;
use crate::nftables::fake::Fake;
use crate::nftables::{Group, Tables};
use crate::{Error, Failure};
use model::{Cluster, Family, Touched};
use plan::{NodeRules, Packet, Planner, Rules, Settings, VerdictKind, rules};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A kernel of memory, strict as the real one: what is there cannot be added, what is not cannot be
/// changed or taken away.
#[derive(Debug, Default)]
struct Memory {
    tables: Fake,
    servers: BTreeMap<ServerKey, Server>,
    addresses: HashSet<IpAddr>,
    /// Servers of others.
    foreign: BTreeMap<ServerKey, Server>,
    /// Real servers that have connections.
    busy: BTreeSet<Slot>,
    /// Refuses one step in so many; 0 for none.
    faults: u32,
    dice: u32,
    /// The image after each change.
    history: Vec<Image>,
}

impl Memory {
    fn image(&self) -> Image {
        let Memory { tables, servers, addresses, .. } = self;
        Image { table: tables.image.clone(), servers: servers.clone(), addresses: addresses.clone() }
    }

    /// What holds at any moment, once somebody has told what is ours.
    fn check(&mut self) {
        let image = self.image();
        for key in image.servers.keys() {
            assert!(image.table.owned.contains(&key.key()), "{key} is there and not marked as ours");
        }
        assert!(image.addresses.is_subset(&image.table.cluster_ips), "an address is not guarded");
        self.history.push(image);
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if self.faults > 0 && (self.dice >> 16).is_multiple_of(self.faults) {
            return Err("no such luck".into());
        }
        let server = |key: &ServerKey| self.servers.get(key).or_else(|| self.foreign.get(key));
        let backend = |key: &ServerKey, slot: &Slot| server(key).map(|s| s.backends.contains_key(slot));
        let ok = match step {
            Step::AddServer(key, _) => server(key).is_none(),
            Step::EditServer(key, _) | Step::RemoveServer(key) => server(key).is_some(),
            Step::AddBackend(key, slot, _) => backend(key, slot) == Some(false),
            Step::SetWeight(key, slot, _) | Step::RemoveBackend(key, slot) => {
                backend(key, slot) == Some(true)
            }
            Step::AddAddress(ip) => !self.addresses.contains(ip),
            Step::RemoveAddress(ip) => self.addresses.contains(ip),
            Step::Table(_) => false,
        };
        if !ok {
            assert!(self.faults > 0, "the kernel would refuse: {step}");
            return Err(format!("the kernel would refuse: {step}"));
        }
        let mut image = self.image();
        step.apply(&mut image);
        (self.servers, self.addresses) = (image.servers, image.addresses);
        self.check();
        Ok(())
    }
}

/// A handle to it.
#[derive(Clone, Debug, Default)]
struct Seam(Rc<RefCell<Memory>>);

impl Tables for Seam {
    fn options(&self) -> Option<&nftables::Options> {
        None
    }

    fn set_options(&mut self, _: nftables::Options) {}

    fn install(&mut self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    fn read(&mut self) -> Result<Option<nftables::Image>, Error> {
        self.0.borrow_mut().tables.read()
    }

    fn source_lengths(&self) -> BTreeSet<u8> {
        self.0.borrow().tables.source_lengths()
    }

    fn commit(&mut self, groups: &[Group]) -> Vec<Failure> {
        let mut memory = self.0.borrow_mut();
        memory.tables.faults = memory.faults;
        let failures = memory.tables.commit(groups);
        memory.check();
        failures
    }
}

impl Servers for Seam {
    fn wrong_switches(&mut self) -> Result<Vec<Wrong>, Error> {
        Ok(vec![])
    }

    fn set_switch(&mut self, _: &Wrong) -> Result<(), Error> {
        Ok(())
    }

    fn wants_switch(&self, _: Number) -> bool {
        true
    }

    fn restore_switch(&mut self, _: Number, _: u32) -> Result<Option<String>, Error> {
        Ok(None)
    }

    fn has_scheduler(&mut self, name: &str) -> Result<bool, Error> {
        Ok(name != "mh")
    }

    fn install(&mut self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    fn read(&mut self, owned: &HashSet<Key>, addresses: &HashSet<IpAddr>) -> Result<Held, Error> {
        let memory = self.0.borrow();
        let all = memory.servers.iter().chain(&memory.foreign);
        let ours = all.filter(|(key, _)| owned.contains(&key.key()));
        let ours = ours.map(|(key, server)| (*key, server.clone())).collect();
        Ok((ours, memory.addresses.intersection(addresses).copied().collect()))
    }

    fn server(&mut self, key: ServerKey) -> Result<Option<Server>, Error> {
        Ok(self.0.borrow().servers.get(&key).cloned())
    }

    fn has_address(&mut self, ip: IpAddr) -> Result<bool, Error> {
        Ok(self.0.borrow().addresses.contains(&ip))
    }

    fn carry(&mut self, steps: &[Step]) -> Vec<(usize, String)> {
        let mut memory = self.0.borrow_mut();
        let mut not_ours = HashSet::new();
        let refused = |(index, step): (usize, &Step)| {
            if step.server().is_some_and(|key| not_ours.contains(&key)) {
                return Some((index, "its virtual server was refused".to_owned()));
            }
            let error = memory.step(step).err()?;
            if let Step::AddServer(key, _) = step {
                not_ours.insert(*key);
            }
            Some((index, error))
        };
        steps.iter().enumerate().filter_map(refused).collect()
    }

    fn connections(&mut self, server: ServerKey) -> Result<BTreeMap<Slot, u64>, Error> {
        let memory = self.0.borrow();
        let slots = memory.servers.get(&server).into_iter().flat_map(|s| s.backends.keys());
        Ok(slots.map(|slot| (*slot, u64::from(memory.busy.contains(slot)))).collect())
    }
}

fn half(seam: &Seam, node: &NodeRules) -> Half<Seam, Seam> {
    Half::new(Family::V4, options(node), seam.clone(), seam.clone())
}

/// One of the node's addresses may be a Service's, too.
const NODE_ADDRESSES: [[u8; 4]; 2] = [[192, 168, 0, 1], [10, 0, 0, 1]];

fn options(node: &NodeRules) -> Options {
    Options {
        node: node.clone(),
        node_addresses: NODE_ADDRESSES.map(IpAddr::from).into(),
        scheduler: "rr".into(),
        lacking: BTreeSet::new(),
        drop_invalid: true,
        excluded: vec![],
    }
}

fn plan_of(changes: &[model::Change], settings: &Settings) -> Rules {
    let mut cluster = Cluster::new();
    for change in changes {
        cluster.apply(change.clone());
    }
    rules(&cluster, settings)
}

fn image_of(rules: &Rules) -> Image {
    Image::of(rules, Family::V4, &options(&rules.node))
}

type Behaviour = (VerdictKind, BTreeSet<Slot>);

/// What an image does with packets to a frontend, from outside and from the node.
fn behaviour(image: &Image, options: &Options, key: &Key) -> Vec<Behaviour> {
    let At::Address(to, port) = key.at else { return vec![] };
    let from = |from: &str| {
        let packet =
            Packet { from: from.parse().unwrap(), interface: None, to, port, protocol: key.protocol };
        let walk = walk(image, options, &packet);
        (walk.kind, walk.backends.into_iter().collect())
    };
    vec![from("203.0.113.7"), from("192.168.0.1")]
}

/// Whether `now` is one of the two, or on the way from one to the other: somewhere in between, but
/// never nowhere.
fn is_between(now: &Behaviour, old: &Behaviour, new: &Behaviour, pools: &BTreeSet<Slot>) -> bool {
    (now.0 == old.0 || now.0 == new.0)
        && now.1.is_subset(pools)
        && (now.0 != VerdictKind::Dnat || !now.1.is_empty())
}

/// All backends of whoever has this frontend, by any of the plans.
fn pools(plans: [&Rules; 2], key: &Key) -> BTreeSet<Slot> {
    let At::Address(ip, port) = key.at else { return BTreeSet::new() };
    let has = |p: &plan::PortRules| {
        let ats = [At::Address(ip, port), At::NodePort(port)];
        p.protocol() == key.protocol && p.frontends.iter().any(|f| ats.contains(&f.at))
    };
    let services = || plans.into_iter().flat_map(|plan| plan.services.values());
    let owners: HashSet<_> = services().filter(|s| s.ports.iter().any(has)).map(|s| s.name.clone()).collect();
    let ports = services().filter(|s| owners.contains(&s.name)).flat_map(|s| s.ports.iter());
    ports.flat_map(|p| p.cluster.iter().chain(p.local.iter())).map(Slot::from).collect()
}

/// Servers at the node's address that a packet would reach without the table knowing of them: those
/// packets would not be masqueraded.
fn unknown_servers(image: &Image, options: &Options) -> Vec<ServerKey> {
    let reached = |key: &ServerKey| {
        let local = image.addresses.contains(&key.address) || options.is_node(key.address);
        local && !image.table.cluster_ips.contains(&key.address)
    };
    let takes = |server: &Server| server.backends.values().any(|weight| *weight > 0);
    let known = |key: &ServerKey| image.table.frontends.contains_key(&key.key());
    let servers = image.servers.iter().filter(|(key, server)| reached(key) && takes(server) && !known(key));
    servers.map(|(key, _)| *key).collect()
}

/// The image without UDP servers that only stay because they still answer.
fn without_silent(image: &Image) -> Image {
    let mut image = image.clone();
    for (key, server) in &mut image.servers {
        server.backends.retain(|_, weight| *weight > 0 || key.protocol == model::Protocol::Tcp);
    }
    image
}

const LIMIT: Duration = Duration::from_secs(900);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_turn_one_image_into_the_other(
        settings in sample::settings(),
        a in proptest::collection::vec(sample::change(), 0..20),
        b in proptest::collection::vec(sample::change(), 0..20),
    ) {
        let (a, b) = (image_of(&plan_of(&a, &settings)), image_of(&plan_of(&b, &settings)));
        let mut image = a.clone();
        let draft = steps(&a, &b);
        draft.phases.iter().flatten().for_each(|step| step.apply(&mut image));
        // Who leaves has gone.
        for (key, slot) in draft.leaving {
            Step::RemoveBackend(key, slot).apply(&mut image);
        }
        let empty: Vec<_> = image.servers.iter().filter(|(_, s)| s.backends.is_empty()).map(|(key, _)| *key).collect();
        for key in empty {
            Step::RemoveServer(key).apply(&mut image);
            image.table.owned.remove(&key.key());
        }
        let left: Vec<_> = image.addresses.iter().filter(|ip| !b.addresses.contains(*ip)).copied().collect();
        for ip in left {
            prop_assert!(a.serves_at(ip), "{ip} is still there, for nothing");
            image.addresses.remove(&ip);
            image.table.cluster_ips.remove(&ip);
        }
        prop_assert_eq!(&image, &b);
        prop_assert!(steps(&b, &b).is_empty());
    }

    #[test]
    fn incremental_is_whole(
        settings in sample::settings(),
        history in proptest::collection::vec(sample::change(), 1..40),
        batch in 1usize..6,
        busy in proptest::collection::btree_set(20u8..26, 0..4),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let seam = Seam::default();
        let slots = busy.iter().map(|n| Slot { address: [10, 1, 0, *n].into(), port: 8080 });
        seam.0.borrow_mut().busy = slots.collect();
        let mut half = half(&seam, planner.node());
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        let mut now = Instant::now();
        for changes in history.chunks(batch) {
            let mut touched = Touched::default();
            changes.iter().for_each(|change| touched.merge(cluster.apply(change.clone())));
            let before = planner.rules();
            let deltas = planner.update(&cluster, &touched);
            let after = planner.rules();
            let services: Vec<_> = after.services.values().cloned().collect();
            let same_node = before.node == after.node;
            let was = half.image().clone();
            seam.0.borrow_mut().history.clear();
            let report = match same_node {
                true => half.apply(&deltas),
                false => half.reconcile(options(&after.node), services.iter().map(|s| &**s)).unwrap(),
            };
            prop_assert_eq!(report.failures, vec![]);
            let wants = image_of(&after);
            prop_assert_eq!(half.image(), &seam.0.borrow().image());
            let options = options(&after.node);
            let history = std::mem::take(&mut seam.0.borrow_mut().history);
            for image in &history {
                let unknown = unknown_servers(image, &options);
                prop_assert!(!same_node || unknown.is_empty(), "{unknown:?}");
            }
            // On the way, every frontend did as the old plan says, or as the new one does, or between.
            let (old_keys, new_keys) = (image_of(&before).table.frontends, &wants.table.frontends);
            for key in old_keys.keys().filter(|key| same_node && new_keys.contains_key(key)) {
                let old = behaviour(&was, &options, key);
                let new = behaviour(half.image(), &options, key);
                prop_assert_eq!(&new, &behaviour(&wants, &options, key), "{}", key);
                let pools = pools([&before, &after], key);
                for image in &history {
                    let now = behaviour(image, &options, key);
                    let between = now.iter().zip(old.iter().zip(&new)).all(|(now, (old, new))| is_between(now, old, new, &pools));
                    prop_assert!(between, "{key}: {old:?}, then {now:?}, then {new:?}");
                }
            }
            // Once more from what the kernel has: chains that are out of use go, then nothing is left to do.
            for commits_max in [2, 0] {
                let report = half.reconcile(options.clone(), services.iter().map(|s| &**s)).unwrap();
                prop_assert!(report.commits <= commits_max, "{report:?}");
            }
            // Those without connections go at once, the others when their time is up.
            half.drain(now, LIMIT);
            now += Duration::from_secs(400);
        }
        let wants = image_of(&planner.rules());
        for _ in 0..3 {
            half.drain(now, LIMIT);
            now += Duration::from_secs(400);
        }
        prop_assert_eq!(&without_silent(half.image()), &wants);
        prop_assert_eq!(half.leaving(), 0);
        prop_assert_eq!(&seam.0.borrow().image(), half.image());
    }

    #[test]
    fn adopts_whatever_is_there(
        settings in sample::settings(),
        a in proptest::collection::vec(sample::change(), 0..20),
        b in proptest::collection::vec(sample::change(), 0..20),
        weights in proptest::collection::vec(0u16..3, 0..8),
    ) {
        let (a, b) = (plan_of(&a, &settings), plan_of(&b, &settings));
        let seam = Seam::default();
        let mut first = half(&seam, &a.node);
        let services: Vec<_> = a.services.values().cloned().collect();
        first.reconcile(options(&a.node), services.iter().map(|s| &**s)).unwrap();
        // Somebody changed weights, and made a server of his own.
        for (server, weight) in seam.0.borrow_mut().servers.values_mut().zip(weights) {
            server.backends.values_mut().for_each(|w| *w = weight);
        }
        let foreign = ServerKey { address: [203, 0, 113, 1].into(), port: 443, protocol: model::Protocol::Tcp };
        let config = Config::new("wlc".into(), None);
        seam.0.borrow_mut().foreign.insert(foreign, Server { config, backends: BTreeMap::new() });
        // And one of ours is gone, though the table says that it is ours.
        let lost = ServerKey { port: 444, ..foreign };
        seam.0.borrow_mut().tables.image.owned.insert(lost.key());
        let mut second = half(&seam, &b.node);
        let services: Vec<_> = b.services.values().cloned().collect();
        second.reconcile(options(&b.node), services.iter().map(|s| &**s)).unwrap();
        second.drain(Instant::now(), Duration::ZERO);
        prop_assert_eq!(&without_silent(second.image()), &image_of(&b));
        prop_assert_eq!(&seam.0.borrow().image(), second.image());
        second.reconcile(options(&b.node), std::iter::empty()).unwrap();
        second.drain(Instant::now(), Duration::ZERO);
        prop_assert!(second.image().is_empty());
        prop_assert!(seam.0.borrow().image().is_empty());
        prop_assert!(seam.0.borrow().foreign.contains_key(&foreign));
    }

    #[test]
    fn converges_though_one_step_in_ten_is_refused(
        settings in sample::settings(),
        history in proptest::collection::vec(sample::change(), 1..30),
    ) {
        let mut cluster = Cluster::new();
        let mut planner = Planner::new(settings);
        let seam = Seam::default();
        let mut half = half(&seam, planner.node());
        half.reconcile(options(planner.node()), std::iter::empty()).unwrap();
        seam.0.borrow_mut().faults = 10;
        for change in history {
            let touched = cluster.apply(change);
            let deltas = planner.update(&cluster, &touched);
            half.apply(&deltas);
        }
        let rules = planner.rules();
        let services: Vec<_> = rules.services.values().cloned().collect();
        let mut tries = 0;
        loop {
            let report = half.reconcile(options(&rules.node), services.iter().map(|s| &**s)).unwrap();
            let drained = half.drain(Instant::now(), Duration::ZERO);
            if report.failures.is_empty() && drained.failures.is_empty() {
                break;
            }
            tries += 1;
            prop_assert!(tries < 300, "still not there");
        }
        prop_assert_eq!(&without_silent(half.image()), &image_of(&rules));
        prop_assert_eq!(&seam.0.borrow().image(), half.image());
    }
}
