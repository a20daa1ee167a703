//! Messages as they come: a header, and questions and records that are looked at where they lie.

use crate::name::NAME_BYTES_MAX;
use crate::{Class, HEADER_BYTES, Name, Opcode, Rcode, Type, flags};
use std::fmt;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They end before the message does.
    Short,
    /// A name is no name, or its pointers do not lead backwards.
    Name,
    /// The data of a record are not what its type wants.
    Data,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Short => "ends too early",
            Malformed::Name => "holds something that is no name",
            Malformed::Data => "holds a record with impossible data",
        })
    }
}

impl std::error::Error for Malformed {}

/// The first twelve bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Which question is answered.
    pub id: u16,
    /// All of the second word; see [`flags`].
    pub flags: u16,
    /// How many questions, answers, authorities and additional records follow.
    pub counts: [u16; 4],
}

impl Header {
    /// Reads it.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let words = bytes.first_chunk::<HEADER_BYTES>()?;
        let [id, flags, a, b, c, d] = words.as_chunks::<2>().0 else { return None };
        let [id, flags, counts @ ..] = [id, flags, a, b, c, d].map(|word| u16::from_be_bytes(*word));
        Some(Header { id, flags, counts })
    }

    /// What the message is for.
    pub fn opcode(&self) -> Opcode {
        Opcode((self.flags >> 11 & 15) as u8)
    }

    /// The four bits of the response code that stand in the header.
    pub fn rcode(&self) -> Rcode {
        Rcode(self.flags & 15)
    }

    /// Whether it answers rather than asks.
    pub fn is_response(&self) -> bool {
        self.flags & flags::QR != 0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in the case in which it was asked.
    pub name: Name,
    /// The type.
    pub rtype: Type,
    /// The class.
    pub class: Class,
}

/// The part of a message that a record stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who knows.
    Authority,
    /// What may be of use.
    Additional,
}

impl Section {
    /// All, in the order of a message.
    pub const ALL: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    bytes: &'m [u8],
    /// Its header.
    pub header: Header,
}

impl<'m> Message<'m> {
    /// Takes bytes that begin with a header for a message.
    pub fn read(bytes: &'m [u8]) -> Result<Message<'m>, Malformed> {
        let header = Header::read(bytes).ok_or(Malformed::Short)?;
        Ok(Message { bytes, header })
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// The first question.
    pub fn question(&self) -> Result<Question, Malformed> {
        self.questions_end().map(|(question, _)| question)
    }

    /// The first question, and where the last one ends.
    fn questions_end(&self) -> Result<(Question, usize), Malformed> {
        let [questions, ..] = self.header.counts;
        let mut at = HEADER_BYTES;
        let mut first = None;
        for _ in 0..questions {
            let question = read_question(self.bytes, &mut at)?;
            first.get_or_insert(question);
        }
        Ok((first.ok_or(Malformed::Short)?, at))
    }

    /// The records of all sections, in order, until one is malformed.
    pub fn records(&self) -> Result<Records<'m>, Malformed> {
        let at = match self.header.counts {
            [0, ..] => HEADER_BYTES,
            _ => self.questions_end()?.1,
        };
        let [_, left @ ..] = self.header.counts;
        Ok(Records { bytes: self.bytes, at, left })
    }
}

/// Reads the question that begins at `at`, and moves there behind it.
pub(crate) fn read_question(bytes: &[u8], at: &mut usize) -> Result<Question, Malformed> {
    let name = read_name(bytes, at)?;
    let rtype = Type(read_u16(bytes, at)?);
    let class = Class(read_u16(bytes, at)?);
    Ok(Question { name, rtype, class })
}

pub(crate) fn read_u16(bytes: &[u8], at: &mut usize) -> Result<u16, Malformed> {
    let word = bytes.get(*at..).and_then(|rest| rest.first_chunk::<2>()).ok_or(Malformed::Short)?;
    *at += 2;
    Ok(u16::from_be_bytes(*word))
}

fn read_u32(bytes: &[u8], at: &mut usize) -> Result<u32, Malformed> {
    let word = bytes.get(*at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Malformed::Short)?;
    *at += 4;
    Ok(u32::from_be_bytes(*word))
}

/// Reads the name that begins at `at`, following pointers, and moves there behind it. Each pointer
/// must lead before everything that has been read, so there are no circles.
pub(crate) fn read_name(bytes: &[u8], at: &mut usize) -> Result<Name, Malformed> {
    // Most names have no pointer, and all questions.
    let rest = bytes.get(*at..).ok_or(Malformed::Short)?;
    if let Some(name) = Name::at_start(rest) {
        *at += name.as_bytes().len();
        return Ok(name);
    }
    let mut name = [0; NAME_BYTES_MAX];
    let mut length = 0;
    let mut here = *at;
    let mut lowest = *at;
    let mut end = None;
    loop {
        let first = *bytes.get(here).ok_or(Malformed::Short)?;
        match first >> 6 {
            0 => {
                let size = 1 + usize::from(first);
                let label = bytes.get(here..here + size).ok_or(Malformed::Short)?;
                name.get_mut(length..length + size).ok_or(Malformed::Name)?.copy_from_slice(label);
                length += size;
                here += size;
                if first == 0 {
                    *at = end.unwrap_or(here);
                    return name.get(..length).and_then(Name::from_bytes).ok_or(Malformed::Name);
                }
            }
            3 => {
                let second = *bytes.get(here + 1).ok_or(Malformed::Short)?;
                let to = usize::from(first & 0x3f) << 8 | usize::from(second);
                end.get_or_insert(here + 2);
                if to >= lowest {
                    return Err(Malformed::Name);
                }
                (here, lowest) = (to, to);
            }
            _ => return Err(Malformed::Name),
        }
    }
}

/// A record, where it lies in its message.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'m> {
    message: &'m [u8],
    data_at: usize,
    /// The section that it stands in.
    pub section: Section,
    /// Whose record it is.
    pub owner: Name,
    /// Its type.
    pub rtype: Type,
    /// Its class.
    pub class: Class,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// Its data; names in them may be compressed.
    pub rdata: &'m [u8],
}

impl RecordRef<'_> {
    /// Appends its data with all names spelled out.
    pub fn spell_out(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut at = self.data_at;
        let end = at + self.rdata.len();
        let mut names = |count: u32, at: &mut usize| {
            for _ in 0..count {
                out.extend_from_slice(read_name(self.message, at)?.as_bytes());
            }
            Ok(())
        };
        match self.rtype {
            Type::NS
            | Type::CNAME
            | Type::PTR
            | Type::DNAME
            | Type::MB
            | Type::MD
            | Type::MF
            | Type::MG
            | Type::MR => {
                names(1, &mut at)?;
            }
            Type::SOA | Type::MINFO | Type::RP => names(2, &mut at)?,
            Type::MX | Type::AFSDB | Type::KX => {
                out.extend_from_slice(self.rdata.get(..2).ok_or(Malformed::Data)?);
                at += 2;
                out.extend_from_slice(read_name(self.message, &mut at)?.as_bytes());
            }
            Type::SRV => {
                out.extend_from_slice(self.rdata.get(..6).ok_or(Malformed::Data)?);
                at += 6;
                out.extend_from_slice(read_name(self.message, &mut at)?.as_bytes());
            }
            // What else has names has them uncompressed (RFC 3597 4).
            _ => {}
        }
        let rest = self.message.get(at..end).ok_or(Malformed::Data)?;
        let wanted = match self.rtype {
            Type::SOA => Some(20),
            Type::NS | Type::CNAME | Type::PTR | Type::DNAME | Type::MX | Type::SRV => Some(0),
            Type::A => Some(4),
            Type::AAAA => Some(16),
            _ => None,
        };
        if wanted.is_some_and(|wanted| wanted != rest.len()) {
            return Err(Malformed::Data);
        }
        out.extend_from_slice(rest);
        Ok(())
    }
}

/// The records of a message.
#[derive(Clone, Debug)]
pub struct Records<'m> {
    bytes: &'m [u8],
    at: usize,
    left: [u16; 3],
}

impl<'m> Records<'m> {
    fn read(&mut self, section: Section) -> Result<RecordRef<'m>, Malformed> {
        let (bytes, at) = (self.bytes, &mut self.at);
        let owner = read_name(bytes, at)?;
        let rtype = Type(read_u16(bytes, at)?);
        let class = Class(read_u16(bytes, at)?);
        let ttl = read_u32(bytes, at)?;
        let length = usize::from(read_u16(bytes, at)?);
        let data_at = *at;
        let rdata = bytes.get(data_at..data_at + length).ok_or(Malformed::Short)?;
        *at += length;
        Ok(RecordRef { message: bytes, data_at, section, owner, rtype, class, ttl, rdata })
    }
}

impl<'m> Iterator for Records<'m> {
    type Item = Result<RecordRef<'m>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let (left, section) = self.left.iter_mut().zip(Section::ALL).find(|(left, _)| **left > 0)?;
        *left -= 1;
        let record = self.read(section);
        if record.is_err() {
            self.left = [0; 3];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_backwards_or_nowhere() {
        // At 12 a name, at 19 one that ends in it, at 23 a pointer to itself, at 25 one forward.
        let mut bytes = vec![0; 12];
        bytes.extend(b"\x05local\x00\x01a\xc0\x0c\xc0\x17\xc0\x1d\x01b\x00");
        let mut at = 19;
        assert_eq!(read_name(&bytes, &mut at).map(|name| name.to_string()), Ok("a.local.".into()));
        assert_eq!(at, 23);
        for mut at in [23, 25] {
            assert_eq!(read_name(&bytes, &mut at), Err(Malformed::Name), "{at}");
        }
        for mut at in [28, 99] {
            assert!(read_name(&bytes, &mut at).is_err() || at == 31, "{at}");
        }
    }

    #[test]
    fn names_are_bounded_through_pointers() {
        // Each label of 63 bytes points at the one before.
        let mut bytes = vec![0; 12];
        bytes.push(0);
        let mut last = 12;
        for _ in 0..5 {
            let here = bytes.len();
            bytes.push(63);
            bytes.extend([b'x'; 63]);
            bytes.extend((0xc000 | last as u16).to_be_bytes());
            last = here;
        }
        let mut at = last;
        assert_eq!(read_name(&bytes, &mut at), Err(Malformed::Name));
    }
}
