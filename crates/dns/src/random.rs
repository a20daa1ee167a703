//! Random numbers: quick ones ([`number`], [`below`], [`fraction`]) for what may be guessed, such as the
//! order of addresses, and those that nobody can guess ([`bytes`], [`u16`]), such as the
//! numbers of upstream queries.

use rustls::crypto::SecureRandom;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish() | 1);
}

/// The next number of this thread: xorshift64* (Vigna, 2014).
pub(crate) fn number() -> u64 {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// A number below `end`; 0 where there is none.
pub(crate) fn below(end: usize) -> usize {
    // The bias is one in 2^32 for ends as small as ours.
    (((number() >> 32) * end as u64) >> 32) as usize
}

/// A number between 0 and 1.
pub(crate) fn fraction() -> f64 {
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

/// So many bytes are taken from the kernel at once.
const BYTES_AT_ONCE: usize = 256;

thread_local! {
    static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Some bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    LEFT.with_borrow_mut(|left| {
        if left.len() < N {
            *left = fresh();
        }
        let mut bytes = [0; N];
        for (into, byte) in bytes.iter_mut().zip(left.drain(left.len().saturating_sub(N)..)) {
            *into = byte;
        }
        bytes
    })
}

fn fresh() -> Vec<u8> {
    let mut bytes = vec![0; BYTES_AT_ONCE];
    let source: &dyn SecureRandom = rustls::crypto::ring::default_provider().secure_random;
    if source.fill(&mut bytes).is_err() {
        // A kernel that gives none is older than any that we run on; what remains is to be different.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        for (into, byte) in bytes.iter_mut().zip(now.to_le_bytes().iter().cycle()) {
            *into = *byte;
        }
    }
    bytes
}

/// A number of a query.
pub(crate) fn u16() -> u16 {
    u16::from_le_bytes(bytes())
}

/// A large number that nobody can guess.
pub(crate) fn u64() -> u64 {
    u64::from_le_bytes(bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_keep_below() {
        let some: std::collections::BTreeSet<u64> = (0..1000).map(|_| u64()).collect();
        assert_eq!(some.len(), 1000);
        let low: std::collections::BTreeSet<usize> = (0..200).map(|_| below(3)).collect();
        assert_eq!(low.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(below(0), 0);
    }
}
