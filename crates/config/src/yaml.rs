//! JSON values as YAML, in blocks, fields by the alphabet, as Kubernetes' tools write it.

use serde_json::Value;
use std::fmt::Write;

/// Writes a value.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

/// A value on lines of its own.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            for name in names {
                let value = fields.get(name).unwrap_or(&Value::Null);
                push(out, format_args!("{:indent$}{}:", "", scalar(name)));
                // Kubernetes does not indent the items of a list.
                behind(out, value, if value.is_array() { indent } else { indent + 2 });
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                push(out, format_args!("{:indent$}-", ""));
                behind(out, item, indent + 2);
            }
        }
        value => push(out, format_args!("{:indent$}{}\n", "", flow(value))),
    }
}

/// A value behind `name:` or `-`, on the same line where it fits.
fn behind(out: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(out, value, indent);
    } else {
        push(out, format_args!(" {}\n", flow(value)));
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        // Numbers, true, null and what is empty are the same in both languages.
        other => other.to_string(),
    }
}

/// A string, in quotes unless it could not possibly be anything else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "./_-:".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && !is_word_of_yaml(text);
    // Numbers have neither three dots, as addresses do, nor an s at their end, as durations do.
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    let is_no_number = begins && (text.matches('.').count() == 3 || text.ends_with('s'));
    if (is_word || is_no_number) && text.chars().all(plain) && !text.ends_with(':') {
        return text.to_owned();
    }
    // JSON's quoted strings are YAML's, but for characters that YAML wants escaped.
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            ' '..='~' => quoted.push(c),
            c if u32::from(c) <= 0xffff => push(&mut quoted, format_args!("\\u{:04x}", u32::from(c))),
            c => push(&mut quoted, format_args!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

fn is_word_of_yaml(text: &str) -> bool {
    ["null", "true", "false", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(arguments).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn blocks() {
        let value = json!({
            "b": {"text": "plain", "empty": "", "number": 5, "none": null, "list": ["10.0.0.0/8", {"x": true}], "map": {}},
            "a": ["yes", "true", "0", "0s", "1.5", "a: b", "# no", "fd00::1", "0.0.0.0:10256", "[::]:1", "\u{e9}\n"],
        });
        let want = concat!(
            "a:\n- \"yes\"\n- \"true\"\n- \"0\"\n- 0s\n- \"1.5\"\n- \"a: b\"\n- \"# no\"\n- fd00::1\n",
            "- 0.0.0.0:10256\n- \"[::]:1\"\n- \"\\u00e9\\u000a\"\n",
            "b:\n  empty: \"\"\n  list:\n  - 10.0.0.0/8\n  -\n    x: true\n  map: {}\n  none: null\n  number: 5\n  text: plain\n",
        );
        assert_eq!(write(&value), want);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~]{0,6}|[a-zA-Z.:/0-9_-]{0,6}|\\PC{0,3}|null|true|yes|on|0x1f|1e3|~|.inf"
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ -~]{0,4}|[a-z]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn read_again(value in value()) {
            let text = write(&value);
            let read: Value = serde_saphyr::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
