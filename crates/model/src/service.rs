//! Services.

use crate::{Name, ObjectName, Prefix, Words};
use std::fmt;
use std::net::IpAddr;

/// A transport protocol that a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol of an IP protocol number.
    pub fn from_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|p| p.number() == number)
    }

    /// The name in lower case, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which endpoints a kind of traffic may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on this node only.
    Local,
}

/// What kind of Service it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// `ClusterIP`, with addresses.
    ClusterIp,
    /// `clusterIP: None`: names only.
    Headless,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`: a name only.
    ExternalName(Name),
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Seconds since 1970 at which the object was created; `None` where the object does not say.
    pub created: Option<i64>,
    /// What kind.
    pub kind: ServiceKind,
    /// It has the label `service.kubernetes.io/service-proxy-name`: another proxy's Service.
    pub other_proxy: bool,
    /// Its ClusterIPs, one a family; none for headless Services.
    pub cluster_ips: Box<[IpAddr]>,
    /// `externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// The ingress addresses of its load balancer with `ipMode` VIP.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// By what else its load balancer is reached: nothing to route, but it has a name (`k8s_external`).
    pub other_ingress: Box<[Ingress]>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Box<[Prefix]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// The time-out of session affinity by client IP, in seconds; `None` without affinity.
    pub affinity_seconds: Option<u32>,
    /// `externalTrafficPolicy`.
    pub external_policy: Policy,
    /// `internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `healthCheckNodePort`, where it is not 0.
    pub health_check_node_port: Option<u16>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Labels, for selection by the DNS side; empty where nobody asked for them.
    pub labels: Words,
    /// Annotations of ours (`portolan.dev/…`), by the part behind the slash.
    pub annotations: Words,
}

impl Service {
    /// One that says nothing but its kind.
    pub fn new(name: ObjectName, kind: ServiceKind) -> Service {
        Service {
            name,
            created: None,
            kind,
            other_proxy: false,
            cluster_ips: Box::default(),
            external_ips: Box::default(),
            load_balancer_ips: Box::default(),
            other_ingress: Box::default(),
            source_ranges: Box::default(),
            ports: Box::default(),
            affinity_seconds: None,
            external_policy: Policy::default(),
            internal_policy: Policy::default(),
            health_check_node_port: None,
            publish_not_ready: false,
            labels: Words::default(),
            annotations: Words::default(),
        }
    }
}

/// An ingress point of a load balancer that is reached over the network like anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// An address with `ipMode` Proxy, or one that nobody may come by.
    Address(IpAddr),
    /// A host name.
    Host(Name),
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty when it has none.
    pub name: Name,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the Service's addresses.
    pub port: u16,
    /// Its number at the node's addresses, where it has one.
    pub node_port: Option<u16>,
}

const _: () = assert!(size_of::<Service>() <= 224);
