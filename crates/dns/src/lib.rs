//! The DNS server: sockets, the Corefile and the plugins.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod corefile;
