//! ServiceImports: Services of a set of clusters (the Multi-Cluster Services API). They become Services, of
//! a set of their own: their names are in other zones, and nothing of them is routed.

use super::{Context, Converted, LABEL_MAX, said};
use crate::manifest::wire;
use model::{Service, ServiceKind};

impl Context<'_> {
    /// Reads a ServiceImport.
    pub(crate) fn import(&mut self, wire: &wire::Import<'_>) -> Converted<Service> {
        let wire::Import { metadata, spec } = wire;
        let name = self.object_name(metadata, LABEL_MAX)?;
        let kind = match said(&spec.kind) {
            None | Some("ClusterSetIP") => ServiceKind::ClusterIp,
            Some("Headless") => ServiceKind::Headless,
            Some(other) => return Err(format!("spec.type: {other:?} is not ClusterSetIP or Headless")),
        };
        let mut ips = Vec::new();
        for (i, text) in spec.ips.iter().enumerate() {
            ips.extend(self.ip(format_args!("spec.ips[{i}]"), text));
        }
        let cluster_ips = match kind {
            ServiceKind::Headless => Box::default(),
            _ => self.one_a_family("spec.ips", ips).into(),
        };
        Ok(Some(Service {
            other_proxy: true,
            cluster_ips,
            ports: self.service_ports(&spec.ports, &kind),
            ..Service::new(name, kind)
        }))
    }
}
