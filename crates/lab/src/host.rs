//! A host: a namespace with a name, addresses and a routing table, from which one can ask and in
//! which one can serve. Pods, nodes, routers and outside clients are all hosts; what makes them
//! different is how [`Lab`](crate::Lab) has wired them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlink::Socket;
use netlink::route::{Action, Address, LinkChange, Prefix, RouteEntry};

use crate::client::{Client, PATIENCE};
use crate::error::{Doing, Error};
use crate::latency::Door;
use crate::namespace::{Namespace, Process};
use crate::ping::ping;
use crate::question::{Failure, Protocol, Reply};
use crate::server::Server;

/// How long a link may take from "up" to passing packets, and an address to being found.
const READY_MAX: Duration = Duration::from_secs(10);
/// How often we look.
const READY_POLL: Duration = Duration::from_micros(500);
/// The multicast groups joined in the namespace of the thread that reads it.
const GROUPS: &str = "/proc/thread-self/net/igmp6";

/// What every host sets before it has any link, so that nothing depends on the machine's own
/// settings, which a new namespace inherits (`inetdev_init`, `devconf_inherit_init_net`).
const SYSCTLS: [(&str, &str); 8] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Hairpin leaves by the link it came in: no advice to the sender to go there directly.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    // Everybody in here may ping.
    ("ipv4/ping_group_range", "0 0"),
    ("ipv4/ip_nonlocal_bind", "0"),
];
/// The same for IPv6. No addresses but those we give: a link-local address that is still looking
/// for its duplicates makes the first packets late.
const SYSCTLS_V6: [(&str, &str); 7] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
];

/// A host in the lab. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: Namespace,
    route: Mutex<Socket<netlink::Route>>,
    addresses: Mutex<Vec<IpAddr>>,
}

impl Host {
    /// A host with a loopback device and no wire yet, which does not forward.
    ///
    /// # Errors
    /// When a namespace cannot be made or set up.
    pub fn new(name: &str) -> Result<Host, Error> {
        Host::forwarding(name, "0")
    }

    /// The same, forwarding.
    ///
    /// # Errors
    /// When a namespace cannot be made or set up.
    pub fn router(name: &str) -> Result<Host, Error> {
        Host::forwarding(name, "1")
    }

    fn forwarding(name: &str, forward: &str) -> Result<Host, Error> {
        let namespace = Namespace::new()?;
        // First of all: writing ip_forward sets other values to what a host or router has.
        let mut sysctls = vec![("ipv4/ip_forward", forward)];
        sysctls.extend(SYSCTLS);
        if has_ipv6() {
            sysctls.push(("ipv6/conf/all/forwarding", forward));
            sysctls.push(("ipv6/conf/default/forwarding", forward));
            sysctls.extend(SYSCTLS_V6);
        }
        let socket = namespace.run(|| -> Result<_, Error> {
            for (sysctl, value) in sysctls {
                let path = format!("/proc/sys/net/{sysctl}");
                fs::write(&path, value).doing(|| format!("write {value} to {path} on {name}"))?;
            }
            Socket::open().doing(|| format!("set up {name}"))
        })??;
        let inner = Inner {
            name: name.to_owned(),
            namespace,
            route: Mutex::new(socket),
            addresses: Mutex::new(Vec::new()),
        };
        let host = Host { inner: Arc::new(inner) };
        host.set_up("lo")?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// Whether both are handles to the same host.
    pub fn is(&self, other: &Host) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    //--- Addresses and routes

    /// The addresses the lab gave it, in the order given.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.inner.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its first IPv4 address.
    ///
    /// # Panics
    /// When it has none.
    pub fn ipv4(&self) -> Ipv4Addr {
        let first = self.addresses().into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        first.unwrap_or_else(|| panic!("{} has no IPv4 address", self.name()))
    }

    /// Its first IPv6 address.
    ///
    /// # Panics
    /// When it has none.
    pub fn ipv6(&self) -> Ipv6Addr {
        let first = self.addresses().into_iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        first.unwrap_or_else(|| panic!("{} has no IPv6 address", self.name()))
    }

    /// Its first address of the same family as `other`.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses().into_iter().find(|address| address.is_ipv4() == other.is_ipv4())
    }

    /// Puts an address on a link.
    ///
    /// # Errors
    /// When it is there already, or the link is not.
    pub fn add_address(&self, link: &str, prefix: Prefix) -> Result<(), Error> {
        let device = self.netlink().link(link).doing(|| self.name())?;
        let address = Address::new(device.index, prefix);
        self.netlink().change_address(Action::Add, &address).doing(|| self.name())?;
        if let IpAddr::V6(address) = prefix.address
            && matches!(device.kind.as_deref(), Some("veth" | "bridge"))
        {
            self.wait_until_solicited(link, address)?;
        }
        if address.scope == netlink::route::Scope::Universe {
            self.inner.addresses.lock().unwrap_or_else(PoisonError::into_inner).push(prefix.address);
        }
        Ok(())
    }

    /// Sends packets for `destination` to the router at `gateway` from now on.
    ///
    /// # Errors
    /// When no link leads to the gateway.
    pub fn route_via(&self, destination: Prefix, gateway: IpAddr) -> Result<(), Error> {
        self.change_route(Action::Replace, &RouteEntry::via(destination, gateway, None))
    }

    /// Any other change to its routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change_route(&self, action: Action, route: &RouteEntry) -> Result<(), Error> {
        self.netlink().change_route(action, route).doing(|| self.name())
    }

    /// Its route socket, for all else. Hold it briefly: the host's other methods wait for it.
    pub fn netlink(&self) -> MutexGuard<'_, Socket<netlink::Route>> {
        self.inner.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no packet leaves it, and nobody is told: a machine that has died as far as
    /// others can see. Its programs go on. Good for pods; a node is better cut off with
    /// [`Lab::unplug`](crate::Lab::unplug), for it forwards for others.
    ///
    /// # Errors
    /// When it is silent already.
    pub fn silence(&self) -> Result<(), Error> {
        self.halves(Action::Add)
    }

    /// Ends a [`silence`](Self::silence).
    ///
    /// # Errors
    /// When it was not silent.
    pub fn speak(&self) -> Result<(), Error> {
        self.halves(Action::Delete)
    }

    /// Black holes for the two halves of everything, which go before the default route and
    /// leave alone what is more precise: its gateway, which goes on hearing that it is there.
    fn halves(&self, action: Action) -> Result<(), Error> {
        let mut halves = vec![
            Prefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 1 },
            Prefix { address: IpAddr::V4(Ipv4Addr::new(128, 0, 0, 0)), length: 1 },
        ];
        if has_ipv6() {
            halves.push(Prefix { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 1 });
            halves
                .push(Prefix { address: IpAddr::V6(Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0)), length: 1 });
        }
        let routes: Vec<_> = halves.into_iter().map(RouteEntry::blackhole).collect();
        self.netlink().change_routes(action, &routes).doing(|| self.name())
    }

    //--- Traffic

    /// A client on this host.
    pub fn client(&self, protocol: Protocol) -> Client {
        Client::new(self.inner.namespace.clone(), protocol)
    }

    /// Asks whoever is at `target` who they are.
    ///
    /// # Errors
    /// The [`Failure`] as this host saw it.
    ///
    /// # Panics
    /// As [`Client::ask`].
    pub fn ask(&self, protocol: Protocol, target: impl Into<SocketAddr>) -> Result<Reply, Failure> {
        self.client(protocol).ask(target.into())
    }

    /// Pings `target` once, waiting [`PATIENCE`] at most; the time there and back.
    ///
    /// # Errors
    /// The [`Failure`] as this host saw it.
    ///
    /// # Panics
    /// When there is no socket for it.
    pub fn ping(&self, target: impl Into<IpAddr>) -> Result<Duration, Failure> {
        ping(self, target.into(), PATIENCE)
    }

    /// Serves at this port of all its addresses, answering with the host's name.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn serve(&self, protocol: Protocol, port: u16) -> Result<Server, Error> {
        self.serve_at(protocol, SocketAddr::new(any(), port))
    }

    /// Serves at exactly this address and port. A UDP server on a host with several addresses
    /// needs it, else the answer may come from another address than was asked.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn serve_at(&self, protocol: Protocol, address: impl Into<SocketAddr>) -> Result<Server, Error> {
        Server::start(self.namespace(), self.name(), protocol, address.into())
    }

    /// Listens over TCP at this port of all its addresses, with nobody at the door; see [`Door`].
    ///
    /// # Errors
    /// When the port is taken.
    pub fn door(&self, port: u16) -> Result<Door, Error> {
        Door::open(self.namespace(), SocketAddr::new(any(), port))
    }

    /// Whether this kernel has SCTP.
    pub fn has_sctp(&self) -> bool {
        Protocol::Sctp.socket(self.namespace(), IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok()
    }

    //--- Work inside

    /// Runs `work` inside; see [`Namespace::run`].
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.namespace().run(work)
    }

    /// Starts a child process inside; see [`Namespace::spawn`].
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process, Error> {
        self.namespace().spawn(command)
    }

    /// Writes a sysctl; see [`Namespace::set_sysctl`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), Error> {
        self.namespace().set_sysctl(name, value)
    }

    //--- Links

    /// The number of a link in this host's namespace.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn link_index(&self, link: &str) -> Result<u32, Error> {
        Ok(self.netlink().link(link).doing(|| self.name())?.index)
    }

    /// Sets a link up.
    pub(crate) fn set_up(&self, link: &str) -> Result<(), Error> {
        let index = self.link_index(link)?;
        self.netlink().change_link(index, LinkChange::Up).doing(|| self.name())
    }

    /// Waits until packets pass: the kernel acts on a new carrier some time later
    /// (`linkwatch_event`) and loses what is sent before that.
    pub(crate) fn wait_until_ready(&self, link: &str) -> Result<(), Error> {
        let ready = || Ok(self.netlink().link(link).doing(|| self.name())?.operational);
        wait_until(ready, || format!("wait for link {link} of {}", self.name()))
    }

    /// Waits until neighbours can find an address: the kernel joins its solicited-node group some
    /// time after it has added the address (`addrconf_dad_work`), also without duplicate
    /// detection. A question that comes before is lost and asked again after a second.
    fn wait_until_solicited(&self, link: &str, address: Ipv6Addr) -> Result<(), Error> {
        let group = format!("ff0200000000000000000001ff{:06x}", address.to_bits() & 0x00ff_ffff);
        let joined = || {
            let groups = self.run(|| fs::read_to_string(GROUPS))?.doing(|| format!("read {GROUPS}"))?;
            // Each line: the link's number, its name, the group, how many have joined, …
            Ok(groups.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next() == Some(link) && words.next() == Some(&group)
            }))
        };
        wait_until(joined, || format!("wait for {address} on link {link} of {}", self.name()))
    }
}

fn wait_until(ready: impl Fn() -> Result<bool, Error>, doing: impl Fn() -> String) -> Result<(), Error> {
    let deadline = Instant::now() + READY_MAX;
    while !ready()? {
        if Instant::now() > deadline {
            return Err(Error::system(doing(), io::Error::from(io::ErrorKind::TimedOut)));
        }
        thread::sleep(READY_POLL);
    }
    Ok(())
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.namespace.as_fd()
    }
}

/// All of a host's addresses; the one of IPv6 holds those of IPv4 too.
fn any() -> IpAddr {
    if has_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

/// Whether this kernel speaks IPv6; it may have been told not to at boot.
pub(crate) fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf").unwrap_or(false)
}
