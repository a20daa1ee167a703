//! Moments as people and JSON write them. No clock is read here.

use std::fmt;
use std::time::SystemTime;

/// A moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// The year.
    pub year: u64,
    /// The month, from 1.
    pub month: u64,
    /// The day of the month, from 1.
    pub day: u64,
    /// The hour.
    pub hour: u64,
    /// The minute.
    pub minute: u64,
    /// The second.
    pub second: u64,
    /// Nanoseconds beside.
    pub nanos: u32,
    /// The day of the week, from 0 for Sunday.
    pub weekday: u64,
}

impl Utc {
    /// The days' part is Howard Hinnant's `civil_from_days`. Before 1970 is 1970.
    pub fn of(moment: SystemTime) -> Utc {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Utc {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanos: since.subsec_nanos(),
            weekday: (seconds / 86_400 + 4) % 7,
        }
    }

    /// RFC 3339 with six digits of a second, no more and no fewer: Kubernetes' `MicroTime`.
    pub fn micros(&self) -> String {
        let Utc { year, month, day, hour, minute, second, nanos, weekday: _ } = *self;
        let micros = nanos / 1000;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }

    /// As HTTP's `Date` has it.
    pub fn http(&self) -> String {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Utc { year, month, day, hour, minute, second, nanos: _, weekday } = *self;
        let name = |names: &[&'static str], index: u64| {
            usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or_default()
        };
        let (weekday, month) = (name(&DAYS, weekday), name(&MONTHS, month.saturating_sub(1)));
        format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

/// RFC 3339, with as many nanoseconds as there are.
impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Utc { year, month, day, hour, minute, second, nanos, weekday: _ } = *self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if nanos > 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, 0, "2000-02-29T00:00:00Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_704_067_199, 250_000_000, "2023-12-31T23:59:59.25Z", "Sun, 31 Dec 2023 23:59:59 GMT"),
            (1_709_251_200, 1, "2024-03-01T00:00:00.000000001Z", "Fri, 01 Mar 2024 00:00:00 GMT"),
        ];
        for (seconds, nanos, rfc3339, http) in cases {
            let utc = Utc::of(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos));
            assert_eq!((utc.to_string().as_str(), utc.http().as_str()), (rfc3339, http));
            assert_eq!(utc.micros().len(), "2023-12-31T23:59:59.250000Z".len());
        }
    }
}
