//! A resolver as small as it can be, for tests that ask the program for names.

use lab::Host;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
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
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
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
