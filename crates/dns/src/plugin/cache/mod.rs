//! `cache`: keeps answers for as long as they are good.
//!
//! ```text
//! cache [TTL] [ZONE...] {
//!     success CAPACITY [TTL] [MINTTL]
//!     denial CAPACITY [TTL] [MINTTL]
//!     prefetch AMOUNT [DURATION] [PERCENTAGE%]
//!     serve_stale [DURATION] [immediate [RESPONSE_TTL [RECHECK]] | verify [TIMEOUT [RESPONSE_TTL [RECHECK]]]]
//!     serve_stale_policy prefer_positive
//!     servfail DURATION
//!     disable success|denial [ZONE...]
//!     keepttl
//! }
//! ```
//!
//! A hit is a look under one lock and a copy into the reply, on the thread that received the question.
//! Refreshing is done by tasks of their own; there is one for an entry at a time.

mod entry;
mod options;
mod store;
mod verdict;

#[cfg(test)]
mod tests;

use super::per_chain::PerChain;
use crate::chain::{At, Chain, Later, Onward, Plugin, Routes, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome, Transport};
use crate::metrics::{Counter, Gauge, Metrics};
use crate::setup::Setting;
use entry::{Entry, Key};
use options::Options;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use store::{Kind, Store};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use verdict::Verdict;
use wire::{Rcode, flags};

/// After so long another shard is looked through for what has expired.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

struct Cache {
    inner: Arc<Inner>,
    tidying: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    options: Options,
    store: Store,
    zones_label: String,
    metrics: Arc<Metrics>,
    counts: PerChain<Counts>,
    runtime: Handle,
}

/// What is counted for one server and view.
struct Counts {
    requests: Arc<Counter>,
    misses: Arc<Counter>,
    hits: [Arc<Counter>; 2],
    evictions: [Arc<Counter>; 2],
    entries: [Arc<Gauge>; 2],
    prefetches: Arc<Counter>,
    stale: Arc<Counter>,
}

/// What is kept from the way in to the way out.
#[derive(Clone)]
struct Miss {
    key: Key,
    wants_authentic: bool,
}

/// A stale answer that is to be checked before it is given.
struct Stale(Arc<Entry>, Miss);

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let options = options::read(line, &setting.block.zones)?;
    let zones: Vec<String> = options.zones.iter().map(wire::Name::to_string).collect();
    let inner = Inner {
        store: Store::new(options.success.capacity, options.denial.capacity),
        options,
        zones_label: zones.join(","),
        metrics: setting.world.metrics.clone(),
        counts: PerChain::default(),
        runtime: setting.world.runtime.clone(),
    };
    Ok(Some(Arc::new(Cache { inner: Arc::new(inner), tidying: Mutex::default() })))
}

impl Plugin for Cache {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        let inner = &self.inner;
        let question = &exchange.asked.question;
        if !inner.options.zones.iter().any(|zone| question.name.is_in(zone)) {
            return Step::Pass;
        }
        let counts = inner.counts(at.chain);
        counts.requests.count();
        let checking_disabled = exchange.asked.flags & flags::CD != 0;
        let key = Key::new(question, exchange.asked.dnssec_ok(), checking_disabled);
        let miss = Miss { key, wants_authentic: verdict::wants_authentic(exchange.asked.flags) };
        let now = exchange.received;
        let Some((kind, entry)) = inner.find(&miss.key, now) else {
            counts.misses.count();
            // Upstreams say whether they have validated only to those who ask (RFC 6840 5.7).
            exchange.asked.flags |= flags::AD;
            exchange.note(at.index, miss);
            return Step::Pass;
        };
        if let Some(hits) = counts.hits.get(kind as usize) {
            hits.count();
        }
        let stale = entry.seconds_left(now) <= 0;
        if stale && inner.options.verify {
            exchange.note(at.index, Stale(entry, miss));
            return Step::Later;
        }
        let hits = if inner.options.prefetch > 0 { entry.hit(now, inner.options.period) } else { 0 };
        entry.use_at(now);
        if stale {
            self.refresh(exchange, at, &entry, &miss, true);
        } else if inner.options.is_prefetched(&entry, hits, now) {
            self.refresh(exchange, at, &entry, &miss, false);
        }
        inner.give(exchange, &entry, &miss, &counts);
        Step::Done(Outcome::Given)
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            let Some(stale) = exchange.take_note::<Stale>(at.index) else { return Step::Pass };
            let Stale(entry, miss) = *stale;
            let inner = &self.inner;
            let recheck = inner.options.recheck;
            let counts = inner.counts(at.chain);
            if recheck.is_zero() || entry.begin_refresh(exchange.received, recheck) {
                let task =
                    inner.runtime.spawn(refresh(Refresh::of(inner, exchange, at, &entry, &miss, true)));
                let fresh = match inner.options.verify_timeout {
                    Duration::ZERO => task.await.ok(),
                    limit => tokio::time::timeout(limit, task).await.ok().and_then(Result::ok),
                };
                if let Some(fresh) = fresh.flatten() {
                    exchange.reply.copy_from(&fresh);
                    inner.finish_authentic(exchange, &miss);
                    return Step::Done(Outcome::Given);
                }
            }
            inner.give(exchange, &entry, &miss, &counts);
            Step::Done(Outcome::Given)
        })
    }

    fn answered(&self, exchange: &mut Exchange, at: &At<'_>) -> Onward {
        if let Some(miss) = exchange.take_note::<Miss>(at.index) {
            // What is no reply yet is nothing to keep.
            if !matches!(exchange.outcome, Some(Outcome::Failed(_) | Outcome::Refused | Outcome::Silence)) {
                self.inner.keep(exchange, &miss, at.chain);
            }
            self.inner.finish_authentic(exchange, &miss);
        }
        Onward::Done
    }

    fn start(self: Arc<Self>) {
        let inner = self.inner.clone();
        let tidying = tokio::spawn(async move {
            for shard in 0_usize.. {
                tokio::time::sleep(TIDY_INTERVAL).await;
                inner.store.tidy(shard, Instant::now(), inner.options.stale);
                inner.show_entries();
            }
        });
        *self.tidying.lock().unwrap_or_else(PoisonError::into_inner) = Some(tidying);
    }

    fn stop(&self) {
        if let Some(tidying) = self.tidying.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tidying.abort();
        }
    }
}

impl Cache {
    /// Refreshes an entry behind the asker's back, unless that is under way.
    fn refresh(&self, exchange: &Exchange, at: &At<'_>, entry: &Arc<Entry>, miss: &Miss, stale: bool) {
        let recheck = if stale { self.inner.options.recheck } else { Duration::ZERO };
        if entry.begin_refresh(exchange.received, recheck) {
            self.inner.counts(at.chain).prefetches.count();
            let of = Refresh::of(&self.inner, exchange, at, entry, miss, stale);
            self.inner.runtime.spawn(refresh(of));
        }
    }
}

/// All that a task needs to refresh an entry.
struct Refresh {
    inner: Arc<Inner>,
    exchange: Exchange,
    chain: Arc<Chain>,
    routes: Arc<Routes>,
    index: usize,
    entry: Arc<Entry>,
    miss: Miss,
    /// Only an answer that is good replaces the entry.
    stale: bool,
}

impl Refresh {
    fn of(
        inner: &Arc<Inner>,
        exchange: &Exchange,
        at: &At<'_>,
        entry: &Arc<Entry>,
        miss: &Miss,
        stale: bool,
    ) -> Refresh {
        let mut asking = exchange.another(exchange.asked.question);
        asking.depth = exchange.depth;
        asking.asked.flags |= flags::AD;
        asking.from.transport = Transport::Inside;
        let (chain, routes) = (at.chain.clone(), at.routes.clone());
        let (inner, entry, miss) = (inner.clone(), entry.clone(), miss.clone());
        Refresh { inner, exchange: asking, chain, routes, index: at.index, entry, miss, stale }
    }
}

/// Asks anew, and keeps the answer. Gives it where it is a good one.
async fn refresh(of: Refresh) -> Option<wire::Reply> {
    let Refresh { inner, mut exchange, chain, routes, index, entry, miss, stale } = of;
    let began = Instant::now();
    At { chain: &chain, routes: &routes, index }.below(&mut exchange).await;
    let answered =
        !matches!(exchange.outcome, Some(Outcome::Failed(_) | Outcome::Refused | Outcome::Silence) | None);
    let prefer_positive = inner.options.prefer_positive;
    let verdict = Verdict::of(&exchange);
    let fresh = answered && (!stale || verdict::is_fresh(&exchange, verdict, prefer_positive));
    if answered
        && (fresh || prefer_positive)
        && let Some(new) = inner.keep(&mut exchange, &miss, &chain)
    {
        new.inherit_hits(&entry);
        if verdict.kind() == Kind::Success && !prefer_positive {
            inner.store.remove(Kind::Denial, &miss.key);
        }
    }
    let recheck = if stale { inner.options.recheck } else { Duration::ZERO };
    // The clock of the exchange stands still; the time that it took has passed all the same.
    entry.end_refresh(exchange.received + began.elapsed(), recheck, fresh);
    fresh.then_some(exchange.reply)
}

impl Inner {
    /// What may be given for a key (CoreDNS' `Cache.getIfNotStale`).
    fn find(&self, key: &Key, now: Instant) -> Option<(Kind, Arc<Entry>)> {
        let stale = self.options.stale;
        let [success, denial] = self.store.get(key);
        if self.options.prefer_positive && !stale.is_zero() {
            let good = success.as_ref().and_then(|entry| {
                if entry.answering { Some(entry.clone()) } else { entry.last_good.clone() }
            });
            if let Some(entry) = good.filter(|entry| entry.is_usable(now, stale)) {
                return Some((Kind::Success, entry));
            }
        }
        let success = success.filter(|entry| entry.is_usable(now, stale));
        match (denial.filter(|entry| entry.is_usable(now, stale)), success) {
            // A failure passes; it does not hide what was good.
            (Some(denial), Some(success)) if denial.reply.rcode == Rcode::SERVFAIL => {
                Some((Kind::Success, success))
            }
            (Some(denial), _) => Some((Kind::Denial, denial)),
            (None, success) => success.map(|success| (Kind::Success, success)),
        }
    }

    /// Answers with an entry.
    fn give(&self, exchange: &mut Exchange, entry: &Entry, miss: &Miss, counts: &Counts) {
        let left = entry.seconds_left(exchange.received);
        let reply = &mut exchange.reply;
        reply.copy_from(&entry.reply);
        let mut ttl = u32::try_from(left.max(0)).unwrap_or(0);
        if left <= 0 {
            counts.stale.count();
            ttl = self.options.stale_ttl_s;
        }
        if self.options.keep_ttl && (left > 0 || self.options.stale_ttl_s == 0) {
            ttl = entry.ttl;
        }
        for record in reply.records_mut() {
            record.ttl = ttl;
        }
        // Some resolvers of old throw away what is not (CoreDNS' `item.toMsg`).
        reply.authoritative = true;
        self.finish_authentic(exchange, miss);
    }

    /// Who has not asked whether the data are authentic is not told (RFC 6840 5.8).
    fn finish_authentic(&self, exchange: &mut Exchange, miss: &Miss) {
        if !exchange.asked.dnssec_ok() && !miss.wants_authentic {
            exchange.reply.authentic = false;
        }
    }

    /// Keeps a reply where it can be, and gives all of its records the same TTL.
    fn keep(&self, exchange: &mut Exchange, miss: &Miss, chain: &Arc<Chain>) -> Option<Arc<Entry>> {
        let verdict = Verdict::of(exchange);
        let limits = match verdict.kind() {
            Kind::Success => self.options.success,
            Kind::Denial if verdict == Verdict::Other => self.options.success,
            Kind::Denial => self.options.denial,
        };
        let ttl = match verdict {
            Verdict::ServerFailure => self.options.failure_ttl_s,
            _ => verdict.ttl_s(&exchange.reply, limits.ttl_s).max(limits.ttl_min_s).min(limits.ttl_s),
        };
        for record in exchange.reply.records_mut() {
            record.ttl = ttl;
        }
        let kind = verdict.kind();
        if ttl == 0
            || !verdict.is_kept(exchange)
            || self.options.is_disabled(kind, &exchange.asked.question.name)
        {
            return None;
        }
        let now = exchange.received;
        let mut entry = Entry::new(miss.key.clone(), &exchange.reply, ttl, now);
        entry.answering = kind == Kind::Success && verdict::answers_question(exchange);
        if self.options.prefer_positive && kind == Kind::Success && !entry.answering {
            let [previous, _] = self.store.get(&miss.key);
            entry.last_good = previous.and_then(|previous| match previous.answering {
                true => Some(previous),
                false => previous.last_good.clone(),
            });
        }
        let entry = Arc::new(entry);
        let counts = self.counts(chain);
        let evicted = self.store.put(kind, entry.clone(), now);
        if let Some(evictions) = counts.evictions.get(kind as usize) {
            evictions.add(evicted as u64);
        }
        if self.options.prefer_positive && entry.answering {
            self.store.remove(Kind::Denial, &miss.key);
        }
        self.show_entries();
        Some(entry)
    }

    fn show_entries(&self) {
        for counts in self.counts.all() {
            for (gauge, count) in counts.entries.iter().zip(self.store.counts()) {
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// The counts for a chain.
    fn counts(&self, chain: &Arc<Chain>) -> Arc<Counts> {
        let new = || Counts::new(&self.metrics, &chain.server, &self.zones_label, &chain.view);
        self.counts.of(chain, new)
    }
}

impl Counts {
    fn new(metrics: &Metrics, server: &str, zones: &str, view: &str) -> Counts {
        let labels = [("server", server), ("zones", zones), ("view", view)];
        let counter = |name, help| metrics.counter(name, help, &labels);
        let typed =
            |kind: Kind| [("server", server), ("type", kind.word()), ("zones", zones), ("view", view)];
        // Answers that do not fit their question never come here; a dashboard finds its series.
        counter(
            "coredns_cache_drops_total",
            "The number responses that are not cached, because the reply is malformed.",
        );
        Counts {
            requests: counter("coredns_cache_requests_total", "The count of cache requests."),
            misses: counter(
                "coredns_cache_misses_total",
                "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
            ),
            hits: Kind::ALL.map(|kind| {
                metrics.counter("coredns_cache_hits_total", "The count of cache hits.", &typed(kind))
            }),
            evictions: Kind::ALL.map(|kind| {
                metrics.counter(
                    "coredns_cache_evictions_total",
                    "The count of cache evictions.",
                    &typed(kind),
                )
            }),
            entries: Kind::ALL.map(|kind| {
                metrics.gauge("coredns_cache_entries", "The number of elements in the cache.", &typed(kind))
            }),
            prefetches: counter(
                "coredns_cache_prefetch_total",
                "The number of times the cache has prefetched a cached item.",
            ),
            stale: counter(
                "coredns_cache_served_stale_total",
                "The number of requests served from stale cache entries.",
            ),
        }
    }
}
