//! What clients and servers of the lab say to each other: the client sends [`QUESTION`], the
//! server answers with one line, its own name and the address it saw the client come from.
//! The same over TCP, UDP and SCTP, so that a test can compare them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::error::{Doing, Error};
use crate::namespace::Namespace;

/// What a client sends. One answer is due for each.
pub(crate) const QUESTION: &[u8] = b"who?\n";
/// The longest answer a client will read.
pub(crate) const ANSWER_MAX: usize = 512;

/// `IPPROTO_SCTP`.
const SCTP: i32 = 132;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it: see [`Host::has_sctp`](crate::Host::has_sctp).
    Sctp,
}

impl Protocol {
    /// A socket for this protocol in `namespace`, for addresses of `peer`'s family.
    pub(crate) fn socket(self, namespace: &Namespace, peer: IpAddr) -> Result<Socket, Error> {
        namespace.run(|| self.socket_here(peer))?.doing(|| format!("open a {self} socket"))
    }

    /// The same, in the namespace of the calling thread.
    pub(crate) fn socket_here(self, peer: IpAddr) -> std::io::Result<Socket> {
        let domain = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let (kind, protocol) = match self {
            Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
            Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
            Protocol::Sctp => (Type::STREAM, socket2::Protocol::from(SCTP)),
        };
        Socket::new(domain, kind, Some(protocol))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// Which server answered, and whom it thought it was talking to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The name of the server that answered.
    pub backend: String,
    /// The client's address and port as the server saw them: the client's own, or those of
    /// whoever masqueraded it.
    pub seen_source: SocketAddr,
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.backend, self.seen_source)
    }
}

impl FromStr for Reply {
    type Err = Failure;

    fn from_str(line: &str) -> Result<Reply, Failure> {
        let (backend, source) = line.trim_end().rsplit_once(' ').ok_or(Failure::Garbled)?;
        let seen_source = source.parse().map_err(|_| Failure::Garbled)?;
        Ok(Reply { backend: backend.to_owned(), seen_source })
    }
}

/// How a connection or a question failed, as far as the client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// Nobody listens there, said a reset or a port-unreachable.
    #[error("refused")]
    Refused,
    /// No answer in time: dropped somewhere.
    #[error("timed out")]
    TimedOut,
    /// It was there and is no more: a reset, or an end, on a connection that had been made.
    #[error("reset")]
    Reset,
    /// A router, or the own routing table, knows no way there or forbids it.
    #[error("unreachable")]
    Unreachable,
    /// The answer is not one a server of the lab gives.
    #[error("garbled answer")]
    Garbled,
    /// Any other errno.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        use std::io::ErrorKind;
        match error.kind() {
            // A blocking read with a timeout reports WouldBlock; connect_timeout, TimedOut.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => return Failure::TimedOut,
            ErrorKind::UnexpectedEof => return Failure::Reset,
            _ => {}
        }
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ECONNREFUSED => Failure::Refused,
            Errno::ETIMEDOUT => Failure::TimedOut,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => Failure::Reset,
            Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES => Failure::Unreachable,
            other => Failure::Other(other as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reads_back_as_written() {
        for source in ["10.244.1.2:4711", "[fd00:10:244:1::2]:4711"] {
            let reply = Reply { backend: "web 1".to_owned(), seen_source: source.parse().unwrap() };
            assert_eq!(reply.to_string().parse(), Ok(reply));
        }
        for line in ["", "web", "web 10.0.0.1", "web x:1"] {
            assert_eq!(line.parse::<Reply>(), Err(Failure::Garbled), "{line}");
        }
    }
}
