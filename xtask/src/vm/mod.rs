//! `cargo xtask vm`: tests and programs on Debian's kernel with real IPVS, in a machine of their
//! own that boots in seconds.
//!
//! Nothing is installed and nothing of the host's network is touched: kernel and file system are
//! files below `target/vm`, and the machine has no network card.

mod artifacts;
mod cpio;
mod elf;
mod initramfs;
mod kernel;
mod libraries;
mod modules;
mod qemu;

use crate::tally::{PROGRAM_ENDS, PROGRAM_STARTS, Tally};
use crate::workspace::target_directory;
use anyhow::{Context, Result};
use artifacts::{Artifact, Packages};
use initramfs::{Job, guest_path};
use modules::Modules;
use qemu::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run the tests of this package in the machine, instead of all that have tests for it (which
    /// their feature `vm` says); ARGS go to the test programs
    #[arg(short, long, value_name = "CRATE")]
    package: Vec<String>,
    /// Run these test programs only
    #[arg(short, long, value_name = "NAME")]
    test: Vec<String>,
    /// A shell in the machine, the workspace's programs at hand
    #[arg(long, conflicts_with_all = ["package", "command"])]
    shell: bool,
    /// A shell in the machine without building anything of the workspace
    #[arg(long, conflicts_with_all = ["package", "command", "shell"])]
    kernel_only_shell: bool,
    /// Build programs without optimisation
    #[arg(long)]
    debug: bool,
    /// Build tests with optimisation
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Boot this kernel: a Debian package's name (linux-image-6.12-cloud-amd64) or a .deb file
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Bring this program of the host along, with its libraries
    #[arg(long, value_name = "NAME")]
    tool: Vec<String>,
    /// End the machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    memory: u32,
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Let the machine's clock count instructions, 2^SHIFT ns each: repeatable times, on one CPU
    #[arg(long, value_name = "SHIFT", conflicts_with = "cpus", num_args = 0..=1, default_missing_value = "0")]
    icount: Option<u8>,
    /// Show the kernel's messages
    #[arg(short, long)]
    verbose: bool,
    /// A program and its arguments, or the arguments of the test programs
    #[arg(last = true, value_name = "ARGS")]
    command: Vec<String>,
}

/// Runs what the command line asks for; its exit code is that of what ran in the machine.
pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.shell || arguments.kernel_only_shell {
        let artifacts = if arguments.shell { artifacts::programs(!arguments.debug)? } else { Vec::new() };
        boot(arguments, artifacts, "exec sh -l".to_owned(), &mut |_| ())?;
        Ok(ExitCode::SUCCESS)
    } else if arguments.package.is_empty() && !arguments.command.is_empty() {
        let artifacts = artifacts::programs(!arguments.debug)?;
        let words: Vec<_> = arguments.command.iter().map(|word| quoted(word)).collect();
        boot(arguments, artifacts, words.join(" "), &mut |_| ()).map(ExitCode::from)
    } else {
        tests(arguments)
    }
}

fn tests(arguments: &Arguments) -> Result<ExitCode> {
    let packages = Packages::read()?;
    let names = if arguments.package.is_empty() { packages.names() } else { arguments.package.clone() };
    let artifacts = artifacts::tests(&packages, &names, &arguments.test, arguments.release)?;
    let script = test_script(&artifacts, &arguments.command);
    let mut tally = Tally::default();
    let code = boot(arguments, artifacts, script, &mut |line| tally.line(line));
    println!("{}", tally.end());
    code.map(ExitCode::from)
}

fn boot(
    arguments: &Arguments,
    artifacts: Vec<Artifact>,
    script: String,
    on_line: &mut dyn FnMut(&str),
) -> Result<u8> {
    let cache = target_directory()?.join("vm");
    let kernel = kernel::kernel(&cache, arguments.kernel.as_deref())?;
    let interactive = arguments.shell || arguments.kernel_only_shell;
    let job = Job {
        artifacts,
        tools: arguments.tool.clone(),
        script,
        interactive,
        time_limit_s: (!interactive).then_some(arguments.timeout),
    };
    let scratch = Scratch::new(&cache)?;
    let release = kernel.modules.file_name().context("the kernel has no version")?.to_string_lossy();
    let initramfs = initramfs::build(&job, &Modules::read(&kernel.modules)?, &release, scratch.path())?;
    let machine = Machine {
        memory_mib: arguments.memory,
        cpus: arguments.cpus,
        instruction_shift: arguments.icount,
        time_limit_s: arguments.timeout,
        kernel_messages: arguments.verbose,
    };
    if interactive {
        machine.run_interactively(&kernel, &initramfs)?;
        return Ok(0);
    }
    machine.run(&kernel, &initramfs, on_line)
}

/// Runs each test program in its package's directory, as cargo does, and goes on after a failure.
fn test_script(artifacts: &[Artifact], arguments: &[String]) -> String {
    let arguments: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
    let mut script = format!(
        "failed=0\n\
         run() {{\n\
         \x20   echo \"{PROGRAM_STARTS}$1\"\n\
         \x20   (cd \"$2\" && CARGO_MANIFEST_DIR=$2 \"$3\" {})\n\
         \x20   code=$?\n\
         \x20   echo \"{PROGRAM_ENDS}$code $1\"\n\
         \x20   [ $code = 0 ] || failed=1\n\
         }}\n",
        arguments.join(" ")
    );
    for artifact in artifacts.iter().filter(|artifact| artifact.is_test) {
        let directory = guest_path(&artifact.package_directory);
        let package = directory.file_name().unwrap_or_default().to_string_lossy();
        let title = format!("{package}::{}", artifact.name);
        let words =
            [title, directory.display().to_string(), guest_path(&artifact.executable).display().to_string()];
        script.push_str(&format!("run {}\n", words.map(|word| quoted(&word)).join(" ")));
    }
    script + "exit $failed"
}

/// `word` for the shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A directory for this run's files, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Self> {
        remove_left_behind(cache);
        let path = cache.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is only garbage below `target`.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the files of runs that were killed, a hundred megabytes each.
fn remove_left_behind(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = ["run-", "download-", "unpack-"].iter().find_map(|prefix| name.strip_prefix(prefix));
        if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
