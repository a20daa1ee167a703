//! IP addresses and prefixes as Kubernetes writes them.
//!
//! Kubernetes objects may hold IPv4 addresses with leading zeros, which its proxies read as decimal
//! (`172.30.0.041` is 172.30.0.41) and the standard library refuses. [`parse_ip`] reads them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which everything lists them.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// How many bits an address of this family has.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Why a text is no address or prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    wanted: &'static str,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.text, self.wanted)
    }
}

impl std::error::Error for AddressError {}

/// Reads an address. IPv4 octets may have leading zeros and are decimal all the same.
pub fn parse_ip(text: &str) -> Result<IpAddr, AddressError> {
    let wanted = "an IP address";
    let fail = || AddressError { text: text.to_owned(), wanted };
    if text.contains(':') {
        // An IPv4-mapped address is the IPv4 address, as Go's net.IP has it.
        let ip = Ipv6Addr::from_str(text).map_err(|_| fail())?;
        return Ok(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().ok_or_else(fail)?;
        let digits = part.trim_start_matches('0');
        if part.is_empty() || digits.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail());
        }
        *octet = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| fail())? };
    }
    match parts.next() {
        None => Ok(IpAddr::V4(Ipv4Addr::from(octets))),
        Some(_) => Err(fail()),
    }
}

/// A network in CIDR form, its host bits cleared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that `ip` is in; `None` when the family has no so many bits.
    pub fn new(ip: IpAddr, length: u8) -> Option<Prefix> {
        (length <= Family::of(ip).bits()).then(|| Prefix { network: mask(ip, length), length })
    }

    /// The network of this address alone.
    pub fn host(ip: IpAddr) -> Prefix {
        Prefix { network: ip, length: Family::of(ip).bits() }
    }

    /// The first address.
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// The number of leading bits that count.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The family.
    pub fn family(self) -> Family {
        Family::of(self.network)
    }

    /// Whether the address is in the network. An address of the other family never is.
    pub fn contains(self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && mask(ip, self.length) == self.network
    }

    /// The network mask, as an address.
    pub fn netmask(self) -> IpAddr {
        let ones = match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        };
        mask(ones, self.length)
    }
}

/// Clears all but the first `length` bits.
fn mask(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let ones = u32::MAX.checked_shl(32u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(ip) & ones))
        }
        IpAddr::V6(ip) => {
            let ones = u128::MAX.checked_shl(128u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & ones))
        }
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || AddressError { text: text.to_owned(), wanted: "a network in CIDR form" };
        let (ip, length) = text.split_once('/').ok_or_else(fail)?;
        let ip = parse_ip(ip).map_err(|_| fail())?;
        if length.is_empty() || length.len() > 4 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail());
        }
        Prefix::new(ip, length.parse().map_err(|_| fail())?).ok_or_else(fail)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = [
            ("10.0.0.1", "10.0.0.1"),
            ("172.30.0.041", "172.30.0.41"),
            ("001.002.003.004", "1.2.3.4"),
            ("0.0.0.0", "0.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("fd00::0001", "fd00::1"),
        ];
        for (text, want) in good {
            assert_eq!(parse_ip(text).unwrap().to_string(), want, "{text}");
        }
        for text in
            ["", "10.0.0", "10.0.0.256", "10.0.0.1.1", "10.0.0.x", "1..2.3", "fe80::1%eth0", "+1.2.3.4"]
        {
            assert!(parse_ip(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes() {
        let good = [
            ("203.0.113.000/025", "203.0.113.0/25"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:1::5/64", "fd00:1::/64"),
            ("::/0", "::/0"),
            ("10.0.0.1/32", "10.0.0.1/32"),
        ];
        for (text, want) in good {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), want, "{text}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "fd00::/129", "/8"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn containment() {
        let ten: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.1".parse().unwrap()));
        assert!(!ten.contains("fd00::1".parse().unwrap()));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
        assert_eq!(ten.netmask().to_string(), "255.0.0.0");
    }
}
