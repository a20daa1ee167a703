//! Sets and maps: their declaration. What is in them is in `element.rs`.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::{Batch, Table, kind, open, userdata};
use crate::error::Error;
use crate::message::{Message, Messages, NLM_F_CREATE, NLM_F_EXCL};
use crate::protocol::Netfilter;
use crate::socket::Socket;

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_TIMEOUT: u16 = 11;
const NFTA_SET_GC_INTERVAL: u16 = 12;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_HANDLE: u16 = 16;
const NFTA_SET_DESC_SIZE: u16 = 1;

const FLAG_ANONYMOUS: u32 = 0x1;
const FLAG_CONSTANT: u32 = 0x2;
const FLAG_MAP: u32 = 0x8;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_EVAL: u32 = 0x20;

const DATA_VERDICT: u32 = 0xffff_ff00;
/// `nft` has room for this many parts of a concatenation: six bits each in 32.
const PARTS_MAX: usize = 5;

/// What a part of a key or of data is, so that `nft list` can print it. The numbers are `nft`'s;
/// to the kernel a key is bytes. Each part of a concatenation is padded to four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// IPv4 address, 4 bytes.
    Ipv4Addr = 7,
    /// IPv6 address, 16 bytes.
    Ipv6Addr = 8,
    /// Link-layer address, 6 bytes; in a concatenation it takes 8, so it serves for numbers of
    /// 64 bits, of which `nft` prints the first 48.
    EtherAddr = 9,
    /// Layer 4 protocol, 1 byte.
    InetProto = 12,
    /// Port, 2 bytes, big-endian.
    InetService = 13,
    /// Any number, 4 bytes in this machine's order, printed in hexadecimal.
    Mark = 19,
    /// Index of an interface, 4 bytes in this machine's order.
    IfIndex = 20,
    /// Name of an interface, 16 bytes, padded with zeros.
    IfName = 41,
}

impl Datatype {
    /// Its length in bytes, padding aside.
    pub const fn byte_len(self) -> usize {
        match self {
            Datatype::InetProto => 1,
            Datatype::InetService => 2,
            Datatype::EtherAddr => 6,
            Datatype::Ipv4Addr | Datatype::Mark | Datatype::IfIndex => 4,
            Datatype::Ipv6Addr | Datatype::IfName => 16,
        }
    }

    /// `nft`'s `enum byteorder`.
    pub(super) const fn byte_order(self) -> u32 {
        match self {
            Datatype::Mark | Datatype::IfIndex | Datatype::IfName => 1,
            _ => 2,
        }
    }
}

/// The number and the length of a concatenation. A single part is not padded.
fn concatenate(parts: &[Datatype]) -> (u32, u32) {
    match parts {
        [one] => (*one as u32, one.byte_len() as u32),
        _ => parts.iter().fold((0, 0), |(number, length), part| {
            (number << 6 | *part as u32, length + part.byte_len().next_multiple_of(4) as u32)
        }),
    }
}

/// What a map maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetData<'a> {
    /// Data.
    Value(&'a [Datatype]),
    /// A verdict. Such a map is validated whole at each change: keep it small.
    Verdict,
}

/// A set or map to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name; for an anonymous one a pattern such as `__set%d`.
    pub name: &'a str,
    /// The parts of its key, at most five.
    pub key: &'a [Datatype],
    /// What it maps to; `None` for a plain set.
    pub data: Option<SetData<'a>>,
    /// Belongs to the one rule that refers to it, by the number that adding it returns.
    pub anonymous: bool,
    /// Never changes.
    pub constant: bool,
    /// Elements are added by rules, too.
    pub dynamic: bool,
    /// Elements may expire, after this time unless they say otherwise (zero: never).
    pub timeout: Option<Duration>,
    /// How often expired elements are looked for.
    pub gc_interval: Option<Duration>,
    /// How many elements it can have.
    pub size: Option<u32>,
    /// What `nft list` prints as its comment; room for marks of our own.
    pub comment: Option<&'a str>,
}

impl<'a> Set<'a> {
    /// A plain named set without limits.
    pub fn new(name: &'a str, key: &'a [Datatype]) -> Self {
        Set {
            name,
            key,
            data: None,
            anonymous: false,
            constant: false,
            dynamic: false,
            timeout: None,
            gc_interval: None,
            size: None,
            comment: None,
        }
    }

    /// A plain named map without limits.
    pub fn map(name: &'a str, key: &'a [Datatype], data: SetData<'a>) -> Self {
        Set { data: Some(data), ..Set::new(name, key) }
    }

    fn flags(&self) -> u32 {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        flag(self.anonymous, FLAG_ANONYMOUS)
            | flag(self.constant, FLAG_CONSTANT)
            | flag(self.data.is_some(), FLAG_MAP)
            | flag(self.timeout.is_some(), FLAG_TIMEOUT)
            | flag(self.dynamic, FLAG_EVAL)
    }

    /// Length of a key in bytes.
    pub fn key_len(&self) -> usize {
        concatenate(self.key).1 as usize
    }
}

/// A set that a rule or an element refers to: by name, and for an anonymous one by the number
/// that adding it returned. The number is forgotten with the batch, so it does not count when two
/// are compared.
#[derive(Debug, Clone, Eq)]
pub struct SetRef {
    /// Its name.
    pub name: String,
    /// Its number within the batch; 0: by name only.
    pub id: u32,
}

impl PartialEq for SetRef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Hash for SetRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl From<&str> for SetRef {
    fn from(name: &str) -> Self {
        SetRef { name: name.to_string(), id: 0 }
    }
}

/// A set or map as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// `nft`'s number for the key.
    pub key_type: u32,
    /// Length of a key in bytes.
    pub key_len: u32,
    /// `nft`'s number for the data.
    pub data_type: u32,
    /// Length of the data in bytes.
    pub data_len: u32,
    /// When elements expire.
    pub timeout: Option<Duration>,
    /// How many elements it can have.
    pub size: Option<u32>,
    /// What its creator wrote on it.
    pub userdata: Vec<u8>,
}

impl SetInfo {
    /// Whether it is what `set` asks for, so that adding it would change nothing.
    pub fn is(&self, set: &Set<'_>) -> bool {
        let (data_type, data_len) = data_numbers(set.data);
        self.name == set.name
            && self.flags == set.flags()
            && (self.key_type, self.key_len) == concatenate(set.key)
            && self.data_type == data_type
            // A verdict is as long as the kernel's structure for it.
            && (self.data_len == data_len || data_type == DATA_VERDICT)
            && self.timeout.unwrap_or_default() == set.timeout.unwrap_or_default()
            && self.size.unwrap_or(0) == set.size.unwrap_or(0)
            && self.userdata == userdata::of_set(set)
    }
}

fn data_numbers(data: Option<SetData<'_>>) -> (u32, u32) {
    match data {
        None => (0, 0),
        Some(SetData::Value(parts)) => concatenate(parts),
        Some(SetData::Verdict) => (DATA_VERDICT, 0),
    }
}

impl Batch {
    /// Adds the set if it is not there, and returns its number within this batch.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set<'_>) -> u32 {
        self.new_set(table, set, NLM_F_CREATE)
    }

    /// Creates the set; refused if it is there.
    pub fn create_set(&mut self, table: Table<'_>, set: &Set<'_>) -> u32 {
        self.new_set(table, set, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn new_set(&mut self, table: Table<'_>, set: &Set<'_>, flags: u16) -> u32 {
        self.last_set_id += 1;
        let id = self.last_set_id;
        let too_many = set.key.len() > PARTS_MAX
            || matches!(set.data, Some(SetData::Value(parts)) if parts.len() > PARTS_MAX);
        if too_many {
            self.messages.flaw = Some("a set's key or data has more than five parts");
        }
        let (key_type, key_len) = concatenate(set.key);
        let (data_type, data_len) = data_numbers(set.data);
        let userdata = userdata::of_set(set);
        self.step(kind::NEW_SET, flags, table, |w| {
            w.put_str(NFTA_SET_TABLE, table.name);
            w.put_str(NFTA_SET_NAME, set.name);
            w.put_be32(NFTA_SET_FLAGS, set.flags());
            w.put_be32(NFTA_SET_KEY_TYPE, key_type);
            w.put_be32(NFTA_SET_KEY_LEN, key_len);
            if set.data.is_some() {
                w.put_be32(NFTA_SET_DATA_TYPE, data_type);
                w.put_be32(NFTA_SET_DATA_LEN, data_len);
            }
            w.put_be32(NFTA_SET_ID, id);
            if let Some(size) = set.size {
                w.nest(NFTA_SET_DESC, |w| w.put_be32(NFTA_SET_DESC_SIZE, size));
            }
            if let Some(timeout) = set.timeout.filter(|timeout| !timeout.is_zero()) {
                w.put_be64(NFTA_SET_TIMEOUT, milliseconds(timeout));
            }
            if let Some(interval) = set.gc_interval {
                w.put_be32(NFTA_SET_GC_INTERVAL, u32::try_from(interval.as_millis()).unwrap_or(u32::MAX));
            }
            w.put(NFTA_SET_USERDATA, &userdata);
        });
        id
    }

    /// Deletes the set with its elements; refused while a rule refers to it.
    pub fn delete_set(&mut self, table: Table<'_>, name: &str) {
        self.step(kind::DEL_SET, 0, table, |w| {
            w.put_str(NFTA_SET_TABLE, table.name);
            w.put_str(NFTA_SET_NAME, name);
        });
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the table's sets and maps; none if there is no such table.
pub fn sets(socket: &mut Socket<Netfilter>, table: Table<'_>) -> Result<Vec<SetInfo>, Error> {
    let mut request = Messages::one(kind::GET_SET, 0, &table.family.header(), |w| {
        w.put_str(NFTA_SET_TABLE, table.name);
    });
    let doing = format_args!("list sets of nftables table {table}");
    match socket.dump(&doing, &mut request, |message| read(&message)) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        result => result,
    }
}

pub(crate) fn read(message: &Message<'_>) -> Option<SetInfo> {
    let (_, attributes) = open(message, kind::NEW_SET)?;
    let mut set = SetInfo {
        name: String::new(),
        handle: 0,
        flags: 0,
        key_type: 0,
        key_len: 0,
        data_type: 0,
        data_len: 0,
        timeout: None,
        size: None,
        userdata: Vec::new(),
    };
    for attribute in attributes {
        match attribute.kind {
            NFTA_SET_NAME => set.name = attribute.str()?.to_string(),
            NFTA_SET_HANDLE => set.handle = attribute.be64()?,
            NFTA_SET_FLAGS => set.flags = attribute.be32()?,
            NFTA_SET_KEY_TYPE => set.key_type = attribute.be32()?,
            NFTA_SET_KEY_LEN => set.key_len = attribute.be32()?,
            NFTA_SET_DATA_TYPE => set.data_type = attribute.be32()?,
            NFTA_SET_DATA_LEN => set.data_len = attribute.be32()?,
            NFTA_SET_TIMEOUT => set.timeout = Some(Duration::from_millis(attribute.be64()?)),
            NFTA_SET_DESC => {
                set.size = attribute.nested().find(NFTA_SET_DESC_SIZE).and_then(|size| size.be32());
            }
            NFTA_SET_USERDATA => set.userdata = attribute.value.to_vec(),
            _ => {}
        }
    }
    Some(set)
}
