//! What kind of answer a reply is, whether it is kept, and for how long: CoreDNS' rules (its
//! `response.Typify`, `cacheResponseType`, `key` and `dnsutil.MinimalTTL`).

use super::store::Kind;
use crate::exchange::Exchange;
use std::time::{SystemTime, UNIX_EPOCH};
use wire::{Class, Name, Rcode, Record, Reply, Section, Type, flags};

/// What there is no better TTL for.
const TTL_SHORT_S: u32 = 5;

/// Kinds of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Records, or a referral.
    Success,
    /// No records of this type.
    NoData,
    /// No such name.
    NoSuchName,
    /// The server could not.
    ServerFailure,
    /// Another error, a transfer, a notification.
    Other,
}

impl Verdict {
    /// Of the reply in an exchange.
    pub(super) fn of(exchange: &Exchange) -> Verdict {
        let Exchange { reply, asked, .. } = exchange;
        let transfer = [Type::AXFR, Type::IXFR].contains(&asked.question.rtype);
        if asked.flags >> 11 & 15 != 0 || transfer || asked.dnssec_ok() && has_expired_signature(reply) {
            return Verdict::Other;
        }
        let answers = reply.count(Section::Answer) > 0;
        match reply.rcode {
            Rcode::NOERROR if has_soa(reply) && (!answers || !answers_question(exchange)) => Verdict::NoData,
            Rcode::NOERROR => Verdict::Success,
            Rcode::NXDOMAIN if !answers => Verdict::NoSuchName,
            Rcode::SERVFAIL | Rcode::NOTIMP if !answers => Verdict::ServerFailure,
            _ => Verdict::Other,
        }
    }

    /// Among what it is kept.
    pub(super) fn kind(self) -> Kind {
        match self {
            Verdict::Success => Kind::Success,
            _ => Kind::Denial,
        }
    }

    /// Whether such a reply is kept at all.
    pub(super) fn is_kept(self, exchange: &Exchange) -> bool {
        let reply = &exchange.reply;
        if reply.truncated {
            return false;
        }
        match self {
            Verdict::Other => false,
            // Without a SOA nobody says for how long (RFC 2308 5).
            Verdict::NoSuchName => has_soa(reply),
            Verdict::Success => reply.count(Section::Answer) == 0 || answers_question(exchange),
            Verdict::NoData | Verdict::ServerFailure => true,
        }
    }

    /// The least TTL of a reply's records, but no more than this.
    pub(super) fn ttl_s(self, reply: &Reply, ttl_max_s: u32) -> u32 {
        match self {
            Verdict::ServerFailure | Verdict::Other => TTL_SHORT_S,
            _ if reply.records().is_empty() => TTL_SHORT_S,
            _ => reply.records().iter().map(|record| record.ttl).min().unwrap_or(ttl_max_s).min(ttl_max_s),
        }
    }
}

fn has_soa(reply: &Reply) -> bool {
    reply.section(Section::Authority).any(|record| record.rtype == Type::SOA)
}

/// Whether there is a record of the wanted type at the end of the chain of CNAMEs.
pub(super) fn answers_question(exchange: &Exchange) -> bool {
    let Exchange { reply, asked, .. } = exchange;
    let question = &asked.question;
    let answers: Vec<(Name, &Record)> = reply
        .section(Section::Answer)
        .filter(|record| question.class == Class::ANY || record.class == question.class)
        .map(|record| (reply.owner(record, &exchange.original.name), record))
        .collect();
    // Replies belong to the question as it was asked, whatever became of it since.
    let mut name = exchange.original.name;
    if question.rtype == Type::ANY {
        return answers.iter().any(|(owner, _)| owner.is(&name));
    }
    for _ in 0..=answers.len() {
        let mut targets = answers
            .iter()
            .filter(|(owner, record)| record.rtype == Type::CNAME && owner.is(&name))
            .filter_map(|(_, record)| reply.target(record));
        match targets.next() {
            None => {
                return answers
                    .iter()
                    .any(|(owner, record)| record.rtype == question.rtype && owner.is(&name));
            }
            // An alias has one name (RFC 2181 10.1).
            Some(target) if targets.all(|other| other.is(&target)) => {
                if question.rtype == Type::CNAME {
                    return true;
                }
                name = target;
            }
            Some(_) => return false,
        }
    }
    // A circle.
    false
}

/// Whether a signature has run out, or does not yet hold.
fn has_expired_signature(reply: &Reply) -> bool {
    let signatures = reply.records().iter().filter(|record| record.rtype == Type::RRSIG);
    let mut times = signatures.filter_map(|record| {
        let times = reply.rdata(record).get(8..16)?;
        let (expiration, inception) = times.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*expiration), u32::from_be_bytes(*inception.first_chunk()?)))
    });
    // Serial numbers, which wrap (RFC 4034 3.1.5).
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32;
    let before = |a: u32, b: u32| (b.wrapping_sub(a) as i32) > 0;
    times.any(|(expiration, inception)| before(expiration, now) || before(now, inception))
}

/// Whether a good, whole reply has come that a stale entry may give way to (RFC 8767 4).
pub(super) fn is_fresh(exchange: &Exchange, verdict: Verdict, prefer_positive: bool) -> bool {
    let reply = &exchange.reply;
    if reply.truncated {
        return false;
    }
    if prefer_positive {
        return verdict == Verdict::Success && answers_question(exchange);
    }
    verdict != Verdict::Other && matches!(reply.rcode, Rcode::NOERROR | Rcode::NXDOMAIN)
}

/// Whether the asker set the AD bit.
pub(super) fn wants_authentic(flags_word: u16) -> bool {
    flags_word & flags::AD != 0
}
