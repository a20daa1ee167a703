//! `cargo xtask test`: every test there is, one part after the other, counted together.
//!
//! A test that cannot run fails: nothing is skipped because a program or a privilege is missing.

use crate::tally::Tally;
use crate::workspace::cargo;
use crate::{fuzz, packages};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::thread::{self, JoinHandle};

/// Without a choice, everything.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The tests that run on this host's kernel, and the examples in the documentation
    #[arg(long)]
    host: bool,
    /// The tests in the virtual machine, on a kernel with IPVS
    #[arg(long)]
    vm: bool,
    /// A short run of the fuzz targets
    #[arg(long)]
    fuzz: bool,
}

/// One runner of tests.
struct Part {
    name: &'static str,
    command: Command,
    /// How the runner's summary begins.
    summary: &'static str,
}

const NEXTEST_SUMMARY: &str = "Summary [";
const LIBTEST_SUMMARY: &str = "test result: ";

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let all = !(arguments.host || arguments.vm || arguments.fuzz);
    packages::ensure()?;
    let mut parts = Vec::new();
    if arguments.host || all {
        parts.extend(host());
    }
    if arguments.vm || all {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("vm");
        parts.push(Part { name: "virtual machine", command, summary: LIBTEST_SUMMARY });
    }
    if arguments.fuzz || all {
        parts.push(Part { name: "fuzz targets", command: fuzz::short(), summary: LIBTEST_SUMMARY });
    }
    let mut total = Tally::default();
    let mut report = Vec::new();
    for mut part in parts {
        println!("\nxtask: {}", part.name);
        let (tally, summaries) = part.run()?;
        total.add(tally);
        report.push(format!("{}: {tally}", part.name));
        report.extend(summaries);
    }
    println!();
    report.iter().for_each(|line| println!("{line}"));
    println!("{total}");
    Ok(if total.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// cargo-nextest gives each test a process of its own, which tests that enter network namespaces
/// like; plain cargo will do.
fn host() -> Vec<Part> {
    let test = |words: &[&str]| {
        let mut command = cargo();
        command.args(words).args(["--workspace", "--locked"]);
        command
    };
    let mut probe = cargo();
    let probe = probe.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        let command = test(&["nextest", "run", "--no-fail-fast", "--no-tests=pass"]);
        let examples = test(&["test", "--quiet", "--doc"]);
        return vec![
            Part { name: "host", command, summary: NEXTEST_SUMMARY },
            Part { name: "examples in documentation", command: examples, summary: LIBTEST_SUMMARY },
        ];
    }
    let command = test(&["test", "--no-fail-fast"]);
    vec![Part { name: "host, examples in documentation", command, summary: LIBTEST_SUMMARY }]
}

impl Part {
    /// Runs it, passing its output on; the count, and the runner's own words about it.
    fn run(&mut self) -> Result<(Tally, Vec<String>)> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let out = follow(child.stdout.take(), self.summary, |line| println!("{line}"));
        let err = follow(child.stderr.take(), self.summary, |line| eprintln!("{line}"));
        let status = child.wait().with_context(|| format!("waiting for {}", self.name))?;
        let mut tally = Tally::default();
        let mut summaries = Vec::new();
        for reader in [out, err] {
            let (part, lines) = reader.join().unwrap_or_default();
            tally.add(part);
            summaries.extend(lines);
        }
        tally.ended(status.success());
        Ok((tally, summaries))
    }
}

/// Passes each line on and counts what is in it.
fn follow(
    from: Option<impl Read + Send + 'static>,
    summary: &'static str,
    pass_on: fn(&str),
) -> JoinHandle<(Tally, Vec<String>)> {
    thread::spawn(move || {
        let mut tally = Tally::default();
        let mut summaries = Vec::new();
        for line in from.into_iter().flat_map(|from| BufReader::new(from).split(b'\n')).map_while(Result::ok)
        {
            let line = String::from_utf8_lossy(&line);
            pass_on(&line);
            // nextest repeats what a failed test program said, its counts too.
            if line.trim_start().starts_with(summary) || summary == LIBTEST_SUMMARY {
                tally.line(&line);
            }
            if line.trim_start().starts_with(summary) && !line.contains(" 0 passed; 0 failed; 0 ignored") {
                summaries.push(line.trim().to_owned());
            }
        }
        (tally.end(), summaries)
    })
}
