//! An API server of our own, as small as it can be and as bad as it must be: lists, pages, watches,
//! streamed lists, bookmarks and 410 as Kubernetes has them, over TLS or without; and on demand slow,
//! silent, cut off in the middle, or lying about its versions.
//!
//! It keeps objects as JSON and understands none of them. What it does wrong is told to it one fault
//! at a time; what it was asked is written down.

mod serve;
mod store;
mod tls;

use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use store::Store;

/// Something that goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused: code, reason, message.
    Refuse(u16, &'static str, &'static str),
    /// It is not answered at all.
    Hang,
    /// The head of the answer comes, and nothing after it.
    HangAfterHead,
    /// After so many bytes of the body the connection is reset.
    Reset(usize),
    /// After so many bytes of the body the connection is closed as if all were well.
    Close(usize),
    /// The body comes in pieces of so many bytes, so long after one another.
    Slow(usize, Duration),
    /// The body is this.
    Garbage(&'static str),
    /// A streamed list does not say where it ends, as servers do that know no streamed lists.
    NoEnd,
    /// All versions in the answer are this.
    Version(&'static str),
}

/// What the server is like.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// Talk TLS.
    pub tls: bool,
    /// Only this token is let in.
    pub token: Option<String>,
    /// Only who shows our client certificate is let in; goes with TLS.
    pub certificates: bool,
    /// Streamed lists are not known, and refused.
    pub no_streaming: bool,
}

/// What all threads share.
struct Shared {
    options: Mutex<ApiOptions>,
    store: Mutex<Store>,
    changed: Condvar,
    faults: Mutex<VecDeque<(String, Fault)>>,
    requests: Mutex<Vec<String>>,
    /// Headers of the last request.
    impersonated: Mutex<BTreeMap<String, String>>,
    events: Mutex<Vec<Value>>,
    /// Connections of an older number are to end.
    generation: AtomicU64,
    /// By number.
    streams: Mutex<HashMap<u64, TcpStream>>,
    away: AtomicBool,
    ended: AtomicBool,
    keys: Option<tls::Keys>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. It ends with its value.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts it in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the address cannot be had, or no keys be made.
    pub fn start(address: SocketAddr, options: ApiOptions) -> io::Result<ApiServer> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let keys = options.tls.then(|| tls::Keys::make(address.ip())).transpose()?;
        let shared = Arc::new(Shared {
            options: Mutex::new(options),
            store: Mutex::default(),
            changed: Condvar::new(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            impersonated: Mutex::default(),
            events: Mutex::default(),
            generation: AtomicU64::new(0),
            streams: Mutex::default(),
            away: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            keys,
        });
        let serve = shared.clone();
        let thread =
            std::thread::Builder::new().name("api server".into()).spawn(move || accept(&serve, &listener))?;
        Ok(ApiServer { shared, address, thread: Some(thread) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.shared.keys.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A kubeconfig for it, with all that it wants.
    pub fn kubeconfig(&self) -> String {
        let authority = self.shared.keys.as_ref().map(|keys| keys.authority.clone());
        let options = lock(&self.shared.options).clone();
        let mut user = serde_json::Map::new();
        if let Some(token) = options.token {
            user.insert("token".into(), token.into());
        }
        if let Some(keys) = self.shared.keys.as_ref().filter(|_| options.certificates) {
            user.insert("client-certificate-data".into(), tls::base64(&keys.client.0).into());
            user.insert("client-key-data".into(), tls::base64(&keys.client.1).into());
        }
        let mut cluster = serde_json::json!({ "server": self.url() });
        if let (Some(authority), Some(fields)) = (authority, cluster.as_object_mut()) {
            fields.insert("certificate-authority-data".into(), tls::base64(&authority).into());
        }
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{ "name": "lab", "cluster": cluster }],
            "users": [{ "name": "lab", "user": user }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        })
        .to_string()
    }

    //--- What is in it

    /// Adds an object, or replaces it.
    pub fn set(&self, object: Value) {
        lock(&self.shared.store).set(object);
        self.shared.changed.notify_all();
    }

    /// Takes an object away; the namespace is empty for objects that are in none.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        lock(&self.shared.store).remove(kind, namespace, name);
        self.shared.changed.notify_all();
    }

    /// All objects there are.
    pub fn objects(&self) -> Vec<Value> {
        lock(&self.shared.store).objects()
    }

    /// The events that it was told.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.shared.events).clone()
    }

    /// Forgets its history: a watch from an older version is told 410.
    pub fn compact(&self) {
        lock(&self.shared.store).compact();
    }

    /// Its storage is put back to an older state, and its versions with it: all is as it was at
    /// `version`, but for what is `set` after.
    pub fn restore(&self, objects: Vec<Value>, version: u64) {
        lock(&self.shared.store).restore(objects, version);
        self.cut();
    }

    /// The version that it is at.
    pub fn version(&self) -> u64 {
        lock(&self.shared.store).version()
    }

    //--- What goes wrong

    /// The next request whose target holds `at` has this fault.
    pub fn fault(&self, at: &str, fault: Fault) {
        lock(&self.shared.faults).push_back((at.to_owned(), fault));
    }

    /// How many faults have not come about yet.
    pub fn faults_left(&self) -> usize {
        lock(&self.shared.faults).len()
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        for (_, stream) in lock(&self.shared.streams).drain() {
            // It may have gone already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Cuts all connections and takes no more, until [`ApiServer::come_back`].
    pub fn go_away(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Takes connections again.
    pub fn come_back(&self) {
        self.shared.away.store(false, Ordering::SeqCst);
    }

    /// From now on only this token is let in.
    pub fn set_token(&self, token: &str) {
        lock(&self.shared.options).token = Some(token.to_owned());
    }

    /// The targets that were asked for, so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// For whom the last request was made: its headers `impersonate-…`, in small letters.
    pub fn impersonated(&self) -> BTreeMap<String, String> {
        lock(&self.shared.impersonated).clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // The thread waits for somebody to knock; that may be from another namespace, so it looks
        // itself every now and then.
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_default();
        }
    }
}

/// How often the thread at the door looks whether it is over.
const LOOK: Duration = Duration::from_millis(5);

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    for number in 0.. {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        if shared.away.load(Ordering::SeqCst) || stream.set_nonblocking(false).is_err() {
            continue;
        }
        if let Ok(clone) = stream.try_clone() {
            lock(&shared.streams).insert(number, clone);
        }
        let shared = shared.clone();
        let serve = move || {
            serve::connection(&shared, stream);
            lock(&shared.streams).remove(&number);
        };
        // One that cannot be started serves nobody, and the connection is closed.
        let _ = std::thread::Builder::new().name("api".into()).spawn(serve);
    }
}
