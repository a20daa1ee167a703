//! `acl`: who may ask what.
//!
//! ```text
//! acl [ZONE...] {
//!     allow|block|filter|drop [type TYPE...] [net ADDRESS|NETWORK...]
//! }
//! ```

use super::per_chain::PerChain;
use crate::chain::{At, Chain, Plugin, Step};
use crate::corefile::{Error, Line, Word, origins};
use crate::exchange::{Exchange, Outcome};
use crate::metrics::{Counter, Metrics};
use crate::setup::Setting;
use model::Prefix;
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Name, Type};

/// Why, as an option of EDNS (RFC 8914 4.16, 4.18).
const BLOCKED: [u8; 6] = [0, 15, 0, 2, 0, 15];
const FILTERED: [u8; 6] = [0, 15, 0, 2, 0, 17];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Block,
    Filter,
    Drop,
}

struct Acl {
    rules: Vec<Rule>,
    metrics: Arc<Metrics>,
    counts: PerChain<Counts>,
}

/// One `acl` of the block.
struct Rule {
    zones: Vec<Name>,
    policies: Vec<Policy>,
}

struct Policy {
    action: Action,
    /// Empty for all.
    types: Vec<Type>,
    /// Empty for all.
    networks: Vec<Prefix>,
}

struct Counts {
    allowed: Arc<Counter>,
    /// By rule and zone: blocked, filtered, dropped.
    refused: Vec<Vec<[Arc<Counter>; 3]>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut rules = Vec::new();
    for line in setting.lines {
        let zones = origins(&line.args, &setting.block.zones)?;
        let policies = line.block.iter().map(policy).collect::<Result<_, _>>()?;
        rules.push(Rule { zones, policies });
    }
    let metrics = setting.world.metrics.clone();
    Ok(Some(Arc::new(Acl { rules, metrics, counts: PerChain::default() })))
}

fn policy(option: &Line) -> Result<Policy, Error> {
    option.no_block()?;
    let action = match option.name.text.to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "block" => Action::Block,
        "filter" => Action::Filter,
        "drop" => Action::Drop,
        _ => return Err(option.error("not allow, block, filter or drop")),
    };
    let mut policy = Policy { action, types: Vec::new(), networks: Vec::new() };
    let is_section = |word: &Word| ["type", "net"].contains(&word.text.to_ascii_lowercase().as_str());
    let mut rest = option.args.as_slice();
    while let Some((section, after)) = rest.split_first() {
        if !is_section(section) {
            return Err(section.error("neither type nor net"));
        }
        let end = after.iter().position(is_section).unwrap_or(after.len());
        let (words, after) = after.split_at(end);
        if words.is_empty() {
            return Err(section.error("takes arguments"));
        }
        rest = after;
        // A star among them stands for all.
        if words.iter().any(|word| word.text == "*") {
            continue;
        }
        for word in words {
            if section.text.eq_ignore_ascii_case("type") {
                policy.types.push(word.text.parse().map_err(|()| word.error("no type"))?);
            } else {
                policy.networks.push(network(word)?);
            }
        }
    }
    Ok(policy)
}

fn network(word: &Word) -> Result<Prefix, Error> {
    let text = match (word.text.contains('/'), word.text.contains(':')) {
        (true, _) => word.text.clone(),
        (false, true) => format!("{}/128", word.text),
        (false, false) => format!("{}/32", word.text),
    };
    text.parse().map_err(|_| word.error("neither an address nor a network"))
}

impl Policy {
    fn is_for(&self, ip: IpAddr, rtype: Type) -> bool {
        (self.types.is_empty() || self.types.contains(&rtype))
            && (self.networks.is_empty() || self.networks.iter().any(|network| network.contains(ip)))
    }
}

impl Acl {
    fn counts(&self, chain: &Chain) -> Arc<Counts> {
        self.counts.of(chain, || {
            let view = [("server", &*chain.server), ("view", &*chain.view)];
            let refused = |zone: &Name| {
                let zone = zone.to_string();
                let labels = [("server", &*chain.server), ("zone", zone.as_str()), ("view", &*chain.view)];
                let counter = |name, help| self.metrics.counter(name, help, &labels);
                [
                    counter("coredns_acl_blocked_requests_total", "Counter of DNS requests being blocked."),
                    counter("coredns_acl_filtered_requests_total", "Counter of DNS requests being filtered."),
                    counter("coredns_acl_dropped_requests_total", "Counter of DNS requests being dropped."),
                ]
            };
            Counts {
                allowed: self.metrics.counter(
                    "coredns_acl_allowed_requests_total",
                    "Counter of DNS requests being allowed.",
                    &view,
                ),
                refused: self.rules.iter().map(|rule| rule.zones.iter().map(refused).collect()).collect(),
            }
        })
    }
}

impl Plugin for Acl {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let question = exchange.asked.question;
        let ip = exchange.from.client.ip().to_canonical();
        let counts = self.counts(at.chain);
        for (rule, counters) in self.rules.iter().zip(&counts.refused) {
            let zones = rule.zones.iter().zip(counters).filter(|(zone, _)| question.name.is_in(zone));
            let Some((_, counters)) = zones.max_by_key(|(zone, _)| zone.label_count()) else { continue };
            let policy = rule.policies.iter().find(|policy| policy.is_for(ip, question.rtype));
            let [blocked, filtered, dropped] = counters;
            match policy.map(|policy| policy.action) {
                None => {}
                Some(Action::Allow) => break,
                Some(Action::Block) => {
                    blocked.count();
                    exchange.reply.options.extend_from_slice(&BLOCKED);
                    return Step::Done(Outcome::Refused);
                }
                Some(Action::Filter) => {
                    filtered.count();
                    exchange.reply.options.extend_from_slice(&FILTERED);
                    return Step::Done(Outcome::Records);
                }
                Some(Action::Drop) => {
                    dropped.count();
                    return Step::Done(Outcome::Silence);
                }
            }
        }
        counts.allowed.count();
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn who_may_ask_what() {
        let bench = Bench::of(
            "acl {\nallow type MX net 10.0.0.5\nblock type ANY MX net 10.0.0.0/8 fd00::/8\n\
             filter type AAAA\ndrop net 192.0.2.1\n}\nacl secret.example {\nallow net 127.0.0.1\nblock\n}\nwhoami",
        );
        let asked = |client: &str, question: &str| {
            let answer = bench.ask_from(client, question);
            if answer.contains("SRV") { "allowed".to_owned() } else { answer }
        };
        for (client, question, want) in [
            ("10.1.1.1", "a A", "allowed"),
            ("10.1.1.1", "a MX", "REFUSED"),
            ("::ffff:10.1.1.1", "a MX", "REFUSED"),
            ("10.0.0.5", "a MX", "allowed"),
            ("fd00::1", "a ANY", "REFUSED"),
            ("10.1.1.1", "a AAAA", "NOERROR"),
            ("192.0.2.1", "a A", "silence"),
            ("10.1.1.1", "b.secret.example A", "REFUSED"),
            ("127.0.0.1", "b.secret.example A", "allowed"),
        ] {
            assert_eq!(asked(client, question), want, "{client} {question}");
        }
        let options = bench.exchange_from("10.1.1.1", "a MX edns").reply.options;
        assert_eq!(options, [0, 15, 0, 2, 0, 15]);
        let labels = |zone: &str| format!("{{server=\"dns://:53\",zone=\"{zone}\",view=\"\"}}");
        assert_eq!(bench.metric(&format!("coredns_acl_blocked_requests_total{}", labels("."))), "4");
        assert_eq!(
            bench.metric(&format!("coredns_acl_blocked_requests_total{}", labels("secret.example."))),
            "1"
        );
        assert_eq!(bench.metric(&format!("coredns_acl_filtered_requests_total{}", labels("."))), "1");
        assert_eq!(bench.metric("coredns_acl_allowed_requests_total"), "3");
        for (lines, want) in [
            ("acl {\nforbid\n}", "\"forbid\": not allow, block, filter or drop"),
            ("acl {\nblock x\n}", "\"x\": neither type nor net"),
            ("acl {\nblock type\n}", "\"type\": takes arguments"),
            ("acl {\nblock type WHAT\n}", "\"WHAT\": no type"),
            ("acl {\nblock net 10.0.0\n}", "\"10.0.0\": neither an address nor a network"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
