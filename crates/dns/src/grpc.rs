//! DNS over gRPC as CoreDNS serves and asks it: method `Query` of `coredns.dns.DnsService`, whose request
//! and response are one message each, in the first field of a protocol buffer. Other methods,
//! compression and reflection are refused as gRPC has it.

use crate::answer::answer_wholly;
use crate::http2::{self, Said, Service};
use crate::tcp::Visit;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::{Asked, MESSAGE_BYTES_MAX, Refusal};

const PATH: &str = "/coredns.dns.DnsService/Query";
/// Whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Before a message in its protocol buffer: the field, and a length of up to three bytes.
const FIELD_BYTES_MAX: usize = 4;
/// The first field, with a length.
const FIELD_TAG: u64 = 1 << 3 | 2;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const STATUS_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Codes of gRPC (its `codes` package).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// Serves a connection.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, visit: Visit) {
    let streams = visit.server.load().limits.grpc_streams;
    http2::serve(stream, visit, streams, Grpc).await;
}

struct Grpc;

impl Service for Grpc {
    const BODY_BYTES_MAX: usize = PREFIX_BYTES + FIELD_BYTES_MAX + MESSAGE_BYTES_MAX;

    async fn answer(&self, visit: &Visit, head: &request::Parts, body: Option<Vec<u8>>) -> Said {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if head.method != Method::POST || !head.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Said { head, body: Vec::new(), trailers: None };
        }
        let query = match query(head, body.as_deref()) {
            Ok(query) => query,
            Err((code, what)) => return refusal(code, what),
        };
        let routes = visit.server.load().routes.clone();
        match answer_wholly(query, visit.from, &routes, |_| {}).await {
            Some(answer) => message(&answer),
            None => refusal(Code::Internal, "no answer"),
        }
    }
}

/// The message of a request.
fn query<'b>(head: &request::Parts, body: Option<&'b [u8]>) -> Result<&'b [u8], (Code, &'static str)> {
    if head.uri.path() != PATH {
        return Err((Code::Unimplemented, "only coredns.dns.DnsService/Query"));
    }
    let body = body.ok_or((Code::ResourceExhausted, "no message is so long"))?;
    let (prefix, packet) =
        body.split_first_chunk::<PREFIX_BYTES>().ok_or((Code::InvalidArgument, "no message"))?;
    let [compressed, length @ ..] = prefix;
    if *compressed != 0 {
        return Err((Code::Unimplemented, "compression"));
    }
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(packet.len()) {
        return Err((Code::InvalidArgument, "one message was expected"));
    }
    let query = unpack(packet).ok_or((Code::InvalidArgument, "no protocol buffer"))?;
    match Asked::default().read(query) {
        Err(Refusal::Ignore) => Err((Code::InvalidArgument, "this is no question")),
        _ => Ok(query),
    }
}

/// The first field of a protocol buffer, the last of them if there are several. Others are passed over.
fn unpack(mut rest: &[u8]) -> Option<&[u8]> {
    let mut found: &[u8] = &[];
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, after) = rest.split_at_checked(length)?;
        if tag == FIELD_TAG {
            found = value;
        }
        rest = after;
    }
    Some(found)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn pack(message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; PREFIX_BYTES];
    packet.push(FIELD_TAG as u8);
    let mut length = message.len();
    while length >= 0x80 {
        packet.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(message);
    let length = u32::try_from(packet.len() - PREFIX_BYTES).unwrap_or(0).to_be_bytes();
    if let Some(place) = packet.get_mut(1..PREFIX_BYTES) {
        place.copy_from_slice(&length);
    }
    packet
}

fn begun() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head
}

fn message(answer: &[u8]) -> Said {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    Said { head: begun(), body: pack(answer), trailers: Some(trailers) }
}

fn refusal(code: Code, what: &'static str) -> Said {
    let mut head = begun();
    head.headers_mut().insert(STATUS, HeaderValue::from(code as u16));
    head.headers_mut().insert(STATUS_MESSAGE, HeaderValue::from_static(what));
    Said { head, body: Vec::new(), trailers: None }
}

/// For fuzzing: reads anything as a packet.
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(message) = unpack(bytes) {
        // What we pack we understand.
        let packed = pack(message);
        assert_eq!(packed.get(PREFIX_BYTES..).and_then(unpack), Some(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets() {
        for length in [0_usize, 1, 127, 128, 16_383, 16_384, MESSAGE_BYTES_MAX] {
            let message = vec![7; length];
            let packet = pack(&message);
            assert!(packet.len() <= Grpc::BODY_BYTES_MAX, "{length}");
            let (prefix, rest) = packet.split_first_chunk::<PREFIX_BYTES>().unwrap();
            assert_eq!(prefix[1..], u32::try_from(rest.len()).unwrap().to_be_bytes());
            assert_eq!(unpack(rest), Some(&*message), "{length}");
        }
        // Fields that we do not know, of every kind, before and behind.
        let packet = b"\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x0a\x01x\x1d\0\0\0\0\x22\x02yz";
        assert_eq!(unpack(packet), Some(&b"x"[..]));
        for packet in
            [&b"\x0a"[..], b"\x0a\x05x", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x09\0"]
        {
            assert_eq!(unpack(packet), None, "{packet:?}");
        }
    }
}
