//! What joins hosts: a [`cable`] between two, and the nodes' common wire, whose members tell each
//! other the ways through them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use netlink::route::{Action, LinkChange, NewLink, Prefix, RouteEntry};

use crate::config::gateway;
use crate::error::{Doing, Error};
use crate::host::{Host, has_ipv6};

/// The link of every host that has but one.
pub(crate) const LINK: &str = "eth0";
const BRIDGE: &str = "br0";

/// The upper end of every link behind a router.
const UPPER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const UPPER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The lower end's link-local address. Nobody asks for it; neighbour discovery needs one.
const LOWER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Joins two hosts by a cable: a veth pair with these names at its ends, both up and ready.
/// Addresses and routes are the caller's business, but for IPv6's link-local ones.
///
/// # Errors
/// When a name is taken.
pub fn cable(upper: &Host, upper_link: &str, lower: &Host, lower_link: &str) -> Result<(), Error> {
    let peer = NewLink::Veth { peer: lower_link, namespace: Some(lower.as_fd()) };
    upper.netlink().add_link(upper_link, peer).doing(|| upper.name())?;
    for (host, link) in [(upper, upper_link), (lower, lower_link)] {
        host.set_up(link)?;
    }
    for (host, link, own) in [(upper, upper_link, UPPER_V6), (lower, lower_link, LOWER_V6)] {
        host.wait_until_ready(link)?;
        if has_ipv6() {
            host.add_address(link, Prefix { address: own.into(), length: 64 })?;
        }
    }
    Ok(())
}

/// Puts `lower` behind `upper`: a cable, these addresses, and all ways up.
pub(crate) fn attach(
    upper: &Host,
    upper_link: &str,
    lower: &Host,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    cable(upper, upper_link, lower, LINK)?;
    upper.add_address(upper_link, Prefix::host(UPPER_V4.into()))?;
    let (down, up) = (upper.link_index(upper_link)?, lower.link_index(LINK)?);
    lower.change_route(Action::Add, &RouteEntry::direct(Prefix::host(UPPER_V4.into()), up))?;
    for &address in addresses {
        let to_lower = Prefix::host(address);
        lower.add_address(LINK, to_lower)?;
        // With the upper's own address as the source: the kernel would choose 169.254.1.1.
        let source = upper.address_like(address);
        upper.change_route(Action::Add, &RouteEntry { source, ..RouteEntry::direct(to_lower, down) })?;
        let gateway = match address {
            IpAddr::V4(_) => UPPER_V4.into(),
            IpAddr::V6(_) => UPPER_V6.into(),
        };
        lower.change_route(Action::Replace, &RouteEntry::via(any_like(address), gateway, Some(up)))?;
    }
    Ok(())
}

/// The nodes' network: a bridge in a namespace of its own.
#[derive(Debug)]
pub(crate) struct Wire {
    host: Host,
    networks: Vec<Prefix>,
    /// So many links were made; their names count.
    links: u32,
    members: Vec<Member>,
}

/// A host on the wire, and what it tells the others about the ways through it.
#[derive(Debug)]
struct Member {
    host: Host,
    /// The name of the wire's end of its link.
    port: String,
    /// Networks that are reached through it.
    behind: Vec<Prefix>,
}

impl Wire {
    /// A wire that holds these networks and, at their gateway addresses, answers nothing.
    pub(crate) fn new(networks: &[Prefix]) -> Result<Wire, Error> {
        let host = Host::new("wire")?;
        host.netlink().add_link(BRIDGE, NewLink::Bridge).doing(|| "wire")?;
        host.set_up(BRIDGE)?;
        for network in networks {
            host.add_address(BRIDGE, gateway(*network))?;
        }
        Ok(Wire { host, networks: networks.to_vec(), links: 0, members: Vec::new() })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Puts `host` on the wire and tells everybody the way to it and to what is `behind` it.
    pub(crate) fn join(&mut self, host: &Host, addresses: &[IpAddr], behind: &[Prefix]) -> Result<(), Error> {
        self.links += 1;
        let port = format!("port{}", self.links);
        self.plug_in(host, &port)?;
        for &address in addresses {
            let network = self.networks.iter().find(|network| network.contains(address));
            let length = network.map_or(Prefix::host(address).length, |network| network.length);
            host.add_address(LINK, Prefix { address, length })?;
        }
        for network in &self.networks {
            reach(host, *network)?;
        }
        let member = Member { host: host.clone(), port, behind: behind.to_vec() };
        for other in &self.members {
            self.tell(&member, other)?;
            self.tell(other, &member)?;
        }
        self.members.push(member);
        Ok(())
    }

    fn plug_in(&self, host: &Host, port: &str) -> Result<(), Error> {
        let doing = || format!("connect {} to the wire", host.name());
        let peer = NewLink::Veth { peer: LINK, namespace: Some(host.as_fd()) };
        self.host.netlink().add_link(port, peer).doing(doing)?;
        host.set_up(LINK)?;
        self.host.set_up(port)?;
        self.host.wait_until_ready(port)?;
        host.wait_until_ready(LINK)?;
        // Only now: a port that joins a bridge ready forwards at once (`br_add_if`).
        let (port, bridge) = (self.host.link_index(port)?, self.host.link_index(BRIDGE)?);
        self.host.netlink().change_link(port, LinkChange::Master(Some(bridge))).doing(doing)?;
        if has_ipv6() {
            let own = Ipv6Addr::from_bits(LOWER_V6.to_bits() + u128::from(self.links));
            host.add_address(LINK, Prefix { address: own.into(), length: 64 })?;
        }
        Ok(())
    }

    /// Tells everybody that `prefix` is behind `through`.
    pub(crate) fn announce(&mut self, through: &Host, prefix: Prefix) -> Result<(), Error> {
        for member in &mut self.members {
            if member.host.is(through) {
                member.behind.push(prefix);
            } else if let Some(gateway) = through.address_like(prefix.address) {
                member.host.route_via(prefix, gateway)?;
            }
        }
        Ok(())
    }

    /// Tells `listener` the way to `member` and what is behind it.
    fn tell(&self, member: &Member, listener: &Member) -> Result<(), Error> {
        for address in member.host.addresses() {
            if !self.networks.iter().any(|network| network.contains(address)) {
                let link = listener.host.link_index(LINK)?;
                let source = listener.host.address_like(address);
                let route = RouteEntry { source, ..RouteEntry::direct(Prefix::host(address), link) };
                listener.host.change_route(Action::Replace, &route)?;
            }
        }
        for prefix in &member.behind {
            if let Some(gateway) = member.host.address_like(prefix.address) {
                listener.host.route_via(*prefix, gateway)?;
            }
        }
        Ok(())
    }

    /// Sets the wire's end of a member's link up or down.
    pub(crate) fn change_port(&self, host: &Host, change: LinkChange<'_>) -> Result<(), Error> {
        let member = self.members.iter().find(|member| member.host.is(host));
        let member = member.ok_or_else(|| Error::Refused(format!("{} is not on the wire", host.name())))?;
        let index = self.host.link_index(&member.port)?;
        self.host.netlink().change_link(index, change).doing(|| host.name())
    }

    pub(crate) fn forget(&mut self, host: &Host) {
        self.members.retain(|member| !member.host.is(host));
    }
}

/// The way to the nodes' network, and to all else by its gateway.
fn reach(host: &Host, network: Prefix) -> Result<(), Error> {
    let gateway = gateway(network).address;
    let Some(own) = host.address_like(gateway) else { return Ok(()) };
    let link = host.link_index(LINK)?;
    if !network.contains(own) {
        let route = RouteEntry { source: Some(own), ..RouteEntry::direct(network, link) };
        host.change_route(Action::Replace, &route)?;
    }
    host.change_route(Action::Add, &RouteEntry::via(any_like(gateway), gateway, Some(link)))
}

/// All addresses of this one's family.
fn any_like(address: IpAddr) -> Prefix {
    match address {
        IpAddr::V4(_) => Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 },
        IpAddr::V6(_) => Prefix { address: Ipv6Addr::UNSPECIFIED.into(), length: 0 },
    }
}
