//! `portolan run`: the daemon. One loop, one enum of what can happen; the cluster, the plan and the
//! plane belong to it alone.

mod aside;

use crate::aside::{Lookout, News};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::metrics::Sync;
use crate::node;
use crate::observe::Observer;
use crate::publish::Publisher;
use crate::start::{self, From, Start};
use clap::Args;
use dataplane::conntrack::Suspects;
use dataplane::{Drift, Mode, Plane, Report, Withdrawal};
use model::{Change, Cluster, ObjectKey, Touched};
use nix::sys::signal::Signal;
use plan::Planner;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use telemetry::{error, info, verbose, warn};
use watch::Batch;

/// Route Services on this node until told to stop; what is routed stays when we stop
#[derive(Args)]
pub(crate) struct Arguments {
    /// A directory or file of Kubernetes manifests, followed as it changes
    #[arg(long, value_name = "PATH")]
    manifests: Option<PathBuf>,
    /// How to get to the API server; without it and without manifests: as a pod does
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    kubeconfig: Option<PathBuf>,
    /// The API server's URL, whatever the kubeconfig says
    #[arg(long, value_name = "URL", conflicts_with = "manifests")]
    master: Option<String>,
    /// Where to remember the cluster, for a start while the API server is away
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    checkpoint: Option<PathBuf>,
    /// Serve names, too, as this Corefile says
    #[arg(long, value_name = "COREFILE")]
    dns: Option<PathBuf>,
    /// Answer for the cluster DNS Service's address on this node
    #[arg(long)]
    names_local: bool,
    /// Whether backends that do not answer are set aside, whatever the configuration says: on or off
    #[arg(long, value_name = "WHETHER", value_parser = ["on", "off"])]
    set_aside: Option<String>,
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

/// How many changes are taken in before the kernel is told.
const CHANGES_AT_ONCE: usize = 16_384;
/// And from so many batches.
const BATCHES_AT_ONCE: usize = 1024;
/// How often we look whether somebody changed our tables.
const LOOK: Duration = Duration::from_secs(1);
/// How long we wait after a first failure before trying again, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What can happen.
pub(crate) enum Event {
    /// The cluster changed.
    Changes(Batch),
    /// Something was seen of backends that do not answer.
    Aside(News),
    /// We are to stop.
    Stop(Signal),
    /// We cannot go on.
    Fail(Error),
}

/// Runs the daemon.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Arguments {
        manifests,
        kubeconfig,
        master,
        checkpoint,
        dns,
        names_local,
        set_aside,
        node,
        verbosity,
        format,
    } = arguments;
    telemetry::log::set_up(verbosity, format == "json");
    let prepared = node.prepare_with(|loaded| {
        let names = &mut loaded.ours.names;
        if let Some(corefile) = dns {
            names.corefile = corefile.to_string_lossy().into_owned();
        }
        names.local |= names_local;
        if let Some(whether) = set_aside {
            loaded.ours.set_aside.enabled = whether == "on";
        }
    })?;
    let configured = &prepared.configuration;
    let from = match manifests {
        Some(path) => From::Manifests(path),
        None => {
            let kubeconfig = kubeconfig.or_else(|| configured.client.kubeconfig.clone());
            From::api(kubeconfig, master)?
        }
    };
    let flags = std::env::args_os().skip(2);
    let flags = flags.fold(String::new(), |text, argument| text + &argument.to_string_lossy() + "\n");
    let (metrics, healthz) = (Some(configured.metrics_address), Some(configured.healthz_address));
    let checkpoint = checkpoint.or_else(|| prepared.checkpoint.clone());
    start::start(Start { file: node.config, checkpoint, prepared, from, metrics, healthz, flags })
}

/// What stood here before goes so long after ours is there: packets may have met the one, and be about to
/// meet the other, and in a virtual machine a CPU with packets in hand may rest for a while.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// The loop and all that belongs to it.
pub(crate) struct Daemon {
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
    /// How long to wait between two changes of the kernel, and when the last one was done.
    floor: Duration,
    programmed: Option<Instant>,
    /// What has changed and waits for that, and since when.
    held: Option<(Touched, Instant)>,
    /// The cluster on disk, if it is to be there.
    checkpoint: Option<Checkpoint>,
    /// What the disk told of and the API server has not, yet.
    unconfirmed: HashSet<ObjectKey>,
    /// What has changed since the disk was read, until all is known.
    meanwhile: Touched,
    /// Who makes names of the cluster, if anybody does.
    publisher: Option<Publisher>,
    /// Who watches for backends that do not answer, if anybody does.
    lookout: Option<Lookout>,
    /// What that one told while changes were taken in.
    news: Vec<News>,
    /// What stands in the kernel from before and goes once ours is programmed.
    withdrawal: Option<Withdrawal>,
}

impl Daemon {
    #[expect(clippy::too_many_arguments, reason = "all that belongs to the loop")]
    pub(crate) fn new(
        mode: Mode,
        plane: Plane,
        planner: Planner,
        sync_period: Duration,
        floor: Duration,
        observer: Observer,
        checkpoint: Option<Checkpoint>,
        lookout: Option<Lookout>,
    ) -> Daemon {
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
            floor,
            programmed: None,
            held: None,
            checkpoint,
            unconfirmed: HashSet::new(),
            meanwhile: Touched::default(),
            publisher: None,
            lookout,
            news: Vec::new(),
            withdrawal: None,
        }
    }

    /// From now on somebody makes names of the cluster.
    pub(crate) fn publish_by(&mut self, publisher: Publisher) {
        self.publisher = Some(publisher);
    }

    /// The same, and what stands in the kernel from before is withdrawn once ours is programmed.
    pub(crate) fn withdrawing(self, withdrawal: Withdrawal) -> Daemon {
        Daemon { withdrawal: Some(withdrawal), ..self }
    }

    /// Works until it is told to stop, or cannot go on.
    pub(crate) fn work(&mut self, events: &Receiver<Event>) -> Result<(), Error> {
        self.observer.event(false, "Starting", "StartKubeProxy", String::new());
        loop {
            let wake = self.repair.map_or(self.look, |repair| repair.min(self.look));
            let wake = self.due().map_or(wake, |due| due.min(wake));
            let lookout = self.lookout.as_ref().and_then(Lookout::next);
            let wake = lookout.map_or(wake, |next| next.min(wake));
            match events.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Event::Changes(batch)) => {
                    if let Some(last) = self.changes(batch, events) {
                        return end(last);
                    }
                    self.hear();
                    // However many come, there is time for the rest.
                    if Instant::now() >= wake {
                        self.tick();
                    }
                }
                Ok(Event::Aside(news)) => {
                    self.news.push(news);
                    self.hear();
                    if Instant::now() >= wake {
                        self.tick();
                    }
                }
                Ok(last) => return end(last),
                Err(RecvTimeoutError::Timeout) => {
                    self.release();
                    self.tick();
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes in a batch and those that wait behind it; hands back what is to end us, if that came.
    fn changes(&mut self, batch: Batch, events: &Receiver<Event>) -> Option<Event> {
        let in_hand = Instant::now();
        let mut touched = Touched::default();
        let mut loaded = self.take(batch, &mut touched);
        let mut taken = 1;
        let mut last = None;
        // While the first load goes on nothing can be programmed, so nothing need be gathered.
        while loaded && taken < BATCHES_AT_ONCE && touched.services.len() < CHANGES_AT_ONCE {
            match events.try_recv() {
                Ok(Event::Changes(batch)) => {
                    loaded |= self.take(batch, &mut touched);
                    taken += 1;
                }
                Ok(Event::Aside(news)) => self.news.push(news),
                Ok(event) => {
                    last = Some(event);
                    break;
                }
                Err(_) => break,
            }
        }
        if self.synced
            && let Some(publisher) = &mut self.publisher
        {
            publisher.changed(&self.cluster, &touched);
        }
        match (self.synced, loaded) {
            (false, false) => {}
            (false, true) => self.begin(in_hand),
            // What the disk told of stands until all is known.
            (true, false) => self.meanwhile.merge(touched),
            (true, true) => {
                let gone = self.confirm();
                if let Some(publisher) = &mut self.publisher {
                    publisher.changed(&self.cluster, &gone);
                }
                touched.merge(gone);
                match &mut self.held {
                    Some((held, _)) => held.merge(touched),
                    None => self.held = Some((touched, in_hand)),
                }
                self.release();
                if self.withdrawal.is_some() && self.repair.is_none() {
                    self.withdraw();
                }
            }
        }
        if loaded && let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.is_not_wanted();
            checkpoint.changed();
        }
        last
    }

    /// All is known: what only the disk told of is gone.
    fn confirm(&mut self) -> Touched {
        let mut touched = std::mem::take(&mut self.meanwhile);
        for key in self.unconfirmed.drain() {
            touched.merge(self.cluster.apply(Change::Delete(key)));
        }
        self.observer.metrics.set_from_checkpoint(false);
        touched
    }

    /// The API server is away, and nothing of ours is in the kernel: what the disk remembers is better
    /// than nothing.
    fn remember(&mut self) {
        let nothing = self.plane.show().is_ok_and(|shown| shown.is_empty());
        let remembered = self.checkpoint.as_ref().filter(|_| nothing).and_then(Checkpoint::load);
        let Some((objects, age)) = remembered else { return };
        for object in objects {
            // What has been told since is newer.
            if !self.cluster.holds(&object.key()) {
                self.unconfirmed.insert(object.key());
                self.cluster.apply(Change::Apply(object));
            }
        }
        warn!(
            "the API server is away: routing what was written to disk {} s ago, {} objects",
            age.as_secs(),
            self.unconfirmed.len()
        );
        self.observer.metrics.set_from_checkpoint(true);
        self.begin(Instant::now());
    }

    fn take(&mut self, mut batch: Batch, touched: &mut Touched) -> bool {
        if let Some(publisher) = &mut self.publisher {
            publisher.happened(&batch.triggers);
        }
        self.observer.told(&mut batch, self.synced);
        let Batch { changes, triggers: _, problems, loaded, errors: _ } = batch;
        for problem in problems {
            match problem.severity {
                watch::Severity::Error => {
                    error!("{problem}");
                    if problem.object.is_some() {
                        self.observer.event(true, "ObjectLeftOut", "ReadObject", problem.to_string());
                    }
                }
                watch::Severity::Notice => info!("{problem}"),
            }
        }
        for change in changes {
            match &change {
                Change::Apply(_) => {}
                Change::Delete(key) => verbose!(2, "deleted {key:?}"),
            }
            if !self.unconfirmed.is_empty() {
                self.unconfirmed.remove(&change.key());
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
        if let Some(lookout) = &mut self.lookout {
            lookout.begin(&self.planner);
            self.planner.set_aside(&self.cluster, lookout.aside());
        }
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

    /// When what waits may be programmed.
    fn due(&self) -> Option<Instant> {
        let (_, since) = self.held.as_ref()?;
        Some(self.programmed.map_or(*since, |last| last + self.floor))
    }

    /// Programs what waits, if it has waited long enough.
    fn release(&mut self) {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        // What changes nothing makes nobody wait.
        if let Some((touched, in_hand)) = self.held.take()
            && self.program(&touched, in_hand)
        {
            self.programmed = Some(Instant::now());
        }
    }

    /// Says whether there was anything to tell the kernel.
    fn program(&mut self, touched: &Touched, in_hand: Instant) -> bool {
        if touched.is_empty() {
            self.observer.idle();
            return false;
        }
        let begin = Instant::now();
        let node = self.planner.node().clone();
        let mut deltas = self.planner.update(&self.cluster, touched);
        self.tell(&deltas);
        deltas.extend(self.prune(&deltas));
        if node != *self.planner.node() {
            // What holds for the node is in the program itself, not in its tables.
            self.reconcile("the node changed");
            return true;
        }
        if deltas.is_empty() {
            self.observer.idle();
            self.publish(&[], &Report::default());
            return false;
        }
        let report = self.plane.apply(&deltas);
        self.observer.metrics.rules(&self.plane.rule_counts());
        self.publish(&deltas, &report);
        let worked = self.account(&report);
        let sync = Sync::Partial { waited: begin - in_hand };
        self.observer.applied(touched, &deltas, sync, begin.elapsed(), worked);
        self.forget_flows(&Suspects::of_changes(&deltas));
        verbose!(
            2,
            "changed services={} steps={} commits={} took_us={}",
            deltas.len(),
            report.steps,
            report.commits,
            in_hand.elapsed().as_micros()
        );
        true
    }

    /// The kernel knows: so may everybody.
    fn publish(&mut self, deltas: &[plan::Delta], report: &Report) {
        if let Some(publisher) = &mut self.publisher {
            publisher.programmed(&self.cluster, deltas, report);
        }
    }

    /// Makes everything right, whatever the kernel holds; says whether that went well.
    fn reconcile(&mut self, why: &str) -> bool {
        self.repair = None;
        let begin = Instant::now();
        let services = self.planner.services().map(|rules| &**rules);
        let done = self.plane.reconcile(self.planner.node(), services.clone());
        let suspects = Suspects::of_all(services.clone());
        let worked = done.as_ref().is_ok_and(worked);
        if let Some(publisher) = &mut self.publisher {
            publisher.reconciled(&self.cluster, done.as_ref().ok());
        }
        self.observer.reconciled(self.planner.node(), services, begin.elapsed(), worked);
        self.observer.metrics.rules(&self.plane.rule_counts());
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
        if worked {
            self.withdraw();
        }
        report.failures.is_empty()
    }

    /// Ours is programmed: what stood there before goes, unless the disk is all that we have it from.
    fn withdraw(&mut self) {
        if !self.unconfirmed.is_empty() {
            return;
        }
        let Some(mut withdrawal) = self.withdrawal.take() else { return };
        let ports = self.planner.services().flat_map(|rules| &rules.ports);
        let places = ports.flat_map(|port| &port.frontends).map(|frontend| frontend.at);
        withdrawal.node_ports = places.filter_map(node_port).collect();
        // Beside the loop, for connections through virtual servers are waited for.
        let work = move || {
            std::thread::sleep(ON_THE_WAY);
            withdrawal.carry_out(&mut |what| info!("withdrawn: {what}"), &mut |error| {
                error!("cannot withdraw what stood here before: {}", crate::output::chain(&error));
            });
        };
        let thread = std::thread::Builder::new().name("withdrawal".into());
        if let Err(error) = thread.spawn(work) {
            error!("start the thread that withdraws what stood here before: {error}");
        }
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
        self.watch();
        let now = Instant::now();
        if self.repair.is_some_and(|repair| repair <= now) {
            self.reconcile("retry");
        }
        if self.look > now {
            return;
        }
        self.look = now + LOOK;
        self.observer.tick(now);
        if let Some(publisher) = &mut self.publisher {
            publisher.tick(now, &self.cluster);
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.tick(now, &self.cluster);
            if checkpoint.is_wanted(now) && !self.synced {
                self.remember();
            }
        }
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
                let what = format!("Service {}: {contested}", rules.name);
                warn!("{what}");
                self.observer.event(true, "ContestedFrontend", "Route", what);
            }
        }
    }
}

fn node_port(at: plan::At) -> Option<u16> {
    match at {
        plan::At::NodePort(port) => Some(port),
        plan::At::Address(..) => None,
    }
}

/// The last words.
fn end(last: Event) -> Result<(), Error> {
    match last {
        Event::Stop(signal) => {
            info!("stopped by {signal}: what is routed stays routed");
            Ok(())
        }
        Event::Fail(error) => Err(error),
        Event::Changes(_) | Event::Aside(_) => Ok(()),
    }
}

/// Whether all went well but for single Services.
fn worked(report: &Report) -> bool {
    report.failures.iter().all(|(owner, _)| owner.is_some())
}
