//! Accounts of who was answered how often, in bounded memory: a table in shards, each of two
//! generations. What is looked for moves to the young one; when that is full it becomes the old one,
//! and what nobody has looked for since is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that look at different accounts hardly ever wait for each other.
const SHARDS: usize = 16;
const NS_PER_S: u64 = 1_000_000_000;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// In a second, and so often at once.
    pub(super) per_s: u32,
    /// So long who goes on beyond it has to keep still.
    pub(super) window_s: u32,
}

/// Until when what has happened would have taken at the rate, by the hash of what it is about.
type Generation = HashMap<u64, u64>;

#[derive(Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

/// The accounts.
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    /// Nobody can find out who shares an account with whom.
    hasher: RandomState,
    /// Accounts in a generation of one shard.
    most: usize,
}

impl Table {
    /// One of so many accounts.
    pub(super) fn new(most: usize) -> Table {
        Table {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            most: (most / SHARDS / 2).max(1),
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let place = (hash >> 32) as usize % SHARDS;
        let [first, ..] = &self.shards;
        self.shards.get(place).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something may happen once more at this time, and books it.
    pub(super) fn book(&self, what: impl Hash, rate: Rate, now_ns: u64) -> bool {
        let hash = self.hasher.hash_one(what);
        // Times begin a second late, so that the second before the first one exists.
        let now = now_ns.saturating_add(NS_PER_S);
        let cost = NS_PER_S / u64::from(rate.per_s.max(1));
        let mut shard = self.shard(hash);
        let until = shard.young.get(&hash).or_else(|| shard.old.get(&hash)).copied().unwrap_or(0);
        // A second's worth is free for who has kept still.
        let until = until.max(now - NS_PER_S) + cost;
        let latest = now.saturating_add(u64::from(rate.window_s) * NS_PER_S);
        if shard.young.len() >= self.most && !shard.young.contains_key(&hash) {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(hash, until.min(latest));
        until <= now
    }

    /// How many accounts there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        (0..SHARDS)
            .map(|n| self.shard((n as u64) << 32))
            .map(|shard| shard.young.len() + shard.old.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_and_then_the_rate() {
        let table = Table::new(1000);
        let rate = Rate { per_s: 10, window_s: 5 };
        let book = |ms: u64| table.book("a", rate, ms * 1_000_000);
        let at_once = (0..100).filter(|_| book(0)).count();
        assert_eq!(at_once, 10);
        // What was too much counts, up to the window.
        assert!(!book(4900));
        assert!(book(9000));
        // At the rate, for ever.
        assert!((0..1000).all(|n| book(30_000 + n * 100)));
        assert!(table.book("b", rate, 0), "others have accounts of their own");
    }

    #[test]
    fn a_flood_of_strangers_takes_no_more_room() {
        let table = Table::new(3200);
        let rate = Rate { per_s: 1, window_s: 15 };
        for n in 0..100_000 {
            table.book(n, rate, n);
            if n % 50 == 0 {
                table.book("known", rate, n);
            }
        }
        assert!(table.len() <= 3200, "{}", table.len());
        assert!(!table.book("known", rate, 100_000), "who is seen often is not forgotten");
    }
}
