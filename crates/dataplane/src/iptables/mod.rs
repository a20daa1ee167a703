//! The iptables plane: the Services as rules, one after another, in chains named as kube-proxy names
//! them. It is the measure for the others and the way out on old kernels; nothing here is O(1), and
//! `docs/paths.md` says what a packet pays.
//!
//! It alone runs programs: `iptables-restore` and `iptables-save` are the only interface to these
//! tables that holds across kernels and both variants of iptables.

mod draft;
pub(crate) mod half;
mod held;
pub(crate) mod image;
mod kernel;
mod name;
mod plane;
mod print;
mod program;
mod rule;
mod show;
mod steps;
#[cfg(test)]
mod tests;
mod variant;
mod walk;

pub use half::{Half, Refusal, RuleCount, Saved, Sink, Tables};
pub use image::{Gate, Image, Options};
pub use kernel::{Kernel, Seal};
pub use name::{Chain, Hook, Kind, Table};
pub use plane::{Configuration, Plane};
pub use rule::{Rule, Target, Test};
pub use steps::steps;
pub use variant::Variant;
pub use walk::{Walk, walk};
