//! Routes: reading, adding, replacing and deleting them, also by the ten thousand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::{SCOPE_HOST, SCOPE_LINK, SCOPE_UNIVERSE};
use super::{Action, Prefix, family, put_ip, read_ip, word};
use crate::error::Error;
use crate::message::{Message, Messages};
use crate::protocol::Route;
use crate::socket::Socket;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;
const ROUTE_HEADER: usize = 12;
/// How the kernel says that a packet would get nowhere: no route, or one that says so.
const NO_WAY: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES];
/// The table ordinary routes are in.
pub const TABLE_MAIN: u32 = 254;
/// The table that says which addresses are the host's own.
pub const TABLE_LOCAL: u32 = 255;
/// Routes the kernel made itself, `RTPROT_KERNEL`.
pub const PROTOCOL_KERNEL: u8 = 2;
/// Routes made by hand, `RTPROT_BOOT`, as `ip route add` marks them.
pub const PROTOCOL_BOOT: u8 = 3;

/// A route. (`netlink::Route` is the protocol.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteEntry {
    /// Where it leads. `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: Prefix,
    /// What happens to packets that take it.
    pub kind: RouteKind,
    /// The next router, if there is one.
    pub gateway: Option<IpAddr>,
    /// The link packets leave by.
    pub link: Option<u32>,
    /// The address our own packets get as their source when they have none.
    pub source: Option<IpAddr>,
    /// The table it is in.
    pub table: u32,
    /// Who made it: [`PROTOCOL_KERNEL`], [`PROTOCOL_BOOT`], or a mark of one's own.
    pub protocol: u8,
    /// Of several to the same destination the one with the lowest number counts. IPv6 takes 0
    /// for "unsaid", and stores 1024 for most kinds of route.
    pub priority: u32,
}

/// What happens to packets that take a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// They are sent on.
    Unicast,
    /// They are for this host.
    Local,
    /// They vanish. Local senders get `EINVAL`.
    Blackhole,
    /// Their sender is told that the host is unreachable.
    Unreachable,
    /// Any other `RTN_` number.
    Other(u8),
}

impl RouteKind {
    fn read(number: u8) -> RouteKind {
        match number {
            1 => RouteKind::Unicast,
            2 => RouteKind::Local,
            6 => RouteKind::Blackhole,
            7 => RouteKind::Unreachable,
            other => RouteKind::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            RouteKind::Unicast => 1,
            RouteKind::Local => 2,
            RouteKind::Blackhole => 6,
            RouteKind::Unreachable => 7,
            RouteKind::Other(number) => number,
        }
    }
}

impl RouteEntry {
    /// To a network on this link, in the main table.
    pub fn direct(destination: Prefix, link: u32) -> RouteEntry {
        RouteEntry {
            destination: destination.network(),
            kind: RouteKind::Unicast,
            gateway: None,
            link: Some(link),
            source: None,
            table: TABLE_MAIN,
            protocol: PROTOCOL_BOOT,
            priority: 0,
        }
    }

    /// To a network behind a router, in the main table. With a `link`, the router is taken to be
    /// on it whatever other routes say.
    pub fn via(destination: Prefix, gateway: IpAddr, link: Option<u32>) -> RouteEntry {
        RouteEntry { gateway: Some(gateway), link, ..RouteEntry::direct(destination, 0) }
    }

    /// Makes an address the host's own without putting it on the link: a thousand times cheaper
    /// than addresses where there are tens of thousands.
    pub fn local(address: IpAddr, link: u32) -> RouteEntry {
        RouteEntry {
            kind: RouteKind::Local,
            table: TABLE_LOCAL,
            ..RouteEntry::direct(Prefix::host(address), link)
        }
    }

    /// Makes packets to a network vanish.
    pub fn blackhole(destination: Prefix) -> RouteEntry {
        RouteEntry { kind: RouteKind::Blackhole, link: None, ..RouteEntry::direct(destination, 0) }
    }

    /// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` when it is damaged.
    pub fn read(message: &Message<'_>) -> Option<RouteEntry> {
        let header: &[u8; ROUTE_HEADER] = message.header()?;
        let [family, length, _, _, table, protocol, _, kind, ..] = *header;
        let any = match i32::from(family) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut route = RouteEntry {
            destination: Prefix { address: any, length },
            kind: RouteKind::read(kind),
            gateway: None,
            link: None,
            source: None,
            table: table.into(),
            protocol,
            priority: 0,
        };
        for attribute in message.attributes(ROUTE_HEADER) {
            match attribute.kind {
                RTA_DST => route.destination.address = read_ip(&attribute)?,
                RTA_GATEWAY => route.gateway = Some(read_ip(&attribute)?),
                RTA_PREFSRC => route.source = Some(read_ip(&attribute)?),
                RTA_OIF => route.link = Some(attribute.ne32()?),
                RTA_TABLE => route.table = attribute.ne32()?,
                RTA_PRIORITY => route.priority = attribute.ne32()?,
                _ => {}
            }
        }
        Some(route)
    }

    /// The scope that `ip route` would choose: the kernel refuses a gateway in a link's scope.
    fn scope(&self, action: Action) -> u8 {
        match (self.kind, action) {
            // Deleting, "nowhere" matches any (`fib_table_delete`).
            (_, Action::Delete) => u8::MAX,
            (RouteKind::Local, _) => SCOPE_HOST,
            (RouteKind::Unicast, _) if self.gateway.is_none() => SCOPE_LINK,
            _ => SCOPE_UNIVERSE,
        }
    }

    fn write(&self, messages: &mut Messages<Route>, action: Action) {
        let RouteEntry { destination, kind, gateway, link, source, table, protocol, priority } = *self;
        let (message, flags) = action.pick(RTM_NEWROUTE, RTM_DELROUTE);
        // Tables beyond 255 are said by attribute; the header's field is then "unspecified".
        let short_table = u8::try_from(table).unwrap_or(0);
        let scope = self.scope(action);
        let family = family(destination.address);
        let onlink = if gateway.is_some() && link.is_some() { RTNH_F_ONLINK } else { 0 };
        let mut header =
            [family, destination.length, 0, 0, short_table, protocol, scope, kind.number(), 0, 0, 0, 0];
        header[8..].copy_from_slice(&onlink.to_ne_bytes());
        messages.push(message, flags, &header, |writer| {
            if destination.length > 0 {
                put_ip(writer, RTA_DST, destination.address);
            }
            if short_table == 0 {
                writer.put_ne32(RTA_TABLE, table);
            }
            if let Some(gateway) = gateway {
                put_ip(writer, RTA_GATEWAY, gateway);
            }
            if let Some(link) = link {
                writer.put_ne32(RTA_OIF, link);
            }
            if let Some(source) = source {
                put_ip(writer, RTA_PREFSRC, source);
            }
            if priority != 0 {
                writer.put_ne32(RTA_PRIORITY, priority);
            }
        });
    }
}

/// Which routes to read; what is not said is not asked. The kernel does the choosing.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFilter {
    /// Those of this table.
    pub table: Option<u32>,
    /// Those that leave by this link.
    pub link: Option<u32>,
    /// Those made by this protocol.
    pub protocol: Option<u8>,
    /// Those of this kind.
    pub kind: Option<RouteKind>,
}

impl RouteFilter {
    /// Old kernels filter less than they were asked to, and IPv6 ignores the kind.
    fn admits(&self, route: &RouteEntry) -> bool {
        self.table.is_none_or(|table| table == route.table)
            && self.link.is_none_or(|link| Some(link) == route.link)
            && self.protocol.is_none_or(|protocol| protocol == route.protocol)
            && self.kind.is_none_or(|kind| kind == route.kind)
    }
}

impl Socket<Route> {
    /// The routes of both families that `filter` admits.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<RouteEntry>, Error> {
        let mut routes = self.routes_of(libc::AF_INET as u8, filter)?;
        routes.extend(self.routes_of(libc::AF_INET6 as u8, filter)?);
        Ok(routes)
    }

    fn routes_of(&mut self, family: u8, filter: RouteFilter) -> Result<Vec<RouteEntry>, Error> {
        let kind = filter.kind.map_or(0, RouteKind::number);
        let header = [family, 0, 0, 0, 0, filter.protocol.unwrap_or(0), 0, kind, 0, 0, 0, 0];
        let mut request = Messages::one(RTM_GETROUTE, 0, &header, |writer| {
            if let Some(table) = filter.table {
                writer.put_ne32(RTA_TABLE, table);
            }
            if let Some(link) = filter.link {
                writer.put_ne32(RTA_OIF, link);
            }
        });
        let dump = self.dump_into(&"read routes", &mut request, Vec::new, |routes, message| {
            // IPv6 may send the exceptions it has learned along (`rt6_dump_route`).
            let cloned = word(message.payload, 8)? & RTM_F_CLONED != 0;
            let route = RouteEntry::read(&message)?;
            if !cloned && filter.admits(&route) {
                routes.push(route);
            }
            Some(())
        });
        match dump {
            // A table or link that is not there holds no routes.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            other => other,
        }
    }

    /// What kind of route a packet to `address` would take from here; `None` where none leads there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kind_of_way_to(&mut self, address: IpAddr) -> Result<Option<RouteKind>, Error> {
        let Prefix { length, .. } = Prefix::host(address);
        let header = [family(address), length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut request = Messages::one(RTM_GETROUTE, 0, &header, |writer| put_ip(writer, RTA_DST, address));
        let way = self.get(&format_args!("look up the way to {address}"), &mut request, |message| {
            RouteEntry::read(&message).map(|route| route.kind)
        });
        match way {
            Ok(kind) => Ok(Some(kind)),
            Err(error) if NO_WAY.iter().any(|errno| error.errno() == Some(*errno)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds, replaces or deletes one route.
    ///
    /// # Errors
    /// [`is_exists`](Error::is_exists), [`is_not_found`](Error::is_not_found).
    pub fn change_route(&mut self, action: Action, route: &RouteEntry) -> Result<(), Error> {
        let mut request = Messages::new();
        route.write(&mut request, action);
        self.request(&format_args!("{} route to {}", action.verb(), route.destination), &mut request)
    }

    /// The same for many routes. Those refused do not keep the others from being carried out;
    /// the error's [`refused`](Error::refused) counts them from 0 in the order given.
    ///
    /// # Errors
    /// When any was refused.
    pub fn change_routes<'a>(
        &mut self,
        action: Action,
        routes: impl IntoIterator<Item = &'a RouteEntry>,
    ) -> Result<(), Error> {
        let mut requests = Messages::new();
        routes.into_iter().for_each(|route| route.write(&mut requests, action));
        self.pipeline(&format_args!("{} routes", action.verb()), &mut requests)
    }
}
