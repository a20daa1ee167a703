//! Names: from a question to its answer over the model, as the Kubernetes DNS specification 1.1.0
//! and CoreDNS' plugin `kubernetes` have it.
//!
//! ```text
//! Cluster, Touched ──> Names ──> Zone (a snapshot) ──┐
//!                                Options ────────────┼──> answer() ──> Outcome, and records in a Reply
//!                                Question ───────────┘
//! ```
//!
//! [`Names`] is the one writer. It keeps a [`Zone`], which any number of readers may hold while the
//! next one is made; a change of one Service copies what hangs on that Service and nothing else
//! ([`shards`](crate::Zone)). Records are not kept ready: an answer is read off the model's own
//! objects, which the zone shares, so names cost little beyond the cluster itself.
//!
//! What the world outside the cluster calls Services (`k8s_external`) is a second view of the same
//! zone: [`external`].
//!
//! No I/O and no clock: what the SOA's serial needs of the time is an argument.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod answer;
mod describe;
mod label;
mod options;
mod question;
mod selector;
mod shards;
mod transfer;
mod zone;

pub use answer::{ExternalOutcome, Hosts, Join, Outcome, answer, external, external_soa};
pub use describe::{Described, describe};
pub use options::{External, Options, PodMode, ZoneName};
pub use selector::{Selector, SelectorError};
pub use transfer::{transfer, transfer_external};
pub use zone::{Names, Zone};
