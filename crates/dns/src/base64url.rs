//! Base64 with the letters for addresses and without padding (RFC 4648 5), as DNS over HTTPS wants it.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            let index = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(DIGITS.get(index).copied().map_or('A', char::from));
        }
    }
    text
}

/// The bytes that a text stands for, if it does.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for digit in four {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        // One digit alone is less than a byte.
        let count = four.len().checked_sub(1).filter(|count| *count > 0)?;
        let [_, all @ ..] = (word << (6 * (4 - four.len()))).to_be_bytes();
        bytes.extend_from_slice(all.get(..count)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xff\xfe\xfd", "__79")]
        {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes));
        }
        for text in ["A", "Zm9vA", "Zg==", "Zm+v", "Zm/v", "Z g"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
