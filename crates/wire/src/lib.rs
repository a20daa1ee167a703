//! DNS messages as bytes: names, questions, records, whole messages, and nothing of what they mean.
//!
//! Reading ([`Message`], [`Asked`]) borrows the bytes and never panics on them. Writing goes through
//! a [`Reply`], which holds records in a form that plugins can look at, reorder and change, and
//! becomes bytes once, with compression and truncation, at the end ([`Reply::encode`]). Neither
//! allocates once its buffers have grown to their working size.
//!
//! No sockets, no clock, no policy.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod asked;
mod compress;
mod message;
mod name;
mod reply;
mod reverse;
mod text;
mod types;

pub use asked::{Asked, Edns, Refusal};
pub use compress::Compressor;
pub use message::{Header, Malformed, Message, Question, RecordRef, Records, Section};
pub use name::{Labels, Name, NameError};
pub use reply::{Envelope, Owner, Record, Reply};
pub use reverse::{address_of_reverse, reverse_name};
pub use text::{ShowName, ShowRecord};
pub use types::{Class, Opcode, Rcode, Type, flags};

/// The bytes of a message's header.
pub const HEADER_BYTES: usize = 12;
/// The largest message there can be.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// What every receiver of a datagram takes (RFC 1035 4.2.1).
pub const UDP_BYTES_MIN: u16 = 512;

/// For fuzzing: reads any bytes as a query and as an answer, writes what was read, and checks that
/// it reads the same again.
///
/// # Panics
/// When something that must hold does not.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let mut asked = Asked::default();
    let _ = asked.read(bytes);
    let Ok(message) = Message::read(bytes) else { return };
    let Ok(question) = message.question() else { return };
    let mut reply = Reply::default();
    if reply.read(&message).is_err() {
        return;
    }
    for record in reply.records() {
        let _ = reply.show(record, &question.name).to_string();
    }
    let (mut out, mut compressor) = (Vec::new(), Compressor::default());
    for limit in [512, 1232, MESSAGE_BYTES_MAX] {
        let envelope = Envelope { limit, ..Envelope::of_question(1, question) };
        reply.encode(&envelope, &mut compressor, &mut out);
        assert!(
            out.len() <= limit.max(HEADER_BYTES + question.name.as_bytes().len() + 4),
            "within the limit"
        );
        let again = Message::read(&out).unwrap_or_else(|error| panic!("our own header: {error}"));
        assert_eq!(again.question().ok(), Some(question));
        let mut read = Reply::default();
        read.read(&again).unwrap_or_else(|error| panic!("our own message: {error}"));
        let shown = |reply: &Reply| -> Vec<String> {
            reply.records().iter().map(|record| reply.show(record, &question.name).to_string()).collect()
        };
        let (was, is) = (shown(&reply), shown(&read));
        assert!(was.starts_with(&is), "{was:?} became {is:?}");
        assert!(is.len() == was.len() || read.truncated, "records are only left out of a truncated message");
    }
}
