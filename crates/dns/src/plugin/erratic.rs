//! `erratic`: answers badly, for those who test clients.
//!
//! ```text
//! erratic {
//!     drop [AMOUNT]
//!     truncate [AMOUNT]
//!     delay [AMOUNT [DURATION]]
//!     large
//! }
//! ```
//!
//! Each counts for one of `AMOUNT` questions. Without options, every other question is dropped.

use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, Line};
use crate::exchange::{Exchange, Outcome};
use crate::setup::{Setting, duration, number};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wire::{Name, Owner, Section, Type};

/// Every other question.
const AMOUNT_DEFAULT: u64 = 2;
/// So many records are a large answer.
const LARGE_COUNT: usize = 30;
/// Addresses for documentation (RFC 5737, RFC 3849).
const V4: [u8; 4] = [192, 0, 2, 53];
const V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];

#[derive(Default)]
struct Erratic {
    questions: AtomicU64,
    drop: u64,
    truncate: u64,
    delay: u64,
    duration: Duration,
    large: bool,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    let mut erratic = Erratic { duration: Duration::from_millis(100), ..Erratic::default() };
    let mut dropping = None;
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "drop" => dropping = Some(amount(option, 1)?),
            "truncate" => erratic.truncate = amount(option, 1)?,
            "delay" => {
                erratic.delay = amount(option, 2)?;
                if let Some(word) = option.args.get(1) {
                    erratic.duration = duration(word)?;
                }
            }
            "large" => {
                option.no_arguments()?;
                erratic.large = true;
            }
            _ => return Err(option.unknown_option("erratic")),
        }
    }
    let nothing = erratic.truncate == 0 && erratic.delay == 0;
    erratic.drop = dropping.unwrap_or(if nothing { AMOUNT_DEFAULT } else { 0 });
    Ok(Some(Arc::new(erratic)))
}

/// The first argument, of no more than so many.
fn amount(option: &Line, most: usize) -> Result<u64, Error> {
    if let Some(extra) = option.args.get(most) {
        return Err(extra.error("one argument too many"));
    }
    option.args.first().map_or(Ok(AMOUNT_DEFAULT), number)
}

impl Plugin for Erratic {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        let turn = |amount: u64| amount > 0 && number.is_multiple_of(amount);
        if turn(self.drop) {
            return Step::Done(Outcome::Silence);
        }
        let outcome = self.answer(exchange, turn(self.truncate));
        if turn(self.delay) {
            exchange.note(at.index, outcome);
            return Step::Later;
        }
        Step::Done(outcome)
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            tokio::time::sleep(self.duration).await;
            let outcome = exchange.take_note::<Outcome>(at.index);
            Step::Done(outcome.map_or(Outcome::Silence, |outcome| *outcome))
        })
    }
}

impl Erratic {
    fn answer(&self, exchange: &mut Exchange, truncated: bool) -> Outcome {
        let Exchange { asked, reply, .. } = exchange;
        reply.authoritative = true;
        reply.truncated = truncated;
        match asked.question.rtype {
            Type::A => {
                for _ in 0..if self.large { LARGE_COUNT } else { 1 } {
                    reply.push(Section::Answer, Owner::QUESTION, Type::A, 0, &V4);
                }
                Outcome::Records
            }
            Type::AAAA => {
                reply.push(Section::Answer, Owner::QUESTION, Type::AAAA, 0, &V6);
                Outcome::Records
            }
            Type::AXFR if exchange.from.transport.takes_many() => {
                self.transfer(exchange, truncated);
                Outcome::Records
            }
            _ => Outcome::Failed("erratic".into()),
        }
    }

    /// A small zone; the SOA at its end is missing where it is to be truncated.
    fn transfer(&self, exchange: &mut Exchange, truncated: bool) {
        let Exchange { asked, reply, .. } = exchange;
        reply.truncated = false;
        let numbers: Vec<u8> =
            [2_018_050_825, 7200, 3600, 1_209_600, 3600].into_iter().flat_map(u32::to_be_bytes).collect();
        let soa = [&b"\x03sns\x03dns\x05icann\x03org\x00\x03noc\x03dns\x05icann\x03org\x00"[..], &numbers];
        reply.push_parts(Section::Answer, Owner::QUESTION, Type::SOA, 0, &soa);
        let below = |label: &[u8]| {
            let mut name = Name::ROOT;
            let whole = name.push(label).and_then(|()| name.append(&asked.question.name));
            whole.map_or(asked.question.name, |()| name)
        };
        let servers = [below(b"a"), below(b"b")];
        for server in &servers {
            reply.push_name(Section::Answer, Owner::QUESTION, Type::NS, 0, server);
        }
        for server in &servers {
            let owner = reply.own(server);
            reply.push(Section::Answer, owner, Type::AAAA, 0, &V6);
        }
        if !truncated {
            reply.push_parts(Section::Answer, Owner::QUESTION, Type::SOA, 0, &soa);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};
    use std::time::{Duration, Instant};

    #[test]
    fn bad_answers_in_turn() {
        let good = "NOERROR aa a. 0 IN A 192.0.2.53";
        let bench = Bench::of("erratic");
        assert_eq!([bench.ask("a A"), bench.ask("a A"), bench.ask("a A")], ["silence", good, "silence"]);
        let bench = Bench::of("erratic {\ntruncate 3\n}");
        let answers = [0; 4].map(|_| bench.ask("a A").contains(" tc"));
        assert_eq!(answers, [true, false, false, true]);
        let bench = Bench::of("erratic {\ndrop 0\nlarge\n}");
        assert_eq!(bench.ask("a A").matches("192.0.2.53").count(), 30);
        assert_eq!(bench.ask("a AAAA"), "NOERROR aa a. 0 IN AAAA 2001:db8::53");
        assert_eq!(bench.ask("a MX"), "SERVFAIL aa");
        assert_eq!(bench.ask("a AXFR tcp").matches("SOA").count(), 2);
        let bench = Bench::of("erratic {\ndelay 2 50ms\n}");
        let start = Instant::now();
        assert_eq!(bench.ask("a A"), good);
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert!(refused("erratic {\ndrop 1 2\n}").contains("\"2\": one argument too many"));
        assert!(refused("erratic {\ndrop -1\n}").contains("\"-1\": no number"));
    }
}
