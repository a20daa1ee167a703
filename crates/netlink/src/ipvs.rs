//! IPVS: virtual services and their destinations, by generic netlink. The words are the kernel's.
//!
//! What changes is gathered in [`Requests`] and sent many at a time; unlike nf_tables the kernel
//! carries each out by itself, so some may be refused while others are done. There is no way here
//! to flush: services of others live in the same table.
//!
//! *Limits.* No synchronisation daemon, no tunnel options, no zeroing of statistics.

mod read;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::IpAddr;

use crate::error::Error;
use crate::ip::IpVersion;
use crate::message::{Message, Messages, Writer};
use crate::protocol::Generic;
use crate::socket::Socket;

#[cfg(test)]
pub(crate) use tests::read_back;

pub use read::{DestinationInfo, Info, ServiceInfo, Statistics};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;
const VERSION: u8 = 1;

const CMD_NEW_SERVICE: u8 = 1;
const CMD_SET_SERVICE: u8 = 2;
const CMD_DEL_SERVICE: u8 = 3;
const CMD_GET_SERVICE: u8 = 4;
const CMD_NEW_DEST: u8 = 5;
const CMD_SET_DEST: u8 = 6;
const CMD_DEL_DEST: u8 = 7;
const CMD_GET_DEST: u8 = 8;
const CMD_SET_CONFIG: u8 = 12;
const CMD_GET_CONFIG: u8 = 13;
const CMD_SET_INFO: u8 = 14;
const CMD_GET_INFO: u8 = 15;

const CMD_ATTR_SERVICE: u16 = 1;
const CMD_ATTR_DEST: u16 = 2;
const CMD_ATTR_TIMEOUT_TCP: u16 = 4;
const CMD_ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const CMD_ATTR_TIMEOUT_UDP: u16 = 6;

const SVC_ATTR_AF: u16 = 1;
const SVC_ATTR_PROTOCOL: u16 = 2;
const SVC_ATTR_ADDR: u16 = 3;
const SVC_ATTR_PORT: u16 = 4;
const SVC_ATTR_FWMARK: u16 = 5;
const SVC_ATTR_SCHED_NAME: u16 = 6;
const SVC_ATTR_FLAGS: u16 = 7;
const SVC_ATTR_TIMEOUT: u16 = 8;
const SVC_ATTR_NETMASK: u16 = 9;
const SVC_ATTR_PE_NAME: u16 = 11;

const DEST_ATTR_ADDR: u16 = 1;
const DEST_ATTR_PORT: u16 = 2;
const DEST_ATTR_FWD_METHOD: u16 = 3;
const DEST_ATTR_WEIGHT: u16 = 4;
const DEST_ATTR_U_THRESH: u16 = 5;
const DEST_ATTR_L_THRESH: u16 = 6;
const DEST_ATTR_ADDR_FAMILY: u16 = 11;

/// A client keeps its destination for a while.
pub const PERSISTENT: u32 = 0x1;
/// Each packet is scheduled by itself (UDP).
pub const ONE_PACKET: u32 = 0x4;
/// The scheduler's first flag.
pub const SCHED1: u32 = 0x8;
/// The scheduler's second flag.
pub const SCHED2: u32 = 0x10;
/// The scheduler's third flag.
pub const SCHED3: u32 = 0x20;
/// Scheduler `sh`: another destination when the hashed one has weight 0.
pub const SH_FALLBACK: u32 = SCHED1;
/// Scheduler `sh`: hash the port, too.
pub const SH_PORT: u32 = SCHED2;
/// Scheduler `mh`: another destination when the hashed one has weight 0.
pub const MH_FALLBACK: u32 = SCHED1;
/// Scheduler `mh`: hash the port, too.
pub const MH_PORT: u32 = SCHED2;
/// The kernel's own note that the service is in its table.
const HASHED: u32 = 0x2;

/// What tells a service from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// Packets to an address and a port.
    Address {
        /// Layer 4 protocol: TCP, UDP or SCTP.
        protocol: u8,
        /// The address.
        address: IpAddr,
        /// The port. Port 0, with persistence, is every port.
        port: u16,
    },
    /// Packets with a mark.
    Mark {
        /// The mark, not 0.
        mark: u32,
        /// The version of IP.
        version: IpVersion,
    },
}

impl ServiceKey {
    /// The version of IP of its packets.
    pub fn version(&self) -> IpVersion {
        match self {
            ServiceKey::Address { address, .. } => IpVersion::of(*address),
            ServiceKey::Mark { version, .. } => *version,
        }
    }
}

impl Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServiceKey::Address { protocol, address, port } => {
                let protocol = match i32::from(*protocol) {
                    libc::IPPROTO_TCP => "tcp",
                    libc::IPPROTO_UDP => "udp",
                    libc::IPPROTO_SCTP => "sctp",
                    _ => "?",
                };
                write!(f, "{protocol} {}", std::net::SocketAddr::new(*address, *port))
            }
            ServiceKey::Mark { mark, version: IpVersion::V4 } => write!(f, "mark {mark} (IPv4)"),
            ServiceKey::Mark { mark, version: IpVersion::V6 } => write!(f, "mark {mark} (IPv6)"),
        }
    }
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What tells it from all others.
    pub key: ServiceKey,
    /// The scheduler's name: `rr`, `wlc`, `mh` …
    pub scheduler: String,
    /// [`PERSISTENT`], [`ONE_PACKET`] and the scheduler's flags.
    pub flags: u32,
    /// With [`PERSISTENT`]: how long a client keeps its destination.
    pub timeout_s: u32,
    /// With [`PERSISTENT`]: clients that share this many leading bits of their address are one.
    pub client_prefix: u8,
    /// The persistence engine's name (`sip`), if there is one.
    pub engine: Option<String>,
}

impl Service {
    /// One without flags.
    pub fn new(key: ServiceKey, scheduler: &str) -> Self {
        Service {
            key,
            scheduler: scheduler.to_string(),
            flags: 0,
            timeout_s: 0,
            client_prefix: match key.version() {
                IpVersion::V4 => 32,
                IpVersion::V6 => 128,
            },
            engine: None,
        }
    }
}

/// A destination of a service: one real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its address.
    pub address: IpAddr,
    /// Its port; of a service by mark 0, which leaves the port as it is.
    pub port: u16,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// Its share; 0 gets no new connections.
    pub weight: u32,
    /// Gets no new ones from this many connections on; 0: no limit.
    pub upper_threshold: u32,
    /// Gets new ones again when it has fewer than this.
    pub lower_threshold: u32,
}

impl Destination {
    /// One that packets reach by address translation.
    pub fn new(address: IpAddr, port: u16, weight: u32) -> Self {
        let forwarding = Forwarding::Masquerade;
        Destination { address, port, forwarding, weight, upper_threshold: 0, lower_threshold: 0 }
    }
}

/// How packets reach a destination, the kernel's `IP_VS_CONN_F_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Address translation.
    Masquerade = 0,
    /// To this host itself.
    Local = 1,
    /// In a tunnel.
    Tunnel = 2,
    /// By the link's address.
    Route = 3,
    /// Past IPVS.
    Bypass = 4,
}

/// How long idle connections are kept. A 0, when set, leaves the time as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Of established TCP connections.
    pub tcp_s: u32,
    /// Of TCP connections after a FIN.
    pub tcp_fin_s: u32,
    /// Of UDP.
    pub udp_s: u32,
}

/// The kernel's IPVS in one network namespace.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket<Generic>,
    family: u16,
}

impl Ipvs {
    /// Finds the kernel's IPVS (the kernel loads its module if there is one), in this thread's
    /// network namespace. Where there is none, the error
    /// [`is_not_found`](Error::is_not_found) and says so.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::<Generic>::open()?;
        let header = [CTRL_CMD_GETFAMILY, VERSION, 0, 0];
        let mut request =
            Messages::one(GENL_ID_CTRL, 0, &header, |w| w.put_str(CTRL_ATTR_FAMILY_NAME, "IPVS"));
        let family = socket.get(&"find the kernel's IPVS", &mut request, |message| {
            message.attributes(HEADER).find(CTRL_ATTR_FAMILY_ID)?.ne16()
        });
        match family {
            Ok(family) => Ok(Ipvs { socket, family }),
            Err(error) if error.is_not_found() => Err(Error {
                doing: "find the kernel's IPVS (this kernel has none: module ip_vs)".to_string(),
                cause: error.cause,
            }),
            Err(error) => Err(error),
        }
    }

    /// An empty list of changes to send here.
    pub fn requests(&self) -> Requests {
        Requests { messages: Messages::new(), family: self.family }
    }

    /// Carries the changes out, in order. Those refused come back as [`Cause::Steps`](crate::error::Cause::Steps) and do not
    /// keep the others from being done.
    pub fn send(&mut self, doing: &dyn Display, requests: &mut Requests) -> Result<(), Error> {
        self.socket.pipeline(doing, &mut requests.messages)
    }

    /// What the kernel's IPVS is.
    pub fn info(&mut self) -> Result<Info, Error> {
        self.get(&"read what IPVS is", CMD_GET_INFO, |_| (), read::info)
    }

    /// How long idle connections are kept.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        self.get(&"read the IPVS timeouts", CMD_GET_CONFIG, |_| (), read::timeouts)
    }

    /// All services.
    pub fn services(&mut self) -> Result<Vec<ServiceInfo>, Error> {
        let mut request = Messages::one(self.family, 0, &header(CMD_GET_SERVICE), |_| ());
        self.socket.dump(&"list IPVS services", &mut request, |message| read::service(&message))
    }

    /// One service.
    pub fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Error> {
        let doing = format_args!("read IPVS service {key}");
        self.get(&doing, CMD_GET_SERVICE, |w| w.nest(CMD_ATTR_SERVICE, |w| put_key(w, key)), read::service)
    }

    /// The destinations of one service.
    pub fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<DestinationInfo>, Error> {
        let mut request = Messages::one(self.family, 0, &header(CMD_GET_DEST), |w| {
            w.nest(CMD_ATTR_SERVICE, |w| put_key(w, key));
        });
        let doing = format_args!("list destinations of IPVS service {key}");
        let version = key.version();
        self.socket.dump(&doing, &mut request, |message| read::destination(&message, version))
    }

    fn get<T>(
        &mut self,
        doing: &dyn Display,
        command: u8,
        write: impl FnOnce(&mut Writer<'_>),
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut request = Messages::one(self.family, 0, &header(command), write);
        self.socket.get(doing, &mut request, |message| read(&message))
    }
}

/// Changes to be sent together; see [`Ipvs::send`].
#[derive(Debug)]
pub struct Requests {
    messages: Messages<Generic>,
    family: u16,
}

impl Requests {
    /// How many: the index that the next one will have.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The messages as they would be sent, sequence numbers aside.
    pub fn as_bytes(&self) -> &[u8] {
        self.messages.as_bytes()
    }

    /// Forgets the changes and keeps the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Creates a service; refused if it is there. (Refused with "no such file" when the kernel
    /// has no such scheduler.)
    pub fn add_service(&mut self, service: &Service) {
        self.service(CMD_NEW_SERVICE, service);
    }

    /// Changes a service's scheduler, flags and persistence.
    pub fn set_service(&mut self, service: &Service) {
        self.service(CMD_SET_SERVICE, service);
    }

    /// Deletes a service with its destinations and connections.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        self.push(CMD_DEL_SERVICE, |w| w.nest(CMD_ATTR_SERVICE, |w| put_key(w, key)));
    }

    /// Adds a destination to a service; refused if it is there. (Refused as invalid, too, in a
    /// network namespace where no device has ever been up: without a table of local routes the
    /// kernel takes every address for a broadcast address, `ip_vs_new_dest`.)
    pub fn add_destination(&mut self, key: &ServiceKey, destination: &Destination) {
        self.destination(CMD_NEW_DEST, key, destination);
    }

    /// Changes a destination's weight, thresholds and forwarding.
    pub fn set_destination(&mut self, key: &ServiceKey, destination: &Destination) {
        self.destination(CMD_SET_DEST, key, destination);
    }

    /// Takes a destination from a service. Its connections end, or go to another at their next
    /// packet, as `expire_nodest_conn` says.
    pub fn delete_destination(&mut self, key: &ServiceKey, address: IpAddr, port: u16) {
        self.push(CMD_DEL_DEST, |w| {
            w.nest(CMD_ATTR_SERVICE, |w| put_key(w, key));
            w.nest(CMD_ATTR_DEST, |w| put_destination_key(w, address, port));
        });
    }

    /// Sets how long idle connections are kept.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.push(CMD_SET_CONFIG, |w| {
            w.put_ne32(CMD_ATTR_TIMEOUT_TCP, timeouts.tcp_s);
            w.put_ne32(CMD_ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin_s);
            w.put_ne32(CMD_ATTR_TIMEOUT_UDP, timeouts.udp_s);
        });
    }

    fn service(&mut self, command: u8, service: &Service) {
        self.push(command, |w| w.nest(CMD_ATTR_SERVICE, |w| put_service(w, service)));
    }

    fn destination(&mut self, command: u8, key: &ServiceKey, destination: &Destination) {
        self.push(command, |w| {
            w.nest(CMD_ATTR_SERVICE, |w| put_key(w, key));
            w.nest(CMD_ATTR_DEST, |w| {
                put_destination_key(w, destination.address, destination.port);
                w.put_ne32(DEST_ATTR_FWD_METHOD, destination.forwarding as u32);
                w.put_ne32(DEST_ATTR_WEIGHT, destination.weight);
                w.put_ne32(DEST_ATTR_U_THRESH, destination.upper_threshold);
                w.put_ne32(DEST_ATTR_L_THRESH, destination.lower_threshold);
            });
        });
    }

    fn push(&mut self, command: u8, write: impl FnOnce(&mut Writer<'_>)) {
        self.messages.push(self.family, 0, &header(command), write);
    }
}

fn header(command: u8) -> [u8; HEADER] {
    [command, VERSION, 0, 0]
}

/// Addresses are the 16 bytes of `union nf_inet_addr`, ports big-endian, all else in this
/// machine's byte order.
fn put_address(w: &mut Writer<'_>, kind: u16, address: IpAddr) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    w.put(kind, &bytes);
}

fn put_key(w: &mut Writer<'_>, key: &ServiceKey) {
    w.put_ne16(SVC_ATTR_AF, key.version().family().into());
    match key {
        ServiceKey::Address { protocol, address, port } => {
            w.put_ne16(SVC_ATTR_PROTOCOL, (*protocol).into());
            put_address(w, SVC_ATTR_ADDR, *address);
            w.put_be16(SVC_ATTR_PORT, *port);
        }
        ServiceKey::Mark { mark, .. } => w.put_ne32(SVC_ATTR_FWMARK, *mark),
    }
}

fn put_service(w: &mut Writer<'_>, service: &Service) {
    put_key(w, &service.key);
    w.put_str(SVC_ATTR_SCHED_NAME, &service.scheduler);
    if let Some(engine) = &service.engine {
        w.put_str(SVC_ATTR_PE_NAME, engine);
    }
    let mut flags = [0; 8];
    flags[..4].copy_from_slice(&service.flags.to_ne_bytes());
    // All the flags are meant, those that are not set too.
    flags[4..].copy_from_slice(&u32::MAX.to_ne_bytes());
    w.put(SVC_ATTR_FLAGS, &flags);
    w.put_ne32(SVC_ATTR_TIMEOUT, service.timeout_s);
    match service.key.version() {
        IpVersion::V4 => w.put_be32(SVC_ATTR_NETMASK, mask_of_prefix(service.client_prefix)),
        // For IPv6 it is the length of the prefix (`ip_vs_add_service`).
        IpVersion::V6 => w.put_ne32(SVC_ATTR_NETMASK, service.client_prefix.into()),
    }
}

fn mask_of_prefix(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn put_destination_key(w: &mut Writer<'_>, address: IpAddr, port: u16) {
    w.put_ne16(DEST_ATTR_ADDR_FAMILY, IpVersion::of(address).family().into());
    put_address(w, DEST_ATTR_ADDR, address);
    w.put_be16(DEST_ATTR_PORT, port);
}

/// Reads the message as each of our objects; see [`fuzz_parse`](crate::fuzz_parse).
pub(crate) fn fuzz(message: &Message<'_>) {
    let _ = (read::info(message), read::timeouts(message), read::service(message));
    let _ = (read::destination(message, IpVersion::V4), read::destination(message, IpVersion::V6));
}
