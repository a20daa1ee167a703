//! A cluster of any size, as manifests: one object a file, in JSON, with the fields that objects
//! from an API server have. Nothing in it depends on chance.

use crate::error::Error;
use crate::janitor::Scratch;
use serde_json::json;
use std::net::Ipv4Addr;

/// ClusterIPs are the addresses of this network, as kubeadm has it by default: 10.96.0.0/12.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const SERVICES_LENGTH: u8 = 12;
/// Endpoints are the addresses of this network, the lower half of 100.64.0.0/10; the upper half
/// holds the hosts that are none.
const ENDPOINTS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const HOSTS: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 0);
/// How many of each fit.
pub(super) const SERVICES_MAX: u32 = 500_000;
pub(super) const ENDPOINTS_MAX: u32 = 2_000_000;

/// Services are spread over so many Kubernetes namespaces and endpoints over so many nodes.
const NAMESPACES: u32 = 100;
const NODES: u32 = 500;

/// The port of each Service, and of each endpoint.
pub(super) const PORT: u16 = 80;
pub(super) const TARGET_PORT: u16 = 8080;

/// The size of a cluster.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) services: u32,
    /// Endpoints of each Service.
    pub(super) endpoints: u32,
}

impl Size {
    /// The address of a Service.
    pub(super) fn cluster_ip(self, service: u32) -> Ipv4Addr {
        // The first is the API server's in a real cluster, and free here.
        nth(SERVICES, service + 2)
    }

    /// The first and the last Service by name, which is their order where rules stand one after
    /// another.
    pub(super) fn ends(self) -> [u32; 2] {
        let name = |service: &u32| (namespace(*service), format!("app-{service}"));
        let first = (0..self.services).min_by_key(name).unwrap_or(0);
        [first, (0..self.services).max_by_key(name).unwrap_or(0)]
    }

    /// The one in the middle.
    pub(super) fn middle(self) -> u32 {
        let mut all: Vec<u32> = (0..self.services).collect();
        all.sort_by_cached_key(|service| (namespace(*service), format!("app-{service}")));
        all.get(all.len() / 2).copied().unwrap_or(0)
    }

    /// The address of an endpoint.
    pub(super) fn endpoint(self, service: u32, endpoint: u32) -> Ipv4Addr {
        nth(ENDPOINTS, service * self.endpoints + endpoint)
    }
}

/// The address of a host that is nobody's endpoint.
pub(super) fn host(number: u32) -> Ipv4Addr {
    nth(HOSTS, number)
}

fn nth(network: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.to_bits().wrapping_add(number))
}

/// Writes what every cluster has: its networks and this node.
pub(super) fn write_node(manifests: &Scratch, node: &lab::Node) -> Result<(), Error> {
    let cidr = format!("{SERVICES}/{SERVICES_LENGTH}");
    let networks = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [cidr]},
    });
    let own = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name()},
        "status": {"addresses": [{"type": "InternalIP", "address": node.ipv4()}]},
    });
    write(manifests, "service-cidr.json", &networks.to_string())?;
    write(manifests, "node.json", &own.to_string())
}

/// Writes a configuration in which changes do not wait for each other in any mode, so that how long
/// they take can be told.
pub(super) fn write_configuration(directory: &Scratch) -> Result<(), Error> {
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                kind: KubeProxyConfiguration\n\
                iptables: {minSyncPeriod: 1ms}\n";
    write(directory, CONFIGURATION, text)
}

/// Its name.
pub(super) const CONFIGURATION: &str = "configuration.yaml";

/// Writes all Services and their EndpointSlices.
pub(super) fn write_services(manifests: &Scratch, size: Size) -> Result<(), Error> {
    for service in 0..size.services {
        let text = service_manifest(size, service);
        write(manifests, &format!("service-{service}.json"), &text)?;
        write_slice(manifests, size, service, size.endpoints)?;
    }
    Ok(())
}

/// Writes a Service's EndpointSlice with so many of its endpoints.
pub(super) fn write_slice(
    manifests: &Scratch,
    size: Size,
    service: u32,
    endpoints: u32,
) -> Result<(), Error> {
    write(manifests, &format!("slice-{service}.json"), &slice_manifest(size, service, endpoints))
}

fn write(manifests: &Scratch, name: &str, text: &str) -> Result<(), Error> {
    manifests.replace(name, text.as_bytes()).map_err(|e| Error::Start("write a manifest", e))
}

fn service_manifest(size: Size, service: u32) -> String {
    let ip = size.cluster_ip(service);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "creationTimestamp": "2025-01-01T00:00:00Z",
            "labels": {"app": format!("app-{service}")},
            "name": format!("app-{service}"),
            "namespace": namespace(service),
            "resourceVersion": service.to_string(),
            "uid": uid(service),
        },
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": TARGET_PORT}],
            "selector": {"app": format!("app-{service}")},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    })
    .to_string()
}

fn slice_manifest(size: Size, service: u32, endpoints: u32) -> String {
    let endpoint = |number: u32| {
        let pod = service * size.endpoints + number;
        json!({
            "addresses": [size.endpoint(service, number)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", pod % NODES),
            "targetRef": {
                "kind": "Pod",
                "name": format!("app-{service}-{number}"),
                "namespace": namespace(service),
                "uid": uid(pod),
            },
            "zone": format!("zone-{}", pod % 3),
        })
    };
    let endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    json!({
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": endpoints,
        "kind": "EndpointSlice",
        "metadata": {
            "labels": {
                "app": format!("app-{service}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": format!("app-{service}"),
            },
            "name": format!("app-{service}-slice"),
            "namespace": namespace(service),
            "uid": uid(service),
        },
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
    })
    .to_string()
}

fn namespace(service: u32) -> String {
    format!("team-{}", service % NAMESPACES)
}

fn uid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}
