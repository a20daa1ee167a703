//! Who is set aside: backends that do not answer, decided from evidence and probes.
//!
//! Evidence (a SYN that nobody answers, a refusal) comes from the packets of clients, who may be cut
//! off themselves, blocked by a policy, or lying. So it never sets anybody aside: it has the backend
//! probed from the node, and what the probe says counts. [`Engine`] is told of both and says what to
//! probe next and whose turn it is. How many of a pool may be aside is the plan's business.
//!
//! Nothing here does I/O or reads a clock: times are an argument, counted from any beginning.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod engine;
mod record;

pub use engine::Engine;
pub use plan::BackendKey;
pub use record::{Aside, Back, Turn, Why};

use std::net::SocketAddr;
use std::time::Duration;

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How long a probe may go unanswered before it counts as failed.
    pub probe: Duration,
    /// How long a backend that was aside before and came back stays aside at least; twice as long each
    /// time.
    pub hold: Duration,
    /// And at most.
    pub hold_max: Duration,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            probe: Duration::from_millis(75),
            hold: Duration::from_secs(5),
            hold_max: Duration::from_secs(300),
        }
    }
}

/// What the packets of clients tell of a backend, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// It was asked, and nobody has had an answer since.
    Unanswered,
    /// A client was refused.
    Refused,
}

/// A probe to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Whom to ask.
    pub backend: BackendKey,
    /// Whom to ask beside: other members of its pools. One that answers shows that this node can ask at
    /// all, and that there is somebody else to go to.
    pub controls: Vec<SocketAddr>,
    /// How long to wait for the answer.
    pub patience: Duration,
    /// The trial was called for by SYNs without answer; if the backend has answered anybody since, it
    /// proves nothing.
    pub asked: bool,
}

/// What a backend said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took the connection, after so long.
    Accepted(Duration),
    /// It refused.
    Refused,
    /// Nothing, so far.
    Silent,
}

/// What came of a trial. A backend that was silent may answer later all the same; that is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the backend said.
    pub answer: Answer,
    /// Its host answered, at a port where nobody listens.
    pub lives: bool,
    /// A control accepted.
    pub control: bool,
    /// Where the trial was called for by SYNs without answer: nobody has had an answer since.
    pub stands: bool,
}
