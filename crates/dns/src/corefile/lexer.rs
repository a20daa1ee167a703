//! Text to words: whitespace parts them, quotes keep them together, `#` begins a remark.

use super::Word;
use std::sync::Arc;

/// A word as it stands in a file.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) word: Word,
    /// It is the first on its line.
    pub(super) starts_line: bool,
    /// It stood in quotes, so a brace in it is no brace.
    pub(super) quoted: bool,
}

impl Token {
    pub(super) fn is(&self, brace: &str) -> bool {
        !self.quoted && self.word.text == brace
    }
}

/// All words of a text. A quote that is never closed reaches to the end.
pub(super) fn tokens(file: &Arc<str>, text: &str) -> Vec<Token> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lexer = Lexer { file, chars: text.chars().peekable(), line: 1, tokens: Vec::new(), fresh: true };
    lexer.run();
    lexer.tokens
}

struct Lexer<'t> {
    file: &'t Arc<str>,
    chars: std::iter::Peekable<std::str::Chars<'t>>,
    line: u32,
    tokens: Vec<Token>,
    /// No word has come on this line yet.
    fresh: bool,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(char) = self.chars.next() {
            match char {
                '\n' => {
                    self.line += 1;
                    self.fresh = true;
                }
                char if char.is_whitespace() => {}
                '#' => while self.chars.next_if(|char| *char != '\n').is_some() {},
                '"' => self.quoted(),
                char => self.plain(char),
            }
        }
    }

    /// Only a quote can be hidden from its meaning, by a backslash; all other backslashes stay.
    fn quoted(&mut self) {
        let line = self.line;
        let mut text = String::new();
        let mut escaped = false;
        for char in self.chars.by_ref() {
            if char == '\n' {
                self.line += 1;
            }
            match char {
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                '"' if !escaped => break,
                '"' => text.push('"'),
                char if escaped => text.extend(['\\', char]),
                char => text.push(char),
            }
            escaped = false;
        }
        self.push(text, line, true);
    }

    fn plain(&mut self, first: char) {
        let mut text = String::from(first);
        // As in CoreDNS, a remark begins anywhere, also within a word.
        while let Some(char) = self.chars.next_if(|char| !char.is_whitespace() && *char != '#') {
            text.push(char);
        }
        self.push(text, self.line, false);
    }

    fn push(&mut self, text: String, line: u32, quoted: bool) {
        let word = Word { text, file: self.file.clone(), line };
        self.tokens.push(Token { word, starts_line: self.fresh, quoted });
        self.fresh = false;
    }
}
