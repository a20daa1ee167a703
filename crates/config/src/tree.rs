//! A document as it is written, before anybody asks what it means: unlike `serde_json::Value` it
//! keeps fields that are given twice.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use std::fmt;
use std::path::Path;

/// How deep maps and lists may go. A configuration has four levels.
const DEPTH_MAX: usize = 32;

/// The largest text, and the most values in it, those that come out of aliases among them.
const BYTES_MAX: usize = 1 << 20;
const EVENTS_MAX: usize = 1 << 16;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// What it is, in words.
    pub(crate) fn shape(&self) -> String {
        match self {
            Tree::Null => "null".into(),
            Tree::Bool(value) => value.to_string(),
            Tree::Integer(value) => value.to_string(),
            Tree::Float(value) => value.to_string(),
            Tree::Text(text) => format!("{text:?}"),
            Tree::List(_) => "a list".into(),
            Tree::Map(_) => "a map".into(),
        }
    }

    /// The text of a field of a map, the last where there are several.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        let Tree::Map(fields) = self else { return None };
        let found = fields.iter().rev().find(|(name, _)| name == field)?;
        match &found.1 {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Why a text has no documents, and on which line.
pub(crate) struct Malformed {
    pub(crate) line: Option<u64>,
    pub(crate) what: String,
}

/// The documents of a text that are not empty: YAML, or JSON, which is read as such where it is.
pub(crate) fn documents(text: &str) -> Result<Vec<Tree>, Malformed> {
    if text.len() > BYTES_MAX {
        let what = format!("{} bytes are more than {BYTES_MAX}", text.len());
        return Err(Malformed { line: None, what });
    }
    if text.trim_start().starts_with('{')
        && let Ok(trees) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(trees);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: EVENTS_MAX,
            max_events: EVENTS_MAX,
            max_total_scalar_bytes: 2 * BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: EVENTS_MAX },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let trees = serde_saphyr::from_multiple_with_options::<Tree>(text, options).map_err(|error| {
        let what = error.without_snippet().to_string();
        let what = what.rfind(" at line ").and_then(|end| what.get(..end)).unwrap_or(&what).to_owned();
        Malformed { line: error.location().map(|location| location.line()), what }
    })?;
    Ok(trees.into_iter().filter(|tree| *tree != Tree::Null).collect())
}

/// How messages name a field: `KubeProxyConfiguration.ipvs.syncPeriod`.
#[derive(Clone, Debug)]
pub(crate) struct FieldPath(String);

impl FieldPath {
    pub(crate) fn root(kind: &str) -> FieldPath {
        FieldPath(kind.to_owned())
    }

    pub(crate) fn field(&self, name: &str) -> FieldPath {
        FieldPath(format!("{}.{name}", self.0))
    }

    pub(crate) fn item(&self, index: usize) -> FieldPath {
        FieldPath(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `FILE: what` or `FILE:LINE: what`.
pub(crate) fn in_file(file: &Path, line: Option<u64>, what: &str) -> String {
    match line {
        Some(line) => format!("{}: line {line}: {what}", file.display()),
        None => format!("{}: {what}", file.display()),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(i64::try_from(value).map_or(Tree::Float(value as f64), Tree::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Map(fields))
    }
}
