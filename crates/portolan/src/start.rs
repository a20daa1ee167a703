//! The daemon's start, the same for `portolan run` and for a program called `kube-proxy`: everything
//! that must be there before the loop, in the order in which it must be.

use crate::aside::Lookout;
use crate::checkpoint::Checkpoint;
use crate::dns::{Control, Names, Own};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::node::Prepared;
use crate::observe::{Observer, Serving};
use crate::publish::Publisher;
use crate::run::{Daemon, Event};
use crate::{pages, system};
use ::dns::cluster::Wanted;
use dataplane::{Plane, Withdrawal};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use plan::Planner;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use telemetry::info;
use watch::{Access, Api, Batch, Call, Directory, Events};

/// How many events may wait for the loop. A source that is faster waits in turn.
const EVENTS_MAX: usize = 64;
/// Where calls of the API server are counted, as kube-proxy's client counts them.
const CALLS: (&str, &str) = (
    "rest_client_requests_total",
    "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
);
const CALLS_TOOK: (&str, &str) = (
    "rest_client_request_duration_seconds",
    "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
);
const CALL_BOUNDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Where the cluster comes from.
pub(crate) enum From {
    /// Manifests.
    Manifests(PathBuf),
    /// The API server, and how it was named to us.
    Api { access: Box<Access>, kubeconfig: Option<PathBuf>, master: Option<String> },
}

impl From {
    /// The API server that these say, or that of the pod that we are.
    pub(crate) fn api(kubeconfig: Option<PathBuf>, master: Option<String>) -> Result<From, Error> {
        let access = Box::new(Access::find(kubeconfig.as_deref(), master.as_deref())?);
        Ok(From::Api { access, kubeconfig, master })
    }

    /// The same as a Corefile would say it.
    fn as_wanted(&self) -> Wanted {
        match self {
            From::Manifests(path) => Wanted { manifests: Some(path.clone()), ..Wanted::default() },
            From::Api { kubeconfig, master, .. } => Wanted {
                kubeconfig: kubeconfig.clone().map(|path| (path, None)),
                endpoint: master.clone(),
                ..Wanted::default()
            },
        }
    }
}

/// All that is known before the start.
pub(crate) struct Start {
    pub(crate) prepared: Prepared,
    pub(crate) from: From,
    /// The file that it all stands in: when it changes, we end.
    pub(crate) file: Option<PathBuf>,
    /// Where to remember what the API server told.
    pub(crate) checkpoint: Option<PathBuf>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) healthz: Option<SocketAddr>,
    /// The flags in use, one a line.
    pub(crate) flags: String,
}

/// Something that must be ended with the daemon.
enum Source {
    Directory(Directory),
    Api(Api),
}

/// Starts the daemon and lets it work until it is told to stop.
pub(crate) fn start(start: Start) -> Result<ExitCode, Error> {
    let Start { prepared, from, file, checkpoint, metrics, healthz, flags } = start;
    let (sync_period, floor) = (prepared.sync_period(), prepared.min_sync_period());
    prepared.tell_ignored();
    let Prepared { configuration, typed, checkpoint: _, names, settings, mode, options, aside } = prepared;
    pages::refuse_profiling(configuration.enable_profiling);
    let (sender, events) = sync_channel(EVENTS_MAX);
    // A name server's threads do not wait for each other.
    if names.is_none() {
        watch::one_arena();
    }
    // Before any thread is started: all of them inherit what is blocked.
    let signals = block_signals(names.is_some())?;
    let own = Arc::new(Own::new(from.as_wanted()));
    // What is wrong with the Corefile is told before the kernel is touched.
    let mut names = names.map(|wanted| Names::prepare(wanted, own.clone())).transpose()?;
    stop_on_signals(signals, sender.clone(), names.as_ref().map(Names::control))?;
    if let Some(file) = &file {
        end_with(file, sender.clone())?;
    }
    system::set_up(&configuration);
    let mut plane = Plane::open(mode, &options)?;
    plane.check()?;
    let serving = Serving {
        metrics,
        healthz,
        hard: configuration.bind_address_hard_fail,
        configuration: pages::configuration(typed.to_json(), mode),
        flags,
    };
    let mut observer = Observer::start(mode, &options.families, sync_period, serving)?;
    let lookout = match aside {
        Some(thresholds) => Lookout::new(mode, &options.families, thresholds, sender.clone())?,
        None => None,
    };
    let health = observer.health.clone();
    let keep = own.decide();
    let local = names.as_mut().map(Names::open_way).transpose()?.flatten();
    let names = names.map(|names| names.start(sender.clone())).transpose()?;
    let deliver = move |batch: Batch| {
        if batch.loaded && !batch.changes.is_empty() {
            health.queued();
        }
        sender.send(Event::Changes(batch)).is_ok()
    };
    let node = settings.node_name.clone();
    // Manifests may be of single Services, beside those that another proxy routes.
    let withdrawal = Withdrawal {
        at_work: Some(mode),
        theirs: matches!(from, From::Api { .. }),
        patience: options.ipvs.drain_limit,
        node_ports: BTreeSet::new(),
        options,
    };
    // A directory of manifests is on disk already.
    let checkpoint = checkpoint.filter(|_| matches!(from, From::Api { .. })).map(Checkpoint::new);
    let source = match from {
        From::Manifests(path) => Source::Directory(Directory::watch(&path, keep, deliver)?),
        From::Api { access, .. } => {
            let url = access.url();
            info!("following {url} as node {node}");
            let count = counter(observer.metrics.clone(), url);
            observer.tell_events(Events::start((*access).clone(), &node, count.clone())?);
            Source::Api(Api::watch(*access, &node, keep, count, deliver)?)
        }
    };
    let planner = Planner::new(settings);
    let mut daemon = Daemon::new(mode, plane, planner, sync_period, floor, observer, checkpoint, lookout)
        .withdrawing(withdrawal);
    if names.is_some() {
        daemon.publish_by(Publisher::new(own, local));
    }
    let ended = daemon.work(&events);
    drop(events);
    if let Some(names) = names {
        names.end();
    }
    match source {
        Source::Directory(directory) => directory.stop(),
        Source::Api(api) => api.stop(),
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// Counts calls of the API server.
pub(crate) fn counter(metrics: Arc<Metrics>, url: String) -> watch::OnCall {
    let host = url.split_once("://").map_or(url.clone(), |(_, host)| host.to_owned());
    Arc::new(move |call: Call| {
        let Call { method, code, took } = call;
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        let labels = [("code", code.as_str()), ("host", &host), ("method", method)];
        metrics.registry.counter(CALLS.0, CALLS.1, &labels).increment();
        let labels = [("host", host.as_str()), ("verb", method)];
        metrics.registry.histogram(CALLS_TOOK.0, CALLS_TOOK.1, &labels, &CALL_BOUNDS).observe_time(took);
    })
}

/// The signals that we wait for ourselves.
fn block_signals(names: bool) -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    if names {
        signals.add(Signal::SIGUSR1);
    }
    signals.thread_block().map_err(|e| Error::Start("block signals", e.into()))?;
    Ok(signals)
}

/// Signals are waited for on a thread of their own, and told to the loop as events. Names end before
/// routes are no longer followed: the server has answers to give yet.
fn stop_on_signals(signals: SigSet, sender: SyncSender<Event>, names: Option<Control>) -> Result<(), Error> {
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            match (&names, signal) {
                (Some(names), Signal::SIGUSR1) => names.reload(),
                (Some(names), signal) => names.end(signal),
                (None, signal) => {
                    if sender.send(Event::Stop(signal)).is_err() {
                        return;
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(wait).map_err(|e| Error::Start("start the thread that waits for signals", e))?;
    Ok(())
}

/// Ends us when the configuration file is written, renamed or removed, as kube-proxy ends: whoever
/// started us starts us again, with what it says now.
fn end_with(file: &Path, sender: SyncSender<Event>) -> Result<(), Error> {
    let failed = |error: nix::Error| Error::Start("watch the configuration file", error.into());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(file, flags).map_err(failed)?;
    let wait = move || {
        loop {
            match inotify.read_events() {
                Err(nix::Error::EINTR) => {}
                Ok(_) | Err(_) => {
                    let _ = sender.send(Event::Fail(Error::ConfigurationChanged));
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("configuration".into());
    thread.spawn(wait).map_err(|e| Error::Start("start the thread that watches the configuration", e))?;
    Ok(())
}
