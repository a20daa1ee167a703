//! Backends that do not answer: the daemon's side of it. Evidence comes from the kernel, probes are
//! made by a thread, `aside` decides; here the three are brought together with what the plan knows, and
//! what was decided is told and kept in the kernel, for `show` and for whoever comes after us.
//!
//! The data plane is not touched from here: the loop does that.

mod asking;
mod prober;

pub(crate) use prober::News;

use crate::error::Error;
use crate::run::Event;
use ::aside::{Aside, BackendKey, Engine, Sign, Thresholds, Trial, Turn, Why};
use dataplane::Mode;
use dataplane::evidence::{Evidence, Noted};
use model::{Cluster, Family, Name, Protocol};
use plan::{Delta, Planner};
use prober::{Prober, can_probe};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::time::{Duration, Instant, SystemTime};
use telemetry::time::Utc;
use telemetry::{info, warn};

/// How many others are asked beside a backend under suspicion, and of how many they are chosen.
const CONTROLS: usize = 3;
const CONTROLS_OF: usize = 64;
/// How many trials fall due at once.
const DUE_AT_ONCE: usize = 256;
/// How many backends of a node are asked when one of them has gone silent, and how soon again.
const MATES_MAX: usize = 1024;
const MATES_EVERY: Duration = Duration::from_secs(5);
/// After a search through the plan there is none for this many times as long.
const SEARCH_REST: u32 = 20;
/// So long after flows to a backend were forgotten, those are that a packet on its way made since.
const FORGET_AGAIN: Duration = Duration::from_millis(100);

/// Who watches for backends that do not answer.
pub(crate) struct Lookout {
    engine: Engine,
    began: Instant,
    evidence: Evidence,
    /// Until it is at work.
    prober: Option<Prober>,
    orders: Sender<Trial>,
    waker: UnixStream,
    /// What is kept in the kernel of each that is aside.
    words: HashMap<BackendKey, String>,
    /// Whose flows are to be forgotten once more, and when.
    again: Vec<(Instant, BackendKey)>,
    /// Signs against whoever that is, and when to look next in the plan: that takes its time.
    signs: HashMap<BackendKey, Sign>,
    search: Instant,
    /// When the backends of a node were last asked.
    asked_nodes: HashMap<Name, Instant>,
    chance: RandomState,
}

impl Lookout {
    /// Prepares to watch; `None`, and a line in the log, where the kernel cannot gather evidence.
    pub(crate) fn new(
        mode: Mode,
        families: &[Family],
        thresholds: Thresholds,
        events: SyncSender<Event>,
    ) -> Result<Option<Lookout>, Error> {
        let (evidence, own) = match (Evidence::open(families, mode), Evidence::open(families, mode)) {
            (Ok(evidence), Ok(own)) => (evidence, own),
            (Err(error), _) | (_, Err(error)) => {
                complain(&error);
                return Ok(None);
            }
        };
        let failed = |error| Error::Start("make a way to the thread that probes backends", error);
        let (waker, woken) = UnixStream::pair().map_err(failed)?;
        waker.set_nonblocking(true).map_err(failed)?;
        woken.set_nonblocking(true).map_err(failed)?;
        let (orders, taken) = channel();
        let prober = Prober { evidence, orders: taken, woken, events, state: prober::State::default() };
        Ok(Some(Lookout {
            engine: Engine::new(thresholds),
            began: Instant::now(),
            evidence: own,
            prober: Some(prober),
            orders,
            waker,
            words: HashMap::new(),
            again: Vec::new(),
            signs: HashMap::new(),
            search: Instant::now(),
            asked_nodes: HashMap::new(),
            chance: RandomState::new(),
        }))
    }

    /// Begins to watch, and takes over whom the process before us had set aside: the kernel is about to be
    /// told what this plan asks for.
    pub(crate) fn begin(&mut self, planner: &Planner) {
        let Some(prober) = self.prober.take() else { return };
        if let Err(error) = self.evidence.install() {
            complain(&error);
            return;
        }
        let thread = std::thread::Builder::new().name("lookout".into());
        if let Err(error) = thread.spawn(move || prober.work()) {
            warn!("backends that do not answer are not set aside: start a thread: {error}");
            return;
        }
        self.adopt(planner);
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// When time brings something.
    pub(crate) fn next(&self) -> Option<Instant> {
        let again = self.again.iter().map(|(when, _)| *when).min();
        let due = self.engine.next().map(|next| self.began + next);
        let search = (!self.signs.is_empty()).then_some(self.search);
        due.into_iter().chain(again).chain(search).min()
    }

    /// Takes in what the thread has to tell; hands back whose turn it is.
    pub(crate) fn hear(&mut self, news: News, planner: &Planner) -> Vec<Turn> {
        let now = self.now();
        match news {
            News::Signs(signs) => {
                for (key, sign) in signs {
                    if can_probe(&key) && self.engine.is_news(now, key) {
                        // The strongest counts.
                        let known = self.signs.entry(key).or_insert(sign);
                        *known = sign.max(*known);
                    }
                }
                self.search(planner);
                Vec::new()
            }
            News::Judged(judged) => {
                let judge = |(backend, outcome)| self.engine.judge(now, backend, outcome);
                judged.into_iter().filter_map(judge).collect()
            }
        }
    }

    /// Finds out whom the signs are against.
    pub(crate) fn search(&mut self, planner: &Planner) {
        let begin = Instant::now();
        if self.signs.is_empty() || self.search > begin {
            return;
        }
        let news = std::mem::take(&mut self.signs).into_iter().map(|(key, sign)| (key, Some(sign)));
        self.suspect(self.now(), &news.collect(), planner);
        self.search = begin + begin.elapsed() * SEARCH_REST;
    }

    /// Has those that are backends of ours, with others to go to, tried.
    fn suspect(&mut self, now: Duration, news: &HashMap<BackendKey, Option<Sign>>, planner: &Planner) {
        if news.is_empty() {
            return;
        }
        let mut controls = self.controls(|key| news.contains_key(key), planner);
        let mut trials = Vec::new();
        for (key, sign) in news {
            let controls = controls.remove(key).unwrap_or_default();
            trials.extend(self.engine.suspect(now, *key, *sign, controls));
        }
        self.order(trials);
    }

    fn order(&mut self, trials: Vec<Trial>) {
        if trials.is_empty() {
            return;
        }
        for trial in trials {
            // If the thread has ended, nobody is set aside any more.
            let _ = self.orders.send(trial);
        }
        // If its buffer is full, it is awake.
        let _ = self.waker.write(&[0]);
    }

    /// Whom to ask beside these: others of their pools, at other addresses, chosen by chance lest all be
    /// on the same node each time.
    fn controls(
        &self,
        wanted: impl Fn(&BackendKey) -> bool,
        planner: &Planner,
    ) -> HashMap<BackendKey, Vec<SocketAddr>> {
        let mut found: HashMap<BackendKey, Vec<SocketAddr>> = HashMap::new();
        planner.each_backend(|key, pool| {
            if wanted(&key) {
                let found = found.entry(key).or_default();
                let others = pool.iter().filter(|b| b.address != key.at.ip()).map(plan::Backend::socket);
                for other in others.take(CONTROLS_OF) {
                    if found.len() < CONTROLS_OF && !found.contains(&other) {
                        found.push(other);
                    }
                }
            }
        });
        let salt = self.now().subsec_nanos();
        for members in found.values_mut() {
            members.sort_by_cached_key(|member| self.chance.hash_one((salt, member)));
            members.truncate(CONTROLS);
        }
        found
    }

    /// Where a backend has gone silent, others of its node may have, too.
    pub(crate) fn follow(&mut self, turns: &[Turn], planner: &Planner, cluster: &Cluster) {
        for turn in turns {
            if let Turn::Aside(Aside { why: Why::Silent, backend, .. }) = turn {
                self.ask_mates(self.now(), *backend, planner, cluster);
            }
        }
    }

    fn ask_mates(&mut self, now: Duration, backend: BackendKey, planner: &Planner, cluster: &Cluster) {
        let Some(node) = node_of(backend, cluster) else { return };
        self.asked_nodes.retain(|_, asked| asked.elapsed() < MATES_EVERY);
        if self.asked_nodes.insert(node.clone(), Instant::now()).is_some() {
            return;
        }
        let mut mates = HashMap::new();
        for slice in cluster.all_slices() {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.is_on(&node)) {
                for port in slice.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                    let key =
                        BackendKey { protocol: port.protocol, at: (endpoint.address, port.port).into() };
                    if mates.len() < MATES_MAX && can_probe(&key) && self.engine.is_news(now, key) {
                        mates.insert(key, None);
                    }
                }
            }
        }
        self.suspect(now, &mates, planner);
    }

    /// Does what time brings; says to which backends flows are to be forgotten once more.
    pub(crate) fn tick(&mut self) -> Vec<BackendKey> {
        let due = self.engine.due(self.now(), DUE_AT_ONCE);
        self.order(due);
        let now = Instant::now();
        let again = self.again.iter().filter(|(when, _)| *when <= now).map(|(_, key)| *key).collect();
        self.again.retain(|(when, _)| *when > now);
        again
    }

    /// Who is to be left out of pools.
    pub(crate) fn aside(&self) -> plan::Aside {
        self.engine.aside().into_iter().map(|aside| aside.backend).collect()
    }

    /// How many are.
    pub(crate) fn count(&self) -> usize {
        self.words.len()
    }

    /// Notes a turn, and says it in words.
    pub(crate) fn note(&mut self, turn: &Turn) -> String {
        match turn {
            Turn::Aside(aside) => {
                self.again.push((Instant::now() + FORGET_AGAIN, aside.backend));
                self.words.insert(aside.backend, word(aside));
                let hold = aside.until.saturating_sub(aside.since);
                let hold = if hold.is_zero() { String::new() } else { format!(", for {hold:?} at least") };
                format!("backend {} is set aside{hold}: {}", aside.backend, aside.why)
            }
            Turn::Back(back) => {
                self.words.remove(&back.backend);
                format!(
                    "backend {} is back: it answers, after {:.1} s",
                    back.backend,
                    back.after.as_secs_f64()
                )
            }
        }
    }

    /// Keeps in the kernel who is aside.
    pub(crate) fn keep(&mut self) {
        let noted = self.words.iter().map(|(backend, word)| Noted { backend: *backend, word: word.clone() });
        let noted: Vec<_> = noted.collect();
        if let Err(error) = self.evidence.note(&noted) {
            // The thread puts the table back, if that is what is missing; the next turn finds it.
            warn!("cannot keep in the kernel who is set aside: {}", crate::output::chain(&error));
        }
    }

    /// Takes over whom the process before us had set aside.
    fn adopt(&mut self, planner: &Planner) {
        let noted = match self.evidence.noted() {
            Ok(noted) if !noted.is_empty() => noted,
            _ => return,
        };
        let keys: HashSet<_> = noted.iter().map(|noted| noted.backend).collect();
        let mut controls = self.controls(|key| keys.contains(key), planner);
        let now = self.now();
        for Noted { backend, word } in noted {
            let why = word.split(' ').next().and_then(Why::from_name);
            let controls = controls.remove(&backend).filter(|controls| !controls.is_empty());
            if let (Some(why), Some(controls)) = (why, controls) {
                self.engine.adopt(now, backend, why, controls);
                self.words.insert(backend, word);
            }
        }
        info!("{} backends were set aside before the start and are asked again", self.words.len());
        self.keep();
    }

    /// Rules have changed: forgets those that are backends of nobody any more. Says whether there were any.
    pub(crate) fn prune(&mut self, deltas: &[Delta], planner: &Planner) -> bool {
        if self.words.is_empty() {
            return false;
        }
        let mut concerned = false;
        for before in deltas.iter().filter_map(|delta| delta.before.as_ref()) {
            before.each_backend(|key, _| concerned |= self.words.contains_key(&key));
        }
        if !concerned {
            return false;
        }
        let mut there = HashSet::new();
        planner.each_backend(|key, _| {
            if self.words.contains_key(&key) {
                there.insert(key);
            }
        });
        let gone: Vec<_> = self.words.keys().filter(|key| !there.contains(key)).copied().collect();
        for key in &gone {
            self.engine.forget(key);
            self.words.remove(key);
            info!("backend {key} has gone, and is no longer set aside");
        }
        !gone.is_empty()
    }
}

fn complain(error: &dataplane::Error) {
    let error = crate::output::chain(error);
    warn!("backends that do not answer are not set aside: this kernel gathers no evidence: {error}");
}

/// What is kept in the kernel: why, since when, how many times in a row.
fn word(aside: &Aside) -> String {
    let now = Utc::of(SystemTime::now());
    let since = Utc { nanos: 0, ..now };
    format!("{} since {since} times {}", aside.why.name(), aside.times)
}

/// On which node a backend is.
fn node_of(backend: BackendKey, cluster: &Cluster) -> Option<Name> {
    let is = |endpoint: &&model::Endpoint| endpoint.address == backend.at.ip();
    cluster.all_slices().find_map(|slice| slice.endpoints.iter().find(is)?.place.node.clone())
}
