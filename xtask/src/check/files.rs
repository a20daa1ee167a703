//! Rules for single files: purity, `unsafe`, length, a word on what each is for, and no traces of
//! the place where they were written.

use super::Finding;
use super::code::{blanked, mentions, without_tests};
use crate::workspace::{output_of, root};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates without I/O, clock and threads.
const PURE_CRATES: &[&str] = &["model", "plan", "aside", "names", "wire"];
/// So named files are pure in every crate, and so are the files in directories of these names.
const PURE_FILES: &[&str] = &["image", "steps"];
/// Paths, and what is below them, that pure code does not name.
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
    "kube",
    "libc",
    "netlink::Socket",
    "nix",
    "rustix",
    "socket2",
    "tokio",
];
/// Words that pure code does not contain, however imported.
const IMPURE_WORDS: &[&str] =
    &["Instant", "SystemTime", "TcpStream", "UdpSocket", "async", "await", "println"];
/// The only files with `unsafe` in them: system calls.
const UNSAFE_FILES: &[&str] =
    &["crates/dns/src/sys.rs", "crates/netlink/src/sys.rs", "crates/watch/src/sys.rs"];
const LINES_MAX: usize = 700;
/// Tables of data.
const LONG_FILES: &[&str] = &[];
/// Marks of unfinished work.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
/// Directories at the root of every system: paths below these can stand in the source.
const USUAL_DIRECTORIES: &[&str] =
    &["bin", "boot", "dev", "etc", "lib", "mnt", "opt", "proc", "run", "srv", "sys", "tmp", "usr", "var"];

pub(super) fn check() -> Result<Vec<Finding>> {
    let listed = output_of(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut findings = Vec::new();
    for path in listed.lines().filter(|path| root().join(path).is_file()) {
        let bytes = fs::read(root().join(path)).with_context(|| format!("reading {path}"))?;
        // Seeds of fuzzing need not be text.
        if let Ok(source) = std::str::from_utf8(&bytes) {
            findings.extend(of_text(path, source));
        }
    }
    let committed = output_of(Command::new("git").current_dir(root()).args(["ls-files", "Cargo.lock"]))?;
    if committed.is_empty() {
        findings.push(Finding::new("Cargo.lock", 1, "not committed"));
    }
    Ok(findings)
}

fn of_text(path: &str, source: &str) -> Vec<Finding> {
    let mut findings = traces(path, source);
    if path.ends_with(".rs") {
        findings.extend(of_rust(path, source));
    }
    findings
}

fn of_rust(path: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.starts_with("//!") {
        findings.push(Finding::new(path, 1, "does not begin by saying what it is for (`//!`)"));
    }
    let lines = source.lines().count();
    if lines > LINES_MAX && !LONG_FILES.contains(&path) {
        findings.push(Finding::new(path, LINES_MAX, format!("{lines} lines, more than {LINES_MAX}")));
    }
    if is_pure(path) {
        findings.extend(impure(path, source));
    }
    findings.extend(unsafe_code(path, source));
    findings
}

fn is_pure(path: &str) -> bool {
    let Some((name, below)) = path.strip_prefix("crates/").and_then(|path| path.split_once("/src/")) else {
        return false;
    };
    let mut parts = below.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    let is_test = below.ends_with("tests.rs") || below.contains("tests/");
    !is_test && (PURE_CRATES.contains(&name) || parts.any(|part| PURE_FILES.contains(&part)))
}

fn impure(path: &str, source: &str) -> Vec<Finding> {
    let mentions = mentions(&blanked(without_tests(source)));
    let bad = mentions.into_iter().filter(|mention| {
        let below = |impure: &str| {
            mention.path.strip_prefix(impure).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        IMPURE_PATHS.iter().any(|impure| below(impure))
            || mention.path.split("::").any(|word| IMPURE_WORDS.contains(&word))
    });
    bad.map(|mention| Finding::new(path, mention.line, format!("pure code names `{}`", mention.path)))
        .collect()
}

/// `unsafe` in its place and explained, and every crate root closed to it.
fn unsafe_code(path: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let may = UNSAFE_FILES.contains(&path);
    let lines: Vec<&str> = source.lines().collect();
    for mention in mentions(&blanked(source)).iter().filter(|mention| mention.path == "unsafe") {
        if !may {
            findings.push(Finding::new(path, mention.line, "`unsafe` outside the files of system calls"));
        }
        let before = lines.get(..mention.line.saturating_sub(1)).unwrap_or_default();
        let reason = before.iter().rev().take_while(|line| line.trim_start().starts_with("//"));
        if !reason.into_iter().any(|line| line.contains("// SAFETY:")) {
            findings.push(Finding::new(path, mention.line, "`unsafe` without a `// SAFETY:` line above"));
        }
    }
    let is_root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
    let package = path.split("/src/").next().unwrap_or_default();
    let exempt = UNSAFE_FILES.iter().any(|file| file.starts_with(&format!("{package}/src/")));
    // Where one file needs it, the others are closed by `deny`, which that file alone opens.
    let wanted = if exempt { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    if is_root && !lines.contains(&wanted) {
        findings.push(Finding::new(path, 1, format!("crate root without `{wanted}`")));
    }
    findings
}

/// Paths that exist only where this copy of the workspace is, and marks of unfinished work.
fn traces(path: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(source.lines()) {
        for place in places(text).filter(|place| place.exists()) {
            let what = format!("names a path of this computer: {}", place.display());
            findings.push(Finding::new(path, line, what));
        }
        if let Some(mark) = MARKS.iter().find(|mark| text.contains(*mark)) {
            findings.push(Finding::new(path, line, format!("unfinished: {mark}")));
        }
    }
    findings
}

/// The first two parts of each absolute path in `text` that is in no usual directory.
fn places(text: &str) -> impl Iterator<Item = PathBuf> {
    let is_inner = |char: char| char.is_alphanumeric() || "._-/".contains(char);
    text.split(move |char| !is_inner(char)).filter_map(|word| {
        let mut parts = word.strip_prefix('/')?.split('/');
        let (first, second) = (parts.next()?, parts.next()?);
        let good = !first.is_empty() && !second.is_empty() && !USUAL_DIRECTORIES.contains(&first);
        good.then(|| Path::new("/").join(first).join(second))
    })
}

#[cfg(test)]
mod tests {
    use super::{of_rust, places};
    use std::path::Path;

    fn found(path: &str, source: &str) -> Vec<String> {
        of_rust(path, source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pure_code_does_no_io() {
        let source = "//! x\nuse std::{fs, net::IpAddr};\nfn f() { std::time::Duration::ZERO; }\n";
        let expected = ["crates/model/src/a.rs:2: pure code names `std::fs`"];
        assert_eq!(found("crates/model/src/a.rs", source), expected);
        assert_eq!(found("crates/dataplane/src/ipvs/image.rs", source).len(), 1);
        assert_eq!(found("crates/dataplane/src/ipvs/steps/order.rs", source).len(), 1);
        assert!(found("crates/dataplane/src/ipvs/kernel.rs", source).is_empty());
        let tested = "//! x\nfn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        assert!(found("crates/model/src/a.rs", tested).is_empty());
        assert_eq!(found("crates/plan/src/a.rs", "//! x\nfn f(now: Instant) {}\n").len(), 1);
    }

    #[test]
    fn unsafe_code_has_its_place_and_its_reason() {
        let bare = "//! x\nfn f() { unsafe { g() } }\n";
        let explained = "//! x\n// SAFETY: y\nlet x = unsafe { g() };\n";
        assert_eq!(found("crates/lab/src/a.rs", bare).len(), 2);
        assert_eq!(found("crates/lab/src/a.rs", explained).len(), 1);
        assert_eq!(found("crates/netlink/src/sys.rs", bare).len(), 1);
        assert!(found("crates/netlink/src/sys.rs", explained).is_empty());
        assert_eq!(found("crates/lab/src/lib.rs", "//! x\n").len(), 1);
        assert!(found("crates/lab/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn a_file_says_what_it_is_for_and_ends_in_time() {
        assert_eq!(found("crates/lab/src/a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(found("crates/lab/src/a.rs", &"//! x\n".repeat(701)).len(), 1);
        assert!(found("crates/lab/src/a.rs", &"//! x\n".repeat(700)).is_empty());
    }

    #[test]
    fn only_whole_and_unusual_paths_are_places() {
        let found: Vec<_> = places("see /x/y/z, target/x/y, \"/src/\" and /usr/bin: /x").collect();
        assert_eq!(found, [Path::new("/x/y")]);
    }
}
