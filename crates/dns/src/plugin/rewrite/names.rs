//! Names as text: what a rule matches, and what it makes of it.

use regex::Regex;
use wire::{Name, Type};

/// What a name is compared with, and what becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    pub(super) how: How,
    pub(super) to: String,
}

/// How names are compared.
#[derive(Clone, Debug)]
pub(super) enum How {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

impl Matcher {
    pub(super) fn matches(&self, name: &str) -> bool {
        match &self.how {
            How::Exact(from) => name == from,
            How::Prefix(from) => name.starts_with(from.as_str()),
            How::Suffix(from) => name.ends_with(from.as_str()),
            How::Substring(from) => name.contains(from.as_str()),
            How::Regex(regex) => regex.is_match(name),
        }
    }

    /// The new name, where it is for this one.
    pub(super) fn rewrite(&self, name: &str) -> Option<String> {
        let to = &self.to;
        match &self.how {
            How::Exact(from) => (name == from).then(|| to.clone()),
            How::Prefix(from) => name.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
            How::Suffix(from) => name.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
            How::Substring(from) => name.contains(from.as_str()).then(|| name.replace(from.as_str(), to)),
            How::Regex(regex) => substitute(regex, to, name),
        }
    }
}

/// Fills `{0}`, `{1}`, … of a text with what the groups of a regular expression have matched.
pub(super) fn substitute(regex: &Regex, to: &str, text: &str) -> Option<String> {
    let groups = regex.captures(text)?;
    let mut out = to.to_owned();
    for (index, group) in groups.iter().enumerate() {
        out = out.replace(&format!("{{{index}}}"), group.map_or("", |group| group.as_str()));
    }
    Some(out)
}

/// How many of those there are in a text.
pub(super) fn groups_used(text: &str) -> usize {
    (0..=100).filter(|index| text.contains(&format!("{{{index}}}"))).count()
}

/// What becomes of names in answers.
#[derive(Clone, Debug)]
pub(super) enum Rewriter {
    /// One name, and the end of those below it.
    Back {
        from: String,
        to: String,
    },
    Suffix {
        from: String,
        to: String,
    },
    Regex(Regex, String),
}

impl Rewriter {
    fn text(&self, text: &str) -> Option<String> {
        match self {
            Rewriter::Back { from, to } => {
                let before = text.strip_suffix(from.as_str())?;
                (before.is_empty() || before.ends_with('.')).then(|| format!("{before}{to}"))
            }
            Rewriter::Suffix { from, to } => {
                text.strip_suffix(from.as_str()).map(|before| format!("{before}{to}"))
            }
            Rewriter::Regex(regex, to) => substitute(regex, to, text),
        }
    }

    /// A name, or what becomes of it if that is one.
    pub(super) fn name(&self, name: &Name) -> Name {
        let new = self.text(&name.lowercase().to_string()).and_then(|text| text.parse().ok());
        new.unwrap_or(*name)
    }
}

/// Rewrites the name in data that have one.
pub(super) fn rewrite_value(rtype: Type, rdata: &mut Vec<u8>, rewriter: &Rewriter) {
    let at = match rtype {
        Type::CNAME | Type::DNAME | Type::NS | Type::PTR | Type::SOA => 0,
        Type::MX => 2,
        Type::SRV => 6,
        Type::NAPTR => {
            // Behind two numbers stand three texts.
            let mut at = 4;
            for _ in 0..3 {
                at += 1 + rdata.get(at).map_or(0, |length| usize::from(*length));
            }
            at
        }
        _ => return,
    };
    let Some((before, rest)) = rdata.split_at_checked(at) else { return };
    let mut end = 0;
    while let Some(&length) = rest.get(end) {
        end += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    let Some((bytes, after)) = rest.split_at_checked(end) else { return };
    let Some(name) = Name::from_bytes(bytes) else { return };
    let new = rewriter.name(&name);
    *rdata = [before, new.as_bytes(), after].concat();
}
