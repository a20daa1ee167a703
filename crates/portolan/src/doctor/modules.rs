//! Which modules the kernel has: built in, loaded, or to be had. What a file says, no more; whether
//! something works is asked of the kernel itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The modules of the running kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// The kernel's release: `6.1.0-39-cloud-amd64`.
    pub(super) release: String,
    loaded: BTreeSet<String>,
    built_in: BTreeSet<String>,
    /// Those on disk; `None` where the directory of this release is not to be seen.
    on_disk: Option<BTreeSet<String>>,
}

/// Where a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the kernel.
    Here,
    /// On disk.
    OnDisk,
    /// Nowhere.
    Nowhere,
    /// It cannot be told.
    Unknown,
}

impl Modules {
    /// Reads what is to be seen.
    pub(super) fn read() -> Modules {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let directory = Path::new("/lib/modules").join(&release);
        let read = |path: &Path| fs::read_to_string(path).ok();
        Modules::of(
            release,
            &read(Path::new("/proc/modules")).unwrap_or_default(),
            &read(&directory.join("modules.builtin")).unwrap_or_default(),
            read(&directory.join("modules.dep")).as_deref(),
        )
    }

    fn of(release: String, loaded: &str, built_in: &str, on_disk: Option<&str>) -> Modules {
        let first = |line: &str| line.split_whitespace().next().map(|name| name.replace('-', "_"));
        Modules {
            release,
            loaded: loaded.lines().filter_map(first).collect(),
            built_in: built_in.lines().filter_map(name_of).collect(),
            on_disk: on_disk.map(|text| text.lines().filter_map(|l| name_of(l.split(':').next()?)).collect()),
        }
    }

    /// Where a module is.
    pub(super) fn place(&self, name: &str) -> Place {
        if self.loaded.contains(name) || self.built_in.contains(name) {
            return Place::Here;
        }
        match &self.on_disk {
            Some(modules) if modules.contains(name) => Place::OnDisk,
            Some(_) => Place::Nowhere,
            None => Place::Unknown,
        }
    }
}

/// The module of a path: `kernel/net/netfilter/ipvs/ip_vs.ko.xz`.
fn name_of(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let modules = |dep: Option<&str>| {
            let loaded = "nf_tables 311296 19 - Live 0x0\nip_vs 1 0 - Live 0x0\n";
            Modules::of("6.1".into(), loaded, "kernel/net/ipv4/x-tables.ko\n", dep)
        };
        let dep =
            "kernel/drivers/net/dummy.ko.xz:\nkernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/ip_vs.ko\n";
        let cases = [
            ("nf_tables", Place::Here),
            ("x_tables", Place::Here),
            ("dummy", Place::OnDisk),
            ("ip_vs_rr", Place::OnDisk),
            ("ip_vs_mh", Place::Nowhere),
        ];
        for (name, place) in cases {
            assert_eq!(modules(Some(dep)).place(name), place, "{name}");
        }
        assert_eq!(modules(None).place("dummy"), Place::Unknown);
        assert_eq!(modules(None).place("ip_vs"), Place::Here);
    }
}
