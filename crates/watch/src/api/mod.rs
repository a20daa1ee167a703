//! The Kubernetes API, live: a thread and a connection for each kind of object, and one stream of
//! batches of them all, the same that a directory of manifests gives.
//!
//! Our own client, and a small one. What is asked is one list and one watch for each of four kinds,
//! so nothing needs HTTP/2, an asynchronous runtime or types for all of Kubernetes; and since answers
//! are cut into objects as they come in, a list is never held whole: 20,000 Services cost what the
//! cluster itself costs, at the first list and at every later one.
//!
//! A thread blocks on its connection, and every wait has a limit: for an answer to begin, for a list
//! to go on, for a watch to say anything at all. After trouble it waits longer and longer, at random,
//! so that nodes do not come back all at once.

mod access;
mod credentials;
mod events;
mod http;
mod hub;
mod impersonation;
mod kind;
mod known;
mod proxy;
mod split;
mod tls;
mod trouble;
mod watcher;

pub use access::Access;
pub use events::{Events, NodeEvent};
pub use http::{Call, OnCall};
pub use kind::rights;
pub use watcher::Waits;

use crate::{Batch, Error, Keep};
use credentials::Credentials;
use http::{Client, Stop};
use hub::Hub;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use watcher::Watcher;

/// The API server, watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Api {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Api {
    /// Begins to watch. What is there now is handed over first, in many batches, the last of which is
    /// `loaded`; then each change as it happens. `node` is the one Node that is asked for; an empty
    /// name means that only names are wanted. `deliver`
    /// is called on the watch's own threads, one at a time, may block, and ends the watch by
    /// returning false.
    pub fn watch(
        access: Access,
        node: &str,
        keep: Keep,
        on_call: OnCall,
        deliver: impl FnMut(Batch) -> bool + Send + 'static,
    ) -> Result<Api, Error> {
        Api::watch_with(access, node, keep, on_call, Waits::default(), deliver)
    }

    /// The same with other waits.
    pub fn watch_with(
        access: Access,
        node: &str,
        keep: Keep,
        on_call: OnCall,
        waits: Waits,
        deliver: impl FnMut(Batch) -> bool + Send + 'static,
    ) -> Result<Api, Error> {
        let access = Arc::new(access);
        let resources = kind::resources(node, keep);
        let stop = Arc::new(Stop::default());
        let credentials = Arc::new(Mutex::new(Credentials::default()));
        let url = access.url();
        let hub = Arc::new(Hub::new(resources.len(), Path::new(&url).into(), Box::new(deliver)));
        let mut api = Api { stop: stop.clone(), threads: Vec::new() };
        for (number, resource) in resources.into_iter().enumerate() {
            let client = Client::new(access.clone(), credentials.clone(), stop.clone(), on_call.clone());
            let watcher = Watcher::new(number, resource, keep, client, stop.clone(), hub.clone(), waits);
            let thread = std::thread::Builder::new()
                .name(format!("api-{number}"))
                .spawn(move || watcher.run())
                .map_err(|source| Error::Watch { path: url.clone().into(), source })?;
            api.threads.push(thread);
        }
        Ok(api)
    }

    /// Ends the watch and waits until its threads have.
    pub fn stop(mut self) {
        self.stop.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            thread.join().unwrap_or_default();
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// Takes any bytes as what an API server answers, and as a kubeconfig.
pub(crate) fn fuzz(bytes: &[u8]) {
    http::fuzz(bytes, watcher::fuzz);
    watcher::fuzz(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        access::fuzz(text);
    }
}
