//! The IPVS plane with real packets through real IPVS. Where the kernel has none, every test is
//! reported as ignored; `cargo xtask vm -p dataplane` runs them on a kernel that has it.

mod churn;
mod cluster;
mod traffic;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let has_ipvs = lab::Namespace::new()
        .and_then(|namespace| namespace.run(|| netlink::ipvs::Ipvs::open().is_ok()))
        .is_ok_and(|yes| yes);
    let in_vm = std::env::var_os("PORTOLAN_VM").is_some();
    let tests = [traffic::TESTS, churn::TESTS].concat();
    let trial = |(name, test): Test| {
        let run = move || -> Result<(), Failed> {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(!has_ipvs && !in_vm)
    };
    let mut arguments = Arguments::from_args();
    // Beside others, what a test's packets see would be the others' load.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit_code()
}
