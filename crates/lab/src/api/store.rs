//! The objects, their versions and what happened to them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing that happened.
#[derive(Clone)]
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) kind: String,
    /// What was, and what is.
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// Kind, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    /// What happened at or before this is forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: Vec<Happened>,
}

impl Store {
    pub(super) fn set(&mut self, mut object: Value) {
        self.version += 1;
        let key = key(&object);
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), self.version.to_string().into());
        }
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        self.note(key.0, before, Some(object));
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(before) = self.objects.remove(&key) {
            self.version += 1;
            self.note(key.0, Some(before), None);
        }
    }

    fn note(&mut self, kind: String, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.history.push(Happened { version: self.version, kind, before, after });
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }

    pub(super) fn restore(&mut self, objects: Vec<Value>, version: u64) {
        *self = Store { version, compacted: version, ..Store::default() };
        for object in objects {
            self.objects.insert(key(&object), Arc::new(object));
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn objects(&self) -> Vec<Value> {
        self.objects.values().map(|object| (**object).clone()).collect()
    }

    pub(super) fn of_kind(&self, kind: &str) -> Vec<Arc<Value>> {
        let of = self.objects.iter().filter(|((other, _, _), _)| other == kind);
        of.map(|(_, object)| object.clone()).collect()
    }

    /// What happened to a kind after a version.
    pub(super) fn since(&self, kind: &str, version: u64) -> Vec<Happened> {
        let from = self.history.partition_point(|happened| happened.version <= version);
        let after = self.history.get(from..).unwrap_or_default();
        after.iter().filter(|happened| happened.kind == kind).cloned().collect()
    }
}

fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    (
        text(object.get("kind").unwrap_or(&Value::Null)),
        text(metadata.get("namespace").unwrap_or(&Value::Null)),
        text(metadata.get("name").unwrap_or(&Value::Null)),
    )
}

/// What is asked for.
pub(super) struct Selector {
    /// Labels that must not be there.
    without: Vec<String>,
    /// Paths and the values that they must, or must not, have.
    fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// From `labelSelector` (only `!key`) and `fieldSelector`.
    pub(super) fn new(labels: &str, fields: &str) -> Selector {
        let without = labels.split(',').filter_map(|label| label.strip_prefix('!')).map(str::to_owned);
        let fields = fields.split(',').filter(|field| !field.is_empty()).filter_map(|field| {
            let (path, is, value) = match field.split_once("!=") {
                Some((path, value)) => (path, false, value),
                None => {
                    let (path, value) = field.split_once('=')?;
                    (path, true, value)
                }
            };
            Some((format!("/{}", path.replace('.', "/")), is, value.to_owned()))
        });
        Selector { without: without.collect(), fields: fields.collect() }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let has = |label: &String| labels.is_some_and(|labels| labels.get(label).is_some());
        let fits = |(path, is, value): &(String, bool, String)| {
            let actual = object.pointer(path).and_then(Value::as_str).unwrap_or_default();
            (actual == value) == *is
        };
        !self.without.iter().any(has) && self.fields.iter().all(fits)
    }
}

impl Happened {
    /// The event that somebody sees who watches with a selector, if any.
    pub(super) fn event(&self, selector: &Selector) -> Option<Value> {
        let seen = |object: &Option<Arc<Value>>| object.clone().filter(|object| selector.matches(object));
        match (seen(&self.before), seen(&self.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(json!({ "type": "ADDED", "object": *after })),
            (Some(_), Some(after)) => Some(json!({ "type": "MODIFIED", "object": *after })),
            (Some(before), None) => {
                let mut object = (*before).clone();
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".into(), self.version.to_string().into());
                }
                Some(json!({ "type": "DELETED", "object": object }))
            }
        }
    }
}
