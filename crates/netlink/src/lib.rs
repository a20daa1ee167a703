//! The wire to the kernel: our own small netlink codec and sockets.
//!
//! Start at [`Socket`]: it is typed by protocol ([`Route`], [`Netfilter`], [`Generic`]), so that
//! a route socket cannot send a netfilter message. [`Messages`] is what it sends, [`Message`] and
//! [`Attribute`] are what it reads, [`Error`] says what was attempted and what the kernel said.
//! The families (one file or folder each) only spell these.
//!
//! What this crate deliberately does not do: it enters no network namespace (a socket belongs to
//! the namespace of the thread that opens it), it decides no policy, and it runs no program.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod attribute;
pub mod conntrack;
pub mod error;
mod fuzz;
mod ip;
pub mod ipset;
pub mod ipvs;
pub mod message;
pub mod nftables;
#[cfg(test)]
mod properties;
pub mod protocol;
pub mod route;
pub mod socket;
mod sys;
pub mod xtables;

pub use attribute::{Attribute, Attributes, attributes};
pub use error::{Error, Refusal, Refused};
pub use fuzz::fuzz_parse;
pub use ip::IpVersion;
pub use message::{Message, Messages, Writer};
pub use protocol::{Generic, Netfilter, Protocol, Route};
pub use socket::{Listener, Notice, Socket};
