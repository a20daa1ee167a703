//! From the words of a `cache` to what it does.

use super::entry::Entry;
use super::store::Kind;
use crate::corefile::{Error, Line, Word, origins};
use crate::setup::{duration, number};
use std::time::{Duration, Instant};
use wire::Name;

/// CoreDNS' numbers (its `plugin/cache`).
const CAPACITY_DEFAULT: usize = 10_000;
const SUCCESS_TTL_MAX_S: u32 = 3600;
const DENIAL_TTL_MAX_S: u32 = 1800;
const TTL_MIN_S: u32 = 5;
/// A failure is not kept for longer (RFC 2308 7.1), nor a failed refresh.
const FAILURE_TTL_MAX: Duration = Duration::from_secs(300);

/// Limits for one kind of answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) capacity: usize,
    pub(super) ttl_s: u32,
    pub(super) ttl_min_s: u32,
}

/// What a `cache` says.
pub(super) struct Options {
    pub(super) zones: Vec<Name>,
    pub(super) success: Limits,
    pub(super) denial: Limits,
    /// How often an entry is asked for before it is refreshed ahead of time; 0 for never.
    pub(super) prefetch: u32,
    /// Hits that lie farther apart do not count.
    pub(super) period: Duration,
    /// Refreshed when so much of its TTL is left.
    pub(super) percentage: u32,
    /// For so long after its end an answer may be given; zero for not.
    pub(super) stale: Duration,
    /// It is checked first.
    pub(super) verify: bool,
    /// For so long; zero for as long as it takes.
    pub(super) verify_timeout: Duration,
    pub(super) stale_ttl_s: u32,
    /// So long after a refresh that failed none is tried.
    pub(super) recheck: Duration,
    pub(super) prefer_positive: bool,
    pub(super) failure_ttl_s: u32,
    disabled: [Vec<Name>; 2],
    pub(super) keep_ttl: bool,
}

impl Options {
    /// Whether answers of this kind about this name are not kept.
    pub(super) fn is_disabled(&self, kind: Kind, name: &Name) -> bool {
        let [success, denial] = &self.disabled;
        let zones = if kind == Kind::Success { success } else { denial };
        zones.iter().any(|zone| name.is_in(zone))
    }

    /// Whether an entry is asked for so often that it is refreshed ahead of time.
    pub(super) fn is_prefetched(&self, entry: &Entry, hits: u32, now: Instant) -> bool {
        let threshold = (u64::from(entry.ttl) * u64::from(self.percentage)).div_ceil(100);
        self.prefetch > 0
            && hits >= self.prefetch
            && entry.seconds_left(now) <= i64::try_from(threshold).unwrap_or(i64::MAX)
    }
}

/// Reads a `cache`.
pub(super) fn read(line: &Line, block_zones: &[Name]) -> Result<Options, Error> {
    let mut options = Options {
        zones: Vec::new(),
        success: Limits { capacity: CAPACITY_DEFAULT, ttl_s: SUCCESS_TTL_MAX_S, ttl_min_s: TTL_MIN_S },
        denial: Limits { capacity: CAPACITY_DEFAULT, ttl_s: DENIAL_TTL_MAX_S, ttl_min_s: TTL_MIN_S },
        prefetch: 0,
        period: Duration::from_secs(60),
        percentage: 10,
        stale: Duration::ZERO,
        verify: false,
        verify_timeout: Duration::ZERO,
        stale_ttl_s: 0,
        recheck: Duration::ZERO,
        prefer_positive: false,
        failure_ttl_s: TTL_MIN_S,
        disabled: Default::default(),
        keep_ttl: false,
    };
    let mut zones = line.args.as_slice();
    if let Some((first, rest)) = zones.split_first()
        && first.text.parse::<i64>().is_ok()
    {
        let ttl_s = ttl(first)?;
        (options.success.ttl_s, options.denial.ttl_s) = (ttl_s, ttl_s);
        zones = rest;
    }
    options.zones = origins(zones, block_zones)?;
    let mut policy = None;
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "success" => limits(option, &mut options.success)?,
            "denial" => limits(option, &mut options.denial)?,
            "prefetch" => prefetch(option, &mut options)?,
            "serve_stale" => serve_stale(option, &mut options)?,
            "serve_stale_policy" => {
                let [word] = option.exactly()?;
                if policy.is_some() {
                    return Err(option.error("only once"));
                }
                if !word.text.eq_ignore_ascii_case("prefer_positive") {
                    return Err(word.error("not prefer_positive"));
                }
                policy = Some(option);
            }
            "servfail" => {
                let [word] = option.exactly()?;
                options.failure_ttl_s = seconds(word, FAILURE_TTL_MAX)?;
            }
            "disable" => disable(option, &mut options)?,
            "keepttl" => {
                option.no_arguments()?;
                options.keep_ttl = true;
            }
            _ => return Err(option.unknown_option("cache")),
        }
    }
    if let Some(policy) = policy {
        if options.stale.is_zero() {
            return Err(policy.error("wants serve_stale"));
        }
        options.prefer_positive = true;
    }
    Ok(options)
}

fn ttl(word: &Word) -> Result<u32, Error> {
    match number(word)? {
        0 => Err(word.error("a TTL of zero")),
        ttl => Ok(ttl),
    }
}

fn limits(option: &Line, limits: &mut Limits) -> Result<(), Error> {
    match option.args.as_slice() {
        [] => return Err(option.error("takes a capacity")),
        [_, _, _, extra, ..] => return Err(extra.error("takes a capacity and two TTLs")),
        [capacity, rest @ ..] => {
            limits.capacity = number(capacity)?;
            if let Some(word) = rest.first() {
                limits.ttl_s = ttl(word)?;
            }
            if let Some(word) = rest.get(1) {
                limits.ttl_min_s = number(word)?;
            }
        }
    }
    Ok(())
}

fn prefetch(option: &Line, options: &mut Options) -> Result<(), Error> {
    let (amount, rest) = match option.args.as_slice() {
        [] => return Err(option.error("takes a number of hits")),
        [_, _, _, extra, ..] => return Err(extra.error("takes a number, a duration and a percentage")),
        [amount, rest @ ..] => (amount, rest),
    };
    options.prefetch = number(amount)?;
    if let Some(word) = rest.first() {
        options.period = duration(word)?;
    }
    if let Some(word) = rest.get(1) {
        let percentage = word.text.strip_suffix('%').and_then(|digits| digits.parse().ok());
        let percentage = percentage.filter(|percentage| (10..=90).contains(percentage));
        options.percentage = percentage.ok_or_else(|| word.error("not between 10% and 90%"))?;
    }
    Ok(())
}

fn serve_stale(option: &Line, options: &mut Options) -> Result<(), Error> {
    (options.verify, options.verify_timeout) = (false, Duration::ZERO);
    (options.stale_ttl_s, options.recheck) = (0, Duration::ZERO);
    options.stale = Duration::from_secs(3600);
    let mut words = option.args.iter();
    if let Some(word) = words.next() {
        options.stale = duration(word)?;
    }
    if let Some(word) = words.next() {
        options.verify = match word.text.to_ascii_lowercase().as_str() {
            "immediate" => false,
            "verify" => true,
            _ => return Err(word.error("neither immediate nor verify")),
        };
    }
    if options.verify
        && let Some(word) = words.next()
    {
        options.verify_timeout = duration(word)?;
    }
    if let Some(word) = words.next() {
        options.stale_ttl_s = seconds(word, Duration::from_secs(u64::from(u32::MAX)))?;
    }
    if let Some(word) = words.next() {
        options.recheck = duration(word)?;
        if options.recheck > FAILURE_TTL_MAX {
            return Err(word.error("more than five minutes"));
        }
    }
    match words.next() {
        Some(extra) => Err(extra.error("one argument too many")),
        None => Ok(()),
    }
}

/// A whole number of seconds, and no more than so many.
fn seconds(word: &Word, most: Duration) -> Result<u32, Error> {
    let time = duration(word)?;
    if time > most {
        return Err(word.error(format_args!("more than {} seconds", most.as_secs())));
    }
    // CoreDNS cuts off what is less than a second, too.
    u32::try_from(time.as_secs()).map_err(|_| word.error("too long"))
}

fn disable(option: &Line, options: &mut Options) -> Result<(), Error> {
    let Some((kind, zones)) = option.at_least_one()?.split_first() else { return Ok(()) };
    let zones = origins(zones, &[Name::ROOT])?;
    let [success, denial] = &mut options.disabled;
    match kind.text.as_str() {
        "success" => *success = zones,
        "denial" => *denial = zones,
        _ => return Err(kind.error("neither success nor denial")),
    }
    Ok(())
}
