//! What only Portolan has: a second document in the same file, `kind: PortolanConfiguration`.
//!
//! It is ours alone, so nothing in it is passed over: an unknown field is an error.

use crate::decode::{Field, Findings, fields};
use crate::duration::GoDuration;
use crate::tree::{FieldPath, Tree};
use serde_json::Value;

/// The version of the document.
pub(crate) const API_VERSION: &str = "portolan.dev/v1alpha1";

/// Its kind.
pub(crate) const KIND: &str = "PortolanConfiguration";

/// The document. `Default` is what holds where it is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortolanConfiguration {
    /// `checkpoint`: a file in which to remember the cluster; empty: nowhere.
    pub checkpoint: String,
    /// `ipvs`.
    pub ipvs: PortolanIpvs,
    /// `names`.
    pub names: PortolanNames,
}

fields!(PortolanConfiguration { checkpoint: "checkpoint", ipvs: "ipvs", names: "names" });

/// `names`: the DNS server in the same process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortolanNames {
    /// `corefile`: its Corefile; empty: no names are served.
    pub corefile: String,
    /// `local`: it answers for the cluster DNS Service's address on this node.
    pub local: bool,
    /// `service`: which Service that is, `NAMESPACE/NAME`; empty: `kube-system/kube-dns`.
    pub service: String,
    /// `clusterIPs`: its addresses, if they are not to be taken from the Service.
    pub cluster_ips: Vec<String>,
    /// `addresses`: the node's private addresses to listen at, one a family; empty: our own choice.
    pub addresses: Vec<String>,
}

fields!(PortolanNames {
    corefile: "corefile",
    local: "local",
    service: "service",
    cluster_ips: "clusterIPs",
    addresses: "addresses",
});

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortolanIpvs {
    /// `addresses`.
    pub addresses: IpvsAddresses,
    /// `drainLimit`.
    pub drain_limit: DrainLimit,
}

fields!(PortolanIpvs { addresses: "addresses", drain_limit: "drainLimit" });

/// How long a TCP backend that leaves may keep its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainLimit(pub GoDuration);

impl Default for DrainLimit {
    fn default() -> DrainLimit {
        DrainLimit(GoDuration::from_seconds(15 * 60))
    }
}

impl Field for DrainLimit {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        self.0.read(tree, at, findings);
        if self.0 < GoDuration::ZERO {
            findings.errors.push(format!("{at}: {} is less than nothing", self.0));
        }
    }

    fn write(&self) -> Option<Value> {
        self.0.write()
    }
}

/// How the node takes packets for a Service's addresses in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpvsAddresses {
    /// `routes`: a local route each. An address more costs the same however many there are.
    #[default]
    Routes,
    /// `addresses`: an address each on `kube-ipvs0`, as kube-proxy does it, for whoever looks there.
    Addresses,
}

impl Field for IpvsAddresses {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        let mut text = String::new();
        text.read(tree, at, findings);
        match text.as_str() {
            "" => {}
            "routes" => *self = IpvsAddresses::Routes,
            "addresses" => *self = IpvsAddresses::Addresses,
            other => findings.errors.push(format!("{at}: {other:?} is not routes or addresses")),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::from(match self {
            IpvsAddresses::Routes => "routes",
            IpvsAddresses::Addresses => "addresses",
        }))
    }
}
