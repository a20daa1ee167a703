//! User data: what a creator writes on tables, chains, rules and sets, which the kernel keeps and
//! never reads. In `nft`'s format (type, length, value, a byte each for the first two), so that
//! our comments show in `nft list` and our sets print with their types.

use super::set::{Datatype, Set, SetData};

/// The kernel keeps this much on one object (`NFT_USERDATA_MAXLEN`).
pub const USERDATA_MAX: usize = 256;
/// The longest comment, so that it fits with all else we write on a set.
pub const COMMENT_MAX: usize = 128;

const COMMENT: u8 = 0;
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_DATA_BYTE_ORDER: u8 = 1;
const SET_COMMENT: u8 = 7;

/// A comment on a table, a chain or a rule, cut at [`COMMENT_MAX`] bytes and at a NUL.
pub fn comment(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 3);
    put_text(&mut bytes, COMMENT, text);
    bytes
}

/// The comment on a table, a chain or a rule.
pub fn read_comment(userdata: &[u8]) -> Option<&str> {
    read_text(userdata, COMMENT)
}

/// The comment on a set.
pub fn read_set_comment(userdata: &[u8]) -> Option<&str> {
    read_text(userdata, SET_COMMENT)
}

/// What is written on a set: the byte orders, as `nft` does, and the comment.
pub(super) fn of_set(set: &Set<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_number(&mut bytes, SET_KEY_BYTE_ORDER, byte_order(set.key));
    match set.data {
        None => {}
        Some(SetData::Value(parts)) => put_number(&mut bytes, SET_DATA_BYTE_ORDER, byte_order(parts)),
        Some(SetData::Verdict) => put_number(&mut bytes, SET_DATA_BYTE_ORDER, 0),
    }
    if let Some(text) = set.comment {
        put_text(&mut bytes, SET_COMMENT, text);
    }
    bytes
}

/// A concatenation has no byte order of its own.
fn byte_order(parts: &[Datatype]) -> u32 {
    match parts {
        [one] => one.byte_order(),
        _ => 0,
    }
}

fn put_number(bytes: &mut Vec<u8>, kind: u8, number: u32) {
    bytes.extend_from_slice(&[kind, 4]);
    bytes.extend_from_slice(&number.to_ne_bytes());
}

fn put_text(bytes: &mut Vec<u8>, kind: u8, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    let text = (0..=COMMENT_MAX).rev().find_map(|end| text.get(..end)).unwrap_or(text);
    // Fits: cut just above, and the NUL is one more.
    bytes.extend_from_slice(&[kind, (text.len() + 1) as u8]);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

fn read_text(mut userdata: &[u8], wanted: u8) -> Option<&str> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == wanted {
            let text = value.split(|byte| *byte == 0).next()?;
            return std::str::from_utf8(text).ok();
        }
        userdata = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments() {
        assert_eq!(comment("ab"), [0, 3, b'a', b'b', 0]);
        assert_eq!(read_comment(&comment("Portolan")), Some("Portolan"));
        assert_eq!(read_comment(&comment(&"ü".repeat(100))).map(str::len), Some(COMMENT_MAX));
        assert_eq!(read_comment(&comment("a\0b")), Some("a"));
        let key = [Datatype::Mark];
        let set = of_set(&Set { comment: Some("ours"), ..Set::new("s", &key) });
        assert_eq!(set[..6], [0, 4, 1, 0, 0, 0]);
        assert_eq!(read_set_comment(&set), Some("ours"));
    }

    #[test]
    fn damaged_userdata_has_no_comment() {
        for damaged in [&[][..], &[0], &[0, 9, b'a'], &[7, 0], &[0, 1, 0xff]] {
            assert_eq!(read_comment(damaged), None, "{damaged:?}");
        }
    }
}
