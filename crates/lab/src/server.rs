//! A server that says who it is. One thread and one epoll set serve everything that arrives at
//! one address and port: a listener for TCP or SCTP, a socket for UDP. It stops, and its port
//! refuses, when the [`Server`] is dropped.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;

use crate::error::{Doing, Error};
use crate::namespace::Namespace;
use crate::question::{ANSWER_MAX, Protocol, Reply};

/// Connections waiting to be accepted; the kernel cuts it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Open connections of one server; further ones are closed at once.
const CONNECTIONS_MAX: usize = 65_536;
/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;
/// Connections or datagrams taken from one socket before the others get their turn.
const BATCH_MAX: usize = 64;

const STOP: u64 = 0;
const DOOR: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// A running server. Dropping it stops it and resets nothing that was closed in good order.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `protocol` at `address` (which may be a wildcard) in `namespace`, answering as
    /// `identity`.
    ///
    /// # Errors
    /// When the address is not there or taken, or the kernel has no such protocol.
    pub fn start(
        namespace: &Namespace,
        identity: &str,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Result<Server, Error> {
        let doing = || format!("serve {protocol} at {address} as {identity}");
        let socket = protocol.socket(namespace, address.ip())?;
        open_door(&socket, protocol, address).doing(doing)?;
        let address = socket.local_addr().doing(doing)?.as_socket().unwrap_or(address);
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing(doing)?;
        let mut service = Service::new(socket, protocol, identity, &stop).doing(doing)?;
        let thread = thread::Builder::new()
            .name(format!("{identity} {protocol}"))
            .spawn(move || service.run())
            .doing(doing)?;
        Ok(Server { address, stop, thread: Some(thread) })
    }

    /// The address and port it serves; the port is the one the kernel chose when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Writing 1 to a fresh eventfd cannot fail; were it to, the thread would not be waited for.
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn open_door(socket: &Socket, protocol: Protocol, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // The IPv6 wildcard serves IPv4 too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    if protocol == Protocol::Udp {
        return socket.bind(&address.into());
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)
}

/// What the server's thread holds.
struct Service {
    door: Socket,
    protocol: Protocol,
    identity: String,
    epoll: Epoll,
    connections: HashMap<u64, (Socket, SocketAddr)>,
    next: u64,
}

impl Service {
    fn new(door: Socket, protocol: Protocol, identity: &str, stop: &EventFd) -> io::Result<Service> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&door, EpollEvent::new(EpollFlags::EPOLLIN, DOOR))?;
        let (connections, next) = (HashMap::new(), FIRST_CONNECTION);
        Ok(Service { door, protocol, identity: identity.to_owned(), epoll, connections, next })
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                match event.data() {
                    STOP => return,
                    DOOR if self.protocol == Protocol::Udp => self.answer_datagrams(),
                    DOOR => self.accept(),
                    connection => self.answer(connection),
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..BATCH_MAX {
            // Any error is this connection's, gone before it was accepted, or "no more".
            let Ok((socket, peer)) = self.door.accept() else { return };
            let Some(peer) = peer.as_socket() else { continue };
            if self.connections.len() >= CONNECTIONS_MAX || socket.set_nonblocking(true).is_err() {
                continue;
            }
            // SCTP has no TCP_NODELAY of this level; its answers are one packet anyway.
            let _ = socket.set_tcp_nodelay(true);
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
            if self.epoll.add(&socket, EpollEvent::new(flags, self.next)).is_ok() {
                self.connections.insert(self.next, (socket, peer));
                self.next += 1;
            }
        }
    }

    /// One answer for each question that has arrived; closes when the client has closed.
    fn answer(&mut self, connection: u64) {
        let Some((socket, peer)) = self.connections.get_mut(&connection) else { return };
        let mut buffer = [0; ANSWER_MAX];
        let keep = match socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let questions = buffer.iter().take(length).filter(|byte| **byte == b'\n').count();
                let line = answer_line(&self.identity, *peer);
                // An answer that does not fit the socket's buffer belongs to a client that does
                // not read: it may go.
                (0..questions).all(|_| socket.write_all(line.as_bytes()).is_ok())
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        if !keep {
            // Closing takes it out of the epoll set.
            self.connections.remove(&connection);
        }
    }

    fn answer_datagrams(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); ANSWER_MAX];
        for _ in 0..BATCH_MAX {
            let peer = match self.door.recv_from(&mut buffer) {
                Ok((_, peer)) => peer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error for an earlier answer.
                Err(_) => continue,
            };
            if let Some(source) = peer.as_socket() {
                // A datagram may be lost; the client will say so.
                let _ = self.door.send_to(answer_line(&self.identity, source).as_bytes(), &peer);
            }
        }
    }
}

fn answer_line(identity: &str, peer: SocketAddr) -> String {
    let seen_source = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    format!("{}\n", Reply { backend: identity.to_owned(), seen_source })
}
