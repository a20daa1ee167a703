//! The one error of this crate: what we were doing, and what the kernel said in its own words
//! (errno and extended ack). Ask it by predicate ([`Error::is_not_found`] …), never by text.

use std::{fmt, io};

use crate::attribute::attributes;

const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The errno and the header of the refused message.
const REFUSAL_HEADER: usize = 20;
/// ERESTART is the kernel's own and missing from libc's names for user space.
pub(crate) const ERESTART: i32 = 85;

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct Error {
    /// What was attempted, to what.
    pub doing: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why an exchange failed.
#[derive(Debug)]
pub enum Cause {
    /// The kernel refused the request as a whole.
    Kernel(Refusal),
    /// The kernel refused these of several messages. Never empty.
    Steps(Vec<Refused>),
    /// A socket call failed.
    Socket(&'static str, io::Error),
    /// The kernel's answer is not what the protocol promises, or ours could not be built.
    Reply(&'static str),
    /// A dump was interrupted by changes as often as we were ready to begin it anew.
    Restless,
}

/// What the kernel said to one message it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The errno, positive.
    pub errno: i32,
    /// The extended ack's text, when the kernel gave one.
    pub message: Option<Box<str>>,
    /// Where in our message the attribute at fault begins, when the kernel said so.
    pub offset: Option<u32>,
}

/// One message out of several that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which of the messages sent together, from 0.
    pub index: usize,
    /// What the kernel said to it.
    pub refusal: Refusal,
}

impl Refusal {
    /// A refusal known only by its errno.
    pub(crate) fn plain(errno: i32) -> Self {
        Refusal { errno, message: None, offset: None }
    }

    /// Reads the payload of an `NLMSG_ERROR`; `None` when it is too short to hold an errno.
    /// An acknowledgement is a refusal with errno 0.
    pub(crate) fn read(flags: u16, payload: &[u8]) -> Option<Self> {
        let mut refusal = Self::plain(read_errno(payload)?);
        if flags & NLM_F_ACK_TLVS != 0 {
            // Without NETLINK_CAP_ACK a refusal carries the whole refused message.
            let copied = payload.get(4..).and_then(|rest| rest.first_chunk()).copied();
            let copied = match flags & NLM_F_CAPPED {
                0 => 4usize.saturating_add(u32::from_ne_bytes(copied.unwrap_or_default()) as usize),
                _ => REFUSAL_HEADER,
            };
            refusal.read_extended(payload.get(copied.saturating_add(3) & !3..).unwrap_or(&[]));
        }
        Some(refusal)
    }

    /// Reads the payload of an `NLMSG_DONE`, which carries an errno when a dump failed midway.
    pub(crate) fn read_done(flags: u16, payload: &[u8]) -> Self {
        let mut refusal = Self::plain(read_errno(payload).unwrap_or(0));
        if flags & NLM_F_ACK_TLVS != 0 {
            refusal.read_extended(payload.get(4..).unwrap_or(&[]));
        }
        refusal
    }

    fn read_extended(&mut self, bytes: &[u8]) {
        for attribute in attributes(bytes) {
            match attribute.kind {
                NLMSGERR_ATTR_MSG => self.message = attribute.str().map(Into::into),
                NLMSGERR_ATTR_OFFS => self.offset = attribute.ne32(),
                _ => {}
            }
        }
    }
}

fn read_errno(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

impl Error {
    pub(crate) fn kernel(doing: &dyn fmt::Display, refusal: Refusal) -> Self {
        Error { doing: doing.to_string(), cause: Cause::Kernel(refusal) }
    }

    pub(crate) fn socket(doing: &dyn fmt::Display, call: &'static str, error: io::Error) -> Self {
        Error { doing: doing.to_string(), cause: Cause::Socket(call, error) }
    }

    pub(crate) fn reply(doing: &dyn fmt::Display, flaw: &'static str) -> Self {
        Error { doing: doing.to_string(), cause: Cause::Reply(flaw) }
    }

    /// The errno, that of the first refused message when there are several.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Kernel(refusal) => Some(refusal.errno),
            Cause::Steps(refused) => refused.first().map(|refused| refused.refusal.errno),
            Cause::Socket(_, error) => error.raw_os_error(),
            Cause::Restless => Some(libc::EINTR),
            Cause::Reply(_) => None,
        }
    }

    /// The messages refused, when several were sent together.
    pub fn refused(&self) -> &[Refused] {
        match &self.cause {
            Cause::Steps(refused) => refused,
            _ => &[],
        }
    }

    fn is(&self, errnos: &[i32]) -> bool {
        self.errno().is_some_and(|errno| errnos.contains(&errno))
    }

    /// What was named does not exist (also: no such device, no such IPVS service).
    pub fn is_not_found(&self) -> bool {
        self.is(&NOT_FOUND)
    }

    /// What was to be created exists.
    pub fn is_exists(&self) -> bool {
        self.is(&[libc::EEXIST])
    }

    /// We lack the rights.
    pub fn is_permission(&self) -> bool {
        self.is(&[libc::EPERM, libc::EACCES])
    }

    /// What was to be removed is in use.
    pub fn is_busy(&self) -> bool {
        self.is(&[libc::EBUSY])
    }

    /// The kernel cannot do this at all.
    pub fn is_unsupported(&self) -> bool {
        self.is(&[libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT])
    }

    /// A signal or a concurrent change cut it short; doing it again may work.
    pub fn is_interrupted(&self) -> bool {
        self.is(&[libc::EINTR, libc::EAGAIN])
    }

    /// Somebody changed the ruleset since the generation this batch was made for.
    pub fn is_generation_changed(&self) -> bool {
        self.is(&[ERESTART])
    }

    /// More than the socket's send buffer takes at once: send less.
    pub fn is_too_large(&self) -> bool {
        self.is(&[libc::EMSGSIZE])
    }

    /// The receive buffer overflowed: answers or notices were lost, read everything anew.
    pub fn is_lost(&self) -> bool {
        self.is(&[libc::ENOBUFS])
    }
}

const NOT_FOUND: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];

impl Refusal {
    /// As [`Error::is_not_found`].
    pub fn is_not_found(&self) -> bool {
        NOT_FOUND.contains(&self.errno)
    }

    /// As [`Error::is_exists`].
    pub fn is_exists(&self) -> bool {
        self.errno == libc::EEXIST
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            write!(f, "{message}: ")?;
        }
        match self.errno {
            ERESTART => f.write_str("the ruleset changed meanwhile")?,
            errno => io::Error::from_raw_os_error(errno).fmt(f)?,
        }
        match self.offset {
            Some(offset) => write!(f, " (at byte {offset} of the message)"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Kernel(refusal) => refusal.fmt(f),
            Cause::Steps(refused) => match refused.as_slice() {
                [] => f.write_str("refused"),
                [first, rest @ ..] => {
                    write!(f, "step {}: {}", first.index, first.refusal)?;
                    if !rest.is_empty() {
                        write!(f, " (and {} more steps refused)", rest.len())?;
                    }
                    Ok(())
                }
            },
            Cause::Socket(call, error) => write!(f, "{call}: {error}"),
            Cause::Reply(flaw) => f.write_str(flaw),
            Cause::Restless => f.write_str("interrupted by changes again and again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 6.18 answered a rule for a chain that does not exist, with capping on.
    #[test]
    fn refusal_with_extended_ack() {
        let mut payload = (-libc::ENOENT).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[8, 0, 2, 0, 28, 0, 0, 0]);
        payload.extend_from_slice(b"\x0b\0\x01\0no way\0\0");
        let refusal = Refusal::read(NLM_F_CAPPED | NLM_F_ACK_TLVS, &payload).unwrap();
        assert_eq!(refusal.errno, libc::ENOENT);
        assert_eq!(refusal.offset, Some(28));
        assert_eq!(refusal.message.as_deref(), Some("no way"));
        let error = Error::kernel(&"add rule", refusal);
        assert!(error.is_not_found() && !error.is_exists());
        assert_eq!(
            error.to_string(),
            "add rule: no way: No such file or directory (os error 2) (at byte 28 of the message)"
        );
    }

    #[test]
    fn refusal_that_is_damaged() {
        assert_eq!(Refusal::read(0, &[1, 2, 3]), None);
        let absurd = [&i32::MIN.to_ne_bytes()[..], &u32::MAX.to_ne_bytes()].concat();
        assert_eq!(Refusal::read(NLM_F_ACK_TLVS, &absurd).map(|r| r.errno), Some(i32::MAX));
    }
}
