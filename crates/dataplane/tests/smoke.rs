use dataplane::nftables::*;
use model::*;
use plan::*;
use std::sync::Arc;

#[test]
fn smoke() {
    let mut cluster = Cluster::new();
    let svc = |name: &str, ip: &str, np: Option<u16>, aff: Option<u32>, local: bool| Service {
        name: ObjectName::new("shop", name),
        created: None,
        kind: ServiceKind::LoadBalancer,
        other_proxy: None,
        cluster_ips: vec![
            ip.parse().unwrap(),
            format!("fd00::{}", ip.rsplit('.').next().unwrap()).parse().unwrap(),
        ],
        external_ips: vec![],
        load_balancer_ips: vec![ip.replace("10.96.0", "192.0.2").parse().unwrap()],
        source_ranges: if np.is_some() {
            vec!["10.0.0.0/8".parse().unwrap(), "1.2.3.0/24".parse().unwrap()]
        } else {
            vec![]
        },
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: np }],
        affinity_seconds: aff,
        external_policy: if local { Policy::Local } else { Policy::Cluster },
        internal_policy: Policy::Cluster,
        health_check_node_port: None,
        publish_not_ready: false,
        labels: Default::default(),
        annotations: Default::default(),
    };
    let slice = |svc: &str, n: u8, v6: bool| Slice {
        name: ObjectName::new("shop", format!("{svc}-1-{v6}")),
        service: svc.into(),
        family: if v6 { Family::V6 } else { Family::V4 },
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (1..=n)
            .map(|i| Endpoint {
                address: if v6 {
                    format!("fd01::{i}").parse().unwrap()
                } else {
                    format!("10.244.1.{i}").parse().unwrap()
                },
                conditions: Conditions::READY,
                place: Arc::new(Place { node: Some("n".into()), zone: None }),
                hints: None,
                identity: None,
            })
            .collect(),
        annotations: None,
    };
    for o in [
        Object::Service(svc("web", "10.96.0.1", Some(30080), None, false)),
        Object::Slice(slice("web", 3, false)),
        Object::Slice(slice("web", 3, true)),
        Object::Service(svc("sticky", "10.96.0.2", None, Some(600), true)),
        Object::Slice(slice("sticky", 2, false)),
        Object::Slice(slice("sticky", 2, true)),
        Object::Service(svc("none", "10.96.0.3", Some(30081), None, true)),
        Object::ServiceCidr(ServiceCidr {
            name: "k".into(),
            cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
        }),
    ] {
        cluster.apply(Change::Apply(o));
    }
    let settings = Settings {
        node_name: "n".into(),
        detect_local: DetectLocal::ClusterCidr(vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd01::/64".parse().unwrap(),
        ]),
        localhost_node_ports: true,
        ..Default::default()
    };
    let rules = rules(&cluster, &settings);
    for family in Family::ALL {
        let options = Options { node: rules.node.clone(), drop_invalid: true };
        let mut half = Half::new(family, Kernel::open(family, options.clone()).unwrap());
        let r = half.reconcile(options.clone(), rules.services.values().map(|s| &**s)).unwrap();
        println!("{r:?}");
        let wants = Image::of(&rules, family);
        assert_eq!(*half.image(), wants);
        let r = half.reconcile(options, rules.services.values().map(|s| &**s)).unwrap();
        println!("again {r:?}");
        assert!(r.is_quiet());
        assert_eq!(half.tables().read().unwrap().unwrap(), wants);
    }
    std::process::Command::new("nft").args(["list", "ruleset"]).status().unwrap();
}
