//! Label selectors as `kubectl -l` and the Corefile write them: `app=web,tier in (a,b),!old`.

use std::fmt;

/// What labels must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// Nothing but that the label is there, where it is `None`.
    values: Option<Vec<String>>,
    /// The opposite.
    not: bool,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no label selector: {}", self.0)
    }
}

impl std::error::Error for SelectorError {}

impl Selector {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            // A comma within parentheses parts values.
            let mut depth = 0_u32;
            let end = rest.find(|char| {
                match char {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                char == ',' && depth == 0
            });
            let (one, after) = match end {
                Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
                None => (rest, ""),
            };
            requirements.push(requirement(one.trim())?);
            rest = after.trim();
        }
        Ok(Selector(requirements))
    }

    /// Whether labels are so; `label` finds one by its key.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|requirement| {
            let label = label(&requirement.key);
            let met = match &requirement.values {
                None => label.is_some(),
                Some(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
            };
            met != requirement.not
        })
    }
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let fail = || SelectorError(format!("{text:?}"));
    let made = |key: &str, values: Option<Vec<String>>, not| {
        let key = key.trim();
        let word = |word: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            word.bytes().all(inner) && word.len() <= 317
        };
        let good = !key.is_empty() && word(key) && values.iter().flatten().all(|value| word(value));
        good.then(|| Requirement { key: key.to_owned(), values, not }).ok_or_else(fail)
    };
    let listed = |values: &str| -> Option<Vec<String>> {
        let inner = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, Some(vec![value.trim().to_owned()]), true);
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, Some(vec![value.trim().to_owned()]), false);
    }
    if let Some(key) = text.strip_prefix('!') {
        return made(key, None, true);
    }
    for (word, not) in [(" notin ", true), (" in ", false)] {
        let spaced = text.replacen('(', " (", 1);
        if let Some((key, values)) = spaced.split_once(word) {
            return made(key, Some(listed(values).ok_or_else(fail)?), not);
        }
    }
    made(text, None, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let label =
            |key: &str| [("app", "web"), ("tier", "a")].into_iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app = web , tier != b", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (api, web)", true),
            ("app in(api,web),tier notin (b)", true),
            ("app notin (web)", false),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("other", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(label), want, "{text:?}");
        }
        for text in [",", "a b", "a in b", "=x", "a in (b", "!"] {
            assert!(Selector::parse(text).is_err(), "{text:?}");
        }
    }
}
