//! How the daemon tells what it does: its log, its metrics, whether it is well, and the HTTP server
//! at which others ask for it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod health;
pub mod http;
pub mod log;
pub mod metrics;
pub mod process;
pub mod time;
