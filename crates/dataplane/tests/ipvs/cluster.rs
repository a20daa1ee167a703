//! A cluster for the tests: objects by hand, a plan of them, and the plane of one node.

use dataplane::Report;
use dataplane::ipvs::{Configuration, Plane};
use lab::Host;
use model::*;
use plan::{DetectLocal, Planner, Settings};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

/// A Service with its ports and everything else plain.
pub(crate) fn service(name: &str, ips: &[&str], ports: &[ServicePort]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports.into(),
        ..Service::new(ObjectName::new("shop", name), ServiceKind::LoadBalancer)
    }
}

/// A port, also of the node if it is given a number there.
pub(crate) fn port(protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: protocol.name().into(), protocol, port, node_port }
}

/// An endpoint on a node, ready.
pub(crate) fn endpoint(address: IpAddr, node: &str) -> Endpoint {
    let place = Place { node: Some(node.into()), zone: None, hints: Default::default() };
    Endpoint { address, conditions: Conditions::READY, place: Arc::new(place), identity: None }
}

/// The slice of a Service in one family: all protocols at one port.
pub(crate) fn slice(service: &str, family: Family, port: u16, endpoints: Vec<Endpoint>) -> Slice {
    let ports = Protocol::ALL.map(|protocol| SlicePort { name: protocol.name().into(), protocol, port });
    Slice {
        name: ObjectName::new("shop", format!("{service}-{family}")),
        service: service.into(),
        family,
        ports: ports.into(),
        endpoints: endpoints.into(),
        annotations: Default::default(),
    }
}

/// The plane of one node, fed with objects.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) cluster: Cluster,
    pub(crate) planner: Planner,
    pub(crate) plane: Plane,
}

impl Node {
    pub(crate) fn new(host: &Host, objects: Vec<Object>) -> Node {
        Node::with(host, objects, Configuration::default())
    }

    pub(crate) fn with(host: &Host, objects: Vec<Object>, configuration: Configuration) -> Node {
        let mut cluster = Cluster::new();
        let mut touched = Touched::default();
        for object in objects {
            touched.merge(cluster.apply(Change::Apply(object)));
        }
        touched.service_cidrs = true;
        let settings = Settings {
            node_name: host.name().into(),
            detect_local: DetectLocal::ClusterCidr(vec![
                "10.244.0.0/16".parse().unwrap(),
                "fd00:10:244::/48".parse().unwrap(),
            ]),
            node_addresses: host.addresses(),
            localhost_node_ports: true,
            ..Settings::default()
        };
        let mut planner = Planner::new(settings);
        planner.update(&cluster, &touched);
        let plane = host.run(|| Plane::open(&Family::ALL, true, configuration)).unwrap().unwrap();
        Node { host: host.clone(), cluster, planner, plane }
    }

    /// Makes everything right; nothing may be refused.
    pub(crate) fn reconcile(&mut self) -> Report {
        let Node { host, planner, plane, .. } = self;
        let services: Vec<_> = planner.services().cloned().collect();
        let services = services.iter().map(|rules| &**rules);
        let report = host.run(|| plane.reconcile(planner.node(), services)).unwrap().unwrap();
        assert_eq!(report.failures, [], "{report:?}");
        report
    }

    /// One change; nothing may be refused.
    pub(crate) fn apply(&mut self, object: Object) -> Report {
        self.change(Change::Apply(object))
    }

    pub(crate) fn change(&mut self, change: Change) -> Report {
        let touched = self.cluster.apply(change);
        let deltas = self.planner.update(&self.cluster, &touched);
        let report = self.host.run(|| self.plane.apply(&deltas)).unwrap();
        assert_eq!(report.failures, [], "{report:?}");
        report
    }

    /// What a program says on the node.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        output(&self.host, program, arguments)
    }

    /// All that the plane has made, as the kernel's own tools see it, counters and times left out.
    pub(crate) fn tables(&self) -> String {
        let nft = |family| self.output("nft", &["-n", "list", "table", family, "portolan-ipvs"]);
        let mut servers: Vec<String> =
            self.output("ipvsadm", &["-Sn"]).lines().map(ToOwned::to_owned).collect();
        servers.sort();
        let routes = self.output("ip", &["route", "show", "table", "local", "dev", "kube-ipvs0"]);
        let routes6 = self.output("ip", &["-6", "route", "show", "table", "local", "dev", "kube-ipvs0"]);
        [servers.join("\n"), routes, routes6, nft("ip"), nft("ip6")].join("\n----\n")
    }
}

pub(crate) fn output(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = host.run(|| Command::new(program).args(arguments).output()).unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}
