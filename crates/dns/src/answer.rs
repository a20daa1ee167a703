//! From the bytes of a query to the bytes of its answer, whatever carries them.

use crate::chain::{Chain, Progress, Routes, Sent};
use crate::exchange::{Exchange, From, Outcome};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;
use wire::{Compressor, Envelope, HEADER_BYTES, Header, Question, Refusal};

/// What one thread or connection needs to answer, and uses again for each question.
pub(crate) struct Desk {
    pub(crate) exchange: Exchange,
    compressor: Compressor,
    /// When the last question was done with, as far as anybody looked at the clock.
    ended: Instant,
}

/// What became of a query.
pub(crate) enum Answered {
    /// The answer is in the buffer.
    Now,
    /// There is none.
    Never,
    /// It will come: the exchange is in here, and the desk has a new one.
    Later(Box<Pending>),
}

/// A question whose answer takes waiting.
pub(crate) struct Pending {
    exchange: Exchange,
    chain: Arc<Chain>,
    routes: Arc<Routes>,
    progress: Progress,
}

impl Desk {
    pub(crate) fn new(now: Instant) -> Desk {
        Desk { exchange: Exchange::new(now), compressor: Compressor::default(), ended: now }
    }

    /// When the last question was done with: the next one's beginning, so that one look at the clock
    /// serves both.
    pub(crate) fn ended(&self) -> Instant {
        self.ended
    }

    /// Answers a query as far as that goes without waiting.
    pub(crate) fn answer(
        &mut self,
        bytes: &[u8],
        from: From,
        now: Instant,
        routes: &Arc<Routes>,
        out: &mut Vec<u8>,
    ) -> Answered {
        self.ended = now;
        let exchange = &mut self.exchange;
        if let Err(refusal) = exchange.asked.read(bytes) {
            let Refusal::Code(code) = refusal else { return Answered::Never };
            exchange.begin(from, now);
            exchange.reply.rcode = code;
            // A question that could not be read is not repeated.
            let question = (exchange.original != Question::default()).then_some(exchange.original);
            write(exchange, question, &mut self.compressor, out);
            return Answered::Now;
        }
        exchange.begin(from, now);
        let (chain, progress) = routes.answer(exchange);
        if let (Some(chain), Progress::Later(_)) = (chain, &progress) {
            let (chain, routes) = (chain.clone(), routes.clone());
            let exchange = std::mem::replace(exchange, Exchange::new(now));
            return Answered::Later(Box::new(Pending { exchange, chain, routes, progress }));
        }
        self.finish(chain, routes, out)
    }

    fn finish(&mut self, chain: Option<&Arc<Chain>>, routes: &Arc<Routes>, out: &mut Vec<u8>) -> Answered {
        let (answered, ended) = finish(&self.exchange, chain, routes, &mut self.compressor, out);
        self.ended = ended;
        answered
    }

    /// The messages that follow the answer: there are some for zone transfers only.
    pub(crate) fn more(&mut self, each: impl FnMut(&[u8])) {
        write_more(&self.exchange, &mut self.compressor, each);
    }

    /// Says that there is too much to do.
    pub(crate) fn overloaded(&mut self, pending: Pending, out: &mut Vec<u8>) -> Answered {
        self.exchange = pending.exchange;
        self.exchange.settle(Outcome::Failed("too many questions wait for an answer".into()), "");
        self.finish(Some(&pending.chain), &pending.routes, out)
    }
}

thread_local! {
    /// The desk of a thread that serves many connections in turns. A connection that is idle keeps none.
    static SHARED: Cell<Option<Box<Desk>>> = const { Cell::new(None) };
}

/// Does something at the thread's own desk. Nothing in there may wait.
pub(crate) fn at_desk<T>(work: impl FnOnce(&mut Desk) -> T) -> T {
    let mut desk = SHARED.take().unwrap_or_else(|| Box::new(Desk::new(Instant::now())));
    let done = work(&mut desk);
    // A zone that was transferred is as large as it likes.
    desk.exchange.more = Vec::new();
    SHARED.set(Some(desk));
    done
}

impl Pending {
    /// Waits for the answer. False where there is none.
    pub(crate) async fn wait(self: Box<Self>, out: &mut Vec<u8>) -> bool {
        self.wait_for_all(out, |_| {}).await
    }

    /// Waits for the answer and the messages that follow it, which go to `rest`.
    pub(crate) async fn wait_for_all(
        mut self: Box<Self>,
        out: &mut Vec<u8>,
        rest: impl FnMut(&[u8]),
    ) -> bool {
        let progress = std::mem::replace(&mut self.progress, Progress::Done);
        let Pending { exchange, chain, routes, .. } = &mut *self;
        routes.finish(chain, exchange, progress).await;
        let mut compressor = Compressor::default();
        let answered =
            matches!(finish(exchange, Some(chain), routes, &mut compressor, out), (Answered::Now, _));
        write_more(exchange, &mut compressor, rest);
        answered
    }
}

/// Answers one query, with waiting where that is needed. `None` where there is no answer. What follows
/// the answer goes to `rest`.
pub(crate) async fn answer_wholly(
    bytes: &[u8],
    from: From,
    routes: &Arc<Routes>,
    mut rest: impl FnMut(&[u8]),
) -> Option<Vec<u8>> {
    let (mut answer, now) = (Vec::new(), Instant::now());
    let answered = at_desk(|desk| {
        let answered = desk.answer(bytes, from, now, routes, &mut answer);
        if matches!(answered, Answered::Now) {
            desk.more(&mut rest);
        }
        answered
    });
    match answered {
        Answered::Now => Some(answer),
        Answered::Never => None,
        Answered::Later(pending) => pending.wait_for_all(&mut answer, &mut rest).await.then_some(answer),
    }
}

fn finish(
    exchange: &Exchange,
    chain: Option<&Arc<Chain>>,
    routes: &Arc<Routes>,
    compressor: &mut Compressor,
    out: &mut Vec<u8>,
) -> (Answered, Instant) {
    let mut ended = exchange.received;
    let silent = exchange.is_silent();
    if !silent {
        write(exchange, Some(exchange.original), compressor, out);
    }
    if let Some(chain) = chain.filter(|chain| chain.is_looked_at()) {
        let flags = Header::read(out).map_or(0, |header| header.flags);
        let bytes = if silent { 0 } else { out.len() };
        ended = Instant::now();
        let took = ended.saturating_duration_since(exchange.received);
        chain.tell(routes, exchange, &Sent { bytes, flags, took });
    }
    (if silent { Answered::Never } else { Answered::Now }, ended)
}

fn write(exchange: &Exchange, question: Option<Question>, compressor: &mut Compressor, out: &mut Vec<u8>) {
    let asked = &exchange.asked;
    let mut envelope = Envelope::of(asked, exchange.from.transport.is_stream());
    envelope.question = question;
    // Not even the question fits nowhere.
    envelope.limit = envelope.limit.max(HEADER_BYTES);
    exchange.reply.encode(&envelope, compressor, out);
}

fn write_more(exchange: &Exchange, compressor: &mut Compressor, mut each: impl FnMut(&[u8])) {
    if exchange.more.is_empty() || !exchange.from.transport.takes_many() {
        return;
    }
    let mut envelope = Envelope::of(&exchange.asked, true);
    envelope.question = Some(exchange.original);
    let mut out = Vec::new();
    for reply in &exchange.more {
        reply.encode(&envelope, compressor, &mut out);
        each(&out);
    }
}
