//! Whether an upstream answers. It is asked only once a query to it has failed, and then until it does.

use super::{How, Query, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// For an answer to a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How to check.
#[derive(Debug)]
pub(crate) struct Check {
    /// So long between checks.
    pub(crate) interval: Duration,
    /// What is asked.
    pub(crate) query: Query,
}

/// What is known of an upstream's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Checks that have failed since the last that did not.
    fails: AtomicU32,
    checking: AtomicBool,
    stopped: AtomicBool,
}

impl Health {
    pub(super) fn is_down(&self, fails_max: u32) -> bool {
        fails_max != 0 && self.fails.load(Ordering::Relaxed) > fails_max
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Checks an upstream until it answers. Any answer is one.
pub(super) fn check(upstream: &Arc<Upstream>, check: &Arc<Check>) {
    let health = &upstream.health;
    if health.stopped.load(Ordering::Relaxed) || health.checking.swap(true, Ordering::AcqRel) {
        return;
    }
    let (upstream, check) = (upstream.clone(), check.clone());
    tokio::spawn(async move {
        let how = How { stream: upstream.settings.check_by_stream, respell: false };
        while !upstream.health.stopped.load(Ordering::Relaxed) {
            if let Ok(Ok(_)) = timeout(CHECK_TIMEOUT, upstream.ask(&check.query, how)).await {
                upstream.health.fails.store(0, Ordering::Relaxed);
                break;
            }
            upstream.counts.check_failures.count();
            upstream.health.fails.fetch_add(1, Ordering::Relaxed);
            sleep(check.interval).await;
        }
        upstream.health.checking.store(false, Ordering::Release);
    });
}
