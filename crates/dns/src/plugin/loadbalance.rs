//! `loadbalance`: another order of the addresses in every answer.
//!
//! ```text
//! loadbalance [round_robin | weighted FILE] {
//!     reload DURATION
//!     prefer CIDR…
//! }
//! ```
//!
//! Addresses and MX records are shuffled and stand behind all others; CNAMEs stand first. With
//! `weighted`, only the address that stands first is chosen, by weights from a file. With
//! `prefer`, addresses in the networks come first, those of the first network before those of the next.

mod weights;

use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::random;
use crate::setup::{Setting, duration};
use model::Prefix;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use weights::WeightFile;
use wire::{Rcode, Record, Reply, Section, Type};

/// So often a file of weights is looked at.
const RELOAD_DEFAULT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct LoadBalance {
    prefer: Vec<Prefix>,
    weights: Option<Arc<WeightFile>>,
    reloading: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut prefer = Vec::new();
    let mut weights = None;
    for line in setting.lines {
        let mut reload = RELOAD_DEFAULT;
        for option in &line.block {
            option.no_block()?;
            match option.name.text.as_str() {
                "prefer" => {
                    for word in &option.args {
                        prefer.push(word.text.parse().map_err(|error| word.error(error))?);
                    }
                }
                "reload" if line.args.first().is_some_and(|policy| policy.text == "weighted") => {
                    let [word] = option.exactly()?;
                    reload = duration(word)?;
                }
                _ => return Err(option.unknown_option("loadbalance")),
            }
        }
        match line.args.as_slice() {
            [] => {}
            [policy, rest @ ..] => match (policy.text.as_str(), rest) {
                ("round_robin", []) => {}
                ("round_robin", [extra, ..]) => return Err(extra.error("round_robin takes no more")),
                ("weighted", [file]) => {
                    let opened = WeightFile::open(setting.block.path(&file.text), reload);
                    weights = Some(Arc::new(opened.map_err(|what| file.error(what))?));
                }
                ("weighted", _) => return Err(policy.error("weighted takes a file")),
                _ => return Err(policy.error("no such policy")),
            },
        }
    }
    Ok(Some(Arc::new(LoadBalance { prefer, weights, reloading: Mutex::default() })))
}

/// Where a record stands in its section.
fn rank(record: &Record) -> u8 {
    match record.rtype {
        Type::CNAME => 0,
        Type::A | Type::AAAA => 2,
        Type::MX => 3,
        _ => 1,
    }
}

impl Plugin for LoadBalance {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        let (asked, question) = (exchange.asked.question.rtype, exchange.original.name);
        let transfer = matches!(asked, Type::AXFR | Type::IXFR);
        let reply = &mut exchange.reply;
        if reply.rcode == Rcode::NOERROR && !transfer && reply.records().len() > 1 {
            match &self.weights {
                None => shuffle(reply),
                Some(weights) => {
                    put_in_order(reply);
                    if matches!(asked, Type::A | Type::AAAA | Type::SRV) {
                        weights.choose(reply, &question);
                    }
                }
            }
            if !self.prefer.is_empty() {
                self.put_preferred_first(reply);
            }
        }
        Onward::Done
    }

    fn start(self: Arc<Self>) {
        let Some(weights) = self.weights.clone().filter(|weights| !weights.reload.is_zero()) else { return };
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(weights.reload).await;
                let weights = weights.clone();
                // A task that panicked has said so.
                let _ = tokio::task::spawn_blocking(move || weights.look_again()).await;
            }
        });
        *self.reloading.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn stop(&self) {
        if let Some(task) = self.reloading.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// What records are compared by: those that are equal may change places.
fn key(record: &Record) -> (Section, u8) {
    (record.section, rank(record))
}

fn put_in_order(reply: &mut Reply) {
    let records = reply.records_mut();
    if !records.is_sorted_by_key(key) {
        records.sort_by_key(key);
    }
}

fn shuffle(reply: &mut Reply) {
    put_in_order(reply);
    let records = reply.records_mut();
    // Runs of records that may change places with each other.
    for run in records.chunk_by_mut(|a, b| key(a) == key(b)) {
        if run.first().is_some_and(|record| rank(record) >= 2) {
            for last in (1..run.len()).rev() {
                run.swap(last, random::below(last + 1));
            }
        }
    }
}

impl LoadBalance {
    fn put_preferred_first(&self, reply: &mut Reply) {
        let mut keyed: Vec<((_, u8, usize), Record)> = Vec::with_capacity(reply.records().len());
        for record in reply.records() {
            let address = reply.address(record);
            let network = address.and_then(|ip| self.prefer.iter().position(|network| network.contains(ip)));
            keyed.push(((record.section, rank(record), network.unwrap_or(usize::MAX)), *record));
        }
        keyed.sort_by_key(|(key, _)| *key);
        for (place, (_, record)) in reply.records_mut().iter_mut().zip(keyed) {
            *place = record;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use wire::{Name, Owner};

    fn shown(reply: &Reply) -> Vec<String> {
        let show = |record: &Record| reply.show(record, &Name::ROOT).to_string();
        reply.records().iter().map(show).map(|text| text.replace(". 5 IN ", "")).collect()
    }

    #[test]
    fn every_order_comes_and_other_records_keep_theirs() {
        let mut reply = Reply::default();
        for n in 1..=3 {
            reply.push_address(Section::Answer, Owner::QUESTION, 5, IpAddr::from([10, 0, 0, n]));
        }
        reply.push(Section::Answer, Owner::QUESTION, Type::TXT, 5, b"\x01x");
        reply.push_name(Section::Answer, Owner::QUESTION, Type::CNAME, 5, &Name::ROOT);
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            shuffle(&mut reply);
            let shown = shown(&reply);
            assert_eq!(shown[..2], ["CNAME .", "TXT \"x\""]);
            orders.insert(shown);
        }
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn preferred_networks_come_first() {
        let mut reply = Reply::default();
        for text in ["10.2.0.1", "10.1.0.1", "192.0.2.1", "10.2.0.2"] {
            reply.push_address(Section::Answer, Owner::QUESTION, 5, text.parse().unwrap());
        }
        let prefer = ["192.0.2.0/24", "10.2.0.0/16"].map(|text| text.parse().unwrap()).to_vec();
        LoadBalance { prefer, ..LoadBalance::default() }.put_preferred_first(&mut reply);
        assert_eq!(shown(&reply), ["A 192.0.2.1", "A 10.2.0.1", "A 10.2.0.2", "A 10.1.0.1"]);
    }
}
