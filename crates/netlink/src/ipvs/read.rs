//! Reading what the kernel says of IPVS.

use std::net::IpAddr;

use super::*;
use crate::attribute::{Attribute, Attributes};

const SVC_ATTR_STATS: u16 = 10;
const SVC_ATTR_STATS64: u16 = 12;
const DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const DEST_ATTR_INACT_CONNS: u16 = 8;
const DEST_ATTR_PERSIST_CONNS: u16 = 9;
const DEST_ATTR_STATS: u16 = 10;
const DEST_ATTR_STATS64: u16 = 12;

const STATS_ATTR_CONNS: u16 = 1;
const STATS_ATTR_INPKTS: u16 = 2;
const STATS_ATTR_OUTPKTS: u16 = 3;
const STATS_ATTR_INBYTES: u16 = 4;
const STATS_ATTR_OUTBYTES: u16 = 5;

const INFO_ATTR_VERSION: u16 = 1;
const INFO_ATTR_CONN_TAB_SIZE: u16 = 2;

/// What the forwarding method's number may hold beside the method.
const FORWARDING_MASK: u32 = 0x7;

/// What the kernel's IPVS is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Major, minor, patch.
    pub version: (u8, u8, u8),
    /// Buckets of the table of connections.
    pub connection_buckets: u32,
}

/// A service as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// The service.
    pub service: Service,
    /// What went through it.
    pub statistics: Statistics,
}

/// A destination as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationInfo {
    /// The destination.
    pub destination: Destination,
    /// Its connections that are established.
    pub active: u32,
    /// Its other connections.
    pub inactive: u32,
    /// Its clients remembered.
    pub persistent: u32,
    /// What went to it.
    pub statistics: Statistics,
}

/// What went through a service or to a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// The attributes of a reply to this command.
fn open<'a>(message: &Message<'a>, command: u8) -> Option<Attributes<'a>> {
    let [replied, ..] = *message.header::<HEADER>()?;
    (replied == command).then(|| message.attributes(HEADER))
}

pub(super) fn info(message: &Message<'_>) -> Option<Info> {
    let attributes = open(message, CMD_SET_INFO)?;
    let [_, major, minor, patch] = attributes.find(INFO_ATTR_VERSION)?.ne32()?.to_be_bytes();
    let connection_buckets = attributes.find(INFO_ATTR_CONN_TAB_SIZE)?.ne32()?;
    Some(Info { version: (major, minor, patch), connection_buckets })
}

pub(super) fn timeouts(message: &Message<'_>) -> Option<Timeouts> {
    let attributes = open(message, CMD_SET_CONFIG)?;
    let seconds = |kind| attributes.find(kind)?.ne32();
    Some(Timeouts {
        tcp_s: seconds(CMD_ATTR_TIMEOUT_TCP)?,
        tcp_fin_s: seconds(CMD_ATTR_TIMEOUT_TCP_FIN)?,
        udp_s: seconds(CMD_ATTR_TIMEOUT_UDP)?,
    })
}

pub(super) fn service(message: &Message<'_>) -> Option<ServiceInfo> {
    let attributes = open(message, CMD_NEW_SERVICE)?.find(CMD_ATTR_SERVICE)?.nested();
    let key = key(&attributes)?;
    let netmask = attributes.find(SVC_ATTR_NETMASK)?;
    let text = |kind| attributes.find(kind)?.str().filter(|text| !text.is_empty());
    let flags = attributes.find(SVC_ATTR_FLAGS)?.ne32()?;
    Some(ServiceInfo {
        service: Service {
            key,
            scheduler: text(SVC_ATTR_SCHED_NAME)?.to_string(),
            flags: flags & !HASHED,
            timeout_s: attributes.find(SVC_ATTR_TIMEOUT)?.ne32()?,
            client_prefix: match key.version() {
                // At most 32 ones.
                IpVersion::V4 => netmask.be32()?.count_ones() as u8,
                IpVersion::V6 => u8::try_from(netmask.ne32()?).ok()?,
            },
            engine: text(SVC_ATTR_PE_NAME).map(str::to_string),
        },
        statistics: statistics(&attributes, SVC_ATTR_STATS64, SVC_ATTR_STATS),
    })
}

fn key(attributes: &Attributes<'_>) -> Option<ServiceKey> {
    let version = IpVersion::from_family(attributes.find(SVC_ATTR_AF)?.ne16()?)?;
    if let Some(mark) = attributes.find(SVC_ATTR_FWMARK) {
        return Some(ServiceKey::Mark { mark: mark.ne32()?, version });
    }
    Some(ServiceKey::Address {
        protocol: u8::try_from(attributes.find(SVC_ATTR_PROTOCOL)?.ne16()?).ok()?,
        address: address(attributes.find(SVC_ATTR_ADDR)?, version)?,
        port: attributes.find(SVC_ATTR_PORT)?.be16()?,
    })
}

fn address(attribute: Attribute<'_>, version: IpVersion) -> Option<IpAddr> {
    match version {
        IpVersion::V4 => attribute.bytes::<4>().map(IpAddr::from),
        IpVersion::V6 => attribute.bytes::<16>().map(IpAddr::from),
    }
}

/// `service` is the version of the service, which a kernel that does not name the destination's
/// means.
pub(super) fn destination(message: &Message<'_>, service: IpVersion) -> Option<DestinationInfo> {
    let attributes = open(message, CMD_NEW_DEST)?.find(CMD_ATTR_DEST)?.nested();
    let number = |kind| attributes.find(kind)?.ne32();
    let version = match attributes.find(DEST_ATTR_ADDR_FAMILY) {
        Some(family) => IpVersion::from_family(family.ne16()?)?,
        None => service,
    };
    Some(DestinationInfo {
        destination: Destination {
            address: address(attributes.find(DEST_ATTR_ADDR)?, version)?,
            port: attributes.find(DEST_ATTR_PORT)?.be16()?,
            forwarding: forwarding(number(DEST_ATTR_FWD_METHOD)?)?,
            weight: number(DEST_ATTR_WEIGHT)?,
            upper_threshold: number(DEST_ATTR_U_THRESH)?,
            lower_threshold: number(DEST_ATTR_L_THRESH)?,
        },
        active: number(DEST_ATTR_ACTIVE_CONNS)?,
        inactive: number(DEST_ATTR_INACT_CONNS)?,
        persistent: number(DEST_ATTR_PERSIST_CONNS)?,
        statistics: statistics(&attributes, DEST_ATTR_STATS64, DEST_ATTR_STATS),
    })
}

fn forwarding(number: u32) -> Option<Forwarding> {
    Some(match number & FORWARDING_MASK {
        0 => Forwarding::Masquerade,
        1 => Forwarding::Local,
        2 => Forwarding::Tunnel,
        3 => Forwarding::Route,
        4 => Forwarding::Bypass,
        _ => return None,
    })
}

/// Kernels before 4.1 count in 32 bits, bytes aside.
fn statistics(attributes: &Attributes<'_>, wide: u16, narrow: u16) -> Statistics {
    let Some(found) = attributes.find(wide).or_else(|| attributes.find(narrow)) else {
        return Statistics::default();
    };
    let count = |kind| {
        let found = found.nested().find(kind)?;
        found.ne64().or_else(|| found.ne32().map(u64::from))
    };
    Statistics {
        connections: count(STATS_ATTR_CONNS).unwrap_or(0),
        packets_in: count(STATS_ATTR_INPKTS).unwrap_or(0),
        packets_out: count(STATS_ATTR_OUTPKTS).unwrap_or(0),
        bytes_in: count(STATS_ATTR_INBYTES).unwrap_or(0),
        bytes_out: count(STATS_ATTR_OUTBYTES).unwrap_or(0),
    }
}
