//! Builds what is to run in the machine and learns from cargo where the executables are.

use crate::workspace::{cargo, metadata, output_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An executable that cargo made.
pub(crate) struct Artifact {
    /// Name of the target: the library's, the test file's, the program's.
    pub(crate) name: String,
    /// Its package's directory.
    pub(crate) package_directory: PathBuf,
    pub(crate) executable: PathBuf,
    /// A test program rather than one of the product's.
    pub(crate) is_test: bool,
}

/// A package all of whose tests run in the machine, too, has this feature, and what can only run
/// there requires it.
const ALL: &str = "vm";
/// A package has this one if nothing else of it is for the machine.
const ONLY: &str = "vm-only";

/// The packages that have tests for the machine.
pub(crate) struct Packages {
    /// Their names and the feature they have.
    by_name: BTreeMap<String, &'static str>,
    /// Names of test programs that require a feature, with that of their package.
    required: BTreeSet<(String, String)>,
}

impl Packages {
    pub(crate) fn read() -> Result<Packages> {
        let metadata = metadata(false)?;
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: &Value, key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut packages = Packages { by_name: BTreeMap::new(), required: BTreeSet::new() };
        for package in list(metadata.get("packages")) {
            let has = |feature: &&str| package.pointer(&format!("/features/{feature}")).is_some();
            let (Some(name), Some(feature)) = (text(&package, "name"), [ALL, ONLY].into_iter().find(has))
            else {
                continue;
            };
            for target in list(package.get("targets")) {
                if list(target.get("required-features")).contains(&Value::from(feature))
                    && let Some(target) = text(&target, "name")
                {
                    packages.required.insert((name.clone(), target));
                }
            }
            packages.by_name.insert(name, feature);
        }
        Ok(packages)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    fn is_for_the_machine(&self, artifact: &Artifact) -> bool {
        let package = artifact.package_directory.file_name().unwrap_or_default().to_string_lossy();
        self.by_name.get(&*package) != Some(&ONLY)
            || self.required.contains(&(package.into_owned(), artifact.name.clone()))
    }
}

/// The test programs of `names`, or those called `only`, and the programs that they start.
pub(crate) fn tests(
    packages: &Packages,
    names: &[String],
    only: &[String],
    release: bool,
) -> Result<Vec<Artifact>> {
    let mut command = cargo();
    command.args(["test", "--no-run"]);
    command.args(names.iter().flat_map(|package| ["--package", package]));
    for package in names {
        if let Some(feature) = packages.by_name.get(package) {
            command.args(["--features", &format!("{package}/{feature}")]);
        }
    }
    let mut artifacts = build(&mut command, release)?;
    artifacts.retain(|artifact| {
        let wanted = if only.is_empty() {
            packages.is_for_the_machine(artifact)
        } else {
            only.contains(&artifact.name)
        };
        !artifact.is_test || wanted
    });
    Ok(artifacts)
}

/// The product's programs.
pub(crate) fn programs(release: bool) -> Result<Vec<Artifact>> {
    build(cargo().args(["build", "--bins"]), release)
}

fn build(command: &mut Command, release: bool) -> Result<Vec<Artifact>> {
    command.args(["--quiet", "--locked", "--message-format=json-render-diagnostics"]);
    if release {
        command.arg("--release");
    }
    let messages = output_of(command)?;
    let artifacts: Result<Vec<_>> = messages.lines().map(artifact).filter_map(Result::transpose).collect();
    let mut artifacts = artifacts?;
    // Cargo names them as they get ready.
    artifacts.sort_by(|a, b| (&a.package_directory, &a.name).cmp(&(&b.package_directory, &b.name)));
    Ok(artifacts)
}

fn artifact(line: &str) -> Result<Option<Artifact>> {
    let message: Value = serde_json::from_str(line).context("reading cargo's messages")?;
    let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
    let Some(executable) = text("/executable") else { return Ok(None) };
    let manifest = Path::new(text("/manifest_path").context("an artifact without manifest_path")?);
    Ok(Some(Artifact {
        name: text("/target/name").context("an artifact without target name")?.to_owned(),
        package_directory: manifest.parent().unwrap_or(manifest).to_owned(),
        executable: executable.into(),
        is_test: message.pointer("/profile/test").and_then(Value::as_bool).unwrap_or_default(),
    }))
}

/// The executable's bytes without debugging information, which would only fill the machine's memory.
/// Names of functions stay, for backtraces.
pub(crate) fn stripped(executable: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let small = scratch.join("stripped");
    let mut command = Command::new("strip");
    output_of(command.arg("--strip-debug").arg("-o").arg(&small).arg(executable))?;
    fs::read(&small).with_context(|| format!("reading {}", small.display()))
}
