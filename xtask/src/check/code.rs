//! Rust source as the checks see it: comments and literals blanked, lines kept. Not a parser; it
//! knows just enough to tell a word of the program from a word about it.

/// One line's position and a path that is named there, `std::fs::read`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) line: usize,
    pub(super) path: String,
}

/// `source` with comments, strings and characters replaced by spaces, length of lines kept.
pub(super) fn blanked(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        let length = literal_length(&chars, at);
        if length == 0 {
            out.push(char);
            at += 1;
        } else {
            let covered = chars.get(at..at + length).unwrap_or_default();
            out.extend(covered.iter().map(|char| if *char == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    out
}

/// Source before its inline test module, if it ends in one.
pub(super) fn without_tests(source: &str) -> &str {
    source.find("\n#[cfg(test)]\nmod ").map_or(source, |end| source.get(..end + 1).unwrap_or(source))
}

/// Every path and lone identifier of blanked source; `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(super) fn mentions(blanked: &str) -> Vec<Mention> {
    let mut mentions = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut line = 1;
    let mut words = words(blanked).into_iter().peekable();
    while let Some(word) = words.next() {
        match word {
            "\n" => line += 1,
            "::" => path.push_str("::"),
            "{" if path.ends_with("::") => prefixes.push(std::mem::take(&mut path)),
            "}" if !prefixes.is_empty() => {
                prefixes.pop();
                path.clear();
            }
            word if word.starts_with(|char: char| char.is_alphanumeric() || char == '_') => {
                path.push_str(word);
                if words.peek() != Some(&"::") {
                    mentions.push(Mention { line, path: prefixes.concat() + &path });
                    path.clear();
                }
            }
            _ => path.clear(),
        }
    }
    mentions
}

/// Identifiers, `::`, line ends and single other characters.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let length = if is_word(first) {
            rest.find(|char| !is_word(char)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(length);
        if word == "\n" || !word.trim().is_empty() {
            words.push(word);
        }
        rest = after;
    }
    words
}

/// Length of the comment, string or character that begins at `at`; 0 where none does.
fn literal_length(chars: &[char], at: usize) -> usize {
    let rest = chars.get(at..).unwrap_or_default();
    match rest {
        ['/', '/', ..] => rest.iter().position(|char| *char == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => 1 + escaped_length(rest.get(1..).unwrap_or_default(), '"'),
        ['r', '"' | '#', ..] if !after_word(chars, at) => raw_string_length(rest),
        ['b', 'r', '"' | '#', ..] if !after_word(chars, at) => {
            match raw_string_length(rest.get(1..).unwrap_or_default()) {
                0 => 0,
                length => length + 1,
            }
        }
        // A lifetime has no closing quote two characters on.
        ['\'', '\\', ..] => 1 + escaped_length(rest.get(1..).unwrap_or_default(), '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn after_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| chars.get(before));
    before.is_some_and(|char| char.is_alphanumeric() || *char == '_')
}

fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest.get(at..) {
            Some(['/', '*', ..]) => (depth, at) = (depth + 1, at + 2),
            Some(['*', '/', ..]) => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Up to and with the `quote` that no backslash hides.
fn escaped_length(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while let Some(&char) = rest.get(at) {
        at += if char == '\\' { 2 } else { 1 };
        if char == quote {
            return at;
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier (`r#type`).
fn raw_string_length(rest: &[char]) -> usize {
    let hashes = rest.iter().skip(1).take_while(|char| **char == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let start = hashes + 2;
    let ends = |at: usize| {
        rest.get(at) == Some(&'"')
            && rest.get(at + 1..at + 1 + hashes).is_some_and(|tail| tail.iter().all(|char| *char == '#'))
    };
    (start..rest.len()).find(|at| ends(*at)).map_or(rest.len(), |end| end + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::{blanked, mentions, without_tests};

    fn paths(source: &str) -> Vec<String> {
        mentions(&blanked(source)).into_iter().map(|mention| mention.path).collect()
    }

    #[test]
    fn words_in_comments_and_literals_are_no_code() {
        let source = "a /* b /* c */ d */ \"e \\\" f\" r#\"g \" h\"# 'i' '\\'' b\"j\" br\"k\" // l\nm<'n>";
        assert_eq!(paths(source), ["a", "b", "m", "n"]);
        assert_eq!(blanked(source).lines().count(), 2);
        assert_eq!(paths("r#type"), ["r", "type"]);
    }

    #[test]
    fn use_trees_are_spread_out() {
        let source = "use std::{fs, net::{IpAddr, TcpStream as T}};\nlet x = std::time::Instant::now();";
        assert_eq!(
            paths(source),
            [
                "use",
                "std::fs",
                "std::net::IpAddr",
                "std::net::TcpStream",
                "std::net::as",
                "std::net::T",
                "let",
                "x",
                "std::time::Instant::now"
            ]
        );
        assert_eq!(mentions(source).last().map(|mention| mention.line), Some(2));
    }

    #[test]
    fn braces_of_blocks_end_no_use_tree() {
        assert_eq!(paths("fn f() { a::b(); } use c::{d};"), ["fn", "f", "a::b", "use", "c::d"]);
    }

    #[test]
    fn the_test_module_is_left_out() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {}"), "a\n");
        assert_eq!(without_tests("a\n#[cfg(test)]\nuse b;\n"), "a\n#[cfg(test)]\nuse b;\n");
    }
}
