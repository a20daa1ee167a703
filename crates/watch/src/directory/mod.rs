//! A directory of manifests, live: one thread that waits for the kernel to tell of a change and
//! hands over what it means.
//!
//! A file counts when its writer has closed it or when it has been renamed into place, never half
//! written. What cannot be read leaves standing what was there before. What takes a file away often
//! brings it back in the next instant (`git checkout`, editors that rename), so a file is only
//! believed gone a few milliseconds later.
//!
//! The watch is set before the first look, so nothing falls between them. When the kernel loses
//! count (`IN_Q_OVERFLOW`), when kubelet swaps a ConfigMap's `..data`, and when the directory itself
//! is another one, all is read again and compared.
//!
//! # Limits
//!
//! A change inside the target of a symbolic link that leads out of the directory is seen only when
//! the link is replaced. Links to directories are not followed, save the directory itself.

mod index;
mod kernel;
mod rounds;
mod slots;

use crate::{Error, Keep, Problem};
use kernel::Kernel;
use model::{Change, ObjectName};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rounds::Rounds;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

/// What happened at one time.
#[derive(Debug, Default)]
pub struct Batch {
    /// What has changed, in order. Objects that are as they were may be among them.
    pub changes: Vec<Change>,
    /// When what slices among them tell of happened, by their Services, where they say so.
    pub triggers: Vec<(ObjectName, SystemTime)>,
    /// What is wrong with the manifests that were read this time.
    pub problems: Vec<Problem>,
    /// With this batch, all that was there at the start has been handed over. True from then on.
    pub loaded: bool,
    /// How many errors stand in all manifests together.
    pub errors: usize,
}

/// A directory (or single file) of manifests that is being watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Directory {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Directory {
    /// Begins to watch. What is there now is handed over first, in several batches, the last of
    /// which is `loaded`; then each change as it happens. `deliver` is called on the watch's own
    /// thread, may block, and ends the watch by returning false.
    pub fn watch(
        path: &Path,
        keep: Keep,
        deliver: impl FnMut(Batch) -> bool + Send + 'static,
    ) -> Result<Directory, Error> {
        let failed = |error: nix::Error| Error::Watch { path: path.to_owned(), source: error.into() };
        let stop =
            Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?);
        let kernel = Kernel::new(path, stop.clone())?;
        let rounds = Rounds::new(kernel, keep, deliver);
        let thread = std::thread::Builder::new()
            .name("manifests".into())
            .spawn(move || rounds.run())
            .map_err(|source| Error::Watch { path: path.to_owned(), source })?;
        Ok(Directory { stop, thread: Some(thread) })
    }

    /// Ends the watch and waits until its thread has.
    pub fn stop(mut self) {
        self.signal();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, too.
            thread.join().unwrap_or_default();
        }
    }

    fn signal(&self) {
        // It fails only when it has been told 2^64 times already.
        self.stop.write(1).unwrap_or_default();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.signal();
    }
}
