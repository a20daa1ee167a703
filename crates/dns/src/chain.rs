//! The chain: the plugins of a server block in order, and a question's way through them.
//!
//! ```text
//!        in:  ask 0 ── Pass ──> ask 1 ── Pass ──> ask 2 ── Done
//!       out:  answered 0 <───── answered 1 <────────┘
//!  sent out:  sent 0 · sent 1 · …    (those that only look)
//! ```
//!
//! On the way in each plugin passes the question on, settles it, or says that it cannot tell at
//! once; on the way out those before the one that settled it may change the answer. All this is
//! plain function calls on the thread that received the question, unless a plugin says
//! [`Step::Later`]: then the exchange moves to the runtime, which calls [`Plugin::later`] and goes
//! on from that place. So what can be answered from memory never meets a runtime, and what cannot
//! never holds up a worker.

use crate::exchange::{Exchange, Outcome, Transport};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use wire::{Class, Name, Question, Reply, Type};

/// Questions of our own may lead to further ones, so deep.
const DEPTH_MAX: u32 = 8;

/// What a plugin does with a question.
#[derive(Debug)]
pub enum Step {
    /// It is somebody else's: the next plugin is asked.
    Pass,
    /// It is settled.
    Done(Outcome),
    /// It takes waiting: [`Plugin::later`] is to be called on the runtime.
    Later,
}

/// Whether a plugin is done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// The answer goes on its way out.
    Done,
    /// It takes waiting: [`Plugin::answered_later`] is to be called on the runtime.
    Later,
}

/// Something that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A plugin at work. One value serves all zones of its server block and all workers at once.
pub trait Plugin: Send + Sync + 'static {
    /// The way in. Must not block.
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step;

    /// What [`Step::Later`] promised. `Step::Later` again is a failure.
    fn later<'a>(&'a self, _exchange: &'a mut Exchange, _at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async { Step::Pass })
    }

    /// The way out: some plugin behind this one has settled the question. Must not block.
    fn answered(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        Onward::Done
    }

    /// What [`Onward::Later`] promised.
    fn answered_later<'a>(&'a self, _exchange: &'a mut Exchange, _at: &'a At<'a>) -> Later<'a, ()> {
        Box::pin(async {})
    }

    /// Whether [`Plugin::sent`] is to be called.
    fn looks(&self) -> bool {
        false
    }

    /// The answer is as it goes out. For those that count and write down.
    fn sent(&self, _exchange: &Exchange, _sent: &Sent, _at: &At<'_>) {}

    /// Whether the server block that it stands in may have this question at all (`view`).
    fn admits(&self, _exchange: &Exchange, _chain: &Chain) -> bool {
        true
    }

    /// Whether what plugins say about this question is kept (`metadata`).
    fn collects(&self, _exchange: &Exchange) -> bool {
        false
    }

    /// Whether it can do its work already (`ready` asks).
    fn is_ready(&self) -> bool {
        true
    }

    /// The records of a zone that it is the authority of, the SOA first (`transfer`).
    fn zone_records(&self, _zone: &Name) -> Option<Vec<crate::zonefile::Record>> {
        None
    }

    /// Says what it knows of a question before anybody answers it (`metadata`).
    fn describe(&self, _exchange: &mut Exchange) {}

    /// The search path of the asker, as far as this plugin knows it (`autopath`).
    fn search_path(&self, _exchange: &Exchange) -> Option<Vec<Name>> {
        None
    }

    /// Its configuration has come into force: background work may begin. Called on the runtime.
    fn start(self: Arc<Self>) {}

    /// Its configuration has gone out of force: background work must end.
    fn stop(&self) {}
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// How many bytes the message has.
    pub bytes: usize,
    /// The header's flags as they went out.
    pub flags: u16,
    /// How long it took.
    pub took: Duration,
}

/// One plugin in its place.
pub struct Link {
    /// The plugin's name.
    pub name: &'static str,
    /// The plugin.
    pub plugin: Arc<dyn Plugin>,
}

/// The plugins of one server block for one of its zones.
pub struct Chain {
    /// The zone.
    pub zone: Name,
    /// The zone as metrics and logs call it.
    pub zone_label: String,
    /// The server as metrics call it: `dns://:53`.
    pub server: Arc<str>,
    /// The name of its view, empty where it has none.
    pub view: String,
    /// Which of the configuration's chains it is: plugins that keep something for each use it.
    pub number: usize,
    links: Vec<Link>,
    lookers: Vec<usize>,
}

/// A place in a chain, as its plugin sees it.
pub struct At<'a> {
    /// The chain.
    pub chain: &'a Arc<Chain>,
    /// All chains of the server, for questions of our own.
    pub routes: &'a Arc<Routes>,
    /// The place.
    pub index: usize,
}

impl At<'_> {
    /// Asks the plugins behind this one, with all that they do on the way out.
    pub fn below<'a>(&'a self, exchange: &'a mut Exchange) -> Later<'a, ()> {
        let from = self.index + 1;
        Box::pin(async move {
            let progress = self.chain.walk_in(exchange, self.routes, from, from);
            self.chain.finish(exchange, self.routes, from, progress).await;
        })
    }

    /// Asks the server itself a question on behalf of an exchange, and gives all that came of it.
    /// `None` where questions lead to questions for too long.
    pub fn inquire<'a>(&'a self, basis: &Exchange, question: Question) -> Later<'a, Option<Exchange>> {
        let mut exchange = basis.another(question);
        Box::pin(async move {
            if exchange.depth > DEPTH_MAX {
                return None;
            }
            self.routes.answer_wholly(&mut exchange).await;
            Some(exchange)
        })
    }

    /// Asks the server itself a question on behalf of an exchange, as a client would: the target of
    /// a CNAME, say. `None` where no answer can be had.
    pub fn look_up<'a>(&'a self, basis: &Exchange, name: Name, rtype: Type) -> Later<'a, Option<Reply>> {
        let mut exchange = basis.another(Question { name, rtype, class: Class::IN });
        Box::pin(async move {
            if exchange.depth > DEPTH_MAX {
                return None;
            }
            self.routes.answer_wholly(&mut exchange).await;
            match exchange.outcome {
                Some(Outcome::Failed(_) | Outcome::Refused | Outcome::Silence) | None => None,
                _ => Some(exchange.reply),
            }
        })
    }
}

/// How far a question came without waiting.
#[must_use]
pub enum Progress {
    /// All the way.
    Done,
    /// To here: [`Routes::finish`] goes on.
    Later(Resume),
}

/// Where to go on.
pub struct Resume {
    index: usize,
    outward: bool,
}

impl Chain {
    /// Makes a chain.
    pub fn new(zone: Name, server: Arc<str>, view: String, number: usize, links: Vec<Link>) -> Chain {
        let lookers = links.iter().enumerate().filter(|(_, link)| link.plugin.looks());
        let lookers = lookers.map(|(index, _)| index).collect();
        Chain { zone_label: zone.to_string(), zone, server, view, number, links, lookers }
    }

    /// Its plugins.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    fn admits(&self, exchange: &Exchange) -> bool {
        self.links.iter().all(|link| link.plugin.admits(exchange, self))
    }

    /// The way in from a place on, and out again up to `floor`.
    fn walk_in(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        routes: &Arc<Routes>,
        from: usize,
        floor: usize,
    ) -> Progress {
        let mut index = from;
        while let Some(link) = self.links.get(index) {
            match link.plugin.ask(exchange, &At { chain: self, routes, index }) {
                Step::Pass => index += 1,
                Step::Done(outcome) => {
                    exchange.settle(outcome, link.name);
                    return self.walk_out(exchange, routes, index, floor);
                }
                Step::Later => return Progress::Later(Resume { index, outward: false }),
            }
        }
        exchange.settle(Outcome::Failed("no plugin answers this question".into()), "");
        self.walk_out(exchange, routes, index, floor)
    }

    /// The way out from before a place, to `floor`.
    fn walk_out(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        routes: &Arc<Routes>,
        from: usize,
        floor: usize,
    ) -> Progress {
        let mut index = from;
        while index > floor {
            index -= 1;
            let Some(link) = self.links.get(index) else { continue };
            match link.plugin.answered(exchange, &At { chain: self, routes, index }) {
                Onward::Done => {}
                Onward::Later => return Progress::Later(Resume { index, outward: true }),
            }
        }
        Progress::Done
    }

    /// Goes on, with waiting, to the end.
    async fn finish(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        routes: &Arc<Routes>,
        floor: usize,
        mut progress: Progress,
    ) {
        while let Progress::Later(Resume { index, outward }) = progress {
            let Some(link) = self.links.get(index) else { return };
            let at = At { chain: self, routes, index };
            if outward {
                link.plugin.answered_later(exchange, &at).await;
                progress = self.walk_out(exchange, routes, index, floor);
                continue;
            }
            let waiting = exchange.gives_up.map(tokio::time::Instant::from_std);
            let later = link.plugin.later(exchange, &at);
            let step = match waiting {
                None => later.await,
                Some(until) => {
                    tokio::time::timeout_at(until, later).await.unwrap_or(Step::Done(Outcome::Silence))
                }
            };
            let outcome = match step {
                Step::Pass => {
                    progress = self.walk_in(exchange, routes, index + 1, floor);
                    continue;
                }
                Step::Done(outcome) => outcome,
                Step::Later => Outcome::Failed("put off twice".into()),
            };
            exchange.settle(outcome, link.name);
            progress = self.walk_out(exchange, routes, index, floor);
        }
    }

    /// Whether any of its plugins wants to see what goes out.
    pub fn is_looked_at(&self) -> bool {
        !self.lookers.is_empty()
    }

    /// Tells those that look what went out.
    pub fn tell(self: &Arc<Self>, routes: &Arc<Routes>, exchange: &Exchange, sent: &Sent) {
        for &index in &self.lookers {
            if let Some(link) = self.links.get(index) {
                link.plugin.sent(exchange, sent, &At { chain: self, routes, index });
            }
        }
    }
}

/// All chains that one server (an address, a port and a transport) has, and which question goes to
/// which.
pub struct Routes {
    /// The server as metrics call it.
    pub server: Arc<str>,
    zones: std::collections::HashMap<Box<[u8]>, Vec<Arc<Chain>>>,
    /// The most labels that any of the zones has.
    labels_max: usize,
    /// Questions of other classes than IN are taken.
    other_classes: bool,
}

/// These take questions of any class.
const ANY_CLASS: &[&str] = &["chaos", "forward"];

impl Routes {
    /// Makes them.
    pub fn new(server: Arc<str>, chains: Vec<Arc<Chain>>) -> Routes {
        let mut zones: std::collections::HashMap<Box<[u8]>, Vec<Arc<Chain>>> = Default::default();
        let labels_max = chains.iter().map(|chain| chain.zone.label_count()).max().unwrap_or(0);
        let other_classes =
            chains.iter().flat_map(|chain| &chain.links).any(|link| ANY_CLASS.contains(&link.name));
        for chain in chains {
            zones.entry(chain.zone.lowercase().as_bytes().into()).or_default().push(chain);
        }
        Routes { server, zones, labels_max, other_classes }
    }

    /// All chains.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.zones.values().flatten()
    }

    /// The chain for a question: that of the longest zone, or for DS the shortest, which is the
    /// parent's if we have it.
    pub fn route(&self, exchange: &Exchange) -> Option<&Arc<Chain>> {
        if exchange.asked.question.class != Class::IN && !self.other_classes {
            return None;
        }
        let name = exchange.asked.question.name.lowercase();
        let mut labels = name.labels();
        for _ in self.labels_max..name.label_count() {
            labels.next();
        }
        let mut found = None;
        loop {
            let is_root = labels.rest() == [0];
            let chains = self.zones.get(labels.rest()).map(Vec::as_slice).unwrap_or_default();
            if let Some(chain) = chains.iter().find(|chain| chain.admits(exchange)) {
                let parent_may_know = exchange.asked.question.rtype == Type::DS && !is_root;
                if !parent_may_know {
                    return found.or(Some(chain));
                }
                found = Some(chain);
            }
            if labels.next().is_none() {
                return found;
            }
        }
    }

    /// Answers as far as that goes without waiting. Says which chain had the question; without one
    /// it is refused.
    pub fn answer(self: &Arc<Self>, exchange: &mut Exchange) -> (Option<&Arc<Chain>>, Progress) {
        let Some(chain) = self.route(exchange) else {
            exchange.settle(Outcome::Refused, "");
            return (None, Progress::Done);
        };
        if chain.links.is_empty() {
            exchange.settle(Outcome::Refused, "");
            return (Some(chain), Progress::Done);
        }
        let progress = chain.walk_in(exchange, self, 0, 0);
        (Some(chain), progress)
    }

    /// Goes on, with waiting, to the end.
    pub async fn finish(self: &Arc<Self>, chain: &Arc<Chain>, exchange: &mut Exchange, progress: Progress) {
        chain.finish(exchange, self, 0, progress).await;
    }

    /// Answers, with waiting where that is needed.
    pub async fn answer_wholly(self: &Arc<Self>, exchange: &mut Exchange) {
        exchange.from.transport = Transport::Inside;
        if let (Some(chain), progress) = self.answer(exchange) {
            self.finish(chain, exchange, progress).await;
        }
    }
}

#[cfg(test)]
mod tests;
