//! Evidence against backends, gathered by the kernel in a small table of its own beside any plane.
//!
//! `ruleset.rs` is the fixed program: rules that note in sets whom clients ask, and who refuses them.
//! `cases.rs` follows what becomes of those that were asked. `kernel.rs` installs the program, looks at the
//! sets, asks the connection tracker, and keeps there who is set aside, so that whoever looks at the kernel
//! finds it. What it all means is decided in `aside`, not here.

mod cases;
mod kernel;
mod ruleset;

pub use kernel::{Evidence, Noted, Seen};
pub use ruleset::TABLE;
