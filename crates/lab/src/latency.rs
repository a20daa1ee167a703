//! How long connecting takes, to several targets compared fairly: the connections are interleaved
//! (A B A B …), so that whatever else the machine does hits all alike, and nothing but
//! `connect(2)` is timed.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::client::PATIENCE;
use crate::error::{Doing, Error};
use crate::host::Host;
use crate::namespace::Namespace;
use crate::question::{Failure, Protocol};

/// Durations, of which one wants the middle and the tail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    /// The duration that this part of them, from 0 to 1, does not exceed; zero when there is none.
    pub fn quantile(&self, part: f64) -> Duration {
        // Nearest rank; a part outside of 0 to 1 takes the nearest end.
        let rank = (part * self.sorted.len() as f64).ceil().max(1.0) as usize;
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((rank - 1).min(last)).copied().unwrap_or_default()
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    /// What 99 of 100 do not exceed.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.quantile(1.0)
    }

    /// How many are longer than this.
    pub fn longer_than(&self, duration: Duration) -> usize {
        self.sorted.len() - self.sorted.partition_point(|one| *one <= duration)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The median of these over the median of those.
    pub fn ratio(&self, base: &Latencies) -> f64 {
        self.p50().as_secs_f64() / base.p50().as_secs_f64()
    }

    /// Both together.
    pub(crate) fn merge(&mut self, other: Latencies) {
        self.sorted.extend(other.sorted);
        self.sorted.sort_unstable();
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Latencies {
        let mut sorted: Vec<_> = durations.into_iter().collect();
        sorted.sort_unstable();
        Latencies { sorted }
    }
}

/// What came of connecting to one target.
#[derive(Debug, Clone, Default)]
pub struct Connects {
    /// How long those took that succeeded.
    pub latencies: Latencies,
    /// How those failed that did not.
    pub failures: Vec<Failure>,
}

/// Sockets opened in advance for each path, and connections made before doors are emptied.
pub const LOT: usize = 128;
/// Enough for all paths; the kernel cuts it at `net.core.somaxconn`.
const DOOR_BACKLOG: i32 = 4096;

/// Connects over TCP from `host` to each target in turn, so many times round, and says for each
/// target what came of it. See [`connect_latencies`].
///
/// # Errors
/// When the host's namespace cannot be entered, or gives no sockets.
pub fn connect_latency(host: &Host, targets: &[SocketAddr], rounds: usize) -> Result<Vec<Connects>, Error> {
    let paths: Vec<_> = targets.iter().map(|target| (host, *target)).collect();
    connect_latencies(&paths, &[], rounds)
}

/// Connects over TCP along each path, from a host to a target, in turn, so many times round, and
/// says for each path what came of it. Each connection is reset at once, so that neither ports
/// nor memory run out (`SO_LINGER` 0 leaves no `TIME_WAIT`). All connecting is done by the calling
/// thread, on sockets opened in the hosts beforehand; each round begins with another path.
///
/// To compare paths to within a few percent let [`Door`]s be at their ends, and give these doors
/// to be emptied: a [`Server`](crate::Server) is woken by each connection, which may cost its
/// client more than the connection itself and depends on the CPU the server last ran on.
///
/// Connecting to no Service is measured the same way: a refusal is an answer, and its time counts
/// in `latencies` as well as in `failures`.
///
/// # Errors
/// When a host's namespace cannot be entered, or gives no sockets.
pub fn connect_latencies(
    paths: &[(&Host, SocketAddr)],
    doors: &[&Door],
    rounds: usize,
) -> Result<Vec<Connects>, Error> {
    let mut durations = vec![Vec::with_capacity(rounds); paths.len()];
    let mut failures = vec![Vec::new(); paths.len()];
    let mut done = 0;
    while done < rounds {
        let count = LOT.min(rounds - done);
        let mut sockets = Vec::new();
        for (host, target) in paths {
            sockets.push(open(host, *target, count)?);
        }
        for round in 0..count {
            for step in 0..paths.len() {
                let place = (done + round + step) % paths.len();
                let (Some((_, target)), Some(socket), Some(durations), Some(failures)) = (
                    paths.get(place),
                    sockets.get_mut(place).and_then(Vec::pop),
                    durations.get_mut(place),
                    failures.get_mut(place),
                ) else {
                    continue;
                };
                let (duration, result) = connect_once(&socket, *target);
                if matches!(result, Ok(()) | Err(Failure::Refused)) {
                    durations.push(duration);
                }
                failures.extend(result.err());
            }
        }
        doors.iter().for_each(|door| door.empty());
        done += count;
    }
    let connects = |(durations, failures): (Vec<Duration>, Vec<Failure>)| Connects {
        latencies: durations.into_iter().collect(),
        failures,
    };
    Ok(durations.into_iter().zip(failures).map(connects).collect())
}

/// How many connections a second one thread makes and resets along each path, as fast as it can: in lots
/// of [`LOT`] along one path after the other, of which the one in the middle counts. See [`connect_latencies`].
///
/// # Errors
/// When a host's namespace cannot be entered, or gives no sockets; when a connection fails.
pub fn connect_rates<const PATHS: usize>(
    paths: [(&Host, SocketAddr); PATHS],
    doors: &[&Door],
    lots: usize,
) -> Result<[f64; PATHS], Error> {
    let mut durations = [const { Vec::new() }; PATHS];
    for _ in 0..lots {
        for ((host, target), durations) in paths.iter().zip(&mut durations) {
            let sockets = open(host, *target, LOT)?;
            let start = Instant::now();
            for socket in sockets {
                let (_, result) = connect_once(&socket, *target);
                result.map_err(|failure| {
                    Error::Refused(format!("a connection from {} to {target}: {failure}", host.name()))
                })?;
            }
            durations.push(start.elapsed());
            doors.iter().for_each(|door| door.empty());
        }
    }
    Ok(durations.map(|durations| {
        let middle = durations.into_iter().collect::<Latencies>().p50();
        LOT as f64 / middle.as_secs_f64()
    }))
}

/// A listening socket that nobody waits at: connections are made, by the kernel alone, and lie
/// there until they are cleared away.
#[derive(Debug)]
pub struct Door {
    socket: Socket,
}

impl Door {
    pub(crate) fn open(namespace: &Namespace, address: SocketAddr) -> Result<Door, Error> {
        let socket = Protocol::Tcp.socket(namespace, address.ip())?;
        let open = || {
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(DOOR_BACKLOG)
        };
        open().doing(|| format!("listen at {address}"))?;
        Ok(Door { socket })
    }

    fn empty(&self) {
        while self.socket.accept().is_ok() {}
    }
}

/// So many sockets in this host, about to connect.
fn open(host: &Host, target: SocketAddr, count: usize) -> Result<Vec<Socket>, Error> {
    let open = || {
        let socket = Protocol::Tcp.socket_here(target.ip())?;
        // For connect(2) this is the limit too (`inet_stream_connect`, `sock_sndtimeo`).
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(socket)
    };
    let sockets = host.run(|| (0..count).map(|_| open()).collect::<io::Result<Vec<_>>>())?;
    sockets.doing(|| format!("open sockets on {}", host.name()))
}

/// How long connecting took, and what came of it.
fn connect_once(socket: &Socket, target: SocketAddr) -> (Duration, Result<(), Failure>) {
    let address = target.into();
    let start = Instant::now();
    let result = socket.connect(&address);
    let duration = start.elapsed();
    // A connect that ran into the limit says EINPROGRESS, as a nonblocking one would.
    let failure = |error: io::Error| match error.raw_os_error() {
        Some(errno) if errno == nix::errno::Errno::EINPROGRESS as i32 => Failure::TimedOut,
        _ => Failure::from(error),
    };
    (duration, result.map_err(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_rank() {
        let latencies: Latencies = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(latencies.p50(), Duration::from_millis(100));
        assert_eq!(latencies.p99(), Duration::from_millis(198));
        assert_eq!(latencies.max(), Duration::from_millis(200));
        assert_eq!(latencies.quantile(0.0), Duration::from_millis(1));
        assert_eq!(latencies.quantile(7.0), Duration::from_millis(200));
        let double: Latencies = (1..=200).map(|ms| Duration::from_millis(2 * ms)).collect();
        assert!((double.ratio(&latencies) - 2.0).abs() < 1e-9);
        assert_eq!(Latencies::default().p99(), Duration::ZERO);
    }
}
