//! The iptables plane on this kernel, by both kinds of iptables: what it finds it keeps, what is
//! somebody else's it leaves, and what somebody broke it mends. (What packets do is in `scenarios/`.)

use dataplane::iptables::{Configuration, Plane, Variant};
use dataplane::{Drift, Mode};
use lab::Namespace;
use model::{
    Change, Cluster, Conditions, Endpoint, Family, Object, ObjectName, Policy, Prefix, Protocol, Service,
    ServiceKind, ServicePort, Slice, SlicePort,
};
use plan::{DetectLocal, NodePortAddresses, Planner, Settings};
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

fn settings() -> Settings {
    Settings {
        node_name: "n".into(),
        node_addresses: vec![IpAddr::from([192, 0, 2, 1])],
        interface_addresses: vec![],
        detect_local: DetectLocal::ClusterCidr("10.244.0.0/16".parse().into_iter().collect()),
        masquerade_all: false,
        node_ports: NodePortAddresses::All,
        localhost_node_ports: true,
        ignore_external_ips: false,
        owns_addresses: false,
    }
}

fn service(number: u8, affinity_seconds: Option<u32>) -> Object {
    Object::Service(Service {
        cluster_ips: Box::new([IpAddr::from([10, 96, 0, number])]),
        load_balancer_ips: Box::new([IpAddr::from([203, 0, 113, number])]),
        source_ranges: Prefix::new(IpAddr::from([192, 0, 2, 0]), 24).into_iter().collect(),
        ports: Box::new([ServicePort {
            name: "t".into(),
            protocol: if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
            port: 80,
            node_port: Some(30000 + u16::from(number)),
        }]),
        affinity_seconds,
        external_policy: if number.is_multiple_of(3) { Policy::Local } else { Policy::Cluster },
        health_check_node_port: Some(32000 + u16::from(number)),
        ..Service::new(ObjectName::new("ns", format!("s{number}")), ServiceKind::LoadBalancer)
    })
}

fn slice(number: u8, endpoints: u8) -> Object {
    Object::Slice(Slice {
        name: ObjectName::new("ns", format!("s{number}-1")),
        service: format!("s{number}").as_str().into(),
        family: Family::V4,
        ports: Box::new([SlicePort {
            name: "t".into(),
            protocol: if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
            port: 8080,
        }]),
        endpoints: (1..=endpoints)
            .map(|last| Endpoint {
                address: IpAddr::from([10, 244, number, last]),
                conditions: Conditions::READY,
                place: Default::default(),
                identity: None,
            })
            .collect(),
        annotations: Default::default(),
    })
}

/// Some Services of every kind, one without endpoints.
fn planner() -> (Cluster, Planner) {
    let mut cluster = Cluster::new();
    let mut touched = model::Touched::default();
    for number in 1..8 {
        let affinity = (number == 4).then_some(600);
        for object in [service(number, affinity), slice(number, number - 1)] {
            touched.merge(cluster.apply(Change::Apply(object)));
        }
    }
    let mut planner = Planner::new(settings());
    planner.update(&cluster, &touched);
    (cluster, planner)
}

fn open(variant: Option<Variant>) -> Plane {
    let configuration = Configuration { variant, ..Configuration::default() };
    Plane::open(&Family::ALL, true, configuration).expect("iptables is installed")
}

/// Runs a program in this thread's namespace, and returns what it printed.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn each_variant(test: impl Fn(Variant) + Sync) {
    for variant in Variant::ALL {
        let namespace = Namespace::new().expect("a namespace (are you root?)");
        namespace.run(|| test(variant)).expect("the namespace");
    }
}

fn program(variant: Variant, what: &str) -> String {
    format!("iptables-{variant}{what}")
}

#[test]
fn the_next_process_finds_nothing_to_do() {
    each_variant(|variant| {
        let (_, planner) = planner();
        let services = || planner.services().map(|s| &**s);
        let report = open(Some(variant)).reconcile(planner.node(), services()).unwrap();
        assert_eq!(report.failures, []);
        let before = run(&program(variant, "-save"), &[], "");
        assert!(before.contains("KUBE-SEP-") && before.contains("-m recent"), "{before}");
        let mut next = open(Some(variant));
        let report = next.reconcile(planner.node(), services()).unwrap();
        assert!(report.is_quiet(), "{variant}: {report:?}");
        assert_eq!(next.drift().unwrap(), Drift::None, "{variant}");
        let preview = next.preview(&planner.rules(), false).unwrap();
        assert_eq!(preview, [], "{variant}");
    });
}

#[test]
fn an_endpoint_is_one_restore() {
    each_variant(|variant| {
        let (mut cluster, mut planner) = planner();
        let mut plane = open(Some(variant));
        plane.reconcile(planner.node(), planner.services().map(|s| &**s)).unwrap();
        let touched = cluster.apply(Change::Apply(slice(6, 4)));
        let deltas = planner.update(&cluster, &touched);
        let report = plane.apply(&deltas);
        assert_eq!((report.commits, report.failures), (1, vec![]), "{variant}");
        // Nobody else was there, and that is seen.
        assert_eq!(plane.drift().unwrap(), Drift::None, "{variant}");
    });
}

#[test]
fn what_somebody_broke_is_mended() {
    each_variant(|variant| {
        let (_, planner) = planner();
        let services = || planner.services().map(|s| &**s);
        let mut plane = open(Some(variant));
        plane.reconcile(planner.node(), services()).unwrap();
        let tool = program(variant, "");
        let vandals: [&[&str]; 5] = [
            &["-t", "nat", "-F"],
            &["-t", "nat", "-F", "KUBE-SERVICES"],
            &["-t", "filter", "-D", "KUBE-SERVICES", "1"],
            &["-t", "nat", "-I", "KUBE-MARK-MASQ", "-j", "RETURN"],
            &["-t", "filter", "-F", "FORWARD"],
        ];
        let whole = run(&program(variant, "-save"), &["-t", "nat"], "").lines().count();
        for vandal in vandals {
            run(&tool, vandal, "");
            assert_eq!(plane.drift().unwrap(), Drift::Here, "{variant} {vandal:?}");
            let report = plane.reconcile(planner.node(), services()).unwrap();
            assert!(!report.is_quiet() && report.failures.is_empty(), "{variant} {vandal:?}: {report:?}");
            assert_eq!(plane.drift().unwrap(), Drift::None, "{variant} {vandal:?}");
            let now = run(&program(variant, "-save"), &["-t", "nat"], "").lines().count();
            assert_eq!(now, whole, "{variant} {vandal:?}");
        }
    });
}

#[test]
fn what_is_somebody_elses_stays() {
    each_variant(|variant| {
        let others = "*nat\n:CNI-HOSTPORT - [0:0]\n-A CNI-HOSTPORT -p tcp -m tcp --dport 8080 -j RETURN\n\
                      -A PREROUTING -j CNI-HOSTPORT\nCOMMIT\n\
                      *mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n\
                      *filter\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n";
        run(&program(variant, "-restore"), &["--noflush"], others);
        let rules = || {
            let saved = run(&program(variant, "-save"), &[], "");
            // Older ones print counters of chains, and all print the time.
            let told = saved.lines().filter(|line| line.starts_with("-A") || line.starts_with(":"));
            let bare = told.map(|line| line.split(" [").next().unwrap_or_default().to_owned());
            let mut lines: Vec<String> = bare.collect();
            lines.sort();
            lines
        };
        let before = rules();
        let (_, planner) = planner();
        // Found by the kubelet's chain.
        let mut plane = open(None);
        assert_eq!(plane.variant(), variant);
        plane.reconcile(planner.node(), planner.services().map(|s| &**s)).unwrap();
        let between = rules();
        assert!(before.iter().all(|line| between.contains(line)), "{between:?}");
        assert!(!plane.remove().unwrap().is_empty());
        let shared = ["KUBE-FIREWALL"];
        let mut after = rules();
        after.retain(|line| !shared.iter().any(|name| line.contains(name)) || before.contains(line));
        // Tables that were looked into are there now, with the kernel's own chains in them.
        after.retain(|line| before.contains(line) || !line.starts_with(':') || line.contains("KUBE"));
        let mut before = before.clone();
        before.sort();
        assert_eq!(after, before, "{variant}");
    });
}

#[test]
fn kube_proxys_chains_are_not_taken_away() {
    each_variant(|variant| {
        let theirs = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]\n\
                      -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-XPGD46QRK7WJZT7O\nCOMMIT\n";
        run(&program(variant, "-restore"), &["--noflush"], theirs);
        assert_eq!(open(Some(variant)).remove().unwrap(), Vec::<String>::new());
        assert!(run(&program(variant, "-save"), &["-t", "nat"], "").contains("KUBE-SVC-XPGD46QRK7WJZT7O"));
        // But taken over.
        let (_, planner) = planner();
        open(Some(variant)).reconcile(planner.node(), planner.services().map(|s| &**s)).unwrap();
        assert!(!run(&program(variant, "-save"), &["-t", "nat"], "").contains("KUBE-SVC-XPGD46QRK7WJZT7O"));
    });
}

#[test]
fn its_name() {
    assert_eq!("iptables".parse(), Ok(Mode::Iptables));
}
