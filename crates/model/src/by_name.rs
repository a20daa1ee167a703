//! [`ByName`]: objects found by the name they carry.
//!
//! A map from names to objects that know their names would keep each name twice; at 100,000
//! Services that is megabytes of nothing. Here the table holds the objects alone.

use crate::ObjectName;
use hashbrown::HashTable;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Something that carries its name.
pub trait Named {
    /// Namespace and name.
    fn name(&self) -> (&str, &str);
}

impl<T: Named> Named for Arc<T> {
    fn name(&self) -> (&str, &str) {
        T::name(self)
    }
}

impl ObjectName {
    /// Its two words.
    pub fn words(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

/// Objects by their names; no two of one name.
#[derive(Clone)]
pub struct ByName<T> {
    table: HashTable<T>,
    hasher: RandomState,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName { table: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Named> ByName<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The one of this name.
    pub fn get(&self, name: (&str, &str)) -> Option<&T> {
        self.table.find(self.hasher.hash_one(name), |other| other.name() == name)
    }

    /// The one of this name, whose name must not be changed.
    pub fn get_mut(&mut self, name: (&str, &str)) -> Option<&mut T> {
        self.table.find_mut(self.hasher.hash_one(name), |other| other.name() == name)
    }

    /// Puts an object in and gives back the one of its name that was there.
    pub fn insert(&mut self, object: T) -> Option<T> {
        if let Some(old) = self.get_mut(object.name()) {
            return Some(std::mem::replace(old, object));
        }
        let ByName { table, hasher } = self;
        table.insert_unique(hasher.hash_one(object.name()), object, |other| hasher.hash_one(other.name()));
        None
    }

    /// Takes the one of this name out.
    pub fn remove(&mut self, name: (&str, &str)) -> Option<T> {
        let entry = self.table.find_entry(self.hasher.hash_one(name), |other| other.name() == name);
        Some(entry.ok()?.remove().0)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> hashbrown::hash_table::Iter<'_, T> {
        self.table.iter()
    }
}

impl<T: Named + PartialEq> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|object| other.get(object.name()) == Some(object))
    }
}

impl<T: Named + Eq> Eq for ByName<T> {}

impl<T: fmt::Debug> fmt::Debug for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.table).finish()
    }
}
