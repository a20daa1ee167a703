//! One of the planes, and what all of them do.

use crate::conntrack::{self, Suspects};
use crate::iptables;
use crate::ipvs;
use crate::nftables::{self, Drift, Preview};
use crate::{Error, Report, ShownService};
use model::Family;
use plan::{Delta, NodeRules, Rules, ServiceRules};
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

/// How Services are routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By maps in nftables.
    Nftables,
    /// By the kernel's IPVS.
    Ipvs,
    /// By rules of iptables.
    Iptables,
}

impl Mode {
    /// All that are built.
    pub const ALL: [Mode; 3] = [Mode::Nftables, Mode::Ipvs, Mode::Iptables];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Ipvs => "ipvs",
            Mode::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "nftables" => Ok(Mode::Nftables),
            "ipvs" => Ok(Mode::Ipvs),
            "iptables" => Ok(Mode::Iptables),
            other => Err(format!("mode {other} is not built")),
        }
    }
}

/// What all planes need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneOptions {
    /// The families that the node has.
    pub families: Vec<Family>,
    /// Drop forwarded packets that belong to no connection.
    pub drop_invalid: bool,
    /// What IPVS needs to know beside.
    pub ipvs: ipvs::Configuration,
    /// What iptables needs to know beside.
    pub iptables: iptables::Configuration,
}

/// A data plane at work.
#[derive(Debug)]
pub enum Plane {
    /// nftables.
    Nftables(nftables::Plane),
    /// IPVS.
    Ipvs(ipvs::Plane),
    /// iptables.
    Iptables(iptables::Plane),
}

impl Plane {
    /// Opens a plane; touches nothing yet.
    pub fn open(mode: Mode, options: &PlaneOptions) -> Result<Plane, Error> {
        match mode {
            Mode::Nftables => {
                Ok(Plane::Nftables(nftables::Plane::open(&options.families, options.drop_invalid)?))
            }
            Mode::Ipvs => {
                let PlaneOptions { families, drop_invalid, ipvs, .. } = options;
                Ok(Plane::Ipvs(ipvs::Plane::open(families, *drop_invalid, ipvs.clone())?))
            }
            Mode::Iptables => {
                let PlaneOptions { families, drop_invalid, iptables, .. } = options;
                Ok(Plane::Iptables(iptables::Plane::open(families, *drop_invalid, iptables.clone())?))
            }
        }
    }

    /// Whether the kernel has what the configuration asks for by name.
    pub fn check(&mut self) -> Result<(), Error> {
        match self {
            Plane::Nftables(_) | Plane::Iptables(_) => Ok(()),
            Plane::Ipvs(plane) => plane.check(),
        }
    }

    /// Makes the kernel hold what these Services ask for, whatever it holds now.
    pub fn reconcile<'a>(
        &mut self,
        node: &NodeRules,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        match self {
            Plane::Nftables(plane) => plane.reconcile(node, services),
            Plane::Ipvs(plane) => plane.reconcile(node, services),
            Plane::Iptables(plane) => plane.reconcile(node, services),
        }
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        match self {
            Plane::Nftables(plane) => plane.apply(deltas),
            Plane::Ipvs(plane) => plane.apply(deltas),
            Plane::Iptables(plane) => plane.apply(deltas),
        }
    }

    /// The steps from what the kernel holds, or from nothing, to what a plan asks for, in words.
    pub fn preview(&mut self, rules: &Rules, from_nothing: bool) -> Result<Vec<Preview>, Error> {
        match self {
            Plane::Nftables(plane) => plane.preview(rules, from_nothing),
            Plane::Ipvs(plane) => plane.preview(rules, from_nothing),
            Plane::Iptables(plane) => plane.preview(rules, from_nothing),
        }
    }

    /// What the kernel holds, read back as Services.
    pub fn show(&mut self) -> Result<Vec<ShownService>, Error> {
        match self {
            Plane::Nftables(plane) => plane.show(),
            Plane::Ipvs(plane) => plane.show(),
            Plane::Iptables(plane) => plane.show(),
        }
    }

    /// Looks whether somebody else changed what is ours.
    pub fn drift(&mut self) -> Result<Drift, Error> {
        match self {
            Plane::Nftables(plane) => plane.drift(),
            Plane::Ipvs(plane) => plane.drift(),
            Plane::Iptables(plane) => plane.drift(),
        }
    }

    /// Does what time brings: to be called every second or so.
    pub fn tick(&mut self, now: Instant) -> Report {
        match self {
            Plane::Nftables(_) | Plane::Iptables(_) => Report::default(),
            Plane::Ipvs(plane) => plane.drain(now),
        }
    }

    /// How many rules of ours each table of iptables has, in mode iptables.
    pub fn rule_counts(&self) -> Vec<iptables::RuleCount> {
        match self {
            Plane::Nftables(_) | Plane::Ipvs(_) => Vec::new(),
            Plane::Iptables(plane) => plane.rule_counts(),
        }
    }

    /// Forgets flows that have gone stale, and says how many.
    pub fn forget(&mut self, suspects: &Suspects, node: &NodeRules) -> Result<usize, Error> {
        conntrack::forget(suspects, node)
    }

    /// Takes away all that is ours, and says what that was.
    pub fn remove(&mut self) -> Result<Vec<String>, Error> {
        match self {
            Plane::Nftables(plane) => plane.remove(),
            Plane::Ipvs(plane) => plane.remove(),
            Plane::Iptables(plane) => plane.remove(),
        }
    }
}
