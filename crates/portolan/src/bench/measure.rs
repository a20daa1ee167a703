//! One measurement: the real daemon on a node of the lab, a synthetic cluster for it, and beside it
//! two nodes without Services to compare with.
//!
//! ```text
//!   node "loaded": the daemon, all Services     client → ClusterIP → backend
//!                                               client → the same pod, at an address of no Service
//!   node "empty":  the daemon, no Service       client → a pod
//!   node "bare":   nothing at all               client → a pod
//! ```
//!
//! All four ways are connected along in turn by one thread, so that whatever else the machine does
//! hits all alike. Clients and pods are on one node each: what differs is the tables only.

use super::synthetic::{self, PORT, Size, TARGET_PORT};
use crate::daemon::{Daemon, Line};
use crate::error::Error;
use crate::janitor::{Janitor, Scratch};
use dataplane::iptables::Variant;
use lab::{Connects, Door, Host, Lab, Latencies, Node};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

/// How long the daemon may take for its first sync, and for a change.
const SYNC_MAX: Duration = Duration::from_secs(1800);
const CHANGE_MAX: Duration = Duration::from_secs(120);
/// Between two changes.
const CHANGE_EVERY: Duration = Duration::from_millis(10);
/// Connections along each way before measuring: neighbours are found, code is warm.
const WARM_UP: usize = 200;

/// What is to be measured, and how thoroughly.
pub(super) struct Task<'a> {
    pub(super) mode: &'a str,
    pub(super) size: Size,
    /// Connections along each way.
    pub(super) rounds: usize,
    /// Changes of an endpoint.
    pub(super) changes: u32,
    /// Whether backends are set aside: on or off.
    pub(super) set_aside: &'a str,
    /// Where manifests are written.
    pub(super) parent: &'a Path,
}

/// What was measured, in the form that other programs read.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) mode: String,
    pub(super) services: u32,
    pub(super) endpoints: u32,
    pub(super) full_sync_s: f64,
    pub(super) cpu_s: f64,
    pub(super) rss_mb: f64,
    pub(super) change_p50_ms: f64,
    pub(super) change_p99_ms: f64,
    pub(super) connect_direct_p50_us: f64,
    pub(super) connect_service_p50_us: f64,
    pub(super) connect_ratio: f64,
    pub(super) no_service_ratio: f64,
    /// Beyond the contract: from the daemon's start until it had read all manifests.
    pub(super) load_s: f64,
    /// From the manifest's change in the directory to the daemon's word that the kernel has it.
    pub(super) change_seen_p50_ms: f64,
    pub(super) change_seen_p99_ms: f64,
    /// To an address of no Service, with all tables loaded.
    pub(super) connect_no_service_p50_us: f64,
    /// On a node without any table at all.
    pub(super) connect_bare_p50_us: f64,
    /// To the first and the last Service by name, and their ratios to `connect_direct_p50_us`.
    pub(super) connect_first_p50_us: f64,
    pub(super) connect_last_p50_us: f64,
    pub(super) first_ratio: f64,
    pub(super) last_ratio: f64,
    /// Made one after another by one thread and reset, to a Service and to a pod.
    pub(super) connections_per_s: f64,
    pub(super) connections_per_s_direct: f64,
    /// Connections along each way.
    pub(super) rounds: usize,
    /// Changes of an endpoint.
    pub(super) changes: u32,
    /// Whether backends were set aside.
    pub(super) set_aside: String,
}

/// A node with a client and a pod that serves.
struct Stage {
    node: Node,
    client: Host,
    /// The pod's address that is no Service's.
    plain: SocketAddr,
    door: Door,
    _pod: Host,
}

impl Stage {
    fn new(lab: &mut Lab, name: &str, number: u32, endpoints: &[IpAddr]) -> Result<Stage, Error> {
        let node = lab.node(name)?;
        let client = lab.pod(&node, &format!("{name}-client"))?;
        let plain = IpAddr::V4(synthetic::host(number));
        let addresses: Vec<IpAddr> = std::iter::once(plain).chain(endpoints.iter().copied()).collect();
        let pod = lab.pod_at(&node, &format!("{name}-pod"), &addresses)?;
        let door = pod.door(TARGET_PORT)?;
        let plain = SocketAddr::new(plain, TARGET_PORT);
        Ok(Stage { node, client, plain, door, _pod: pod })
    }
}

/// Measures one size in one mode.
pub(super) fn measure(task: &Task<'_>, janitor: &Janitor) -> Result<Row, Error> {
    let Task { mode, size, rounds, changes, set_aside, parent } = *task;
    let [first, last] = size.ends();
    let measured = [size.middle(), first, last];
    let those: BTreeSet<u32> = measured.into_iter().collect();
    let endpoints = |service: &u32| {
        let service = *service;
        (0..size.endpoints).map(move |e| IpAddr::from(size.endpoint(service, e)))
    };
    let behind: Vec<IpAddr> = those.iter().flat_map(endpoints).collect();
    let mut lab = Lab::new()?;
    let loaded = Stage::new(&mut lab, "loaded", 0, &behind)?;
    let empty = Stage::new(&mut lab, "empty", 1, &[])?;
    let bare = Stage::new(&mut lab, "bare", 2, &[])?;

    let nothing = janitor.directory(parent, "bench-empty")?;
    synthetic::write_node(&nothing, &empty.node)?;
    let configured = janitor.directory(parent, "bench-configuration")?;
    synthetic::write_configuration(&configured)?;
    let configuration = configured.path().join(synthetic::CONFIGURATION);
    // One kind of iptables may be asked for by name.
    let kind = mode.strip_prefix("iptables-");
    let variant = Variant::ALL.into_iter().find(|variant| Some(variant.name()) == kind);
    let start = |node: &Node, manifests| {
        let daemons = if variant.is_some() { "iptables" } else { mode };
        if let Some(variant) = variant {
            node.run(|| variant.claim())??;
        }
        let flags = ["--set-aside".to_owned(), set_aside.to_owned()];
        Daemon::start_with(node, daemons, manifests, Some(&configuration), &flags, janitor)
    };
    let mut beside = start(&empty.node, nothing.path())?;
    beside.wait("synced", CHANGE_MAX)?;
    let manifests = janitor.directory(parent, "bench")?;
    synthetic::write_node(&manifests, &loaded.node)?;
    synthetic::write_services(&manifests, size)?;

    let mut daemon = start(&loaded.node, manifests.path())?;
    let synced = daemon.wait("synced", SYNC_MAX)?;
    let Changed { took, seen } = change(&mut daemon, &manifests, size, &those, changes)?;
    complain(&mut daemon)?;

    let [service, first, last] =
        measured.map(|service| SocketAddr::new(size.cluster_ip(service).into(), PORT));
    let ways = [
        (&loaded.client, service),
        (&loaded.client, first),
        (&loaded.client, last),
        (&loaded.client, loaded.plain),
        (&empty.client, empty.plain),
        (&bare.client, bare.plain),
    ];
    let doors = [&loaded.door, &empty.door, &bare.door];
    let both = [(&loaded.client, service), (&empty.client, empty.plain)];
    let [service, first, last, plain, direct, bare] = connect(&ways, &doors, rounds)?;
    let [per_s, per_s_direct] = lab::connect_rates(both, &doors, rounds.div_ceil(lab::LOT))?;
    Ok(Row {
        mode: if variant.is_some() { mode } else { synced.field("mode").unwrap_or(mode) }.to_owned(),
        services: size.services,
        endpoints: size.endpoints,
        full_sync_s: told(&synced, "full_sync_s")?,
        cpu_s: told(&synced, "cpu_s")?,
        rss_mb: told(&synced, "rss_mb")?,
        change_p50_ms: milliseconds(took.p50()),
        change_p99_ms: milliseconds(took.p99()),
        connect_direct_p50_us: microseconds(direct.p50()),
        connect_service_p50_us: microseconds(service.p50()),
        connect_ratio: rounded(service.ratio(&direct)),
        no_service_ratio: rounded(plain.ratio(&direct)),
        load_s: told(&synced, "load_s")?,
        change_seen_p50_ms: milliseconds(seen.p50()),
        change_seen_p99_ms: milliseconds(seen.p99()),
        connect_no_service_p50_us: microseconds(plain.p50()),
        connect_bare_p50_us: microseconds(bare.p50()),
        connect_first_p50_us: microseconds(first.p50()),
        connect_last_p50_us: microseconds(last.p50()),
        first_ratio: rounded(first.ratio(&direct)),
        last_ratio: rounded(last.ratio(&direct)),
        connections_per_s: per_s.round(),
        connections_per_s_direct: per_s_direct.round(),
        rounds,
        changes,
        set_aside: set_aside.to_owned(),
    })
}

/// How long changes took.
struct Changed {
    /// From the event in the daemon's hand to the kernel's acknowledgement.
    took: Latencies,
    /// From the manifest's renaming to the same.
    seen: Latencies,
}

/// Lets one endpoint of one Service go, then come back, then one of another Service, and so on.
fn change(
    daemon: &mut Daemon,
    manifests: &Scratch,
    size: Size,
    measured: &BTreeSet<u32>,
    changes: u32,
) -> Result<Changed, Error> {
    let (mut took, mut seen) = (Vec::new(), Vec::new());
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut service = 0;
    for number in 0..changes {
        let leaves = number % 2 == 0;
        if leaves {
            service = chance.below(size.services);
            // The measured ones stay as they are, if there are others.
            for _ in 0..measured.len() {
                if measured.contains(&service) {
                    service = (service + 1) % size.services;
                }
            }
        }
        sleep(CHANGE_EVERY);
        let begin = SystemTime::now();
        let endpoints = size.endpoints - u32::from(leaves);
        synthetic::write_slice(manifests, size, service, endpoints)?;
        let line = daemon.wait("changed", CHANGE_MAX)?;
        took.push(Duration::from_secs_f64(told(&line, "took_us")? / 1e6));
        let begin = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        seen.push(Duration::from_secs_f64((line.at_s - begin.as_secs_f64()).max(0.0)));
    }
    Ok(Changed { took: took.into_iter().collect(), seen: seen.into_iter().collect() })
}

/// Numbers that look random and are the same each time (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(limit.max(1))).unwrap_or(0)
    }
}

/// Connects along all ways in turn.
fn connect<const WAYS: usize>(
    ways: &[(&Host, SocketAddr); WAYS],
    doors: &[&Door],
    rounds: usize,
) -> Result<[Latencies; WAYS], Error> {
    lab::connect_latencies(ways, doors, WARM_UP.min(rounds))?;
    let connects = lab::connect_latencies(ways, doors, rounds)?;
    for ((host, target), Connects { failures, .. }) in ways.iter().zip(&connects) {
        if let Some(failure) = failures.first() {
            let count = failures.len();
            return Err(Error::Bench(format!(
                "{count} connections from {} to {target}: {failure}",
                host.name()
            )));
        }
    }
    let latencies: Vec<_> = connects.into_iter().map(|connects| connects.latencies).collect();
    latencies.try_into().map_err(|_| Error::Bench("a way was not measured".to_owned()))
}

/// A figure is worth nothing if the daemon could not do what it was to do.
fn complain(daemon: &mut Daemon) -> Result<(), Error> {
    match daemon.complaints().into_iter().next() {
        Some(complaint) => Err(Error::Bench(complaint)),
        None => Ok(()),
    }
}

/// A number from the daemon's log.
fn told(line: &Line, key: &str) -> Result<f64, Error> {
    line.number(key).ok_or_else(|| Error::Bench(format!("the daemon told no {key}: {}", line.message)))
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn microseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e6)
}

/// To four places: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}
