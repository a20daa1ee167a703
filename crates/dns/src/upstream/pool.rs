//! Connections that wait to be used again, oldest first, and no longer than they may.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many wait at most, whatever the configuration says.
const IDLE_MAX: usize = 1024;

/// For how long, and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A connection that nobody has used for so long is closed (`expire`).
    pub(crate) expire: Duration,
    /// One that is so old is closed (`max_age`); zero for never.
    pub(crate) max_age: Duration,
    /// So many wait (`max_idle_conns`); zero for as many as there may be.
    pub(crate) idle_max: usize,
    /// So often one is used; zero for any number.
    pub(crate) uses_max: u32,
}

/// A connection, and how it has been used.
#[derive(Debug)]
pub(crate) struct Pooled<C> {
    pub(crate) connection: C,
    made: Instant,
    used: Instant,
    uses: u32,
}

impl<C> Pooled<C> {
    pub(crate) fn new(connection: C, now: Instant) -> Pooled<C> {
        Pooled { connection, made: now, used: now, uses: 0 }
    }

    /// Whether it has been used before, so that the other end may have closed it.
    pub(crate) fn is_used(&self) -> bool {
        self.uses > 0
    }
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Pool<C> {
    limits: Limits,
    idle: Mutex<VecDeque<Pooled<C>>>,
}

impl<C> Pool<C> {
    pub(crate) fn new(limits: Limits) -> Pool<C> {
        Pool { limits, idle: Mutex::default() }
    }

    /// One that can be used.
    pub(crate) fn take(&self, now: Instant) -> Option<Pooled<C>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(pooled) = idle.pop_front() {
            if self.is_good(&pooled, now) {
                return Some(pooled);
            }
        }
        None
    }

    /// Takes one back.
    pub(crate) fn put(&self, mut pooled: Pooled<C>, now: Instant) {
        pooled.uses += 1;
        pooled.used = now;
        let most = if self.limits.idle_max == 0 { IDLE_MAX } else { self.limits.idle_max.min(IDLE_MAX) };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < most && self.is_good(&pooled, now) {
            idle.push_back(pooled);
        }
    }

    /// Closes those that have waited for too long.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|pooled| self.is_good(pooled, now));
    }

    fn is_good(&self, pooled: &Pooled<C>, now: Instant) -> bool {
        let Limits { expire, max_age, uses_max, .. } = self.limits;
        now.saturating_duration_since(pooled.used) <= expire
            && (max_age.is_zero() || now.saturating_duration_since(pooled.made) <= max_age)
            && (uses_max == 0 || pooled.uses < uses_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_first_and_none_for_ever() {
        let seconds = Duration::from_secs;
        let start = Instant::now();
        let at = |second| start + seconds(second);
        let limits = Limits { expire: seconds(10), max_age: seconds(30), idle_max: 2, uses_max: 3 };
        let pool = Pool::new(limits);
        for name in ["a", "b", "c"] {
            pool.put(Pooled::new(name, start), at(1));
        }
        let first = pool.take(at(2)).unwrap();
        assert_eq!((first.connection, first.is_used()), ("a", true));
        pool.put(first, at(9));
        // b waits since 1, a since 9.
        assert_eq!(pool.take(at(12)).map(|pooled| pooled.connection), Some("a"));
        assert!(pool.take(at(12)).is_none(), "c was one too many");
        let mut used = Pooled::new("d", start);
        used.uses = 2;
        pool.put(used, at(1));
        assert!(pool.take(at(1)).is_none(), "used up");
        pool.put(Pooled::new("e", start), at(25));
        pool.tidy(at(31));
        assert!(pool.take(at(26)).is_none(), "too old");
    }
}
