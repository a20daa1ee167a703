//! ICMP echo, by the kernel's ping sockets, which want no right but `net.ipv4.ping_group_range`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Doing, Error};
use crate::host::Host;
use crate::question::Failure;

const ECHO_V4: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);
/// Longer than any answer that can come.
const PACKET_MAX: usize = 1500;

/// Pings `target` once; the time there and back.
pub(crate) fn ping(host: &Host, target: IpAddr, timeout: Duration) -> Result<Duration, Failure> {
    let socket = match socket(host, target) {
        Ok(socket) => socket,
        Err(error) => panic!("no ping socket: {error}"),
    };
    Ok(exchange(socket, target, timeout)?)
}

fn socket(host: &Host, target: IpAddr) -> Result<Socket, Error> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let open = || Socket::new(domain, Type::DGRAM, Some(protocol));
    host.run(open)?.doing(|| format!("open a ping socket on {}", host.name()))
}

fn exchange(mut socket: Socket, target: IpAddr, timeout: Duration) -> io::Result<Duration> {
    let (question, answer) = if target.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    socket.connect(&SocketAddr::new(target, 0).into())?;
    socket.set_read_timeout(Some(timeout))?;
    let start = Instant::now();
    // Kind, code, and room for the checksum, identifier and sequence: the kernel fills the first two.
    socket.write_all(&[question, 0, 0, 0, 0, 0, 0, 1])?;
    let mut packet = [0; PACKET_MAX];
    while start.elapsed() <= timeout {
        let length = socket.read(&mut packet)?;
        if length > 0 && packet.first() == Some(&answer) {
            return Ok(start.elapsed());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
