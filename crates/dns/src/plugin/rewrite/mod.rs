//! `rewrite`: changes questions on their way in, and answers to fit on their way out.
//!
//! ```text
//! rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer ...]
//! rewrite [continue|stop] type|class FROM TO
//! rewrite [continue|stop] ttl [exact|...] NAME SECONDS|MIN-MAX
//! rewrite [continue|stop] rcode [exact|...] NAME FROM TO
//! rewrite [continue|stop] cname [exact|...] FROM TO
//! rewrite [continue|stop] edns0 local|nsid|subnet set|append|replace|unset ... [revert]
//! ```
//!
//! Names are compared as text, in lower case and with their last dot, as CoreDNS does.

mod edns;
mod names;
mod rules;

#[cfg(test)]
mod tests;

use crate::chain::{At, Later, Onward, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome};
use crate::setup::Setting;
use names::{Matcher, Rewriter};
use rules::{Change, Rule};
use std::sync::Arc;
use wire::{Edns, Name, Owner, Question, Rcode, Reply, Section, Type};

struct Rewrite {
    rules: Vec<Rule>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let rules = setting.lines.iter().map(|line| rules::read(line)).collect::<Result<_, _>>()?;
    Ok(Some(Arc::new(Rewrite { rules })))
}

/// What is to be done to a record of the answer.
#[derive(Clone)]
enum Response {
    /// Its owner.
    Owner(Rewriter),
    /// The name in its data.
    Value(Rewriter),
    Ttl(u32, u32),
    Rcode(Rcode, Rcode),
    Cname(Arc<Matcher>),
}

/// What is remembered of a question that was changed.
struct Rewritten {
    question: Question,
    edns: Option<Edns>,
    responses: Vec<Response>,
    /// EDNS options that the answer carries, too.
    echoes: Vec<u16>,
    /// EDNS as it is after those changes that the answer shows.
    shown: Vec<u8>,
}

impl Plugin for Rewrite {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let mut rewritten = Rewritten {
            question: exchange.asked.question,
            edns: exchange.asked.edns().cloned(),
            responses: Vec::new(),
            echoes: Vec::new(),
            shown: exchange.asked.edns().map(|edns| edns.options.clone()).unwrap_or_default(),
        };
        let mut any = false;
        for rule in &self.rules {
            let name = exchange.asked.question.name.lowercase().to_string();
            match rule.apply(exchange, &name, &mut rewritten) {
                Ok(false) => continue,
                Ok(true) => any = true,
                Err(what) => {
                    exchange.asked.question = rewritten.question;
                    return Step::Done(Outcome::Failed(what));
                }
            }
            if rule.stop {
                break;
            }
        }
        if any {
            exchange.note(at.index, rewritten);
        }
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, at: &At<'_>) -> Onward {
        let Some(rewritten) = exchange.take_note::<Rewritten>(at.index) else { return Onward::Done };
        let asked = exchange.asked.question;
        revert(exchange, &asked.name, &rewritten);
        edns::echo(&rewritten.shown, &rewritten.echoes, &mut exchange.reply.options);
        exchange.asked.question = rewritten.question;
        exchange.asked.set_edns(rewritten.edns.clone());
        if rewritten.responses.iter().any(|response| target_of(exchange, response).is_some()) {
            exchange.note(at.index, (*rewritten, asked.rtype));
            return Onward::Later;
        }
        Onward::Done
    }

    fn answered_later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let Some(note) = exchange.take_note::<(Rewritten, Type)>(at.index) else { return };
            let (rewritten, rtype) = *note;
            for response in rewritten.responses.iter().rev() {
                let Some((index, target)) = target_of(exchange, response) else { continue };
                if let Some(found) = at.look_up(exchange, target, rtype).await {
                    replace_target(exchange, index, &target, &found);
                }
            }
        })
    }
}

impl Rule {
    /// Whether it was for this question, whose name is `name` in lower case.
    fn apply(&self, exchange: &mut Exchange, name: &str, rewritten: &mut Rewritten) -> Result<bool, String> {
        let question = &mut exchange.asked.question;
        match &self.change {
            Change::Name { matcher, auto, answers } => {
                let Some(new) = matcher.rewrite(name) else { return Ok(false) };
                question.name = new.parse().map_err(|_| format!("invalid name after rewrite: {new}"))?;
                if let Some(rewriter) = auto.rewriter(matcher, &question.name.to_string(), name) {
                    rewritten.responses.push(Response::Owner(rewriter.clone()));
                    rewritten.responses.push(Response::Value(rewriter));
                }
                rewritten.responses.extend(answers.iter().cloned());
            }
            Change::Type(from, to) if question.rtype == *from => question.rtype = *to,
            Change::Class(from, to) if question.class == *from => question.class = *to,
            Change::Type(..) | Change::Class(..) => return Ok(false),
            Change::Response(matcher, response) => {
                if !matcher.as_ref().is_none_or(|matcher| matcher.matches(name)) {
                    return Ok(false);
                }
                rewritten.responses.push(response.clone());
            }
            Change::Edns(rule) => {
                if !rule.apply(exchange) {
                    return Ok(false);
                }
                if let Some(code) = rule.echoed()
                    && !rewritten.echoes.contains(&code)
                {
                    rewritten.echoes.push(code);
                }
                if !rule.revert {
                    let edns = exchange.asked.edns();
                    rewritten.shown = edns.map(|edns| edns.options.clone()).unwrap_or_default();
                }
            }
        }
        Ok(true)
    }
}

/// Applies what is to be done to answers. Those of the question belong to the name that was asked for.
fn revert(exchange: &mut Exchange, asked: &Name, rewritten: &Rewritten) {
    let original = rewritten.question.name;
    let mut reply = Reply::default();
    reply.copy_from(&exchange.reply);
    reply.retain(|_| false);
    for response in rewritten.responses.iter().rev() {
        if let Response::Rcode(from, to) = response
            && reply.rcode == *from
        {
            reply.rcode = *to;
        }
    }
    for record in exchange.reply.records() {
        let mut owner = exchange.reply.owner(record, asked);
        let mut rdata = exchange.reply.rdata(record).to_vec();
        let mut ttl = record.ttl;
        for response in rewritten.responses.iter().rev() {
            match response {
                Response::Owner(rewriter) => owner = rewriter.name(&owner),
                Response::Value(rewriter) => names::rewrite_value(record.rtype, &mut rdata, rewriter),
                Response::Ttl(least, most) => ttl = ttl.max(*least).min(*most),
                Response::Rcode(..) | Response::Cname(_) => {}
            }
        }
        let owner = if owner.is(&original) { Owner::QUESTION } else { reply.own(&owner) };
        reply.push(record.section, owner, record.rtype, ttl, &rdata);
        if let Some(last) = reply.records_mut().last_mut() {
            last.class = record.class;
        }
    }
    exchange.reply = reply;
}

/// The first CNAME that a rule is for, and where it is to lead.
fn target_of(exchange: &Exchange, response: &Response) -> Option<(usize, Name)> {
    let Response::Cname(matcher) = response else { return None };
    let mut records = exchange.reply.records().iter().enumerate();
    records.find_map(|(index, record)| {
        if record.section != Section::Answer || record.rtype != Type::CNAME {
            return None;
        }
        let target = exchange.reply.target(record)?;
        let new: Name = matcher.rewrite(&target.lowercase().to_string())?.parse().ok()?;
        (!new.is(&target)).then_some((index, new))
    })
}

/// Lets a CNAME lead elsewhere: what followed it is replaced by what is found there.
fn replace_target(exchange: &mut Exchange, index: usize, target: &Name, found: &Reply) {
    let reply = &mut exchange.reply;
    reply.set_rdata(index, target.as_bytes());
    let mut place = 0;
    reply.retain(|record| {
        let keep = record.section != Section::Answer || place <= index;
        place += 1;
        keep
    });
    reply.truncated = found.truncated;
    reply.extend(found, target, |record| record.section == Section::Answer);
}
