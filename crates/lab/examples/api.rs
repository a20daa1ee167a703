//! The lab's API server with a synthetic cluster in it, for measurements by hand:
//!
//! ```text
//! cargo run --release -p lab --features api --example api -- 127.0.0.1:6443 20000 10 /tmp/kubeconfig
//! ```
//!
//! It writes a kubeconfig, serves until its input ends, and obeys lines of it: `cut` cuts all
//! connections, `compact` forgets its history and does the same, so that all is listed anew, `change N`
//! changes N slices.
#![allow(clippy::print_stdout, reason = "it is for people")]

use lab::api::{ApiOptions, ApiServer};
use serde_json::{Value, json};
use std::io::BufRead;

/// As many as a large cluster has; CoreDNS answers only for those that are there as objects.
const NAMESPACES: u32 = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, services, endpoints, kubeconfig] = arguments.as_slice() else {
        return Err("ADDRESS SERVICES ENDPOINTS KUBECONFIG".into());
    };
    let (services, endpoints): (u32, u32) = (services.parse()?, endpoints.parse()?);
    let options = ApiOptions { tls: true, token: Some("secret".into()), ..ApiOptions::default() };
    let server = ApiServer::start(address.parse()?, options)?;
    server.set(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}));
    for number in 0..services.min(NAMESPACES) {
        server.set(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("namespace-{number}")}}));
    }
    for number in 0..services {
        server.set(service(number));
        server.set(slice(number, endpoints, 0));
    }
    std::fs::write(kubeconfig, server.kubeconfig())?;
    println!("{} serves {services} Services of {endpoints} endpoints", server.url());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("cut", _) => server.cut(),
            ("compact", _) => {
                // Something must have happened that nobody was told.
                server.go_away();
                server.set(slice(0, endpoints, 1));
                server.set(service(0));
                server.compact();
                server.come_back();
            }
            ("change", count) => {
                (0..count.parse()?)
                    .for_each(|number| server.set(slice(number % services, endpoints, 1 + number)));
            }
            (other, _) => println!("{other}: cut, compact or change N"),
        }
    }
    Ok(())
}

fn address(network: u32, number: u32) -> String {
    std::net::Ipv4Addr::from((network << 24) + number).to_string()
}

/// As large as they are in clusters: managed fields are most of an object.
fn managed() -> Value {
    json!([{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {".": {},
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}}}}}])
}

fn service(number: u32) -> Value {
    let ip = address(100, number + 1);
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{number}"), "namespace": format!("namespace-{}", number % NAMESPACES),
            "uid": format!("00000000-0000-0000-0000-{number:012}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": format!("app-{number}")}, "managedFields": managed()},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app": format!("app-{number}")},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
        "status": {"loadBalancer": {}}})
}

fn slice(number: u32, endpoints: u32, generation: u32) -> Value {
    let endpoint = |index: u32| {
        let pod = number * endpoints + index;
        json!({"addresses": [address(10, 65536 + pod + generation)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", pod % 500), "zone": format!("zone-{}", pod % 3),
            "targetRef": {"kind": "Pod", "namespace": format!("namespace-{}", number % NAMESPACES),
                "name": format!("pod-{pod}"), "uid": format!("00000000-0000-0000-0001-{pod:012}")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("service-{number}-abcde"), "namespace": format!("namespace-{}", number % NAMESPACES),
            "labels": {"kubernetes.io/service-name": format!("service-{number}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": format!("service-{number}"),
                "uid": format!("00000000-0000-0000-0000-{number:012}"), "controller": true,
                "blockOwnerDeletion": true}],
            "managedFields": managed()},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>()})
}
