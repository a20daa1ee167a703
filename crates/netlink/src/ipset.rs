//! ipsets: their names, and destroying one. Another proxy of Services may have left some; ours has none.
//!
//! *Limits.* No creation, no elements, no types.

use crate::error::Error;
use crate::message::Messages;
use crate::protocol::Netfilter;
use crate::socket::{Socket, nfgenmsg};

const NFNL_SUBSYS_IPSET: u16 = 6;
const DESTROY: u16 = NFNL_SUBSYS_IPSET << 8 | 3;
const LIST: u16 = NFNL_SUBSYS_IPSET << 8 | 7;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_FLAGS: u16 = 6;
/// Numbers are in network byte order, which the kernel wants to be told of.
const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
/// Only names are asked for (`IPSET_FLAG_LIST_SETNAME`).
const FLAG_LIST_SETNAME: u32 = 1 << 1;
/// The oldest version of the protocol that the kernels we run on speak.
const PROTOCOL: u8 = 6;

/// The names of all sets in this network namespace. A kernel without ipsets has none.
pub fn names(socket: &mut Socket<Netfilter>) -> Result<Vec<String>, Error> {
    let mut request = Messages::one(LIST, 0, &nfgenmsg(libc::AF_UNSPEC as u8, 0), |w| {
        w.put_u8(ATTR_PROTOCOL, PROTOCOL);
        w.put_be32(ATTR_FLAGS | NLA_F_NET_BYTEORDER, FLAG_LIST_SETNAME);
    });
    let listed = socket.dump(&"list ipsets", &mut request, |message| {
        Some(message.attributes(HEADER).find(ATTR_SETNAME)?.str()?.to_owned())
    });
    match listed {
        Err(error) if error.is_unsupported() || error.errno() == Some(libc::EINVAL) => Ok(Vec::new()),
        other => other,
    }
}

/// Destroys a set. One that a rule refers to is not: the error says that it is in use.
pub fn destroy(socket: &mut Socket<Netfilter>, name: &str) -> Result<(), Error> {
    let mut request = Messages::one(DESTROY, 0, &nfgenmsg(libc::AF_UNSPEC as u8, 0), |w| {
        w.put_u8(ATTR_PROTOCOL, PROTOCOL);
        w.put_str(ATTR_SETNAME, name);
    });
    socket.request(&format_args!("destroy the ipset {name}"), &mut request)
}
