//! A DNS server under fire: floods of names that nobody knows, messages that are none, streams that
//! dawdle, and an upstream that is slow, dead, lying, or asks us in turn. Clients that behave are served
//! throughout, and memory stays within a bound.
//!
//! `PORTOLAN_HOSTILE_S` says for how long, by default ten seconds.

mod common;

use common::{Bench, dns};
use lab::Host;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::Type;

const WEB: &str = "web.shop.svc.cluster.local";
/// So much memory at most, whatever happens.
const PEAK_MB_MAX: u64 = 192;
/// Messages a second of each flood. What a server cannot do is not what is asked for here.
const FLOOD: u64 = if cfg!(debug_assertions) { 300 } else { 10_000 };
/// Streams that say nothing, and that say one byte a second.
const STREAMS: usize = 400;
/// A client that behaves asks so often, and so many times for each name.
const PACE: Duration = Duration::from_millis(5);
const TRIES: usize = 5;

/// Numbers that look like chance and are the same each time (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What all that attack share.
struct Fire {
    server: SocketAddr,
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Fire {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Sends what `make` makes, at the pace of a flood; nobody waits for answers.
    fn flood(&self, from: &Host, seed: u64, make: impl Fn(&mut Chance, u64) -> Vec<u8> + Send + Sync) {
        let work = || {
            let mut chance = Chance(seed);
            let begin = Instant::now();
            let sockets: Vec<UdpSocket> =
                (0..16).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket")).collect();
            let mut count = 0;
            while self.goes_on() {
                let due = begin.elapsed().as_millis() as u64 * FLOOD / 1000;
                for number in count..due {
                    let message = make(&mut chance, number);
                    // A flood does not care.
                    let _ = sockets[number as usize % sockets.len()].send_to(&message, self.server);
                }
                self.sent.fetch_add(due - count, Ordering::Relaxed);
                count = due;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        from.run(work).expect("the host is there");
    }

    /// Many streams that are silent, or begin a question and never end it, or ask and never listen.
    fn dawdle(&self, from: &Host) {
        let work = || {
            let mut streams: Vec<TcpStream> = Vec::new();
            let question = dns::query(1, WEB, Type::A);
            let framed = [&(question.len() as u16).to_be_bytes()[..], &question].concat();
            let mut round = 0_usize;
            while self.goes_on() {
                while streams.len() < STREAMS {
                    let Ok(stream) = TcpStream::connect_timeout(&self.server, Duration::from_millis(200))
                    else {
                        break;
                    };
                    stream.set_nonblocking(true).expect("a stream");
                    streams.push(stream);
                }
                round += 1;
                streams.retain_mut(|stream| {
                    let port = stream.local_addr().map_or(0, |local| usize::from(local.port()));
                    let said = match port % 3 {
                        0 => Ok(0),
                        1 => stream.write(&framed[round % framed.len()..][..1]),
                        _ => stream.write(&framed),
                    };
                    said.is_ok_and(|_| true) || matches!(stream.take_error(), Ok(None))
                });
                streams.truncate(STREAMS - STREAMS / 8);
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        from.run(work).expect("the host is there");
    }

    /// An upstream: it is silent, late, lies about the question or the number, sends rubbish, or asks its
    /// asker, each for a part of the names.
    fn upstream(&self, at: &Host) {
        let work = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
            let mut late: Vec<(Instant, Vec<u8>, SocketAddr)> = Vec::new();
            let mut bytes = [0; 4096];
            while self.goes_on() {
                late.retain(|(due, answer, to)| {
                    let now = *due <= Instant::now();
                    if now {
                        let _ = socket.send_to(answer, to);
                    }
                    !now
                });
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                let mut answer = bytes[..length].to_vec();
                if length < 14 || answer[2] & 0x80 != 0 {
                    continue;
                }
                let kind = answer[13] % 6;
                answer[2] |= 0x80;
                answer[3] = 0x83;
                let to_whom = match kind {
                    0 => continue,
                    1 => {
                        if late.len() < 10_000 {
                            late.push((Instant::now() + Duration::from_millis(1500), answer, from));
                        }
                        continue;
                    }
                    2 => {
                        answer[0] ^= 0x55;
                        from
                    }
                    3 => {
                        answer[14] ^= 1;
                        from
                    }
                    4 => {
                        answer.truncate(20);
                        from
                    }
                    // It asks whoever asked.
                    _ => {
                        answer[2] &= 0x7f;
                        answer[3] = 0;
                        self.server
                    }
                };
                let _ = socket.send_to(&answer, to_whom);
            }
        };
        at.run(work).expect("the host is there");
    }

    /// A client that behaves: how long each look-up took, and how many first tries were lost.
    fn behave(&self, from: &Host) -> (Vec<Duration>, usize) {
        let (mut took, mut again) = (Vec::new(), 0);
        while self.goes_on() {
            let begin = Instant::now();
            let mut tries = 0;
            loop {
                let answer = dns::ask(from, self.server, WEB, Type::A);
                if answer.as_ref().is_ok_and(|answer| answer.addresses.len() == 1) {
                    break;
                }
                again += usize::from(tries == 0);
                tries += 1;
                assert!(tries < TRIES, "a client that behaves is not served: {answer:?}");
            }
            took.push(begin.elapsed());
            std::thread::sleep(PACE);
        }
        took.sort_unstable();
        (took, again)
    }
}

/// A message that may be anything: a good question that was damaged, a name that leads to itself, a name
/// without an end, or rubbish of any length.
fn no_message(chance: &mut Chance, number: u64) -> Vec<u8> {
    let mut message = dns::query(number as u16, WEB, Type((chance.next() % 300) as u16));
    match number % 5 {
        0 => {
            let at = chance.next() as usize % message.len();
            message[at] ^= chance.next() as u8;
        }
        1 => message.truncate(chance.next() as usize % message.len()),
        2 => {
            message.truncate(12);
            message.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        }
        3 => {
            message.truncate(12);
            message.extend(std::iter::repeat_n([1, b'a'], 300).flatten());
        }
        _ => message = (0..chance.next() % 5000).map(|_| chance.next() as u8).collect(),
    }
    message
}

/// What the kernel says of a process' memory, in MB.
fn memory_mb(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).expect("a number") / 1024
}

#[test]
fn those_who_behave_are_served_and_memory_is_bounded() {
    let seconds = std::env::var("PORTOLAN_HOSTILE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let bench = Bench::new("nftables", 2);
    let [pod, upstream] = [&bench.backends[0], &bench.backends[1]];
    let corefile = format!(
        ".:53 {{\n    kubernetes cluster.local {{\n        manifests {}\n    }}\n    forward . {} {{\n        \
         max_concurrent 1000\n    }}\n    cache 30\n}}\n",
        bench.manifests.display(),
        upstream.ipv4()
    );
    let corefile = bench.file("Corefile", &corefile);
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["dns", "-conf"]).arg(corefile).stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = pod.spawn(&mut command).expect("it starts");
    let server = SocketAddr::new(pod.ipv4().into(), 53);
    bench.until("the server answers", |bench| dns::address(&bench.client, server, WEB).is_some());
    let id = program.child().id();
    let before_mb = memory_mb(id, "VmHWM:");
    let fire = Fire { server, stop: AtomicBool::new(false), sent: AtomicU64::new(0) };
    let outside = |chance: &mut Chance, number: u64| {
        dns::query(number as u16, &format!("x{:x}.victim.example", chance.next()), Type::A)
    };
    let inside = |chance: &mut Chance, number: u64| {
        dns::query(number as u16, &format!("x{:x}.shop.svc.cluster.local", chance.next()), Type::A)
    };
    let (took, again) = std::thread::scope(|scope| {
        scope.spawn(|| fire.upstream(upstream));
        scope.spawn(|| fire.flood(&bench.outside, 1, outside));
        scope.spawn(|| fire.flood(&bench.node, 2, inside));
        scope.spawn(|| fire.flood(&bench.outside, 3, no_message));
        scope.spawn(|| fire.dawdle(&bench.node));
        let behaves = scope.spawn(|| fire.behave(&bench.client));
        std::thread::sleep(Duration::from_secs(seconds));
        fire.stop.store(true, Ordering::SeqCst);
        behaves.join().expect("those who behave are served")
    });
    let peak_mb = memory_mb(id, "VmHWM:");
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!(
        "hostile seconds={seconds} messages={} behaved={} asked_again={again} p50_us={} p99_us={} max_us={} \
         rss_before_mb={before_mb} rss_peak_mb={peak_mb}",
        fire.sent.load(Ordering::Relaxed),
        took.len(),
        at(50).as_micros(),
        at(99).as_micros(),
        at(100).as_micros(),
    );
    assert!(peak_mb <= PEAK_MB_MAX, "{peak_mb} MB");
    // And afterwards it is as it was.
    assert!(dns::address(&bench.client, server, WEB).is_some());
    assert!(program.child().try_wait().expect("a child").is_none(), "it goes on");
}
