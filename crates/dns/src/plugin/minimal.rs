//! `minimal`: leaves out of answers what was not asked for.
//!
//! ```text
//! minimal
//! ```

use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{AnswerClass, Exchange};
use crate::setup::Setting;
use std::sync::Arc;
use wire::{Section, Type};

struct Minimal;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    line.no_block()?;
    Ok(Some(Arc::new(Minimal)))
}

impl Plugin for Minimal {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        let reply = &exchange.reply;
        let referral = reply.count(Section::Answer) == 0
            && reply.section(Section::Authority).any(|record| record.rtype == Type::NS);
        if exchange.class() == AnswerClass::Success && !referral {
            exchange.reply.retain(|record| record.section == Section::Answer);
        }
        Onward::Done
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Act, Bench, Told, soa};
    use wire::{Rcode, Section, Type};

    #[test]
    fn only_answers_but_all_of_denials_and_referrals() {
        let told = Told::new(|asked, _| {
            let answer = (Section::Answer, Type::A, 5, vec![10, 0, 0, 1]);
            let server = (Section::Authority, Type::NS, 5, b"\x02ns\x00".to_vec());
            let extra = (Section::Additional, Type::A, 5, vec![10, 0, 0, 2]);
            let denial = (Section::Authority, Type::SOA, 5, soa(5));
            match asked.question.rtype {
                Type::A => Act::Records(Rcode::NOERROR, vec![answer, server, extra]),
                Type::NS => Act::Records(Rcode::NOERROR, vec![server, extra]),
                _ => Act::Records(Rcode::NXDOMAIN, vec![denial]),
            }
        });
        let bench = Bench::of(&format!("minimal\nforward . {}", told.address));
        assert_eq!(bench.ask("a A"), "NOERROR ra a. 5 IN A 10.0.0.1");
        assert_eq!(bench.ask("a NS"), "NOERROR ra | a. 5 IN NS ns. |+ a. 5 IN A 10.0.0.2");
        assert!(bench.ask("a MX").contains(" SOA "));
    }
}
