//! Builds what is to run in the machine and learns from cargo where the executables are.

use crate::workspace::{cargo, metadata, output_of};
use anyhow::{Context, Result};
use serde_json::Value;
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

/// A package with tests for the machine has this feature, and what can only run there requires it.
const FEATURE: &str = "vm";

/// Names of the packages that have tests for the machine.
pub(crate) fn packages() -> Result<Vec<String>> {
    let metadata = metadata(false)?;
    let packages = metadata.get("packages").and_then(Value::as_array).into_iter().flatten();
    let packages = packages.filter(|package| package.pointer(&format!("/features/{FEATURE}")).is_some());
    Ok(packages.filter_map(|package| Some(package.get("name")?.as_str()?.to_owned())).collect())
}

/// The test programs of `packages`, and the programs that their tests start.
pub(crate) fn tests(packages: &[String], release: bool) -> Result<Vec<Artifact>> {
    let mut command = cargo();
    command.args(["test", "--no-run"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    let with_feature = self::packages()?;
    for package in packages.iter().filter(|package| with_feature.contains(package)) {
        command.args(["--features", &format!("{package}/{FEATURE}")]);
    }
    build(&mut command, release)
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
