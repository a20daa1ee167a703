//! The functions that templates may call, as Go has them.

use crate::expression::Value;
use std::cmp::Ordering;

/// Their names.
pub(super) const FUNCTIONS: &[&str] =
    &["and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "print", "printf", "parseInt"];

/// What Go takes for true: what is not empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Nil => false,
        Value::Bool(value) => *value,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::List(values) => !values.is_empty(),
    }
}

/// Calls the function of a name.
pub(super) fn function(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let bool = |value| Ok(Value::Bool(value));
    match (name, arguments) {
        ("and", [.., last]) => Ok(arguments.iter().find(|value| !is_true(value)).unwrap_or(last).clone()),
        ("or", [.., last]) => Ok(arguments.iter().find(|value| is_true(value)).unwrap_or(last).clone()),
        ("not", [value]) => bool(!is_true(value)),
        ("eq", [value, rest @ ..]) if !rest.is_empty() => bool(rest.contains(value)),
        ("ne", [a, b]) => bool(a != b),
        ("lt", [a, b]) => bool(order(a, b)?.is_lt()),
        ("le", [a, b]) => bool(order(a, b)?.is_le()),
        ("gt", [a, b]) => bool(order(a, b)?.is_gt()),
        ("ge", [a, b]) => bool(order(a, b)?.is_ge()),
        ("len", [Value::Text(text)]) => Ok(Value::Int(i64::try_from(text.len()).unwrap_or(i64::MAX))),
        ("len", [Value::List(values)]) => Ok(Value::Int(i64::try_from(values.len()).unwrap_or(i64::MAX))),
        ("index", [Value::List(values), Value::Int(at)]) => {
            let found = usize::try_from(*at).ok().and_then(|at| values.get(at));
            found.cloned().ok_or_else(|| format!("there is no place {at}"))
        }
        ("index", [Value::Text(text), Value::Int(at)]) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            found.map(|byte| Value::Int(i64::from(*byte))).ok_or_else(|| format!("there is no place {at}"))
        }
        ("print", values) => Ok(Value::Text(values.iter().map(Value::to_string).collect())),
        ("printf", [Value::Text(format), values @ ..]) => printf(format, values).map(Value::Text),
        ("parseInt", [Value::Text(text), Value::Int(base), Value::Int(bits)]) => {
            let base = u32::try_from(*base)
                .ok()
                .filter(|base| (2..=36).contains(base))
                .ok_or("a base of 2 to 36")?;
            let number = u64::from_str_radix(text, base).map_err(|_| format!("{text:?} is no number"))?;
            let fits = *bits <= 0 || *bits >= 64 || number < 1 << bits;
            let number = i64::try_from(number).ok().filter(|_| fits);
            number.map(Value::Int).ok_or_else(|| format!("{text:?} is too large"))
        }
        _ => Err(format!("{name} does not take these arguments")),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err(format!("{a} and {b} have no order")),
    }
}

/// `%s %v %d %x %X %o %b %c %q %%`, with a width and zeros before.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let zero = chars.next_if_eq(&'0').is_some();
        let mut width = 0_usize;
        while let Some(digit) = chars.peek().and_then(|char| char.to_digit(10)) {
            width = (width * 10 + digit as usize).min(256);
            chars.next();
        }
        let verb = chars.next().ok_or("a % at the end")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or("too few arguments for printf")?;
        let text = match (verb, value) {
            ('s' | 'v', value) => value.to_string(),
            ('d', Value::Int(number)) => number.to_string(),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('X', Value::Int(number)) => format!("{number:X}"),
            ('o', Value::Int(number)) => format!("{number:o}"),
            ('b', Value::Int(number)) => format!("{number:b}"),
            ('c', Value::Int(number)) => {
                u32::try_from(*number).ok().and_then(char::from_u32).map(String::from).unwrap_or_default()
            }
            ('q', value) => format!("{:?}", value.to_string()),
            _ => return Err(format!("%{verb} does not fit {value}")),
        };
        let missing = width.saturating_sub(text.chars().count());
        out.extend(std::iter::repeat_n(if zero { '0' } else { ' ' }, missing));
        out.push_str(&text);
    }
    Ok(out)
}
