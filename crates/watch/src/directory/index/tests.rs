//! What an index says about files that come and go.

use super::*;
use model::{Name, Namespace};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn path(name: &str) -> PathBuf {
    PathBuf::from(name)
}

fn twice(name: &str, loser: &str, first: &str) -> Twice {
    Twice { key: key(name), loser: path(loser), first: path(first) }
}

/// A Namespace whose label tells one version from another.
fn object(name: &str, version: &str) -> Object {
    let labels = [(Name::from("version"), Name::from(version))].into();
    Object::Namespace(Namespace { name: name.into(), labels })
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::Namespace(name.into())
}

fn reading(objects: &[(&str, &str)]) -> Reading {
    let objects = objects.iter().map(|(name, version)| object(name, version)).collect();
    Reading { objects, ..Reading::default() }
}

/// Files with their readings, an index of them, and the objects that its changes have led to.
#[derive(Default)]
struct World {
    files: BTreeMap<PathBuf, Vec<(String, String)>>,
    index: Index,
    objects: BTreeMap<ObjectKey, Object>,
    deleted: Vec<ObjectKey>,
}

impl World {
    fn put(&mut self, file: &str, reading: Reading) {
        let outcome = self.index.put(&path(file), reading);
        self.apply(outcome.changes);
    }

    fn write(&mut self, file: &str, objects: &[(&str, &str)]) {
        let owned = objects.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.files.insert(path(file), owned);
        self.put(file, reading(objects));
    }

    fn settle(&mut self) {
        while let Some(file) = self.index.again() {
            let objects = self.files.get(&file).cloned().unwrap_or_default();
            let objects: Vec<_> = objects.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            self.put(&file.to_string_lossy(), reading(&objects));
        }
        let gone = self.index.settle();
        self.apply(gone);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Apply(object) => drop(self.objects.insert(object.key(), object)),
                Change::Delete(key) => {
                    self.objects.remove(&key);
                    self.deleted.push(key);
                }
            }
        }
    }

    /// What the objects must be: of each the first by path, and in a file the first again.
    fn wanted(&self) -> BTreeMap<ObjectKey, Object> {
        let mut wanted = BTreeMap::new();
        for (name, version) in self.files.values().flatten() {
            wanted.entry(key(name)).or_insert_with(|| object(name, version));
        }
        wanted
    }
}

/// A few files written in one round: which, and the objects and versions in each.
type Round = Vec<(usize, Vec<(usize, usize)>)>;

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    use proptest::collection::vec;
    vec(vec((0usize..4, vec((0usize..4, 0usize..3), 0..4)), 1..4), 1..12)
}

proptest! {
    /// Whatever files come, change and go, the objects are those of the first file by path that has
    /// them, and an object that stays in some file is never deleted on the way.
    #[test]
    fn first_by_path(rounds in rounds()) {
        let names = ["a", "b", "c", "d"];
        let versions = ["1", "2", "3"];
        let mut world = World::default();
        for round in rounds {
            let before = world.wanted();
            world.deleted.clear();
            for (file, objects) in round {
                let objects: Vec<_> = objects.iter().map(|(n, v)| (names[*n], versions[*v])).collect();
                world.write(names[file], &objects);
            }
            world.settle();
            let wanted = world.wanted();
            prop_assert_eq!(&world.objects, &wanted);
            let deleted: BTreeSet<_> = world.deleted.iter().cloned().collect();
            prop_assert!(deleted.iter().all(|key| !wanted.contains_key(key)));
            prop_assert!(before.keys().all(|key| wanted.contains_key(key) || deleted.contains(key)));
        }
        for name in names {
            world.files.remove(&path(name));
            world.index.remove(&path(name));
        }
        world.settle();
        prop_assert!(world.objects.is_empty());
        let Index { files, by_path, objects, by_key, hasher: _, contested, released, inherited, again, errors } =
            world.index;
        prop_assert!(files.iter().next().is_none() && by_path.is_empty());
        prop_assert!(objects.iter().next().is_none() && by_key.is_empty());
        prop_assert!(contested.is_empty() && released.is_empty());
        prop_assert!(inherited.is_empty() && again.is_empty());
        prop_assert_eq!(errors, 0);
    }
}

#[test]
fn messages_name_both_files() {
    let mut index = Index::default();
    assert!(index.put(&path("b"), reading(&[("x", "1")])).twice.is_empty());
    let outcome = index.put(&path("a"), reading(&[("x", "2")]));
    assert_eq!(outcome.twice, [twice("x", "b", "a")]);
    assert_eq!(outcome.changes, [Change::Apply(object("x", "2"))]);
    let outcome = index.put(&path("c"), reading(&[("x", "3")]));
    assert_eq!(outcome.twice, [twice("x", "c", "a")]);
    assert!(outcome.changes.is_empty());
}

#[test]
fn damage_deletes_nothing() {
    let mut world = World::default();
    world.write("a", &[("x", "1"), ("y", "1")]);
    world.settle();
    let damaged = Reading { damaged: true, errors: 1, ..reading(&[("x", "2")]) };
    let outcome = world.index.put(&path("a"), damaged);
    assert_eq!((outcome.stale, world.index.errors()), (1, 1));
    world.apply(outcome.changes);
    world.settle();
    assert_eq!(world.objects, BTreeMap::from([(key("x"), object("x", "2")), (key("y"), object("y", "1"))]));
    // Whole again, and y is really gone.
    world.write("a", &[("x", "2")]);
    world.settle();
    assert_eq!(world.objects, BTreeMap::from([(key("x"), object("x", "2"))]));
    assert_eq!(world.index.errors(), 0);
}

#[test]
fn what_is_refused_stays_as_it_was() {
    let mut world = World::default();
    world.write("a", &[("x", "1"), ("y", "1")]);
    let refused = BTreeSet::from([key("x"), key("new")]);
    let outcome = world.index.put(&path("a"), Reading { refused, ..Reading::default() });
    assert_eq!(outcome.stale, 1);
    world.settle();
    assert_eq!(world.objects, BTreeMap::from([(key("x"), object("x", "1"))]));
}

#[test]
fn what_falls_to_a_damaged_file_goes() {
    let mut world = World::default();
    world.write("a", &[("x", "1")]);
    world.write("b", &[("x", "2")]);
    world.settle();
    world.files.remove(&path("a"));
    world.index.remove(&path("a"));
    assert_eq!(world.index.again(), Some(path("b")));
    let outcome = world.index.put(&path("b"), Reading { damaged: true, ..Reading::default() });
    world.apply(outcome.changes);
    world.settle();
    assert_eq!(world.objects, BTreeMap::new());
}

#[test]
fn failures_are_counted_once() {
    let mut index = Index::default();
    index.put(&path("a"), reading(&[("x", "1")]));
    assert_eq!(index.fail(&path("a")), 1);
    assert_eq!(index.fail(&path("a")), 1);
    assert_eq!(index.fail(&path("b")), 0);
    assert_eq!(index.errors(), 2);
    index.remove(&path("b"));
    index.put(&path("a"), reading(&[("x", "1")]));
    assert_eq!(index.errors(), 0);
}
