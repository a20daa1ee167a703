//! How names and records look in master files and in `dig`.

use crate::name::Labels;
use crate::{Name, Type};
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Shows the bytes of a name.
#[derive(Clone, Copy)]
pub struct ShowName<'n>(pub &'n [u8]);

impl fmt::Display for ShowName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for label in Labels::of(self.0) {
            any = true;
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(byte))?
                    }
                    0x21..=0x7e => f.write_char(char::from(byte))?,
                    byte => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_char('.')?;
        }
        if any { Ok(()) } else { f.write_char('.') }
    }
}

/// Shows a record as a line of a master file: owner, TTL, class, type and data.
#[derive(Clone, Copy)]
pub struct ShowRecord<'r> {
    pub(crate) owner: &'r [u8],
    pub(crate) ttl: u32,
    pub(crate) class: crate::Class,
    pub(crate) rtype: Type,
    pub(crate) rdata: &'r [u8],
}

impl fmt::Display for ShowRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShowRecord { owner, ttl, class, rtype, rdata } = *self;
        write!(f, "{} {ttl} {class} {rtype}", ShowName(owner))?;
        let mut data = String::new();
        match known(rtype, rdata, &mut data) {
            Some(()) => write!(f, " {data}"),
            // RFC 3597 5.
            None => {
                write!(f, " \\# {}", rdata.len())?;
                if !rdata.is_empty() {
                    f.write_char(' ')?;
                }
                rdata.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Writes the data of a type that we know; nothing useful where they are not well-formed.
fn known(rtype: Type, rdata: &[u8], out: &mut String) -> Option<()> {
    let mut rest = rdata;
    match rtype {
        Type::A => write!(out, "{}", Ipv4Addr::from(<[u8; 4]>::try_from(rdata).ok()?)).ok()?,
        Type::AAAA => write!(out, "{}", Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?)).ok()?,
        Type::NS | Type::CNAME | Type::PTR | Type::DNAME => {
            write!(out, "{}", Name::from_bytes(rdata)?).ok()?;
        }
        Type::MX => {
            let preference = number(&mut rest)?;
            write!(out, "{preference} {}", Name::from_bytes(rest)?).ok()?;
        }
        Type::SRV => {
            let (priority, weight, port) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
            write!(out, "{priority} {weight} {port} {}", Name::from_bytes(rest)?).ok()?;
        }
        Type::SOA => {
            let (mname, rname) = (take_name(&mut rest)?, take_name(&mut rest)?);
            write!(out, "{mname} {rname}").ok()?;
            for _ in 0..5 {
                let (word, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                write!(out, " {}", u32::from_be_bytes(*word)).ok()?;
            }
            if !rest.is_empty() {
                return None;
            }
        }
        Type::TXT | Type::SPF | Type::HINFO => {
            let mut first = true;
            while let Some((&length, after)) = rest.split_first() {
                if !first {
                    out.push(' ');
                }
                first = false;
                quoted(after.get(..usize::from(length))?, out);
                rest = after.get(usize::from(length)..)?;
            }
            if first {
                return None;
            }
        }
        _ => return None,
    }
    Some(())
}

fn number(rest: &mut &[u8]) -> Option<u16> {
    let (word, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*word))
}

fn take_name(rest: &mut &[u8]) -> Option<Name> {
    let mut labels = Labels::of(rest);
    labels.by_ref().for_each(drop);
    let length = rest.len() - labels.rest().len() + 1;
    let (name, after) = rest.split_at_checked(length)?;
    *rest = after;
    Name::from_bytes(name)
}

fn quoted(bytes: &[u8], out: &mut String) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            0x20..=0x7e => out.push(char::from(byte)),
            byte => {
                out.push('\\');
                out.push_str(&format!("{byte:03}"));
            }
        }
    }
    out.push('"');
}
