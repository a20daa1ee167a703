//! When the cluster is written to disk, and when it is read from there.
//!
//! Written by a thread of its own, some time after a change and not often: it is for a node that boots
//! while the API server is away, and minutes old will do. Read only when nothing of ours is in the
//! kernel; otherwise what is there is newer.

use model::{Cluster, Object};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use telemetry::{error, verbose, warn};
use watch::Snapshot;

/// So long after a change, when more may come.
const SETTLE: Duration = Duration::from_secs(3);
/// So often at most.
const AGAIN: Duration = Duration::from_secs(300);
/// So long the API server has to answer before the disk is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cluster on disk.
pub(crate) struct Checkpoint {
    file: PathBuf,
    /// When to ask it, if the API server has told nothing by then.
    ask: Option<Instant>,
    /// When the first change came that is not on disk.
    changed: Option<Instant>,
    /// When it was begun to be written, last.
    begun: Option<Instant>,
    writing: Option<JoinHandle<()>>,
}

impl Checkpoint {
    pub(crate) fn new(file: PathBuf) -> Checkpoint {
        let ask = Some(Instant::now() + PATIENCE);
        Checkpoint { file, ask, changed: None, begun: None, writing: None }
    }

    /// The cluster changed.
    pub(crate) fn changed(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
    }

    /// Whether it is time to ask the disk; once.
    pub(crate) fn is_wanted(&mut self, now: Instant) -> bool {
        self.ask.take_if(|ask| *ask <= now).is_some()
    }

    /// The API server has told all: the disk need not be asked any more.
    pub(crate) fn is_not_wanted(&mut self) {
        self.ask = None;
    }

    /// Reads what is there, and says how old it is.
    pub(crate) fn load(&self) -> Option<(Vec<Object>, Duration)> {
        let mut objects = Vec::new();
        match watch::load_checkpoint(&self.file, |object| objects.push(object)) {
            Ok(written) => Some((objects, SystemTime::now().duration_since(written).unwrap_or_default())),
            Err(error) => {
                warn!("no cluster from {}: {error}", self.file.display());
                None
            }
        }
    }

    /// Writes it if it is time.
    pub(crate) fn tick(&mut self, now: Instant, cluster: &Cluster) {
        if self.writing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let settled = self.changed.is_some_and(|changed| now.saturating_duration_since(changed) >= SETTLE);
        let rested = self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= AGAIN);
        if !settled || !rested {
            return;
        }
        self.changed = None;
        self.begun = Some(now);
        let (file, cluster) = (self.file.clone(), Snapshot::of(cluster));
        let thread = std::thread::Builder::new().name("checkpoint".into());
        self.writing = thread.spawn(move || save(&file, &cluster)).ok();
    }
}

fn save(file: &Path, cluster: &Snapshot) {
    let begin = Instant::now();
    match watch::save_checkpoint(file, cluster) {
        Ok(()) => verbose!(1, "wrote the cluster to {} in {:?}", file.display(), begin.elapsed()),
        Err(error) => error!("write the cluster to {}: {error}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_when_settled_and_not_often() {
        let file = std::env::temp_dir().join(format!("portolan-checkpoint-unit-{}", std::process::id()));
        let mut checkpoint = Checkpoint::new(file.clone());
        let cluster = Cluster::new();
        let start = Instant::now();
        let write = |checkpoint: &mut Checkpoint, after| {
            let before = checkpoint.begun;
            checkpoint.tick(start + after, &cluster);
            if let Some(thread) = checkpoint.writing.take() {
                thread.join().expect("it does not panic");
            }
            checkpoint.begun != before
        };
        let second = Duration::from_secs(1);
        assert!(!write(&mut checkpoint, SETTLE * 2), "nothing has changed");
        checkpoint.changed();
        assert!(!write(&mut checkpoint, SETTLE / 2), "more may come");
        assert!(write(&mut checkpoint, SETTLE + second));
        assert!(file.exists());
        checkpoint.changed();
        assert!(!write(&mut checkpoint, SETTLE * 3), "that would be often");
        assert!(write(&mut checkpoint, AGAIN + SETTLE + 2 * second));
        std::fs::remove_file(&file).expect("it is ours");
    }

    #[test]
    fn asked_once_and_not_when_all_is_known() {
        let mut checkpoint = Checkpoint::new("/nonexistent/file".into());
        assert!(!checkpoint.is_wanted(Instant::now()));
        let late = Instant::now() + PATIENCE;
        assert!(checkpoint.is_wanted(late) && !checkpoint.is_wanted(late));
        assert!(checkpoint.load().is_none());
        let mut checkpoint = Checkpoint::new("/nonexistent/file".into());
        checkpoint.is_not_wanted();
        assert!(!checkpoint.is_wanted(late));
    }
}
