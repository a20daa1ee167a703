//! `portolan trace` from outside: the built program, its answers, messages and exit codes.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHOP: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status:
  addresses:
  - {type: InternalIP, address: 172.18.0.2}
  - {type: InternalIP, address: "fd00:172:18::2"}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:10:96::10"]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.2.10], nodeName: node-b}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: ["fd00:10:244:2::10"], nodeName: node-b}
- {addresses: ["fd00:10:244:1::10"], nodeName: node-a}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: empty}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
"#;

/// A directory that is this test's own.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn shop(name: &str) -> PathBuf {
    let path = directory(name);
    fs::write(path.join("shop.yaml"), SHOP).unwrap();
    path
}

fn portolan(manifests: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.arg("trace").arg("--manifests").arg(manifests).args(arguments.split_whitespace());
    command.output().unwrap()
}

/// Asks about node-a and takes the answer apart.
fn ask(manifests: &Path, arguments: &str) -> Value {
    let output = portolan(manifests, &format!("--node node-a --json {arguments}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
    assert_eq!(stderr, "", "{arguments}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_json_has_these_words_in_this_order() {
    let manifests = shop("json");
    let output =
        portolan(&manifests, "--node node-a --from 10.244.1.5 --to 10.96.0.10:80 --proto tcp --json");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"verdict\":\"dnat\",\"service\":\"shop/web:http\",\"frontend\":\"ClusterIP\",\
         \"backends\":[\"10.244.2.10:8080\"],\"masquerade\":false,\"affinity_seconds\":10800}\n"
    );
}

#[test]
fn all_verdicts() {
    let manifests = shop("verdicts");
    let nothing = |verdict: &str| {
        json!({"verdict": verdict, "service": null, "frontend": null, "backends": [],
               "masquerade": false, "affinity_seconds": null})
    };
    let of = |verdict: &str, service: &str, frontend: &str| {
        let mut answer = nothing(verdict);
        answer["service"] = service.into();
        answer["frontend"] = frontend.into();
        answer
    };
    let cases = [
        ("--from 10.244.1.5 --to 10.96.0.11:80", of("reject", "shop/empty:80", "ClusterIP")),
        ("--from 10.244.1.5 --to 10.96.0.10:81", nothing("reject")),
        ("--from 10.244.1.5 --to 10.96.0.10:80 --proto udp", nothing("reject")),
        ("--from 10.244.1.5 --to 10.96.0.12:80 --proto sctp", nothing("drop")),
        ("--from 203.0.113.10 --to 172.18.0.2:30080", of("drop", "shop/web:http", "NodePort")),
        ("--from 203.0.113.10 --to 192.0.2.10:80", of("drop", "shop/web:http", "LoadBalancer")),
        ("--from 10.244.1.5 --to 198.51.100.1:80", nothing("pass")),
    ];
    for (arguments, want) in cases {
        assert_eq!(ask(&manifests, arguments), want, "{arguments}");
    }
}

#[test]
fn ipv6_backends_are_in_brackets() {
    let manifests = shop("ipv6");
    let answer = ask(&manifests, "--from fd00:10:244:1::10 --to [fd00:10:96::10]:80");
    assert_eq!(answer["backends"], json!(["[fd00:10:244:1::10]:8080", "[fd00:10:244:2::10]:8080"]));
    assert_eq!(answer["masquerade"], true, "hairpin");
    let answer = ask(&manifests, "--from 2001:db8::1 --to [fd00:172:18::2]:30080");
    assert_eq!(answer["backends"], json!(["[fd00:10:244:1::10]:8080"]));
    assert_eq!(answer["masquerade"], false);
}

#[test]
fn node_addresses_can_be_given_and_the_mode_says_which_serve_node_ports() {
    let manifests = shop("addresses");
    let flow = "--from fd00::1 --to [fd00:172:19::2]:30080";
    let both = "--node-address fd00:172:18::2 --node-address fd00:172:19::2";
    assert_eq!(ask(&manifests, flow)["verdict"], "pass");
    assert_eq!(ask(&manifests, &format!("{flow} {both}"))["verdict"], "pass");
    assert_eq!(ask(&manifests, &format!("{flow} {both} --mode nftables"))["verdict"], "pass");
    assert_eq!(ask(&manifests, &format!("{flow} {both} --mode ipvs"))["verdict"], "dnat");
    assert_eq!(ask(&manifests, &format!("{flow} {both} --mode iptables"))["verdict"], "dnat");
}

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// A configuration beside the manifests' directory.
fn configuration(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-config.yaml"));
    fs::write(&path, format!("{HEADER}{text}")).unwrap();
    path.display().to_string()
}

#[test]
fn the_configuration_counts() {
    let manifests = shop("configured");
    let (cluster_ip, node_port) = ("--to 10.96.0.10:80", "--to 127.0.0.1:30080");
    let own = configuration("own", "clusterCIDR: 10.244.0.0/16\n");
    let all = configuration("all", "nftables: {masqueradeAll: true}\niptables: {masqueradeAll: false}\n");
    let bridge =
        configuration("bridge", "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n");
    let off = configuration("off", "iptables: {localhostNodePorts: false}\n");
    let bound = configuration("bound", "bindAddress: 172.19.0.2\n");
    let cases = [
        (format!("--from 203.0.113.1 {cluster_ip}"), "masquerade", json!(false)),
        (format!("--from 203.0.113.1 {cluster_ip} --config {own}"), "masquerade", json!(true)),
        (format!("--from 10.244.1.5 {cluster_ip} --config {own}"), "masquerade", json!(false)),
        (format!("--from 10.244.1.5 {cluster_ip} --config {all}"), "masquerade", json!(true)),
        (format!("--from 10.244.1.5 {cluster_ip} --config {all} --mode ipvs"), "masquerade", json!(false)),
        (
            format!("--from 10.244.1.5 {cluster_ip} --config {bridge} --in-interface cni0"),
            "masquerade",
            json!(false),
        ),
        (
            format!("--from 10.244.1.5 {cluster_ip} --config {bridge} --in-interface eth0"),
            "masquerade",
            json!(true),
        ),
        (format!("--from 127.0.0.1 {node_port}"), "verdict", json!("dnat")),
        (format!("--from 127.0.0.1 {node_port} --config {off}"), "verdict", json!("pass")),
        ("--from 10.0.0.1 --to 172.19.0.2:30080".to_owned(), "verdict", json!("pass")),
        (format!("--from 10.0.0.1 --to 172.19.0.2:30080 --config {bound}"), "verdict", json!("drop")),
        (format!("--from 10.0.0.1 --to 172.18.0.2:30080 --config {bound}"), "verdict", json!("pass")),
    ];
    for (arguments, field, want) in cases {
        assert_eq!(ask(&manifests, &arguments)[field], want, "{arguments}");
    }
}

#[test]
fn the_mode_on_the_command_line_wins_over_the_files() {
    let manifests = shop("modes");
    let ipvs = configuration("ipvs", "mode: ipvs\n");
    let flow = format!(
        "--from fd00::1 --to [fd00:172:19::2]:30080 \
         --node-address fd00:172:18::2 --node-address fd00:172:19::2 --config {ipvs}"
    );
    assert_eq!(ask(&manifests, &flow)["verdict"], "dnat");
    assert_eq!(ask(&manifests, &format!("{flow} --mode nftables"))["verdict"], "pass");
    assert_eq!(ask(&manifests, &format!("{flow} --mode auto"))["verdict"], "pass");
    let output = portolan(&manifests, &format!("--node node-a {flow} --mode ebpf"));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mode ebpf is not built"));
}

#[test]
fn what_is_odd_in_a_configuration_is_warned_about_and_what_is_wrong_ends_it() {
    let manifests = shop("odd-configuration");
    let flow = "--node node-a --json --from 10.244.1.5 --to 10.96.0.10:80";
    let odd = configuration("odd", "clusterCIRD: 10.244.0.0/16\n");
    let output = portolan(&manifests, &format!("{flow} --config {odd}"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("warning: ") && stderr.contains("clusterCIRD"), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["verdict"], "dnat");

    let bad = configuration("bad", "clusterCIDR: 10.244.0.0\n");
    let missing = configuration("missing", "");
    fs::remove_file(&missing).unwrap();
    for (file, says) in [(bad, "clusterCIDR"), (missing, "No such file")] {
        let output = portolan(&manifests, &format!("{flow} --config {file}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(output.stdout.is_empty());
        assert!(stderr.contains(&file) && stderr.contains(says), "{stderr}");
    }
}

#[test]
fn a_single_file_and_leading_zeros_will_do() {
    let manifests = shop("file").join("shop.yaml");
    assert_eq!(ask(&manifests, "--from 010.244.001.005 --to 10.96.000.010:80")["verdict"], "dnat");
}

#[test]
fn a_node_that_no_manifest_holds_is_warned_about() {
    let manifests = shop("stranger");
    let output = portolan(
        &manifests,
        "--node node-z --node-address 10.0.0.1 --json --from 10.0.0.1 --to 10.0.0.1:30080",
    );
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("warning: no Node node-z in the manifests"), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["verdict"], "dnat");
    assert_eq!(answer["backends"], json!(["10.244.2.10:8080"]));
}

#[test]
fn words_for_people() {
    let manifests = shop("words");
    let said = |arguments: &str| {
        let output = portolan(&manifests, &format!("--node node-a {arguments}"));
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said("--from 10.244.1.5 --to 10.96.0.10:80");
    assert_eq!(
        text,
        "10.244.1.5 -> 10.96.0.10:80/tcp on node-a\n  is for shop/web:http, by its ClusterIP\n  \
         goes to 10.244.2.10:8080\n  keeps its source address\n  \
         the sender stays with its backend for 10800 s after its last connection\n"
    );
    let cases = [
        ("--from 10.244.1.5 --to 10.96.0.11:80", "is refused: the Service has no endpoint anywhere"),
        ("--from 10.244.1.5 --to 10.96.0.10:81", "and its Service has no such port"),
        ("--from 10.244.1.5 --to 10.96.0.12:81", "is in a ServiceCIDR"),
        ("--from 10.244.1.5 --to 192.0.2.10:80", "the sender is in none of loadBalancerSourceRanges"),
        ("--from 203.0.113.1 --to 192.0.2.10:80", "traffic policy Local, and no endpoint is on this node"),
        ("--from 203.0.113.1 --to 192.0.2.10:81", "none of our business"),
    ];
    for (arguments, want) in cases {
        let text = said(arguments);
        assert!(text.contains(want), "{arguments}: {text}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_2() {
    let manifests = shop("usage");
    let cases = [
        ("", "--node"),
        ("--node a --from 10.0.0.1", "--to"),
        ("--node a --from 10.0.0.256 --to 10.0.0.1:80", "\"10.0.0.256\" is not an IP address"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1", "is not IP:PORT"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1:0", "not a port from 1 to 65535"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1:65536", "not a port from 1 to 65535"),
        ("--node a --from fd00::1 --to fd00::1:80", "[IP]:PORT for IPv6"),
        ("--node a --from 10.0.0.1 --to [fd00::1]:80", "not of one family"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1:80 --proto icmp", "none of tcp, udp and sctp"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1:80 --mode magic", "invalid value 'magic'"),
        ("--node a --from 10.0.0.1 --to 10.0.0.1:80 --colour red", "--colour"),
    ];
    for (arguments, want) in cases {
        let output = portolan(&manifests, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(want), "{arguments}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn what_cannot_be_done_is_3() {
    let flow = "--node a --from 10.0.0.1 --to 10.0.0.1:80";
    let missing = directory("cannot").join("missing");
    let output = portolan(&missing, flow);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("missing") && stderr.contains("No such file or directory"), "{stderr}");
    let output = portolan(&shop("cannot"), &format!("{flow} --mode ebpf"));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mode ebpf is not built"));
}

#[test]
fn what_is_wrong_with_manifests_is_told_and_the_rest_is_served() {
    let manifests = shop("wrong");
    fs::write(manifests.join("bad.yaml"), "kind: Service\nmetadata: [\n").unwrap();
    fs::write(manifests.join("binary.yaml"), [0u8, 159, 146, 150].repeat(1000)).unwrap();
    fs::write(
        manifests.join("port.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: a, name: b}\n\
         spec: {clusterIP: 10.96.0.77, ports: [{port: 70000}]}\n",
    )
    .unwrap();
    let output = portolan(&manifests, "--node node-a --json --from 10.244.1.5 --to 10.96.0.10:80");
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for want in ["bad.yaml", "binary.yaml", "port.yaml", "Service a/b", "70000"] {
        assert!(stderr.contains(want), "{want}: {stderr}");
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["verdict"], "dnat");
}
