//! Routes and names from one process: `portolan run --dns`.

mod common;

use common::{Bench, CLUSTER_IP, dns};
use lab::Protocol;
use lab::api::{ApiOptions, ApiServer};
use serde_json::json;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use wire::{Rcode, Type};

const COREFILE: &str = ".:53 {\n    errors\n    health 127.0.0.1:8080\n    ready 127.0.0.1:8181\n    \
                        kubernetes cluster.local\n    prometheus 127.0.0.1:9153\n}\n";
const WEB: &str = "web.shop.svc.cluster.local";

/// Where the program answers on the node.
fn server(bench: &Bench) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(bench.node.ipv4()), 53)
}

/// Starts both and waits until both work.
fn start(bench: &mut Bench, corefile: &str) {
    let corefile = bench.file("Corefile", corefile).display().to_string();
    let manifests = bench.manifests.display().to_string();
    bench.run("nftables", &["--manifests", &manifests, "--dns", &corefile]);
    bench.until("names are served", |bench| {
        dns::address(&bench.client, server(bench), WEB) == CLUSTER_IP.parse().ok()
    });
}

#[test]
fn a_name_is_told_once_its_service_is_routed() {
    let mut bench = Bench::new("nftables", 1);
    start(&mut bench, COREFILE);
    assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok());
    let backend = bench.backends[0].ipv4();
    for number in 1..=20 {
        let ip: IpAddr = format!("10.96.1.{number}").parse().expect("an address");
        // The endpoints first, as nobody can tell in which order they come.
        bench.write(&format!("s{number}.yaml"), &format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{number}, namespace: shop, \
             labels: {{kubernetes.io/service-name: s{number}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\n\
             endpoints: [{{addresses: [{backend}]}}]\n---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: s{number}, namespace: shop}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        ));
        let name = format!("s{number}.shop.svc.cluster.local");
        bench.until("the new name is told", |bench| {
            dns::address(&bench.client, server(bench), &name) == Some(ip)
        });
        let connected = bench.client.ask(Protocol::Tcp, SocketAddr::new(ip, 80));
        assert!(connected.is_ok(), "{name} was told before it was routed: {connected:?}");
    }
    // What has no ClusterIP needs no routes, and what is gone has no name.
    bench.write(
        "s1.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: out, namespace: shop}\n\
                            spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}\n",
    );
    bench.until("an alias is told", |bench| {
        dns::address(&bench.client, server(bench), "out.shop.svc.cluster.local") == CLUSTER_IP.parse().ok()
    });
    let gone = dns::ask(&bench.client, server(&bench), "s1.shop.svc.cluster.local", Type::A);
    assert_eq!(gone.expect("an answer").rcode, Rcode::NXDOMAIN);
}

#[test]
fn reload_metrics_and_end_as_those_of_a_dns_server() {
    let mut bench = Bench::new("nftables", 1);
    start(&mut bench, COREFILE);
    assert!(bench.is_served("http://127.0.0.1:8181/ready"));
    let ours = bench.curl("http://127.0.0.1:9153/metrics");
    assert!(ours.contains("coredns_dns_requests_total{"), "{ours}");
    assert!(bench.curl("http://127.0.0.1:10249/metrics").contains("kubeproxy_sync_proxy_rules"));
    bench.file("Corefile", &COREFILE.replace("cluster.local", "moon.local {\npods insecure\n}"));
    bench.signal("USR1");
    bench.until("the new zone is served", |bench| {
        dns::address(&bench.client, server(bench), "web.shop.svc.moon.local") == CLUSTER_IP.parse().ok()
    });
    // It wants more than was kept: that is a watch of its own, and all there is.
    bench.file("Corefile", &COREFILE.replace("cluster.local", "cluster.local {\npods verified\n}"));
    bench.signal("USR1");
    bench.until("the old zone is served again", |bench| {
        dns::address(&bench.client, server(bench), WEB) == CLUSTER_IP.parse().ok()
    });
    bench.signal("TERM");
    assert_eq!(bench.ended(), Some(0));
    assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok(), "what is routed stays routed");
}

#[test]
fn a_wrong_corefile_ends_the_start_before_anything_is_done() {
    let mut bench = Bench::new("nftables", 1);
    let corefile = bench.file("Corefile", ".:53 {\n    errors\n    forwrad . /etc/resolv.conf\n}\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["run", "--mode", "nftables", "--hostname-override", "node-a", "--manifests"]);
    command.arg(&bench.manifests).arg("--dns").arg(&corefile);
    let mut program =
        bench.node.spawn(command.stdin(Stdio::null()).stderr(Stdio::piped())).expect("it starts");
    let mut said = String::new();
    let mut log = program.child().stderr.take().expect("a pipe");
    log.read_to_string(&mut said).expect("text");
    assert_eq!(program.child().wait().expect("it ends").code(), Some(3), "{said}");
    assert!(said.contains("Corefile:3: \"forwrad\": no such plugin"), "{said}");
    assert_eq!(bench.tool("nft list tables"), "");
    // An address that cannot be had is known only when it is wanted.
    let corefile = ".:53 {\n    bind 192.0.2.1\n    kubernetes cluster.local\n}\n";
    let corefile = bench.file("Corefile", corefile).display().to_string();
    let manifests = bench.manifests.display().to_string();
    let arguments = ["run", "--hostname-override", "node-a", "--manifests", &manifests, "--dns", &corefile];
    bench.spawn_as("portolan", &arguments);
    assert_eq!(bench.ended(), Some(3));
}

#[test]
fn routes_go_on_when_names_have_to_stop() {
    let mut bench = Bench::new("nftables", 1);
    start(&mut bench, COREFILE);
    assert!(bench.is_served("http://127.0.0.1:8080/health"));
    // One that asks itself, which it notices at once: too soon for anybody to see that it was served.
    bench.file("Corefile", &COREFILE.replace("prometheus", "loop\n    forward . 127.0.0.1\n    prometheus"));
    bench.signal("USR1");
    bench.until("it has noticed that it asks itself", |bench| {
        !bench.is_served("http://127.0.0.1:8080/health")
    });
    assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok());
    // A better Corefile, and the word that there is one.
    bench.file("Corefile", COREFILE);
    bench.signal("USR1");
    bench.until("names are served again", |bench| {
        dns::address(&bench.client, server(bench), WEB) == CLUSTER_IP.parse().ok()
    });
    bench.signal("INT");
    assert_eq!(bench.ended(), Some(0));
}

#[test]
fn one_watch_serves_both() {
    let mut bench = Bench::new("nftables", 1);
    let start = || ApiServer::start(SocketAddr::from(([127, 0, 0, 1], 6443)), ApiOptions::default());
    let api = bench.node.run(start).expect("the host is there").expect("a server");
    api.set(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
        "status": {"addresses": [{"type": "InternalIP", "address": bench.node.ipv4()}]}}));
    let service = |name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})
    };
    api.set(service("web", CLUSTER_IP));
    api.set(service("db", "None"));
    api.set(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db",
        "service.kubernetes.io/headless": ""}}, "ports": [], "endpoints": [{"addresses": ["10.244.9.9"]}]}));
    let kubeconfig = bench.file("kubeconfig", &api.kubeconfig()).display().to_string();
    let corefile = bench.file("Corefile", COREFILE).display().to_string();
    let configuration = format!(
        "apiVersion: portolan.dev/v1alpha1\nkind: PortolanConfiguration\nnames: {{corefile: {corefile}}}\n"
    );
    let configuration = bench.file("portolan.conf", &configuration).display().to_string();
    bench.run("nftables", &["--kubeconfig", &kubeconfig, "--config", &configuration]);
    bench.until("names are served", |bench| {
        dns::address(&bench.client, server(bench), WEB) == CLUSTER_IP.parse().ok()
    });
    let headless = dns::address(&bench.client, server(&bench), "db.shop.svc.cluster.local");
    assert_eq!(headless, "10.244.9.9".parse().ok());
    let asked = api.requests();
    let times = |path: &str| asked.iter().filter(|target| target.split('?').next() == Some(path)).count();
    // With streamed lists, one request is both list and watch.
    for path in ["/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/namespaces"] {
        assert_eq!(times(path), 1, "{path}: {asked:?}");
    }
    assert_eq!(times("/api/v1/pods"), 0, "{asked:?}");
}
