//! Items as bytes in table elements, and back.
//!
//! Addresses, ports and pools are big-endian; our own numbers (which slot, where to go next) are in
//! this machine's order, as the rules' immediate values are.

use super::image::{Front, Inside, Jump, Key, Masquerading, Pick, Placement};
use super::steps::Element;
use crate::pool::{PoolId, Slot};
use crate::write::address_len;
use model::{Family, Prefix, Protocol};
use plan::At;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The most bytes that a key or value of ours has: an IPv6 source.
const BYTES_MAX: usize = 40;
/// Each part of a key begins at a multiple of this.
const PART: usize = 4;
/// How a jump's 32 bits are shared: the count below, the affinity's seconds above. A count of 0
/// means one of the others, by number.
const COUNT_BITS: u32 = 15;
/// The type of a comment in an element's user data, as `nft` knows it.
const ELEMENT_COMMENT: u8 = 0;
/// The longest comment: type, length, text and NUL fit the kernel's 256 bytes.
const COMMENT_MAX: usize = 200;

/// A key or a value, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes {
    bytes: [u8; BYTES_MAX],
    len: usize,
}

impl Bytes {
    fn new() -> Bytes {
        Bytes { bytes: [0; BYTES_MAX], len: 0 }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds one part, padded.
    fn part(mut self, part: &[u8]) -> Bytes {
        let end = self.len + part.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(part);
            self.len = end.next_multiple_of(PART);
        }
        self
    }

    fn address(self, ip: IpAddr) -> Bytes {
        match ip {
            IpAddr::V4(ip) => self.part(&ip.octets()),
            IpAddr::V6(ip) => self.part(&ip.octets()),
        }
    }

    fn key(self, key: &Key) -> Bytes {
        let protocol = [key.protocol.number()];
        match key.at {
            At::Address(ip, port) => self.address(ip).part(&protocol).part(&port.to_be_bytes()),
            At::NodePort(port) => self.part(&protocol).part(&port.to_be_bytes()),
        }
    }

    fn pool(self, pool: PoolId) -> Bytes {
        self.part(&pool.0.to_be_bytes())
    }

    fn slot(self, slot: &Slot) -> Bytes {
        self.number(0).address(slot.address).part(&slot.port.to_be_bytes())
    }

    fn number(self, number: u32) -> Bytes {
        self.part(&number.to_ne_bytes())
    }
}

/// One element as the kernel takes it.
pub(super) struct Spelled {
    pub(super) set: &'static str,
    /// For sources, whose set's name has it.
    pub(super) length: Option<u8>,
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
}

/// Spells an element.
pub(super) fn spell(element: &Element) -> Spelled {
    use super::ruleset::set;
    let plain = |set, key| Spelled { set, length: None, key, value: None };
    match element {
        Element::Frontend(key, front) => {
            let Front { label: _, pool, first, last, masquerading } = front;
            let value = Bytes::new().number(0).pool(*pool).number(jump_code(*first)).number(jump_code(*last));
            Spelled {
                set: Placement::of(key.at, false).map(),
                length: None,
                key: Bytes::new().key(key),
                value: Some(value.number(masquerading_code(*masquerading))),
            }
        }
        Element::Inside(key, inside) => {
            let Inside { pool, count, affinity_seconds } = *inside;
            let jump = jump_code(Jump::Pick { count, affinity_seconds });
            Spelled {
                set: Placement::of(key.at, true).map(),
                length: None,
                key: Bytes::new().key(key),
                value: Some(Bytes::new().number(0).pool(pool).number(jump)),
            }
        }
        Element::Slot(pool, index, slot) => Spelled {
            set: set::SLOTS,
            length: None,
            key: Bytes::new().pool(*pool).number(*index),
            value: Some(Bytes::new().slot(slot)),
        },
        Element::Living(pool, slot) => plain(set::LIVING, Bytes::new().pool(*pool).slot(slot)),
        Element::Near(ip) => plain(set::NEAR, Bytes::new().address(*ip).address(*ip)),
        Element::ClusterIp(ip) => plain(set::CLUSTER_IPS, Bytes::new().address(*ip)),
        Element::Source(key, network) => Spelled {
            set: "sources",
            length: Some(network.length()),
            key: Bytes::new().key(key).address(network.network()),
            value: None,
        },
        Element::Owned(key) => plain(set::OWNED, Bytes::new().key(key)),
        Element::Earlier(number, value, _) => Spelled {
            set: set::EARLIER,
            length: None,
            key: Bytes::new().number(*number),
            value: Some(Bytes::new().number(*value)),
        },
    }
}

/// The comment that an element carries: whose it is.
pub(super) fn label_userdata(label: &str, into: &mut Vec<u8>) {
    into.clear();
    let text = (0..=COMMENT_MAX).rev().find_map(|end| label.get(..end)).unwrap_or(label);
    into.extend([ELEMENT_COMMENT, (text.len() + 1) as u8]);
    into.extend(text.as_bytes());
    into.push(0);
}

fn read_label(userdata: &[u8]) -> Arc<str> {
    let text = match userdata {
        [ELEMENT_COMMENT, len, rest @ ..] => rest.get(..usize::from(*len).saturating_sub(1)),
        _ => None,
    };
    Arc::from(text.and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default())
}

/// Where to go next, in 32 bits.
pub(super) fn jump_code(jump: Jump) -> u32 {
    match jump {
        Jump::Pick { count, affinity_seconds } => count | affinity_seconds << COUNT_BITS,
        Jump::Reject => 1 << COUNT_BITS,
        Jump::Drop => 2 << COUNT_BITS,
        Jump::Sources => 3 << COUNT_BITS,
        Jump::Inside => 4 << COUNT_BITS,
        Jump::Ipvs => 5 << COUNT_BITS,
    }
}

pub(super) fn read_jump(code: u32) -> Option<Jump> {
    let (count, rest) = (code & ((1 << COUNT_BITS) - 1), code >> COUNT_BITS);
    Some(match (count, rest) {
        (0, 1) => Jump::Reject,
        (0, 2) => Jump::Drop,
        (0, 3) => Jump::Sources,
        (0, 4) => Jump::Inside,
        (0, 5) => Jump::Ipvs,
        (0, _) => return None,
        (count, affinity_seconds) => Jump::Pick { count, affinity_seconds },
    })
}

pub(super) fn pick_code(pick: &Pick) -> u32 {
    jump_code(Jump::Pick { count: pick.count, affinity_seconds: pick.affinity_seconds })
}

pub(super) fn masquerading_code(masquerading: Masquerading) -> u32 {
    match masquerading {
        Masquerading::Never => 0,
        Masquerading::OffCluster => 1,
        Masquerading::Always => 2,
        Masquerading::Node => 3,
    }
}

fn read_masquerading(code: u32) -> Option<Masquerading> {
    use Masquerading::{Always, Never, Node, OffCluster};
    [Never, OffCluster, Always, Node].into_iter().find(|m| masquerading_code(*m) == code)
}

/// Reads parts off the front of a key or a value.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let part = self.rest.get(..len)?;
        self.rest = self.rest.get(len.next_multiple_of(PART)..).unwrap_or_default();
        Some(part)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        let bytes = self.take(address_len(family))?;
        Some(match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        Protocol::from_number(*self.take(1)?.first()?)
    }

    fn port(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn pool(&mut self) -> Option<PoolId> {
        Some(PoolId(u64::from_be_bytes(self.take(8)?.try_into().ok()?)))
    }

    fn slot(&mut self, family: Family) -> Option<Slot> {
        self.number()?;
        Some(Slot { address: self.address(family)?, port: self.port()? })
    }

    fn address_key(&mut self, family: Family) -> Option<Key> {
        let ip = self.address(family)?;
        let protocol = self.protocol()?;
        Some(Key { at: At::Address(ip, self.port()?), protocol })
    }

    fn node_key(&mut self) -> Option<Key> {
        let protocol = self.protocol()?;
        Some(Key { at: At::NodePort(self.port()?), protocol })
    }

    fn key(&mut self, placement: Placement, family: Family) -> Option<Key> {
        match placement {
            Placement::Address | Placement::AddressInside => self.address_key(family),
            Placement::Node | Placement::NodeInside => self.node_key(),
        }
    }
}

fn reader(rest: &[u8]) -> Reader<'_> {
    Reader { rest }
}

/// Reads a frontend; `None` for what we did not write.
pub(super) fn read_front(
    placement: Placement,
    family: Family,
    key: &[u8],
    value: &[u8],
    userdata: &[u8],
) -> Option<(Key, Front)> {
    let key = reader(key).key(placement, family)?;
    let mut value = reader(value);
    value.number()?;
    let front = Front {
        label: read_label(userdata),
        pool: value.pool()?,
        first: read_jump(value.number()?)?,
        last: read_jump(value.number()?)?,
        masquerading: read_masquerading(value.number()?)?,
    };
    Some((key, front))
}

/// Reads a short circuit.
pub(super) fn read_inside(
    placement: Placement,
    family: Family,
    key: &[u8],
    value: &[u8],
) -> Option<(Key, Inside)> {
    let key = reader(key).key(placement, family)?;
    let mut value = reader(value);
    value.number()?;
    let pool = value.pool()?;
    match read_jump(value.number()?)? {
        Jump::Pick { count, affinity_seconds } => Some((key, Inside { pool, count, affinity_seconds })),
        _ => None,
    }
}

/// Reads a place in a pool.
pub(super) fn read_slot(family: Family, key: &[u8], value: &[u8]) -> Option<(PoolId, u32, Slot)> {
    let mut key = reader(key);
    Some((key.pool()?, key.number()?, reader(value).slot(family)?))
}

/// Reads a living backend.
pub(super) fn read_living(family: Family, key: &[u8]) -> Option<(PoolId, Slot)> {
    let mut key = reader(key);
    Some((key.pool()?, key.slot(family)?))
}

/// Reads the first address of a key.
pub(super) fn read_address(family: Family, key: &[u8]) -> Option<IpAddr> {
    reader(key).address(family)
}

/// Reads a virtual server.
pub(super) fn read_owned(family: Family, key: &[u8]) -> Option<Key> {
    reader(key).address_key(family)
}

/// Reads how a switch stood.
pub(super) fn read_earlier(key: &[u8], value: &[u8]) -> Option<(u32, u32)> {
    Some((reader(key).number()?, reader(value).number()?))
}

/// Reads a source network of this length.
pub(super) fn read_source(family: Family, length: u8, key: &[u8]) -> Option<(Key, Prefix)> {
    let mut key = reader(key);
    let at = key.address_key(family)?;
    Some((at, Prefix::new(key.address(family)?, length)?))
}

/// Reads the code of a pick.
pub(super) fn read_pick(placement: Placement, key: &[u8]) -> Option<Pick> {
    match read_jump(reader(key).number()?)? {
        Jump::Pick { count, affinity_seconds } => Some(Pick { placement, count, affinity_seconds }),
        _ => None,
    }
}
