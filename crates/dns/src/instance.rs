//! A running server: started from a Corefile, reloaded without a dropped question, stopped without
//! one.
//!
//! Sockets belong to addresses, not to configurations: a reload opens those that are new, swaps what
//! the others serve, and only then closes those that nobody asks for any more. What fails on the
//! way leaves everything as it was.

use crate::corefile::Scheme;
use crate::corefile::{self, Surroundings};
use crate::http::{Http, Pages};
use crate::metrics::Counter;
use crate::quic::Quic;
use crate::say;
use crate::setup::{Configuration, Listen, OnLoop, ProcessSettings, Server, World, set_up};
use crate::tcp::Tcp;
use crate::udp::Udp;
use crate::version::Version;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The runtime carries streams, upstream queries and pages: what waits, not what computes.
const RUNTIME_THREADS_MAX: usize = 2;
/// Questions that wait for an answer have so long when we stop.
const GRACE: Duration = Duration::from_secs(5);
/// The port of servers whose key names none.
const PORT_DNS: u16 = 53;
/// How often we look whether plugins can do their work.
const LOOK: Duration = Duration::from_millis(5);
/// So long the plugins of a new Corefile have for that where an address must not be open without.
const RELOAD_PATIENCE: Duration = Duration::from_secs(30);

/// Why a server does not start, or goes on as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Corefile cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The Corefile is wrong.
    #[error(transparent)]
    Corefile(#[from] corefile::Error),
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not all that is to be served can be.
    #[error("not ready: not all of the cluster is known yet")]
    NotReady,
    /// There are no threads to be had.
    #[error("start threads")]
    Threads(#[source] io::Error),
}

/// What can be told to a server that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Read the Corefile again.
    Reload,
    /// Stop, and say so for as long as `health` wants first (SIGTERM).
    Stop,
    /// Stop now (SIGINT).
    StopNow,
}

/// Where the Corefile comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// There is none: this is what counts, under this name.
    Text(&'static str, String),
}

impl Source {
    fn read(&self) -> Result<(String, String), Error> {
        match self {
            Source::Text(name, text) => Ok(((*name).to_owned(), text.clone())),
            Source::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
                Ok((path.to_string_lossy().into_owned(), text))
            }
        }
    }
}

/// What a server is started with.
pub struct Options {
    /// The Corefile.
    pub corefile: Source,
    /// The port of servers whose key names none.
    pub dns_port: u16,
    /// Where clusters come from.
    pub clusters: Arc<dyn crate::cluster::ClusterSource>,
    /// Say nothing about the start.
    pub quiet: bool,
    /// Where blocks listen that have no `bind`; everywhere where there are none.
    pub listen: Vec<IpAddr>,
    /// No address is opened before every plugin can do its work, however long that takes: whoever
    /// finds it closed asks elsewhere.
    pub patient: bool,
    /// What is done when there is nothing more to be served, but what has come is still to be
    /// answered: before datagram sockets close.
    pub farewell: Option<Arc<dyn Fn() + Send + Sync>>,
    /// What is done when the server asks itself (`loop`); the end of the process where there is nothing.
    pub on_loop: Option<OnLoop>,
}

impl Options {
    /// As `portolan dns` starts without flags.
    pub fn new(corefile: Source, clusters: Arc<dyn crate::cluster::ClusterSource>) -> Options {
        let dns_port = PORT_DNS;
        let (quiet, patient, listen) = (false, false, Vec::new());
        Options { corefile, dns_port, clusters, quiet, listen, patient, farewell: None, on_loop: None }
    }
}

/// An address at work.
struct Serving {
    server: Arc<ArcSwap<Server>>,
    /// Where, with the port that it was given.
    local: SocketAddr,
    udp: Option<Udp>,
    tcp: Option<Tcp>,
    quic: Option<Quic>,
}

/// A running server.
pub struct Instance {
    options: Options,
    world: World,
    serving: BTreeMap<Listen, Serving>,
    pages: BTreeMap<SocketAddr, Http>,
    process: ProcessSettings,
    /// The Corefile with all that it imports, as it was read last.
    blocks: Vec<corefile::Block>,
    /// What it says, until it is in force.
    prepared: Option<Configuration>,
    stopping: Arc<AtomicBool>,
    reloads_failed: Arc<Counter>,
    version: Arc<Version>,
    // Last, so that it outlives what runs on it.
    runtime: Runtime,
}

/// The world outside: files and the environment.
struct Outside;

impl Surroundings for Outside {
    fn find(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(at) = name.find(['*', '?']) else {
            // A wildcard in a directory's name, which CoreDNS would follow.
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a wildcard only in the last part of a path",
            ));
        };
        let (start, end) = name.split_at(at);
        let (one, end) = (end.starts_with('?'), end.get(1..).unwrap_or_default());
        let directory =
            pattern.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(text) = name.to_str() else { continue };
            let middle = text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            if middle.is_some_and(|middle| !one || middle.chars().count() == 1) {
                found.push(directory.join(&name));
            }
        }
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Serving {
    /// Begins to answer.
    fn start(
        listen: Listen,
        server: Arc<ArcSwap<Server>>,
        threads: usize,
        foreign: bool,
        runtime: &tokio::runtime::Handle,
    ) -> io::Result<Serving> {
        let Listen { scheme, address, port } = listen;
        if scheme == Scheme::Quic {
            let quic = Quic::start(address, port, &server, runtime)?;
            return Ok(Serving { server, local: quic.local, udp: None, tcp: None, quic: Some(quic) });
        }
        let udp = match scheme {
            Scheme::Dns => Some(Udp::start(address, port, threads, foreign, &server, runtime)?),
            _ => None,
        };
        let port = udp.as_ref().map_or(port, |udp| udp.local.port());
        let tcp = Tcp::start(scheme, address, port, foreign, &server, runtime)?;
        let local = udp.as_ref().map_or(tcp.local, |udp| udp.local);
        Ok(Serving { server, local, udp, tcp: Some(tcp), quic: None })
    }
}

impl Instance {
    /// Starts a server.
    pub fn start(options: Options) -> Result<Instance, Error> {
        let mut instance = Instance::prepare(options)?;
        instance.open(None)?;
        Ok(instance)
    }

    /// Makes a server as far as that goes without the world noticing: its Corefile is understood, and its
    /// clusters have been asked for. [`Instance::serve`] goes on from there.
    pub fn prepare(options: Options) -> Result<Instance, Error> {
        raise_open_files();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores.min(RUNTIME_THREADS_MAX))
            .thread_name("runtime")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let mut world = World::new(options.clusters.clone(), options.dns_port, runtime.handle().clone());
        world.listen.clone_from(&options.listen);
        world.on_loop.clone_from(&options.on_loop);
        let reloads_failed = world.metrics.counter(
            "coredns_reload_failed_total",
            "Counter of the number of failed reload attempts.",
            &[],
        );
        let version = Arc::new(Version::default());
        world.metrics.add_collector(&version);
        let stopping = world.stopping.clone();
        let mut instance = Instance {
            options,
            world,
            serving: BTreeMap::new(),
            pages: BTreeMap::new(),
            process: ProcessSettings::default(),
            blocks: Vec::new(),
            prepared: None,
            stopping,
            reloads_failed,
            version,
            runtime,
        };
        instance.blocks = instance.read()?;
        instance.prepared = Some(set_up(&instance.blocks, &instance.world)?);
        Ok(instance)
    }

    /// Opens its addresses. False where it was told to stop before there was anything to open for.
    fn open(&mut self, events: Option<&Receiver<Event>>) -> Result<bool, Error> {
        let Some(configuration) = self.prepared.take() else { return Ok(true) };
        let patience = (!self.options.patient).then_some(configuration.process.startup_patience);
        let until = patience.map(|patience| Instant::now() + patience);
        let patience = Patience { until, events, again: Cell::new(false) };
        if !self.put_in_force(configuration, &patience)? {
            return Ok(false);
        }
        if !self.options.quiet {
            self.tell();
        }
        if patience.again.get() {
            self.reload(true);
        }
        Ok(true)
    }

    /// Opens its addresses and runs until told to stop.
    pub fn serve(mut self, events: &Receiver<Event>) -> Result<(), Error> {
        if self.open(Some(events))? {
            self.run(events);
        }
        Ok(())
    }

    /// Runs until told to stop.
    pub fn run(mut self, events: &Receiver<Event>) {
        let mut look = self.next_look();
        loop {
            let event = match look {
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Reload) => self.reload(true),
                Err(RecvTimeoutError::Timeout) => self.reload(false),
                Ok(Event::Stop) => {
                    let lameduck = self.process.lameduck;
                    return self.stop(lameduck, events);
                }
                Ok(Event::StopNow) | Err(RecvTimeoutError::Disconnected) => {
                    return self.stop(Duration::ZERO, events);
                }
            }
            look = self.next_look();
        }
    }

    /// The addresses that are listened on, with the ports that they were given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.serving.values().map(|serving| serving.local).collect()
    }

    fn read(&self) -> Result<Vec<corefile::Block>, Error> {
        let (name, text) = self.options.corefile.read()?;
        let blocks = corefile::parse(&name, &text, &Outside)?;
        if blocks.is_empty() {
            // As a file is for a moment while somebody writes it anew.
            return Err(corefile::Error { file: name.into(), line: 1, what: "no server block".into() }.into());
        }
        Ok(blocks)
    }

    /// When to look whether the Corefile has changed.
    fn next_look(&self) -> Option<Instant> {
        let (interval, jitter) = self.process.reload?;
        Some(Instant::now() + interval + jitter.mul_f64(crate::random::fraction()))
    }

    fn reload(&mut self, asked_for: bool) {
        let blocks = match self.read() {
            Ok(blocks) if !asked_for && blocks == self.blocks => return,
            Ok(blocks) => blocks,
            Err(error) => return self.reload_failed(&error),
        };
        say::info(format_args!("Reloading"));
        // Not tried again until it is another one.
        self.blocks = blocks;
        match self.take_over() {
            Ok(()) => say::info(format_args!("Reloading complete")),
            Err(error) => self.reload_failed(&error),
        }
    }

    /// Puts into force what has been read.
    fn take_over(&mut self) -> Result<(), Error> {
        let configuration = set_up(&self.blocks, &self.world)?;
        let patience = match self.options.patient {
            true => RELOAD_PATIENCE,
            false => configuration.process.startup_patience,
        };
        let until = Some(Instant::now() + patience);
        let patience = Patience { until, events: None, again: Cell::new(false) };
        self.put_in_force(configuration, &patience).map(|_| ())
    }

    fn reload_failed(&self, error: &Error) {
        self.reloads_failed.count();
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(&format!(": {source}"));
        }
        say::error(format_args!("Corefile changed but reload failed: {text}; what was in force stays"));
    }

    /// False where it was told to stop on the way.
    fn put_in_force(&mut self, configuration: Configuration, patience: &Patience<'_>) -> Result<bool, Error> {
        let Configuration { servers, process } = configuration;
        let handle = self.runtime.handle().clone();
        let pages = self.open_pages(&process)?;
        {
            let _inside = handle.enter();
            process.plugins.iter().for_each(|plugin| plugin.clone().start());
        }
        // What listens is asked, and another process at the same address is not; so not before we know
        // what to say.
        let opened = match patience.wait(&process) {
            Waited::Stop => Ok(None),
            Waited::InVain if self.options.patient => Err(Error::NotReady),
            Waited::Ready | Waited::InVain => self.open_addresses(&servers, &process).map(Some),
        };
        let fresh = match opened {
            Ok(Some(fresh)) => fresh,
            other => {
                process.plugins.iter().for_each(|plugin| plugin.stop());
                return other.map(|_| false);
            }
        };
        say::set_debug(process.debug);
        for (listen, server) in &servers {
            if let Some(serving) = self.serving.get(listen) {
                serving.server.store(Arc::new(server.clone()));
            }
        }
        self.serving.extend(fresh);
        self.set_pages(pages, &process);
        let gone: Vec<Listen> =
            self.serving.keys().filter(|listen| !servers.contains_key(listen)).copied().collect();
        for listen in gone {
            if let Some(serving) = self.serving.remove(&listen) {
                self.close(serving);
            }
        }
        let old = std::mem::replace(&mut self.process, process);
        old.plugins.iter().for_each(|plugin| plugin.stop());
        self.version.set(&self.blocks, self.process.reload.is_some());
        Ok(true)
    }

    /// Opens what is new: nothing that is at work is touched.
    fn open_addresses(
        &self,
        servers: &BTreeMap<Listen, Server>,
        process: &ProcessSettings,
    ) -> Result<BTreeMap<Listen, Serving>, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = process.sockets.unwrap_or(cores);
        let handle = self.runtime.handle();
        let mut fresh = BTreeMap::new();
        for (listen, server) in servers {
            if self.serving.contains_key(listen) {
                continue;
            }
            let failed = |source| Error::Listen { address: listen.label(), source };
            let server = Arc::new(ArcSwap::from_pointee(server.clone()));
            let foreign = listen.address.is_some_and(|address| self.options.listen.contains(&address));
            let serving = Serving::start(*listen, server, threads, foreign, handle);
            fresh.insert(*listen, serving.map_err(failed)?);
        }
        Ok(fresh)
    }

    /// Opens the addresses of pages that are new.
    fn open_pages(&self, process: &ProcessSettings) -> Result<BTreeMap<SocketAddr, Http>, Error> {
        let handle = self.runtime.handle();
        let mut pages = BTreeMap::new();
        for (address, all) in pages_by_address(process) {
            if self.pages.contains_key(&address) {
                continue;
            }
            let failed = |source| Error::Listen { address: address.to_string(), source };
            let identity = process.page_identities.get(&address).cloned();
            pages.insert(address, Http::start(address, all, identity, handle).map_err(failed)?);
        }
        Ok(pages)
    }

    fn set_pages(&mut self, fresh: BTreeMap<SocketAddr, Http>, process: &ProcessSettings) {
        let mut wanted = pages_by_address(process);
        self.pages.retain(|address, http| match wanted.remove(address) {
            Some(pages) => {
                http.set(pages, process.page_identities.get(address).cloned());
                true
            }
            None => false,
        });
        self.pages.extend(fresh);
    }

    fn close(&self, serving: Serving) {
        self.runtime.block_on(async {
            if let Some(tcp) = serving.tcp {
                tcp.stop().await;
            }
            if let Some(quic) = serving.quic {
                quic.stop().await;
            }
        });
        if let Some(udp) = serving.udp {
            udp.stop();
        }
    }

    /// What is served, as CoreDNS writes it.
    fn tell(&self) {
        for (listen, serving) in &self.serving {
            for chain in serving.server.load().routes.chains() {
                let port = serving.local.port();
                let on = listen.address.map(|address| format!(" on {address}")).unwrap_or_default();
                let scheme = match listen.scheme {
                    Scheme::Dns => String::new(),
                    other => format!("{other}://"),
                };
                say::plain(format!("{scheme}{}:{port}{on}\n", chain.zone_label));
            }
        }
        say::plain(format!("Portolan-{}\n", env!("CARGO_PKG_VERSION")));
    }

    fn stop(mut self, lameduck: Duration, events: &Receiver<Event>) {
        self.stopping.store(true, Ordering::Relaxed);
        if !lameduck.is_zero() {
            say::info(format_args!("Going into lameduck mode for {lameduck:?}"));
            let end = Instant::now() + lameduck;
            // SIGINT cuts it short; all else has no meaning any more.
            while let Ok(event) = events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                if event == Event::StopNow {
                    break;
                }
            }
        }
        if let Some(farewell) = &self.options.farewell {
            farewell();
        }
        for (_, serving) in std::mem::take(&mut self.serving) {
            self.close(serving);
        }
        let began = Instant::now();
        while crate::udp::pending() > 0 && began.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process.plugins.iter().for_each(|plugin| plugin.stop());
        say::flush();
        self.runtime.shutdown_background();
    }
}

/// As many open files as we may have: each connection is one, and what shells give is few. Go does the
/// same for all of its programs.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        say::warning(format_args!("no more than {soft} open files: {error}"));
    }
}

/// How long plugins are given until they can do their work.
struct Patience<'e> {
    /// For ever where there is no end.
    until: Option<Instant>,
    /// Where we may be told to stop.
    events: Option<&'e Receiver<Event>>,
    /// We were told to read the Corefile again meanwhile.
    again: Cell<bool>,
}

/// What became of waiting.
enum Waited {
    Ready,
    InVain,
    Stop,
}

impl Patience<'_> {
    fn wait(&self, process: &ProcessSettings) -> Waited {
        loop {
            if process.plugins.iter().all(|plugin| plugin.is_ready()) {
                return Waited::Ready;
            }
            if self.until.is_some_and(|until| until <= Instant::now()) {
                return Waited::InVain;
            }
            match self.events.map(|events| events.recv_timeout(LOOK)) {
                None => std::thread::sleep(LOOK),
                Some(Ok(Event::Stop | Event::StopNow) | Err(RecvTimeoutError::Disconnected)) => {
                    return Waited::Stop;
                }
                Some(Ok(Event::Reload)) => self.again.set(true),
                Some(Err(RecvTimeoutError::Timeout)) => {}
            }
        }
    }
}

fn pages_by_address(process: &ProcessSettings) -> BTreeMap<SocketAddr, Pages> {
    let mut pages: BTreeMap<SocketAddr, Pages> = BTreeMap::new();
    for (address, page) in &process.pages {
        pages.entry(*address).or_default().insert(page.path, page.clone());
    }
    pages
}
