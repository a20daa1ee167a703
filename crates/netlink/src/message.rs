//! Messages: writing many of them into one buffer, and walking those the kernel sent.
//!
//! A [`Messages`] is what one `sendmsg` carries. Sequence numbers are the socket's business and
//! are patched in when it is sent. A value that does not fit its 16-bit length is not written;
//! the buffer remembers it and the socket refuses to send, so building is straight-line code.

use std::marker::PhantomData;

use crate::attribute::{
    ATTRIBUTE_HEADER, ATTRIBUTE_VALUE_MAX, Attributes, NLA_F_NESTED, aligned, attributes,
};
use crate::protocol::Protocol;

/// Length of a message's header, `struct nlmsghdr`.
pub const MESSAGE_HEADER: usize = 16;

/// The message asks something of the kernel.
pub const NLM_F_REQUEST: u16 = 0x1;
/// The reply goes on in another message; `NLMSG_DONE` ends it.
pub const NLM_F_MULTI: u16 = 0x2;
/// Answer even when there is nothing to say but "done".
pub const NLM_F_ACK: u16 = 0x4;
/// What was dumped changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// All there is, not one.
pub const NLM_F_DUMP: u16 = 0x300;
/// Replace what exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Refuse when it exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Create when it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Add at the end.
pub const NLM_F_APPEND: u16 = 0x800;

/// Messages for one protocol, ready to be sent together.
#[derive(Debug)]
pub struct Messages<P> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) starts: Vec<usize>,
    pub(crate) flaw: Option<&'static str>,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Default for Messages<P> {
    fn default() -> Self {
        Messages { bytes: Vec::new(), starts: Vec::new(), flaw: None, protocol: PhantomData }
    }
}

impl<P: Protocol> Messages<P> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One message; see [`push`](Self::push).
    pub fn one(kind: u16, flags: u16, header: &[u8], write: impl FnOnce(&mut Writer<'_>)) -> Self {
        let mut messages = Self::new();
        messages.push(kind, flags, header, write);
        messages
    }

    /// Adds one message: `header` is the family's own struct that follows the netlink header,
    /// `write` puts the attributes. `NLM_F_REQUEST` is added to `flags`.
    pub fn push(&mut self, kind: u16, flags: u16, header: &[u8], write: impl FnOnce(&mut Writer<'_>)) {
        let start = self.begin(kind, flags, header);
        write(&mut self.writer());
        self.end(start);
    }

    /// Begins a message that [`end`](Self::end) ends, for writers that split as they go.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, header: &[u8]) -> usize {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.writer().raw(header);
        start
    }

    /// Writes into the message begun last.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        Writer { bytes: &mut self.bytes, flaw: &mut self.flaw }
    }

    /// Ends the message that begins at `start`.
    pub(crate) fn end(&mut self, start: usize) {
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.flaw = Some("a message is longer than 4 GiB"),
        }
    }

    fn patch(&mut self, at: usize, value: &[u8; 4]) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(value);
        }
    }

    /// Numbers the messages `first`, `first + 1`, …
    pub(crate) fn number(&mut self, first: u32) {
        let mut sequence = first;
        for index in 0..self.starts.len() {
            self.patch(self.starts[index] + 8, &sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
    }

    /// Adds flags to the message at `index`.
    pub(crate) fn add_flags(&mut self, index: usize, flags: u16) {
        let place = self.starts.get(index).and_then(|start| self.bytes.get_mut(start + 6..start + 8));
        if let Some([low, high]) = place {
            [*low, *high] = (u16::from_ne_bytes([*low, *high]) | flags).to_ne_bytes();
        }
    }

    /// How many messages.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Their length on the wire.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Their bytes as they would be sent, sequence numbers aside.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets the messages and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
        self.flaw = None;
    }
}

/// Writes one message's attributes.
///
/// `be` puts network byte order, as nfnetlink wants it; `ne` this machine's, as route and generic
/// netlink want it.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    flaw: &'a mut Option<&'static str>,
}

impl Writer<'_> {
    /// Bytes that are no attribute: a family's header. Padded.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// An attribute with these bytes as its value.
    #[inline]
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        if value.len() > ATTRIBUTE_VALUE_MAX {
            *self.flaw = Some("an attribute is longer than 65531 bytes");
            return;
        }
        // Fits: the value is bounded just above.
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    #[inline]
    fn pad(&mut self) {
        let padding = aligned(self.bytes.len()) - self.bytes.len();
        self.bytes.extend_from_slice(&[0; 3][..padding]);
    }

    /// An attribute that holds what `write` puts, marked `NLA_F_NESTED`.
    #[inline]
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Writer<'_>)) {
        self.nest_unmarked(kind | NLA_F_NESTED, write);
    }

    /// As [`nest`](Self::nest) without the mark, for the few places where the kernel's strict
    /// validation or a comparison wants it absent.
    #[inline]
    pub fn nest_unmarked(&mut self, kind: u16, write: impl FnOnce(&mut Writer<'_>)) {
        let start = self.open(kind);
        write(&mut Writer { bytes: self.bytes, flaw: self.flaw });
        self.close(start);
    }

    /// Begins an attribute that [`close`](Self::close) ends.
    #[inline]
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// Ends the attribute that begins at `start`.
    #[inline]
    pub(crate) fn close(&mut self, start: usize) {
        match (u16::try_from(self.bytes.len() - start), self.bytes.get_mut(start..start + 2)) {
            (Ok(length), Some(place)) => place.copy_from_slice(&length.to_ne_bytes()),
            _ => *self.flaw = Some("a nested attribute is longer than 65535 bytes"),
        }
    }

    /// An attribute without a value, which says something by being there.
    pub fn put_flag(&mut self, kind: u16) {
        self.put(kind, &[]);
    }

    /// One byte.
    pub fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// 16 bits, big-endian.
    pub fn put_be16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    /// 32 bits, big-endian.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// 64 bits, big-endian.
    pub fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// 16 bits, this machine's order.
    pub fn put_ne16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// 32 bits, this machine's order.
    pub fn put_ne32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// 64 bits, this machine's order.
    pub fn put_ne64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Text with its closing NUL. Text with a NUL inside would be cut short in silence by the
    /// kernel, and is refused.
    pub fn put_str(&mut self, kind: u16, text: &str) {
        if text.as_bytes().contains(&0) {
            *self.flaw = Some("a name contains NUL");
            return;
        }
        let mut value = Vec::with_capacity(text.len() + 1);
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        self.put(kind, &value);
    }

    /// Keeps the buffer from being sent, and says why.
    pub(crate) fn refuse(&mut self, flaw: &'static str) {
        *self.flaw = Some(flaw);
    }

    /// Bytes written to the buffer so far, this and earlier messages together.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }
}

/// One message as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the netlink header: the family's header and the attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The family's own header, when the payload is that long.
    pub fn header<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.payload.first_chunk()
    }

    /// The attributes that follow a family header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        attributes(self.payload.get(aligned(header)..).unwrap_or(&[]))
    }
}

/// Walks the messages in one datagram. A header shorter than itself or longer than what is left
/// ends the walk.
pub fn messages(datagram: &[u8]) -> MessageIter<'_> {
    MessageIter { rest: datagram }
}

/// An iterator over messages; see [`messages`].
#[derive(Debug, Clone)]
pub struct MessageIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for MessageIter<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; MESSAGE_HEADER] = self.rest.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(payload) = self.rest.get(MESSAGE_HEADER..length) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Route;

    #[test]
    fn bytes_of_one_message() {
        let mut one = Messages::<Route>::one(0x12, NLM_F_ACK, &[9], |w| {
            w.put_str(1, "lo");
            w.nest(2, |w| w.put_be16(3, 0x0102));
        });
        one.number(7);
        let expected = [
            &40u32.to_ne_bytes()[..],
            &0x12u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &7u32.to_ne_bytes(),
            &[0; 4],
            &[9, 0, 0, 0],
            &7u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"lo\0\0",
            &12u16.to_ne_bytes(),
            &0x8002u16.to_ne_bytes(),
            &6u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            &[1, 2, 0, 0],
        ]
        .concat();
        assert_eq!(one.as_bytes(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut two = Messages::<Route>::new();
        two.push(1, 0, &[1, 2, 3, 4], |w| w.put(5, b"abc"));
        two.push(2, 0, &[], |w| w.put_flag(6));
        two.number(u32::MAX);
        two.add_flags(1, NLM_F_ACK);
        let read: Vec<_> = messages(two.as_bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence), (1, u32::MAX));
        assert_eq!(read[0].header(), Some(&[1, 2, 3, 4]));
        assert_eq!(read[0].attributes(4).next().map(|a| a.value), Some(&b"abc"[..]));
        assert_eq!((read[1].flags, read[1].sequence), (NLM_F_REQUEST | NLM_F_ACK, 0));
        assert_eq!(read[1].attributes(0).next().map(|a| a.kind), Some(6));
    }

    #[test]
    fn what_does_not_fit_is_a_flaw() {
        let long = vec![0; ATTRIBUTE_VALUE_MAX + 1];
        let flaw = |write: &dyn Fn(&mut Writer<'_>)| Messages::<Route>::one(1, 0, &[], |w| write(w)).flaw;
        assert!(flaw(&|w| w.put(1, &long)).is_some());
        assert!(flaw(&|w| w.put(1, &long[1..])).is_none());
        assert!(flaw(&|w| w.nest(1, |w| (0..2).for_each(|_| w.put(1, &long[..40_000])))).is_some());
        assert!(flaw(&|w| w.put_str(1, "a\0b")).is_some());
    }

    #[test]
    fn a_damaged_header_ends_the_walk() {
        let mut bytes = Messages::<Route>::one(1, 0, &[], |_| ()).as_bytes().to_vec();
        assert_eq!(messages(&bytes).count(), 1);
        assert_eq!(messages(&bytes[..15]).count(), 0);
        for length in [0u32, 15, 17, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
    }
}
