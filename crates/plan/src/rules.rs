//! The plan as a value: what the data planes spell and `trace` reads.

use crate::NodeRules;
use model::{Family, ObjectName, PortName, Prefix, Protocol};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The whole plan of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What holds for all Services.
    pub node: NodeRules,
    /// What is done for each Service that is routed at all.
    pub services: BTreeMap<ObjectName, Arc<ServiceRules>>,
}

/// What the node does for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRules {
    /// The Service.
    pub name: ObjectName,
    /// Its ports, once for each family it has.
    pub ports: Box<[PortRules]>,
    /// Its health-check node port, where it has one.
    pub health_check: Option<HealthCheck>,
    /// Frontends that an older Service holds already.
    pub contested: Box<[Contested]>,
    /// Its annotations of ours, for data planes that read them.
    pub annotations: model::Words,
}

/// What the node does for one port of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Which port.
    pub name: PortName,
    /// Which family.
    pub family: Family,
    /// A client stays with its backend for so many seconds after its last connection.
    pub affinity_seconds: Option<u32>,
    /// The backends of [`PoolKind::Cluster`].
    pub cluster: Pool,
    /// The backends of [`PoolKind::Local`]; empty where no frontend asks for them.
    pub local: Pool,
    /// UDP and SCTP only: all backends that still answer, also those that are leaving. Flows to
    /// others are forgotten.
    pub serving: Pool,
    /// Those that are left out of a pool because they do not answer.
    pub aside: Pool,
    /// Where clients find it.
    pub frontends: Box<[Frontend]>,
}

impl PortRules {
    /// The port's protocol.
    pub fn protocol(&self) -> Protocol {
        self.name.protocol
    }

    /// The backends of a pool.
    pub fn pool(&self, kind: PoolKind) -> &Pool {
        match kind {
            PoolKind::Cluster => &self.cluster,
            PoolKind::Local => &self.local,
        }
    }

    /// Whether a frontend sends anybody to this pool.
    pub fn uses(&self, kind: PoolKind) -> bool {
        self.frontends
            .iter()
            .any(|f| f.outside == Target::Balance(kind) || (f.short_circuit && kind == PoolKind::Cluster))
    }
}

/// Backends in order of address and port, none twice.
pub type Pool = Arc<[Backend]>;

/// Which of a port's two sets of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolKind {
    /// Those of the cluster, after topology.
    Cluster,
    /// Those on this node.
    Local,
}

/// Where a connection can be sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight, 1 unless somebody said otherwise.
    pub weight: u16,
    /// Whether it can be a client of this node's Services, so that a connection may come back to
    /// the one who made it: it runs on this node, or nobody said where.
    pub near: bool,
}

impl Backend {
    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.socket())
    }
}

/// What kind of frontend, as users know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A ClusterIP.
    ClusterIp,
    /// An external IP.
    ExternalIp,
    /// A load balancer's address.
    LoadBalancer,
    /// A port of the node.
    NodePort,
}

impl FrontendKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::LoadBalancer => "LoadBalancer",
            FrontendKind::NodePort => "NodePort",
        }
    }
}

/// Where a frontend listens. The protocol is its port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// At one address and port.
    Address(IpAddr, u16),
    /// At this port of every address of the node that is selected for NodePorts.
    NodePort(u16),
}

/// One place where clients find a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What kind.
    pub kind: FrontendKind,
    /// Where.
    pub at: At,
    /// What becomes of connections.
    pub outside: Target,
    /// Clients in pods of this node (as [`crate::LocalSources`] tells them) and on the node itself
    /// are sent to the cluster's pool whatever `outside` says; the node's own are masqueraded.
    pub short_circuit: bool,
    /// Only clients from these networks are served, the others' packets dropped.
    pub sources: Option<Arc<[Prefix]>>,
    /// When a connection to `outside`'s pool leaves with the node's address as its source. A
    /// connection that comes back to the backend that made it does in any case.
    pub masquerade: Masquerade,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// They are balanced over a pool that is not empty.
    Balance(PoolKind),
    /// They are refused: the Service has no endpoint anywhere.
    Reject,
    /// They are dropped: the Service has endpoints, but none here, where it wants them.
    Drop,
}

/// When a connection is masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Never.
    Never,
    /// When its client is no pod of this node, as [`crate::LocalSources`] tells them.
    OffCluster,
    /// Always.
    Always,
}

/// A port at which load balancers ask whether this node has local endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// How many local endpoints there are.
    pub local_endpoints: u32,
}

/// A frontend that this Service asks for and another one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// What kind.
    pub kind: FrontendKind,
    /// Where.
    pub at: At,
    /// The port's protocol.
    pub protocol: Protocol,
    /// Who has it.
    pub holder: ObjectName,
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        match self.at {
            At::Address(ip, port) => write!(f, "{kind} {}", SocketAddr::new(ip, port))?,
            At::NodePort(port) => write!(f, "{kind} {port}")?,
        }
        write!(f, "/{} is already {}'s, which is older", self.protocol, self.holder)
    }
}
