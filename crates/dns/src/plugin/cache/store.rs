//! Where answers are kept: many small tables, each behind a lock of its own that is held for a look.
//!
//! A table is bounded in entries and in bytes. When it is full, the one of a few at random that has
//! not been asked for longest goes, an expired one first: nearly the least recently used, without a
//! list to keep.

use super::entry::{Entry, Key};
use crate::random;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many tables, a power of two.
const SHARDS: usize = 64;
/// The least capacity (CoreDNS' `pkg/cache`: four in each of 256).
const CAPACITY_MIN: usize = 1024;
/// What an entry may take on the average.
const ENTRY_BYTES_MEAN: usize = 1024;
/// From so many the victim is chosen.
const CANDIDATES: usize = 5;

/// What kind of answer an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Success,
    Denial,
}

impl Kind {
    /// Both.
    pub(super) const ALL: [Kind; 2] = [Kind::Success, Kind::Denial];

    /// Its name in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Success => "success",
            Kind::Denial => "denial",
        }
    }
}

/// Entries of one kind in one shard.
#[derive(Default)]
struct Table {
    /// Places in `entries`.
    index: HashTable<usize>,
    entries: Vec<(u64, Arc<Entry>)>,
    bytes: usize,
}

/// Both tables of a shard: one lock for a look into both.
#[derive(Default)]
struct Shard {
    success: Table,
    denial: Table,
}

impl Shard {
    fn table(&mut self, kind: Kind) -> &mut Table {
        match kind {
            Kind::Success => &mut self.success,
            Kind::Denial => &mut self.denial,
        }
    }
}

/// Everything.
pub(super) struct Store {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    /// For success and denial: how many entries a table has at most.
    capacity: [usize; 2],
    counts: [AtomicUsize; 2],
}

impl Store {
    pub(super) fn new(success: usize, denial: usize) -> Store {
        let capacity = [success, denial].map(|capacity| capacity.max(CAPACITY_MIN) / SHARDS);
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Store { hasher: RandomState::new(), shards, capacity, counts: Default::default() }
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Shard>> {
        // The low bits are the table's.
        self.shards.get((hash >> 48) as usize & (SHARDS - 1))
    }

    /// What is kept of a key: a success and a denial.
    pub(super) fn get(&self, key: &Key) -> [Option<Arc<Entry>>; 2] {
        let hash = self.hasher.hash_one(key.as_bytes());
        let Some(shard) = self.shard(hash) else { return [None, None] };
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        [shard.success.get(hash, key), shard.denial.get(hash, key)]
    }

    /// Keeps an entry. Says how many had to go for it.
    pub(super) fn put(&self, kind: Kind, entry: Arc<Entry>, now: Instant) -> usize {
        let hash = self.hasher.hash_one(entry.key.as_bytes());
        let Some(shard) = self.shard(hash) else { return 0 };
        let [success, denial] = self.capacity;
        let capacity = if kind == Kind::Success { success } else { denial };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let table = shard.table(kind);
        let before = table.entries.len();
        table.put(hash, entry);
        let mut evicted = 0;
        while table.entries.len() > 1
            && (table.entries.len() > capacity || table.bytes > capacity * ENTRY_BYTES_MEAN)
        {
            table.evict(now);
            evicted += 1;
        }
        let after = table.entries.len();
        drop(shard);
        self.count(kind, before, after);
        evicted
    }

    /// Forgets a key.
    pub(super) fn remove(&self, kind: Kind, key: &Key) {
        let hash = self.hasher.hash_one(key.as_bytes());
        let Some(shard) = self.shard(hash) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let table = shard.table(kind);
        let before = table.entries.len();
        if let Some(at) = table.find(hash, key) {
            table.remove(at);
        }
        let after = table.entries.len();
        drop(shard);
        self.count(kind, before, after);
    }

    /// Forgets what has expired so long ago, in one of the shards.
    pub(super) fn tidy(&self, shard: usize, now: Instant, stale: Duration) {
        let Some(shard) = self.shards.get(shard % SHARDS) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in Kind::ALL {
            let table = shard.table(kind);
            let before = table.entries.len();
            let mut at = 0;
            while let Some((_, entry)) = table.entries.get(at) {
                if entry.is_over(now, stale) {
                    table.remove(at);
                } else {
                    at += 1;
                }
            }
            self.count(kind, before, table.entries.len());
        }
    }

    fn count(&self, kind: Kind, before: usize, after: usize) {
        let [success, denial] = &self.counts;
        let count = if kind == Kind::Success { success } else { denial };
        // Wraps both ways and so comes out right.
        count.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// How many successes and denials there are.
    pub(super) fn counts(&self) -> [usize; 2] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Table {
    fn get(&self, hash: u64, key: &Key) -> Option<Arc<Entry>> {
        self.find(hash, key).and_then(|at| self.entries.get(at)).map(|(_, entry)| entry.clone())
    }

    fn find(&self, hash: u64, key: &Key) -> Option<usize> {
        let is = |at: &usize| self.entries.get(*at).is_some_and(|(_, entry)| entry.key == *key);
        self.index.find(hash, is).copied()
    }

    fn put(&mut self, hash: u64, entry: Arc<Entry>) {
        self.bytes += entry.bytes();
        let same = |at: &usize| self.entries.get(*at).is_some_and(|(_, old)| old.key == entry.key);
        if let Some(at) = self.index.find(hash, same).copied() {
            if let Some(old) = self.entries.get_mut(at) {
                self.bytes = self.bytes.saturating_sub(old.1.bytes());
                old.1 = entry;
            }
            return;
        }
        let entries = &mut self.entries;
        entries.push((hash, entry));
        let hash_of = |at: &usize| entries.get(*at).map_or(0, |(hash, _)| *hash);
        self.index.insert_unique(hash, entries.len() - 1, hash_of);
    }

    fn remove(&mut self, at: usize) {
        let Some((hash, entry)) = self.entries.get(at) else { return };
        self.bytes = self.bytes.saturating_sub(entry.bytes());
        if let Ok(place) = self.index.find_entry(*hash, |place| *place == at) {
            place.remove();
        }
        // The last one takes the place.
        let last = self.entries.len() - 1;
        if let Some((hash, _)) = self.entries.get(last).filter(|_| last != at)
            && let Some(place) = self.index.find_mut(*hash, |place| *place == last)
        {
            *place = at;
        }
        self.entries.swap_remove(at);
    }

    /// Makes room. The newest, which is the last, stays.
    fn evict(&mut self, now: Instant) {
        let candidates = (0..CANDIDATES).map(|_| random::below(self.entries.len().saturating_sub(1)));
        let worst = candidates.min_by_key(|at| {
            let entry = self.entries.get(*at).map(|(_, entry)| entry);
            entry.map(|entry| (entry.seconds_left(now) > 0, entry.last_used()))
        });
        if let Some(at) = worst {
            self.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Owner, Reply, Section, Type};

    fn key(name: &str) -> Key {
        let question = wire::Question { name: name.parse().unwrap(), rtype: Type::A, class: wire::Class::IN };
        Key::new(&question, false, false)
    }

    fn entry(name: &str, bytes: usize, now: Instant) -> Arc<Entry> {
        let mut reply = Reply::default();
        reply.push(Section::Answer, Owner::QUESTION, Type::NULL, 30, &vec![0; bytes]);
        Arc::new(Entry::new(key(name), &reply, 30, now))
    }

    #[test]
    fn entries_come_and_go_and_the_counts_with_them() {
        let now = Instant::now();
        let store = Store::new(1024, 1024);
        for number in 0..500 {
            store.put(Kind::Success, entry(&format!("n{number}"), 4, now), now);
        }
        store.put(Kind::Success, entry("n7", 9, now), now);
        store.put(Kind::Denial, entry("n7", 9, now), now);
        let [success, denial] = store.counts();
        assert_eq!(denial, 1);
        assert!((400..=500).contains(&success), "{success}");
        let key = key("n7");
        assert!(store.get(&key).iter().all(Option::is_some));
        store.remove(Kind::Success, &key);
        assert!(store.get(&key)[0].is_none());
        let later = now + Duration::from_secs(31);
        (0..SHARDS).for_each(|shard| store.tidy(shard, later, Duration::from_secs(5)));
        assert_ne!(store.counts(), [0, 0], "stale ones are kept");
        (0..SHARDS).for_each(|shard| store.tidy(shard, later, Duration::ZERO));
        assert_eq!(store.counts(), [0, 0]);
        for shard in &store.shards {
            let shard = shard.lock().unwrap();
            assert_eq!((shard.success.bytes, shard.success.index.len()), (0, 0));
        }
    }

    #[test]
    fn bounded_in_entries_and_in_bytes() {
        let now = Instant::now();
        for (bytes, entries_max) in [(4, 1024), (3000, 400)] {
            let store = Store::new(0, 0);
            let mut evicted = 0;
            for number in 0..5000 {
                evicted += store.put(Kind::Success, entry(&format!("n{number}"), bytes, now), now);
            }
            let [count, _] = store.counts();
            assert_eq!(count + evicted, 5000);
            assert!(count <= entries_max, "{count}");
            let all: usize = store.shards.iter().map(|shard| shard.lock().unwrap().success.bytes).sum();
            assert!(all <= CAPACITY_MIN * ENTRY_BYTES_MEAN + SHARDS * 4096, "{all}");
        }
    }

    #[test]
    fn what_is_asked_for_stays() {
        let now = Instant::now();
        let store = Store::new(0, 0);
        let hot: Vec<Key> = (0..32)
            .map(|number| {
                let name = format!("hot{number}");
                store.put(Kind::Success, entry(&name, 4, now), now);
                key(&name)
            })
            .collect();
        for number in 0..4000_u64 {
            let now = now + Duration::from_millis(number);
            store.put(Kind::Success, entry(&format!("n{number}"), 4, now), now);
            for key in &hot {
                if let [Some(entry), _] = store.get(key) {
                    entry.use_at(now);
                }
            }
        }
        let kept = hot.iter().filter(|key| store.get(key)[0].is_some()).count();
        assert!(kept >= 30, "{kept} of 32");
    }
}
