//! Many connections at a steady rate: each connects, asks who is there, and hangs up. The rate
//! does not depend on the answers (an open loop), so that a slow or broken network is seen as
//! slow or broken and not as less load. One thread and one epoll set a host.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use crate::client::PATIENCE;
use crate::error::{Doing, Error};
use crate::host::Host;
use crate::latency::Latencies;
use crate::question::{ANSWER_MAX, Failure, Protocol, QUESTION, Reply};

/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;
/// How long the loop sleeps at most before it looks whether it is to stop.
const NAP_MAX: Duration = Duration::from_millis(50);

/// Connections to be made.
#[derive(Debug, Clone)]
pub struct Load {
    protocol: Protocol,
    targets: Vec<SocketAddr>,
    per_second: u32,
    count: u64,
    timeout: Duration,
    at_once: usize,
    own_ports: bool,
}

impl Load {
    /// Connections to this target: 50 a second until stopped, unless told otherwise.
    pub fn new(protocol: Protocol, target: impl Into<SocketAddr>) -> Load {
        Load {
            protocol,
            targets: vec![target.into()],
            per_second: 50,
            count: u64::MAX,
            timeout: PATIENCE,
            at_once: usize::MAX,
            own_ports: false,
        }
    }

    /// To this target too, in turn with the others.
    #[must_use]
    pub fn and(mut self, target: impl Into<SocketAddr>) -> Load {
        self.targets.push(target.into());
        self
    }

    /// So many a second, from all hosts together; at least one. (Each leaves a port in
    /// `TIME_WAIT` for a minute: more than about 400 a second to one target run out of them.)
    #[must_use]
    pub fn per_second(mut self, connections: u32) -> Load {
        self.per_second = connections.max(1);
        self
    }

    /// So many, from all hosts together.
    #[must_use]
    pub fn count(mut self, connections: u64) -> Load {
        self.count = connections;
        self
    }

    /// A connection without an answer after so long has failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.timeout = timeout;
        self
    }

    /// At most so many of a host's under way at once: the rate falls where the machine cannot keep up.
    /// For machines so slow that connections which pile up would have their packets sent again,
    /// which is another test than that of an undisturbed connection.
    #[must_use]
    pub fn at_once(mut self, connections: usize) -> Load {
        self.at_once = connections.max(1);
        self
    }

    /// Each from a port that no other connection of its host has at the time, whereto it may lead. IPVS knows
    /// an answer's connection by client and backend alone: where one port leads to one backend by two
    /// virtual servers, the answers to both go to the younger.
    #[must_use]
    pub fn own_ports(mut self) -> Load {
        self.own_ports = true;
        self
    }

    /// Makes them, from these hosts in turn, and waits for the last. Needs a
    /// [`count`](Self::count).
    ///
    /// # Errors
    /// When threads or sockets are refused.
    pub fn run(&self, hosts: &[&Host]) -> Result<Report, Error> {
        self.start(hosts)?.finish()
    }

    /// Begins to make them, from these hosts in turn.
    ///
    /// # Errors
    /// When threads are refused.
    pub fn start(&self, hosts: &[&Host]) -> Result<Running, Error> {
        let start = Instant::now();
        let mut running = Running { shared: Arc::default(), threads: Vec::new() };
        for (first, host) in hosts.iter().enumerate() {
            let (load, shared, host) = (self.clone(), Arc::clone(&running.shared), Host::clone(host));
            let turns = (first as u64..self.count).step_by(hosts.len());
            let work = move || host.run(|| Flights::new(&load, start, &shared)?.fly(turns))?;
            let name = format!("load {first}");
            let thread = thread::Builder::new().name(name).spawn(work).doing(|| "start a load")?;
            running.threads.push(thread);
        }
        Ok(running)
    }
}

/// A load under way. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Report, Error>>>,
}

/// What a load's threads and its owner tell each other.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Connections that begin now belong to this phase.
    phase: AtomicUsize,
    phases: Mutex<Vec<BTreeMap<String, u64>>>,
}

impl Shared {
    fn count(&self, backend: &str, phase: usize) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if phases.len() <= phase {
            phases.resize_with(phase + 1, BTreeMap::new);
        }
        if let Some(phase) = phases.get_mut(phase) {
            *phase.entry(backend.to_owned()).or_default() += 1;
        }
    }
}

impl Running {
    /// How many were answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// How many failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Connections that begin from now on are counted apart, so that those which began before
    /// something happened can be told from those that began after it, however late their answer.
    pub fn next_phase(&self) {
        self.shared.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// How many each backend has answered so far, by the phase in which the connection began.
    pub fn phases(&self) -> Vec<BTreeMap<String, u64>> {
        self.shared.phases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all connections are made and answered or failed.
    ///
    /// # Errors
    /// When a socket was refused.
    pub fn finish(mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        for thread in self.threads.drain(..) {
            let part = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            report.merge(part);
        }
        report.phases = self.phases();
        Ok(report)
    }

    /// Makes no more connections, and waits for those under way.
    ///
    /// # Errors
    /// When a socket was refused.
    pub fn stop(self) -> Result<Report, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Nobody wants to know.
            let _ = thread.join();
        }
    }
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// So many were answered by this backend.
    pub per_backend: BTreeMap<String, u64>,
    /// The same, by the phase in which the connection began.
    pub phases: Vec<BTreeMap<String, u64>>,
    /// So many failed in this way.
    pub failures: BTreeMap<Failure, u64>,
    /// From the first packet to the answer, of those answered.
    pub latencies: Latencies,
}

impl Report {
    /// How many were answered.
    pub fn answered(&self) -> u64 {
        self.per_backend.values().sum()
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Takes in what came of another load; phases aside, which are each load's own.
    pub fn merge(&mut self, other: Report) {
        for (backend, count) in other.per_backend {
            *self.per_backend.entry(backend).or_default() += count;
        }
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.latencies.merge(other.latencies);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { per_backend: _, phases: _, failures, latencies } = self;
        write!(out, "{} answered, {} failed", self.answered(), self.failed())?;
        for (failure, count) in failures {
            write!(out, ", {count} {failure}")?;
        }
        write!(out, "; p50 {:?}, p99 {:?}, max {:?}", latencies.p50(), latencies.p99(), latencies.max())
    }
}

/// A connection under way.
struct Flight {
    socket: Socket,
    began: Instant,
    phase: usize,
    asked: bool,
    line: Vec<u8>,
}

/// The connections of one host.
struct Flights<'a> {
    load: &'a Load,
    start: Instant,
    shared: &'a Shared,
    epoll: Epoll,
    flights: HashMap<u64, Flight>,
    /// All have the same time, so the first to begin is the first whose time is up.
    deadlines: VecDeque<(Instant, u64)>,
    report: Report,
    latencies: Vec<Duration>,
}

impl<'a> Flights<'a> {
    fn new(load: &'a Load, start: Instant, shared: &'a Shared) -> Result<Flights<'a>, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll set")?;
        Ok(Flights {
            load,
            start,
            shared,
            epoll,
            flights: HashMap::new(),
            deadlines: VecDeque::new(),
            report: Report::default(),
            latencies: Vec::new(),
        })
    }

    fn fly(mut self, turns: impl Iterator<Item = u64>) -> Result<Report, Error> {
        let mut turns = turns.peekable();
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let now = Instant::now();
            let stopped = self.shared.stop.load(Ordering::Relaxed);
            let room = |flights: &HashMap<_, _>| flights.len() < self.load.at_once;
            while let Some(turn) =
                turns.next_if(|turn| !stopped && room(&self.flights) && self.due(*turn) <= now)
            {
                self.begin(turn);
            }
            self.give_up(now);
            let next = turns.peek().filter(|_| !stopped).map(|turn| self.due(*turn));
            // With no room there is nothing to be early for.
            let next = next.filter(|_| room(&self.flights));
            if next.is_none() && self.flights.is_empty() {
                self.report.latencies = self.latencies.into_iter().collect();
                return Ok(self.report);
            }
            let nap = next.map_or(NAP_MAX, |due| due.saturating_duration_since(now)).min(NAP_MAX);
            // Rounded up, so as not to spin through the last millisecond; half of one is the error.
            let nap = EpollTimeout::from(nap.as_micros().div_ceil(1_000) as u16);
            let count = match self.epoll.wait(&mut events, nap) {
                Err(Errno::EINTR) => 0,
                other => other.doing(|| "wait for answers")?,
            };
            for event in events.iter().take(count) {
                self.go_on(event.data());
            }
        }
    }

    fn due(&self, turn: u64) -> Instant {
        self.start + Duration::from_secs_f64(turn as f64 / f64::from(self.load.per_second))
    }

    fn begin(&mut self, turn: u64) {
        let began = Instant::now();
        let phase = self.shared.phase.load(Ordering::SeqCst);
        match self.connect(turn) {
            Ok(socket) => {
                let flight = Flight { socket, began, phase, asked: false, line: Vec::new() };
                self.flights.insert(turn, flight);
                self.deadlines.push_back((began + self.load.timeout, turn));
            }
            Err(error) => self.fail(error.into()),
        }
    }

    fn connect(&self, turn: u64) -> io::Result<Socket> {
        let place = turn % self.load.targets.len() as u64;
        let target = self.load.targets.get(place as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = self.load.protocol.socket_here(target.ip())?;
        socket.set_nonblocking(true)?;
        if self.load.own_ports {
            // A port chosen by bind(2) is shared with nobody, one chosen by connect(2) may be.
            let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            socket.bind(&SocketAddr::new(any, 0).into())?;
        }
        match socket.connect(&(*target).into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        // Edge-triggered: once when connected, once for each arrival.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, turn))?;
        Ok(socket)
    }

    fn go_on(&mut self, turn: u64) {
        let Some(flight) = self.flights.get_mut(&turn) else { return };
        let outcome = match flight.go_on() {
            Ok(None) => return,
            Ok(Some(reply)) => Ok((reply, flight.phase, flight.began.elapsed())),
            Err(failure) => Err(failure),
        };
        // Dropping the flight closes its socket, which takes it out of the epoll set.
        self.flights.remove(&turn);
        match outcome {
            Ok((reply, phase, latency)) => {
                self.shared.count(&reply.backend, phase);
                *self.report.per_backend.entry(reply.backend).or_default() += 1;
                self.latencies.push(latency);
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some((deadline, turn)) = self.deadlines.front().copied()
            && deadline <= now
        {
            self.deadlines.pop_front();
            if self.flights.remove(&turn).is_some() {
                self.fail(Failure::TimedOut);
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        *self.report.failures.entry(failure).or_default() += 1;
    }
}

impl Flight {
    /// As far as it goes without waiting: the reply when there is one.
    fn go_on(&mut self) -> Result<Option<Reply>, Failure> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error.into());
        }
        if !self.asked {
            match self.socket.write(QUESTION) {
                Ok(_) => self.asked = true,
                // Not connected yet.
                Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [0; ANSWER_MAX];
        while !self.line.ends_with(b"\n") {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Failure::Reset),
                Ok(length) => self.line.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if self.line.len() > ANSWER_MAX {
                return Err(Failure::Garbled);
            }
        }
        String::from_utf8_lossy(&self.line).parse().map(Some)
    }
}
