//! Values, and what operators make of them.

use super::Binary;
use regex::Regex;
use std::cmp::Ordering;
use std::fmt;

/// A range has so many numbers at most, and a text so many bytes.
const RANGE_MAX: i64 = 10_000;
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => f.write_str("<nil>"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(value) => f.write_str(value),
            Value::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index > 0 { " " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl Value {
    pub(super) fn bool(&self) -> Result<bool, String> {
        match self {
            Value::Bool(value) => Ok(*value),
            other => Err(format!("{other} is neither true nor false")),
        }
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) => Ok(text),
            other => Err(format!("{other} is no text")),
        }
    }

    pub(super) fn int(&self) -> Result<i64, String> {
        match self {
            Value::Int(number) => Ok(*number),
            other => Err(format!("{other} is no whole number")),
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// An element of a list or a character of a text; negative places count from the end.
    pub(super) fn at(&self, index: &Value) -> Result<Value, String> {
        let index = index.int()?;
        let place = |length: usize| {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            let place = if index < 0 { length.saturating_add(index) } else { index };
            usize::try_from(place).map_err(|_| format!("there is no place {index}"))
        };
        let none = || format!("there is no place {index}");
        match self {
            Value::List(values) => values.get(place(values.len())?).cloned().ok_or_else(none),
            Value::Text(text) => {
                let place = place(text.chars().count())?;
                text.chars().nth(place).map(|char| Value::Text(char.to_string())).ok_or_else(none)
            }
            other => Err(format!("{other} has no places")),
        }
    }

    fn same(&self, other: &Value) -> bool {
        match (self.float(), other.float()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }

    fn order(&self, other: &Value) -> Result<Ordering, String> {
        let order = match (self, other) {
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            _ => self.float().zip(other.float()).and_then(|(a, b)| a.partial_cmp(&b)),
        };
        order.ok_or_else(|| format!("{self} and {other} have no order"))
    }
}

impl Binary {
    pub(super) fn apply(self, a: &Value, b: &Value) -> Result<Value, String> {
        let bool = |value| Ok(Value::Bool(value));
        match self {
            Binary::Equal => bool(a.same(b)),
            Binary::Unequal => bool(!a.same(b)),
            Binary::Less => bool(a.order(b)?.is_lt()),
            Binary::LessOrEqual => bool(a.order(b)?.is_le()),
            Binary::More => bool(a.order(b)?.is_gt()),
            Binary::MoreOrEqual => bool(a.order(b)?.is_ge()),
            Binary::In | Binary::NotIn => {
                let Value::List(values) = b else { return Err(format!("{b} is no list")) };
                bool(values.iter().any(|value| value.same(a)) == (self == Binary::In))
            }
            Binary::Matches => {
                let regex = Regex::new(b.text()?).map_err(|error| error.to_string())?;
                bool(regex.is_match(a.text()?))
            }
            Binary::Contains => bool(a.text()?.contains(b.text()?)),
            Binary::StartsWith => bool(a.text()?.starts_with(b.text()?)),
            Binary::EndsWith => bool(a.text()?.ends_with(b.text()?)),
            Binary::Range => {
                let (from, to) = (a.int()?, b.int()?);
                if to.saturating_sub(from) > RANGE_MAX {
                    return Err(format!("more than {RANGE_MAX} numbers"));
                }
                Ok(Value::List((from..=to).map(Value::Int).collect()))
            }
            _ => self.calculate(a, b),
        }
    }

    fn calculate(self, a: &Value, b: &Value) -> Result<Value, String> {
        if let (Binary::Add, Value::Text(a), Value::Text(b)) = (self, a, b) {
            return match a.len() + b.len() <= TEXT_BYTES_MAX {
                true => Ok(Value::Text(format!("{a}{b}"))),
                false => Err("too long a text".into()),
            };
        }
        if let (Value::Int(a), Value::Int(b)) = (a, b) {
            let whole = match self {
                Binary::Add => Some(a.checked_add(*b)),
                Binary::Subtract => Some(a.checked_sub(*b)),
                Binary::Multiply => Some(a.checked_mul(*b)),
                Binary::Remainder => Some(a.checked_rem(*b)),
                _ => None,
            };
            if let Some(whole) = whole {
                return whole
                    .map(Value::Int)
                    .ok_or_else(|| "too large a number, or a division by zero".into());
            }
        }
        let Some((x, y)) = a.float().zip(b.float()) else {
            return Err(format!("{a} and {b} cannot be calculated with"));
        };
        Ok(Value::Float(match self {
            Binary::Add => x + y,
            Binary::Subtract => x - y,
            Binary::Multiply => x * y,
            // Division is never whole in this language.
            Binary::Divide => x / y,
            Binary::Power => x.powf(y),
            _ => return Err(format!("{a} and {b} are not whole numbers")),
        }))
    }
}
