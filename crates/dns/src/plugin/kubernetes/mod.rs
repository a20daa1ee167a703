//! `kubernetes`: the names of a cluster's Services, endpoints and pods.
//!
//! ```text
//! kubernetes [ZONE…] {
//!     manifests DIR
//!     endpoint URL
//!     tls CERT KEY CACERT
//!     kubeconfig FILE [CONTEXT]
//!     apiserver_qps QPS
//!     apiserver_burst N
//!     apiserver_max_inflight N
//!     namespaces NAMESPACE…
//!     namespace_labels EXPRESSION
//!     labels EXPRESSION
//!     pods disabled|insecure|verified
//!     endpoint_pod_names
//!     ttl SECONDS
//!     noendpoints
//!     zonal
//!     multicluster ZONE…
//!     fallthrough [ZONE…]
//!     ignore empty_service
//!     startup_timeout DURATION
//! }
//! ```
//!
//! What the answer to a question is, crate `names` knows. Here it is put between the other plugins.

mod cluster;
mod options;

pub(crate) use cluster::Known;

use crate::chain::{At, Later, Plugin, Step};
use crate::cluster::Wanted;
use crate::corefile::{Error, Line};
use crate::exchange::{Exchange, Outcome};
use crate::setup::{BlockSettings, Setting};
use crate::zonefile::Record;
use arc_swap::Guard;
use cluster::Shared;
use names::{Described, Options, Zone};
use std::sync::{Arc, OnceLock};
use wire::{Class, Name, Rcode, Reply, Section};

pub(super) struct Kubernetes {
    pub(super) options: Options,
    cluster: Arc<Shared>,
    /// The ServiceImports, as a cluster of their own, where there is a zone for them.
    imports: Option<Arc<Shared>>,
}

/// The plugin of a block, for those that are set up before it.
#[derive(Clone, Default)]
pub(crate) struct Promised(Arc<OnceLock<Arc<Kubernetes>>>);

impl Promised {
    /// It, once it has been set up.
    pub(super) fn get(&self) -> Option<&Arc<Kubernetes>> {
        self.0.get()
    }
}

impl std::fmt::Debug for Promised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.get().is_some() { "kubernetes" } else { "no kubernetes yet" })
    }
}

/// The name at which the zone's own records end.
struct Target(Name);

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let read = options::read(line, setting.block)?;
    let patience = &mut setting.process.startup_patience;
    *patience = (*patience).max(read.startup_timeout);
    let open =
        |wanted: &Wanted| setting.world.known.open(wanted, setting.world).map_err(|what| line.error(what));
    let cluster = open(&read.wanted)?;
    let multicluster = read.options.zones.iter().any(|zone| zone.multicluster);
    let imports = multicluster.then(|| open(&read.wanted.of_imports())).transpose()?;
    let plugin = Arc::new(Kubernetes { options: read.options, cluster, imports });
    // A block has one, so it is set once.
    let _ = setting.block.kubernetes.0.set(plugin.clone());
    Ok(Some(plugin))
}

/// What a directive says of names, in a block of the root.
pub(super) fn names_options(line: &Line) -> Result<Options, Error> {
    let block = BlockSettings::of_zone(line, Name::ROOT);
    Ok(options::read(line, &block)?.options)
}

impl Kubernetes {
    /// The cluster's names as they are now.
    pub(super) fn zone(&self) -> Guard<Arc<Zone>> {
        self.cluster.zone()
    }
}

/// What comes of what crate `names` says, but for names elsewhere.
pub(super) fn outcome(outcome: names::Outcome, exchange: &mut Exchange) -> Step {
    match outcome {
        names::Outcome::Records | names::Outcome::Elsewhere(_) => Step::Done(Outcome::Records),
        names::Outcome::NoData => Step::Done(Outcome::NoData),
        names::Outcome::NoSuchName => Step::Done(Outcome::NoSuchName),
        names::Outcome::NotOurs | names::Outcome::Pass => Step::Pass,
        names::Outcome::Refused => Step::Done(Outcome::Refused),
        names::Outcome::NotSynced => {
            // It is no failure that `errors` should tell once for each question.
            exchange.reply.rcode = Rcode::SERVFAIL;
            Step::Done(Outcome::Given)
        }
    }
}

/// Takes down what a walk through a zone hands over. `None` where there is no such zone.
pub(super) fn records(walk: impl FnOnce(&mut dyn FnMut(&Name, &Reply)) -> bool) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut take = |name: &Name, reply: &Reply| {
        records.extend(reply.section(Section::Answer).map(|record| Record {
            owner: reply.owner(record, name),
            rtype: record.rtype,
            class: Class::IN,
            ttl: record.ttl,
            rdata: reply.rdata(record).to_vec(),
        }));
    };
    walk(&mut take).then_some(records)
}

impl Plugin for Kubernetes {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let zone = self.cluster.zone();
        let Exchange { asked, reply, .. } = &mut *exchange;
        if asked.question.class != Class::IN {
            return Step::Pass;
        }
        let imports = self.imports.as_ref().map(|imports| imports.zone());
        let imports = imports.as_ref().map(|zone| &***zone);
        match names::answer(&zone, imports, &self.options, &asked.question, reply) {
            names::Outcome::Elsewhere(target) => {
                exchange.note(at.index, Target(*target));
                Step::Later
            }
            settled => outcome(settled, exchange),
        }
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            if let Some(note) = exchange.take_note::<Target>(at.index) {
                let Target(target) = *note;
                let rtype = exchange.asked.question.rtype;
                if let Some(found) = at.look_up(exchange, target, rtype).await {
                    exchange.reply.extend(&found, &target, |record| record.section == Section::Answer);
                    exchange.reply.truncated |= found.truncated;
                }
            }
            Step::Done(Outcome::Records)
        })
    }

    fn search_path(&self, exchange: &Exchange) -> Option<Vec<Name>> {
        let zone = self.options.zone_of(&exchange.asked.question.name)?.name;
        if self.options.pods != names::PodMode::Verified {
            return None;
        }
        let snapshot = self.cluster.zone();
        let namespace = snapshot.namespace_of_pod(exchange.from.client.ip().to_canonical())?;
        let below = |labels: &[&str]| {
            let mut name = Name::ROOT;
            labels.iter().try_for_each(|label| name.push(label.as_bytes())).ok()?;
            name.append(&zone).ok()?;
            Some(name)
        };
        Some(vec![below(&[namespace, "svc"])?, below(&["svc"])?, zone])
    }

    fn zone_records(&self, zone: &Name) -> Option<Vec<Record>> {
        let imports = self.imports.as_ref().map(|imports| imports.zone());
        let imports = imports.as_ref().map(|zone| &***zone);
        records(|take| names::transfer(&self.cluster.zone(), imports, &self.options, zone, take))
    }

    fn describe(&self, exchange: &mut Exchange) {
        if let Some(described) = names::describe(&self.options, &exchange.asked.question.name) {
            let Described { kind, namespace, service, endpoint, port, protocol } = described;
            exchange.tell("kubernetes/kind", || kind.to_owned());
            exchange.tell("kubernetes/namespace", || namespace);
            exchange.tell("kubernetes/service", || service);
            exchange.tell("kubernetes/endpoint", || endpoint);
            exchange.tell("kubernetes/port-name", || port);
            exchange.tell("kubernetes/protocol", || protocol);
        }
        let zone = self.cluster.zone();
        let client = exchange.from.client.ip().to_canonical();
        if let Some(pod) = zone.pod_at(client) {
            exchange.tell("kubernetes/client-namespace", || pod.namespace.to_string());
            exchange.tell("kubernetes/client-pod-name", || pod.name.to_string());
        }
    }

    fn is_ready(&self) -> bool {
        self.cluster.zone().is_synced()
            && self.imports.as_ref().is_none_or(|imports| imports.zone().is_synced())
    }
}
