//! The IPVS plane: virtual servers of the kernel's IPVS, the addresses they are found at on a device
//! of their own, and beside them a table of constant rules for what IPVS cannot do. `docs/ipvs.md`
//! draws a packet's way through it.
//!
//! The table is the nftables plane's with another ending ([`Balancer::Ipvs`]): where that picks a
//! backend itself, this one leaves the packet to IPVS.
//!
//! [`Balancer::Ipvs`]: crate::nftables::Balancer::Ipvs

mod half;
mod image;
mod kernel;
mod plane;
mod print;
mod schedulers;
mod steps;
mod switches;
mod walk;

pub use half::{Half, Held, Servers};
pub use image::{Address, Config, Image, Item, ItemKey, Leaving, Options, Server, ServerKey, items};
pub use kernel::{Addresses, DEVICE, Kernel, Settings, Timeouts};
pub use plane::{Configuration, DEFAULT_SCHEDULER, DRAIN_LIMIT, Left, Plane};
pub use steps::{Draft, PHASES, Phase, Step, steps};
pub use switches::{Number, Wrong};
pub use walk::walk;
