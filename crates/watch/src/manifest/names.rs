//! Words that many objects share, kept once.
//!
//! 200,000 endpoints name a few hundred nodes, zones and namespaces. Words that few objects share
//! (names of Services, of pods) are not kept here: they would cost more than they save.

use model::{Hints, Name, Place};
use std::collections::HashSet;
use std::sync::Arc;

/// Below this many words nothing is worth forgetting.
const WORDS_MIN: usize = 4096;

/// The words and places seen so far.
#[derive(Default)]
pub(crate) struct Names {
    words: HashSet<Name>,
    places: HashSet<Arc<Place>>,
    /// How many there were after the last forgetting.
    remembered: usize,
}

impl Names {
    /// The one copy of a word.
    pub(crate) fn word(&mut self, word: &str) -> Name {
        if let Some(name) = self.words.get(word) {
            return name.clone();
        }
        let name: Name = word.into();
        self.words.insert(name.clone());
        name
    }

    /// The one copy of a place.
    pub(crate) fn place(&mut self, node: Option<&str>, zone: Option<&str>, hints: Hints) -> Arc<Place> {
        let place = Place { node: node.map(|n| self.word(n)), zone: zone.map(|z| self.word(z)), hints };
        if let Some(place) = self.places.get(&place) {
            return place.clone();
        }
        let place = Arc::new(place);
        self.places.insert(place.clone());
        place
    }

    /// Forgets what nobody else holds, once enough has come together to be worth the walk.
    pub(crate) fn forget_unused(&mut self) {
        let held = self.words.len() + self.places.len();
        if held < WORDS_MIN || held < 2 * self.remembered {
            return;
        }
        self.places.retain(|place| Arc::strong_count(place) > 1);
        self.words.retain(|word| Arc::strong_count(word) > 1);
        self.remembered = self.words.len() + self.places.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy() {
        let mut names = Names::default();
        let place = names.place(Some("node-1"), None, Hints::default());
        assert!(Arc::ptr_eq(&place, &names.place(Some("node-1"), None, Hints::default())));
        assert!(Arc::ptr_eq(&names.word("node-1"), place.node.as_ref().unwrap()));
        assert_ne!(place, names.place(Some("node-1"), Some("z"), Hints::default()));
    }

    #[test]
    fn forgetting_keeps_what_is_held() {
        let mut names = Names::default();
        let held = names.place(Some("held"), Some("zone"), Hints::default());
        for i in 0..WORDS_MIN {
            names.word(&i.to_string());
        }
        names.forget_unused();
        assert_eq!((names.words.len(), names.places.len()), (2, 1));
        assert!(Arc::ptr_eq(&held, &names.place(Some("held"), Some("zone"), Hints::default())));
    }
}
