//! `k8s_external`: what the world outside a cluster calls its Services.
//!
//! ```text
//! k8s_external [ZONE...] {
//!     apex APEX
//!     ttl SECONDS
//!     headless
//!     fallthrough [ZONE...]
//! }
//! ```
//!
//! A second view of what the block's `kubernetes` knows; it has no cluster of its own.

use super::kubernetes::{Kubernetes, Promised, outcome, records};
use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::{Exchange, Outcome};
use crate::setup::{BlockSettings, Setting, number};
use crate::zonefile::Record;
use names::{External, ExternalOutcome, Hosts, Join, ZoneName};
use std::sync::Arc;
use wire::{Class, Name, Owner, Section, Type};

/// The longest time for which answers may be kept.
const TTL_MAX_S: u32 = 3600;

struct K8sExternal {
    external: External,
    kubernetes: Promised,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    if !setting.block.plugins.contains("kubernetes") {
        return Err(line.error("there is no kubernetes in this server block"));
    }
    let external = read(line, setting.block)?;
    Ok(Some(Arc::new(K8sExternal { external, kubernetes: setting.block.kubernetes.clone() })))
}

/// What a directive says, in a block of the root.
pub(super) fn names_external(line: &Line) -> Result<External, Error> {
    read(line, &BlockSettings::of_zone(line, Name::ROOT))
}

fn read(line: &Line, block: &BlockSettings) -> Result<External, Error> {
    let zones = origins(&line.args, &block.zones)?;
    let mut external = External::new(zones.iter().map(|zone| ZoneName::new(zone, false)).collect());
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "apex" => {
                let [word] = option.exactly()?;
                let apex: Name = word.text.parse().map_err(|error| word.error(error))?;
                if apex.is_root() {
                    return Err(word.error("no label"));
                }
                external.apex = apex.lowercase();
            }
            "ttl" => {
                let [word] = option.exactly()?;
                external.ttl_s = match number(word)? {
                    ttl @ 0..=TTL_MAX_S => ttl,
                    _ => return Err(word.error(format_args!("not between 0 and {TTL_MAX_S}"))),
                };
            }
            "headless" => {
                option.no_arguments()?;
                external.headless = true;
            }
            // Without zones it is for all names.
            "fallthrough" => external.fallthrough = origins(&option.args, &[Name::ROOT])?,
            _ => return Err(option.unknown_option("k8s_external")),
        }
    }
    Ok(external)
}

impl K8sExternal {
    /// The plugin that knows the cluster. It is set up behind this one, and then always there.
    fn kubernetes(&self) -> Option<&Arc<Kubernetes>> {
        self.kubernetes.get()
    }
}

impl Plugin for K8sExternal {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let Some(kubernetes) = self.kubernetes() else { return Step::Pass };
        let Exchange { asked, reply, .. } = &mut *exchange;
        if asked.question.class != Class::IN {
            return Step::Pass;
        }
        let zone = kubernetes.zone();
        match names::external(&zone, &kubernetes.options, &self.external, &asked.question, reply) {
            ExternalOutcome::Settled(settled) => outcome(settled, exchange),
            ExternalOutcome::Hosts(hosts) => {
                exchange.note(at.index, hosts);
                Step::Later
            }
        }
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            let Some(note) = exchange.take_note::<Hosts>(at.index) else { return Step::Pass };
            let Hosts { names, join } = *note;
            for host in names {
                match join {
                    Join::Behind => behind(exchange, at, host).await,
                    Join::AsOwn(ttl_max_s) => as_own(exchange, at, host, ttl_max_s).await,
                    Join::Additional => additional(exchange, at, host).await,
                }
            }
            if exchange.reply.count(Section::Answer) > 0 {
                return Step::Done(Outcome::Records);
            }
            if let Some(kubernetes) = self.kubernetes() {
                let question = exchange.asked.question;
                names::external_soa(&kubernetes.zone(), &self.external, &question, &mut exchange.reply);
            }
            Step::Done(Outcome::NoData)
        })
    }

    fn zone_records(&self, zone: &Name) -> Option<Vec<Record>> {
        let kubernetes = self.kubernetes()?;
        let snapshot = kubernetes.zone();
        records(|take| names::transfer_external(&snapshot, &kubernetes.options, &self.external, zone, take))
    }
}

/// What an alias leads to.
async fn behind(exchange: &mut Exchange, at: &At<'_>, host: Name) {
    let rtype = exchange.asked.question.rtype;
    if let Some(found) = at.look_up(exchange, host, rtype).await {
        exchange.reply.extend(&found, &host, |record| record.section == Section::Answer);
        exchange.reply.truncated |= found.truncated;
    }
}

/// The addresses of one of several places.
async fn as_own(exchange: &mut Exchange, at: &At<'_>, host: Name, ttl_max_s: u32) {
    let rtype = exchange.asked.question.rtype;
    let Some(found) = at.look_up(exchange, host, rtype).await else { return };
    for record in found.section(Section::Answer).filter(|record| record.rtype == rtype) {
        let Some(address) = found.address(record) else { continue };
        let known = exchange.reply.section(Section::Answer);
        if !known.filter_map(|record| exchange.reply.address(record)).any(|other| other == address) {
            let ttl_s = record.ttl.min(ttl_max_s);
            exchange.reply.push_address(Section::Answer, Owner::QUESTION, ttl_s, address);
        }
    }
}

/// The addresses of what an SRV record leads to.
async fn additional(exchange: &mut Exchange, at: &At<'_>, host: Name) {
    for rtype in [Type::A, Type::AAAA] {
        let Some(found) = at.look_up(exchange, host, rtype).await else { continue };
        let before = exchange.reply.records().len();
        exchange.reply.extend(&found, &host, |record| record.section == Section::Answer);
        for record in exchange.reply.records_mut().iter_mut().skip(before) {
            record.section = Section::Additional;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::refused;

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (lines, want) in [
            ("k8s_external example.org", "\"k8s_external\": there is no kubernetes in this server block"),
            ("k8s_external {\nttl 3601\n}\nkubernetes c", "\"3601\": not between 0 and 3600"),
            ("k8s_external {\nttl\n}\nkubernetes c", "\"ttl\""),
            ("k8s_external {\nttl x\n}\nkubernetes c", "\"x\": no number"),
            ("k8s_external {\napex .\n}\nkubernetes c", "\".\": no label"),
            ("k8s_external {\napex a..b\n}\nkubernetes c", "\"a..b\""),
            ("k8s_external {\nheadless yes\n}\nkubernetes c", "\"yes\""),
            ("k8s_external {\nwhat\n}\nkubernetes c", "\"what\": no option of plugin k8s_external"),
            ("k8s_external a\nk8s_external b\nkubernetes c", "only once in a server block"),
        ] {
            let error = refused(lines);
            assert!(error.contains(want), "{lines}: {error}");
        }
    }
}
