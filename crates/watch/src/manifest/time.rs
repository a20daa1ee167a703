//! Timestamps of RFC 3339, as Kubernetes writes them, to seconds since 1970. No clock is read here.

use std::time::{Duration, SystemTime};

/// The same with its fraction; `None` also for what was before 1970.
pub(crate) fn moment(text: &str) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds(text)?).ok()?;
    let digits = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = digits.chars().take_while(char::is_ascii_digit).chain("000000000".chars()).take(9);
    let nanos = digits.collect::<String>().parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// `2024-02-29T23:59:60+01:00` and the like; fractions of a second are dropped. `None` when the text
/// is no such timestamp.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't'])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    // 60 is a leap second.
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset_s = offset(fraction(rest)?)?;
    let days = days_before_year(year) + days_before_month(year, month) + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second - offset_s)
}

/// The timestamp of so many seconds since 1970.
pub(crate) fn text(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Too early by a few years, so this ends soon.
    let year_days = if days < 0 { 365 } else { 366 };
    let mut year = 1969 + days.div_euclid(year_days);
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let day = days - days_before_year(year);
    let month = (1..=12).rev().find(|month| days_before_month(year, *month) <= day).unwrap_or(1);
    let day = day - days_before_month(year, month) + 1;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Three numbers with a sign between them, each of so many digits.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// What is behind a fraction of a second, where there is one.
fn fraction(text: &str) -> Option<&str> {
    let Some(digits) = text.strip_prefix(['.', ',']) else { return Some(text) };
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < digits.len()).then_some(rest)
}

/// Seconds east of Greenwich.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let (sign, clock) =
        if let Some(clock) = text.strip_prefix('+') { (1, clock) } else { (-1, text.strip_prefix('-')?) };
    let [hour, minute, _] = numbers(&format!("{clock}:00"), ':', [2, 2, 2])?;
    (hour < 24 && minute < 60).then_some(sign * (hour * 60 + minute) * 60)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_before_month(year: i64, month: i64) -> i64 {
    (1..month).map(|month| days_of(year, month)).sum()
}

/// Days from 1 January 1970 to 1 January of a year of the Gregorian calendar.
fn days_before_year(year: i64) -> i64 {
    let before = |year: i64| {
        let year = year - 1;
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)
    };
    before(year) - before(1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let cases = [
            ("2024-05-06T07:08:09Z", Some((1_714_979_289, 0))),
            ("2024-05-06T09:08:09.25+02:00", Some((1_714_979_289, 250_000_000))),
            ("2024-05-06T07:08:09.0123456789Z", Some((1_714_979_289, 12_345_678))),
            ("1969-12-31T23:59:59Z", None),
            ("yesterday", None),
        ];
        for (text, want) in cases {
            let want = want.map(|(s, n)| SystemTime::UNIX_EPOCH + Duration::new(s, n));
            assert_eq!(moment(text), want, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        let good = [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2024-05-06T07:08:09Z", 1_714_979_289),
            ("2024-05-06T07:08:09.123456Z", 1_714_979_289),
            ("2024-05-06T09:08:09+02:00", 1_714_979_289),
            ("2024-05-06T01:38:09-05:30", 1_714_979_289),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
        ];
        for (text, want) in good {
            assert_eq!(seconds(text), Some(want), "{text}");
            assert_eq!(seconds(&super::text(want)), Some(want), "{text}");
        }
        assert_eq!(super::text(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(super::text(-1), "1969-12-31T23:59:59Z");
        let bad = [
            "",
            "2024-05-06",
            "2024-05-06T07:08:09",
            "2024-13-06T07:08:09Z",
            "2023-02-29T07:08:09Z",
            "2024-00-06T07:08:09Z",
            "2024-05-06T24:08:09Z",
            "2024-05-06T07:08:09.Z",
            "2024-05-06T07:08:09+0200",
            "2024-05-06 07:08:09Z",
            "+024-05-06T07:08:09Z",
            "2024-05-0\u{e9}T07:08:09Z",
        ];
        for text in bad {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
