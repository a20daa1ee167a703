//! The machine's root file system: busybox, kernel modules, network tools of this host, the
//! workspace's data files, and the programs to run.
//!
//! The workspace stands at `/portolan` there, and its path of here leads to it, so that paths
//! that cargo compiled into tests (`CARGO_MANIFEST_DIR`) are good in the machine too.

use super::artifacts::{Artifact, stripped};
use super::cpio::Tree;
use super::libraries;
use super::modules::Modules;
use crate::workspace::{program, root};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const INIT: &str = include_str!("init.sh");
const WORKSPACE: &str = "/portolan";
/// What cargo, cargo-fuzz and git make, wherever in the workspace it is.
const NO_DATA: &[&str] = &["target", "artifacts", "corpus", ".git"];
/// The host's tools that tests compare with, and that help one who looks around.
const TOOLS: &[&str] = &[
    "bash",
    "bridge",
    "conntrack",
    "dash",
    "ip",
    "ip6tables",
    "ip6tables-legacy",
    "ip6tables-legacy-restore",
    "ip6tables-legacy-save",
    "ip6tables-nft",
    "ip6tables-nft-restore",
    "ip6tables-nft-save",
    "ip6tables-restore",
    "ip6tables-save",
    "ipset",
    "iptables",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-nft-save",
    "iptables-restore",
    "iptables-save",
    "ipvsadm",
    "nft",
    "ss",
    "tc",
];
/// Plugins of iptables, which it opens by name.
const XTABLES: &str = "/usr/lib/x86_64-linux-gnu/xtables";
/// Files of the host that the tools read.
const CONFIGURATION: &[&str] = &["/etc/protocols", "/etc/services"];
const DATA_FILE_SIZE_MAX: u64 = 4 << 20;

/// What one boot of the machine does.
pub(crate) struct Job {
    pub(crate) artifacts: Vec<Artifact>,
    /// Names of further host programs to bring along.
    pub(crate) tools: Vec<String>,
    /// A shell script; its exit code is the machine's.
    pub(crate) script: String,
    pub(crate) interactive: bool,
    /// After so long the machine ends itself.
    pub(crate) time_limit_s: Option<u64>,
}

/// Where a file of the workspace is in the machine.
pub(crate) fn guest_path(host: &Path) -> PathBuf {
    host.strip_prefix(root()).map_or(host.to_owned(), |below| Path::new(WORKSPACE).join(below))
}

/// Writes the archive of `job` into `scratch`; its path.
pub(crate) fn build(job: &Job, modules: &Modules, release: &str, scratch: &Path) -> Result<PathBuf> {
    let mut tree = base()?;
    add_modules(&mut tree, modules, release);
    for tool in TOOLS.iter().copied().chain(job.tools.iter().map(String::as_str)) {
        add_tool(&mut tree, tool)?;
    }
    add_workspace(&mut tree)?;
    for artifact in &job.artifacts {
        let bytes = stripped(&artifact.executable, scratch)?;
        let path = guest_path(&artifact.executable);
        libraries::add_bytes(&mut tree, &path, &artifact.executable, bytes)?;
        if !artifact.is_test {
            tree.symlink(Path::new("/usr/local/bin").join(&artifact.name), path);
        }
    }
    tree.executable("/run-this", format!("#!/bin/sh\n{}\n", job.script));
    if job.interactive {
        tree.file("/etc/interactive", "");
    }
    if let Some(limit_s) = job.time_limit_s {
        tree.file("/etc/time-limit", limit_s.to_string());
    }
    let path = scratch.join("initramfs.cpio");
    let mut out =
        BufWriter::new(File::create(&path).with_context(|| format!("creating {}", path.display()))?);
    tree.write(&mut out).and_then(|()| out.flush()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn base() -> Result<Tree> {
    let mut tree = Tree::default();
    for (link, to) in
        [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
    {
        tree.symlink(link, to);
    }
    for directory in ["/dev", "/proc", "/root", "/run", "/sys", "/tmp", "/usr/local/bin", "/usr/sbin", "/var"]
    {
        tree.directory(directory);
    }
    tree.char_device("/dev/console", 5, 1);
    let busybox = program("busybox").context("no busybox here: install the package busybox-static")?;
    libraries::add(&mut tree, Path::new("/bin/busybox"), &busybox)?;
    // The kernel runs it to load a module on demand.
    tree.symlink("/sbin/modprobe", "/bin/busybox");
    tree.executable("/init", INIT);
    tree.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    tree.file("/etc/group", "root:x:0:\n");
    tree.file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
    for path in CONFIGURATION.iter().filter(|path| Path::new(path).is_file()) {
        tree.file(path, fs::read(path).with_context(|| format!("reading {path}"))?);
    }
    Ok(tree)
}

fn add_modules(tree: &mut Tree, modules: &Modules, release: &str) {
    let directory = Path::new("/lib/modules").join(release);
    for (path, bytes) in modules.files() {
        tree.file(directory.join(path), bytes);
    }
    tree.file(directory.join("modules.dep"), modules.dependencies());
    tree.file(directory.join("modules.alias"), modules.aliases());
    tree.file("/etc/modules", modules.loaded_at_boot().join("\n") + "\n");
}

/// Adds a tool of this host; one that is not installed is left out, and whoever needs it will say so.
fn add_tool(tree: &mut Tree, name: &str) -> Result<()> {
    let Some(path) = program(name) else { return Ok(()) };
    let real = path.canonicalize().with_context(|| format!("following {}", path.display()))?;
    if !tree.has(&real) {
        libraries::add(tree, &real, &real)?;
    }
    if !tree.has(&path) {
        tree.symlink(&path, &real);
    }
    if name.starts_with("iptables") {
        add_directory(tree, Path::new(XTABLES))?;
    }
    Ok(())
}

fn add_directory(tree: &mut Tree, directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if !tree.has(&path) {
            libraries::add(tree, &path, &path)?;
        }
    }
    Ok(())
}

fn add_workspace(tree: &mut Tree) -> Result<()> {
    tree.directory(WORKSPACE);
    tree.symlink(root(), WORKSPACE);
    add_data(tree, root())
}

/// Adds everything that is not Rust source.
fn add_data(tree: &mut Tree, directory: &Path) -> Result<()> {
    tree.directory(guest_path(directory));
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        if NO_DATA.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let about = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        if about.is_dir() {
            add_data(tree, &path)?;
        } else if path.extension().is_none_or(|extension| extension != "rs")
            && about.len() <= DATA_FILE_SIZE_MAX
        {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            tree.file(guest_path(&path), bytes);
        }
    }
    Ok(())
}
