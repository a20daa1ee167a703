//! The IPVS plane with real packets through real IPVS. These are built for the machine of
//! `cargo xtask vm` only, whose kernel has it.

mod churn;
mod cluster;
mod leaving;
mod schedulers;
mod switches;
mod traffic;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let tests = [traffic::TESTS, churn::TESTS, schedulers::TESTS, leaving::TESTS, switches::TESTS].concat();
    let trial = |(name, test): Test| {
        let run = move || -> Result<(), Failed> {
            test();
            Ok(())
        };
        Trial::test(name, run)
    };
    let mut arguments = Arguments::from_args();
    // Beside others, what a test's packets see would be the others' load.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit_code()
}
