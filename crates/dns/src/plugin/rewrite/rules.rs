//! From the words of a `rewrite` to a rule.

use super::Response;
use super::edns::{self, EdnsRule};
use super::names::{How, Matcher, Rewriter, groups_used};
use crate::corefile::{Error, Line, Word};
use regex::Regex;
use std::sync::Arc;
use wire::{Class, Rcode, Type};

/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 10_000;

/// A rule.
pub(super) struct Rule {
    /// None behind it is looked at.
    pub(super) stop: bool,
    pub(super) change: Change,
}

/// What it changes.
pub(super) enum Change {
    Name {
        matcher: Matcher,
        auto: Auto,
        answers: Vec<Response>,
    },
    Type(Type, Type),
    Class(Class, Class),
    /// Only the answer, to questions for these names.
    Response(Option<Matcher>, Response),
    Edns(EdnsRule),
}

/// Whether answers are rewritten without being told how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auto {
    No,
    /// The new name becomes the old one.
    Back,
    /// The new end becomes the old one.
    Suffix,
}

impl Auto {
    pub(super) fn rewriter(self, matcher: &Matcher, new: &str, old: &str) -> Option<Rewriter> {
        match (self, &matcher.how) {
            (Auto::No, _) => None,
            (Auto::Suffix, How::Suffix(from)) => {
                Some(Rewriter::Suffix { from: matcher.to.clone(), to: from.clone() })
            }
            _ => Some(Rewriter::Back { from: new.to_owned(), to: old.to_owned() }),
        }
    }
}

/// Reads a `rewrite`. The lines of a block are as one line.
pub(super) fn read(line: &Line) -> Result<Rule, Error> {
    let mut words = line.args.clone();
    if words.len() < 2 {
        for option in &line.block {
            option.no_block()?;
            words.push(option.name.clone());
            words.extend(option.args.iter().cloned());
        }
    } else {
        line.no_block()?;
    }
    let (stop, rest) = match words.split_first() {
        Some((word, rest)) if word.text.eq_ignore_ascii_case("stop") => (true, rest),
        Some((word, rest)) if word.text.eq_ignore_ascii_case("continue") => (false, rest),
        _ => (true, words.as_slice()),
    };
    let Some((field, rest)) = rest.split_first() else { return Err(line.error("takes a field")) };
    let change = match field.text.to_ascii_lowercase().as_str() {
        "name" => name(field, rest)?,
        "type" => {
            let [from, to] = two(field, rest)?;
            let read =
                |word: &Word| word.text.to_ascii_uppercase().parse().map_err(|()| word.error("no type"));
            Change::Type(read(from)?, read(to)?)
        }
        "class" => {
            let [from, to] = two(field, rest)?;
            let read =
                |word: &Word| word.text.to_ascii_uppercase().parse().map_err(|()| word.error("no class"));
            Change::Class(read(from)?, read(to)?)
        }
        "ttl" => {
            let (how, [from, times]) = matched(field, rest)?;
            let (least, most) = ttls(times)?;
            Change::Response(Some(matcher(&how, from, "")?), Response::Ttl(least, most))
        }
        "rcode" => {
            let (how, [name, from, to]) = matched(field, rest)?;
            let response = Response::Rcode(code(from)?, code(to)?);
            Change::Response(Some(matcher(&how, name, "")?), response)
        }
        "cname" => {
            let (how, [from, to]) = matched(field, rest)?;
            Change::Response(None, Response::Cname(Arc::new(cname(&how, from, to)?)))
        }
        "edns0" => Change::Edns(edns::read(line, rest)?),
        "answer" => return Err(field.error("answers are rewritten after a name")),
        _ => return Err(field.error("not name, type, class, edns0, ttl, cname or rcode")),
    };
    Ok(Rule { stop, change })
}

fn two<'w>(field: &Word, words: &'w [Word]) -> Result<[&'w Word; 2], Error> {
    match words {
        [from, to] => Ok([from, to]),
        _ => Err(field.error("takes two arguments")),
    }
}

/// So many words, before which the way of matching may stand.
fn matched<'w, const N: usize>(field: &Word, words: &'w [Word]) -> Result<(String, [&'w Word; N]), Error> {
    let (how, rest) = match words {
        [how, rest @ ..] if words.len() == N + 1 => (how.text.to_ascii_lowercase(), rest),
        _ => ("exact".to_owned(), words),
    };
    let all: Vec<&Word> = rest.iter().collect();
    all.try_into()
        .map(|all| (how, all))
        .map_err(|_| field.error(format_args!("takes {N} arguments, and how to match before them")))
}

/// In lower case, and with a last dot.
fn normal(text: &str) -> String {
    let mut text = text.to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn pattern(word: &Word) -> Result<Regex, Error> {
    if word.text.len() > PATTERN_BYTES_MAX {
        return Err(word.error(format_args!("a pattern of more than {PATTERN_BYTES_MAX} bytes")));
    }
    Regex::new(&word.text).map_err(|error| word.error(error))
}

fn check_groups(regex: &Regex, to: &Word) -> Result<(), Error> {
    // CoreDNS counts like this: `{0}`, too, wants a group.
    match groups_used(&to.text) > regex.captures_len().saturating_sub(1) {
        true => Err(to.error("more groups than the pattern has")),
        false => Ok(()),
    }
}

fn matcher(how: &str, from: &Word, to: &str) -> Result<Matcher, Error> {
    let text = normal(&from.text);
    let how = match how {
        "exact" => How::Exact(text),
        "prefix" => How::Prefix(text),
        "suffix" => How::Suffix(text),
        "substring" => How::Substring(text),
        "regex" => How::Regex(pattern(from)?),
        other => {
            return Err(from
                .error(format_args!("{other} before it is not exact, prefix, suffix, substring or regex")));
        }
    };
    Ok(Matcher { how, to: to.to_owned() })
}

/// Only whole targets are names here (CoreDNS' `newCNAMERule`).
fn cname(how: &str, from: &Word, to: &Word) -> Result<Matcher, Error> {
    let (text, new) = (from.text.to_ascii_lowercase(), to.text.to_ascii_lowercase());
    let how = match how {
        "exact" => return matcher(how, from, &normal(&to.text)),
        "prefix" => How::Prefix(text),
        "suffix" => How::Suffix(text),
        "substring" => How::Substring(text),
        _ => return matcher(how, from, &new),
    };
    Ok(Matcher { how, to: new })
}

fn name(field: &Word, words: &[Word]) -> Result<Change, Error> {
    let (how, from, to, answers) = match words {
        [from, to] => ("exact".to_owned(), from, to, &[][..]),
        [how, from, to, answers @ ..] => (how.text.to_ascii_lowercase(), from, to, answers),
        _ => return Err(field.error("takes a name and another")),
    };
    let matcher = matcher(&how, from, &normal(&to.text))?;
    if let How::Regex(regex) = &matcher.how {
        check_groups(regex, to)?;
    }
    let (told_auto, answers) = read_answers(answers)?;
    let auto = match &matcher.how {
        How::Exact(_) => Auto::Back,
        How::Suffix(_) if told_auto => Auto::Suffix,
        _ if told_auto => Auto::Back,
        _ => Auto::No,
    };
    Ok(Change::Name { matcher, auto, answers })
}

/// Reads `answer auto`, `answer name FROM TO`, `answer value FROM TO`; further ones without `answer`.
fn read_answers(words: &[Word]) -> Result<(bool, Vec<Response>), Error> {
    let (mut auto, mut responses, mut names) = (false, Vec::new(), false);
    let mut rest = words;
    if let Some(first) = words.first().filter(|word| word.text != "answer") {
        return Err(first.error("answer was expected"));
    }
    while let Some((mut word, mut after)) = rest.split_first() {
        if word.text == "answer" {
            (word, after) = after.split_first().ok_or_else(|| word.error("takes auto, name or value"))?;
        }
        match (word.text.as_str(), after) {
            // CoreDNS' own page has it with `name` before.
            ("auto", _) => {
                auto = true;
                rest = after;
            }
            ("name", [of, more @ ..]) if of.text == "auto" => {
                auto = true;
                rest = more;
            }
            ("name" | "value", [from, to, more @ ..]) => {
                let regex = pattern(from)?;
                check_groups(&regex, to)?;
                let rewriter = Rewriter::Regex(regex, normal(&to.text));
                names |= word.text == "name";
                responses.push(match word.text.as_str() {
                    "name" => Response::Owner(rewriter),
                    _ => Response::Value(rewriter),
                });
                rest = more;
            }
            ("name" | "value", _) => return Err(word.error("takes a pattern and a name")),
            _ => return Err(word.error("not auto, name or value")),
        }
        if auto && names {
            return Err(word.error("names of answers are rewritten by rule or automatically, not both"));
        }
    }
    Ok((auto, responses))
}

fn ttls(word: &Word) -> Result<(u32, u32), Error> {
    let bad = || word.error("neither seconds nor a range of them");
    let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
    let (least, most) = match word.text.split_once('-') {
        None => (number(&word.text)?, number(&word.text)?),
        Some(("", "")) => return Err(bad()),
        Some(("", most)) => (0, number(most)?),
        Some((least, "")) => (number(least)?, u32::MAX),
        Some((least, most)) => (number(least)?, number(most)?),
    };
    if least > most { Err(bad()) } else { Ok((least, most)) }
}

fn code(word: &Word) -> Result<Rcode, Error> {
    let known = |rcode: &Rcode| rcode.name().is_some();
    let number = word.text.parse().ok().map(Rcode);
    let named = word.text.to_ascii_uppercase().parse().ok();
    number.or(named).filter(known).ok_or_else(|| word.error("no response code"))
}
