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

mod answer;
pub mod chain;
pub mod cluster;
pub mod corefile;
pub mod exchange;
mod expression;
mod grpc;
mod http;
mod http2;
mod https;
pub mod instance;
pub mod metrics;
pub mod plugin;
mod quic;
mod random;
pub mod say;
mod secure;
pub mod setup;
mod stamp;
mod sys;
mod tcp;
#[cfg(test)]
mod testing;
mod udp;
mod upstream;
mod version;
pub mod web;
mod zone;
pub mod zonefile;

/// For fuzzing: takes anything for what comes by HTTPS and gRPC, without TLS and HTTP/2 around.
#[doc(hidden)]
pub fn fuzz_transports(bytes: &[u8]) {
    https::fuzz(bytes);
    grpc::fuzz(bytes);
}
