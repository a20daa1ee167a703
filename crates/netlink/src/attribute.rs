//! Reading netlink attributes: a bounds-checked walk over bytes the kernel sent.
//!
//! Newer kernels lengthen attributes and add new ones, so a value longer than asked for is
//! accepted and what is unknown is skipped by whoever matches on the kind. A header that is
//! shorter than itself or longer than what is left ends the walk. Writing is in
//! [`message`](crate::message).

use std::ffi::CStr;

/// Length of an attribute's header, `struct nlattr`.
pub const ATTRIBUTE_HEADER: usize = 4;
/// Set in the kind of an attribute that holds attributes.
pub const NLA_F_NESTED: u16 = 0x8000;
/// Set in the kind of an attribute whose value is big-endian.
pub const NLA_F_NET_BYTEORDER: u16 = 0x4000;
/// The largest value one attribute can hold: its length, header included, is 16 bits wide.
pub const ATTRIBUTE_VALUE_MAX: usize = u16::MAX as usize - ATTRIBUTE_HEADER;

/// Rounds up to netlink's alignment of four bytes.
pub(crate) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// One attribute as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The kind, without the flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    pub kind: u16,
    /// The value, without padding.
    pub value: &'a [u8],
}

/// Walks the attributes in `bytes`.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// An iterator over attributes; see [`attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The first attribute of this kind, if there is one among those not yet walked.
    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.clone().find_kind(kind)
    }

    fn find_kind(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(read_u16(self.rest)?);
        let kind = read_u16(self.rest.get(2..)?)?;
        let value = self.rest.get(ATTRIBUTE_HEADER..length);
        let Some(value) = value else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or(&[]);
        Some(Attribute { kind: kind & !(NLA_F_NESTED | NLA_F_NET_BYTEORDER), value })
    }
}

fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

impl<'a> Attribute<'a> {
    /// Walks the attributes this one holds.
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.value)
    }

    /// The first `N` bytes of the value.
    pub fn bytes<const N: usize>(&self) -> Option<[u8; N]> {
        self.value.first_chunk().copied()
    }

    /// One byte.
    pub fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// 16 bits, big-endian.
    pub fn be16(&self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    /// 32 bits, big-endian.
    pub fn be32(&self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// 64 bits, big-endian.
    pub fn be64(&self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// 16 bits, this machine's order.
    pub fn ne16(&self) -> Option<u16> {
        self.bytes().map(u16::from_ne_bytes)
    }

    /// 32 bits, this machine's order.
    pub fn ne32(&self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    /// 64 bits, this machine's order.
    pub fn ne64(&self) -> Option<u64> {
        self.bytes().map(u64::from_ne_bytes)
    }

    /// Text up to the first NUL or the end; `None` when it is not UTF-8.
    pub fn str(&self) -> Option<&'a str> {
        let text = CStr::from_bytes_until_nul(self.value).map(CStr::to_bytes).unwrap_or(self.value);
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_skips_padding_and_masks_flags() {
        let bytes = [5, 0, 1, 0, 7, 0, 0, 0, 8, 0, 2, 0x80, 0, 0, 1, 2];
        let bytes = bytes.map(|b| b);
        let walked: Vec<_> = attributes(&bytes).collect();
        assert_eq!(walked.len(), 2);
        assert_eq!(walked[0].u8(), Some(7));
        assert_eq!(walked[1].kind, 2);
        assert_eq!(walked[1].be32(), Some(0x102));
        assert_eq!(walked[1].be64(), None);
    }

    #[test]
    fn a_damaged_header_ends_the_walk() {
        for damaged in [&[0, 0, 1, 0, 9][..], &[3, 0, 1, 0], &[9, 0, 1, 0, 1, 2], &[4, 0, 1], &[]] {
            assert_eq!(attributes(damaged).count(), 0, "{damaged:?}");
        }
    }

    #[test]
    fn last_attribute_may_lack_its_padding() {
        assert_eq!(attributes(&[5, 0, 1, 0, 7]).next().and_then(|a| a.u8()), Some(7));
    }

    #[test]
    fn text_ends_at_nul_or_at_the_end() {
        assert_eq!(Attribute { kind: 0, value: b"lo\0x" }.str(), Some("lo"));
        assert_eq!(Attribute { kind: 0, value: b"lo" }.str(), Some("lo"));
        assert_eq!(Attribute { kind: 0, value: b"\xff" }.str(), None);
    }
}
