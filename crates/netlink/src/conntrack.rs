//! Connection tracking: which flows the kernel remembers, and forgetting single ones.
//!
//! There is no way to forget all: to the kernel a deletion without a tuple means every flow of
//! the namespace, so a deletion here is always made of a [`Flow`] that was read.
//!
//! *Limits.* No creation, no events, no expectations; of the protocols' own state only TCP's.

use std::net::IpAddr;

use crate::attribute::{Attribute, Attributes};
use crate::error::{Cause, Error};
use crate::message::{Message, Messages, Writer};
use crate::protocol::Netfilter;
use crate::socket::{Socket, nfgenmsg};

pub use crate::ip::IpVersion;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
pub(crate) const CT_NEW: u16 = NFNL_SUBSYS_CTNETLINK << 8;
const CT_GET: u16 = CT_NEW | 1;
const CT_DELETE: u16 = CT_NEW | 2;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
/// ICMPv6's three follow ICMP's.
const ICMPV6_AFTER_ICMP: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;

/// A packet has been seen in reply.
pub const STATUS_SEEN_REPLY: u32 = 1 << 1;
/// Not to be dropped early.
pub const STATUS_ASSURED: u32 = 1 << 2;
/// The source is translated.
pub const STATUS_SOURCE_NAT: u32 = 1 << 4;
/// The destination is translated.
pub const STATUS_DESTINATION_NAT: u32 = 1 << 5;

/// TCP's state after a SYN.
pub const TCP_SYN_SENT: u8 = 1;
/// TCP's state after a SYN and its SYN+ACK.
pub const TCP_SYN_RECEIVED: u8 = 2;
/// TCP's state once both sides know each other.
pub const TCP_ESTABLISHED: u8 = 3;

/// A flow as the kernel remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// What its first packet said.
    pub original: Tuple,
    /// What replies are expected to say: with the destination translated, their source is the
    /// backend.
    pub reply: Tuple,
    /// `STATUS_*`.
    pub status: u32,
    /// Its mark.
    pub mark: u32,
    /// Seconds until it is forgotten unless packets come. A flow being offloaded has none.
    pub timeout_s: Option<u32>,
    /// `TCP_*`, of a TCP flow.
    pub tcp_state: Option<u8>,
    /// The kernel's number for it, so that one that takes its place is not deleted for it.
    pub id: u32,
    /// Its zone; 0 is where flows are unless somebody says otherwise.
    pub zone: u16,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// Layer 4 protocol.
    pub protocol: u8,
    /// What tells flows between the same addresses apart.
    pub detail: Detail,
}

/// What tells flows of the same protocol between the same addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detail {
    /// Of TCP, UDP, SCTP and the like.
    Ports {
        /// Where from.
        source: u16,
        /// Where to.
        destination: u16,
    },
    /// Of ICMP and ICMPv6.
    Icmp {
        /// The identifier of an echo.
        id: u16,
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
    /// Of other protocols.
    None,
}

/// What flows to list: those that agree with all that is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// 4 or 6; follows from the addresses if there are any.
    pub version: Option<IpVersion>,
    /// Layer 4 protocol.
    pub protocol: Option<u8>,
    /// In the original direction.
    pub original: Ends,
    /// In the reply direction.
    pub reply: Ends,
    /// Bits of the status, and what they are to be.
    pub status: Option<Masked>,
    /// Bits of the mark, and what they are to be.
    pub mark: Option<Masked>,
    /// The zone.
    pub zone: Option<u16>,
}

/// The ends of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port. The kernel compares it only if the protocol is given, too.
    pub source_port: Option<u16>,
    /// Destination port. The kernel compares it only if the protocol is given, too.
    pub destination_port: Option<u16>,
}

/// Bits to look at, and what they are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// The bits to look at.
    pub mask: u32,
    /// What they are to be.
    pub value: u32,
}

impl Masked {
    fn matches(self, number: u32) -> bool {
        number & self.mask == self.value & self.mask
    }
}

impl Ends {
    fn match_tuple(&self, tuple: &Tuple) -> bool {
        let (source_port, destination_port) = match tuple.detail {
            Detail::Ports { source, destination } => (Some(source), Some(destination)),
            _ => (None, None),
        };
        self.source.is_none_or(|source| source == tuple.source)
            && self.destination.is_none_or(|destination| destination == tuple.destination)
            && (self.source_port.is_none() || self.source_port == source_port)
            && (self.destination_port.is_none() || self.destination_port == destination_port)
    }

    /// What of it the kernel can look at. IPv6 addresses it compares the wrong way round: it sends
    /// all but the flows asked for (`ctnetlink_filter_match_tuple`, seen on 6.18).
    fn flags(&self, version: IpVersion, protocol: Option<u8>) -> u32 {
        let address = |address: Option<IpAddr>, flag| match address {
            Some(IpAddr::V4(_)) if version == IpVersion::V4 => flag,
            _ => 0,
        };
        let port = |port: Option<u16>, flag| match (port, protocol.is_some_and(has_ports)) {
            (Some(_), true) => flag,
            _ => 0,
        };
        let protocol = if protocol.is_some() { FILTER_PROTOCOL } else { 0 };
        address(self.source, FILTER_SOURCE)
            | address(self.destination, FILTER_DESTINATION)
            | port(self.source_port, FILTER_SOURCE_PORT)
            | port(self.destination_port, FILTER_DESTINATION_PORT)
            | protocol
    }

    fn put(&self, w: &mut Writer<'_>, kind: u16, flags: u32, protocol: Option<u8>) {
        w.nest(kind, |w| {
            w.nest(CTA_TUPLE_IP, |w| {
                if let Some(source) = self.source.filter(|_| flags & FILTER_SOURCE != 0) {
                    put_address(w, source, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
                }
                if let Some(destination) = self.destination.filter(|_| flags & FILTER_DESTINATION != 0) {
                    put_address(w, destination, CTA_IP_V4_DST, CTA_IP_V6_DST);
                }
            });
            let Some(protocol) = protocol else { return };
            w.nest(CTA_TUPLE_PROTO, |w| {
                w.put_u8(CTA_PROTO_NUM, protocol);
                if let Some(port) = self.source_port.filter(|_| flags & FILTER_SOURCE_PORT != 0) {
                    w.put_be16(CTA_PROTO_SRC_PORT, port);
                }
                if let Some(port) = self.destination_port.filter(|_| flags & FILTER_DESTINATION_PORT != 0) {
                    w.put_be16(CTA_PROTO_DST_PORT, port);
                }
            });
        });
    }
}

fn has_ports(protocol: u8) -> bool {
    const SCTP: u8 = 132;
    const UDPLITE: u8 = 136;
    const DCCP: u8 = 33;
    [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8, SCTP, UDPLITE, DCCP].contains(&protocol)
}

impl Filter {
    /// Whether the flow agrees with all that is given.
    pub fn matches(&self, flow: &Flow) -> bool {
        self.version.is_none_or(|version| version == IpVersion::of(flow.original.source))
            && self.protocol.is_none_or(|protocol| protocol == flow.original.protocol)
            && self.original.match_tuple(&flow.original)
            && self.reply.match_tuple(&flow.reply)
            && self.status.is_none_or(|status| status.matches(flow.status))
            && self.mark.is_none_or(|mark| mark.matches(flow.mark))
            && self.zone.is_none_or(|zone| zone == flow.zone)
    }

    fn version(&self) -> Option<IpVersion> {
        let Ends { source, destination, .. } = self.original;
        let addresses = [source, destination, self.reply.source, self.reply.destination];
        self.version.or_else(|| addresses.into_iter().flatten().next().map(IpVersion::of))
    }

    /// The request that [`flows`] sends: as much of the filter as the kernel can look at.
    pub fn request(&self) -> Messages<Netfilter> {
        let version = self.version();
        let family = version.map_or(libc::AF_UNSPEC as u8, IpVersion::family);
        let flags = |ends: &Ends| version.map_or(0, |version| ends.flags(version, self.protocol));
        let (original, mut reply) = (flags(&self.original), flags(&self.reply));
        if reply == FILTER_PROTOCOL {
            // Said already of the original direction.
            reply = 0;
        }
        Messages::one(CT_GET, 0, &nfgenmsg(family, 0), |w| {
            if original != 0 {
                self.original.put(w, CTA_TUPLE_ORIG, original, self.protocol);
            }
            if reply != 0 {
                self.reply.put(w, CTA_TUPLE_REPLY, reply, self.protocol);
            }
            for (masked, value, mask) in
                [(self.mark, CTA_MARK, CTA_MARK_MASK), (self.status, CTA_STATUS, CTA_STATUS_MASK)]
            {
                if let Some(masked) = masked.filter(|masked| masked.mask != 0) {
                    w.put_be32(value, masked.value & masked.mask);
                    w.put_be32(mask, masked.mask);
                }
            }
            if let Some(zone) = self.zone {
                w.put_be16(CTA_ZONE, zone);
            }
            if original | reply != 0 {
                // In this machine's byte order, unlike all else here (`ctnetlink_parse_filter`).
                w.nest(CTA_FILTER, |w| {
                    w.put_ne32(CTA_FILTER_ORIG_FLAGS, original);
                    w.put_ne32(CTA_FILTER_REPLY_FLAGS, reply);
                });
            }
        })
    }
}

/// Lists the flows that agree with the filter.
///
/// The kernel leaves most of the others out: by IP version and mark always, by protocol, IPv4
/// addresses and ports from 5.8 on, by status from 5.15, by zone from 6.8. An older one ignores
/// what it does not know, so each flow is compared here again.
pub fn flows(socket: &mut Socket<Netfilter>, filter: &Filter) -> Result<Vec<Flow>, Error> {
    socket.dump_into(&"list conntrack entries", &mut filter.request(), Vec::new, |flows, message| {
        let flow = read_flow(&message)?;
        if filter.matches(&flow) {
            flows.push(flow);
        }
        Some(())
    })
}

/// Looks one flow up by what its first packet said; `None` when it is not remembered.
pub fn find(socket: &mut Socket<Netfilter>, original: &Tuple, zone: u16) -> Result<Option<Flow>, Error> {
    let family = IpVersion::of(original.source).family();
    let mut request = Messages::one(CT_GET, 0, &nfgenmsg(family, 0), |w| {
        w.nest(CTA_TUPLE_ORIG, |w| put_tuple(w, original));
        if zone != 0 {
            w.put_be16(CTA_ZONE, zone);
        }
    });
    match socket.get(&"look up a conntrack entry", &mut request, |message| read_flow(&message)) {
        Ok(flow) => Ok(Some(flow)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Forgets these flows and says how many there still were: one that is gone, or whose place
/// another has taken, is none.
pub fn forget(socket: &mut Socket<Netfilter>, flows: &[Flow]) -> Result<usize, Error> {
    let mut requests = Messages::new();
    flows.iter().for_each(|flow| push_delete(&mut requests, flow));
    match socket.pipeline(&"delete conntrack entries", &mut requests) {
        Ok(()) => Ok(flows.len()),
        Err(Error { doing, cause: Cause::Steps(mut refused) }) => {
            let count = refused.len();
            refused.retain(|refused| !refused.refusal.is_not_found());
            match refused.is_empty() {
                true => Ok(flows.len() - count),
                false => Err(Error { doing, cause: Cause::Steps(refused) }),
            }
        }
        Err(error) => Err(error),
    }
}

/// Adds the message that deletes this flow, and no other that took its place.
pub fn push_delete(requests: &mut Messages<Netfilter>, flow: &Flow) {
    let family = IpVersion::of(flow.original.source).family();
    requests.push(CT_DELETE, 0, &nfgenmsg(family, 0), |w| {
        w.nest(CTA_TUPLE_ORIG, |w| put_tuple(w, &flow.original));
        if flow.zone != 0 {
            w.put_be16(CTA_ZONE, flow.zone);
        }
        w.put_be32(CTA_ID, flow.id);
    });
}

fn put_address(w: &mut Writer<'_>, address: IpAddr, v4: u16, v6: u16) {
    match address {
        IpAddr::V4(address) => w.put(v4, &address.octets()),
        IpAddr::V6(address) => w.put(v6, &address.octets()),
    }
}

pub(crate) fn put_tuple(w: &mut Writer<'_>, tuple: &Tuple) {
    w.nest(CTA_TUPLE_IP, |w| {
        put_address(w, tuple.source, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
        put_address(w, tuple.destination, CTA_IP_V4_DST, CTA_IP_V6_DST);
    });
    w.nest(CTA_TUPLE_PROTO, |w| {
        w.put_u8(CTA_PROTO_NUM, tuple.protocol);
        match tuple.detail {
            Detail::Ports { source, destination } => {
                w.put_be16(CTA_PROTO_SRC_PORT, source);
                w.put_be16(CTA_PROTO_DST_PORT, destination);
            }
            Detail::Icmp { id, kind, code } => {
                let shift = match IpVersion::of(tuple.source) {
                    IpVersion::V4 => 0,
                    IpVersion::V6 => ICMPV6_AFTER_ICMP,
                };
                w.put_u8(CTA_PROTO_ICMP_CODE + shift, code);
                w.put_u8(CTA_PROTO_ICMP_TYPE + shift, kind);
                w.put_be16(CTA_PROTO_ICMP_ID + shift, id);
            }
            Detail::None => {}
        }
    });
}

/// Reads one flow; `None` when the message is none or makes no sense.
pub fn read_flow(message: &Message<'_>) -> Option<Flow> {
    if message.kind != CT_NEW {
        return None;
    }
    let attributes = message.attributes(HEADER);
    let mut flow = Flow {
        original: read_tuple(attributes.find(CTA_TUPLE_ORIG)?.nested())?,
        reply: read_tuple(attributes.find(CTA_TUPLE_REPLY)?.nested())?,
        status: 0,
        mark: 0,
        timeout_s: None,
        tcp_state: None,
        id: 0,
        zone: 0,
    };
    for attribute in attributes {
        match attribute.kind {
            CTA_STATUS => flow.status = attribute.be32()?,
            CTA_MARK => flow.mark = attribute.be32()?,
            CTA_TIMEOUT => flow.timeout_s = Some(attribute.be32()?),
            CTA_ID => flow.id = attribute.be32()?,
            CTA_ZONE => flow.zone = attribute.be16()?,
            CTA_PROTOINFO => flow.tcp_state = read_tcp_state(attribute),
            _ => {}
        }
    }
    Some(flow)
}

fn read_tcp_state(attribute: Attribute<'_>) -> Option<u8> {
    attribute.nested().find(CTA_PROTOINFO_TCP)?.nested().find(CTA_PROTOINFO_TCP_STATE)?.u8()
}

fn read_tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let ip = attributes.find(CTA_TUPLE_IP)?.nested();
    let address = |v4, v6| match ip.find(v4) {
        Some(address) => address.bytes::<4>().map(IpAddr::from),
        None => ip.find(v6)?.bytes::<16>().map(IpAddr::from),
    };
    let proto = attributes.find(CTA_TUPLE_PROTO)?.nested();
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: proto.find(CTA_PROTO_NUM)?.u8()?,
        detail: read_detail(&proto)?,
    })
}

fn read_detail(proto: &Attributes<'_>) -> Option<Detail> {
    if let (Some(source), Some(destination)) =
        (proto.find(CTA_PROTO_SRC_PORT), proto.find(CTA_PROTO_DST_PORT))
    {
        return Some(Detail::Ports { source: source.be16()?, destination: destination.be16()? });
    }
    for shift in [0, ICMPV6_AFTER_ICMP] {
        if let Some(id) = proto.find(CTA_PROTO_ICMP_ID + shift) {
            let byte = |kind| proto.find(kind + shift).and_then(|byte| byte.u8());
            let (kind, code) = (byte(CTA_PROTO_ICMP_TYPE)?, byte(CTA_PROTO_ICMP_CODE)?);
            return Some(Detail::Icmp { id: id.be16()?, kind, code });
        }
    }
    Some(Detail::None)
}
