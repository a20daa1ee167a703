//! Load, held connections and measured ones: what they count, with and without faults.

use std::net::SocketAddr;
use std::time::Duration;

use lab::Protocol::{Sctp, Tcp, Udp};
use lab::{Failure, Host, Lab, Load, Node, connect_latencies, connect_latency};

/// Longer than anything that works needs; short, because black holes are waited for in full.
const BRIEF: Duration = Duration::from_millis(500);

/// A lab with one node and two pods on it.
fn two_pods() -> (Lab, Node, Host, Host) {
    let mut lab = Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let (one, two) = (lab.pod(&node, "one").unwrap(), lab.pod(&node, "two").unwrap());
    (lab, node, one, two)
}

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
fn a_load_counts_every_connection_once() {
    let (mut lab, node, one, two) = two_pods();
    let client = lab.outside("client").unwrap();
    for protocol in [Tcp, Udp] {
        let _servers = [one.serve(protocol, 80).unwrap(), two.serve(protocol, 80).unwrap()];
        let load = Load::new(protocol, (one.ipv4(), 80)).and((two.ipv6(), 80)).per_second(1_000).count(301);
        let report = load.run(&[&client, &node]).unwrap();
        assert_eq!((report.answered(), report.failed()), (301, 0), "{report}");
        assert_eq!((report.per_backend["one"], report.per_backend["two"]), (151, 150));
        assert_eq!(report.latencies.len(), 301);
        assert!(report.latencies.p50() <= report.latencies.max());
    }
}

#[test]
fn a_load_names_its_failures() {
    let (lab, node, one, two) = two_pods();
    let _server = one.serve(Tcp, 80).unwrap();
    let nowhere: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let load = Load::new(Tcp, (one.ipv4(), 80)).and((two.ipv4(), 80)).and(nowhere);
    let report = load.per_second(1_000).count(90).timeout(BRIEF).run(&[&node]).unwrap();
    assert_eq!(report.answered(), 30, "{report}");
    assert_eq!(report.failures[&Failure::Refused], 30, "{report}");
    assert_eq!(report.failures[&Failure::TimedOut], 30, "{report}");
    assert!(report.to_string().starts_with("30 answered, 60 failed, 30 refused, 30 timed out; p50 "));
    drop(lab);
}

#[test]
fn a_load_waits_for_room() {
    let (lab, node, one, _two) = two_pods();
    let _server = one.serve(Tcp, 80).unwrap();
    let nowhere: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let load = |at_once| {
        let load = Load::new(Tcp, nowhere).and((one.ipv4(), 80)).per_second(1_000);
        let running = load.timeout(BRIEF).at_once(at_once).start(&[&node]).unwrap();
        std::thread::sleep(BRIEF / 4);
        let answered = running.answered();
        (answered, running.stop().unwrap())
    };
    // The first has no answer and takes the only place.
    let (answered, report) = load(1);
    assert_eq!((answered, report.failed()), (0, 1), "{report}");
    assert!(load(1000).0 > 0);
    drop(lab);
}

#[test]
fn a_load_sees_what_happens_under_it_and_stops_when_told() {
    let (_lab, node, one, _) = two_pods();
    let server = one.serve(Tcp, 80).unwrap();
    let running = Load::new(Tcp, (one.ipv4(), 80)).per_second(200).start(&[&node]).unwrap();
    eventually("an answer", || running.answered() > 0);
    drop(server);
    eventually("a refusal", || running.failed() > 0);
    let report = running.stop().unwrap();
    assert!(report.answered() > 0 && report.failed() > 0, "{report}");
    // Reset: those the server had taken when it stopped.
    let kinds = [Failure::Refused, Failure::Reset];
    assert!(report.failures.keys().all(|failure| kinds.contains(failure)), "{report}");
}

#[test]
fn a_load_counts_its_phases_apart() {
    let (_lab, node, one, two) = two_pods();
    let first = one.serve(Tcp, 80).unwrap();
    let running = Load::new(Tcp, (one.ipv4(), 80)).and((two.ipv4(), 80)).per_second(200);
    let running = running.start(&[&node]).unwrap();
    eventually("an answer", || running.answered() > 0);
    let _second = two.serve(Tcp, 80).unwrap();
    running.next_phase();
    eventually("an answer of the second", || running.phases().get(1).is_some_and(|p| p.contains_key("two")));
    drop(first);
    running.next_phase();
    let before = running.answered();
    eventually("another answer", || running.answered() > before);
    let report = running.stop().unwrap();
    assert!(!report.phases[0].contains_key("two"), "{report:?}");
    assert!(!report.phases[2].contains_key("one"), "{report:?}");
    let together: u64 = report.phases.iter().flat_map(|phase| phase.values()).sum();
    assert_eq!(together, report.answered());
}

#[test]
fn held_connections_live_through_what_does_not_concern_them() {
    let (mut lab, node, one, two) = two_pods();
    let server = one.serve(Tcp, 80).unwrap();
    let target = SocketAddr::from((one.ipv4(), 80));
    let every = Duration::from_millis(5);
    let held = node.client(Tcp).hold(target, 20, every).unwrap();
    lab.remove(&two);
    drop(two);
    std::thread::sleep(Duration::from_millis(50));
    let report = held.finish();
    assert!(report.unharmed(), "{report:?}");
    assert_eq!(report.per_backend["one"], 20);
    assert!(report.answers >= 40, "{report:?}");

    let held = node.client(Tcp).hold(target, 20, every).unwrap();
    drop(server);
    let report = held.finish();
    assert_eq!(report.lost.get(&Failure::Reset), Some(&20), "{report:?}");
    assert!(!report.unharmed());
    assert_eq!(node.client(Tcp).hold(target, 1, every).unwrap_err(), Failure::Refused);
}

#[test]
fn connecting_is_measured_target_by_target() {
    let (_lab, node, one, two) = two_pods();
    let _server = one.serve(Tcp, 80).unwrap();
    let targets = [(one.ipv4(), 80).into(), (one.ipv6(), 80).into(), SocketAddr::from((two.ipv4(), 80))];
    let connects = connect_latency(&node, &targets, 50).unwrap();
    let [v4, v6, refused] = &connects[..] else { panic!("{connects:?}") };
    for good in [v4, v6] {
        assert_eq!((good.latencies.len(), good.failures.len()), (50, 0), "{good:?}");
        assert!(good.latencies.ratio(&v4.latencies) > 0.0);
    }
    assert_eq!(refused.failures, [Failure::Refused; 50]);
    assert_eq!(refused.latencies.len(), 50);

    // From several hosts in turn, through sockets of their own.
    let door = one.door(81).unwrap();
    let target = (one.ipv4(), 81).into();
    let paths = [(node.host(), target), (&two, target), (&one, target)];
    let connects = connect_latencies(&paths, &[&door], 3000).unwrap();
    for good in connects {
        assert_eq!((good.latencies.len(), good.failures.len()), (3000, 0), "{good:?}");
    }
}

#[test]
fn sctp_where_the_kernel_has_it() {
    let (_lab, node, one, _) = two_pods();
    let server = one.serve(Sctp, 80);
    assert_eq!(server.is_ok(), node.has_sctp());
    if node.has_sctp() {
        for target in one.addresses() {
            assert_eq!(node.ask(Sctp, (target, 80)).map(|reply| reply.backend), Ok("one".to_owned()));
        }
        drop(server);
        assert_eq!(node.ask(Sctp, (one.ipv4(), 80)), Err(Failure::Refused));
    }
}
