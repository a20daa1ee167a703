//! One connection: requests in, lists and watches out, right or as wrong as was asked for.

use super::store::Selector;
use super::{Fault, Shared, lock};
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A page of a list when the asker names none.
const PAGE: usize = usize::MAX;
/// How often a watch that has nothing to say looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// A bookmark comes as often, where a real server takes a minute.
const BOOKMARK: Duration = Duration::from_millis(200);
/// The body of a request may be so large.
const BODY_MAX: u64 = 1 << 20;

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// The way out, with its fault.
struct Out<'o> {
    wire: &'o mut BufReader<Box<dyn Wire>>,
    socket: &'o TcpStream,
    fault: Option<Fault>,
    /// So much of the body has gone.
    sent: usize,
    keep: bool,
}

/// Serves a connection until it ends.
pub(super) fn connection(shared: &Shared, stream: TcpStream) {
    let generation = shared.generation.load(Ordering::SeqCst);
    let Ok(socket) = stream.try_clone() else { return };
    let certificates = lock(&shared.options).certificates;
    let wire: Box<dyn Wire> = match &shared.keys {
        None => Box::new(stream),
        Some(keys) => {
            let Ok(config) = keys.config(certificates) else { return };
            let Ok(connection) = ServerConnection::new(config) else { return };
            Box::new(StreamOwned::new(connection, stream))
        }
    };
    let mut wire = BufReader::new(wire);
    while shared.generation.load(Ordering::SeqCst) == generation {
        match request(shared, generation, &mut wire, &socket) {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    // Closed with its last handle: as a reset, if that was asked for.
}

/// Serves one request; says whether another may come.
fn request(
    shared: &Shared,
    generation: u64,
    wire: &mut BufReader<Box<dyn Wire>>,
    socket: &TcpStream,
) -> io::Result<bool> {
    let Some((line, headers)) = read_head(wire)? else { return Ok(false) };
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // What comes through a proxy may be a whole URL.
    let target = match target.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])) {
        Some(target) => target.to_owned(),
        None => target.to_owned(),
    };
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    wire.take(length.min(BODY_MAX)).read_to_end(&mut body)?;
    lock(&shared.requests).push(target.clone());
    let impersonations = headers.iter().filter(|(name, _)| name.starts_with("impersonate-"));
    *lock(&shared.impersonated) = impersonations.map(|(name, value)| (name.clone(), value.clone())).collect();
    let fault = {
        let mut faults = lock(&shared.faults);
        let place = faults.iter().position(|(at, _)| target.contains(at.as_str()));
        place.and_then(|place| faults.remove(place)).map(|(_, fault)| fault)
    };
    if fault == Some(Fault::Hang) {
        wait_until_cut(shared, generation);
        return Ok(false);
    }
    let mut out = Out { wire, socket, fault, sent: 0, keep: true };
    let wanted = lock(&shared.options).token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && headers.get("authorization") != wanted.as_ref() {
        out.refuse(401, "Unauthorized", "who are you?")?;
    } else if let Some(Fault::Refuse(code, reason, message)) = out.fault.clone() {
        out.refuse(code, reason, message)?;
    } else if method == "POST" {
        let event: Value = serde_json::from_slice(&body).unwrap_or_default();
        out.whole(201, &event)?;
        lock(&shared.events).push(event);
    } else {
        answer(shared, generation, &target, &mut out)?;
    }
    Ok(out.keep)
}

type Headers = HashMap<String, String>;

fn read_head(wire: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let mut first = String::new();
    if wire.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Headers::new();
    loop {
        let mut line = String::new();
        wire.read_line(&mut line)?;
        let _ = match line.trim_end().split_once(": ") {
            Some((name, value)) => headers
                .entry(name.to_ascii_lowercase())
                .and_modify(|all| *all += &format!(", {value}"))
                .or_insert_with(|| value.to_owned()),
            None => return Ok(Some((first.trim_end().to_owned(), headers))),
        };
    }
}

fn wait_until_cut(shared: &Shared, generation: u64) {
    while shared.generation.load(Ordering::SeqCst) == generation {
        std::thread::sleep(LOOK);
    }
}

/// The kind behind a path, and the version of its group.
fn kind_of(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/api/v1/services" => ("Service", "v1"),
        "/api/v1/nodes" => ("Node", "v1"),
        "/api/v1/namespaces" => ("Namespace", "v1"),
        "/apis/discovery.k8s.io/v1/endpointslices" => ("EndpointSlice", "discovery.k8s.io/v1"),
        "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports" => {
            ("ServiceImport", "multicluster.x-k8s.io/v1alpha1")
        }
        "/apis/networking.k8s.io/v1/servicecidrs" => ("ServiceCIDR", "networking.k8s.io/v1"),
        _ => return None,
    })
}

fn answer(shared: &Shared, generation: u64, target: &str, out: &mut Out<'_>) -> io::Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some((kind, api_version)) = kind_of(path) else {
        return out.refuse(404, "NotFound", "the server could not find the requested resource");
    };
    let parameters: HashMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescape(value)))
        .collect();
    let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let selector = Selector::new(get("labelSelector"), get("fieldSelector"));
    let version = get("resourceVersion").parse::<u64>().ok();
    let now = lock(&shared.store).version();
    // A watch from the future is taken, and is silent until that has come: so does a real server.
    if version.is_some_and(|version| version > now) && get("watch") != "true" {
        let message =
            format!("Timeout: Too large resource version: {}, current: {now}", version.unwrap_or(0));
        return out.refuse(504, "Timeout", &message);
    }
    if get("watch") != "true" {
        return list(shared, kind, api_version, &selector, get("limit"), get("continue"), out);
    }
    let streamed = get("sendInitialEvents") == "true";
    if streamed && lock(&shared.options).no_streaming {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the \
                       WatchList feature gate is enabled";
        return out.refuse(422, "Invalid", message);
    }
    let watch = Watch { shared, generation, kind, api_version, selector };
    if version.is_some_and(|version| version < lock(&shared.store).compacted()) {
        out.begin(200)?;
        let gone = json!({"kind": "Status", "status": "Failure", "message": "too old resource version",
            "reason": "Expired", "code": 410});
        out.piece(&json!({ "type": "ERROR", "object": gone }))?;
        return out.end();
    }
    watch.run(version.filter(|_| !streamed), out)
}

fn list(
    shared: &Shared,
    kind: &str,
    api_version: &str,
    selector: &Selector,
    limit: &str,
    from: &str,
    out: &mut Out<'_>,
) -> io::Result<()> {
    let limit = limit.parse().unwrap_or(PAGE);
    // A token is the version of the list and where to go on.
    let (from_version, from) = from.split_once(':').unwrap_or(("", "0"));
    let (objects, version, compacted) = {
        let store = lock(&shared.store);
        (store.of_kind(kind), store.version(), store.compacted())
    };
    if from_version.parse::<u64>().is_ok_and(|version| version < compacted) {
        return out.refuse(410, "Expired", "The provided continue parameter is too old");
    }
    let from: usize = from.parse().unwrap_or(0);
    let all: Vec<_> = objects.iter().filter(|object| selector.matches(object)).collect();
    // Items of a list do not say what they are.
    let items: Vec<Value> = all
        .iter()
        .skip(from)
        .take(limit)
        .map(|object| {
            let mut item = (***object).clone();
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            item
        })
        .collect();
    let next = from.saturating_add(limit);
    let mut metadata = json!({ "resourceVersion": out.version(version) });
    if next < all.len() {
        metadata =
            json!({ "resourceVersion": out.version(version), "continue": format!("{version}:{next}") });
    }
    let list = json!({ "kind": format!("{kind}List"), "apiVersion": api_version, "metadata": metadata,
        "items": items });
    out.whole(200, &list)
}

struct Watch<'w> {
    shared: &'w Shared,
    generation: u64,
    kind: &'w str,
    api_version: &'w str,
    selector: Selector,
}

impl Watch<'_> {
    fn run(&self, from: Option<u64>, out: &mut Out<'_>) -> io::Result<()> {
        out.begin(200)?;
        let mut version = match from {
            Some(version) => version,
            None => {
                let (objects, version) = {
                    let store = lock(&self.shared.store);
                    (store.of_kind(self.kind), store.version())
                };
                for object in objects.iter().filter(|object| self.selector.matches(object)) {
                    out.piece(&json!({ "type": "ADDED", "object": **object }))?;
                }
                if out.fault != Some(Fault::NoEnd) {
                    out.piece(&self.bookmark(&out.version(version), true))?;
                }
                version
            }
        };
        let mut marked = Instant::now();
        while self.shared.generation.load(Ordering::SeqCst) == self.generation {
            let (events, now) = {
                let store = lock(&self.shared.store);
                let waited = self.shared.changed.wait_timeout(store, LOOK);
                let store = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                (store.since(self.kind, version), store.version())
            };
            for event in events.iter().filter_map(|happened| happened.event(&self.selector)) {
                out.piece(&event)?;
            }
            version = now.max(version);
            if marked.elapsed() >= BOOKMARK && out.fault != Some(Fault::NoEnd) {
                marked = Instant::now();
                out.piece(&self.bookmark(&out.version(version), false))?;
            }
        }
        Ok(())
    }

    fn bookmark(&self, version: &str, ends_list: bool) -> Value {
        let mut metadata = json!({ "resourceVersion": version });
        if ends_list {
            metadata = json!({ "resourceVersion": version,
                "annotations": { "k8s.io/initial-events-end": "true" } });
        }
        let object = json!({ "kind": self.kind, "apiVersion": self.api_version, "metadata": metadata });
        json!({ "type": "BOOKMARK", "object": object })
    }
}

impl Out<'_> {
    /// The version to name.
    fn version(&self, version: u64) -> String {
        match &self.fault {
            Some(Fault::Version(version)) => (*version).to_owned(),
            _ => version.to_string(),
        }
    }

    fn refuse(&mut self, code: u16, reason: &str, message: &str) -> io::Result<()> {
        self.fault = None;
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code });
        self.whole(code, &status)
    }

    fn whole(&mut self, code: u16, value: &Value) -> io::Result<()> {
        self.begin(code)?;
        self.piece(value)?;
        self.end()
    }

    fn begin(&mut self, code: u16) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {code} Lab\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        self.write(head.as_bytes())?;
        match self.fault.clone() {
            Some(Fault::HangAfterHead) => {
                // Until the other side has had enough, or we are cut.
                let mut byte = [0; 1];
                let _ = self.wire.read(&mut byte);
                Err(io::ErrorKind::TimedOut.into())
            }
            Some(Fault::Garbage(text)) => {
                self.chunk(text.as_bytes())?;
                self.end()?;
                Err(io::ErrorKind::InvalidData.into())
            }
            _ => Ok(()),
        }
    }

    /// Sends one JSON value, as far as the fault lets it.
    fn piece(&mut self, value: &Value) -> io::Result<()> {
        let text = format!("{value}\n");
        let bytes = text.as_bytes();
        match self.fault.clone() {
            Some(Fault::Reset(most) | Fault::Close(most)) if self.sent + bytes.len() > most => {
                let part = most.saturating_sub(self.sent);
                self.chunk(bytes.get(..part).unwrap_or_default())?;
                if matches!(self.fault, Some(Fault::Reset(_))) {
                    // Closing sends a reset, not the end of the stream.
                    SockRef::from(self.socket).set_linger(Some(Duration::ZERO))?;
                } else {
                    self.end()?;
                }
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Some(Fault::Slow(piece, pause)) => {
                for part in bytes.chunks(piece.max(1)) {
                    self.chunk(part)?;
                    std::thread::sleep(pause);
                }
                Ok(())
            }
            _ => self.chunk(bytes),
        }
    }

    fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sent += bytes.len();
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk)
    }

    fn end(&mut self) -> io::Result<()> {
        self.write(b"0\r\n\r\n")
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wire = self.wire.get_mut();
        wire.write_all(bytes)?;
        wire.flush()
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
