//! `log`: writes down questions and how they were answered, one line each, on standard output.
//!
//! ```text
//! log [NAME…] [FORMAT] {
//!     class success|denial|error|all …
//! }
//! ```
//!
//! The format is CoreDNS': `{common}`, `{combined}`, `{type}`, `{>id}` and so on. Lines wait in a queue of
//! bounded length, so that a slow reader of the log holds up no answer: lines that find it full are
//! left out, and counted in a line of their own.

use crate::chain::{At, Plugin, Sent, Step};
use crate::corefile::{Error, Line};
use crate::exchange::{AnswerClass, Exchange};
use crate::say::{self, Level};
use crate::setup::Setting;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Name, flags};

const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" \
    {rcode} {>rflags} {rsize} {duration}";

struct Log {
    rules: Vec<Rule>,
}

/// What is written down for which names.
struct Rule {
    scope: Name,
    format: Vec<Part>,
    /// Of which kinds of answers; empty for all.
    classes: Vec<AnswerClass>,
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A placeholder that we know, with its braces.
    Value(&'static str),
    /// What a plugin says about the exchange, `{/forward/upstream}`.
    Label(String),
    /// One that nobody fills.
    Empty,
}

/// All placeholders.
const VALUES: &[&str] = &[
    "{type}",
    "{name}",
    "{class}",
    "{proto}",
    "{size}",
    "{remote}",
    "{port}",
    "{local}",
    "{>id}",
    "{>opcode}",
    "{>do}",
    "{>bufsize}",
    "{rcode}",
    "{rsize}",
    "{duration}",
    "{>rflags}",
];

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut rules = Vec::new();
    for line in setting.lines {
        let classes = classes(line)?;
        let (scopes, format) = match line.args.as_slice() {
            // Alone, a word is a name.
            [scopes @ .., format] if !scopes.is_empty() && format.text.contains('{') => {
                (scopes, format.text.as_str())
            }
            scopes => (scopes, COMMON),
        };
        let format = format.replace("{combined}", "{common} \"{>opcode}\"").replace("{common}", COMMON);
        let format = parts(&format);
        let mut scope = |scope| rules.push(Rule { scope, format: format.clone(), classes: classes.clone() });
        if scopes.is_empty() {
            scope(Name::ROOT);
        }
        for word in scopes {
            scope(word.text.parse().map_err(|error| word.error(error))?);
        }
    }
    Ok(Some(Arc::new(Log { rules })))
}

fn classes(line: &Line) -> Result<Vec<AnswerClass>, Error> {
    let mut classes = Vec::new();
    let mut all = false;
    for option in &line.block {
        option.no_block()?;
        if option.name.text != "class" {
            return Err(option.unknown_option("log"));
        }
        for word in option.at_least_one()? {
            match word.text.as_str() {
                "success" => classes.push(AnswerClass::Success),
                "denial" => classes.push(AnswerClass::Denial),
                "error" => classes.push(AnswerClass::Error),
                "all" => all = true,
                _ => return Err(word.error("not success, denial, error or all")),
            }
        }
    }
    Ok(if all { Vec::new() } else { classes })
}

/// Takes a format apart. A placeholder is what stands between a closing brace and the last opening
/// one before it, so `{ {name} }` has one.
fn parts(format: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(close) = rest.find('}') {
        let (before, after) = rest.split_at(close + 1);
        let Some(open) = before.rfind('{') else {
            parts.push(Part::Text(before.to_owned()));
            rest = after;
            continue;
        };
        let (text, value) = before.split_at(open);
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let known = VALUES.iter().find(|known| known.eq_ignore_ascii_case(value));
        let label = value.strip_prefix("{/").and_then(|label| label.strip_suffix('}'));
        parts.push(match (known, label) {
            (Some(known), _) => Part::Value(known),
            (None, Some(label)) => Part::Label(label.to_owned()),
            (None, None) => Part::Empty,
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    parts
}

impl Plugin for Log {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn looks(&self) -> bool {
        true
    }

    fn sent(&self, exchange: &Exchange, sent: &Sent, _at: &At<'_>) {
        let name = &exchange.original.name;
        let Some(rule) = self.rules.iter().find(|rule| name.is_in(&rule.scope)) else { return };
        if !rule.classes.is_empty() && !rule.classes.contains(&exchange.class()) {
            return;
        }
        let mut line = String::with_capacity(128);
        for part in &rule.format {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Value(value) => write_value(value, exchange, sent, &mut line),
                Part::Label(label) => line.push_str(exchange.told(label).unwrap_or("-")),
                Part::Empty => line.push('-'),
            }
        }
        say::say(Level::Info, format_args!("{line}"));
    }
}

fn write_value(value: &str, exchange: &Exchange, sent: &Sent, line: &mut String) {
    let Exchange { asked, from, original, reply, .. } = exchange;
    let address = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let limit = if from.transport.is_stream() { 65_535 } else { asked.udp_size() };
    // Writing to a String does not fail.
    let _ = match value {
        "{type}" => write!(line, "{}", original.rtype),
        "{name}" => write!(line, "{}", original.name.lowercase()),
        "{class}" => write!(line, "{}", original.class),
        "{proto}" => write!(line, "{}", from.transport.protocol()),
        "{size}" => write!(line, "{}", asked.size),
        "{remote}" => write!(line, "{}", address(from.client.ip())),
        "{port}" => write!(line, "{}", from.client.port()),
        "{local}" => write!(line, "{}", address(from.local.ip())),
        "{>id}" => write!(line, "{}", asked.id),
        "{>opcode}" => write!(line, "{}", asked.flags >> 11 & 15),
        "{>do}" => write!(line, "{}", asked.dnssec_ok()),
        "{>bufsize}" => write!(line, "{limit}"),
        "{rcode}" => write!(line, "{}", reply.rcode),
        "{rsize}" => write!(line, "{}", sent.bytes),
        "{duration}" => write!(line, "{:.9}s", sent.took.as_secs_f64()),
        "{>rflags}" => write!(line, "{}", flag_words(sent.flags)),
        _ => Ok(()),
    };
}

fn flag_words(word: u16) -> String {
    let all = [
        (flags::QR, "qr"),
        (flags::AA, "aa"),
        (flags::TC, "tc"),
        (flags::RD, "rd"),
        (flags::RA, "ra"),
        (flags::Z, "z"),
        (flags::AD, "ad"),
        (flags::CD, "cd"),
    ];
    let set: Vec<&str> = all.iter().filter(|(bit, _)| word & bit != 0).map(|(_, name)| *name).collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            parts("a {type}} { {>ID} {/x/y}b"),
            [
                text("a "),
                Part::Value("{type}"),
                text("}"),
                text(" { "),
                Part::Value("{>id}"),
                text(" "),
                Part::Label("x/y".to_owned()),
                text("b")
            ]
        );
        assert_eq!(parts(COMMON).iter().filter(|part| matches!(part, Part::Value(_))).count(), 14);
        assert_eq!(flag_words(flags::QR | flags::AA | flags::RD), "qr,aa,rd");
    }
}
