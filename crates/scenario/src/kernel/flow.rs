//! One flow with real packets, as often as it takes to know what becomes of it.

use super::Bench;
use crate::{Expectation, Expected, Mode};
use lab::{Failure, PATIENCE, Reply};
use model::Protocol;
use plan::VerdictKind;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long no answer must come for a flow to count as dropped. Nothing that answers in the lab
/// needs a thousandth of it.
const SILENCE: Duration = Duration::from_millis(700);
/// So many connections for each backend, at most, until all have been seen. With eight backends
/// the last one is missed once in 10^16 runs.
const TRIES_A_BACKEND_MAX: usize = 300;
/// So many connections more after that, for each backend, lest there be one too many.
const TRIES_A_BACKEND_MORE: usize = 2;
/// So many connections of a client that is to stay with its backend.
const AFFINITY_TRIES: usize = 12;

/// The kernel's number for "Operation not permitted".
const EPERM: i32 = 1;

/// A step's flows, with their lines in the file.
pub(crate) type Flows<'f> = [(usize, &'f Expectation)];

/// Which backend a client stays with, for each Service it uses.
type Homes<'f> = Mutex<BTreeMap<(IpAddr, &'f str, &'f BTreeSet<SocketAddr>), String>>;

/// The protocol, as the lab calls it.
pub(super) fn wire(protocol: Protocol) -> lab::Protocol {
    match protocol {
        Protocol::Tcp => lab::Protocol::Tcp,
        Protocol::Udp => lab::Protocol::Udp,
        Protocol::Sctp => lab::Protocol::Sctp,
    }
}

impl Bench {
    /// Sends all flows of a step and says where they differ from what is expected.
    pub(crate) fn send(&self, flows: &Flows<'_>) -> Vec<(usize, String)> {
        let tried =
            flows.iter().filter(|(_, flow)| flow.no_packets.is_none() && self.speaks(flow.packet.protocol));
        // A client's flows with affinity one after the other: its first connection decides.
        let (sticky, others): (Vec<_>, Vec<_>) =
            tried.partition(|(_, flow)| flow.expected.affinity_seconds.is_some());
        let homes = Homes::default();
        thread::scope(|scope| {
            let threads: Vec<_> = others
                .into_iter()
                .map(|(line, flow)| {
                    let homes = &homes;
                    scope.spawn(move || (line, self.differs(flow, homes)))
                })
                .collect();
            let mut differences: Vec<_> =
                sticky.into_iter().map(|(line, flow)| (line, self.differs(flow, &homes))).collect();
            differences.extend(threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| (0, Some("the flow could not be sent".to_owned())))
            }));
            differences.into_iter().filter_map(|(line, what)| Some((line, what?))).collect()
        })
    }

    fn differs<'f>(&self, flow: &'f Expectation, homes: &Homes<'f>) -> Option<String> {
        let done = match flow.expected.kind {
            VerdictKind::Dnat if flow.expected.affinity_seconds.is_some() => self.stays(flow, homes),
            VerdictKind::Dnat => self.balances(flow),
            // An SCTP socket does not heed ICMP's "port unreachable" (`sctp_v4_err`, Linux 6.1).
            VerdictKind::Reject if flow.packet.protocol == Protocol::Sctp => {
                self.fails_with(flow, Failure::TimedOut)
            }
            VerdictKind::Reject => self.fails_with(flow, Failure::Refused),
            VerdictKind::Drop => self.fails_with(flow, Failure::TimedOut),
            VerdictKind::Pass => self.passes(flow),
        };
        done.err()
    }

    /// One connection and one question.
    fn ask(&self, flow: &Expectation, patience: Duration) -> Result<Result<Reply, Failure>, String> {
        let plan::Packet { from, interface: _, to, port, protocol } = flow.packet;
        let host = self.host(from).ok_or_else(|| format!("no host of the lab has the address {from}"))?;
        let source = SocketAddr::new(from, self.source_port());
        let client = host.client(wire(protocol)).from(source).timeout(patience);
        Ok(match client.ask(SocketAddr::new(to, port)) {
            // A datagram that the sender's own node rejects is refused at the call (`nf_hook_slow`).
            Err(Failure::Other(EPERM)) if self.is_node(from) => Err(Failure::Refused),
            answer => answer,
        })
    }

    /// One connection that a backend must answer, and see the right source of.
    fn ask_backend(&self, flow: &Expectation) -> Result<String, String> {
        let Reply { backend, seen_source } =
            self.ask(flow, PATIENCE)?.map_err(|failure| format!("expected an answer, got: {failure}"))?;
        let Expected { backends, source, .. } = &flow.expected;
        let known = backends.iter().copied().find(|b| b.to_string() == backend);
        let known = known.ok_or_else(|| format!("{backend} answered, which is no backend of it"))?;
        let from = flow.packet.from;
        // IPVS sends the node's own connections from the address they go to, until they are masqueraded.
        let by_ipvs = self.mode() == Mode::Ipvs && self.is_node(from);
        let (ok, expected) = match by_ipvs || source.is_node_for(known, from) {
            true => (self.is_node(seen_source.ip()), "the node's address".to_owned()),
            false => (seen_source.ip() == from, from.to_string()),
        };
        match ok {
            true => Ok(backend),
            false => Err(format!("{backend} saw {} and not {expected}", seen_source.ip())),
        }
    }

    fn balances(&self, flow: &Expectation) -> Result<(), String> {
        let backends = &flow.expected.backends;
        let mut seen = BTreeSet::new();
        for _ in 0..TRIES_A_BACKEND_MAX * backends.len() {
            seen.insert(self.ask_backend(flow)?);
            if seen.len() == backends.len() {
                break;
            }
        }
        if seen.len() < backends.len() {
            return Err(format!("only {seen:?} ever answered"));
        }
        (0..TRIES_A_BACKEND_MORE * backends.len()).try_for_each(|_| self.ask_backend(flow).map(drop))
    }

    fn stays<'f>(&self, flow: &'f Expectation, homes: &Homes<'f>) -> Result<(), String> {
        let service = flow.expected.service.as_ref().map_or("", |(_, service)| service);
        let key = (flow.packet.from, service, &flow.expected.backends);
        for _ in 0..AFFINITY_TRIES {
            let backend = self.ask_backend(flow)?;
            let mut homes = homes.lock().unwrap_or_else(PoisonError::into_inner);
            let home = homes.entry(key).or_insert_with(|| backend.clone());
            if *home != backend {
                return Err(format!("the client was sent to {home} first and then to {backend}"));
            }
        }
        Ok(())
    }

    fn fails_with(&self, flow: &Expectation, expected: Failure) -> Result<(), String> {
        let patience = if expected == Failure::TimedOut { SILENCE } else { PATIENCE };
        match self.ask(flow, patience)? {
            Err(failure) if failure == expected => Ok(()),
            Err(failure) => Err(format!("expected: {expected}, got: {failure}")),
            Ok(reply) => Err(format!("expected: {expected}, but {} answered", reply.backend)),
        }
    }

    /// Whoever has the address must be reached, untouched; where nobody has it, nobody.
    fn passes(&self, flow: &Expectation) -> Result<(), String> {
        let to = SocketAddr::new(flow.packet.to, flow.packet.port);
        if !self.serves(to, flow.packet.protocol) {
            return match self.ask(flow, SILENCE)? {
                Ok(reply) => Err(format!("nobody has the address, but {} answered", reply.backend)),
                Err(_) => Ok(()),
            };
        }
        let reply = self.ask(flow, PATIENCE)?.map_err(|failure| format!("expected {to}, got: {failure}"))?;
        match (reply.backend == to.to_string(), reply.seen_source.ip() == flow.packet.from) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("{to} saw {} as the client", reply.seen_source.ip())),
            (false, _) => Err(format!("expected {to}, but {} answered", reply.backend)),
        }
    }
}
