//! `reload`: takes a changed Corefile, with all that it imports, into force by itself.
//!
//! ```text
//! reload [INTERVAL [JITTER]]      by default 30s 15s
//! ```

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::setup::{Setting, duration};
use std::sync::Arc;
use std::time::Duration;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
const INTERVAL_MIN: Duration = Duration::from_secs(2);
const JITTER_DEFAULT: Duration = Duration::from_secs(15);
const JITTER_MIN: Duration = Duration::from_secs(1);

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = match setting.lines {
        [line, ..] => line,
        [] => return Ok(None),
    };
    line.no_block()?;
    let (mut interval, mut jitter) = (INTERVAL_DEFAULT, JITTER_DEFAULT);
    if let Some(word) = line.args.first() {
        interval = duration(word)?;
        if interval < INTERVAL_MIN {
            return Err(word.error(format_args!("not less than {INTERVAL_MIN:?}")));
        }
    }
    if let Some(word) = line.args.get(1) {
        jitter = duration(word)?;
        if !jitter.is_zero() && jitter < JITTER_MIN {
            return Err(word.error(format_args!("zero, or not less than {JITTER_MIN:?}")));
        }
    }
    if let Some(extra) = line.args.get(2) {
        return Err(extra.error("reload takes two durations"));
    }
    let jitter = jitter.min(interval / 2);
    setting.process.reload = Some((interval, jitter));
    Ok(None)
}
