//! Every file of `scenarios/`, in every way there is to run it: one test for each file and way.

use libtest_mimic::{Arguments, Failed, Trial};
use scenario::{Scenario, Way, run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

/// Fewer flows than this, and somebody has lost a file.
const FLOWS_MIN: usize = 400;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let paths = match scenario_files(&directory) {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("list {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    for path in &paths {
        for way in Way::all() {
            let path = path.clone();
            let name = format!("{}/{way}", path.file_stem().unwrap_or_default().to_string_lossy());
            trials.push(Trial::test(name, move || check(&path, way)));
        }
    }
    trials.push(Trial::test("enough-flows", move || enough_flows(&paths)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn scenario_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn check(path: &Path, way: Way) -> Result<(), Failed> {
    let report = run(&Scenario::read(path)?, way);
    if report.is_empty() { Ok(()) } else { Err(format!("\n{report}").into()) }
}

fn enough_flows(paths: &[PathBuf]) -> Result<(), Failed> {
    let mut flows = 0;
    for path in paths {
        flows += Scenario::read(path)?.steps.iter().map(|step| step.verdicts.len()).sum::<usize>();
    }
    println!("{flows} flows in {} files", paths.len());
    if flows < FLOWS_MIN { Err(format!("only {flows} flows").into()) } else { Ok(()) }
}
