//! From a tree to types and back, field by field.
//!
//! [`fields!`](crate::decode::fields) names a type's fields once, and both directions follow from
//! that. What is not known or given twice is told by its path; whether that is a warning or an error
//! is for the caller to say. `null` is the same as nothing.

use crate::duration::GoDuration;
use crate::quantity::Quantity;
use crate::tree::{FieldPath, Tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What decoding leaves behind.
#[derive(Default)]
pub(crate) struct Findings {
    /// Fields that nobody knows or that are given twice.
    pub(crate) oddities: Vec<String>,
    /// Values that cannot be what they should be.
    pub(crate) errors: Vec<String>,
}

impl Findings {
    fn wrong(&mut self, at: &FieldPath, tree: &Tree, wanted: &str) {
        self.errors.push(format!("{at}: {} is not {wanted}", tree.shape()));
    }
}

/// A type that a field can have.
pub(crate) trait Field {
    /// Takes over what is written. Leaves itself alone where that makes no sense.
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings);

    /// How it is written; nothing where it is better left out.
    fn write(&self) -> Option<Value>;
}

/// Implements [`Field`] for a struct by the names of its fields.
macro_rules! fields {
    ($type:ty { $($field:ident: $name:literal),* $(,)? }) => {
        impl $crate::decode::Field for $type {
            fn read(
                &mut self,
                tree: &$crate::tree::Tree,
                at: &$crate::tree::FieldPath,
                findings: &mut $crate::decode::Findings,
            ) {
                $crate::decode::read_map(tree, at, findings, &mut |name, tree, at, findings| {
                    match name {
                        $($name => self.$field.read(tree, at, findings),)*
                        _ => return false,
                    }
                    true
                });
            }

            fn write(&self) -> Option<serde_json::Value> {
                let mut map = serde_json::Map::new();
                $(map.extend(self.$field.write().map(|value| ($name.to_owned(), value)));)*
                Some(serde_json::Value::Object(map))
            }
        }
    };
}
pub(crate) use fields;

/// Hands each field of a map to `read`, which says whether it knows it.
pub(crate) fn read_map(
    tree: &Tree,
    at: &FieldPath,
    findings: &mut Findings,
    read: &mut dyn FnMut(&str, &Tree, &FieldPath, &mut Findings) -> bool,
) {
    let fields = match tree {
        Tree::Null => return,
        Tree::Map(fields) => fields,
        other => return findings.wrong(at, other, "a map"),
    };
    let mut seen = BTreeSet::new();
    for (name, value) in fields {
        let at = at.field(name);
        if !seen.insert(name) {
            findings.oddities.push(format!("field {at} is given twice; the last counts"));
        }
        if !read(name, value, &at, findings) {
            findings.oddities.push(format!("unknown field {at}"));
        }
    }
}

impl Field for bool {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        match tree {
            Tree::Null => {}
            Tree::Bool(value) => *self = *value,
            other => findings.wrong(at, other, "true or false"),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Bool(*self))
    }
}

impl Field for String {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        match tree {
            Tree::Null => {}
            Tree::Text(text) => self.clone_from(text),
            other => findings.wrong(at, other, "a string"),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

/// The whole number of a tree. Go, too, takes 14.0 for 14.
fn integer(tree: &Tree) -> Option<i64> {
    /// Up to here every whole number is a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match tree {
        Tree::Integer(value) => Some(*value),
        Tree::Float(value) if value.fract() == 0.0 && value.abs() <= EXACT_MAX => Some(*value as i64),
        _ => None,
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
                if *tree == Tree::Null {
                    return;
                }
                match integer(tree).map(<$type>::try_from) {
                    Some(Ok(value)) => *self = value,
                    Some(Err(_)) => {
                        let range = format!("between {} and {}", <$type>::MIN, <$type>::MAX);
                        findings.wrong(at, tree, &range);
                    }
                    None => findings.wrong(at, tree, "a whole number"),
                }
            }

            fn write(&self) -> Option<Value> {
                Some(Value::from(*self))
            }
        }
    )*};
}

integers! { i32 u32 }

impl Field for f32 {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        let value = match tree {
            Tree::Null => return,
            Tree::Integer(value) => *value as f32,
            Tree::Float(value) => *value as f32,
            other => return findings.wrong(at, other, "a number"),
        };
        if value.is_finite() {
            *self = value;
        } else {
            findings.wrong(at, tree, "a number of 32 bits");
        }
    }

    fn write(&self) -> Option<Value> {
        if self.fract() == 0.0 && self.abs() < 1e9 {
            return Some(Value::from(*self as i64));
        }
        // By way of its text: 0.1 as a wider float would be 0.10000000149.
        Some(self.to_string().parse::<f64>().map_or(Value::Null, Value::from))
    }
}

impl Field for GoDuration {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        match tree {
            Tree::Null => {}
            Tree::Text(text) => match text.parse() {
                Ok(duration) => *self = duration,
                Err(error) => findings.errors.push(format!("{at}: {error}")),
            },
            other => findings.wrong(at, other, "a duration such as \"5s\""),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Field for Quantity {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        let text = match tree {
            Tree::Null => return,
            Tree::Text(text) => text.clone(),
            Tree::Integer(value) => value.to_string(),
            Tree::Float(value) => value.to_string(),
            other => return findings.wrong(at, other, "a quantity such as 64Mi"),
        };
        match text.parse() {
            Ok(quantity) => *self = quantity,
            Err(error) => findings.errors.push(format!("{at}: {error}")),
        }
    }

    fn write(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

/// Go's pointers: `null` and absence are told apart from every value.
impl<T: Field + Default> Field for Option<T> {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        if *tree == Tree::Null {
            *self = None;
            return;
        }
        let mut value = T::default();
        value.read(tree, at, findings);
        *self = Some(value);
    }

    fn write(&self) -> Option<Value> {
        Some(self.as_ref().and_then(Field::write).unwrap_or(Value::Null))
    }
}

impl<T: Field + Default> Field for Vec<T> {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        let items = match tree {
            Tree::Null => return,
            Tree::List(items) => items,
            other => return findings.wrong(at, other, "a list"),
        };
        let read = |(index, tree): (usize, &Tree)| {
            let mut item = T::default();
            item.read(tree, &at.item(index), findings);
            item
        };
        *self = items.iter().enumerate().map(read).collect();
    }

    /// Go writes a list that is not there as `null`.
    fn write(&self) -> Option<Value> {
        match self.is_empty() {
            true => Some(Value::Null),
            false => Some(Value::Array(self.iter().filter_map(Field::write).collect())),
        }
    }
}

/// Feature gates. Left out where there are none.
impl Field for BTreeMap<String, bool> {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        read_map(tree, at, findings, &mut |name, tree, at, findings| {
            let mut value = false;
            value.read(tree, at, findings);
            self.insert(name.to_owned(), value);
            true
        });
    }

    fn write(&self) -> Option<Value> {
        let map: serde_json::Map<_, _> =
            self.iter().map(|(name, value)| (name.clone(), Value::Bool(*value))).collect();
        (!map.is_empty()).then_some(Value::Object(map))
    }
}
