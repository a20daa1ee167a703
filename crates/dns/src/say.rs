//! The log as CoreDNS' users read it: `[LEVEL] text` on standard output.
//!
//! Lines go through a queue of bounded length to a thread that writes them, so that nobody who
//! answers questions ever waits for whoever reads the log.

use std::fmt;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// So many lines may wait to be written.
const LINES_MAX: usize = 4096;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of use to those who look for a fault (`debug`).
    Debug,
    /// What happens.
    Info,
    /// Something is not as it should be.
    Warning,
    /// Something does not work.
    Error,
}

impl Level {
    /// The level of a Corefile's word.
    pub fn named(word: &str) -> Option<Level> {
        Some(match word {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warning" => Level::Warning,
            "error" => Level::Error,
            _ => return None,
        })
    }

    fn tag(self) -> &'static str {
        match self {
            Level::Debug => "[DEBUG]",
            Level::Info => "[INFO]",
            Level::Warning => "[WARNING]",
            Level::Error => "[ERROR]",
        }
    }
}

enum Entry {
    Line(String),
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);
static DEBUG: AtomicBool = AtomicBool::new(false);

/// Says whether lines for those who look for a fault are written.
pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Writes a line.
pub fn say(level: Level, text: fmt::Arguments<'_>) {
    if level == Level::Debug && !DEBUG.load(Ordering::Relaxed) {
        return;
    }
    let line = format!("{} {}\n", level.tag(), text);
    if queue().try_send(Entry::Line(line)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says what happens.
pub fn info(text: fmt::Arguments<'_>) {
    say(Level::Info, text);
}

/// Says what is not as it should be.
pub fn warning(text: fmt::Arguments<'_>) {
    say(Level::Warning, text);
}

/// Says what does not work.
pub fn error(text: fmt::Arguments<'_>) {
    say(Level::Error, text);
}

/// Writes text as it is, behind all that has been said.
pub fn plain(text: String) {
    if queue().try_send(Entry::Line(text)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until all that has been said so far is written, but not for ever.
pub fn flush() {
    let (done, wait) = sync_channel(1);
    if queue().try_send(Entry::Flush(done)).is_ok() {
        // Whoever does not read his log must not keep us from ending.
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

fn queue() -> &'static SyncSender<Entry> {
    QUEUE.get_or_init(|| {
        let (queue, lines) = sync_channel(LINES_MAX);
        // Without the thread, lines are lost and counted.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || write_all(&lines));
        queue
    })
}

fn write_all(lines: &Receiver<Entry>) {
    let mut text = String::new();
    while let Ok(first) = lines.recv() {
        let mut flushed = Vec::new();
        text.clear();
        for entry in std::iter::once(first).chain(lines.try_iter().take(LINES_MAX)) {
            match entry {
                Entry::Line(line) => text.push_str(&line),
                Entry::Flush(done) => flushed.push(done),
            }
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            text.push_str(&format!(
                "[WARNING] {lost} lines of the log were lost: it is not read fast enough\n"
            ));
        }
        // A log that cannot be written to is no reason to stop.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        for done in flushed {
            let _ = done.try_send(());
        }
    }
}
