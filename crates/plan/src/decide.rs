//! From one Service and its endpoints to its rules.

use crate::aside::{Aside, is_off};
use crate::claims::{ClaimKey, Claims, asked, ports as ports_of};
use crate::endpoints::{Candidates, Pools, Wanted, weight};
use crate::{
    At, Contested, Frontend, FrontendKind, HealthCheck, Masquerade, NodeRules, PoolKind, PortRules,
    ServiceRules, Target,
};
use model::{Cluster, Family, Policy, PortName, Prefix, Protocol, Service, ServiceKind, ServicePort};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Whether this proxy routes the Service at all.
pub(crate) fn is_routed(service: &Service) -> bool {
    let has_addresses = !matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName(_))
        && !service.cluster_ips.is_empty();
    has_addresses && !service.other_proxy
}

/// The rules of a Service that is routed.
pub(crate) fn service_rules(
    cluster: &Cluster,
    node: &NodeRules,
    claims: &Claims,
    aside: &Aside,
    service: &Service,
) -> ServiceRules {
    let mut contested = Vec::new();
    let mut held: Vec<(usize, FrontendKind, ClaimKey)> = Vec::new();
    for (index, kind, key) in asked(service, node.ignore_external_ips) {
        match claims.holder(&key, cluster) {
            Some(holder) if *holder != service.name => {
                contested.push(Contested { kind, at: key.at, protocol: key.protocol, holder: holder.clone() })
            }
            _ if held.iter().any(|(_, _, other)| *other == key) => {}
            _ => held.push((index, kind, key)),
        }
    }
    let nobody = Aside::default();
    let aside = if is_off(&service.annotations) { &nobody } else { aside };
    let families =
        || Family::ALL.into_iter().filter(|f| service.cluster_ips.iter().any(|ip| Family::of(*ip) == *f));
    let mut ports = Vec::new();
    for (index, port) in ports_of(service) {
        for family in families() {
            let held = held.iter().filter(|(i, _, key)| *i == index && is_of(key.at, family));
            let held: Vec<_> = held.map(|(_, kind, key)| (*kind, key.at)).collect();
            ports.push(port_rules(cluster, node, aside, service, (port, family), &held));
        }
    }
    ServiceRules {
        name: service.name.clone(),
        ports: ports.into(),
        health_check: health_check(cluster, node, service),
        contested: contested.into(),
        annotations: service.annotations.clone(),
    }
}

fn is_of(at: At, family: Family) -> bool {
    match at {
        At::Address(ip, _) => Family::of(ip) == family,
        At::NodePort(_) => true,
    }
}

fn port_rules(
    cluster: &Cluster,
    node: &NodeRules,
    aside: &Aside,
    service: &Service,
    (port, family): (&ServicePort, Family),
    held: &[(FrontendKind, At)],
) -> PortRules {
    let external = held.iter().any(|(kind, _)| *kind != FrontendKind::ClusterIp);
    let wanted = Wanted {
        // Local clients of an external address are sent to the cluster's endpoints whatever the
        // external policy.
        cluster: service.internal_policy == Policy::Cluster || external,
        local: service.internal_policy == Policy::Local
            || (external && service.external_policy == Policy::Local),
        serving: port.protocol != Protocol::Tcp,
    };
    let slices = cluster.slices(&service.name).map(|s| &**s);
    let key = (&*port.name, port.protocol);
    let pools = Candidates::of(slices, key, family, node, weight(&service.annotations)).pools(node, wanted);
    let (pools, left_out) = pools.without(port.protocol, aside);
    let sources = sources(service, node, family);
    let frontends = held
        .iter()
        .map(|(kind, at)| frontend(*kind, *at, service, node, family, &pools, sources.as_ref()))
        .collect();
    PortRules {
        name: PortName {
            service: service.name.clone(),
            port: port.name.clone(),
            number: port.port,
            protocol: port.protocol,
        },
        family,
        affinity_seconds: service.affinity_seconds,
        cluster: pools.cluster,
        local: pools.local,
        serving: pools.serving,
        aside: left_out,
        frontends,
    }
}

fn frontend(
    kind: FrontendKind,
    at: At,
    service: &Service,
    node: &NodeRules,
    family: Family,
    pools: &Pools,
    sources: Option<&Arc<[Prefix]>>,
) -> Frontend {
    let internal = kind == FrontendKind::ClusterIp;
    let policy = if internal { service.internal_policy } else { service.external_policy };
    let outside = match policy {
        _ if !pools.any => Target::Reject,
        Policy::Cluster if pools.cluster.is_empty() => Target::Reject,
        Policy::Cluster => Target::Balance(PoolKind::Cluster),
        Policy::Local if pools.local.is_empty() => Target::Drop,
        Policy::Local => Target::Balance(PoolKind::Local),
    };
    let masquerade = match policy {
        _ if internal && node.masquerade_all => Masquerade::Always,
        _ if internal && node.tells_local(family) => Masquerade::OffCluster,
        _ if internal => Masquerade::Never,
        Policy::Cluster => Masquerade::Always,
        Policy::Local => Masquerade::Never,
    };
    let restricted = kind == FrontendKind::LoadBalancer && outside != Target::Reject;
    Frontend {
        kind,
        at,
        outside,
        short_circuit: !internal && policy == Policy::Local && !pools.cluster.is_empty(),
        sources: sources.filter(|_| restricted).cloned(),
        masquerade,
    }
}

/// The networks whose clients a load balancer's addresses serve; `None` for all.
///
/// The node itself may be among the clients, and its packets to its own load balancer's address
/// have that address as their source in some data planes, so that is allowed with it.
fn sources(service: &Service, node: &NodeRules, family: Family) -> Option<Arc<[Prefix]>> {
    let ranges: BTreeSet<Prefix> =
        service.source_ranges.iter().copied().filter(|r| r.family() == family).collect();
    if ranges.is_empty() || ranges.iter().any(|r| r.length() == 0) {
        return None;
    }
    let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
    let admits_node =
        node.addresses.iter().filter(of_family).any(|ip| ranges.iter().any(|r| r.contains(*ip)));
    let own = service.load_balancer_ips.iter().filter(of_family).filter(|_| admits_node);
    let own: Vec<_> = own.map(|ip| Prefix::host(*ip)).collect();
    Some(ranges.into_iter().chain(own).collect::<BTreeSet<_>>().into_iter().collect())
}

/// A load balancer that wants local endpoints asks each node whether it has some.
fn health_check(cluster: &Cluster, node: &NodeRules, service: &Service) -> Option<HealthCheck> {
    let asks = service.kind == ServiceKind::LoadBalancer && service.external_policy == Policy::Local;
    let port = service.health_check_node_port.filter(|_| asks)?;
    let mut local = BTreeSet::new();
    for service_port in &service.ports {
        for family in Family::ALL {
            let slices = cluster.slices(&service.name).map(|s| &**s);
            let key = (&*service_port.name, service_port.protocol);
            local.extend(Candidates::of(slices, key, family, node, None).local_ready());
        }
    }
    Some(HealthCheck { port, local_endpoints: u32::try_from(local.len()).unwrap_or(u32::MAX) })
}
