//! The two kinds of iptables, and which of them a node uses. Both may be installed, each with tables
//! of its own that the other does not see, and mixing them means two proxies in the kernel.

use super::half::{Refusal, Tables};
use super::kernel::Kernel;
use super::name::Table;
use crate::Error;
use crate::program::nft_family;
use model::Family;
use netlink::{Netfilter, Socket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, fs};

/// A kind of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// The kernel's own tables for it.
    Legacy,
    /// Rules of nftables that look like it.
    Nft,
}

impl Variant {
    /// Both.
    pub const ALL: [Variant; 2] = [Variant::Legacy, Variant::Nft];

    /// Whether there can be anything in its tables in this network namespace. To read tables of
    /// iptables-legacy makes them; and when a program of iptables-nft ends, commits of others wait for
    /// the kernel to free what was deleted (`nft_rcv_nl_event`), some 15 ms.
    pub fn may_hold_anything(self) -> bool {
        match self {
            Variant::Legacy => {
                let lists = ["ip_tables_names", "ip6_tables_names"];
                lists.iter().any(|list| has_legacy_table(list, "filter"))
            }
            Variant::Nft => Family::ALL.into_iter().any(|family| self.may_hold_of(family)),
        }
    }

    /// The same of one family.
    pub(crate) fn may_hold_of(self, family: Family) -> bool {
        match self {
            Variant::Legacy => true,
            // If the kernel does not say, the program will.
            Variant::Nft => has_nft_table(family).unwrap_or(true),
        }
    }

    /// Says that this network namespace uses this kind, as a kubelet says it: by a chain that
    /// [`Plane::open`](super::Plane::open) finds. For namespaces of one's own, to choose.
    pub fn claim(self) -> Result<(), Error> {
        let programs = Programs::find(Some(self))?;
        let failed = |refusal: Refusal| Error::Restore(refusal.what);
        for family in Family::ALL {
            let text = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
            Kernel::open(family, &programs)?.restore(&mut |sink| sink(text)).map_err(failed)?;
        }
        Ok(())
    }

    /// Its name, as part of programs' names.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Legacy => "legacy",
            Variant::Nft => "nft",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether there is a table of nftables that looks like one of iptables'.
fn has_nft_table(family: Family) -> Result<bool, netlink::Error> {
    let mut socket: Socket<Netfilter> = Socket::open()?;
    let family = nft_family(family);
    let like = |name: &str| Table::ALL.iter().any(|table| table.name() == name);
    let tables = netlink::nftables::tables(&mut socket)?;
    Ok(tables.iter().any(|table| table.family == family && like(&table.name)))
}

/// Where programs are that the `PATH` does not name: services are often started with a short one.
const PLACES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// The first version that can masquerade from random ports, and whose `iptables-restore` waits for
/// the lock.
const MODERN: [u32; 3] = [1, 6, 2];
/// Chains that tell who has set up a node's tables: kubelets make the first two, kube-proxy and we
/// the third.
const SIGNS: [&str; 3] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ", ":KUBE-PROXY-CANARY "];

/// The programs of one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) variant: Variant,
    /// Its version knows `--random-fully`, and waiting.
    pub(crate) modern: bool,
    /// Between `iptables` and `-restore`: `-nft`, `-legacy`, or nothing.
    infix: String,
}

impl Programs {
    /// The programs of a variant, or of the one that this node uses.
    pub(crate) fn find(wanted: Option<Variant>) -> Result<Programs, Error> {
        let named = |variant: Variant| find(&format!("iptables-{variant}-restore")).is_some();
        let plain = || {
            let told = version("iptables-restore")?;
            let variant = if told.contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
            Some((variant, String::new(), told))
        };
        let of = |variant: Variant| {
            let infix = format!("-{variant}");
            let told = version(&format!("iptables{infix}-restore"))?;
            Some((variant, infix, told))
        };
        let chosen = match (wanted, named(Variant::Legacy), named(Variant::Nft)) {
            (Some(variant), ..) => of(variant).or_else(|| plain().filter(|(has, ..)| *has == variant)),
            (None, true, true) => of(in_use().or_else(|| plain().map(|(v, ..)| v)).unwrap_or(Variant::Nft)),
            (None, true, false) => of(Variant::Legacy),
            (None, false, true) => of(Variant::Nft),
            (None, false, false) => plain(),
        };
        let missing = || match wanted {
            Some(variant) => format!("iptables-{variant}-restore is not installed"),
            None => "iptables-restore is not installed".to_owned(),
        };
        let (variant, infix, told) = chosen.ok_or_else(|| Error::NoProgram(missing()))?;
        let programs = Programs { variant, modern: is_modern(&told), infix };
        Ok(programs)
    }

    /// A program of one family: `restore`, `save`, or nothing for `iptables` itself.
    pub(crate) fn path(&self, family: Family, what: &str) -> Result<PathBuf, Error> {
        let dash = if what.is_empty() { "" } else { "-" };
        let name = format!("{}{}{dash}{what}", base(family), self.infix);
        find(&name).ok_or_else(|| Error::NoProgram(format!("{name} is not installed")))
    }
}

fn base(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// The variant that a node uses, as `iptables-wrappers` tells it: whose tables hold a kubelet's
/// chains, or a proxy's; else those in which there is more.
fn in_use() -> Option<Variant> {
    let saved = Variant::ALL.map(|variant| (variant, dump(variant, "mangle")));
    let signed = |text: &str| SIGNS.iter().any(|sign| text.contains(sign));
    // A kubelet of today writes by the variant that the node uses, and never by both.
    if let Some((variant, _)) = saved.iter().rev().find(|(_, text)| signed(text)) {
        return Some(*variant);
    }
    let rules = |variant| {
        let all = ["filter", "nat", "mangle"].map(|table| dump(variant, table));
        all.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("-A")).count()
    };
    let [legacy, nft] = Variant::ALL.map(rules);
    match legacy.cmp(&nft) {
        std::cmp::Ordering::Greater => Some(Variant::Legacy),
        std::cmp::Ordering::Less => Some(Variant::Nft),
        std::cmp::Ordering::Equal => None,
    }
}

/// What a variant has in a table, of both families. Legacy tables that the kernel has not made yet
/// are not asked for, for that would make them.
fn dump(variant: Variant, table: &str) -> String {
    let has = |family: Family| match (variant, family) {
        (Variant::Nft, _) => true,
        (Variant::Legacy, Family::V4) => has_legacy_table("ip_tables_names", table),
        (Variant::Legacy, Family::V6) => has_legacy_table("ip6_tables_names", table),
    };
    let save = |family: Family| {
        let program = find(&format!("{}-{variant}-save", base(family)))?;
        run(&program, &["-t", table])
    };
    Family::ALL.into_iter().filter(|family| has(*family)).filter_map(save).collect()
}

fn has_legacy_table(list: &str, table: &str) -> bool {
    // This thread's, for a thread may be in another network namespace than the process.
    let names = fs::read_to_string(Path::new("/proc/thread-self/net").join(list));
    names.is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Finds a program.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(PLACES.map(PathBuf::from));
    places.map(|place| place.join(name)).find(|path| path.is_file())
}

fn version(program: &str) -> Option<String> {
    run(&find(program)?, &["--version"])
}

fn run(program: &Path, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    done.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `iptables v1.8.9 (nf_tables)` is new enough.
fn is_modern(told: &str) -> bool {
    let Some((_, version)) = told.split_once(" v") else { return false };
    let version = version.split_whitespace().next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers >= MODERN.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("iptables v1.8.9 (nf_tables)", true),
            ("iptables-restore v1.6.2 (legacy)\n", true),
            ("iptables v1.6.1", false),
            ("iptables v1.10.0 (legacy)", true),
            ("iptables v2.0", true),
            ("no version", false),
        ];
        for (told, modern) in cases {
            assert_eq!(is_modern(told), modern, "{told}");
        }
    }
}
