//! A zone as its authority knows it: records by name, and what they answer (RFC 1034 4.3.2, RFC 4592).
//!
//! It is built once and only read from then on. Names that have no records, but others below them,
//! are there as well, so that a look goes from the zone's top down by exact names only.

mod answer;

#[cfg(test)]
mod tests;

pub(crate) use answer::{Answer, Found};

use crate::zonefile::Record;
use std::collections::HashMap;
use wire::{Name, Type};

/// A record without its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    rtype: Type,
    ttl: u32,
    rdata: Box<[u8]>,
}

/// What a name has.
#[derive(Clone, Debug)]
struct Node {
    /// As it is spelled where it stands first.
    name: Box<[u8]>,
    /// By type.
    entries: Vec<Entry>,
}

impl Node {
    fn of(&self, rtype: Type) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.rtype == rtype)
    }

    fn has(&self, rtype: Type) -> bool {
        self.of(rtype).next().is_some()
    }

    fn name(&self) -> Name {
        Name::from_bytes(&self.name).unwrap_or_default()
    }
}

/// A zone.
#[derive(Debug)]
pub(crate) struct Zone {
    /// Its top, in lower case.
    pub(crate) origin: Name,
    /// What tells its versions apart.
    pub(crate) serial: u32,
    /// By name in lower case.
    nodes: HashMap<Box<[u8]>, Node>,
    /// Names that have NSEC, in canonical order.
    secure: Vec<(Vec<u8>, Box<[u8]>)>,
}

/// The numbers of a SOA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Soa {
    pub(crate) serial: u32,
    pub(crate) refresh_s: u32,
    pub(crate) retry_s: u32,
    pub(crate) expire_s: u32,
    pub(crate) minimum_s: u32,
}

impl Soa {
    /// Reads them from the end of its data.
    pub(crate) fn read(rdata: &[u8]) -> Option<Soa> {
        let words = rdata.last_chunk::<20>()?.as_chunks::<4>().0;
        let [serial, refresh_s, retry_s, expire_s, minimum_s] = words else { return None };
        let [serial, refresh_s, retry_s, expire_s, minimum_s] =
            [serial, refresh_s, retry_s, expire_s, minimum_s].map(|word| u32::from_be_bytes(*word));
        Some(Soa { serial, refresh_s, retry_s, expire_s, minimum_s })
    }
}

/// Whether a serial number is newer than another, which wrap (RFC 1982).
pub(crate) fn is_newer(new: u32, old: u32) -> bool {
    let ahead = new.wrapping_sub(old);
    ahead != 0 && ahead < 1 << 31
}

impl Zone {
    /// Builds a zone. Records outside of it are left out.
    pub(crate) fn new(origin: &Name, records: Vec<Record>) -> Result<Zone, String> {
        let origin = origin.lowercase();
        let mut nodes: HashMap<Box<[u8]>, Node> = HashMap::new();
        for record in records {
            if !record.owner.is_in(&origin) {
                continue;
            }
            let key = record.owner.lowercase();
            let node = nodes.entry(key.as_bytes().into()).or_insert_with(|| node(&record.owner));
            let entry = Entry { rtype: record.rtype, ttl: record.ttl, rdata: record.rdata.into() };
            if !node.entries.contains(&entry) {
                node.entries.push(entry);
            }
        }
        let mut between = Vec::new();
        for node in nodes.values() {
            let name = node.name().lowercase();
            for labels in 1..name.label_count().saturating_sub(origin.label_count()) {
                let above = name.without_first(labels);
                if !nodes.contains_key(above.as_bytes()) {
                    between.push(above);
                }
            }
        }
        for name in between {
            nodes.entry(name.as_bytes().into()).or_insert_with(|| node(&name));
        }
        for node in nodes.values_mut() {
            // The order of records of one type stays.
            node.entries.sort_by_key(|entry| entry.rtype);
            node.entries.shrink_to_fit();
        }
        let soa = nodes.get(origin.as_bytes()).and_then(|node| node.of(Type::SOA).next());
        let soa = soa.and_then(|entry| Soa::read(&entry.rdata));
        let Some(soa) = soa else { return Err(format!("no SOA record for origin {origin}")) };
        let mut secure: Vec<(Vec<u8>, Box<[u8]>)> = nodes
            .iter()
            .filter(|(_, node)| node.has(Type::NSEC))
            .map(|(key, node)| (canonical(&node.name()), key.clone()))
            .collect();
        secure.sort();
        Ok(Zone { origin, serial: soa.serial, nodes, secure })
    }

    fn node(&self, name: &[u8]) -> Option<&Node> {
        self.nodes.get(name)
    }

    fn apex(&self) -> Option<&Node> {
        self.node(self.origin.as_bytes())
    }

    /// The numbers of its SOA.
    pub(crate) fn soa(&self) -> Option<Soa> {
        Soa::read(&self.apex()?.of(Type::SOA).next()?.rdata)
    }

    /// Its records, the SOA first.
    pub(crate) fn records(&self) -> Vec<Record> {
        let record = |node: &Node, entry: &Entry| Record {
            owner: node.name(),
            rtype: entry.rtype,
            class: wire::Class::IN,
            ttl: entry.ttl,
            rdata: entry.rdata.to_vec(),
        };
        let apex = self.apex();
        let soa = apex.iter().flat_map(|node| node.of(Type::SOA).map(|entry| record(node, entry)));
        let mut records: Vec<Record> = soa.take(1).collect();
        for node in self.nodes.values() {
            let entries = node.entries.iter().filter(|entry| entry.rtype != Type::SOA);
            records.extend(entries.map(|entry| record(node, entry)));
        }
        records
    }
}

fn node(name: &Name) -> Node {
    Node { name: name.as_bytes().into(), entries: Vec::new() }
}

/// A key that sorts names in canonical order (RFC 4034 6.1): labels from the right, in lower case,
/// each with an end that sorts before everything.
fn canonical(name: &Name) -> Vec<u8> {
    let name = name.lowercase();
    let labels: Vec<&[u8]> = name.labels().collect();
    let mut key = Vec::with_capacity(name.as_bytes().len() + 2);
    for label in labels.into_iter().rev() {
        for &byte in label {
            match byte {
                0 | 1 => key.extend([1, byte + 1]),
                byte => key.push(byte),
            }
        }
        key.push(0);
    }
    key
}
