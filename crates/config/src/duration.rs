//! Durations as Go writes them: `1h30m`, `250ms`, `0s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time of at most 292 years, which may be negative, as Go's `time.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration {
    nanoseconds: i64,
}

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000 * MICROSECOND;
const SECOND: i64 = 1_000 * MILLISECOND;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl GoDuration {
    /// No time at all, which in a configuration means "not given".
    pub const ZERO: GoDuration = GoDuration { nanoseconds: 0 };

    /// So many nanoseconds.
    pub const fn from_nanoseconds(nanoseconds: i64) -> GoDuration {
        GoDuration { nanoseconds }
    }

    /// So many seconds.
    pub const fn from_seconds(seconds: i32) -> GoDuration {
        GoDuration { nanoseconds: seconds as i64 * SECOND }
    }

    /// How many nanoseconds.
    pub const fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }

    /// The time, none where it is negative.
    pub fn time(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanoseconds).unwrap_or(0))
    }

    /// The time, if there is any.
    pub fn positive(self) -> Option<Duration> {
        (self.nanoseconds > 0).then(|| self.time())
    }
}

/// A text is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotADuration {
    text: String,
}

impl fmt::Display for NotADuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a duration such as 5s or 1h30m", self.text)
    }
}

impl std::error::Error for NotADuration {}

impl FromStr for GoDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let fail = || NotADuration { text: text.to_owned() };
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(GoDuration::ZERO);
        }
        if rest.is_empty() {
            return Err(fail());
        }
        // Wider than the result, so that only the sum needs a bound.
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (part, behind) = part(rest).ok_or_else(fail)?;
            total = total.checked_add(part).ok_or_else(fail)?;
            rest = behind;
        }
        let total = if negative { -total } else { total };
        Ok(GoDuration { nanoseconds: i64::try_from(total).map_err(|_| fail())? })
    }
}

/// The nanoseconds of the first number with its unit, and what comes behind.
fn part(text: &str) -> Option<(i128, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, behind) = text.split_at_checked(number_end)?;
    let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
    let (unit, behind) = behind.split_at_checked(unit_end)?;
    let unit = i128::from(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    });
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let value = whole.checked_mul(unit)?.checked_add(share(unit, fraction))?;
    Some((value, behind))
}

/// The decimals of a number, in nanoseconds, rounded down.
fn share(unit: i128, decimals: &str) -> i128 {
    /// More make no difference: an hour has 13 digits of nanoseconds.
    const DIGITS_MAX: usize = 18;
    let (mut value, mut scale) = (0, 1);
    for digit in decimals.bytes().take(DIGITS_MAX) {
        value = value * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    unit * value / scale
}

impl fmt::Display for GoDuration {
    /// As Go prints it, in the largest unit that leaves a whole part: `1h0m0s`, `1.5s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanoseconds < 0 { "-" } else { "" };
        let total = self.nanoseconds.unsigned_abs();
        let second = SECOND.unsigned_abs();
        if total == 0 {
            return f.write_str("0s");
        }
        if total < second {
            let (unit, name) = match total {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (MICROSECOND.unsigned_abs(), "µs"),
                _ => (MILLISECOND.unsigned_abs(), "ms"),
            };
            return write!(f, "{sign}{}{name}", Decimal(total, unit));
        }
        let (minutes, seconds) = (total / (60 * second), total % (60 * second));
        let (hours, minutes) = (minutes / 60, minutes % 60);
        f.write_str(sign)?;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", Decimal(seconds, second))
    }
}

/// A number of units, with as many decimals as it takes.
struct Decimal(u64, u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(value, unit) = *self;
        write!(f, "{}", value / unit)?;
        let (mut rest, mut scale) = (value % unit, unit);
        if rest > 0 {
            f.write_str(".")?;
        }
        while rest > 0 {
            scale /= 10;
            write!(f, "{}", rest / scale)?;
            rest %= scale;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let good = [
            ("0", "0s"),
            ("0s", "0s"),
            ("-0", "0s"),
            ("5s", "5s"),
            ("30s", "30s"),
            ("1478s", "24m38s"),
            ("1h30m", "1h30m0s"),
            ("24h", "24h0m0s"),
            ("15m0s", "15m0s"),
            ("250ms", "250ms"),
            ("1.5h", "1h30m0s"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("10.5s4m", "4m10.5s"),
            ("1us", "1µs"),
            ("1.5µs", "1.5µs"),
            ("52763797000ns", "52.763797s"),
            ("-1.5s", "-1.5s"),
            ("+5s", "5s"),
            ("9223372036854775807ns", "2562047h47m16.854775807s"),
            ("-9223372036854775808ns", "-2562047h47m16.854775808s"),
            ("0.3333333333333333333h", "19m59.999999999s"),
        ];
        for (text, want) in good {
            assert_eq!(text.parse::<GoDuration>().map(|d| d.to_string()), Ok(want.to_owned()), "{text}");
        }
        for text in [
            "",
            "3",
            "-",
            "s",
            ".",
            "-.",
            ".s",
            "+.s",
            "1d",
            "5 s",
            "5S",
            "1h-1m",
            "9223372036854775808ns",
            "3000000h",
            "1..5s",
            "1e3s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_and_read_again(nanoseconds: i64) {
            let duration = GoDuration::from_nanoseconds(nanoseconds);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text(text in "[-+0-9.hmsnuµ]{0,12}|.{0,8}") {
            if let Ok(duration) = text.parse::<GoDuration>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }
}
