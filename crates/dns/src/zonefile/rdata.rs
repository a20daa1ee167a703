//! The data of records, from text to bytes.

use super::lexer::Word;
use super::{name, ttl};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::{Name, Type};

/// Data have no more bytes.
const DATA_BYTES_MAX: usize = 65_535;

/// The words of one record's data.
struct Words<'w> {
    rest: &'w [Word],
    origin: &'w Name,
    out: Vec<u8>,
}

/// What a word of data is.
#[derive(Clone, Copy)]
enum Field {
    Name,
    U8,
    U16,
    U32,
    Ttl,
    V4,
    V6,
    /// A text behind its length.
    Text,
    /// All further words, each a text behind its length.
    Texts,
    /// One text without a length.
    Bare,
    /// All further words, in hexadecimal.
    Hex,
    /// A word in hexadecimal behind its length; `-` for none.
    Salt,
    /// A word in base32hex behind its length.
    Base32,
    /// All further words, in base64.
    Base64,
    /// A type.
    Covered,
    /// All further words, types in a bitmap.
    Types,
    /// A time, as a number or YYYYMMDDHHMMSS.
    Time,
    /// All further words, parameters of a service.
    Parameters,
}

/// What the data of a type are made of.
fn fields(rtype: Type) -> Option<&'static [Field]> {
    use Field::*;
    Some(match rtype {
        Type::A => &[V4],
        Type::AAAA => &[V6],
        Type::NS
        | Type::CNAME
        | Type::PTR
        | Type::DNAME
        | Type::MB
        | Type::MD
        | Type::MF
        | Type::MG
        | Type::MR => &[Name],
        Type::MX | Type::AFSDB | Type::KX => &[U16, Name],
        Type::RP | Type::MINFO => &[Name, Name],
        Type::SRV => &[U16, U16, U16, Name],
        Type::SOA => &[Name, Name, U32, Ttl, Ttl, Ttl, Ttl],
        Type::TXT | Type::SPF => &[Texts],
        Type::HINFO => &[Text, Text],
        Type::NAPTR => &[U16, U16, Text, Text, Text, Name],
        Type::CAA => &[U8, Text, Bare],
        Type::URI => &[U16, U16, Bare],
        Type::DS | Type::CDS => &[U16, U8, U8, Hex],
        Type::DNSKEY | Type::CDNSKEY | Type::KEY => &[U16, U8, U8, Base64],
        Type::CERT => &[U16, U16, U8, Base64],
        Type::TLSA | Type::SMIMEA => &[U8, U8, U8, Hex],
        Type::SSHFP => &[U8, U8, Hex],
        Type::ZONEMD => &[U32, U8, U8, Hex],
        Type::OPENPGPKEY | Type::DHCID => &[Base64],
        Type::RRSIG | Type::SIG => &[Covered, U8, U8, Ttl, Time, Time, U16, Name, Base64],
        Type::NSEC => &[Name, Types],
        Type::NSEC3 => &[U8, U8, U16, Salt, Base32, Types],
        Type::NSEC3PARAM => &[U8, U8, U16, Salt],
        Type::CSYNC => &[U32, U16, Types],
        Type::SVCB | Type::HTTPS => &[U16, Name, Parameters],
        _ => return None,
    })
}

/// Reads the data of a record of this type.
pub(super) fn parse(rtype: Type, words: &[Word], origin: &Name) -> Result<Vec<u8>, String> {
    if words.first().is_some_and(|word| word.is_plain("\\#")) {
        return unknown(words);
    }
    let fields =
        fields(rtype).ok_or_else(|| format!("{rtype}: its data are understood in the form \\# only"))?;
    let mut words = Words { rest: words, origin, out: Vec::new() };
    for field in fields {
        words.field(*field)?;
    }
    if let Some(extra) = words.rest.first() {
        return Err(extra.wrong(format_args!("more than the data of {rtype}")));
    }
    if words.out.len() > DATA_BYTES_MAX {
        return Err(format!("{rtype}: more than {DATA_BYTES_MAX} bytes of data"));
    }
    Ok(words.out)
}

/// Data of any type: `\# LENGTH HEX...` (RFC 3597 5).
fn unknown(words: &[Word]) -> Result<Vec<u8>, String> {
    let Some((length, rest)) = words.get(1..).and_then(|rest| rest.split_first()) else {
        return Err("\\# takes a length".into());
    };
    let wanted: usize = length.text().parse().map_err(|_| length.wrong("no length"))?;
    let out = hex(rest)?;
    if out.len() != wanted || wanted > DATA_BYTES_MAX {
        return Err(length.wrong(format_args!("there are {} bytes", out.len())));
    }
    Ok(out)
}

impl<'w> Words<'w> {
    fn next(&mut self) -> Result<&'w Word, String> {
        let (word, rest) = self.rest.split_first().ok_or("the data end too early")?;
        self.rest = rest;
        Ok(word)
    }

    fn all(&mut self) -> &'w [Word] {
        std::mem::take(&mut self.rest)
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.next()?;
        word.text().parse().map_err(|_| word.wrong("no number, or one that is too large"))
    }

    fn text(&mut self, bytes: &[u8], word: &Word) -> Result<(), String> {
        let length = u8::try_from(bytes.len()).map_err(|_| word.wrong("longer than 255 bytes"))?;
        self.out.push(length);
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn field(&mut self, field: Field) -> Result<(), String> {
        match field {
            Field::Name => {
                let name = name(self.next()?, self.origin)?;
                self.out.extend_from_slice(name.as_bytes());
            }
            Field::U8 => {
                let number: u8 = self.number()?;
                self.out.push(number);
            }
            Field::U16 => {
                let number: u16 = self.number()?;
                self.out.extend(number.to_be_bytes());
            }
            Field::U32 => {
                let number: u32 = self.number()?;
                self.out.extend(number.to_be_bytes());
            }
            Field::Ttl => {
                let word = self.next()?;
                let time = ttl(&word.text()).ok_or_else(|| word.wrong("no time"))?;
                self.out.extend(time.to_be_bytes());
            }
            Field::V4 => {
                let word = self.next()?;
                let ip: Ipv4Addr = word.text().parse().map_err(|_| word.wrong("no IPv4 address"))?;
                self.out.extend(ip.octets());
            }
            Field::V6 => {
                let word = self.next()?;
                let ip: Ipv6Addr = word.text().parse().map_err(|_| word.wrong("no IPv6 address"))?;
                self.out.extend(ip.octets());
            }
            Field::Text => {
                let word = self.next()?;
                self.text(&word.unescaped()?, word)?;
            }
            Field::Texts => self.texts()?,
            Field::Bare => {
                let bytes = self.next()?.unescaped()?;
                self.out.extend(bytes);
            }
            Field::Hex => {
                let bytes = hex(self.all())?;
                self.out.extend(bytes);
            }
            Field::Salt => {
                let word = self.next()?;
                let bytes = if word.is_plain("-") { Vec::new() } else { hex(std::slice::from_ref(word))? };
                self.text(&bytes, word)?;
            }
            Field::Base32 => {
                let word = self.next()?;
                let bytes = base32hex(&word.text()).ok_or_else(|| word.wrong("no base32"))?;
                self.text(&bytes, word)?;
            }
            Field::Base64 => {
                let text: String = self.all().iter().map(Word::text).collect();
                let bytes = base64(&text).ok_or_else(|| format!("{text:?}: no base64"))?;
                self.out.extend(bytes);
            }
            Field::Covered => {
                let word = self.next()?;
                let rtype: Type = word.text().parse().map_err(|()| word.wrong("no type"))?;
                self.out.extend(rtype.0.to_be_bytes());
            }
            Field::Types => self.types()?,
            Field::Time => {
                let word = self.next()?;
                let time = time(&word.text()).ok_or_else(|| word.wrong("no time"))?;
                self.out.extend(time.to_be_bytes());
            }
            Field::Parameters => self.parameters()?,
        }
        Ok(())
    }

    fn texts(&mut self) -> Result<(), String> {
        // There is at least one, be it empty.
        if self.rest.is_empty() {
            return Err("the data end too early".into());
        }
        for word in self.all() {
            let bytes = word.unescaped()?;
            // Longer ones are cut into several, as CoreDNS' library does.
            let mut chunks = bytes.chunks(255).peekable();
            if chunks.peek().is_none() {
                self.out.push(0);
            }
            for chunk in chunks {
                self.text(chunk, word)?;
            }
        }
        Ok(())
    }

    /// RFC 4034 4.1.2.
    fn types(&mut self) -> Result<(), String> {
        let mut types = Vec::new();
        for word in self.all() {
            let rtype: Type = word.text().parse().map_err(|()| word.wrong("no type"))?;
            types.push(rtype.0);
        }
        types.sort_unstable();
        for window in types.chunk_by(|a, b| a >> 8 == b >> 8) {
            let (Some(first), Some(last)) = (window.first(), window.last()) else { continue };
            let mut bits = [0_u8; 32];
            for rtype in window {
                if let Some(byte) = bits.get_mut(usize::from(rtype & 0xff) / 8) {
                    *byte |= 0x80 >> (rtype % 8);
                }
            }
            let length = usize::from(last & 0xff) / 8 + 1;
            let [number, _] = first.to_be_bytes();
            self.out.push(number);
            self.text_bits(bits.get(..length).unwrap_or_default());
        }
        Ok(())
    }

    fn text_bits(&mut self, bits: &[u8]) {
        self.out.push(u8::try_from(bits.len()).unwrap_or(32));
        self.out.extend_from_slice(bits);
    }

    /// RFC 9460 2.1: `key=value` words, which go out in the order of the keys' numbers.
    fn parameters(&mut self) -> Result<(), String> {
        let mut all: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut words = self.all().iter();
        while let Some(word) = words.next() {
            let text = word.text().into_owned();
            let (key, mut value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            // A value in quotes is a word of its own behind the sign.
            if value.as_deref() == Some("")
                && let Some(quoted) = words.as_slice().first().filter(|word| word.quoted)
            {
                value = Some(quoted.text().into_owned());
                words.next();
            }
            let (key, bytes) = parameter(key, value.as_deref()).ok_or_else(|| word.wrong("no parameter"))?;
            if all.iter().any(|(other, _)| *other == key) {
                return Err(word.wrong("a parameter that is there already"));
            }
            all.push((key, bytes));
        }
        all.sort_by_key(|(key, _)| *key);
        for (key, value) in all {
            let length = u16::try_from(value.len()).map_err(|_| "a parameter that is too long")?;
            self.out.extend(key.to_be_bytes());
            self.out.extend(length.to_be_bytes());
            self.out.extend(value);
        }
        Ok(())
    }
}

fn parameter(key: &str, value: Option<&str>) -> Option<(u16, Vec<u8>)> {
    const KEYS: [&str; 9] =
        ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp"];
    let number_of = |key: &str| -> Option<u16> {
        match KEYS.iter().position(|known| *known == key) {
            Some(number) => u16::try_from(number).ok(),
            None => key.strip_prefix("key")?.parse().ok(),
        }
    };
    let number = number_of(key)?;
    let value_or_none = value.unwrap_or_default();
    let list = || value_or_none.split(',').filter(|item| !item.is_empty());
    let bytes = match number {
        0 => {
            let mut keys: Vec<u16> = list().map(number_of).collect::<Option<_>>()?;
            keys.sort_unstable();
            keys.into_iter().flat_map(u16::to_be_bytes).collect()
        }
        1 => {
            let mut bytes = Vec::new();
            for item in list() {
                bytes.push(u8::try_from(item.len()).ok()?);
                bytes.extend(item.as_bytes());
            }
            bytes
        }
        2 | 8 => {
            if value.is_some() {
                return None;
            }
            Vec::new()
        }
        3 => value?.parse::<u16>().ok()?.to_be_bytes().to_vec(),
        4 | 6 => {
            let mut bytes = Vec::new();
            for item in list() {
                match (number, item.parse().ok()?) {
                    (4, IpAddr::V4(ip)) => bytes.extend(ip.octets()),
                    (6, IpAddr::V6(ip)) => bytes.extend(ip.octets()),
                    _ => return None,
                }
            }
            bytes
        }
        5 => base64(value?)?,
        _ => Word::of(value_or_none).unescaped().ok()?,
    };
    Some((number, bytes))
}

fn hex(words: &[Word]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut high = None;
    for word in words {
        for char in word.text().chars() {
            let digit = char.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let digit = digit.ok_or_else(|| word.wrong("not hexadecimal"))?;
            match high.take() {
                None => high = Some(digit << 4),
                Some(high) => out.push(high | digit),
            }
        }
    }
    match high {
        None => Ok(out),
        Some(_) => Err("an odd number of hexadecimal digits".into()),
    }
}

/// Digits of five bits each (RFC 4648 7), without padding.
fn base32hex(text: &str) -> Option<Vec<u8>> {
    const BITS: u32 = 5;
    let (mut out, mut word, mut have) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte.to_ascii_uppercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'A'..=b'V' => digit - b'A' + 10,
            _ => return None,
        };
        word = word << BITS | u32::from(digit);
        have += BITS;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(word >> have & 0xff).ok()?);
            word &= (1 << have) - 1;
        }
    }
    // What is left over is less than a digit, and zero.
    (have < BITS && word == 0).then_some(out)
}

/// Padding may be missing.
fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// Seconds since 1970, as a number or as YYYYMMDDHHMMSS (RFC 4034 3.2).
fn time(text: &str) -> Option<u32> {
    if text.len() != 14 {
        return text.parse().ok();
    }
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 by the civil calendar; a year begins in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // Serial numbers, which wrap.
    u32::try_from(seconds.rem_euclid(1 << 32)).ok()
}
