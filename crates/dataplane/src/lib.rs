//! The kernel as a Service router. Each data plane is a folder with the same three files: `image.rs`
//! (what the kernel should hold, as a value), `steps.rs` (how one image becomes another, in an order
//! that loses no packet) and `kernel.rs` (reading the kernel and carrying steps out).
//!
//! A plane only spells what `plan` decided; it decides nothing about Services itself.
#![forbid(unsafe_code)]

pub mod conntrack;
mod error;
pub mod evidence;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
mod plane;
mod pool;
mod program;
mod shown;
pub mod steer;
mod sysctl;
mod withdraw;
mod write;

pub use error::{Error, Failure, Report};
pub use nftables::{Drift, Preview};
pub use plane::{Mode, Plane, PlaneOptions};
pub use pool::{PoolId, Slot};
pub use shown::{ShownFrontend, ShownService};
pub use withdraw::Withdrawal;
