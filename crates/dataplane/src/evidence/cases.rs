//! Connections that backends have not answered yet, as far as they were noted.
//!
//! Pure: the connection tracker is a function here.

use aside::BackendKey;
use netlink::conntrack::Tuple;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a connection may go unanswered without being held against anybody.
const ANSWER_MAX: Duration = Duration::from_millis(20);
/// How long a case stands after the last connection that went unanswered.
const STANDS: Duration = Duration::from_secs(3);
/// How many backends there are cases against, and connections in each.
const CASES_MAX: usize = 1024;
const FLOWS_MAX: usize = 4;
/// Of how many connections the tracker is asked again at one look, about: when more go unanswered, they take
/// turns.
const AGAIN_MAX: usize = 256;

/// What the connection tracker knows of a connection: who is to answer it, and whether anything came back.
pub(super) type Known = Option<(BackendKey, bool)>;

/// Who was asked and has answered nobody since.
#[derive(Debug, Default)]
pub(super) struct Cases {
    open: HashMap<BackendKey, Case>,
    /// Noted connections that have been looked into.
    done: HashSet<Tuple>,
    /// Whose turn it is.
    turn: usize,
}

#[derive(Debug)]
struct Case {
    /// When a connection was last added.
    fed: Instant,
    flows: Vec<Tuple>,
}

impl Cases {
    /// Takes in the connections that are noted now, and how old these notes are; looks into those that are
    /// due, and again into those that were unanswered. A backend that has answered one is cleared of all.
    pub(super) fn look<E>(
        &mut self,
        now: Instant,
        noted: &[(Tuple, Duration)],
        mut ask: impl FnMut(&Tuple) -> Result<Known, E>,
    ) -> Result<(), E> {
        let mut cleared = Vec::new();
        let turns = self.open.values().map(|case| case.flows.len()).sum::<usize>() / AGAIN_MAX + 1;
        self.turn = self.turn.wrapping_add(1);
        for (backend, case) in self.open.iter_mut().skip(self.turn % turns).step_by(turns) {
            let mut left = Vec::new();
            for flow in case.flows.drain(..) {
                match ask(&flow)? {
                    Some((_, true)) => cleared.push(*backend),
                    // One that is forgotten proves nothing, nor one that begins anew, with somebody else.
                    Some((by, false)) if by == *backend => left.push(flow),
                    _ => {}
                }
            }
            case.flows = left;
        }
        let is_over = |case: &Case| case.flows.is_empty() || now.saturating_duration_since(case.fed) > STANDS;
        self.open.retain(|_, case| !is_over(case));
        let seen: HashSet<&Tuple> = noted.iter().map(|(flow, _)| flow).collect();
        self.done.retain(|flow| seen.contains(flow));
        for (flow, _) in noted.iter().filter(|(_, age)| *age >= ANSWER_MAX) {
            if self.done.contains(flow) {
                continue;
            }
            let known = ask(flow)?;
            self.done.insert(*flow);
            match known {
                Some((backend, true)) => cleared.push(backend),
                Some((backend, false)) if self.open.len() < CASES_MAX || self.open.contains_key(&backend) => {
                    let new = || Case { fed: now, flows: Vec::new() };
                    let case = self.open.entry(backend).or_insert_with(new);
                    case.fed = now;
                    if case.flows.len() < FLOWS_MAX {
                        case.flows.push(*flow);
                    }
                }
                _ => {}
            }
        }
        for backend in cleared {
            self.open.remove(&backend);
        }
        Ok(())
    }

    /// Those who have not answered.
    pub(super) fn open(&self) -> impl Iterator<Item = BackendKey> {
        self.open.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Protocol;
    use netlink::conntrack::Detail;
    use std::convert::Infallible;
    use std::net::IpAddr;

    const AGE: Duration = Duration::from_millis(30);

    fn tuple(port: u16) -> Tuple {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let detail = Detail::Ports { source: port, destination: 80 };
        Tuple { source: ip(1), destination: ip(2), protocol: 6, detail }
    }

    fn backend(last: u8) -> BackendKey {
        BackendKey { protocol: Protocol::Tcp, at: ([10, 1, 0, last], 8080).into() }
    }

    /// A look at which the tracker knows these of ports, backends and whether they answered.
    fn look(cases: &mut Cases, now: Instant, noted: &[u16], knows: &[(u16, u8, bool)]) -> Vec<BackendKey> {
        let noted: Vec<_> = noted.iter().map(|port| (tuple(*port), AGE)).collect();
        let done = cases.look(now, &noted, |asked| {
            let found = knows.iter().find(|(port, ..)| tuple(*port) == *asked);
            Ok::<_, Infallible>(found.map(|(_, by, answered)| (backend(*by), *answered)))
        });
        done.unwrap_or_else(|never| match never {});
        let mut open: Vec<_> = cases.open().collect();
        open.sort();
        open
    }

    #[test]
    fn who_answers_has_no_case() {
        let (mut cases, now) = (Cases::default(), Instant::now());
        assert_eq!(look(&mut cases, now, &[1, 2], &[(1, 1, true), (2, 2, false)]), [backend(2)]);
        // It answers somebody else.
        assert_eq!(look(&mut cases, now, &[2, 3], &[(2, 2, false), (3, 2, true)]), []);
        // The note of before is not looked into again.
        assert_eq!(look(&mut cases, now, &[2, 3], &[(2, 2, false), (3, 2, true)]), []);
    }

    #[test]
    fn an_answer_that_is_late_ends_it() {
        let (mut cases, now) = (Cases::default(), Instant::now());
        assert_eq!(look(&mut cases, now, &[1], &[(1, 1, false)]), [backend(1)]);
        assert_eq!(look(&mut cases, now, &[], &[(1, 1, false)]), [backend(1)]);
        assert_eq!(look(&mut cases, now, &[], &[(1, 1, true)]), []);
    }

    #[test]
    fn what_is_forgotten_or_goes_elsewhere_is_no_evidence() {
        for then in [&[][..], &[(1, 2, false)]] {
            let (mut cases, now) = (Cases::default(), Instant::now());
            assert_eq!(look(&mut cases, now, &[1], &[(1, 1, false)]), [backend(1)]);
            assert_eq!(look(&mut cases, now, &[1], then), []);
        }
        let mut cases = Cases::default();
        assert_eq!(look(&mut cases, Instant::now(), &[1], &[]), []);
    }

    #[test]
    fn a_case_ends_some_time_after_the_last_that_feeds_it() {
        let (mut cases, now) = (Cases::default(), Instant::now());
        let knows = [(1, 1, false), (2, 1, false)];
        look(&mut cases, now, &[1], &knows);
        let soon = now + Duration::from_secs(2);
        assert_eq!(look(&mut cases, soon, &[2], &knows), [backend(1)]);
        assert_eq!(look(&mut cases, soon + Duration::from_secs(2), &[], &knows), [backend(1)]);
        assert_eq!(look(&mut cases, soon + Duration::from_secs(4), &[], &knows), []);
    }

    #[test]
    fn young_notes_wait() {
        let (mut cases, now) = (Cases::default(), Instant::now());
        let noted = [(tuple(1), Duration::from_millis(5))];
        let ask = |_: &Tuple| -> Result<Known, Infallible> { panic!("too early") };
        cases.look(now, &noted, ask).unwrap_or_else(|never| match never {});
        assert_eq!(cases.open().count(), 0);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (mut cases, now) = (Cases::default(), Instant::now());
        let noted: Vec<_> = (0..20_000).map(|port| (tuple(port), AGE)).collect();
        let ask = |asked: &Tuple| {
            let Detail::Ports { source, .. } = asked.detail else { return Ok(None) };
            let key = BackendKey { protocol: Protocol::Tcp, at: ([10, 1, 0, 1], source % 2000).into() };
            Ok::<_, Infallible>(Some((key, false)))
        };
        cases.look(now, &noted, ask).unwrap_or_else(|never| match never {});
        assert_eq!(cases.open().count(), CASES_MAX);
        assert!(cases.open.values().all(|case| case.flows.len() <= FLOWS_MAX));
        // They take turns, and all have theirs.
        let (mut asked, mut most) = (HashSet::new(), 0);
        for _ in 0..CASES_MAX * FLOWS_MAX / AGAIN_MAX + 1 {
            let before = asked.len();
            let again = |flow: &Tuple| {
                asked.insert(*flow);
                ask(flow)
            };
            cases.look(now, &[], again).unwrap_or_else(|never| match never {});
            most = most.max(asked.len() - before);
        }
        assert_eq!((asked.len(), cases.open().count()), (CASES_MAX * FLOWS_MAX, CASES_MAX));
        assert!(most <= AGAIN_MAX, "{most} at one look");
    }
}
