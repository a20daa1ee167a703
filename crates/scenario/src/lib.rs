//! Cases as data: manifests in, verdicts and tables out. One file of `scenarios/` is one behaviour,
//! readable by anyone, and is run in every way there is to ask what becomes of a packet.
//!
//! Here are the form of the files and the runner; what a test of one of them is called and how it is
//! started is in `tests/scenarios.rs`, and how to write one in `scenarios/README.md`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod error;
mod format;
mod kernel;
mod kinds;
mod run;
mod setup;
mod subject;
mod verdict;

pub use error::Error;
pub use format::{Block, Scenario, Step, rewrite};
pub use kinds::iptables_rules;
pub use run::{Answers, Order, Report, Way, run};
pub use setup::NODE;
pub use verdict::{Expectation, Expected, Mode, SourceSeen};
