//! Which objects of one kind the API server has told of, so that a list that comes later tells what
//! has gone. Only keys are kept, and they share their letters with the objects in the cluster.

use hashbrown::HashTable;
use model::{Object, ObjectKey};
use std::hash::{BuildHasher, RandomState};

/// One object.
struct Entry {
    key: ObjectKey,
    /// In which list it was seen last, or since which it has been told of.
    list: u32,
    /// Something is wrong with it.
    bad: bool,
}

/// All objects of a kind.
#[derive(Default)]
pub(super) struct Known {
    entries: HashTable<Entry>,
    hasher: RandomState,
    list: u32,
    bad: usize,
}

impl Known {
    /// A list begins: what it does not hold will have gone at its end.
    pub(super) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// An object is there. Its name is replaced by the one that is known, so that nothing is kept
    /// twice.
    pub(super) fn see(&mut self, object: &mut Object, bad: bool) {
        let key = object.key();
        let list = self.list;
        match self.find(&key) {
            Some(entry) => {
                entry.list = list;
                let was = std::mem::replace(&mut entry.bad, bad);
                share(object, &entry.key);
                self.bad = self.bad + usize::from(bad) - usize::from(was);
            }
            None => {
                self.bad += usize::from(bad);
                self.insert(Entry { key, list, bad });
            }
        }
    }

    /// An object is there but makes no sense: what it was before, if anything, stays.
    pub(super) fn refuse(&mut self, key: ObjectKey) {
        let list = self.list;
        match self.find(&key) {
            Some(entry) => {
                entry.list = list;
                let was = std::mem::replace(&mut entry.bad, true);
                self.bad += usize::from(!was);
            }
            None => {
                self.bad += 1;
                self.insert(Entry { key, list, bad: true });
            }
        }
    }

    /// An object is gone; says whether it was known.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> bool {
        let hash = self.hasher.hash_one(key);
        match self.entries.find_entry(hash, |entry| entry.key == *key) {
            Ok(entry) => {
                let (entry, _) = entry.remove();
                self.bad -= usize::from(entry.bad);
                true
            }
            Err(_) => false,
        }
    }

    /// A list has ended: hands over what it did not hold.
    pub(super) fn end_list(&mut self, mut gone: impl FnMut(ObjectKey)) {
        let list = self.list;
        let Known { entries, bad, .. } = self;
        entries.retain(|entry| {
            let there = entry.list == list;
            if !there {
                *bad -= usize::from(entry.bad);
                gone(entry.key.clone());
            }
            there
        });
        let Known { entries, hasher, .. } = self;
        entries.shrink_to_fit(|entry| hasher.hash_one(&entry.key));
    }

    /// Whether something is wrong with an object.
    pub(super) fn is_bad(&mut self, key: &ObjectKey) -> bool {
        self.find(key).is_some_and(|entry| entry.bad)
    }

    /// With how many objects something is wrong.
    pub(super) fn bad(&self) -> usize {
        self.bad
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn insert(&mut self, entry: Entry) {
        let Known { entries, hasher, .. } = self;
        entries.insert_unique(hasher.hash_one(&entry.key), entry, |entry| hasher.hash_one(&entry.key));
    }

    fn find(&mut self, key: &ObjectKey) -> Option<&mut Entry> {
        let hash = self.hasher.hash_one(key);
        self.entries.find_mut(hash, |entry| entry.key == *key)
    }
}

/// Gives an object the letters of a key that is equal to its own.
fn share(object: &mut Object, key: &ObjectKey) {
    match (object, key) {
        (Object::Service(object), ObjectKey::Service(name)) => object.name = name.clone(),
        (Object::Slice(object), ObjectKey::Slice(name)) => object.name = name.clone(),
        (Object::Pod(object), ObjectKey::Pod(name)) => object.name = name.clone(),
        (Object::Node(object), ObjectKey::Node(name)) => object.name = name.clone(),
        (Object::Namespace(object), ObjectKey::Namespace(name)) => object.name = name.clone(),
        (Object::ServiceCidr(object), ObjectKey::ServiceCidr(name)) => object.name = name.clone(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ServiceCidr;

    fn object(name: &str) -> Object {
        Object::ServiceCidr(ServiceCidr { name: name.into(), cidrs: Vec::new() })
    }

    #[test]
    fn lists_tell_what_has_gone() {
        let mut known = Known::default();
        known.begin_list();
        for (name, bad) in [("a", false), ("b", true), ("c", true)] {
            known.see(&mut object(name), bad);
        }
        assert_eq!((known.len(), known.bad()), (3, 2));
        known.end_list(|key| panic!("{key:?} is there"));
        known.begin_list();
        known.see(&mut object("d"), false);
        known.see(&mut object("c"), false);
        known.refuse(object("a").key());
        known.refuse(object("never right").key());
        let mut gone = Vec::new();
        known.end_list(|key| gone.push(key));
        assert_eq!(gone, [object("b").key()]);
        assert_eq!((known.len(), known.bad()), (4, 2));
        assert!(known.forget(&object("never right").key()));
        assert!(known.forget(&object("a").key()) && !known.forget(&object("a").key()));
        assert_eq!((known.len(), known.bad()), (2, 0));
    }

    #[test]
    fn names_are_kept_once() {
        let mut known = Known::default();
        let (mut first, mut second) = (object("a"), object("a"));
        known.see(&mut first, false);
        known.see(&mut second, false);
        let (Object::ServiceCidr(first), Object::ServiceCidr(second)) = (first, second) else {
            panic!("they are what they were")
        };
        assert!(std::sync::Arc::ptr_eq(&first.name, &second.name));
    }
}
