//! What the real program serves by HTTP, asked by real curl.

mod common;

use common::Bench;
use lab::Protocol;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::SystemTime;

const METRICS: &str = "http://127.0.0.1:10249";
const HEALTH: &str = "http://127.0.0.1:10256";

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn status(answer: &str) -> &str {
    answer.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default()
}

fn json(answer: &str) -> Value {
    serde_json::from_str(body(answer)).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The value of a metric, by its name with its labels.
fn metric(bench: &Bench, name: &str) -> Option<f64> {
    let answer = bench.curl(&format!("{METRICS}/metrics"));
    let lines = body(&answer).lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    values.next()
}

/// Whether the node takes connections from outside at a port.
fn is_open(bench: &Bench, port: u16) -> bool {
    let at = SocketAddr::from((bench.node.ipv4(), port));
    let connect = || std::net::TcpStream::connect(at).is_ok();
    bench.outside.run(connect).expect("the host is there")
}

#[test]
fn pages_of_kube_proxy() {
    let mut bench = Bench::new("nftables", 2);
    bench.start();
    let text = |path: &str| {
        let answer = bench.curl(&format!("{METRICS}{path}"));
        assert_eq!(status(&answer), "200", "{path}: {answer}");
        body(&answer).to_owned()
    };
    assert_eq!(text("/healthz"), "ok");
    assert_eq!(text("/proxyMode"), "nftables");
    assert!(text("/metrics/slis").contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"));
    assert!(bench.curl(&format!("{METRICS}/metrics")).contains("\r\nProcess-Start-Time-Unix: "));
    assert!(text("/statusz").contains("Started= 20"));
    assert!(text("/flagz").contains("--hostname-override\n"));
    let configuration: Value = serde_json::from_str(&text("/configz")).expect("JSON");
    let configuration = &configuration["kubeproxy.config.k8s.io"];
    assert_eq!(configuration["apiVersion"], "kubeproxy.config.k8s.io/v1alpha1");
    assert_eq!(configuration["healthzBindAddress"], "0.0.0.0:10256");
    // What holds, and not only what was typed; of the periods, those of the mode.
    assert_eq!(
        (&configuration["mode"], &configuration["detectLocalMode"], &configuration["nodePortAddresses"]),
        (&json!("nftables"), &json!("ClusterCIDR"), &json!(["primary"]))
    );
    let periods = ["nftables", "iptables", "ipvs"].map(|mode| configuration[mode]["syncPeriod"].clone());
    assert_eq!(periods, ["30s", "0s", "0s"]);
    assert_eq!(status(&bench.curl(&format!("{METRICS}/not"))), "404");
    let metrics = text("/metrics");
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "process_resident_memory_bytes",
        "portolan_services",
    ] {
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
        let value: f64 = line.and_then(|l| l.split(' ').nth(1)).and_then(|v| v.parse().ok()).expect(name);
        assert!(value >= 1.0, "{name} {value}");
    }
    // Each name has one help line and one type.
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert_eq!(metrics.matches(&format!("{line}\n")).count(), 1, "{line}");
    }
}

#[test]
fn health_follows_the_node() {
    let mut bench = Bench::new("nftables", 1);
    bench.start();
    let healthz = format!("{HEALTH}/healthz");
    let answer = bench.curl(&healthz);
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.contains("Content-Type: application/json\r\n"), "{answer}");
    assert_eq!(json(&answer)["nodeEligible"], true);
    assert_eq!(json(&answer)["status"]["IPv4"]["healthy"], true);
    let taint = "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}";
    bench.write(
        "node.yaml",
        &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node-a}}\nspec: {{taints: [{taint}]}}\n"),
    );
    bench.until("healthz tells that the node is leaving", |bench| status(&bench.curl(&healthz)) == "503");
    let answer = bench.curl(&healthz);
    assert_eq!((&json(&answer)["nodeEligible"], &json(&answer)["healthy"]), (&json!(false), &json!(false)));
    assert_eq!(json(&answer)["status"]["IPv4"]["healthy"], true);
    let answer = bench.curl(&format!("{HEALTH}/livez"));
    assert_eq!((status(&answer), json(&answer).get("nodeEligible")), ("200", None), "{answer}");
    assert!(metric(&bench, "kubeproxy_proxy_healthz_total{code=\"503\"}") >= Some(1.0));
}

#[test]
fn health_check_ports_follow_their_services() {
    let mut bench = Bench::new("nftables", 2);
    let service = |port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  type: LoadBalancer\n  \
             clusterIP: {}\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {port}\n  \
             ports: [{{name: http, port: 80, nodePort: 30080}}]\n",
            common::CLUSTER_IP
        )
    };
    bench.write("service.yaml", &service(31000));
    bench.start();
    let at = |bench: &Bench, port: u16| format!("http://{}:{port}/whatever", bench.node.ipv4());
    bench.until("the port answers", |bench| is_open(bench, 31000));
    let answer = bench.curl(&at(&bench, 31000));
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.contains("X-Load-Balancing-Endpoint-Weight: 1\r\n"), "{answer}");
    let expected = json!({
        "service": {"namespace": "shop", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": true,
    });
    assert_eq!(json(&answer), expected);
    // The odd ones run on the other node.
    bench.endpoints(&[1]);
    bench.until("no endpoint is here", |bench| status(&bench.curl(&at(bench, 31000))) == "503");
    assert_eq!(json(&bench.curl(&at(&bench, 31000)))["localEndpoints"], 0);
    bench.endpoints(&[0, 1]);
    bench.write("service.yaml", &service(31001));
    bench.until("the port has moved", |bench| is_open(bench, 31001));
    assert!(!is_open(&bench, 31000), "the old port is still open");
    assert_eq!(status(&bench.curl(&at(&bench, 31001))), "200");
}

#[test]
fn contested_frontends_and_late_endpoints_are_counted() {
    let mut bench = Bench::new("nftables", 2);
    bench.write(
        "rival.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: rival, namespace: shop, creationTimestamp: \"2030-01-01T00:00:00Z\"}\n\
         spec: {type: NodePort, clusterIP: 10.96.0.11, ports: [{port: 80, nodePort: 30080}]}\n",
    );
    bench.start();
    assert_eq!(metric(&bench, "portolan_contested_frontends"), Some(1.0));
    let programmed = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    assert_eq!(metric(&bench, programmed), Some(0.0), "what was there before counts for nothing");
    let now = telemetry::time::Utc::of(SystemTime::now());
    bench.write("slice.yaml", &format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  namespace: shop\n  \
         labels: {{kubernetes.io/service-name: web}}\n  \
         annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{now}\"}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{}]}}]\n",
        bench.backends[0].ipv4()
    ));
    bench.until("it is counted", |bench| metric(bench, programmed) == Some(1.0));
    let soon = "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"60\"}";
    assert_eq!(metric(&bench, soon), Some(1.0));
    assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok());
}
