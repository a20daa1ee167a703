//! `portolan doctor names`, from a pod and from a node, of servers that answer and of one that does not.

mod common;

use common::Bench;
use lab::Host;
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};

fn doctor(host: &Host, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["doctor", "names", "--json", "--count", "30"]).args(arguments);
    let mut process = host.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped())).expect("it starts");
    let mut text = String::new();
    process.child().stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    let code = process.child().wait().expect("it ends").code();
    (code, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[test]
fn from_a_pod_and_from_a_node() {
    let mut bench = Bench::new("nftables", 1);
    bench.write(
        "kubernetes.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes, namespace: default}\n\
                                    spec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}\n",
    );
    let node_ip = bench.node.ipv4();
    bench.write("dns.yaml", &format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kube-dns, namespace: kube-system}}\n\
         spec: {{clusterIP: 10.96.0.53, ports: [{{name: dns, port: 53, protocol: UDP}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: dns-1, namespace: kube-system, \
         labels: {{kubernetes.io/service-name: kube-dns}}}}\naddressType: IPv4\n\
         ports: [{{name: dns, port: 53, protocol: UDP}}]\nendpoints: [{{addresses: [{node_ip}]}}]\n"
    ));
    let corefile = ".:53 {\n    kubernetes cluster.local\n    template IN A example.com {\n        \
                    answer \"{{ .Name }} 60 IN A 192.0.2.9\"\n    }\n}\n";
    let corefile = bench.file("Corefile", corefile).display().to_string();
    let manifests = bench.manifests.display().to_string();
    bench.run("nftables", &["--manifests", &manifests, "--dns", &corefile]);
    bench.until("names are served", |bench| {
        common::dns::address(&bench.client, ([10, 96, 0, 53], 53).into(), "example.com").is_some()
    });
    let (code, answer) = doctor(&bench.client, &["--server", "10.96.0.53"]);
    assert_eq!((code, &answer["healthy"]), (Some(0), &true.into()), "{answer}");
    let kinds: Vec<(&str, u64, u64, u64)> = answer["lookups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|kind| {
            let number = |field: &str| kind[field].as_u64().expect("a number");
            assert!(number("p50_us") <= number("p99_us") && number("p99_us") <= number("max_us"), "{kind}");
            (kind["kind"].as_str().expect("a word"), number("count"), number("errors"), number("questions"))
        })
        .collect();
    // The second element of the search path is where it is found.
    let wanted =
        [("known", 30, 0, 30), ("unknown", 30, 0, 30), ("search", 30, 0, 60), ("outside", 30, 0, 30)];
    assert_eq!(kinds, wanted);
    // On the node, the kernel's own tables tell which server the cluster has.
    let (code, answer) = doctor(&bench.node, &["--no-outside"]);
    assert_eq!((code, &answer["server"]), (Some(0), &"10.96.0.53:53".into()), "{answer}");
    assert_eq!(answer["lookups"].as_array().map(Vec::len), Some(3));
    // What the server does not know, and a server that is not there.
    let (code, answer) = doctor(&bench.client, &["--server", "10.96.0.53", "--outside", "example.org"]);
    assert_eq!((code, &answer["healthy"]), (Some(1), &false.into()), "{answer}");
    let outside = &answer["lookups"][3];
    assert_eq!((outside["errors"].as_u64(), outside["count"].as_u64()), (Some(5), Some(5)), "{outside}");
    assert_eq!(outside["max_us"], Value::Null);
    let closed = format!("{}:5353", bench.node.ipv4());
    let (code, answer) = doctor(&bench.client, &["--server", &closed]);
    assert_eq!((code, &answer["lookups"][0]["errors"]), (Some(1), &5.into()), "{answer}");
}
