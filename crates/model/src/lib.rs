//! The cluster as a node understands it: Services, EndpointSlices, Nodes, Namespaces, Pods and
//! ServiceCIDRs, slimmed to what routing and naming need, and [`Cluster`], which holds them.
//!
//! Everything here has already been parsed and defaulted at the door (`watch`); nothing here knows
//! Kubernetes' wire forms, does I/O, reads a clock or decides policy (`plan` does).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod address;
mod by_name;
mod cluster;
mod name;
mod node;
mod service;
mod slice;

pub use address::{AddressError, Family, Prefix, parse_ip};
pub use by_name::{ByName, Named};
pub use cluster::{Change, Cluster, Object, ObjectKey, Touched};
pub use name::{Name, ObjectName, PortName, Words};
pub use node::{Namespace, Node, Pod, ServiceCidr};
pub use service::{Ingress, Policy, Protocol, Service, ServiceKind, ServicePort};
pub use slice::{Conditions, Endpoint, Hints, Identity, Place, SOURCE_CLUSTER, Slice, SlicePort};
