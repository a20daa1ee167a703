//! One question to one address: a TCP connection that is closed as soon as it stands, or an empty
//! datagram. Never waits.

use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing yet.
    Nothing,
    /// The connection stands.
    Accepted,
    /// Nobody listens there.
    Refused,
    /// There is no way there, or nobody at its end.
    Unreachable,
}

impl Said {
    /// Only a host that lives says this.
    pub(super) fn is_life(self) -> bool {
        matches!(self, Said::Accepted | Said::Refused)
    }
}

/// A question that has been asked.
#[derive(Debug)]
pub(super) struct Asking {
    /// Until it is answered.
    socket: Option<Socket>,
    /// The kernel knew the answer at once.
    at_once: Option<Said>,
    is_stream: bool,
}

impl Asking {
    /// Asks for a connection.
    pub(super) fn connect(at: SocketAddr) -> Asking {
        Asking::ask(at, true)
    }

    /// Sends an empty datagram.
    pub(super) fn datagram(at: SocketAddr) -> Asking {
        Asking::ask(at, false)
    }

    fn ask(at: SocketAddr, is_stream: bool) -> Asking {
        let begin = || -> io::Result<Socket> {
            let (kind, protocol) =
                if is_stream { (Type::STREAM, Protocol::TCP) } else { (Type::DGRAM, Protocol::UDP) };
            let socket = Socket::new(Domain::for_address(at), kind.nonblocking(), Some(protocol))?;
            match socket.connect(&at.into()) {
                Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
                _ => {}
            }
            if !is_stream {
                socket.send(&[])?;
            }
            Ok(socket)
        };
        match begin() {
            Ok(socket) => Asking { socket: Some(socket), at_once: None, is_stream },
            Err(error) => Asking { socket: None, at_once: Some(said(&error)), is_stream },
        }
    }

    /// Whether there may be an answer yet.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// What to wait for, while there may be. A datagram's answer is an error, which need not be asked
    /// for.
    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        let interest = if self.is_stream { PollFlags::POLLOUT } else { PollFlags::empty() };
        Some(PollFd::new(self.socket.as_ref()?.as_fd(), interest))
    }

    /// Waits for no answer any more.
    pub(super) fn close(&mut self) {
        self.socket = None;
    }

    /// What came back since last asked.
    pub(super) fn hear(&mut self) -> Said {
        if let Some(said) = self.at_once.take() {
            return said;
        }
        let Some(socket) = &self.socket else { return Said::Nothing };
        let heard = match socket.take_error() {
            Ok(Some(error)) | Err(error) => said(&error),
            Ok(None) if self.is_stream && socket.peer_addr().is_ok() => Said::Accepted,
            Ok(None) => Said::Nothing,
        };
        if heard != Said::Nothing {
            self.socket = None;
        }
        heard
    }
}

fn said(error: &io::Error) -> Said {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Said::Refused,
        _ => Said::Unreachable,
    }
}
