//! Which file holds which objects, so that a file's next version tells what it adds and what it
//! takes away, and an object in two files comes from the first of them by path.
//!
//! Only keys are kept, never objects: the cluster has those. A directory may hold a file for each of
//! 100,000 objects, so files and objects are numbered and refer to each other by number: about
//! 120 bytes for a file with one object. What must be read again because its turn has come is asked
//! for by [`Index::again`]. No file is opened here.

use super::slots::Slots;
use hashbrown::HashTable;
use model::{Change, Object, ObjectKey};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// What one reading of a file brought to light.
#[derive(Default)]
pub(crate) struct Reading {
    /// Its objects.
    pub(crate) objects: Vec<Object>,
    /// Objects that are there but make no sense: what they were before stays.
    pub(crate) refused: BTreeSet<ObjectKey>,
    /// Something could not even be told which object it is: nothing counts as removed.
    pub(crate) damaged: bool,
    /// How many errors there were.
    pub(crate) errors: u32,
}

/// What taking in a reading leads to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// What has changed; deletions come from [`Index::settle`].
    pub(crate) changes: Vec<Change>,
    /// Objects that are there more than once.
    pub(crate) twice: Vec<Twice>,
    /// How many objects stay as they were although the file no longer says so.
    pub(crate) stale: usize,
}

/// An object that is in two files, or twice in one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Twice {
    pub(crate) key: ObjectKey,
    /// The file that does not count.
    pub(crate) loser: PathBuf,
    /// The one that does.
    pub(crate) first: PathBuf,
}

/// A file's number.
type FileId = u32;

/// An object's number.
type ObjectId = u32;

/// What is kept of a file.
struct Held {
    path: Box<Path>,
    objects: Objects,
    errors: u32,
}

/// The objects of a file. Most have one.
enum Objects {
    One(ObjectId),
    Many(Box<[ObjectId]>),
}

impl Default for Objects {
    fn default() -> Self {
        Objects::Many(Box::default())
    }
}

impl Objects {
    fn new(ids: &[ObjectId]) -> Objects {
        match ids {
            [id] => Objects::One(*id),
            ids => Objects::Many(ids.into()),
        }
    }

    fn as_slice(&self) -> &[ObjectId] {
        match self {
            Objects::One(id) => std::slice::from_ref(id),
            Objects::Many(ids) => ids,
        }
    }
}

/// What is kept of an object.
struct Known {
    key: ObjectKey,
    /// The file that it comes from.
    owner: FileId,
}

const _: () = assert!(size_of::<Option<Held>>() <= 40 && size_of::<Option<Known>>() <= 48);

/// The files and their objects.
#[derive(Default)]
pub(crate) struct Index {
    files: Slots<Held>,
    by_path: HashTable<FileId>,
    objects: Slots<Known>,
    by_key: HashTable<ObjectId>,
    hasher: RandomState,
    /// All files that hold an object, by path, where they are several.
    contested: HashMap<ObjectId, Vec<FileId>>,
    /// Objects whose owner has let go of them, until the end of the round: they may turn up in
    /// another file, or have been given to one.
    released: HashSet<ObjectKey>,
    /// Objects that fell to a file that has not been read since.
    inherited: HashSet<ObjectId>,
    /// Files to read again because objects fell to them.
    again: BTreeSet<PathBuf>,
    /// The errors of all files.
    errors: usize,
}

impl Index {
    /// Takes in what a file holds now.
    pub(crate) fn put(&mut self, path: &Path, reading: Reading) -> Outcome {
        let Reading { objects, refused, damaged, errors } = reading;
        let mut outcome = Outcome::default();
        let file = self.file(path);
        let old = self.replace(file, Objects::default(), errors);
        let mut gone: BTreeSet<ObjectId> = old.as_slice().iter().copied().collect();
        let mut ids: Vec<ObjectId> = Vec::with_capacity(objects.len());
        let mut seen: HashSet<ObjectId> = HashSet::new();
        let several = objects.len() > 1;
        for object in objects {
            let id = self.object(object.key(), file);
            if several && !seen.insert(id) {
                outcome.twice.extend(self.twice(id, file, file));
                continue;
            }
            if !gone.remove(&id) {
                self.join(id, file);
            }
            ids.push(id);
            let owner = self.owner(id);
            if owner == Some(file) {
                let losers = self.contested.get(&id).into_iter().flatten().filter(|loser| **loser != file);
                outcome.twice.extend(losers.filter_map(|loser| self.twice(id, *loser, file)));
                self.inherited.remove(&id);
                outcome.changes.push(Change::Apply(object));
            } else {
                outcome.twice.extend(owner.and_then(|owner| self.twice(id, file, owner)));
            }
        }
        for id in gone {
            let refused = self.objects.get(id).is_some_and(|known| refused.contains(&known.key));
            // What fell to this file was never its own to keep.
            if (damaged || refused) && !self.inherited.contains(&id) {
                outcome.stale += 1;
                ids.push(id);
            } else {
                self.leave(id, file);
            }
        }
        if ids.is_empty() && errors == 0 {
            self.forget(file);
        } else {
            self.replace(file, Objects::new(&ids), errors);
        }
        outcome
    }

    /// Forgets a file.
    pub(crate) fn remove(&mut self, path: &Path) {
        if self.knows(path) {
            self.put(path, Reading::default());
        }
    }

    /// The number of a file, which is made known if it is not.
    fn file(&mut self, path: &Path) -> FileId {
        if let Some(file) = self.find(path) {
            return file;
        }
        let Index { files, by_path, hasher, .. } = self;
        let file = files.insert(Held { path: path.into(), objects: Objects::default(), errors: 0 });
        let hash = |file: &FileId| hasher.hash_one(files.get(*file).map(|held| held.path.as_os_str()));
        by_path.insert_unique(hash(&file), file, hash);
        file
    }

    fn find(&self, path: &Path) -> Option<FileId> {
        let hash = self.hasher.hash_one(Some(path.as_os_str()));
        let same = |file: &FileId| self.files.get(*file).is_some_and(|held| held.path.as_os_str() == path);
        self.by_path.find(hash, same).copied()
    }

    fn forget(&mut self, file: FileId) {
        let hash = self.hasher.hash_one(self.files.get(file).map(|held| held.path.as_os_str()));
        if let Ok(entry) = self.by_path.find_entry(hash, |other| *other == file) {
            entry.remove();
        }
        self.files.remove(file);
    }

    /// Puts other objects into a file's record; gives back the old ones.
    fn replace(&mut self, file: FileId, objects: Objects, errors: u32) -> Objects {
        let Some(held) = self.files.get_mut(file) else { return Objects::default() };
        self.errors = (self.errors + errors as usize).saturating_sub(held.errors as usize);
        held.errors = errors;
        std::mem::replace(&mut held.objects, objects)
    }

    /// The number of an object, which is made known, and this file's, if it is not.
    fn object(&mut self, key: ObjectKey, owner: FileId) -> ObjectId {
        let Index { objects, by_key, hasher, .. } = self;
        let same = |id: &ObjectId| objects.get(*id).is_some_and(|known| known.key == key);
        if let Some(id) = by_key.find(hasher.hash_one(Some(&key)), same) {
            return *id;
        }
        let id = objects.insert(Known { key, owner });
        let hash = |id: &ObjectId| hasher.hash_one(objects.get(*id).map(|known| &known.key));
        by_key.insert_unique(hash(&id), id, hash);
        id
    }

    fn owner(&self, id: ObjectId) -> Option<FileId> {
        self.objects.get(id).map(|known| known.owner)
    }

    fn path(&self, file: FileId) -> Option<&Path> {
        self.files.get(file).map(|held| &*held.path)
    }

    fn twice(&self, id: ObjectId, loser: FileId, first: FileId) -> Option<Twice> {
        Some(Twice {
            key: self.objects.get(id)?.key.clone(),
            loser: self.path(loser)?.to_owned(),
            first: self.path(first)?.to_owned(),
        })
    }

    /// A file takes an object for the first time. The first by path owns it.
    fn join(&mut self, id: ObjectId, file: FileId) {
        let Some(owner) = self.owner(id).filter(|owner| *owner != file) else { return };
        let mut files = self.contested.remove(&id).unwrap_or_else(|| vec![owner]);
        let place = files.partition_point(|other| self.path(*other) < self.path(file));
        files.insert(place, file);
        if let (Some(known), Some(first)) = (self.objects.get_mut(id), files.first()) {
            known.owner = *first;
        }
        self.contested.insert(id, files);
    }

    /// A file holds an object no longer.
    fn leave(&mut self, id: ObjectId, file: FileId) {
        let mut files = self.contested.remove(&id).unwrap_or_default();
        files.retain(|other| *other != file);
        let next = files.first().copied();
        if files.len() > 1 {
            self.contested.insert(id, files);
        }
        let Some(known) = self.objects.get_mut(id).filter(|known| known.owner == file) else { return };
        self.released.insert(known.key.clone());
        match next {
            Some(next) => {
                known.owner = next;
                self.inherited.insert(id);
                self.again.extend(self.files.get(next).map(|held| held.path.to_path_buf()));
            }
            None => {
                let hash = self.hasher.hash_one(Some(&known.key));
                if let Ok(entry) = self.by_key.find_entry(hash, |other| *other == id) {
                    entry.remove();
                }
                self.objects.remove(id);
                self.inherited.remove(&id);
            }
        }
    }

    /// A file that must be read again, until there is none.
    pub(crate) fn again(&mut self) -> Option<PathBuf> {
        self.again.pop_first()
    }

    /// Ends a round: the objects that no file holds any more.
    pub(crate) fn settle(&mut self) -> Vec<Change> {
        let released = std::mem::take(&mut self.released);
        let mut gone: Vec<ObjectKey> = released.into_iter().filter(|key| !self.has(key)).collect();
        gone.sort_unstable();
        gone.into_iter().map(Change::Delete).collect()
    }

    fn has(&self, key: &ObjectKey) -> bool {
        let same = |id: &ObjectId| self.objects.get(*id).is_some_and(|known| known.key == *key);
        self.by_key.find(self.hasher.hash_one(Some(key)), same).is_some()
    }

    /// The files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|held| &*held.path)
    }

    /// Whether the file holds anything that we know of.
    pub(crate) fn knows(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    /// A file cannot be read: what it held stays, and that is one error. Says how much it held.
    pub(crate) fn fail(&mut self, path: &Path) -> usize {
        let file = self.file(path);
        let objects = self.replace(file, Objects::default(), 1);
        let count = objects.as_slice().len();
        self.replace(file, objects, 1);
        count
    }

    /// How many errors stand in all files.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// Gives back the room that growing took in advance.
    pub(crate) fn shrink(&mut self) {
        self.files.shrink();
        self.objects.shrink();
    }
}

#[cfg(test)]
mod tests;
