//! `header`: sets and clears flags of questions and answers.
//!
//! ```text
//! header {
//!     query|response set|clear aa|ra|rd ...
//! }
//! ```

use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::{Error, Line};
use crate::exchange::Exchange;
use crate::setup::Setting;
use std::sync::Arc;
use wire::flags;

struct Header {
    query: Vec<Change>,
    response: Vec<Change>,
}

/// What becomes of a flag.
struct Change {
    flag: u16,
    set: bool,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut header = Header { query: Vec::new(), response: Vec::new() };
    for line in setting.lines {
        line.no_arguments()?;
        for option in &line.block {
            option.no_block()?;
            let into = match option.name.text.as_str() {
                "query" => &mut header.query,
                "response" => &mut header.response,
                _ => return Err(option.error("neither query nor response")),
            };
            into.extend(changes(option)?);
        }
    }
    if header.query.is_empty() && header.response.is_empty() {
        let line = setting.lines.first();
        return line.map_or(Ok(None), |line| Err(line.error("changes nothing")));
    }
    Ok(Some(Arc::new(header)))
}

fn changes(option: &Line) -> Result<Vec<Change>, Error> {
    let [action, words @ ..] = option.args.as_slice() else { return Err(option.error("takes set or clear")) };
    let set = match action.text.as_str() {
        "set" => true,
        "clear" => false,
        _ => return Err(action.error("neither set nor clear")),
    };
    if words.is_empty() {
        return Err(action.error("takes flags"));
    }
    let change = |word: &crate::corefile::Word| {
        let flag = match word.text.to_ascii_lowercase().as_str() {
            "aa" => flags::AA,
            "ra" => flags::RA,
            "rd" => flags::RD,
            _ => return Err(word.error("not aa, ra or rd")),
        };
        Ok(Change { flag, set })
    };
    words.iter().map(change).collect()
}

impl Plugin for Header {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        for Change { flag, set } in &self.query {
            change(&mut exchange.asked.flags, *flag, *set);
        }
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        for &Change { flag, set } in &self.response {
            match flag {
                flags::AA => exchange.reply.authoritative = set,
                flags::RA => exchange.reply.recursion_available = set,
                // Whether recursion was desired is said by the question.
                _ => change(&mut exchange.asked.flags, flag, set),
            }
        }
        Onward::Done
    }
}

fn change(word: &mut u16, flag: u16, set: bool) {
    if set { *word |= flag } else { *word &= !flag }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};
    use wire::flags;

    #[test]
    fn flags_come_and_go() {
        let bench = Bench::of("header {\nresponse set ra\nresponse clear aa rd\nquery set aa\n}\nwhoami");
        let exchange = bench.exchange_from("10.0.0.1", "a A");
        assert!(exchange.reply.recursion_available && !exchange.reply.authoritative);
        assert_eq!(exchange.asked.flags & (flags::RD | flags::AA), flags::AA);
        let bench = Bench::of("header {\nresponse set aa\nresponse clear aa\n}\nwhoami");
        assert!(!bench.exchange_from("10.0.0.1", "a A").reply.authoritative, "the last has its way");
        for (lines, want) in [
            ("header", "\"header\": changes nothing"),
            ("header {\nanswer set aa\n}", "\"answer\": neither query nor response"),
            ("header {\nquery flip aa\n}", "\"flip\": neither set nor clear"),
            ("header {\nquery set\n}", "\"set\": takes flags"),
            ("header {\nquery set ad\n}", "\"ad\": not aa, ra or rd"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
