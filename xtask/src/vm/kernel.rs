//! The machine's kernel: Debian's cloud kernel package, downloaded and unpacked into the cache
//! (`target/vm`), never installed.

use crate::workspace::{output_of, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the newest cloud kernel of the distribution.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// The compressed kernel that qemu boots.
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION` of the package.
    pub(crate) modules: PathBuf,
}

/// The kernel of `wanted`, a package's name or a `.deb` file; without it, the distribution's newest.
pub(crate) fn kernel(cache: &Path, wanted: Option<&str>) -> Result<Kernel> {
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    if let Some(file) = wanted.filter(|name| name.ends_with(".deb")) {
        let file = Path::new(file);
        let name = file.file_stem().context("the kernel's file has no name")?;
        return open(&unpacked(cache, &name.to_string_lossy(), || Ok(file.to_owned()))?);
    }
    let package = match newest(wanted.unwrap_or(META_PACKAGE)) {
        Ok(package) => package,
        Err(error) => match cached(cache) {
            Some(package) if wanted.is_none() => {
                eprintln!("xtask: {error:#}; going on with {package} from the cache");
                package
            }
            _ => return Err(error),
        },
    };
    open(&unpacked(cache, &package, || download(cache, &package))?)
}

/// Follows a meta-package to the package that has the kernel.
fn newest(package: &str) -> Result<String> {
    let depends = |package| output_of(Command::new("apt-cache").args(["depends", "--important", package]));
    let mut said = depends(package).unwrap_or_default();
    if said.is_empty() {
        update_lists();
        said = depends(package).with_context(|| {
            format!("no package {package} here: give a Debian kernel package by --kernel FILE.deb")
        })?;
    }
    let kernel = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    Ok(kernel.unwrap_or(package).to_owned())
}

/// Only root may; anybody else works with the lists that there are.
fn update_lists() {
    if let Err(error) = output_of(Command::new("apt-get").args(["--quiet", "update"])) {
        eprintln!("xtask: {error:#}");
    }
}

/// The last kernel of the cache in the order of names.
fn cached(cache: &Path) -> Option<String> {
    let names = fs::read_dir(cache).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("linux-image-")).max()
}

/// Downloads the package into the cache; the file's path.
fn download(cache: &Path, package: &str) -> Result<PathBuf> {
    println!("xtask: downloading {package}");
    let directory = scratch(cache, "download")?;
    let download = || {
        let mut command = Command::new("apt-get");
        // Without the sandbox user, who cannot write below a developer's home.
        command.args(["--quiet", "--option", "APT::Sandbox::User=root", "download", package]);
        output_of(command.current_dir(&directory))
    };
    if download().is_err() {
        // The lists were older than the archive.
        update_lists();
        download()?;
    }
    let file = fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path())).next();
    file.with_context(|| format!("`apt-get download {package}` left no file"))
}

/// The directory of the unpacked package, made from the file that `package_file` brings if it is not there yet.
fn unpacked(cache: &Path, name: &str, package_file: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    let directory = cache.join(name);
    if directory.is_dir() {
        return Ok(directory);
    }
    let file = package_file()?;
    let scratch = scratch(cache, "unpack")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&scratch))?;
    // Complete or not there at all, also for another xtask that does the same now.
    if fs::rename(&scratch, &directory).is_err() && !directory.is_dir() {
        bail!("cannot put the unpacked kernel at {}", directory.display());
    }
    if let Some(parent) = file.parent().filter(|parent| parent.starts_with(cache)) {
        fs::remove_dir_all(parent)?;
    }
    Ok(directory)
}

fn scratch(cache: &Path, purpose: &str) -> Result<PathBuf> {
    let directory = cache.join(format!("{purpose}-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

fn open(directory: &Path) -> Result<Kernel> {
    let only = |below: &str, prefix: &str| -> Result<PathBuf> {
        let parent = directory.join(below);
        let entries = fs::read_dir(&parent).with_context(|| format!("listing {}", parent.display()))?;
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let name = names.find(|name| name.starts_with(prefix));
        Ok(parent.join(name.with_context(|| format!("no {prefix}* in {}", parent.display()))?))
    };
    Ok(Kernel { image: only("boot", "vmlinuz-")?, modules: only("lib/modules", "")? })
}
