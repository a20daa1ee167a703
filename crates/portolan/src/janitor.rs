//! Leaving nothing behind: child processes and directories that must go when we go, also when a
//! signal ends us. Namespaces need none of this: they go with the process that holds them.

use crate::error::Error;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Added to a signal's number: the exit code of a program that it ended, as shells tell it.
const SIGNALLED: i32 = 128;

/// Who cleans up. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Janitor {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    things: Mutex<Things>,
    /// What to end with on a signal, plus one; 0 for what shells expect.
    code: AtomicI32,
}

#[derive(Default)]
struct Things {
    children: Vec<u32>,
    directories: Vec<PathBuf>,
}

impl Janitor {
    /// Takes care of SIGINT and SIGTERM from now on. To be called before any other thread starts,
    /// so that the signals find only the thread that waits for them.
    pub(crate) fn on_duty() -> Result<Janitor, Error> {
        let janitor = Janitor::default();
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block().map_err(|e| Error::Start("block signals", e.into()))?;
        let own = janitor.clone();
        let wait = move || {
            if let Ok(signal) = signals.wait() {
                own.clean();
                let code = own.inner.code.load(Ordering::Relaxed);
                exit(if code > 0 { code - 1 } else { SIGNALLED + signal as i32 });
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(wait).map_err(|e| Error::Start("start the thread that waits for signals", e))?;
        Ok(janitor)
    }

    /// A signal is now the expected end: it ends us with this code.
    pub(crate) fn expect_signal(&self, code: u8) {
        self.inner.code.store(i32::from(code) + 1, Ordering::Relaxed);
    }

    /// Notes a child that is to be killed.
    pub(crate) fn note(&self, child: u32) {
        self.things().children.push(child);
    }

    /// Forgets a child that has been seen to.
    pub(crate) fn forget(&self, child: u32) {
        self.things().children.retain(|other| *other != child);
    }

    /// A directory of our own in `parent`, that goes when the value goes.
    pub(crate) fn directory(&self, parent: &Path, name: &str) -> Result<Scratch, Error> {
        let path = parent.join(format!("portolan-{name}-{}", std::process::id()));
        let doing = |e: io::Error| Error::Start("make a directory for manifests", e);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(doing)?;
        self.things().directories.push(path.clone());
        Ok(Scratch { path, janitor: self.clone() })
    }

    fn things(&self) -> MutexGuard<'_, Things> {
        self.inner.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clean(&self) {
        let Things { children, directories } = std::mem::take(&mut *self.things());
        for child in children.into_iter().filter_map(|child| i32::try_from(child).ok()) {
            // Fails only when it is gone already.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        for directory in directories {
            // Nobody is left to be told.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// A directory of our own.
pub(crate) struct Scratch {
    path: PathBuf,
    janitor: Janitor,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file so that whoever follows the directory sees all of it or nothing.
    pub(crate) fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let draft = self.path.join(format!(".{name}"));
        fs::write(&draft, text)?;
        fs::rename(draft, self.path.join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.path);
        self.janitor.things().directories.retain(|other| *other != self.path);
    }
}
