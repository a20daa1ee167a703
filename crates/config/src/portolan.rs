//! What only Portolan has: a second document in the same file, `kind: PortolanConfiguration`.
//!
//! It is ours alone, so nothing in it is passed over: an unknown field is an error.

use crate::decode::{Field, Findings, fields, read_map};
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
    /// `setAside`.
    pub set_aside: SetAside,
}

fields!(PortolanConfiguration {
    checkpoint: "checkpoint",
    ipvs: "ipvs",
    names: "names",
    set_aside: "setAside",
});

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

/// `setAside`: what becomes of backends that do not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// `enabled`: they are set aside.
    pub enabled: bool,
    /// `probeTimeout`: how long a backend under suspicion has for an answer.
    pub probe_timeout: GoDuration,
    /// `hold`: how long one stays aside that was aside before; twice as long each time.
    pub hold: GoDuration,
    /// `holdMax`: and at most.
    pub hold_max: GoDuration,
}

impl Default for SetAside {
    fn default() -> SetAside {
        SetAside {
            enabled: true,
            probe_timeout: GoDuration::from_nanoseconds(75_000_000),
            hold: GoDuration::from_seconds(5),
            hold_max: GoDuration::from_seconds(300),
        }
    }
}

/// Between these a time for an answer makes sense: no network is so quick, no client so patient.
const PROBE_TIMEOUT_MIN: GoDuration = GoDuration::from_nanoseconds(10_000_000);
const PROBE_TIMEOUT_MAX: GoDuration = GoDuration::from_seconds(2);
/// Nobody should be away for longer because of what once was.
const HOLD_MAX_MAX: GoDuration = GoDuration::from_seconds(3600);

impl Field for SetAside {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        read_map(tree, at, findings, &mut |name, tree, at, findings| {
            match name {
                "enabled" => self.enabled.read(tree, at, findings),
                "probeTimeout" => self.probe_timeout.read(tree, at, findings),
                "hold" => self.hold.read(tree, at, findings),
                "holdMax" => self.hold_max.read(tree, at, findings),
                _ => return false,
            }
            true
        });
        let SetAside { enabled: _, probe_timeout, hold, hold_max } = *self;
        for (field, value, least, most) in [
            ("probeTimeout", probe_timeout, PROBE_TIMEOUT_MIN, PROBE_TIMEOUT_MAX),
            ("hold", hold, GoDuration::ZERO, hold_max),
            ("holdMax", hold_max, GoDuration::ZERO, HOLD_MAX_MAX),
        ] {
            if value < least || value > most {
                let at = at.field(field);
                findings.errors.push(format!("{at}: {value} is not between {least} and {most}"));
            }
        }
    }

    fn write(&self) -> Option<Value> {
        let SetAside { enabled, probe_timeout, hold, hold_max } = self;
        let fields = [
            ("enabled", enabled.write()),
            ("probeTimeout", probe_timeout.write()),
            ("hold", hold.write()),
            ("holdMax", hold_max.write()),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Some(Value::Object(fields.collect()))
    }
}

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
