//! Datagrams: threads that do nothing else, each with sockets of its own for the same address
//! (`SO_REUSEPORT`), so that the kernel spreads clients over them and nothing is shared.
//!
//! A thread takes up to [`BATCH`] queries by one call, answers those that can be answered at once
//! and sends the answers by one call. The rest go to the runtime, which sends each by itself.

use crate::answer::{Answered, Desk, Pending};
use crate::exchange::{From, Transport};
use crate::setup::Server;
use crate::sys::{Arrival, Inbox, Outbox, Received, tell_arrivals, wait};
use arc_swap::ArcSwap;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::runtime::Handle;

/// What a burst may pile up in the kernel, if it lets us: it halves what is asked for.
const RECEIVE_BYTES: usize = 2 << 20;
/// So many questions that came as datagrams may wait for an answer at once.
const PENDING_MAX: usize = 4096;

/// How many wait, in the whole process.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// How many questions that came as datagrams wait for an answer.
pub(crate) fn pending() -> usize {
    PENDING.load(Ordering::Relaxed)
}

/// The threads of one address.
pub(crate) struct Udp {
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    /// Where it listens, with the port that it was given.
    pub(crate) local: SocketAddr,
}

/// The sockets of one thread: one a family where it listens everywhere.
struct Sockets {
    v4: Option<Arc<Socket>>,
    v6: Option<Arc<Socket>>,
}

impl Udp {
    /// Begins to answer. `address` is everywhere where there is none; `foreign` if no interface may have it.
    pub(crate) fn start(
        address: Option<IpAddr>,
        port: u16,
        threads: usize,
        foreign: bool,
        server: &Arc<ArcSwap<Server>>,
        runtime: &Handle,
    ) -> io::Result<Udp> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let mut sockets = vec![Sockets::open(address, port, foreign)?];
        let local = sockets.first().and_then(Sockets::local).ok_or(io::ErrorKind::AddrNotAvailable)?;
        for _ in 1..threads {
            sockets.push(Sockets::open(address, local.port(), foreign)?);
        }
        let mut udp = Udp { stop, threads: Vec::new(), local };
        for sockets in sockets {
            let (stop, server, runtime) = (udp.stop.clone(), server.clone(), runtime.clone());
            let thread = std::thread::Builder::new().name("udp".into());
            udp.threads.push(thread.spawn(move || Worker::new(server, runtime).work(&sockets, &stop))?);
        }
        Ok(udp)
    }

    /// Stops once all that has come is answered.
    pub(crate) fn stop(mut self) {
        // It fails only when it has been told 2^64 times already.
        self.stop.write(1).unwrap_or_default();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            thread.join().unwrap_or_default();
        }
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.stop.write(1).unwrap_or_default();
    }
}

impl Sockets {
    fn open(address: Option<IpAddr>, port: u16, foreign: bool) -> io::Result<Sockets> {
        match address {
            Some(IpAddr::V4(address)) => {
                Ok(Sockets { v4: Some(open(address.into(), port, foreign)?), v6: None })
            }
            Some(IpAddr::V6(address)) => {
                Ok(Sockets { v4: None, v6: Some(open(address.into(), port, foreign)?) })
            }
            None => {
                let v4 = open(Ipv4Addr::UNSPECIFIED.into(), port, false)?;
                let port = v4.local_addr()?.as_socket().map_or(port, |local| local.port());
                // Kernels without IPv6 are none the worse.
                let v6 = match open(Ipv6Addr::UNSPECIFIED.into(), port, false) {
                    Ok(v6) => Some(v6),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                    Err(_) => None,
                };
                Ok(Sockets { v4: Some(v4), v6 })
            }
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        self.v4.as_ref().or(self.v6.as_ref())?.local_addr().ok()?.as_socket()
    }
}

fn open(address: IpAddr, port: u16, foreign: bool) -> io::Result<Arc<Socket>> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if foreign {
        allow_foreign(&socket, address.is_ipv6())?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // Up to net.core.rmem_max; more where we may.
    let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
    tell_arrivals(socket.as_fd(), address.is_ipv6())?;
    socket.bind(&address.into())?;
    Ok(Arc::new(socket))
}

/// Lets a socket be bound to an address that no interface has: IPv6 looks at those only, and not at
/// local routes (`ipv6_chk_addr`).
pub(crate) fn allow_foreign(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }
}

struct Worker {
    server: Arc<ArcSwap<Server>>,
    runtime: Handle,
    inbox: Inbox,
    outbox: Outbox,
    desk: Desk,
}

impl Worker {
    fn new(server: Arc<ArcSwap<Server>>, runtime: Handle) -> Worker {
        let desk = Desk::new(Instant::now());
        Worker { server, runtime, inbox: Inbox::new(), outbox: Outbox::new(), desk }
    }

    fn work(&mut self, sockets: &Sockets, stop: &EventFd) {
        let [v4, v6] = [&sockets.v4, &sockets.v6];
        loop {
            let files: [Option<BorrowedFd<'_>>; 3] = [
                v4.as_ref().map(|socket| socket.as_fd()),
                v6.as_ref().map(|socket| socket.as_fd()),
                Some(stop.as_fd()),
            ];
            let Ok([ready4, ready6, stopped]) = wait(files) else { return };
            for (socket, ready) in [(v4, ready4), (v6, ready6)] {
                if let Some(socket) = socket
                    && (ready || stopped)
                {
                    self.drain(socket);
                }
            }
            if stopped {
                return;
            }
        }
    }

    /// Answers all that is there. A flood on one socket gives the other its turn.
    fn drain(&mut self, socket: &Arc<Socket>) {
        const TURNS_MAX: usize = 64;
        for _ in 0..TURNS_MAX {
            match self.inbox.receive(socket.as_fd()) {
                Ok(0) => return,
                Ok(count) => {
                    self.answer(socket, count);
                    if count < crate::sys::BATCH / 2 {
                        return;
                    }
                }
                // An error that an earlier answer met (ECONNREFUSED and the like) is told here once.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn answer(&mut self, socket: &Arc<Socket>, count: usize) {
        let Worker { server, runtime, inbox, outbox, desk } = self;
        let server = server.load();
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        let port = local.map_or(0, |local| local.port());
        let mut now = Instant::now();
        for index in 0..count {
            let Some(Received { bytes, from: client, arrival }) = inbox.get(index) else { continue };
            let address = arrival.address.or(local.map(|local| local.ip())).unwrap_or(client.ip());
            let from = From { client, local: SocketAddr::new(address, port), transport: Transport::Udp };
            let mut later = None;
            outbox.add_if(client, arrival, |out| match desk.answer(bytes, from, now, &server.routes, out) {
                Answered::Now => true,
                Answered::Never => false,
                Answered::Later(pending) => match PENDING.fetch_add(1, Ordering::Relaxed) {
                    ..PENDING_MAX => {
                        later = Some(pending);
                        false
                    }
                    _ => {
                        PENDING.fetch_sub(1, Ordering::Relaxed);
                        matches!(desk.overloaded(*pending, out), Answered::Now)
                    }
                },
            });
            if let Some(pending) = later {
                runtime.spawn(answer_later(pending, socket.clone(), client, arrival));
            }
            now = desk.ended();
        }
        // Who gets no answer asks again.
        let _ = outbox.send(socket.as_fd());
    }
}

async fn answer_later(pending: Box<Pending>, socket: Arc<Socket>, to: SocketAddr, from: Arrival) {
    let mut out = Vec::new();
    if pending.wait(&mut out).await {
        let _ = crate::sys::send(socket.as_fd(), to, from, &out);
    }
    PENDING.fetch_sub(1, Ordering::Relaxed);
}
