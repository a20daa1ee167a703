//! The little of an object that says what it is, read before the rest: which type to read it into,
//! and what to call it in messages should that fail.

use super::wire::Text;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// What an object says of itself. Anything may be missing or of a wrong type.
#[derive(Default)]
pub(crate) struct Head<'a> {
    pub(crate) api_version: Option<Text<'a>>,
    pub(crate) kind: Option<Text<'a>>,
    pub(crate) name: Option<Text<'a>>,
    pub(crate) namespace: Option<Text<'a>>,
    /// The text of `items`, where the object is read from JSON and has them.
    pub(crate) items: Option<&'a RawValue>,
    /// What it is if it is no object at all.
    pub(crate) other: Option<&'static str>,
}

impl<'a> Head<'a> {
    /// The head of an object that has already been read.
    pub(crate) fn of_value(value: &'a Value) -> Head<'a> {
        let Value::Object(fields) = value else {
            return Head { other: Some(shape(value)), ..Head::default() };
        };
        let text = |value: Option<&'a Value>| value.and_then(Value::as_str).map(|t| Text(Cow::Borrowed(t)));
        let metadata = fields.get("metadata").and_then(Value::as_object);
        Head {
            api_version: text(fields.get("apiVersion")),
            kind: text(fields.get("kind")),
            name: text(metadata.and_then(|fields| fields.get("name"))),
            namespace: text(metadata.and_then(|fields| fields.get("namespace"))),
            items: None,
            other: None,
        }
    }
}

/// What a value is, in words.
pub(crate) fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Head<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadReader)
    }
}

struct HeadReader;

/// Visits what is no object and says what it is.
macro_rules! no_object {
    ($($visit:ident($type:ty) $what:literal)*) => {$(
        fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Head { other: Some($what), ..Head::default() })
        }
    )*};
}

impl<'de> Visitor<'de> for HeadReader {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    no_object! {
        visit_bool(bool) "true or false"
        visit_i64(i64) "a number"
        visit_u64(u64) "a number"
        visit_f64(f64) "a number"
        visit_str(&str) "a string"
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Head { other: Some("null"), ..Head::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Head { other: Some("a list"), ..Head::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match &*key {
                "apiVersion" => head.api_version = map.next_value::<Maybe<'de>>()?.text,
                "kind" => head.kind = map.next_value::<Maybe<'de>>()?.text,
                "metadata" => {
                    let metadata = map.next_value::<Maybe<'de>>()?;
                    head.name = metadata.name;
                    head.namespace = metadata.namespace;
                }
                "items" => head.items = Some(map.next_value::<&'de RawValue>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(head)
    }
}

/// A string, or the name and namespace of a map; whatever else it may be is stepped over.
#[derive(Default)]
struct Maybe<'a> {
    text: Option<Text<'a>>,
    name: Option<Text<'a>>,
    namespace: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Maybe<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaybeReader)
    }
}

struct MaybeReader;

/// Visits what is of no interest.
macro_rules! nothing {
    ($($visit:ident($type:ty))*) => {$(
        fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Maybe::default())
        }
    )*};
}

impl<'de> Visitor<'de> for MaybeReader {
    type Value = Maybe<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    nothing! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Maybe::default())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Maybe { text: Some(Text(Cow::Borrowed(text))), ..Maybe::default() })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Maybe { text: Some(Text(Cow::Owned(text.to_owned()))), ..Maybe::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Maybe::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Maybe::default();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match &*key {
                // One level is enough: a name is a string.
                "name" => found.name = map.next_value::<Word<'de>>()?.0,
                "namespace" => found.namespace = map.next_value::<Word<'de>>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// A string, if it is one, without going deeper.
struct Word<'a>(Option<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        Ok(Word(serde_json::from_str(raw.get()).ok()))
    }
}
