//! What is in sets and maps. Adding splits over as many messages as it takes (a list of elements
//! is an attribute, at most 65,535 bytes long); reading shows each element as it comes and
//! collects nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use super::expression::{NF_ACCEPT, NF_DROP, Verdict};
use super::set::{SetRef, milliseconds};
use super::{Batch, NFTA_LIST_ELEM, Table, kind, open};
use crate::attribute::{ATTRIBUTE_HEADER, Attribute, NLA_F_NESTED, aligned};
use crate::error::{Cause, Error, Refused};
use crate::message::{MESSAGE_HEADER, Messages, NLM_F_CREATE, NLM_F_EXCL, Writer, messages};
use crate::protocol::Netfilter;
use crate::socket::Socket;

const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;

const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;

pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// The longest key or data the kernel takes (`NFT_DATA_VALUE_MAXLEN`).
pub(super) const VALUE_MAX: usize = 64;
/// Where a list of elements is cut. The longest element (key, its end, a verdict with the longest
/// chain name) takes less than what is left to 65,535.
const LIST_BYTES_MAX: usize = 64_000;

/// How long a hash table is given to settle before it is read again: twice as long each time.
const TORN_PAUSE_MIN: Duration = Duration::from_millis(2);
const TORN_PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// The key, its parts padded to four bytes.
    pub key: &'a [u8],
    /// The end of a range of concatenated keys.
    pub key_end: Option<&'a [u8]>,
    /// What a map maps it to.
    pub data: Option<Data<'a>>,
    /// `NFT_SET_ELEM_*`: end of an interval (1), catch-all (2).
    pub flags: u32,
    /// How long it lives since it was added or refreshed, when not as long as its set says.
    pub timeout: Option<Duration>,
    /// How long it has yet to live.
    pub expiration: Option<Duration>,
    /// What its creator wrote on it; see [`userdata`](super::userdata).
    pub userdata: &'a [u8],
}

/// What a map maps a key to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data<'a> {
    /// Bytes, the parts of a concatenation padded to four.
    Value(&'a [u8]),
    /// A verdict.
    Verdict(Verdict<'a>),
}

impl Batch {
    /// Adds elements; one that is there is left as it is, and refused if it maps to other data.
    pub fn add_elements(
        &mut self,
        table: Table<'_>,
        set: impl Into<SetRef>,
        write: impl FnOnce(&mut ElementWriter<'_>),
    ) {
        self.write_elements(kind::NEW_ELEMENT, NLM_F_CREATE, table, set.into(), write);
    }

    /// Creates elements; each is refused if it is there.
    pub fn create_elements(
        &mut self,
        table: Table<'_>,
        set: impl Into<SetRef>,
        write: impl FnOnce(&mut ElementWriter<'_>),
    ) {
        self.write_elements(kind::NEW_ELEMENT, NLM_F_CREATE | NLM_F_EXCL, table, set.into(), write);
    }

    /// Deletes elements by their keys; each is refused if it is not there.
    pub fn delete_elements(
        &mut self,
        table: Table<'_>,
        set: impl Into<SetRef>,
        write: impl FnOnce(&mut ElementWriter<'_>),
    ) {
        self.write_elements(kind::DEL_ELEMENT, 0, table, set.into(), write);
    }

    /// Deletes all elements of the set.
    pub fn flush_set(&mut self, table: Table<'_>, set: &str) {
        self.step(kind::DEL_ELEMENT, 0, table, |w| {
            w.put_str(NFTA_SET_ELEM_LIST_TABLE, table.name);
            w.put_str(NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    fn write_elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: SetRef,
        write: impl FnOnce(&mut ElementWriter<'_>),
    ) {
        let mut writer = ElementWriter { messages: &mut self.messages, kind, flags, table, set, begun: None };
        write(&mut writer);
        writer.finish();
    }

    /// The key of the element at fault, when the kernel pointed at one in the refused step.
    pub fn refused_key(&self, refused: &Refused) -> Option<&[u8]> {
        let start = *self.messages.starts.get(refused.index)?;
        let message = messages(self.messages.bytes.get(start..)?).next()?;
        let payload = message.payload.as_ptr() as usize - MESSAGE_HEADER;
        let offset = refused.refusal.offset? as usize;
        let list = message.attributes(4).find(NFTA_SET_ELEM_LIST_ELEMENTS)?;
        let blamed = Iterator::find(&mut list.nested(), |element| {
            let begin = element.value.as_ptr() as usize - ATTRIBUTE_HEADER - payload;
            (begin..begin + ATTRIBUTE_HEADER + element.value.len()).contains(&offset)
        })?;
        read_value(blamed.nested().find(NFTA_SET_ELEM_KEY)?)
    }
}

/// Writes elements into a batch; see [`Batch::add_elements`].
#[derive(Debug)]
pub struct ElementWriter<'a> {
    messages: &'a mut Messages<Netfilter>,
    kind: u16,
    flags: u16,
    table: Table<'a>,
    set: SetRef,
    begun: Option<Begun>,
}

/// Where the message and its list of elements begin.
#[derive(Debug, Clone, Copy)]
struct Begun {
    message: usize,
    list: usize,
}

impl ElementWriter<'_> {
    /// One key, for a set.
    #[inline]
    pub fn key(&mut self, key: &[u8]) {
        let mut writer = self.writer();
        let element = writer.open(NFTA_LIST_ELEM | NLA_F_NESTED);
        put_value(&mut writer, NFTA_SET_ELEM_KEY, key);
        writer.close(element);
    }

    /// One key and the bytes it maps to, with user data where that is not empty.
    #[inline]
    pub fn pair(&mut self, key: &[u8], value: &[u8], userdata: &[u8]) {
        let mut writer = self.writer();
        let element = writer.open(NFTA_LIST_ELEM | NLA_F_NESTED);
        put_value(&mut writer, NFTA_SET_ELEM_KEY, key);
        put_value(&mut writer, NFTA_SET_ELEM_DATA, value);
        if !userdata.is_empty() {
            writer.put(NFTA_SET_ELEM_USERDATA, userdata);
        }
        writer.close(element);
    }

    /// One element with all there is to say of it.
    pub fn element(&mut self, element: &Element<'_>) {
        put_element(&mut self.writer(), element);
    }

    /// A writer with room for one more element.
    #[inline]
    fn writer(&mut self) -> Writer<'_> {
        let full = |begun: &Begun, position: usize| position - begun.list > LIST_BYTES_MAX;
        match self.begun {
            Some(begun) if full(&begun, self.messages.byte_len()) => {
                self.finish();
                self.begin();
            }
            Some(_) => {}
            None => self.begin(),
        }
        self.messages.writer()
    }

    fn begin(&mut self) {
        let message = self.messages.begin(self.kind, self.flags, &self.table.family.header());
        let mut writer = self.messages.writer();
        put_list_head(&mut writer, self.table, &self.set);
        self.begun = Some(Begun { message, list: writer.open(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED) });
    }

    fn finish(&mut self) {
        if let Some(Begun { message, list }) = self.begun.take() {
            self.messages.writer().close(list);
            self.messages.end(message);
        }
    }
}

fn put_list_head(w: &mut Writer<'_>, table: Table<'_>, set: &SetRef) {
    w.put_str(NFTA_SET_ELEM_LIST_TABLE, table.name);
    w.put_str(NFTA_SET_ELEM_LIST_SET, &set.name);
    if set.id != 0 {
        w.put_be32(NFTA_SET_ELEM_LIST_SET_ID, set.id);
    }
}

fn put_element(w: &mut Writer<'_>, element: &Element<'_>) {
    w.nest(NFTA_LIST_ELEM, |w| {
        if element.flags != 0 {
            w.put_be32(NFTA_SET_ELEM_FLAGS, element.flags);
        }
        if let Some(timeout) = element.timeout {
            w.put_be64(NFTA_SET_ELEM_TIMEOUT, milliseconds(timeout));
        }
        if let Some(expiration) = element.expiration {
            w.put_be64(NFTA_SET_ELEM_EXPIRATION, milliseconds(expiration));
        }
        put_value(w, NFTA_SET_ELEM_KEY, element.key);
        if let Some(end) = element.key_end {
            put_value(w, NFTA_SET_ELEM_KEY_END, end);
        }
        match &element.data {
            None => {}
            Some(Data::Value(value)) => put_value(w, NFTA_SET_ELEM_DATA, value),
            Some(Data::Verdict(verdict)) => w.nest(NFTA_SET_ELEM_DATA, |w| put_verdict(w, verdict)),
        }
        if !element.userdata.is_empty() {
            w.put(NFTA_SET_ELEM_USERDATA, element.userdata);
        }
    });
}

/// Bytes wrapped as the kernel wants data: an attribute within an attribute.
#[inline]
pub(super) fn put_value(w: &mut Writer<'_>, kind: u16, value: &[u8]) {
    if value.len() > VALUE_MAX {
        w.refuse("a key or a value is longer than 64 bytes");
        return;
    }
    let outer = w.open(kind | NLA_F_NESTED);
    w.put(NFTA_DATA_VALUE, value);
    w.close(outer);
}

/// A verdict, to be put into an attribute that holds data.
pub(super) fn put_verdict(w: &mut Writer<'_>, verdict: &Verdict<'_>) {
    let (code, chain) = verdict.parts();
    w.nest(NFTA_DATA_VERDICT, |w| {
        w.put_be32(NFTA_VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            w.put_str(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The bytes that [`put_value`] wrapped.
pub(super) fn read_value<'a>(attribute: Attribute<'a>) -> Option<&'a [u8]> {
    attribute.nested().find(NFTA_DATA_VALUE).map(|value| value.value)
}

/// Bytes or a verdict.
pub(super) fn read_data<'a>(attribute: Attribute<'a>) -> Option<Data<'a>> {
    if let Some(value) = read_value(attribute) {
        return Some(Data::Value(value));
    }
    let verdict = attribute.nested().find(NFTA_DATA_VERDICT)?;
    let code = verdict.nested().find(NFTA_VERDICT_CODE)?.be32()?.cast_signed();
    let chain = verdict.nested().find(NFTA_VERDICT_CHAIN).and_then(|chain| chain.str());
    Verdict::from_parts(code, chain).map(Data::Verdict)
}

fn read_element<'a>(attribute: Attribute<'a>) -> Option<Element<'a>> {
    let mut element = Element::default();
    let time = |attribute: Attribute<'_>| attribute.be64().map(Duration::from_millis);
    for attribute in attribute.nested() {
        match attribute.kind {
            NFTA_SET_ELEM_KEY => element.key = read_value(attribute)?,
            NFTA_SET_ELEM_KEY_END => element.key_end = Some(read_value(attribute)?),
            NFTA_SET_ELEM_DATA => element.data = Some(read_data(attribute)?),
            NFTA_SET_ELEM_FLAGS => element.flags = attribute.be32()?,
            NFTA_SET_ELEM_TIMEOUT => element.timeout = Some(time(attribute)?),
            NFTA_SET_ELEM_EXPIRATION => element.expiration = Some(time(attribute)?),
            NFTA_SET_ELEM_USERDATA => element.userdata = attribute.value,
            _ => {}
        }
    }
    Some(element)
}

/// Shows each element in a message that lists elements; `None` when one makes no sense.
pub(crate) fn each_element<'a>(
    message: &crate::Message<'a>,
    visit: &mut dyn FnMut(Element<'a>),
) -> Option<()> {
    let (_, attributes) = open(message, kind::NEW_ELEMENT)?;
    if let Some(list) = attributes.find(NFTA_SET_ELEM_LIST_ELEMENTS) {
        for element in list.nested() {
            visit(read_element(element)?);
        }
    }
    Some(())
}

/// Reads all elements of a set and shows each to `visit`, which gathers what it wants. What is
/// gathered starts `fresh` whenever the read turns out to be torn.
///
/// The kernel lists a hash table by counting, and while it still grows or shrinks in the
/// background after a large change, it shows elements twice and leaves as many out
/// (`nft_rhash_walk`, seen on 6.18). So an element seen twice means that all is read anew.
///
/// The kernel does not say when somebody changes the set meanwhile. Who wants one picture of
/// several sets and rules compares the [`generation`](super::generation) before and after.
pub fn elements<S>(
    socket: &mut Socket<Netfilter>,
    table: Table<'_>,
    set: &str,
    mut fresh: impl FnMut() -> S,
    mut visit: impl FnMut(&mut S, Element<'_>),
) -> Result<S, Error> {
    let mut request = Messages::one(kind::GET_ELEMENT, 0, &table.family.header(), |w| {
        put_list_head(w, table, &set.into());
    });
    let doing = format_args!("list elements of nftables set {table} {set}");
    let mut pause = TORN_PAUSE_MIN;
    while pause < TORN_PAUSE_MAX {
        let read = socket.dump_into(
            &doing,
            &mut request,
            || (fresh(), Seen::default()),
            |(gathered, seen), message| {
                each_element(&message, &mut |element| {
                    seen.see(&element);
                    visit(gathered, element);
                })
            },
        );
        match read? {
            (gathered, Seen { twice: false, .. }) => return Ok(gathered),
            _ => thread::sleep(pause),
        }
        pause *= 2;
    }
    Err(Error { doing: doing.to_string(), cause: Cause::Restless })
}

/// Shows the elements of a set as one pass finds them, for whoever looks again soon: while the set
/// grows or shrinks some may be shown twice, others not at all.
pub fn peek_elements(
    socket: &mut Socket<Netfilter>,
    table: Table<'_>,
    set: &str,
    mut visit: impl FnMut(Element<'_>),
) -> Result<(), Error> {
    let mut request = Messages::one(kind::GET_ELEMENT, 0, &table.family.header(), |w| {
        put_list_head(w, table, &set.into());
    });
    let doing = format_args!("look at the elements of nftables set {table} {set}");
    socket.dump_into(&doing, &mut request, || (), |(), message| each_element(&message, &mut visit))
}

/// Which elements a read has shown. By hash, eight bytes an element; another hash each time, so
/// that two keys that share one do not do so again.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    hashes: HashSet<u64>,
    twice: bool,
}

impl Seen {
    fn see(&mut self, element: &Element<'_>) {
        // The end of one interval may be the beginning of the next.
        let hash = self.hasher.hash_one((element.key, element.flags));
        self.twice |= !self.hashes.insert(hash);
    }
}

/// Looks one key up and shows its element to `read`; an error that
/// [`is_not_found`](Error::is_not_found) when it is not there.
pub fn get_element<T>(
    socket: &mut Socket<Netfilter>,
    table: Table<'_>,
    set: &str,
    key: &[u8],
    mut read: impl FnMut(Element<'_>) -> T,
) -> Result<T, Error> {
    let mut request = Messages::one(kind::GET_ELEMENT, 0, &table.family.header(), |w| {
        put_list_head(w, table, &set.into());
        w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| put_element(w, &Element { key, ..Element::default() }));
    });
    let doing = format_args!("read an element of nftables set {table} {set}");
    socket.get(&doing, &mut request, |message| {
        let mut found = None;
        each_element(&message, &mut |element| found = Some(read(element)))?;
        found
    })
}

/// The longest element, written after the cut, still fits the 16-bit length.
const _: () = {
    let value = 2 * ATTRIBUTE_HEADER + VALUE_MAX;
    let chain = aligned(super::expression::CHAIN_NAME_MAX + 1);
    let verdict = 4 * ATTRIBUTE_HEADER + 4 + chain;
    let rest = 2 * ATTRIBUTE_HEADER + super::userdata::USERDATA_MAX + 3 * 12;
    assert!(LIST_BYTES_MAX + 2 * value + verdict + rest <= u16::MAX as usize);
    assert!(NF_ACCEPT == 1 && NF_DROP == 0);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_twice() {
        let element = |key, flags| Element { key, flags, ..Element::default() };
        let mut seen = Seen::default();
        seen.see(&element(&[1], 0));
        seen.see(&element(&[2], 0));
        seen.see(&element(&[1], 1));
        assert!(!seen.twice);
        seen.see(&element(&[1], 0));
        assert!(seen.twice);
    }
}
