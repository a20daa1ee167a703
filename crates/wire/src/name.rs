//! Domain names in wire form, uncompressed, as they were spelled.

use std::fmt;
use std::str::FromStr;

/// The longest name, its last zero byte included (RFC 1035 2.3.4).
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// The longest label.
const LABEL_BYTES_MAX: usize = 63;

/// A domain name. Comparing with `==` heeds case; [`Name::is`] does not.
#[derive(Clone, Copy)]
pub struct Name {
    length: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

/// Why something is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A label is empty.
    EmptyLabel,
    /// A label has more than 63 bytes.
    LongLabel,
    /// The name has more than 255 bytes.
    Long,
    /// A backslash is not followed by a character or three digits below 256.
    Escape,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::EmptyLabel => "a label is empty",
            NameError::LongLabel => "a label is longer than 63 bytes",
            NameError::Long => "longer than 255 bytes",
            NameError::Escape => "a backslash with neither a character nor three digits behind it",
        })
    }
}

impl std::error::Error for NameError {}

impl Name {
    /// The root.
    pub const ROOT: Name = Name { length: 1, bytes: [0; NAME_BYTES_MAX] };

    /// Its bytes: labels, each behind its length, and a zero.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&[0])
    }

    /// The name of these bytes, if they are one and nothing else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Name> {
        let mut rest = bytes;
        loop {
            let (&length, after) = rest.split_first()?;
            let length = usize::from(length);
            if length == 0 {
                return (after.is_empty() && bytes.len() <= NAME_BYTES_MAX).then(|| Name::copy(bytes));
            }
            rest = after.get(length..).filter(|_| length <= LABEL_BYTES_MAX)?;
        }
    }

    /// The name that bytes begin with, if it is spelled out.
    pub(crate) fn at_start(bytes: &[u8]) -> Option<Name> {
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..=LABEL_BYTES_MAX => at += length,
                _ => return None,
            }
        }
        bytes.get(..at).filter(|name| name.len() <= NAME_BYTES_MAX).map(Name::copy)
    }

    /// Copies the bytes of what is known to be a name.
    fn copy(bytes: &[u8]) -> Name {
        let mut name = Name::ROOT;
        if let Some(into) = name.bytes.get_mut(..bytes.len()) {
            into.copy_from_slice(bytes);
            name.length = u8::try_from(bytes.len()).unwrap_or(1);
        }
        name
    }

    /// Its labels, from the left, without the root's.
    pub fn labels(&self) -> Labels<'_> {
        Labels(self.as_bytes())
    }

    /// Adds a label at the right end, before the root.
    pub fn push(&mut self, label: &[u8]) -> Result<(), NameError> {
        let at = usize::from(self.length) - 1;
        let end = at + 1 + label.len();
        match label.len() {
            0 => return Err(NameError::EmptyLabel),
            1..=LABEL_BYTES_MAX => {}
            _ => return Err(NameError::LongLabel),
        }
        let (Ok(size), Ok(length)) = (u8::try_from(label.len()), u8::try_from(end + 1)) else {
            return Err(NameError::Long);
        };
        let into = self.bytes.get_mut(at..=end).ok_or(NameError::Long)?;
        if let [first, middle @ .., last] = into {
            *first = size;
            middle.copy_from_slice(label);
            *last = 0;
        }
        self.length = length;
        Ok(())
    }

    /// Adds another name at the right end.
    pub fn append(&mut self, other: &Name) -> Result<(), NameError> {
        other.labels().try_for_each(|label| self.push(label))
    }

    /// Adds the labels of the bytes of a name at the right end.
    pub fn append_bytes(&mut self, other: &[u8]) -> Result<(), NameError> {
        Labels(other).try_for_each(|label| self.push(label))
    }

    /// Whether it is the same name, whatever the case of its letters.
    pub fn is(&self, other: &Name) -> bool {
        self.as_bytes().eq_ignore_ascii_case(other.as_bytes())
    }

    /// Whether it is `zone` or below it, whatever the case.
    pub fn is_in(&self, zone: &Name) -> bool {
        self.split_at_zone(zone).is_some()
    }

    /// Its end that is `zone` in the case of this name, as bytes, and how many bytes stand before.
    pub fn split_at_zone(&self, zone: &Name) -> Option<(usize, &[u8])> {
        let (bytes, zone) = (self.as_bytes(), zone.as_bytes());
        let before = bytes.len().checked_sub(zone.len())?;
        let end = bytes.get(before..)?;
        // The lengths of labels are no letters, so bytes that are equal but for case are equal
        // labels; what remains is that the end begins where a label does.
        if !end.eq_ignore_ascii_case(zone) {
            return None;
        }
        let mut at = 0;
        while at < before {
            at += 1 + usize::from(*bytes.get(at)?);
        }
        (at == before).then_some((before, end))
    }

    /// The name without its first `labels` labels; the root when it has no more.
    pub fn without_first(&self, labels: usize) -> Name {
        let mut rest = self.labels();
        for _ in 0..labels {
            rest.next();
        }
        Name::copy(rest.0)
    }

    /// The same in lower case.
    #[must_use]
    pub fn lowercase(&self) -> Name {
        let mut name = *self;
        name.bytes.make_ascii_lowercase();
        name
    }

    /// How many labels it has, without the root's.
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.length == 1
    }
}

/// The labels of a name.
#[derive(Clone, Debug)]
pub struct Labels<'n>(&'n [u8]);

impl<'n> Labels<'n> {
    /// The labels of uncompressed bytes; those behind what is no label are not seen.
    pub(crate) fn of(bytes: &'n [u8]) -> Labels<'n> {
        Labels(bytes)
    }

    /// The bytes of the labels that have not been taken, with the root's.
    pub fn rest(&self) -> &'n [u8] {
        self.0
    }
}

impl<'n> Iterator for Labels<'n> {
    type Item = &'n [u8];

    fn next(&mut self) -> Option<&'n [u8]> {
        let (&length, after) = self.0.split_first()?;
        let length = usize::from(length);
        if length == 0 || length > after.len() {
            return None;
        }
        let (label, rest) = after.split_at(length);
        self.0 = rest;
        Some(label)
    }
}

impl Default for Name {
    fn default() -> Name {
        Name::ROOT
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads presentation form (RFC 1035 5.1); a last dot may be there or not.
    fn from_str(text: &str) -> Result<Name, NameError> {
        let mut name = Name::ROOT;
        if text.is_empty() || text == "." {
            return Ok(name);
        }
        let mut label = Vec::with_capacity(LABEL_BYTES_MAX);
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => {
                    name.push(&label)?;
                    label.clear();
                }
                b'\\' => label.push(escaped(&mut bytes)?),
                byte => label.push(byte),
            }
        }
        if !label.is_empty() {
            name.push(&label)?;
        }
        Ok(name)
    }
}

/// The byte that stands behind a backslash.
pub(crate) fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut number = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
        number = number * 10 + u16::from(digit - b'0');
    }
    u8::try_from(number).map_err(|_| NameError::Escape)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::ShowName(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn text_and_back() {
        for text in
            [".", "a.", "Web.shop.svc.cluster.local.", "a\\.b.c.", "\\000\\255.x.", "a\\032b.", "\\\\\\\".x."]
        {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("a.b"), name("a.b."));
        for (text, error) in [
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("\\", NameError::Escape),
            ("\\25", NameError::Escape),
            ("\\256", NameError::Escape),
            (&"x".repeat(64), NameError::LongLabel),
            (&"xxxxxxx.".repeat(32), NameError::Long),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text}");
        }
        assert_eq!(name(&format!("{}xxxxx.", "xxxxxxx.".repeat(31))).as_bytes().len(), 256 - 1);
    }

    #[test]
    fn zones() {
        let zone = name("cluster.local");
        for (text, before) in [("cluster.local", 0), ("A.Cluster.LOCAL", 2), ("a.b.cluster.local", 4)] {
            let name = name(text);
            assert_eq!(name.split_at_zone(&zone).map(|(before, _)| before), Some(before), "{text}");
        }
        for text in ["local", "xcluster.local", "a.cluster.localx", ".", "cluster.local.x"] {
            assert!(!name(text).is_in(&zone), "{text}");
        }
        // The end has the zone's bytes, but within a label.
        let mut tricky = Name::ROOT;
        tricky.push(b"x\x07cluster\x05local").unwrap();
        assert!(!tricky.is_in(&zone));
        assert!(name("x").is_in(&Name::ROOT));
    }

    #[test]
    fn bytes_that_are_no_name() {
        for bytes in [&b""[..], b"\x01", b"\x01a", b"\x00\x00", b"\xc0\x0c", b"\x40aaa"] {
            assert_eq!(Name::from_bytes(bytes), None, "{bytes:?}");
        }
        assert_eq!(Name::from_bytes(b"\x01a\x00"), Some(name("a")));
    }

    #[test]
    fn parts() {
        let full = name("a.b.c");
        assert_eq!(full.without_first(1), name("b.c"));
        assert_eq!(full.without_first(9), Name::ROOT);
        let labels: Vec<&[u8]> = full.labels().collect();
        assert_eq!(labels, [b"a", b"b", b"c"]);
        assert!(name("A.b").is(&name("a.B")) && name("A.b") != name("a.B"));
    }
}
