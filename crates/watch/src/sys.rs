//! Calls that nobody has wrapped: leases, which say whether a file is being written, and how many
//! arenas memory comes from.
#![allow(unsafe_code)]

use nix::libc;
use std::fs::File;
use std::os::fd::AsRawFd;

/// fcntl(2): which signal says that a lease is wanted back. libc does not have it.
const F_SETSIG: libc::c_int = 10;

/// Whether anybody has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Nobody has.
    None,
    /// Somebody has, and an `IN_CLOSE_WRITE` will come.
    Some,
    /// This file system, or our rights, do not let us know.
    Unknown,
}

/// Asks for a read lease, which the kernel grants only while nobody has the file open for writing
/// (fcntl(2), F_SETLEASE), and gives it back at once.
pub(crate) fn writers(file: &File) -> Writers {
    let fd = file.as_raw_fd();
    // Whoever opens the file for writing in the moment in which we hold the lease has us told by a
    // signal. By default that is SIGIO, which kills; SIGURG is ignored.
    // SAFETY: fcntl with integer arguments touches no memory of ours, and `fd` is open.
    let granted = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0 && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    if granted {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Writers::None;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}

/// Has all threads take their memory from one place. Otherwise glibc gives an arena to each thread that
/// reads what an API server tells, and keeps there what was needed to read the first lists: 0.9 MB at
/// 20,000 Services. For programs whose threads mostly wait, before they are started.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt with integer arguments sets a number of the allocator's; no thread allocates yet
    // that would be in its way.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_writers() {
        let path = std::env::temp_dir().join(format!("portolan-lease-{}", std::process::id()));
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_ne!(writers(&reader), Writers::None);
        drop(writer);
        assert_ne!(writers(&reader), Writers::Some);
        assert!(File::options().append(true).open(&path).is_ok(), "the lease has been given back");
        std::fs::remove_file(&path).unwrap();
    }
}
