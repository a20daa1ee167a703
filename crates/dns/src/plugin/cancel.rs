//! `cancel`: gives up what takes too long, without an answer.
//!
//! ```text
//! cancel [TIMEOUT]
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::setup::{Setting, duration};
use std::sync::Arc;
use std::time::Duration;

/// Clients give up after five seconds.
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(5001);

struct Cancel {
    timeout: Duration,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    let timeout = match line.args.as_slice() {
        [] => TIMEOUT_DEFAULT,
        [word] => match duration(word)? {
            Duration::ZERO => return Err(word.error("must be more than nothing")),
            timeout => timeout,
        },
        [_, extra, ..] => return Err(extra.error("cancel takes one argument")),
    };
    Ok(Some(Arc::new(Cancel { timeout })))
}

impl Plugin for Cancel {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        exchange.gives_up = exchange.received.checked_add(self.timeout);
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Act, Bench, Told, refused};
    use std::time::Duration;

    #[test]
    fn what_takes_too_long() {
        let told = Told::new(|asked, _| match asked.question.rtype {
            wire::Type::A => Act::Answer(wire::Rcode::NOERROR, vec![[10, 0, 0, 1]]),
            _ => Act::Slow(Duration::from_secs(4)),
        });
        let bench = Bench::of(&format!("cancel 1500ms\nforward . {}", told.address));
        assert_eq!(bench.ask("a A"), "NOERROR ra a. 30 IN A 10.0.0.1");
        bench.pass_time(Duration::from_millis(10));
        assert_eq!(bench.ask("a MX"), "silence");
        assert!(refused("cancel 0s").contains("\"0s\": must be more than nothing"));
        assert!(refused("cancel 1s 2s").contains("\"2s\": cancel takes one argument"));
    }
}
