//! The lab without root: the process gives its rights up, makes itself a user namespace, and
//! builds a cluster there. A user namespace wants a process with one thread, so this test has a
//! `main` of its own that does all that first.

use lab::{Lab, Load, Protocol::Tcp};
use libtest_mimic::{Arguments, Trial};
use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list {
        become_nobody();
        if let Err(error) = lab::enter_user_namespace() {
            // Said by the test that needs it, not by a runner that found no tests.
            eprintln!("{error}");
        }
    }
    let trial =
        Trial::test("a_lab_without_root", || a_lab_without_root().map_err(|error| error.to_string().into()));
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

fn become_nobody() {
    if geteuid().is_root() {
        setgid(Gid::from_raw(NOBODY)).expect("give up the group");
        setuid(Uid::from_raw(NOBODY)).expect("give up root");
        // Having been root, the process would not own its files in /proc otherwise.
        nix::sys::prctl::set_dumpable(true).expect("be dumpable");
    }
}

fn a_lab_without_root() -> Result<(), lab::Error> {
    let mut lab = Lab::new()?;
    let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
    let (web, guest) = (lab.pod(&a, "web")?, lab.pod(&b, "guest")?);
    let client = lab.far_outside("client", 1)?;
    let _server = web.serve(Tcp, 80)?;
    for host in [&guest, &client, b.host()] {
        assert_eq!(host.ping(web.ipv4()).err(), None, "{}", host.name());
        for target in web.addresses() {
            assert_eq!(host.ask(Tcp, (target, 80)).map(|reply| reply.backend), Ok("web".to_owned()));
        }
    }
    let report = Load::new(Tcp, (web.ipv4(), 80)).per_second(500).count(100).run(&[&guest])?;
    assert_eq!(report.answered(), 100, "{report}");
    Ok(())
}
