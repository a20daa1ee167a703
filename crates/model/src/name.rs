//! Names of objects, shared cheaply.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A name of one word: a node, a zone, a port, a pod.
pub type Name = Arc<str>;

/// Words by words: labels, annotations. Most objects have none, and those that have some have few.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words(Box<[(Name, Name)]>);

impl Words {
    /// The one by this key.
    pub fn get(&self, key: &str) -> Option<&Name> {
        let index = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        self.0.get(index).map(|(_, word)| word)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Name)> {
        self.0.iter().map(|(key, word)| (key, word))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<(Name, Name)> for Words {
    fn from_iter<I: IntoIterator<Item = (Name, Name)>>(words: I) -> Self {
        // Sorted, and of two words by one key the last.
        let words: BTreeMap<_, _> = words.into_iter().collect();
        Words(words.into_iter().collect())
    }
}

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Name,
    /// The name within it.
    pub name: Name,
}

impl ObjectName {
    /// Makes a name from its two words.
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One port of one Service. It prints as `ns/name:port`, with the number where the port has no name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ObjectName,
    /// The port's name, empty when it has none.
    pub port: Name,
    /// The port's number, which stands for the name where there is none.
    pub number: u16,
    /// The port's protocol: one name may stand for several protocols.
    pub protocol: crate::Protocol,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() {
            write!(f, "{}:{}", self.service, self.number)
        } else {
            write!(f, "{}:{}", self.service, self.port)
        }
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/{}", self.protocol)
    }
}
