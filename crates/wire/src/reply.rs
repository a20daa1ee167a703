//! An answer while it is being made: records that can be added, looked at, reordered and changed,
//! and that become bytes once, at the end.
//!
//! All names and data lie in one buffer, and a record holds places in it; so a reply that is used
//! again allocates nothing.

use crate::message::{Malformed, Section};
use crate::{Asked, Class, Compressor, HEADER_BYTES, MESSAGE_BYTES_MAX, Message, Name, Question};
use crate::{Rcode, ShowRecord, Type, flags};
use std::net::IpAddr;

/// Buffers that have grown past this are given back when the reply is used again.
const BYTES_KEPT_MAX: usize = 64 * 1024;
const RECORDS_KEPT_MAX: usize = 2048;

/// A place in the reply's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    at: u32,
    length: u16,
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(Option<Span>);

impl Owner {
    /// The name that was asked for, in the case in which it was.
    pub const QUESTION: Owner = Owner(None);

    /// Whether it is the name that was asked for.
    pub fn is_question(self) -> bool {
        self.0.is_none()
    }
}

/// One record of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The section that it stands in.
    pub section: Section,
    /// Whose it is.
    pub owner: Owner,
    /// Its type.
    pub rtype: Type,
    /// Its class.
    pub class: Class,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    rdata: Span,
}

impl Record {
    /// It is an address of the name that was asked for.
    fn is_plain(&self) -> bool {
        self.owner.0.is_none() && matches!(self.rtype, Type::A | Type::AAAA)
    }
}

/// An answer while it is being made.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// How the question was answered.
    pub rcode: Rcode,
    /// We are the authority (AA).
    pub authoritative: bool,
    /// Something is missing (TC). It is also set where records do not fit.
    pub truncated: bool,
    /// We would recurse (RA).
    pub recursion_available: bool,
    /// The data have been validated (AD).
    pub authentic: bool,
    /// EDNS options of the answer, as they go out.
    pub options: Vec<u8>,
    records: Vec<Record>,
    bytes: Vec<u8>,
}

/// What goes around the records: the parts of the answer that are the question's.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// The number of the query.
    pub id: u16,
    /// The header's second word of the query, of which some flags come back.
    pub flags: u16,
    /// What was asked. `None` where it could not be read.
    pub question: Option<Question>,
    /// The most bytes that may be sent.
    pub limit: usize,
    /// The datagram size to put into the OPT record, where the answer has one, and whether DO is set.
    pub edns: Option<(u16, bool)>,
}

impl Envelope {
    /// The envelope of an answer to this query by datagram, or by stream.
    pub fn of(asked: &Asked, by_stream: bool) -> Envelope {
        Envelope {
            id: asked.id,
            flags: asked.flags,
            question: Some(asked.question),
            limit: if by_stream { MESSAGE_BYTES_MAX } else { usize::from(asked.udp_size()) },
            edns: asked.edns().map(|edns| (edns.udp_size, edns.dnssec_ok)),
        }
    }

    /// The envelope of a message about a question, without EDNS and as long as it likes.
    pub fn of_question(id: u16, question: Question) -> Envelope {
        Envelope { id, flags: 0, question: Some(question), limit: MESSAGE_BYTES_MAX, edns: None }
    }
}

impl Reply {
    /// Makes it as good as new.
    pub fn clear(&mut self) {
        self.rcode = Rcode::NOERROR;
        self.authoritative = false;
        self.truncated = false;
        self.recursion_available = false;
        self.authentic = false;
        self.options.clear();
        self.records.clear();
        self.bytes.clear();
        if self.bytes.capacity() > BYTES_KEPT_MAX {
            self.bytes = Vec::new();
        }
        if self.records.capacity() > RECORDS_KEPT_MAX {
            self.records = Vec::new();
        }
    }

    /// Makes it the same as another, in its own buffers.
    pub fn copy_from(&mut self, other: &Reply) {
        self.clear();
        self.rcode = other.rcode;
        self.authoritative = other.authoritative;
        self.truncated = other.truncated;
        self.recursion_available = other.recursion_available;
        self.authentic = other.authentic;
        self.options.extend_from_slice(&other.options);
        self.records.extend_from_slice(&other.records);
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// A copy that takes no more room than it needs.
    #[must_use]
    pub fn to_kept(&self) -> Reply {
        let mut kept = Reply {
            options: Vec::with_capacity(self.options.len()),
            records: Vec::with_capacity(self.records.len()),
            bytes: Vec::with_capacity(self.bytes.len()),
            ..Reply::default()
        };
        kept.copy_from(self);
        kept
    }

    /// How many bytes of memory its records take.
    pub fn footprint(&self) -> usize {
        let records = self.records.capacity() * size_of::<Record>();
        size_of::<Reply>() + records + self.bytes.capacity() + self.options.capacity()
    }

    /// Its records, in the order in which they go out, but for sections.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The same, to be reordered or changed.
    pub fn records_mut(&mut self) -> &mut [Record] {
        &mut self.records
    }

    /// Keeps only the records that are wanted.
    pub fn retain(&mut self, keep: impl FnMut(&Record) -> bool) {
        self.records.retain(keep);
    }

    /// The records of a section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// How many records a section has.
    pub fn count(&self, section: Section) -> usize {
        self.section(section).count()
    }

    /// The data of one of its records, with all names spelled out.
    pub fn rdata(&self, record: &Record) -> &[u8] {
        self.at(record.rdata)
    }

    /// The address that a record of type A or AAAA holds.
    pub fn address(&self, record: &Record) -> Option<IpAddr> {
        let data = self.rdata(record);
        match record.rtype {
            Type::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            Type::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        }
    }

    /// The name that is all the data of a record of type CNAME, NS, PTR or DNAME.
    pub fn target(&self, record: &Record) -> Option<Name> {
        match record.rtype {
            Type::CNAME | Type::NS | Type::PTR | Type::DNAME => Name::from_bytes(self.rdata(record)),
            _ => None,
        }
    }

    /// Whose a record is.
    pub fn owner(&self, record: &Record, question: &Name) -> Name {
        match record.owner.0 {
            None => *question,
            Some(span) => Name::from_bytes(self.at(span)).unwrap_or_default(),
        }
    }

    fn at(&self, span: Span) -> &[u8] {
        let at = span.at as usize;
        self.bytes.get(at..at + usize::from(span.length)).unwrap_or_default()
    }

    /// Puts a name into the buffer, for any number of records.
    pub fn own(&mut self, name: &Name) -> Owner {
        self.own_bytes(name.as_bytes())
    }

    /// The same for the bytes of a name, or of the end of one.
    pub fn own_bytes(&mut self, name: &[u8]) -> Owner {
        let at = self.begin();
        self.bytes.extend_from_slice(name);
        Owner(Some(self.end(at)))
    }

    fn begin(&self) -> usize {
        self.bytes.len()
    }

    fn end(&self, at: usize) -> Span {
        let length = self.bytes.len() - at;
        Span { at: u32::try_from(at).unwrap_or(u32::MAX), length: u16::try_from(length).unwrap_or(0) }
    }

    /// Adds a record. Data of more than 65,535 bytes make an empty one.
    pub fn push(&mut self, section: Section, owner: Owner, rtype: Type, ttl: u32, rdata: &[u8]) {
        self.push_parts(section, owner, rtype, ttl, &[rdata]);
    }

    /// Adds a record whose data are these parts, one behind the other.
    pub fn push_parts(&mut self, section: Section, owner: Owner, rtype: Type, ttl: u32, parts: &[&[u8]]) {
        let at = self.begin();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let rdata = self.end(at);
        self.records.push(Record { section, owner, rtype, class: Class::IN, ttl, rdata });
    }

    /// Adds an address, as A or AAAA.
    pub fn push_address(&mut self, section: Section, owner: Owner, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(ip) => self.push(section, owner, Type::A, ttl, &ip.octets()),
            IpAddr::V6(ip) => self.push(section, owner, Type::AAAA, ttl, &ip.octets()),
        }
    }

    /// Adds a record whose data are one name: CNAME, NS, PTR.
    pub fn push_name(&mut self, section: Section, owner: Owner, rtype: Type, ttl: u32, name: &Name) {
        self.push(section, owner, rtype, ttl, name.as_bytes());
    }

    /// Adds a SRV record, and says under which name records about its target may stand.
    pub fn push_srv(&mut self, owner: Owner, ttl: u32, srv: [u16; 3], target: &Name) -> Owner {
        let [priority, weight, port] = srv.map(u16::to_be_bytes);
        let at = self.begin();
        let parts = [&priority[..], &weight, &port, target.as_bytes()];
        self.push_parts(Section::Answer, owner, Type::SRV, ttl, &parts);
        let Span { at, length } = self.end(at);
        Owner(Some(Span { at: at + 6, length: length.saturating_sub(6) }))
    }

    /// Gives a record other data.
    pub fn set_rdata(&mut self, index: usize, rdata: &[u8]) {
        let at = self.begin();
        self.bytes.extend_from_slice(rdata);
        let span = self.end(at);
        if let Some(record) = self.records.get_mut(index) {
            record.rdata = span;
        }
    }

    /// Adds the records of another reply. Those that belong to its question belong to `question`.
    pub fn extend(&mut self, other: &Reply, question: &Name, keep: impl Fn(&Record) -> bool) {
        let owner = self.own(question);
        for record in other.records.iter().filter(|record| keep(record)) {
            let owner = match record.owner.0 {
                None => owner,
                Some(span) => {
                    let at = self.begin();
                    self.bytes.extend_from_slice(other.at(span));
                    Owner(Some(self.end(at)))
                }
            };
            self.push(record.section, owner, record.rtype, record.ttl, other.rdata(record));
            if let Some(last) = self.records.last_mut() {
                last.class = record.class;
            }
        }
    }

    /// Makes it what a message says. OPT and TSIG records concern the way of the message and are
    /// left out, but for the extended response code.
    pub fn read(&mut self, message: &Message<'_>) -> Result<(), Malformed> {
        self.clear();
        let header = message.header;
        self.rcode = header.rcode();
        self.authoritative = header.flags & flags::AA != 0;
        self.truncated = header.flags & flags::TC != 0;
        self.recursion_available = header.flags & flags::RA != 0;
        self.authentic = header.flags & flags::AD != 0;
        let question = message.question().ok().map(|question| question.name);
        for record in message.records()? {
            let record = record?;
            if record.rtype == Type::OPT {
                let [high, ..] = record.ttl.to_be_bytes();
                self.rcode = Rcode(u16::from(high) << 4 | header.rcode().0);
                continue;
            }
            if record.rtype == Type::TSIG {
                continue;
            }
            let owner = match question {
                Some(name) if name == record.owner => Owner::QUESTION,
                _ => self.own(&record.owner),
            };
            let at = self.begin();
            record.spell_out(&mut self.bytes)?;
            if self.begin() - at > usize::from(u16::MAX) {
                return Err(Malformed::Data);
            }
            let rdata = self.end(at);
            let (section, rtype, class, ttl) = (record.section, record.rtype, record.class, record.ttl);
            self.records.push(Record { section, owner, rtype, class, ttl, rdata });
        }
        Ok(())
    }

    /// Shows a record as a line of a master file.
    pub fn show<'r>(&'r self, record: &Record, question: &'r Name) -> ShowRecord<'r> {
        let owner = record.owner.0.map_or(question.as_bytes(), |span| self.at(span));
        let Record { ttl, class, rtype, .. } = *record;
        ShowRecord { owner, ttl, class, rtype, rdata: self.rdata(record) }
    }

    /// Writes the message. Records that do not fit are left out, from the last, and TC is set.
    pub fn encode(&self, envelope: &Envelope, compressor: &mut Compressor, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        compressor.begin();
        let questions = u16::from(envelope.question.is_some());
        if let Some(Question { name, rtype, class }) = &envelope.question {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&rtype.0.to_be_bytes());
            out.extend_from_slice(&class.0.to_be_bytes());
        }
        let opt = envelope.edns.map_or(0, |_| 11 + self.options.len());
        let limit = envelope.limit.saturating_sub(opt);
        // An answer of nothing but addresses has no other name to compress.
        if let Some(question) = &envelope.question
            && self.records.iter().any(|record| !record.is_plain())
        {
            compressor.remember(question.name.as_bytes(), HEADER_BYTES);
        }
        let mut counts = [0_u16; 3];
        let mut truncated = self.truncated;
        'sections: for (section, count) in Section::ALL.into_iter().zip(&mut counts) {
            for record in self.section(section) {
                let at = out.len();
                self.write_record(record, compressor, out);
                if out.len() > limit {
                    out.truncate(at);
                    truncated = true;
                    break 'sections;
                }
                *count += 1;
            }
        }
        let [answers, authorities, mut additional] = counts;
        if let Some((size, dnssec_ok)) = envelope.edns {
            additional += 1;
            self.write_opt(size, dnssec_ok, out);
        }
        let flags = self.flags(envelope.flags, truncated);
        let words = [envelope.id, flags, questions, answers, authorities, additional];
        for (into, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *into = word.to_be_bytes();
        }
    }

    fn flags(&self, asked: u16, truncated: bool) -> u16 {
        let mut flags = flags::QR | asked & (flags::ASKED | 15 << 11) | self.rcode.0 & 15;
        for (bit, on) in [
            (flags::AA, self.authoritative),
            (flags::TC, truncated),
            (flags::RA, self.recursion_available),
            (flags::AD, self.authentic),
        ] {
            if on {
                flags |= bit;
            }
        }
        flags
    }

    fn write_record(&self, record: &Record, compressor: &mut Compressor, out: &mut Vec<u8>) {
        if record.is_plain()
            && let Ok(address) = <[u8; 4]>::try_from(self.rdata(record))
        {
            return out.extend_from_slice(&plain(record, address));
        }
        match record.owner.0 {
            // The question stands first, right behind the header.
            None => out.extend_from_slice(&[0xc0, 0x0c]),
            Some(span) => compressor.write(out, self.at(span), false),
        }
        out.extend_from_slice(&record.rtype.0.to_be_bytes());
        out.extend_from_slice(&record.class.0.to_be_bytes());
        out.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 2]);
        self.write_rdata(record, compressor, out);
        let length = u16::try_from(out.len() - length_at - 2).unwrap_or(0).to_be_bytes();
        if let Some(into) = out.get_mut(length_at..length_at + 2) {
            into.copy_from_slice(&length);
        }
    }

    /// Only the types of RFC 1035 may have compressed names in their data (RFC 3597 4).
    fn write_rdata(&self, record: &Record, compressor: &mut Compressor, out: &mut Vec<u8>) {
        let data = self.rdata(record);
        match record.rtype {
            Type::NS | Type::CNAME | Type::PTR if is_name(data) => compressor.write(out, data, false),
            Type::MX => match data.split_at_checked(2) {
                Some((preference, name)) if is_name(name) => {
                    out.extend_from_slice(preference);
                    compressor.write(out, name, false);
                }
                _ => out.extend_from_slice(data),
            },
            Type::SRV => match data.split_at_checked(6) {
                Some((numbers, name)) if is_name(name) => {
                    out.extend_from_slice(numbers);
                    compressor.write(out, name, true);
                }
                _ => out.extend_from_slice(data),
            },
            Type::SOA => {
                let split = data.len().checked_sub(20).and_then(|names| data.split_at_checked(names));
                let names = split.and_then(|(names, numbers)| {
                    let mut labels = crate::name::Labels::of(names);
                    labels.by_ref().for_each(drop);
                    let first = names.len() - labels.rest().len() + 1;
                    let (first, second) = names.split_at_checked(first)?;
                    (is_name(first) && is_name(second)).then_some((first, second, numbers))
                });
                match names {
                    Some((first, second, numbers)) => {
                        compressor.write(out, first, false);
                        compressor.write(out, second, false);
                        out.extend_from_slice(numbers);
                    }
                    None => out.extend_from_slice(data),
                }
            }
            _ => out.extend_from_slice(data),
        }
    }

    fn write_opt(&self, size: u16, dnssec_ok: bool, out: &mut Vec<u8>) {
        out.push(0);
        out.extend_from_slice(&Type::OPT.0.to_be_bytes());
        out.extend_from_slice(&size.to_be_bytes());
        let extended = u8::try_from(self.rcode.0 >> 4 & 0xff).unwrap_or(0);
        out.extend_from_slice(&[extended, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
        out.extend_from_slice(&u16::try_from(self.options.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&self.options);
    }
}

/// The bytes of an A record of the name that was asked for.
fn plain(record: &Record, [a, b, c, d]: [u8; 4]) -> [u8; 16] {
    let [type_high, type_low] = record.rtype.0.to_be_bytes();
    let [class_high, class_low] = record.class.0.to_be_bytes();
    let [e, f, g, h] = record.ttl.to_be_bytes();
    [0xc0, 0x0c, type_high, type_low, class_high, class_low, e, f, g, h, 0, 4, a, b, c, d]
}

fn is_name(bytes: &[u8]) -> bool {
    Name::from_bytes(bytes).is_some()
}

#[cfg(test)]
mod tests;
