//! Backends that leave, come back, and are remembered: what went wrong elsewhere, one test for each.

use crate::Test;
use crate::cluster::{Node, endpoint, port, service, slice};
use dataplane::conntrack::Suspects;
use lab::Protocol::{Tcp, Udp};
use lab::{Host, Lab, Server};
use model::{Change, Conditions, Family, Object, Protocol, Slice, Touched};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[Test] = &[
    ("ipvs_a_udp_client_on_one_port_is_moved_76664", udp_client_is_moved),
    ("ipvs_a_udp_client_stays_while_its_backend_serves_105192", udp_client_stays),
    ("ipvs_a_weight_is_not_left_at_zero_92019", weight_after_a_restart),
    ("ipvs_a_source_port_used_before_is_served_81775", port_used_before),
    ("ipvs_nobody_is_served_unmasqueraded_at_a_start_133773", start_under_load),
    ("ipvs_leaving_ends_by_itself_or_by_the_limit", limit),
    ("ipvs_a_service_that_goes_keeps_its_connections", service_goes),
    ("ipvs_affinity_is_persistence", affinity),
];

const VIP: &str = "10.96.0.1";
const LIMIT: Duration = Duration::from_secs(900);

struct World {
    _lab: Lab,
    node: Node,
    web: Vec<Host>,
    client: Host,
    outside: Host,
    _servers: Vec<Server>,
}

fn vip() -> SocketAddr {
    SocketAddr::new(VIP.parse::<IpAddr>().unwrap(), 80)
}

fn web_service() -> model::Service {
    let ports = [port(Protocol::Tcp, 80, Some(30080)), port(Protocol::Udp, 80, Some(30080))];
    service("web", &[VIP], &ports)
}

fn backends(web: &[(&Host, Conditions)]) -> Slice {
    let endpoints = web.iter().map(|(host, conditions)| {
        let endpoint = endpoint(host.ipv4().into(), "node-a");
        model::Endpoint { conditions: *conditions, ..endpoint }
    });
    slice("web", Family::V4, 8080, endpoints.collect())
}

impl World {
    fn new(count: usize) -> World {
        let mut lab = Lab::new().unwrap();
        let a = lab.node("node-a").unwrap();
        let web: Vec<Host> = (0..count).map(|n| lab.pod(&a, &format!("web-{n}")).unwrap()).collect();
        let client = lab.pod(&a, "client").unwrap();
        let outside = lab.outside("outside").unwrap();
        let servers = web.iter().flat_map(|host| [Tcp, Udp].map(|p| host.serve(p, 8080).unwrap())).collect();
        let ready: Vec<_> = web.iter().map(|host| (host, Conditions::READY)).collect();
        let objects = vec![Object::Service(web_service()), Object::Slice(backends(&ready))];
        let mut node = Node::new(&a, objects);
        node.reconcile();
        World { _lab: lab, node, web, client, outside, _servers: servers }
    }

    fn index(&self, name: &str) -> usize {
        self.web.iter().position(|host| host.name() == name).unwrap()
    }

    /// The endpoints are now these, and flows that have gone stale are forgotten, as the daemon does.
    fn endpoints(&mut self, web: &[(usize, Conditions)]) {
        let web: Vec<_> = web.iter().map(|(index, conditions)| (&self.web[*index], *conditions)).collect();
        let touched = self.node.cluster.apply(Change::Apply(Object::Slice(backends(&web))));
        self.update(&touched);
    }

    fn update(&mut self, touched: &Touched) {
        let Node { host, cluster, planner, plane } = &mut self.node;
        let deltas = planner.update(cluster, touched);
        let report = host.run(|| plane.apply(&deltas)).unwrap();
        assert_eq!(report.failures, []);
        let suspects = Suspects::of_changes(&deltas);
        host.run(|| dataplane::conntrack::forget(&suspects, planner.node())).unwrap().unwrap();
    }

    fn drain(&mut self, now: Instant) {
        let Node { host, plane, .. } = &mut self.node;
        let report = host.run(|| plane.drain(now)).unwrap();
        assert_eq!(report.failures, []);
    }

    fn servers(&self) -> String {
        self.node.output("ipvsadm", &["-Sn"])
    }
}

const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const READY: Conditions = Conditions::READY;

/// A resolver that asks from one port for ever must not be left with a backend that is gone.
fn udp_client_is_moved() {
    let mut world = World::new(3);
    let client = world.client.client(Udp).from(SocketAddr::new(world.client.ipv4().into(), 4000));
    let mut connection = client.timeout(Duration::from_millis(500)).connect(vip()).unwrap();
    let first = world.index(&connection.ask().unwrap().backend);
    let others: Vec<_> = (0..3).filter(|n| *n != first).map(|n| (n, READY)).collect();
    world.endpoints(&others);
    let next = connection.ask();
    // The kernel may use the first datagram to find out that its connection has no server.
    let next = next.or_else(|_| connection.ask()).unwrap().backend;
    assert_ne!(world.index(&next), first);
    assert!(!world.servers().contains(&format!("-u {} -r {}", vip(), world.web[first].ipv4())));
}

/// While its backend is terminating and still serves it is not moved, and nobody new comes.
fn udp_client_stays() {
    let mut world = World::new(2);
    let client = world.client.client(Udp).from(SocketAddr::new(world.client.ipv4().into(), 4000));
    let mut connection = client.connect(vip()).unwrap();
    let first = world.index(&connection.ask().unwrap().backend);
    world.endpoints(&[(first, TERMINATING), (1 - first, READY)]);
    for _ in 0..4 {
        assert_eq!(world.index(&connection.ask().unwrap().backend), first);
        assert_eq!(world.index(&world.client.ask(Udp, vip()).unwrap().backend), 1 - first);
    }
    world.endpoints(&[(1 - first, READY)]);
    let next = connection.ask().or_else(|_| connection.ask()).unwrap().backend;
    assert_eq!(world.index(&next), 1 - first);
}

/// It left, we ended, it came back while nobody looked.
fn weight_after_a_restart() {
    let mut world = World::new(2);
    let mut connection = world.client.client(Tcp).connect(vip()).unwrap();
    let first = world.index(&connection.ask().unwrap().backend);
    world.endpoints(&[(1 - first, READY)]);
    let leaving = format!("-a -t {} -r {}:8080 -m -w 0", vip(), world.web[first].ipv4());
    assert!(world.servers().contains(&leaving), "{}", world.servers());
    // One that is still gone when we start goes on leaving, with its connection.
    let objects = |web: &[&Host]| {
        let ready: Vec<_> = web.iter().map(|host| (*host, READY)).collect();
        vec![Object::Service(web_service()), Object::Slice(backends(&ready))]
    };
    let before = world.servers();
    let mut still_gone = Node::new(&world.node.host, objects(&[&world.web[1 - first]]));
    still_gone.reconcile();
    assert_eq!(world.servers(), before);
    assert!(still_gone.plane.leaving() > 0);
    assert_eq!(world.index(&connection.ask().unwrap().backend), first);
    // One that is back gets its weight at once.
    let mut back = Node::new(&world.node.host, objects(&[&world.web[0], &world.web[1]]));
    back.reconcile();
    assert!(!world.servers().contains("-w 0"), "{}", world.servers());
    let met: BTreeSet<_> = (0..4).map(|_| world.client.ask(Tcp, vip()).unwrap().backend).collect();
    assert_eq!(met.len(), 2);
    // And one whose weight somebody has taken is given it again.
    let taken = format!("-e -t {} -r {}:8080 -m -w 0", vip(), world.web[first].ipv4());
    world.node.output("ipvsadm", &taken.split(' ').collect::<Vec<_>>());
    back.reconcile();
    assert!(!world.servers().contains("-w 0"), "{}", world.servers());
}

/// A client's port comes round again while its old connection is in TIME_WAIT at a backend that is
/// leaving: the new connection must not go there.
fn port_used_before() {
    let mut world = World::new(2);
    let client = world.client.client(Tcp).from(SocketAddr::new(world.client.ipv4().into(), 4000));
    let first = world.index(&client.ask(vip()).unwrap().backend);
    world.endpoints(&[(1 - first, READY)]);
    world.drain(Instant::now());
    let leaving = format!("-r {}:8080 -m -w 0", world.web[first].ipv4());
    assert!(
        world.servers().contains(&leaving),
        "it left at once, so this shows nothing: {}",
        world.servers()
    );
    for _ in 0..3 {
        let reply = connect_again(&client);
        assert_eq!(world.index(&reply), 1 - first);
    }
}

/// The client's own kernel may want the port for a moment longer.
fn connect_again(client: &lab::Client) -> String {
    let begin = Instant::now();
    loop {
        match client.ask(vip()) {
            Ok(reply) => return reply.backend,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// From the first answer on, who comes from outside is masqueraded: what does that is there before
/// any virtual server.
fn start_under_load() {
    let World { _lab, mut node, web, outside, _servers, .. } = World::new(2);
    node.host.run(|| node.plane.remove()).unwrap().unwrap();
    let ready: Vec<_> = web.iter().map(|host| (host, READY)).collect();
    let mut objects = vec![Object::Service(web_service()), Object::Slice(backends(&ready))];
    // Many others, that the start takes its time.
    for number in 0..400 {
        let ip = format!("10.97.{}.{}", number / 200, number % 200 + 1);
        let mut other = service(&format!("other-{number}"), &[&ip], &[port(Protocol::Tcp, 80, None)]);
        other.kind = model::ServiceKind::ClusterIp;
        objects.push(Object::Service(other));
        let mut slice = backends(&ready[..1]);
        slice.name.name = format!("other-{number}").as_str().into();
        slice.service = format!("other-{number}").as_str().into();
        objects.push(Object::Slice(slice));
    }
    let own = node.host.addresses();
    let target = SocketAddr::new(node.host.ipv4().into(), 30080);
    let mut again = Node::new(&node.host, objects);
    let asking = thread::spawn(move || {
        let client = outside.client(Tcp).timeout(Duration::from_secs(10));
        let mut answers = 0;
        let begin = Instant::now();
        while answers < 50 && begin.elapsed() < Duration::from_secs(60) {
            if let Ok(reply) = client.ask(target) {
                assert!(own.contains(&reply.seen_source.ip()), "answered unmasqueraded: {reply:?}");
                answers += 1;
            }
        }
        answers
    });
    again.reconcile();
    assert_eq!(asking.join().unwrap(), 50);
}

fn limit() {
    let mut world = World::new(2);
    let mut connection = world.client.client(Tcp).connect(vip()).unwrap();
    let first = world.index(&connection.ask().unwrap().backend);
    world.endpoints(&[(1 - first, READY)]);
    let begin = Instant::now();
    let is_there = |world: &World| {
        let there = format!("-a -t {} -r {}:8080", vip(), world.web[first].ipv4());
        world.servers().contains(&there)
    };
    world.drain(begin);
    world.drain(begin + LIMIT - Duration::from_secs(1));
    assert!(is_there(&world), "it went before its time, with a connection");
    assert_eq!(world.index(&connection.ask().unwrap().backend), first);
    world.drain(begin + LIMIT);
    assert!(!is_there(&world), "it stays beyond the limit");
    assert_eq!(world.node.plane.leaving(), 0);
    // Without connections it goes at once: at the other frontend there never was one.
    assert!(!world.servers().contains("-w 0"));
}

fn service_goes() {
    let mut world = World::new(2);
    let mut connection = world.client.client(Tcp).connect(vip()).unwrap();
    let backend = connection.ask().unwrap().backend;
    let key = Object::Service(web_service()).key();
    let touched = world.node.cluster.apply(Change::Delete(key));
    world.update(&touched);
    let begin = Instant::now();
    world.drain(begin);
    assert_eq!(connection.ask().unwrap().backend, backend, "an old connection was cut off");
    assert!(world.client.ask(Tcp, vip()).is_err(), "a new one was made");
    drop(connection);
    world.drain(begin + LIMIT);
    assert_eq!(world.servers(), "");
    assert!(!world.node.output("ip", &["route", "show", "table", "local"]).contains("kube-ipvs0"));
}

fn affinity() {
    const SECONDS: u32 = 600;
    let mut world = World::new(3);
    let mut sticky = web_service();
    sticky.affinity_seconds = Some(SECONDS);
    world.node.apply(Object::Service(sticky.clone()));
    assert!(world.servers().contains(&format!("-A -t {} -s rr -p {SECONDS}", vip())), "{}", world.servers());
    let home = |world: &World| {
        let met: BTreeSet<_> = (0..6).map(|_| world.client.ask(Tcp, vip()).unwrap().backend).collect();
        assert_eq!(met.len(), 1, "{met:?}");
        world.index(met.first().unwrap())
    };
    let first = home(&world);
    // It leaves: its clients are moved, and stay where they come to.
    let others: Vec<_> = (0..3).filter(|n| *n != first).map(|n| (n, READY)).collect();
    world.endpoints(&others);
    let second = home(&world);
    assert_ne!(first, second);
    world.endpoints(&[(0, READY), (1, READY), (2, READY)]);
    assert_eq!(home(&world), second);
    // The plan says how long, whatever somebody made of it.
    world.node.output("ipvsadm", &["-E", "-t", &vip().to_string(), "-s", "rr", "-p", "5"]);
    world.node.reconcile();
    assert!(world.servers().contains(&format!("-A -t {} -s rr -p {SECONDS}", vip())));
    sticky.affinity_seconds = None;
    world.node.apply(Object::Service(sticky));
    assert!(!world.servers().contains("-p"), "{}", world.servers());
    let met: BTreeSet<_> = (0..6).map(|_| world.client.ask(Tcp, vip()).unwrap().backend).collect();
    assert_eq!(met.len(), 3);
}
