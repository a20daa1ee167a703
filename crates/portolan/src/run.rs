//! `portolan run`: the daemon. One loop, one enum of what can happen; the cluster, the plan and the
//! plane belong to it alone.

use crate::error::Error;
use crate::node;
use crate::observe::{Observer, Serving};
use crate::pages;
use clap::Args;
use dataplane::conntrack::Suspects;
use dataplane::{Drift, Mode, Plane, Report};
use model::{Change, Cluster, Touched};
use nix::sys::signal::{SigSet, Signal};
use plan::Planner;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use telemetry::{error, info, verbose, warn};
use watch::{Batch, Directory, Keep};

/// Route Services on this node until told to stop; what is routed stays when we stop
#[derive(Args)]
pub(crate) struct Arguments {
    /// A directory or file of Kubernetes manifests, followed as it changes
    #[arg(long, value_name = "PATH")]
    manifests: PathBuf,
    #[command(flatten)]
    node: node::NodeArguments,
    /// How much to tell: 2 tells of every change
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    verbosity: u8,
    /// How to tell it: text or json
    #[arg(long = "logging-format", value_name = "FORMAT", default_value = "text")]
    #[arg(value_parser = ["text", "json"])]
    format: String,
}

/// How many events may wait for the loop. A source that is faster waits in turn.
const EVENTS_MAX: usize = 64;
/// How many changes are taken in before the kernel is told.
const CHANGES_AT_ONCE: usize = 16_384;
/// How often we look whether somebody changed our tables.
const LOOK: Duration = Duration::from_secs(1);
/// How long we wait after a first failure before trying again, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What can happen.
enum Event {
    /// The cluster changed.
    Changes(Batch),
    /// We are to stop.
    Stop(Signal),
}

/// Runs the daemon.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    telemetry::log::set_up(arguments.verbosity, arguments.format == "json");
    let prepared = arguments.node.prepare()?;
    let sync_period = prepared.sync_period();
    let node::Prepared { configuration, typed, settings, mode, options } = prepared;
    pages::refuse_profiling(configuration.enable_profiling);
    let serving = Serving {
        metrics: Some(configuration.metrics_address),
        healthz: Some(configuration.healthz_address),
        hard: configuration.bind_address_hard_fail,
        configuration: serde_json::json!({ "kubeproxy.config.k8s.io": typed.to_json() }).to_string(),
        flags: flags(),
    };
    let (sender, events) = sync_channel(EVENTS_MAX);
    stop_on_signals(sender.clone())?;
    let mut plane = Plane::open(mode, &options)?;
    plane.check()?;
    let observer = Observer::start(mode, &options.families, sync_period, serving)?;
    let health = observer.health.clone();
    let mut daemon = Daemon::new(mode, plane, Planner::new(settings), sync_period, observer);
    let deliver = move |batch: Batch| {
        if batch.loaded && !batch.changes.is_empty() {
            health.queued();
        }
        sender.send(Event::Changes(batch)).is_ok()
    };
    let source = Directory::watch(&arguments.manifests, Keep { names: false }, deliver)?;
    daemon.work(&events);
    drop(events);
    source.stop();
    Ok(ExitCode::SUCCESS)
}

/// The flags that we were given, one a line.
fn flags() -> String {
    std::env::args().skip(2).fold(String::new(), |text, argument| text + &argument + "\n")
}

/// Signals that end us are waited for on a thread of their own, and told to the loop as events.
fn stop_on_signals(sender: SyncSender<Event>) -> Result<(), Error> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| Error::Start("block signals", e.into()))?;
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if sender.send(Event::Stop(signal)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(wait).map_err(|e| Error::Start("start the thread that waits for signals", e))?;
    Ok(())
}

struct Daemon {
    mode: Mode,
    cluster: Cluster,
    planner: Planner,
    plane: Plane,
    sync_period: Duration,
    started: Instant,
    /// All that was there at the start is programmed.
    synced: bool,
    /// When to look for drift.
    look: Instant,
    /// When to make everything right again, and how long to wait if that fails, too.
    repair: Option<Instant>,
    patience: Duration,
    /// When everything was last compared with the kernel.
    compared: Instant,
    /// Somebody changed the ruleset since.
    suspicious: bool,
    observer: Observer,
}

impl Daemon {
    fn new(mode: Mode, plane: Plane, planner: Planner, sync_period: Duration, observer: Observer) -> Daemon {
        let now = Instant::now();
        Daemon {
            mode,
            cluster: Cluster::new(),
            planner,
            plane,
            sync_period,
            started: now,
            synced: false,
            look: now + LOOK,
            repair: None,
            patience: RETRY_FIRST,
            compared: now,
            suspicious: false,
            observer,
        }
    }

    fn work(&mut self, events: &Receiver<Event>) {
        loop {
            let wake = self.repair.map_or(self.look, |repair| repair.min(self.look));
            match events.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Event::Stop(signal)) => {
                    info!("stopped by {signal}: what is routed stays routed");
                    return;
                }
                Ok(Event::Changes(batch)) => {
                    if self.changes(batch, events) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes in a batch and those that wait behind it; says whether we are to stop.
    fn changes(&mut self, batch: Batch, events: &Receiver<Event>) -> bool {
        let in_hand = Instant::now();
        let mut touched = Touched::default();
        let mut loaded = self.take(batch, &mut touched);
        let mut taken = 1;
        let mut stop = false;
        // While the first load goes on nothing can be programmed, so nothing need be gathered.
        while loaded && taken < EVENTS_MAX && touched.services.len() < CHANGES_AT_ONCE {
            match events.try_recv() {
                Ok(Event::Changes(batch)) => {
                    loaded |= self.take(batch, &mut touched);
                    taken += 1;
                }
                Ok(Event::Stop(signal)) => {
                    info!("stopped by {signal}: what is routed stays routed");
                    stop = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if self.synced {
            self.program(&touched, in_hand);
        } else if loaded {
            self.begin(in_hand);
        }
        stop
    }

    fn take(&mut self, mut batch: Batch, touched: &mut Touched) -> bool {
        self.observer.told(&mut batch, self.synced);
        let Batch { changes, triggers: _, problems, loaded, errors: _ } = batch;
        for problem in problems {
            match problem.severity {
                watch::Severity::Error => error!("{problem}"),
                watch::Severity::Notice => info!("{problem}"),
            }
        }
        for change in changes {
            match &change {
                Change::Apply(_) => {}
                Change::Delete(key) => verbose!(2, "deleted {key:?}"),
            }
            let more = self.cluster.apply(change);
            if self.synced {
                touched.merge(more);
            }
        }
        loaded
    }

    /// The first sync: the cluster is known, the kernel may hold anything.
    fn begin(&mut self, in_hand: Instant) {
        let all = Touched {
            services: self.cluster.services().map(|s| s.name.clone()).collect(),
            service_cidrs: true,
            ..Touched::default()
        };
        let loaded_after = in_hand - self.started;
        let deltas = self.planner.update(&self.cluster, &all);
        self.tell(&deltas);
        drop(deltas);
        self.synced = true;
        if !self.reconcile("start") {
            return;
        }
        let endpoints: usize = self.cluster.all_slices().map(|s| s.endpoints.len()).sum();
        let usage = node::usage();
        info!(
            "synced mode={} services={} endpoints={endpoints} load_s={:.5} full_sync_s={:.5} cpu_s={:.5} rss_mb={:.1}",
            self.mode,
            self.planner.services().len(),
            loaded_after.as_secs_f64(),
            in_hand.elapsed().as_secs_f64(),
            usage.cpu.as_secs_f64(),
            usage.resident_mb,
        );
    }

    fn program(&mut self, touched: &Touched, in_hand: Instant) {
        if touched.is_empty() {
            self.observer.idle();
            return;
        }
        let node = self.planner.node().clone();
        let deltas = self.planner.update(&self.cluster, touched);
        self.tell(&deltas);
        if node != *self.planner.node() {
            // What holds for the node is in the program itself, not in its tables.
            self.reconcile("the node changed");
            return;
        }
        if deltas.is_empty() {
            self.observer.idle();
            return;
        }
        let report = self.plane.apply(&deltas);
        let worked = self.account(&report);
        self.observer.applied(touched, &deltas, in_hand.elapsed(), worked);
        self.forget_flows(&Suspects::of_changes(&deltas));
        verbose!(
            2,
            "changed services={} steps={} commits={} took_us={}",
            deltas.len(),
            report.steps,
            report.commits,
            in_hand.elapsed().as_micros()
        );
    }

    /// Makes everything right, whatever the kernel holds; says whether that went well.
    fn reconcile(&mut self, why: &str) -> bool {
        self.repair = None;
        let begin = Instant::now();
        let services = self.planner.services().map(|rules| &**rules);
        let done = self.plane.reconcile(self.planner.node(), services.clone());
        let suspects = Suspects::of_all(services.clone());
        let worked = done.as_ref().is_ok_and(worked);
        self.observer.reconciled(self.planner.node(), services, begin.elapsed(), worked);
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                error!("cannot bring the kernel up to date ({why}): {}", crate::output::chain(&error));
                self.later();
                return false;
            }
        };
        self.forget_flows(&suspects);
        self.compared = Instant::now();
        self.suspicious = false;
        for line in &report.program {
            verbose!(1, "{why}: {line}");
        }
        if !report.is_quiet() {
            info!("{why}: {} steps in {} commits", report.steps + report.program.len(), report.commits);
        }
        self.account(&report);
        report.failures.is_empty()
    }

    /// Says whether all went well but for single Services.
    fn account(&mut self, report: &Report) -> bool {
        self.observer.metrics.report(report);
        for (owner, warning) in &report.warnings {
            match owner {
                Some(service) => warn!("Service {service}: {warning}"),
                None => warn!("{warning}"),
            }
        }
        for (owner, failure) in &report.failures {
            match owner {
                Some(service) => error!("Service {service}: {failure}"),
                None => error!("{failure}"),
            }
        }
        if report.failures.is_empty() {
            self.patience = RETRY_FIRST;
        } else {
            self.later();
        }
        worked(report)
    }

    /// Tries again later, each time later.
    fn later(&mut self) {
        self.repair = Some(Instant::now() + self.patience);
        self.patience = (self.patience * 2).min(RETRY_MAX);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.repair.is_some_and(|repair| repair <= now) {
            self.reconcile("retry");
        }
        if self.look > now {
            return;
        }
        self.look = now + LOOK;
        self.observer.tick(now);
        if !self.synced {
            return;
        }
        let report = self.plane.tick(now);
        self.account(&report);
        match self.plane.drift() {
            Ok(Drift::None) => {}
            Ok(Drift::Elsewhere) => self.suspicious = true,
            Ok(Drift::Here) => {
                warn!("somebody changed our tables: putting them right");
                self.observer.metrics.repaired();
                self.reconcile("repair");
            }
            Err(error) => error!("cannot look at the kernel: {}", crate::output::chain(&error)),
        }
        if self.suspicious && self.compared.elapsed() >= self.sync_period {
            self.reconcile("comparison");
        }
    }

    fn forget_flows(&mut self, suspects: &Suspects) {
        for family in suspects.families() {
            let begin = Instant::now();
            match self.plane.forget(&suspects.of_family(family), self.planner.node()) {
                Ok(flows) => {
                    self.observer.metrics.forgot(family, flows, begin.elapsed());
                    if flows > 0 {
                        verbose!(1, "forgot {flows} flows to backends that are gone");
                    }
                }
                Err(error) => {
                    error!("cannot forget flows to backends that are gone: {}", crate::output::chain(&error))
                }
            }
        }
    }

    /// Tells how the plan changed.
    fn tell(&mut self, deltas: &[plan::Delta]) {
        let own = self.cluster.node(&self.planner.node().name);
        self.observer.health.set_leaving(own.is_some_and(|node| node.leaving));
        self.observer.planned(deltas, self.planner.services().len());
        for rules in deltas.iter().filter_map(|delta| delta.after.as_ref()) {
            for contested in &rules.contested {
                warn!("Service {}: {contested}", rules.name);
            }
        }
    }
}

/// Whether all went well but for single Services.
fn worked(report: &Report) -> bool {
    report.failures.iter().all(|(owner, _)| owner.is_some())
}
