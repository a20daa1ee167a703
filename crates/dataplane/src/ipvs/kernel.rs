//! The kernel's virtual servers, and the addresses they are found at: reading them, making ready
//! for them, carrying steps out.

use super::half::{Held, Servers};
use super::image::{Config, Server, ServerKey};
use super::schedulers;
use super::steps::Step;
use super::switches::{self, Number, Wrong};
use crate::Error;
use crate::nftables::Key;
use crate::pool::Slot;
use crate::sysctl;
use model::{Family, Protocol};
use netlink::ipvs::{
    Destination, DestinationInfo, Forwarding, Ipvs, PERSISTENT, Requests, SCHED1, Service, ServiceKey,
};
use netlink::route::{
    Action, Address, LinkChange, NewLink, Prefix, RouteEntry, RouteFilter, RouteKind, TABLE_LOCAL,
};
use netlink::{Route, Socket};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The device that Services' addresses belong to, by the name that kube-proxy gave it and that
/// others look for.
pub const DEVICE: &str = "kube-ipvs0";
/// Who made a route, in the kernel's list of such numbers: one that is nobody's.
const ROUTE_PROTOCOL: u8 = 112;

/// What is missing, and where it comes from.
const NO_IPVS: &str = "this kernel has no IPVS: it wants the module ip_vs, and one for each scheduler, as \
    ip_vs_rr (modprobe ip_vs). They come with the distribution's kernel: in linux-image-… of Debian, in \
    linux-modules-… or linux-modules-extra-… of Ubuntu, in kernel-modules of Fedora and RHEL; a kernel of \
    your own wants CONFIG_IP_VS";
const NO_DUMMY: &str = "this kernel has no dummy devices, to which Services' addresses belong: it wants the \
    module dummy (modprobe dummy; CONFIG_DUMMY)";

/// How an address is made the node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Addresses {
    /// By a local route: ten thousand take a tenth of a second.
    #[default]
    Routes,
    /// By putting it on the device, where `ip addr` shows it: ten thousand take seconds, and each
    /// one more takes longer.
    Device,
}

/// What of the kernel the configuration decides.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// How an address is made the node's own.
    pub addresses: Addresses,
    /// The node answers ARP only for addresses on the interface that is asked.
    pub strict_arp: bool,
    /// How long idle connections are kept; 0 leaves a time as it is.
    pub timeouts: Timeouts,
}

/// How long idle connections are kept, in seconds; 0 leaves a time as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Of established TCP connections.
    pub tcp_s: u32,
    /// Of TCP connections after a FIN.
    pub tcp_fin_s: u32,
    /// Of UDP.
    pub udp_s: u32,
}

/// The kernel of one family, in the network namespace that the sockets were opened in.
#[derive(Debug)]
pub struct Kernel {
    family: Family,
    settings: Settings,
    route: Socket<Route>,
    ipvs: Ipvs,
    /// The device's number, once it is known.
    device: u32,
}

impl Kernel {
    /// Opens a way to the kernel; touches nothing yet.
    pub fn open(family: Family, settings: Settings) -> Result<Kernel, Error> {
        let ipvs = match Ipvs::open() {
            Ok(ipvs) => ipvs,
            Err(error) if error.is_not_found() => return Err(Error::Lacking(NO_IPVS.to_owned())),
            Err(error) => return Err(error.into()),
        };
        Ok(Kernel { family, settings, route: Socket::open()?, ipvs, device: 0 })
    }

    /// The addresses on the node's interfaces, the device for Services' addresses left out.
    pub fn node_addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        let device = self.find_device()?;
        let addresses = self.route.addresses(None)?.into_iter();
        let addresses = addresses.filter(|a| Some(a.link) != device && a.usable);
        Ok(addresses.map(|a| a.prefix.address).filter(|ip| Family::of(*ip) == self.family).collect())
    }

    fn find_device(&mut self) -> Result<Option<u32>, Error> {
        match self.route.link(DEVICE) {
            Ok(link) => Ok(Some(link.index)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the device away if nothing is left on it.
    pub fn remove_device(&mut self) -> Result<bool, Error> {
        let Some(device) = self.find_device()? else { return Ok(false) };
        let addresses = self.route.addresses(Some(device))?;
        let link_local =
            |a: &Address| matches!(a.prefix.address, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let filter =
            RouteFilter { link: Some(device), kind: Some(RouteKind::Local), ..RouteFilter::default() };
        let ours = |route: &RouteEntry| route.protocol == ROUTE_PROTOCOL;
        if addresses.iter().any(|a| !link_local(a)) || self.route.routes(filter)?.iter().any(ours) {
            return Ok(false);
        }
        self.route.delete_link(device)?;
        Ok(true)
    }

    fn install_device(&mut self, said: &mut Vec<String>) -> Result<(), Error> {
        if self.find_device()?.is_none() {
            match self.route.add_link(DEVICE, NewLink::Dummy) {
                Ok(_) => {}
                Err(error) if error.is_unsupported() => return Err(Error::Lacking(NO_DUMMY.to_owned())),
                Err(error) => return Err(error.into()),
            }
            said.push(format!("+ device {DEVICE}"));
        }
        let link = self.route.link(DEVICE)?;
        if !link.up {
            // Routes lead only to devices that are up.
            self.route.change_link(link.index, LinkChange::Up)?;
            said.push(format!("~ device {DEVICE} up"));
        }
        self.device = link.index;
        Ok(())
    }

    /// The timeouts that are not as configured. They are the same for both families.
    fn wrong_timeouts(&mut self) -> Result<Vec<Wrong>, Error> {
        if self.settings.timeouts == Timeouts::default() {
            return Ok(Vec::new());
        }
        let has = in_order(&self.ipvs.timeouts()?);
        let Timeouts { tcp_s, tcp_fin_s, udp_s } = self.settings.timeouts;
        let all = switches::TIMEOUTS.into_iter().zip(has).zip([tcp_s, tcp_fin_s, udp_s]);
        let wrong = all.filter(|((_, has), wants)| *wants != 0 && wants != has);
        Ok(wrong.map(|(((number, name), has), wants)| Wrong { number, name, has, wants }).collect())
    }

    fn set_timeout(&mut self, number: Number, seconds: u32) -> Result<(), Error> {
        let set = |place: usize| match switches::TIMEOUTS.get(place) {
            Some((other, _)) if *other == number => seconds,
            _ => 0,
        };
        let mut requests = self.ipvs.requests();
        let timeouts = netlink::ipvs::Timeouts { tcp_s: set(0), tcp_fin_s: set(1), udp_s: set(2) };
        requests.set_timeouts(timeouts);
        Ok(self.ipvs.send(&"set how long IPVS keeps idle connections", &mut requests)?)
    }

    fn read_addresses(&mut self, ours: &HashSet<IpAddr>) -> Result<HashSet<IpAddr>, Error> {
        let Some(device) = self.find_device()? else { return Ok(HashSet::new()) };
        self.device = device;
        let found: Vec<IpAddr> = match self.settings.addresses {
            Addresses::Device => {
                self.route.addresses(Some(device))?.into_iter().map(|a| a.prefix.address).collect()
            }
            Addresses::Routes => {
                // Also those that come from addresses which another proxy has left on the device.
                let filter = RouteFilter {
                    table: Some(TABLE_LOCAL),
                    link: Some(device),
                    kind: Some(RouteKind::Local),
                    protocol: None,
                };
                self.route.routes(filter)?.into_iter().map(|r| r.destination.address).collect()
            }
        };
        Ok(found.into_iter().filter(|ip| Family::of(*ip) == self.family && ours.contains(ip)).collect())
    }

    fn read_server(&mut self, service: &Service) -> Result<Server, Error> {
        let mut backends = BTreeMap::new();
        for found in self.ipvs.destinations(&service.key)? {
            let Destination { address, port, weight, forwarding, .. } = found.destination;
            // One that forwards otherwise is not ours; it is replaced when its place is wanted.
            if forwarding == Forwarding::Masquerade {
                backends.insert(Slot { address, port }, u16::try_from(weight).unwrap_or(u16::MAX));
            }
        }
        Ok(Server { config: read_config(service), backends })
    }

    /// Makes addresses the node's own, or takes them back, in one of the two ways.
    fn change_addresses(
        &mut self,
        way: Addresses,
        action: Action,
        addresses: &[IpAddr],
    ) -> Result<(), netlink::Error> {
        let device = self.device;
        match way {
            Addresses::Routes => {
                let route =
                    |ip: &IpAddr| RouteEntry { protocol: ROUTE_PROTOCOL, ..RouteEntry::local(*ip, device) };
                self.route.change_routes(action, &addresses.iter().map(route).collect::<Vec<_>>())
            }
            Addresses::Device => {
                let address = |ip: &IpAddr| Address::new(device, Prefix::host(*ip));
                self.route.change_addresses(action, &addresses.iter().map(address).collect::<Vec<_>>())
            }
        }
    }

    /// Takes addresses back. One that is not there in our way is there in the other, from a time when
    /// the configuration was another, or from another proxy.
    fn take_addresses_back(&mut self, addresses: &[IpAddr]) -> Result<(), netlink::Error> {
        let way = self.settings.addresses;
        let Err(error) = self.change_addresses(way, Action::Delete, addresses) else { return Ok(()) };
        let missing = error.refused().iter().filter(|one| one.refusal.is_not_found());
        let missing: Vec<IpAddr> = missing.filter_map(|one| addresses.get(one.index).copied()).collect();
        if missing.is_empty() || missing.len() < error.refused().len() {
            return Err(error);
        }
        let other = match way {
            Addresses::Routes => Addresses::Device,
            Addresses::Device => Addresses::Routes,
        };
        match self.change_addresses(other, Action::Delete, &missing) {
            Err(error) if error.refused().iter().any(|one| !one.refusal.is_not_found()) => Err(error),
            _ => Ok(()),
        }
    }

    /// Carries out those of the steps that are for IPVS and that `which` picks.
    fn carry_servers(
        &mut self,
        steps: &[Step],
        refused: &mut Vec<(usize, String)>,
        which: impl Fn(&Step) -> bool,
    ) {
        let mut requests = self.ipvs.requests();
        let mut places = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            if which(step) && request(step, &mut requests) {
                places.push(index);
            }
        }
        if !requests.is_empty() {
            let done = self.ipvs.send(&"change virtual servers", &mut requests);
            collect_refusals(done, &places, steps, refused);
        }
    }
}

/// Where a virtual server is made for a moment, to see whether the kernel has its scheduler. No
/// connection can go there.
fn nowhere(family: Family) -> ServerKey {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    ServerKey { address, port: u16::MAX, protocol: Protocol::Tcp }
}

impl Servers for Kernel {
    fn has_scheduler(&mut self, name: &str) -> Result<bool, Error> {
        if !schedulers::is_name(name) {
            return Ok(false);
        }
        let key = service_key(&nowhere(self.family));
        let mut requests = self.ipvs.requests();
        // One that a crash has left goes first.
        requests.delete_service(&key);
        requests.add_service(&Service::new(key, name));
        requests.delete_service(&key);
        let Err(error) = self.ipvs.send(&format_args!("try the IPVS scheduler {name}"), &mut requests) else {
            return Ok(true);
        };
        match error.refused().iter().find(|refused| refused.index == 1) {
            None if error.refused().is_empty() => Err(error.into()),
            None => Ok(true),
            Some(refused) if refused.refusal.is_not_found() => Ok(false),
            Some(_) => Err(error.into()),
        }
    }

    fn install(&mut self) -> Result<Vec<String>, Error> {
        let mut said = Vec::new();
        self.install_device(&mut said)?;
        Ok(said)
    }

    fn wrong_switches(&mut self) -> Result<Vec<Wrong>, Error> {
        let mut wrong = switches::wrong(self.family, &self.settings)?;
        wrong.extend(self.wrong_timeouts()?);
        Ok(wrong)
    }

    fn set_switch(&mut self, wrong: &Wrong) -> Result<(), Error> {
        match is_timeout(wrong.number) {
            true => self.set_timeout(wrong.number, wrong.wants),
            false => sysctl::write(wrong.name, wrong.wants),
        }
    }

    fn wants_switch(&self, number: Number) -> bool {
        let Timeouts { tcp_s, tcp_fin_s, udp_s } = self.settings.timeouts;
        let mut timeouts = switches::TIMEOUTS.iter().zip([tcp_s, tcp_fin_s, udp_s]);
        timeouts.any(|((other, _), seconds)| *other == number && seconds != 0)
            || switches::wants(number, self.family, &self.settings)
    }

    fn restore_switch(&mut self, number: Number, earlier: u32) -> Result<Option<String>, Error> {
        if !is_timeout(number) {
            return switches::restore(number, earlier);
        }
        let has = in_order(&self.ipvs.timeouts()?);
        let found = switches::TIMEOUTS.into_iter().zip(has).find(|((other, _), _)| *other == number);
        let Some(((_, name), has)) = found.filter(|(_, has)| *has != earlier) else { return Ok(None) };
        self.set_timeout(number, earlier)?;
        Ok(Some(switches::said(name, has, earlier)))
    }

    fn read(&mut self, ours: &HashSet<Key>, addresses: &HashSet<IpAddr>) -> Result<Held, Error> {
        let mut servers = BTreeMap::new();
        for found in self.ipvs.services()? {
            let Some(key) = read_key(&found.service.key) else { continue };
            if Family::of(key.address) == self.family && ours.contains(&key.key()) {
                servers.insert(key, self.read_server(&found.service)?);
            }
        }
        Ok((servers, self.read_addresses(addresses)?))
    }

    fn server(&mut self, key: ServerKey) -> Result<Option<Server>, Error> {
        match self.ipvs.service(&service_key(&key)) {
            Ok(found) => self.read_server(&found.service).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has_address(&mut self, ip: IpAddr) -> Result<bool, Error> {
        Ok(self.route.kind_of_way_to(ip)? == Some(RouteKind::Local))
    }

    fn carry(&mut self, steps: &[Step]) -> Vec<(usize, String)> {
        let mut refused = Vec::new();
        self.carry_servers(steps, &mut refused, |step| matches!(step, Step::AddServer(..)));
        // A server that cannot be made is somebody else's, perhaps: what was meant for ours must not go there.
        let made = |(index, _): &(usize, String)| match steps.get(*index) {
            Some(Step::AddServer(key, _)) => Some(*key),
            _ => None,
        };
        let not_ours: HashSet<ServerKey> = refused.iter().filter_map(made).collect();
        let is_ours = |step: &Step| step.server().is_none_or(|key| !not_ours.contains(&key));
        self.carry_servers(steps, &mut refused, |step| !matches!(step, Step::AddServer(..)) && is_ours(step));
        let meant = steps.iter().enumerate().filter(|(_, step)| !is_ours(step));
        let meant = meant.filter(|(_, step)| !matches!(step, Step::AddServer(..)));
        refused.extend(meant.map(|(index, _)| (index, "its virtual server was refused".to_owned())));
        let addresses = |wanted: fn(&Step) -> Option<IpAddr>| -> (Vec<usize>, Vec<IpAddr>) {
            steps.iter().enumerate().filter_map(|(index, step)| Some((index, wanted(step)?))).unzip()
        };
        let (places, come) = addresses(|step| match step {
            Step::AddAddress(ip) => Some(*ip),
            _ => None,
        });
        if !come.is_empty() {
            let done = self.change_addresses(self.settings.addresses, Action::Add, &come);
            collect_refusals(done, &places, steps, &mut refused);
        }
        let (places, gone) = addresses(|step| match step {
            Step::RemoveAddress(ip) => Some(*ip),
            _ => None,
        });
        if !gone.is_empty() {
            let done = self.take_addresses_back(&gone);
            collect_refusals(done, &places, steps, &mut refused);
        }
        refused.sort_unstable();
        refused
    }

    fn connections(&mut self, server: ServerKey) -> Result<BTreeMap<Slot, u64>, Error> {
        let found = match self.ipvs.destinations(&service_key(&server)) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let count = |found: DestinationInfo| {
            let slot = Slot { address: found.destination.address, port: found.destination.port };
            (slot, u64::from(found.active) + u64::from(found.inactive))
        };
        Ok(found.into_iter().map(count).collect())
    }
}

/// Notes what was refused. When the exchange itself failed, all of it was. What was to be taken away
/// and is not there counts as done.
fn collect_refusals(
    done: Result<(), netlink::Error>,
    places: &[usize],
    steps: &[Step],
    refused: &mut Vec<(usize, String)>,
) {
    let Err(error) = done else { return };
    if error.refused().is_empty() {
        refused.extend(places.iter().map(|index| (*index, error.to_string())));
    }
    for one in error.refused() {
        let Some(index) = places.get(one.index) else { continue };
        let removes = matches!(
            steps.get(*index),
            Some(Step::RemoveServer(_) | Step::RemoveBackend(..) | Step::RemoveAddress(_))
        );
        if !(removes && one.refusal.is_not_found()) {
            refused.push((*index, one.refusal.to_string()));
        }
    }
}

fn service_key(key: &ServerKey) -> ServiceKey {
    let ServerKey { address, port, protocol } = *key;
    ServiceKey::Address { protocol: protocol.number(), address, port }
}

fn read_key(key: &ServiceKey) -> Option<ServerKey> {
    match *key {
        ServiceKey::Address { protocol, address, port } => {
            Some(ServerKey { address, port, protocol: Protocol::from_number(protocol)? })
        }
        ServiceKey::Mark { .. } => None,
    }
}

/// The flag by which both sh and mh fall back.
const FALLBACK: u32 = SCHED1;

fn service(key: &ServerKey, config: &Config) -> Service {
    let Config { scheduler, fallback, affinity_seconds } = config;
    let persistent = affinity_seconds.map_or(0, |_| PERSISTENT);
    let fallback = if *fallback { FALLBACK } else { 0 };
    Service {
        flags: persistent | fallback,
        timeout_s: affinity_seconds.unwrap_or(0),
        ..Service::new(service_key(key), scheduler)
    }
}

fn read_config(service: &Service) -> Config {
    Config {
        scheduler: (&*service.scheduler).into(),
        fallback: service.flags & FALLBACK != 0,
        affinity_seconds: (service.flags & PERSISTENT != 0).then_some(service.timeout_s),
    }
}

fn destination(slot: &Slot, weight: u16) -> Destination {
    Destination::new(slot.address, slot.port, weight.into())
}

/// Adds what carries out a step, if it is one for IPVS.
fn request(step: &Step, requests: &mut Requests) -> bool {
    match step {
        Step::AddServer(key, config) => requests.add_service(&service(key, config)),
        Step::EditServer(key, config) => requests.set_service(&service(key, config)),
        Step::RemoveServer(key) => requests.delete_service(&service_key(key)),
        Step::AddBackend(key, slot, weight) => {
            requests.add_destination(&service_key(key), &destination(slot, *weight));
        }
        Step::SetWeight(key, slot, weight) => {
            requests.set_destination(&service_key(key), &destination(slot, *weight));
        }
        Step::RemoveBackend(key, slot) => {
            requests.delete_destination(&service_key(key), slot.address, slot.port);
        }
        Step::Table(_) | Step::AddAddress(_) | Step::RemoveAddress(_) => return false,
    }
    true
}

fn is_timeout(number: Number) -> bool {
    switches::TIMEOUTS.iter().any(|(other, _)| *other == number)
}

fn in_order(timeouts: &netlink::ipvs::Timeouts) -> [u32; 3] {
    [timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s]
}
