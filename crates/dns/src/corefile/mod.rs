//! The Corefile: text to server blocks, each with its keys and its directives as trees of words.
//!
//! The grammar is that of CoreDNS (its fork of Caddy's `caddyfile`), and a little wider: a block may
//! stand on one line. Which directives exist, and what their words mean, is not known here.
//!
//! ```text
//! Corefile ──lexer──> tokens ──parser──> blocks of lines ──keys──> what each block serves
//!                       ↑ import, snippets, {$ENV}
//! ```

mod keys;
mod lexer;
mod parser;

pub use keys::{Key, Scheme, host_and_port, origins};

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One word, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word, without its quotes.
    pub text: String,
    /// The file.
    pub file: Arc<str>,
    /// The line in the file, from 1.
    pub line: u32,
}

impl Word {
    /// An error about this word.
    pub fn error(&self, what: impl fmt::Display) -> Error {
        Error { file: self.file.clone(), line: self.line, what: format!("{:?}: {what}", self.text) }
    }
}

impl std::ops::Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// One line: a word, its arguments, and the block behind them, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first word.
    pub name: Word,
    /// The words behind it.
    pub args: Vec<Word>,
    /// What stands in its braces; empty where there are none.
    pub block: Vec<Line>,
}

impl Line {
    /// An error about the line as a whole.
    pub fn error(&self, what: impl fmt::Display) -> Error {
        self.name.error(what)
    }

    /// The arguments, when there are exactly so many.
    pub fn exactly<const N: usize>(&self) -> Result<[&Word; N], Error> {
        let args: Vec<&Word> = self.args.iter().collect();
        args.try_into().map_err(|args: Vec<&Word>| match args.get(N) {
            Some(extra) => {
                extra.error(format_args!("{} takes {N} arguments, not {}", self.name.text, args.len()))
            }
            None => self.error(format_args!("takes {N} arguments, not {}", args.len())),
        })
    }

    /// An error when there are arguments.
    pub fn no_arguments(&self) -> Result<(), Error> {
        self.exactly::<0>().map(|[]| ())
    }

    /// The arguments, when there is at least one.
    pub fn at_least_one(&self) -> Result<&[Word], Error> {
        match self.args.as_slice() {
            [] => Err(self.error("takes an argument")),
            args => Ok(args),
        }
    }

    /// An error when there is a block.
    pub fn no_block(&self) -> Result<(), Error> {
        match self.block.first() {
            Some(line) => Err(line.error(format_args!("{} has no options", self.name.text))),
            None => Ok(()),
        }
    }

    /// The error for an option that does not exist.
    pub fn unknown_option(&self, plugin: &str) -> Error {
        self.error(format_args!("no option of plugin {plugin}"))
    }
}

/// A server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it serves, as written.
    pub keys: Vec<Word>,
    /// Its directives, in the order of the file.
    pub lines: Vec<Line>,
}

/// What is wrong, and where. It prints as `Corefile:3: "forwrad": no such plugin`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Error {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// What is wrong, the word first.
    pub what: String,
}

/// What the language needs from outside: other files and the environment.
pub trait Surroundings {
    /// The files that a pattern stands for, in order.
    fn find(&self, pattern: &Path) -> std::io::Result<Vec<std::path::PathBuf>>;
    /// The contents of a file.
    fn read(&self, path: &Path) -> std::io::Result<String>;
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Parses a Corefile. `name` is its path, for messages and as the place from which `import` looks.
pub fn parse(name: &str, text: &str, surroundings: &dyn Surroundings) -> Result<Vec<Block>, Error> {
    parser::Parser::new(name, text, surroundings).parse()
}

/// For fuzzing: parses any bytes, alone in the world.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    struct Nothing;
    impl Surroundings for Nothing {
        fn find(&self, _: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
            Ok(Vec::new())
        }
        fn read(&self, _: &Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
        fn variable(&self, name: &str) -> Option<String> {
            // A value that would itself look like a reference must not be looked up again for ever.
            Some(format!("{{${name}}}"))
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for block in parse("Corefile", text, &Nothing).unwrap_or_default() {
        for key in &block.keys {
            let _ = Key::parse(key, 53);
        }
    }
}

#[cfg(test)]
mod tests;
