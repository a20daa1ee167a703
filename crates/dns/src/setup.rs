//! From a Corefile to servers: each directive goes to its plugin, which adds itself to the chain,
//! changes what its block asks for, or asks for something of the process.

use crate::chain::{Chain, Link, Plugin, Routes};
use crate::cluster::ClusterSource;
use crate::corefile::{Block, Error, Key, Line, Scheme, Word};
use crate::metrics::Metrics;
use crate::plugin::kubernetes::{Known, Promised};
use crate::plugin::prometheus::AllCounts;
use crate::plugin::ready::ReadyPage;
use crate::plugin::{PLUGINS, SetUp};
use crate::secure::Identity;
use crate::web::Page;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wire::Name;

/// What a plugin is given to set itself up from.
pub struct Setting<'s> {
    /// Its directives in this block, at least one.
    pub lines: &'s [&'s Line],
    /// What the block asks for.
    pub block: &'s mut BlockSettings,
    /// What the process is to do.
    pub process: &'s mut ProcessSettings,
    /// What the process has.
    pub world: &'s World,
}

impl<'s> Setting<'s> {
    /// The directive, for plugins that may stand in a block once only.
    pub fn once(&self) -> Result<&'s Line, Error> {
        match *self.lines {
            [line] => Ok(line),
            [_, again, ..] => Err(again.error("only once in a server block")),
            [] => {
                Err(Error { file: "Corefile".into(), line: 0, what: "a plugin without a directive".into() })
            }
        }
    }
}

/// What a server block asks for, for all of its zones.
#[derive(Clone, Debug)]
pub struct BlockSettings {
    /// Its zones, in lower case.
    pub zones: Vec<Name>,
    /// Its keys.
    pub keys: Vec<Key>,
    /// The addresses that it listens on; empty for all.
    pub listen: Vec<IpAddr>,
    /// The directory that files are looked for in (`root`).
    pub root: PathBuf,
    /// The block as errors and metrics name it: its first key, and where it stands.
    pub first_key: Word,
    /// The name of its view.
    pub view: String,
    /// How long connections may stay silent, and take to ask and to be answered (`timeouts`).
    pub timeouts: Timeouts,
    /// Names of the plugins of the block.
    pub plugins: BTreeSet<&'static str>,
    /// The block's `kubernetes`, for plugins that are set up before it.
    pub(crate) kubernetes: Promised,
    /// Who is told when a zone has changed (`transfer`).
    pub notifies: Vec<Notify>,
    /// Who we are where the transport is encrypted (`tls`).
    pub(crate) identity: Option<Arc<Identity>>,
    /// How much clients of a transport may do (`https`, `grpc_server`, `quic`).
    pub(crate) limits: Limits,
}

/// Who is told when one of these zones has changed.
#[derive(Clone, Debug)]
pub struct Notify {
    /// The zones, and those below them.
    pub zones: Vec<Name>,
    /// Who.
    pub to: Vec<SocketAddr>,
    /// The address that we say it from.
    pub source: Option<IpAddr>,
}

impl World {
    /// A world in which nothing has been counted yet.
    pub fn new(clusters: Arc<dyn ClusterSource>, dns_port: u16, runtime: tokio::runtime::Handle) -> World {
        let world = World {
            metrics: Arc::default(),
            clusters,
            dns_port,
            runtime,
            known: Known::default(),
            counts: Arc::default(),
            stopping: Arc::default(),
            listen: Vec::new(),
            on_loop: None,
        };
        world.metrics.add_collector(&world.counts);
        world
    }
}

impl BlockSettings {
    /// The settings of a block that serves one zone and says nothing more.
    pub(crate) fn of_zone(line: &Line, zone: Name) -> BlockSettings {
        BlockSettings {
            zones: vec![zone],
            keys: Vec::new(),
            listen: Vec::new(),
            root: PathBuf::new(),
            first_key: line.name.clone(),
            view: String::new(),
            timeouts: Timeouts::default(),
            plugins: BTreeSet::new(),
            kubernetes: Promised::default(),
            notifies: Vec::new(),
            identity: None,
            limits: Limits::default(),
        }
    }

    /// A path, below `root` unless it is absolute.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// How long connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a question.
    pub idle: Duration,
    /// For the rest of a question that has begun.
    pub read: Duration,
    /// For an answer to be taken.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        // CoreDNS's (core/dnsserver/server.go, `NewServer`).
        let seconds = Duration::from_secs;
        Timeouts { idle: seconds(10), read: seconds(3), write: seconds(5) }
    }
}

/// How much clients may do; CoreDNS' own where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Questions that a connection may ask before it is closed (`timeouts`, `maxtcpqueries`).
    pub(crate) queries: u64,
    /// Connections of HTTPS.
    pub(crate) https_connections: usize,
    /// Connections of gRPC.
    pub(crate) grpc_connections: usize,
    /// Questions of one connection of gRPC that wait for an answer.
    pub(crate) grpc_streams: u32,
    /// Questions of one connection of QUIC that wait for an answer.
    pub(crate) quic_streams: u32,
    /// The same for all connections of QUIC.
    pub(crate) quic_workers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queries: u64::MAX,
            https_connections: 200,
            grpc_connections: 200,
            grpc_streams: 256,
            quic_streams: 256,
            quic_workers: 1024,
        }
    }
}

/// What the process is to do.
#[derive(Default)]
pub struct ProcessSettings {
    /// Pages to serve over HTTP, at their addresses.
    pub pages: Vec<(SocketAddr, Page)>,
    /// Who we are at addresses of pages that are encrypted.
    pub(crate) page_identities: BTreeMap<SocketAddr, Arc<Identity>>,
    /// Look whether the Corefile has changed so often, and wait up to so much longer.
    pub reload: Option<(Duration, Duration)>,
    /// So long health is told to be bad before we stop.
    pub lameduck: Duration,
    /// So long the server waits at the start for plugins to be ready (`kubernetes`).
    pub startup_patience: Duration,
    /// Tell more (`debug`).
    pub debug: bool,
    /// Every plugin of every block.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// Those in chains, with their names.
    pub(crate) named: Vec<(&'static str, Arc<dyn Plugin>)>,
    /// Pages about whether they are ready.
    pub(crate) ready: Vec<ReadyPage>,
    /// How many sockets and workers there are for each address (`multisocket`).
    pub sockets: Option<usize>,
}

/// What the process has, whatever the Corefile says. It outlives reloads.
pub struct World {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Where clusters come from.
    pub clusters: Arc<dyn ClusterSource>,
    /// The port of servers whose key names none.
    pub dns_port: u16,
    /// The runtime for what takes waiting.
    pub runtime: tokio::runtime::Handle,
    /// The clusters that are open.
    pub(crate) known: Known,
    /// What the plugin `prometheus` has counted.
    pub(crate) counts: Arc<AllCounts>,
    /// We have been told to stop, and only finish what has begun.
    pub stopping: Arc<std::sync::atomic::AtomicBool>,
    /// Where blocks listen that have no `bind`; everywhere where there are none.
    pub listen: Vec<IpAddr>,
    /// What is done when the server asks itself; the end of the process where there is nothing.
    pub on_loop: Option<OnLoop>,
}

/// What is done when the server asks itself.
pub type OnLoop = Arc<dyn Fn() + Send + Sync>;

/// A Corefile that has been understood.
pub struct Configuration {
    /// What each address serves.
    pub servers: BTreeMap<Listen, Server>,
    /// What the process is to do.
    pub process: ProcessSettings,
}

/// An address that is listened on, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// How.
    pub scheme: Scheme,
    /// Where; `None` is everywhere.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Listen {
    /// The server as metrics call it: `dns://:53`, `dns://127.0.0.1:53`.
    pub fn label(&self) -> String {
        let Listen { scheme, address, port } = self;
        match address {
            None => format!("{scheme}://:{port}"),
            Some(address) => format!("{scheme}://{}", SocketAddr::new(*address, *port)),
        }
    }
}

/// What an address serves.
#[derive(Clone)]
pub struct Server {
    /// Which question goes where.
    pub routes: Arc<Routes>,
    /// How long its connections may take.
    pub timeouts: Timeouts,
    /// How much its clients may do.
    pub(crate) limits: Limits,
    /// Who it is where the transport is encrypted; without, it is in the clear.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Where its answers are counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// Understands a Corefile.
pub fn set_up(blocks: &[Block], world: &World) -> Result<Configuration, Error> {
    let mut process = ProcessSettings { sockets: None, ..ProcessSettings::default() };
    let mut chains: BTreeMap<Listen, Shared> = BTreeMap::new();
    let mut taken: BTreeMap<(Listen, Name), Word> = BTreeMap::new();
    let mut number = 0;
    for block in blocks {
        let (settings, links) = set_up_block(block, &mut process, world)?;
        for listen in listens(&settings) {
            let keys = settings.keys.iter();
            for key in keys.filter(|key| (key.scheme, key.port) == (listen.scheme, listen.port)) {
                check_free(&settings, listen, key, &mut taken)?;
                let links = links.iter().map(|link| Link { name: link.name, plugin: link.plugin.clone() });
                let server = listen.label().into();
                let chain = Chain::new(key.zone, server, settings.view.clone(), number, links.collect());
                number += 1;
                let shared = chains.entry(listen).or_default();
                shared.chains.push(Arc::new(chain));
                shared.take(&settings)?;
            }
        }
    }
    for ready in std::mem::take(&mut process.ready) {
        let page = ready.page(&process.named, &world.stopping);
        process.pages.push((ready.address, page));
    }
    tell_plugins(&chains, world);
    let mut servers = BTreeMap::new();
    for (listen, shared) in chains {
        shared.check(listen)?;
        let Shared { chains, timeouts, limits, identity, .. } = shared;
        let routes = Arc::new(Routes::new(listen.label().into(), chains));
        let metrics = world.metrics.clone();
        servers.insert(listen, Server { routes, timeouts, limits, identity, metrics });
    }
    Ok(Configuration { servers, process })
}

/// What the blocks of one address have together.
#[derive(Default)]
struct Shared {
    chains: Vec<Arc<Chain>>,
    timeouts: Timeouts,
    limits: Limits,
    identity: Option<Arc<Identity>>,
    /// The first block.
    first: Option<Word>,
}

impl Shared {
    fn take(&mut self, settings: &BlockSettings) -> Result<(), Error> {
        self.first.get_or_insert_with(|| settings.first_key.clone());
        if settings.timeouts != Timeouts::default() {
            self.timeouts = settings.timeouts;
        }
        if settings.limits != Limits::default() {
            self.limits = settings.limits;
        }
        let Some(identity) = &settings.identity else { return Ok(()) };
        match &self.identity {
            // A client says nothing of a zone before it is shown a certificate.
            Some(other) if other.files != identity.files => {
                let what = "another block of this address has another certificate, key or authority";
                Err(settings.first_key.error(what))
            }
            _ => {
                self.identity = Some(identity.clone());
                Ok(())
            }
        }
    }

    fn check(&self, listen: Listen) -> Result<(), Error> {
        let encrypted = listen.scheme == Scheme::Quic;
        match &self.first {
            Some(first) if encrypted && self.identity.is_none() => {
                Err(first.error(format_args!("{} wants plugin tls with a certificate", listen.label())))
            }
            _ => Ok(()),
        }
    }
}

/// `coredns_plugin_enabled`, for chains that are counted at all.
fn tell_plugins(chains: &BTreeMap<Listen, Shared>, world: &World) {
    for chain in chains.values().flat_map(|shared| &shared.chains) {
        if !chain.links().iter().any(|link| link.name == "prometheus") {
            continue;
        }
        for link in chain.links() {
            let labels = [
                ("server", &*chain.server),
                ("zone", &*chain.zone_label),
                ("view", &*chain.view),
                ("name", link.name),
            ];
            let help = "A metric that indicates whether a plugin is enabled on per server and zone basis.";
            world.metrics.gauge("coredns_plugin_enabled", help, &labels).set(1);
        }
    }
}

/// The addresses that a block listens on.
fn listens(settings: &BlockSettings) -> BTreeSet<Listen> {
    let addresses: Vec<Option<IpAddr>> = match settings.listen.as_slice() {
        [] => vec![None],
        addresses => addresses.iter().copied().map(Some).collect(),
    };
    let mut listens = BTreeSet::new();
    for key in &settings.keys {
        for &address in &addresses {
            listens.insert(Listen { scheme: key.scheme, address, port: key.port });
        }
    }
    listens
}

/// One zone is served once at an address, and not both at all addresses and at one of them.
/// Blocks with a view may share it.
fn check_free(
    settings: &BlockSettings,
    listen: Listen,
    key: &Key,
    taken: &mut BTreeMap<(Listen, Name), Word>,
) -> Result<(), Error> {
    if !settings.view.is_empty() {
        return Ok(());
    }
    let overlaps = |other: &Listen| {
        (other.scheme, other.port) == (listen.scheme, listen.port)
            && (other.address == listen.address || other.address.is_none() || listen.address.is_none())
    };
    let other = taken.iter().find(|((other, zone), _)| *zone == key.zone && overlaps(other));
    if let Some((_, other)) = other {
        let what = format_args!("{} is served already by the block at line {}", key.zone, other.line);
        return Err(settings.first_key.error(what));
    }
    taken.insert((listen, key.zone), settings.first_key.clone());
    Ok(())
}

fn set_up_block(
    block: &Block,
    process: &mut ProcessSettings,
    world: &World,
) -> Result<(BlockSettings, Vec<Link>), Error> {
    let mut keys = Vec::new();
    for word in &block.keys {
        for key in Key::parse(word, world.dns_port)? {
            match key.scheme {
                Scheme::Https3 => return Err(word.error("transport https3 is not built")),
                _ => keys.push(key),
            }
        }
    }
    let Some(first_key) = block.keys.first().cloned() else {
        return Err(Error { file: "Corefile".into(), line: 0, what: "a server block without a zone".into() });
    };
    for line in &block.lines {
        match PLUGINS.iter().find(|kind| kind.name == line.name.text) {
            None => return Err(line.error("no such plugin")),
            Some(kind) if matches!(kind.set_up, SetUp::NotBuilt) => {
                return Err(line.error("this plugin is not built"));
            }
            Some(_) => {}
        }
    }
    let plugins = PLUGINS.iter().filter(|kind| block.lines.iter().any(|line| line.name.text == kind.name));
    let mut settings = BlockSettings {
        zones: keys.iter().map(|key| key.zone).collect(),
        keys,
        listen: world.listen.clone(),
        root: PathBuf::new(),
        first_key,
        view: String::new(),
        timeouts: Timeouts::default(),
        plugins: plugins.map(|kind| kind.name).collect(),
        kubernetes: Promised::default(),
        notifies: Vec::new(),
        identity: None,
        limits: Limits::default(),
    };
    let mut links = Vec::new();
    // In the order of the list, not of the file.
    for kind in PLUGINS {
        let lines: Vec<&Line> = block.lines.iter().filter(|line| line.name.text == kind.name).collect();
        let SetUp::Built(set_up) = kind.set_up else { continue };
        if lines.is_empty() {
            continue;
        }
        let mut setting = Setting { lines: &lines, block: &mut settings, process: &mut *process, world };
        if let Some(plugin) = set_up(&mut setting)? {
            process.plugins.push(plugin.clone());
            process.named.push((kind.name, plugin.clone()));
            links.push(Link { name: kind.name, plugin });
        }
    }
    Ok((settings, links))
}

/// Reads a duration as Go writes it: `5s`, `1m30s`, `500ms`.
pub fn duration(word: &Word) -> Result<Duration, Error> {
    let bad = || word.error("no duration: a number with a unit was expected, like 30s");
    let mut rest = word.text.as_str();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0_f64;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        seconds += number.parse::<f64>().map_err(|_| bad())? * scale;
        any = true;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| any).ok_or_else(bad)
}

/// Reads a number.
pub fn number<T: std::str::FromStr>(word: &Word) -> Result<T, Error> {
    word.text.parse().map_err(|_| word.error("no number, or one that is too large"))
}

/// Reads `ADDRESS:PORT`, where the address may be missing.
pub fn socket_address(word: &Word) -> Result<SocketAddr, Error> {
    let bad = || word.error("no address and port, like :8080 or 127.0.0.1:8080");
    let (host, port) = word.text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address: IpAddr = match host {
        // All addresses of both families, where the kernel has both.
        "" => crate::web::EVERYWHERE,
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().map_err(|_| bad())?,
    };
    Ok(SocketAddr::new(address, port))
}

/// What the kernel calls this host.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
