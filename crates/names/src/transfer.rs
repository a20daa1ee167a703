//! A zone as a whole, for those who serve it, too (AXFR).
//!
//! There is no second place that knows which records there are: the names of the zone are put together,
//! each is asked about as anybody would ask, and what is answered is handed over. Names of pods by their
//! addresses are left out, for there is one for every address.

use crate::answer::{ExternalOutcome, Outcome, answer, external};
use crate::label::label;
use crate::options::{External, Options, ZoneName};
use crate::zone::{Entry, Zone, external_ips};
use model::{ServiceKind, Slice};
use std::collections::BTreeSet;
use std::net::IpAddr;
use wire::{Class, Name, Question, Reply, Section, Type, reverse_name};

/// Hands over each name of a zone with answers about it, the SOA first. False where there is no such
/// zone, or not all of it is known yet.
pub fn transfer(
    zone: &Zone,
    imports: Option<&Zone>,
    options: &Options,
    origin: &Name,
    each: &mut dyn FnMut(&Name, &Reply),
) -> bool {
    let of = options.zones.iter().find(|of| of.name.is(origin));
    let Some(of) = of.filter(|_| zone.is_synced() && imports.is_none_or(Zone::is_synced)) else {
        return false;
    };
    let mut walk =
        Walk { zone, imports, options, external: None, of, each, reply: Reply::default(), told: 0 };
    walk.ask(&of.name, &[Type::SOA, Type::NS]);
    if of.reverse {
        let mut addresses: BTreeSet<IpAddr> =
            zone.entries().flat_map(Entry::ready).map(|e| e.address).collect();
        let services = zone.entries().filter_map(|entry| entry.service.as_ref());
        addresses.extend(services.flat_map(|service| service.cluster_ips.iter()));
        walk.addresses(addresses);
    } else {
        walk.services();
    }
    true
}

/// The same for a zone of names for the world outside the cluster. A name that several host names
/// belong to has its addresses only, as they are not looked up here.
pub fn transfer_external(
    zone: &Zone,
    options: &Options,
    external: &External,
    origin: &Name,
    each: &mut dyn FnMut(&Name, &Reply),
) -> bool {
    let of = external.zones.iter().find(|of| of.name.is(origin));
    let Some(of) = of.filter(|_| zone.is_synced()) else { return false };
    let mut walk = Walk {
        zone,
        imports: None,
        options,
        external: Some(external),
        of,
        each,
        reply: Reply::default(),
        told: 0,
    };
    walk.ask(&of.name, &[Type::SOA, Type::NS]);
    if of.reverse {
        walk.addresses(zone.entries().flat_map(external_ips).collect());
    } else {
        walk.external_services(external);
    }
    true
}

struct Walk<'z> {
    zone: &'z Zone,
    imports: Option<&'z Zone>,
    options: &'z Options,
    /// The view, where it is not the cluster's own.
    external: Option<&'z External>,
    of: &'z ZoneName,
    each: &'z mut dyn FnMut(&Name, &Reply),
    reply: Reply,
    /// How many answers have been handed over.
    told: usize,
}

impl Walk<'_> {
    fn ask(&mut self, name: &Name, types: &[Type]) {
        for &rtype in types {
            self.reply.clear();
            let question = Question { name: *name, rtype, class: Class::IN };
            let Walk { zone, imports, options, reply, .. } = self;
            let has_records = match self.external {
                None => matches!(
                    answer(zone, *imports, options, &question, reply),
                    Outcome::Records | Outcome::Elsewhere(_)
                ),
                Some(view) => matches!(
                    external(zone, options, view, &question, reply),
                    ExternalOutcome::Settled(Outcome::Records) | ExternalOutcome::Hosts(_)
                ),
            };
            if has_records && self.reply.section(Section::Answer).next().is_some() {
                self.told += 1;
                (self.each)(name, &self.reply);
            }
        }
    }

    /// Asks about a name below the zone, if there can be such a name.
    fn below(&mut self, labels: &[&[u8]], types: &[Type]) {
        let mut name = Name::ROOT;
        let fits = labels.iter().try_for_each(|label| name.push(label)).is_ok();
        if fits && name.append(&self.of.name).is_ok() {
            self.ask(&name, types);
        }
    }

    fn services(&mut self) {
        const ADDRESSES: &[Type] = &[Type::A, Type::AAAA];
        self.below(&[b"dns-version"], &[Type::TXT]);
        self.below(&[b"ns", b"dns"], ADDRESSES);
        let services = if self.of.multicluster { self.imports } else { Some(self.zone) };
        for entry in services.into_iter().flat_map(Zone::entries) {
            let Entry { name, service: Some(service), .. } = entry else { continue };
            let (service_label, namespace) = (name.name.as_bytes(), name.namespace.as_bytes());
            if let ServiceKind::ExternalName(_) = service.kind {
                self.below(&[service_label, namespace, b"svc"], &[Type::CNAME]);
                continue;
            }
            self.below(&[service_label, namespace, b"svc"], &[Type::A, Type::AAAA, Type::SRV]);
            for [port, protocol] in named_ports(entry) {
                self.below(&[&port, &protocol, service_label, namespace, b"svc"], &[Type::SRV]);
            }
            // Endpoints of Services with ClusterIPs have names, too, but nothing leads to them.
            if service.kind == ServiceKind::Headless {
                for [endpoint, cluster] in labels(entry, self.options) {
                    let mut labels = vec![&*endpoint, &*cluster, service_label, namespace, b"svc"];
                    // That of this cluster is not part of the name.
                    labels.retain(|label| !label.is_empty());
                    self.below(&labels, ADDRESSES);
                }
            }
        }
    }

    fn external_services(&mut self, external: &External) {
        let mut server = Name::ROOT;
        if server.push(b"ns1").is_ok() && server.append(&external.apex).is_ok() {
            let labels: Vec<&[u8]> = server.labels().collect();
            self.below(&labels, &[Type::A, Type::AAAA]);
        }
        let zone = self.zone;
        for entry in zone.entries().filter(|entry| entry.service.is_some()) {
            let (service, namespace) = (entry.name.name.as_bytes(), entry.name.namespace.as_bytes());
            // An alias is asked about as such, for all other questions lead behind it.
            let before = self.told;
            self.below(&[service, namespace], &[Type::CNAME]);
            let addresses: &[Type] = if self.told == before { &[Type::A, Type::AAAA] } else { &[] };
            self.below(&[service, namespace], addresses);
            self.below(&[service, namespace], &[Type::SRV]);
            for [port, protocol] in named_ports(entry) {
                self.below(&[&port, &protocol, service, namespace], &[Type::SRV]);
            }
            let headless = entry.service.as_ref().is_some_and(|service| {
                service.kind == ServiceKind::Headless && service.other_ingress.is_empty()
            });
            if external.headless && headless && external_ips(entry).next().is_none() {
                for [endpoint, _] in labels(entry, self.options) {
                    self.below(&[&endpoint, service, namespace], &[Type::A, Type::AAAA, Type::SRV]);
                }
            }
        }
    }

    fn addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(name) = reverse_name(address).ok().filter(|name| name.is_in(&self.of.name)) {
                self.ask(&name, &[Type::PTR]);
            }
        }
    }
}

/// The named ports of a Service and of its slices, with their protocols, as labels.
fn named_ports(entry: &Entry) -> BTreeSet<[Vec<u8>; 2]> {
    let slices = entry.slices.iter().flat_map(|slice| slice.ports.iter());
    let slices = slices.map(|port| (&port.name, port.protocol));
    let services = entry.service.iter().flat_map(|service| service.ports.iter());
    let all = services.map(|port| (&port.name, port.protocol)).chain(slices);
    let label = |word: &str| format!("_{word}").into_bytes();
    let named = all.filter(|(port, _)| !port.is_empty());
    named.map(|(port, protocol)| [label(port), label(protocol.name())]).collect()
}

/// What its endpoints are called, and the cluster that they are in, where that is said.
fn labels(entry: &Entry, options: &Options) -> BTreeSet<[Vec<u8>; 2]> {
    let pod_names = options.endpoint_pod_names;
    let of_slice = |slice: &Slice| -> Vec<[Vec<u8>; 2]> {
        let cluster = slice.source_cluster().map(|cluster| cluster.as_bytes().to_vec()).unwrap_or_default();
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
        ready.map(|endpoint| [label(endpoint, pod_names).as_bytes().to_vec(), cluster.clone()]).collect()
    };
    entry.slices.iter().flat_map(|slice| of_slice(slice)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Names;
    use model::Cluster;

    #[test]
    fn nothing_before_all_is_known_and_no_zone_of_others() {
        let zone: Name = "cluster.local".parse().unwrap();
        let options = Options::new(vec![ZoneName::new(&zone, false)]).unwrap();
        let mut names = Names::new();
        let mut none = |_: &Name, _: &Reply| panic!("nothing is known");
        assert!(!transfer(&names.zone(), None, &options, &zone, &mut none));
        names.update(&Cluster::new(), &model::Touched::default(), 1);
        names.set_synced();
        let mut seen = Vec::new();
        let mut each = |name: &Name, _: &Reply| seen.push(name.to_string());
        assert!(transfer(&names.zone(), None, &options, &zone, &mut each));
        assert!(!transfer(&names.zone(), None, &options, &"org".parse().unwrap(), &mut |_, _| ()));
        assert_eq!(seen, ["cluster.local.", "dns-version.cluster.local."]);
    }
}
