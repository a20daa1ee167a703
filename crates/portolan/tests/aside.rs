//! Backends that do not answer, and those of whom it only looks so: real packets, the real program.

mod common;

use common::{Bench, CLUSTER_IP, NODE_PORT};
use lab::{Body, Failure, Host, Packet, Protocol, TcpFlags};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a client waits whose first SYN may be lost: its second comes after 1 s, its third after 3 s.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// Enough questions for each of a few backends to be asked.
const MANY: usize = 100;

/// Runs a tool on a host; it must succeed.
fn on(host: &Host, command: &str) {
    let mut words = command.split_whitespace();
    let mut tool = Command::new(words.next().expect("a tool"));
    tool.args(words).stdout(Stdio::null());
    let status = host.spawn(&mut tool).expect("the tool is installed").child().wait().expect("it ends");
    assert!(status.success(), "{command} on {}: {status}", host.name());
}

/// From now on a host passes over all packets of this kind, in nft's words.
fn deaf_to(host: &Host, kind: &str) {
    on(host, "nft add table ip deaf");
    on(host, "nft add chain ip deaf in { type filter hook prerouting priority -400 ; }");
    on(host, &format!("nft add rule ip deaf in {kind} drop"));
}

fn hears_again(host: &Host) {
    on(host, "nft delete table ip deaf");
}

/// A first SYN.
const SYN: &str = "tcp flags syn / syn,ack";

/// Who is set aside, and why, as `show` tells.
fn aside(bench: &Bench) -> Vec<(String, String)> {
    let shown = bench.tool(&format!("{} show --mode nftables --json", env!("CARGO_BIN_EXE_portolan")));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let all = shown["aside"].as_array().expect("a list").iter();
    all.map(|one| (text(&one["backend"]), text(&one["why"]))).collect()
}

/// How often anybody has been set aside so far.
fn turns(bench: &Bench) -> u64 {
    let metrics = bench.curl("http://127.0.0.1:10249/metrics");
    let counted = metrics.lines().filter(|line| line.starts_with("portolan_set_aside_total{"));
    let counts: Vec<u64> =
        counted.map(|line| line.rsplit(' ').next().expect("a number").parse().expect("a number")).collect();
    assert_eq!(counts.len(), 3, "{metrics}");
    counts.iter().sum()
}

fn backend(bench: &Bench, index: usize) -> String {
    format!("{}:8080", bench.backends[index].ipv4())
}

/// Asks the Service often enough to meet everybody; says who answered.
fn ask_all(bench: &Bench, client: &Host) -> BTreeSet<String> {
    let client = client.client(Protocol::Tcp).timeout(CLIENT_PATIENCE);
    (0..MANY).map(|_| client.ask(bench.cluster_ip()).expect("an answer").backend).collect()
}

/// Asks until this one is set aside for this reason.
fn until_aside(bench: &Bench, index: usize, why: &str) {
    let wanted = (backend(bench, index), why.to_owned());
    bench.until("it is set aside", |bench| {
        let client = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(50));
        let _ = client.ask(bench.cluster_ip());
        aside(bench).contains(&wanted)
    });
}

fn until_back(bench: &Bench) {
    bench.until("it is back", |bench| aside(bench).is_empty());
}

#[test]
fn no_client_fails_and_established_connections_are_not_touched() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    let held = bench.client.client(Protocol::Tcp).hold(bench.cluster_ip(), 12, Duration::from_millis(20));
    let held = held.expect("connections");
    // It goes on serving those who are there, and says nothing to others.
    deaf_to(&bench.backends[1], SYN);
    assert_eq!(ask_all(&bench, &bench.client), BTreeSet::from(["web-0".to_owned(), "web-2".to_owned()]));
    assert_eq!(aside(&bench), [(backend(&bench, 1), "silent".to_owned())]);
    let report = held.finish();
    assert!(report.unharmed(), "{report:?}");
    assert!(report.per_backend.contains_key("web-1"), "{report:?}");
    hears_again(&bench.backends[1]);
    until_back(&bench);
    assert_eq!(ask_all(&bench, &bench.client).len(), 3);
}

#[test]
fn a_backend_that_refuses() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    bench.hang_up(2);
    until_aside(&bench, 2, "refusing");
    assert_eq!(ask_all(&bench, &bench.client), BTreeSet::from(["web-0".to_owned(), "web-1".to_owned()]));
    bench.serve(2);
    until_back(&bench);
}

#[test]
fn a_backend_over_udp_where_nobody_is() {
    let mut bench = Bench::new("nftables", 3);
    let service = SocketAddr::new(IpAddr::from([10, 96, 0, 11]), 53);
    let serve = |host: &Host| host.serve_at(Protocol::Udp, (host.ipv4(), 5353)).expect("a server");
    let mut servers: Vec<_> = bench.backends.iter().map(serve).collect();
    let endpoints = bench.backends.iter().map(|host| format!("- {{addresses: [{}]}}\n", host.ipv4()));
    bench.write("udp.yaml", &format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: dns, namespace: shop}}\nspec:\n  clusterIP: {}\n  ports: [{{name: dns, port: 53, protocol: UDP}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: dns-1, namespace: shop, labels: {{kubernetes.io/service-name: dns}}}}\naddressType: IPv4\nports: [{{name: dns, port: 5353, protocol: UDP}}]\nendpoints:\n{}",
        service.ip(),
        endpoints.collect::<String>(),
    ));
    bench.start();
    let ask =
        |bench: &Bench| bench.client.client(Protocol::Udp).timeout(Duration::from_millis(200)).ask(service);
    bench.until("it answers", |bench| ask(bench).is_ok());
    servers.remove(1);
    let gone = (format!("{}:5353", bench.backends[1].ipv4()), "refusing".to_owned());
    bench.until("it is set aside", |bench| {
        let _ = ask(bench);
        aside(bench).contains(&gone)
    });
    let by: BTreeSet<_> = (0..MANY).map(|_| ask(&bench).expect("an answer").backend).collect();
    assert_eq!(by, BTreeSet::from(["web-0".to_owned(), "web-2".to_owned()]));
    servers.push(serve(&bench.backends[1]));
    until_back(&bench);
}

#[test]
fn a_client_that_is_cut_off() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    deaf_to(&bench.client, "tcp sport 80");
    let client = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(100));
    for _ in 0..MANY {
        assert_eq!(client.ask(bench.cluster_ip()).map(|reply| reply.backend), Err(Failure::TimedOut));
    }
    assert_eq!(turns(&bench), 0);
}

/// A SYN from anywhere.
fn syn(source: SocketAddr, target: SocketAddr) -> Packet {
    let body = Body::Tcp { flags: TcpFlags::SYN, sequence: 7, acknowledgement: 0, payload: Vec::new() };
    Packet { source, target, body }
}

#[test]
fn a_flood_with_forged_sources() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    // From outside and from a pod: nobody will ever acknowledge these, and most are sent twice.
    for round in 0..2000u32 {
        let forged = IpAddr::from([203, 0, 113, (round / 2 % 250) as u8 + 1]);
        let source = SocketAddr::new(forged, 20_000 + (round / 2) as u16);
        bench.outside.inject(&syn(source, bench.node_port())).expect("sent");
        bench.client.inject(&syn(source, bench.cluster_ip())).expect("sent");
    }
    assert_eq!(ask_all(&bench, &bench.client).len(), 3);
    assert_eq!(turns(&bench), 0);
}

#[test]
fn a_hostile_pod() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    // It knows who the backends are, and speaks in their names: that they refuse it, that they are gone.
    deaf_to(&bench.client, "tcp sport 80");
    for port in 30_000..30_400u16 {
        let own = SocketAddr::new(bench.client.ipv4().into(), port);
        bench.client.inject(&syn(own, bench.cluster_ip())).expect("sent");
        for index in 0..3 {
            let from = SocketAddr::new(bench.backends[index].ipv4().into(), 8080);
            let flags = TcpFlags::RST | TcpFlags::ACK;
            let body = Body::Tcp { flags, sequence: 0, acknowledgement: 8, payload: Vec::new() };
            bench.client.inject(&Packet { source: from, target: own, body }).expect("sent");
        }
    }
    let other = bench.another_client();
    assert_eq!(ask_all(&bench, &other).len(), 3);
    assert_eq!(turns(&bench), 0);
}

#[test]
fn an_accept_queue_that_is_full_for_a_while_and_one_that_stays_full() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    let queue = bench.clog(1);
    // Somebody waits before it.
    for _ in 0..12 {
        let _ = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(50)).ask(bench.cluster_ip());
    }
    queue.drain();
    assert_eq!(turns(&bench), 0);
    queue.fill();
    until_aside(&bench, 1, "stuck");
    queue.drain();
    until_back(&bench);
}

#[test]
fn replies_that_take_another_way() {
    let mut bench = Bench::new("nftables", 2);
    bench.start();
    // From outside to a ClusterIP nothing is masqueraded: the pod on the other node answers past this one,
    // to a client that knows nothing of it.
    let network = lab::Prefix { address: CLUSTER_IP.parse().expect("an address"), length: 32 };
    bench.outside.route_via(network, bench.node.ipv4().into()).expect("a route");
    let client = bench.outside.client(Protocol::Tcp).timeout(Duration::from_millis(100));
    let failed = (0..MANY).filter(|_| client.ask(bench.cluster_ip()).is_err()).count();
    assert!(failed > 0, "all replies came through this node");
    assert_eq!(turns(&bench), 0);
    assert_eq!(ask_all(&bench, &bench.client).len(), 2);
}

#[test]
fn a_policy_that_drops_one_client() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    deaf_to(&bench.backends[1], &format!("ip saddr {}", bench.client.ipv4()));
    let client = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(100));
    let failed = (0..MANY).filter(|_| client.ask(bench.cluster_ip()).is_err()).count();
    assert!(failed > 0, "nobody was dropped");
    assert_eq!(turns(&bench), 0);
    // Others go there as ever.
    let other = bench.another_client();
    assert_eq!(ask_all(&bench, &other).len(), 3);
}

#[test]
fn a_whole_node_that_comes_back() {
    let mut bench = Bench::new("nftables", 6);
    bench.start();
    bench.unplug();
    // One client's trouble is enough for all backends there.
    bench.until("all there are set aside", |bench| {
        let client = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(50));
        let _ = client.ask(bench.cluster_ip());
        aside(bench).len() == 3
    });
    assert_eq!(ask_all(&bench, &bench.client), ["web-0", "web-2", "web-4"].map(String::from).into());
    bench.plug();
    until_back(&bench);
    assert_eq!(ask_all(&bench, &bench.client).len(), 6);
}

#[test]
fn never_the_last_and_never_more_than_half() {
    let mut bench = Bench::new("nftables", 4);
    bench.start();
    let slots = |bench: &Bench| bench.tool("nft list map ip portolan slots").matches(". 8080").count();
    for index in [3, 2] {
        deaf_to(&bench.backends[index], SYN);
        until_aside(&bench, index, "silent");
    }
    assert_eq!(slots(&bench), 2);
    // Of two that are left, one falls silent: it is known, and still asked.
    deaf_to(&bench.backends[1], SYN);
    until_aside(&bench, 1, "silent");
    assert_eq!(slots(&bench), 2);
    // When nobody at all answers there is nobody to compare with, and nothing more is done.
    deaf_to(&bench.backends[0], SYN);
    for _ in 0..12 {
        let _ =
            bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(100)).ask(bench.cluster_ip());
    }
    assert_eq!((slots(&bench), turns(&bench)), (2, 3));
}

#[test]
fn it_is_remembered_over_a_restart_and_forgotten_with_the_endpoint() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    deaf_to(&bench.backends[1], SYN);
    until_aside(&bench, 1, "silent");
    bench.kill();
    bench.start();
    assert_eq!(aside(&bench), [(backend(&bench, 1), "silent".to_owned())]);
    assert_eq!(ask_all(&bench, &bench.client).len(), 2);
    bench.endpoints(&[0, 2]);
    until_back(&bench);
    // It is ready again, says the cluster, and so it is tried.
    hears_again(&bench.backends[1]);
    bench.endpoints(&[0, 1, 2]);
    bench.until("it is tried again", |bench| ask_all(bench, &bench.client).len() == 3);
}

#[test]
fn a_service_that_wants_none_of_it() {
    let mut bench = Bench::new("nftables", 3);
    bench.write("service.yaml", &format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{portolan.dev/set-aside: \"off\"}}}}\nspec:\n  type: NodePort\n  clusterIP: {CLUSTER_IP}\n  ports: [{{name: http, port: 80, nodePort: {NODE_PORT}}}]\n"
    ));
    bench.start();
    deaf_to(&bench.backends[1], SYN);
    let client = bench.client.client(Protocol::Tcp).timeout(Duration::from_millis(100));
    let failed = (0..MANY).filter(|_| client.ask(bench.cluster_ip()).is_err()).count();
    assert!(failed > 0, "nobody met it");
    assert_eq!(turns(&bench), 0);
}
