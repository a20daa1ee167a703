//! A zone as a whole, for those who serve it, too (AXFR).
//!
//! There is no second place that knows which records there are: the names of the zone are put together,
//! each is asked about as anybody would ask, and what is answered is handed over. Names of pods by their
//! addresses are left out, for there is one for every address.

use crate::answer::{Outcome, answer};
use crate::label::label;
use crate::options::{Options, ZoneName};
use crate::zone::{Entry, Zone};
use model::ServiceKind;
use std::collections::BTreeSet;
use std::net::IpAddr;
use wire::{Class, Name, Question, Reply, Section, Type, reverse_name};

/// Hands over each name of a zone with answers about it, the SOA first. False where there is no such
/// zone, or not all of it is known yet.
pub fn transfer(zone: &Zone, options: &Options, origin: &Name, each: &mut dyn FnMut(&Name, &Reply)) -> bool {
    let of = options.zones.iter().find(|of| of.name.is(origin));
    let Some(of) = of.filter(|_| zone.is_synced()) else { return false };
    let mut walk = Walk { zone, options, of, each, reply: Reply::default() };
    walk.ask(&of.name, &[Type::SOA, Type::NS]);
    if of.reverse {
        walk.addresses();
    } else {
        walk.services();
    }
    true
}

struct Walk<'z> {
    zone: &'z Zone,
    options: &'z Options,
    of: &'z ZoneName,
    each: &'z mut dyn FnMut(&Name, &Reply),
    reply: Reply,
}

impl Walk<'_> {
    fn ask(&mut self, name: &Name, types: &[Type]) {
        for &rtype in types {
            self.reply.clear();
            let question = Question { name: *name, rtype, class: Class::IN };
            let outcome = answer(self.zone, self.options, &question, &mut self.reply);
            if matches!(outcome, Outcome::Records | Outcome::Elsewhere(_))
                && self.reply.section(Section::Answer).next().is_some()
            {
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
        let zone = self.zone;
        for entry in zone.entries() {
            let Entry { name, service: Some(service), .. } = entry else { continue };
            let (service_label, namespace) = (name.name.as_bytes(), name.namespace.as_bytes());
            if let ServiceKind::ExternalName(_) = service.kind {
                self.below(&[service_label, namespace, b"svc"], &[Type::CNAME]);
                continue;
            }
            self.below(&[service_label, namespace, b"svc"], &[Type::A, Type::AAAA, Type::SRV]);
            let slices = entry.slices.iter().flat_map(|slice| slice.ports.iter());
            let of_service = service.ports.iter().map(|port| (port.name.as_bytes(), port.protocol.name()));
            let mut ports: BTreeSet<(&[u8], &str)> = of_service.collect();
            ports.extend(slices.map(|port| (port.name.as_bytes(), port.protocol.name())));
            for (port, protocol) in ports.into_iter().filter(|(port, _)| !port.is_empty()) {
                let underscored = |word: &[u8]| [b"_", word].concat();
                let (port, protocol) =
                    (underscored(port), underscored(protocol.to_ascii_lowercase().as_bytes()));
                self.below(&[&port, &protocol, service_label, namespace, b"svc"], &[Type::SRV]);
            }
            // Endpoints of Services with ClusterIPs have names, too, but nothing leads to them.
            if service.kind == ServiceKind::Headless {
                let pod_names = self.options.endpoint_pod_names;
                let labels: BTreeSet<Vec<u8>> =
                    entry.ready().map(|endpoint| label(endpoint, pod_names).as_bytes().to_vec()).collect();
                for endpoint in labels {
                    self.below(&[&endpoint, service_label, namespace, b"svc"], ADDRESSES);
                }
            }
        }
    }

    fn addresses(&mut self) {
        let zone = self.zone;
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for entry in zone.entries() {
            addresses.extend(entry.service.iter().flat_map(|service| service.cluster_ips.iter()));
            addresses.extend(entry.ready().map(|endpoint| endpoint.address));
        }
        for address in addresses {
            if let Some(name) = reverse_name(address).ok().filter(|name| name.is_in(&self.of.name)) {
                self.ask(&name, &[Type::PTR]);
            }
        }
    }
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
        assert!(!transfer(&names.zone(), &options, &zone, &mut none));
        names.update(&Cluster::new(), &model::Touched::default(), 1);
        names.set_synced();
        let mut seen = Vec::new();
        let mut each = |name: &Name, _: &Reply| seen.push(name.to_string());
        assert!(transfer(&names.zone(), &options, &zone, &mut each));
        assert!(!transfer(&names.zone(), &options, &"org".parse().unwrap(), &mut |_, _| ()));
        assert_eq!(seen, ["cluster.local.", "dns-version.cluster.local."]);
    }
}
