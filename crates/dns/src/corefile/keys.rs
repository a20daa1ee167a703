//! The keys of a server block: `dns://example.org:1053`, `10.0.0.0/24`, `.`

use super::{Error, Word};
use model::Prefix;
use std::fmt;
use std::net::IpAddr;
use wire::{Name, reverse_name};

/// The transport that a key names, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain DNS over UDP and TCP.
    #[default]
    Dns,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
    /// DNS over HTTP/3.
    Https3,
    /// DNS over QUIC.
    Quic,
    /// DNS over gRPC.
    Grpc,
}

impl Scheme {
    const ALL: [Scheme; 6] =
        [Scheme::Dns, Scheme::Tls, Scheme::Https, Scheme::Https3, Scheme::Quic, Scheme::Grpc];

    /// Its name before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Dns => "dns",
            Scheme::Tls => "tls",
            Scheme::Https => "https",
            Scheme::Https3 => "https3",
            Scheme::Quic => "quic",
            Scheme::Grpc => "grpc",
        }
    }

    /// The port where a key names none; `dns_port` is what `-dns.port` says.
    pub fn port(self, dns_port: u16) -> u16 {
        match self {
            Scheme::Dns => dns_port,
            Scheme::Tls | Scheme::Quic => 853,
            Scheme::Https | Scheme::Https3 | Scheme::Grpc => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One zone that a block serves, and how. A network in a key can stand for several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The zone, in lower case.
    pub zone: Name,
    /// The transport.
    pub scheme: Scheme,
    /// The port.
    pub port: u16,
}

impl Key {
    /// Reads a key.
    pub fn parse(word: &Word, dns_port: u16) -> Result<Vec<Key>, Error> {
        let (scheme, rest) = scheme(word)?;
        let (zones, port) = host_and_port(word, rest)?;
        let port = port.unwrap_or_else(|| scheme.port(dns_port));
        Ok(zones.into_iter().map(|zone| Key { zone, scheme, port }).collect())
    }
}

fn scheme(word: &Word) -> Result<(Scheme, &str), Error> {
    match word.text.split_once("://") {
        None => Ok((Scheme::Dns, &word.text)),
        Some((name, rest)) => match Scheme::ALL.into_iter().find(|scheme| scheme.name() == name) {
            Some(scheme) => Ok((scheme, rest)),
            None => Err(word.error(format_args!("no transport is called {name}"))),
        },
    }
}

/// Reads `ZONE[:PORT]`, where the zone may be a network, which stands for its reverse zones.
pub fn host_and_port(word: &Word, text: &str) -> Result<(Vec<Name>, Option<u16>), Error> {
    // A network of IPv6 has colons, but always a length behind the last of them.
    let (zone, port) = match text.rsplit_once(':') {
        Some((_, "")) => return Err(word.error("a port was expected behind the last colon")),
        Some((zone, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (zone, Some(port.parse().map_err(|_| word.error(format_args!("{port} is no port")))?))
        }
        _ => (text, None),
    };
    if let Ok(network) = zone.parse::<Prefix>() {
        return Ok((reverse_zones(network).map_err(|error| word.error(error))?, port));
    }
    let name: Name = zone.parse().map_err(|error| word.error(format_args!("no domain name: {error}")))?;
    Ok((vec![name.lowercase()], port))
}

/// The zones that a plugin serves: its arguments, or those of its server block where it has none.
pub fn origins(args: &[Word], block: &[Name]) -> Result<Vec<Name>, Error> {
    if args.is_empty() {
        return Ok(block.to_vec());
    }
    let mut zones = Vec::new();
    for word in args {
        let (_, text) = scheme(word)?;
        zones.extend(host_and_port(word, text)?.0);
    }
    Ok(zones)
}

/// The reverse zones that make up a network: one where its length is that of whole labels, and
/// else all those of the next whole label.
fn reverse_zones(network: Prefix) -> Result<Vec<Name>, wire::NameError> {
    let (label_bits, bits) = match network.network() {
        IpAddr::V4(_) => (8, 32),
        IpAddr::V6(_) => (4, 128),
    };
    let length = network.length();
    // No address block as large as half of all addresses has a label, so it is what it is for all.
    let labels = length.div_ceil(label_bits);
    let count = 1_u128 << (labels * label_bits - length);
    let mut zones = Vec::new();
    for number in 0..count {
        let offset = number.checked_shl(u32::from(bits - labels * label_bits)).unwrap_or(0);
        let address = match network.network() {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) | u32::try_from(offset).unwrap_or(0)).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) | offset).into()),
        };
        let all_labels = bits / label_bits;
        zones.push(reverse_name(address)?.without_first(usize::from(all_labels - labels)));
    }
    Ok(zones)
}
