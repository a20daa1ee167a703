//! Netlink sockets, typed by protocol, blocking. Every answer is checked for its sequence number,
//! so that the remains of an abandoned exchange are never taken for the answer to the next.
//!
//! Four exchanges: [`request`](Socket::request) (one message, one ack), [`pipeline`](Socket::pipeline)
//! (many independent messages, an ack each), [`dump`](Socket::dump), and
//! [`batch`](Socket::batch) (all or nothing, netfilter only). A [`Listener`] hears notices.
//!
//! A socket belongs to the network namespace of the thread that opened it.

use std::fmt::Display;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Cause, Error, Refusal, Refused};
use crate::message::{Message, Messages, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, messages};
use crate::protocol::{Netfilter, Protocol};
use crate::sys;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// The kernel fills at most 32 KiB of a dump into one datagram (`netlink_dump`).
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;
/// What waits in the socket: many acks, and notices while we are busy.
const RECEIVE_QUEUE_BYTES: i32 = 4 << 20;
/// The kernel takes a datagram only if it is this much shorter than the send buffer
/// (`netlink_sendmsg`).
const SEND_OVERHEAD_BYTES: usize = 32;
/// The kernel answers while it takes the request; only the rest of a dump comes later. This is
/// for a kernel that does not answer at all.
const ANSWER_TIMEOUT_S: u32 = 60;
/// How often a dump is begun anew because what it dumps changed meanwhile.
const DUMP_ATTEMPTS: usize = 16;
/// Independent messages sent together. Each ack takes nearly 1 KiB of the receive queue, which
/// is 208 KiB where we may not enlarge it.
const PIPELINE_MESSAGES: usize = 128;

/// A socket of one protocol.
#[derive(Debug)]
pub struct Socket<P> {
    fd: OwnedFd,
    sequence: u32,
    send_room: usize,
    buffer: Vec<u8>,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Socket<P> {
    /// Opens a socket in this thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let doing = format!("open {} netlink socket", P::NAME);
        let failed = |call| move |error| Error { doing, cause: Cause::Socket(call, error) };
        let fd = match sys::open(P::NUMBER) {
            Ok(fd) => fd,
            Err(error) => return Err(failed("socket")(error)),
        };
        sys::set_receive_timeout(&fd, ANSWER_TIMEOUT_S).map_err(failed("setsockopt"))?;
        // Old kernels lack some of these; we then get shorter errors, or filter ourselves.
        let _ = sys::set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        let _ = sys::set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        if P::STRICT_DUMPS {
            let _ = sys::set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        }
        enlarge(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_QUEUE_BYTES);
        let mut socket = Socket {
            fd,
            sequence: 1,
            send_room: 0,
            buffer: vec![0; RECEIVE_BUFFER_BYTES],
            protocol: PhantomData,
        };
        socket.read_send_room();
        Ok(socket)
    }

    fn read_send_room(&mut self) {
        let bytes = sys::option(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap_or(0);
        self.send_room = usize::try_from(bytes).unwrap_or(0).saturating_sub(SEND_OVERHEAD_BYTES);
    }

    /// Makes room for one datagram of `bytes`, as far as we may, and says how long one can be.
    pub fn make_room(&mut self, bytes: usize) -> usize {
        if bytes > self.send_room {
            // The kernel doubles the value; halved here it would still do, but SNDBUF may clamp it.
            let wanted = bytes.saturating_add(SEND_OVERHEAD_BYTES).min(i32::MAX as usize / 2);
            enlarge(&self.fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted as i32);
            self.read_send_room();
        }
        self.send_room
    }

    /// Sends one message and waits for its ack.
    pub fn request(&mut self, doing: &dyn Display, message: &mut Messages<P>) -> Result<(), Error> {
        match self.pipeline(doing, message) {
            Err(Error { doing, cause: Cause::Steps(refused) }) => match <[Refused; 1]>::try_from(refused) {
                Ok([only]) => Err(Error { doing, cause: Cause::Kernel(only.refusal) }),
                Err(refused) => Err(Error { doing, cause: Cause::Steps(refused) }),
            },
            other => other,
        }
    }

    /// Sends one message and reads what comes before its ack: the last reply that `read` can read.
    pub fn get<T>(
        &mut self,
        doing: &dyn Display,
        message: &mut Messages<P>,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut reply = None;
        self.exchange(doing, message, &mut |message| reply = read(message).or(reply.take()))?;
        reply.ok_or_else(|| Error::reply(doing, "the kernel's reply cannot be read"))
    }

    /// Sends many independent messages and waits for an ack to each. Those that are refused do
    /// not keep the others from being carried out; they come back as [`Cause::Steps`].
    pub fn pipeline(&mut self, doing: &dyn Display, messages: &mut Messages<P>) -> Result<(), Error> {
        self.exchange(doing, messages, &mut |_| ())
    }

    fn exchange(
        &mut self,
        doing: &dyn Display,
        requests: &mut Messages<P>,
        reply: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Error> {
        let first = self.number(doing, requests)?;
        (0..requests.len()).for_each(|index| requests.add_flags(index, NLM_F_ACK));
        let mut refused = Vec::new();
        let mut from = 0;
        while from < requests.len() {
            let to = self.chunk(requests, from);
            let end = requests.starts.get(to).copied().unwrap_or(requests.bytes.len());
            self.send(doing, &[&requests.bytes[requests.starts[from]..end]])?;
            let window = Window { first: first.wrapping_add(from as u32), count: to - from };
            self.read_acks(
                doing,
                window,
                &mut |index, refusal| {
                    refused.push(Refused { index: from + index, refusal });
                },
                reply,
            )?;
            from = to;
        }
        if refused.is_empty() {
            Ok(())
        } else {
            Err(Error { doing: doing.to_string(), cause: Cause::Steps(refused) })
        }
    }

    /// Where the datagram that begins with message `from` ends.
    fn chunk(&self, requests: &Messages<P>, from: usize) -> usize {
        let limit = requests.len().min(from + PIPELINE_MESSAGES);
        let fits = |to: &usize| {
            let end = requests.starts.get(*to).copied().unwrap_or(requests.bytes.len());
            end - requests.starts[from] <= self.send_room
        };
        (from + 1..=limit).rev().find(fits).unwrap_or(from + 1)
    }

    fn read_acks(
        &mut self,
        doing: &dyn Display,
        window: Window,
        refused: &mut dyn FnMut(usize, Refusal),
        reply: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Error> {
        let mut answered = 0;
        while answered < window.count {
            let datagram = self.receive(doing, true)?.unwrap_or(0);
            for message in messages(&self.buffer[..datagram]) {
                let Some(index) = window.index(message.sequence) else { continue };
                if message.kind != NLMSG_ERROR {
                    reply(message);
                    continue;
                }
                answered += 1;
                match Refusal::read(message.flags, message.payload) {
                    Some(Refusal { errno: 0, .. }) => {}
                    Some(refusal) => refused(index, refusal),
                    None => return Err(Error::reply(doing, "the kernel's ack is cut short")),
                }
            }
        }
        Ok(())
    }

    /// Asks for all there is and collects what `read` reads; a message it cannot read is an error.
    pub fn dump<T>(
        &mut self,
        doing: &dyn Display,
        request: &mut Messages<P>,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.dump_into(doing, request, Vec::new, |all, message| {
            all.push(read(message)?);
            Some(())
        })
    }

    /// Asks for all there is and shows each message to `visit` as it comes. What is gathered
    /// starts `fresh` whenever the kernel says that a change came in between.
    pub fn dump_into<S>(
        &mut self,
        doing: &dyn Display,
        request: &mut Messages<P>,
        mut fresh: impl FnMut() -> S,
        mut visit: impl FnMut(&mut S, Message<'_>) -> Option<()>,
    ) -> Result<S, Error> {
        request.add_flags(0, NLM_F_DUMP);
        for _ in 0..DUMP_ATTEMPTS {
            let mut gathered = fresh();
            let mut legible = true;
            let whole = self.dump_once(doing, request, &mut |message| {
                legible = legible && visit(&mut gathered, message).is_some();
            })?;
            match (whole, legible) {
                (true, true) => return Ok(gathered),
                (true, false) => return Err(Error::reply(doing, "the kernel's reply cannot be read")),
                (false, _) => {}
            }
        }
        Err(Error { doing: doing.to_string(), cause: Cause::Restless })
    }

    /// One dump to its end; false when it was interrupted.
    fn dump_once(
        &mut self,
        doing: &dyn Display,
        request: &mut Messages<P>,
        visit: &mut dyn FnMut(Message<'_>),
    ) -> Result<bool, Error> {
        let window = Window { first: self.number(doing, request)?, count: 1 };
        self.send(doing, &[&request.bytes])?;
        let mut whole = true;
        loop {
            let datagram = self.receive(doing, true)?.unwrap_or(0);
            for message in messages(&self.buffer[..datagram]) {
                if window.index(message.sequence).is_none() {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                let end = match message.kind {
                    NLMSG_DONE => Refusal::read_done(message.flags, message.payload),
                    NLMSG_ERROR => Refusal::read(message.flags, message.payload)
                        .ok_or_else(|| Error::reply(doing, "the kernel's refusal is cut short"))?,
                    NLMSG_NOOP | NLMSG_OVERRUN => continue,
                    _ => {
                        visit(message);
                        continue;
                    }
                };
                return match end.errno {
                    0 => Ok(whole),
                    libc::EINTR => Ok(false),
                    _ => Err(Error::kernel(doing, end)),
                };
            }
        }
    }

    /// Numbers the messages with sequence numbers never used on this socket before.
    fn number(&mut self, doing: &dyn Display, requests: &mut Messages<P>) -> Result<u32, Error> {
        if let Some(flaw) = requests.flaw {
            return Err(Error::reply(doing, flaw));
        }
        let first = self.sequence;
        requests.number(first);
        self.sequence = first.wrapping_add(requests.len() as u32);
        Ok(first)
    }

    fn send(&mut self, doing: &dyn Display, parts: &[&[u8]]) -> Result<(), Error> {
        self.make_room(parts.iter().map(|part| part.len()).sum());
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        loop {
            match sys::send(&self.fd, &slices) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket(doing, "sendmsg", error)),
            }
        }
    }

    /// The next datagram from the kernel, left in the buffer; `None` when there is none and we
    /// were not to wait.
    fn receive(&mut self, doing: &dyn Display, wait: bool) -> Result<Option<usize>, Error> {
        loop {
            match sys::receive(&self.fd, &mut self.buffer, wait) {
                // Another process may write to our port; only the kernel's word counts.
                Ok(received) if received.sender != 0 => {}
                Ok(received) if received.truncated => {
                    return Err(Error::reply(doing, "the kernel's datagram is longer than our buffer"));
                }
                Ok(received) => return Ok(Some(received.length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !wait => return Ok(None),
                Err(error) => return Err(Error::socket(doing, "recvmsg", error)),
            }
        }
    }
}

/// Sets a buffer's size beyond the system's limit if we may, else up to it.
fn enlarge(fd: &OwnedFd, force: i32, polite: i32, bytes: i32) {
    if sys::set_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
        let _ = sys::set_option(fd, libc::SOL_SOCKET, polite, bytes);
    }
}

/// The sequence numbers of messages sent together.
#[derive(Debug, Clone, Copy)]
struct Window {
    first: u32,
    count: usize,
}

impl Window {
    fn index(self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.first) as usize;
        (index < self.count).then_some(index)
    }
}

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_BATCH_GENID: u16 = 1;

/// The header that follows netlink's in every netfilter message, `struct nfgenmsg`.
pub(crate) const fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

impl Socket<Netfilter> {
    /// Sends the steps as one transaction in one datagram: all of them happen or none. With a
    /// `generation`, only if the ruleset is still at it; else the error
    /// [`is_generation_changed`](Error::is_generation_changed). Steps the kernel refused come
    /// back as [`Cause::Steps`], all of them.
    ///
    /// How success is known: we ask for an ack to the last step. The kernel queues the answers to
    /// the steps in order once the batch is committed or aborted, and before them, against the
    /// batch's first message, a refusal of the whole (`nfnetlink_rcv_batch`). An ack asked for
    /// the batch's end itself is given from 6.10 on only.
    pub fn batch(
        &mut self,
        doing: &dyn Display,
        subsystem: u16,
        generation: Option<u32>,
        steps: &mut Messages<Netfilter>,
    ) -> Result<(), Error> {
        let Some(last) = steps.len().checked_sub(1) else { return Ok(()) };
        steps.add_flags(last, NLM_F_ACK);
        let edge = nfgenmsg(libc::AF_UNSPEC as u8, subsystem);
        let mut begin = Messages::<Netfilter>::one(NFNL_MSG_BATCH_BEGIN, 0, &edge, |w| {
            if let Some(generation) = generation {
                w.put_be32(NFNL_BATCH_GENID, generation);
            }
        });
        let mut end = Messages::<Netfilter>::one(NFNL_MSG_BATCH_END, 0, &edge, |_| ());
        let first = self.number(doing, &mut begin)?;
        self.number(doing, steps)?;
        self.number(doing, &mut end)?;
        self.send(doing, &[&begin.bytes, &steps.bytes, &end.bytes])?;
        self.read_batch(doing, Window { first, count: steps.len() + 2 }, last)
    }

    fn read_batch(&mut self, doing: &dyn Display, window: Window, last: usize) -> Result<(), Error> {
        let mut refused = Vec::new();
        let mut whole = None;
        let mut finished = false;
        let mut lost = None;
        loop {
            // The kernel has said all it has to say before `sendmsg` returned.
            let datagram = match self.receive(doing, false) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                // Too many refusals for the queue. The first ones fitted, and they tell more.
                Err(error) if error.is_lost() => {
                    lost = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..datagram]) {
                let (Some(index), NLMSG_ERROR) = (window.index(message.sequence), message.kind) else {
                    continue;
                };
                let refusal = Refusal::read(message.flags, message.payload)
                    .ok_or_else(|| Error::reply(doing, "the kernel's ack is cut short"))?;
                // The batch's first message has index 0, so the steps count from 1.
                match (index.checked_sub(1), refusal.errno) {
                    (None, 0) => {}
                    (None, _) => whole = Some(refusal),
                    (Some(step), 0) => finished |= step == last,
                    (Some(index), _) => refused.push(Refused { index, refusal }),
                }
            }
        }
        match whole {
            Some(refusal) => Err(Error::kernel(doing, refusal)),
            None if !refused.is_empty() => {
                Err(Error { doing: doing.to_string(), cause: Cause::Steps(refused) })
            }
            None if finished => Ok(()),
            None => Err(lost.unwrap_or_else(|| Error::reply(doing, "the kernel did not confirm the batch"))),
        }
    }
}

/// What a [`Listener`] heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nothing is waiting.
    Nothing,
    /// Messages, which were shown.
    Heard,
    /// Notices were lost because we read too slowly: read everything anew.
    Lost,
}

/// A socket that hears what others change. Never blocks; wait for its file descriptor.
#[derive(Debug)]
pub struct Listener<P> {
    socket: Socket<P>,
}

impl<P: Protocol> Listener<P> {
    /// Opens a socket in this thread's network namespace and joins these multicast groups.
    pub fn open(groups: &[i32]) -> Result<Self, Error> {
        let socket = Socket::open()?;
        for group in groups {
            sys::set_option(&socket.fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, *group).map_err(
                |error| {
                    let doing = format!("join {} netlink group {group}", P::NAME);
                    Error { doing, cause: Cause::Socket("setsockopt", error) }
                },
            )?;
        }
        Ok(Listener { socket })
    }

    /// Shows the messages of the next datagram, if one is waiting.
    pub fn read(&mut self, mut visit: impl FnMut(Message<'_>)) -> Result<Notice, Error> {
        match self.socket.receive(&format_args!("listen for {} netlink notices", P::NAME), false) {
            Ok(None) => Ok(Notice::Nothing),
            Ok(Some(datagram)) => {
                messages(&self.socket.buffer[..datagram]).for_each(&mut visit);
                Ok(Notice::Heard)
            }
            Err(error) if error.is_lost() => Ok(Notice::Lost),
            Err(error) => Err(error),
        }
    }
}

impl<P> AsFd for Listener<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}
