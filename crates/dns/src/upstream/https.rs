//! DNS over HTTPS as a client (RFC 8484), one request at a time on a connection of HTTP/1.1.
//!
//! Only what such an answer needs of HTTP: a status, a length or chunks. Everything is bounded.

use super::Trouble;
use super::stream::Stream;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::MESSAGE_BYTES_MAX;

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How a query stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// In its body.
    Post,
    /// In its path.
    Get,
}

/// Asks, and gives the answer's message.
pub(super) async fn ask(
    stream: &mut Stream,
    method: Method,
    host: &str,
    query: &[u8],
) -> Result<Vec<u8>, Trouble> {
    stream.write_all(&request(method, host, query)).await?;
    stream.flush().await?;
    let mut received = Vec::with_capacity(1024);
    let body_at = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if received.len() > HEAD_BYTES_MAX {
            return Err(Trouble::Malformed);
        }
        read_more(stream, &mut received).await?;
    };
    let body = received.split_off(body_at);
    let head = String::from_utf8(received).map_err(|_| Trouble::Malformed)?;
    match Framing::of(&head)? {
        Framing::Length(length) => read_length(stream, body, length).await,
        Framing::Chunks => read_chunks(stream, body).await,
    }
}

fn request(method: Method, host: &str, query: &[u8]) -> Vec<u8> {
    let accept = "Accept: application/dns-message";
    match method {
        Method::Post => {
            let length = query.len();
            let mut request = format!(
                "POST /dns-query HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n\
                 Content-Type: application/dns-message\r\nContent-Length: {length}\r\n\r\n"
            )
            .into_bytes();
            request.extend(query);
            request
        }
        Method::Get => {
            let query = BASE64_URL_SAFE_NO_PAD.encode(query);
            format!("GET /dns-query?dns={query} HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n\r\n").into_bytes()
        }
    }
}

/// Where an answer's body ends.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunks,
}

impl Framing {
    fn of(head: &str) -> Result<Framing, Trouble> {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        if code != Some("200") {
            return Err(Trouble::Connection(format!("the server says {status:?}")));
        }
        let mut framing = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                framing =
                    value.parse().ok().filter(|length| *length <= MESSAGE_BYTES_MAX).map(Framing::Length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked")
            {
                return Ok(Framing::Chunks);
            }
        }
        framing.ok_or(Trouble::Malformed)
    }
}

async fn read_more(stream: &mut Stream, into: &mut Vec<u8>) -> Result<(), Trouble> {
    match stream.read_buf(into).await? {
        0 => Err(Trouble::Connection("closed before the end of an answer".into())),
        _ => Ok(()),
    }
}

async fn read_length(stream: &mut Stream, mut body: Vec<u8>, length: usize) -> Result<Vec<u8>, Trouble> {
    while body.len() < length {
        read_more(stream, &mut body).await?;
    }
    body.truncate(length);
    Ok(body)
}

async fn read_chunks(stream: &mut Stream, mut rest: Vec<u8>) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            read_more(stream, &mut rest).await?;
        };
        let after = rest.split_off(line + 2);
        let size = String::from_utf8_lossy(&rest);
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Trouble::Malformed)?;
        rest = after;
        if body.len().saturating_add(size) > MESSAGE_BYTES_MAX {
            return Err(Trouble::Malformed);
        }
        while rest.len() < size + 2 {
            read_more(stream, &mut rest).await?;
        }
        let after = rest.split_off(size + 2);
        rest.truncate(size);
        body.append(&mut rest);
        rest = after;
        if size == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let of = |head| Framing::of(head);
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"), Ok(Framing::Length(40)));
        assert_eq!(of("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"), Ok(Framing::Chunks));
        assert_eq!(of("HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n"), Err(Trouble::Malformed));
        assert!(matches!(of("HTTP/1.1 500 No\r\n\r\n"), Err(Trouble::Connection(_))));
    }
}
