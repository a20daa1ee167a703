//! Random numbers that nobody must guess right for anything to go wrong: the order of addresses,
//! jitter. (What an attacker must not guess, such as ports and numbers of upstream queries, is not
//! made of these.)

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

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
