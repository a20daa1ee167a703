//! Words to server blocks: braces, snippets, imports and the environment.

use super::lexer::{Token, tokens};
use super::{Block, Error, Line, Surroundings, Word};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So often may snippets be imported, and so often files, before it is taken for a circle.
const SNIPPET_IMPORTS_MAX: u32 = 10_000;
const FILE_IMPORTS_MAX: u32 = 10_000;
/// So many words may come out of imports: snippets that import each other twice double each time.
const WORDS_MAX: usize = 1_000_000;
/// Blocks within blocks, so deep.
const DEPTH_MAX: u32 = 32;

pub(super) struct Parser<'s> {
    surroundings: &'s dyn Surroundings,
    /// The words to come, the next one last.
    rest: Vec<Token>,
    snippets: HashMap<String, Vec<Token>>,
    snippet_imports: u32,
    file_imports: u32,
    words: usize,
    /// The last word that was taken, for errors at the end.
    last: Word,
}

impl<'s> Parser<'s> {
    pub(super) fn new(name: &str, text: &str, surroundings: &'s dyn Surroundings) -> Parser<'s> {
        let file: Arc<str> = name.into();
        let mut rest = tokens(&file, text);
        rest.reverse();
        let last = Word { text: String::new(), file, line: 0 };
        let words = rest.len();
        let snippets = HashMap::new();
        Parser { surroundings, rest, snippets, snippet_imports: 0, file_imports: 0, words, last }
    }

    pub(super) fn parse(mut self) -> Result<Vec<Block>, Error> {
        let mut blocks = Vec::new();
        while !self.rest.is_empty() {
            let keys = self.keys()?;
            let braces = self.next_if(|token| token.is("{"));
            let snippet = match keys.as_slice() {
                [key] => {
                    key.strip_prefix('(').and_then(|name| name.strip_suffix(')')).map(|name| (key, name))
                }
                _ => None,
            };
            match (snippet, braces) {
                (Some((key, name)), true) => self.snippet(key, name)?,
                (Some((key, _)), false) => return Err(key.error("a snippet wants braces")),
                (None, _) if keys.is_empty() && !braces => {}
                (None, _) if keys.is_empty() => return Err(self.last.error("a server block without a zone")),
                (None, braces) => {
                    // Without braces there is one block, and all of the file is its contents.
                    let lines = self.lines(braces, 0)?;
                    blocks.push(Block { keys, lines });
                }
            }
        }
        Ok(blocks)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.rest.pop()?;
        self.last = token.word.clone();
        Some(token)
    }

    fn next_if(&mut self, wanted: impl Fn(&Token) -> bool) -> bool {
        let found = self.rest.last().is_some_and(wanted);
        if found {
            self.next();
        }
        found
    }

    /// The keys of a block: words up to a brace, or to the end of the line unless a comma stands there.
    fn keys(&mut self) -> Result<Vec<Word>, Error> {
        let mut keys: Vec<Word> = Vec::new();
        let mut comma = false;
        while let Some(token) = self.rest.last() {
            if token.is("{") {
                if comma {
                    return Err(token.word.error("a zone was expected behind the comma"));
                }
                break;
            }
            if token.starts_line && !comma && !keys.is_empty() {
                break;
            }
            if token.starts_line && token.is("import") {
                self.import()?;
                continue;
            }
            if token.is("}") {
                return Err(token.word.error("no block is open here"));
            }
            let Some(Token { mut word, .. }) = self.next() else { break };
            word.text = self.with_variables(&word.text);
            // `a,b` is one key in CoreDNS, and no zone; `a, b` and `a b` are two.
            comma = word.text.ends_with(',');
            if comma {
                word.text.pop();
            }
            if !word.text.is_empty() {
                keys.push(word);
            }
        }
        if comma {
            return Err(self.last.error("a zone was expected behind the comma"));
        }
        Ok(keys)
    }

    /// Keeps what stands in the braces of a snippet.
    fn snippet(&mut self, key: &Word, name: &str) -> Result<(), Error> {
        let mut body = Vec::new();
        let mut depth = 1_usize;
        loop {
            let Some(token) = self.next() else { return Err(key.error("its brace is never closed")) };
            if token.is("{") {
                depth += 1;
            } else if token.is("}") {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            body.push(token);
        }
        match self.snippets.insert(name.to_owned(), body) {
            Some(_) => Err(key.error("a second snippet of this name")),
            None => Ok(()),
        }
    }

    /// The lines up to the closing brace, or to the end.
    fn lines(&mut self, braces: bool, depth: u32) -> Result<Vec<Line>, Error> {
        let opened = self.last.clone();
        let mut lines = Vec::new();
        loop {
            let Some(token) = self.rest.last() else {
                return if braces { Err(opened.error("this block is never closed")) } else { Ok(lines) };
            };
            if token.is("}") {
                if !braces {
                    return Err(token.word.error("no block is open here"));
                }
                self.next();
                return Ok(lines);
            }
            if token.is("{") {
                return Err(token.word.error("a brace with nothing before it"));
            }
            if token.is("import") {
                self.import()?;
                continue;
            }
            lines.push(self.line(depth)?);
        }
    }

    /// One line, and the block at its end.
    fn line(&mut self, depth: u32) -> Result<Line, Error> {
        let mut words = Vec::new();
        let mut block = Vec::new();
        while let Some(token) = self.rest.last() {
            if token.starts_line && !words.is_empty() || token.is("}") {
                break;
            }
            let Some(token) = self.next() else { break };
            if token.is("{") {
                if depth == DEPTH_MAX {
                    return Err(token
                        .word
                        .error(format_args!("more than {DEPTH_MAX} blocks within each other")));
                }
                block = self.lines(true, depth + 1)?;
                break;
            }
            let mut word = token.word;
            word.text = self.with_variables(&word.text);
            words.push(word);
        }
        let mut words = words.into_iter();
        let Some(name) = words.next() else { return Err(self.last.error("a word was expected")) };
        Ok(Line { name, args: words.collect(), block })
    }

    /// Puts what is imported in the place of the import.
    fn import(&mut self) -> Result<(), Error> {
        let Some(import) = self.next() else { return Ok(()) };
        let Some(what) = self.rest.last().filter(|token| !token.starts_line && !token.is("}")).cloned()
        else {
            return Err(import.word.error("takes a file, a pattern or a snippet"));
        };
        self.next();
        if let Some(extra) = self.rest.last().filter(|token| !token.starts_line && !token.is("}")) {
            return Err(extra.word.error("import takes one argument"));
        }
        let name = self.with_variables(&what.word.text);
        let mut imported = match self.snippets.get(&name) {
            Some(snippet) => {
                self.snippet_imports += 1;
                if self.snippet_imports > SNIPPET_IMPORTS_MAX {
                    let what_is = format_args!("more than {SNIPPET_IMPORTS_MAX} imports of snippets");
                    return Err(what.word.error(what_is));
                }
                snippet.clone()
            }
            None => self.files(&what.word, &name)?,
        };
        self.words += imported.len();
        if self.words > WORDS_MAX {
            return Err(what.word.error(format_args!("more than {WORDS_MAX} words come out of imports")));
        }
        // What is imported begins on a line of its own, as the import did.
        if let Some(first) = imported.first_mut() {
            first.starts_line = true;
        }
        self.rest.extend(imported.into_iter().rev());
        Ok(())
    }

    fn files(&mut self, word: &Word, pattern: &str) -> Result<Vec<Token>, Error> {
        if pattern.is_empty() {
            return Err(word.error("import takes a file, a pattern or a snippet"));
        }
        self.file_imports += 1;
        if self.file_imports > FILE_IMPORTS_MAX {
            return Err(word.error(format_args!("more than {FILE_IMPORTS_MAX} imports of files")));
        }
        let beside = Path::new(&*word.file).parent().unwrap_or(Path::new(""));
        let path: PathBuf = beside.join(pattern);
        let is_pattern = pattern.contains(['*', '?', '[']);
        if pattern.matches('*').count() > 1 || pattern.matches('?').count() > 1 || pattern.contains('[') {
            return Err(word.error("a pattern may have one wildcard only"));
        }
        let failed = |path: &Path, error| word.error(format_args!("read {}: {error}", path.display()));
        let found = match is_pattern {
            true => self.surroundings.find(&path).map_err(|error| failed(&path, error))?,
            false => vec![path],
        };
        let mut imported = Vec::new();
        for path in found {
            let text = self.surroundings.read(&path).map_err(|error| failed(&path, error))?;
            imported.extend(tokens(&path.to_string_lossy().into(), &text));
        }
        Ok(imported)
    }

    /// Puts the environment's variables in: `{$NAME}` and `{%NAME%}`. What they hold is not looked
    /// through again.
    fn with_variables(&self, text: &str) -> String {
        if !text.contains("{$") && !text.contains("{%") {
            return text.to_owned();
        }
        let mut done = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("{$").into_iter().chain(rest.find("{%")).min() {
            let (before, from) = rest.split_at(at);
            let close = if from.starts_with("{$") { "}" } else { "%}" };
            let name =
                from.get(2..).and_then(|inner| inner.split_once(close)).filter(|(name, _)| !name.is_empty());
            done.push_str(before);
            match name {
                Some((name, after)) => {
                    done.push_str(&self.surroundings.variable(name).unwrap_or_default());
                    rest = after;
                }
                None => {
                    done.push('{');
                    rest = from.get(1..).unwrap_or_default();
                }
            }
        }
        done + rest
    }
}
