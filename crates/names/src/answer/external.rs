//! Names for the world outside the cluster (`k8s_external`): a second view of the same Services.
//!
//! ```text
//!                       ZONE    the apex: SOA, NS
//!                  APEX.ZONE    nothing, but it exists
//!              ns1.APEX.ZONE    this server
//!                    NS.ZONE    nothing, if the namespace exists
//!            SERVICE.NS.ZONE    where the world reaches a Service: external IPs, ingress points
//!          X.SERVICE.NS.ZONE    the same; of a headless Service without such, its endpoint X
//! _PORT._PROTO.SERVICE.NS.ZONE  one of its ports
//! ```
//!
//! A host name leads elsewhere: who asked for the answer has to look it up, and is told how
//! ([`Hosts`]).

use super::{Apex, Asked, Found, Outcome, exists, matches, type_of, weight};
use crate::options::{External, Options};
use crate::question::{Before, Of, bare};
use crate::zone::{Entry, Zone, external_ips};
use model::{Ingress, ServiceKind};
use std::net::IpAddr;
use wire::{Name, Owner, Question, Reply, Section, Type, address_of_reverse};

/// The label of this server before the apex's.
const NS: &[u8] = b"ns1";
const NS_LABEL: &[u8] = b"\x03ns1";
const HOSTMASTER: &[u8] = b"\x0ahostmaster";
/// The longest name.
const NAME_BYTES_MAX: usize = 255;
/// Refresh, retry and expire, in seconds.
const TIMES_S: [u32; 3] = [7200, 1800, 86_400];

/// Host names whose records belong into an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Them.
    pub names: Vec<Name>,
    /// How they belong there.
    pub join: Join,
}

/// How the records of host names belong into an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The reply has an alias: what is behind it follows as it is.
    Behind,
    /// A name that has several places cannot be an alias: their addresses are its own, for at most
    /// so many seconds. Without any it has none ([`external_soa`]).
    AsOwn(u32),
    /// The reply has SRV records that lead there: both kinds of addresses are additional.
    Additional,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalOutcome {
    /// The same as of any question. `Elsewhere` never occurs.
    Settled(Outcome),
    /// The reply has what we know, and these belong to it.
    Hosts(Hosts),
}

/// What the shape of the zone knows of a name.
enum Seen {
    /// Whether it exists.
    Known(Found),
    /// It does not, and nobody else is asked: it is below the apex.
    Never,
    /// It exists, and these belong to it.
    Hosts(Hosts),
}

/// Answers a question over the names that the world outside the cluster has for it.
pub fn external(
    zone: &Zone,
    options: &Options,
    external: &External,
    question: &Question,
    reply: &mut Reply,
) -> ExternalOutcome {
    let lower = question.name.lowercase();
    let Some(of) = external.zone_of(&lower) else { return ExternalOutcome::Settled(Outcome::NotOurs) };
    if matches!(question.rtype, Type::AXFR | Type::IXFR) {
        return ExternalOutcome::Settled(Outcome::Refused);
    }
    let apex = Apex(of.name.as_bytes());
    let (ttl_s, rtype) = (external.ttl_s, question.rtype);
    let asked =
        Asked { zone, services: Some(zone), options, of, rtype, reply, apex, ttl_s, below_svc: false };
    let mut view = View { asked, external };
    let (found, ours) = match view.find(&lower) {
        Seen::Known(found) => (found, false),
        Seen::Never => (Found::Absent, true),
        Seen::Hosts(hosts) => {
            view.asked.reply.authoritative = true;
            return ExternalOutcome::Hosts(hosts);
        }
    };
    let passes = || external.fallthrough.iter().any(|below| lower.is_in(below));
    if found == Found::Absent && !ours && passes() {
        return ExternalOutcome::Settled(Outcome::Pass);
    }
    view.asked.reply.authoritative = true;
    if view.asked.reply.section(Section::Answer).next().is_some() {
        return ExternalOutcome::Settled(Outcome::Records);
    }
    view.soa(Section::Authority);
    ExternalOutcome::Settled(match found {
        Found::Exists => Outcome::NoData,
        Found::Absent if !ours && !zone.is_synced() => Outcome::NotSynced,
        Found::Absent => Outcome::NoSuchName,
    })
}

/// Adds the SOA to a reply that has turned out to have no records.
pub fn external_soa(zone: &Zone, external: &External, question: &Question, reply: &mut Reply) {
    if let Some(of) = external.zone_of(&question.name.lowercase()) {
        push_soa(zone, external, of.name.as_bytes(), Section::Authority, reply);
    }
}

/// Where the world reaches a Service.
struct Places {
    addresses: Vec<IpAddr>,
    hosts: Vec<Name>,
}

impl Places {
    fn of(entry: &Entry) -> Places {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in external_ips(entry) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let mut hosts: Vec<Name> = Vec::new();
        for ingress in entry.service.iter().flat_map(|service| service.other_ingress.iter()) {
            let Ingress::Host(host) = ingress else { continue };
            if let Some(host) = host.parse().ok().filter(|host: &Name| !host.is_root())
                && !hosts.contains(&host)
            {
                hosts.push(host);
            }
        }
        Places { addresses, hosts }
    }

    fn count(&self) -> usize {
        self.addresses.len() + self.hosts.len()
    }
}

struct View<'q> {
    asked: Asked<'q>,
    external: &'q External,
}

impl View<'_> {
    /// Looks for a name, in lower case, and puts its records of the type into the reply.
    fn find(&mut self, name: &Name) -> Seen {
        let zone_bytes = self.asked.apex.0.len();
        if name.as_bytes().len() == zone_bytes {
            match self.asked.rtype {
                Type::SOA => self.soa(Section::Answer),
                Type::NS => self.ns(),
                _ => {}
            }
            return Seen::Known(Found::Exists);
        }
        if let Some(address) = address_of_reverse(name) {
            return Seen::Known(self.reverse(address));
        }
        let Some(before) = Before::new(name, zone_bytes) else { return Seen::Known(Found::Absent) };
        if let Some(below) = self.below_apex(before.labels()) {
            return match below {
                [] => Seen::Known(Found::Exists),
                [NS] => {
                    self.own_addresses();
                    Seen::Known(Found::Exists)
                }
                _ => Seen::Never,
            };
        }
        let of = match *before.labels() {
            [namespace] => return Seen::Known(exists(self.asked.exposed(namespace))),
            [service, namespace] => Of { service, namespace, ..Of::default() },
            [endpoint, service, namespace] => {
                Of { service, namespace, endpoint: Some(bare(endpoint)), ..Of::default() }
            }
            [port, protocol, service, namespace] => {
                Of { service, namespace, port: bare(port), protocol: bare(protocol), ..Of::default() }
            }
            _ => return Seen::Known(Found::Absent),
        };
        self.service(&of)
    }

    /// What stands before the apex's labels, if a name is there or below.
    fn below_apex<'l, 'q>(&self, labels: &'l [&'q [u8]]) -> Option<&'l [&'q [u8]]> {
        let apex = &self.external.apex;
        let (before, last) = labels.split_at_checked(labels.len().checked_sub(apex.label_count())?)?;
        last.iter().copied().eq(apex.labels()).then_some(before)
    }

    fn service(&mut self, of: &Of<'_>) -> Seen {
        let absent = Seen::Known(Found::Absent);
        if !self.asked.exposed(of.namespace) {
            return absent;
        }
        let Some(entry) = self.asked.zone.entry(of.namespace, of.service) else { return absent };
        let Some(service) = entry.service.as_deref().filter(|service| self.asked.selected(service)) else {
            return absent;
        };
        let places = Places::of(entry);
        if places.count() == 0 {
            let endpoints = service.kind == ServiceKind::Headless || of.endpoint.is_some();
            if !self.external.headless || !endpoints {
                return absent;
            }
            return Seen::Known(exists(self.asked.some_endpoints(of, entry, Owner::QUESTION, &|_| true)));
        }
        let any_port = of.port.is_empty() && of.protocol.is_empty();
        let mut ports: Vec<u16> = Vec::new();
        let matching = service.ports.iter().filter(|port| matches(of, &port.name, port.protocol));
        let mut count = 0;
        for port in matching {
            count += 1;
            if !ports.contains(&port.port) {
                ports.push(port.port);
            }
        }
        if count == 0 && !any_port {
            return absent;
        }
        match self.asked.rtype {
            Type::A | Type::AAAA | Type::CNAME => self.places(places),
            Type::SRV => self.srv(entry, places, &ports, count),
            _ => Seen::Known(Found::Exists),
        }
    }

    /// The addresses of a Service, or the name that it is an alias of.
    fn places(&mut self, places: Places) -> Seen {
        let Asked { reply, rtype, ttl_s, .. } = &mut self.asked;
        if let ([], [host]) = (&*places.addresses, &*places.hosts) {
            reply.push_name(Section::Answer, Owner::QUESTION, Type::CNAME, *ttl_s, host);
            return match *rtype {
                Type::CNAME => Seen::Known(Found::Exists),
                _ => Seen::Hosts(Hosts { names: places.hosts, join: Join::Behind }),
            };
        }
        for address in places.addresses.into_iter().filter(|address| type_of(*address) == *rtype) {
            reply.push_address(Section::Answer, Owner::QUESTION, *ttl_s, address);
        }
        if places.hosts.is_empty() || *rtype == Type::CNAME {
            return Seen::Known(Found::Exists);
        }
        Seen::Hosts(Hosts { names: places.hosts, join: Join::AsOwn(*ttl_s) })
    }

    fn srv(&mut self, entry: &Entry, places: Places, ports: &[u16], count: usize) -> Seen {
        let weight = weight(count * places.count());
        let target = self.asked.name_of(&[], &entry.name);
        let Asked { reply, ttl_s, .. } = &mut self.asked;
        let mut at = None;
        if let Some(target) = target.filter(|_| !places.addresses.is_empty()) {
            for &port in ports {
                at = Some(reply.push_srv(Owner::QUESTION, *ttl_s, [0, weight, port], &target));
            }
        }
        for host in &places.hosts {
            for &port in ports {
                reply.push_srv(Owner::QUESTION, *ttl_s, [0, weight, port], host);
            }
        }
        for address in places.addresses {
            if let Some(at) = at {
                reply.push_address(Section::Additional, at, *ttl_s, address);
            }
        }
        match places.hosts.is_empty() || ports.is_empty() {
            true => Seen::Known(Found::Exists),
            false => Seen::Hosts(Hosts { names: places.hosts, join: Join::Additional }),
        }
    }

    /// The Services that the world reaches by an address.
    fn reverse(&mut self, address: IpAddr) -> Found {
        let mut names: Vec<Name> = Vec::new();
        let primary = Apex(self.external.primary.as_bytes());
        for entry in self.asked.zone.with_external_ip(address) {
            let seen = entry.service.as_ref().is_some_and(|service| self.asked.selected(service));
            if seen && self.asked.may_show(entry.name.namespace.as_bytes()) {
                let labels = [entry.name.name.as_bytes(), entry.name.namespace.as_bytes()];
                names.extend(primary.below(&labels));
            }
        }
        if self.asked.rtype == Type::PTR {
            for name in &names {
                let Asked { reply, ttl_s, .. } = &mut self.asked;
                reply.push_name(Section::Answer, Owner::QUESTION, Type::PTR, *ttl_s, name);
            }
        }
        exists(!names.is_empty())
    }

    fn soa(&mut self, section: Section) {
        push_soa(self.asked.zone, self.external, self.asked.apex.0, section, self.asked.reply);
    }

    fn ns(&mut self) {
        let addresses = self.servers();
        let mut name = Name::ROOT;
        let parts = [NS_LABEL, labels_of(&self.external.apex), self.asked.apex.0].concat();
        if name.append_bytes(&parts).is_err() {
            return;
        }
        let Asked { reply, ttl_s, .. } = &mut self.asked;
        reply.push_name(Section::Answer, Owner::QUESTION, Type::NS, *ttl_s, &name);
        let at = reply.own(&name);
        for address in addresses {
            reply.push_address(Section::Additional, at, *ttl_s, address);
        }
    }

    fn own_addresses(&mut self) {
        let addresses = self.servers();
        let Asked { reply, ttl_s, rtype, .. } = &mut self.asked;
        for address in addresses.into_iter().filter(|address| type_of(*address) == *rtype) {
            reply.push_address(Section::Answer, Owner::QUESTION, *ttl_s, address);
        }
    }

    /// The addresses by which the world reaches this server: those of the Services that it is an
    /// endpoint of, or its own where it is none's.
    fn servers(&self) -> Vec<IpAddr> {
        let Asked { zone, options, .. } = &self.asked;
        let mut servers: Vec<IpAddr> = Vec::new();
        let mut found = false;
        let local = if options.no_endpoints { &[][..] } else { &options.local };
        for entry in local.iter().flat_map(|local| zone.with_endpoint(*local)) {
            found = true;
            let headless =
                entry.service.as_ref().is_some_and(|service| service.kind == ServiceKind::Headless);
            if self.external.headless && headless {
                servers.extend(entry.ready().map(|endpoint| endpoint.address));
            } else {
                servers.extend(external_ips(entry));
            }
        }
        if !found {
            servers.extend(&options.local);
        }
        let mut done: Vec<IpAddr> = Vec::new();
        servers.retain(|address| {
            let first = !done.contains(address);
            done.push(*address);
            first
        });
        servers
    }
}

/// A name as bytes, without its end.
fn labels_of(name: &Name) -> &[u8] {
    name.as_bytes().split_last().map_or(&[], |(_, labels)| labels)
}

fn push_soa(zone: &Zone, external: &External, apex: &[u8], section: Section, reply: &mut Reply) {
    let labels = labels_of(&external.apex);
    if HOSTMASTER.len() + labels.len() + apex.len() > NAME_BYTES_MAX {
        return;
    }
    let owner = match section {
        Section::Answer => Owner::QUESTION,
        _ => reply.own_bytes(apex),
    };
    let serial = zone.serial().to_be_bytes();
    let [refresh, retry, expire] = TIMES_S.map(u32::to_be_bytes);
    let minimum = external.ttl_s.to_be_bytes();
    let name = [NS_LABEL, labels, apex, HOSTMASTER, labels, apex];
    let parts = [&name[..], &[&serial, &refresh, &retry, &expire, &minimum]].concat();
    reply.push_parts(section, owner, Type::SOA, external.ttl_s, &parts);
}
