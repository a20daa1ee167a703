//! Where the watches of single kinds become one stream of batches: when all that must be known is
//! known, the stream says so, once and for all.

use crate::{Batch, Problem, Severity};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

type Deliver = Box<dyn FnMut(Batch) -> bool + Send>;

struct State {
    deliver: Deliver,
    /// Which kinds have been read, or will not be had.
    settled: Vec<bool>,
    /// With how many objects of each kind something is wrong.
    bad: Vec<usize>,
    deaf: bool,
}

/// One stream for several watches.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Whom messages are about.
    pub(super) server: Arc<Path>,
}

impl Hub {
    pub(super) fn new(kinds: usize, server: Arc<Path>, deliver: Deliver) -> Hub {
        let (settled, bad) = (vec![false; kinds], vec![0; kinds]);
        Hub { state: Mutex::new(State { deliver, settled, bad, deaf: false }), server }
    }

    /// Hands over what one watch has found; says whether anybody still listens.
    pub(super) fn hand_over(&self, kind: usize, batch: Batch, bad: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.bad.get_mut(kind) {
            *slot = bad;
        }
        state.hand_over(batch)
    }

    /// A kind has been read whole, or will not be had.
    pub(super) fn settle(&self, kind: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was = state.is_loaded();
        if let Some(slot) = state.settled.get_mut(kind) {
            *slot = true;
        }
        match state.is_loaded() && !was {
            true => state.hand_over(Batch::default()),
            false => !state.deaf,
        }
    }

    /// Tells something that is about the API server and not about an object.
    pub(super) fn tell(&self, severity: Severity, what: String) -> bool {
        let problem = Problem { severity, ..Problem::of_file(self.server.clone(), what) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.hand_over(Batch { problems: vec![problem], ..Batch::default() })
    }
}

impl State {
    fn is_loaded(&self) -> bool {
        self.settled.iter().all(|settled| *settled)
    }

    fn hand_over(&mut self, mut batch: Batch) -> bool {
        if !self.deaf {
            batch.loaded = self.is_loaded();
            batch.errors = self.bad.iter().sum();
            self.deaf = !(self.deliver)(batch);
        }
        !self.deaf
    }
}
