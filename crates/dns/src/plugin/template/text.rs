//! The part of Go's `text/template` that records are made with.
//!
//! ```text
//! {{ .Name }}   {{ .Group.host }}   {{ index .Match 1 }}   {{ .Meta "a/b" }}   {{ $x := … }}   {{ $x }}
//! {{ if … }} … {{ else if … }} … {{ else }} … {{ end }}   {{ a | f b }}   {{- trims -}}   {{/* nothing */}}
//! and or not eq ne lt le gt ge   index len print printf parseInt
//! ```
//!
//! What else that language has is an error when the template is read.

use crate::expression::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Actions are no deeper.
const DEPTH_MAX: u32 = 32;
/// No text comes out that is longer: no record is.
const TEXT_BYTES_MAX: usize = 128 * 1024;

/// A template that has been read.
#[derive(Debug)]
pub(super) struct Template {
    nodes: Vec<Node>,
    /// As it was written.
    pub(super) source: String,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Show(Pipeline),
    Set(String, Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
}

/// Calls, each of which is given what the one before has made.
#[derive(Debug)]
struct Pipeline(Vec<Vec<Operand>>);

#[derive(Debug)]
enum Operand {
    Value(Value),
    /// `.A.b`
    Field(Vec<String>),
    Variable(String),
    Function(String),
    Inner(Pipeline),
}

const FUNCTIONS: &[&str] =
    &["and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "print", "printf", "parseInt"];

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
        let mut reader = Reader { pieces: &pieces, depth: 0 };
        let nodes = reader.nodes()?;
        match reader.pieces.first() {
            None => Ok(Template { nodes, source: source.to_owned() }),
            Some(_) => Err("else or end without if".into()),
        }
    }

    pub(super) fn fill(&self, data: &dyn Data) -> Result<String, String> {
        let mut filling = Filling { data, variables: BTreeMap::new(), out: String::new() };
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
    const SIGNS: &[&str] = &[":=", "|", "(", ")", "="];
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
        let end = rest.find(|char: char| char.is_whitespace() || "|()=\"`".contains(char) || char == ':');
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
            nodes.push(match tokens.as_slice() {
                [Token::Word(word), condition @ ..] if word == "if" => self.condition(condition)?,
                [Token::Word(word), Token::Sign(":=" | "="), value @ ..] if word.starts_with('$') => {
                    Node::Set(word.clone(), pipeline(value)?)
                }
                [Token::Word(word), ..]
                    if ["range", "with", "define", "template", "block", "break"].contains(&word.as_str()) =>
                {
                    return Err(format!("{word} is not built"));
                }
                tokens => Node::Show(pipeline(tokens)?),
            });
        }
        Ok(nodes)
    }

    fn condition(&mut self, condition: &[Token]) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} deep"));
        }
        let mut branches = vec![(pipeline(condition)?, self.nodes()?)];
        let mut otherwise = Vec::new();
        loop {
            let Some((Piece::Action(tokens), rest)) = self.pieces.split_first() else {
                return Err("an if without end".into());
            };
            self.pieces = rest;
            match tokens.as_slice() {
                [Token::Word(word)] if word == "end" => break,
                [Token::Word(word)] if word == "else" => otherwise = self.nodes()?,
                [Token::Word(word), Token::Word(next), condition @ ..] if word == "else" && next == "if" => {
                    branches.push((pipeline(condition)?, self.nodes()?));
                }
                _ => return Err("an else that cannot stand there".into()),
            }
        }
        self.depth -= 1;
        Ok(Node::If(branches, otherwise))
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
    if let Some(path) = word.strip_prefix('.') {
        return Ok(Operand::Field(path.split('.').map(str::to_owned).collect()));
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
    variables: BTreeMap<String, Value>,
    out: String,
}

impl Filling<'_> {
    fn nodes(&mut self, nodes: &[Node]) -> Result<(), String> {
        for node in nodes {
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
                    let mut taken = otherwise;
                    for (condition, nodes) in branches {
                        if is_true(&self.pipeline(condition)?) {
                            taken = nodes;
                            break;
                        }
                    }
                    self.nodes(taken)?;
                }
            }
            if self.out.len() > TEXT_BYTES_MAX {
                return Err(format!("more than {TEXT_BYTES_MAX} bytes"));
            }
        }
        Ok(())
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
            Operand::Field(path) if path.first().is_some_and(|name| name == "Meta") => {
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
            Operand::Field(path) => {
                self.data.field(path).ok_or_else(|| format!("there is no field .{}", path.join(".")))
            }
            Operand::Variable(name) => {
                self.variables.get(name).cloned().ok_or_else(|| format!("there is no variable {name}"))
            }
            Operand::Function(name) => function(name, &[]),
            Operand::Inner(pipeline) => self.pipeline(pipeline),
        }
    }
}

/// What Go takes for true: what is not empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Nil => false,
        Value::Bool(value) => *value,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::List(values) => !values.is_empty(),
    }
}

fn function(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let bool = |value| Ok(Value::Bool(value));
    match (name, arguments) {
        ("and", [.., last]) => Ok(arguments.iter().find(|value| !is_true(value)).unwrap_or(last).clone()),
        ("or", [.., last]) => Ok(arguments.iter().find(|value| is_true(value)).unwrap_or(last).clone()),
        ("not", [value]) => bool(!is_true(value)),
        ("eq", [value, rest @ ..]) if !rest.is_empty() => bool(rest.contains(value)),
        ("ne", [a, b]) => bool(a != b),
        ("lt", [a, b]) => bool(order(a, b)?.is_lt()),
        ("le", [a, b]) => bool(order(a, b)?.is_le()),
        ("gt", [a, b]) => bool(order(a, b)?.is_gt()),
        ("ge", [a, b]) => bool(order(a, b)?.is_ge()),
        ("len", [Value::Text(text)]) => Ok(Value::Int(i64::try_from(text.len()).unwrap_or(i64::MAX))),
        ("len", [Value::List(values)]) => Ok(Value::Int(i64::try_from(values.len()).unwrap_or(i64::MAX))),
        ("index", [Value::List(values), Value::Int(at)]) => {
            let found = usize::try_from(*at).ok().and_then(|at| values.get(at));
            found.cloned().ok_or_else(|| format!("there is no place {at}"))
        }
        ("index", [Value::Text(text), Value::Int(at)]) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            found.map(|byte| Value::Int(i64::from(*byte))).ok_or_else(|| format!("there is no place {at}"))
        }
        ("print", values) => Ok(Value::Text(values.iter().map(Value::to_string).collect())),
        ("printf", [Value::Text(format), values @ ..]) => printf(format, values).map(Value::Text),
        ("parseInt", [Value::Text(text), Value::Int(base), Value::Int(bits)]) => {
            let base = u32::try_from(*base)
                .ok()
                .filter(|base| (2..=36).contains(base))
                .ok_or("a base of 2 to 36")?;
            let number = u64::from_str_radix(text, base).map_err(|_| format!("{text:?} is no number"))?;
            let fits = *bits <= 0 || *bits >= 64 || number < 1 << bits;
            let number = i64::try_from(number).ok().filter(|_| fits);
            number.map(Value::Int).ok_or_else(|| format!("{text:?} is too large"))
        }
        _ => Err(format!("{name} does not take these arguments")),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err(format!("{a} and {b} have no order")),
    }
}

/// `%s %v %d %x %X %o %b %c %q %%`, with a width and zeros before.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let zero = chars.next_if_eq(&'0').is_some();
        let mut width = 0_usize;
        while let Some(digit) = chars.peek().and_then(|char| char.to_digit(10)) {
            width = (width * 10 + digit as usize).min(256);
            chars.next();
        }
        let verb = chars.next().ok_or("a % at the end")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or("too few arguments for printf")?;
        let text = match (verb, value) {
            ('s' | 'v', value) => value.to_string(),
            ('d', Value::Int(number)) => number.to_string(),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('X', Value::Int(number)) => format!("{number:X}"),
            ('o', Value::Int(number)) => format!("{number:o}"),
            ('b', Value::Int(number)) => format!("{number:b}"),
            ('c', Value::Int(number)) => {
                u32::try_from(*number).ok().and_then(char::from_u32).map(String::from).unwrap_or_default()
            }
            ('q', value) => format!("{:?}", value.to_string()),
            _ => return Err(format!("%{verb} does not fit {value}")),
        };
        let missing = width.saturating_sub(text.chars().count());
        out.extend(std::iter::repeat_n(if zero { '0' } else { ' ' }, missing));
        out.push_str(&text);
    }
    Ok(out)
}
