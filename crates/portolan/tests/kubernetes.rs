//! The real program against an API server of our own, with real packets: whatever happens to the API
//! server, connections go on, and the state is right in the end.

mod common;

use common::{Bench, CLUSTER_IP, NODE_PORT};
use lab::api::{ApiOptions, ApiServer, Fault};
use lab::{Load, Protocol};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const SLICES: &str = "/endpointslices";

/// A cluster whose API server runs on the node, as that of a control plane does.
struct InCluster {
    bench: Bench,
    server: ApiServer,
}

impl InCluster {
    fn new(backends: usize, options: ApiOptions) -> InCluster {
        let bench = Bench::new("nftables", backends);
        let start = || ApiServer::start(SocketAddr::from(([127, 0, 0, 1], 6443)), options);
        let server = bench.node.run(start).expect("the host is there").expect("a server");
        server.set(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "status": {"addresses": [{"type": "InternalIP", "address": bench.node.ipv4()}]}}));
        server.set(service("web", CLUSTER_IP, Some(NODE_PORT)));
        let cluster = InCluster { bench, server };
        cluster.endpoints(&(0..backends).collect::<Vec<_>>());
        cluster
    }

    fn endpoints(&self, ready: &[usize]) {
        self.server.set(self.slice("web", "web-1", ready));
    }

    fn slice(&self, service: &str, name: &str, ready: &[usize]) -> Value {
        let endpoints: Vec<Value> = ready
            .iter()
            .map(|index| json!({"addresses": [self.bench.backends[*index].ipv4()], "conditions": {"ready": true}}))
            .collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    }

    fn spawn(&mut self) {
        let kubeconfig = self.bench.file("kubeconfig", &self.server.kubeconfig()).display().to_string();
        let arguments =
            ["run", "--mode", "nftables", "--hostname-override", "node-a", "--kubeconfig", &kubeconfig];
        self.bench.spawn_as("portolan", &arguments);
    }

    fn start(&mut self) {
        self.spawn();
        self.bench.until("the Service answers", |bench| {
            bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok()
        });
    }

    /// Waits until the kernel balances over these backends and no others.
    fn until_routed(&self, ready: &[usize]) {
        let wanted: Vec<String> = ready.iter().map(|i| self.bench.backends[*i].ipv4().to_string()).collect();
        self.bench.until(&format!("{ready:?} are routed"), |bench| {
            let rules = bench.tool("nft list ruleset");
            let has = |backend: &String| rules.contains(&format!(" {backend} . 8080"));
            // Where evidence is noted, a backend's address and port have the protocol between them.
            let backends = rules.matches(" . 8080").count() - rules.matches("tcp . 8080").count();
            wanted.iter().all(has) && backends == wanted.len()
        });
    }
}

fn service(name: &str, ip: &str, node_port: Option<u16>) -> Value {
    let mut port = json!({"name": "http", "port": 80, "protocol": "TCP"});
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    if let Some(number) = node_port {
        port["nodePort"] = number.into();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": kind, "clusterIP": ip, "clusterIPs": [ip], "ports": [port]}})
}

#[test]
fn traffic_never_notices() {
    let options = ApiOptions { tls: true, token: Some("secret".into()), ..ApiOptions::default() };
    let mut cluster = InCluster::new(4, options);
    cluster.start();
    let all = [0, 1, 2, 3];
    cluster.until_routed(&all);
    let load = Load::new(Protocol::Tcp, cluster.bench.cluster_ip()).per_second(100);
    let load = load.start(&[&cluster.bench.client]).expect("a load");
    // Killed and back, with changes meanwhile.
    cluster.server.go_away();
    cluster.endpoints(&[0, 1, 2]);
    std::thread::sleep(Duration::from_millis(300));
    cluster.server.come_back();
    cluster.until_routed(&[0, 1, 2]);
    // 410, and a list that is cut off in the middle, twice.
    cluster.server.fault(SLICES, Fault::Reset(10));
    cluster.server.fault(SLICES, Fault::Close(200));
    cluster.endpoints(&[1, 2]);
    cluster.server.compact();
    cluster.server.cut();
    cluster.until_routed(&[1, 2]);
    // The slice is replaced by another under a new name, as a controller may do.
    cluster.server.set(cluster.slice("web", "web-2", &all));
    cluster.server.remove("EndpointSlice", "shop", "web-1");
    cluster.until_routed(&all);
    // The storage is put back to what it was before, which is not what the kernel holds.
    let mut old = cluster.server.objects();
    old.retain(|object| object["kind"] != "EndpointSlice");
    old.push(cluster.slice("web", "web-1", &[2, 3]));
    cluster.server.restore(old, 1);
    cluster.until_routed(&[2, 3]);
    // Ours is killed while the API server is away, and starts before it is back.
    cluster.bench.kill();
    cluster.server.go_away();
    cluster.spawn();
    std::thread::sleep(Duration::from_millis(500));
    cluster.until_routed(&[2, 3]);
    cluster.endpoints(&all);
    cluster.server.come_back();
    cluster.until_routed(&all);
    let report = load.stop().expect("a report");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.answered() > 100, "{report}");
}

#[test]
fn nothing_is_programmed_before_all_is_known() {
    let mut cluster = InCluster::new(2, ApiOptions::default());
    // The list of endpoints hangs as long as the connection holds.
    cluster.server.fault(SLICES, Fault::Hang);
    cluster.spawn();
    cluster.bench.until("slices are asked for", |_| cluster.server.faults_left() == 0);
    std::thread::sleep(Duration::from_millis(300));
    let tables = cluster.bench.tool("nft list tables");
    assert!(!tables.contains("portolan"), "{tables}");
    cluster.server.cut();
    cluster.until_routed(&[0, 1]);
}

#[test]
fn events_and_calls_are_told() {
    let mut cluster = InCluster::new(1, ApiOptions::default());
    let mut rival = service("rival", "10.96.0.77", Some(NODE_PORT));
    rival["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z".into();
    cluster.server.set(rival);
    let mut bad = service("bad", "10.96.0.78", None);
    bad["spec"]["clusterIPs"] = json!(["10.96.0.999"]);
    cluster.server.set(bad);
    cluster.start();
    cluster.bench.until("three events are told", |_| cluster.server.events().len() == 3);
    let events = cluster.server.events();
    let reasons: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    for reason in ["Starting", "ContestedFrontend", "ObjectLeftOut"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    let contested = events.iter().find(|event| event["reason"] == "ContestedFrontend").expect("it");
    assert_eq!(contested["regarding"], json!({"kind": "Node", "name": "node-a", "uid": "node-a"}));
    assert_eq!(
        (&contested["type"], &contested["reportingController"]),
        (&json!("Warning"), &json!("kube-proxy"))
    );
    assert!(contested["note"].as_str().is_some_and(|note| note.contains("shop/rival")), "{contested}");
    let metrics = cluster.bench.curl("http://127.0.0.1:10249/metrics");
    let calls = "rest_client_requests_total{code=\"201\",host=\"127.0.0.1:6443\",method=\"POST\"} 3";
    assert!(metrics.contains(calls), "{metrics}");
    assert!(metrics.contains("portolan_source_errors 1\n"), "{metrics}");
}

/// The configuration file of a cluster that was made by kubeadm, as far as it matters.
fn kube_proxy_configuration(kubeconfig: &str, more: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nbindAddress: 0.0.0.0\n\
         clientConnection:\n  acceptContentTypes: \"\"\n  kubeconfig: {kubeconfig}\nclusterCIDR: 10.244.0.0/16\n\
         mode: \"\"\n{more}"
    )
}

#[test]
fn called_kube_proxy_it_is_that_program() {
    let mut cluster = InCluster::new(2, ApiOptions { tls: true, ..ApiOptions::default() });
    let kubeconfig = cluster.bench.file("kubeconfig.conf", &cluster.server.kubeconfig());
    let configuration = |more| kube_proxy_configuration(&kubeconfig.display().to_string(), more);
    let file = cluster.bench.file("config.conf", &configuration(""));
    let config = format!("--config={}", file.display());
    let arguments = [config.as_str(), "--hostname-override=node-a", "--masquerade-all"];
    cluster.bench.spawn_as("/usr/local/bin/kube-proxy", &arguments);
    cluster.until_routed(&[0, 1]);
    assert!(cluster.bench.curl("http://127.0.0.1:10249/proxyMode").ends_with("\r\n\r\nnftables"));
    let flags = cluster.bench.curl("http://127.0.0.1:10249/flagz");
    assert!(
        flags.contains("\nmasquerade-all: true\n") && flags.contains("\nconntrack-min: 131072\n"),
        "{flags}"
    );
    let configz = cluster.bench.curl("http://127.0.0.1:10249/configz");
    assert!(configz.contains("\"clusterCIDR\":\"10.244.0.0/16\""), "{configz}");
    // The flag counts beside the file; what kube-proxy leaves out where it says nothing is left out.
    assert!(configz.contains("\"hostnameOverride\":\"node-a\""), "{configz}");
    assert!(!configz.contains("splitStream") && !configz.contains("windowsRunAsService"), "{configz}");
    // Any change of the file ends it with an error, and what is routed stays routed.
    std::fs::write(&file, configuration("oomScoreAdj: -998\n")).expect("it is ours");
    assert_eq!(cluster.bench.ended(), Some(1));
    assert!(cluster.bench.client.ask(Protocol::Tcp, cluster.bench.cluster_ip()).is_ok());
    // So does renaming another over it, as when a ConfigMap changes.
    cluster.bench.spawn_as("kube-proxy", &arguments);
    cluster.bench.until("it serves", |bench| bench.is_served("http://127.0.0.1:10249/healthz"));
    cluster.bench.file("config.conf", &configuration(""));
    assert_eq!(cluster.bench.ended(), Some(1));
    cluster.bench.spawn_as("kube-proxy", &["--cleanup"]);
    assert_eq!(cluster.bench.ended(), Some(0));
    assert!(!cluster.bench.tool("nft list tables").contains("portolan"));
}

#[test]
fn errands_of_kube_proxy() {
    let mut bench = Bench::new("nftables", 1);
    let written = bench.file("written.conf", "");
    let write = format!("--write-config-to={}", written.display());
    let cases: [(&[&str], i32); 7] = [
        (&["--version"], 0),
        (&["--help"], 0),
        (&["--init-only", "--conntrack-tcp-timeout-established=12345s"], 0),
        (&[&write, "--masquerade-all", "--proxy-mode=nftables"], 0),
        (&["--nonsense"], 1),
        (&["--proxy-mode=userspace"], 1),
        // Neither a kubeconfig nor a pod.
        (&["--hostname-override=node-a"], 1),
    ];
    for (arguments, code) in cases {
        bench.spawn_as("kube-proxy", arguments);
        assert_eq!(bench.ended(), Some(code), "{arguments:?}");
    }
    let text = std::fs::read_to_string(&written).expect("it was written");
    assert!(text.contains("masqueradeAll: true") && text.contains("mode: nftables"), "{text}");
    let timeout = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    assert_eq!(bench.tool(timeout), "12345\n");
    assert!(!bench.tool("nft list tables").contains("portolan"), "errands route nothing");
}

#[test]
fn an_address_that_is_taken_is_waited_for_or_ends_it() {
    let mut cluster = InCluster::new(1, ApiOptions::default());
    let kubeconfig = cluster.bench.file("kubeconfig.conf", &cluster.server.kubeconfig());
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let take = || std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 10249)));
    let taken = cluster.bench.node.run(take).expect("the host is there").expect("the address is free");
    let soft = [kubeconfig.as_str(), "--hostname-override=node-a"];
    let hard = [kubeconfig.as_str(), "--hostname-override=node-a", "--bind-address-hard-fail"];
    cluster.bench.spawn_as("kube-proxy", &hard);
    assert_eq!(cluster.bench.ended(), Some(1));
    cluster.bench.spawn_as("kube-proxy", &soft);
    cluster.until_routed(&[0]);
    assert!(cluster.bench.is_served("http://127.0.0.1:10256/healthz"));
    drop(taken);
    cluster.bench.until("metrics are served", |bench| bench.is_served("http://127.0.0.1:10249/metrics"));
    let told = |event: &Value| event["reason"] == "FailedToStartMetricServer";
    assert!(cluster.server.events().iter().any(told));
}

#[test]
fn a_node_that_boots_while_the_api_server_is_away() {
    let mut cluster = InCluster::new(3, ApiOptions::default());
    cluster.server.set(service("gone", "10.96.0.99", None));
    let kubeconfig = cluster.bench.file("kubeconfig", &cluster.server.kubeconfig()).display().to_string();
    let checkpoint = cluster.bench.file("checkpoint", "").display().to_string();
    let run = ["run", "--mode", "nftables", "--hostname-override", "node-a", "--kubeconfig", &kubeconfig];
    let arguments = [&run[..], &["--checkpoint", &checkpoint]].concat();
    cluster.bench.spawn_as("portolan", &arguments);
    cluster.until_routed(&[0, 1, 2]);
    // Written once nothing has changed for a while.
    let written = || std::fs::metadata(&checkpoint).is_ok_and(|file| file.len() > 0);
    cluster.bench.until("it is on disk", |_| written());
    cluster.bench.kill();
    // A boot: the kernel knows nothing, and nobody is there to ask.
    cluster.bench.tool("nft flush ruleset");
    cluster.server.go_away();
    cluster.server.remove("Service", "shop", "gone");
    cluster.endpoints(&[1, 2]);
    cluster.bench.spawn_as("portolan", &arguments);
    cluster.until_routed(&[0, 1, 2]);
    assert!(cluster.bench.client.ask(Protocol::Tcp, cluster.bench.cluster_ip()).is_ok());
    let metrics = |bench: &Bench| bench.curl("http://127.0.0.1:10249/metrics");
    assert!(metrics(&cluster.bench).contains("portolan_from_checkpoint 1\n"));
    assert!(cluster.bench.tool("nft list ruleset").contains("10.96.0.99"));
    // Then the API server tells what has become of it.
    cluster.server.come_back();
    cluster.until_routed(&[1, 2]);
    cluster.bench.until("what only the disk knew is gone", |bench| {
        !bench.tool("nft list ruleset").contains("10.96.0.99")
    });
    assert!(metrics(&cluster.bench).contains("portolan_from_checkpoint 0\n"));
    // What the kernel holds is newer than the disk, and stays when the API server is away again.
    cluster.bench.kill();
    cluster.server.go_away();
    cluster.bench.spawn_as("portolan", &arguments);
    cluster.bench.until("it is up", |bench| bench.is_served("http://127.0.0.1:10249/healthz"));
    std::thread::sleep(Duration::from_secs(7));
    cluster.until_routed(&[1, 2]);
    assert!(metrics(&cluster.bench).contains("portolan_from_checkpoint 0\n"));
}

/// What kube-proxy's nftables mode does for the Service under test, as far as a packet notices.
fn kube_proxy_tables(backend: &str) -> String {
    let chain = |name: &str, hook: &str| {
        format!(
            "  chain {name} {{\n    type nat hook {hook} priority -100;\n    \
             ip daddr {CLUSTER_IP} tcp dport 80 dnat to {backend}:8080\n  }}\n"
        )
    };
    let chains = chain("nat-prerouting", "prerouting") + &chain("nat-output", "output");
    format!("table ip kube-proxy {{\n{chains}}}\n")
}

#[test]
fn taking_over_from_a_kube_proxy_and_going_back() {
    let mut cluster = InCluster::new(3, ApiOptions::default());
    let theirs = kube_proxy_tables(&cluster.bench.backends[0].ipv4().to_string());
    let theirs = cluster.bench.file("theirs.nft", &theirs).display().to_string();
    cluster.bench.tool(&format!("nft --file {theirs}"));
    let load = Load::new(Protocol::Tcp, cluster.bench.cluster_ip()).per_second(100);
    let load = load.start(&[&cluster.bench.client]).expect("a load");
    let held = cluster.bench.client.client(Protocol::Tcp);
    let held =
        held.hold(cluster.bench.cluster_ip(), 5, Duration::from_millis(50)).expect("connections to hold");
    cluster.bench.until("connections flow", |_| load.answered() > 50);
    load.next_phase();
    let kubeconfig = cluster.bench.file("kubeconfig.conf", &cluster.server.kubeconfig());
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let run = [kubeconfig.as_str(), "--hostname-override=node-a", "--proxy-mode=nftables"];
    // Ours knows of two backends, theirs of the third: who is asked is seen by who answers.
    cluster.endpoints(&[1, 2]);
    cluster.bench.spawn_as("kube-proxy", &run);
    cluster.until_routed(&[1, 2]);
    load.next_phase();
    let before = load.answered();
    cluster.bench.until("new connections go our way", |_| load.answered() > before + 50);
    load.next_phase();
    let phases = load.phases();
    assert!(phases[2].keys().all(|backend| backend != "web-0"), "{phases:?}");
    let gone = |bench: &Bench| !bench.tool("nft list tables").contains("kube-proxy");
    cluster.bench.until("theirs is withdrawn", gone);
    cluster.bench.kill();
    let before = load.answered();
    cluster.bench.until("it goes on without theirs", |_| load.answered() > before + 50);
    // And back: theirs again, ours withdrawn.
    cluster.bench.tool(&format!("nft --file {theirs}"));
    let report = load.stop().expect("a report");
    assert_eq!(report.failed(), 0, "{report}");
    let held = held.finish();
    assert!(held.unharmed(), "{held:?}");
    cluster.bench.spawn_as("kube-proxy", &["--cleanup"]);
    assert_eq!(cluster.bench.ended(), Some(0));
    assert_eq!(cluster.bench.tool("nft list tables"), "");
}
