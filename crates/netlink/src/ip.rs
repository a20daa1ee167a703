//! The two versions of IP, as the families that speak of addresses tell them apart.

use std::net::IpAddr;

/// The two versions of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of this address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => IpVersion::V4,
            IpAddr::V6(_) => IpVersion::V6,
        }
    }

    /// `AF_INET` or `AF_INET6`.
    pub(crate) fn family(self) -> u8 {
        match self {
            IpVersion::V4 => libc::AF_INET as u8,
            IpVersion::V6 => libc::AF_INET6 as u8,
        }
    }

    /// The version of this address family.
    pub(crate) fn from_family(family: u16) -> Option<Self> {
        match i32::from(family) {
            libc::AF_INET => Some(IpVersion::V4),
            libc::AF_INET6 => Some(IpVersion::V6),
            _ => None,
        }
    }
}
