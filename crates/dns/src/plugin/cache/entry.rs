//! One answer that is kept, and under which key.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use wire::{Question, Reply};

/// What answers are kept under: name without case, type, class, and the bits DO and CD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    length: u16,
    bytes: [u8; 260],
}

impl Key {
    pub(super) fn new(question: &Question, dnssec_ok: bool, checking_disabled: bool) -> Key {
        let mut key = Key { length: 5, bytes: [0; 260] };
        let name = question.name.as_bytes();
        let [type_high, type_low] = question.rtype.0.to_be_bytes();
        let [class_high, class_low] = question.class.0.to_be_bytes();
        let bits = u8::from(dnssec_ok) << 1 | u8::from(checking_disabled);
        let head = [bits, type_high, type_low, class_high, class_low];
        for (into, byte) in key.bytes.iter_mut().zip(head.iter().chain(name)) {
            *into = byte.to_ascii_lowercase();
        }
        // The head is no text.
        for (into, byte) in key.bytes.iter_mut().zip(head) {
            *into = byte;
        }
        key.length = u16::try_from(head.len() + name.len()).unwrap_or(5);
        key
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// The key as it is kept, without what it does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptKey(Box<[u8]>);

impl KeptKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<Key> for KeptKey {
    fn eq(&self, key: &Key) -> bool {
        *self.0 == *key.as_bytes()
    }
}

/// An answer.
pub(super) struct Entry {
    pub(super) key: KeptKey,
    pub(super) reply: Reply,
    /// It answers its question, rather than point somewhere else or deny.
    pub(super) answering: bool,
    /// The last that did, where this one does not (`serve_stale_policy prefer_positive`).
    pub(super) last_good: Option<Arc<Entry>>,
    /// For how many seconds it is good.
    pub(super) ttl: u32,
    pub(super) stored: Instant,
    /// Milliseconds after `stored` at which it was asked for last.
    used_ms: AtomicU64,
    hits: AtomicU32,
    refreshing: AtomicBool,
    /// Milliseconds after `stored` before which no refresh is tried again.
    retry_ms: AtomicU64,
    bytes: OnceLock<usize>,
}

impl Entry {
    pub(super) fn new(key: Key, reply: &Reply, ttl: u32, now: Instant) -> Entry {
        Entry {
            key: KeptKey(key.as_bytes().into()),
            reply: reply.to_kept(),
            answering: false,
            last_good: None,
            ttl,
            stored: now,
            used_ms: AtomicU64::new(0),
            hits: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
            retry_ms: AtomicU64::new(0),
            bytes: OnceLock::new(),
        }
    }

    /// How much memory it takes, with what it holds on to.
    pub(super) fn bytes(&self) -> usize {
        *self.bytes.get_or_init(|| {
            let good = self.last_good.as_ref().map_or(0, |good| good.bytes());
            size_of::<Entry>() + self.key.0.len() + self.reply.footprint() + good
        })
    }

    /// How many seconds it is still good for; below zero when it no longer is.
    pub(super) fn seconds_left(&self, now: Instant) -> i64 {
        let age = now.saturating_duration_since(self.stored).as_secs();
        i64::from(self.ttl) - i64::try_from(age).unwrap_or(i64::MAX)
    }

    /// Whether it may still be given, where stale ones may be for so long.
    pub(super) fn is_usable(&self, now: Instant, stale: Duration) -> bool {
        let left = self.seconds_left(now);
        left > 0 || -left < i64::try_from(stale.as_secs()).unwrap_or(i64::MAX)
    }

    /// Whether nobody can have a use for it.
    pub(super) fn is_over(&self, now: Instant, stale: Duration) -> bool {
        !self.is_usable(now, stale)
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.stored).as_millis()).unwrap_or(u64::MAX)
    }

    /// It was asked for.
    pub(super) fn use_at(&self, now: Instant) {
        let now = self.milliseconds(now);
        // Most are asked for again at once, and need not be written again.
        if self.used_ms.load(Ordering::Relaxed) != now {
            self.used_ms.store(now, Ordering::Relaxed);
        }
    }

    /// When it was asked for last.
    pub(super) fn last_used(&self) -> Instant {
        self.stored + Duration::from_millis(self.used_ms.load(Ordering::Relaxed))
    }

    /// Counts a hit; those that lie farther apart than `period` begin anew. To be called before
    /// [`Entry::use_at`].
    pub(super) fn hit(&self, now: Instant, period: Duration) -> u32 {
        let rare = now.saturating_duration_since(self.last_used()) > period;
        if rare {
            self.hits.store(1, Ordering::Relaxed);
            return 1;
        }
        self.hits.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes over how often another was asked for.
    pub(super) fn inherit_hits(&self, other: &Entry) {
        self.hits.store(other.hits.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether whoever asks may refresh it: nobody else does, and it has not failed just now.
    pub(super) fn begin_refresh(&self, now: Instant, recheck: Duration) -> bool {
        if !recheck.is_zero() && self.milliseconds(now) < self.retry_ms.load(Ordering::Acquire) {
            return false;
        }
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    /// The refresh has ended.
    pub(super) fn end_refresh(&self, now: Instant, recheck: Duration, refreshed: bool) {
        let failed = !refreshed && !recheck.is_zero();
        let retry = if failed { self.milliseconds(now + recheck) } else { 0 };
        self.retry_ms.store(retry, Ordering::Release);
        self.refreshing.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Class, Type};

    #[test]
    fn keys() {
        let key = |name: &str, rtype, dnssec_ok| {
            let question = Question { name: name.parse().unwrap(), rtype, class: Class::IN };
            Key::new(&question, dnssec_ok, false)
        };
        assert_eq!(key("A.b", Type::A, false), key("a.B", Type::A, false));
        assert_ne!(key("a", Type::A, false), key("a", Type::A, true));
        // In lower case these numbers would be the same.
        assert_ne!(key("a", Type(0x41), false), key("a", Type(0x61), false));
        assert_ne!(key("a", Type::A, false), key("a", Type::AAAA, false));
    }

    #[test]
    fn one_refreshes_at_a_time() {
        let now = Instant::now();
        let question = Question::default();
        let entry = Entry::new(Key::new(&question, false, false), &Reply::default(), 30, now);
        let seconds = Duration::from_secs;
        assert!(entry.begin_refresh(now, seconds(5)));
        assert!(!entry.begin_refresh(now, seconds(5)));
        entry.end_refresh(now, seconds(5), false);
        assert!(!entry.begin_refresh(now + seconds(4), seconds(5)));
        assert!(entry.begin_refresh(now + seconds(5), seconds(5)));
        entry.end_refresh(now, seconds(5), true);
        assert!(entry.begin_refresh(now, seconds(5)));
    }

    #[test]
    fn hits_that_lie_close() {
        let now = Instant::now();
        let entry = Entry::new(Key::new(&Question::default(), false, false), &Reply::default(), 30, now);
        let minute = Duration::from_secs(60);
        let hit = |second| {
            let now = now + Duration::from_secs(second);
            let hits = entry.hit(now, minute);
            entry.use_at(now);
            hits
        };
        assert_eq!([hit(1), hit(2), hit(50), hit(111), hit(112)], [1, 2, 3, 1, 2]);
    }
}
