//! A query as it goes to an upstream, and whether what comes back answers it.

use crate::random;
use wire::{
    Asked, Compressor, Envelope, HEADER_BYTES, Message, Name, Opcode, Question, Rcode, Reply, Type, flags,
};

/// The largest datagram that we ask for; larger ones come in pieces that get lost.
const DATAGRAM_BYTES_MAX: u16 = 4096;
/// The smallest that we ask for where the asker knows EDNS: it fits into one packet nearly everywhere.
const DATAGRAM_BYTES_MIN: u16 = 1232;
/// EDNS options that concern one hop only: cookies, keepalive, padding.
const OPTIONS_OF_HOP: [u16; 3] = [10, 11, 12];

/// A query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// The message with number 0, its name in lower case: equal queries are equal bytes.
    bytes: Vec<u8>,
    question: Question,
    /// The largest datagram that may come back.
    datagram_bytes: usize,
}

/// What a message is to a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It answers it.
    Answer,
    /// It answers it, but does not fit into a datagram.
    Truncated,
    /// It is something else: an answer to another query, or somebody's attempt.
    Other,
    /// It answers it, but spells its name in another way.
    Respelled,
}

impl Query {
    /// The query that asks what an asker asks.
    pub(crate) fn of(asked: &Asked) -> Query {
        let question = Question { name: asked.question.name.lowercase(), ..asked.question };
        let mut reply = Reply::default();
        let edns = asked.edns().map(|edns| {
            for (code, data) in edns.options().filter(|(code, _)| !OPTIONS_OF_HOP.contains(code)) {
                reply.options.extend(code.to_be_bytes());
                reply.options.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
                reply.options.extend(data);
            }
            (edns.udp_size.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX), edns.dnssec_ok)
        });
        let mut envelope = Envelope::of_question(0, question);
        envelope.edns = edns;
        let word = asked.flags & (flags::RD | flags::CD | flags::AD);
        let mut bytes = Vec::with_capacity(64);
        reply.encode(&envelope, &mut Compressor::default(), &mut bytes);
        if let Some(into) = bytes.get_mut(2..4) {
            into.copy_from_slice(&word.to_be_bytes());
        }
        // An upstream that sends more than it was asked for is not cut off.
        Query { bytes, question, datagram_bytes: usize::from(DATAGRAM_BYTES_MAX) }
    }

    /// A query of our own, without EDNS.
    pub(crate) fn plain(name: Name, rtype: Type, recursion_desired: bool) -> Query {
        let mut asked = Asked::of_question(name, rtype);
        asked.flags = if recursion_desired { flags::RD } else { 0 };
        Query::of(&asked)
    }

    /// What makes queries equal.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes
    }

    /// The largest datagram that may come back.
    pub(crate) fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// The message, with a number of its own, and the letters of the name at random where that is
    /// wanted: one who forges answers has to guess them, too.
    pub(crate) fn message(&self, respell: bool) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some(id) = bytes.first_chunk_mut::<2>() {
            *id = random::u16().to_be_bytes();
        }
        if respell {
            let end = HEADER_BYTES + self.question.name.as_bytes().len();
            let coins: [u8; 32] = random::bytes();
            let name = bytes.get_mut(HEADER_BYTES..end).unwrap_or_default();
            // The lengths of labels are below 64 and so no letters.
            for (at, byte) in name.iter_mut().enumerate().filter(|(_, byte)| byte.is_ascii_alphabetic()) {
                let coin = coins.get(at / 8).is_some_and(|coins| coins >> (at % 8) & 1 == 1);
                if coin {
                    byte.make_ascii_uppercase();
                }
            }
        }
        bytes
    }

    /// What `bytes` are to this query when it went out as `sent`.
    pub(crate) fn fit(&self, sent: &[u8], bytes: &[u8]) -> Fit {
        let Ok(message) = Message::read(bytes) else { return Fit::Other };
        let header = message.header;
        let same_number = bytes.first_chunk::<2>() == sent.first_chunk::<2>();
        if !same_number || !header.is_response() || header.opcode() != Opcode::QUERY {
            return Fit::Other;
        }
        match header.counts {
            [1, ..] => {}
            // Who does not understand a question may leave it out.
            [0, 0, 0, _] if header.rcode() != Rcode::NOERROR && header.rcode() != Rcode::NXDOMAIN => {
                return Fit::Answer;
            }
            _ => return Fit::Other,
        }
        let Ok(question) = message.question() else { return Fit::Other };
        let same = (question.rtype, question.class) == (self.question.rtype, self.question.class);
        if !same || !question.name.is(&self.question.name) {
            return Fit::Other;
        }
        let end = HEADER_BYTES + self.question.name.as_bytes().len();
        if sent.get(HEADER_BYTES..end) != Some(question.name.as_bytes()) {
            return Fit::Respelled;
        }
        if header.flags & flags::TC != 0 { Fit::Truncated } else { Fit::Answer }
    }
}

/// Whether a message can be read to its end.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let records = Message::read(bytes).and_then(|message| message.records());
    records.is_ok_and(|mut records| records.all(|record| record.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> Query {
        Query::plain(name.parse().unwrap(), Type::A, true)
    }

    fn answered(sent: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = sent.to_vec();
        bytes[2] |= 0x80;
        change(&mut bytes);
        bytes
    }

    #[test]
    fn equal_queries_are_equal_bytes() {
        assert_eq!(query("A.Example").key(), query("a.example").key());
        let mut wants = Asked::of_question("a.example".parse().unwrap(), Type::A);
        wants.flags |= flags::CD;
        assert_ne!(Query::of(&wants).key(), query("a.example").key());
    }

    #[test]
    fn only_an_answer_to_this_very_query_fits() {
        let query = query("some.example.org");
        let sent = query.message(true);
        let fit = |change: fn(&mut Vec<u8>)| query.fit(&sent, &answered(&sent, change));
        assert_eq!(fit(|_| {}), Fit::Answer);
        assert_eq!(fit(|bytes| bytes[2] |= 2), Fit::Truncated);
        assert_eq!(fit(|bytes| bytes[0] ^= 1), Fit::Other);
        assert_eq!(fit(|bytes| bytes[2] &= 0x7f), Fit::Other);
        assert_eq!(fit(|bytes| bytes[13] = b'x'), Fit::Other);
        assert_eq!(fit(|bytes| bytes[13] ^= 0x20), Fit::Respelled);
        assert_eq!(fit(|bytes| bytes[5] = 2), Fit::Other);
        assert_eq!(fit(|bytes| bytes.truncate(11)), Fit::Other);
        let without = |bytes: &mut Vec<u8>| {
            bytes.truncate(12);
            bytes[5] = 0;
        };
        assert_eq!(fit(without), Fit::Other);
        let refused = answered(&sent, |bytes| {
            without(bytes);
            bytes[3] |= 5;
        });
        assert_eq!(query.fit(&sent, &refused), Fit::Answer);
    }

    #[test]
    fn letters_are_spelled_at_random() {
        let query = query("abcdefghijklmnopqrstuvwxyz.example");
        let some: std::collections::BTreeSet<Vec<u8>> =
            (0..20).map(|_| query.message(true).split_off(HEADER_BYTES)).collect();
        assert!(some.len() > 10, "{some:?}");
        assert_eq!(query.message(false)[HEADER_BYTES..], query.key()[HEADER_BYTES..]);
    }
}
