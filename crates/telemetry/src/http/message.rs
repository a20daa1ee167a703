//! Requests and answers as bytes. Nothing is sent here.

use super::HEAD_MAX;
use crate::time::Utc;
use std::time::SystemTime;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, without what follows a question mark.
    pub path: String,
    /// The connection may be used again.
    pub(super) keep: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// Headers beside those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// The type of plain text.
const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    /// An answer in plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        Response { status, content_type: TEXT, headers: Vec::new(), body: body.into() }
    }

    /// An answer in JSON.
    pub fn json(status: u16, body: String) -> Response {
        Response { status, content_type: "application/json", headers: Vec::new(), body }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer where there is nothing.
    pub fn not_found() -> Response {
        Response::text(404, "404 page not found\n").with("X-Content-Type-Options", "nosniff")
    }

    /// The bytes to send.
    pub(super) fn bytes(&self, now: SystemTime, keep: bool, with_body: bool) -> Vec<u8> {
        let Response { status, content_type, headers, body } = self;
        let date = Utc::of(now).http();
        let mut text = format!("HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n", reason(*status));
        for (name, value) in headers {
            // A value comes from us, and may hold a name that came from elsewhere.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Date: {date}\r\nContent-Length: {}\r\n", body.len());
        text += if keep { "\r\n" } else { "Connection: close\r\n\r\n" };
        if with_body {
            text += body;
        }
        text.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

/// What the bytes of a connection are so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a request.
    Incomplete,
    /// A request, so many bytes long.
    Whole(Request, usize),
    /// Something that is answered with an error; after that the connection is closed.
    Refused(Response),
}

/// Reads the first request in these bytes.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some(length) = head_length(bytes) else {
        return match bytes.len() >= HEAD_MAX {
            true => Parsed::Refused(Response::text(431, "request too large\n")),
            false => Parsed::Incomplete,
        };
    };
    if length > HEAD_MAX {
        return Parsed::Refused(Response::text(431, "request too large\n"));
    }
    let bad = || Parsed::Refused(Response::text(400, "400 Bad Request\n"));
    let Some(text) = bytes.get(..length).and_then(|head| std::str::from_utf8(head).ok()) else {
        return bad();
    };
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return bad();
    };
    let mut keep = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return bad(),
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { return bad() };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" => {
                let mut words = value.split(',').map(|word| word.trim().to_ascii_lowercase());
                match version {
                    "HTTP/1.1" => keep = !words.any(|word| word == "close"),
                    _ => keep = words.any(|word| word == "keep-alive"),
                }
            }
            // Nobody here takes a body, and to step over one is to be told where the next request
            // begins by whoever sent it.
            "content-length" if value == "0" => {}
            "content-length" | "transfer-encoding" => {
                return Parsed::Refused(Response::text(413, "no request here has a body\n"));
            }
            _ => {}
        }
    }
    if !matches!(method, "GET" | "HEAD") {
        let refused = Response::text(405, "Method Not Allowed\n").with("Allow", "GET, HEAD");
        return Parsed::Refused(refused);
    }
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    Parsed::Whole(Request { method: method.to_owned(), path, keep }, length)
}

/// How long the head is, with the empty line at its end.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if *byte != b'\n' {
            continue;
        }
        let text = bytes.get(line..index).unwrap_or_default();
        if index > 0 && (text.is_empty() || text == b"\r") && line > 0 {
            return Some(index + 1);
        }
        line = index + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, keep: bool) -> Request {
        Request { method: method.to_owned(), path: path.to_owned(), keep }
    }

    #[test]
    fn requests() {
        let whole = [
            ("GET / HTTP/1.1\r\n\r\n", request("GET", "/", true)),
            ("GET /a?b=c HTTP/1.1\nHost: x\n\n", request("GET", "/a", true)),
            ("HEAD /a HTTP/1.0\r\nHost: x\r\n\r\n", request("HEAD", "/a", false)),
            ("GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", request("GET", "/a", true)),
            ("GET /a HTTP/1.1\r\nconnection: te, close\r\n\r\n", request("GET", "/a", false)),
            ("GET /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n", request("GET", "/a", true)),
        ];
        for (text, request) in whole {
            let next = format!("{text}GET /next");
            assert_eq!(parse(next.as_bytes()), Parsed::Whole(request, text.len()), "{text:?}");
            for end in 0..text.len() {
                assert_eq!(parse(&text.as_bytes()[..end]), Parsed::Incomplete, "{:?}", &text[..end]);
            }
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(HEAD_MAX));
        let refused: [(&[u8], u16); 9] = [
            (b"GET /\r\n\r\n", 400),
            (b"GET / HTTP/2\r\n\r\n", 400),
            (b"GET  / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", 400),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
            (b"PUT / HTTP/1.1\r\n\r\n", 405),
            (b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 413),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
            (long.as_bytes(), 431),
        ];
        for (bytes, status) in refused {
            let Parsed::Refused(response) = parse(bytes) else { panic!("{bytes:?} passed") };
            assert_eq!(response.status, status, "{bytes:?}");
        }
        assert!(matches!(parse(&vec![b'a'; HEAD_MAX]), Parsed::Refused(_)));
    }

    #[test]
    fn answers() {
        let answer = Response::text(503, "no\n").with("X-A", "b\r\nX-C: d");
        let text =
            |keep, body| String::from_utf8(answer.bytes(SystemTime::UNIX_EPOCH, keep, body)).expect("text");
        assert_eq!(
            text(false, true),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-A: bX-C: d\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\nno\n"
        );
        assert!(text(true, false).ends_with("Content-Length: 3\r\n\r\n"));
    }
}
