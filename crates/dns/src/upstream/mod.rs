//! Another server that is asked: by datagram, by stream or in TLS, on connections that are used again.
//!
//! Each connection carries one query at a time, so an answer belongs to it or is thrown away; a
//! datagram socket is used a few times only and its port is the kernel's random choice. Everything is
//! bounded: queries under way, connections that wait, the time that each may take. Which upstream is
//! asked when, and what its answer means, is not known here (`plugin::forward`).

mod health;
mod https;
mod pool;
mod query;
mod stream;
pub(crate) mod tls;

pub(crate) use https::Method;
pub(crate) use pool::Limits;
pub(crate) use query::{Fit, Query, is_whole};

use crate::metrics::{Counter, Histogram, Metrics};
use health::Health;
use pool::{Pool, Pooled};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
pub(crate) use stream::Stream;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};
use wire::Header;

/// So many queries are under way to one upstream at most; others go to the next.
pub(crate) const QUERIES_MAX: usize = 4096;
/// So often a datagram socket is used before it gives way to one with another port.
const DATAGRAM_USES_MAX: u32 = 16;
/// After so many datagrams that do not fit, somebody may be guessing: the query goes by stream.
const WRONG_MAX: u32 = 16;
/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// CoreDNS' buckets of times (its `plugin.TimeBuckets`): from a quarter of a millisecond, doubled.
pub(crate) const TIME_BUCKETS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It did not come in time.
    Timeout,
    /// The connection failed.
    Connection(String),
    /// What came is no message.
    Malformed,
    /// Too many queries are under way.
    Full,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Timeout => f.write_str("no answer in time"),
            Trouble::Connection(what) => f.write_str(what),
            Trouble::Malformed => f.write_str("the answer is no message"),
            Trouble::Full => f.write_str("too many queries are under way"),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Trouble {
        Trouble::Connection(error.to_string())
    }
}

/// How connections are made.
pub(crate) enum Carrier {
    /// Datagrams and streams.
    Plain,
    /// Streams in TLS.
    Tls(tls::Client),
    /// HTTP in TLS.
    Https(tls::Client, Method),
}

/// What all upstreams of a plugin share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The plugin, as metrics call it.
    pub(crate) proxy_name: &'static str,
    /// Limits of connections.
    pub(crate) limits: Limits,
    /// Queries under way to one of them.
    pub(crate) queries_max: usize,
    /// For an answer to come.
    pub(crate) read_timeout: Duration,
    /// The address that queries come from.
    pub(crate) source: Option<IpAddr>,
    /// Health is asked for by stream.
    pub(crate) check_by_stream: bool,
}

/// How one query is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct How {
    /// By stream.
    pub(crate) stream: bool,
    /// With the letters of its name at random.
    pub(crate) respell: bool,
}

/// An upstream.
pub(crate) struct Upstream {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// The same as metrics and the log call it.
    pub(crate) label: String,
    carrier: Carrier,
    settings: Settings,
    datagrams: Pool<UdpSocket>,
    streams: Pool<Stream>,
    under_way: Semaphore,
    health: Health,
    counts: Counts,
}

struct Counts {
    metrics: Arc<Metrics>,
    proxy_name: &'static str,
    /// By response code.
    took: [OnceLock<Arc<Histogram>>; 24],
    datagram: [Arc<Counter>; 2],
    stream: [Arc<Counter>; 2],
    check_failures: Arc<Counter>,
}

impl Upstream {
    pub(crate) fn new(
        address: SocketAddr,
        carrier: Carrier,
        settings: Settings,
        metrics: &Arc<Metrics>,
    ) -> Upstream {
        let label = address.to_string();
        let stream_word = match carrier {
            Carrier::Plain => "tcp",
            Carrier::Tls(_) => "tcp-tls",
            Carrier::Https(..) => "https",
        };
        let datagram_limits = Limits { uses_max: DATAGRAM_USES_MAX, ..settings.limits };
        Upstream {
            address,
            carrier,
            settings,
            datagrams: Pool::new(datagram_limits),
            streams: Pool::new(settings.limits),
            under_way: Semaphore::new(settings.queries_max),
            health: Health::default(),
            counts: Counts::new(metrics, settings.proxy_name, &label, stream_word),
            label,
        }
    }

    /// Whether it is down, after more than so many failed checks; it never is for zero.
    pub(crate) fn is_down(&self, fails_max: u32) -> bool {
        self.health.is_down(fails_max)
    }

    /// Checks until it answers whether it does, unless that is under way.
    pub(crate) fn check(self: &Arc<Self>, check: &Arc<health::Check>) {
        health::check(self, check);
    }

    /// Closes connections that have waited for too long.
    pub(crate) fn tidy(&self, now: Instant) {
        self.datagrams.tidy(now);
        self.streams.tidy(now);
    }

    /// Ends checking.
    pub(crate) fn stop(&self) {
        self.health.stop();
    }

    /// Whether there are only streams to it.
    fn is_stream_only(&self) -> bool {
        !matches!(self.carrier, Carrier::Plain)
    }

    /// Asks, and gives the answer's bytes. By datagram, an answer may be truncated.
    pub(crate) async fn ask(&self, query: &Query, how: How) -> Result<Vec<u8>, Trouble> {
        let _under_way = self.under_way.try_acquire().map_err(|_| Trouble::Full)?;
        let began = Instant::now();
        let answer = if how.stream || self.is_stream_only() {
            self.ask_by_stream(query, how).await?
        } else {
            self.ask_by_datagram(query, how).await?
        };
        if !is_whole(&answer) {
            return Err(Trouble::Malformed);
        }
        self.counts.took(&answer, &self.label, began.elapsed());
        Ok(answer)
    }

    async fn ask_by_datagram(&self, query: &Query, how: How) -> Result<Vec<u8>, Trouble> {
        let now = Instant::now();
        let pooled = match self.datagrams.take(now) {
            Some(pooled) => {
                self.counts.connection(true, false);
                pooled
            }
            None => {
                self.counts.connection(false, false);
                Pooled::new(self.datagram_socket().await?, now)
            }
        };
        let sent = query.message(how.respell);
        let until = tokio::time::Instant::now() + self.settings.read_timeout;
        let socket = &pooled.connection;
        socket.send(&sent).await?;
        let mut bytes = vec![0; query.datagram_bytes()];
        for _ in 0..WRONG_MAX {
            let size = timeout_at(until, socket.recv(&mut bytes)).await.map_err(|_| Trouble::Timeout)??;
            let answer = bytes.get(..size).unwrap_or_default();
            match query.fit(&sent, answer) {
                Fit::Answer | Fit::Truncated => {
                    bytes.truncate(size);
                    bytes.shrink_to_fit();
                    self.datagrams.put(pooled, Instant::now());
                    return Ok(bytes);
                }
                // The server may not keep the case, or this is a guess.
                Fit::Respelled => break,
                Fit::Other => {}
            }
        }
        self.ask_by_stream(query, How { stream: true, respell: false }).await
    }

    async fn datagram_socket(&self) -> Result<UdpSocket, Trouble> {
        let any: IpAddr = if self.address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((self.settings.source.unwrap_or(any), 0)).await?;
        socket.connect(self.address).await?;
        Ok(socket)
    }

    async fn ask_by_stream(&self, query: &Query, how: How) -> Result<Vec<u8>, Trouble> {
        // One that has waited may have been closed at the other end; a fresh one has not.
        if let Some(mut pooled) = self.streams.take(Instant::now()) {
            self.counts.connection(true, true);
            match self.ask_on(&mut pooled.connection, query, how).await {
                Ok(answer) => {
                    self.streams.put(pooled, Instant::now());
                    return Ok(answer);
                }
                Err(Trouble::Connection(_)) if pooled.is_used() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        self.counts.connection(false, true);
        let connecting = Stream::connect(self.address, self.settings.source, &self.carrier);
        let connected = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| Trouble::Timeout)?;
        let mut pooled = Pooled::new(connected?, Instant::now());
        let answer = self.ask_on(&mut pooled.connection, query, how).await?;
        self.streams.put(pooled, Instant::now());
        Ok(answer)
    }

    async fn ask_on(&self, stream: &mut Stream, query: &Query, how: How) -> Result<Vec<u8>, Trouble> {
        let mut sent = query.message(how.respell);
        let exchange = async {
            if let Carrier::Https(client, method) = &self.carrier {
                // So that caches on the way know equal queries (RFC 8484 4.1).
                if let Some(id) = sent.first_chunk_mut::<2>() {
                    *id = [0; 2];
                }
                let answer = https::ask(stream, *method, client.host().unwrap_or(&self.label), &sent).await?;
                return match query.fit(&sent, &answer) {
                    Fit::Other => Err(Trouble::Malformed),
                    _ => Ok(answer),
                };
            }
            stream.write_message(&sent).await?;
            for _ in 0..WRONG_MAX {
                let answer = stream.read_message().await?;
                if query.fit(&sent, &answer) != Fit::Other {
                    return Ok(answer);
                }
            }
            Err(Trouble::Malformed)
        };
        timeout(self.settings.read_timeout, exchange).await.map_err(|_| Trouble::Timeout)?
    }
}

impl Counts {
    fn new(metrics: &Arc<Metrics>, proxy_name: &'static str, to: &str, stream_word: &str) -> Counts {
        let counter = |name, help, proto: &str| {
            let labels = [("proxy_name", proxy_name), ("to", to), ("proto", proto)];
            metrics.counter(name, help, &labels)
        };
        let hits = |proto| {
            let help = "Counter of connection cache hits per upstream and protocol.";
            counter("coredns_proxy_conn_cache_hits_total", help, proto)
        };
        let misses = |proto| {
            let help = "Counter of connection cache misses per upstream and protocol.";
            counter("coredns_proxy_conn_cache_misses_total", help, proto)
        };
        Counts {
            metrics: metrics.clone(),
            proxy_name,
            took: Default::default(),
            datagram: [misses("udp"), hits("udp")],
            stream: [misses(stream_word), hits(stream_word)],
            check_failures: metrics.counter(
                "coredns_proxy_healthcheck_failures_total",
                "Counter of the number of failed healthchecks.",
                &[("proxy_name", proxy_name), ("to", to)],
            ),
        }
    }

    fn connection(&self, hit: bool, stream: bool) {
        let [misses, hits] = if stream { &self.stream } else { &self.datagram };
        if hit { hits.count() } else { misses.count() }
    }

    fn took(&self, answer: &[u8], to: &str, time: Duration) {
        let rcode = Header::read(answer).map(|header| header.rcode()).unwrap_or_default();
        let Some(kept) = self.took.get(usize::from(rcode.0)) else { return };
        let histogram = kept.get_or_init(|| {
            self.metrics.histogram(
                "coredns_proxy_request_duration_seconds",
                "Histogram of the time each request took.",
                &[("proxy_name", self.proxy_name), ("to", to), ("rcode", &rcode.to_string())],
                TIME_BUCKETS,
            )
        });
        histogram.observe(time.as_secs_f64());
    }
}

pub(crate) use health::Check;
