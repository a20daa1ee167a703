//! Words and lines of a zone file: quotes, escapes, comments, and parentheses that join lines.

use std::borrow::Cow;
use std::fmt;

/// A line has so many words at most, however many lines of the file its parentheses join.
const WORDS_MAX: usize = 65_536;

/// A word as it stands in the file, escapes and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    bytes: Vec<u8>,
    /// It stood in quotes.
    pub(super) quoted: bool,
}

impl Word {
    pub(super) fn of(text: &str) -> Word {
        Word { bytes: text.as_bytes().to_vec(), quoted: false }
    }

    /// Its text, with its escapes.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Whether it is this word, in any case, and not in quotes.
    pub(super) fn is_plain(&self, text: &str) -> bool {
        !self.quoted && self.bytes.eq_ignore_ascii_case(text.as_bytes())
    }

    pub(super) fn starts_with(&self, byte: u8) -> bool {
        !self.quoted && self.bytes.first() == Some(&byte)
    }

    /// Its bytes, with escapes resolved.
    pub(super) fn unescaped(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut bytes = self.bytes.iter().copied();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            let bad = || self.wrong("a backslash with neither a character nor three digits behind it");
            let first = bytes.next().ok_or_else(bad)?;
            if !first.is_ascii_digit() {
                out.push(first);
                continue;
            }
            let mut number = u16::from(first - b'0');
            for _ in 0..2 {
                let digit = bytes.next().filter(u8::is_ascii_digit).ok_or_else(bad)?;
                number = number * 10 + u16::from(digit - b'0');
            }
            out.push(u8::try_from(number).map_err(|_| bad())?);
        }
        Ok(out)
    }

    /// What is wrong with it.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> String {
        format!("{:?}: {what}", self.text())
    }
}

/// An entry.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) words: Vec<Word>,
    /// It begins with a blank: its owner is that of the line before.
    pub(super) indented: bool,
    /// Where it begins.
    pub(super) number: u32,
}

/// The lines of a text.
pub(super) struct Lexer<'t> {
    bytes: &'t [u8],
    at: usize,
    line: u32,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Lexer<'t> {
        Lexer { bytes: text.as_bytes(), at: 0, line: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    /// The next line that has words, or what is wrong and where.
    pub(super) fn line(&mut self) -> Result<Option<Line>, (u32, &'static str)> {
        let mut words = Vec::new();
        let mut depth = 0_u32;
        let mut indented = matches!(self.peek(), Some(b' ' | b'\t'));
        let mut number = self.line;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.next();
                    if depth == 0 {
                        if !words.is_empty() {
                            return Ok(Some(Line { words, indented, number }));
                        }
                        indented = matches!(self.peek(), Some(b' ' | b'\t'));
                        number = self.line;
                    }
                }
                b' ' | b'\t' | b'\r' => {
                    self.next();
                }
                b';' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.next();
                    }
                }
                b'(' => {
                    self.next();
                    depth += 1;
                }
                b')' => {
                    self.next();
                    depth =
                        depth.checked_sub(1).ok_or((self.line, "a parenthesis closes that never opened"))?;
                }
                b'"' => words.push(self.quoted()?),
                _ => words.push(self.word()),
            }
            if words.len() > WORDS_MAX {
                return Err((number, "too many words in one line"));
            }
        }
        match (depth, words.is_empty()) {
            (0, true) => Ok(None),
            (0, false) => Ok(Some(Line { words, indented, number })),
            _ => Err((number, "a parenthesis opens that never closes")),
        }
    }

    fn quoted(&mut self) -> Result<Word, (u32, &'static str)> {
        let line = self.line;
        self.next();
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                None => return Err((line, "a quote opens that never closes")),
                Some(b'"') => return Ok(Word { bytes, quoted: true }),
                Some(b'\\') => {
                    bytes.push(b'\\');
                    bytes.extend(self.next());
                }
                Some(byte) => bytes.push(byte),
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut bytes = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"' => break,
                b'\\' => {
                    self.next();
                    bytes.push(b'\\');
                    // Whatever it is, it belongs to the word, but for the end of the line.
                    if self.peek().is_some_and(|byte| byte != b'\n') {
                        bytes.extend(self.next());
                    }
                }
                byte => {
                    self.next();
                    bytes.push(byte);
                }
            }
        }
        Word { bytes, quoted: false }
    }
}
