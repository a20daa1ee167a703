//! Something that a plugin keeps for each chain that it stands in, counters above all. To get it is one
//! look without a lock.

use crate::chain::Chain;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// One value for each chain, made when it is first asked for.
pub(super) struct PerChain<T>(ArcSwap<Vec<Option<Arc<T>>>>);

impl<T> Default for PerChain<T> {
    fn default() -> PerChain<T> {
        PerChain(ArcSwap::default())
    }
}

impl<T> PerChain<T> {
    /// That of a chain.
    pub(super) fn of(&self, chain: &Chain, make: impl Fn() -> T) -> Arc<T> {
        if let Some(Some(value)) = self.0.load().get(chain.number) {
            return value.clone();
        }
        let value = Arc::new(make());
        self.0.rcu(|known| {
            let mut known = known.to_vec();
            if known.len() <= chain.number {
                known.resize(chain.number + 1, None);
            }
            if let Some(place) = known.get_mut(chain.number) {
                *place = Some(value.clone());
            }
            known
        });
        value
    }

    /// All that there are.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.0.load().iter().flatten().cloned().collect()
    }
}
