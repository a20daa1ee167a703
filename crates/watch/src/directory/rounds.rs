//! The thread: round by round it waits, looks at what may have changed, and hands over what has.

use super::Batch;
use super::index::{Index, Outcome, Reading, Twice};
use super::kernel::{Event, Kernel};
use crate::manifest::{Found, Keep, Reader};
use crate::sys::{Writers, writers};
use crate::tree::{Buffer, Entry, walk};
use crate::{Problem, Severity};
use model::{Object, ObjectName};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// So long a file must be away to count as gone.
const VANISH: Duration = Duration::from_millis(5);

/// The kernel tells of a close (`fsnotify_close` in `__fput`) a moment before the file counts as no
/// longer open for writing. So long that moment mostly lasts.
const CLOSING: Duration = Duration::from_micros(50);

/// Where it lasts longer, the file is looked at again after this, and so often. After that it is
/// open because somebody else writes it, and that one's close will be heard, too.
const CLOSING_LONG: Duration = Duration::from_millis(1);
const CLOSING_LOOKS_MAX: u32 = 50;

/// So long an editor has to write a file anew after renaming the old one to a backup.
const BACKUP: Duration = Duration::from_millis(500);

/// How often the path is looked at even if nothing is heard, in case what it leads through (a
/// symbolic link further up) has changed.
const LOOK: Duration = Duration::from_millis(1000);

/// So many changes go into one batch while everything is read; a single file's are never split.
const CHANGES_A_BATCH: usize = 256;

/// What came of looking at a file.
enum Look {
    /// It has been read.
    Read(Reading, Vec<(ObjectName, SystemTime)>, Vec<Problem>),
    /// Somebody is writing it; it will be heard of again.
    BeingWritten,
    /// It is not there.
    Gone,
    /// It cannot be read.
    Failed(io::Error),
}

/// Why a file is looked at.
#[derive(Clone, Copy)]
struct Why {
    /// It is known to have been whole at some time, and may be believed to be so even where nobody
    /// can say who writes it.
    complete: bool,
    /// If it is not there, it has been away long enough.
    gone: bool,
    /// So often has it been looked at for this reason.
    looks: u32,
}

impl Why {
    /// It has only just come to be.
    const CREATED: Why = Why { complete: false, gone: false, looks: 0 };
    /// Somebody has closed it, or it has been there all along.
    const WRITTEN: Why = Why { complete: true, gone: false, looks: 0 };
    /// It was not there the last time.
    const GONE: Why = Why { complete: true, gone: true, looks: 0 };
}

pub(super) struct Rounds<D> {
    kernel: Kernel,
    index: Index,
    reader: Reader,
    buffer: Buffer,
    deliver: D,
    /// Files to look at later, and when: they may be gone, or still being closed.
    later: BTreeMap<PathBuf, (Instant, Why)>,
    /// What this round has come to so far.
    batch: Batch,
    /// Nobody listens any more.
    deaf: bool,
}

impl<D: FnMut(Batch) -> bool> Rounds<D> {
    pub(super) fn new(kernel: Kernel, keep: Keep, deliver: D) -> Rounds<D> {
        Rounds {
            kernel,
            index: Index::default(),
            reader: Reader::new(keep),
            buffer: Buffer::default(),
            deliver,
            later: BTreeMap::new(),
            batch: Batch::default(),
            deaf: false,
        }
    }

    pub(super) fn run(mut self) {
        self.read_all();
        self.batch.loaded = true;
        self.end_round(true);
        self.index.shrink();
        while !self.deaf && self.kernel.wait(self.patience(Instant::now())) {
            self.round();
            self.end_round(false);
        }
    }

    /// How long nothing is to be done.
    fn patience(&self, now: Instant) -> Duration {
        let next = self.later.values().map(|(due, _)| *due).min();
        next.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK))
    }

    fn round(&mut self) {
        let events = self.kernel.events();
        let now = Instant::now();
        let heard = !events.is_empty();
        let mut dirty: BTreeMap<PathBuf, Why> = BTreeMap::new();
        let mut all = false;
        for event in events {
            match event {
                Event::Written(path) => drop(dirty.insert(path, Why::WRITTEN)),
                Event::Created(path) => drop(dirty.entry(path).or_insert(Why::CREATED)),
                Event::Renamed(path) => self.look_at(&path, Why::GONE),
                Event::Vanished(path) => drop(self.later.insert(path, (now + VANISH, Why::GONE))),
                Event::BackedUp(path) => drop(self.later.insert(path, (now + BACKUP, Why::GONE))),
                Event::Directory(path) => self.read_below(&path, &mut BTreeSet::new()),
                Event::DirectoryVanished(path) => self.vanish_below(&path, now),
                Event::Swapped(path) => self.read_again(&path, now),
                Event::Root | Event::Overflow => all = true,
            }
        }
        if all || !heard {
            self.look_at_root(all);
        }
        for (path, why) in dirty {
            self.look_at(&path, why);
        }
        self.look_later(now);
    }

    /// Looks once more at the files whose time has come.
    fn look_later(&mut self, now: Instant) {
        let due =
            |(path, (when, why)): (&PathBuf, &(Instant, Why))| (*when <= now).then(|| (path.clone(), *why));
        let due: Vec<(PathBuf, Why)> = self.later.iter().filter_map(due).collect();
        for (path, why) in due {
            self.later.remove(&path);
            self.look_at(&path, why);
        }
    }

    /// Sees whether the path leads elsewhere, and if it does, or if events were lost, reads all.
    fn look_at_root(&mut self, lost: bool) {
        match self.kernel.turn() {
            Some(false) => {
                let what = "gone; what it held stays until it is back".to_owned();
                self.batch.problems.push(Problem::of_file(self.kernel.path().into(), what));
            }
            Some(true) => self.read_all(),
            None if lost => self.read_all(),
            None => {}
        }
    }

    /// Reads everything and forgets the files that are no longer there.
    fn read_all(&mut self) {
        let root = self.kernel.root().to_owned();
        let mut unseen: BTreeSet<PathBuf> = self.index.files().map(|file| root.join(file)).collect();
        if let Some(file) = self.kernel.only() {
            self.look_at(&file, Why::GONE);
            unseen.remove(&file);
        } else {
            self.read_below(&root, &mut unseen);
        }
        for file in unseen {
            self.look_at(&file, Why::GONE);
        }
    }

    /// Reads a directory and what is below it, and strikes off the list what is there.
    fn read_below(&mut self, directory: &Path, unseen: &mut BTreeSet<PathBuf>) {
        let root = self.kernel.root().to_owned();
        let depth = directory.strip_prefix(&root).map_or(0, |below| below.components().count());
        walk(directory, depth, &mut |path, entry| match entry {
            Entry::Directory => {
                if let Err(error) = self.kernel.add(path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    self.blame(path, format!("changes in it will not be noticed: {error}"));
                }
            }
            Entry::File => {
                unseen.remove(path);
                self.look_at(path, Why::WRITTEN);
                if self.batch.changes.len() >= CHANGES_A_BATCH {
                    self.hand_over();
                }
            }
            Entry::Unreadable(error) => {
                if error.kind() != io::ErrorKind::NotFound || path == root {
                    unseen.retain(|file| !file.starts_with(path));
                    self.blame(path, format!("{error}; what it held stays"));
                }
            }
            Entry::TooDeep => self.blame(path, "too many directories deep; left out".into()),
        });
    }

    /// Reads what is in one directory again, and looks for what was there.
    fn read_again(&mut self, directory: &Path, now: Instant) {
        self.vanish_below(directory, now);
        self.read_below(directory, &mut BTreeSet::new());
    }

    fn vanish_below(&mut self, directory: &Path, now: Instant) {
        let root = self.kernel.root();
        let below = self.index.files().map(|file| root.join(file)).filter(|path| path.starts_with(directory));
        self.later.extend(below.map(|path| (path, (now + VANISH, Why::GONE))));
    }

    /// Looks at one file and takes in what it holds.
    fn look_at(&mut self, path: &Path, why: Why) {
        // The index is large and knows the root anyway.
        let root = self.kernel.root().to_owned();
        let file = path.strip_prefix(&root).unwrap_or(path);
        match self.read(path, why.complete) {
            Look::Read(reading, triggers, problems) => {
                self.later.remove(path);
                self.batch.triggers.extend(triggers);
                self.batch.problems.extend(problems);
                let outcome = self.index.put(file, reading);
                self.take(path, outcome);
            }
            Look::BeingWritten => {
                self.later.remove(path);
                if why.complete && why.looks < CLOSING_LOOKS_MAX {
                    let next = Why { looks: why.looks + 1, ..why };
                    self.later.insert(path.to_owned(), (Instant::now() + CLOSING_LONG, next));
                } else if why.complete {
                    let what = "open for writing; it will be read when it is closed".to_owned();
                    let notice =
                        Problem { severity: Severity::Notice, ..Problem::of_file(path.into(), what) };
                    self.batch.problems.push(notice);
                }
            }
            Look::Gone if why.gone => self.index.remove(file),
            Look::Gone => {
                if self.index.knows(file) && !self.later.contains_key(path) {
                    self.later.insert(path.to_owned(), (Instant::now() + VANISH, Why::GONE));
                }
            }
            Look::Failed(error) => {
                let stay = match self.index.fail(file) {
                    0 => "",
                    _ => "; what it held before stays",
                };
                self.blame(path, format!("{error}{stay}"));
            }
        }
    }

    fn read(&mut self, path: &Path, complete: bool) -> Look {
        let Rounds { buffer, reader, .. } = self;
        let read = buffer.read(path, |bytes, open, before| {
            let mut open_to = writers(open);
            if open_to == Writers::Some && complete {
                std::thread::sleep(CLOSING);
                open_to = writers(open);
            }
            let being_written = match open_to {
                Writers::None => !complete_since(open, before),
                Writers::Some => true,
                // A link has been made to something that was there before it.
                Writers::Unknown => !complete && before.nlink() < 2 && !path.is_symlink(),
            };
            if being_written {
                return Look::BeingWritten;
            }
            let mut reading = Reading::default();
            let mut triggers = Vec::new();
            let mut problems = Vec::new();
            reader.read(bytes, &mut |found| match found {
                Found::Object(object, trigger) => {
                    if let (Object::Slice(slice), Some(at)) = (&object, trigger) {
                        triggers.push((slice.owner(), at));
                    }
                    reading.objects.push(object);
                }
                Found::Lost(Some(key)) => drop(reading.refused.insert(key)),
                Found::Lost(None) => reading.damaged = true,
                Found::Problem { severity, document, line, object, what } => {
                    reading.errors += u32::from(severity == Severity::Error);
                    let file: Arc<Path> = path.into();
                    problems.push(Problem { severity, file, document, line, object, what });
                }
            });
            Look::Read(reading, triggers, problems)
        });
        match read {
            Ok(look) => look,
            // A link that leads nowhere is there all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                Look::Gone
            }
            Err(error) => Look::Failed(error),
        }
    }

    fn take(&mut self, path: &Path, outcome: Outcome) {
        let Outcome { changes, twice, stale } = outcome;
        self.batch.changes.extend(changes);
        let root = self.kernel.root();
        let twice = twice.iter().map(|Twice { key, loser, first }| {
            Problem::twice(key, &root.join(loser).into(), &root.join(first).into())
        });
        self.batch.problems.extend(twice);
        if stale > 0 {
            let what = format!("{stale} of the objects that it held before stay as they were");
            let notice = Problem { severity: Severity::Notice, ..Problem::of_file(path.into(), what) };
            self.batch.problems.push(notice);
        }
    }

    fn blame(&mut self, path: &Path, what: String) {
        self.batch.problems.push(Problem::of_file(path.into(), what));
    }

    /// Ends a round: reads what has fallen to other files, deletes what nobody holds any more, and
    /// hands over what there is.
    fn end_round(&mut self, even_empty: bool) {
        while let Some(file) = self.index.again() {
            self.look_at(&self.kernel.root().join(file), Why::WRITTEN);
        }
        let gone = self.index.settle();
        self.batch.changes.extend(gone);
        if even_empty || !self.batch.changes.is_empty() || !self.batch.problems.is_empty() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let next = Batch { loaded: self.batch.loaded, ..Batch::default() };
        let mut batch = std::mem::replace(&mut self.batch, next);
        batch.errors = self.index.errors();
        self.deaf |= !(self.deliver)(batch);
    }
}

/// Whether the file is still as it was when we began to read it.
fn complete_since(file: &std::fs::File, before: &std::fs::Metadata) -> bool {
    let print = |m: &std::fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    file.metadata().is_ok_and(|after| print(&after) == print(before))
}
