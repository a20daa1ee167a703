//! `transfer`: hands zones to those who serve them, too, and tells them of changes.
//!
//! ```text
//! transfer [ZONE...] {
//!     to ADDRESS...
//!     source ADDRESS
//! }
//! ```
//!
//! The records come from the plugins behind it that are authorities. IXFR is answered with the whole
//! zone, or with its SOA where the asker has it already (RFC 1995 2).

use crate::chain::{At, Plugin, Step};
use crate::corefile::{Error, origins};
use crate::exchange::{Exchange, Outcome};
use crate::random;
use crate::say;
use crate::setup::{Notify, Setting};
use crate::zone::Soa;
use crate::zonefile::Record;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use wire::{Class, Compressor, Envelope, Header, Name, Opcode, Owner, Question, Reply, Section, Type, flags};

/// A message of a transfer holds about so much.
const MESSAGE_BYTES: usize = 16 * 1024;
/// A notification is sent so often, and each time waits so long for an answer.
const NOTIFY_TRIES: u32 = 3;
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

struct Transfer {
    stanzas: Vec<Stanza>,
}

struct Stanza {
    zones: Vec<Name>,
    /// Who may have them; empty for all.
    to: Vec<IpAddr>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut stanzas = Vec::new();
    for line in setting.lines {
        let zones = origins(&line.args, &setting.block.zones)?;
        let (mut to, mut all, mut source) = (Vec::new(), false, None);
        for option in &line.block {
            option.no_block()?;
            match option.name.text.as_str() {
                "to" => {
                    for word in option.at_least_one()? {
                        if word.text == "*" {
                            all = true;
                            continue;
                        }
                        to.push(
                            super::forward::address(&word.text, 53)
                                .ok_or_else(|| word.error("no address"))?,
                        );
                    }
                }
                "source" => {
                    let [word] = option.exactly()?;
                    source = Some(word.text.parse().map_err(|_| word.error("no address"))?);
                }
                _ => return Err(option.unknown_option("transfer")),
            }
        }
        if to.is_empty() && !all {
            return Err(line.error("says to nobody: \"to\" is missing"));
        }
        let who = if all { Vec::new() } else { to.iter().map(SocketAddr::ip).collect() };
        stanzas.push(Stanza { zones: zones.clone(), to: who });
        setting.block.notifies.push(Notify { zones, to, source });
    }
    Ok(Some(Arc::new(Transfer { stanzas })))
}

impl Plugin for Transfer {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let question = exchange.asked.question;
        if ![Type::AXFR, Type::IXFR].contains(&question.rtype) {
            return Step::Pass;
        }
        let zone_of = |stanza: &Stanza| {
            let zones = stanza.zones.iter().filter(|zone| question.name.is_in(zone));
            zones.map(Name::label_count).max()
        };
        let stanzas = self.stanzas.iter().filter_map(|stanza| Some((zone_of(stanza)?, stanza)));
        let Some((_, stanza)) = stanzas.max_by_key(|(labels, _)| *labels) else { return Step::Pass };
        let client = exchange.from.client.ip().to_canonical();
        let allowed = stanza.to.is_empty() || stanza.to.contains(&client);
        if !allowed || !exchange.from.transport.takes_many() {
            return Step::Done(Outcome::Refused);
        }
        let behind = at.chain.links().iter().skip(at.index + 1);
        let Some(records) = behind.filter_map(|link| link.plugin.zone_records(&question.name)).next() else {
            return Step::Pass;
        };
        let (zone, count) = (question.name, records.len());
        hand_over(exchange, &records);
        say::info(format_args!(
            "plugin/transfer: Outgoing transfer of {count} records of zone {zone} to {client}"
        ));
        Step::Done(Outcome::Records)
    }
}

/// Puts records into as many messages as they need, between two copies of the SOA.
fn hand_over(exchange: &mut Exchange, records: &[Record]) {
    let Some(soa) = records.first() else { return };
    let serial = Soa::read(&soa.rdata).map(|soa| soa.serial);
    let current = exchange.asked.question.rtype == Type::IXFR && serial == exchange.asked.serial;
    let all = if current { records.get(..1).unwrap_or_default() } else { records };
    let last = (!current).then_some(soa);
    let mut messages = vec![message()];
    let mut size = 0;
    for record in all.iter().chain(last) {
        if size > MESSAGE_BYTES {
            messages.push(message());
            size = 0;
        }
        size += record.owner.as_bytes().len() + 10 + record.rdata.len();
        let Some(reply) = messages.last_mut() else { continue };
        let owner = if record.owner.is(&exchange.asked.question.name) {
            Owner::QUESTION
        } else {
            reply.own(&record.owner)
        };
        reply.push(Section::Answer, owner, record.rtype, record.ttl, &record.rdata);
    }
    let mut messages = messages.into_iter();
    if let Some(first) = messages.next() {
        exchange.reply = first;
    }
    exchange.more = messages.collect();
}

fn message() -> Reply {
    let mut reply = Reply::default();
    reply.authoritative = true;
    reply
}

/// Tells another server that a zone has changed (RFC 1996).
pub(super) async fn notify(zone: Name, to: SocketAddr, source: Option<IpAddr>) {
    for _ in 0..NOTIFY_TRIES {
        match timeout(NOTIFY_TIMEOUT, notify_once(&zone, to, source)).await {
            Ok(Ok(())) => return,
            Ok(Err(_)) => tokio::time::sleep(NOTIFY_TIMEOUT).await,
            Err(_) => {}
        }
    }
    say::warning(format_args!("plugin/transfer: Failed to send NOTIFY to {to} for zone {zone}"));
}

async fn notify_once(zone: &Name, to: SocketAddr, source: Option<IpAddr>) -> std::io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).await?;
    socket.connect(to).await?;
    let id = random::u16();
    let question = Question { name: *zone, rtype: Type::SOA, class: Class::IN };
    let mut message = Vec::new();
    Reply::default().encode(&Envelope::of_question(id, question), &mut Compressor::default(), &mut message);
    let word = u16::from(Opcode::NOTIFY.0) << 11 | flags::AA;
    if let Some(into) = message.get_mut(2..4) {
        into.copy_from_slice(&word.to_be_bytes());
    }
    socket.send(&message).await?;
    let mut answer = [0; 512];
    loop {
        let size = socket.recv(&mut answer).await?;
        let header = answer.get(..size).and_then(Header::read);
        if header.is_some_and(|header| header.id == id && header.is_response()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused, scratch};

    const ZONE: &str = "$TTL 60\n@ SOA ns root 7 7200 1800 86400 300\n@ NS ns\nns A 10.0.0.1\n";

    #[test]
    fn zones_go_to_those_who_may_have_them() {
        let dir = scratch("transfer-out");
        dir.write("db", ZONE);
        let big: String = (0..3000).map(|number| format!("h{number} A 10.0.0.1\n")).collect();
        dir.write("big", &format!("{ZONE}{big}"));
        let bench = Bench::new(&format!(
            "org {{\nroot {}\nfile db example.org\nfile big big.org\ntransfer example.org {{\nto 10.240.0.1\n}}\n\
             transfer big.org other.org {{\nto *\n}}\n}}",
            dir.path()
        ));
        let soa = "example.org. 60 IN SOA ns.example.org. root.example.org. 7 7200 1800 86400 300";
        let whole = format!(
            "NOERROR aa {soa}; example.org. 60 IN NS ns.example.org.; ns.example.org. 60 IN A 10.0.0.1; {soa}"
        );
        let sorted = |text: String| {
            let mut parts: Vec<String> =
                text.trim_start_matches("NOERROR aa ").split("; ").map(str::to_owned).collect();
            assert_eq!(parts.first(), parts.last());
            parts.sort();
            parts
        };
        assert_eq!(sorted(bench.ask("example.org AXFR tcp")), sorted(whole.clone()));
        assert_eq!(sorted(bench.ask("example.org IXFR tcp")), sorted(whole));
        for (client, question) in [
            ("10.240.0.1", "example.org AXFR"),
            ("10.240.0.2", "example.org AXFR tcp"),
            ("10.240.0.1", "a.org AXFR tcp"),
            ("10.240.0.1", "other.org AXFR tcp"),
        ] {
            let answer = bench.ask_from(client, question);
            assert!(answer == "REFUSED" || answer == "SERVFAIL", "{question}: {answer}");
        }
        let exchange = bench.exchange_from("192.0.2.1", "big.org AXFR tcp");
        let messages = 1 + exchange.more.len();
        let records: usize = exchange.reply.records().len()
            + exchange.more.iter().map(|reply| reply.records().len()).sum::<usize>();
        assert_eq!(records, 3004);
        assert!(messages > 2, "{messages}");
    }

    #[test]
    fn others_are_told_of_a_zone() {
        let dir = scratch("transfer-notify");
        dir.write("db", ZONE);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let _bench = Bench::new(&format!(
            "example.org {{\nfile {}/db\ntransfer {{\nto {}\nsource 127.0.0.9\n}}\n}}",
            dir.path(),
            socket.local_addr().unwrap()
        ));
        let mut bytes = [0; 512];
        let (size, from) = socket.recv_from(&mut bytes).unwrap();
        let mut asked = wire::Asked::default();
        asked.read(&bytes[..size]).unwrap();
        assert_eq!((asked.flags, asked.question.rtype), (0x2400, wire::Type::SOA));
        assert_eq!(
            (asked.question.name.to_string().as_str(), from.ip().to_string().as_str()),
            ("example.org.", "127.0.0.9")
        );
        for (lines, want) in [
            ("transfer", "\"transfer\": says to nobody"),
            ("transfer {\nto x\n}", "\"x\": no address"),
            ("transfer {\nto *\nwhat\n}", "\"what\": no option of plugin transfer"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
