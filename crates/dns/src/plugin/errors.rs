//! `errors`: writes down what did not work.
//!
//! ```text
//! errors [stdout] {
//!     stacktrace
//!     consolidate DURATION REGEXP [warning|error|info|debug] [show_first]
//! }
//! ```
//!
//! `consolidate` writes one line for all errors of a kind within a time. There are no stack traces
//! to show, for failures here are values; `stacktrace` is taken, for nothing is missing.

use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::{Error, Line};
use crate::exchange::{Exchange, Outcome};
use crate::say::{self, Level};
use crate::setup::{Setting, duration};
use regex::Regex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 10_000;

struct Errors {
    patterns: Vec<Arc<Pattern>>,
    runtime: Handle,
}

/// Errors of one kind.
struct Pattern {
    period: Duration,
    /// The duration as it stands in the Corefile.
    period_text: String,
    regex: Regex,
    level: Level,
    show_first: bool,
    count: AtomicU32,
    timer: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    match line.args.as_slice() {
        [] => {}
        [word] if word.text == "stdout" => {}
        [word, ..] => return Err(word.error("errors go to stdout only")),
    }
    let mut patterns = Vec::new();
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "stacktrace" => option.no_arguments()?,
            "consolidate" => patterns.push(Arc::new(pattern(option)?)),
            _ => return Err(option.unknown_option("errors")),
        }
    }
    Ok(Some(Arc::new(Errors { patterns, runtime: setting.world.runtime.clone() })))
}

fn pattern(option: &Line) -> Result<Pattern, Error> {
    let [period, regex, rest @ ..] = option.args.as_slice() else {
        return Err(option.error("takes a duration and a regular expression"));
    };
    if regex.text.len() > PATTERN_BYTES_MAX {
        return Err(option.error(format_args!("a pattern of more than {PATTERN_BYTES_MAX} bytes")));
    }
    let mut level = None;
    let mut show_first = false;
    for word in rest {
        match Level::named(&word.text) {
            Some(named) if level.is_none() && !show_first => level = Some(named),
            Some(_) => return Err(word.error("one level, and before show_first")),
            None if word.text == "show_first" => show_first = true,
            None => return Err(word.error("neither a level nor show_first")),
        }
    }
    Ok(Pattern {
        period: duration(period)?,
        period_text: period.text.clone(),
        regex: Regex::new(&regex.text).map_err(|error| regex.error(error))?,
        level: level.unwrap_or(Level::Error),
        show_first,
        count: AtomicU32::new(0),
        timer: Mutex::new(None),
    })
}

impl Plugin for Errors {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        let Some(Outcome::Failed(what)) = &exchange.outcome else { return Onward::Done };
        let by = exchange.settled_by;
        let what = if by.is_empty() { what.clone() } else { format!("plugin/{by}: {what}") };
        let mut level = Level::Error;
        if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.regex.is_match(&what)) {
            let first = pattern.count.fetch_add(1, Ordering::Relaxed) == 0;
            if first {
                pattern.tell_later(&self.runtime);
            }
            if !(first && pattern.show_first) {
                return Onward::Done;
            }
            level = pattern.level;
        }
        let question = &exchange.asked.question;
        let (code, name) = (exchange.reply.rcode.0, question.name.lowercase());
        say::say(level, format_args!("plugin/errors: {code} {name} {}: {what}", question.rtype));
        Onward::Done
    }

    fn stop(&self) {
        for pattern in &self.patterns {
            let timer = pattern.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(timer) = timer {
                timer.abort();
                pattern.tell();
            }
        }
    }
}

impl Pattern {
    fn tell_later(self: &Arc<Self>, runtime: &Handle) {
        let pattern = self.clone();
        let wait = async move {
            tokio::time::sleep(pattern.period).await;
            pattern.tell();
        };
        *self.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime.spawn(wait));
    }

    fn tell(&self) {
        let count = self.count.swap(0, Ordering::Relaxed);
        if count > 1 || count == 1 && !self.show_first {
            let (regex, period) = (&self.regex, &self.period_text);
            let what = format_args!("plugin/errors: {count} errors like '{regex}' occurred in last {period}");
            say::say(self.level, what);
        }
    }
}
