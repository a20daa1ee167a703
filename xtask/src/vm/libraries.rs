//! Puts a host executable into the machine together with the loader and the shared libraries that
//! it needs, each at the path it has here.

use super::cpio::Tree;
use super::elf::Elf;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const SEARCHED: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Adds the host file `from` at `path`, and what it needs to run.
pub(crate) fn add(tree: &mut Tree, path: &Path, from: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    add_bytes(tree, path, from, bytes)
}

/// As `add`, with other bytes than the file's (a stripped copy).
pub(crate) fn add_bytes(tree: &mut Tree, path: &Path, from: &Path, bytes: Vec<u8>) -> Result<()> {
    if let Some(elf) = Elf::parse(&bytes) {
        if let Some(loader) = elf.interpreter().filter(|loader| !tree.has(loader)) {
            add(tree, Path::new(loader), Path::new(loader))?;
        }
        for name in elf.needed() {
            let library = find(name, &elf.run_path(), from).with_context(|| {
                format!("{} wants {name}, which is in no library directory", from.display())
            })?;
            if !tree.has(&library) {
                add(tree, &library, &library)?;
            }
        }
    }
    tree.executable(path, bytes);
    Ok(())
}

fn find(name: &str, run_path: &[&str], of: &Path) -> Option<PathBuf> {
    let origin = of.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    let own = run_path.iter().map(|directory| PathBuf::from(directory.replace("$ORIGIN", &origin)));
    own.chain(SEARCHED.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.exists())
}
