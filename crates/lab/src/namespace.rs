//! A network namespace held by nothing but a file descriptor. It has no name in the file system,
//! so it cannot leak: with its last descriptor, socket and process it is gone, whatever happened
//! to the program that made it.
//!
//! A thread that has entered a namespace never leaves it: each entry is a thread of its own that
//! ends with the work. Sockets belong to the namespace they were opened in and may be used from
//! anywhere, so most callers enter only to open one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Doing, Error};

/// The namespace of the thread that opens it.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// A network namespace. Clones are handles to the same one; the last to go takes it along.
#[derive(Debug, Clone)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// A fresh namespace, empty but for a loopback device that is still down.
    ///
    /// # Errors
    /// When the caller may not make one (neither root nor in a user namespace of its own).
    pub fn new() -> Result<Namespace, Error> {
        let create = || -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(fs::File::open(OWN_NETNS)?.into())
        };
        let fd = on_own_thread(create)?.doing(|| "create a network namespace")?;
        Ok(Namespace { fd: Arc::new(fd) })
    }

    /// The namespace the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> Result<Namespace, Error> {
        let file = fs::File::open(OWN_NETNS).doing(|| format!("open {OWN_NETNS}"))?;
        Ok(Namespace { fd: Arc::new(file.into()) })
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for its result.
    /// A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| self.enter().map(|()| work()))?
    }

    /// Starts a child process in this namespace; it is killed when the returned value is dropped.
    /// The child sees the caller's mounts: `/proc/sys/net` is its own namespace's, `/sys` is not.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process, Error> {
        let doing = format!("start {}", command.get_program().to_string_lossy());
        // A child inherits the namespaces of the thread that makes it.
        let child = self.run(|| command.spawn())?.doing(|| doing)?;
        Ok(Process { child })
    }

    /// Writes a sysctl of this namespace, named with slashes below `/proc/sys/net`:
    /// `ipv4/conf/all/rp_filter`. (With slashes, because interface names may hold dots.)
    ///
    /// # Errors
    /// When there is no such sysctl, it is not the namespace's own, or refuses the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = sysctl_path(name);
        self.run(|| fs::write(&path, value))?.doing(|| format!("write {value} to {}", path.display()))
    }

    /// Reads a sysctl of this namespace, named as for [`set_sysctl`](Self::set_sysctl).
    ///
    /// # Errors
    /// When there is no such sysctl.
    pub fn sysctl(&self, name: &str) -> Result<String, Error> {
        let path = sysctl_path(name);
        let text = self.run(|| fs::read_to_string(&path))?.doing(|| format!("read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// A path by which other processes can reach this namespace for as long as this one lives:
    /// `nsenter --net=PATH` looks inside.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd()))
    }

    fn enter(&self) -> Result<(), Error> {
        setns(&*self.fd, CloneFlags::CLONE_NEWNET).doing(|| "enter a network namespace")
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A child process in a namespace, killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: process::Child,
}

impl Process {
    /// The running child: its pipes, its id, waiting for it.
    pub fn child(&mut self) -> &mut process::Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child is gone already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sysctl_path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work).doing(|| "start a thread")?;
        thread.join().map_err(|panic| panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn inode_of_own() -> u64 {
        fs::metadata(OWN_NETNS).map(|meta| meta.ino()).unwrap()
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let namespace = Namespace::new().unwrap();
        let before = inode_of_own();
        let inside = namespace.run(inode_of_own).unwrap();
        assert_ne!(inside, before);
        assert_eq!(inside, fs::metadata(namespace.path()).unwrap().ino());
        assert_eq!(inode_of_own(), before);
    }

    #[test]
    fn sysctls_are_the_namespaces_own() {
        let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        a.set_sysctl("ipv4/ip_forward", "1").unwrap();
        b.set_sysctl("ipv4/ip_forward", "0").unwrap();
        assert_eq!(a.sysctl("ipv4/ip_forward").unwrap(), "1");
        assert_eq!(b.sysctl("ipv4/ip_forward").unwrap(), "0");
        let error = a.set_sysctl("ipv4/no_such", "1").unwrap_err().to_string();
        assert!(error.starts_with("write 1 to /proc/sys/net/ipv4/no_such: "), "{error}");
    }

    #[test]
    fn children_live_inside_and_die_with_their_handle() {
        let namespace = Namespace::new().unwrap();
        let mut command = Command::new("sleep");
        let mut process = namespace.spawn(command.arg("1000")).unwrap();
        let id = process.child().id();
        let theirs = fs::metadata(format!("/proc/{id}/ns/net")).unwrap().ino();
        assert_eq!(theirs, fs::metadata(namespace.path()).unwrap().ino());
        drop(process);
        assert!(!PathBuf::from(format!("/proc/{id}")).exists());
    }

    #[test]
    #[should_panic(expected = "in there")]
    fn a_panic_inside_goes_on_outside() {
        let namespace = Namespace::new().unwrap();
        let _ = namespace.run(|| panic!("in there"));
    }
}
