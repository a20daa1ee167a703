//! The stable driver: feeds mutated seeds to the targets, each in a process of its own, so that a
//! panic, a crash and a hang alike end with the guilty input in `fuzz/artifacts`.
//!
//! Blind and short on purpose; cargo-fuzz with the same targets is the thorough way.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use fuzz_targets::{Seeds, TARGETS, Target, mutate};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Runs fuzz targets with mutated seeds
#[derive(Parser)]
#[command(name = "cargo xtask fuzz")]
struct Arguments {
    /// Only these targets
    target: Vec<String>,
    /// Inputs for each target
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    iterations: u64,
    /// Go on for so long with each target instead
    #[arg(long, value_name = "N", conflicts_with = "iterations")]
    seconds: Option<u64>,
    /// Other inputs for another number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Give this file to the target, once
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// The inner process: runs one target and writes its progress here
    #[arg(long, hide = true)]
    progress: Option<PathBuf>,
}

/// An input that takes longer than this hangs.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let done = run(&Arguments::parse());
    done.unwrap_or_else(|error| {
        eprintln!("fuzz: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(name) =
        arguments.target.iter().find(|name| TARGETS.iter().all(|target| target.name != **name))
    {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("no target {name}; there are: {}", names.join(", "));
    }
    let chosen = |target: &&Target| {
        arguments.target.is_empty() || arguments.target.iter().any(|name| name == target.name)
    };
    let targets: Vec<_> = TARGETS.iter().filter(chosen).collect();
    if let Some(file) = &arguments.replay {
        let data = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        targets.iter().for_each(|target| (target.run)(&data));
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(progress), [target]) = (&arguments.progress, targets.as_slice()) {
        inner(arguments, target, progress)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = 0;
    for target in &targets {
        if let Err(error) = watch(arguments, target) {
            eprintln!("fuzz {}: {error:#}", target.name);
            failed += 1;
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    // As Rust's own test programs say it.
    println!("test result: {word}. {} passed; {failed} failed; 0 ignored", targets.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the target here; the number of the input is always in `progress`.
fn inner(arguments: &Arguments, target: &Target, progress: &Path) -> Result<()> {
    let seeds = seeds(target)?;
    let progress = File::options().write(true).open(progress).context("opening the file of progress")?;
    let end = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut index = 0;
    while end.map_or(index < arguments.iterations, |end| Instant::now() < end) {
        progress.write_all_at(&u64::to_le_bytes(index), 0).context("writing progress")?;
        (target.run)(&mutate::input(&seeds, arguments.seed, index));
        index += 1;
    }
    println!("fuzz {}: {index} inputs from {} seeds, seed {}: ok", target.name, seeds.len(), arguments.seed);
    Ok(())
}

/// Runs the target in another process and saves the input that ends it badly.
fn watch(arguments: &Arguments, target: &Target) -> Result<()> {
    let artifacts = root().join("fuzz/artifacts").join(target.name);
    fs::create_dir_all(&artifacts).with_context(|| format!("making {}", artifacts.display()))?;
    let progress = artifacts.join(format!(".progress-{}", std::process::id()));
    fs::write(&progress, u64::to_le_bytes(0)).with_context(|| format!("writing {}", progress.display()))?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg(target.name).arg("--progress").arg(&progress);
    command.args(["--seed", &arguments.seed.to_string()]);
    match arguments.seconds {
        Some(seconds) => command.args(["--seconds", &seconds.to_string()]),
        None => command.args(["--iterations", &arguments.iterations.to_string()]),
    };
    let end = wait(command.stdin(Stdio::null()), &progress);
    let index = read_progress(&progress);
    fs::remove_file(&progress).with_context(|| format!("removing {}", progress.display()))?;
    let Err(error) = end else { return Ok(()) };
    let index = index?;
    let input = mutate::input(&seeds(target)?, arguments.seed, index);
    let path = artifacts.join(format!("seed-{}-input-{index}", arguments.seed));
    fs::write(&path, input).with_context(|| format!("writing {}", path.display()))?;
    let path = path.strip_prefix(root()).unwrap_or(&path).display();
    bail!("{error:#}; again by `cargo xtask fuzz {} --replay {path}`", target.name)
}

fn wait(command: &mut Command, progress: &Path) -> Result<()> {
    let mut child = command.spawn().context("starting the inner process")?;
    let mut last = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().context("waiting for the inner process")? {
            return if status.success() { Ok(()) } else { bail!("ended with {status}") };
        }
        let index = read_progress(progress)?;
        if index != last.0 {
            last = (index, Instant::now());
        } else if last.1.elapsed() > INPUT_TIME_MAX {
            child.kill().and_then(|()| child.wait()).context("ending the inner process")?;
            bail!("hangs");
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn read_progress(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(u64::from_le_bytes(bytes.as_slice().try_into().context("progress of another length")?))
}

/// The workspace.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The target's seeds in an order that does not depend on the file system.
fn seeds(target: &Target) -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for (place, form) in target.places {
        read_seeds(&root().join(place), *form, &mut seeds)?;
    }
    let own = root().join("fuzz/seeds").join(target.name);
    if own.is_dir() {
        read_seeds(&own, Seeds::Files, &mut seeds)?;
    }
    if seeds.is_empty() {
        bail!("no seeds for {}", target.name);
    }
    Ok(seeds)
}

fn read_seeds(directory: &Path, form: Seeds, seeds: &mut Vec<Vec<u8>>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        match form {
            Seeds::Files => seeds.push(bytes),
            Seeds::Sections => seeds.extend(sections(&text)),
            Seeds::HexLines => seeds.extend(text.lines().filter_map(binary)),
        }
    }
    Ok(())
}

/// What stands between the headings of a scenario.
fn sections(text: &str) -> Vec<Vec<u8>> {
    let mut sections = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with("-- ") && line.ends_with(" --") {
            sections.push(Vec::new());
        } else if let Some(section) = sections.last_mut() {
            section.extend_from_slice(line.as_bytes());
            section.push(b'\n');
        }
    }
    sections
}

/// What a line of hexadecimal digits says.
fn binary(line: &str) -> Option<Vec<u8>> {
    let digits = line.trim().as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.is_empty() || digits.len() % 2 == 1 { None } else { digits.chunks(2).map(pair).collect() }
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, binary, root, sections, seeds};

    #[test]
    fn every_target_has_seeds() {
        for target in TARGETS {
            assert!(!seeds(target).expect("seeds").is_empty());
        }
    }

    #[test]
    fn every_target_is_a_program_of_cargo_fuzz() {
        let manifest = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
        for target in TARGETS {
            let path = format!("fuzz_targets/{}.rs", target.name);
            assert!(manifest.contains(&format!("path = \"{path}\"")), "{} in fuzz/Cargo.toml", target.name);
            let source =
                std::fs::read_to_string(root().join("fuzz").join(path)).expect("the program's source");
            assert!(source.contains(&format!("run(\"{}\", data)", target.name)));
        }
    }

    #[test]
    fn a_scenario_is_cut_at_its_headings() {
        let text = "About it.\n-- manifests --\nkind: A\n---\nkind: B\n-- verdicts --\nx\n";
        assert_eq!(
            sections(text),
            [b"About it.\n".to_vec(), b"kind: A\n---\nkind: B\n".to_vec(), b"x\n".to_vec()]
        );
    }

    #[test]
    fn lines_of_digits_are_binary() {
        assert_eq!(binary("00ff10\n"), Some(vec![0, 255, 16]));
        assert_eq!(binary("# nothing"), None);
        assert_eq!(binary("abc"), None);
        assert_eq!(binary(""), None);
    }
}
