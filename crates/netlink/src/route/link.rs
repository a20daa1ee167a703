//! Network interfaces: reading, making, changing and deleting them.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::word;
use crate::error::Error;
use crate::message::{Message, Messages, NLM_F_CREATE, NLM_F_EXCL, Writer};
use crate::protocol::Route;
use crate::socket::Socket;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// `RTEXT_FILTER_SKIP_STATS`: counters are most of a link's message, and nobody here reads them.
const SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const IF_OPER_UNKNOWN: u8 = 0;
const LINK_HEADER: usize = 16;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it (`veth`, `bridge`, `dummy`); none for hardware and loopback.
    pub kind: Option<String>,
    /// Whether it was set up.
    pub up: bool,
    /// Whether packets can pass: it has a carrier and the kernel has acted on that.
    pub operational: bool,
    /// The largest packet it takes.
    pub mtu: u32,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// Its Ethernet address, if it has one.
    pub hardware_address: Option<[u8; 6]>,
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub enum NewLink<'a> {
    /// A bridge.
    Bridge,
    /// A device that swallows what it is given; it holds addresses.
    Dummy,
    /// Two devices joined by a wire.
    Veth {
        /// The other end's name.
        peer: &'a str,
        /// The namespace of the other end, if not this one.
        namespace: Option<BorrowedFd<'a>>,
    },
}

impl NewLink<'_> {
    fn kind(&self) -> &'static str {
        match self {
            NewLink::Bridge => "bridge",
            NewLink::Dummy => "dummy",
            NewLink::Veth { .. } => "veth",
        }
    }
}

/// One change to a link.
#[derive(Debug, Clone, Copy)]
pub enum LinkChange<'a> {
    /// Set it up.
    Up,
    /// Set it down.
    Down,
    /// Make it a port of this bridge, or of none.
    Master(Option<u32>),
    /// Move it to another namespace; it arrives down, with a new index if its own is taken.
    Namespace(BorrowedFd<'a>),
    /// Rename it. Kernels before 6.2 want it down.
    Name(&'a str),
    /// Set the largest packet it takes.
    Mtu(u32),
    /// Set its Ethernet address.
    HardwareAddress([u8; 6]),
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`; `None` when it is damaged.
    pub fn read(message: &Message<'_>) -> Option<Link> {
        let header: &[u8; LINK_HEADER] = message.header()?;
        let flags = word(header, 8)?;
        let mut link = Link {
            index: word(header, 4)?,
            name: String::new(),
            kind: None,
            up: flags & IFF_UP != 0,
            operational: false,
            mtu: 0,
            master: None,
            hardware_address: None,
        };
        for attribute in message.attributes(LINK_HEADER) {
            match attribute.kind {
                IFLA_IFNAME => link.name = attribute.str()?.to_owned(),
                IFLA_MTU => link.mtu = attribute.ne32()?,
                IFLA_MASTER => link.master = attribute.ne32(),
                // A kind of device that never says counts as up (`netif_oper_up`).
                IFLA_OPERSTATE => {
                    link.operational = link.up && matches!(attribute.u8()?, IF_OPER_UP | IF_OPER_UNKNOWN);
                }
                IFLA_ADDRESS => link.hardware_address = attribute.value.try_into().ok(),
                IFLA_LINKINFO => {
                    let kind = attribute.nested().find(IFLA_INFO_KIND);
                    link.kind = kind.and_then(|kind| kind.str()).map(str::to_owned);
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Socket<Route> {
    /// All links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut request = Messages::one(RTM_GETLINK, 0, &link_header(0, 0, 0), |writer| {
            writer.put_ne32(IFLA_EXT_MASK, SKIP_STATS);
        });
        self.dump(&"read links", &mut request, |message| Link::read(&message))
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`is_not_found`](Error::is_not_found) when there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let mut request = Messages::one(RTM_GETLINK, 0, &link_header(0, 0, 0), |writer| {
            writer.put_str(IFLA_IFNAME, name);
            writer.put_ne32(IFLA_EXT_MASK, SKIP_STATS);
        });
        self.get(&format_args!("read link {name}"), &mut request, |message| {
            (message.kind == RTM_NEWLINK).then(|| Link::read(&message)).flatten()
        })
    }

    /// Makes a link, which is down at first.
    ///
    /// # Errors
    /// [`is_exists`](Error::is_exists) when the name is taken, [`is_unsupported`](Error::is_unsupported)
    /// when the kernel has no such kind of device.
    pub fn add_link(&mut self, name: &str, new: NewLink<'_>) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Messages::one(RTM_NEWLINK, flags, &link_header(0, 0, 0), |writer| {
            writer.put_str(IFLA_IFNAME, name);
            writer.nest(IFLA_LINKINFO, |writer| {
                writer.put_str(IFLA_INFO_KIND, new.kind());
                if let NewLink::Veth { peer, namespace } = new {
                    writer.nest(IFLA_INFO_DATA, |writer| write_veth_peer(writer, peer, namespace));
                }
            });
        });
        self.request(&format_args!("add {} link {name}", new.kind()), &mut request)
    }

    /// Changes a link.
    ///
    /// # Errors
    /// [`is_not_found`](Error::is_not_found) when there is none of this index.
    pub fn change_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<(), Error> {
        let header = match change {
            LinkChange::Up => link_header(index, IFF_UP, IFF_UP),
            LinkChange::Down => link_header(index, 0, IFF_UP),
            _ => link_header(index, 0, 0),
        };
        let mut request = Messages::one(RTM_NEWLINK, 0, &header, |writer| match change {
            LinkChange::Up | LinkChange::Down => {}
            LinkChange::Master(bridge) => writer.put_ne32(IFLA_MASTER, bridge.unwrap_or(0)),
            LinkChange::Namespace(fd) => writer.put_ne32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32),
            LinkChange::Name(name) => writer.put_str(IFLA_IFNAME, name),
            LinkChange::Mtu(bytes) => writer.put_ne32(IFLA_MTU, bytes),
            LinkChange::HardwareAddress(address) => writer.put(IFLA_ADDRESS, &address),
        });
        self.request(&format_args!("change link {index} ({change:?})"), &mut request)
    }

    /// Deletes a link, and with it the other end of a veth, and all addresses and routes.
    ///
    /// # Errors
    /// [`is_not_found`](Error::is_not_found) when there is none of this index.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut request = Messages::one(RTM_DELLINK, 0, &link_header(index, 0, 0), |_| ());
        self.request(&format_args!("delete link {index}"), &mut request)
    }
}

fn write_veth_peer(writer: &mut Writer<'_>, peer: &str, namespace: Option<BorrowedFd<'_>>) {
    writer.nest(VETH_INFO_PEER, |writer| {
        writer.raw(&link_header(0, 0, 0));
        writer.put_str(IFLA_IFNAME, peer);
        if let Some(fd) = namespace {
            writer.put_ne32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32);
        }
    });
}
