//! What we load grows with the cluster by elements only: a node of 20,000 Services has the chains,
//! rules, sets and maps of one with 20.

mod common;

use common::Bench;
use lab::Protocol;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

/// Services in one manifest.
const A_FILE: u32 = 1000;
/// Services have one to so many endpoints.
const ENDPOINTS_MAX: u32 = 4;

/// The address of a Service by its number.
fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 97, 0, 0).to_bits() + number)
}

/// One Service with its endpoints, of which the first is alive. In JSON, which is read fastest.
fn service(number: u32, living: Ipv4Addr) -> [Value; 2] {
    let first = Ipv4Addr::new(100, 64, 0, 0).to_bits() + number * ENDPOINTS_MAX;
    let others = (0..number % ENDPOINTS_MAX).map(|endpoint| Ipv4Addr::from_bits(first + endpoint));
    let endpoints: Vec<Value> =
        std::iter::once(living).chain(others).map(|ip| json!({"addresses": [ip]})).collect();
    let name = format!("s{number}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "many"},
        "spec": {"clusterIP": cluster_ip(number), "ports": [{"port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-1"), "namespace": "many",
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": [{"name": "", "port": 8080}],
        "endpoints": endpoints,
    });
    [service, slice]
}

/// How many of each kind of thing the node's table has, elements apart, when it has so many Services.
fn census(services: u32) -> BTreeMap<String, usize> {
    let mut bench = Bench::new("nftables", 1);
    let living = bench.backends[0].ipv4();
    for first in (0..services).step_by(A_FILE as usize) {
        let numbers = first..services.min(first + A_FILE);
        let items: Vec<Value> = numbers.flat_map(|number| service(number, living)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        bench.write(&format!("services-{first}.json"), &list.to_string());
    }
    bench.start();
    // Those of which the living endpoint is the only one.
    for number in [0, services - ENDPOINTS_MAX] {
        let address = SocketAddr::from((cluster_ip(number), 80));
        bench.until("each Service answers", |bench| bench.client.ask(Protocol::Tcp, address).is_ok());
    }
    let listing = bench.tool("nft --json --terse list table ip portolan");
    let listing: Value = serde_json::from_str(&listing).expect("JSON");
    let mut census = BTreeMap::new();
    for thing in listing["nftables"].as_array().expect("a list") {
        for kind in thing.as_object().expect("an object").keys() {
            *census.entry(kind.clone()).or_default() += 1;
        }
    }
    let elements = bench.tool("nft list map ip portolan frontends");
    assert_eq!(
        elements.matches(" . tcp . 80 ").count(),
        services as usize + 1,
        "{services} Services and ours"
    );
    census
}

#[test]
fn a_thousand_times_as_many_services_are_no_rule_more() {
    let small = census(20);
    assert!(small["rule"] > 20 && small["chain"] > 10, "{small:?}");
    assert_eq!(census(20_000), small);
}
