//! A resolver as small as it can be, for tests that ask the program for names.

use lab::Host;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wire::{Header, Message, Name, Rcode, Reply, Section, Type, flags};

/// Longer than an answer takes, so that one that never comes is told from one that comes late.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question as a client sends it.
pub(crate) fn query(id: u16, name: &str, rtype: Type) -> Vec<u8> {
    let mut query = Vec::new();
    for word in [id, flags::RD, 1, 0, 0, 0] {
        query.extend(word.to_be_bytes());
    }
    query.extend(name.parse::<Name>().expect("a name").as_bytes());
    query.extend(rtype.0.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// An answer: its code, and the addresses in it, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: Rcode,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Takes an answer apart.
pub(crate) fn read(bytes: &[u8]) -> Answer {
    let mut reply = Reply::default();
    reply.read(&Message::read(bytes).expect("a header")).expect("a message");
    let mut addresses: Vec<IpAddr> =
        reply.section(Section::Answer).filter_map(|record| reply.address(record)).collect();
    addresses.sort();
    Answer { rcode: reply.rcode, addresses }
}

/// Asks once, from a socket of its own.
pub(crate) fn ask(from: &Host, server: SocketAddr, name: &str, rtype: Type) -> io::Result<Answer> {
    let question = query(7, name, rtype);
    from.run(move || {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&question)?;
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes)?;
        assert_eq!(Header::read(&bytes).map(|header| header.id), Some(7));
        Ok(read(&bytes[..length]))
    })
    .expect("the host is there")
}

/// The one address of a name, if it has exactly one.
pub(crate) fn address(from: &Host, server: SocketAddr, name: &str) -> Option<IpAddr> {
    match ask(from, server, name, Type::A).ok()?.addresses.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

/// How a client that asks at a constant rate fared.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: usize,
    /// Answers by the address in them.
    pub(crate) answers: BTreeMap<IpAddr, usize>,
    /// Questions that got no answer at all, at the first try.
    pub(crate) lost: usize,
}

/// Between two questions.
const PACE: Duration = Duration::from_millis(2);
/// So many sockets are in use at a time, and each for so many questions: some clients keep their port,
/// and some do not.
const SOCKETS: usize = 8;
const QUESTIONS_A_SOCKET: usize = 400;

/// Asks for addresses at a constant rate until told to stop, then waits for what is owed.
pub(crate) fn steadily(from: &Host, server: SocketAddr, name: &str, stop: &AtomicBool) -> Tally {
    let open = || {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        socket.connect(server).expect("a way");
        socket
    };
    let ask = || {
        let mut sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| open()).collect();
        let (mut tally, mut waiting) = (Tally::default(), HashSet::new());
        let mut last = None;
        loop {
            if !stop.load(Ordering::SeqCst) {
                let slot = tally.sent % SOCKETS;
                if tally.sent % QUESTIONS_A_SOCKET == slot && waiting.is_empty() {
                    sockets[slot] = open();
                }
                let id = tally.sent as u16;
                // A refusal (ICMP) of an earlier one is told by this call and takes its place.
                if sockets[slot].send(&query(id, name, Type::A)).is_err() {
                    let _ = sockets[slot].send(&query(id, name, Type::A));
                }
                waiting.insert(id);
                tally.sent += 1;
            } else if waiting.is_empty() || last.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                tally.lost = waiting.len();
                return tally;
            }
            std::thread::sleep(PACE);
            let mut bytes = [0; 4096];
            for socket in &sockets {
                while let Ok(length) = socket.recv(&mut bytes) {
                    let id = Header::read(&bytes).expect("a header").id;
                    if waiting.remove(&id) {
                        for address in read(&bytes[..length]).addresses {
                            *tally.answers.entry(address).or_default() += 1;
                        }
                    }
                }
            }
        }
    };
    from.run(ask).expect("the host is there")
}

/// Asks once by stream.
pub(crate) fn ask_by_stream(from: &Host, server: SocketAddr, name: &str) -> io::Result<Answer> {
    let question = query(9, name, Type::A);
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(&question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes)?;
        Ok(read(&bytes))
    })
    .expect("the host is there")
}
