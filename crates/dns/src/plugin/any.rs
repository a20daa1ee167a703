//! `any`: answers questions for ANY with next to nothing (RFC 8482).
//!
//! ```text
//! any
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome};
use crate::setup::Setting;
use std::sync::Arc;
use wire::{Owner, Section, Type};

/// The number of the RFC, as CoreDNS has it.
const TTL_S: u32 = 8482;

struct Any;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    line.no_block()?;
    Ok(Some(Arc::new(Any)))
}

impl Plugin for Any {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        if exchange.asked.question.rtype != Type::ANY {
            return Step::Pass;
        }
        let reply = &mut exchange.reply;
        reply.authoritative = true;
        reply.push(
            Section::Answer,
            Owner::QUESTION,
            Type::HINFO,
            TTL_S,
            b"\x0dANY obsoleted\x0cSee RFC 8482",
        );
        Step::Done(Outcome::Records)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn any_is_obsolete() {
        let bench = Bench::of("any\nwhoami");
        assert_eq!(bench.ask("a ANY"), "NOERROR aa a. 8482 IN HINFO \"ANY obsoleted\" \"See RFC 8482\"");
        assert!(bench.ask("a A").contains("_udp"));
    }
}
