//! From text to a tree: words first, then operators by how tightly they bind.

use super::functions::Function;
use super::{Binary, Names, Node, Value};
use regex::Regex;

/// Expressions are no deeper, so that reading and evaluating them takes little of the stack.
const DEPTH_MAX: u32 = 64;
/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: &[&str] = &[
    "**", "==", "!=", "<=", ">=", "&&", "||", "??", "..", "<", ">", "!", "+", "-", "*", "/", "%", "^", "(",
    ")", "[", "]", ",", "?", ":",
];

pub(super) fn parse(text: &str, names: &Names<'_>) -> Result<Node, String> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, names, depth: 0 };
    let node = parser.either()?;
    match parser.tokens.first() {
        None => Ok(node),
        Some(token) => Err(format!("{token:?} is one too many")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
        } else if matches!(first, '\'' | '"' | '`') {
            let (token, after) = quoted(rest, first)?;
            tokens.push(token);
            rest = after;
        } else if first.is_ascii_digit() {
            let end =
                rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(rest.len());
            // A point is one of a number only before a digit.
            let fraction = rest.get(end..).and_then(|after| after.strip_prefix('.'));
            let digits = fraction
                .map_or(0, |after| after.find(|char: char| !char.is_ascii_digit()).unwrap_or(after.len()));
            let end = if digits > 0 { end + 1 + digits } else { end };
            let (word, after) = rest.split_at(end);
            tokens.push(number(&word.replace('_', "")).ok_or_else(|| format!("{word:?} is no number"))?);
            rest = after;
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            rest = after;
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("{first:?} has no meaning here"))?;
            tokens.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
        }
    }
    Ok(tokens)
}

fn number(word: &str) -> Option<Token> {
    if let Some(hex) = word.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Token::Int);
    }
    word.parse().ok().map(Token::Int).or_else(|| word.parse().ok().map(Token::Float))
}

fn quoted(text: &str, quote: char) -> Result<(Token, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            char if char == quote => {
                let after = text.get(at + 1..).unwrap_or_default();
                return Ok((Token::Text(out), after));
            }
            '\\' if quote != '`' => match chars.next().map(|(_, char)| char) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(char @ ('\\' | '\'' | '"')) => out.push(char),
                _ => return Err("a backslash with nothing that it can stand before".into()),
            },
            char => out.push(char),
        }
    }
    Err("a quote opens that never closes".into())
}

struct Parser<'t> {
    tokens: &'t [Token],
    names: &'t Names<'t>,
    depth: u32,
}

/// Operators of two sides by how tightly they bind, the loosest first.
fn binding(token: &Token, negated: bool) -> Option<(u8, Binary)> {
    let operator = match token {
        Token::Sign(sign) if !negated => match *sign {
            "==" => (3, Binary::Equal),
            "!=" => (3, Binary::Unequal),
            "<" => (3, Binary::Less),
            "<=" => (3, Binary::LessOrEqual),
            ">" => (3, Binary::More),
            ">=" => (3, Binary::MoreOrEqual),
            ".." => (4, Binary::Range),
            "+" => (5, Binary::Add),
            "-" => (5, Binary::Subtract),
            "*" => (6, Binary::Multiply),
            "/" => (6, Binary::Divide),
            "%" => (6, Binary::Remainder),
            "**" | "^" => (7, Binary::Power),
            _ => return None,
        },
        Token::Word(word) => match (word.as_str(), negated) {
            ("in", false) => (3, Binary::In),
            ("in", true) => (3, Binary::NotIn),
            ("matches", _) => (3, Binary::Matches),
            ("contains", _) => (3, Binary::Contains),
            ("startsWith", _) => (3, Binary::StartsWith),
            ("endsWith", _) => (3, Binary::EndsWith),
            _ => return None,
        },
        _ => return None,
    };
    Some(operator)
}

impl Parser<'_> {
    fn take_sign(&mut self, sign: &str) -> bool {
        match self.tokens.split_first() {
            Some((Token::Sign(first), rest)) if *first == sign => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        match self.tokens.split_first() {
            Some((Token::Word(first), rest)) if first == word => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.take_sign(sign) {
            return Ok(());
        }
        match self.tokens.first() {
            Some(token) => Err(format!("{sign} was expected, not {token:?}")),
            None => Err(format!("{sign} was expected at the end")),
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} deep"));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn either(&mut self) -> Result<Node, String> {
        self.deeper(|parser| {
            let condition = parser.or()?;
            if !parser.take_sign("?") {
                return Ok(condition);
            }
            let yes = parser.either()?;
            parser.expect(":")?;
            let no = parser.either()?;
            Ok(Node::Either(condition.into(), yes.into(), no.into()))
        })
    }

    fn or(&mut self) -> Result<Node, String> {
        let mut left = self.and()?;
        loop {
            if self.take_sign("||") || self.take_word("or") {
                left = Node::Or(left.into(), self.and()?.into());
            } else if self.take_sign("??") {
                left = Node::OrElse(left.into(), self.and()?.into());
            } else {
                return Ok(left);
            }
        }
    }

    fn and(&mut self) -> Result<Node, String> {
        let mut left = self.binary(3)?;
        while self.take_sign("&&") || self.take_word("and") {
            left = Node::And(left.into(), self.binary(3)?.into());
        }
        Ok(left)
    }

    fn binary(&mut self, least: u8) -> Result<Node, String> {
        self.deeper(|parser| {
            let mut left = parser.unary()?;
            loop {
                let negated = matches!(parser.tokens.first(), Some(Token::Word(word)) if word == "not");
                let operator =
                    parser.tokens.get(usize::from(negated)).and_then(|token| binding(token, negated));
                let Some((level, operator)) = operator.filter(|(level, _)| *level >= least) else {
                    return Ok(left);
                };
                parser.tokens = parser.tokens.get(1 + usize::from(negated)..).unwrap_or_default();
                // Powers bind to the right.
                let right = parser.binary(if operator == Binary::Power { level } else { level + 1 })?;
                left = combine(operator, left, right)?;
                if negated && operator != Binary::NotIn {
                    left = Node::Not(left.into());
                }
            }
        })
    }

    fn unary(&mut self) -> Result<Node, String> {
        if self.take_sign("!") || self.take_word("not") {
            // Everything but `and` and `or` binds more tightly than the word.
            return self.deeper(|parser| Ok(Node::Not(parser.unary()?.into())));
        }
        if self.take_sign("-") {
            return self.deeper(|parser| Ok(Node::Negative(parser.unary()?.into())));
        }
        let mut node = self.primary()?;
        while self.take_sign("[") {
            let index = self.either()?;
            self.expect("]")?;
            node = Node::Index(node.into(), index.into());
        }
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, String> {
        let Some((token, rest)) = self.tokens.split_first() else { return Err("it ends too early".into()) };
        self.tokens = rest;
        match token {
            Token::Int(number) => Ok(Node::Value(Value::Int(*number))),
            Token::Float(number) => Ok(Node::Value(Value::Float(*number))),
            Token::Text(text) => Ok(Node::Value(Value::Text(text.clone()))),
            Token::Sign("(") => {
                let node = self.either()?;
                self.expect(")")?;
                Ok(node)
            }
            Token::Sign("[") => Ok(Node::List(self.list("]")?)),
            Token::Word(word) => match word.as_str() {
                "true" => Ok(Node::Value(Value::Bool(true))),
                "false" => Ok(Node::Value(Value::Bool(false))),
                "nil" => Ok(Node::Value(Value::Nil)),
                word if self.take_sign("(") => {
                    let arguments = self.list(")")?;
                    let function = Function::named(word, arguments.len(), self.names)?;
                    Ok(Node::Call(function, arguments))
                }
                word if self.names.variables.iter().any(|name| name == word) => {
                    Ok(Node::Variable(word.to_owned()))
                }
                word => Err(format!("nothing is called {word}")),
            },
            token => Err(format!("{token:?} was not expected")),
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        while !self.take_sign(end) {
            nodes.push(self.either()?);
            if !self.take_sign(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(nodes)
    }
}

/// A pattern that stands there is read but once.
fn combine(operator: Binary, left: Node, right: Node) -> Result<Node, String> {
    if let (Binary::Matches, Node::Value(Value::Text(pattern))) = (operator, &right) {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern of more than {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
        return Ok(Node::Matches(left.into(), regex));
    }
    Ok(Node::Binary(operator, left.into(), right.into()))
}
