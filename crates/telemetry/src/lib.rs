//! How the daemon tells what it does: its log.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod log;
