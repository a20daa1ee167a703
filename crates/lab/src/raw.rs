//! Packets made by hand, for what no socket would send: a segment out of nowhere, a forged
//! source, an SCTP INIT where the kernel has no SCTP. And seeing what arrives.
//!
//! Limits: no IPv4 options, no IPv6 extension headers, no fragments.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::config::Family;
use crate::error::{Doing, Error};
use crate::host::Host;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// A socket of this protocol sends packets whose IP header the caller has written.
const IPPROTO_RAW: i32 = 255;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const LIVES: u8 = 64;
const TCP_HEADER: usize = 20;
const TCP_WINDOW: u16 = 0xffff;
const SCTP_CHUNK_INIT: u8 = 1;
/// Longer than any packet on a link of the lab, offloaded segments included.
const PACKET_MAX: usize = 65_536;

/// A packet with ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it says it comes from.
    pub source: SocketAddr,
    /// Where it goes; of the same family.
    pub target: SocketAddr,
    /// The rest.
    pub body: Body,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment, without options.
    Tcp {
        /// [`TcpFlags`] added up.
        flags: u8,
        /// The number of its first byte.
        sequence: u32,
        /// The next byte expected from the other side.
        acknowledgement: u32,
        /// Its data.
        payload: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// Its data.
        payload: Vec<u8>,
    },
    /// An SCTP packet.
    Sctp {
        /// The tag the other side chose; 0 in a packet with an INIT.
        tag: u32,
        /// Its chunks.
        chunks: Vec<u8>,
    },
}

/// The flags of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub enum TcpFlags {}

impl TcpFlags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// The first segment of its direction.
    pub const SYN: u8 = 0x02;
    /// The end, in disorder.
    pub const RST: u8 = 0x04;
    /// Do not wait for more data.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement counts.
    pub const ACK: u8 = 0x10;
}

impl Body {
    /// The SCTP packet that asks for an association.
    pub fn sctp_init(initiate_tag: u32) -> Body {
        let mut chunks = vec![SCTP_CHUNK_INIT, 0, 0, 20];
        chunks.extend_from_slice(&initiate_tag.to_be_bytes());
        // Receive window, streams out and in, first transmission number.
        chunks.extend_from_slice(&65_536_u32.to_be_bytes());
        chunks.extend_from_slice(&[0, 1, 0, 1]);
        chunks.extend_from_slice(&initiate_tag.to_be_bytes());
        Body::Sctp { tag: 0, chunks }
    }

    fn protocol(&self) -> u8 {
        match self {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Sctp { .. } => SCTP,
        }
    }
}

impl Packet {
    /// The bytes from the IP header on, checksums included; `None` when source and target are of
    /// different families or there is too much data for a packet.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let segment = self.segment()?;
        let length = u16::try_from(segment.len()).ok()?;
        let mut bytes = Vec::with_capacity(IPV6_HEADER + segment.len());
        match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let total = length.checked_add(IPV4_HEADER as u16)?;
                bytes.extend_from_slice(&[0x45, 0]);
                bytes.extend_from_slice(&total.to_be_bytes());
                // No identification and checksum: the kernel fills both (`raw_send_hdrinc`).
                bytes.extend_from_slice(&[0, 0, 0, 0, LIVES, self.body.protocol(), 0, 0]);
                bytes.extend_from_slice(&source.octets());
                bytes.extend_from_slice(&target.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                bytes.extend_from_slice(&[0x60, 0, 0, 0]);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&[self.body.protocol(), LIVES]);
                bytes.extend_from_slice(&source.octets());
                bytes.extend_from_slice(&target.octets());
            }
            _ => return None,
        }
        bytes.extend_from_slice(&segment);
        Some(bytes)
    }

    fn segment(&self) -> Option<Vec<u8>> {
        let mut segment = Vec::new();
        segment.extend_from_slice(&self.source.port().to_be_bytes());
        segment.extend_from_slice(&self.target.port().to_be_bytes());
        let checksum_at = match &self.body {
            Body::Tcp { flags, sequence, acknowledgement, payload } => {
                segment.extend_from_slice(&sequence.to_be_bytes());
                segment.extend_from_slice(&acknowledgement.to_be_bytes());
                segment.extend_from_slice(&[(TCP_HEADER as u8 / 4) << 4, *flags]);
                segment.extend_from_slice(&TCP_WINDOW.to_be_bytes());
                segment.extend_from_slice(&[0; 4]);
                segment.extend_from_slice(payload);
                16
            }
            Body::Udp { payload } => {
                let length = u16::try_from(payload.len().checked_add(8)?).ok()?;
                segment.extend_from_slice(&length.to_be_bytes());
                segment.extend_from_slice(&[0; 2]);
                segment.extend_from_slice(payload);
                6
            }
            Body::Sctp { tag, chunks } => {
                segment.extend_from_slice(&tag.to_be_bytes());
                segment.extend_from_slice(&[0; 4]);
                segment.extend_from_slice(chunks);
                // Its checksum covers the packet alone, least byte first (RFC 9260, appendix A).
                let checksum = crc32c(&segment);
                segment.get_mut(8..12)?.copy_from_slice(&checksum.to_le_bytes());
                return Some(segment);
            }
        };
        let checksum = self.checksum(&segment)?;
        segment.get_mut(checksum_at..checksum_at + 2)?.copy_from_slice(&checksum.to_be_bytes());
        Some(segment)
    }

    /// The Internet checksum over the pseudo-header and the segment.
    fn checksum(&self, segment: &[u8]) -> Option<u16> {
        let mut bytes = Vec::with_capacity(IPV6_HEADER + segment.len());
        for address in [self.source.ip(), self.target.ip()] {
            match address {
                IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
            }
        }
        bytes.extend_from_slice(&u32::try_from(segment.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, self.body.protocol()]);
        bytes.extend_from_slice(segment);
        let words = bytes.chunks(2).map(|pair| match *pair {
            [high, low] => u64::from(u16::from_be_bytes([high, low])),
            [high] => u64::from(high) << 8,
            _ => 0,
        });
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Zero means "none" to UDP, and its complement is the same number.
        Some(match !(sum as u16) {
            0 if self.body.protocol() == UDP => 0xffff,
            other => other,
        })
    }

    /// Reads a packet from its IP header on; `None` when it is damaged or carries no ports.
    pub fn read(bytes: &[u8]) -> Option<Packet> {
        let (source, target, protocol, segment): (IpAddr, IpAddr, u8, &[u8]) = match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; IPV4_HEADER] = bytes.first_chunk()?;
                let [first, _, l0, l1, _, _, _, _, _, protocol, _, _, addresses @ ..] = *header;
                let [s0, s1, s2, s3, t0, t1, t2, t3] = addresses;
                let start = usize::from(first & 0xf) * 4;
                let segment = bytes.get(start..usize::from(u16::from_be_bytes([l0, l1])))?;
                let source = Ipv4Addr::new(s0, s1, s2, s3);
                (source.into(), Ipv4Addr::new(t0, t1, t2, t3).into(), protocol, segment)
            }
            6 => {
                let header: &[u8; IPV6_HEADER] = bytes.first_chunk()?;
                let [_, _, _, _, l0, l1, protocol, _, addresses @ ..] = header;
                let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
                let target = Ipv6Addr::from(*addresses.last_chunk::<16>()?);
                let length = usize::from(u16::from_be_bytes([*l0, *l1]));
                let segment = bytes.get(IPV6_HEADER..)?.get(..length)?;
                (source.into(), target.into(), *protocol, segment)
            }
            _ => return None,
        };
        let [s0, s1, t0, t1, rest @ ..] = segment else { return None };
        let source = SocketAddr::new(source, u16::from_be_bytes([*s0, *s1]));
        let target = SocketAddr::new(target, u16::from_be_bytes([*t0, *t1]));
        Some(Packet { source, target, body: read_body(protocol, rest)? })
    }
}

/// Reads what follows the ports.
fn read_body(protocol: u8, rest: &[u8]) -> Option<Body> {
    let word = |at: usize| rest.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    match protocol {
        TCP => {
            let data_offset = usize::from(rest.get(8)? >> 4) * 4;
            Some(Body::Tcp {
                flags: *rest.get(9)?,
                sequence: word(0)?,
                acknowledgement: word(4)?,
                payload: rest.get(data_offset.checked_sub(4)?..)?.to_vec(),
            })
        }
        UDP => Some(Body::Udp { payload: rest.get(4..)?.to_vec() }),
        SCTP => Some(Body::Sctp { tag: word(0)?, chunks: rest.get(8..)?.to_vec() }),
        _ => None,
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = register & 1;
            register = (register >> 1) ^ (0x82f6_3b78 * carry);
        }
    }
    !register
}

impl Host {
    /// Sends a packet as it is, whatever its source.
    ///
    /// # Errors
    /// When it cannot be built or the kernel knows no way for it.
    pub fn inject(&self, packet: &Packet) -> Result<(), Error> {
        let doing = || format!("inject a packet to {} on {}", packet.target, self.name());
        let bytes =
            packet.to_bytes().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from).doing(doing)?;
        let domain = if packet.target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let send = || {
            let socket = Socket::new(domain, Type::RAW, Some(IPPROTO_RAW.into()))?;
            // The port of a raw socket's address is a protocol, and has been said (`rawv6_sendmsg`).
            socket.send_to(&bytes, &SocketAddr::new(packet.target.ip(), 0).into())
        };
        self.run(send)?.map(drop).doing(doing)
    }

    /// Sees what arrives from now on, at any link, before any rule of this host.
    ///
    /// # Errors
    /// When there is no socket for it.
    pub fn sniff(&self, family: Family) -> Result<Sniffer, Error> {
        let protocol = if family == Family::V4 { ETH_P_IP } else { ETH_P_IPV6 };
        // Without the link's header. Of one protocol, which is how packets sent are not seen.
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(i32::from(protocol.to_be()).into()));
        let socket = self.run(open)?.doing(|| format!("sniff on {}", self.name()))?;
        Ok(Sniffer { socket })
    }
}

/// Sees what arrives at a host. What it is not asked for in time the kernel forgets.
#[derive(Debug)]
pub struct Sniffer {
    socket: Socket,
}

impl Sniffer {
    /// The next packet with ports that `wanted` wants, if it comes in time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Packet) -> bool,
    ) -> Result<Option<Packet>, Error> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left)).doing(|| "sniff")?;
            match self.socket.read(&mut buffer) {
                Ok(length) => {
                    let packet = Packet::read(buffer.get(..length).unwrap_or_default());
                    if let Some(packet) = packet.filter(|packet| wanted(packet)) {
                        return Ok(Some(packet));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::system("sniff", error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_read_back_as_written() {
        let bodies = [
            Body::Tcp { flags: TcpFlags::SYN, sequence: 1, acknowledgement: 2, payload: b"odd".to_vec() },
            Body::Udp { payload: vec![] },
            Body::sctp_init(7),
        ];
        for (source, target) in [("10.0.0.1:1", "10.0.0.2:65535"), ("[fd00::1]:1", "[fd00::2]:65535")] {
            for body in &bodies {
                let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
                let packet = Packet { source, target, body: body.clone() };
                let bytes = packet.to_bytes().unwrap();
                assert_eq!(Packet::read(&bytes), Some(packet));
                for cut in 0..bytes.len() {
                    assert_eq!(Packet::read(&bytes[..cut]), None, "cut at {cut}");
                }
            }
        }
        let mixed = ("10.0.0.1:1".parse().unwrap(), "[fd00::2]:1".parse().unwrap());
        let packet = Packet { source: mixed.0, target: mixed.1, body: Body::sctp_init(1) };
        assert_eq!(packet.to_bytes(), None);
    }

    /// The check value of the CRC's catalogue.
    #[test]
    fn crc32c_of_nine_digits() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
