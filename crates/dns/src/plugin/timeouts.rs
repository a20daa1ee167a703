//! `timeouts`: how long connections may take.
//!
//! ```text
//! timeouts {
//!     read DURATION
//!     write DURATION
//!     idle DURATION
//!     maxtcpqueries NUMBER|-1
//! }
//! ```

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::setup::{Setting, duration, number};
use std::sync::Arc;
use std::time::Duration;

/// The shortest and the longest.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_arguments()?;
    if line.block.is_empty() {
        return Err(line.error("takes a block with timeouts"));
    }
    for option in &line.block {
        option.no_block()?;
        let timeouts = &mut setting.block.timeouts;
        let timeout = match option.name.text.as_str() {
            "read" => &mut timeouts.read,
            "write" => &mut timeouts.write,
            "idle" => &mut timeouts.idle,
            "maxtcpqueries" => {
                let [word] = option.exactly()?;
                setting.block.limits.queries = match word.text.as_str() {
                    "-1" => u64::MAX,
                    _ => number(word)?,
                };
                if setting.block.limits.queries == 0 {
                    return Err(word.error("neither a positive number nor -1"));
                }
                continue;
            }
            _ => return Err(option.unknown_option("timeouts")),
        };
        let [word] = option.exactly()?;
        // A bare number is seconds here (CoreDNS' `pkg/durations`).
        let seconds = word.text.parse().ok().map(Duration::from_secs);
        *timeout = seconds.map_or_else(|| duration(word), Ok)?;
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(timeout) {
            return Err(word.error("not between a second and a day"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};
    use std::time::Duration;

    #[test]
    fn limits_of_connections() {
        let bench = Bench::of("timeouts {\nread 7s\nidle 20\n}\nwhoami");
        let timeouts = bench.configuration.servers.values().next().unwrap().timeouts;
        let seconds = Duration::from_secs;
        assert_eq!((timeouts.read, timeouts.write, timeouts.idle), (seconds(7), seconds(5), seconds(20)));
        for (lines, want) in [
            ("timeouts", "\"timeouts\": takes a block with timeouts"),
            ("timeouts {\nread 0s\n}", "\"0s\": not between a second and a day"),
            ("timeouts {\nread 25h\n}", "\"25h\": not between a second and a day"),
            ("timeouts {\nmaxtcpqueries 0\n}", "\"0\": neither a positive number nor -1"),
            ("timeouts {\nwait 5s\n}", "\"wait\": no option of plugin timeouts"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
