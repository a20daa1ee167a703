//! Links, addresses and routes: what of rtnetlink a Service layer and its lab need, typed.
//!
//! Everything is a method on [`Socket<Route>`](crate::Socket) and acts in that socket's network
//! namespace. Changes of many routes or addresses go in one call and are pipelined; what was
//! refused comes back by its place in the call.
//!
//! Limits: no rules, no neighbours, no multipath (a route with several next hops reads as one
//! without gateway), no metrics beyond the priority.

mod address;
mod entry;
mod link;
mod prefix;

use std::net::IpAddr;

pub use address::{Address, Scope};
pub use entry::{
    PROTOCOL_BOOT, PROTOCOL_KERNEL, RouteEntry, RouteFilter, RouteKind, TABLE_LOCAL, TABLE_MAIN,
};
pub use link::{Link, LinkChange, NewLink};
pub use prefix::{NotAPrefix, Prefix};

use crate::attribute::Attribute;
use crate::error::Error;
use crate::message::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Writer};
use crate::protocol::Route;
use crate::socket::Listener;
use address::{RTM_DELADDR, RTM_NEWADDR};
use link::{RTM_DELLINK, RTM_NEWLINK};

const RTNLGRP_LINK: i32 = 1;
const RTNLGRP_IPV4_IFADDR: i32 = 5;
const RTNLGRP_IPV6_IFADDR: i32 = 9;

/// What to do with each of several routes or addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Add it; refused when it is there.
    Add,
    /// Add it, or put it in place of the one that is there.
    Replace,
    /// Delete it; refused when it is not there.
    Delete,
}

impl Action {
    fn pick(self, new: u16, delete: u16) -> (u16, u16) {
        match self {
            Action::Add => (new, NLM_F_CREATE | NLM_F_EXCL),
            Action::Replace => (new, NLM_F_CREATE | NLM_F_REPLACE),
            Action::Delete => (delete, 0),
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Replace => "replace",
            Action::Delete => "delete",
        }
    }
}

/// What happened to a link or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A link is there, or is not what it was.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is there, or is not what it was.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
}

impl Happened {
    /// Reads a notice; `None` for any this type does not know.
    pub fn read(message: &Message<'_>) -> Option<Happened> {
        match message.kind {
            RTM_NEWLINK => Link::read(message).map(Happened::Link),
            RTM_DELLINK => Link::read(message).map(Happened::LinkGone),
            RTM_NEWADDR => Address::read(message).map(Happened::Address),
            RTM_DELADDR => Address::read(message).map(Happened::AddressGone),
            _ => None,
        }
    }
}

impl Listener<Route> {
    /// Hears of links and addresses; read the notices with [`Happened::read`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn links_and_addresses() -> Result<Self, Error> {
        Listener::open(&[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR])
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn put_ip(writer: &mut Writer<'_>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => writer.put(kind, &address.octets()),
        IpAddr::V6(address) => writer.put(kind, &address.octets()),
    }
}

fn read_ip(attribute: &Attribute<'_>) -> Option<IpAddr> {
    match attribute.value.len() {
        4 => attribute.bytes::<4>().map(IpAddr::from),
        16 => attribute.bytes::<16>().map(IpAddr::from),
        _ => None,
    }
}

/// The 32 bits at this place of a family's header.
fn word(header: &[u8], at: usize) -> Option<u32> {
    header.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
