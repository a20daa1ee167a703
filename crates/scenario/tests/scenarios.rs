//! Every file of `scenarios/`, in every way there is to run it: one test for each file and way.
//! In the virtual machine (feature `vm`) only its kernel is asked, for all else is the same there.

use lab::Host;
use libtest_mimic::{Arguments, Failed, Trial};
use scenario::{Answers, Order, Scenario, Way, iptables_rules, rewrite, run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// Fewer flows than this, and somebody has lost a file.
const FLOWS_MIN: usize = 400;

/// Set to rewrite the tables in the files.
const UPDATE: &str = "UPDATE";

/// So many files at once in the machine, which has few CPUs and all the same mostly waits.
const THREADS_IN_MACHINE: usize = 4;

/// The scenarios that are run in reverse order in the machine, too: those in which most changes. On
/// this host all of them are, so that there is little left for the machine to find, which is slow.
const REVERSED_IN_MACHINE: [&str; 8] = [
    "contested",
    "endpoints-come-and-go",
    "external-policy-local",
    "node-changes",
    "service-changes",
    "terminating",
    "terminating-local",
    "two-services-one-endpoint",
];

/// The scenarios that are run by iptables in the machine beside those: with them, each kind of rule of that
/// mode is there. The host runs all of them by both kinds of iptables.
const IPTABLES_IN_MACHINE: [&str; 10] = [
    "affinity",
    "external-policy-local-elsewhere",
    "internal-policy-local",
    "masquerade-all",
    "masquerade-bridge",
    "masquerade-interface-prefix",
    "no-endpoints",
    "service-cidr",
    "source-ranges",
    "udp-v6",
];

/// The scenario for which the host's kernel may have no sockets.
const SCTP: &str = "sctp";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let in_machine = cfg!(feature = "vm");
    if in_machine {
        arguments.test_threads = arguments.test_threads.or(Some(THREADS_IN_MACHINE));
    }
    if !arguments.list && !nix::unistd::geteuid().is_root() {
        // Before there is a second thread. Where it is refused, the tests that need it say so.
        let _ = lab::enter_user_namespace();
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let paths = match scenario_files(&directory) {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("list {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    };
    let ways = if in_machine { Way::in_machine() } else { Way::all() };
    let mut trials = Vec::new();
    for path in &paths {
        let scenario = path.file_stem().unwrap_or_default().to_string_lossy();
        let named = REVERSED_IN_MACHINE.contains(&&*scenario);
        let left_out = |way: &Way| match way.answers {
            Answers::Iptables(_) => !is_by_iptables_in_machine(&scenario),
            _ => !named && way.order == Order::Reversed,
        };
        // Who names tests wants them all.
        let chosen = in_machine && arguments.filter.is_none();
        for way in ways.iter().copied().filter(|way| !(chosen && left_out(way))) {
            let path = path.clone();
            trials.push(Trial::test(format!("{scenario}/{way}"), move || check(&path, way)));
        }
    }
    let known = |name: &&str| paths.iter().any(|path| path.file_stem().is_some_and(|stem| stem == *name));
    assert!(
        REVERSED_IN_MACHINE.iter().chain(&IPTABLES_IN_MACHINE).chain([&SCTP]).all(known),
        "a scenario that is named here has another name now"
    );
    let all = paths.clone();
    trials.push(Trial::test("rules-of-the-machine", move || rules_of_the_machine(&all)));
    trials.push(Trial::test("enough-flows", move || enough_flows(&paths)));
    if in_machine {
        trials.push(Trial::test("sctp", has_sctp));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn is_by_iptables_in_machine(scenario: &str) -> bool {
    REVERSED_IN_MACHINE.iter().chain(&IPTABLES_IN_MACHINE).chain([&SCTP]).any(|name| *name == scenario)
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
    let text = fs::read_to_string(path)?;
    let report = run(&Scenario::parse(path, &text)?, way);
    // One of the ways only, for they all run at once.
    if way.order == Order::Forward && !report.tables().is_empty() && env::var_os(UPDATE).is_some() {
        fs::write(path, rewrite(&text, report.tables()))?;
    }
    if report.is_empty() { Ok(()) } else { Err(format!("\n{report}").into()) }
}

/// Flows over SCTP are tried where the kernel has it, and the machine's must.
fn has_sctp() -> Result<(), Failed> {
    if Host::new("sctp")?.has_sctp() { Ok(()) } else { Err("the machine's kernel has no SCTP".into()) }
}

/// The scenarios that the machine runs by iptables have a rule of every kind that there is in any.
fn rules_of_the_machine(paths: &[PathBuf]) -> Result<(), Failed> {
    let (mut all, mut run) = (BTreeMap::new(), BTreeSet::new());
    for path in paths {
        let scenario = Scenario::read(path)?;
        let kinds = iptables_rules(&scenario);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if is_by_iptables_in_machine(&name) {
            run.extend(kinds.iter().cloned());
        }
        kinds.into_iter().for_each(|kind| all.entry(kind).or_insert_with(Vec::new).push(name.clone()));
    }
    all.retain(|kind, _| !run.contains(kind));
    let told: Vec<String> =
        all.iter().map(|(kind, names)| format!("{kind}   ({})", names.join(", "))).collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(format!("no scenario of the machine has these rules of iptables:\n{}", told.join("\n")).into())
}

fn enough_flows(paths: &[PathBuf]) -> Result<(), Failed> {
    let mut flows = 0;
    for path in paths {
        flows += Scenario::read(path)?.steps.iter().map(|step| step.verdicts.len()).sum::<usize>();
    }
    println!("{flows} flows in {} files", paths.len());
    if flows < FLOWS_MIN { Err(format!("only {flows} flows").into()) } else { Ok(()) }
}
