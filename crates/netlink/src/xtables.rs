//! What the kernel's own iptables tables tell of themselves, without being read: no netlink at all,
//! but a socket option, and the cheapest way to see that somebody has been there.

use crate::IpVersion;
use crate::error::Error;
use crate::sys;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` (`linux/netfilter_ipv4/ip_tables.h`).
const GET_INFO: i32 = 64;
/// `sizeof(struct ipt_getinfo)`; the one of IPv6 is the same.
const INFO_LEN: usize = 84;
/// Where in it the numbers of entries and bytes are.
const ENTRIES_AT: usize = 76;
const BYTES_AT: usize = 80;
/// `XT_TABLE_MAXNAMELEN`.
const NAME_LEN: usize = 32;

/// How much is in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Rules, those at the ends of chains included.
    pub entries: u32,
    /// Bytes.
    pub bytes: u32,
}

/// Asks how much is in a table, in this thread's network namespace.
pub fn info(version: IpVersion, table: &str) -> Result<Info, Error> {
    let mut buffer = [0u8; INFO_LEN];
    let name = table.as_bytes();
    // The rest stays zero, which ends the name.
    for (to, from) in buffer.iter_mut().take(NAME_LEN - 1).zip(name) {
        *to = *from;
    }
    let asked = sys::raw_socket(version).and_then(|fd| sys::ask(&fd, version, GET_INFO, &mut buffer));
    let doing = format_args!("ask how big iptables' table {table} is");
    asked.map_err(|error| Error::socket(&doing, "getsockopt", error))?;
    let number = |at: usize| {
        let bytes = buffer.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    Ok(Info { entries: number(ENTRIES_AT), bytes: number(BYTES_AT) })
}
