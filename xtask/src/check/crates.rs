//! What the crates may depend on: the direction of the data as a table, and the licences that the
//! project can live with.

use super::Finding;
use crate::workspace::root;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What a crate may use.
struct Arrow {
    from: &'static str,
    /// Crates of the workspace. Tests may use more.
    to: &'static [&'static str],
    /// `Some` for a pure crate: the only foreign crates it may use, none of which does I/O.
    foreign: Option<&'static [&'static str]>,
}

const PURE_FOREIGN: Option<&[&str]> = Some(&["serde", "thiserror", "sha2", "hashbrown"]);

/// The way of the data: `watch → model → plan → dataplane → netlink`, and `model → names → dns`.
const ARROWS: &[Arrow] = &[
    Arrow { from: "model", to: &[], foreign: PURE_FOREIGN },
    Arrow { from: "plan", to: &["model"], foreign: PURE_FOREIGN },
    Arrow { from: "aside", to: &["plan"], foreign: PURE_FOREIGN },
    Arrow { from: "wire", to: &[], foreign: PURE_FOREIGN },
    Arrow { from: "names", to: &["model", "wire"], foreign: PURE_FOREIGN },
    Arrow { from: "netlink", to: &[], foreign: None },
    Arrow { from: "telemetry", to: &[], foreign: None },
    Arrow { from: "config", to: &["model", "plan"], foreign: None },
    Arrow { from: "watch", to: &["model"], foreign: None },
    Arrow { from: "dataplane", to: &["aside", "model", "netlink", "plan", "telemetry"], foreign: None },
    Arrow { from: "dns", to: &["config", "model", "names", "telemetry", "wire"], foreign: None },
    Arrow { from: "sample", to: &["model", "plan"], foreign: None },
    Arrow { from: "scenario", to: &["config", "dataplane", "lab", "model", "plan", "watch"], foreign: None },
    Arrow { from: "lab", to: &["netlink"], foreign: None },
    Arrow {
        from: "portolan",
        to: &[
            "aside",
            "config",
            "dataplane",
            "dns",
            "lab",
            "model",
            "names",
            "netlink",
            "plan",
            "scenario",
            "telemetry",
            "watch",
            "wire",
        ],
        foreign: None,
    },
    Arrow {
        from: "fuzz-targets",
        to: &["config", "dns", "model", "netlink", "scenario", "telemetry", "watch", "wire"],
        foreign: None,
    },
    Arrow { from: "xtask", to: &[], foreign: None },
];

/// SPDX identifiers. Also in `deny.toml`.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata.get("packages").and_then(Value::as_array).context("metadata without packages")?;
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter(|package| is_ours(package))
        .filter_map(|package| text(package, "name"))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        if is_ours(package) {
            findings.extend(arrows(package, &ours)?);
        } else {
            findings.extend(licence(package)?);
        }
    }
    Ok(findings)
}

fn is_ours(package: &Value) -> bool {
    package.get("source").is_some_and(Value::is_null)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn arrows(package: &Value, ours: &BTreeSet<&str>) -> Result<Vec<Finding>> {
    let name = text(package, "name").context("a package without name")?;
    let manifest = Path::new(text(package, "manifest_path").context("a package without manifest")?);
    let Some(arrow) = ARROWS.iter().find(|arrow| arrow.from == name) else {
        return Ok(vec![Finding::new(manifest, 1, format!("crate {name} is not in the table of arrows"))]);
    };
    let source = fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
    let product = dependencies.filter(|dependency| text(dependency, "kind") != Some("dev"));
    let mut findings = Vec::new();
    for on in product.filter_map(|dependency| text(dependency, "name")) {
        let line = 1 + source.lines().position(|line| line.starts_with(on)).unwrap_or_default();
        if ours.contains(on) && !arrow.to.contains(&on) {
            findings.push(Finding::new(manifest, line, format!("{name} must not depend on {on}")));
        } else if !ours.contains(on) && arrow.foreign.is_some_and(|foreign| !foreign.contains(&on)) {
            findings.push(Finding::new(
                manifest,
                line,
                format!("{name} is pure and must not depend on {on}"),
            ));
        }
    }
    Ok(findings)
}

fn licence(package: &Value) -> Result<Vec<Finding>> {
    let name = text(package, "name").context("a package without name")?;
    let licence = text(package, "license").unwrap_or_default();
    if allowed(licence) {
        return Ok(Vec::new());
    }
    let path = root().join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let entry = format!("name = \"{name}\"");
    let line = 1 + lock.lines().position(|line| line == entry).unwrap_or_default();
    Ok(vec![Finding::new(path, line, format!("{name} has a licence that is not allowed: {licence:?}"))])
}

/// Does an SPDX expression leave us a choice that is allowed? `/` is an old way to write OR.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    alternatives(&mut rest) == Some(true) && rest.is_empty()
}

/// `None` for what is no expression; both sides are read, whatever the first one says.
fn alternatives(rest: &mut &[&str]) -> Option<bool> {
    let mut good = requirements(rest)?;
    while let ["OR", after @ ..] = rest {
        *rest = after;
        good |= requirements(rest)?;
    }
    Some(good)
}

fn requirements(rest: &mut &[&str]) -> Option<bool> {
    let mut good = term(rest)?;
    while let ["AND", after @ ..] = rest {
        *rest = after;
        good &= term(rest)?;
    }
    Some(good)
}

fn term(rest: &mut &[&str]) -> Option<bool> {
    let (good, after) = match rest {
        ["(", after @ ..] => {
            *rest = after;
            let good = alternatives(rest)?;
            (good, rest.strip_prefix(&[")"])?)
        }
        [licence, "WITH", exception, after @ ..] => {
            (LICENCES.contains(&format!("{licence} WITH {exception}").as_str()), after)
        }
        [licence, after @ ..] => (LICENCES.contains(licence), after),
        [] => return None,
    };
    *rest = after;
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::{LICENCES, allowed, arrows};
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn licences_are_weighed_as_expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0-only",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-2.0-only OR (MIT AND ISC)",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND MPL-2.0",
            "(MIT",
            "MIT)",
            "MIT OR",
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn cargo_deny_allows_the_same_licences() {
        let path = crate::workspace::root().join("deny.toml");
        let text = std::fs::read_to_string(path).expect("deny.toml");
        let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("its list");
        let theirs: Vec<_> = list
            .split(',')
            .map(|word| word.trim().trim_matches('"'))
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(theirs, LICENCES);
    }

    #[test]
    fn an_arrow_against_the_way_of_the_data_is_found() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let package = |name, dependencies: &[&str], kind| {
            let dependencies: Vec<_> =
                dependencies.iter().map(|on| json!({"name": on, "kind": kind})).collect();
            json!({"name": name, "manifest_path": manifest, "dependencies": dependencies})
        };
        let ours = BTreeSet::from(["model", "plan", "netlink"]);
        let count = |package| arrows(&package, &ours).expect("metadata of a good form").len();
        assert_eq!(count(package("plan", &["model", "thiserror"], None)), 0);
        assert_eq!(count(package("model", &["plan"], None)), 1);
        assert_eq!(count(package("plan", &["tokio"], None)), 1);
        assert_eq!(count(package("plan", &["proptest", "netlink"], Some("dev"))), 0);
        assert_eq!(count(package("stranger", &[], None)), 1);
    }
}
