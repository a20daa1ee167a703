//! The netlink protocols we speak, as types: what a [`Socket`](crate::Socket) is opened for and
//! what [`Messages`](crate::Messages) are written for, so that the two cannot be mixed up.

mod sealed {
    pub trait Sealed {}
}

/// A netlink protocol. Implemented by [`Route`], [`Netfilter`] and [`Generic`] only.
pub trait Protocol: sealed::Sealed {
    /// The number given to `socket(2)`.
    const NUMBER: i32;
    /// The name used in errors.
    const NAME: &'static str;
    /// Whether to ask for `NETLINK_GET_STRICT_CHK`. Without it rtnetlink ignores what a dump
    /// request filters by; the other protocols do not look at it.
    const STRICT_DUMPS: bool;
}

/// Links, addresses, routes, rules, neighbours.
#[derive(Debug, Clone, Copy)]
pub enum Route {}

/// nf_tables, conntrack.
#[derive(Debug, Clone, Copy)]
pub enum Netfilter {}

/// Generic netlink, which carries IPVS.
#[derive(Debug, Clone, Copy)]
pub enum Generic {}

impl sealed::Sealed for Route {}
impl sealed::Sealed for Netfilter {}
impl sealed::Sealed for Generic {}

impl Protocol for Route {
    const NUMBER: i32 = libc::NETLINK_ROUTE;
    const NAME: &'static str = "route";
    const STRICT_DUMPS: bool = true;
}

impl Protocol for Netfilter {
    const NUMBER: i32 = libc::NETLINK_NETFILTER;
    const NAME: &'static str = "netfilter";
    const STRICT_DUMPS: bool = false;
}

impl Protocol for Generic {
    const NUMBER: i32 = libc::NETLINK_GENERIC;
    const NAME: &'static str = "generic";
    const STRICT_DUMPS: bool = false;
}
