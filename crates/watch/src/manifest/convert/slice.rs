//! EndpointSlices.

use super::{Context, Converted, SUBDOMAIN_MAX, said, special};
use crate::Keep;
use crate::manifest::time;
use crate::manifest::wire::{self, TRIGGER_ANNOTATION};
use model::{Conditions, Endpoint, Family, Hints, Identity, Name, Place, SOURCE_CLUSTER, Slice, SlicePort};
use std::sync::Arc;

/// The label that says whose endpoints these are.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The same for the endpoints of a ServiceImport. One slice may have both.
const IMPORT_NAME_LABEL: &str = "multicluster.kubernetes.io/service-name";

impl Context<'_> {
    /// Reads an EndpointSlice. Slices of host names and slices of no Service are not for us.
    pub(crate) fn slice(&mut self, wire: &wire::Slice<'_>) -> Converted<Slice> {
        let wire::Slice { metadata, address_type, ports, endpoints } = wire;
        let name = self.object_name(metadata, SUBDOMAIN_MAX)?;
        let label = |key| metadata.labels.get(key).filter(|name| !name.is_empty());
        let ours = if self.keep.imports { IMPORT_NAME_LABEL } else { SERVICE_NAME_LABEL };
        let Some(service) = label(ours) else {
            if !self.keep.imports && label(IMPORT_NAME_LABEL).is_none() {
                self.notice(format!("no label {SERVICE_NAME_LABEL}: the endpoints of no Service; ignored"));
            }
            return Ok(None);
        };
        let annotations = match self.keep.imports {
            true => label(SOURCE_CLUSTER)
                .map(|cluster| (self.names.word(SOURCE_CLUSTER), self.names.word(cluster)))
                .into_iter()
                .collect(),
            false => self.our_annotations(&metadata.annotations),
        };
        let family = match said(address_type) {
            Some("IPv4") => Family::V4,
            Some("IPv6") => Family::V6,
            Some("FQDN") => {
                self.notice("addressType: FQDN: nothing can be sent to it; ignored");
                return Ok(None);
            }
            Some(other) => return Err(format!("addressType: {other:?} is not IPv4, IPv6 or FQDN")),
            None => return Err("addressType: missing".into()),
        };
        *self.trigger = metadata.annotations.get(TRIGGER_ANNOTATION).and_then(time::moment);
        Ok(Some(Slice {
            name,
            service: service.into(),
            family,
            ports: self.slice_ports(ports),
            endpoints: self.endpoints(endpoints, family),
            annotations,
        }))
    }

    /// A port without a number stands for all ports, which no proxy serves. One without a name has
    /// the empty name: the API server would have filled that in.
    fn slice_ports(&mut self, wire: &[wire::SlicePort<'_>]) -> Box<[SlicePort]> {
        let mut ports: Vec<SlicePort> = Vec::with_capacity(wire.len());
        for (i, port) in wire.iter().enumerate() {
            let Some(number) = port.port else { continue };
            let Some(name) = self.port_name(format_args!("ports[{i}].name"), port.name.as_deref()) else {
                continue;
            };
            let Some(protocol) = self.protocol(format_args!("ports[{i}].protocol"), port.protocol.as_deref())
            else {
                continue;
            };
            let Some(number) = self.port(format_args!("ports[{i}].port"), number) else { continue };
            ports.push(SlicePort { name, protocol, port: number });
        }
        ports.into()
    }

    fn endpoints(&mut self, wire: &[wire::Endpoint<'_>], family: Family) -> Box<[Endpoint]> {
        let mut endpoints = Vec::with_capacity(wire.len());
        for (i, endpoint) in wire.iter().enumerate() {
            endpoints.extend(self.endpoint(i, endpoint, family));
        }
        endpoints.into_boxed_slice()
    }

    fn endpoint(&mut self, i: usize, wire: &wire::Endpoint<'_>, family: Family) -> Option<Endpoint> {
        // The addresses of an endpoint are alternatives of which proxies use the first.
        let Some(text) = wire.addresses.first() else {
            self.complain(format_args!("endpoints[{i}].addresses"), "empty; left out");
            return None;
        };
        let field = format_args!("endpoints[{i}].addresses[0]");
        let address = self.ip(field, text)?;
        if Family::of(address) != family {
            self.complain(
                format_args!("endpoints[{i}].addresses[0]"),
                format_args!("{address} is not of the slice's addressType {family}; left out"),
            );
            return None;
        }
        if let Some(what) = special(address) {
            self.complain(
                format_args!("endpoints[{i}].addresses[0]"),
                format_args!("{address} {what}; left out"),
            );
            return None;
        }
        let wire::Conditions { ready, serving, terminating } = wire.conditions;
        Some(Endpoint {
            address,
            conditions: Conditions {
                ready: ready.unwrap_or(true),
                serving: serving.unwrap_or(true),
                terminating: terminating.unwrap_or(false),
            },
            place: self.place(wire),
            identity: identity(wire, self.keep),
        })
    }

    fn place(&mut self, wire: &wire::Endpoint<'_>) -> Arc<Place> {
        let wire::Hints { for_zones, for_nodes } = &wire.hints;
        let mut words = |named: &[wire::Named<'_>]| -> Vec<Name> {
            named.iter().filter_map(|n| said(&n.name)).map(|word| self.names.word(word)).collect()
        };
        let hints = Hints { zones: words(for_zones), nodes: words(for_nodes) };
        self.names.place(said(&wire.node_name), said(&wire.zone), hints)
    }
}

fn identity(wire: &wire::Endpoint<'_>, keep: Keep) -> Option<Box<Identity>> {
    let is_pod = keep.pod_names && wire.target_ref.kind.as_deref() == Some("Pod");
    let identity = Identity {
        hostname: said(&wire.hostname).filter(|_| keep.names).map(Name::from),
        pod: said(&wire.target_ref.name).filter(|_| is_pod).map(Name::from),
    };
    (identity != Identity::default()).then(|| Box::new(identity))
}
