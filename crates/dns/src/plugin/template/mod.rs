//! `template`: answers with records that are made from the question.
//!
//! ```text
//! template CLASS TYPE [ZONE...] {
//!     match REGEXP...
//!     var NAME EXPRESSION
//!     expr EXPRESSION
//!     answer|additional|authority RECORD
//!     rcode CODE
//!     ederror CODE [REASON]
//!     fallthrough [ZONE...]
//! }
//! ```

mod functions;
mod text;

#[cfg(test)]
mod tests;

use super::fall::Fall;
use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::{Exchange, Outcome};
use crate::expression::{Environment, Expression, Names, Value, is_free_name};
use crate::metrics::Metrics;
use crate::setup::{Setting, number};
use crate::zonefile::parse_record;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::Arc;
use text::{Data, Template};
use wire::{Class, Name, Owner, Question, Rcode, Section, Type};

/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 10_000;
/// The number of the EDNS option for extended errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

struct Templates {
    stanzas: Vec<Stanza>,
    metrics: Arc<Metrics>,
}

/// One `template`.
struct Stanza {
    class: Class,
    rtype: Type,
    zones: Vec<Name>,
    patterns: Vec<Regex>,
    variables: Vec<(String, Expression)>,
    conditions: Vec<Expression>,
    records: Vec<(Section, Template)>,
    rcode: Rcode,
    /// The option that tells of an error.
    extended: Option<Vec<u8>>,
    fall: Fall,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let stanzas =
        setting.lines.iter().map(|line| read(line, &setting.block.zones)).collect::<Result<_, _>>()?;
    Ok(Some(Arc::new(Templates { stanzas, metrics: setting.world.metrics.clone() })))
}

fn read(line: &Line, block_zones: &[Name]) -> Result<Stanza, Error> {
    let [class, rtype, zones @ ..] = line.args.as_slice() else {
        return Err(line.error("takes a class and a type"));
    };
    let mut stanza = Stanza {
        class: class.text.parse().map_err(|()| class.error("no class"))?,
        rtype: rtype.text.parse().map_err(|()| rtype.error("no type"))?,
        zones: origins(zones, block_zones)?,
        patterns: Vec::new(),
        variables: Vec::new(),
        conditions: Vec::new(),
        records: Vec::new(),
        rcode: Rcode::NOERROR,
        extended: None,
        fall: Fall::default(),
    };
    for option in &line.block {
        option.no_block()?;
        stanza.read_option(option)?;
    }
    if stanza.patterns.is_empty() {
        stanza.patterns.push(Regex::new(".*").map_err(|error| line.error(error))?);
    }
    Ok(stanza)
}

impl Stanza {
    fn read_option(&mut self, option: &Line) -> Result<(), Error> {
        let section = match option.name.text.as_str() {
            "answer" => Section::Answer,
            "additional" => Section::Additional,
            "authority" => Section::Authority,
            _ => return self.read_other(option),
        };
        for word in option.at_least_one()? {
            let template = Template::parse(&word.text).map_err(|what| word.error(what))?;
            self.records.push((section, template));
        }
        Ok(())
    }

    fn read_other(&mut self, option: &Line) -> Result<(), Error> {
        let joined = |words: &[crate::corefile::Word]| {
            words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
        };
        let known: Vec<String> = self.variables.iter().map(|(name, _)| name.clone()).collect();
        let names = Names { variables: &known, groups: true, metadata: true };
        match option.name.text.as_str() {
            "match" => {
                for word in option.at_least_one()? {
                    if word.text.len() > PATTERN_BYTES_MAX {
                        return Err(
                            word.error(format_args!("a pattern of more than {PATTERN_BYTES_MAX} bytes"))
                        );
                    }
                    self.patterns.push(Regex::new(&word.text).map_err(|error| word.error(error))?);
                }
            }
            "var" => {
                let [name, rest @ ..] = option.args.as_slice() else {
                    return Err(option.error("takes a name"));
                };
                if !is_free_name(&name.text) {
                    return Err(name.error("no name for a variable"));
                }
                let expression =
                    Expression::parse(&joined(rest), &names).map_err(|what| option.error(what))?;
                self.variables.push((name.text.clone(), expression));
            }
            "expr" => {
                let words = joined(option.at_least_one()?);
                self.conditions.push(Expression::parse(&words, &names).map_err(|what| option.error(what))?);
            }
            "rcode" => {
                let [word] = option.exactly()?;
                self.rcode = word.text.parse().map_err(|()| word.error("no response code"))?;
            }
            "ederror" => {
                let (code, reason) = match option.args.as_slice() {
                    [code] => (code, ""),
                    [code, reason] => (code, reason.text.as_str()),
                    _ => return Err(option.error("takes a code and a reason")),
                };
                let code: u16 = number(code)?;
                let length =
                    u16::try_from(2 + reason.len()).map_err(|_| option.error("too long a reason"))?;
                let head = [EXTENDED_ERROR, length, code].map(u16::to_be_bytes).concat();
                self.extended = Some([&head, reason.as_bytes()].concat());
            }
            "fallthrough" => self.fall.read(option)?,
            "upstream" => {}
            _ => return Err(option.unknown_option("template")),
        }
        Ok(())
    }

    /// Whether it is for such questions; whether it has one of them is another matter.
    fn is_for(&self, question: &Question) -> bool {
        self.zones.iter().any(|zone| question.name.is_in(zone))
            && (self.class == Class::ANY || question.class == Class::ANY || question.class == self.class)
            && (self.rtype == Type::ANY || question.rtype == Type::ANY || question.rtype == self.rtype)
    }

    /// What a question fills it with, if it matches.
    fn matches<'e>(&self, exchange: &'e Exchange) -> Option<Filler<'e>> {
        let question = &exchange.asked.question;
        let name = question.name.lowercase().to_string();
        let pattern = self.patterns.iter().find(|pattern| pattern.is_match(&name))?;
        let zones = self.zones.iter().filter(|zone| question.name.is_in(zone));
        let zone = zones.max_by_key(|zone| zone.label_count())?;
        let mut groups = BTreeMap::new();
        let mut matched = Vec::new();
        if let Some(found) = pattern.captures(&name) {
            for (index, label) in pattern.capture_names().enumerate() {
                let text = found.get(index).map_or("", |group| group.as_str());
                matched.push(Value::from(text));
                groups.insert(index.to_string(), text.to_owned());
                if let Some(label) = label {
                    groups.insert(label.to_owned(), text.to_owned());
                }
            }
        }
        let or = |asked: String, ours: String, any: bool| if any { ours } else { asked };
        let class = or(question.class.to_string(), self.class.to_string(), question.class == Class::ANY);
        let rtype = or(question.rtype.to_string(), self.rtype.to_string(), question.rtype == Type::ANY);
        let mut environment = Environment { exchange: Some(exchange), variables: BTreeMap::new(), groups };
        for (name, expression) in &self.variables {
            let value = expression.evaluate(&environment).ok()?;
            environment.variables.insert(name.clone(), value);
        }
        if !self.conditions.iter().all(|condition| condition.holds(&environment)) {
            return None;
        }
        let regex = pattern.as_str().to_owned();
        Some(Filler { exchange, zone: zone.to_string(), name, regex, matched, class, rtype, environment })
    }
}

/// What templates are filled with.
struct Filler<'e> {
    exchange: &'e Exchange,
    zone: String,
    name: String,
    regex: String,
    matched: Vec<Value>,
    class: String,
    rtype: String,
    environment: Environment<'e>,
}

impl Data for Filler<'_> {
    fn field(&self, path: &[String]) -> Option<Value> {
        let text = |text: &str| Some(Value::from(text));
        let Exchange { asked, from, .. } = self.exchange;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["Zone"] => text(&self.zone),
            ["Name"] => text(&self.name),
            ["Regex"] => text(&self.regex),
            ["Class"] => text(&self.class),
            ["Type"] => text(&self.rtype),
            ["Match"] => Some(Value::List(self.matched.clone())),
            ["Group", name] => text(self.environment.groups.get(*name).map_or("", String::as_str)),
            ["Var", name] => self.environment.variables.get(*name).cloned(),
            ["Remote"] => text(&from.client.ip().to_canonical().to_string()),
            ["Question", "Name"] => text(&asked.question.name.to_string()),
            ["Question", "Qtype"] => Some(Value::Int(i64::from(asked.question.rtype.0))),
            ["Question", "Qclass"] => Some(Value::Int(i64::from(asked.question.class.0))),
            ["Message", "Id"] => Some(Value::Int(i64::from(asked.id))),
            ["Message", "RecursionDesired"] => Some(Value::Bool(asked.recursion_desired())),
            _ => None,
        }
    }

    fn meta(&self, label: &str) -> String {
        self.exchange.told(label).unwrap_or_default().to_owned()
    }
}

/// An alias among the answers, whose target is to be looked up, and how many records stand before what
/// is found.
struct Aliases(Vec<(usize, Name)>);

impl Plugin for Templates {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let question = exchange.asked.question;
        for stanza in self.stanzas.iter().filter(|stanza| stanza.is_for(&question)) {
            let Some(filler) = stanza.matches(exchange) else {
                if stanza.fall.through(&question.name) {
                    continue;
                }
                return Step::Done(silent_failure(exchange));
            };
            let labels = [
                ("server", &*at.chain.server),
                ("zone", &filler.zone),
                ("view", &*at.chain.view),
                ("class", &filler.class),
                ("type", &filler.rtype),
            ];
            let help = "Counter of template regex matches.";
            self.metrics.counter("coredns_template_matches_total", help, &labels).count();
            if stanza.rcode == Rcode::SERVFAIL {
                drop(filler);
                return Step::Done(silent_failure(exchange));
            }
            let made: Result<Vec<_>, _> =
                stanza.records.iter().map(|record| self.make(record, &filler, &labels)).collect();
            let made = match made {
                Ok(made) => made,
                Err(what) => return Step::Done(Outcome::Failed(what)),
            };
            return answer(stanza, exchange, made, at);
        }
        Step::Pass
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            let Some(aliases) = exchange.take_note::<Aliases>(at.index) else { return Step::Pass };
            let rtype = exchange.asked.question.rtype;
            for (_, target) in aliases.0 {
                if let Some(found) = at.look_up(exchange, target, rtype).await {
                    exchange.reply.extend(&found, &target, |record| record.section == Section::Answer);
                    exchange.reply.truncated |= found.truncated;
                }
            }
            Step::Done(Outcome::Given)
        })
    }
}

/// As CoreDNS does, and without a line in the log.
fn silent_failure(exchange: &mut Exchange) -> Outcome {
    exchange.reply.rcode = Rcode::SERVFAIL;
    Outcome::Given
}

fn answer(
    stanza: &Stanza,
    exchange: &mut Exchange,
    made: Vec<(Section, crate::zonefile::Record)>,
    at: &At<'_>,
) -> Step {
    let question = exchange.asked.question;
    let reply = &mut exchange.reply;
    reply.authoritative = true;
    reply.rcode = stanza.rcode;
    if let Some(extended) = &stanza.extended {
        reply.options.extend_from_slice(extended);
    }
    let mut aliases = Vec::new();
    for (section, record) in made {
        let owner = if record.owner.is(&question.name) { Owner::QUESTION } else { reply.own(&record.owner) };
        reply.push(section, owner, record.rtype, record.ttl, &record.rdata);
        if let Some(last) = reply.records_mut().last_mut() {
            last.class = record.class;
        }
        let addressed = [Type::A, Type::AAAA].contains(&question.rtype);
        if section == Section::Answer
            && record.rtype == Type::CNAME
            && addressed
            && let Some(target) = Name::from_bytes(&record.rdata)
        {
            aliases.push((reply.records().len(), target));
        }
    }
    if aliases.is_empty() {
        return Step::Done(Outcome::Given);
    }
    exchange.note(at.index, Aliases(aliases));
    Step::Later
}

impl Templates {
    /// Makes one record.
    fn make(
        &self,
        (section, template): &(Section, Template),
        filler: &Filler<'_>,
        labels: &[(&str, &str); 5],
    ) -> Result<(Section, crate::zonefile::Record), String> {
        let count = |name, help| {
            let section = match section {
                Section::Answer => "answer",
                Section::Authority => "authority",
                Section::Additional => "additional",
            };
            let more = [("section", section), ("template", template.source.as_str())];
            self.metrics.counter(name, help, &[&labels[..], &more].concat()).count();
        };
        let text = template.fill(filler).inspect_err(|_| {
            count("coredns_template_template_failures_total", "Counter of go template failures.");
        })?;
        let record = parse_record(&text).map_err(|what| {
            count("coredns_template_rr_failures_total", "Counter of mis-templated RRs.");
            format!("{text:?}: {what}")
        })?;
        Ok((*section, record))
    }
}
