//! YAML documents.
//!
//! The parser is given bounds that grow with the text, so that a large list can be read but a small
//! text cannot stand for a large one (aliases of aliases).

use super::{At, Body, File, Found, Head, Listed};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Options;
use std::fmt;

/// How deep maps and lists may go. Kubernetes' own objects stay under 20.
const DEPTH_MAX: usize = 64;

/// So many events may come out of aliases.
const ALIAS_EVENTS_MAX: usize = 100_000;

/// So many bytes of text may come out of aliases.
const ALIAS_BYTES_MAX: usize = 1 << 20;

fn options(text: &str) -> Options {
    let nodes = text.len() + ALIAS_EVENTS_MAX;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: nodes,
            max_events: 2 * nodes,
            max_total_scalar_bytes: text.len() + ALIAS_BYTES_MAX,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

impl File<'_> {
    /// Reads a document as YAML.
    pub(super) fn yaml(&mut self, at: At<'_>) {
        let root = Root { file: self, at };
        let read =
            serde_saphyr::with_deserializer_from_str_with_options(at.text, options(at.text), |reader| {
                root.deserialize(reader)
            });
        if let Err(error) = read {
            let line = error.location().map_or(1, |location| location.line());
            let line = at.line + u32::try_from(line).unwrap_or(1).saturating_sub(1);
            let what = error.without_snippet().to_string();
            // The rest of this message is advice to programmers.
            let what = what.split(", set DuplicateKeyPolicy").next().unwrap_or(&what);
            let object = guess(at.text);
            self.problem(at.document, line, object, super::without_place(what).to_owned());
            (self.found)(Found::Lost(None));
        }
    }
}

/// What a document that cannot be parsed was most likely going to describe, for the message only.
fn guess(text: &str) -> Option<String> {
    let value = |line: &str, key: &str| {
        let value = line.trim().strip_prefix(key)?.trim_matches([' ', '"', '\'']);
        (!value.is_empty() && !value.contains(char::is_whitespace)).then(|| value.to_owned())
    };
    let kind = text.lines().find_map(|line| value(line, "kind:").filter(|_| line.starts_with("kind:")))?;
    let metadata = text.lines().skip_while(|line| line.trim_end() != "metadata:").skip(1);
    let inside = metadata.take_while(|line| line.starts_with(' '));
    let name = inside.into_iter().find_map(|line| value(line, "name:"))?;
    Some(format!("{kind} {name}"))
}

/// A document. The items of a list are taken as they come and not kept.
struct Root<'f, 'r, 't> {
    file: &'f mut File<'r>,
    at: At<'t>,
}

impl<'de> DeserializeSeed<'de> for Root<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Visits what is no map.
macro_rules! no_map {
    ($($visit:ident($type:ty))*) => {$(
        fn $visit<E: Error>(self, value: $type) -> Result<(), E> {
            self.take(Value::from(value));
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Root<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    no_map! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) visit_string(String) }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        self.take(Value::Array(vec![]));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Map::new();
        let mut streamed = false;
        while let Some(key) = map.next_key::<String>()? {
            let items = Items { file: &mut *self.file, at: self.at, list: &fields };
            if key == "items" && items.may_stream() {
                let kept = map.next_value_seed(items)?;
                streamed = true;
                fields.insert(key, kept);
            } else {
                fields.insert(key, map.next_value()?);
            }
        }
        // A list whose items are all gone says nothing more.
        let done = streamed && fields.get("items").and_then(Value::as_array).is_some_and(Vec::is_empty);
        if !done {
            self.take(Value::Object(fields));
        }
        Ok(())
    }
}

impl Root<'_, '_, '_> {
    fn take(self, value: Value) {
        self.file.object(self.at, Head::of_value(&value), Body::Value(&value), None, 0);
    }
}

/// The items of what is, or may be, a list.
struct Items<'f, 'r, 't, 'm> {
    file: &'f mut File<'r>,
    at: At<'t>,
    /// The fields of the list that came before its items.
    list: &'m Map<String, Value>,
}

impl Items<'_, '_, '_, '_> {
    fn said(&self, field: &str) -> Option<&str> {
        self.list.get(field).and_then(Value::as_str)
    }

    /// Whether it is a list, as far as can be told by now. `kubectl` writes the fields by the
    /// alphabet, `kind` after the items; but nothing other than lists has `items` in `v1`.
    fn may_stream(&self) -> bool {
        match self.said("kind") {
            Some(kind) => kind.ends_with("List"),
            None => self.said("apiVersion") == Some("v1"),
        }
    }

    /// Takes an item if it says what it is, or its list has said so; gives it back otherwise.
    fn take(&mut self, item: Value) -> Option<Value> {
        let head = Head::of_value(&item);
        let list = self.list;
        let said = |field: &str| list.get(field).and_then(Value::as_str);
        let kind = said("kind").and_then(|kind| kind.strip_suffix("List")).filter(|kind| !kind.is_empty());
        let listed = match (said("apiVersion"), kind) {
            (Some(api_version), Some(kind)) => Some(Listed { api_version, kind }),
            _ => None,
        };
        if head.kind.is_none() && listed.is_none() {
            return Some(item);
        }
        self.file.object(self.at, head, Body::Value(&item), listed, 1);
        None
    }
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_, '_, '_> {
    /// What could not be taken yet.
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_, '_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Array(vec![]))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = list.next_element()? {
            kept.extend(self.take(item));
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        serde::Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(map))
    }
}
