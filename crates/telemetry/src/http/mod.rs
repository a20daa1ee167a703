//! An HTTP server for a handful of small answers: metrics, health, health-check node ports.
//!
//! One thread and `epoll` for all doors and all connections. A node can have hundreds of
//! health-check ports with a load balancer asking at each every few seconds: a thread a connection
//! would be memory for nothing, and an asynchronous runtime is more than reading a request line.
//! Handlers answer from what is in memory and at once.
//!
//! Whoever can reach a health-check port can be anybody, so all is bounded: connections, the size of
//! a request, and the time that one may take. When all connections are taken the one that has been
//! waited for longest gives way, so slow clients cannot shut others out.
//!
//! What it deliberately does not do: bodies of requests, chunked answers, TLS.

mod message;
mod work;

pub use message::{Request, Response};

use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use work::{Command, Work};

/// So many connections at once.
const CONNECTIONS_MAX: usize = 256;
/// So many connections may wait to be taken in at one door.
const BACKLOG: i32 = 128;
/// A request's line and headers together may be so large.
const HEAD_MAX: usize = 8192;
/// A request must have come, and its answer gone, within this.
const EXCHANGE: Duration = Duration::from_secs(10);
/// A connection may be idle for so long between two requests: a little longer than the usual
/// interval at which metrics are read.
const IDLE: Duration = Duration::from_secs(90);

/// What answers.
pub type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A server without doors yet. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    line: Arc<Line>,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// The way to the server's thread.
#[derive(Debug)]
struct Line {
    commands: Sender<Command>,
    bell: EventFd,
}

impl Line {
    fn tell(&self, command: Command) {
        // A thread that has ended needs to be told nothing; a bell that has rung too often rings.
        let _ = self.commands.send(command);
        let _ = self.bell.write(1);
    }
}

/// An open door. Dropping it closes it; requests that have come in are still answered.
#[derive(Debug)]
pub struct Door {
    line: Arc<Line>,
    number: u64,
    address: SocketAddr,
    listener: Arc<TcpListener>,
}

impl Server {
    /// Starts the server's thread.
    pub fn start() -> io::Result<Server> {
        let (commands, inbox) = channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let line = Arc::new(Line { commands, bell: EventFd::from_flags(flags)? });
        let work = Work::new(line.clone(), inbox)?;
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || work.run())?;
        Ok(Server { line, next: AtomicU64::new(work::FIRST_DOOR), thread: Some(thread) })
    }

    /// Opens a door. The unspecified address of either family means all addresses of both, as it
    /// does in programs written in Go.
    pub fn open(&self, address: SocketAddr, handler: Handler) -> io::Result<Door> {
        let listener = Arc::new(listen(address)?);
        let address = listener.local_addr()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.line.tell(Command::Open { number, listener: listener.clone(), handler });
        Ok(Door { line: self.line.clone(), number, address, listener })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.line.tell(Command::End);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, too.
            thread.join().unwrap_or_default();
        }
    }
}

impl Door {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A socket that listens no more is in nobody's way (`inet_csk_bind_conflict`), so its place
        // is free at once, whenever the server's thread comes to close it.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        self.line.tell(Command::Close(self.number));
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip().is_unspecified() {
        // Where there is no IPv6 at all, IPv4 must do.
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
        match listen_at(everywhere) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) if address.is_ipv4() => {}
            listening => return listening,
        }
    }
    listen_at(address)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// For fuzzing: reads any bytes as requests, one after the other.
#[doc(hidden)]
pub fn fuzz(mut bytes: &[u8]) {
    while let message::Parsed::Whole(request, length) = message::parse(bytes) {
        assert!(length > 0 && matches!(request.method.as_str(), "GET" | "HEAD"));
        bytes = bytes.get(length..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests;
