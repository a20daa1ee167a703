//! What a zone answers.

use super::{Entry, Node, Zone, canonical};
use std::ops::ControlFlow;
use wire::{Name, Owner, Question, Reply, Section, Type};

/// Aliases are followed so far.
const ALIASES_MAX: u32 = 8;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There are records.
    Records,
    /// There is the name, but none of the type.
    NoData,
    /// There are only names below it.
    Empty,
    /// There is no such name.
    NoSuchName,
    /// It is another zone's.
    Delegation,
    /// It cannot be answered.
    Failure,
}

/// What became of it, and where it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) found: Found,
    /// An alias leads out of the zone, to this name.
    pub(crate) target: Option<Name>,
    /// A wildcard has answered.
    pub(crate) wildcard: bool,
}

impl Answer {
    fn of(found: Found) -> Answer {
        Answer { found, target: None, wildcard: false }
    }
}

impl Zone {
    /// Adds what stands beside an answer that was found elsewhere: the SOA beside a denial, or the
    /// servers.
    pub(crate) fn push_beside(&self, question: &Question, denial: bool, dnssec: bool, reply: &mut Reply) {
        let mut look = Look { zone: self, reply, asked: &question.name, rtype: question.rtype, dnssec };
        if denial { look.push_soa() } else { look.push_servers() }
    }
}

/// One question on its way through the zone.
struct Look<'z, 'r> {
    zone: &'z Zone,
    reply: &'r mut Reply,
    asked: &'r Name,
    rtype: Type,
    dnssec: bool,
}

impl Zone {
    /// Answers a question into a reply.
    pub(crate) fn answer(&self, question: &Question, dnssec: bool, reply: &mut Reply) -> Answer {
        reply.authoritative = true;
        let (asked, rtype) = (&question.name, question.rtype);
        let mut look = Look { zone: self, reply, asked, rtype, dnssec };
        let mut name = question.name;
        for _ in 0..=ALIASES_MAX {
            match look.one(&name) {
                ControlFlow::Break(answer) => return answer,
                ControlFlow::Continue(target) if target.is_in(&self.origin) => name = target,
                ControlFlow::Continue(target) => {
                    return Answer { target: Some(target), ..Answer::of(Found::Records) };
                }
            }
        }
        // What there is of a chain too long is given.
        Answer::of(Found::Records)
    }
}

impl<'z> Look<'z, '_> {
    /// Answers for one name of a chain, or says where an alias leads.
    fn one(&mut self, name: &Name) -> ControlFlow<Answer, Name> {
        let lower = name.lowercase();
        let below = lower.label_count().saturating_sub(self.zone.origin.label_count());
        let mut closest = self.zone.apex();
        // From the top down: who is responsible?
        for labels in (0..below).rev() {
            let above = lower.without_first(labels);
            let Some(node) = self.zone.node(above.as_bytes()) else { break };
            closest = Some(node);
            if labels > 0
                && let Some(dname) = node.of(Type::DNAME).next()
            {
                return self.redirect(name, node, dname, labels);
            }
            if node.has(Type::NS) && !(labels == 0 && self.rtype == Type::DS) {
                self.refer(node);
                return ControlFlow::Break(Answer::of(Found::Delegation));
            }
        }
        let Some(closest) = closest else { return ControlFlow::Break(Answer::of(Found::Failure)) };
        if let Some(node) = self.zone.node(lower.as_bytes()) {
            return self.exact(name, node);
        }
        let mut wildcard = Name::ROOT;
        let made = wildcard.push(b"*").and_then(|()| wildcard.append(&closest.name().lowercase()));
        let node = made.ok().and_then(|()| self.zone.node(wildcard.as_bytes()));
        match node {
            Some(node) => self.wildcard(name, node),
            None => {
                self.push_soa();
                self.push_denial(&lower);
                self.push_denial(&wildcard);
                ControlFlow::Break(Answer::of(Found::NoSuchName))
            }
        }
    }

    fn owner(&mut self, name: &Name) -> Owner {
        if name.is(self.asked) { Owner::QUESTION } else { self.reply.own(name) }
    }

    /// Adds the records of a type, and their signatures where they are wanted.
    fn push(&mut self, section: Section, owner: Owner, node: &Node, rtype: Type) -> bool {
        let mut any = false;
        for entry in node.of(rtype) {
            any = true;
            self.reply.push(section, owner, rtype, entry.ttl, &entry.rdata);
        }
        if any && self.dnssec && rtype != Type::RRSIG {
            let covered = rtype.0.to_be_bytes();
            for entry in node.of(Type::RRSIG).filter(|entry| entry.rdata.starts_with(&covered)) {
                self.reply.push(section, owner, Type::RRSIG, entry.ttl, &entry.rdata);
            }
        }
        any
    }

    fn push_soa(&mut self) {
        if let Some(apex) = self.zone.apex() {
            let owner = self.owner(&apex.name());
            self.push(Section::Authority, owner, apex, Type::SOA);
        }
    }

    fn push_servers(&mut self) {
        if let Some(apex) = self.zone.apex() {
            let owner = self.owner(&apex.name());
            self.push(Section::Authority, owner, apex, Type::NS);
        }
    }

    /// Adds the NSEC that stands before a name, where there is one and it is wanted.
    fn push_denial(&mut self, name: &Name) {
        if !self.dnssec || self.zone.secure.is_empty() {
            return;
        }
        let key = canonical(name);
        let after = self.zone.secure.partition_point(|(other, _)| *other <= key);
        let found = after.checked_sub(1).and_then(|at| self.zone.secure.get(at));
        let Some(node) = found.and_then(|(_, key)| self.zone.node(key)) else { return };
        let same = |record: &wire::Record| {
            record.rtype == Type::NSEC && self.reply.owner(record, self.asked).is(&node.name())
        };
        if !self.reply.section(Section::Authority).any(same) {
            let owner = self.owner(&node.name());
            self.push(Section::Authority, owner, node, Type::NSEC);
        }
    }

    fn exact(&mut self, name: &Name, node: &'z Node) -> ControlFlow<Answer, Name> {
        let owner = self.owner(name);
        if let Some(target) = self.alias(owner, node) {
            return ControlFlow::Continue(target);
        }
        if self.push(Section::Answer, owner, node, self.rtype) {
            let apex = name.is(&self.zone.origin);
            if !(apex && self.rtype == Type::NS) {
                self.push_servers();
            }
            self.push_targets(node);
            return ControlFlow::Break(Answer::of(Found::Records));
        }
        self.push_soa();
        self.push_denial(&name.lowercase());
        ControlFlow::Break(Answer::of(if node.entries.is_empty() { Found::Empty } else { Found::NoData }))
    }

    fn wildcard(&mut self, name: &Name, node: &'z Node) -> ControlFlow<Answer, Name> {
        let owner = self.owner(name);
        if let Some(target) = self.alias(owner, node) {
            return ControlFlow::Continue(target);
        }
        let found = if self.push(Section::Answer, owner, node, self.rtype) {
            self.push_servers();
            // That there is nothing closer (RFC 4035 3.1.3.3).
            self.push_denial(&name.lowercase());
            self.push_targets(node);
            Found::Records
        } else {
            self.push_soa();
            self.push_denial(&node.name());
            self.push_denial(&name.lowercase());
            Found::NoData
        };
        ControlFlow::Break(Answer { wildcard: true, ..Answer::of(found) })
    }

    /// Adds an alias where there is one that is not asked for itself, and says where it leads.
    fn alias(&mut self, owner: Owner, node: &Node) -> Option<Name> {
        if self.rtype == Type::CNAME {
            return None;
        }
        let target = node.of(Type::CNAME).next().and_then(|entry| Name::from_bytes(&entry.rdata))?;
        self.push(Section::Answer, owner, node, Type::CNAME);
        Some(target)
    }

    /// RFC 6672: everything below a DNAME is elsewhere.
    fn redirect(
        &mut self,
        name: &Name,
        node: &Node,
        dname: &Entry,
        labels: usize,
    ) -> ControlFlow<Answer, Name> {
        let owner = self.owner(&node.name());
        self.push(Section::Answer, owner, node, Type::DNAME);
        let mut target = Name::ROOT;
        let kept = name.labels().take(labels).try_for_each(|label| target.push(label));
        let base = Name::from_bytes(&dname.rdata);
        let made = kept.ok().zip(base).and_then(|(_, base)| target.append(&base).ok());
        if made.is_none() || target.is(name) {
            return ControlFlow::Break(Answer::of(Found::Failure));
        }
        let owner = self.owner(name);
        self.reply.push_name(Section::Answer, owner, Type::CNAME, dname.ttl, &target);
        if self.rtype == Type::CNAME {
            self.push_servers();
            return ControlFlow::Break(Answer::of(Found::Records));
        }
        ControlFlow::Continue(target)
    }

    /// Says who knows.
    fn refer(&mut self, node: &Node) {
        let aliased = self.reply.section(Section::Answer).next().is_some();
        self.reply.authoritative = aliased;
        let owner = self.owner(&node.name());
        self.push(Section::Authority, owner, node, Type::NS);
        if self.dnssec && !self.push(Section::Authority, owner, node, Type::DS) {
            self.push(Section::Authority, owner, node, Type::NSEC);
        }
        self.push_addresses(node.of(Type::NS).filter_map(|entry| Name::from_bytes(&entry.rdata)));
    }

    /// Adds addresses of what an answer names.
    fn push_targets(&mut self, node: &Node) {
        let skip = match self.rtype {
            Type::NS => 0,
            Type::MX | Type::SVCB | Type::HTTPS => 2,
            Type::SRV => 6,
            _ => return,
        };
        let targets = node.of(self.rtype).filter_map(|entry| {
            let rest = entry.rdata.get(skip..)?;
            let mut end = 0;
            loop {
                let length = usize::from(*rest.get(end)?);
                end += 1 + length;
                if length == 0 {
                    return Name::from_bytes(rest.get(..end)?);
                }
            }
        });
        let targets: Vec<Name> = targets.collect();
        self.push_addresses(targets.into_iter());
    }

    fn push_addresses(&mut self, names: impl Iterator<Item = Name>) {
        let mut done: Vec<Name> = Vec::new();
        for name in names.filter(|name| name.is_in(&self.zone.origin)) {
            if done.iter().any(|other| other.is(&name)) {
                continue;
            }
            done.push(name);
            let Some(node) = self.zone.node(name.lowercase().as_bytes()) else { continue };
            let owner = self.owner(&name);
            self.push(Section::Additional, owner, node, Type::A);
            self.push(Section::Additional, owner, node, Type::AAAA);
        }
    }
}
