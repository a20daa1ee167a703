//! A table of which old and new versions share all but what changed.
//!
//! Items lie in a fixed number of short sorted lists. A new version copies the list of lists and the
//! lists that change; readers of the old version notice nothing. A look-up in a large table waits for
//! memory and for little else, so a list lies right behind the pointer to it.

use std::iter::once;
use std::sync::Arc;

/// How many lists: with 20,000 Services each has 20, with 200,000 endpoints 200.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;

/// Something that lies in a table.
pub(crate) trait Item: Clone {
    /// What it is found by. Several items may have the same key.
    type Key: Copy + Ord;

    /// Its key.
    fn key(&self) -> Self::Key;

    /// A number that is spread evenly, the same for equal keys.
    fn spread(key: Self::Key) -> u32;
}

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct Shards<T>(Arc<[Arc<[T]>]>);

impl<T: Item> Default for Shards<T> {
    fn default() -> Self {
        let empty = Arc::default();
        Shards(vec![empty; SHARDS].into())
    }
}

fn index<T: Item>(key: T::Key) -> usize {
    (T::spread(key) >> (32 - SHARD_BITS)) as usize
}

impl<T: Item> Shards<T> {
    /// The items of a key.
    pub(crate) fn get(&self, key: T::Key) -> &[T] {
        let Some(items) = self.0.get(index::<T>(key)) else { return &[] };
        let start = items.partition_point(|item| item.key() < key);
        let items = items.get(start..).unwrap_or_default();
        // Mostly there is one, or none.
        let count = items.iter().take_while(|item| item.key() == key).count();
        items.get(..count).unwrap_or_default()
    }

    /// Adds an item.
    pub(crate) fn insert(&mut self, item: T) {
        let key = item.key();
        if let Some(items) = Arc::make_mut(&mut self.0).get_mut(index::<T>(key)) {
            let (before, after) = items.split_at(items.partition_point(|other| other.key() <= key));
            *items = before.iter().cloned().chain(once(item)).chain(after.iter().cloned()).collect();
        }
    }

    /// Takes away those items of a key that are wanted no more.
    pub(crate) fn remove(&mut self, key: T::Key, gone: impl Fn(&T) -> bool) {
        if !self.get(key).iter().any(&gone) {
            return;
        }
        if let Some(items) = Arc::make_mut(&mut self.0).get_mut(index::<T>(key)) {
            *items = items.iter().filter(|item| item.key() != key || !gone(item)).cloned().collect();
        }
    }

    /// All items.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|items| items.iter())
    }
}

/// Mixes a number until all of its bits depend on all of them (MurmurHash3's `fmix32`).
pub(crate) fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for (u32, u8) {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }

        fn spread(key: u32) -> u32 {
            mix(key)
        }
    }

    #[test]
    fn versions_stand_side_by_side() {
        let mut table: Shards<(u32, u8)> = Shards::default();
        for key in 0..5000 {
            table.insert((key, 1));
        }
        let before = table.clone();
        table.insert((7, 2));
        table.remove(9, |_| true);
        table.remove(7, |item| item.1 == 1);
        assert_eq!((before.get(7), before.get(9)), (&[(7, 1)][..], &[(9, 1)][..]));
        assert_eq!((table.get(7), table.get(9)), (&[(7, 2)][..], &[][..]));
        assert_eq!((before.iter().count(), table.iter().count()), (5000, 4999));
        let shared = before.0.iter().zip(table.0.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "{shared} lists are shared");
    }
}
