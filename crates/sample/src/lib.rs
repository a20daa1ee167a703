//! Random clusters for property tests, over domains so small that Services do contest frontends,
//! share addresses and list the same endpoints twice.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use model::*;
use plan::{DetectLocal, NodePortAddresses, Settings};
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

fn ip(n: u8) -> IpAddr {
    if n < 8 { IpAddr::from([10, 0, 0, n]) } else { format!("fd00::{n}").parse().unwrap() }
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Cluster), Just(Policy::Local)]
}

/// A Service.
pub fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        Just(ServiceKind::ClusterIp),
        Just(ServiceKind::NodePort),
        Just(ServiceKind::LoadBalancer),
        Just(ServiceKind::Headless),
    ];
    let addresses = || proptest::collection::vec((1u8..12).prop_map(ip), 0..3);
    let port = (0u16..2, 0u16..3, any::<bool>()).prop_map(|(port, node_port, udp)| ServicePort {
        name: if udp { "u".into() } else { "t".into() },
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        port: 80 + port,
        node_port: (node_port > 0).then_some(30000 + node_port),
    });
    let policies = (policy(), policy());
    let rest = (proptest::option::of(0i64..3), any::<bool>(), proptest::collection::vec(0u8..33, 0..2));
    (
        0u8..5,
        kind,
        addresses(),
        addresses(),
        addresses(),
        proptest::collection::vec(port, 1..3),
        policies,
        rest,
    )
        .prop_map(|(name, kind, cluster_ips, external_ips, load_balancer_ips, ports, policies, rest)| {
            Service {
                created: rest.0,
                other_proxy: rest.1 && name == 4,
                cluster_ips: cluster_ips.into(),
                external_ips: external_ips.into(),
                load_balancer_ips: load_balancer_ips.into(),
                source_ranges: rest.2.into_iter().filter_map(|l| Prefix::new(ip(3), l)).collect(),
                ports: ports.into(),
                affinity_seconds: rest.1.then_some(60),
                external_policy: policies.0,
                internal_policy: policies.1,
                health_check_node_port: rest.1.then_some(32000),
                ..Service::new(ObjectName::new("ns", format!("s{name}")), kind)
            }
        })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (20u8..26, any::<[bool; 3]>(), 0u8..4, 0u8..4).prop_map(
        |(n, [ready, serving, terminating], node, hint)| {
            let names = |prefix: &str| vec![Name::from(format!("{prefix}{hint}"))];
            Endpoint {
                address: IpAddr::from([10, 1, 0, n]),
                conditions: Conditions { ready, serving, terminating },
                place: Arc::new(Place {
                    node: (node > 0).then(|| format!("n{node}").into()),
                    zone: None,
                    hints: match hint {
                        0 => Hints::default(),
                        _ => Hints { zones: names("z"), nodes: names("n") },
                    },
                }),
                identity: None,
            }
        },
    )
}

/// An EndpointSlice of one of the Services.
pub fn slice() -> impl Strategy<Value = Slice> {
    (0u8..6, 0u8..5, proptest::collection::vec(endpoint(), 0..4)).prop_map(|(name, service, endpoints)| {
        Slice {
            name: ObjectName::new("ns", format!("e{name}")),
            service: format!("s{service}").into(),
            family: Family::V4,
            ports: Box::new([
                SlicePort { name: "t".into(), protocol: Protocol::Tcp, port: 8080 },
                SlicePort { name: "u".into(), protocol: Protocol::Udp, port: 53 },
            ]),
            endpoints: endpoints.into(),
            annotations: Default::default(),
        }
    })
}

/// Any change.
pub fn change() -> impl Strategy<Value = Change> {
    let node = (1u8..3, 1u8..12, 1u8..3).prop_map(|(name, address, zone)| {
        Object::Node(Node {
            name: format!("n{name}").into(),
            addresses: vec![ip(address)],
            pod_cidrs: vec![],
            zone: Some(format!("z{zone}").into()),
            leaving: false,
        })
    });
    let cidr = (0u8..2, 0u8..33).prop_map(|(name, length)| {
        let cidrs = Prefix::new(ip(1), length).into_iter().collect();
        Object::ServiceCidr(ServiceCidr { name: format!("c{name}").into(), cidrs })
    });
    let object = prop_oneof![
        4 => service().prop_map(Object::Service),
        4 => slice().prop_map(Object::Slice),
        1 => node,
        1 => cidr,
    ];
    (object, 0u8..3).prop_map(|(object, delete)| match delete {
        0 => Change::Delete(object.key()),
        _ => Change::Apply(object),
    })
}

/// What configuration may say.
pub fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), 0u8..3, any::<bool>()).prop_map(|(masquerade_all, detect, primary)| Settings {
        node_name: "n1".into(),
        node_addresses: vec![],
        interface_addresses: vec![],
        detect_local: match detect {
            0 => DetectLocal::Off,
            1 => DetectLocal::ClusterCidr(Prefix::new(ip(1), 8).into_iter().collect()),
            _ => DetectLocal::InterfaceNamePrefix("veth".into()),
        },
        masquerade_all,
        node_ports: if primary { NodePortAddresses::Primary } else { NodePortAddresses::All },
        localhost_node_ports: true,
        ignore_external_ips: false,
        owns_addresses: false,
    })
}
