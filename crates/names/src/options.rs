//! What the Corefile says of a cluster's names.

use crate::Selector;
use model::Name as Word;
use std::collections::BTreeSet;
use std::net::IpAddr;
use wire::Name;

/// Whether addresses of pods have names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// None has.
    #[default]
    Disabled,
    /// Any address has, in a namespace that exists.
    Insecure,
    /// That of a pod has, in its namespace.
    Verified,
}

/// One zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneName {
    /// Its name, in lower case.
    pub name: Name,
    /// It is below `in-addr.arpa` or `ip6.arpa`.
    pub reverse: bool,
    /// It has the names of ServiceImports (`multicluster`).
    pub multicluster: bool,
}

impl ZoneName {
    /// A zone of this name.
    pub fn new(name: &Name, multicluster: bool) -> ZoneName {
        let name = name.lowercase();
        let reverse =
            ["in-addr.arpa", "ip6.arpa"].iter().any(|end| end.parse().is_ok_and(|end| name.is_in(&end)));
        ZoneName { name, reverse, multicluster }
    }
}

/// What the Corefile says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The zones.
    pub zones: Vec<ZoneName>,
    /// The first that is not reverse: reverse look-ups lead there.
    pub primary: Name,
    /// `pods`.
    pub pods: PodMode,
    /// `endpoint_pod_names`: endpoints without a host name are called like their pods.
    pub endpoint_pod_names: bool,
    /// `ttl`.
    pub ttl_s: u32,
    /// `noendpoints`: names of Services only.
    pub no_endpoints: bool,
    /// `ignore empty_service`: a Service without ready endpoints has no name.
    pub ignore_empty: bool,
    /// `zonal`: names of the endpoints in one zone.
    pub zonal: bool,
    /// `namespaces`: these only; all where there is none.
    pub namespaces: BTreeSet<Word>,
    /// `namespace_labels`.
    pub namespace_labels: Option<Selector>,
    /// `labels`, of Services.
    pub labels: Option<Selector>,
    /// `fallthrough`: below these zones, names that do not exist are somebody else's.
    pub fallthrough: Vec<Name>,
    /// The server's own addresses, for NS records.
    pub local: Vec<IpAddr>,
}

impl Options {
    /// What a Corefile says that says nothing more. `None` without a zone that is not reverse.
    pub fn new(zones: Vec<ZoneName>) -> Option<Options> {
        let primary = zones.iter().find(|zone| !zone.reverse)?.name;
        Some(Options {
            zones,
            primary,
            pods: PodMode::Disabled,
            endpoint_pod_names: false,
            ttl_s: 5,
            no_endpoints: false,
            ignore_empty: false,
            zonal: false,
            namespaces: BTreeSet::new(),
            namespace_labels: None,
            labels: None,
            fallthrough: Vec::new(),
            local: Vec::new(),
        })
    }

    /// The zone that a name is in, the longest one.
    pub fn zone_of(&self, name: &Name) -> Option<&ZoneName> {
        longest(&self.zones, name)
    }
}

/// The longest zone that a name is in.
fn longest<'z>(zones: &'z [ZoneName], name: &Name) -> Option<&'z ZoneName> {
    let zones = zones.iter().filter(|zone| name.is_in(&zone.name));
    zones.max_by_key(|zone| zone.name.as_bytes().len())
}

/// What the Corefile says of names for the world outside the cluster (`k8s_external`).
#[derive(Clone, Debug)]
pub struct External {
    /// The zones.
    pub zones: Vec<ZoneName>,
    /// The first that is not reverse, if there is one: reverse look-ups lead there.
    pub primary: Name,
    /// What is below it, before the zone, are names of this server: `dns`.
    pub apex: Name,
    /// How long answers may be kept.
    pub ttl_s: u32,
    /// Endpoints of headless Services have names, too.
    pub headless: bool,
    /// Below these zones, names that do not exist are somebody else's.
    pub fallthrough: Vec<Name>,
}

impl External {
    /// What a Corefile says that says nothing more.
    pub fn new(zones: Vec<ZoneName>) -> External {
        let primary = zones.iter().find(|zone| !zone.reverse).or(zones.first());
        let primary = primary.map_or(Name::ROOT, |zone| zone.name);
        let mut apex = Name::ROOT;
        // A label of three letters fits into a name without any.
        let _ = apex.push(b"dns");
        External { zones, primary, apex, ttl_s: 5, headless: false, fallthrough: Vec::new() }
    }

    /// The zone that a name is in, the longest one.
    pub fn zone_of(&self, name: &Name) -> Option<&ZoneName> {
        longest(&self.zones, name)
    }
}
