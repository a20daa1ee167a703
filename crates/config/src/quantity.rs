//! Quantities as Kubernetes writes them: `64Mi`, `1500m`, `1e3`. Kept in their author's spelling.

use std::fmt;
use std::str::FromStr;

/// A quantity. Nothing of ours depends on one, so it is only checked and handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(String);

impl Default for Quantity {
    fn default() -> Self {
        Quantity("0".into())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAQuantity {
    text: String,
}

impl fmt::Display for NotAQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a quantity such as 64Mi", self.text)
    }
}

impl std::error::Error for NotAQuantity {}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let number = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let (number, suffix) = number.split_at(end);
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        let good = digits > 0 && number.len() - digits <= 1 && is_suffix(suffix);
        good.then(|| Quantity(text.to_owned())).ok_or_else(|| NotAQuantity { text: text.to_owned() })
    }
}

fn is_suffix(text: &str) -> bool {
    let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let exponent = text.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    units.contains(&text)
        || exponent.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for text in ["0", "64Mi", "1500m", "1e3", "1E-3", "-2.5G", ".5", "5.", "+1", "1E"] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), text);
        }
        for text in ["", "Mi", "1 Mi", "1mi", "1.2.3", ".", "1e", "1e+", "0x10", "1KiB"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
