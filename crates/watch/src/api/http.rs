//! HTTP/1.1 to the API server: one connection at a time, blocking, with a limit on every wait.
//!
//! Each watch has a thread and a connection of its own, so nothing needs multiplexing, and no answer
//! is held whole: a body is handed over as it comes.

use super::access::Access;
use super::credentials::Credentials;
use super::proxy::Proxy;
use super::tls;
use super::trouble::Trouble;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection must be there within this.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What we send must be acknowledged within this, also by a peer that is gone for good.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// A connection on which nothing comes is probed after this, so often, at this distance.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;
/// The head of an answer may be so large.
const HEAD_MAX: u64 = 32 << 10;
/// An answer that is no success may be so large; the rest is not read.
const REFUSAL_MAX: u64 = 64 << 10;
/// A server cannot send us away for longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// What is read at once.
const BUFFER: usize = 16 << 10;

/// One question and how it was answered, for whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// HTTP's code, where there was an answer.
    pub code: Option<u16>,
    /// Until the head of the answer was there.
    pub took: Duration,
}

/// Whoever counts calls.
pub type OnCall = Arc<dyn Fn(Call) + Send + Sync>;

/// Whether to stop, and what that must wake.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: AtomicBool,
    /// Connections in use, by number.
    streams: Mutex<(u64, HashMap<u64, TcpStream>)>,
    asleep: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    /// Ends every wait, now and from now on.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.1.values() {
            // One that has been closed already needs no closing.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits so long, or until it is time to stop.
    pub(super) fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            guard = self.wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn enter(self: &Arc<Stop>, stream: &TcpStream) -> io::Result<InUse> {
        let stream = stream.try_clone()?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.0 += 1;
        let number = streams.0;
        streams.1.insert(number, stream);
        Ok(InUse { stop: self.clone(), number })
    }
}

/// A connection that must be closed to wake whoever waits on it.
#[derive(Debug)]
struct InUse {
    stop: Arc<Stop>,
    number: u64,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.stop.streams.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.number);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

struct Wire {
    stream: BufReader<Stream>,
    _in_use: InUse,
}

/// Somebody who asks the API server, one question after the other.
pub(super) struct Client {
    access: Arc<Access>,
    credentials: Arc<Mutex<Credentials>>,
    stop: Arc<Stop>,
    on_call: OnCall,
    /// A connection that is free for the next question.
    idle: Option<Wire>,
}

/// A success and its body.
pub(super) struct Answer<'c> {
    client: &'c mut Client,
    wire: Option<Wire>,
    framing: Framing,
    keep: bool,
}

/// How one knows where a body ends.
enum Framing {
    Length(u64),
    /// So much is left of this chunk.
    Chunked(u64),
    UntilClosed,
    Ended,
}

/// What the head of an answer says.
pub(super) struct Head {
    pub(super) code: u16,
    framing: Framing,
    keep: bool,
    retry_after: Option<Duration>,
}

impl Client {
    pub(super) fn new(
        access: Arc<Access>,
        credentials: Arc<Mutex<Credentials>>,
        stop: Arc<Stop>,
        on_call: OnCall,
    ) -> Client {
        Client { access, credentials, stop, on_call, idle: None }
    }

    /// Asks for `target`, which begins with a slash. The answer must begin within `patience`.
    pub(super) fn get(&mut self, target: &str, patience: Duration) -> Result<Answer<'_>, Trouble> {
        self.ask("GET", target, None, patience)
    }

    /// Sends a new object.
    pub(super) fn post(&mut self, target: &str, body: &str, patience: Duration) -> Result<(), Trouble> {
        self.ask("POST", target, Some(body), patience)?.read_to_end()
    }

    fn ask(
        &mut self,
        method: &'static str,
        target: &str,
        body: Option<&str>,
        patience: Duration,
    ) -> Result<Answer<'_>, Trouble> {
        let begin = Instant::now();
        let question = self.question(method, target, body)?;
        let exchanged = self.exchange(&question, patience);
        if self.stop.is_stopped() {
            return Err(Trouble::Stopped);
        }
        let code = exchanged.as_ref().ok().map(|(_, head)| head.code);
        (self.on_call)(Call { method, code, took: begin.elapsed() });
        let (mut wire, Head { code, mut framing, keep, retry_after }) = exchanged?;
        if (200..300).contains(&code) {
            return Ok(Answer { client: self, wire: Some(wire), framing, keep });
        }
        let text = read_refusal(&mut wire.stream, &mut framing);
        if code == 401 {
            // What a command or a renewed certificate says now may do.
            self.credentials.lock().unwrap_or_else(PoisonError::into_inner).forget();
        } else if keep && matches!(framing, Framing::Ended | Framing::Length(0)) {
            self.idle = Some(wire);
        }
        Err(Trouble::of_status(code, &text, retry_after))
    }

    fn question(&self, method: &str, target: &str, body: Option<&str>) -> Result<String, Trouble> {
        let Access { server, proxy, user, .. } = &*self.access;
        let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        let authorization = credentials.authorization(&self.access)?;
        drop(credentials);
        let through = proxy.as_ref().filter(|proxy| proxy.wants_whole_urls(server));
        let place = if through.is_some() { server.url() } else { server.path.clone() };
        let mut text = format!(
            "{method} {place}{target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: portolan/{} (linux/{})\r\n\
             Accept: application/json\r\n",
            server.authority(),
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
        );
        if let Some(authorization) = authorization {
            text += &format!("Authorization: {authorization}\r\n");
        }
        text += user.impersonation.headers();
        text += &through.and_then(Proxy::authorization).unwrap_or_default();
        if let Some(body) = body {
            text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body.unwrap_or_default();
        Ok(text)
    }

    /// Puts the question, on the connection that is there if it still is.
    fn exchange(&mut self, question: &str, patience: Duration) -> Result<(Wire, Head), Trouble> {
        if let Some(wire) = self.idle.take()
            && let Ok(exchanged) = exchange(wire, question, patience)
        {
            return Ok(exchanged);
        }
        let wire = self.connect()?;
        exchange(wire, question, patience)
    }

    fn connect(&self) -> Result<Wire, Trouble> {
        if self.stop.is_stopped() {
            return Err(Trouble::Stopped);
        }
        let Access { server, proxy, tls_name, .. } = &*self.access;
        let trouble = |error| Trouble::Connection("connect", error);
        let mut socket = match proxy {
            None => open(&server.host, server.port).map_err(trouble)?,
            Some(proxy) => open(&proxy.host, proxy.port).map_err(|error| {
                trouble(io::Error::new(error.kind(), format!("{}: {error}", proxy.url())))
            })?,
        };
        let in_use = self.stop.enter(&socket).map_err(trouble)?;
        set_up(&socket).map_err(trouble)?;
        if let Some(proxy) = proxy {
            proxy.connect(&mut socket, server)?;
        }
        let stream = match server.tls {
            false => Stream::Plain(socket),
            true => {
                let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
                let identity = credentials.identity(&self.access)?;
                drop(credentials);
                let config = tls::config(&self.access, identity)?;
                let name = tls_name.as_deref().unwrap_or(&server.host).to_owned();
                let name = ServerName::try_from(name)
                    .map_err(|error| Trouble::Access(format!("the API server's name: {error}")))?;
                let connection = ClientConnection::new(config, name)
                    .map_err(|error| Trouble::Access(format!("TLS: {error}")))?;
                Stream::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        Ok(Wire { stream: BufReader::with_capacity(BUFFER, stream), _in_use: in_use })
    }
}

/// Connects with the first of a host's addresses that answers.
fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set_up(socket: &TcpStream) -> io::Result<()> {
    let reference = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER).with_retries(PROBES);
    reference.set_tcp_keepalive(&probes)?;
    reference.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(CONNECT_MAX))?;
    socket.set_write_timeout(Some(UNACKNOWLEDGED_MAX))
}

fn exchange(mut wire: Wire, question: &str, patience: Duration) -> Result<(Wire, Head), Trouble> {
    let stream = wire.stream.get_mut();
    stream.write_all(question.as_bytes()).and_then(|()| stream.flush()).map_err(asking)?;
    stream.socket().set_read_timeout(Some(patience)).map_err(asking)?;
    let head = read_head(&mut wire.stream)?;
    Ok((wire, head))
}

fn asking(error: io::Error) -> Trouble {
    Trouble::Connection("ask", silence(error))
}

/// A wait that ended is called so, not `Resource temporarily unavailable`.
fn silence(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "nothing comes"),
        // However the layers below put it.
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it ends in the middle"),
        _ => error,
    }
}

/// Reads the head of an answer, those of `1xx` before it stepped over.
pub(super) fn read_head(stream: &mut impl BufRead) -> Result<Head, Trouble> {
    let mut limited = stream.take(HEAD_MAX);
    loop {
        let head = read_one_head(&mut limited)?;
        if !(100..200).contains(&head.code) {
            return Ok(head);
        }
    }
}

fn read_one_head(stream: &mut impl BufRead) -> Result<Head, Trouble> {
    let nonsense = |what: &str| Trouble::Nonsense(format!("what answers is not HTTP: {what}"));
    let mut line = String::new();
    let mut next = |line: &mut String| -> Result<(), Trouble> {
        line.clear();
        match stream.read_line(line) {
            Ok(0) => Err(asking(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) if line.ends_with('\n') => Ok(()),
            Ok(_) => Err(nonsense("its head has no end")),
            Err(error) => Err(asking(error)),
        }
    };
    next(&mut line)?;
    let mut words = line.trim_end().splitn(3, ' ');
    let version = words.next().unwrap_or_default().to_owned();
    let code = words.next().and_then(|code| code.parse().ok());
    let (true, Some(code)) = (version.starts_with("HTTP/1."), code) else {
        return Err(nonsense("its first line"));
    };
    let (mut keep, mut retry_after) = (version == "HTTP/1.1", None);
    let (mut length, mut chunked) = (None, false);
    loop {
        next(&mut line)?;
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        let Some((name, value)) = text.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = Some(value.parse().map_err(|_| nonsense("its Content-Length"))?);
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => keep = !value.eq_ignore_ascii_case("close"),
            "retry-after" => {
                let seconds = value.parse().ok().map(Duration::from_secs);
                retry_after = seconds.map(|wait: Duration| wait.min(RETRY_AFTER_MAX));
            }
            _ => {}
        }
    }
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked(0),
        (false, Some(length)) => Framing::Length(length),
        (false, None) if code == 204 || code < 200 => Framing::Ended,
        (false, None) => Framing::UntilClosed,
    };
    Ok(Head { code, framing, keep, retry_after })
}

impl Answer<'_> {
    /// How long the body may be silent.
    pub(super) fn set_patience(&mut self, patience: Duration) -> Result<(), Trouble> {
        let Some(wire) = &self.wire else { return Ok(()) };
        wire.stream.get_ref().socket().set_read_timeout(Some(patience)).map_err(asking)
    }

    /// Reads what has come of the body; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let Some(wire) = &mut self.wire else { return Ok(0) };
        let read = read_body(&mut wire.stream, &mut self.framing, buffer);
        if self.client.stop.is_stopped() {
            self.wire = None;
            return Err(Trouble::Stopped);
        }
        match read {
            Ok(0) => {
                let wire = self.wire.take();
                self.client.idle = wire.filter(|_| self.keep);
                Ok(0)
            }
            Ok(read) => Ok(read),
            Err(error) => {
                self.wire = None;
                Err(Trouble::Connection("read the answer", silence(error)))
            }
        }
    }

    /// Reads to the end, for the connection's sake.
    fn read_to_end(mut self) -> Result<(), Trouble> {
        let mut buffer = [0; 4096];
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }
}

fn read_body(stream: &mut impl BufRead, framing: &mut Framing, buffer: &mut [u8]) -> io::Result<usize> {
    let early = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle");
    let mut take = |stream: &mut dyn BufRead, left: u64| -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match stream.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => Err(early()),
            read => read,
        }
    };
    match framing {
        Framing::Ended | Framing::Length(0) => Ok(0),
        Framing::Length(left) => {
            let read = take(stream, *left)?;
            *left -= read as u64;
            Ok(read)
        }
        Framing::UntilClosed => match stream.read(buffer)? {
            0 => {
                *framing = Framing::Ended;
                Ok(0)
            }
            read => Ok(read),
        },
        Framing::Chunked(left) => {
            if *left == 0 {
                *left = chunk_size(stream)?;
                if *left == 0 {
                    while !matches!(line(stream)?.as_str(), "") {}
                    *framing = Framing::Ended;
                    return Ok(0);
                }
            }
            let read = take(stream, *left)?;
            *left -= read as u64;
            if *left == 0 && !line(stream)?.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk that does not end"));
            }
            Ok(read)
        }
    }
}

/// The body of an answer that is no success, as far as it matters.
fn read_refusal(stream: &mut impl BufRead, framing: &mut Framing) -> Vec<u8> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while (text.len() as u64) < REFUSAL_MAX {
        match read_body(stream, framing, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => text.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
    }
    text
}

fn chunk_size(stream: &mut impl BufRead) -> io::Result<u64> {
    let text = line(stream)?;
    let size = text.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(size, 16)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a chunk without a size"))
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    stream.take(HEAD_MAX).read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle")),
    }
}

/// Takes any bytes as an answer and hands over its body.
pub(super) fn fuzz(bytes: &[u8], mut body: impl FnMut(&[u8])) {
    let mut stream = BufReader::with_capacity(7, bytes);
    let Ok(Head { mut framing, .. }) = read_head(&mut stream) else { return };
    let mut buffer = [0; 64];
    while let Ok(read @ 1..) = read_body(&mut stream, &mut framing, &mut buffer) {
        body(buffer.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> (u16, Result<String, String>) {
        let mut stream = BufReader::with_capacity(3, text.as_bytes());
        let head = match read_head(&mut stream) {
            Ok(head) => head,
            Err(trouble) => return (0, Err(trouble.to_string())),
        };
        let Head { code, mut framing, .. } = head;
        let (mut all, mut buffer) = (Vec::new(), [0; 5]);
        loop {
            match read_body(&mut stream, &mut framing, &mut buffer) {
                Ok(0) => return (code, Ok(String::from_utf8(all).expect("text"))),
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                Err(error) => return (code, Err(error.to_string())),
            }
        }
    }

    #[test]
    fn bodies() {
        let good = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabcdefghi", 200, "abcdefg"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\ndefghijklm\r\n0\r\nT: x\r\n\r\n",
                200,
                "abcdefghijklm",
            ),
            ("HTTP/1.0 404 Not Found\n\nabc", 404, "abc"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nabc", 204, ""),
        ];
        for (text, code, want) in good {
            assert_eq!(body(text), (code, Ok(want.to_owned())), "{text:?}");
        }
        let bad = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabc", "it ends in the middle"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "it ends in the middle"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                "a chunk that does not end",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "a chunk without a size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "it ends in the middle"),
            ("SSH-2.0-x\r\n", "what answers is not HTTP: its first line"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "what answers is not HTTP: its Content-Length"),
        ];
        for (text, want) in bad {
            assert_eq!(body(text).1, Err(want.to_owned()), "{text:?}");
        }
    }
}
