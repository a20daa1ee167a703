//! `chaos`: says who we are to those who ask in class CH.
//!
//! ```text
//! chaos [VERSION] [AUTHOR...]
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome};
use crate::setup::{Setting, host_name};
use std::sync::Arc;
use wire::{Class, Owner, Section, Type};

/// The longest text of a TXT record.
const TEXT_BYTES_MAX: usize = 255;

struct Chaos {
    version: String,
    authors: Vec<String>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    for word in &line.args {
        if word.text.len() > TEXT_BYTES_MAX {
            return Err(word.error(format_args!("longer than {TEXT_BYTES_MAX} bytes")));
        }
    }
    let mut words = line.args.iter().map(|word| word.text.clone());
    let version = words.next().unwrap_or_else(|| format!("Portolan-{}", env!("CARGO_PKG_VERSION")));
    Ok(Some(Arc::new(Chaos { version, authors: words.collect() })))
}

impl Plugin for Chaos {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        let question = &exchange.asked.question;
        if question.class != Class::CH || question.rtype != Type::TXT {
            return Step::Pass;
        }
        let texts = match question.name.lowercase().to_string().as_str() {
            "version.bind." | "version.server." => vec![self.version.clone()],
            "authors.bind." => self.authors.clone(),
            "hostname.bind." | "id.server." => vec![host_name()],
            _ => return Step::Pass,
        };
        let reply = &mut exchange.reply;
        for text in texts {
            let text = text.as_bytes().get(..text.len().min(TEXT_BYTES_MAX)).unwrap_or_default();
            let length = u8::try_from(text.len()).unwrap_or(0);
            reply.push_parts(Section::Answer, Owner::QUESTION, Type::TXT, 0, &[&[length], text]);
        }
        for record in reply.records_mut() {
            record.class = Class::CH;
        }
        Step::Done(Outcome::Records)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn who_we_are() {
        let bench = Bench::of("chaos v1 anna \"bert b\"\nwhoami");
        assert_eq!(bench.ask("version.bind TXT ch"), "NOERROR version.bind. 0 CH TXT \"v1\"");
        assert_eq!(bench.ask("Version.Server TXT ch"), "NOERROR Version.Server. 0 CH TXT \"v1\"");
        let authors = "NOERROR authors.bind. 0 CH TXT \"anna\"; authors.bind. 0 CH TXT \"bert b\"";
        assert_eq!(bench.ask("authors.bind TXT ch"), authors);
        assert!(bench.ask("id.server TXT ch").starts_with("NOERROR id.server. 0 CH TXT \""));
        for question in ["version.bind TXT", "version.bind A ch", "other.bind TXT ch"] {
            assert!(bench.ask(question).contains("_udp"), "{question}");
        }
        assert!(Bench::of("chaos").ask("version.bind TXT ch").contains("Portolan-"));
        assert!(refused(&format!("chaos {}", "x".repeat(256))).contains("longer than 255 bytes"));
    }
}
