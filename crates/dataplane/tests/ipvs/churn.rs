//! Endpoints that come and go while connections are made, and a plane that starts anew.

use crate::Test;
use crate::cluster::{Node, endpoint, port, service, slice};
use lab::Protocol::Tcp;
use lab::{Host, Lab, Load, Server};
use model::{Family, Object, Protocol};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[Test] =
    &[("ipvs_endpoints_come_and_go_under_load", churn), ("ipvs_a_new_process_adopts_what_is_there", restart)];

const VIP: &str = "10.96.0.1";
/// Connections a second, of which so many may be under way from a host: a machine without hardware
/// help may not keep up. The kernel sends a client that had to repeat its first packet to another
/// server if the first is leaving by then.
const RATE: u32 = 200;
const AT_ONCE: usize = 12;
/// A machine without hardware help may be slow; what it may not do is lose a connection.
const LONG: Duration = Duration::from_secs(60);
const CHANGES: usize = 100;
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);

struct World {
    _lab: Lab,
    node: Node,
    web: Vec<Host>,
    clients: Vec<Host>,
    _servers: Vec<Server>,
}

fn world(count: usize) -> World {
    let mut lab = Lab::new().unwrap();
    let a = lab.node("node-a").unwrap();
    let web: Vec<Host> = (0..count).map(|n| lab.pod(&a, &format!("web-{n}")).unwrap()).collect();
    let clients = vec![lab.pod(&a, "guest").unwrap(), lab.outside("client").unwrap()];
    let vip: IpAddr = VIP.parse().unwrap();
    clients[1].route_via(lab::Prefix::host(vip), a.address_like(vip).unwrap()).unwrap();
    let servers = web.iter().map(|host| host.serve(Tcp, 8080).unwrap()).collect();
    let ports = [port(Protocol::Tcp, 80, Some(30080))];
    let objects = vec![Object::Service(service("web", &[VIP], &ports)), endpoints(&web)];
    let mut node = Node::new(&a, objects);
    node.reconcile();
    World { _lab: lab, node, web, clients, _servers: servers }
}

fn endpoints(web: &[Host]) -> Object {
    let endpoints = web.iter().map(|host| endpoint(host.ipv4().into(), "node-a")).collect();
    Object::Slice(slice("web", Family::V4, 8080, endpoints))
}

fn churn() {
    let World { _lab, mut node, web, clients, _servers } = world(4);
    let vip: IpAddr = VIP.parse().unwrap();
    let clients: Vec<&Host> = clients.iter().collect();
    let own = node.host.ipv4();
    let load = Load::new(Tcp, (vip, 80))
        .and((own, 30080))
        .own_ports()
        .timeout(LONG)
        .at_once(AT_ONCE)
        .per_second(RATE)
        .start(&clients)
        .unwrap();
    let mut steps = 0;
    for change in 0..CHANGES {
        // One, two or three of the four, in turn.
        let subset: Vec<Host> = (0..4)
            .filter(|n| (change >> (n % 2)) % 3 != n % 3 || *n == change % 4)
            .map(|n| web[n].clone())
            .collect();
        steps += node.apply(endpoints(&subset)).steps;
        if change % 10 == 0 {
            let now = Instant::now();
            let report = node.host.run(|| node.plane.drain(now)).unwrap();
            assert_eq!(report.failures, []);
        }
        sleep(PAUSE);
    }
    let report = load.stop().unwrap();
    println!("{steps} steps; {report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.answered() > 100, "{report}");
}

fn restart() {
    let World { _lab, mut node, web, clients, _servers } = world(3);
    let vip: IpAddr = VIP.parse().unwrap();
    let clients: Vec<&Host> = clients.iter().collect();
    let load =
        Load::new(Tcp, (vip, 80)).timeout(LONG).at_once(AT_ONCE).per_second(RATE).start(&clients).unwrap();
    let before = node.tables();
    let objects = || {
        vec![
            Object::Service(service("web", &[VIP], &[port(Protocol::Tcp, 80, Some(30080))])),
            endpoints(&web),
        ]
    };
    let mut again = Node::new(&node.host, objects());
    let report = again.reconcile();
    assert!(report.is_quiet(), "{report:?}");
    assert_eq!(again.tables(), before);
    // One endpoint left while nobody was there to see it.
    node.apply(endpoints(&web[..2]));
    let mut third = Node::new(&node.host, objects());
    let report = third.reconcile();
    assert!(report.steps > 0);
    assert_eq!(third.tables(), before);
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    let removed = third.host.run(|| third.plane.remove()).unwrap().unwrap();
    println!("{removed:?}");
    assert_eq!(third.output("ipvsadm", &["-Sn"]), "");
    assert!(!third.output("nft", &["list", "tables"]).contains("portolan"));
    assert!(!third.output("ip", &["link"]).contains("kube-ipvs0"));
}
