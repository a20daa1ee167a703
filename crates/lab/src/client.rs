//! One question to one server, and how it went. Every wait is bounded by the client's timeout.
//!
//! The socket is opened in the host's namespace and used from the calling thread.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{SockAddr, Socket};

use crate::error::{Doing, Error};
use crate::namespace::Namespace;
use crate::question::{ANSWER_MAX, Failure, Protocol, QUESTION, Reply};

/// How long a client waits for a connection, and again for an answer, unless told otherwise.
/// Longer than the first two retransmissions of a SYN (1 s and 3 s), so that a lost packet on a
/// busy machine does not look like a black hole.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A client on a host, about to ask. Made by [`Host::client`](crate::Host::client).
#[derive(Debug, Clone)]
pub struct Client {
    namespace: Namespace,
    protocol: Protocol,
    source: Option<SocketAddr>,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(namespace: Namespace, protocol: Protocol) -> Client {
        Client { namespace, protocol, source: None, timeout: PATIENCE }
    }

    /// Asks from this address and port; port 0 is any.
    #[must_use]
    pub fn from(mut self, source: SocketAddr) -> Client {
        self.source = Some(source);
        self
    }

    /// Waits no longer than this for a connection, and no longer than this for the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// Connects to `target`, asks once, and hangs up.
    ///
    /// # Errors
    /// The [`Failure`] as the client saw it.
    ///
    /// # Panics
    /// When no socket can be had at all: the namespace cannot be entered, the kernel has no such
    /// protocol, or the source address is not this host's. That is the lab's failure, and must
    /// not be mistaken for the network's.
    pub fn ask(&self, target: SocketAddr) -> Result<Reply, Failure> {
        self.connect(target)?.ask()
    }

    /// Connects to `target` and stays connected. (With UDP this sends nothing yet.)
    ///
    /// # Errors
    /// The [`Failure`] as the client saw it.
    ///
    /// # Panics
    /// As [`ask`](Self::ask).
    pub fn connect(&self, target: SocketAddr) -> Result<Connection, Failure> {
        let socket = match self.socket(target) {
            Ok(socket) => socket,
            Err(error) => panic!("no client socket: {error}"),
        };
        socket.connect_timeout(&SockAddr::from(target), self.timeout)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(Connection { socket, timeout: self.timeout })
    }

    fn socket(&self, target: SocketAddr) -> Result<Socket, Error> {
        let socket = self.protocol.socket(&self.namespace, target.ip())?;
        if let Some(source) = self.source {
            // So that a test may use the same source port again at once.
            socket.set_reuse_address(true).doing(|| "set SO_REUSEADDR")?;
            socket.bind(&source.into()).doing(|| format!("bind to {source}"))?;
        }
        Ok(socket)
    }
}

/// A connection to a server, closed on drop.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    timeout: Duration,
}

impl Connection {
    /// Asks the server who it is, over this connection.
    ///
    /// # Errors
    /// The [`Failure`] as the client saw it.
    pub fn ask(&mut self) -> Result<Reply, Failure> {
        self.socket.write_all(QUESTION)?;
        let deadline = Instant::now() + self.timeout;
        let mut line = Vec::new();
        let mut buffer = [0; ANSWER_MAX];
        while !line.ends_with(b"\n") {
            if line.len() > ANSWER_MAX {
                return Err(Failure::Garbled);
            }
            if Instant::now() > deadline {
                return Err(Failure::TimedOut);
            }
            match self.socket.read(&mut buffer)? {
                0 => return Err(Failure::Reset),
                length => line.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
        String::from_utf8_lossy(&line).parse()
    }

    /// The address and port this end speaks from.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn source(&self) -> Result<SocketAddr, Failure> {
        self.socket.local_addr()?.as_socket().ok_or(Failure::Garbled)
    }

    /// The socket itself, for what this type does not do.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}
