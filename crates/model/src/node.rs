//! Nodes, Namespaces, Pods and ServiceCIDRs.

use crate::{Name, ObjectName, Prefix};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its addresses as the cluster knows them, internal before external; the first of a family is
    /// the primary one.
    pub addresses: Vec<IpAddr>,
    /// The networks of its pods.
    pub pod_cidrs: Vec<Prefix>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Name>,
    /// It is about to be deleted (the taint `ToBeDeletedByClusterAutoscaler`).
    pub leaving: bool,
}

/// One Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: BTreeMap<Name, Name>,
}

/// One Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Option<Name>,
    /// It uses the node's own network, so its address is the node's.
    pub host_network: bool,
}

/// One ServiceCIDR: networks that ClusterIPs are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: Name,
    /// At most one a family.
    pub cidrs: Vec<Prefix>,
}
