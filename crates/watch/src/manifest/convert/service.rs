//! Services.

use super::{Context, Converted, LABEL_MAX, said, special};
use crate::manifest::wire::{self, SOURCE_RANGES_ANNOTATION, ServicePort, ServiceSpec};
use model::{Ingress, Policy, Prefix, Service, ServiceKind};
use std::net::IpAddr;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not given.
const AFFINITY_DEFAULT_S: u32 = 10_800;

/// The longest session affinity, one day.
const AFFINITY_MAX_S: u32 = 86_400;

/// The label of a Service that another proxy implements.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

impl Context<'_> {
    /// Reads a Service.
    pub(crate) fn service(&mut self, wire: &wire::Service<'_>) -> Converted<Service> {
        let wire::Service { metadata, spec, status } = wire;
        let name = self.object_name(metadata, LABEL_MAX)?;
        let kind = self.service_kind(spec)?;
        let cluster_ips = match kind {
            ServiceKind::Headless | ServiceKind::ExternalName(_) => Box::default(),
            _ => self.cluster_ips(spec)?,
        };
        let (source_ranges, balanced) = self.source_ranges(wire);
        let (load_balancer_ips, other_ingress) = self.ingress(status, balanced);
        let external_policy = self.policy("spec.externalTrafficPolicy", &spec.external_traffic_policy);
        Ok(Some(Service {
            name,
            created: self.created(metadata),
            other_proxy: metadata.labels.get(PROXY_NAME_LABEL).is_some(),
            cluster_ips,
            external_ips: self.external_ips(spec),
            load_balancer_ips,
            other_ingress,
            source_ranges,
            ports: self.service_ports(&spec.ports, &kind),
            affinity_seconds: self.affinity(spec),
            external_policy,
            internal_policy: self.policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
            health_check_node_port: self.health_check_node_port(spec, &kind, external_policy),
            publish_not_ready: spec.publish_not_ready_addresses,
            labels: if self.keep.labels { self.labels(&metadata.labels) } else { Default::default() },
            annotations: self.our_annotations(&metadata.annotations),
            kind,
        }))
    }

    fn service_kind(&mut self, spec: &ServiceSpec<'_>) -> Result<ServiceKind, String> {
        let headless = spec.cluster_ip.as_deref() == Some("None")
            || spec.cluster_ips.first().is_some_and(|ip| &**ip == "None");
        let kind = match said(&spec.kind) {
            None | Some("ClusterIP") => ServiceKind::ClusterIp,
            Some("NodePort") => ServiceKind::NodePort,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            Some("ExternalName") => {
                let name = said(&spec.external_name).ok_or("spec.externalName: missing")?;
                return Ok(ServiceKind::ExternalName(name.into()));
            }
            Some(other) => return Err(format!("spec.type: {other:?} is no type of Service")),
        };
        if !headless {
            return Ok(kind);
        }
        if kind != ServiceKind::ClusterIp {
            self.complain(
                format_args!("spec.clusterIP"),
                "None goes with type ClusterIP only; taken as headless",
            );
        }
        Ok(ServiceKind::Headless)
    }

    /// `clusterIPs`, or `clusterIP` where there are none, as the API server fills in either from the
    /// other. An address that is none leaves nothing sensible to serve.
    fn cluster_ips(&mut self, spec: &ServiceSpec<'_>) -> Result<Box<[IpAddr]>, String> {
        let first = said(&spec.cluster_ip);
        let mut ips = Vec::with_capacity(spec.cluster_ips.len().max(1));
        for (i, text) in spec.cluster_ips.iter().enumerate() {
            ips.push(cluster_ip(&format!("spec.clusterIPs[{i}]"), text)?);
        }
        match (first, ips.first()) {
            (None, None) => {
                self.notice("spec.clusterIP: missing, and there is no API server to allocate one; none");
            }
            (None, Some(_)) => {}
            (Some(text), None) => ips.push(cluster_ip("spec.clusterIP", text)?),
            (Some(text), Some(ip)) => {
                if cluster_ip("spec.clusterIP", text)? != *ip {
                    let what = format_args!("{text:?} is not the first of spec.clusterIPs, which count");
                    self.complain(format_args!("spec.clusterIP"), what);
                }
            }
        }
        Ok(self.one_a_family("spec.clusterIPs", ips).into())
    }

    fn external_ips(&mut self, spec: &ServiceSpec<'_>) -> Box<[IpAddr]> {
        let mut ips = Vec::with_capacity(spec.external_ips.len());
        for (i, text) in spec.external_ips.iter().enumerate() {
            let Some(ip) = self.ip(format_args!("spec.externalIPs[{i}]"), text) else { continue };
            match special(ip) {
                Some(what) => self
                    .complain(format_args!("spec.externalIPs[{i}]"), format_args!("{ip} {what}; left out")),
                None if ips.contains(&ip) => {}
                None => ips.push(ip),
            }
        }
        ips.into()
    }

    /// Addresses with `ipMode` VIP, which is the default, and the others: a balancer known by a host
    /// name, and one with `ipMode` Proxy, is reached over the network like anything else.
    fn ingress(
        &mut self,
        status: &wire::ServiceStatus<'_>,
        balanced: bool,
    ) -> (Box<[IpAddr]>, Box<[Ingress]>) {
        let (mut ips, mut others) = (Vec::new(), Vec::new());
        for (i, ingress) in status.load_balancer.ingress.iter().enumerate() {
            let routed = balanced && said(&ingress.ip_mode).is_none_or(|mode| mode == "VIP");
            let other = match (said(&ingress.ip), said(&ingress.hostname)) {
                (Some(text), _) => {
                    if !routed && !self.keep.names {
                        continue;
                    }
                    match self.ip(format_args!("status.loadBalancer.ingress[{i}].ip"), text) {
                        Some(ip) if routed => {
                            if !ips.contains(&ip) {
                                ips.push(ip);
                            }
                            continue;
                        }
                        Some(ip) => Ingress::Address(ip),
                        None => continue,
                    }
                }
                (None, Some(host)) if self.keep.names => Ingress::Host(host.into()),
                _ => continue,
            };
            if !others.contains(&other) {
                others.push(other);
            }
        }
        (ips.into(), others.into())
    }

    /// Who may come by way of the load balancer, and whether anybody may: no range means everybody,
    /// so ranges of which none can be read must not become none.
    fn source_ranges(&mut self, wire: &wire::Service<'_>) -> (Box<[Prefix]>, bool) {
        let field = "spec.loadBalancerSourceRanges";
        let mut texts: Vec<&str> = wire.spec.load_balancer_source_ranges.iter().map(|text| &**text).collect();
        let mut source = field;
        if texts.is_empty()
            && let Some(list) = wire.metadata.annotations.get(SOURCE_RANGES_ANNOTATION)
            && !list.trim().is_empty()
        {
            texts = list.split(',').collect();
            source = SOURCE_RANGES_ANNOTATION;
        }
        let mut ranges = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match self.prefix(format_args!("{source}[{i}]"), text.trim()) {
                Some(range) if !ranges.contains(&range) => ranges.push(range),
                _ => {}
            }
        }
        let balanced = texts.is_empty() || !ranges.is_empty();
        if !balanced {
            let what = "no range can be read, so the load balancer's addresses are left out";
            self.complain(format_args!("{source}"), what);
        }
        (ranges.into(), balanced)
    }

    pub(super) fn service_ports(
        &mut self,
        wires: &[ServicePort<'_>],
        kind: &ServiceKind,
    ) -> Box<[model::ServicePort]> {
        let mut ports: Vec<model::ServicePort> = Vec::with_capacity(wires.len());
        for (i, wire) in wires.iter().enumerate() {
            let Some(port) = self.service_port(i, wire, kind) else { continue };
            let same = |other: &&model::ServicePort| {
                other.protocol == port.protocol && (other.name == port.name || other.port == port.port)
            };
            match ports.iter().find(same) {
                Some(other) if other.name == port.name => {
                    let what =
                        format_args!("a second {} port named {:?}; left out", port.protocol, port.name);
                    self.complain(format_args!("spec.ports[{i}].name"), what);
                }
                Some(_) => {
                    let what = format_args!("a second {} port {}; left out", port.protocol, port.port);
                    self.complain(format_args!("spec.ports[{i}].port"), what);
                }
                None => ports.push(port),
            }
        }
        ports.into()
    }

    fn service_port(
        &mut self,
        i: usize,
        wire: &ServicePort<'_>,
        kind: &ServiceKind,
    ) -> Option<model::ServicePort> {
        let name = self.port_name(format_args!("spec.ports[{i}].name"), wire.name.as_deref())?;
        let protocol = self.protocol(format_args!("spec.ports[{i}].protocol"), wire.protocol.as_deref())?;
        let Some(number) = wire.port else {
            self.complain(format_args!("spec.ports[{i}].port"), "missing; left out");
            return None;
        };
        let port = self.port(format_args!("spec.ports[{i}].port"), number)?;
        let exposed = matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer);
        let node_port = match wire.node_port.filter(|number| number.0 != 0) {
            Some(number) if exposed => self.port(format_args!("spec.ports[{i}].nodePort"), number),
            Some(_) => {
                let what = "goes with type NodePort or LoadBalancer only; left out";
                self.complain(format_args!("spec.ports[{i}].nodePort"), what);
                None
            }
            None => {
                if *kind == ServiceKind::NodePort {
                    self.notice(format!(
                        "spec.ports[{i}].nodePort: missing, and there is no API server to allocate one; none"
                    ));
                }
                None
            }
        };
        Some(model::ServicePort { name, protocol, port, node_port })
    }

    fn affinity(&mut self, spec: &ServiceSpec<'_>) -> Option<u32> {
        match said(&spec.session_affinity) {
            None | Some("None") => return None,
            Some("ClientIP") => {}
            Some(other) => {
                let what = format_args!("{other:?} is not ClientIP or None; taken as None");
                self.complain(format_args!("spec.sessionAffinity"), what);
                return None;
            }
        }
        let Some(number) = spec.session_affinity_config.client_ip.timeout_seconds else {
            return Some(AFFINITY_DEFAULT_S);
        };
        let seconds = u32::try_from(number.0).ok().filter(|s| (1..=AFFINITY_MAX_S).contains(s));
        if seconds.is_none() {
            self.complain(
                format_args!("spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
                format_args!(
                    "{} is not between 1 and {AFFINITY_MAX_S}; taken as {AFFINITY_DEFAULT_S}",
                    number.0
                ),
            );
        }
        Some(seconds.unwrap_or(AFFINITY_DEFAULT_S))
    }

    fn policy(&mut self, field: &str, text: &Option<wire::Text<'_>>) -> Policy {
        match said(text) {
            None | Some("Cluster") => Policy::Cluster,
            Some("Local") => Policy::Local,
            Some(other) => {
                let what = format_args!("{other:?} is not Cluster or Local; taken as Cluster");
                self.complain(format_args!("{field}"), what);
                Policy::Cluster
            }
        }
    }

    /// It means something only to a load balancer that wants to know which nodes have endpoints.
    fn health_check_node_port(
        &mut self,
        spec: &ServiceSpec<'_>,
        kind: &ServiceKind,
        policy: Policy,
    ) -> Option<u16> {
        let number = spec.health_check_node_port.filter(|number| number.0 != 0)?;
        if *kind != ServiceKind::LoadBalancer || policy != Policy::Local {
            return None;
        }
        self.port(format_args!("spec.healthCheckNodePort"), number)
    }
}

fn cluster_ip(field: &str, text: &str) -> Result<IpAddr, String> {
    let ip = model::parse_ip(text).map_err(|error| format!("{field}: {error}"))?;
    match special(ip) {
        Some(what) => Err(format!("{field}: {ip} {what}")),
        None => Ok(ip),
    }
}
