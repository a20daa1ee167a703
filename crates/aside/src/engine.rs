//! The decision. Each backend of which anything was heard has a record; what is remembered is bounded.
//!
//! ```text
//!             evidence ─> probe ─┬─ accepted ─────────────────────────> good (evidence is passed over for a while)
//!                                ├─ no control accepted ──────────────> good (it is us, or there is nobody else)
//!                                ├─ silent, but clients were answered ─> good
//!                                ├─ refused ──────────────────────────> aside
//!                                ├─ silent, and so is its host ───────> aside
//!                                └─ silent, but its host lives ─> busy ─ thrice, and for 1.5 s ─> aside
//!                                                                  └─ accepted ─> good
//!             aside: probed every second; the first time a backend is back as soon as it accepts
//! ```

use crate::record::{Aside, Back, Record, Standing, Turn, Why};
use crate::{Answer, BackendKey, Outcome, Sign, Thresholds, Trial};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Of how many backends anything is remembered. When that many are under suspicion or aside, more are
/// not taken in until some are not.
const RECORDS_MAX: usize = 4096;
/// How often room is made.
const CLEAR_EVERY: Duration = Duration::from_secs(1);
/// For how long evidence is passed over once a probe was answered: at first, and at most. Where replies
/// take another way, evidence never ends.
const DEAF_FIRST: Duration = Duration::from_secs(1);
const DEAF_MAX: Duration = Duration::from_secs(10);
/// For how long what is no backend of ours is passed over.
const STRANGER: Duration = Duration::from_secs(10);
/// For how long nothing is asked again where the control failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A backend whose host lives is asked so often, and must fail so many times over at least so long.
const BUSY_EVERY: Duration = Duration::from_millis(500);
const BUSY_FAILURES: u32 = 4;
const BUSY_FOR: Duration = Duration::from_millis(1500);
/// How often a backend that is aside is asked: for the first half minute, and then.
const PROBATION: Duration = Duration::from_secs(1);
const PROBATION_SOON: Duration = Duration::from_secs(30);
const PROBATION_LATER: Duration = Duration::from_secs(5);
/// A trial that nobody reports on for so long is lost.
const TRIAL_LOST: Duration = Duration::from_secs(5);
/// A backend may take this many times as long as it ever took.
const SLOWER: u32 = 4;

/// Decides.
#[derive(Clone, Debug)]
pub struct Engine {
    thresholds: Thresholds,
    records: HashMap<BackendKey, Record>,
    /// When room was last made.
    cleared: Duration,
}

impl Engine {
    /// Nothing is held against anybody.
    pub fn new(thresholds: Thresholds) -> Engine {
        Engine { thresholds, records: HashMap::new(), cleared: Duration::ZERO }
    }

    /// Whether evidence against this backend calls for a trial: then find out who it is and
    /// [`suspect`](Self::suspect) it.
    pub fn is_news(&mut self, now: Duration, backend: BackendKey) -> bool {
        match self.records.get(&backend) {
            Some(record) => {
                record.standing == Standing::Good && record.deaf_until <= now && !record.is_on_trial(now)
            }
            None => {
                self.make_room(now);
                self.records.len() < RECORDS_MAX
            }
        }
    }

    /// There is evidence against a backend. `controls` are others of its pools, none when it is no
    /// backend of ours or the only one; `sign` is `None` when it merely stands on a node of which
    /// another has gone silent.
    pub fn suspect(
        &mut self,
        now: Duration,
        backend: BackendKey,
        sign: Option<Sign>,
        controls: Vec<SocketAddr>,
    ) -> Option<Trial> {
        if !self.is_news(now, backend) {
            return None;
        }
        let record = self.records.entry(backend).or_insert_with(|| Record::new(now));
        if controls.is_empty() {
            record.pass_over(now, STRANGER);
            return None;
        }
        record.controls = controls;
        record.accused = sign.is_some();
        Some(record.trial(now, backend, sign == Some(Sign::Unanswered), self.thresholds.probe))
    }

    /// What came of a trial.
    pub fn judge(&mut self, now: Duration, backend: BackendKey, outcome: Outcome) -> Option<Turn> {
        let thresholds = self.thresholds;
        let record = self.records.get_mut(&backend)?;
        record.on_trial = None;
        let Outcome { answer, lives, control, stands } = outcome;
        match (answer, record.standing) {
            (Answer::Accepted(took), standing) => {
                record.takes = record.takes.max(took);
                match standing {
                    Standing::Aside { since, until, .. } if until <= now => {
                        record.come_back(now, &thresholds);
                        Some(Turn::Back(Back { backend, after: now.saturating_sub(since) }))
                    }
                    Standing::Aside { .. } => None,
                    Standing::Good | Standing::Busy { .. } => {
                        record.standing = Standing::Good;
                        // Who was asked for another's sake may be accused the next moment.
                        if record.accused {
                            record.be_deaf(now);
                        }
                        None
                    }
                }
            }
            (_, Standing::Aside { .. }) => None,
            (_, _) if !control => {
                record.standing = Standing::Good;
                record.pass_over(now, PAUSE);
                None
            }
            (Answer::Refused, _) => Some(record.set_aside(now, backend, Why::Refusing, &thresholds)),
            (Answer::Silent, _) if !stands => {
                record.standing = Standing::Good;
                record.be_deaf(now);
                None
            }
            (Answer::Silent, Standing::Good) if !lives => {
                Some(record.set_aside(now, backend, Why::Silent, &thresholds))
            }
            (Answer::Silent, Standing::Good) => {
                let next = now + BUSY_EVERY;
                record.standing = Standing::Busy { since: now, failures: 1, next };
                None
            }
            (Answer::Silent, Standing::Busy { since, failures, .. }) => {
                let failures = failures + 1;
                if failures >= BUSY_FAILURES && now.saturating_sub(since) >= BUSY_FOR {
                    let why = if lives { Why::Stuck } else { Why::Silent };
                    return Some(record.set_aside(now, backend, why, &thresholds));
                }
                record.standing = Standing::Busy { since, failures, next: now + BUSY_EVERY };
                None
            }
        }
    }

    /// The trials that time brings. At most so many: others come the next time.
    pub fn due(&mut self, now: Duration, most: usize) -> Vec<Trial> {
        let probe = self.thresholds.probe;
        let due = |record: &Record| record.next().is_some_and(|next| next <= now) && !record.is_on_trial(now);
        let due = self.records.iter_mut().filter(|(_, record)| due(record)).take(most);
        due.map(|(backend, record)| {
            record.schedule(now);
            let asked = matches!(record.standing, Standing::Busy { .. });
            record.trial(now, *backend, asked, probe)
        })
        .collect()
    }

    /// When something will be due.
    pub fn next(&self) -> Option<Duration> {
        self.records.values().filter_map(Record::next).min()
    }

    /// Who is set aside, those who were first first.
    pub fn aside(&self) -> Vec<Aside> {
        let mut all: Vec<Aside> =
            self.records.iter().filter_map(|(backend, record)| record.aside(*backend)).collect();
        all.sort_unstable_by_key(|aside| (aside.since, aside.backend));
        all
    }

    /// Whether this one is.
    pub fn is_aside(&self, backend: &BackendKey) -> bool {
        self.records.get(backend).is_some_and(|record| matches!(record.standing, Standing::Aside { .. }))
    }

    /// The backend has gone, or has become another: nothing is held against it.
    pub fn forget(&mut self, backend: &BackendKey) {
        self.records.remove(backend);
    }

    /// Somebody before us set it aside. It is asked at once.
    pub fn adopt(&mut self, now: Duration, backend: BackendKey, why: Why, controls: Vec<SocketAddr>) {
        if self.records.len() < RECORDS_MAX && !self.records.contains_key(&backend) {
            let mut record = Record::new(now);
            record.times = 1;
            record.controls = controls;
            record.standing = Standing::Aside { since: now, why, until: now, next: now };
            self.records.insert(backend, record);
        }
    }

    /// Drops what is no longer worth keeping, once there is much.
    fn make_room(&mut self, now: Duration) {
        if self.records.len() >= RECORDS_MAX && now.saturating_sub(self.cleared) >= CLEAR_EVERY {
            self.cleared = now;
            self.records.retain(|_, record| record.standing != Standing::Good || record.keep_until > now);
        }
    }
}

impl Record {
    fn new(now: Duration) -> Record {
        Record {
            standing: Standing::Good,
            deaf_until: now,
            deaf_for: DEAF_FIRST,
            keep_until: now,
            on_trial: None,
            accused: false,
            times: 0,
            takes: Duration::ZERO,
            controls: Vec::new(),
        }
    }

    fn is_on_trial(&self, now: Duration) -> bool {
        self.on_trial.is_some_and(|began| now.saturating_sub(began) < TRIAL_LOST)
    }

    fn trial(&mut self, now: Duration, backend: BackendKey, asked: bool, probe: Duration) -> Trial {
        self.on_trial = Some(now);
        let patience = probe.max(self.takes * SLOWER).min(TRIAL_LOST / 2);
        Trial { backend, controls: self.controls.clone(), patience, asked }
    }

    fn next(&self) -> Option<Duration> {
        match self.standing {
            Standing::Good => None,
            Standing::Busy { next, .. } | Standing::Aside { next, .. } => Some(next),
        }
    }

    /// Sets the time of the next trial, this one being under way.
    fn schedule(&mut self, now: Duration) {
        match &mut self.standing {
            Standing::Good => {}
            Standing::Busy { next, .. } => *next = now + BUSY_EVERY,
            Standing::Aside { since, next, .. } => {
                let soon = now.saturating_sub(*since) < PROBATION_SOON;
                *next = now + if soon { PROBATION } else { PROBATION_LATER };
            }
        }
    }

    fn pass_over(&mut self, now: Duration, time: Duration) {
        self.deaf_until = now + time;
        self.keep_until = self.keep_until.max(self.deaf_until);
    }

    /// It answers, whatever the evidence says.
    fn be_deaf(&mut self, now: Duration) {
        // Evidence that comes as soon as it is listened to again is of the same making.
        let anew = now.saturating_sub(self.deaf_until) > DEAF_MAX;
        let time = if anew { DEAF_FIRST } else { self.deaf_for };
        self.pass_over(now, time);
        self.deaf_for = (time * 2).min(DEAF_MAX);
    }

    fn set_aside(&mut self, now: Duration, backend: BackendKey, why: Why, thresholds: &Thresholds) -> Turn {
        if now >= self.keep_until {
            self.times = 0;
        }
        // The first time it may be back as soon as it answers: perhaps it was never gone.
        let hold = match self.times {
            0 => Duration::ZERO,
            times => {
                let factor = 1u32.checked_shl(times - 1).unwrap_or(u32::MAX);
                thresholds.hold.saturating_mul(factor).min(thresholds.hold_max)
            }
        };
        self.times = self.times.saturating_add(1);
        let until = now + hold;
        self.standing = Standing::Aside { since: now, why, until, next: now + PROBATION };
        Turn::Aside(Aside { backend, since: now, why, until, times: self.times })
    }

    fn come_back(&mut self, now: Duration, thresholds: &Thresholds) {
        self.standing = Standing::Good;
        self.deaf_until = now;
        self.deaf_for = DEAF_FIRST;
        // It is the same story if it goes again before that.
        self.keep_until = now + thresholds.hold_max * 2;
    }

    fn aside(&self, backend: BackendKey) -> Option<Aside> {
        match self.standing {
            Standing::Aside { since, why, until, next: _ } => {
                Some(Aside { backend, since, why, until, times: self.times })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
