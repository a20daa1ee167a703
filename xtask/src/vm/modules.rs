//! The kernel modules of an unpacked kernel package: which there are, which of them a node's
//! network needs, and the index files (`modules.dep`, `modules.alias`) that `modprobe` reads.
//!
//! The package brings no index (Debian's postinst would make it with `depmod`), so we read what
//! each module says of itself. With the index in place the kernel also loads modules on demand,
//! as it does on a real node.

use super::elf::Elf;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What `modprobe` is told to load before anything runs; a pattern ends in `*`.
const LOADED_AT_BOOT: &[&str] = &[
    "ip_vs",
    "ip_vs_*",
    "dummy",
    "veth",
    "bridge",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
];
/// Directories below `kernel/` whose modules are there to be loaded.
const AVAILABLE: &[&str] = &[
    "net/netfilter",
    "net/ipv4",
    "net/ipv6",
    "net/bridge",
    "net/sctp",
    "net/sched",
    "net/8021q",
    "net/802",
    "net/llc",
    "net/packet",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
    "drivers/net/ipvlan",
    "drivers/net/macvlan.ko",
    "drivers/net/nlmon.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/net/vrf.ko",
    "drivers/net/vxlan",
];

/// One loadable module.
struct Module {
    /// Below the directory of the kernel's release, as `modules.dep` writes it.
    path: PathBuf,
    depends: Vec<String>,
    aliases: Vec<String>,
    bytes: Vec<u8>,
}

/// The modules that go into the machine, with all that they depend on, keyed by name.
pub(crate) struct Modules {
    by_name: BTreeMap<String, Module>,
}

impl Modules {
    /// Reads the modules under `release`, the package's `lib/modules/VERSION`.
    pub(crate) fn read(release: &Path) -> Result<Self> {
        let mut paths = BTreeMap::new();
        collect(&release.join("kernel"), &mut paths)?;
        let built_in = built_in(release)?;
        let mut wanted: Vec<String> = paths
            .iter()
            .filter(|(_, path)| {
                path.strip_prefix(release.join("kernel"))
                    .is_ok_and(|path| AVAILABLE.iter().any(|prefix| path.starts_with(prefix)))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut by_name = BTreeMap::new();
        while let Some(name) = wanted.pop() {
            if by_name.contains_key(&name) || built_in.contains(&name) {
                continue;
            }
            let path = paths.get(&name).with_context(|| format!("the kernel has no module {name}"))?;
            let module = read_module(release, path)?;
            wanted.extend(module.depends.iter().cloned());
            by_name.insert(name, module);
        }
        Ok(Self { by_name })
    }

    /// Names of the modules to load at boot, sorted.
    pub(crate) fn loaded_at_boot(&self) -> Vec<&str> {
        self.by_name
            .keys()
            .map(String::as_str)
            .filter(|name| {
                LOADED_AT_BOOT.iter().any(|wanted| match wanted.strip_suffix('*') {
                    Some(prefix) => name.starts_with(prefix),
                    None => name == wanted,
                })
            })
            .collect()
    }

    /// Each module's path below the release and its bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.by_name.values().map(|module| (module.path.as_path(), module.bytes.as_slice()))
    }

    /// `modules.dep`: each module, then all that must be loaded for it, the last one first.
    pub(crate) fn dependencies(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.by_name {
            let mut order = Vec::new();
            self.load_order(name, &mut order);
            let needs = order.iter().rev().skip(1).filter_map(|name| self.by_name.get(*name));
            let needs: Vec<_> = needs.map(|module| module.path.display().to_string()).collect();
            text.push_str(&format!("{}: {}\n", module.path.display(), needs.join(" ")));
        }
        text
    }

    /// `modules.alias`: by which other names the kernel asks for a module.
    pub(crate) fn aliases(&self) -> String {
        let lines = self.by_name.iter().flat_map(|(name, module)| {
            module.aliases.iter().map(move |alias| format!("alias {alias} {name}\n"))
        });
        lines.collect()
    }

    /// Appends `name` after everything that it depends on.
    fn load_order<'a>(&'a self, name: &'a str, order: &mut Vec<&'a str>) {
        let Some(module) = self.by_name.get(name) else { return };
        if order.contains(&name) {
            return;
        }
        for dependency in &module.depends {
            self.load_order(dependency, order);
        }
        order.push(name);
    }
}

fn read_module(release: &Path, path: &Path) -> Result<Module> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let elf = Elf::parse(&bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let depends = elf.module_info("depends");
    let depends = depends.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty());
    Ok(Module {
        path: path.strip_prefix(release)?.to_owned(),
        depends: depends.map(canonical).collect(),
        aliases: elf.module_info("alias").into_iter().map(str::to_owned).collect(),
        bytes,
    })
}

fn collect(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, found)?;
        } else if let Some(name) = module_name(&path) {
            found.insert(name, path);
        }
    }
    Ok(())
}

fn built_in(release: &Path) -> Result<BTreeSet<String>> {
    let path = release.join("modules.builtin");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().filter_map(|line| module_name(Path::new(line))).collect())
}

fn module_name(path: &Path) -> Option<String> {
    Some(canonical(path.file_name()?.to_str()?.strip_suffix(".ko")?))
}

/// File names may have hyphens where the kernel's names have underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}
