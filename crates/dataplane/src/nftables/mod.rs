//! The nftables plane: one table a family, a fixed program, and the Services as elements of its
//! maps. `docs/paths.md` draws a packet's way through it.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod half;
pub(crate) mod image;
mod kernel;
pub(crate) mod plane;
mod print;
mod ruleset;
pub(crate) mod show;
mod spell;
pub(crate) mod steps;
mod walk;

pub use half::{Half, Tables};
pub use image::{Front, Image, Inside, Item, ItemKey, Jump, Key, Masquerading, Pick, Placement};
pub use kernel::Kernel;
pub use plane::{Drift, Plane, Preview};
pub use ruleset::{Balancer, Options, program_size};
pub use steps::{Commit, Draft, Element, Group, Step, steps};
pub(crate) use walk::{Sender, Turn, Walker};
pub use walk::{Walk, walk};
