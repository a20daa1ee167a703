//! The model's objects as manifests again: what is read from one of these is what was written. Only
//! what the model keeps is in it, so it is no way to edit a cluster.

use super::time;
use super::wire::OUR_PREFIX;
use model::{
    Cluster, Conditions, Endpoint, Ingress, Namespace, Node, ObjectName, Pod, Policy, Service, ServiceCidr,
};
use model::{ServiceKind, Slice, Words};
use serde_json::{Map, Value, json};
use std::fmt::Display;
use std::sync::Arc;

type Fields = Map<String, Value>;

/// All objects of a cluster as they are at one moment, shared with it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<Slice>>,
    nodes: Vec<Arc<Node>>,
    namespaces: Vec<Arc<Namespace>>,
    pods: Vec<Arc<Pod>>,
    service_cidrs: Vec<Arc<ServiceCidr>>,
}

impl Snapshot {
    /// Takes one: a handle for each object, and no more.
    pub fn of(cluster: &Cluster) -> Snapshot {
        Snapshot {
            services: cluster.services().cloned().collect(),
            slices: cluster.all_slices().cloned().collect(),
            nodes: cluster.nodes().cloned().collect(),
            namespaces: cluster.namespaces().cloned().collect(),
            pods: cluster.pods().cloned().collect(),
            service_cidrs: cluster.service_cidrs().cloned().collect(),
        }
    }

    /// Its objects as manifests, one at a time.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = Value> {
        let Snapshot { services, slices, nodes, namespaces, pods, service_cidrs } = self;
        let first = service_cidrs.iter().map(|object| service_cidr(object));
        first
            .chain(nodes.iter().map(|object| node(object)))
            .chain(namespaces.iter().map(|object| namespace(object)))
            .chain(services.iter().map(|object| service(object)))
            .chain(slices.iter().map(|object| slice(object)))
            .chain(pods.iter().map(|object| pod(object)))
    }
}

fn texts<T: Display>(items: impl IntoIterator<Item = T>) -> Value {
    items.into_iter().map(|item| Value::from(item.to_string())).collect()
}

fn words(words: &Words, prefix: &str) -> Fields {
    words.iter().map(|(key, word)| (format!("{prefix}{key}"), Value::from(&**word))).collect()
}

fn metadata(name: &ObjectName, labels: Fields, annotations: Fields) -> Value {
    let ObjectName { namespace, name } = name;
    json!({ "namespace": &**namespace, "name": &**name, "labels": labels, "annotations": annotations })
}

fn object(api_version: &str, kind: &str, metadata: Value) -> Fields {
    let mut fields = Fields::new();
    fields.insert("apiVersion".into(), api_version.into());
    fields.insert("kind".into(), kind.into());
    fields.insert("metadata".into(), metadata);
    fields
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    }
}

/// A Service.
fn service(service: &Service) -> Value {
    let Service {
        name,
        created,
        kind,
        other_proxy,
        cluster_ips,
        external_ips,
        load_balancer_ips,
        other_ingress,
        source_ranges,
        ports,
        affinity_seconds,
        external_policy,
        internal_policy,
        health_check_node_port,
        publish_not_ready,
        labels,
        annotations,
    } = service;
    let mut labels = words(labels, "");
    if *other_proxy {
        labels.entry("service.kubernetes.io/service-proxy-name").or_insert_with(|| "another".into());
    }
    let mut metadata = metadata(name, labels, words(annotations, OUR_PREFIX));
    if let (Some(created), Some(fields)) = (created, metadata.as_object_mut()) {
        fields.insert("creationTimestamp".into(), time::text(*created).into());
    }
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({ "name": &*port.name, "protocol": port.protocol.name().to_uppercase(), "port": port.port,
                "nodePort": port.node_port })
        })
        .collect();
    let affinity = if affinity_seconds.is_some() { "ClientIP" } else { "None" };
    let mut spec = json!({
        "externalIPs": texts(external_ips), "loadBalancerSourceRanges": texts(source_ranges), "ports": ports,
        "sessionAffinity": affinity, "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": affinity_seconds } },
        "externalTrafficPolicy": policy(*external_policy), "internalTrafficPolicy": policy(*internal_policy),
        "healthCheckNodePort": health_check_node_port, "publishNotReadyAddresses": publish_not_ready,
    });
    let (kind, more) = match kind {
        ServiceKind::ClusterIp => ("ClusterIP", ("clusterIPs", texts(cluster_ips))),
        ServiceKind::NodePort => ("NodePort", ("clusterIPs", texts(cluster_ips))),
        ServiceKind::LoadBalancer => ("LoadBalancer", ("clusterIPs", texts(cluster_ips))),
        ServiceKind::Headless => ("ClusterIP", ("clusterIP", "None".into())),
        ServiceKind::ExternalName(name) => ("ExternalName", ("externalName", Value::from(&**name))),
    };
    if let Some(fields) = spec.as_object_mut() {
        fields.insert("type".into(), kind.into());
        fields.insert(more.0.into(), more.1);
    }
    let routed = load_balancer_ips.iter().map(|ip| json!({ "ip": ip.to_string() }));
    let others = other_ingress.iter().map(|other| match other {
        Ingress::Address(ip) => json!({ "ip": ip.to_string(), "ipMode": "Proxy" }),
        Ingress::Host(name) => json!({ "hostname": &**name }),
    });
    let ingress: Vec<Value> = routed.chain(others).collect();
    let mut fields = object("v1", "Service", metadata);
    fields.insert("spec".into(), spec);
    fields.insert("status".into(), json!({ "loadBalancer": { "ingress": ingress } }));
    fields.into()
}

/// An EndpointSlice.
fn slice(slice: &Slice) -> Value {
    let Slice { name, service, family, ports, endpoints, annotations } = slice;
    let mut labels = Fields::new();
    labels.insert("kubernetes.io/service-name".into(), (&**service).into());
    let annotations = words(annotations, OUR_PREFIX);
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({ "name": &*port.name, "protocol": port.protocol.name().to_uppercase(), "port": port.port })
        })
        .collect();
    let mut fields = object("discovery.k8s.io/v1", "EndpointSlice", metadata(name, labels, annotations));
    fields.insert("addressType".into(), family.to_string().into());
    fields.insert("ports".into(), ports.into());
    fields.insert("endpoints".into(), endpoints.iter().map(endpoint).collect());
    fields.into()
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let Endpoint { address, conditions, place, identity } = endpoint;
    let Conditions { ready, serving, terminating } = conditions;
    let names =
        |names: &[model::Name]| -> Value { names.iter().map(|name| json!({ "name": &**name })).collect() };
    let mut value = json!({
        "addresses": [address.to_string()],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "nodeName": place.node.as_deref(), "zone": place.zone.as_deref(),
        "hints": { "forZones": names(&place.hints.zones), "forNodes": names(&place.hints.nodes) },
    });
    if let (Some(identity), Some(fields)) = (identity, value.as_object_mut()) {
        fields.insert("hostname".into(), identity.hostname.as_deref().into());
        if let Some(pod) = &identity.pod {
            fields.insert("targetRef".into(), json!({ "kind": "Pod", "name": &**pod }));
        }
    }
    value
}

fn node(node: &Node) -> Value {
    let Node { name, addresses, pod_cidrs, zone, leaving } = node;
    // One that is about to go says so by its taint or by being deleted; either means the same here.
    let taints = if *leaving { json!([{ "key": "ToBeDeletedByClusterAutoscaler" }]) } else { json!([]) };
    let addresses: Vec<Value> =
        addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() })).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": &**name, "labels": { "topology.kubernetes.io/zone": zone.as_deref() } },
        "spec": { "podCIDRs": texts(pod_cidrs), "taints": taints },
        "status": { "addresses": addresses },
    })
}

fn namespace(namespace: &Namespace) -> Value {
    let Namespace { name, labels } = namespace;
    let labels: Fields = labels.iter().map(|(key, word)| (key.to_string(), Value::from(&**word))).collect();
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": &**name, "labels": labels } })
}

fn pod(pod: &Pod) -> Value {
    let Pod { name, addresses, node, host_network } = pod;
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    let mut fields = object("v1", "Pod", metadata(name, Fields::new(), Fields::new()));
    fields.insert("spec".into(), json!({ "nodeName": node.as_deref(), "hostNetwork": host_network }));
    fields.insert("status".into(), json!({ "podIPs": ips }));
    fields.into()
}

fn service_cidr(cidr: &ServiceCidr) -> Value {
    let ServiceCidr { name, cidrs } = cidr;
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": &**name }, "spec": { "cidrs": texts(cidrs) } })
}
