//! The DNS server: sockets, the Corefile and the plugins.
//!
//! ```text
//! Corefile ─ corefile ─> Blocks ─ setup ─> Configuration ─ instance ─> workers
//!                                   │ plugin::PLUGINS
//! datagram ─> Asked ─> Routes ─> Chain: Plugin, Plugin, … ─> Reply ─> datagram
//!                                        └─ Step::Later ─> the runtime ─> …
//! ```
//!
//! Reads best from [`chain`] (a question's way), [`plugin`] (the list, and how to add to it) and
//! [`setup`] (how a Corefile becomes a server).
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod chain;
pub mod cluster;
pub mod corefile;
pub mod exchange;
pub mod metrics;
pub mod plugin;
pub mod say;
pub mod setup;
pub mod web;
