//! `dns64`: makes AAAA of A for those who have IPv6 only (RFC 6147).
//!
//! ```text
//! dns64 [PREFIX] {
//!     prefix PREFIX
//!     translate_all
//!     allow_ipv4
//! }
//! ```

use super::per_chain::PerChain;
use crate::chain::{At, Later, Onward, Plugin, Step};
use crate::corefile::{Error, Word};
use crate::exchange::{Exchange, Outcome};
use crate::metrics::{Counter, Metrics};
use crate::setup::Setting;
use model::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use wire::{Class, Name, Owner, Rcode, Reply, Section, Type};

/// Where there is no SOA that says more (RFC 6147 5.1.7).
const TTL_MAX_S: u32 = 600;

struct Dns64 {
    prefix: Ipv6Addr,
    length: usize,
    translate_all: bool,
    allow_ipv4: bool,
    metrics: Arc<Metrics>,
    translated: PerChain<Arc<Counter>>,
}

/// Kept from the way in: this question may be translated.
struct Translate;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let mut dns64 = Dns64 {
        prefix: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0),
        length: 96,
        translate_all: false,
        allow_ipv4: false,
        metrics: setting.world.metrics.clone(),
        translated: PerChain::default(),
    };
    match line.args.as_slice() {
        [] => {}
        [word] => (dns64.prefix, dns64.length) = prefix(word)?,
        [_, extra, ..] => return Err(extra.error("dns64 takes one argument")),
    }
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "prefix" => {
                let [word] = option.exactly()?;
                (dns64.prefix, dns64.length) = prefix(word)?;
            }
            "translate_all" => {
                option.no_arguments()?;
                dns64.translate_all = true;
            }
            "allow_ipv4" => {
                option.no_arguments()?;
                dns64.allow_ipv4 = true;
            }
            _ => return Err(option.unknown_option("dns64")),
        }
    }
    Ok(Some(Arc::new(dns64)))
}

fn prefix(word: &Word) -> Result<(Ipv6Addr, usize), Error> {
    let prefix: Prefix = word.text.parse().map_err(|_| word.error("no network"))?;
    match (prefix.network(), usize::from(prefix.length())) {
        (IpAddr::V6(ip), length @ (32 | 40 | 48 | 56 | 64 | 72 | 80 | 88 | 96)) => Ok((ip, length)),
        _ => Err(word.error("not of IPv6, or not of 32 to 96 bits in whole bytes")),
    }
}

impl Dns64 {
    /// RFC 6052 2.2: the address stands behind the prefix, but for the ninth byte, which is zero.
    fn embed(&self, ip: Ipv4Addr) -> [u8; 16] {
        let mut out = [0; 16];
        let head = self.length / 8;
        for (into, byte) in out.iter_mut().zip(self.prefix.octets()).take(head) {
            *into = byte;
        }
        let places = (head..16).filter(|place| *place != 8);
        for (place, byte) in places.zip(ip.octets()) {
            if let Some(into) = out.get_mut(place) {
                *into = byte;
            }
        }
        out
    }

    fn translate(&self, exchange: &mut Exchange, found: &Reply, name: &Name) {
        let soa = exchange.reply.section(Section::Authority).find(|record| record.rtype == Type::SOA);
        let most = soa.map_or(TTL_MAX_S, |soa| soa.ttl);
        let mut reply = Reply::default();
        reply.truncated = found.truncated;
        reply.recursion_available = exchange.reply.recursion_available;
        for record in found.records() {
            let owner = found.owner(record, name);
            let owner = if owner.is(name) { Owner::QUESTION } else { reply.own(&owner) };
            match (record.section, found.address(record)) {
                (Section::Answer, Some(IpAddr::V4(ip))) => {
                    reply.push(record.section, owner, Type::AAAA, record.ttl.min(most), &self.embed(ip));
                }
                _ => reply.push(record.section, owner, record.rtype, record.ttl, found.rdata(record)),
            }
        }
        exchange.reply = reply;
        exchange.outcome = Some(Outcome::Given);
    }
}

impl Plugin for Dns64 {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let question = &exchange.asked.question;
        let is_for = self.allow_ipv4 || exchange.from.client.ip().to_canonical().is_ipv6();
        if is_for && question.rtype == Type::AAAA && question.class == Class::IN {
            exchange.note(at.index, Translate);
        }
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, at: &At<'_>) -> Onward {
        if exchange.take_note::<Translate>(at.index).is_none() {
            return Onward::Done;
        }
        // What is no answer from anywhere stays what it is.
        if matches!(exchange.outcome, Some(Outcome::Failed(_) | Outcome::Refused | Outcome::Silence) | None) {
            return Onward::Done;
        }
        let reply = &exchange.reply;
        let has_aaaa = reply.section(Section::Answer).any(|record| record.rtype == Type::AAAA);
        if reply.rcode == Rcode::NXDOMAIN || has_aaaa && !self.translate_all {
            return Onward::Done;
        }
        Onward::Later
    }

    fn answered_later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let name = exchange.asked.question.name;
            let Some(found) = at.look_up(exchange, name, Type::A).await else { return };
            self.translate(exchange, &found, &name);
            let counter = self.translated.of(at.chain, || {
                self.metrics.counter(
                    "coredns_dns64_requests_translated_total",
                    "Counter of DNS requests translated by dns64.",
                    &[("server", &*at.chain.server)],
                )
            });
            counter.count();
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Act, Bench, Told, refused, soa};
    use wire::{Rcode, Section, Type};

    fn told() -> Told {
        Told::new(|asked, _| {
            let name = asked.question.name.to_string();
            match (name.as_str(), asked.question.rtype) {
                ("six.", Type::AAAA) => {
                    Act::Records(Rcode::NOERROR, vec![(Section::Answer, Type::AAAA, 30, vec![0xfd; 16])])
                }
                ("gone.", _) => {
                    Act::Records(Rcode::NXDOMAIN, vec![(Section::Authority, Type::SOA, 30, soa(30))])
                }
                (_, Type::A) => {
                    Act::Records(Rcode::NOERROR, vec![(Section::Answer, Type::A, 300, vec![192, 0, 2, 33])])
                }
                _ => Act::Records(Rcode::NOERROR, vec![(Section::Authority, Type::SOA, 60, soa(60))]),
            }
        })
    }

    fn ask(options: &str, client: &str, question: &str) -> String {
        let told = told();
        Bench::of(&format!("dns64 {options}\nforward . {}", told.address)).ask_from(client, question)
    }

    #[test]
    fn addresses_in_addresses() {
        let four = "NOERROR ra four. 60 IN AAAA 64:ff9b::c000:221";
        for (options, client, question, want) in [
            ("", "fd00::1", "four AAAA", four),
            ("", "10.0.0.1", "four AAAA", "NOERROR ra | four. 60 IN SOA ns. root. 1 7200 1800 86400 60"),
            ("{\nallow_ipv4\n}", "10.0.0.1", "four AAAA", four),
            ("", "fd00::1", "four A", "NOERROR ra four. 300 IN A 192.0.2.33"),
            ("", "fd00::1", "gone AAAA", "NXDOMAIN ra | gone. 30 IN SOA ns. root. 1 7200 1800 86400 30"),
            ("", "fd00::1", "six AAAA", "NOERROR ra six. 30 IN AAAA fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"),
            ("{\ntranslate_all\n}", "fd00::1", "six AAAA", "NOERROR ra six. 300 IN AAAA 64:ff9b::c000:221"),
            // The table of RFC 6052 2.4.
            ("2001:db8::/32", "fd00::1", "four AAAA", "NOERROR ra four. 60 IN AAAA 2001:db8:c000:221::"),
            ("2001:db8:100::/40", "fd00::1", "four AAAA", "NOERROR ra four. 60 IN AAAA 2001:db8:1c0:2:21::"),
            (
                "2001:db8:122::/48",
                "fd00::1",
                "four AAAA",
                "NOERROR ra four. 60 IN AAAA 2001:db8:122:c000:2:2100::",
            ),
            (
                "2001:db8:122:300::/56",
                "fd00::1",
                "four AAAA",
                "NOERROR ra four. 60 IN AAAA 2001:db8:122:3c0:0:221::",
            ),
            (
                "2001:db8:122:344::/64",
                "fd00::1",
                "four AAAA",
                "NOERROR ra four. 60 IN AAAA 2001:db8:122:344:c0:2:2100::",
            ),
        ] {
            let got = ask(options, client, question)
                .replace("2001:db8:122:344:c0:2:2100:0", "2001:db8:122:344:c0:2:2100::");
            assert_eq!(got, want, "{options} {client} {question}");
        }
        for (line, want) in [
            ("dns64 10.0.0.0/8", "\"10.0.0.0/8\": not of IPv6"),
            ("dns64 fd00::/33", "\"fd00::/33\": not of IPv6, or not of 32 to 96 bits"),
            ("dns64 {\nwhat\n}", "\"what\": no option of plugin dns64"),
        ] {
            assert!(refused(line).contains(want), "{line}");
        }
    }
}
