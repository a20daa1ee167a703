//! Names of addresses: `4.3.2.1.in-addr.arpa.` and nibbles below `ip6.arpa.`

use crate::{Name, NameError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: [&[u8]; 2] = [b"in-addr", b"arpa"];
const V6: [&[u8]; 2] = [b"ip6", b"arpa"];

/// The address that a name stands for, if it is the whole name of one.
pub fn address_of_reverse(name: &Name) -> Option<IpAddr> {
    // An IPv6 address has 32 labels and two more.
    let mut labels: [&[u8]; 34] = [&[]; 34];
    let mut count = 0;
    for label in name.labels() {
        *labels.get_mut(count)? = label;
        count += 1;
    }
    let ends = |zone: [&[u8]; 2]| {
        let end = labels.get(count.saturating_sub(2)..count);
        end.is_some_and(|end| end.iter().zip(zone).all(|(label, word)| label.eq_ignore_ascii_case(word)))
    };
    match count {
        6 if ends(V4) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(labels) {
                *octet = decimal(label)?;
            }
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        34 if ends(V6) => {
            let mut bits: u128 = 0;
            for label in labels.iter().take(32).rev() {
                let [digit] = label else { return None };
                bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

/// A number below 256 without leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// The name of an address.
pub fn reverse_name(address: IpAddr) -> Result<Name, NameError> {
    let mut name = Name::ROOT;
    match address {
        IpAddr::V4(address) => {
            for octet in address.octets().iter().rev() {
                name.push(octet.to_string().as_bytes())?;
            }
            V4.iter().try_for_each(|label| name.push(label))?;
        }
        IpAddr::V6(address) => {
            for octet in address.octets().iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                    name.push(&[u8::try_from(digit).unwrap_or(b'0')])?;
                }
            }
            V6.iter().try_for_each(|label| name.push(label))?;
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["10.96.0.1", "0.0.0.0", "255.255.255.255", "fd00::1", "2001:db8::567:89ab", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(address_of_reverse(&reverse_name(address).unwrap()), Some(address));
        }
        let upper: Name = "1.0.96.10.IN-ADDR.Arpa".parse().unwrap();
        assert_eq!(address_of_reverse(&upper), Some("10.96.0.1".parse().unwrap()));
        for text in [
            "0.96.10.in-addr.arpa",
            "1.1.0.96.10.in-addr.arpa",
            "01.0.96.10.in-addr.arpa",
            "256.0.0.1.in-addr.arpa",
            "x.0.0.1.in-addr.arpa",
            "1.2.3.4.ip6.arpa",
            "1.0.96.10.in-addr.example",
            ".",
        ] {
            assert_eq!(address_of_reverse(&text.parse().unwrap()), None, "{text}");
        }
    }
}
