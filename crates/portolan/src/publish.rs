//! When a name may be told: that of a Service with ClusterIPs once the kernel routes it, all others at
//! once. So no client is ever sent to an address that this node does not know yet.
//!
//! A Service that the kernel refuses has its name held back for a while only: then an address that other
//! nodes may well route is better than none. Nothing here waits; the daemon says what has happened.

use crate::dns::{Local, Own};
use dataplane::Report;
use model::{Cluster, ObjectName, ServiceKind, Touched};
use plan::Delta;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use telemetry::warn;

/// For so long a name waits for a Service that the kernel refuses.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many moments at which something happened are kept until it is told. More are not counted.
const TRIGGERS_MAX: usize = 16_384;

/// What there is to tell to those who make names, and what of it waits.
pub(crate) struct Publisher {
    own: Arc<Own>,
    /// The way to a server that answers for the cluster DNS Service's address.
    local: Option<Arc<Local>>,
    /// The first sync is over, well or not.
    began: bool,
    /// What the kernel is to know first, and since when.
    waiting: BTreeSet<ObjectName>,
    since: Option<Instant>,
    /// What it has refused.
    refused: BTreeSet<ObjectName>,
    triggers: Vec<(ObjectName, SystemTime)>,
}

impl Publisher {
    pub(crate) fn new(own: Arc<Own>, local: Option<Arc<Local>>) -> Publisher {
        let (waiting, refused) = (BTreeSet::new(), BTreeSet::new());
        Publisher { own, local, began: false, waiting, since: None, refused, triggers: Vec::new() }
    }

    /// Something happened, at these times.
    pub(crate) fn happened(&mut self, triggers: &[(ObjectName, SystemTime)]) {
        if self.began {
            let room = TRIGGERS_MAX.saturating_sub(self.triggers.len());
            self.triggers.extend(triggers.iter().take(room).cloned());
        }
    }

    /// The cluster has changed: tells what need not wait.
    pub(crate) fn changed(&mut self, cluster: &Cluster, touched: &Touched) {
        if !self.began {
            return;
        }
        let mut now = touched.clone();
        let waits = |name: &ObjectName| {
            // A name goes before the routes do.
            let kind = cluster.service(name).map(|service| &service.kind);
            !matches!(kind, None | Some(ServiceKind::Headless | ServiceKind::ExternalName(_)))
        };
        now.services.retain(|name| !waits(name));
        self.waiting.extend(touched.services.iter().filter(|name| waits(name)).cloned());
        if !self.waiting.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
        self.tell(cluster, &now);
    }

    /// The kernel has been told of these.
    pub(crate) fn programmed(&mut self, cluster: &Cluster, deltas: &[Delta], report: &Report) {
        for rules in deltas.iter().filter_map(|delta| delta.after.as_ref().or(delta.before.as_ref())) {
            self.refused.remove(&rules.name);
        }
        self.refuse(report);
        self.release(cluster);
    }

    /// The kernel has been compared with everything; `None` where that was not to be done.
    pub(crate) fn reconciled(&mut self, cluster: &Cluster, report: Option<&Report>) {
        let Some(report) = report else {
            self.since.get_or_insert_with(Instant::now);
            return;
        };
        self.refused.clear();
        self.refuse(report);
        if !self.began {
            self.begin(cluster);
        }
        self.release(cluster);
    }

    fn refuse(&mut self, report: &Report) {
        self.refused.extend(report.failures.iter().filter_map(|(owner, _)| owner.clone()));
    }

    /// The first time everything is told at once.
    fn begin(&mut self, cluster: &Cluster) {
        self.began = true;
        self.waiting.clone_from(&self.refused);
        self.since = (!self.waiting.is_empty()).then(Instant::now);
        self.own.tell(cluster, &Touched::default(), &[], &self.waiting);
        if let Some(local) = &self.local {
            local.follow(cluster);
        }
    }

    fn release(&mut self, cluster: &Cluster) {
        let (wait, go) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|name| self.refused.contains(name) && cluster.service(name).is_some());
        self.waiting = wait;
        if self.waiting.is_empty() {
            self.since = None;
        }
        self.tell(cluster, &Touched { services: go, ..Touched::default() });
    }

    fn tell(&mut self, cluster: &Cluster, touched: &Touched) {
        if touched.is_empty() {
            return;
        }
        let told = |(name, _): &(ObjectName, SystemTime)| touched.services.contains(name);
        let (now, later) = std::mem::take(&mut self.triggers).into_iter().partition(told);
        self.triggers = later;
        let now: Vec<(ObjectName, SystemTime)> = now;
        self.own.tell(cluster, touched, &now, &self.waiting);
        if let Some(local) =
            self.local.as_ref().filter(|local| touched.services.iter().any(|s| local.is_about(s)))
        {
            local.follow(cluster);
        }
    }

    /// Does what time brings.
    pub(crate) fn tick(&mut self, now: Instant, cluster: &Cluster) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE) {
            self.since = None;
            if self.began {
                let count = self.waiting.len();
                warn!("{count} Services are not routed here; their names are told all the same");
            } else {
                warn!("nothing can be routed here; names are told all the same");
            }
            self.refused.clear();
            match self.began {
                true => self.release(cluster),
                false => self.begin(cluster),
            }
        }
        if let Some(local) = self.local.as_ref().filter(|_| self.began) {
            local.look();
        }
        if self.began && self.own.has_news_to_tell() {
            self.own.tell(cluster, &Touched::default(), &[], &self.waiting);
        }
    }
}
