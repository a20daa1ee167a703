//! What changes touch.

use super::*;
use crate::{Conditions, Endpoint, Family, ServiceKind};

fn service(name: &str) -> Service {
    Service {
        cluster_ips: Box::new(["10.96.0.1".parse().unwrap()]),
        ..Service::new(ObjectName::new("ns", name), ServiceKind::ClusterIp)
    }
}

fn slice(name: &str, service: &str, node: &str) -> Slice {
    Slice {
        name: ObjectName::new("ns", name),
        service: service.into(),
        family: Family::V4,
        ports: Box::default(),
        endpoints: Box::new([Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            conditions: Conditions::READY,
            place: Arc::new(Place { node: Some(node.into()), zone: None, hints: Default::default() }),
            identity: None,
        }]),
        annotations: Default::default(),
    }
}

fn touched(names: &[&str]) -> BTreeSet<ObjectName> {
    names.iter().map(|n| ObjectName::new("ns", *n)).collect()
}

#[test]
fn equal_objects_touch_nothing() {
    let mut cluster = Cluster::new();
    let change = Change::Apply(Object::Service(service("a")));
    assert_eq!(cluster.apply(change.clone()).services, touched(&["a"]));
    assert!(cluster.apply(change).is_empty());
    let change = Change::Apply(Object::Slice(slice("a-1", "a", "n")));
    assert_eq!(cluster.apply(change.clone()).services, touched(&["a"]));
    assert!(cluster.apply(change).is_empty());
}

#[test]
fn slice_that_moves_touches_both_services() {
    let mut cluster = Cluster::new();
    cluster.apply(Change::Apply(Object::Slice(slice("s", "a", "n"))));
    let moved = cluster.apply(Change::Apply(Object::Slice(slice("s", "b", "n"))));
    assert_eq!(moved.services, touched(&["a", "b"]));
    assert_eq!(cluster.slices(&ObjectName::new("ns", "a")).count(), 0);
    assert_eq!(cluster.slices(&ObjectName::new("ns", "b")).count(), 1);
    let gone = cluster.apply(Change::Delete(ObjectKey::Slice(ObjectName::new("ns", "s"))));
    assert_eq!(gone.services, touched(&["b"]));
}

#[test]
fn deleting_everything_leaves_an_empty_cluster() {
    let mut cluster = Cluster::new();
    let objects = [
        Object::Service(service("a")),
        Object::Slice(slice("a-1", "a", "n")),
        Object::Namespace(Namespace { name: "ns".into(), labels: Default::default() }),
        Object::ServiceCidr(ServiceCidr { name: "k".into(), cidrs: vec![] }),
        Object::Node(Node {
            name: "n".into(),
            addresses: vec![],
            pod_cidrs: vec![],
            zone: None,
            leaving: false,
        }),
    ];
    let keys: Vec<_> = objects.iter().map(Object::key).collect();
    for object in objects {
        assert!(!cluster.apply(Change::Apply(object)).is_empty());
    }
    for key in keys {
        assert!(!cluster.apply(Change::Delete(key.clone())).is_empty());
        assert!(cluster.apply(Change::Delete(key)).is_empty());
    }
    assert_eq!(cluster, Cluster::new());
}

#[test]
fn endpoints_of_a_node_share_their_place() {
    let mut cluster = Cluster::new();
    cluster.apply(Change::Apply(Object::Slice(slice("s", "a", "n"))));
    cluster.apply(Change::Apply(Object::Slice(slice("t", "a", "n"))));
    let places: Vec<_> = cluster.all_slices().map(|s| s.endpoints[0].place.clone()).collect();
    assert!(Arc::ptr_eq(&places[0], &places[1]));
}
