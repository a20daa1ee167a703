//! What is known of clusters: one thread writes, workers read snapshots. Server blocks, and
//! configurations before and after a reload, that want the same of the same cluster share it.

use crate::cluster::{Stream, Told, Wanted};
use crate::metrics::Histogram;
use crate::setup::World;
use arc_swap::{ArcSwap, Guard};
use model::{Cluster, ObjectName, ServiceKind};
use names::{Names, Zone};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// CoreDNS' bounds: powers of two from a millisecond.
const BOUNDS_S: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
    32.768, 65.536, 131.072, 262.144, 524.288,
];

/// One cluster.
pub(crate) struct Shared {
    zone: ArcSwap<Zone>,
    /// Held for as long as anybody wants the cluster.
    stream: OnceLock<Arc<dyn Stream>>,
}

impl Shared {
    /// Its names as they are now.
    pub(crate) fn zone(&self) -> Guard<Arc<Zone>> {
        self.zone.load()
    }
}

/// All that are open.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<Wanted, Weak<Shared>>>);

impl Known {
    /// The cluster that is wanted, opened now or before.
    pub(crate) fn open(&self, wanted: &Wanted, world: &World) -> Result<Arc<Shared>, String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, shared| shared.strong_count() > 0);
        if let Some(shared) = all.get(wanted).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let shared = Arc::new(Shared { zone: ArcSwap::default(), stream: OnceLock::new() });
        let mut writer = Writer::new(Arc::downgrade(&shared), world);
        let stream = world.clusters.open(wanted, Box::new(move |told| writer.take(told)))?;
        // It has just been made, and is empty.
        let _ = shared.stream.set(stream);
        all.insert(wanted.clone(), Arc::downgrade(&shared));
        Ok(shared)
    }
}

/// Makes snapshots of what the source tells.
struct Writer {
    shared: Weak<Shared>,
    names: Names,
    synced: bool,
    durations: [Arc<Histogram>; 3],
}

/// The kinds of Services that times are counted for, as CoreDNS calls them.
const KINDS: [&str; 3] = ["cluster_ip", "headless_with_selector", "headless_without_selector"];

impl Writer {
    fn new(shared: Weak<Shared>, world: &World) -> Writer {
        let help = "Histogram of the time (in seconds) it took to program a dns instance.";
        let name = "coredns_kubernetes_dns_programming_duration_seconds";
        let durations =
            KINDS.map(|kind| world.metrics.histogram(name, help, &[("service_kind", kind)], BOUNDS_S));
        Writer { shared, names: Names::new(), synced: false, durations }
    }

    /// Takes in what is told. False when nobody wants to know any more.
    fn take(&mut self, told: Told<'_>) -> bool {
        let Told { cluster, touched, triggers, synced } = told;
        let now = SystemTime::now();
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // A serial has 32 bits and goes round (RFC 1982).
        self.names.update(cluster, touched, now_s as u32);
        if synced && !self.synced {
            self.synced = true;
            self.names.set_synced();
        }
        let Some(shared) = self.shared.upgrade() else { return false };
        // Before that it would only be copied again and again.
        if self.synced {
            shared.zone.store(self.names.zone());
            self.count(cluster, now, triggers);
        }
        true
    }

    fn count(&self, cluster: &Cluster, now: SystemTime, triggers: &[(ObjectName, SystemTime)]) {
        for (name, at) in triggers {
            let kind = match cluster.service(name).map(|service| &service.kind) {
                // Which of the two headless kinds it is, a trigger tells: only the controller sets it.
                Some(ServiceKind::Headless) => 1,
                Some(_) => 0,
                None => continue,
            };
            if let (Some(histogram), Ok(took)) = (self.durations.get(kind), now.duration_since(*at)) {
                histogram.observe(took.as_secs_f64());
            }
        }
    }
}
