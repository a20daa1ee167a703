//! `prometheus`: counts questions and answers, and shows all counters over HTTP.
//!
//! ```text
//! prometheus [ADDRESS:PORT] {     by default localhost:9153
//!     runtime_metrics
//!     tls FILE
//! }
//! ```
//!
//! `/metrics` has CoreDNS' families, names and labels. What is counted for every question is counted
//! in lanes: each thread adds to counters of its own, and who looks adds them up, so that threads
//! do not wait for each other's memory.

use crate::chain::{At, Plugin, Sent, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::metrics::{Collect, Exposition, Kind, labels_text};
use crate::secure::{Identity, web_config};
use crate::setup::{Setting, socket_address};
use crate::web::{Page, Said};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use wire::{Rcode, Type};

const PORT_DEFAULT: u16 = 9153;

/// Lanes: threads beyond so many share.
const LANES: usize = 8;

/// CoreDNS' `TimeBuckets`: powers of two from a quarter of a millisecond.
const TIME_BOUNDS_S: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
const SIZE_BOUNDS: [f64; 14] =
    [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];
/// The same, to compare with.
const SIZE_BOUNDS_BYTES: [usize; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16000, 32000, 48000, 64000];

/// The types that are counted by name; the others together.
const TYPES: [Type; 19] = [
    Type::AAAA,
    Type::A,
    Type::CNAME,
    Type::DNSKEY,
    Type::DS,
    Type::MX,
    Type::NSEC3,
    Type::NSEC,
    Type::NS,
    Type::PTR,
    Type::RRSIG,
    Type::SOA,
    Type::SRV,
    Type::TXT,
    Type::HTTPS,
    Type::SVCB,
    Type::IXFR,
    Type::AXFR,
    Type::ANY,
];

/// Protocols by their index.
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
/// Codes that are counted without a lock; all others are rare.
const RCODES: usize = 6;

const SIZES: usize = SIZE_BOUNDS.len() + 1;
const TIMES: usize = TIME_BOUNDS_S.len() + 1;

thread_local! {
    static LANE: Cell<usize> = Cell::new({
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % LANES
    });
}

/// What one lane has counted for one chain.
#[repr(align(64))]
struct Lane {
    /// By protocol, family and type.
    requests: [[[AtomicU64; TYPES.len() + 1]; 2]; PROTOCOLS.len()],
    durations: [AtomicU64; TIMES],
    duration_ns: AtomicU64,
    request_sizes: [[AtomicU64; SIZES]; PROTOCOLS.len()],
    request_bytes: [AtomicU64; PROTOCOLS.len()],
    response_sizes: [[AtomicU64; SIZES]; PROTOCOLS.len()],
    response_bytes: [AtomicU64; PROTOCOLS.len()],
    dnssec_ok: AtomicU64,
    /// By code and by the place in the chain of the plugin that answered: the first and the last few.
    responses: [[AtomicU64; PLUGINS_COUNTED]; RCODES],
}

/// So many different plugins can answer in one chain and be counted without a lock.
const PLUGINS_COUNTED: usize = 12;

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Lane {
    fn new() -> Lane {
        Lane {
            requests: std::array::from_fn(|_| std::array::from_fn(|_| zeros())),
            durations: zeros(),
            duration_ns: AtomicU64::new(0),
            request_sizes: std::array::from_fn(|_| zeros()),
            request_bytes: zeros(),
            response_sizes: std::array::from_fn(|_| zeros()),
            response_bytes: zeros(),
            dnssec_ok: AtomicU64::new(0),
            responses: std::array::from_fn(|_| zeros()),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn total<'l>(lanes: impl Iterator<Item = &'l AtomicU64>) -> u64 {
    lanes.map(|counter| counter.load(Ordering::Relaxed)).sum()
}

/// What has been counted for one server, zone and view. It outlives reloads.
pub(crate) struct Counts {
    labels: [(&'static str, String); 3],
    lanes: [OnceLock<Box<Lane>>; LANES],
    /// The plugins that have answered, by their index in `responses`.
    plugins: [OnceLock<&'static str>; PLUGINS_COUNTED],
    /// Answers that have no place in the lanes.
    others: Mutex<BTreeMap<(Rcode, &'static str), u64>>,
}

/// All counts of the process, by server, zone and view.
#[derive(Default)]
pub(crate) struct AllCounts(Mutex<BTreeMap<[String; 3], Arc<Counts>>>);

impl AllCounts {
    fn of(&self, server: &str, zone: &str, view: &str) -> Arc<Counts> {
        let key = [server, zone, view].map(str::to_owned);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let [server, zone, view] = key.clone();
            Arc::new(Counts {
                labels: [("server", server), ("zone", zone), ("view", view)],
                lanes: std::array::from_fn(|_| OnceLock::new()),
                plugins: std::array::from_fn(|_| OnceLock::new()),
                others: Mutex::default(),
            })
        };
        all.entry(key.clone()).or_insert_with(new).clone()
    }
}

impl Collect for AllCounts {
    fn collect(&self, text: &mut Exposition) {
        let all: Vec<Arc<Counts>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for counts in all {
            counts.collect(text);
        }
    }
}

struct Prometheus {
    all: Arc<AllCounts>,
    /// By the number of the chain, found when it first asks.
    chains: Mutex<Vec<(usize, Arc<Counts>)>>,
    /// The first two of them, without a lock: most plugins serve one chain or two.
    first: [OnceLock<(usize, Arc<Counts>)>; 2],
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let address = match line.args.as_slice() {
        [] => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT_DEFAULT),
        [word] => socket_address(word)?,
        [_, extra, ..] => return Err(extra.error("prometheus takes one address")),
    };
    for option in &line.block {
        match option.name.text.as_str() {
            // There is no Go runtime to tell about; what the process uses is shown anyhow.
            "runtime_metrics" => option.no_arguments()?,
            "tls" => {
                let [word] = option.exactly()?;
                let files = web_config::read(&setting.block.path(&word.text));
                let identity = files.and_then(Identity::read).map_err(|what| word.error(what))?;
                let identity = Arc::new(identity);
                setting.process.plugins.push(super::tls::looker(identity.clone()));
                setting.process.page_identities.insert(address, identity);
            }
            _ => return Err(option.unknown_option("prometheus")),
        }
    }
    let metrics = setting.world.metrics.clone();
    let page = Page {
        path: "/metrics",
        say: Arc::new(move || Said {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics.collect(),
        }),
    };
    setting.process.pages.push((address, page));
    let version = env!("CARGO_PKG_VERSION");
    let build = [("goversion", ""), ("revision", ""), ("version", version)];
    let help = "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.";
    setting.world.metrics.gauge("coredns_build_info", help, &build).set(1);
    // Nothing here panics and lives on, but alerts look for the family.
    setting.world.metrics.counter("coredns_panics_total", "A metrics that counts the number of panics.", &[]);
    Ok(Some(Arc::new(Prometheus {
        all: setting.world.counts.clone(),
        chains: Mutex::default(),
        first: [OnceLock::new(), OnceLock::new()],
    })))
}

impl Plugin for Prometheus {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn looks(&self) -> bool {
        true
    }

    fn sent(&self, exchange: &Exchange, sent: &Sent, at: &At<'_>) {
        for place in &self.first {
            let found = place.get_or_init(|| (at.chain.number, self.find(at)));
            if found.0 == at.chain.number {
                return found.1.count(exchange, sent);
            }
        }
        self.find(at).count(exchange, sent);
    }
}

impl Prometheus {
    fn find(&self, at: &At<'_>) -> Arc<Counts> {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counts)) = chains.iter().find(|(number, _)| *number == at.chain.number) {
            return counts.clone();
        }
        let counts = self.all.of(&at.chain.server, &at.chain.zone_label, &at.chain.view);
        chains.push((at.chain.number, counts.clone()));
        counts
    }
}

impl Counts {
    fn count(&self, exchange: &Exchange, sent: &Sent) {
        let lane = LANE.with(Cell::get);
        let Some(lane) = self.lanes.get(lane) else { return };
        let lane = lane.get_or_init(|| Box::new(Lane::new()));
        let protocol = usize::from(exchange.from.transport.protocol() != "udp");
        let family = usize::from(exchange.from.client.ip().to_canonical().is_ipv6());
        let asked = exchange.original.rtype;
        let rtype = TYPES.iter().position(|rtype| *rtype == asked).unwrap_or(TYPES.len());
        let size = |bytes: usize| SIZE_BOUNDS_BYTES.partition_point(|bound| *bound < bytes);
        let took_s = sent.took.as_secs_f64();
        for (counter, more) in [
            (lane.requests.get(protocol).and_then(|of| of.get(family)).and_then(|of| of.get(rtype)), 1),
            (lane.durations.get(TIME_BOUNDS_S.partition_point(|bound| *bound < took_s)), 1),
            (Some(&lane.duration_ns), u64::try_from(sent.took.as_nanos()).unwrap_or(u64::MAX)),
            (lane.request_sizes.get(protocol).and_then(|of| of.get(size(exchange.asked.size))), 1),
            (lane.request_bytes.get(protocol), exchange.asked.size as u64),
            (lane.response_sizes.get(protocol).and_then(|of| of.get(size(sent.bytes))), 1),
            (lane.response_bytes.get(protocol), sent.bytes as u64),
            (Some(&lane.dnssec_ok), u64::from(exchange.asked.dnssec_ok())),
        ] {
            if let Some(counter) = counter
                && more > 0
            {
                add(counter, more);
            }
        }
        self.count_response(lane, exchange.reply.rcode, exchange.settled_by);
    }

    fn count_response(&self, lane: &Lane, rcode: Rcode, plugin: &'static str) {
        let place = self.plugins.iter().position(|place| *place.get_or_init(|| plugin) == plugin);
        let counter =
            lane.responses.get(usize::from(rcode.0)).zip(place).and_then(|(of, place)| of.get(place));
        match counter {
            Some(counter) => add(counter, 1),
            None => {
                let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
                *others.entry((rcode, plugin)).or_default() += 1;
            }
        }
    }

    fn labels(&self, more: &[(&str, &str)]) -> String {
        let mut labels: Vec<(&str, &str)> =
            self.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        labels.extend_from_slice(more);
        labels_text(&labels)
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> + Clone {
        self.lanes.iter().filter_map(|lane| lane.get().map(|lane| &**lane))
    }

    fn collect(&self, text: &mut Exposition) {
        let help = "Counter of DNS requests made per zone, protocol and family.";
        for (protocol, protocol_name) in PROTOCOLS.iter().enumerate() {
            for (family, family_name) in ["1", "2"].iter().enumerate() {
                for rtype in 0..=TYPES.len() {
                    let of = |lane: &'_ Lane| -> Option<u64> {
                        let counter = lane.requests.get(protocol)?.get(family)?.get(rtype)?;
                        Some(counter.load(Ordering::Relaxed))
                    };
                    let count: u64 = self.lanes().filter_map(of).sum();
                    if count > 0 {
                        let name = TYPES.get(rtype).map_or("other".to_owned(), Type::to_string);
                        let more = [("proto", *protocol_name), ("family", *family_name), ("type", &*name)];
                        text.family("coredns_dns_requests_total", help, Kind::Counter)
                            .value(&self.labels(&more), count);
                    }
                }
            }
        }
        let help = "Histogram of the time (in seconds) each request took per zone.";
        let buckets =
            (0..TIMES).map(|index| total(self.lanes().filter_map(|lane| lane.durations.get(index))));
        let sum = total(self.lanes().map(|lane| &lane.duration_ns)) as f64 / 1e9;
        let mut family = text.family("coredns_dns_request_duration_seconds", help, Kind::Histogram);
        family.histogram(&self.labels(&[]), &TIME_BOUNDS_S, buckets, sum);
        let help = "Counter of DNS requests with DO bit set per zone.";
        let count = total(self.lanes().map(|lane| &lane.dnssec_ok));
        if count > 0 {
            text.family("coredns_dns_do_requests_total", help, Kind::Counter).value(&self.labels(&[]), count);
        }
        self.collect_sizes(text);
        self.collect_responses(text);
    }

    fn collect_sizes(&self, text: &mut Exposition) {
        for (protocol, name) in PROTOCOLS.iter().enumerate() {
            let labels = self.labels(&[("proto", name)]);
            let of = |sizes: fn(&Lane) -> &[[AtomicU64; SIZES]; 2], bytes: fn(&Lane) -> &[AtomicU64; 2]| {
                let buckets: Vec<u64> = (0..SIZES)
                    .map(|index| total(self.lanes().filter_map(|lane| sizes(lane).get(protocol)?.get(index))))
                    .collect();
                (buckets, total(self.lanes().filter_map(|lane| bytes(lane).get(protocol))) as f64)
            };
            let (buckets, sum) = of(|lane| &lane.request_sizes, |lane| &lane.request_bytes);
            if buckets.iter().all(|count| *count == 0) {
                continue;
            }
            let help = "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.";
            let mut family = text.family("coredns_dns_request_size_bytes", help, Kind::Histogram);
            family.histogram(&labels, &SIZE_BOUNDS, buckets, sum);
            let (buckets, sum) = of(|lane| &lane.response_sizes, |lane| &lane.response_bytes);
            let help = "Size of the returned response in bytes.";
            let mut family = text.family("coredns_dns_response_size_bytes", help, Kind::Histogram);
            family.histogram(&labels, &SIZE_BOUNDS, buckets, sum);
        }
    }

    fn collect_responses(&self, text: &mut Exposition) {
        let mut counts = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (place, plugin) in self.plugins.iter().enumerate() {
            let Some(plugin) = plugin.get() else { break };
            for (rcode, _) in (0_u16..).zip(0..RCODES) {
                let of = |lane: &Lane| {
                    let counter = lane.responses.get(usize::from(rcode))?.get(place)?;
                    Some(counter.load(Ordering::Relaxed))
                };
                let count: u64 = self.lanes().filter_map(of).sum();
                if count > 0 {
                    *counts.entry((Rcode(rcode), plugin)).or_default() += count;
                }
            }
        }
        let help = "Counter of response status codes.";
        for ((rcode, plugin), count) in counts {
            let rcode = rcode.to_string();
            let labels = self.labels(&[("rcode", &rcode), ("plugin", plugin)]);
            text.family("coredns_dns_responses_total", help, Kind::Counter).value(&labels, count);
        }
    }
}
