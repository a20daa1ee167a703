//! Connections that stay: opened once, asked again and again. What a change of the tables must
//! never do is end one of them, or move it to another backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::client::{Client, Connection};
use crate::question::Failure;

/// Connections being held. Dropping it lets go of them.
#[derive(Debug)]
pub struct Held {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<HeldReport>>,
}

/// What became of held connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldReport {
    /// So many were opened to this backend.
    pub per_backend: BTreeMap<String, u64>,
    /// So many questions were answered, over all of them.
    pub answers: u64,
    /// So many were lost in this way, and asked no more.
    pub lost: BTreeMap<Failure, u64>,
    /// So many answers came from another backend than the connection was opened to.
    pub moved: u64,
}

impl HeldReport {
    /// Whether every connection lived to the end, with its own backend.
    pub fn unharmed(&self) -> bool {
        self.lost.is_empty() && self.moved == 0
    }
}

struct Line {
    connection: Connection,
    backend: String,
}

impl Client {
    /// Opens so many connections to `target` and asks over each of them once, then again with
    /// every turn of `every`, until [`Held::finish`].
    ///
    /// # Errors
    /// When one of them cannot be opened, or its first question is not answered.
    ///
    /// # Panics
    /// As [`ask`](Self::ask).
    pub fn hold(
        &self,
        target: impl Into<SocketAddr>,
        count: usize,
        every: Duration,
    ) -> Result<Held, Failure> {
        let target = target.into();
        let mut report = HeldReport::default();
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = self.connect(target)?;
            let backend = connection.ask()?.backend;
            *report.per_backend.entry(backend.clone()).or_default() += 1;
            report.answers += 1;
            lines.push(Line { connection, backend });
        }
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("held connections".to_owned())
            .spawn(move || talk(lines, report, every, &stopped))?;
        Ok(Held { stop: Some(stop), thread: Some(thread) })
    }
}

fn talk(mut lines: Vec<Line>, mut report: HeldReport, every: Duration, stopped: &Receiver<()>) -> HeldReport {
    loop {
        let last = !matches!(stopped.recv_timeout(every), Err(RecvTimeoutError::Timeout));
        lines.retain_mut(|line| match line.connection.ask() {
            Ok(reply) => {
                report.answers += 1;
                report.moved += u64::from(reply.backend != line.backend);
                true
            }
            Err(failure) => {
                *report.lost.entry(failure).or_default() += 1;
                false
            }
        });
        if last {
            return report;
        }
    }
}

impl Held {
    /// Asks over each of them a last time and hangs up.
    ///
    /// # Panics
    /// As the client would, asking.
    pub fn finish(mut self) -> HeldReport {
        let report = self.let_go().unwrap_or_else(|| Ok(HeldReport::default()));
        report.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn let_go(&mut self) -> Option<thread::Result<HeldReport>> {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nobody wants to know.
        let _ = self.let_go();
    }
}
