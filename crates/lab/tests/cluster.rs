//! The lab's own promises: who reaches whom, what failures are called, and that nothing stays.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::Protocol::{Tcp, Udp};
use lab::{Config, Failure, Family, Host, Lab};
use netlink::route::{Action, RouteEntry, RouteKind};

/// Longer than anything that works needs; short, because black holes are waited for in full.
const BRIEF: Duration = Duration::from_millis(300);

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn everybody_reaches_every_pod_over_both_families() {
    let mut lab = Lab::new().unwrap();
    let a = lab.node("node-a").unwrap();
    let b = lab.node("node-b").unwrap();
    let web = lab.pod(&a, "web").unwrap();
    let beside = lab.pod(&a, "beside").unwrap();
    let across = lab.pod(&b, "across").unwrap();
    let client = lab.outside("client").unwrap();
    assert_eq!(web.ipv4().to_string(), "10.244.1.2");
    assert_eq!(across.ipv6().to_string(), "fd00:10:244:2::2");

    let _servers = [web.serve(Tcp, 8080).unwrap(), web.serve(Udp, 8080).unwrap()];
    for guest in [&web, &beside, &across, &client, a.host(), b.host()] {
        for target in web.addresses() {
            let pong = guest.ping(target);
            assert!(pong.is_ok(), "{} pings {target}: {pong:?}", guest.name());
            for protocol in [Tcp, Udp] {
                let reply = guest.ask(protocol, (target, 8080)).unwrap_or_else(|failure| {
                    panic!("{} to {target} over {protocol}: {failure}\n{}", guest.name(), lab.map())
                });
                assert_eq!(reply.backend, "web");
                // Nobody in between changes the source; nodes speak from their own address.
                assert_eq!(Some(reply.seen_source.ip()), guest.address_like(target), "{}", guest.name());
            }
        }
    }
}

#[test]
fn one_family_is_enough() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::with(Config::default().only(family)).unwrap();
        let node = lab.node("node").unwrap();
        let web = lab.pod(&node, "web").unwrap();
        let client = lab.outside("client").unwrap();
        let _server = web.serve(Tcp, 80).unwrap();
        let [address] = web.addresses()[..] else { panic!("{:?}", web.addresses()) };
        assert_eq!(client.ask(Tcp, (address, 80)).map(|reply| reply.backend), Ok("web".to_owned()));
    }
}

#[test]
fn addresses_may_be_any() {
    let mut lab = Lab::new().unwrap();
    let early = lab.outside("early").unwrap();
    let node = lab.node_at("node", &ips(&["172.18.0.2", "2001:db8::2"]), &[]).unwrap();
    let web = lab.pod_at(&node, "web", &ips(&["100.64.3.9", "2001:db8:64::9"])).unwrap();
    let late = lab.outside_at("late", &ips(&["198.51.100.7", "2001:db8:51::7"])).unwrap();
    let _server = web.serve(Tcp, 80).unwrap();
    for client in [&early, &late, node.host(), &web] {
        for target in web.addresses() {
            let reply = client.ask(Tcp, (target, 80)).unwrap_or_else(|failure| {
                panic!("{} to {target}: {failure}", client.name());
            });
            assert_eq!(Some(reply.seen_source.ip()), client.address_like(target));
        }
    }
}

#[test]
fn a_far_client_is_as_far_as_it_says() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let near = lab.far_outside("near", 1).unwrap();
    let far = lab.far_outside("far", 3).unwrap();
    let _server = web.serve(Tcp, 80).unwrap();
    for client in [&near, &far] {
        for target in web.addresses() {
            let reply = client.ask(Tcp, (target, 80)).unwrap();
            assert_eq!(Some(reply.seen_source.ip()), client.address_like(target));
        }
        assert!(web.ping(client.ipv4()).is_ok() && web.ping(client.ipv6()).is_ok());
    }
    assert_eq!(far.routers().len(), 3);
    // Three routers and the node take one each of a packet's lives, and one must be left.
    let lives = |count: u32| {
        far.set_sysctl("ipv4/ip_default_ttl", &count.to_string()).unwrap();
        far.ask(Tcp, (web.ipv4(), 80)).map(|reply| reply.backend)
    };
    assert_eq!(lives(5), Ok("web".to_owned()));
    assert_eq!(lives(4), Err(Failure::Unreachable));
    assert!(lab.far_outside("too far", 99).is_err());
}

#[test]
fn a_cable_is_a_second_way() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let client = lab.outside("client").unwrap();
    lab::cable(&node, "eth1", &client, "eth1").unwrap();
    node.add_address("eth1", "198.51.100.1/24".parse().unwrap()).unwrap();
    client.add_address("eth1", "198.51.100.2/24".parse().unwrap()).unwrap();
    let _server = node.serve(Tcp, 80).unwrap();
    let second: SocketAddr = "198.51.100.1:80".parse().unwrap();
    let reply = client.ask(Tcp, second).unwrap();
    assert_eq!(reply.seen_source.ip().to_string(), "198.51.100.2");
    assert!(node.addresses().contains(&second.ip()));
}

#[test]
fn failures_have_names() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let client = lab.outside("client").unwrap();
    for target in web.addresses() {
        for protocol in [Tcp, Udp] {
            assert_eq!(client.ask(protocol, (target, 8080)), Err(Failure::Refused), "{protocol} {target}");
        }
    }
    for nowhere in ["10.96.0.1:80", "[fd00:10:96::1]:80"] {
        let nowhere: SocketAddr = nowhere.parse().unwrap();
        for protocol in [Tcp, Udp] {
            let failure = client.client(protocol).timeout(BRIEF).ask(nowhere);
            assert_eq!(failure, Err(Failure::TimedOut), "{protocol} {nowhere}");
        }
    }
    let destination = "10.96.0.0/12".parse().unwrap();
    let forbidden = RouteEntry { kind: RouteKind::Unreachable, ..RouteEntry::blackhole(destination) };
    client.change_route(Action::Add, &forbidden).unwrap();
    let nowhere: SocketAddr = "10.96.0.1:80".parse().unwrap();
    assert_eq!(client.ask(Tcp, nowhere), Err(Failure::Unreachable));
}

#[test]
fn a_server_that_stops_refuses_and_a_held_connection_ends() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let target = SocketAddr::from((web.ipv4(), 80));
    let server = web.serve(Tcp, 80).unwrap();
    let mut held = node.client(Tcp).connect(target).unwrap();
    for _ in 0..3 {
        assert_eq!(held.ask().unwrap().seen_source, held.source().unwrap());
    }
    drop(server);
    assert_eq!(held.ask(), Err(Failure::Reset));
    assert_eq!(node.ask(Tcp, target), Err(Failure::Refused));
}

#[test]
fn a_client_may_choose_its_source() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let _servers = [web.serve(Tcp, 80).unwrap(), web.serve(Udp, 80).unwrap()];
    for protocol in [Tcp, Udp] {
        for port in [4711, 4712] {
            let source = SocketAddr::from((node.ipv4(), port));
            let client = node.client(protocol).from(source);
            assert_eq!(client.ask((web.ipv4(), 80).into()).unwrap().seen_source, source);
        }
    }
}

#[test]
fn the_silent_and_the_unplugged_answer_nobody_until_they_are_back() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let web = lab.pod(&node, "web").unwrap();
    let client = lab.outside("client").unwrap();
    let _server = web.serve(Tcp, 80).unwrap();
    let all = |expected: Result<(), Failure>| {
        for target in web.addresses() {
            let result = client.client(Tcp).timeout(BRIEF).ask((target, 80).into());
            assert_eq!(result.map(|_| ()), expected, "{target}");
        }
    };
    all(Ok(()));
    web.silence().unwrap();
    all(Err(Failure::TimedOut));
    web.speak().unwrap();
    all(Ok(()));
    lab.unplug(&node).unwrap();
    all(Err(Failure::TimedOut));
    lab.plug(&node).unwrap();
    for target in web.addresses() {
        // The client may have given the node up meanwhile, and must ask for it anew.
        assert!(client.ask(Tcp, (target, 80)).is_ok(), "{target}");
    }
    assert!(lab.unplug(&web).is_err());
}

/// A pod's link has one end on its node: that goes when the pod's namespace does.
fn links(host: &Host) -> usize {
    host.netlink().links().unwrap().len()
}

/// The kernel dismantles namespaces in the background (`cleanup_net`).
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

#[test]
fn namespaces_vanish_with_their_values() {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    assert_eq!(links(&node), 2, "lo and eth0");
    let short = lab.pod(&node, "short").unwrap();
    let long = lab.pod(&node, "long").unwrap();
    let server = short.serve(Tcp, 80).unwrap();
    assert_eq!(links(&node), 4);
    lab.remove(&short);
    drop((short, server));
    eventually("the removed pod goes", || links(&node) == 3);
    drop((lab, long));
    eventually("the lab goes, and with it the node's own link", || links(&node) == 1);
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut lab = Lab::new().unwrap();
        let node = lab.node("node").unwrap();
        let web = lab.pod(&node, "web").unwrap();
        let _server = web.serve(Tcp, 80).unwrap();
        sender.send(node).unwrap();
        panic!("as a failing test would");
    });
    let node = receiver.recv().unwrap();
    assert!(thread.join().is_err());
    eventually("only the node is left, which we hold", || links(&node) == 1);
}
