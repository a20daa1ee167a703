//! Nodes, Namespaces, Pods and ServiceCIDRs.

use super::{Context, Converted, LABEL_MAX, SUBDOMAIN_MAX, name, said};
use crate::manifest::wire;
use model::{Namespace, Node, Pod, ServiceCidr};

/// The label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The taint of a node that is about to be deleted.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Context<'_> {
    /// Reads a Node.
    pub(crate) fn node(&mut self, wire: &wire::Node<'_>) -> Converted<Node> {
        let wire::Node { metadata, spec, status } = wire;
        let name = self.names.word(name(metadata, SUBDOMAIN_MAX)?);
        let mut addresses = Vec::new();
        for kind in ["InternalIP", "ExternalIP"] {
            for (i, address) in status.addresses.iter().enumerate() {
                if address.kind.as_deref() != Some(kind) {
                    continue;
                }
                let text = address.address.as_deref().unwrap_or_default();
                match self.ip(format_args!("status.addresses[{i}].address"), text) {
                    Some(ip) if !addresses.contains(&ip) => addresses.push(ip),
                    _ => {}
                }
            }
        }
        let mut pod_cidrs = Vec::new();
        for (i, text) in spec.pod_cidrs.iter().enumerate() {
            pod_cidrs.extend(self.prefix(format_args!("spec.podCIDRs[{i}]"), text));
        }
        if spec.pod_cidrs.is_empty()
            && let Some(text) = said(&spec.pod_cidr)
        {
            pod_cidrs.extend(self.prefix(format_args!("spec.podCIDR"), text));
        }
        let leaving = metadata.deletion_timestamp.is_some()
            || spec.taints.iter().any(|taint| taint.key.as_deref() == Some(LEAVING_TAINT));
        let zone = metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty());
        Ok(Some(Node { name, addresses, pod_cidrs, zone: zone.map(|zone| self.names.word(zone)), leaving }))
    }

    /// Reads a Namespace.
    pub(crate) fn namespace(&mut self, wire: &wire::Namespace<'_>) -> Converted<Namespace> {
        let name = self.names.word(name(&wire.metadata, LABEL_MAX)?);
        Ok(Some(Namespace { name, labels: self.labels(&wire.metadata.labels) }))
    }

    /// Reads a Pod. One that has run to its end has given its address back.
    pub(crate) fn pod(&mut self, wire: &wire::Pod<'_>) -> Converted<Pod> {
        let wire::Pod { metadata, spec, status } = wire;
        let name = self.object_name(metadata, SUBDOMAIN_MAX)?;
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || !self.keep.pods {
            return Ok(None);
        }
        let mut addresses = Vec::new();
        for (i, ip) in status.pod_ips.iter().enumerate() {
            let Some(text) = said(&ip.ip) else { continue };
            addresses.extend(self.ip(format_args!("status.podIPs[{i}].ip"), text));
        }
        if status.pod_ips.is_empty()
            && let Some(text) = said(&status.pod_ip)
        {
            addresses.extend(self.ip(format_args!("status.podIP"), text));
        }
        Ok(Some(Pod {
            name,
            addresses: self.one_a_family("status.podIPs", addresses),
            node: said(&spec.node_name).map(|node| self.names.word(node)),
            host_network: spec.host_network,
        }))
    }

    /// Reads a ServiceCIDR.
    pub(crate) fn service_cidr(&mut self, wire: &wire::ServiceCidr<'_>) -> Converted<ServiceCidr> {
        let name = self.names.word(name(&wire.metadata, SUBDOMAIN_MAX)?);
        let mut cidrs = Vec::new();
        for (i, text) in wire.spec.cidrs.iter().enumerate() {
            cidrs.extend(self.prefix(format_args!("spec.cidrs[{i}]"), text));
        }
        Ok(Some(ServiceCidr { name, cidrs }))
    }
}
