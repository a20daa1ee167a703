//! The kernel as a Service router. Each data plane is a folder with the same three files: `image.rs`
//! (what the kernel should hold, as a value), `steps.rs` (how one image becomes another, in an order
//! that loses no packet) and `kernel.rs` (reading the kernel and carrying steps out).
//!
//! A plane only spells what `plan` decided; it decides nothing about Services itself.
#![forbid(unsafe_code)]

mod error;
pub mod nftables;
mod pool;
mod program;
mod sysctl;
mod write;

pub use error::{Error, Failure, Report};
pub use pool::{PoolId, Slot};
