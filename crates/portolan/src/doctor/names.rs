//! `portolan doctor names`: how long look-ups take, as a program on this node or in this pod sees it.
//!
//! Four kinds in turn: a name that exists, one that does not, one that is found by walking the search
//! path as resolvers do, and one outside of the cluster. Each question has a socket and so a port of its
//! own, as a resolver's have: what makes only new flows slow, or loses them, is seen.

use crate::error::Error;
use crate::node;
use clap::Args;
use config::Mode;
use dataplane::{Plane, ShownService};
use plan::At;
use serde::Serialize;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use wire::{Header, Message, Name, Rcode, Reply, Section, Type, flags};

/// The port of DNS.
const PORT: u16 = 53;
/// What a resolver reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The Service that clusters have had for DNS ever since, as the kernel's tables name its ports.
const SERVICE: &str = "kube-system/kube-dns:";
/// The Service that every cluster has.
const KNOWN: &str = "kubernetes.default";
/// So long an answer is waited for: what comes later is no use to a resolver either.
const PATIENCE: Duration = Duration::from_secs(2);
/// After so many failures in a row a kind of look-up is given up.
const FAILURES_MAX: usize = 5;
/// Search paths are no longer.
const SEARCH_MAX: usize = 32;

/// Tell how long look-ups of names take from here, and whether they work
#[derive(Args)]
pub(crate) struct Arguments {
    /// The server to ask; without it, in a pod the pod's, on a node that of Service kube-system/kube-dns
    #[arg(long, value_name = "IP[:PORT]", value_parser = server)]
    server: Option<SocketAddr>,
    /// The cluster's zone; without it the one in /etc/resolv.conf, or cluster.local
    #[arg(long, value_name = "ZONE")]
    zone: Option<Name>,
    /// A Service that exists, as NAME.NAMESPACE
    #[arg(long, value_name = "NAME", default_value = KNOWN)]
    known: Name,
    /// A name outside of the cluster
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    outside: Name,
    /// Leave out the name outside of the cluster
    #[arg(long, conflicts_with = "outside")]
    no_outside: bool,
    /// How many look-ups of each kind
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Print one JSON object, on one line
    #[arg(long)]
    json: bool,
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    bare.or_else(|_| text.parse()).map_err(|_| "not an address, or an address and a port".to_owned())
}

/// What came of one kind of look-up.
#[derive(Debug, Serialize)]
struct Kind {
    kind: &'static str,
    name: String,
    count: u64,
    errors: u64,
    /// Questions that it took, all in all.
    questions: u64,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
    last_error: Option<String>,
    #[serde(skip)]
    took: Vec<Duration>,
    #[serde(skip)]
    failures: usize,
}

#[derive(Debug, Serialize)]
struct Answer {
    server: String,
    found_by: &'static str,
    zone: String,
    healthy: bool,
    lookups: Vec<Kind>,
}

/// What stands in `/etc/resolv.conf`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<Name>,
}

/// Looks names up.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    telemetry::log::quiet();
    let Arguments { server, zone, known, outside, no_outside, count, json } = arguments;
    let resolver = Resolver::read(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let (server, found_by) = find_server(server, &resolver)?;
    let zone = zone.or_else(|| resolver.zone()).or_else(|| "cluster.local".parse().ok());
    let zone = zone.unwrap_or_default();
    let too_long = || Error::Flags("a name is too long for DNS".to_owned());
    let below = |labels: &[&[u8]], base: &Name| -> Result<Name, Error> {
        let mut name = Name::ROOT;
        labels.iter().try_for_each(|label| name.push(label)).map_err(|_| too_long())?;
        join(&name, base).ok_or_else(too_long)
    };
    let svc = below(&[b"svc"], &zone)?;
    let full = join(&known, &svc).ok_or_else(too_long)?;
    let path = match resolver.is_of(&zone) {
        true => resolver.search,
        false => vec![below(&[b"default"], &svc)?, svc, zone],
    };
    let path: Vec<Name> = path.iter().filter_map(|base| join(&known, base)).collect();
    let mut kinds = vec![Kind::new("known", &full), Kind::new("unknown", &svc), Kind::new("search", &known)];
    if !no_outside {
        kinds.push(Kind::new("outside", &outside));
    }
    let mut asker = Asker { server, id: std::process::id() as u16 };
    // In turn, so that whatever happens meanwhile happens to all of them.
    for number in 0..count {
        for kind in kinds.iter_mut().filter(|kind| kind.failures < FAILURES_MAX) {
            let begin = Instant::now();
            let done = match kind.kind {
                "known" => asker.expect(&full, &[Rcode::NOERROR]),
                "unknown" => {
                    // Nobody has it in a cache.
                    let label = format!("portolan-doctor-{}-{number}", std::process::id());
                    let name = below(&[label.as_bytes(), b"default"], &svc)?;
                    asker.expect(&name, &[Rcode::NXDOMAIN])
                }
                "search" => asker.search(&path),
                _ => asker.expect(&outside, &[Rcode::NOERROR, Rcode::NXDOMAIN]),
            };
            kind.count(done, begin.elapsed());
        }
    }
    let lookups: Vec<Kind> = kinds.into_iter().map(Kind::finish).collect();
    let healthy = lookups.iter().all(|kind| kind.errors == 0);
    let zone = zone.to_string();
    let answer = Answer { server: server.to_string(), found_by, zone, healthy, lookups };
    print(&answer, json).map_err(Error::Output)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(crate::output::NO) })
}

fn join(name: &Name, base: &Name) -> Option<Name> {
    let mut joined = *name;
    joined.append(base).ok()?;
    Some(joined)
}

/// Which server, and how it was found.
fn find_server(given: Option<SocketAddr>, resolver: &Resolver) -> Result<(SocketAddr, &'static str), Error> {
    if let Some(server) = given {
        return Ok((server, "--server"));
    }
    if let (Some(_), Some(server)) = (resolver.zone(), resolver.servers.first()) {
        return Ok((SocketAddr::new(*server, PORT), RESOLV_CONF));
    }
    for mode in [Mode::NfTables, Mode::Ipvs, Mode::IpTables] {
        if let Some(server) = routed(mode) {
            return Ok((server, "the Service kube-system/kube-dns, which is routed here"));
        }
    }
    Err(Error::Flags(format!(
        "no server to ask: {RESOLV_CONF} has no search path of a cluster, and kube-system/kube-dns is not \
         routed here; name one by --server"
    )))
}

/// The cluster's DNS server as the kernel's tables have it.
fn routed(mode: Mode) -> Option<SocketAddr> {
    let prepared = node::prepare(node::load(None).ok()?, Some(mode), None, &node::PREFERRED).ok()?;
    let shown = Plane::open(prepared.mode, &prepared.options).ok()?.show().ok()?;
    let dns = shown.iter().filter(|service: &&ShownService| service.name.starts_with(SERVICE));
    dns.flat_map(|service| &service.frontends).find_map(|frontend| match frontend.at {
        At::Address(ip, PORT) => Some(SocketAddr::new(ip, PORT)),
        _ => None,
    })
}

impl Resolver {
    /// As a resolver reads it: the last `search` or `domain` counts.
    fn read(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    resolver.search = words.filter_map(|word| word.parse().ok()).take(SEARCH_MAX).collect();
                }
                _ => {}
            }
        }
        resolver
    }

    /// The cluster's zone: behind `svc` in a pod's search path.
    fn zone(&self) -> Option<Name> {
        self.search.iter().find_map(|name| {
            let text = name.to_string();
            text.strip_prefix("svc.").and_then(|zone| zone.parse().ok())
        })
    }

    fn is_of(&self, zone: &Name) -> bool {
        self.zone().is_some_and(|own| own.is(zone))
    }
}

/// Asks a server.
struct Asker {
    server: SocketAddr,
    id: u16,
}

impl Asker {
    /// Asks for an address, and says what came: the code, and whether there was an address.
    fn ask(&mut self, name: &Name) -> io::Result<(Rcode, bool)> {
        self.id = self.id.wrapping_add(1);
        let mut query = Vec::new();
        for word in [self.id, flags::RD, 1, 0, 0, 0] {
            query.extend(word.to_be_bytes());
        }
        query.extend(name.as_bytes());
        for word in [Type::A.0, 1] {
            query.extend(word.to_be_bytes());
        }
        let any: IpAddr = if self.server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.server)?;
        socket.send(&query)?;
        let end = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 2 s"));
                }
                Err(error) => return Err(error),
            };
            let bytes = bytes.get(..length).unwrap_or_default();
            if Header::read(bytes).is_none_or(|header| header.id != self.id) {
                continue;
            }
            let bad = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is no DNS");
            let mut reply = Reply::default();
            let message = Message::read(bytes).map_err(|_| bad())?;
            reply.read(&message).map_err(|_| bad())?;
            let any = reply.section(Section::Answer).any(|record| reply.address(record).is_some());
            return Ok((reply.rcode, any || reply.truncated));
        }
    }

    /// Asks for a name that should come to one of these, and have an address where it exists.
    fn expect(&mut self, name: &Name, codes: &[Rcode]) -> Result<u64, (u64, String)> {
        match self.ask(name) {
            Ok((Rcode::NOERROR, false)) if codes == [Rcode::NOERROR] => {
                Err((1, format!("{name}: no address")))
            }
            Ok((code, _)) if codes.contains(&code) => Ok(1),
            Ok((code, _)) => Err((1, format!("{name}: {code}"))),
            Err(error) => Err((1, format!("{name}: {error}"))),
        }
    }

    /// Asks for one name after the other until one exists, as a resolver does.
    fn search(&mut self, path: &[Name]) -> Result<u64, (u64, String)> {
        let mut asked = 0;
        for name in path {
            asked += 1;
            match self.ask(name) {
                Ok((Rcode::NOERROR, true)) => return Ok(asked),
                Ok((Rcode::NOERROR | Rcode::NXDOMAIN, _)) => {}
                Ok((code, _)) => return Err((asked, format!("{name}: {code}"))),
                Err(error) => return Err((asked, format!("{name}: {error}"))),
            }
        }
        Err((asked, "none of the search path's names exists".to_owned()))
    }
}

impl Kind {
    fn new(kind: &'static str, name: &Name) -> Kind {
        let name = match kind {
            "unknown" => format!("portolan-doctor-….default.{name}"),
            _ => name.to_string(),
        };
        let (p50_us, p99_us, max_us, last_error) = (None, None, None, None);
        let (count, errors, questions, failures, took) = (0, 0, 0, 0, Vec::new());
        Kind { kind, name, count, errors, questions, p50_us, p99_us, max_us, last_error, took, failures }
    }

    fn count(&mut self, done: Result<u64, (u64, String)>, took: Duration) {
        self.count += 1;
        match done {
            Ok(questions) => {
                self.questions += questions;
                self.failures = 0;
                self.took.push(took);
            }
            Err((questions, error)) => {
                self.questions += questions;
                self.errors += 1;
                self.failures += 1;
                self.last_error = Some(error);
            }
        }
    }

    /// Works out the times.
    fn finish(mut self) -> Kind {
        self.took.sort_unstable();
        let last = self.took.len().checked_sub(1);
        let at = |share: usize| {
            let index = last? * share / 100;
            Some(u64::try_from(self.took.get(index)?.as_micros()).unwrap_or(u64::MAX))
        };
        (self.p50_us, self.p99_us, self.max_us) = (at(50), at(99), at(100));
        self
    }
}

fn print(answer: &Answer, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, answer)?;
        return writeln!(out);
    }
    writeln!(out, "{} ({}), zone {}", answer.server, answer.found_by, answer.zone)?;
    writeln!(out, "look-up     count  errors  questions   p50 ms   p99 ms   max ms  name")?;
    for kind in &answer.lookups {
        let ms = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{:.3}", us as f64 / 1000.0));
        let Kind { kind: what, name, count, errors, questions, p50_us, p99_us, max_us, .. } = kind;
        let [p50, p99, max] = [ms(*p50_us), ms(*p99_us), ms(*max_us)];
        writeln!(out, "{what:9} {count:7} {errors:7} {questions:10} {p50:>8} {p99:>8} {max:>8}  {name}")?;
        if let Some(error) = &kind.last_error {
            writeln!(out, "          error: {error}")?;
        }
        if kind.failures >= FAILURES_MAX {
            writeln!(out, "          given up after {FAILURES_MAX} errors in a row")?;
        }
    }
    writeln!(out, "{}", if answer.healthy { "healthy" } else { "not healthy" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_of_a_pod_and_of_a_node() {
        let pod = Resolver::read(
            "# made by kubelet\nnameserver 10.96.0.10\nsearch shop.svc.moon.local svc.moon.local moon.local\noptions ndots:5\n",
        );
        assert_eq!(pod.zone(), "moon.local".parse().ok());
        assert_eq!(pod.search.len(), 3);
        let (server, by) = find_server(None, &pod).expect("a server");
        assert_eq!((server.to_string().as_str(), by), ("10.96.0.10:53", RESOLV_CONF));
        let node = Resolver::read("nameserver 192.0.2.1\nsearch example.org\n");
        assert_eq!(node.zone(), None);
        assert_eq!(super::server("fd00::1").map(|at| at.to_string()), Ok("[fd00::1]:53".into()));
        assert_eq!(super::server("10.0.0.1:1053").map(|at| at.to_string()), Ok("10.0.0.1:1053".into()));
        assert!(super::server("dns").is_err());
    }

    #[test]
    fn times_of_what_worked() {
        let mut kind = Kind::new("known", &Name::ROOT);
        for us in (1..=100).rev() {
            kind.count(Ok(1), Duration::from_micros(us));
        }
        kind.count(Err((1, "x".into())), Duration::from_secs(2));
        let kind = kind.finish();
        assert_eq!((kind.count, kind.errors, kind.questions), (101, 1, 101));
        assert_eq!((kind.p50_us, kind.p99_us, kind.max_us), (Some(50), Some(99), Some(100)));
        assert_eq!(Kind::new("known", &Name::ROOT).finish().max_us, None);
    }
}
