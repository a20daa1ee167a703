//! DNS over HTTPS (RFC 8484): a request's message to a response's, by GET and by POST, whatever version
//! of HTTP carries them. Without plugin `tls` it is HTTP in the clear, for proxies that end TLS.

mod http1;

use crate::answer::answer_wholly;
use crate::http2::{self, Said, Service};
use crate::tcp::Visit;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, request};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::{Asked, MESSAGE_BYTES_MAX, Message, Rcode, Refusal, Type};

/// Where questions are asked.
const PATH: &str = "/dns-query";
/// What carries them.
const MEDIA_TYPE: &str = "application/dns-message";
/// Streams of one connection (what Go's server allows).
const STREAMS: u32 = 250;
/// For so long an answer may be kept that says nothing about it (CoreDNS' `MinimalDefaultTTL`).
const AGE_DEFAULT_S: u32 = 5;
/// The longest for which any may (its `MaximumDefaultTTL`).
const AGE_MAX_S: u32 = 3600;

/// Serves a connection.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, version_2: bool, visit: Visit) {
    if version_2 {
        http2::serve(stream, visit, STREAMS, Https).await;
    } else {
        http1::serve(stream, &visit).await;
    }
}

/// For fuzzing: reads anything as requests.
pub(crate) fn fuzz(bytes: &[u8]) {
    http1::fuzz(bytes);
    age_s(bytes);
}

struct Https;

impl Service for Https {
    const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

    async fn answer(&self, visit: &Visit, head: &request::Parts, body: Option<Vec<u8>>) -> Said {
        let response = answer(visit, head, body).await;
        let (head, body) = response.into_parts();
        Said { head: Response::from_parts(head, ()), body, trailers: None }
    }
}

/// Answers a request, whose body is `None` where it was too long.
async fn answer(visit: &Visit, head: &request::Parts, body: Option<Vec<u8>>) -> Response<Vec<u8>> {
    let response = match query(head, body) {
        Ok(query) => {
            let routes = visit.server.load().routes.clone();
            match answer_wholly(&query, visit.from, &routes, |_| {}).await {
                Some(answer) => message(answer),
                None => refusal(StatusCode::INTERNAL_SERVER_ERROR, "no answer\n"),
            }
        }
        Err((status, what)) => refusal(status, what),
    };
    count(visit, response.status());
    response
}

fn count(visit: &Visit, status: StatusCode) {
    let server = visit.server.load();
    let labels = [("server", &*server.routes.server), ("status", status.as_str())];
    let help = "Counter of DoH responses per server and http status code.";
    server.metrics.counter("coredns_dns_https_responses_total", help, &labels).count();
}

/// The message of a request.
fn query(head: &request::Parts, body: Option<Vec<u8>>) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    if head.uri.path() != PATH {
        return Err((StatusCode::NOT_FOUND, "questions are asked at /dns-query\n"));
    }
    let query = match head.method {
        Method::GET => {
            let words = head.uri.query().unwrap_or_default().split('&');
            let mut found = words.filter_map(|word| word.strip_prefix("dns="));
            match (found.next(), found.next()) {
                (Some(text), None) => BASE64_URL_SAFE_NO_PAD.decode(text).ok(),
                _ => None,
            }
            .ok_or((StatusCode::BAD_REQUEST, "one dns=MESSAGE in base64url was expected\n"))?
        }
        Method::POST => {
            // Who says nothing means this; who says something else does not mean DNS.
            let other = |value: &HeaderValue| {
                let value = value.to_str().unwrap_or_default();
                !value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE)
            };
            if head.headers.get(CONTENT_TYPE).is_some_and(other) {
                return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/dns-message was expected\n"));
            }
            body.ok_or((StatusCode::PAYLOAD_TOO_LARGE, "no message is so long\n"))?
        }
        _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n")),
    };
    match Asked::default().read(&query) {
        Err(Refusal::Ignore | Refusal::Code(Rcode::FORMERR)) => {
            Err((StatusCode::BAD_REQUEST, "this is no question\n"))
        }
        _ => Ok(query),
    }
}

fn message(answer: Vec<u8>) -> Response<Vec<u8>> {
    let age = HeaderValue::try_from(format!("max-age={}", age_s(&answer)));
    let length = HeaderValue::from(answer.len());
    let mut response = Response::new(answer);
    let headers = response.headers_mut();
    // With HTTP/2, too: there are clients that see no answer without it.
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Ok(age) = age {
        headers.insert(CACHE_CONTROL, age);
    }
    response
}

fn refusal(status: StatusCode, what: &str) -> Response<Vec<u8>> {
    let mut response = Response::new(what.as_bytes().to_vec());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(what.len()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// For how long an answer may be kept (RFC 8484 5.1): no longer than any of its records, nor than its
/// SOA says for what is not there.
fn age_s(answer: &[u8]) -> u32 {
    let read = || {
        let message = Message::read(answer).ok()?;
        if !matches!(message.header.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) {
            return None;
        }
        let denies = message.header.counts.get(1) == Some(&0);
        let records = message.records().ok()?.filter_map(Result::ok);
        let ttl = |record: wire::RecordRef<'_>| match record.rtype {
            Type::OPT => None,
            Type::SOA if denies => {
                let minimum = record.rdata.last_chunk().map_or(0, |last| u32::from_be_bytes(*last));
                Some(record.ttl.min(minimum))
            }
            _ => Some(record.ttl),
        };
        records.filter_map(ttl).min()
    };
    read().unwrap_or(AGE_DEFAULT_S).min(AGE_MAX_S)
}
