//! The answer to a question.
//!
//! Where CoreDNS' answers are at odds with its own documentation or with DNS, ours are right, and
//! `docs/dns.md` says where.

mod chain;
mod endpoints;
mod external;
mod reverse;
mod server;

pub use external::{ExternalOutcome, Hosts, Join, external, external_soa};

use crate::label;
use crate::options::{Options, PodMode, ZoneName};
use crate::question::{Asks, Before, Of};
use crate::zone::{Entry, Zone};
use model::{ObjectName, Service, ServiceKind};
use std::net::IpAddr;
use wire::{Name, Owner, Question, Reply, Section, Type};

/// For how long the version of the specification may be kept.
const VERSION_TTL_S: u32 = 28_800;
/// `1.1.0` as a string of a TXT record.
const VERSION: &[u8] = b"\x051.1.0";
/// The longest time for which an SOA may be kept.
const SOA_TTL_MAX_S: u32 = 300;

/// What became of a question. All but `NotOurs`, `Pass` and `Refused` say so with authority, and with
/// the SOA where there are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply has the records.
    Records,
    /// The name exists, but has no records of this type.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// It may exist; not all of the cluster is known yet.
    NotSynced,
    /// The name is in none of the zones.
    NotOurs,
    /// The name does not exist, and such names are somebody else's (`fallthrough`).
    Pass,
    /// Transfers are not made this way.
    Refused,
    /// The reply leads to a name outside of the zone, whose records belong into the answer, too.
    Elsewhere(Box<Name>),
}

/// What the shape of the zone knows of a name, whatever the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It exists. Records of the type, if there are any, are in the reply.
    Exists,
    /// It does not.
    Absent,
}

/// Answers a question over the names of a cluster.
/// `imports` are the names of ServiceImports, as a cluster of their own: those that zones with `multicluster` tell.
pub fn answer(
    zone: &Zone,
    imports: Option<&Zone>,
    options: &Options,
    question: &Question,
    reply: &mut Reply,
) -> Outcome {
    let lower = question.name.lowercase();
    let Some(of) = options.zone_of(&lower) else { return Outcome::NotOurs };
    if matches!(question.rtype, Type::AXFR | Type::IXFR) {
        return Outcome::Refused;
    }
    let zone_bytes = of.name.as_bytes().len();
    let services = if of.multicluster { imports } else { Some(zone) };
    let mut asked = Asked {
        zone,
        services,
        options,
        of,
        rtype: question.rtype,
        reply,
        apex: Apex::of(&question.name, zone_bytes),
        ttl_s: options.ttl_s,
        below_svc: true,
    };
    let found = match asked.find(&lower) {
        Ok(found) => found,
        Err(target) => {
            asked.reply.authoritative = true;
            return Outcome::Elsewhere(target);
        }
    };
    let has_answer = asked.reply.section(Section::Answer).next().is_some();
    if found == Found::Absent && options.fallthrough.iter().any(|below| lower.is_in(below)) {
        return Outcome::Pass;
    }
    asked.reply.authoritative = true;
    if has_answer {
        return Outcome::Records;
    }
    asked.soa(Section::Authority);
    match found {
        Found::Exists => Outcome::NoData,
        Found::Absent if !(zone.is_synced() && services.is_some_and(Zone::is_synced)) => Outcome::NotSynced,
        Found::Absent => Outcome::NoSuchName,
    }
}

/// The zone's name as the question spells it, as bytes.
#[derive(Clone, Copy)]
struct Apex<'q>(&'q [u8]);

impl<'q> Apex<'q> {
    fn of(name: &'q Name, zone_bytes: usize) -> Apex<'q> {
        let bytes = name.as_bytes();
        Apex(bytes.get(bytes.len().saturating_sub(zone_bytes)..).unwrap_or(&[0]))
    }

    /// A name below it, if it is no longer than a name can be.
    fn below(&self, labels: &[&[u8]]) -> Option<Name> {
        let mut name = Name::ROOT;
        labels.iter().try_for_each(|label| name.push(label)).ok()?;
        name.append_bytes(self.0).ok()?;
        Some(name)
    }
}

/// A question on its way.
struct Asked<'q> {
    zone: &'q Zone,
    /// Where Services are looked up: in the same, or among ServiceImports.
    services: Option<&'q Zone>,
    options: &'q Options,
    of: &'q ZoneName,
    rtype: Type,
    reply: &'q mut Reply,
    apex: Apex<'q>,
    ttl_s: u32,
    /// Services are below `svc`, as the specification has it.
    below_svc: bool,
}

impl Asked<'_> {
    /// Looks for a name, in lower case, and puts its records of the type into the reply. `Err` leads
    /// out of the zone.
    fn find(&mut self, name: &Name) -> Result<Found, Box<Name>> {
        let zone_bytes = self.of.name.as_bytes().len();
        if name.as_bytes().len() == zone_bytes {
            match self.rtype {
                Type::SOA => self.soa(Section::Answer),
                Type::NS => self.ns(),
                _ => {}
            }
            return Ok(Found::Exists);
        }
        if self.of.reverse {
            return Ok(self.reverse(name));
        }
        let Some(before) = Before::new(name, zone_bytes) else { return Ok(Found::Absent) };
        match before.asks(self.of.multicluster, self.options.zonal) {
            Asks::Apex | Asks::Empty => Ok(Found::Exists),
            Asks::Namespace(namespace) => Ok(exists(self.exposed(namespace))),
            Asks::Version => {
                if self.rtype == Type::TXT {
                    self.reply.push(Section::Answer, Owner::QUESTION, Type::TXT, VERSION_TTL_S, VERSION);
                }
                Ok(Found::Exists)
            }
            Asks::Server => {
                self.server_addresses();
                Ok(Found::Exists)
            }
            Asks::Pod { label, namespace } => Ok(self.pod(label, namespace)),
            Asks::Service(of) => self.service(&of, Owner::QUESTION),
            Asks::Nothing => Ok(Found::Absent),
        }
    }

    /// Whether a namespace exists and is to be seen.
    fn exposed(&self, namespace: &[u8]) -> bool {
        let Options { namespaces, namespace_labels, .. } = self.options;
        if !namespaces.is_empty()
            && !std::str::from_utf8(namespace).is_ok_and(|name| namespaces.contains(name))
        {
            return false;
        }
        match (self.zone.namespace(namespace), namespace_labels) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(object), Some(selector)) => match object {
                Some(object) => selector.matches(|key| object.labels.get(key).map(|label| &**label)),
                None => selector.matches(|_| None),
            },
        }
    }

    /// Whether a Service is to be seen.
    fn selected(&self, service: &Service) -> bool {
        let label = |key: &str| service.labels.get(key).map(|label| &**label);
        self.options.labels.as_ref().is_none_or(|selector| selector.matches(label))
    }

    /// What a Service is called, or, with its labels, one of its endpoints. None is longer than a name can be, but for
    /// those of Services with the longest names in zones with long ones, which have no name then.
    fn name_of(&self, endpoint: &[&[u8]], service: &ObjectName) -> Option<Name> {
        let mut name = Name::ROOT;
        endpoint.iter().try_for_each(|label| name.push(label)).ok()?;
        name.push(service.name.as_bytes()).ok()?;
        name.push(service.namespace.as_bytes()).ok()?;
        if self.below_svc {
            name.push(b"svc").ok()?;
        }
        name.append_bytes(self.apex.0).ok()?;
        Some(name)
    }

    /// The names of one Service.
    fn service(&mut self, of: &Of<'_>, owner: Owner) -> Result<Found, Box<Name>> {
        let Some(entry) = self.services.and_then(|zone| zone.entry(of.namespace, of.service)) else {
            return Ok(Found::Absent);
        };
        let Some(service) = entry.service.as_deref() else { return Ok(Found::Absent) };
        let filtered = !self.options.namespaces.is_empty() || self.options.namespace_labels.is_some();
        // That the namespace exists here a ServiceImport does not say.
        let filtered = filtered || self.of.multicluster;
        if filtered && !self.exposed(of.namespace) || !(self.of.multicluster || self.selected(service)) {
            return Ok(Found::Absent);
        }
        match &service.kind {
            ServiceKind::ExternalName(target) => {
                if of.zone.is_some() {
                    return Ok(Found::Absent);
                }
                self.external(of, target, owner)
            }
            ServiceKind::Headless => Ok(self.endpoints(of, entry, owner)),
            _ if of.zone.is_some() => Ok(Found::Absent),
            _ if self.options.ignore_empty
                && (self.options.no_endpoints || entry.ready().next().is_none()) =>
            {
                Ok(Found::Absent)
            }
            _ if of.endpoint.is_some() => Ok(self.endpoints(of, entry, owner)),
            _ => Ok(self.cluster_ip(of, entry, service, owner)),
        }
    }

    /// A Service with ClusterIPs.
    fn cluster_ip(&mut self, of: &Of<'_>, entry: &Entry, service: &Service, owner: Owner) -> Found {
        let any_port = of.port.is_empty() && of.protocol.is_empty();
        let ports = || service.ports.iter().filter(|port| matches(of, &port.name, port.protocol));
        if !any_port && ports().next().is_none() {
            return Found::Absent;
        }
        let ttl = self.ttl_s;
        match self.rtype {
            Type::A | Type::AAAA => {
                for &address in &service.cluster_ips {
                    if type_of(address) == self.rtype {
                        self.reply.push_address(Section::Answer, owner, ttl, address);
                    }
                }
            }
            Type::SRV => {
                // Each port counts once for each address, as in CoreDNS, but stands there once.
                let weight = weight(ports().count() * service.cluster_ips.len());
                let Some(target) = self.name_of(&[], &entry.name) else { return Found::Exists };
                let mut at = None;
                let mut done: Vec<u16> = Vec::new();
                for port in ports() {
                    if !service.cluster_ips.is_empty() && !done.contains(&port.port) {
                        done.push(port.port);
                        at = Some(self.reply.push_srv(owner, ttl, [0, weight, port.port], &target));
                    }
                }
                if let Some(at) = at {
                    for &address in &service.cluster_ips {
                        self.reply.push_address(Section::Additional, at, ttl, address);
                    }
                }
            }
            _ => {}
        }
        Found::Exists
    }

    /// A pod by its address.
    fn pod(&mut self, text: &[u8], namespace: &[u8]) -> Found {
        if self.options.pods == PodMode::Disabled || !self.exposed(namespace) {
            return Found::Absent;
        }
        if text.is_empty() {
            return Found::Exists;
        }
        let Some(address) = label::address_of(text) else { return Found::Absent };
        if self.options.pods == PodMode::Verified {
            let mut pods = self.zone.pods_at(address);
            if !pods.any(|pod| pod.name.namespace.as_bytes() == namespace) {
                return Found::Absent;
            }
        }
        if type_of(address) == self.rtype {
            self.reply.push_address(Section::Answer, Owner::QUESTION, self.ttl_s, address);
        }
        Found::Exists
    }
}

fn exists(it_does: bool) -> Found {
    if it_does { Found::Exists } else { Found::Absent }
}

fn type_of(address: IpAddr) -> Type {
    match address {
        IpAddr::V4(_) => Type::A,
        IpAddr::V6(_) => Type::AAAA,
    }
}

/// Whether a port is the one that is asked for; what is not said is any.
fn matches(of: &Of<'_>, name: &str, protocol: model::Protocol) -> bool {
    (of.port.is_empty() || name.as_bytes().eq_ignore_ascii_case(of.port))
        && (of.protocol.is_empty() || protocol.name().as_bytes().eq_ignore_ascii_case(of.protocol))
}

/// The weight of each of so many targets: a hundred for all, and at least one each.
fn weight(targets: usize) -> u16 {
    let hundred = 100_usize;
    u16::try_from(hundred.checked_div(targets).unwrap_or(hundred)).unwrap_or(100).max(1)
}
