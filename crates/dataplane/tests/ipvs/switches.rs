//! The kernel's switches and timeouts: set, put right again, set back. And what is somebody else's,
//! which is left alone.

use crate::Test;
use crate::cluster::{Node, endpoint, port, service, slice};
use dataplane::Drift;
use dataplane::ipvs::{Addresses, Configuration, Settings, Timeouts};
use lab::Protocol::Tcp;
use lab::{Host, Lab};
use model::{Family, Object, Protocol};
use std::collections::BTreeMap;

pub(crate) const TESTS: &[Test] = &[
    ("ipvs_switches_are_set_repaired_and_set_back", switches),
    ("ipvs_what_is_anothers_is_left_alone", foreign),
    ("ipvs_addresses_on_the_device_do_as_well", addresses),
    ("ipvs_takes_over_from_kube_proxy", take_over),
    ("ipvs_one_endpoint_costs_the_same_at_any_size", messages),
];

const VIP: &str = "10.96.0.1";
/// Switches, how they stood, and how they should.
const SWITCHES: [(&str, &str, &str); 7] = [
    ("net.ipv4.vs.conntrack", "0", "1"),
    ("net.ipv4.vs.expire_nodest_conn", "0", "1"),
    ("net.ipv4.vs.expire_quiescent_template", "0", "1"),
    ("net.ipv4.vs.conn_reuse_mode", "0", "1"),
    ("net.ipv4.ip_forward", "1", "1"),
    ("net.ipv4.conf.all.arp_ignore", "0", "1"),
    ("net.ipv4.conf.all.arp_announce", "1", "2"),
];

fn objects() -> Vec<Object> {
    let service = service("web", &[VIP], &[port(Protocol::Tcp, 80, Some(30080))]);
    let endpoint = endpoint([10, 244, 1, 9].into(), "node-a");
    vec![Object::Service(service), Object::Slice(slice("web", Family::V4, 8080, vec![endpoint]))]
}

fn configuration() -> Configuration {
    let timeouts = Timeouts { tcp_s: 1234, tcp_fin_s: 0, udp_s: 77 };
    let kernel = Settings { strict_arp: true, timeouts, ..Settings::default() };
    Configuration { kernel, ..Configuration::default() }
}

fn host() -> (Lab, Host) {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node-a").unwrap();
    let host: &Host = &node;
    let host = host.clone();
    (lab, host)
}

fn set(node: &Node, name: &str, value: &str) {
    node.output("sysctl", &["-qw", &format!("{name}={value}")]);
}

fn standing(node: &Node) -> BTreeMap<&'static str, String> {
    let read = |name| node.output("sysctl", &["-n", name]).trim().to_owned();
    SWITCHES.iter().map(|(name, ..)| (*name, read(name))).collect()
}

fn timeouts(node: &Node) -> Vec<String> {
    let said = node.output("ipvsadm", &["-L", "--timeout"]);
    said.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).map(ToOwned::to_owned).collect()
}

fn wanted() -> BTreeMap<&'static str, String> {
    SWITCHES.iter().map(|(name, _, value)| (*name, (*value).to_owned())).collect()
}

fn switches() {
    let (_lab, host) = host();
    let mut node = Node::with(&host, objects(), configuration());
    for (name, value, _) in SWITCHES {
        set(&node, name, value);
    }
    let before = (standing(&node), timeouts(&node));
    node.reconcile();
    assert_eq!(standing(&node), wanted());
    assert_eq!(timeouts(&node), ["1234", &before.1[1], "77"]);
    // Whatever is turned, it is noticed at the next look and put right.
    let look = |node: &mut Node| node.host.run(|| node.plane.drift()).unwrap().unwrap();
    look(&mut node);
    for (name, ..) in SWITCHES {
        set(&node, name, "0");
        assert_eq!(look(&mut node), Drift::Here, "{name}");
        node.reconcile();
        assert_eq!(standing(&node), wanted(), "{name}");
    }
    node.output("ipvsadm", &["--set", "5", "0", "0"]);
    assert_eq!(look(&mut node), Drift::Here);
    node.reconcile();
    assert_eq!(timeouts(&node), ["1234", &before.1[1], "77"]);
    // A process that starts later, and wants fewer, sets back what it does not want.
    let mut later = Node::new(&host, objects());
    later.reconcile();
    let arp =
        |node: &Node| standing(node).into_iter().filter(|(name, _)| name.contains("arp")).collect::<Vec<_>>();
    let arp_before: Vec<_> = before.0.clone().into_iter().filter(|(name, _)| name.contains("arp")).collect();
    assert_eq!(arp(&later), arp_before);
    assert_eq!(timeouts(&later), before.1);
    // The last one, which never knew how they stood, sets back the others; but not what somebody has
    // changed since.
    set(&later, "net.ipv4.vs.conn_reuse_mode", "2");
    let said = later.host.run(|| later.plane.remove()).unwrap().unwrap();
    let mut expected = before.0;
    expected.insert("net.ipv4.vs.conn_reuse_mode", "2".to_owned());
    // Before we set this one it had been turned off.
    expected.insert("net.ipv4.ip_forward", "0".to_owned());
    assert_eq!(standing(&later), expected, "{said:?}");
    assert!(said.iter().any(|line| line.contains("vs.conntrack = 0")), "{said:?}");
}

fn foreign() {
    let (_lab, host) = host();
    let excluded = vec!["10.98.0.0/16".parse().unwrap()];
    let configuration = Configuration { excluded, ..Configuration::default() };
    let mut objects = objects();
    // Where this one wants its server, there is another's, in a network that is none of ours.
    let contested = service("contested", &["10.98.0.1"], &[port(Protocol::Tcp, 80, None)]);
    objects.push(Object::Service(contested));
    objects.push(Object::Slice(slice(
        "contested",
        Family::V4,
        8080,
        vec![endpoint([10, 244, 1, 9].into(), "node-a")],
    )));
    let mut node = Node::with(&host, objects, configuration);
    let theirs = [
        "-A -t 10.98.0.1:80 -s wlc",
        "-a -t 10.98.0.1:80 -r 10.1.1.1:80 -m -w 7",
        "-A -t 192.0.2.7:443 -s sh -p 60",
        "-a -t 192.0.2.7:443 -r 10.1.1.2:443 -g -w 3",
        "-A -f 7 -s rr",
    ];
    for command in theirs {
        node.output("ipvsadm", &command.split(' ').collect::<Vec<_>>());
    }
    node.output("ip", &["link", "add", "kube-ipvs0", "type", "dummy"]);
    node.output("ip", &["addr", "add", "192.0.2.7/32", "dev", "kube-ipvs0"]);
    let before = node.output("ipvsadm", &["-Sn"]);
    let untouched = |node: &Node| {
        let now = node.output("ipvsadm", &["-Sn"]);
        for line in before.lines() {
            assert!(now.lines().any(|other| other == line), "{line:?} is not among\n{now}");
        }
        assert!(node.output("ip", &["addr", "show", "kube-ipvs0"]).contains("192.0.2.7/32"));
    };
    let services: Vec<_> = node.planner.services().cloned().collect();
    let services = services.iter().map(|rules| &**rules);
    let Node { host, planner, plane, .. } = &mut node;
    let report = host.run(|| plane.reconcile(planner.node(), services)).unwrap().unwrap();
    let said: Vec<_> = report.failures.iter().map(|(owner, what)| format!("{owner:?} {what}")).collect();
    assert!(said.len() == 1 && said[0].contains("contested"), "{said:?}");
    untouched(&node);
    assert!(node.output("ipvsadm", &["-Sn"]).contains("-A -t 10.96.0.1:80"));
    node.apply(Object::Slice(slice("web", Family::V4, 8080, vec![])));
    untouched(&node);
    node.host.run(|| node.plane.remove()).unwrap().unwrap();
    untouched(&node);
    assert_eq!(node.output("ipvsadm", &["-Sn"]), before);
}

/// What kube-proxy leaves behind is used as it is, connections included.
fn take_over() {
    let mut lab = Lab::new().unwrap();
    let a = lab.node("node-a").unwrap();
    let (web, client) = (lab.pod(&a, "web").unwrap(), lab.pod(&a, "client").unwrap());
    let _server = web.serve(Tcp, 8080).unwrap();
    let backend = endpoint(web.ipv4().into(), "node-a");
    let service = service("web", &[VIP], &[port(Protocol::Tcp, 80, None)]);
    let objects =
        vec![Object::Service(service), Object::Slice(slice("web", Family::V4, 8080, vec![backend]))];
    let mut node = Node::new(&a, objects);
    for command in [
        "ip link add kube-ipvs0 type dummy".to_owned(),
        format!("ip addr add {VIP}/32 dev kube-ipvs0"),
        format!("ipvsadm -A -t {VIP}:80 -s rr"),
        format!("ipvsadm -a -t {VIP}:80 -r {}:8080 -m -w 1", web.ipv4()),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        node.output(words[0], &words[1..]);
    }
    // It leaves its device down and routes to it all the same.
    let before = node.output("ipvsadm", &["-Sn"]);
    let target = (VIP.parse::<std::net::IpAddr>().unwrap(), 80).into();
    let mut connection = client.client(Tcp).connect(target).unwrap();
    assert_eq!(connection.ask().unwrap().backend, "web");
    node.reconcile();
    assert_eq!(node.output("ipvsadm", &["-Sn"]), before);
    assert_eq!(connection.ask().unwrap().backend, "web");
    assert_eq!(client.ask(Tcp, target).unwrap().backend, "web");
    // And it is ours from now on.
    node.host.run(|| node.plane.remove()).unwrap().unwrap();
    assert_eq!(node.output("ipvsadm", &["-Sn"]), "");
    assert!(!node.output("ip", &["link"]).contains("kube-ipvs0"));
}

/// One message when an endpoint of a ClusterIP leaves or comes back, and no commit in the tables.
fn messages() {
    let (_lab, host) = host();
    let backend = |last: u8| endpoint([10, 244, 2, last].into(), "node-b");
    for size in [3usize, 300] {
        let mut objects = Vec::new();
        for number in 0..size {
            let name = format!("web-{number}");
            let vip = format!("10.96.{}.{}", number / 200 + 1, number % 200 + 1);
            objects.push(Object::Service(service(&name, &[&vip], &[port(Protocol::Tcp, 80, None)])));
            let endpoints = (1..=10).map(backend).collect();
            objects.push(Object::Slice(slice(&name, Family::V4, 8080, endpoints)));
        }
        let mut node = Node::new(&host, objects);
        node.reconcile();
        for count in [9, 10] {
            let endpoints = (1..=count).map(backend).collect();
            let report = node.apply(Object::Slice(slice("web-1", Family::V4, 8080, endpoints)));
            assert_eq!((report.steps, report.commits), (1, 0), "{size} Services, {count} endpoints");
        }
        node.host.run(|| node.plane.remove()).unwrap().unwrap();
    }
}

fn addresses() {
    let (_lab, host) = host();
    let kernel = Settings { addresses: Addresses::Device, ..Settings::default() };
    let mut node = Node::with(&host, objects(), Configuration { kernel, ..Configuration::default() });
    node.reconcile();
    let shown = |node: &Node| node.output("ip", &["-4", "addr", "show", "dev", "kube-ipvs0"]);
    assert!(shown(&node).contains("10.96.0.1/32"), "{}", shown(&node));
    node.output("ip", &["addr", "del", "10.96.0.1/32", "dev", "kube-ipvs0"]);
    let drift = node.host.run(|| node.plane.drift()).unwrap().unwrap();
    assert_eq!(drift, Drift::Here);
    assert!(!node.reconcile().is_quiet());
    assert!(shown(&node).contains("10.96.0.1/32"));
    // They are not taken for the node's own, at which NodePorts would be served.
    assert!(!node.output("ipvsadm", &["-Sn"]).contains("10.96.0.1:30080"));
    // The other way takes over without a gap, and leaves none of these behind.
    let mut routes = Node::new(&host, objects());
    routes.reconcile();
    routes.host.run(|| routes.plane.remove()).unwrap().unwrap();
    assert!(!routes.output("ip", &["link"]).contains("kube-ipvs0"));
}
