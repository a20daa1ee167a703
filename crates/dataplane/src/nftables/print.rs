//! How images and steps read, in `portolan plan` and in scenario files.

use super::image::{Front, Image, Inside, Item, Jump, Key, Masquerading, Pick, Placement};
use super::steps::Element;
use crate::PoolId;
use plan::At;
use std::fmt;
use std::net::SocketAddr;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Address(ip, port) => write!(f, "{}/{}", SocketAddr::new(ip, port), self.protocol),
            At::NodePort(port) => write!(f, "node:{port}/{}", self.protocol),
        }
    }
}

impl Pick {
    /// The chain's name.
    pub fn chain(&self) -> String {
        self.to_string()
    }
}

impl Placement {
    /// What its chains' names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Placement::Address => "pick",
            Placement::Node => "node-pick",
            Placement::AddressInside => "inside-pick",
            Placement::NodeInside => "node-inside-pick",
        }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.placement.prefix(), self.count)?;
        if self.affinity_seconds > 0 { write!(f, "-{}s", self.affinity_seconds) } else { Ok(()) }
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Jump::Pick { count, affinity_seconds: 0 } => write!(f, "pick {count}"),
            Jump::Pick { count, affinity_seconds } => write!(f, "pick {count} for {affinity_seconds}s"),
            Jump::Reject => f.write_str("reject"),
            Jump::Drop => f.write_str("drop"),
            Jump::Sources => f.write_str("sources"),
            Jump::Inside => f.write_str("inside"),
            Jump::Ipvs => f.write_str("ipvs"),
        }
    }
}

fn frontend(f: &mut fmt::Formatter<'_>, key: &Key, front: &Front) -> fmt::Result {
    let Front { label, pool, first, last, masquerading } = front;
    write!(f, "frontend {key} {label}: ")?;
    if first != last {
        write!(f, "{first}, then ")?;
    }
    write!(f, "{last}")?;
    if *pool != PoolId(0) {
        write!(f, " of {pool}")?;
    }
    f.write_str(match masquerading {
        Masquerading::Never => "",
        Masquerading::OffCluster => ", masquerade off-cluster",
        Masquerading::Always => ", masquerade",
        Masquerading::Node => ", masquerade the node",
    })
}

fn inside(f: &mut fmt::Formatter<'_>, key: &Key, inside: &Inside) -> fmt::Result {
    let Inside { pool, count, affinity_seconds } = *inside;
    write!(f, "inside {key}: {} of {pool}", Jump::Pick { count, affinity_seconds })
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Frontend(key, front) => frontend(f, key, front),
            Element::Inside(key, value) => inside(f, key, value),
            Element::Slot(pool, index, slot) => write!(f, "slot {pool} {index}: {slot}"),
            Element::Living(pool, slot) => write!(f, "living {pool} {slot}"),
            Element::Near(ip) => write!(f, "near {ip}"),
            Element::ClusterIp(ip) => write!(f, "cluster-ip {ip}"),
            Element::Source(key, network) => write!(f, "source {key} from {network}"),
            Element::Owned(key) => write!(f, "owned {key}"),
            Element::Earlier(number, value, _) => write!(f, "earlier {number}: {value}"),
        }
    }
}

/// One line an item, in an order that does not depend on how the image came about.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items: Vec<Item> = self.items().collect();
        items.sort_by_key(Item::key);
        for item in &mut items {
            match item {
                Item::Frontend(key, front) => frontend(f, key, front)?,
                Item::Inside(key, value) => inside(f, key, value)?,
                Item::Pool(id, slots, sticky) => {
                    slots.sort_unstable();
                    write!(f, "pool {id}{}:", if *sticky { " with affinity" } else { "" })?;
                    slots.iter().try_for_each(|slot| write!(f, " {slot}"))?;
                }
                Item::Near(ip) => write!(f, "near {ip}")?,
                Item::ClusterIp(ip) => write!(f, "cluster-ip {ip}")?,
                Item::Source(key, network) => write!(f, "source {key} from {network}")?,
                Item::Pick(pick) => write!(f, "chain {pick}")?,
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
