//! `cargo xtask check`: format, lints, and the invariants of the architecture that can be read off
//! the source. Each finding is one line, `file:line: what`.
//!
//! What only running code can show is a test, and not here.

mod code;
mod crates;
mod files;
mod readme;

use crate::workspace::{cargo, metadata, root, run};
use anyhow::{Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that is not as it has to be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Below the workspace's root.
    file: PathBuf,
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Self {
        let file = file.as_ref();
        Self { file: file.strip_prefix(root()).unwrap_or(file).to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Does every check, also after one has failed.
pub(crate) fn main(commands: &[String]) -> Result<()> {
    let mut failed = Vec::new();
    let mut findings = invariants()?;
    for (name, words) in [
        ("format", &["fmt", "--all", "--check"][..]),
        (
            "lints",
            &["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"],
        ),
    ] {
        println!("check: {name}");
        if let Err(error) = run(cargo().args(words)) {
            eprintln!("xtask: {error:#}");
            failed.push(name.to_owned());
        }
    }
    println!("check: invariants");
    findings.extend(readme::check(commands)?);
    findings.sort();
    findings.iter().for_each(|finding| println!("{finding}"));
    if !findings.is_empty() {
        failed.push(format!("invariants ({} findings)", findings.len()));
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    println!("check: all good");
    Ok(())
}

fn invariants() -> Result<Vec<Finding>> {
    let metadata = metadata(true)?;
    let mut findings = crates::check(&metadata)?;
    findings.extend(files::check()?);
    Ok(findings)
}
