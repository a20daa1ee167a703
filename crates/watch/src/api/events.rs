//! Events: what `kubectl describe node` shows. Told on a thread of their own, few, and lost without
//! regret when the API server is away: the log has said the same.

use super::Access;
use super::credentials::Credentials;
use super::http::{Client, OnCall, Stop};
use crate::Error;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// So many may wait to be told.
const WAITING_MAX: usize = 32;
/// Of one reason, one in this time; each node of a cluster may have the same to say.
const AGAIN: Duration = Duration::from_secs(600);
/// An answer must begin within this.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Where events about nodes are kept, which are in no namespace themselves.
const TARGET: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
/// Who says so: dashboards and people look for this name.
const CONTROLLER: &str = "kube-proxy";
/// A note may be so long.
const NOTE_MAX: usize = 1024;

/// Something worth an event about our Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Something is wrong.
    pub warning: bool,
    /// Why it is told, in one word.
    pub reason: &'static str,
    /// What was done, in one word.
    pub action: &'static str,
    /// In words.
    pub note: String,
    /// When, as RFC 3339.
    pub time: String,
}

/// The way to tell events. Dropping it forgets those that wait.
#[derive(Debug)]
pub struct Events {
    queue: SyncSender<NodeEvent>,
    stop: Arc<Stop>,
}

impl Events {
    /// Begins; nothing is sent before there is something to tell.
    pub fn start(access: Access, node: &str, on_call: OnCall) -> Result<Events, Error> {
        let (queue, inbox) = sync_channel(WAITING_MAX);
        let stop = Arc::new(Stop::default());
        let url = access.url();
        let credentials = Arc::new(Mutex::new(Credentials::default()));
        let client = Client::new(Arc::new(access), credentials, stop.clone(), on_call);
        let node = node.to_owned();
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || work(client, &node, &inbox))
            .map_err(|source| Error::Watch { path: url.into(), source })?;
        Ok(Events { queue, stop })
    }

    /// Tells one, or lets it be if too many wait.
    pub fn tell(&self, event: NodeEvent) {
        // Full, or nobody there: the log has it.
        let _ = self.queue.try_send(event);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

fn work(mut client: Client, node: &str, inbox: &Receiver<NodeEvent>) {
    let random = RandomState::new();
    let mut told: HashMap<&'static str, Instant> = HashMap::new();
    for (number, event) in inbox.iter().enumerate() {
        if told.get(event.reason).is_some_and(|when| when.elapsed() < AGAIN) {
            continue;
        }
        told.insert(event.reason, Instant::now());
        let body = body(&event, node, random.hash_one(number));
        // Lost if it fails.
        let _ = client.post(TARGET, &body, ANSWER_MAX);
    }
}

fn body(event: &NodeEvent, node: &str, number: u64) -> String {
    let NodeEvent { warning, reason, action, note, time } = event;
    serde_json::json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": format!("{node}.{number:016x}"), "namespace": "default" },
        "eventTime": time,
        "reportingController": CONTROLLER,
        "reportingInstance": format!("{CONTROLLER}-{node}"),
        "action": action,
        "reason": reason,
        "regarding": { "kind": "Node", "name": node, "uid": node },
        "note": note.chars().take(NOTE_MAX).collect::<String>(),
        "type": if *warning { "Warning" } else { "Normal" },
    })
    .to_string()
}
