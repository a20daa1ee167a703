//! Whether we do our work: changes that wait to be programmed are not left waiting.
//!
//! As kube-proxy's: healthy while it starts, and then as long as no change has waited for longer
//! than a limit. Who asks and in what words is for the caller.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The state of our work, to be shared.
#[derive(Debug)]
pub struct Health {
    /// So long a change may wait.
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When all that was known had been programmed, last.
    updated: Option<SystemTime>,
    /// Since when the oldest change has been waiting.
    waiting: Option<Instant>,
    /// The node is not on its way out.
    eligible: bool,
}

/// What there is to say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// No change has waited for too long.
    pub healthy: bool,
    /// When all had been programmed, last.
    pub updated: Option<SystemTime>,
    /// The node is not on its way out, so load balancers may send to it.
    pub eligible: bool,
}

impl Health {
    /// The health of somebody who has only begun.
    pub fn new(limit: Duration) -> Health {
        Health { limit, state: Mutex::new(State { updated: None, waiting: None, eligible: true }) }
    }

    /// There is a change that the kernel does not know.
    pub fn queued(&self) {
        let now = Instant::now();
        self.change(|state| state.waiting = state.waiting.or(Some(now)));
    }

    /// The kernel knows all.
    pub fn updated(&self) {
        let now = SystemTime::now();
        self.change(|state| {
            state.updated = Some(now);
            state.waiting = None;
        });
    }

    /// Says whether the node is on its way out.
    pub fn set_leaving(&self, leaving: bool) {
        self.change(|state| state.eligible = !leaving);
    }

    /// What there is to say now.
    pub fn find(&self) -> Finding {
        self.find_at(Instant::now())
    }

    fn find_at(&self, now: Instant) -> Finding {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { updated, waiting, eligible } = *state;
        let late = waiting.is_some_and(|since| now.saturating_duration_since(since) >= self.limit);
        Finding { healthy: !late || updated.is_none(), updated, eligible }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_only_when_something_waits() {
        const LIMIT: Duration = Duration::from_secs(60);
        let health = Health::new(LIMIT);
        let healthy_after = |health: &Health, wait| health.find_at(Instant::now() + wait).healthy;
        health.queued();
        assert!(healthy_after(&health, LIMIT * 2), "it has not even started");
        health.updated();
        assert!(healthy_after(&health, LIMIT * 100), "nothing to do");
        health.queued();
        assert!(healthy_after(&health, LIMIT / 2));
        assert!(!healthy_after(&health, LIMIT + Duration::from_secs(1)));
        assert!(health.find().updated.is_some());
        health.updated();
        assert!(healthy_after(&health, LIMIT * 2));
    }

    #[test]
    fn a_node_on_its_way_out() {
        let health = Health::new(Duration::ZERO);
        assert!(health.find().eligible);
        health.set_leaving(true);
        let Finding { healthy, eligible, .. } = health.find();
        assert_eq!((healthy, eligible), (true, false));
        health.set_leaving(false);
        assert!(health.find().eligible);
    }
}
