//! What the daemon tells of itself while it works: its metrics, its health, its pages and the
//! health-check ports, together. The loop in `run` says what happens; who is told is decided here.

use crate::error::Error;
use crate::health_ports::HealthPorts;
use crate::metrics::{Metrics, Sync, Tally};
use crate::node;
use crate::pages::{Pages, Told};
use dataplane::Mode;
use model::{Family, ObjectName, Touched};
use plan::{Delta, NodeRules, ServiceRules};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use telemetry::health::Health;
use telemetry::http::Server;
use telemetry::time::Utc;
use watch::{Batch, Events, NodeEvent};

/// What is to be served, and where.
pub(crate) struct Serving {
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) healthz: Option<SocketAddr>,
    /// An address that cannot be had ends it all.
    pub(crate) hard: bool,
    /// The configuration in use, as JSON.
    pub(crate) configuration: String,
    /// The flags in use, one a line.
    pub(crate) flags: String,
}

/// So many moments at which something happened are kept until it is programmed. More are not
/// counted: a histogram does not miss them.
const TRIGGERS_MAX: usize = 16_384;

/// Everybody who is told.
pub(crate) struct Observer {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    tally: Tally,
    pages: Pages,
    ports: HealthPorts,
    started: SystemTime,
    /// When what is not programmed yet happened.
    triggers: Vec<(ObjectName, SystemTime)>,
    /// Where events go, if there is anybody.
    events: Option<Events>,
}

impl Observer {
    /// Begins to serve.
    pub(crate) fn start(
        mode: Mode,
        families: &[Family],
        sync_period: Duration,
        serving: Serving,
    ) -> Result<Observer, Error> {
        let Serving { metrics: metrics_at, healthz, hard, configuration, flags } = serving;
        let started = SystemTime::now();
        let metrics = Arc::new(Metrics::new(mode, families));
        // As kube-proxy: a change may wait for two periods.
        let health = Arc::new(Health::new(sync_period * 2));
        let server = Server::start().map_err(|e| Error::Start("start the thread that serves HTTP", e))?;
        let server = Arc::new(server);
        let (metrics_told, health_told) = (metrics.clone(), health.clone());
        let told = Told { mode, metrics: metrics_told, health: health_told, configuration, flags, started };
        let pages = Pages::open(server.clone(), metrics_at, healthz, Arc::new(told), hard)
            .map_err(|e| Error::Start("bindAddressHardFail", e))?;
        let ports = HealthPorts::new(server, health.clone());
        let (tally, triggers) = (Tally::default(), Vec::new());
        Ok(Observer { metrics, health, tally, pages, ports, started, triggers, events: None })
    }

    /// From now on events go there.
    pub(crate) fn tell_events(&mut self, events: Events) {
        self.events = Some(events);
        for what in self.pages.failed() {
            let reason = match what {
                "metrics" => "FailedToStartMetricServer",
                _ => "FailedToStartProxierHealthcheck",
            };
            self.event(true, reason, "StartKubeProxy", format!("the address for {what} is somebody else's"));
        }
    }

    /// Something that people should find at the Node.
    pub(crate) fn event(&self, warning: bool, reason: &'static str, action: &'static str, note: String) {
        if let Some(events) = &self.events {
            let time = Utc::of(SystemTime::now()).micros();
            events.tell(NodeEvent { warning, reason, action, note, time });
        }
    }

    /// A source told something.
    pub(crate) fn told(&mut self, batch: &mut Batch, synced: bool) {
        let count = |is: fn(&model::ObjectKey) -> bool| {
            let keys = batch.changes.iter().map(|change| match change {
                model::Change::Apply(object) => object.key(),
                model::Change::Delete(key) => key.clone(),
            });
            keys.filter(is).count()
        };
        let services = count(|key| matches!(key, model::ObjectKey::Service(_)));
        let slices = count(|key| matches!(key, model::ObjectKey::Slice(_)));
        self.metrics.told(services, slices, batch.errors);
        // What happened before we began was not waiting for us.
        if synced {
            let room = TRIGGERS_MAX.saturating_sub(self.triggers.len());
            let started = self.started;
            let fresh = batch.triggers.drain(..).filter(|(_, happened)| *happened > started);
            self.triggers.extend(fresh.take(room));
        }
    }

    /// The plan changed.
    pub(crate) fn planned(&mut self, deltas: &[Delta], services: usize) {
        self.tally.change(deltas);
        self.metrics.tallied(&self.tally, services);
    }

    /// The kernel has been told of changes.
    pub(crate) fn applied(
        &mut self,
        touched: &Touched,
        deltas: &[Delta],
        sync: Sync,
        took: Duration,
        worked: bool,
    ) {
        if let Some(failed) = self.ports.change(deltas) {
            self.event(true, "FailedToStartServiceHealthcheck", "Listen", failed);
        }
        self.synced(sync, took, worked);
        for (service, happened) in std::mem::take(&mut self.triggers) {
            if worked && touched.services.contains(&service) {
                self.metrics.programmed(happened);
            }
        }
    }

    /// The kernel has been compared with all of the plan.
    pub(crate) fn reconciled<'a>(
        &mut self,
        node: &NodeRules,
        services: impl Iterator<Item = &'a ServiceRules>,
        took: Duration,
        worked: bool,
    ) {
        // Without them, health-check ports are served at all addresses.
        let own = node::interface_addresses().unwrap_or_default();
        self.ports.set_node(node, &own);
        if let Some(failed) = self.ports.set_all(services) {
            self.event(true, "FailedToStartServiceHealthcheck", "Listen", failed);
        }
        self.synced(Sync::Full, took, worked);
        for (_, happened) in std::mem::take(&mut self.triggers) {
            if worked {
                self.metrics.programmed(happened);
            }
        }
    }

    fn synced(&mut self, sync: Sync, took: Duration, worked: bool) {
        self.metrics.synced(sync, took, worked);
        if worked {
            self.health.updated();
        }
    }

    /// Nothing had to be told to the kernel after all.
    pub(crate) fn idle(&mut self) {
        self.triggers.clear();
        self.metrics.idle();
        self.health.updated();
    }

    /// Does what time brings.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.pages.tick(now);
        let _ = self.ports.open_missing(false);
    }
}
