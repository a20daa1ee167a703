//! Connections of HTTP/1.1 as a server: one request after the other, with bodies by length or in chunks.
//! What is ambiguous is refused, and with it the connection.

use super::answer;
use crate::http2::HEADER_BYTES_MAX;
use crate::setup::Timeouts;
use crate::tcp::{Visit, race};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use wire::MESSAGE_BYTES_MAX;

/// So much is read at once.
const READ_BYTES: usize = 4096;
/// The longest line that tells the size of a chunk.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Why there is no request.
enum Wrong {
    /// The connection has ended or is to end.
    Over,
    /// It makes no sense.
    Status(StatusCode),
}

/// A request, whose body is `None` where it was too long.
type Request = (request::Parts, Option<Vec<u8>>);

/// Serves a connection until it ends or is to end.
pub(super) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, visit: &Visit) {
    let mut stream = Reader { stream, ahead: Vec::new() };
    let timeouts = visit.server.load().timeouts;
    loop {
        let ending = async {
            visit.place.end().await;
            Err(Wrong::Over)
        };
        let (response, last, bare) = match race(stream.request(timeouts), ending).await {
            Err(Wrong::Over) => break,
            Err(Wrong::Status(status)) => {
                super::count(visit, status);
                (super::refusal(status, "this is no request\n"), true, false)
            }
            Ok((head, body)) => {
                visit.place.asked();
                // What is left of a body that is too long is not read.
                let last = body.is_none() || !keeps_alive(&head);
                (answer(visit, &head, body).await, last, head.method == Method::HEAD)
            }
        };
        let bytes = spelled(&response, last, bare);
        let writing = async {
            stream.stream.write_all(&bytes).await?;
            stream.stream.flush().await
        };
        if !matches!(timeout(timeouts.write, writing).await, Ok(Ok(()))) || last {
            break;
        }
    }
    let _ = timeout(timeouts.write, stream.stream.shutdown()).await;
}

fn keeps_alive(head: &request::Parts) -> bool {
    let said = head.headers.get(CONNECTION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let says = |word: &str| said.split(',').any(|said| said.trim().eq_ignore_ascii_case(word));
    if head.version == Version::HTTP_10 { says("keep-alive") } else { !says("close") }
}

/// A response as bytes; without its body where only its head was wanted.
fn spelled(response: &Response<Vec<u8>>, last: bool, bare: bool) -> Vec<u8> {
    let status = response.status();
    let (code, reason) = (status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut bytes = format!("HTTP/1.1 {code} {reason}\r\n").into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if last {
        bytes.extend_from_slice(b"connection: close\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    if !bare {
        bytes.extend_from_slice(response.body());
    }
    bytes
}

/// The reading side: a stream and what was read of it but not used.
struct Reader<S> {
    stream: S,
    ahead: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Reader<S> {
    /// The next request.
    async fn request(&mut self, timeouts: Timeouts) -> Result<Request, Wrong> {
        if self.ahead.is_empty() {
            timeout(timeouts.idle, self.more()).await.unwrap_or(Err(Wrong::Over))?;
        }
        let reading = async {
            let head = self.head().await?;
            let body = self.body(&head).await?;
            Ok((head, body))
        };
        timeout(timeouts.read, reading).await.unwrap_or(Err(Wrong::Over))
    }

    async fn more(&mut self) -> Result<(), Wrong> {
        self.ahead.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.ahead).await {
            Ok(1..) => Ok(()),
            _ => Err(Wrong::Over),
        }
    }

    /// What stands before the next `end`, which is taken, too.
    async fn until(&mut self, end: &[u8], most: usize, else_status: StatusCode) -> Result<Vec<u8>, Wrong> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                let rest = self.ahead.split_off(at + end.len());
                let mut before = std::mem::replace(&mut self.ahead, rest);
                before.truncate(at);
                return Ok(before);
            }
            if self.ahead.len() > most {
                return Err(Wrong::Status(else_status));
            }
            self.more().await?;
        }
    }

    /// So many bytes.
    async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Wrong> {
        while self.ahead.len() < count {
            self.more().await?;
        }
        let rest = self.ahead.split_off(count);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    async fn head(&mut self) -> Result<request::Parts, Wrong> {
        let too_long = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let head = self.until(b"\r\n\r\n", HEADER_BYTES_MAX as usize, too_long).await?;
        parse(&head).ok_or(Wrong::Status(StatusCode::BAD_REQUEST))
    }

    async fn body(&mut self, head: &request::Parts) -> Result<Option<Vec<u8>>, Wrong> {
        let length = Length::of(&head.headers).ok_or(Wrong::Status(StatusCode::BAD_REQUEST))?;
        let expects = head.headers.get(EXPECT).is_some_and(|value| value.as_bytes() == b"100-continue");
        if matches!(length, Length::Bytes(length) if length > MESSAGE_BYTES_MAX) {
            return Ok(None);
        }
        if expects && self.ahead.is_empty() && length != Length::Bytes(0) {
            let going_on = async {
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                self.stream.flush().await
            };
            going_on.await.map_err(|_| Wrong::Over)?;
        }
        match length {
            Length::Bytes(length) => self.exactly(length).await.map(Some),
            Length::Chunks => self.chunks().await,
        }
    }

    async fn chunks(&mut self) -> Result<Option<Vec<u8>>, Wrong> {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n", CHUNK_LINE_BYTES_MAX, BAD).await?;
            let size = String::from_utf8_lossy(&line);
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Wrong::Status(BAD))?;
            if size == 0 {
                break;
            }
            if body.len().saturating_add(size) > MESSAGE_BYTES_MAX {
                return Ok(None);
            }
            body.append(&mut self.exactly(size).await?);
            if self.exactly(2).await? != b"\r\n" {
                return Err(Wrong::Status(BAD));
            }
        }
        // Trailers say nothing to us.
        let mut left = HEADER_BYTES_MAX as usize;
        loop {
            let line = self.until(b"\r\n", left, BAD).await?;
            if line.is_empty() {
                return Ok(Some(body));
            }
            left = left.checked_sub(line.len()).ok_or(Wrong::Status(BAD))?;
        }
    }
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunks,
}

impl Length {
    /// `None` where headers contradict each other or themselves.
    fn of(headers: &HeaderMap) -> Option<Length> {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        match (headers.get(TRANSFER_ENCODING), lengths.next(), lengths.next()) {
            (None, None, None) => Some(Length::Bytes(0)),
            (None, Some(length), None) => length.to_str().ok()?.parse().ok().map(Length::Bytes),
            (Some(coding), None, None) => {
                coding.as_bytes().eq_ignore_ascii_case(b"chunked").then_some(Length::Chunks)
            }
            _ => None,
        }
    }
}

/// Understands the head of a request, without the empty line behind it.
fn parse(head: &[u8]) -> Option<request::Parts> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let version = match (version, words.next()) {
        ("HTTP/1.1", None) => Version::HTTP_11,
        ("HTTP/1.0", None) => Version::HTTP_10,
        _ => return None,
    };
    let request = http::Request::builder().method(method).uri(target).version(version).body(()).ok()?;
    let (mut parts, ()) = request.into_parts();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        parts.headers.try_append(name, HeaderValue::from_str(value.trim()).ok()?).ok()?;
    }
    Some(parts)
}

/// For fuzzing: reads anything as requests on a connection.
pub(super) fn fuzz(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    let mut reader = Reader { stream: tokio::io::join(bytes, tokio::io::sink()), ahead: Vec::new() };
    while let Ok((head, body)) = runtime.block_on(reader.request(Timeouts::default())) {
        let _ = (keeps_alive(&head), super::query(&head, body));
    }
}
