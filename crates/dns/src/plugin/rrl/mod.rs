//! `rrl`: answers by datagram to one network only so often, so that we are of no use to who asks in the
//! name of a victim. Not in CoreDNS itself; the options are those of its external plugin `rrl`.
//!
//! ```text
//! rrl [ZONE...] {
//!     window SECONDS
//!     ipv4-prefix-length LENGTH
//!     ipv6-prefix-length LENGTH
//!     responses-per-second ALLOWANCE
//!     nodata-per-second|nxdomains-per-second|referrals-per-second|errors-per-second ALLOWANCE
//!     requests-per-second ALLOWANCE
//!     slip-ratio N
//!     max-table-size SIZE
//!     report-only
//! }
//! ```
//!
//! Streams are left alone: who has one is where it says.

mod table;

use super::per_chain::PerChain;
use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::{Exchange, Outcome, Transport};
use crate::metrics::{Counter, Metrics};
use crate::random;
use crate::setup::{Setting, number};
use model::Prefix;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use table::{Rate, Table};
use wire::{Name, Rcode, Section, Type};

const WINDOW_DEFAULT_S: u32 = 15;
const WINDOW_MAX_S: u32 = 3600;
const V4_BITS_DEFAULT: u8 = 24;
const V6_BITS_DEFAULT: u8 = 56;
const TABLE_DEFAULT: usize = 100_000;
const TABLE_MAX: usize = 10_000_000;
const SLIP_MAX: usize = 10;

/// What kind of answer it is; each kind has an allowance and accounts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Response,
    NoData,
    NoSuchName,
    Referral,
    Error,
    Request,
}

impl Kind {
    const ALL: [(Kind, &'static str); 6] = [
        (Kind::Response, "responses-per-second"),
        (Kind::NoData, "nodata-per-second"),
        (Kind::NoSuchName, "nxdomains-per-second"),
        (Kind::Referral, "referrals-per-second"),
        (Kind::Error, "errors-per-second"),
        (Kind::Request, "requests-per-second"),
    ];

    /// The kind of an answer, and the name that it is about: all names that do not exist are one.
    fn of(exchange: &Exchange) -> (Kind, Name) {
        let (reply, question) = (&exchange.reply, exchange.original.name);
        let authority = |rtype: Type| {
            let found = reply.section(Section::Authority).find(|record| record.rtype == rtype);
            found.map(|record| reply.owner(record, &question))
        };
        match reply.rcode {
            Rcode::NXDOMAIN => (Kind::NoSuchName, authority(Type::SOA).unwrap_or_default()),
            Rcode::NOERROR if reply.count(Section::Answer) > 0 => (Kind::Response, question),
            Rcode::NOERROR => match (authority(Type::SOA), authority(Type::NS)) {
                (None, Some(zone)) => (Kind::Referral, zone),
                _ => (Kind::NoData, question),
            },
            _ => (Kind::Error, Name::ROOT),
        }
    }
}

struct Rrl {
    zones: Vec<Name>,
    bits: [u8; 2],
    window_s: u32,
    /// By kind; 0 for no limit.
    allowances: [u32; Kind::ALL.len()],
    /// One of so many answers that are too many is sent, truncated; 0 for none.
    slip: usize,
    report_only: bool,
    table: Table,
    began: Instant,
    metrics: Arc<Metrics>,
    counts: PerChain<[Arc<Counter>; 2]>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let mut rrl = Rrl {
        zones: origins(&line.args, &setting.block.zones)?,
        bits: [V4_BITS_DEFAULT, V6_BITS_DEFAULT],
        window_s: WINDOW_DEFAULT_S,
        allowances: [0; Kind::ALL.len()],
        slip: 0,
        report_only: false,
        table: Table::new(TABLE_DEFAULT),
        began: Instant::now(),
        metrics: setting.world.metrics.clone(),
        counts: PerChain::default(),
    };
    let mut said = [None; Kind::ALL.len()];
    for option in &line.block {
        option.no_block()?;
        let kind = Kind::ALL.iter().position(|(_, name)| *name == option.name.text);
        match kind.and_then(|kind| said.get_mut(kind)) {
            Some(said) => *said = Some(bounded(option, 0, u32::MAX)?),
            None => rrl.option(option)?,
        }
    }
    let [responses, others @ .., requests] = said;
    let responses = responses.unwrap_or(0);
    let [nodata, names, referrals, errors] = others.map(|said| said.unwrap_or(responses));
    rrl.allowances = [responses, nodata, names, referrals, errors, requests.unwrap_or(0)];
    if rrl.allowances == [0; Kind::ALL.len()] {
        return Err(line.error("limits nothing: an allowance was expected, like responses-per-second 10"));
    }
    Ok(Some(Arc::new(rrl)))
}

fn bounded<T>(option: &Line, least: T, most: T) -> Result<T, Error>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let [word] = option.exactly()?;
    match number(word)? {
        number if number >= least && number <= most => Ok(number),
        _ => Err(word.error(format_args!("not between {least} and {most}"))),
    }
}

impl Rrl {
    fn option(&mut self, option: &Line) -> Result<(), Error> {
        let [v4, v6] = &mut self.bits;
        match option.name.text.as_str() {
            "window" => self.window_s = bounded(option, 1, WINDOW_MAX_S)?,
            "ipv4-prefix-length" => *v4 = bounded(option, 1, 32)?,
            "ipv6-prefix-length" => *v6 = bounded(option, 1, 128)?,
            "slip-ratio" => self.slip = bounded(option, 0, SLIP_MAX)?,
            "max-table-size" => self.table = Table::new(bounded(option, 1, TABLE_MAX)?),
            "report-only" => {
                option.no_arguments()?;
                self.report_only = true;
            }
            _ => return Err(option.unknown_option("rrl")),
        }
        Ok(())
    }

    fn is_for(&self, exchange: &Exchange) -> bool {
        exchange.from.transport == Transport::Udp
            && self.zones.iter().any(|zone| exchange.original.name.is_in(zone))
    }

    fn allowance(&self, kind: Kind) -> Option<Rate> {
        let place = Kind::ALL.iter().position(|(other, _)| *other == kind)?;
        let per_s = self.allowances.get(place).copied().filter(|allowance| *allowance > 0)?;
        Some(Rate { per_s, window_s: self.window_s })
    }

    /// The network that an asker belongs to.
    fn network(&self, client: IpAddr) -> Option<Prefix> {
        let [v4, v6] = self.bits;
        let client = client.to_canonical();
        Prefix::new(client, if client.is_ipv4() { v4 } else { v6 })
    }

    /// Whether it is one too many, which is counted.
    fn exceeds(&self, kind: Kind, about: (Name, Type), exchange: &Exchange, at: &At<'_>) -> bool {
        let Some(rate) = self.allowance(kind) else { return false };
        let network = self.network(exchange.from.client.ip());
        let now = exchange.received.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX / 2);
        let (name, rtype) = about;
        if self.table.book((network, kind, name.lowercase(), rtype), rate, now) {
            return false;
        }
        let [requests, responses] = &*self.counts.of(at.chain, || {
            let chain = at.chain;
            let labels = [("server", &*chain.server), ("zone", &*chain.zone_label), ("view", &*chain.view)];
            let help = "Counter of requests and responses exceeding the limit of their network.";
            ["coredns_rrl_requests_exceeded_total", "coredns_rrl_responses_exceeded_total"]
                .map(|name| self.metrics.counter(name, help, &labels))
        });
        (if kind == Kind::Request { requests } else { responses }).count();
        !self.report_only
    }
}

impl Plugin for Rrl {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        if self.is_for(exchange) && self.exceeds(Kind::Request, Default::default(), exchange, at) {
            return Step::Done(Outcome::Silence);
        }
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, at: &At<'_>) -> Onward {
        if exchange.is_silent() || !self.is_for(exchange) {
            return Onward::Done;
        }
        let (kind, name) = Kind::of(exchange);
        let rtype = if kind == Kind::Response { exchange.original.rtype } else { Type::default() };
        if self.exceeds(kind, (name, rtype), exchange, at) {
            // By stream it would get its answer, if it is who it says.
            if self.slip > 0 && random::below(self.slip) == 0 {
                exchange.reply.retain(|_| false);
                exchange.reply.truncated = true;
            } else {
                exchange.outcome = Some(Outcome::Silence);
            }
        }
        Onward::Done
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};
    use std::time::Duration;

    /// What becomes of so many questions from an address at once: how many answers, and how many of
    /// these are truncated.
    fn flood(bench: &Bench, count: usize, client: &str, question: &str) -> (usize, usize) {
        let all: Vec<String> = (0..count).map(|_| bench.ask_from(client, question)).collect();
        let answers = all.iter().filter(|answer| *answer != "silence");
        let truncated = answers.clone().filter(|answer| answer.contains(" tc"));
        (answers.count(), truncated.count())
    }

    const HOSTS: &str = "hosts {\n10.0.0.1 a.test b.test\nfallthrough\n}\n\
                         template IN ANY none.test {\nrcode NXDOMAIN\nauthority \"none.test. 60 SOA ns.test. root.test. 1 2 3 4 5\"\n}";

    #[test]
    fn a_network_gets_so_much_and_others_get_theirs() {
        let bench =
            Bench::of(&format!("rrl {{\nresponses-per-second 5\nnxdomains-per-second 2\n}}\n{HOSTS}"));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "a.test A"), (5, 0));
        // The same network; another name; another network; a stream.
        assert_eq!(flood(&bench, 50, "192.0.2.200", "A.test A"), (0, 0));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "b.test A"), (5, 0));
        assert_eq!(flood(&bench, 50, "192.0.3.1", "a.test A"), (5, 0));
        assert_eq!(flood(&bench, 50, "2001:db8::1", "a.test A"), (5, 0));
        assert_eq!(flood(&bench, 50, "2001:db8::ffff", "a.test A"), (0, 0));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "a.test A tcp"), (50, 0));
        // All names that do not exist are one.
        let names = (0..50).map(|n| flood(&bench, 1, "192.0.2.1", &format!("x{n}.none.test A")).0);
        assert_eq!(names.sum::<usize>(), 2);
        bench.pass_time(Duration::from_secs(60));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "a.test A"), (5, 0));
        let metric = "coredns_rrl_responses_exceeded_total{server=\"dns://:53\",zone=\".\",view=\"\"}";
        assert_eq!(bench.metric(metric), (45 + 50 + 3 * 45 + 50 + 48 + 45).to_string());
    }

    #[test]
    fn some_are_told_to_come_by_stream() {
        let bench = Bench::of(&format!("rrl {{\nresponses-per-second 5\nslip-ratio 1\n}}\n{HOSTS}"));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "a.test A"), (50, 45));
        let bench =
            Bench::of(&format!("rrl {{\nresponses-per-second 5\nslip-ratio 1\nreport-only\n}}\n{HOSTS}"));
        assert_eq!(flood(&bench, 50, "192.0.2.1", "a.test A"), (50, 0));
    }

    #[test]
    fn questions_can_be_counted_whatever_they_ask() {
        let bench =
            Bench::of(&format!("rrl test {{\nrequests-per-second 3\nipv4-prefix-length 32\n}}\n{HOSTS}"));
        assert_eq!(flood(&bench, 10, "192.0.2.1", "a.test A"), (3, 0));
        assert_eq!(flood(&bench, 10, "192.0.2.1", "b.test A"), (0, 0));
        assert_eq!(flood(&bench, 10, "192.0.2.2", "b.test A"), (3, 0));
        assert_eq!(flood(&bench, 10, "192.0.2.1", "elsewhere A"), (10, 0));
    }

    #[test]
    fn mistakes() {
        for (lines, want) in [
            ("rrl", "\"rrl\": limits nothing"),
            ("rrl {\nwindow 0\n}", "\"0\": not between 1 and 3600"),
            ("rrl {\nslip-ratio 11\n}", "\"11\": not between 0 and 10"),
            ("rrl {\nipv4-prefix-length 33\n}", "\"33\": not between 1 and 32"),
            ("rrl {\nresponses-per-second x\n}", "\"x\": no number"),
            ("rrl {\nwhat 1\n}", "\"what\": no option of plugin rrl"),
        ] {
            assert!(refused(lines).contains(want), "{lines}: {}", refused(lines));
        }
    }
}
