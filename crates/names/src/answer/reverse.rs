//! Names of addresses.

use super::{Asked, Found};
use crate::label::label;
use wire::{Name, Owner, Section, Type, address_of_reverse};

impl Asked<'_> {
    /// A name below `in-addr.arpa` or `ip6.arpa`: a Service by its ClusterIP, or all Services that
    /// select the pod of this address.
    pub(super) fn reverse(&mut self, name: &Name) -> Found {
        let Some(address) = address_of_reverse(name) else { return Found::Absent };
        let zone = self.zone;
        let primary = super::Apex(self.options.primary.as_bytes());
        let mut names: Vec<Name> = Vec::new();
        let service = zone.with_cluster_ip(address).find(|entry| {
            entry.service.as_ref().is_some_and(|service| self.selected(service))
                && self.may_show(entry.name.namespace.as_bytes())
        });
        if let Some(entry) = service {
            let labels = [entry.name.name.as_bytes(), entry.name.namespace.as_bytes(), b"svc"];
            names.extend(primary.below(&labels));
        } else if !self.options.no_endpoints {
            for entry in zone.with_endpoint(address) {
                let hidden = entry.service.as_ref().is_some_and(|service| !self.selected(service));
                if hidden || !self.may_show(entry.name.namespace.as_bytes()) {
                    continue;
                }
                for endpoint in entry.ready().filter(|endpoint| endpoint.address == address) {
                    let label = label(endpoint, self.options.endpoint_pod_names);
                    let (name, namespace) = (entry.name.name.as_bytes(), entry.name.namespace.as_bytes());
                    let name = primary.below(&[label.as_bytes(), name, namespace, b"svc"]);
                    names.extend(name.filter(|name| !names.contains(name)));
                }
            }
        }
        if self.rtype == Type::PTR {
            for name in &names {
                self.reply.push_name(Section::Answer, Owner::QUESTION, Type::PTR, self.ttl_s, name);
            }
        }
        super::exists(!names.is_empty())
    }

    /// As in CoreDNS, only `namespaces` hides what an address is called.
    pub(super) fn may_show(&self, namespace: &[u8]) -> bool {
        self.options.namespaces.is_empty() || self.exposed(namespace)
    }
}
