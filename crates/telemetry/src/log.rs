//! The log: one line an event on standard error, as text or as JSON.
//!
//! [`error!`](crate::error), [`warn!`](crate::warn) and [`info!`](crate::info) always speak;
//! [`verbose!`](crate::verbose) from a level on, as `-v` says.

use crate::time::Utc;
use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::SystemTime;

static VERBOSITY: AtomicU8 = AtomicU8::new(0);
static JSON: AtomicBool = AtomicBool::new(false);
static QUIET: AtomicBool = AtomicBool::new(false);

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something that was asked for does not work.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What happens.
    Info,
}

/// Says how much is said, and how.
pub fn set_up(verbosity: u8, json: bool) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    JSON.store(json, Ordering::Relaxed);
}

/// Says nothing but what is wrong: for programs whose output is an answer.
pub fn quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether events of this level are told.
pub fn speaks(level: u8) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= level
}

/// Tells an event. A log that cannot be written to is no reason to stop.
pub fn tell(severity: Severity, text: fmt::Arguments<'_>) {
    if severity == Severity::Info && QUIET.load(Ordering::Relaxed) {
        return;
    }
    let now = SystemTime::now();
    let line = if JSON.load(Ordering::Relaxed) {
        let name = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        let text = escape(&text.to_string());
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!(
            "{{\"ts\":{}.{:06},\"level\":\"{name}\",\"msg\":\"{text}\"}}\n",
            since.as_secs(),
            since.subsec_micros()
        )
    } else {
        let letter = match severity {
            Severity::Error => 'E',
            Severity::Warning => 'W',
            Severity::Info => 'I',
        };
        let Utc { month, day, hour, minute, second, nanos, .. } = Utc::of(now);
        let micros = nanos / 1000;
        format!("{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {text}\n")
    };
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// A text as it stands between the quotes of a JSON string.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            c if u32::from(c) < 0x20 => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Tells of something that was asked for and does not work.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::log::tell($crate::log::Severity::Error, format_args!($($text)*)) };
}

/// Tells of something that is not as it should be.
#[macro_export]
macro_rules! warn {
    ($($text:tt)*) => { $crate::log::tell($crate::log::Severity::Warning, format_args!($($text)*)) };
}

/// Tells what happens.
#[macro_export]
macro_rules! info {
    ($($text:tt)*) => { $crate::log::tell($crate::log::Severity::Info, format_args!($($text)*)) };
}

/// Tells what happens, if somebody wants to know at this level.
#[macro_export]
macro_rules! verbose {
    ($level:expr, $($text:tt)*) => {
        if $crate::log::speaks($level) {
            $crate::log::tell($crate::log::Severity::Info, format_args!($($text)*))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json() {
        assert_eq!(escape("a \"b\"\\\n\u{1}ü"), "a \\\"b\\\"\\\\\\n\\u0001ü");
    }
}
