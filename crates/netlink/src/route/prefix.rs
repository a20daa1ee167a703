//! An address with a length: a network, or a host in it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and how many of its bits count, as in `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; bits beyond the length are kept.
    pub address: IpAddr,
    /// At most 32 for IPv4, 128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// The whole address: `/32` or `/128`.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: bits(address) }
    }

    /// The same without the bits that do not count, which the kernel refuses in an IPv4 route.
    #[must_use]
    pub fn network(self) -> Prefix {
        let ignored = u32::from(bits(self.address).saturating_sub(self.length));
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(ignored).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(ignored).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Prefix { address, length: self.length }
    }

    /// Whether `address` is of this family and agrees in the bits that count.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn agree(a: u128, b: u128, width: u32, length: u8) -> bool {
            let ignored = width.saturating_sub(u32::from(length));
            ignored >= width || (a ^ b) >> ignored == 0
        }
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => agree(a.to_bits().into(), b.to_bits().into(), 32, self.length),
            (IpAddr::V6(a), IpAddr::V6(b)) => agree(a.to_bits(), b.to_bits(), 128, self.length),
            _ => false,
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Prefix {
        Prefix::host(address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.length)
    }
}

/// The text is not `address/length`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form address/length")]
pub struct NotAPrefix(String);

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Prefix, NotAPrefix> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let prefix = Prefix { address: address.parse().ok()?, length: length.parse().ok()? };
            (prefix.length <= bits(prefix.address)).then_some(prefix)
        };
        parse().ok_or_else(|| NotAPrefix(text.to_owned()))
    }
}
