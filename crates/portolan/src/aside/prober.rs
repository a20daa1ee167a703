//! The thread that looks at the evidence and makes probes. It decides nothing: what it sees goes to the
//! loop as events, and what it is to do comes from there.
//!
//! All sockets are non-blocking, and of everything there is a bounded number.

use super::asking::{Asking, Said};
use crate::run::Event;
use aside::{Answer, BackendKey, Outcome, Sign, Trial};
use dataplane::evidence::Evidence;
use model::Protocol;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};
use telemetry::{error, info, verbose};

/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The same sign is told again only after so long.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long nothing is tried where the kernel refuses.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a silent backend may take to answer all the same: the kernel sends a SYN again after 1 s.
const LATE: Duration = Duration::from_millis(1300);
/// How many times as long a control may take as the backend.
const CONTROL_SLOWER: u32 = 20;
/// But no trial takes longer, or it would be taken for lost.
const TRIAL_MAX: Duration = Duration::from_secs(4);
/// And how many times as long as a control the backend has at least: where everybody is slow, so may it be.
const SLOWER_THAN_CONTROL: u32 = 4;
/// How many trials are made at once, and how many wait. Those beyond are asked for again.
const TRIALS_AT_ONCE: usize = 64;
const TRIALS_WAITING: usize = 4096;
/// A port where nobody listens: tcpmux, or where that is the backend's own, the one behind.
pub(super) const CLOSED_PORT: u16 = 1;

/// What the thread has to tell.
pub(crate) enum News {
    /// Signs stand against these.
    Signs(Vec<(BackendKey, Sign)>),
    /// Trials have come to something.
    Judged(Vec<(BackendKey, Outcome)>),
}

/// The thread's own.
pub(super) struct Prober {
    pub(super) evidence: Evidence,
    pub(super) orders: Receiver<Trial>,
    /// Readable when there are orders.
    pub(super) woken: UnixStream,
    pub(super) events: SyncSender<Event>,
    pub(super) state: State,
}

/// What it remembers.
#[derive(Default)]
pub(super) struct State {
    waiting: VecDeque<Trial>,
    under_way: Vec<UnderWay>,
    told: HashMap<(BackendKey, Sign), Instant>,
    /// The kernel refused; no look until then.
    paused_until: Option<Instant>,
    complained: bool,
}

/// A trial under way.
struct UnderWay {
    trial: Trial,
    began: Instant,
    target: Asking,
    life: Option<Asking>,
    controls: Vec<Asking>,
    lives: bool,
    /// How long the first control took that answered.
    control_took: Option<Duration>,
    refused: bool,
    /// Its time is up, but not yet by the measure of the controls.
    late: bool,
    /// It has been told that the backend is silent; only a late answer is news.
    told: bool,
}

/// The loop has ended.
struct Gone;

impl Prober {
    /// Works until the loop ends.
    pub(super) fn work(mut self) {
        let mut look = Instant::now();
        loop {
            let next = self.state.next().map_or(look, |next| next.min(look));
            self.wait(next);
            if self.take_orders().is_err() || self.listen().is_err() {
                return;
            }
            let now = Instant::now();
            if look <= now {
                look = now + LOOK_EVERY;
                if self.tell_signs(now).is_err() {
                    return;
                }
            }
        }
    }

    /// Waits for answers, orders, or this moment.
    fn wait(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so as not to spin through the last millisecond.
        let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let asking = self.state.under_way.iter().flat_map(UnderWay::asking);
        let mut all = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        all.extend(asking.filter_map(Asking::poll_fd));
        // A signal is as good as an answer: whoever has none yet is asked again.
        let _ = poll(&mut all, PollTimeout::from(millis));
    }

    fn take_orders(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; 64];
        while self.woken.read(&mut bytes).is_ok_and(|length| length == bytes.len()) {}
        loop {
            match self.orders.try_recv() {
                Ok(trial) if self.state.waiting.len() < TRIALS_WAITING => self.state.waiting.push_back(trial),
                Ok(_) => {}
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        let now = Instant::now();
        while self.state.is_free()
            && let Some(trial) = self.state.waiting.pop_front()
        {
            self.state.under_way.push(UnderWay::begin(trial, now));
        }
        Ok(())
    }

    /// Hears who has answered, and tells what is decided.
    fn listen(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let mut ready = Vec::new();
        for one in &mut self.state.under_way {
            if let Some(outcome) = one.hear(now) {
                one.tell(now, &outcome);
                ready.push((one.trial.backend, one.trial.asked, outcome));
            }
        }
        if !ready.is_empty() {
            // As it is at this moment: once somebody has had an answer there is no evidence any more.
            let seen = self.evidence.look().unwrap_or_default();
            let stands = seen.iter().filter(|seen| seen.sign != Sign::Refused).map(|seen| seen.backend);
            let stands: HashSet<_> = stands.collect();
            let judged = ready.into_iter().map(|(backend, asked, outcome)| {
                (backend, Outcome { stands: !asked || stands.contains(&backend), ..outcome })
            });
            self.tell(News::Judged(judged.collect()))?;
        }
        self.state.under_way.retain(|one| !one.is_over(now));
        Ok(())
    }

    fn tell(&self, news: News) -> Result<(), Gone> {
        self.events.send(Event::Aside(news)).map_err(|_| Gone)
    }

    fn tell_signs(&mut self, now: Instant) -> Result<(), Gone> {
        if self.state.paused_until.is_some_and(|until| until > now) {
            return Ok(());
        }
        let seen = match self.evidence.look() {
            Ok(seen) => seen,
            Err(error) => {
                self.repair(now, &error);
                return Ok(());
            }
        };
        let told = &mut self.state.told;
        told.retain(|_, told| now.saturating_duration_since(*told) < TELL_EVERY);
        let seen = seen.into_iter().map(|seen| (seen.backend, seen.sign));
        // Beside IPVS we see our own questions at that port.
        let seen = seen.filter(|(backend, _)| backend.at.port() != CLOSED_PORT);
        let signs: Vec<_> = seen.filter(|sign| told.insert(*sign, now).is_none()).collect();
        if signs.is_empty() { Ok(()) } else { self.tell(News::Signs(signs)) }
    }

    /// The table cannot be looked at: somebody has taken it away, perhaps.
    fn repair(&mut self, now: Instant, error: &dataplane::Error) {
        self.state.paused_until = Some(now + PAUSE);
        match self.evidence.install() {
            Ok(steps) => {
                self.state.complained = false;
                info!("somebody took the evidence away: put back in {} steps", steps.len());
            }
            Err(_) if self.state.complained => {}
            Err(refused) => {
                self.state.complained = true;
                error!("cannot look for backends that do not answer: {}", crate::output::chain(error));
                verbose!(1, "nor put that right: {}", crate::output::chain(&refused));
            }
        }
    }
}

impl State {
    fn is_free(&self) -> bool {
        // Those that only wait for a late answer have one socket, and end by themselves.
        self.under_way.iter().filter(|one| !one.told).count() < TRIALS_AT_ONCE
            && self.under_way.len() < 4 * TRIALS_AT_ONCE
    }

    fn next(&self) -> Option<Instant> {
        self.under_way.iter().map(UnderWay::deadline).min()
    }
}

impl UnderWay {
    fn begin(trial: Trial, now: Instant) -> UnderWay {
        let BackendKey { protocol, at } = trial.backend;
        let closed = |at: SocketAddr| Asking::connect(SocketAddr::new(at.ip(), closed_port(at)));
        // Silence is no proof over UDP; that the host of a control lives shows as much as can be shown.
        let control = |at: &SocketAddr| match protocol {
            Protocol::Udp => closed(*at),
            Protocol::Tcp | Protocol::Sctp => Asking::connect(*at),
        };
        UnderWay {
            target: if protocol == Protocol::Udp { Asking::datagram(at) } else { Asking::connect(at) },
            life: Some(closed(at)),
            controls: trial.controls.iter().map(control).collect(),
            began: now,
            trial,
            lives: false,
            control_took: None,
            refused: false,
            late: false,
            told: false,
        }
    }

    fn asking(&self) -> impl Iterator<Item = &Asking> {
        std::iter::once(&self.target).chain(&self.life).chain(&self.controls)
    }

    fn deadline(&self) -> Instant {
        self.began
            + match (self.told, self.late) {
                (true, _) => LATE,
                (false, true) => self.patience(),
                (false, false) => self.trial.patience,
            }
    }

    /// How long the backend has. On a node that is out of breath everybody is late: who is silent is
    /// silent by the measure of others, and if none of them answers either it is not the backend.
    fn patience(&self) -> Duration {
        let longest = (self.trial.patience * CONTROL_SLOWER).min(TRIAL_MAX);
        let measure = |took: Duration| (took * SLOWER_THAN_CONTROL).clamp(self.trial.patience, longest);
        self.control_took.map_or(longest, measure)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.told && (!self.target.is_open() || self.deadline() <= now)
    }

    /// Hears what has been said; what it comes to, once it has come to something.
    fn hear(&mut self, now: Instant) -> Option<Outcome> {
        let is_udp = self.trial.backend.protocol == Protocol::Udp;
        let took = now.saturating_duration_since(self.began);
        match self.target.hear() {
            Said::Accepted => {
                self.told = true;
                return Some(self.outcome(Answer::Accepted(took)));
            }
            Said::Refused if self.told => return None,
            Said::Refused => self.refused = true,
            Said::Nothing | Said::Unreachable => {}
        }
        if self.told {
            return None;
        }
        self.lives |= self.life.as_mut().is_some_and(|life| life.hear().is_life());
        for control in &mut self.controls {
            let said = control.hear();
            if said == Said::Accepted || is_udp && said == Said::Refused {
                self.control_took.get_or_insert(took);
            }
        }
        self.late = took >= self.trial.patience;
        let is_late = took >= self.patience();
        let answer = match self.refused {
            true if self.control_took.is_some() || is_late => Answer::Refused,
            false if is_late && is_udp && self.lives => Answer::Accepted(took),
            false if is_late => Answer::Silent,
            _ => return None,
        };
        self.told = true;
        (self.life, self.controls) = (None, Vec::new());
        // Over UDP nothing more will come.
        if is_udp {
            self.target.close();
        }
        Some(self.outcome(answer))
    }

    /// Says in the log what came of it.
    fn tell(&self, now: Instant, outcome: &Outcome) {
        let control_ms = self.control_took.map_or(f64::INFINITY, |took| took.as_secs_f64() * 1e3);
        let took_ms = now.saturating_duration_since(self.began).as_secs_f64() * 1e3;
        let backend = self.trial.backend;
        let Outcome { answer, lives, .. } = outcome;
        verbose!(
            2,
            "tried backend={backend} took_ms={took_ms:.1} control_ms={control_ms:.1} lives={lives}: {answer:?}"
        );
    }

    fn outcome(&self, answer: Answer) -> Outcome {
        Outcome { answer, lives: self.lives, control: self.control_took.is_some(), stands: true }
    }
}

/// A port of the same host where nobody listens.
fn closed_port(at: SocketAddr) -> u16 {
    if at.port() == CLOSED_PORT { CLOSED_PORT + 1 } else { CLOSED_PORT }
}

/// Whether a probe of this protocol can tell anything.
pub(super) fn can_probe(backend: &BackendKey) -> bool {
    backend.protocol != Protocol::Sctp && !is_own(backend.at.ip())
}

/// Nobody is set aside who is asked at an address that stands for the asker.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
}
