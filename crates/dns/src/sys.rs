//! The system calls that nobody has wrapped well enough: many datagrams at once, each with the
//! address that it was sent to (recvmmsg(2), sendmmsg(2), ip(7) `IP_PKTINFO`, ipv6(7) `IPV6_PKTINFO`).
//!
//! Addresses and control messages are read and written as bytes, so that all that is unsafe here is
//! the calls themselves and the pointers they take.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// So many datagrams are received or sent by one call.
pub(crate) const BATCH: usize = 32;
/// The largest query that is taken; a longer one is cut off and so malformed.
const QUERY_BYTES_MAX: usize = 4096;
/// Buffers of answers that have grown past this are given back.
const ANSWER_BYTES_KEPT_MAX: usize = 4096;
/// Room for an address of either family.
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for one control message of either kind.
const CONTROL_BYTES: usize = 64;
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Address([u8; ADDRESS_BYTES]);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// The address of ours that a datagram was sent to, and by which interface it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) address: Option<IpAddr>,
    interface: u32,
}

/// A datagram.
#[derive(Debug)]
pub(crate) struct Received<'i> {
    pub(crate) bytes: &'i [u8],
    pub(crate) from: SocketAddr,
    pub(crate) arrival: Arrival,
}

/// Datagrams that have come.
pub(crate) struct Inbox {
    bytes: Box<[[u8; QUERY_BYTES_MAX]]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: an mmsghdr is integers and pointers, for which all zeros are values.
    unsafe { std::mem::zeroed() }
}

fn empty_vector() -> libc::iovec {
    libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox {
            bytes: vec![[0; QUERY_BYTES_MAX]; BATCH].into(),
            addresses: vec![Address([0; ADDRESS_BYTES]); BATCH].into(),
            controls: vec![Control([0; CONTROL_BYTES]); BATCH].into(),
            vectors: (0..BATCH).map(|_| empty_vector()).collect(),
            headers: (0..BATCH).map(|_| empty_header()).collect(),
        }
    }

    /// Takes what is there, without waiting, and says how many there are.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let Inbox { bytes, addresses, controls, vectors, headers } = self;
        let buffers = bytes.iter_mut().zip(addresses.iter_mut()).zip(controls.iter_mut());
        for (((buffer, address), control), (vector, header)) in
            buffers.zip(vectors.iter_mut().zip(headers.iter_mut()))
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            header.msg_len = 0;
        }
        let count = BATCH as libc::c_uint;
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: each of the `count` headers points at a buffer, a vector, an address and a control
        // buffer of its own with their true sizes, all of which are borrowed mutably until we return.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags as _, ptr::null_mut())
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// One of those that came last. `None` for one without an address, which there is none of.
    pub(crate) fn get(&self, index: usize) -> Option<Received<'_>> {
        let header = self.headers.get(index)?;
        let bytes = self.bytes.get(index)?.get(..header.msg_len as usize)?;
        let from = read_address(&self.addresses.get(index)?.0)?;
        #[allow(clippy::unnecessary_cast, reason = "musl has another type here")]
        let length = header.msg_hdr.msg_controllen as usize;
        let control = self.controls.get(index)?.0.get(..length)?;
        Some(Received { bytes, from, arrival: read_control(control) })
    }
}

fn read_address(bytes: &[u8; ADDRESS_BYTES]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match libc::c_int::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Some(SocketAddr::new(IpAddr::from(*rest.first_chunk::<4>()?), port)),
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk::<4>()?;
            let (address, scope) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*scope.first_chunk::<4>()?);
            let address = SocketAddrV6::new(Ipv6Addr::from(*address), port, u32::from_be_bytes(*flow), scope);
            Some(SocketAddr::V6(address))
        }
        _ => None,
    }
}

fn write_address(address: SocketAddr, into: &mut Address) -> usize {
    let mut all = [0_u8; ADDRESS_BYTES];
    let length = match address {
        SocketAddr::V4(address) => {
            let parts: [&[u8]; 3] = [
                &(libc::AF_INET as u16).to_ne_bytes(),
                &address.port().to_be_bytes(),
                &address.ip().octets(),
            ];
            fill(&mut all, &parts);
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let parts: [&[u8]; 5] = [
                &(libc::AF_INET6 as u16).to_ne_bytes(),
                &address.port().to_be_bytes(),
                &address.flowinfo().to_be_bytes(),
                &address.ip().octets(),
                &address.scope_id().to_ne_bytes(),
            ];
            fill(&mut all, &parts);
            size_of::<libc::sockaddr_in6>()
        }
    };
    into.0 = all;
    length
}

/// Writes parts one behind the other.
fn fill(into: &mut [u8], parts: &[&[u8]]) {
    let mut rest = into;
    for part in parts {
        let Some((place, after)) = std::mem::take(&mut rest).split_at_mut_checked(part.len()) else { return };
        place.copy_from_slice(part);
        rest = after;
    }
}

/// Finds the address that a datagram was sent to in its control messages.
fn read_control(mut control: &[u8]) -> Arrival {
    while let Some((header, _)) = control.split_at_checked(CONTROL_HEADER) {
        let word = |at: usize| header.get(at..at + 4).and_then(|word| word.first_chunk::<4>().copied());
        let length = header.first_chunk().map_or(0, |length| usize::from_ne_bytes(*length));
        let (Some(level), Some(kind)) = (word(CONTROL_HEADER - 8), word(CONTROL_HEADER - 4)) else { break };
        let Some(data) = control.get(CONTROL_HEADER..length) else { break };
        match (i32::from_ne_bytes(level), i32::from_ne_bytes(kind)) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some((interface, rest)) = data.split_first_chunk::<4>()
                    && let Some(local) = rest.first_chunk::<4>()
                {
                    let address = Some(IpAddr::V4(Ipv4Addr::from(*local)));
                    return Arrival { address, interface: u32::from_ne_bytes(*interface) };
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((local, rest)) = data.split_first_chunk::<16>()
                    && let Some(interface) = rest.first_chunk::<4>()
                {
                    let address = Some(IpAddr::V6(Ipv6Addr::from(*local)));
                    return Arrival { address, interface: u32::from_ne_bytes(*interface) };
                }
            }
            _ => {}
        }
        let step = length.next_multiple_of(align_of::<usize>()).max(CONTROL_HEADER);
        control = control.get(step..).unwrap_or_default();
    }
    Arrival::default()
}

/// Writes the control message that makes a datagram leave from this address.
fn write_control(arrival: Arrival, into: &mut Control) -> usize {
    let mut header = |level: i32, kind: i32, parts: [&[u8]; 3]| {
        let data: usize = parts.iter().map(|part| part.len()).sum();
        let length = (CONTROL_HEADER + data).to_ne_bytes();
        let [level, kind] = [level, kind].map(i32::to_ne_bytes);
        into.0 = [0; CONTROL_BYTES];
        let [a, b, c] = parts;
        fill(&mut into.0, &[&length, &level, &kind, a, b, c]);
        CONTROL_HEADER + data.next_multiple_of(align_of::<usize>())
    };
    match arrival.address {
        None => 0,
        // The interface is left to the routes: an answer may leave by another one.
        Some(IpAddr::V4(local)) => {
            header(libc::IPPROTO_IP, libc::IP_PKTINFO, [&[0; 4], &local.octets(), &[0; 4]])
        }
        Some(IpAddr::V6(local)) => {
            let interface = if local.is_unicast_link_local() { arrival.interface } else { 0 };
            header(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, [&local.octets(), &interface.to_ne_bytes(), &[]])
        }
    }
}

/// Datagrams that are to go.
pub(crate) struct Outbox {
    bytes: Vec<Vec<u8>>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    count: usize,
}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox {
            bytes: (0..BATCH).map(|_| Vec::new()).collect(),
            addresses: vec![Address([0; ADDRESS_BYTES]); BATCH].into(),
            controls: vec![Control([0; CONTROL_BYTES]); BATCH].into(),
            vectors: (0..BATCH).map(|_| empty_vector()).collect(),
            headers: (0..BATCH).map(|_| empty_header()).collect(),
            count: 0,
        }
    }

    /// Adds what is written, if it is to go and if there is room: as many as an inbox has always fit.
    pub(crate) fn add_if(&mut self, to: SocketAddr, from: Arrival, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let Outbox { bytes, addresses, controls, headers, count, .. } = self;
        let (Some(bytes), Some(address), Some(control), Some(header)) = (
            bytes.get_mut(*count),
            addresses.get_mut(*count),
            controls.get_mut(*count),
            headers.get_mut(*count),
        ) else {
            return;
        };
        bytes.clear();
        if !write(bytes) {
            return;
        }
        header.msg_hdr.msg_namelen = write_address(to, address) as libc::socklen_t;
        header.msg_hdr.msg_controllen = write_control(from, control) as _;
        *count += 1;
    }

    /// Sends them all and forgets them. One that cannot be sent is left out: its asker asks again.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let Outbox { bytes, addresses, controls, vectors, headers, count } = self;
        let buffers = bytes.iter_mut().zip(addresses.iter_mut()).zip(controls.iter_mut());
        for (((buffer, address), control), (vector, header)) in
            buffers.zip(vectors.iter_mut().zip(headers.iter_mut())).take(*count)
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = match header.msg_hdr.msg_controllen {
                0 => ptr::null_mut(),
                _ => ptr::from_mut(control).cast(),
            };
        }
        let mut sent = 0;
        let mut failed = None;
        while sent < *count {
            let Some(rest) = headers.get_mut(sent..*count) else { break };
            let length = rest.len() as libc::c_uint;
            // SAFETY: the first `count` headers have just been pointed at buffers that live in `self`.
            let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), length, 0) };
            match usize::try_from(done) {
                Ok(done) => sent += done.max(1),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        sent += 1;
                        failed = Some(error);
                    }
                }
            }
        }
        for buffer in bytes.iter_mut().take(*count) {
            if buffer.capacity() > ANSWER_BYTES_KEPT_MAX {
                *buffer = Vec::new();
            }
        }
        *count = 0;
        failed.map_or(Ok(()), Err)
    }
}

/// Sends one datagram, without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, to: SocketAddr, from: Arrival, bytes: &[u8]) -> io::Result<()> {
    let mut address = Address([0; ADDRESS_BYTES]);
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = empty_header().msg_hdr;
    header.msg_namelen = write_address(to, &mut address) as libc::socklen_t;
    header.msg_name = ptr::from_mut(&mut address).cast();
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_controllen = write_control(from, &mut control) as _;
    if header.msg_controllen != 0 {
        header.msg_control = ptr::from_mut(&mut control).cast();
    }
    // SAFETY: the header points at locals with their true sizes; sendmsg only reads the bytes.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks the kernel to tell for each datagram which address it was sent to.
pub(crate) fn tell_arrivals(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, and its true size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until one of the files can be read from, and says which can.
pub(crate) fn wait<const N: usize>(files: [Option<BorrowedFd<'_>>; N]) -> io::Result<[bool; N]> {
    let mut polled = files.map(|file| libc::pollfd {
        // Negative ones are passed over.
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array is ours and its length is given.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
    match ready {
        0.. => Ok(polled.map(|file| file.revents != 0)),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        for (bind, ask, from) in [("0.0.0.0:0", "127.0.0.9", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
            let Ok(server) = UdpSocket::bind(bind) else { continue };
            tell_arrivals(server.as_fd(), bind.starts_with('[')).unwrap();
            let client = UdpSocket::bind(from).unwrap();
            let asked = SocketAddr::new(ask.parse().unwrap(), server.local_addr().unwrap().port());
            for text in ["one", "two"] {
                client.send_to(text.as_bytes(), asked).unwrap();
            }
            let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
            assert_eq!(wait([Some(server.as_fd()), None]).unwrap(), [true, false]);
            let mut count = 0;
            while count < 2 {
                let now = inbox.receive(server.as_fd()).unwrap();
                for index in 0..now {
                    let Received { bytes, from, arrival } = inbox.get(index).unwrap();
                    assert_eq!((from, arrival.address), (client.local_addr().unwrap(), Some(asked.ip())));
                    outbox.add_if(from, arrival, |out| {
                        out.extend_from_slice(bytes);
                        true
                    });
                }
                count += now;
            }
            outbox.send(server.as_fd()).unwrap();
            send(
                server.as_fd(),
                client.local_addr().unwrap(),
                Arrival { address: Some(asked.ip()), interface: 0 },
                b"six",
            )
            .unwrap();
            for text in ["one", "two", "six"] {
                let mut buffer = [0; 16];
                let (length, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (text.as_bytes(), asked));
            }
            assert_eq!(inbox.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
