//! Becoming root without being root: a user namespace in which the caller may make network
//! namespaces of its own. It gives no right outside: `SO_SNDBUFFORCE`, kernel modules and
//! host-wide sysctls stay refused.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::{Doing, Error};

/// Moves the whole process into a new user, network and mount namespace in which it is root.
/// To be called first thing in `main`: the kernel refuses it to a process with a second thread.
/// There is no way back.
///
/// # Errors
/// Where the system forbids unprivileged user namespaces, and when threads are running.
pub fn enter_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (geteuid(), getegid());
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(flags).doing(|| "enter a user namespace (before any thread is started)")?;
    // The kernel wants setgroups given up before an unprivileged gid_map (CVE-2014-8989).
    let files = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, text) in files {
        fs::write(path, &text).doing(|| format!("write {text} to {path}"))?;
    }
    Ok(())
}
