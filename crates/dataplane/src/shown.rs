//! What the kernel holds, read back as Services: the same form for every plane.

use crate::Slot;
use model::Prefix;
use plan::At;

/// A port of a Service as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownService {
    /// `namespace/name:port`; empty where the kernel does not say.
    pub name: String,
    /// Where clients find it.
    pub frontends: Vec<ShownFrontend>,
}

/// A frontend as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownFrontend {
    /// Where.
    pub at: At,
    /// Its protocol.
    pub protocol: model::Protocol,
    /// `dnat`, `reject` or `drop`.
    pub verdict: &'static str,
    /// Where its connections go.
    pub backends: Vec<Slot>,
    /// Where connections of local clients go, if elsewhere.
    pub backends_for_local_clients: Option<Vec<Slot>>,
    /// Clients stay with their backend so long.
    pub affinity_seconds: Option<u32>,
    /// `never`, `off-cluster`, `always` or `node`.
    pub masquerade: &'static str,
    /// Only clients from these networks are served.
    pub sources: Vec<Prefix>,
}
