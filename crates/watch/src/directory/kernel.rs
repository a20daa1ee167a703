//! What the kernel tells about a directory, in our terms: which paths to look at again.
//!
//! It holds the inotify watches, one for each directory, and one on the parent, where the directory
//! itself comes and goes.

use crate::Error;
use crate::tree::{is_manifest, is_searched};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The link that kubelet swaps when it writes a ConfigMap's next version.
const KUBELET_DATA: &str = "..data";

/// Events taken in at one time. More stay in the kernel's queue.
const EVENTS_MAX: usize = 4096;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A file is complete: written and closed, or renamed into place.
    Written(PathBuf),
    /// A file, or what looks like one, has come to be; it may not be complete.
    Created(PathBuf),
    /// A file has another name now, under which it will be heard of.
    Renamed(PathBuf),
    /// A file is gone, at least for now.
    Vanished(PathBuf),
    /// A file has taken a backup's name: an editor is about to write it anew.
    BackedUp(PathBuf),
    /// There is a new directory.
    Directory(PathBuf),
    /// A directory is gone, with all that was in it.
    DirectoryVanished(PathBuf),
    /// All of this directory is to be read again.
    Swapped(PathBuf),
    /// The directory that we were given may be another one now.
    Root,
    /// The kernel has lost count.
    Overflow,
}

/// What has become of a file that was renamed.
enum Renamed {
    /// Another manifest.
    Manifest,
    /// A file whose name ends in `~`. Only editors choose such names.
    Backup,
}

/// Which directory a path leads to.
type Identity = (u64, u64);

/// The ear at the kernel.
pub(super) struct Kernel {
    /// The path that we were given.
    path: PathBuf,
    /// The directory that is watched.
    directory: PathBuf,
    /// The one file in it that counts, when we were given a file.
    only: Option<OsString>,
    inotify: Inotify,
    /// The directory in which ours is an entry, and our name there.
    parent: Option<(WatchDescriptor, OsString)>,
    directories: HashMap<WatchDescriptor, PathBuf>,
    /// What the path led to when it was watched last; none while it leads nowhere.
    identity: Option<Identity>,
    stop: Arc<EventFd>,
}

impl Kernel {
    pub(super) fn new(path: &Path, stop: Arc<EventFd>) -> Result<Kernel, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(open)?;
        let (directory, only) = if metadata.is_dir() {
            std::fs::read_dir(path).map_err(open)?;
            (path.to_owned(), None)
        } else {
            std::fs::File::open(path).map_err(open)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")).to_owned(), path.file_name().map(OsStr::to_owned))
        };
        let failed = |error: Errno| Error::Watch { path: path.to_owned(), source: error.into() };
        let mut kernel = Kernel {
            path: path.to_owned(),
            directory,
            only,
            inotify: inotify().map_err(failed)?,
            parent: None,
            directories: HashMap::new(),
            identity: None,
            stop,
        };
        kernel.identity = kernel.identify();
        kernel.watch_parent();
        kernel
            .add(&kernel.directory.clone())
            .map_err(|source| Error::Watch { path: path.to_owned(), source })?;
        Ok(kernel)
    }

    /// The path as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that is watched.
    pub(super) fn root(&self) -> &Path {
        &self.directory
    }

    /// The one file that counts, if it is one.
    pub(super) fn only(&self) -> Option<PathBuf> {
        self.only.as_ref().map(|name| self.directory.join(name))
    }

    /// Watches one more directory.
    pub(super) fn add(&mut self, directory: &Path) -> io::Result<()> {
        let mut flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        if directory == self.directory {
            flags |= AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        } else {
            flags |= AddWatchFlags::IN_DONT_FOLLOW;
        }
        let watch = self.inotify.add_watch(directory, flags)?;
        self.directories.insert(watch, directory.to_owned());
        Ok(())
    }

    fn watch_parent(&mut self) {
        self.parent = None;
        let Some(name) = self.directory.file_name() else { return };
        let parent = self.directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        // Without it we look at the path from time to time, which finds the same a little later.
        if let Ok(watch) = self.inotify.add_watch(parent.unwrap_or(Path::new(".")), flags) {
            self.parent = Some((watch, name.to_owned()));
        }
    }

    fn identify(&self) -> Option<Identity> {
        let metadata = std::fs::metadata(&self.directory).ok()?;
        metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
    }

    /// Looks whether the path leads to another directory than it did, and if so turns to that one.
    /// Some(true): to another one; Some(false): nowhere any more; None: nothing is new.
    pub(super) fn turn(&mut self) -> Option<bool> {
        let identity = self.identify();
        if identity == self.identity {
            return None;
        }
        self.identity = identity;
        if let Ok(inotify) = inotify() {
            self.inotify = inotify;
            self.directories.clear();
            self.watch_parent();
        }
        if identity.is_some() && self.add(&self.directory.clone()).is_err() {
            // It has gone again; another look will tell.
            self.identity = None;
        }
        Some(self.identity.is_some())
    }

    /// Waits for something to happen, for so long at most. False when we are told to stop, or can
    /// hear nothing any more.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        // Rounded up, lest we wake a moment too early again and again.
        let timeout_ms = at_most.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => {
                let [_, stop] = fds;
                stop.any() == Some(false)
            }
            Err(error) => error == Errno::EINTR,
        }
    }

    /// What has happened since the last time.
    pub(super) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < EVENTS_MAX {
            let Ok(read) = self.inotify.read_events() else { break };
            let renames = self.renames(&read);
            for event in read {
                events.extend(self.understand(event, &renames));
            }
        }
        events
    }

    fn understand(&mut self, event: InotifyEvent, renames: &HashMap<u32, Renamed>) -> Option<Event> {
        let InotifyEvent { wd, mask, cookie, name } = event;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(Event::Overflow);
        }
        if mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directories.remove(&wd);
            return None;
        }
        if let Some((watch, ours)) = &self.parent
            && *watch == wd
            && name.as_ref() == Some(ours)
        {
            return Some(Event::Root);
        }
        let directory = self.directories.get(&wd)?;
        if mask.intersects(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF) {
            return Some(Event::Root);
        }
        let name = name?;
        let path = directory.join(&name);
        let comes = mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        if name == KUBELET_DATA {
            return comes.then(|| Event::Swapped(directory.clone()));
        }
        if mask.contains(AddWatchFlags::IN_ISDIR) {
            return self.understand_directory(path, &name, mask);
        }
        if !self.counts(&name) {
            None
        } else if mask.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
            Some(Event::Written(path))
        } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            Some(match renames.get(&cookie) {
                Some(Renamed::Manifest) => Event::Renamed(path),
                Some(Renamed::Backup) => Event::BackedUp(path),
                None => Event::Vanished(path),
            })
        } else {
            // Created, or its rights have changed.
            Some(Event::Created(path))
        }
    }

    /// Whether a file of this name is one of ours.
    fn counts(&self, name: &OsStr) -> bool {
        match &self.only {
            Some(only) => name == only,
            None => is_manifest(name),
        }
    }

    /// Where renamed files have gone, by the cookie of the rename.
    fn renames(&self, events: &[InotifyEvent]) -> HashMap<u32, Renamed> {
        let arrived = |event: &InotifyEvent| {
            let name = event.name.as_ref().filter(|_| event.mask.contains(AddWatchFlags::IN_MOVED_TO))?;
            let known = self.directories.contains_key(&event.wd);
            if known && self.counts(name) {
                Some((event.cookie, Renamed::Manifest))
            } else {
                name.as_encoded_bytes().ends_with(b"~").then_some((event.cookie, Renamed::Backup))
            }
        };
        events.iter().filter_map(arrived).collect()
    }

    fn understand_directory(&mut self, path: PathBuf, name: &OsStr, mask: AddWatchFlags) -> Option<Event> {
        if self.only.is_some() || !is_searched(name) {
            return None;
        }
        if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            return Some(Event::Directory(path));
        }
        if !mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            return None;
        }
        // A watch goes with its directory, and would go on telling from wherever that is now.
        let inside: Vec<WatchDescriptor> =
            self.directories.iter().filter(|(_, d)| d.starts_with(&path)).map(|(watch, _)| *watch).collect();
        for watch in inside {
            self.directories.remove(&watch);
            // The directory may be gone, and the watch with it.
            self.inotify.rm_watch(watch).unwrap_or_default();
        }
        Some(Event::DirectoryVanished(path))
    }
}

fn inotify() -> nix::Result<Inotify> {
    Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
}
