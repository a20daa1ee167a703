//! Where the cluster comes from: Kubernetes objects, parsed and defaulted once, at the door, and
//! handed on as the model's [`Object`](model::Object)s and [`Change`](model::Change)s.
//!
//! The only crate that knows how Kubernetes spells its objects. It decides no policy and keeps no
//! cluster; what makes no sense is left out and told as a [`Problem`], and costs nothing else.
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod api;
mod checkpoint;
mod directory;
mod load;
mod manifest;
mod problem;
mod sys;
mod tree;

pub use api::{Access, Api, Call, Events, NodeEvent, OnCall, Waits, rights};
pub use checkpoint::{load_checkpoint, save_checkpoint};
pub use directory::{Batch, Directory};
pub use load::{Loaded, load, load_each, parse};
pub use manifest::{Keep, Snapshot};
pub use problem::{Error, Problem, Severity};
pub use sys::one_arena;

/// For fuzzing: reads any bytes as a manifest and checks what must hold of the outcome.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    manifest::fuzz(bytes);
}

/// For fuzzing: reads any bytes as what an API server answers, and as a kubeconfig.
#[doc(hidden)]
pub fn fuzz_api(bytes: &[u8]) {
    api::fuzz(bytes);
}
