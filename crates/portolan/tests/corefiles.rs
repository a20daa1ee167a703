//! The Corefiles that clusters really run, unchanged, in a pod with what a pod is given: an account's
//! token and authority, the API server's address in the environment, and a resolv.conf.

mod common;

use common::{Bench, dns};
use lab::api::{ApiOptions, ApiServer};
use lab::{Host, Process};
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use wire::{Rcode, Type};

/// `cluster/addons/dns/coredns/coredns.yaml.base`, its variable filled in.
const KUBE_UP: &str = "\
.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

/// `cmd/kubeadm/app/phases/addons/dns/manifests.go`.
const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

/// `cluster/addons/dns/nodelocaldns/nodelocaldns.yaml`, its variables as node-cache fills them in.
const NODE_LOCAL: &str = "\
cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10
    forward . CLUSTER_DNS {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10
    forward . CLUSTER_DNS {
            force_tcp
    }
    prometheus :9253
    }
ip6.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10
    forward . CLUSTER_DNS {
            force_tcp
    }
    prometheus :9253
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10
    forward . UPSTREAM
    prometheus :9253
    }
";

/// An API server with a small cluster, and a server beyond the cluster.
struct Cluster {
    bench: Bench,
    api: ApiServer,
    _upstream: Process,
}

fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})
}

impl Cluster {
    fn new() -> Cluster {
        let bench = Bench::new("nftables", 2);
        let at = SocketAddr::new(IpAddr::V4(bench.node.ipv4()), 6443);
        let options = ApiOptions { tls: true, token: Some("secret".into()), ..ApiOptions::default() };
        let api = bench.node.run(|| ApiServer::start(at, options)).expect("a host").expect("a server");
        api.set(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        api.set(service("web", "10.96.0.10"));
        api.set(service("db", "None"));
        api.set(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.9.1"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.9.2"], "conditions": {"ready": true}}]}));
        let text = ".:53 {\n    hosts {\n        192.0.2.7 www.example.org\n    }\n}\n";
        let corefile = bench.file("Upstream", text).display().to_string();
        let upstream = run(&bench.backends[1], &format!("exec {} dns -conf {corefile}", program()));
        Cluster { bench, api, _upstream: upstream }
    }

    /// Starts a server as a pod's with this Corefile.
    fn start(&self, host: &Host, corefile: &str) -> Process {
        let corefile = self.bench.file("Corefile", corefile).display().to_string();
        let kubeconfig: Value = serde_json::from_str(&self.api.kubeconfig()).expect("JSON");
        let authority = &kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"];
        let authority =
            self.bench.file("authority", authority.as_str().expect("base64")).display().to_string();
        let resolv = format!("nameserver {}\n", self.bench.backends[1].ipv4());
        let resolv = self.bench.file("resolv.conf", &resolv).display().to_string();
        let at = self.api.address();
        // Mounts of its own, so that nobody else sees them.
        run(
            host,
            &format!(
                "set -e; cp {resolv} {resolv}.pod; mount --bind {resolv}.pod /etc/resolv.conf; mount -t tmpfs none /run; \
             account=/run/secrets/kubernetes.io/serviceaccount; mkdir -p $account; printf secret > $account/token; \
             base64 -d {authority} > $account/ca.crt; export KUBERNETES_SERVICE_HOST={} KUBERNETES_SERVICE_PORT={}; \
             exec {} dns -conf {corefile}",
                at.ip(),
                at.port(),
                program()
            ),
        )
    }
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_portolan")
}

fn run(host: &Host, script: &str) -> Process {
    assert!(fs::symlink_metadata("/var/run").is_ok_and(|run| run.is_symlink()), "/var/run leads to /run");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
    host.spawn(&mut command).expect("it starts")
}

/// What any cluster's DNS server must know.
fn is_a_cluster_dns(cluster: &Cluster, server: SocketAddr) {
    let Cluster { bench, api, .. } = cluster;
    let address = |name: &str| dns::address(&bench.node, server, name).map(|ip| ip.to_string());
    bench.until("the cluster is known", |_| address("web.shop.svc.cluster.local").is_some());
    for (name, want) in [
        ("web.shop.svc.cluster.local", Some("10.96.0.10")),
        ("db-0.db.shop.svc.cluster.local", Some("10.244.9.1")),
        ("10-244-9-9.shop.pod.cluster.local", Some("10.244.9.9")),
        ("www.example.org", Some("192.0.2.7")),
        ("none.shop.svc.cluster.local", None),
    ] {
        assert_eq!(address(name).as_deref(), want, "{name}");
    }
    let ask = |name: &str, rtype| dns::ask(&bench.node, server, name, rtype).expect("an answer");
    assert_eq!(ask("db.shop.svc.cluster.local", Type::A).addresses.len(), 2);
    assert_eq!(ask("none.shop.svc.cluster.local", Type::A).rcode, Rcode::NXDOMAIN);
    assert_eq!(ask("10.0.96.10.in-addr.arpa", Type::PTR).rcode, Rcode::NOERROR);
    let answer = dns::ask_by_stream(&bench.node, server, "web.shop.svc.cluster.local").expect("an answer");
    assert_eq!(answer.addresses.len(), 1);
    // What is new is known.
    api.set(service("late", "10.96.0.77"));
    bench.until("a new Service is known", |_| {
        address("late.shop.svc.cluster.local").as_deref() == Some("10.96.0.77")
    });
    api.remove("Service", "shop", "late");
}

/// Whether a page is served in a pod, and what it says.
fn page(host: &Host, url: &str) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--max-time", "20", url]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = host.spawn(&mut curl).expect("curl is installed");
    let mut text = String::new();
    let mut out = process.child().stdout.take().expect("a pipe");
    std::io::Read::read_to_string(&mut out, &mut text).expect("text");
    process.child().wait().expect("it ends").success().then_some(text)
}

#[test]
fn those_of_kube_up_and_kubeadm() {
    let cluster = Cluster::new();
    let pod = &cluster.bench.client;
    let server = SocketAddr::new(pod.ipv4().into(), 53);
    for corefile in [KUBE_UP, KUBEADM] {
        let running = cluster.start(pod, corefile);
        is_a_cluster_dns(&cluster, server);
        assert_eq!(page(pod, "http://127.0.0.1:8080/health").as_deref(), Some("OK"));
        assert_eq!(page(pod, "http://127.0.0.1:8181/ready").as_deref(), Some("OK"));
        let metrics = page(pod, "http://127.0.0.1:9153/metrics").expect("metrics");
        for metric in [
            "coredns_dns_requests_total{",
            "coredns_forward_",
            "coredns_cache_entries{",
            "coredns_plugin_enabled{",
        ] {
            assert!(metrics.contains(metric), "{metric}");
        }
        // The API server is away: names stay.
        cluster.api.go_away();
        let known = dns::address(&cluster.bench.node, server, "web.shop.svc.cluster.local");
        assert_eq!(known.map(|ip| ip.to_string()).as_deref(), Some("10.96.0.10"));
        cluster.api.come_back();
        drop(running);
    }
}

#[test]
fn that_of_nodelocal_dnscache() {
    let cluster = Cluster::new();
    let bench = &cluster.bench;
    let pod = &bench.client;
    let _dns = cluster.start(pod, KUBEADM);
    bench.until("the cluster's server answers", |bench| {
        dns::address(&bench.node, SocketAddr::new(pod.ipv4().into(), 53), "web.shop.svc.cluster.local")
            .is_some()
    });
    bench.tool("ip address add 169.254.20.10/32 dev lo");
    let corefile = NODE_LOCAL.replace("CLUSTER_DNS", &pod.ipv4().to_string());
    let corefile = corefile.replace("UPSTREAM", &bench.backends[1].ipv4().to_string());
    let _node = cluster.start(&bench.node, &corefile);
    let server: SocketAddr = ([169, 254, 20, 10], 53).into();
    let address = |name: &str| dns::address(&bench.node, server, name).map(|ip| ip.to_string());
    bench.until("the node answers", |_| address("web.shop.svc.cluster.local").is_some());
    assert_eq!(address("www.example.org").as_deref(), Some("192.0.2.7"));
    let answer = dns::ask(&bench.node, server, "10.0.96.10.in-addr.arpa", Type::PTR).expect("an answer");
    assert_eq!(answer.rcode, Rcode::NOERROR);
    assert_eq!(page(&bench.node, "http://169.254.20.10:8080/health").as_deref(), Some("OK"));
    let metrics = page(&bench.node, "http://127.0.0.1:9253/metrics").expect("metrics");
    assert!(metrics.contains("coredns_cache_hits_total{"), "{metrics}");
}
