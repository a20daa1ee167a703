//! The zone's own records: SOA, NS, and the addresses of this server.

use super::{Asked, SOA_TTL_MAX_S};
use crate::label::label;
use model::ServiceKind;
use std::net::IpAddr;
use wire::{Name, Owner, Section, Type};

/// The labels of the SOA's two names, before the zone's.
const NS_DNS: &[u8] = b"\x02ns\x03dns";
const HOSTMASTER: &[u8] = b"\x0ahostmaster";
/// The longest name.
const NAME_BYTES_MAX: usize = 255;

/// Refresh, retry and expire, in seconds.
const TIMES_S: [u32; 3] = [7200, 1800, 86_400];

impl Asked<'_> {
    /// The SOA, in the case of the question.
    pub(super) fn soa(&mut self, section: Section) {
        let ttl = self.ttl_s;
        let apex = self.apex.0;
        if apex.len() + HOSTMASTER.len() > NAME_BYTES_MAX {
            return;
        }
        let owner = self.reply.own_bytes(apex);
        let serial = self.services.unwrap_or(self.zone).serial().to_be_bytes();
        let [refresh, retry, expire] = TIMES_S.map(u32::to_be_bytes);
        let minimum = ttl.to_be_bytes();
        let parts = [NS_DNS, apex, HOSTMASTER, apex, &serial, &refresh, &retry, &expire, &minimum];
        self.reply.push_parts(section, owner, Type::SOA, ttl.min(SOA_TTL_MAX_S), &parts);
    }

    /// NS records, and the addresses of what they name.
    pub(super) fn ns(&mut self) {
        let ttl = self.ttl_s;
        let mut done: Vec<(Name, Owner)> = Vec::new();
        for (name, address) in self.servers() {
            let at = match done.iter().find(|(other, _)| *other == name) {
                Some((_, at)) => *at,
                None => {
                    self.reply.push_name(Section::Answer, Owner::QUESTION, Type::NS, ttl, &name);
                    let at = self.reply.own(&name);
                    done.push((name, at));
                    at
                }
            };
            self.reply.push_address(Section::Additional, at, ttl, address);
        }
    }

    /// `ns.dns`.
    pub(super) fn server_addresses(&mut self) {
        let mut done: Vec<IpAddr> = Vec::new();
        for (_, address) in self.servers() {
            if super::type_of(address) == self.rtype && !done.contains(&address) {
                done.push(address);
                self.reply.push_address(Section::Answer, Owner::QUESTION, self.ttl_s, address);
            }
        }
    }

    /// The names and addresses of this server: those of the Services that it is an endpoint of, or
    /// `ns.dns` with its own addresses where it is none's.
    fn servers(&self) -> Vec<(Name, IpAddr)> {
        let mut servers = Vec::new();
        let mut found = false;
        let below = match self.of.reverse {
            true => super::Apex(self.options.primary.as_bytes()),
            false => self.apex,
        };
        let local = if self.options.no_endpoints { &[][..] } else { &self.options.local };
        for entry in local.iter().flat_map(|local| self.zone.with_endpoint(*local)) {
            found = true;
            let Some(service) = entry.service.as_deref() else { continue };
            let (name, namespace) = (entry.name.name.as_bytes(), entry.name.namespace.as_bytes());
            let mut add = |labels: &[&[u8]], address: IpAddr| {
                if let Some(name) = below.below(labels)
                    && !servers.contains(&(name, address))
                {
                    servers.push((name, address));
                }
            };
            if service.kind == ServiceKind::Headless {
                for endpoint in entry.ready() {
                    let label = label(endpoint, self.options.endpoint_pod_names);
                    add(&[label.as_bytes(), name, namespace, b"svc"], endpoint.address);
                }
            } else {
                for address in &service.cluster_ips {
                    add(&[name, namespace, b"svc"], *address);
                }
            }
        }
        if !found && let Some(name) = self.apex.below(&[b"ns", b"dns"]) {
            servers.extend(self.options.local.iter().map(|address| (name, *address)));
        }
        servers
    }
}
