//! Each scheduler by what it is for, with real connections, and a backend that leaves under each.

use crate::Test;
use crate::cluster::{Node, endpoint, port, service, slice};
use dataplane::ipvs::Configuration;
use lab::Protocol::Tcp;
use lab::{Connection, Host, Lab, Server};
use model::{Family, Name, Object, ObjectName, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[Test] = &[
    ("ipvs_rr_gives_each_the_same", rr),
    ("ipvs_wrr_gives_by_weight", wrr),
    ("ipvs_lc_prefers_who_has_fewest_connections", lc),
    ("ipvs_wlc_prefers_who_has_fewest_for_its_weight", wlc),
    ("ipvs_sed_expects_the_shortest_delay", sed),
    ("ipvs_nq_never_queues_where_somebody_idles", nq),
    ("ipvs_sh_keeps_a_client_with_its_backend", sh),
    ("ipvs_mh_moves_few_clients_when_a_backend_leaves", mh),
    ("ipvs_dh_lblc_and_lblcr_go_by_the_destination", by_destination),
    ("ipvs_fo_fails_over_by_weight", fo),
    ("ipvs_ovf_overflows_by_weight", ovf),
    ("ipvs_a_backend_leaves_under_every_scheduler", leaving),
    ("ipvs_a_scheduler_that_is_missing_is_told", missing),
];

/// All that the machine's kernel has.
const ALL: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"];
const VIP: &str = "10.96.0.1";
/// Time in which all idle servers may go; those with connections stay for longer than any test.
const LIMIT: Duration = Duration::from_secs(900);

struct World {
    _lab: Lab,
    node: Node,
    web: Vec<Host>,
    clients: Vec<Host>,
    _servers: Vec<Server>,
}

/// A Service that asks for this scheduler.
fn asking(scheduler: &str) -> Object {
    let mut service = service("web", &[VIP], &[port(Protocol::Tcp, 80, None)]);
    service.annotations = [(Name::from("ipvs-scheduler"), Name::from(scheduler))].into_iter().collect();
    Object::Service(service)
}

/// A slice for one backend, so that it can have a weight of its own; without one, it is empty.
fn backend(index: usize, host: &Host, weight: Option<u16>) -> Object {
    let endpoints = weight.map(|_| endpoint(host.ipv4().into(), "node-a"));
    let mut slice = slice("web", Family::V4, 8080, endpoints.into_iter().collect());
    slice.name = ObjectName::new("shop", format!("web-{index}"));
    let weight = weight.unwrap_or(1).to_string();
    slice.annotations = [(Name::from("weight"), Name::from(weight))].into_iter().collect();
    Object::Slice(slice)
}

impl World {
    /// Backends with these weights, all on the node under test, and so many clients there.
    fn new(scheduler: &str, weights: &[u16], clients: usize) -> World {
        let mut lab = Lab::new().unwrap();
        let a = lab.node("node-a").unwrap();
        let web: Vec<Host> = (0..weights.len()).map(|n| lab.pod(&a, &format!("web-{n}")).unwrap()).collect();
        let clients = (0..clients).map(|n| lab.pod(&a, &format!("client-{n}")).unwrap()).collect();
        let servers = web.iter().map(|host| host.serve(Tcp, 8080).unwrap()).collect();
        let mut objects = vec![asking(scheduler)];
        objects.extend(
            weights.iter().zip(&web).enumerate().map(|(n, (weight, host))| backend(n, host, Some(*weight))),
        );
        let mut node = Node::new(&a, objects);
        let report = node.reconcile();
        assert_eq!(report.warnings, [], "{scheduler}");
        World { _lab: lab, node, web, clients, _servers: servers }
    }

    fn weigh(&mut self, index: usize, weight: Option<u16>) {
        self.node.apply(backend(index, &self.web[index], weight));
    }

    /// Connections that stay, one after the other, and whose they are.
    fn hold(&self, count: usize) -> Vec<(Connection, String)> {
        let client = self.clients[0].client(Tcp);
        let connect = |_| {
            let mut connection = client.connect(vip()).unwrap();
            let backend = connection.ask().unwrap().backend;
            (connection, backend)
        };
        (0..count).map(connect).collect()
    }

    fn ask(&self, client: usize) -> String {
        self.clients[client].ask(Tcp, vip()).unwrap().backend
    }

    /// So many connections of the first client, each closed before the next.
    fn asks(&self, count: usize) -> BTreeMap<String, usize> {
        counted((0..count).map(|_| self.ask(0)))
    }

    /// Who serves each client; each asks several times and must always meet the same.
    fn homes(&self) -> Vec<String> {
        let home = |client| {
            let first = self.ask(client);
            (0..3).for_each(|_| assert_eq!(self.ask(client), first, "client {client}"));
            first
        };
        (0..self.clients.len()).map(home).collect()
    }
}

fn vip() -> SocketAddr {
    SocketAddr::new(VIP.parse::<IpAddr>().unwrap(), 80)
}

fn counted(backends: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    backends.fold(BTreeMap::new(), |mut counts, backend| {
        *counts.entry(backend).or_default() += 1;
        counts
    })
}

fn names(held: &[(Connection, String)]) -> Vec<&str> {
    held.iter().map(|(_, backend)| &**backend).collect()
}

fn count(held: &[(Connection, String)], backend: &str) -> usize {
    held.iter().filter(|(_, other)| other == backend).count()
}

fn rr() {
    let world = World::new("rr", &[1, 1, 1], 1);
    let counts = world.asks(12);
    assert!(counts.len() == 3 && counts.values().all(|count| *count == 4), "{counts:?}");
}

fn wrr() {
    let mut world = World::new("wrr", &[3, 1], 1);
    let counts = world.asks(12);
    assert_eq!((counts["web-0"], counts["web-1"]), (9, 3), "{counts:?}");
    world.weigh(0, Some(1));
    let counts = world.asks(12);
    assert_eq!((counts["web-0"], counts["web-1"]), (6, 6), "{counts:?}");
}

/// Connections of one backend, before another comes: the newcomer is preferred until it has as many.
fn lc() {
    let mut world = World::new("lc", &[1, 1], 1);
    world.weigh(1, None);
    world.node.host.run(|| world.node.plane.drain(Instant::now())).unwrap();
    let first = world.hold(4);
    assert_eq!(count(&first, "web-0"), 4);
    world.weigh(1, Some(1));
    let then = world.hold(4);
    assert_eq!(names(&then), ["web-1"; 4]);
    let more = world.hold(4);
    assert_eq!((count(&more, "web-0"), count(&more, "web-1")), (2, 2));
}

fn wlc() {
    let world = World::new("wlc", &[3, 1], 1);
    let held = world.hold(8);
    assert_eq!((count(&held, "web-0"), count(&held, "web-1")), (6, 2), "{:?}", names(&held));
}

/// A server three times as good has two before the other is the better choice with its first; by
/// wlc the two would get one each.
fn sed() {
    let world = World::new("sed", &[4, 1], 1);
    let held = world.hold(3);
    assert_eq!(names(&held), ["web-0"; 3]);
}

fn nq() {
    let world = World::new("nq", &[4, 1], 1);
    let held = world.hold(2);
    assert_eq!((count(&held, "web-0"), count(&held, "web-1")), (1, 1), "{:?}", names(&held));
    // With nobody idle it is as sed.
    let more = world.hold(2);
    assert_eq!(names(&more), ["web-0"; 2]);
}

fn sh() {
    let world = World::new("sh", &[1, 1, 1], 8);
    let homes = counted(world.homes().into_iter());
    assert!(homes.len() > 1, "all clients were sent to the same backend: {homes:?}");
}

fn mh() {
    let mut world = World::new("mh", &[1, 1, 1], 12);
    let before = world.homes();
    assert!(counted(before.iter().cloned()).len() > 1, "{before:?}");
    let leaver = before[0].clone();
    let index: usize = leaver.trim_start_matches("web-").parse().unwrap();
    world.weigh(index, None);
    let after = world.homes();
    assert!(!after.contains(&leaver), "{after:?}");
    let stayed = || before.iter().zip(&after).filter(|(before, _)| **before != leaver);
    let moved = stayed().filter(|(before, after)| before != after).count();
    assert!(moved * 4 <= stayed().count(), "{moved} moved without need: {before:?} {after:?}");
}

/// What they hash, or remember, is the address of the Service, so that all go to one backend: made for
/// caches behind a router, and of no use for a Service.
fn by_destination() {
    for scheduler in ["dh", "lblc", "lblcr"] {
        let world = World::new(scheduler, &[1, 1, 1], 4);
        let homes = counted(world.homes().into_iter());
        assert_eq!(homes.len(), 1, "{scheduler}: {homes:?}");
    }
}

fn fo() {
    let mut world = World::new("fo", &[1, 3, 2], 1);
    assert_eq!(world.asks(6), [("web-1".to_owned(), 6)].into());
    world.weigh(1, None);
    assert_eq!(world.asks(6), [("web-2".to_owned(), 6)].into());
    world.weigh(1, Some(3));
    assert_eq!(world.asks(6), [("web-1".to_owned(), 6)].into());
}

fn ovf() {
    let world = World::new("ovf", &[2, 3], 1);
    // It overflows when it has more than its weight.
    let held = world.hold(7);
    assert_eq!(names(&held), ["web-1", "web-1", "web-1", "web-1", "web-0", "web-0", "web-0"]);
}

/// No new connection reaches a backend that has left, none fails, and old ones go on; under dh they
/// end, for there a server of weight 0 would refuse clients.
fn leaving() {
    let mut world = World::new("rr", &[1, 1, 1], 6);
    for scheduler in ALL {
        (0..3).for_each(|index| world.weigh(index, Some(1)));
        world.node.apply(asking(scheduler));
        let said = world.node.output("ipvsadm", &["-Ln"]);
        assert!(said.lines().any(|line| line.split_whitespace().nth(2) == Some(scheduler)), "{said}");
        let mut held = world.hold(3);
        let leaver = held[0].1.clone();
        let index: usize = leaver.trim_start_matches("web-").parse().unwrap();
        world.weigh(index, None);
        for client in 0..world.clients.len() {
            for _ in 0..2 {
                let backend = world.ask(client);
                assert_ne!(backend, leaver, "{scheduler}: client {client}");
            }
        }
        for (connection, backend) in &mut held {
            let lives = *backend != leaver || scheduler != "dh";
            if lives {
                assert_eq!(connection.ask().unwrap().backend, *backend, "{scheduler}");
            }
        }
        // What still has connections stays, what has none goes; and a backend that comes back does so
        // with its weight.
        let report = world.node.host.run(|| world.node.plane.drain(Instant::now())).unwrap();
        assert_eq!(report.failures, []);
        let kept = world.node.output("ipvsadm", &["-Sn"]).contains(&world.web[index].ipv4().to_string());
        assert_eq!(kept, scheduler != "dh", "{scheduler}");
        world.weigh(index, Some(1));
        assert_eq!(world.node.plane.leaving(), 0, "{scheduler}");
        assert!(!world.node.output("ipvsadm", &["-Sn"]).contains("-w 0"), "{scheduler}");
    }
}

/// Both ways to ask for one, with names that no kernel has.
fn missing() {
    let world = World::new("rr", &[1, 1], 1);
    let World { mut node, clients, .. } = world;
    let report = node.apply(asking("nosuch"));
    let said: Vec<_> = report.warnings.iter().map(|(_, what)| &**what).collect();
    assert!(said[0].contains("nosuch") && said[0].contains("served by rr instead"), "{said:?}");
    assert!(clients[0].ask(Tcp, vip()).is_ok());
    assert!(node.output("ipvsadm", &["-Ln"]).contains("10.96.0.1:80 rr"));
    let report = node.apply(asking("wlc"));
    assert_eq!(report.warnings, []);
    assert!(node.output("ipvsadm", &["-Ln"]).contains("10.96.0.1:80 wlc"));
    let configuration = Configuration { scheduler: "nosuch".into(), ..Configuration::default() };
    let mut other = Node::with(&node.host, vec![], configuration);
    let error = other.host.run(|| other.plane.check()).unwrap().unwrap_err().to_string();
    assert!(error.contains("modprobe ip_vs_nosuch"), "{error}");
    let configuration =
        Configuration { scheduler: "mh".into(), drain_limit: LIMIT, ..Configuration::default() };
    let mut other = Node::with(&node.host, vec![], configuration);
    other.host.run(|| other.plane.check()).unwrap().unwrap();
    // Nothing is left of the trial.
    assert!(!other.output("ipvsadm", &["-Sn"]).contains(" mh"));
}
