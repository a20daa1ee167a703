//! What `file`, `auto` and `secondary` share: zones that are replaced as a whole while they answer.

use super::fall::Fall;
use crate::chain::{At, Step};
use crate::exchange::{Exchange, Outcome};
use crate::setup::Notify;
use crate::zone::{Answer, Found, Zone};
use crate::zonefile::{Error, Record, parse};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use wire::{Name, Opcode, Question, Rcode, Section, Type};

/// A larger zone file is not read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A zone that answers. Without contents it cannot tell.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) origin: Name,
    pub(super) zone: ArcSwapOption<Zone>,
}

impl Served {
    pub(super) fn new(origin: Name, zone: Option<Zone>) -> Arc<Served> {
        Arc::new(Served { origin, zone: ArcSwapOption::from_pointee(zone) })
    }
}

/// By origin in lower case.
type ByOrigin = HashMap<Box<[u8]>, Arc<Served>>;

/// Zones by name.
#[derive(Debug, Default)]
pub(super) struct Zones(ArcSwap<ByOrigin>);

impl Zones {
    pub(super) fn new(zones: impl IntoIterator<Item = Arc<Served>>) -> Zones {
        let by_origin = zones.into_iter().map(|zone| (zone.origin.lowercase().as_bytes().into(), zone));
        Zones(ArcSwap::from_pointee(by_origin.collect()))
    }

    /// Serves these from now on.
    pub(super) fn replace(&self, zones: impl IntoIterator<Item = Arc<Served>>) {
        self.0.store(Zones::new(zones).0.load_full());
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Served>> {
        self.0.load().values().cloned().collect()
    }

    /// The zone of this very name.
    pub(super) fn get(&self, origin: &Name) -> Option<Arc<Served>> {
        self.0.load().get(origin.lowercase().as_bytes()).cloned()
    }

    /// The longest zone that a name is in.
    pub(super) fn of(&self, name: &Name) -> Option<Arc<Served>> {
        let zones = self.0.load();
        let lower = name.lowercase();
        let mut labels = lower.labels();
        loop {
            if let Some(zone) = zones.get(labels.rest()) {
                return Some(zone.clone());
            }
            labels.next()?;
        }
    }

    /// The records of a zone, the SOA first.
    pub(super) fn records(&self, origin: &Name) -> Option<Vec<Record>> {
        Some(self.get(origin)?.zone.load_full()?.records())
    }
}

/// An alias that leads out of the zone.
struct Chase {
    zone: Arc<Zone>,
    target: Name,
}

/// Whether it is a notification rather than a question.
pub(super) fn is_notify(exchange: &Exchange) -> bool {
    exchange.asked.flags >> 11 & 15 == u16::from(Opcode::NOTIFY.0)
}

/// Answers from the zones.
pub(super) fn ask(zones: &Zones, fall: &Fall, exchange: &mut Exchange, at: &At<'_>) -> Step {
    let question = exchange.asked.question;
    let Some(served) = zones.of(&question.name) else { return Step::Pass };
    if [Type::AXFR, Type::IXFR].contains(&question.rtype) {
        return Step::Done(Outcome::Refused);
    }
    if is_notify(exchange) {
        return Step::Done(Outcome::Silence);
    }
    let Some(zone) = served.zone.load_full() else {
        return Step::Done(Outcome::Failed(format!("zone {} has no contents", served.origin)));
    };
    let answer = zone.answer(&question, exchange.asked.dnssec_ok(), &mut exchange.reply);
    settle(exchange, at, fall, zone, answer)
}

fn settle(exchange: &mut Exchange, at: &At<'_>, fall: &Fall, zone: Arc<Zone>, answer: Answer) -> Step {
    let none = exchange.reply.count(Section::Answer) == 0;
    let nothing = matches!(answer.found, Found::NoSuchName | Found::Empty);
    if none && nothing && fall.through(&exchange.asked.question.name) {
        exchange.reply.clear();
        return Step::Pass;
    }
    if let Some(target) = answer.target {
        exchange.note(at.index, Chase { zone, target });
        return Step::Later;
    }
    Step::Done(match answer.found {
        Found::Records | Found::Delegation => Outcome::Records,
        Found::NoData | Found::Empty => Outcome::NoData,
        Found::NoSuchName => Outcome::NoSuchName,
        Found::Failure => Outcome::Failed("the zone cannot answer this".into()),
    })
}

/// Looks up where an alias leads that leaves the zone.
pub(super) async fn chase(exchange: &mut Exchange, at: &At<'_>) -> Step {
    let Some(chase) = exchange.take_note::<Chase>(at.index) else { return Step::Pass };
    let Chase { zone, target } = *chase;
    let asked = exchange.asked.question;
    let found = at.inquire(exchange, Question { name: target, ..asked }).await;
    let dnssec = exchange.asked.dnssec_ok();
    let mut denial = false;
    match found {
        None => exchange.reply.rcode = Rcode::SERVFAIL,
        Some(found) => match found.outcome {
            Some(Outcome::Failed(_)) => exchange.reply.rcode = Rcode::SERVFAIL,
            // Nobody here answers for that name: the asker has to.
            Some(Outcome::Refused | Outcome::Silence) | None => {}
            Some(_) => {
                exchange.reply.extend(&found.reply, &target, |record| record.section == Section::Answer);
                let rcode = found.reply.rcode;
                denial = rcode == Rcode::NXDOMAIN
                    || rcode == Rcode::NOERROR && found.reply.count(Section::Answer) == 0;
                if [Rcode::NXDOMAIN, Rcode::SERVFAIL].contains(&rcode) {
                    exchange.reply.rcode = rcode;
                }
            }
        },
    }
    zone.push_beside(&asked, denial, dnssec, &mut exchange.reply);
    Step::Done(Outcome::Given)
}

/// Reads a zone from its file.
pub(super) fn read_file(path: &Path, origin: &Name) -> Result<Zone, Error> {
    let shown = path.display().to_string();
    let wrong = |what: String| Error { file: shown.clone(), line: 0, what };
    let read = |path: &Path| {
        let size = path.metadata()?.len();
        if size > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read(path).map_err(|error| wrong(error.to_string()))?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let include = |name: &str| read(&beside.join(name));
    let records = parse(&shown, &text, origin, &include)?;
    Zone::new(origin, records).map_err(wrong)
}

/// Tells all that are to be told that a zone has changed.
pub(super) fn notify(notifies: &[Notify], origin: &Name) {
    for notify in notifies.iter().filter(|notify| notify.zones.iter().any(|zone| origin.is_in(zone))) {
        for to in &notify.to {
            tokio::spawn(super::transfer::notify(*origin, *to, notify.source));
        }
    }
}
