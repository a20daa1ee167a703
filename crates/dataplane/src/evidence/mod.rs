//! Evidence against backends, gathered by the kernel in a small table of its own beside any plane.
//!
//! `ruleset.rs` is the fixed program: rules that note in a set, by backend, what clients live to see.
//! `kernel.rs` installs it, looks at the set, and keeps there who is set aside, so that whoever looks
//! at the kernel finds it. What it all means is decided in `aside`, not here.

mod kernel;
mod ruleset;

pub use kernel::{Evidence, Noted, Seen};
pub use ruleset::TABLE;
