//! Incremental = whole: after any history the names are those that a new writer makes of the cluster.

use super::*;
use crate::{External, Options, PodMode, ZoneName, answer, external};
use model::{Change, Conditions, Endpoint, Family, Object, ObjectKey, Place, ServiceKind, SlicePort};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use wire::{Class, Question, Reply, Type, reverse_name};

const SERVICES: u8 = 4;
const ADDRESSES: u8 = 6;

fn name(service: u8) -> ObjectName {
    ObjectName::new(if service < 2 { "one" } else { "two" }, format!("svc-{service}"))
}

fn address(network: u8, number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, network, 0, number))
}

fn service(number: u8, headless: bool, ip: u8) -> Object {
    let kind = if headless { ServiceKind::Headless } else { ServiceKind::ClusterIp };
    let mut service = Service::new(name(number), kind);
    if !headless {
        service.cluster_ips = [address(96, ip)].into_iter().collect();
    }
    match ip % 3 {
        0 => service.external_ips = Box::new([address(51, ip)]),
        1 => service.other_ingress = Box::new([Ingress::Address(address(51, ip))]),
        _ => {}
    }
    Object::Service(service)
}

fn slice(number: u8, part: u8, ips: &[(u8, bool)]) -> Object {
    let endpoint = |(ip, ready): &(u8, bool)| Endpoint {
        address: address(244, *ip),
        conditions: Conditions { ready: *ready, ..Conditions::READY },
        place: Arc::new(Place::default()),
        identity: None,
    };
    Object::Slice(Slice {
        name: ObjectName::new(name(number).namespace, format!("svc-{number}-{part}")),
        service: name(number).name,
        family: Family::V4,
        ports: [SlicePort { name: "http".into(), protocol: model::Protocol::Tcp, port: 80 }]
            .into_iter()
            .collect(),
        endpoints: ips.iter().map(endpoint).collect(),
        annotations: Default::default(),
    })
}

fn pod(number: u8, ip: u8) -> Object {
    Object::Pod(Pod {
        name: ObjectName::new("one", format!("pod-{number}")),
        addresses: [address(244, ip)].into_iter().collect(),
        node: None,
        host_network: false,
    })
}

fn changes() -> impl Strategy<Value = Change> {
    let numbers = 0..SERVICES;
    let ips = prop::collection::vec((0..ADDRESSES, any::<bool>()), 0..4);
    prop_oneof![
        3 => (numbers.clone(), any::<bool>(), 0..ADDRESSES).prop_map(|(n, headless, ip)| Change::Apply(service(n, headless, ip))),
        3 => (numbers.clone(), 0..2_u8, ips).prop_map(|(n, part, ips)| Change::Apply(slice(n, part, &ips))),
        1 => (numbers.clone(), 0..ADDRESSES).prop_map(|(n, ip)| Change::Apply(pod(n, ip))),
        1 => numbers.clone().prop_map(|n| Change::Delete(ObjectKey::Service(name(n)))),
        1 => (numbers.clone(), 0..2_u8).prop_map(|(n, part)| {
            Change::Delete(ObjectKey::Slice(ObjectName::new(name(n).namespace, format!("svc-{n}-{part}"))))
        }),
        1 => numbers.prop_map(|n| Change::Delete(ObjectKey::Pod(ObjectName::new("one", format!("pod-{n}"))))),
        1 => prop::sample::select(vec!["one", "two"]).prop_map(|n| {
            Change::Apply(Object::Namespace(Namespace { name: n.into(), labels: Default::default() }))
        }),
        1 => prop::sample::select(vec!["one", "two"]).prop_map(|n| Change::Delete(ObjectKey::Namespace(n.into()))),
    ]
}

/// Every answer that there can be, as text.
fn all_answers(zone: &Zone) -> Vec<String> {
    let zones = ["cluster.local", "in-addr.arpa"].map(|zone| ZoneName::new(&zone.parse().unwrap(), false));
    let mut options = Options::new(zones.to_vec()).unwrap();
    options.pods = PodMode::Verified;
    let mut questions: Vec<wire::Name> = Vec::new();
    for namespace in ["one", "two"] {
        questions.push(format!("{namespace}.svc.cluster.local").parse().unwrap());
        for ip in 0..ADDRESSES {
            questions.push(format!("10-244-0-{ip}.{namespace}.pod.cluster.local").parse().unwrap());
        }
    }
    for number in 0..SERVICES {
        let ObjectName { namespace, name } = name(number);
        questions.push(format!("{name}.{namespace}.svc.cluster.local").parse().unwrap());
        for ip in 0..ADDRESSES {
            questions.push(format!("10-244-0-{ip}.{name}.{namespace}.svc.cluster.local").parse().unwrap());
        }
    }
    for ip in 0..ADDRESSES {
        questions.extend([96, 244].map(|network| reverse_name(address(network, ip)).unwrap()));
    }
    let mut answers = Vec::new();
    for name in questions {
        for rtype in [Type::A, Type::PTR] {
            let mut reply = Reply::default();
            let outcome =
                answer(zone, None, &options, &Question { name, rtype, class: Class::IN }, &mut reply);
            let mut records: Vec<String> = reply
                .section(wire::Section::Answer)
                .map(|record| reply.show(record, &name).to_string())
                .collect();
            // Services that share an address have no order among them.
            records.sort();
            answers.push(format!("{name} {rtype} {outcome:?} {records:?}"));
        }
    }
    let view = External::new(zones.to_vec());
    for ip in 0..ADDRESSES {
        let question =
            Question { name: reverse_name(address(51, ip)).unwrap(), rtype: Type::PTR, class: Class::IN };
        let mut reply = Reply::default();
        let outcome = external(zone, &options, &view, &question, &mut reply);
        let mut records: Vec<String> = reply
            .section(wire::Section::Answer)
            .map(|record| reply.show(record, &question.name).to_string())
            .collect();
        records.sort();
        answers.push(format!("{} {outcome:?} {records:?}", question.name));
    }
    answers
}

proptest! {
    #[test]
    fn incremental_is_whole(history in prop::collection::vec(changes(), 1..60)) {
        let mut cluster = Cluster::new();
        let mut names = Names::new();
        names.set_synced();
        let mut before = names.zone();
        for change in history {
            let answers_before = all_answers(&before);
            let touched = cluster.apply(change);
            names.update(&cluster, &touched, 1);
            prop_assert_eq!(all_answers(&before), answers_before, "a snapshot has changed");
            before = names.zone();
        }
        let mut all = Touched::default();
        all.services.extend(cluster.services().map(|service| service.name.clone()));
        all.services.extend(cluster.all_slices().map(|slice| ObjectName::new(slice.name.namespace.clone(), slice.service.clone())));
        all.namespaces.extend(cluster.namespaces().map(|namespace| namespace.name.clone()));
        all.pods.extend(cluster.pods().map(|pod| pod.name.clone()));
        let mut whole = Names::new();
        whole.update(&cluster, &all, 1);
        whole.set_synced();
        let (incremental, whole) = (all_answers(&names.zone()), all_answers(&whole.zone()));
        // Two Services that claim one ClusterIP are an error of the cluster; either is an answer.
        for (a, b) in incremental.iter().zip(&whole) {
            if !(a.contains(".0.96.10.in-addr.arpa. PTR Records") && b.contains(" PTR Records")) {
                prop_assert_eq!(a, b);
            }
        }
    }
}
