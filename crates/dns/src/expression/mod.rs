//! Expressions over a question, for `view` and `template`: the part of expr-lang that CoreDNS' pages
//! show, and a little more.
//!
//! ```text
//! a || b   a or b   a && b   a and b   !a   not a   a ? b : c   a ?? b
//! == != < <= > >= in   not in   matches   contains   startsWith   endsWith
//! + - * / % ** ..   [1, 2]   x[0]   'text' "text" `text`   1 1.5 0x1f true false nil
//! ```
//!
//! Names of functions, and how many arguments they take, are checked when an expression is read; the
//! kinds of values when it is evaluated.

mod functions;
mod parse;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use functions::is_free_name;
pub(crate) use value::Value;

use crate::exchange::Exchange;
use functions::Function;
use regex::Regex;
use std::collections::BTreeMap;

/// An expression that has been read.
#[derive(Debug)]
pub(crate) struct Expression {
    root: Node,
}

/// What an expression is evaluated over.
#[derive(Default)]
pub(crate) struct Environment<'e> {
    /// The question.
    pub(crate) exchange: Option<&'e Exchange>,
    /// What was defined before (`var`).
    pub(crate) variables: BTreeMap<String, Value>,
    /// What a regular expression has matched, by number and name.
    pub(crate) groups: BTreeMap<String, String>,
}

/// Names that an expression may use.
#[derive(Default)]
pub(crate) struct Names<'n> {
    pub(crate) variables: &'n [String],
    /// `group()` is known.
    pub(crate) groups: bool,
    /// `metadata()` is known.
    pub(crate) metadata: bool,
}

#[derive(Debug)]
enum Node {
    Value(Value),
    Variable(String),
    List(Vec<Node>),
    Call(Function, Vec<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    OrElse(Box<Node>, Box<Node>),
    Either(Box<Node>, Box<Node>, Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    /// With a pattern that is known from the start.
    Matches(Box<Node>, Regex),
    Index(Box<Node>, Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binary {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    In,
    NotIn,
    Matches,
    Contains,
    StartsWith,
    EndsWith,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
    Range,
}

impl Expression {
    /// Reads an expression.
    pub(crate) fn parse(text: &str, names: &Names<'_>) -> Result<Expression, String> {
        parse::parse(text, names).map(|root| Expression { root })
    }

    /// Evaluates it.
    pub(crate) fn evaluate(&self, environment: &Environment<'_>) -> Result<Value, String> {
        self.root.evaluate(environment)
    }

    /// Whether it is true; what cannot be evaluated is not.
    pub(crate) fn holds(&self, environment: &Environment<'_>) -> bool {
        matches!(self.evaluate(environment), Ok(Value::Bool(true)))
    }
}

impl Node {
    fn evaluate(&self, environment: &Environment<'_>) -> Result<Value, String> {
        let of = |node: &Node| node.evaluate(environment);
        let all = |nodes: &[Node]| nodes.iter().map(of).collect::<Result<Vec<Value>, String>>();
        Ok(match self {
            Node::Value(value) => value.clone(),
            Node::Variable(name) => environment.variables.get(name).cloned().unwrap_or(Value::Nil),
            Node::List(nodes) => Value::List(all(nodes)?),
            Node::Call(function, arguments) => function.call(&all(arguments)?, environment)?,
            Node::Not(node) => Value::Bool(!of(node)?.bool()?),
            Node::Negative(node) => match of(node)? {
                Value::Int(number) => Value::Int(number.checked_neg().ok_or("too large a number")?),
                Value::Float(number) => Value::Float(-number),
                other => return Err(format!("{other} is no number")),
            },
            Node::And(a, b) => Value::Bool(of(a)?.bool()? && of(b)?.bool()?),
            Node::Or(a, b) => Value::Bool(of(a)?.bool()? || of(b)?.bool()?),
            Node::OrElse(a, b) => match of(a)? {
                Value::Nil => of(b)?,
                value => value,
            },
            Node::Either(condition, a, b) => of(if of(condition)?.bool()? { a } else { b })?,
            Node::Binary(operator, a, b) => operator.apply(&of(a)?, &of(b)?)?,
            Node::Matches(text, regex) => Value::Bool(regex.is_match(of(text)?.text()?)),
            Node::Index(list, index) => of(list)?.at(&of(index)?)?,
        })
    }
}
