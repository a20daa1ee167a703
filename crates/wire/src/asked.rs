//! A query as a server takes it: the one question, and what came with it. What cannot be answered
//! is refused by the rules that CoreDNS' library has (miekg/dns, `defaultMsgAcceptFunc`).

use crate::message::{Records, read_question};
use crate::{Class, HEADER_BYTES, Header, Message, Opcode, Question, Rcode, Type, UDP_BYTES_MIN, flags};

/// So many bytes of EDNS options are kept; those of a longer record are left out.
const OPTIONS_BYTES_MAX: usize = 512;

/// Why a message is not a query that we answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too short to answer, or an answer itself: silence.
    Ignore,
    /// It is answered with this code, and with what could be made of its header.
    Code(Rcode),
}

/// What EDNS says of the asker (RFC 6891).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// The largest datagram that it takes, as it says.
    pub udp_size: u16,
    /// It wants DNSSEC records.
    pub dnssec_ok: bool,
    /// The options, as they came.
    pub options: Vec<u8>,
}

impl Edns {
    /// The options, each with its code.
    pub fn options(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.options.as_slice();
        std::iter::from_fn(move || {
            let (head, after) = rest.split_first_chunk::<4>()?;
            let [code_high, code_low, length @ ..] = *head;
            let data = after.get(..usize::from(u16::from_be_bytes(length)))?;
            rest = after.get(data.len()..)?;
            Some((u16::from_be_bytes([code_high, code_low]), data))
        })
    }
}

/// A query. Its buffers are used again for the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its number.
    pub id: u16,
    /// All of the header's second word.
    pub flags: u16,
    /// What is asked for.
    pub question: Question,
    /// Where the question ends in the message.
    pub question_end: usize,
    has_edns: bool,
    edns: Edns,
    /// The zone that is transferred by IXFR has this serial at the asker's.
    pub serial: Option<u32>,
    /// How many bytes the query has.
    pub size: usize,
}

impl Asked {
    /// Reads a query. When it is refused, `id`, `flags` and as far as possible `question` are good
    /// for the answer.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let header = Header::read(bytes).ok_or(Refusal::Ignore)?;
        self.id = header.id;
        self.flags = header.flags;
        self.question = Question::default();
        self.question_end = HEADER_BYTES;
        self.has_edns = false;
        self.edns.options.clear();
        self.serial = None;
        self.size = bytes.len();
        if header.is_response() {
            return Err(Refusal::Ignore);
        }
        let formerr = Refusal::Code(Rcode::FORMERR);
        if !matches!(header.opcode(), Opcode::QUERY | Opcode::NOTIFY) {
            return Err(Refusal::Code(Rcode::NOTIMP));
        }
        // NOTIFY has a SOA as its answer, IXFR one as its authority; OPT and TSIG are additional.
        let [1, 0..=1, 0..=1, 0..=2] = header.counts else { return Err(formerr) };
        let mut at = HEADER_BYTES;
        self.question = read_question(bytes, &mut at).map_err(|_| formerr)?;
        self.question_end = at;
        if header.counts != [1, 0, 0, 0] {
            let message = Message::read(bytes).map_err(|_| formerr)?;
            self.rest(message.records().map_err(|_| formerr)?)?;
        }
        Ok(())
    }

    fn rest(&mut self, records: Records<'_>) -> Result<(), Refusal> {
        let formerr = Refusal::Code(Rcode::FORMERR);
        for record in records {
            let record = record.map_err(|_| formerr)?;
            if record.rtype == Type::SOA && record.rdata.len() >= 20 {
                let serial = record.rdata.len() - 20;
                let serial = record.rdata.get(serial..).and_then(|rest| rest.first_chunk());
                self.serial = serial.map(|serial| u32::from_be_bytes(*serial));
            }
            if record.rtype != Type::OPT {
                continue;
            }
            // One OPT, at the root (RFC 6891 6.1.1 and 6.1.2).
            if self.has_edns || !record.owner.is_root() {
                return Err(formerr);
            }
            let [_, version, flags, _] = record.ttl.to_be_bytes();
            self.has_edns = true;
            self.edns.udp_size = record.class.0;
            self.edns.dnssec_ok = flags & 0x80 != 0;
            if version != 0 {
                return Err(Refusal::Code(Rcode::BADVERS));
            }
            if record.rdata.len() <= OPTIONS_BYTES_MAX {
                self.edns.options.extend_from_slice(record.rdata);
            }
        }
        Ok(())
    }

    /// What EDNS says, where it is used.
    pub fn edns(&self) -> Option<&Edns> {
        self.has_edns.then_some(&self.edns)
    }

    /// The same, to be changed.
    pub fn edns_mut(&mut self) -> Option<&mut Edns> {
        self.has_edns.then_some(&mut self.edns)
    }

    /// Makes EDNS what it would be had the query come so.
    pub fn set_edns(&mut self, edns: Option<Edns>) {
        self.has_edns = edns.is_some();
        self.edns = edns.unwrap_or_default();
    }

    /// The largest datagram that may be sent in answer.
    pub fn udp_size(&self) -> u16 {
        self.edns().map_or(UDP_BYTES_MIN, |edns| edns.udp_size.max(UDP_BYTES_MIN))
    }

    /// Whether DNSSEC records are wanted.
    pub fn dnssec_ok(&self) -> bool {
        self.edns().is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether recursion is wanted.
    pub fn recursion_desired(&self) -> bool {
        self.flags & flags::RD != 0
    }

    /// A query of our own making for the same asker: another question.
    #[must_use]
    pub fn asking(&self, question: Question) -> Asked {
        Asked { question, ..self.clone() }
    }

    /// A query of our own: this question, recursion desired, no EDNS.
    pub fn of_question(name: crate::Name, rtype: Type) -> Asked {
        let question = Question { name, rtype, class: Class::IN };
        Asked { question, flags: flags::RD, ..Asked::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.` A, with other counts and more bytes.
    fn query(flags: u16, counts: [u16; 4], more: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34];
        bytes.extend(flags.to_be_bytes());
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(b"\x01a\x00\x00\x01\x00\x01");
        bytes.extend(more);
        bytes
    }

    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x06\x00\x03\x00\x02ab";

    #[test]
    fn queries() {
        let mut asked = Asked::default();
        assert_eq!(asked.read(&query(0x0100, [1, 0, 0, 1], OPT)), Ok(()));
        assert_eq!((asked.id, asked.udp_size(), asked.dnssec_ok()), (0x1234, 1232, true));
        let options: Vec<_> = asked.edns().into_iter().flat_map(Edns::options).collect();
        assert_eq!(options, [(3, &b"ab"[..])]);
        assert_eq!(asked.read(&query(0x0100, [1, 0, 0, 0], b"")), Ok(()));
        assert_eq!((asked.edns(), asked.udp_size()), (None, 512));
    }

    #[test]
    fn refusals() {
        let code = |code| Err(Refusal::Code(code));
        let twice = [OPT, OPT].concat();
        let version = [&OPT[..6], b"\x01", &OPT[7..]].concat();
        for (bytes, want) in [
            (vec![0; 11], Err(Refusal::Ignore)),
            (query(0x8000, [1, 0, 0, 0], b""), Err(Refusal::Ignore)),
            (query(0x2800, [1, 0, 0, 0], b""), code(Rcode::NOTIMP)),
            (query(0, [0, 0, 0, 0], b""), code(Rcode::FORMERR)),
            (query(0, [2, 0, 0, 0], b"\x01b\x00\x00\x01\x00\x01"), code(Rcode::FORMERR)),
            (query(0, [1, 0, 0, 3], b""), code(Rcode::FORMERR)),
            (query(0, [1, 0, 0, 1], b""), code(Rcode::FORMERR)),
            (query(0, [1, 0, 0, 2], &twice), code(Rcode::FORMERR)),
            (query(0, [1, 0, 0, 1], &version), code(Rcode::BADVERS)),
        ] {
            assert_eq!(Asked::default().read(&bytes), want, "{bytes:02x?}");
        }
    }
}
