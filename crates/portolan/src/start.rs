//! The daemon's start, the same for `portolan run` and for a program called `kube-proxy`: everything
//! that must be there before the loop, in the order in which it must be.

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::node::Prepared;
use crate::observe::{Observer, Serving};
use crate::run::{Daemon, Event};
use crate::{pages, system};
use dataplane::Plane;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use plan::Planner;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use telemetry::info;
use watch::{Access, Api, Batch, Call, Directory, Events, Keep};

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
    /// The API server.
    Api(Box<Access>),
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
    let Prepared { configuration, typed, checkpoint: _, settings, mode, options } = prepared;
    pages::refuse_profiling(configuration.enable_profiling);
    let (sender, events) = sync_channel(EVENTS_MAX);
    // Before any thread is started: all of them inherit what is blocked.
    stop_on_signals(sender.clone())?;
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
        configuration: serde_json::json!({ "kubeproxy.config.k8s.io": typed.to_json() }).to_string(),
        flags,
    };
    let mut observer = Observer::start(mode, &options.families, sync_period, serving)?;
    let health = observer.health.clone();
    let deliver = move |batch: Batch| {
        if batch.loaded && !batch.changes.is_empty() {
            health.queued();
        }
        sender.send(Event::Changes(batch)).is_ok()
    };
    let keep = Keep::default();
    let node = settings.node_name.clone();
    // A directory of manifests is on disk already.
    let checkpoint = checkpoint.filter(|_| matches!(from, From::Api(_))).map(Checkpoint::new);
    let source = match from {
        From::Manifests(path) => Source::Directory(Directory::watch(&path, keep, deliver)?),
        From::Api(access) => {
            let url = access.url();
            info!("following {url} as node {node}");
            let count = counter(observer.metrics.clone(), url);
            observer.tell_events(Events::start((*access).clone(), &node, count.clone())?);
            Source::Api(Api::watch(*access, &node, keep, count, deliver)?)
        }
    };
    let planner = Planner::new(settings);
    let mut daemon = Daemon::new(mode, plane, planner, sync_period, floor, observer, checkpoint);
    let ended = daemon.work(&events);
    drop(events);
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
