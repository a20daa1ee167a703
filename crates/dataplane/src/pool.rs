//! How a pool of backends is called in kernel tables, and how its slots change hands.

use plan::{Backend, PoolKind};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A pool's name in kernel tables: the first 64 bits of a SHA-256 of what it belongs to.
///
/// It is derived, not given out, so that a process that starts finds the pools of the one before,
/// and the tables depend on nothing but the plan. (Two of 200,000 pools share one with a chance of
/// one in 10⁹; to aim at another's takes 2⁶⁴ tries.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u64);

impl PoolId {
    /// The pool of one port of a Service.
    pub fn of(port: &model::PortName, kind: PoolKind) -> PoolId {
        let kind = match kind {
            PoolKind::Cluster => "cluster",
            PoolKind::Local => "local",
        };
        let mut hash = Sha256::new();
        for part in [&*port.service.namespace, &*port.service.name, &*port.port, kind] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(port.number.to_be_bytes());
        hash.update([port.protocol.number()]);
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        PoolId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One place in a pool: where a connection goes that drew its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The backend's address.
    pub address: IpAddr,
    /// The backend's port.
    pub port: u16,
}

impl Slot {
    /// A place that nobody sits in: where an element is missing among those read from the kernel.
    pub const HOLE: Slot = Slot { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0 };

    /// Whether nobody sits here.
    pub fn is_hole(&self) -> bool {
        *self == Slot::HOLE
    }
}

impl From<&Backend> for Slot {
    fn from(backend: &Backend) -> Slot {
        Slot { address: backend.address, port: backend.port }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::new(self.address, self.port), f)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who sits where after a change, moving as few as possible: who stays keeps its number if that is
/// still in use, newcomers and those from the end take the places of those who left.
pub(crate) fn reseat(has: &[Slot], wants: &[Slot]) -> Vec<Slot> {
    use std::collections::HashSet;
    let wanted: HashSet<&Slot> = wants.iter().collect();
    let seated: HashSet<&Slot> = has.iter().take(wants.len()).filter(|s| wanted.contains(s)).collect();
    let mut waiting = wants.iter().filter(|s| !seated.contains(s));
    let mut taken = HashSet::new();
    (0..wants.len())
        .filter_map(|index| match has.get(index) {
            // A table that somebody else wrote may hold a backend twice; the second seat is free.
            Some(slot) if wanted.contains(slot) && taken.insert(*slot) => Some(*slot),
            _ => waiting.next().copied(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(numbers: &[u8]) -> Vec<Slot> {
        numbers.iter().map(|n| Slot { address: IpAddr::from([10, 0, 0, *n]), port: 80 }).collect()
    }

    #[test]
    fn few_move() {
        let cases: [(&[u8], &[u8], &[u8]); 6] = [
            (&[], &[1, 2], &[1, 2]),
            (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 3, 4], &[1, 4, 3]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1, 1, 3], &[1, 3], &[1, 3]),
        ];
        for (has, wants, after) in cases {
            assert_eq!(reseat(&slots(has), &slots(wants)), slots(after), "{has:?} -> {wants:?}");
        }
    }

    proptest! {
        #[test]
        fn everybody_has_one_seat(
            has in proptest::collection::vec(0u8..9, 0..8),
            wants in proptest::collection::btree_set(0u8..9, 0..8),
        ) {
            let wants = slots(&wants.into_iter().collect::<Vec<_>>());
            let mut after = reseat(&slots(&has), &wants);
            after.sort_unstable();
            prop_assert_eq!(after, wants);
        }
    }
}
