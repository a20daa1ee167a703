//! Addresses on links: reading, adding and deleting them.

use std::net::IpAddr;

use super::{Action, Prefix, family, put_ip, read_ip, word};
use crate::error::Error;
use crate::message::{Message, Messages};
use crate::protocol::Route;
use crate::socket::Socket;

pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_DADFAILED: u32 = 0x08;
pub(super) const SCOPE_UNIVERSE: u8 = 0;
pub(super) const SCOPE_LINK: u8 = 253;
pub(super) const SCOPE_HOST: u8 = 254;
const ADDRESS_HEADER: usize = 8;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address and the length of the network it is in.
    pub prefix: Prefix,
    /// How far it is good for.
    pub scope: Scope,
    /// Whether it may be used: an IPv6 address is not until it was seen to be nobody else's.
    /// Not asked when adding.
    pub usable: bool,
}

impl Address {
    /// An address of global scope, or of link scope where the address itself says so.
    pub fn new(link: u32, prefix: Prefix) -> Address {
        let local = match prefix.address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let scope = match prefix.address.is_loopback() {
            true => Scope::Host,
            false if local => Scope::Link,
            false => Scope::Universe,
        };
        Address { link, prefix, scope, usable: true }
    }

    /// Reads an `RTM_NEWADDR` or `RTM_DELADDR`; `None` when it is damaged.
    pub fn read(message: &Message<'_>) -> Option<Address> {
        let header: &[u8; ADDRESS_HEADER] = message.header()?;
        let [_, length, flags, scope, ..] = *header;
        let attributes = message.attributes(ADDRESS_HEADER);
        // On a point-to-point link IFA_ADDRESS is the other end; IPv6 may have it alone.
        let address = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
        let flags = attributes.find(IFA_FLAGS).and_then(|flags| flags.ne32()).unwrap_or(flags.into());
        Some(Address {
            link: word(header, 4)?,
            prefix: Prefix { address: read_ip(&address)?, length },
            scope: Scope::read(scope),
            usable: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0,
        })
    }

    fn write(&self, messages: &mut Messages<Route>, kind: u16, flags: u16) {
        let Address { link, prefix, scope, usable: _ } = *self;
        let mut header = [family(prefix.address), prefix.length, 0, scope.number(), 0, 0, 0, 0];
        header[4..].copy_from_slice(&link.to_ne_bytes());
        messages.push(kind, flags, &header, |writer| {
            put_ip(writer, IFA_LOCAL, prefix.address);
            put_ip(writer, IFA_ADDRESS, prefix.address);
            if prefix.address.is_ipv6() {
                // Usable at once: nobody asks the neighbours first.
                writer.put_ne32(IFA_FLAGS, IFA_F_NODAD);
            }
        });
    }
}

/// How far an address or a route is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    Universe,
    /// On this link.
    Link,
    /// On this host.
    Host,
    /// Another number the administrator chose.
    Other(u8),
}

impl Scope {
    fn read(number: u8) -> Scope {
        match number {
            SCOPE_UNIVERSE => Scope::Universe,
            SCOPE_LINK => Scope::Link,
            SCOPE_HOST => Scope::Host,
            other => Scope::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Scope::Universe => SCOPE_UNIVERSE,
            Scope::Link => SCOPE_LINK,
            Scope::Host => SCOPE_HOST,
            Scope::Other(number) => number,
        }
    }
}

impl Socket<Route> {
    /// All addresses of both families, those of one link if one is given.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        let mut header = [0; ADDRESS_HEADER];
        header[4..].copy_from_slice(&link.unwrap_or(0).to_ne_bytes());
        let mut request = Messages::one(RTM_GETADDR, 0, &header, |_| ());
        self.dump(&"read addresses", &mut request, |message| Address::read(&message))
    }

    /// Adds or deletes one address. IPv6 addresses are added without duplicate detection.
    ///
    /// # Errors
    /// [`is_exists`](Error::is_exists), [`is_not_found`](Error::is_not_found).
    pub fn change_address(&mut self, action: Action, address: &Address) -> Result<(), Error> {
        let mut request = Messages::new();
        push_address(&mut request, action, address);
        let doing = format_args!("{} address {} on link {}", action.verb(), address.prefix, address.link);
        self.request(&doing, &mut request)
    }

    /// The same for many addresses. Those refused do not keep the others from being carried out;
    /// the error's [`refused`](Error::refused) counts them from 0 in the order given.
    ///
    /// # Errors
    /// When any was refused.
    pub fn change_addresses<'a>(
        &mut self,
        action: Action,
        addresses: impl IntoIterator<Item = &'a Address>,
    ) -> Result<(), Error> {
        let mut requests = Messages::new();
        addresses.into_iter().for_each(|address| push_address(&mut requests, action, address));
        self.pipeline(&format_args!("{} addresses", action.verb()), &mut requests)
    }
}

fn push_address(messages: &mut Messages<Route>, action: Action, address: &Address) {
    let (kind, flags) = action.pick(RTM_NEWADDR, RTM_DELADDR);
    address.write(messages, kind, flags);
}
