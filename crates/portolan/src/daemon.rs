//! `portolan run` as a child in a host of the lab, followed by its log: what `demo` shows and what
//! `bench` measures is the real program, started from this very executable.

use crate::error::Error;
use crate::janitor::Janitor;
use lab::{Host, Process};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// This executable, also when its file has been replaced since.
const SELF: &str = "/proc/self/exe";
/// Where iptables-legacy (from 1.8.5 on) looks for the file that all who write lock.
const IPTABLES_LOCK: &str = "XTABLES_LOCKFILE";
/// The verbosity at which each change is told.
const VERBOSITY: &str = "2";

/// One line of the log.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Line {
    /// When it was written, in seconds since 1970.
    #[serde(rename = "ts")]
    pub(crate) at_s: f64,
    level: String,
    #[serde(rename = "msg")]
    pub(crate) message: String,
}

impl Line {
    /// Whether this is what happened: the word that such lines begin with.
    fn tells(&self, word: &str) -> bool {
        self.message.split(' ').next() == Some(word)
    }

    /// The value of `key=value`.
    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        self.message.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    /// The same as a number.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.field(key)?.parse().ok()
    }
}

/// What comes out of the child: its log, and what is no log.
enum Said {
    Line(Line),
    Other(String),
}

/// A running daemon, killed on drop.
pub(crate) struct Daemon {
    node: String,
    process: Process,
    said: Receiver<Said>,
    /// What it said that is no log: why it ended.
    words: Vec<String>,
    /// What it complained about.
    complaints: Vec<String>,
    janitor: Janitor,
}

impl Daemon {
    /// Starts it on this host, with these manifests and further flags.
    pub(crate) fn start(
        host: &Host,
        mode: &str,
        manifests: &Path,
        flags: &[String],
        janitor: &Janitor,
    ) -> Result<Daemon, Error> {
        Daemon::start_with(host, mode, manifests, None, flags, janitor)
    }

    /// The same with a configuration and further flags.
    pub(crate) fn start_with(
        host: &Host,
        mode: &str,
        manifests: &Path,
        configuration: Option<&Path>,
        flags: &[String],
        janitor: &Janitor,
    ) -> Result<Daemon, Error> {
        let mut command = Command::new(SELF);
        command.arg0("portolan").args(["run", "--mode", mode, "--hostname-override", host.name()]);
        command.args(["-v", VERBOSITY, "--logging-format", "json", "--manifests"]).arg(manifests);
        if let Some(configuration) = configuration {
            command.arg("--config").arg(configuration);
        }
        command.args(flags);
        // Who writes iptables in other namespaces need not wait for us, nor we for him.
        command.env(IPTABLES_LOCK, manifests.join(".xtables.lock"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command)?;
        janitor.note(process.child().id());
        let (sender, said) = channel();
        if let Some(log) = process.child().stderr.take() {
            let follow = move || {
                for line in lines(log) {
                    let said = serde_json::from_str(&line).map_or(Said::Other(line), Said::Line);
                    if sender.send(said).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("log".into()).spawn(follow);
            thread.map_err(|e| Error::Start("start the thread that follows the log", e))?;
        }
        let node = host.name().to_owned();
        let (words, complaints) = (Vec::new(), Vec::new());
        Ok(Daemon { node, process, said, words, complaints, janitor: janitor.clone() })
    }

    /// The number of its process.
    pub(crate) fn id(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Waits for the next line that tells of this.
    pub(crate) fn wait(&mut self, word: &str, patience: Duration) -> Result<Line, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(Said::Line(line)) => {
                    if line.tells(word) {
                        return Ok(line);
                    }
                    self.take(line);
                }
                Ok(Said::Other(words)) => self.words.push(words),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::Silent { node: self.node.clone(), word: word.to_owned() });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
        }
    }

    /// The first line that is there already, begins with this word and fits.
    pub(crate) fn heard(&mut self, word: &str, fits: impl Fn(&Line) -> bool) -> Option<Line> {
        let mut found = None;
        while let Ok(said) = self.said.try_recv() {
            match said {
                Said::Line(line) if found.is_none() && line.tells(word) && fits(&line) => found = Some(line),
                Said::Line(line) => self.take(line),
                Said::Other(words) => self.words.push(words),
            }
        }
        found
    }

    /// What it has complained about so far.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        while let Ok(said) = self.said.try_recv() {
            match said {
                Said::Line(line) => self.take(line),
                Said::Other(words) => self.words.push(words),
            }
        }
        std::mem::take(&mut self.complaints)
    }

    fn take(&mut self, line: Line) {
        if line.level != "info" {
            self.complaints.push(line.message);
        }
    }

    fn ended(&mut self) -> Error {
        let mut said = std::mem::take(&mut self.complaints);
        said.extend(self.words.drain(..).map(|w| w.trim_start_matches("portolan: ").to_owned()));
        if said.is_empty() {
            let status = self.process.child().wait();
            said.push(status.map_or_else(|e| e.to_string(), |status| status.to_string()));
        }
        Error::Ended { said: said.join("; ") }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Before its number can belong to somebody else, which is once it has been waited for.
        self.janitor.forget(self.process.child().id());
    }
}

/// The lines of a log, whatever bytes are in them.
fn lines(log: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(log)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_taken_apart() {
        let text = r#"{"ts":1700000000.25,"level":"info","msg":"changed services=1 took_us=85"}"#;
        let line: Line = serde_json::from_str(text).expect("a line");
        assert!(line.tells("changed") && !line.tells("change"));
        assert_eq!(line.at_s, 1_700_000_000.25);
        assert_eq!(line.number("took_us"), Some(85.0));
        assert_eq!(line.field("services"), Some("1"));
        assert_eq!(line.field("took"), None);
    }
}
