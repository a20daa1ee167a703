//! A transaction: steps that happen together or not at all. Each method adds one step (adding
//! elements may add several), and the error's indices count the steps as [`Batch::len`] does.

use std::fmt::Display;

use super::{NFNL_SUBSYS_NFTABLES, Table};
use crate::error::Error;
use crate::message::{Messages, Writer};
use crate::protocol::Netfilter;
use crate::socket::Socket;

/// Steps to be carried out together.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) messages: Messages<Netfilter>,
    pub(super) last_set_id: u32,
}

impl Batch {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many steps: the index that the next one will have.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Length on the wire. One transaction is one datagram, so it must fit the socket's send
    /// buffer: see [`Socket::make_room`].
    pub fn byte_len(&self) -> usize {
        self.messages.byte_len()
    }

    /// The messages as they would be sent, sequence numbers aside.
    pub fn as_bytes(&self) -> &[u8] {
        self.messages.as_bytes()
    }

    /// Forgets the steps and keeps the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.last_set_id = 0;
    }

    /// Carries the steps out. With a `generation`, only if nobody has changed the ruleset since.
    pub fn commit(
        &mut self,
        socket: &mut Socket<Netfilter>,
        doing: &dyn Display,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        socket.batch(doing, NFNL_SUBSYS_NFTABLES, generation, &mut self.messages)
    }

    pub(super) fn step(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        write: impl FnOnce(&mut Writer<'_>),
    ) {
        self.messages.push(kind, flags, &table.family.header(), write);
    }
}
