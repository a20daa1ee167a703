//! The part of Go's `text/template` that records are made with.
//!
//! ```text
//! {{ .Name }}   {{ .Group.host }}   {{ index .Match 1 }}   {{ .Meta "a/b" }}   {{ $x := … }}   {{ $x }}
//! {{ if … }} … {{ else if … }} … {{ else }} … {{ end }}   {{ a | f b }}   {{- trims -}}   {{/* nothing */}}
//! {{ range … }} … {{ else }} … {{ end }}   {{ range $i, $x := … }}   {{ break }}   {{ continue }}   {{ . }}
//! {{ with … }} … {{ else with … }} … {{ else }} … {{ end }}   {{ $ }}   {{ $.Name }}
//! {{ define "x" }} … {{ end }}   {{ template "x" . }}   {{ block "x" . }} … {{ end }}
//! and or not eq ne lt le gt ge   index len print printf parseInt
//! ```
//!
//! What else that language has is an error when the template is read.

use super::functions::{FUNCTIONS, function, is_true};
use crate::expression::Value;
use std::collections::BTreeMap;

/// Actions are no deeper.
const DEPTH_MAX: u32 = 32;
/// No text comes out that is longer: no record is.
const TEXT_BYTES_MAX: usize = 128 * 1024;
/// No more is done for one text.
const STEPS_MAX: u32 = 100_000;

/// A template that has been read.
#[derive(Debug)]
pub(super) struct Template {
    nodes: Vec<Node>,
    /// What `define` and `block` have given names.
    defined: BTreeMap<String, Vec<Node>>,
    /// As it was written.
    pub(super) source: String,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Show(Pipeline),
    Set(String, Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    /// As `If`, with what is not empty as the dot, and perhaps as a variable.
    With(Vec<(Option<String>, Pipeline, Vec<Node>)>, Vec<Node>),
    Range(Box<Range>),
    /// What has this name, with this as the dot.
    Template(String, Option<Pipeline>),
    Break,
    Continue,
}

/// A loop.
#[derive(Debug)]
struct Range {
    /// For the place and what is there, or for the latter only.
    variables: Vec<String>,
    over: Pipeline,
    body: Vec<Node>,
    otherwise: Vec<Node>,
}

/// How a sequence of nodes was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Calls, each of which is given what the one before has made.
#[derive(Debug)]
struct Pipeline(Vec<Vec<Operand>>);

#[derive(Debug)]
enum Operand {
    Value(Value),
    /// `.A.b`; `.` has no parts.
    Field(Vec<String>),
    /// `$.A.b`
    Root(Vec<String>),
    Variable(String),
    Function(String),
    Inner(Pipeline),
}

/// What a template is filled with.
pub(super) trait Data {
    /// A field, by its path; `None` where there is none.
    fn field(&self, path: &[String]) -> Option<Value>;
    /// `.Meta`.
    fn meta(&self, label: &str) -> String;
}

impl Template {
    pub(super) fn parse(source: &str) -> Result<Template, String> {
        let pieces = pieces(source)?;
        let mut reader = Reader { pieces: &pieces, depth: 0, loops: 0, defined: BTreeMap::new() };
        let nodes = reader.nodes()?;
        match reader.pieces.first() {
            None => Ok(Template { nodes, defined: reader.defined, source: source.to_owned() }),
            Some(_) => Err("else or end without if".into()),
        }
    }

    pub(super) fn fill(&self, data: &dyn Data) -> Result<String, String> {
        let mut filling = Filling {
            data,
            defined: &self.defined,
            dot: None,
            root: None,
            variables: BTreeMap::new(),
            out: String::new(),
            steps: 0,
            depth: 0,
        };
        filling.nodes(&self.nodes)?;
        Ok(filling.out)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The words of an action.
    Action(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Value(Value),
    Sign(&'static str),
}

fn pieces(source: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = source;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let trim_before = after.starts_with("- ");
        let mut text = if trim { before.trim_start() } else { before };
        if trim_before {
            text = text.trim_end();
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let after = after.strip_prefix('-').filter(|_| trim_before).unwrap_or(after);
        let end = action_end(after).ok_or("an action opens that never closes")?;
        let (action, after) = after.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        trim = action.ends_with(" -");
        let action = action.strip_suffix('-').filter(|_| trim).unwrap_or(action).trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(action)?));
        }
    }
    let text = if trim { rest.trim_start() } else { rest };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
    Ok(pieces)
}

/// Where the closing braces stand that are in no quotes.
fn action_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, char) in text.char_indices() {
        match (quote, char) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), char) if char == open => quote = None,
            (None, '"' | '`') => quote = Some(char),
            (None, '}') if text.get(at..)?.starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

fn tokens(action: &str) -> Result<Vec<Token>, String> {
    const SIGNS: &[&str] = &[":=", "|", "(", ")", "=", ","];
    let mut tokens = Vec::new();
    let mut rest = action;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
            continue;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
            continue;
        }
        if matches!(first, '"' | '`') {
            let end = rest
                .get(1..)
                .and_then(|inner| quote_end(inner, first))
                .ok_or("a quote opens that never closes")?;
            let inner = rest.get(1..=end).unwrap_or_default();
            let text = if first == '"' { unescaped(inner)? } else { inner.to_owned() };
            tokens.push(Token::Value(Value::Text(text)));
            rest = rest.get(end + 2..).unwrap_or_default();
            continue;
        }
        let end = rest.find(|char: char| char.is_whitespace() || "|()=,\"`".contains(char) || char == ':');
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()).max(first.len_utf8()));
        rest = after;
        tokens.push(match (word.parse::<i64>(), word) {
            (Ok(number), _) => Token::Value(Value::Int(number)),
            (_, "true") => Token::Value(Value::Bool(true)),
            (_, "false") => Token::Value(Value::Bool(false)),
            _ => Token::Word(word.to_owned()),
        });
    }
    Ok(tokens)
}

fn quote_end(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            char if char == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, char == '\\') {
            (char, false) => out.push(char),
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(char @ ('\\' | '"')) => out.push(char),
                _ => return Err("a backslash with nothing that it can stand before".into()),
            },
        }
    }
    Ok(out)
}

struct Reader<'p> {
    pieces: &'p [Piece],
    depth: u32,
    /// Loops around.
    loops: u32,
    defined: BTreeMap<String, Vec<Node>>,
}

fn starts_with(tokens: &[Token], word: &str) -> bool {
    matches!(tokens.first(), Some(Token::Word(first)) if first == word)
}

impl Reader<'_> {
    /// Up to an `else` or `end` that is not theirs.
    fn nodes(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        while let Some((piece, rest)) = self.pieces.split_first() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    self.pieces = rest;
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            if starts_with(tokens, "else") || starts_with(tokens, "end") {
                return Ok(nodes);
            }
            self.pieces = rest;
            if let Some(node) = self.action(tokens)? {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    /// What an action means, with all that belongs to it; nothing for a definition.
    fn action(&mut self, tokens: &[Token]) -> Result<Option<Node>, String> {
        Ok(Some(match tokens {
            [Token::Word(word), condition @ ..] if word == "if" => {
                self.deeper(|inner| inner.condition(condition))?
            }
            [Token::Word(word), value @ ..] if word == "with" => self.deeper(|inner| inner.with(value))?,
            [Token::Word(word), over @ ..] if word == "range" => self.deeper(|inner| inner.range(over))?,
            [Token::Word(word), Token::Value(Value::Text(name))] if word == "define" => {
                self.deeper(|inner| inner.define(name))?;
                return Ok(None);
            }
            [Token::Word(word), Token::Value(Value::Text(name)), dot @ ..] if word == "template" => {
                let dot = if dot.is_empty() { None } else { Some(pipeline(dot)?) };
                Node::Template(name.clone(), dot)
            }
            [Token::Word(word), Token::Value(Value::Text(name)), dot @ ..] if word == "block" => {
                let dot = pipeline(dot)?;
                self.deeper(|inner| inner.define(name))?;
                Node::Template(name.clone(), Some(dot))
            }
            [Token::Word(word), ..] if ["define", "template", "block"].contains(&word.as_str()) => {
                return Err(format!("{word} takes a name in quotes"));
            }
            [Token::Word(word)] if word == "break" || word == "continue" => match (self.loops, word.as_str())
            {
                (0, _) => return Err(format!("{word} without range")),
                (_, "break") => Node::Break,
                _ => Node::Continue,
            },
            [Token::Word(word), Token::Sign(":=" | "="), value @ ..] if word.starts_with('$') => {
                Node::Set(word.clone(), pipeline(value)?)
            }
            tokens => Node::Show(pipeline(tokens)?),
        }))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} deep"));
        }
        let node = read(self)?;
        self.depth -= 1;
        Ok(node)
    }

    /// The `else` or `end` that nodes have ended at.
    fn stop(&mut self, of: &str) -> Result<&[Token], String> {
        let Some((Piece::Action(tokens), rest)) = self.pieces.split_first() else {
            return Err(format!("{of} without end"));
        };
        self.pieces = rest;
        Ok(tokens)
    }

    fn end(&mut self, of: &str) -> Result<(), String> {
        match self.stop(of)? {
            [Token::Word(word)] if word == "end" => Ok(()),
            _ => Err("an else that cannot stand there".into()),
        }
    }

    fn define(&mut self, name: &str) -> Result<(), String> {
        let loops = std::mem::take(&mut self.loops);
        let nodes = self.nodes()?;
        self.end("a definition")?;
        self.loops = loops;
        self.defined.insert(name.to_owned(), nodes);
        Ok(())
    }

    fn range(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let (variables, over) = match tokens {
            [
                Token::Word(place),
                Token::Sign(","),
                Token::Word(value),
                Token::Sign(":=" | "="),
                over @ ..,
            ] => (vec![place.clone(), value.clone()], over),
            [Token::Word(value), Token::Sign(":=" | "="), over @ ..] => (vec![value.clone()], over),
            over => (Vec::new(), over),
        };
        if variables.iter().any(|name| !name.starts_with('$')) {
            return Err("a variable begins with $".into());
        }
        let over = pipeline(over)?;
        self.loops += 1;
        let body = self.nodes()?;
        self.loops -= 1;
        let otherwise = match self.stop("a range")? {
            [Token::Word(word)] if word == "end" => Vec::new(),
            [Token::Word(word)] if word == "else" => {
                let otherwise = self.nodes()?;
                self.end("a range")?;
                otherwise
            }
            _ => return Err("an else that cannot stand there".into()),
        };
        Ok(Node::Range(Box::new(Range { variables, over, body, otherwise })))
    }

    fn with(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let mut branches = vec![self.with_branch(tokens)?];
        let mut otherwise = Vec::new();
        loop {
            match self.stop("a with")?.to_vec().as_slice() {
                [Token::Word(word)] if word == "end" => return Ok(Node::With(branches, otherwise)),
                [Token::Word(word)] if word == "else" => otherwise = self.nodes()?,
                [Token::Word(word), Token::Word(next), value @ ..] if word == "else" && next == "with" => {
                    branches.push(self.with_branch(value)?);
                }
                _ => return Err("an else that cannot stand there".into()),
            }
        }
    }

    fn with_branch(&mut self, tokens: &[Token]) -> Result<(Option<String>, Pipeline, Vec<Node>), String> {
        let (variable, value) = match tokens {
            [Token::Word(name), Token::Sign(":="), value @ ..] if name.starts_with('$') => {
                (Some(name.clone()), value)
            }
            value => (None, value),
        };
        Ok((variable, pipeline(value)?, self.nodes()?))
    }

    fn condition(&mut self, condition: &[Token]) -> Result<Node, String> {
        let mut branches = vec![(pipeline(condition)?, self.nodes()?)];
        let mut otherwise = Vec::new();
        loop {
            match self.stop("an if")?.to_vec().as_slice() {
                [Token::Word(word)] if word == "end" => return Ok(Node::If(branches, otherwise)),
                [Token::Word(word)] if word == "else" => otherwise = self.nodes()?,
                [Token::Word(word), Token::Word(next), condition @ ..] if word == "else" && next == "if" => {
                    branches.push((pipeline(condition)?, self.nodes()?));
                }
                _ => return Err("an else that cannot stand there".into()),
            }
        }
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let (pipeline, rest) = calls(tokens, 0)?;
    if rest.is_empty() { Ok(pipeline) } else { Err("a parenthesis closes that never opened".into()) }
}

/// Calls up to a closing parenthesis or the end.
fn calls(tokens: &[Token], depth: u32) -> Result<(Pipeline, &[Token]), String> {
    if depth > DEPTH_MAX {
        return Err(format!("more than {DEPTH_MAX} deep"));
    }
    let mut calls_read = Vec::new();
    let mut call = Vec::new();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token {
            Token::Value(value) => call.push(Operand::Value(value.clone())),
            Token::Word(word) => call.push(operand(word)?),
            Token::Sign("(") => {
                let (inner, after) = calls(rest, depth + 1)?;
                let Some((Token::Sign(")"), after)) = after.split_first() else {
                    return Err("a parenthesis opens that never closes".into());
                };
                call.push(Operand::Inner(inner));
                rest = after;
            }
            Token::Sign(")") => {
                rest = tokens.get(tokens.len() - after.len() - 1..).unwrap_or_default();
                break;
            }
            Token::Sign("|") => calls_read.push(std::mem::take(&mut call)),
            Token::Sign(sign) => return Err(format!("{sign:?} was not expected")),
        }
    }
    calls_read.push(call);
    match calls_read.iter().any(Vec::is_empty) {
        true => Err("an empty action".into()),
        false => Ok((Pipeline(calls_read), rest)),
    }
}

fn operand(word: &str) -> Result<Operand, String> {
    let parts = |path: &str| path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if let Some(path) = word.strip_prefix('.') {
        return Ok(Operand::Field(parts(path)));
    }
    if word == "$" || word.starts_with("$.") {
        return Ok(Operand::Root(parts(word.trim_start_matches('$'))));
    }
    if word.starts_with('$') {
        return Ok(Operand::Variable(word.to_owned()));
    }
    match FUNCTIONS.contains(&word) {
        true => Ok(Operand::Function(word.to_owned())),
        false => Err(format!("no function is called {word}")),
    }
}

struct Filling<'d> {
    data: &'d dyn Data,
    defined: &'d BTreeMap<String, Vec<Node>>,
    /// What `.` is; nothing where it is the data.
    dot: Option<Value>,
    /// What `$` is, likewise.
    root: Option<Value>,
    variables: BTreeMap<String, Value>,
    out: String,
    steps: u32,
    depth: u32,
}

impl Filling<'_> {
    fn nodes(&mut self, nodes: &[Node]) -> Result<Flow, String> {
        for node in nodes {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(format!("more than {STEPS_MAX} steps"));
            }
            let flow = self.node(node)?;
            if self.out.len() > TEXT_BYTES_MAX {
                return Err(format!("more than {TEXT_BYTES_MAX} bytes"));
            }
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Show(pipeline) => {
                let value = self.pipeline(pipeline)?.to_string();
                self.out.push_str(&value);
            }
            Node::Set(name, pipeline) => {
                let value = self.pipeline(pipeline)?;
                self.variables.insert(name.clone(), value);
            }
            Node::If(branches, otherwise) => {
                for (condition, nodes) in branches {
                    if is_true(&self.pipeline(condition)?) {
                        return self.nodes(nodes);
                    }
                }
                return self.nodes(otherwise);
            }
            Node::With(branches, otherwise) => {
                for (variable, value, nodes) in branches {
                    let value = self.pipeline(value)?;
                    if is_true(&value) {
                        if let Some(name) = variable {
                            self.variables.insert(name.clone(), value.clone());
                        }
                        return self.about(value, nodes);
                    }
                }
                return self.nodes(otherwise);
            }
            Node::Range(range) => return self.range(range),
            Node::Template(name, dot) => self.template(name, dot.as_ref())?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// With a value as the dot.
    fn about(&mut self, value: Value, nodes: &[Node]) -> Result<Flow, String> {
        let outer = self.dot.replace(value);
        let flow = self.nodes(nodes)?;
        self.dot = outer;
        Ok(flow)
    }

    fn range(&mut self, range: &Range) -> Result<Flow, String> {
        let values = match self.pipeline(&range.over)? {
            Value::List(values) => values,
            Value::Int(count) => {
                let count = u32::try_from(count).unwrap_or(0);
                (0..count.min(STEPS_MAX)).map(|number| Value::Int(i64::from(number))).collect()
            }
            Value::Nil => Vec::new(),
            other => return Err(format!("range cannot go over {other}")),
        };
        if values.is_empty() {
            return self.nodes(&range.otherwise);
        }
        for (place, value) in (0..).zip(values) {
            match range.variables.as_slice() {
                [name] => drop(self.variables.insert(name.clone(), value.clone())),
                [index, name] => {
                    self.variables.insert(index.clone(), Value::Int(place));
                    self.variables.insert(name.clone(), value.clone());
                }
                _ => {}
            }
            if self.about(value, &range.body)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn template(&mut self, name: &str, dot: Option<&Pipeline>) -> Result<(), String> {
        let nodes = self.defined.get(name).ok_or_else(|| format!("nothing is defined as {name:?}"))?;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} deep"));
        }
        // The data itself is handed on by `.` and by `$`.
        let is_data = match dot.map(|dot| dot.0.as_slice()) {
            Some([call]) => match call.as_slice() {
                [Operand::Field(path)] => path.is_empty() && self.dot.is_none(),
                [Operand::Root(path)] => path.is_empty() && self.root.is_none(),
                _ => false,
            },
            _ => false,
        };
        let inner = match dot {
            Some(dot) if !is_data => Some(self.pipeline(dot)?),
            Some(_) => None,
            None => Some(Value::Nil),
        };
        let outer = (self.dot.clone(), self.root.clone(), std::mem::take(&mut self.variables));
        (self.dot, self.root) = (inner.clone(), inner);
        self.nodes(nodes)?;
        (self.dot, self.root, self.variables) = outer;
        self.depth -= 1;
        Ok(())
    }

    /// A field of the dot or of the root.
    fn field(&self, of: Option<&Value>, path: &[String]) -> Result<Value, String> {
        match (of, path) {
            (Some(value), []) => Ok(value.clone()),
            (None, []) => Err("this is no value that could be shown".into()),
            (None, path) => {
                self.data.field(path).ok_or_else(|| format!("there is no field .{}", path.join(".")))
            }
            (Some(value), path) => Err(format!("{value} has no field .{}", path.join("."))),
        }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Value, String> {
        let mut last = None;
        for call in &pipeline.0 {
            last = Some(self.call(call, last)?);
        }
        last.ok_or_else(|| "an empty action".into())
    }

    fn call(&self, call: &[Operand], last: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = call.split_first() else { return Err("an empty action".into()) };
        let mut arguments =
            rest.iter().map(|operand| self.operand(operand)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(last);
        match first {
            Operand::Function(name) => function(name, &arguments),
            Operand::Field(path) | Operand::Root(path) if path.first().is_some_and(|name| name == "Meta") => {
                match arguments.as_slice() {
                    [Value::Text(label)] => Ok(Value::Text(self.data.meta(label))),
                    _ => Err(".Meta takes a label".into()),
                }
            }
            operand if arguments.is_empty() => self.operand(operand),
            _ => Err("only functions take arguments".into()),
        }
    }

    fn operand(&self, operand: &Operand) -> Result<Value, String> {
        match operand {
            Operand::Value(value) => Ok(value.clone()),
            Operand::Field(path) => self.field(self.dot.as_ref(), path),
            Operand::Root(path) => self.field(self.root.as_ref(), path),
            Operand::Variable(name) => {
                self.variables.get(name).cloned().ok_or_else(|| format!("there is no variable {name}"))
            }
            Operand::Function(name) => function(name, &[]),
            Operand::Inner(pipeline) => self.pipeline(pipeline),
        }
    }
}
