//! The test bench: hosts, pods and routers in network namespaces of their own, and real packets
//! between them. It ships in the binary, where `demo` and `bench` use it, and needs no program
//! and no kernel module beyond veth and bridge.
//!
//! ```no_run
//! use lab::{Failure, Lab, Protocol::Tcp};
//!
//! let mut lab = Lab::new()?;
//! let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
//! let web = lab.pod(&a, "web")?;
//! let guest = lab.pod(&b, "guest")?;
//!
//! let server = web.serve(Tcp, 8080)?;
//! let reply = guest.ask(Tcp, (web.ipv4(), 8080)).expect("the way is open");
//! assert_eq!(reply.backend, "web");
//! assert_eq!(reply.seen_source.ip(), guest.ipv4());
//!
//! drop(server);
//! assert_eq!(guest.ask(Tcp, (web.ipv4(), 8080)), Err(Failure::Refused));
//! # Ok::<(), lab::Error>(())
//! ```
//!
//! Nothing here has a name in the file system, and everything ends with the value that stands
//! for it: a panic leaves nothing behind. No clock decides whether something works; timeouts are
//! generous and only keep a broken network from being waited for.
//!
//! What it deliberately does not do: it programs no Service. That is for whoever uses it, in
//! [`Host::run`] of a [`Node`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "api")]
pub mod api;
mod client;
mod config;
mod error;
mod hold;
mod host;
mod lab;
mod latency;
mod load;
mod namespace;
mod ping;
mod question;
mod raw;
mod server;
mod user;
mod wire;

pub use client::{Client, Connection, PATIENCE};
pub use config::{Config, Family};
pub use error::Error;
pub use hold::{Held, HeldReport};
pub use host::Host;
pub use lab::{FarClient, Lab, Node};
pub use latency::{Connects, Door, LOT, Latencies, connect_latencies, connect_latency, connect_rates};
pub use load::{Load, Report, Running};
pub use namespace::{Namespace, Process};
pub use netlink::route::Prefix;
pub use question::{Failure, Protocol, Reply};
pub use raw::{Body, Packet, Sniffer, TcpFlags};
pub use server::Server;
pub use user::enter_user_namespace;
pub use wire::cable;
