//! EndpointSlices.
//!
//! A large cluster has hundreds of thousands of endpoints and few nodes, so an [`Endpoint`] is kept
//! small: what all endpoints of a node share is one shared [`Place`], and what few endpoints have is
//! boxed. A test pins the size.

use crate::{Family, Name, ObjectName, Protocol, Words};
use std::net::IpAddr;
use std::sync::Arc;

/// One EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Namespace and name of the slice itself.
    pub name: ObjectName,
    /// The Service's name, from the label `kubernetes.io/service-name`; it is in the same namespace.
    pub service: Name,
    /// The family of its addresses.
    pub family: Family,
    /// Its ports, those without a name or number left out at the door.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// Annotations of ours (`portolan.dev/…`), by the part behind the slash. In a slice of another cluster's
    /// endpoints, that cluster is among them as [`SOURCE_CLUSTER`].
    pub annotations: Words,
}

/// The label of a slice that says which cluster its endpoints are in.
pub const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

impl Slice {
    /// The cluster that its endpoints are in, where that may be another and is known.
    pub fn source_cluster(&self) -> Option<&Name> {
        self.annotations.get(SOURCE_CLUSTER)
    }

    /// The Service that it belongs to.
    pub fn owner(&self) -> ObjectName {
        ObjectName { namespace: self.name.namespace.clone(), name: self.service.clone() }
    }
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port that it serves, empty when that has none.
    pub name: Name,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number at the endpoints.
    pub port: u16,
}

/// What an endpoint says of itself. Absent conditions have been defaulted at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conditions {
    /// It takes new connections.
    pub ready: bool,
    /// It answers, though it may be on its way out.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
}

impl Conditions {
    /// The conditions of an endpoint that says nothing.
    pub const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };
}

/// Where an endpoint runs, and for whom. Many endpoints share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The node, where it is known.
    pub node: Option<Name>,
    /// The zone, where it is known.
    pub zone: Option<Name>,
    /// Hints of the control plane.
    pub hints: Hints,
}

/// For which nodes and zones the control plane means an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hints {
    /// Zones.
    pub zones: Vec<Name>,
    /// Nodes.
    pub nodes: Vec<Name>,
}

/// What the endpoint is called; of use to names only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its `hostname`.
    pub hostname: Option<Name>,
    /// The pod behind it, in the slice's namespace.
    pub pod: Option<Name>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address (the first that the slice lists; the others have no meaning).
    pub address: IpAddr,
    /// Its conditions.
    pub conditions: Conditions,
    /// Where it runs, and for whom.
    pub place: Arc<Place>,
    /// What it is called, if anybody asked.
    pub identity: Option<Box<Identity>>,
}

impl Endpoint {
    /// Whether it runs on this node.
    pub fn is_on(&self, node: &str) -> bool {
        self.place.node.as_deref() == Some(node)
    }
}

const _: () = assert!(size_of::<Endpoint>() <= 40);
