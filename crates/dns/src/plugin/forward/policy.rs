//! In which order upstreams are tried.

use crate::random;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The orders that there are.
#[derive(Debug, Default)]
pub(super) enum Policy {
    /// Any.
    #[default]
    Random,
    /// Each question begins with the next.
    RoundRobin(AtomicUsize),
    /// As they stand in the Corefile.
    Sequential,
}

impl Policy {
    /// The upstreams in their order for one question.
    pub(super) fn order(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        match self {
            Policy::Random => {
                for last in (1..count).rev() {
                    order.swap(last, random::below(last + 1));
                }
            }
            Policy::RoundRobin(next) => {
                order.rotate_left(next.fetch_add(1, Ordering::Relaxed) % count.max(1));
            }
            Policy::Sequential => {}
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        assert_eq!(Policy::Sequential.order(3), [0, 1, 2]);
        let turns = Policy::RoundRobin(AtomicUsize::new(0));
        assert_eq!([turns.order(3), turns.order(3), turns.order(3)], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        let some: std::collections::BTreeSet<Vec<usize>> =
            (0..200).map(|_| Policy::Random.order(3)).collect();
        assert_eq!(some.len(), 6);
        assert!(turns.order(0).is_empty());
    }
}
