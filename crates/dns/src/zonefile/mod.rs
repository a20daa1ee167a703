//! Zone files (RFC 1035 5): text to records.
//!
//! ```text
//! text ──lexer──> lines of words ──here──> owner, TTL, class, type ──rdata──> records
//!                   $ORIGIN $TTL $INCLUDE $GENERATE
//! ```
//!
//! What the records mean together is not known here (`plugin::file`).

mod generate;
mod lexer;
mod rdata;

#[cfg(test)]
mod tests;

use lexer::{Lexer, Word};
use std::fmt;
use std::str::FromStr;
use wire::{Class, Name, Type};

/// A file may include others, so deep.
const INCLUDE_DEPTH_MAX: u32 = 8;
/// More records than these are not one zone, but a mistake or an attack.
const RECORDS_MAX: usize = 8_000_000;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Name,
    /// Its type.
    pub rtype: Type,
    /// Its class.
    pub class: Class,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// Its data, with all names spelled out.
    pub rdata: Vec<u8>,
}

/// What is wrong with a zone file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// What is wrong, the word first.
    pub what: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for Error {}

/// Reads the files that `$INCLUDE` names.
pub type Include<'i> = &'i dyn Fn(&str) -> std::io::Result<String>;

/// For text that may include nothing.
pub fn no_includes(_: &str) -> std::io::Result<String> {
    Err(std::io::Error::other("nothing may be included here"))
}

/// Reads a zone file. `name` is its path, for errors.
pub fn parse(name: &str, text: &str, origin: &Name, include: Include<'_>) -> Result<Vec<Record>, Error> {
    let mut parser = Parser { records: Vec::new(), include };
    parser.file(name, text, State { origin: *origin, ..State::default() }, 0)?;
    Ok(parser.records)
}

/// Reads one record, as `dns.NewRR` of CoreDNS' library does: below the root, with a TTL of an hour
/// where there is none.
pub fn parse_record(text: &str) -> Result<Record, String> {
    let state = State { default_ttl: Some(3600), ..State::default() };
    let mut parser = Parser { records: Vec::new(), include: &no_includes };
    parser.file("record", text, state, 0).map_err(|error| error.what)?;
    let mut records = parser.records.into_iter();
    match (records.next(), records.next()) {
        (Some(record), None) => Ok(record),
        (None, _) => Err("no record".into()),
        (Some(_), Some(_)) => Err("more than one record".into()),
    }
}

/// For fuzzing: reads any bytes, and the records that come of them again from what they print as.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for record in parse("zone", text, &Name::ROOT, &no_includes).unwrap_or_default() {
        let mut reply = wire::Reply::default();
        let owner = reply.own(&record.owner);
        reply.push(wire::Section::Answer, owner, record.rtype, record.ttl, &record.rdata);
        let Some(kept) = reply.records().first() else { continue };
        let shown = reply.show(kept, &Name::ROOT).to_string();
        let again = parse_record(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!((again.owner, again.rdata), (record.owner, record.rdata), "{shown}");
    }
}

/// What holds until it is said otherwise.
#[derive(Clone, Default)]
struct State {
    origin: Name,
    /// `$TTL`.
    default_ttl: Option<u32>,
    last_owner: Option<Name>,
    last_ttl: Option<u32>,
    last_class: Option<Class>,
}

struct Parser<'i> {
    records: Vec<Record>,
    include: Include<'i>,
}

impl Parser<'_> {
    fn file(&mut self, file: &str, text: &str, mut state: State, depth: u32) -> Result<State, Error> {
        let mut lexer = Lexer::new(text);
        loop {
            let wrong = |line, what| Error { file: file.to_owned(), line, what };
            let line = match lexer.line() {
                Ok(None) => return Ok(state),
                Ok(Some(line)) => line,
                Err((line, what)) => return Err(wrong(line, what.to_owned())),
            };
            let number = line.number;
            let done = match line.words.split_first() {
                None => Ok(()),
                Some((first, rest)) if first.is_plain("$INCLUDE") => {
                    self.include(file, number, rest, &mut state, depth)?;
                    Ok(())
                }
                Some((first, rest)) => self.entry(first, rest, &line, &mut state),
            };
            done.map_err(|what| wrong(number, what))?;
            if self.records.len() > RECORDS_MAX {
                return Err(wrong(number, format!("more than {RECORDS_MAX} records")));
            }
        }
    }

    fn include(
        &mut self,
        file: &str,
        line: u32,
        rest: &[Word],
        state: &mut State,
        depth: u32,
    ) -> Result<(), Error> {
        let wrong = |what: String| Error { file: file.to_owned(), line, what };
        let (path, origin) = match rest {
            [path] => (path, state.origin),
            [path, origin] => (path, name(origin, &state.origin).map_err(wrong)?),
            _ => return Err(wrong("$INCLUDE takes a file and an origin".into())),
        };
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(wrong(format!("{:?}: included more than {INCLUDE_DEPTH_MAX} deep", path.text())));
        }
        let text =
            (self.include)(&path.text()).map_err(|error| wrong(format!("{:?}: {error}", path.text())))?;
        let inner = State { origin, ..state.clone() };
        let after = self.file(&path.text(), &text, inner, depth + 1)?;
        // Origin and owner are again what they were (RFC 1035 5.1).
        state.default_ttl = after.default_ttl;
        Ok(())
    }

    fn entry(
        &mut self,
        first: &Word,
        rest: &[Word],
        line: &lexer::Line,
        state: &mut State,
    ) -> Result<(), String> {
        if first.is_plain("$ORIGIN") {
            let [origin] = rest else { return Err("$ORIGIN takes a name".into()) };
            state.origin = name(origin, &state.origin)?;
            return Ok(());
        }
        if first.is_plain("$TTL") {
            let [word] = rest else { return Err("$TTL takes a time".into()) };
            state.default_ttl = Some(ttl(&word.text()).ok_or_else(|| word.wrong("no time"))?);
            return Ok(());
        }
        if first.is_plain("$GENERATE") {
            for words in generate::lines(rest)? {
                let Some((first, rest)) = words.split_first() else { continue };
                let owner = name(first, &state.origin)?;
                let record = record(owner, rest, state)?;
                self.records.push(record);
            }
            return Ok(());
        }
        if first.starts_with(b'$') {
            return Err(first.wrong("no directive that is known"));
        }
        let (owner, rest) = if line.indented {
            let owner = state.last_owner.ok_or("there is no owner yet that this could belong to")?;
            (owner, line.words.as_slice())
        } else {
            (name(first, &state.origin)?, rest)
        };
        state.last_owner = Some(owner);
        let record = record(owner, rest, state)?;
        self.records.push(record);
        Ok(())
    }
}

/// Reads what follows the owner: TTL and class in any order, if they are there, type and data.
fn record(owner: Name, words: &[Word], state: &mut State) -> Result<Record, String> {
    let (mut own_ttl, mut class) = (None, None);
    let mut rest = words;
    loop {
        let Some((word, after)) = rest.split_first() else { return Err("a type was expected".into()) };
        let text = word.text();
        if class.is_none()
            && let Ok(found) = text.parse::<Class>()
            && found != Class::ANY
        {
            class = Some(found);
        } else if own_ttl.is_none()
            && let Some(found) = ttl(&text)
        {
            own_ttl = Some(found);
        } else {
            let rtype: Type = text.parse().map_err(|()| word.wrong("no type, class or TTL"))?;
            let rdata = rdata::parse(rtype, after, &state.origin)?;
            let soa_minimum =
                (rtype == Type::SOA).then(|| rdata.last_chunk::<4>().map(|word| u32::from_be_bytes(*word)));
            let inherited = state.default_ttl.or(state.last_ttl).or(soa_minimum.flatten());
            let ttl = own_ttl.or(inherited).ok_or_else(|| word.wrong("no TTL, neither here nor before"))?;
            state.last_ttl = Some(ttl);
            let class = class.or(state.last_class).unwrap_or(Class::IN);
            state.last_class = Some(class);
            return Ok(Record { owner, rtype, class, ttl, rdata });
        }
        rest = after;
    }
}

/// Reads a name, which is relative unless it ends in a dot.
fn name(word: &Word, origin: &Name) -> Result<Name, String> {
    if word.is_plain("@") {
        return Ok(*origin);
    }
    let text = word.text();
    if text.is_empty() {
        return Err("an empty name".into());
    }
    let mut name = Name::from_str(&text).map_err(|error| word.wrong(error))?;
    if !ends_in_dot(&text) {
        name.append(origin).map_err(|error| word.wrong(error))?;
    }
    Ok(name)
}

/// Whether the last dot is one, rather than part of a label.
fn ends_in_dot(text: &str) -> bool {
    let Some(before) = text.strip_suffix('.') else { return false };
    let backslashes = before.bytes().rev().take_while(|byte| *byte == b'\\').count();
    backslashes % 2 == 0
}

/// Reads a number of seconds, or a time like `1h30m`.
fn ttl(text: &str) -> Option<u32> {
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for byte in text.bytes() {
        if byte.is_ascii_digit() {
            let digit = u64::from(byte - b'0');
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let unit = match byte.to_ascii_lowercase() {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    if text.is_empty() {
        return None;
    }
    u32::try_from(total.checked_add(number.unwrap_or(0))?).ok()
}
