//! Tables, and the generation of the whole ruleset.

use super::{Batch, Family, Table, kind, open};
use crate::error::Error;
use crate::message::{Message, Messages, NLM_F_CREATE, NLM_F_EXCL};
use crate::protocol::Netfilter;
use crate::socket::{Socket, nfgenmsg};

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USE: u16 = 3;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_TABLE_USERDATA: u16 = 6;

const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// The kernel's number for it, never given again.
    pub handle: u64,
    /// Dormant (1), owned (2), persistent (4).
    pub flags: u32,
    /// How many chains and sets it has.
    pub uses: u32,
    /// What its creator wrote on it; see [`userdata`](super::userdata).
    pub userdata: Vec<u8>,
}

impl Batch {
    /// Adds the table if it is not there. A table that is there keeps its user data.
    pub fn add_table(&mut self, table: Table<'_>, userdata: &[u8]) {
        self.new_table(table, userdata, NLM_F_CREATE);
    }

    /// Creates the table; refused if it is there.
    pub fn create_table(&mut self, table: Table<'_>, userdata: &[u8]) {
        self.new_table(table, userdata, NLM_F_CREATE | NLM_F_EXCL);
    }

    fn new_table(&mut self, table: Table<'_>, userdata: &[u8], flags: u16) {
        self.step(kind::NEW_TABLE, flags, table, |w| {
            w.put_str(NFTA_TABLE_NAME, table.name);
            w.put_be32(NFTA_TABLE_FLAGS, 0);
            if !userdata.is_empty() {
                w.put(NFTA_TABLE_USERDATA, userdata);
            }
        });
    }

    /// Deletes the table and all that is in it.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.step(kind::DEL_TABLE, 0, table, |w| w.put_str(NFTA_TABLE_NAME, table.name));
    }
}

/// Reads all tables of all families.
pub fn tables(socket: &mut Socket<Netfilter>) -> Result<Vec<TableInfo>, Error> {
    let mut request = Messages::one(kind::GET_TABLE, 0, &nfgenmsg(libc::AF_UNSPEC as u8, 0), |_| ());
    socket.dump(&"list nftables tables", &mut request, |message| read(&message))
}

pub(super) fn read(message: &Message<'_>) -> Option<TableInfo> {
    let (family, attributes) = open(message, kind::NEW_TABLE)?;
    let mut table =
        TableInfo { family, name: String::new(), handle: 0, flags: 0, uses: 0, userdata: Vec::new() };
    for attribute in attributes {
        match attribute.kind {
            NFTA_TABLE_NAME => table.name = attribute.str()?.to_string(),
            NFTA_TABLE_HANDLE => table.handle = attribute.be64()?,
            NFTA_TABLE_FLAGS => table.flags = attribute.be32()?,
            NFTA_TABLE_USE => table.uses = attribute.be32()?,
            NFTA_TABLE_USERDATA => table.userdata = attribute.value.to_vec(),
            _ => {}
        }
    }
    Some(table)
}

/// The state of the ruleset of this network namespace, and who changed it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Grows with each transaction, anybody's; also wraps.
    pub id: u32,
    /// The process that asks (the kernel's words in a notice: that committed).
    pub process: u32,
    /// Its name.
    pub name: String,
}

/// Reads the ruleset's generation.
pub fn generation(socket: &mut Socket<Netfilter>) -> Result<Generation, Error> {
    let mut request = Messages::one(kind::GET_GENERATION, 0, &nfgenmsg(libc::AF_UNSPEC as u8, 0), |_| ());
    socket.get(&"read the nftables generation", &mut request, |message| read_generation(&message))
}

pub(super) fn read_generation(message: &Message<'_>) -> Option<Generation> {
    let (_, attributes) = open(message, kind::NEW_GENERATION)?;
    let name = attributes.find(NFTA_GEN_PROC_NAME).and_then(|name| name.str()).unwrap_or_default();
    Some(Generation {
        id: attributes.find(NFTA_GEN_ID)?.be32()?,
        process: attributes.find(NFTA_GEN_PROC_PID).and_then(|pid| pid.be32()).unwrap_or(0),
        name: name.to_string(),
    })
}
