//! `forward`: asks other servers.
//!
//! ```text
//! forward FROM TO... {
//!     except NAME...              prefer_udp | force_tcp      expire DURATION
//!     max_age DURATION            max_idle_conns NUMBER       read_timeout DURATION
//!     max_fails NUMBER            max_connect_attempts NUMBER doh_method GET|POST
//!     tls [CERT KEY] [CA]         tls_servername NAME         policy random|round_robin|sequential
//!     health_check DURATION [no_rec] [domain NAME]            max_concurrent NUMBER
//!     max_concurrent_each NUMBER
//!     next RCODE...               next_on_nodata              failfast_all_unhealthy_upstreams
//!     failover RCODE...           source_address IP           resolver IP[:PORT]...
//!     random_case
//! }
//! ```
//!
//! `random_case` is ours. Equal questions that wait at the same time are one query: a task asks, and
//! all who wait share what it brings. So a burst of one name costs an upstream one query, and an asker
//! that goes away disturbs nobody.

mod flights;
mod options;
mod policy;
mod to;

#[cfg(test)]
mod tests;

use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::{Exchange, Outcome, Transport};
use crate::metrics::Counter;
use crate::random;
use crate::setup::Setting;
use crate::upstream::{Check, How, Query, Trouble, Upstream};
use flights::{Answer, Flights};
use policy::Policy;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
pub(super) use to::address;
use tokio::task::JoinHandle;
use wire::{Header, Message, Name, Rcode, Section};

/// For an answer, whatever upstreams are tried.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are looked through so often.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);

/// All `forward` of a server block, in order.
struct Forward {
    stanzas: Vec<Arc<Stanza>>,
    tidying: Mutex<Option<JoinHandle<()>>>,
}

/// One `forward`.
pub(crate) struct Stanza {
    from: Name,
    except: Vec<Name>,
    upstreams: Vec<Arc<Upstream>>,
    policy: Policy,
    force_tcp: bool,
    prefer_udp: bool,
    respell: bool,
    fails_max: u32,
    /// How often upstreams are tried for a question; zero for any number.
    attempts_max: usize,
    check: Arc<Check>,
    /// How many questions may wait; zero for any number.
    concurrent_max: usize,
    next: Vec<Rcode>,
    next_on_nodata: bool,
    fail_fast: bool,
    failover: Vec<Rcode>,
    waiting: AtomicUsize,
    flights: Arc<Flights>,
    broken: Arc<Counter>,
    rejects: Arc<Counter>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut stanzas = Vec::new();
    for line in setting.lines {
        stanzas.push(Arc::new(options::read(line, setting)?));
    }
    Ok(Some(Arc::new(Forward { stanzas, tidying: Mutex::default() })))
}

/// What a stanza makes of a question.
enum Forwarded {
    Settled(Outcome),
    /// The next is to be asked.
    Next,
}

impl Forward {
    /// The first stanza from `from` on that is for a name.
    fn stanza(&self, name: &Name, from: usize) -> Option<(usize, &Arc<Stanza>)> {
        let mut rest = self.stanzas.iter().enumerate().skip(from);
        rest.find(|(_, stanza)| stanza.is_for(name))
    }
}

impl Plugin for Forward {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        match self.stanza(&exchange.asked.question.name, 0) {
            None => Step::Pass,
            Some(_) => Step::Later,
        }
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, _at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async move {
            let mut from = 0;
            while let Some((index, stanza)) = self.stanza(&exchange.asked.question.name, from) {
                from = index + 1;
                match stanza.forward(exchange, from < self.stanzas.len()).await {
                    Forwarded::Settled(outcome) => return Step::Done(outcome),
                    Forwarded::Next => exchange.reply.clear(),
                }
            }
            Step::Pass
        })
    }

    fn start(self: Arc<Self>) {
        let upstreams = self.stanzas.iter().flat_map(|stanza| stanza.upstreams.clone());
        let upstreams: Vec<Arc<Upstream>> = upstreams.collect();
        let tidying = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY_INTERVAL).await;
                upstreams.iter().for_each(|upstream| upstream.tidy(Instant::now()));
            }
        });
        *self.tidying.lock().unwrap_or_else(PoisonError::into_inner) = Some(tidying);
    }

    fn stop(&self) {
        if let Some(tidying) = self.tidying.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tidying.abort();
        }
        self.stanzas.iter().flat_map(|stanza| &stanza.upstreams).for_each(|upstream| upstream.stop());
    }
}

/// One that waits for an answer.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stanza {
    fn is_for(&self, name: &Name) -> bool {
        name.is_in(&self.from)
            && (name.is(&self.from) || !self.except.iter().any(|except| name.is_in(except)))
    }

    async fn forward(self: &Arc<Self>, exchange: &mut Exchange, may_go_on: bool) -> Forwarded {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        let _waiting = Waiting(&self.waiting);
        if self.concurrent_max > 0 && waiting > self.concurrent_max {
            self.rejects.count();
            return Forwarded::Settled(Outcome::Refused);
        }
        let query = Query::of(&exchange.asked);
        let transport = exchange.from.transport;
        // Nobody sees the datagrams of our own questions, so those that do not fit are asked for again.
        let whole = self.prefer_udp || transport == Transport::Inside;
        let stream = self.force_tcp || !whole && transport.is_stream();
        let how = How { stream, respell: self.respell };
        let mut key = query.key().to_vec();
        key.push(u8::from(stream) << 1 | u8::from(whole));
        let flight = self.clone().ask_upstreams(query, how, whole);
        let (answer, by) = match self.flights.join(key, flight).await {
            Ok(answer) => answer,
            Err(what) => return Forwarded::Settled(Outcome::Failed(what.to_string())),
        };
        exchange.tell("forward/upstream", || by.to_string());
        let read = Message::read(&answer).and_then(|message| exchange.reply.read(&message));
        if let Err(what) = read {
            exchange.reply.clear();
            return Forwarded::Settled(Outcome::Failed(format!("the upstream's answer {what}")));
        }
        let reply = &exchange.reply;
        let no_data = reply.rcode == Rcode::NOERROR && reply.count(Section::Answer) == 0;
        if may_go_on && (self.next.contains(&reply.rcode) || self.next_on_nodata && no_data) {
            return Forwarded::Next;
        }
        Forwarded::Settled(Outcome::Given)
    }

    /// Asks upstreams until one answers, as CoreDNS does (its `Forward.ServeDNS`).
    async fn ask_upstreams(self: Arc<Self>, query: Query, how: How, whole: bool) -> Answer {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let order = self.policy.order(self.upstreams.len());
        let (mut attempts, mut failovers, mut down) = (0, 0, 0);
        let mut trouble = None;
        let mut turn = 0;
        while Instant::now() < deadline && (self.attempts_max == 0 || attempts < self.attempts_max) {
            if turn >= order.len() {
                (turn, down) = (0, 0);
            }
            let Some(mut upstream) = order.get(turn).and_then(|index| self.upstreams.get(*index)) else {
                break;
            };
            turn += 1;
            if upstream.is_down(self.fails_max) {
                down += 1;
                if down < self.upstreams.len() {
                    continue;
                }
                self.broken.count();
                if self.fail_fast {
                    break;
                }
                // Perhaps it is the checks that are broken.
                upstream = self.upstreams.get(random::below(self.upstreams.len())).unwrap_or(upstream);
            }
            match self.ask_one(upstream, &query, how, whole, deadline).await {
                Ok(answer) => {
                    let rcode = Header::read(&answer).map(|header| header.rcode()).unwrap_or_default();
                    if self.failover.contains(&rcode) {
                        failovers += 1;
                        if failovers < self.upstreams.len() {
                            continue;
                        }
                    }
                    return Ok((answer.into(), upstream.label.as_str().into()));
                }
                Err(failed) => {
                    if self.fails_max != 0 && failed != Trouble::Full {
                        upstream.check(&self.check);
                    }
                    trouble = Some(format!("{}: {failed}", upstream.label));
                    attempts += 1;
                    if down >= self.upstreams.len() {
                        break;
                    }
                }
            }
        }
        Err(trouble.unwrap_or_else(|| "no upstream is healthy".into()).into())
    }

    async fn ask_one(
        &self,
        upstream: &Upstream,
        query: &Query,
        how: How,
        whole: bool,
        deadline: Instant,
    ) -> Result<Vec<u8>, Trouble> {
        let ask = async {
            let answer = upstream.ask(query, how).await?;
            let truncated = Header::read(&answer).is_some_and(|header| header.flags & wire::flags::TC != 0);
            if !truncated || !whole || how.stream {
                return Ok(answer);
            }
            upstream.ask(query, How { stream: true, respell: how.respell }).await
        };
        // Without an end of its own one upstream could take all the time there is.
        tokio::time::timeout_at(deadline.into(), ask).await.unwrap_or(Err(Trouble::Timeout))
    }
}
