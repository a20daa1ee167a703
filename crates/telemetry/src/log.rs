//! The log: one line an event on standard error, as text or as JSON.
//!
//! [`error!`](crate::error), [`warn!`](crate::warn) and [`info!`](crate::info) always speak;
//! [`verbose!`](crate::verbose) from a level on, as `-v` says.

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
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let line = if JSON.load(Ordering::Relaxed) {
        let name = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        let text = escape(&text.to_string());
        format!(
            "{{\"ts\":{}.{:06},\"level\":\"{name}\",\"msg\":\"{text}\"}}\n",
            now.as_secs(),
            now.subsec_micros()
        )
    } else {
        let letter = match severity {
            Severity::Error => 'E',
            Severity::Warning => 'W',
            Severity::Info => 'I',
        };
        let Clock { month, day, hour, minute, second } = Clock::of(now.as_secs());
        let micros = now.subsec_micros();
        format!("{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {text}\n")
    };
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn escape(text: &str) -> String {
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

/// A moment in UTC, as far as a log line tells it.
#[derive(Debug, PartialEq, Eq)]
struct Clock {
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Clock {
    /// From seconds since 1970: the days' part is Howard Hinnant's `civil_from_days`.
    fn of(seconds: u64) -> Clock {
        let days = seconds / 86_400 + 719_468;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        Clock {
            month: if month < 10 { month + 3 } else { month - 9 },
            day: day_of_year - (153 * month + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
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
    fn clock() {
        let cases = [
            (0, (1, 1, 0, 0, 0)),
            (951_782_400, (2, 29, 0, 0, 0)),
            (1_704_067_199, (12, 31, 23, 59, 59)),
            (1_709_251_200, (3, 1, 0, 0, 0)),
        ];
        for (seconds, (month, day, hour, minute, second)) in cases {
            assert_eq!(Clock::of(seconds), Clock { month, day, hour, minute, second }, "{seconds}");
        }
    }

    #[test]
    fn json_stays_json() {
        assert_eq!(escape("a \"b\"\\\n\u{1}ü"), "a \\\"b\\\"\\\\\\n\\u0001ü");
    }
}
