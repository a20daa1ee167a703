//! What each Service must do, as a table, and asking whether it does. All rows are asked at once.

use super::Voice;
use super::hosts::{Hosts, WEB};
use crate::error::Error;
use lab::{Connects, Failure, Host, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

/// So many connections show each of three backends but once in a hundred million times.
const MANY: u32 = 48;
const SOME: u32 = 12;
const FEW: u32 = 20;
/// How long a client waits whose packets must be dropped.
const DROP_PATIENCE: Duration = Duration::from_millis(1200);

/// What must become of the connections of one row.
enum Expected {
    /// Each of these backends answers, and nobody else.
    Each(&'static [&'static str]),
    /// One of these answers them all.
    Same(&'static [&'static str]),
    /// Refused, at once.
    Refused,
    /// Never answered.
    Dropped,
}

/// Which address the backend must see the connection come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The client's own.
    Kept,
    /// The node's: it masquerades, else the reply would not come back through it.
    Node,
    /// Any.
    Any,
}

/// A row of the table.
struct Check {
    service: &'static str,
    what: &'static str,
    from: &'static str,
    protocol: Protocol,
    to: &'static str,
    connections: u32,
    expected: Expected,
    source: Source,
}

/// A TCP row, as most are.
const fn row(
    service: &'static str,
    what: &'static str,
    from: &'static str,
    to: &'static str,
    expected: Expected,
) -> Check {
    let connections = match expected {
        Expected::Each(_) => MANY,
        Expected::Same(_) => SOME,
        Expected::Refused => FEW,
        Expected::Dropped => 1,
    };
    Check { service, what, from, protocol: Protocol::Tcp, to, connections, expected, source: Source::Any }
}

impl Check {
    const fn over(self, protocol: Protocol) -> Check {
        Check { protocol, ..self }
    }

    const fn seen_as(self, source: Source) -> Check {
        Check { source, ..self }
    }
}

use Expected::{Dropped, Each, Refused, Same};

/// The table. A host's name in an address stands for its own address, in brackets for its IPv6 one.
const CHECKS: [Check; 24] = [
    row("shop/web", "ClusterIP", "shell-a", "10.96.0.10:80", Each(&WEB)).seen_as(Source::Kept),
    row("shop/web", "the same over IPv6", "shell-b", "[fd00:10:96::10]:80", Each(&WEB)).seen_as(Source::Kept),
    row("shop/web", "the node itself is the client", "node-a", "10.96.0.10:80", Each(&WEB)),
    row("shop/web", "a port that it has not", "shell-a", "10.96.0.10:81", Refused),
    row("shop/door", "NodePort, from outside", "visitor", "node-b:30080", Each(&WEB)).seen_as(Source::Node),
    row("shop/door", "the same over IPv6", "visitor", "[node-a]:30080", Each(&WEB)).seen_as(Source::Node),
    row("shop/door", "NodePort at localhost", "node-a", "127.0.0.1:30080", Each(&WEB)),
    row("shop/front", "LoadBalancer", "visitor", "198.51.100.10:80", Each(&WEB)).seen_as(Source::Node),
    row("shop/front", "the same from a pod", "shell-b", "198.51.100.10:80", Each(&WEB)),
    row("shop/members", "source ranges, admitted", "visitor", "198.51.100.11:80", Each(&WEB)),
    row("shop/members", "source ranges, not admitted", "stranger", "198.51.100.11:80", Dropped),
    row("shop/legacy", "external IP", "visitor", "198.51.100.20:8080", Each(&WEB)),
    row("shop/cart", "session affinity", "shell-a", "10.96.0.15:80", Same(&WEB)),
    row("shop/cart", "session affinity", "shell-b", "10.96.0.15:80", Same(&WEB)),
    row("shop/agent", "internal policy Local", "shell-a", "10.96.0.16:80", Each(&["web-1"])),
    row("shop/agent", "internal policy Local", "shell-b", "10.96.0.16:80", Each(&["web-2"])),
    row("shop/guests", "external policy Local", "visitor", "node-a:30090", Each(&["web-1"]))
        .seen_as(Source::Kept),
    row("shop/guests", "the same, no backend there", "visitor", "node-b:30090", Dropped),
    row("shop/solo", "hairpin: it reaches itself", "web-1", "10.96.0.18:80", Each(&["web-1"]))
        .seen_as(Source::Node),
    row("shop/soon", "no endpoints yet", "shell-a", "10.96.0.19:80", Refused),
    row("shop/stats", "its second port", "shell-b", "10.96.0.20:9100", Each(&WEB)),
    row("kube-system/dns", "UDP", "shell-a", "10.96.0.53:53", Each(&["dns-1", "dns-2"])).over(Protocol::Udp),
    row("-", "no Service has this address", "shell-a", "10.96.200.1:80", Dropped),
    row("-", "a pod itself, no Service", "visitor", "web-2:8080", Each(&["web-2"])).seen_as(Source::Kept),
];

/// What came of one row.
struct Outcome {
    connections: u64,
    per_backend: BTreeMap<String, u64>,
    told: String,
    wrong: Vec<String>,
}

/// What came of all rows.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) connections: u64,
    pub(super) per_backend: BTreeMap<String, u64>,
    pub(super) wrong: Vec<String>,
    /// How to tell it.
    pub(super) lines: Vec<String>,
}

impl Answers {
    /// Prints the table.
    pub(super) fn tell(&self, voice: Voice) {
        for line in &self.lines {
            voice.say(line);
        }
        voice.say("");
    }
}

/// Asks all rows at once.
pub(super) fn ask(hosts: &Hosts) -> Result<Answers, Error> {
    let outcomes = thread::scope(|scope| {
        let rows: Vec<_> = CHECKS.iter().map(|check| scope.spawn(|| check.ask(hosts))).collect();
        let join = |row: thread::ScopedJoinHandle<'_, Result<Option<Outcome>, Error>>| {
            row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        rows.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let mut answers = Answers::default();
    let mut before = "";
    for (check, outcome) in CHECKS.iter().zip(outcomes) {
        let name = if check.service == before { "" } else { check.service };
        before = check.service;
        let way = format!("{} from {}", check.to, check.from);
        let line = format!("{name:16}{:31}{way:38}", check.what);
        let Some(Outcome { connections, per_backend, told, wrong }) = outcome else {
            answers.lines.push(format!("   {line}not asked: this kernel has no IPv6"));
            continue;
        };
        let mark = if wrong.is_empty() { "ok" } else { "NO" };
        answers.lines.push(format!("{mark} {line}{told}"));
        answers.lines.extend(wrong.iter().map(|wrong| format!("   {:16}{wrong}", "")));
        answers.connections += connections;
        merge(&mut answers.per_backend, &per_backend);
        answers.wrong.extend(wrong);
    }
    Ok(answers)
}

/// Adds counts to counts.
pub(super) fn merge(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (backend, count) in more {
        *sum.entry(backend.clone()).or_default() += count;
    }
}

/// Counts in words.
pub(super) fn counts(per_backend: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> = per_backend.iter().map(|(backend, count)| format!("{backend} {count}")).collect();
    if counts.is_empty() { "nobody".to_owned() } else { counts.join("  ") }
}

impl Check {
    /// `None` where the kernel cannot.
    fn ask(&self, hosts: &Hosts) -> Result<Option<Outcome>, Error> {
        let Some(target) = self.target(hosts)? else { return Ok(None) };
        let from = hosts.find(self.from)?;
        let mut outcome = match self.expected {
            Each(backends) | Same(backends) => self.answered(from, target, backends, hosts),
            Refused => self.refused(from, target)?,
            Dropped => self.dropped(from, target),
        };
        for wrong in &mut outcome.wrong {
            *wrong = format!("{} from {}: {wrong}", self.to, self.from);
        }
        Ok(Some(outcome))
    }

    /// Backends must answer, these and no others.
    fn answered(
        &self,
        from: &Host,
        target: SocketAddr,
        backends: &'static [&'static str],
        hosts: &Hosts,
    ) -> Outcome {
        let mut outcome = Outcome::of(self.connections);
        let mut strange = BTreeSet::new();
        for _ in 0..self.connections {
            match from.ask(self.protocol, target) {
                Ok(reply) => {
                    let source = reply.seen_source.ip();
                    if !self.source.fits(source, from, hosts) {
                        strange.insert(source);
                    }
                    *outcome.per_backend.entry(reply.backend).or_default() += 1;
                }
                Err(failure) => outcome.wrong.push(failure.to_string()),
            }
        }
        let by: Vec<&str> = outcome.per_backend.keys().map(String::as_str).collect();
        let good = match self.expected {
            Same(_) => by.len() <= 1 && by.iter().all(|backend| backends.contains(backend)),
            _ => by == backends || !outcome.wrong.is_empty(),
        };
        if !good {
            let wanted = if matches!(self.expected, Same(_)) { "one" } else { "each" };
            outcome.wrong.push(format!("{by:?} answered, where it should be {wanted} of {backends:?}"));
        }
        outcome.wrong.extend(strange.iter().map(|source| format!("a backend saw {source} as its client")));
        outcome.told = counts(&outcome.per_backend) + self.source.told();
        outcome
    }

    /// All must be refused, at once.
    fn refused(&self, from: &Host, target: SocketAddr) -> Result<Outcome, Error> {
        let mut outcome = Outcome::of(self.connections);
        for Connects { latencies, failures } in
            lab::connect_latency(from, &[target], self.connections as usize)?
        {
            outcome.told = format!("refused after {:.0?}", latencies.p50());
            let other = failures.iter().filter(|failure| **failure != Failure::Refused);
            outcome.wrong.extend(other.map(Failure::to_string));
            let connected = (self.connections as usize).saturating_sub(failures.len());
            outcome.wrong.extend((0..connected).map(|_| "connected".to_owned()));
        }
        Ok(outcome)
    }

    /// Nobody must say anything.
    fn dropped(&self, from: &Host, target: SocketAddr) -> Outcome {
        let mut outcome = Outcome::of(self.connections);
        outcome.told = "no answer, as it must be".to_owned();
        let client = from.client(self.protocol).timeout(DROP_PATIENCE);
        for _ in 0..self.connections {
            match client.ask(target) {
                Err(Failure::TimedOut) => {}
                Err(failure) => outcome.wrong.push(failure.to_string()),
                Ok(reply) => outcome.wrong.push(format!("answered by {}", reply.backend)),
            }
        }
        outcome
    }

    /// Where to, if the kernel speaks that.
    fn target(&self, hosts: &Hosts) -> Result<Option<SocketAddr>, Error> {
        let (place, port) = self.to.rsplit_once(':').unwrap_or((self.to, ""));
        let port = port.parse().map_err(|_| Error::Demo(format!("{} has no port", self.to)))?;
        let bare = place.trim_matches(['[', ']']);
        let is_v6 = bare.len() < place.len();
        if is_v6 && !hosts.has_ipv6() {
            return Ok(None);
        }
        let address = match bare.parse() {
            Ok(address) => address,
            Err(_) if is_v6 => IpAddr::V6(hosts.find(bare)?.ipv6()),
            Err(_) => IpAddr::V4(hosts.find(bare)?.ipv4()),
        };
        Ok(Some(SocketAddr::new(address, port)))
    }
}

impl Source {
    fn fits(self, source: IpAddr, client: &Host, hosts: &Hosts) -> bool {
        let kept = client.addresses().contains(&source);
        match self {
            Source::Kept => kept,
            Source::Node => !kept && hosts.nodes.iter().any(|node| node.addresses().contains(&source)),
            Source::Any => true,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Source::Kept => ", source kept",
            Source::Node => ", masqueraded",
            Source::Any => "",
        }
    }
}

impl Outcome {
    fn of(connections: u32) -> Outcome {
        let (per_backend, told) = (BTreeMap::new(), String::new());
        Outcome { connections: u64::from(connections), per_backend, told, wrong: Vec::new() }
    }
}
