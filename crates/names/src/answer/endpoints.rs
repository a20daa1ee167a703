//! The endpoints of a Service: all, one of them, or those in a zone.

use super::{Asked, Found, matches, type_of, weight};
use crate::label::{Wanted, label};
use crate::question::Of;
use crate::zone::Entry;
use model::{Endpoint, Slice};
use std::collections::HashSet;
use std::net::IpAddr;
use wire::{Name, Owner, Section, Type};

/// One endpoint with one of its ports; without a number where its slice has none.
struct Target<'e> {
    endpoint: &'e Endpoint,
    /// The cluster that it is in, where that is part of its name.
    cluster: Option<&'e str>,
    port: Option<u16>,
}

impl Asked<'_> {
    /// A headless Service, or endpoints of any.
    pub(super) fn endpoints(&mut self, of: &Of<'_>, entry: &Entry, owner: Owner) -> Found {
        let Some(zonal) = of.zone else {
            return super::exists(self.some_endpoints(of, entry, owner, &|_| true));
        };
        // The name of a zone exists whether or not anything runs there: nobody can tell a zone that has
        // been drained from one that never was.
        let here = |endpoint: &Endpoint| zonal.is(endpoint.place.zone.as_deref());
        if !self.some_endpoints(of, entry, owner, &here) && zonal.prefer {
            self.some_endpoints(of, entry, owner, &|_| true);
        }
        Found::Exists
    }

    /// Answers with the endpoints that are wanted, and says whether there are any.
    pub(super) fn some_endpoints(
        &mut self,
        of: &Of<'_>,
        entry: &Entry,
        owner: Owner,
        here: &dyn Fn(&Endpoint) -> bool,
    ) -> bool {
        if self.options.no_endpoints {
            return false;
        }
        if let Some(any) = self.all_addresses(of, entry, owner) {
            return any;
        }
        let pod_names = self.options.endpoint_pod_names;
        let multicluster = self.of.multicluster;
        let wanted = of.endpoint.map(Wanted::new);
        let targets = || {
            let slices = entry.slices.iter();
            let slices = slices.filter(|slice| !multicluster || is_there(of, slice));
            slices.flat_map(|slice| targets(of, slice, multicluster)).filter(|target| {
                here(target.endpoint)
                    && wanted.as_ref().is_none_or(|wanted| wanted.is(target.endpoint, pod_names))
            })
        };
        match self.rtype {
            Type::A | Type::AAAA => {
                let rtype = self.rtype;
                let addresses = targets().map(|target| target.endpoint.address);
                self.addresses(addresses.filter(|address| type_of(*address) == rtype), owner, entry.distinct);
            }
            Type::SRV => self.srv(weight(targets().count()), targets(), entry, owner),
            _ => {}
        }
        targets().next().is_some()
    }

    /// The addresses of all ready endpoints, where that is all that is asked for and none comes twice:
    /// nearly always. `None` elsewhere; otherwise whether there are any endpoints.
    fn all_addresses(&mut self, of: &Of<'_>, entry: &Entry, owner: Owner) -> Option<bool> {
        let all = of.endpoint.is_none() && of.zone.is_none() && of.port.is_empty() && of.protocol.is_empty();
        if !all || !entry.distinct || !matches!(self.rtype, Type::A | Type::AAAA) {
            return None;
        }
        let ttl = self.ttl_s;
        let mut any = false;
        for endpoint in entry.slices.iter().flat_map(|slice| slice.endpoints.iter()) {
            if endpoint.conditions.ready {
                any = true;
                if type_of(endpoint.address) == self.rtype {
                    self.reply.push_address(Section::Answer, owner, ttl, endpoint.address);
                }
            }
        }
        Some(any)
    }

    fn addresses(&mut self, addresses: impl Iterator<Item = IpAddr>, owner: Owner, distinct: bool) {
        let ttl = self.ttl_s;
        // Those of one endpoint with several ports follow each other.
        let mut last = None;
        let mut done = HashSet::new();
        for address in addresses {
            let again = if distinct { last == Some(address) } else { !done.insert(address) };
            last = Some(address);
            if !again {
                self.reply.push_address(Section::Answer, owner, ttl, address);
            }
        }
    }

    fn srv<'e>(
        &mut self,
        weight: u16,
        targets: impl Iterator<Item = Target<'e>>,
        entry: &Entry,
        owner: Owner,
    ) {
        let ttl = self.ttl_s;
        let mut records: HashSet<(Name, u16)> = HashSet::new();
        let mut addresses: HashSet<(Name, IpAddr)> = HashSet::new();
        let mut last: Option<(IpAddr, Option<&str>, Option<Name>)> = None;
        for Target { endpoint, cluster, port } in targets {
            let Some(port) = port else { continue };
            let (name, seen) = match &last {
                Some((address, of, name)) if *address == endpoint.address && *of == cluster => (*name, true),
                _ => {
                    let label = label(endpoint, self.options.endpoint_pod_names);
                    let labels = [label.as_bytes(), cluster.unwrap_or_default().as_bytes()];
                    let labels = labels.get(..1 + usize::from(cluster.is_some())).unwrap_or_default();
                    (self.name_of(labels, &entry.name), false)
                }
            };
            last = Some((endpoint.address, cluster, name));
            let Some(name) = name else { continue };
            let at = match entry.distinct || records.insert((name, port)) {
                true => self.reply.push_srv(owner, ttl, [0, weight, port], &name),
                false => self.reply.own(&name),
            };
            let again = if entry.distinct { seen } else { !addresses.insert((name, endpoint.address)) };
            if !again {
                self.reply.push_address(Section::Additional, at, ttl, endpoint.address);
            }
        }
    }
}

/// Whether the endpoint that is asked for can be in this slice, by its cluster.
fn is_there(of: &Of<'_>, slice: &Slice) -> bool {
    let cluster = slice.source_cluster().map_or(&[][..], |cluster| cluster.as_bytes());
    of.endpoint.is_none() || cluster.eq_ignore_ascii_case(of.cluster.unwrap_or_default())
}

/// The ready endpoints of a slice, each with each of the ports that are asked for.
fn targets<'e>(of: &'e Of<'_>, slice: &'e Slice, multicluster: bool) -> impl Iterator<Item = Target<'e>> {
    let cluster = slice.source_cluster().filter(|_| multicluster).map(|cluster| &**cluster);
    // A slice without ports has endpoints all the same, but no port to point at.
    let none = slice.ports.is_empty() && of.port.is_empty() && of.protocol.is_empty();
    slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready).flat_map(move |endpoint| {
        let ports = slice.ports.iter().filter(|port| matches(of, &port.name, port.protocol));
        let ports = ports.map(|port| Some(port.port)).chain(none.then_some(None));
        ports.map(move |port| Target { endpoint, cluster, port })
    })
}
