//! `secondary`: serves zones that it fetches from their primary.
//!
//! ```text
//! secondary [ZONE...] {
//!     transfer from ADDRESS [ADDRESS...]
//!     fallthrough [ZONE...]
//! }
//! ```
//!
//! A zone is fetched whole (AXFR) at the start, when its primary says that it has changed, and when a
//! look at its SOA shows that, as often as that says. One that could not be looked at for as long as
//! its SOA says expires.

use super::authority::{self, Served, Zones};
use super::fall::Fall;
use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, origins};
use crate::exchange::{Exchange, Outcome};
use crate::say;
use crate::setup::{Notify, Setting};
use crate::upstream::{Carrier, Fit, Query, Stream};
use crate::zone::{Soa, Zone, is_newer};
use crate::zonefile::Record;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use wire::{Message, Name, Rcode, Reply, Section, Type};

/// For a connection, and for each message on it.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A zone with more bytes of data is not taken.
const ZONE_BYTES_MAX: usize = 1 << 30;
/// Between tries where there is no zone yet that says how long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const FIRST_RETRY_MAX: Duration = Duration::from_secs(60);
/// No zone is looked at more often, whatever its SOA says.
const INTERVAL_MIN_S: u32 = 1;

struct Secondary {
    zones: Zones,
    fall: Fall,
    keepers: Vec<Arc<Keeper>>,
    /// By origin in lower case.
    by_origin: HashMap<Box<[u8]>, Arc<Keeper>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What keeps one zone as new as its primary's.
struct Keeper {
    served: Arc<Served>,
    primaries: Vec<SocketAddr>,
    notifies: Vec<Notify>,
    wake: tokio::sync::Notify,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut fall = Fall::default();
    let mut keepers = Vec::new();
    for line in setting.lines {
        let mut primaries = Vec::new();
        for option in &line.block {
            option.no_block()?;
            match option.name.text.as_str() {
                "transfer" => {
                    let [from, addresses @ ..] = option.args.as_slice() else {
                        return Err(option.error("takes from and addresses"));
                    };
                    if from.text != "from" || addresses.is_empty() {
                        return Err(option.error("takes from and addresses"));
                    }
                    for word in addresses {
                        let address = super::forward::address(&word.text, 53);
                        primaries.push(address.ok_or_else(|| word.error("no address"))?);
                    }
                }
                "fallthrough" => fall.read(option)?,
                "upstream" => {}
                _ => return Err(option.unknown_option("secondary")),
            }
        }
        if primaries.is_empty() {
            return Err(line.error("says from nobody: \"transfer from\" is missing"));
        }
        for origin in origins(&line.args, &setting.block.zones)? {
            keepers.push(Arc::new(Keeper {
                served: Served::new(origin, None),
                primaries: primaries.clone(),
                notifies: setting.block.notifies.clone(),
                wake: tokio::sync::Notify::new(),
            }));
        }
    }
    let zones = Zones::new(keepers.iter().map(|keeper| keeper.served.clone()));
    let key = |keeper: &Arc<Keeper>| keeper.served.origin.lowercase().as_bytes().into();
    let by_origin = keepers.iter().map(|keeper| (key(keeper), keeper.clone())).collect();
    Ok(Some(Arc::new(Secondary { zones, fall, keepers, by_origin, tasks: Mutex::default() })))
}

impl Keeper {
    async fn keep(self: Arc<Self>) {
        let origin = self.served.origin;
        let mut looked = Instant::now();
        let mut pause = FIRST_RETRY;
        loop {
            let done = self.look().await;
            let soa = self.served.zone.load().as_ref().and_then(|zone| zone.soa());
            let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds.max(INTERVAL_MIN_S)));
            let wait = match (done, soa) {
                (Ok(changed), Some(soa)) => {
                    looked = Instant::now();
                    if changed {
                        let serial = soa.serial;
                        say::info(format_args!(
                            "plugin/secondary: Transferred: {origin} with {serial} SOA serial"
                        ));
                        authority::notify(&self.notifies, &origin);
                    }
                    seconds(soa.refresh_s)
                }
                (Err(what), soa) => {
                    say::error(format_args!("plugin/secondary: Failed to transfer {origin}: {what}"));
                    match soa {
                        Some(soa) if looked.elapsed() > seconds(soa.expire_s) => {
                            say::error(format_args!("plugin/secondary: Zone {origin} is expired"));
                            self.served.zone.store(None);
                            FIRST_RETRY
                        }
                        Some(soa) => seconds(soa.retry_s),
                        None => {
                            pause = (pause * 2).min(FIRST_RETRY_MAX);
                            pause / 2
                        }
                    }
                }
                (Ok(_), None) => FIRST_RETRY,
            };
            // A notification ends the waiting.
            let _ = timeout(wait, self.wake.notified()).await;
        }
    }

    /// Looks whether a primary has a newer zone, and fetches it.
    async fn look(&self) -> Result<bool, String> {
        let mut trouble = String::from("no primary");
        for primary in &self.primaries {
            match self.look_at(*primary).await {
                Ok(changed) => return Ok(changed),
                Err(what) => trouble = format!("{primary}: {what}"),
            }
        }
        Err(trouble)
    }

    async fn look_at(&self, primary: SocketAddr) -> Result<bool, String> {
        let origin = self.served.origin;
        let text = |trouble: crate::upstream::Trouble| trouble.to_string();
        let connecting = Stream::connect(primary, None, &Carrier::Plain);
        let mut stream =
            timeout(MESSAGE_TIMEOUT, connecting).await.map_err(|_| "no connection")?.map_err(text)?;
        let known = self.served.zone.load().as_ref().map(|zone| zone.serial);
        if let Some(known) = known {
            let query = Query::plain(origin, Type::SOA, false);
            let sent = query.message(false);
            let reply = ask(&mut stream, &query, &sent, true).await?;
            let soa = reply.section(Section::Answer).find(|record| record.rtype == Type::SOA);
            let soa = soa.and_then(|record| Soa::read(reply.rdata(record))).ok_or("no SOA in its answer")?;
            if !is_newer(soa.serial, known) {
                return Ok(false);
            }
        }
        let records = fetch(&mut stream, &origin).await?;
        let zone = Zone::new(&origin, records)?;
        let changed = known != Some(zone.serial);
        self.served.zone.store(Some(Arc::new(zone)));
        Ok(changed)
    }
}

/// Reads one answer, after sending the query where that is to be done.
async fn ask(stream: &mut Stream, query: &Query, sent: &[u8], send: bool) -> Result<Reply, String> {
    let exchange = async {
        if send {
            stream.write_message(sent).await?;
        }
        stream.read_message().await
    };
    let answer = timeout(MESSAGE_TIMEOUT, exchange).await.map_err(|_| "no answer in time")?;
    let answer = answer.map_err(|trouble| trouble.to_string())?;
    // Only the first message of a transfer must repeat the question (RFC 5936 2.2.1).
    let fits = query.fit(sent, &answer) == Fit::Answer || !send && answer.get(..2) == sent.get(..2);
    if !fits {
        return Err("what it says is no answer".into());
    }
    let mut reply = Reply::default();
    Message::read(&answer)
        .and_then(|message| reply.read(&message))
        .map_err(|what| format!("its answer {what}"))?;
    match reply.rcode {
        Rcode::NOERROR => Ok(reply),
        rcode => Err(format!("it says {rcode}")),
    }
}

/// Fetches all records of a zone: those between two copies of its SOA.
async fn fetch(stream: &mut Stream, origin: &Name) -> Result<Vec<Record>, String> {
    let query = Query::plain(*origin, Type::AXFR, false);
    let sent = query.message(false);
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut first = true;
    loop {
        let reply = ask(stream, &query, &sent, first).await?;
        first = false;
        if reply.count(Section::Answer) == 0 {
            return Err("an empty message in its transfer".into());
        }
        for record in reply.section(Section::Answer) {
            let is_soa = record.rtype == Type::SOA;
            if records.is_empty() != is_soa {
                // The first record, and only that and the last, is the SOA.
                return if is_soa {
                    Ok(records)
                } else {
                    Err("its transfer does not begin with a SOA".into())
                };
            }
            let rdata = reply.rdata(record).to_vec();
            bytes += rdata.len() + size_of::<Record>();
            if bytes > ZONE_BYTES_MAX {
                return Err(format!("more than {ZONE_BYTES_MAX} bytes"));
            }
            let owner = reply.owner(record, origin);
            records.push(Record { owner, rtype: record.rtype, class: record.class, ttl: record.ttl, rdata });
        }
    }
}

impl Plugin for Secondary {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        if authority::is_notify(exchange) {
            let name = exchange.asked.question.name.lowercase();
            let client: IpAddr = exchange.from.client.ip().to_canonical();
            if let Some(keeper) = self.by_origin.get(name.as_bytes()) {
                if !keeper.primaries.iter().any(|primary| primary.ip() == client) {
                    say::info(format_args!("plugin/secondary: Dropping notify from {client} for {name}"));
                    return Step::Done(Outcome::Silence);
                }
                say::info(format_args!(
                    "plugin/secondary: Notify from {client} for {name}: checking transfer"
                ));
                keeper.wake.notify_one();
                exchange.reply.authoritative = true;
                return Step::Done(Outcome::Records);
            }
        }
        authority::ask(&self.zones, &self.fall, exchange, at)
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(authority::chase(exchange, at))
    }

    fn zone_records(&self, zone: &Name) -> Option<Vec<Record>> {
        self.zones.records(zone)
    }

    fn start(self: Arc<Self>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.extend(self.keepers.iter().map(|keeper| tokio::spawn(keeper.clone().keep())));
    }

    fn stop(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Act, Bench, Told, refused, soa};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Duration;
    use wire::{Rcode, Section, Type};

    fn soa_of(serial: u8) -> Vec<u8> {
        let mut data = soa(300);
        let at = data.len() - 20;
        data[at..at + 4].copy_from_slice(&u32::from(serial).to_be_bytes());
        // Refresh after a second.
        data[at + 4..at + 8].copy_from_slice(&1_u32.to_be_bytes());
        data
    }

    #[test]
    fn a_zone_is_fetched_and_followed() {
        let serial = Arc::new(AtomicU8::new(1));
        let now = serial.clone();
        let told = Told::new(move |asked, stream| {
            assert!(stream, "zones come by stream");
            let serial = now.load(Ordering::Relaxed);
            let soa = (Section::Answer, Type::SOA, 60, soa_of(serial));
            match asked.question.rtype {
                Type::SOA => Act::Records(Rcode::NOERROR, vec![soa]),
                Type::AXFR => {
                    let address = (Section::Answer, Type::A, 60, vec![10, 0, 0, serial]);
                    Act::Records(Rcode::NOERROR, vec![soa.clone(), address, soa])
                }
                _ => Act::Silence,
            }
        });
        let bench = Bench::new(&format!("example {{\nsecondary {{\ntransfer from {}\n}}\n}}", told.address));
        let until = |what: &str| {
            for _ in 0..800 {
                if bench.ask("example A").contains(what) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("never {what}");
        };
        until("example. 60 IN A 10.0.0.1");
        assert_eq!(bench.ask("x.example A"), "NXDOMAIN aa | example. 60 IN SOA ns. root. 1 1 1800 86400 300");
        serial.store(2, Ordering::Relaxed);
        until("10.0.0.2");
        let questions = told.questions();
        assert_eq!(questions.first().map(String::as_str), Some("tcp example. AXFR"));
        assert_eq!(questions.iter().filter(|line| line.ends_with("AXFR")).count(), 2);
    }

    #[test]
    fn without_a_primary_there_is_no_zone() {
        let told = Told::new(|_, _| Act::Answer(Rcode::REFUSED, Vec::new()));
        let bench = Bench::new(&format!("example {{\nsecondary {{\ntransfer from {}\n}}\n}}", told.address));
        assert_eq!(bench.ask("example A"), "SERVFAIL");
        for (lines, want) in [
            ("secondary", "\"secondary\": says from nobody"),
            ("secondary {\ntransfer to 10.0.0.1\n}", "\"transfer\": takes from and addresses"),
            ("secondary {\ntransfer from x\n}", "\"x\": no address"),
            ("secondary {\nwhat\n}", "\"what\": no option of plugin secondary"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
