//! For the tests of plugins: a server from a Corefile that is asked without a network, and an
//! upstream server on the loopback that does as it is told.

use crate::chain::Routes;
use crate::cluster::NoClusters;
use crate::corefile::{Surroundings, parse};
use crate::exchange::{Exchange, From, Transport};
use crate::setup::{Configuration, World, set_up};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::{Asked, Compressor, Envelope, Owner, Rcode, Record, Reply, Section, Type, flags};

/// No files and no environment.
pub(crate) struct Nothing;

impl Surroundings for Nothing {
    fn find(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn read(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// A server.
pub(crate) struct Bench {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) world: World,
    pub(crate) configuration: Configuration,
    clock: Mutex<Instant>,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The error of a Corefile of one block for the root with these lines.
pub(crate) fn refused(lines: &str) -> String {
    match Bench::try_new(&format!(". {{\n{lines}\n}}")) {
        Ok(_) => panic!("understood: {lines}"),
        Err(error) => error,
    }
}

impl Bench {
    /// A server with this Corefile.
    pub(crate) fn new(corefile: &str) -> Bench {
        Bench::try_new(corefile).unwrap()
    }

    pub(crate) fn try_new(corefile: &str) -> Result<Bench, String> {
        let runtime = runtime();
        let world = World::new(Arc::new(NoClusters), 53, runtime.handle().clone());
        let blocks = parse("Corefile", corefile, &Nothing).map_err(|error| error.to_string())?;
        let configuration = set_up(&blocks, &world).map_err(|error| error.to_string())?;
        for plugin in &configuration.process.plugins {
            let _guard = runtime.enter();
            plugin.clone().start();
        }
        Ok(Bench { runtime, world, configuration, clock: Mutex::new(Instant::now()) })
    }

    /// A server with one block for the root, with these lines.
    pub(crate) fn of(lines: &str) -> Bench {
        Bench::new(&format!(". {{\n{lines}\n}}"))
    }

    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.configuration.servers.values().next().unwrap().routes
    }

    /// From now on questions come so much later.
    pub(crate) fn pass_time(&self, time: Duration) {
        *self.clock.lock().unwrap() += time;
    }

    /// Asks a question from an address; words behind name and type: `do`, `cd`, `ad`, `tcp`, `edns`, `ch`.
    pub(crate) fn exchange_from(&self, client: &str, question: &str) -> Exchange {
        let mut words = question.split_whitespace();
        let name = words.next().unwrap().parse().unwrap();
        let rtype = words.next().unwrap().parse().unwrap();
        let mut query = Asked::of_question(name, rtype);
        let mut transport = Transport::Udp;
        let mut edns = None;
        for word in words {
            match word {
                "do" => edns = Some((1232, true)),
                "edns" => edns = Some((1232, false)),
                "nsid" => edns = Some((1232, false)),
                "cd" => query.flags |= flags::CD,
                "ad" => query.flags |= flags::AD,
                "norec" => query.flags &= !flags::RD,
                "tcp" => transport = Transport::Tcp,
                "ch" => query.question.class = wire::Class::CH,
                other => panic!("{other}"),
            }
        }
        let reply = Reply::default();
        let mut envelope = Envelope::of(&query, true);
        envelope.id = 4711;
        envelope.edns = edns;
        let mut bytes = Vec::new();
        let mut reply_options = reply;
        if question.ends_with("nsid") {
            reply_options.options = vec![0, 3, 0, 0];
        }
        reply_options.encode(&envelope, &mut Compressor::default(), &mut bytes);
        let flags = query.flags.to_be_bytes();
        bytes[2..4].copy_from_slice(&flags);
        let now = *self.clock.lock().unwrap();
        let mut exchange = Exchange::new(now);
        exchange.asked.read(&bytes).unwrap();
        let client = SocketAddr::new(client.parse().unwrap(), 1234);
        let local = SocketAddr::from(([127, 0, 0, 1], 53));
        exchange.begin(From { client, local, transport }, now);
        let routes = self.routes();
        self.runtime.block_on(async {
            if let (Some(chain), progress) = routes.answer(&mut exchange) {
                let chain = chain.clone();
                routes.finish(&chain, &mut exchange, progress).await;
            }
        });
        exchange
    }

    /// Asks, and shows the answer.
    pub(crate) fn ask(&self, question: &str) -> String {
        shown(&self.exchange_from("10.240.0.1", question))
    }

    /// Asks from an address, and shows the answer.
    pub(crate) fn ask_from(&self, client: &str, question: &str) -> String {
        shown(&self.exchange_from(client, question))
    }

    /// The line of a metric.
    pub(crate) fn metric(&self, start: &str) -> String {
        let all = self.world.metrics.collect();
        let line = all.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }
}

/// An answer on one line: code, flags, answers, `|` authorities `|` additional records.
pub(crate) fn shown(exchange: &Exchange) -> String {
    if exchange.is_silent() {
        return "silence".into();
    }
    let reply = &exchange.reply;
    let mut text = reply.rcode.to_string();
    for (on, word) in [
        (reply.authoritative, " aa"),
        (reply.truncated, " tc"),
        (reply.recursion_available, " ra"),
        (reply.authentic, " ad"),
    ] {
        text.push_str(if on { word } else { "" });
    }
    for (section, separator) in Section::ALL.into_iter().zip([" ", " | ", " |+ "]) {
        let name = &exchange.original.name;
        let show = |record: &Record| reply.show(record, name).to_string();
        let records: Vec<String> = reply.section(section).map(show).collect();
        if !records.is_empty() {
            text.push_str(separator);
            text.push_str(&records.join("; "));
        }
    }
    text
}

/// What an upstream does with a query.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answers with a code and addresses.
    Answer(Rcode, Vec<[u8; 4]>),
    /// Answers with these records, given as (section, type, ttl, data), all owned by the question.
    Records(Rcode, Vec<(Section, Type, u32, Vec<u8>)>),
    /// Says nothing.
    Silence,
    /// Answers, but with another number, before it answers truly.
    WrongId,
    /// Answers another question, and then nothing.
    WrongQuestion,
    /// Says that the answer is too large for a datagram.
    Truncated,
    /// Sends half a message.
    Garbage,
    /// Waits before it answers.
    Slow(Duration),
    /// Closes the connection.
    Close,
}

type Script = Arc<dyn Fn(&Asked, bool) -> Act + Send + Sync>;

/// An upstream server.
pub(crate) struct Told {
    pub(crate) address: SocketAddr,
    /// All questions, in order: `udp name TYPE`.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    /// Connections that were made.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Ports that datagrams came from.
    pub(crate) ports: Arc<Mutex<std::collections::BTreeSet<u16>>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Told {
    /// One that does what the function says, which is told whether the query came by stream.
    pub(crate) fn new(script: impl Fn(&Asked, bool) -> Act + Send + Sync + 'static) -> Told {
        // Both protocols want the same port.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let told = Told {
            address: udp.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            ports: Arc::default(),
            stop: Arc::default(),
        };
        let script: Script = Arc::new(script);
        told.serve_udp(udp, script.clone());
        told.serve_tcp(tcp, script);
        told
    }

    /// One that answers everything with 10.0.0.1.
    pub(crate) fn good() -> Told {
        Told::new(|_, _| Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, 1]]))
    }

    pub(crate) fn questions(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn serve_udp(&self, socket: UdpSocket, script: Script) {
        let (seen, stop, ports) = (self.seen.clone(), self.stop.clone(), self.ports.clone());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let socket = Arc::new(socket);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((size, client)) = socket.recv_from(&mut bytes) else { continue };
                ports.lock().unwrap().insert(client.port());
                let (socket, query) = (socket.clone(), bytes[..size].to_vec());
                let act = said(&seen, &query, false, &script);
                // Slow answers must not hold up others.
                std::thread::spawn(move || {
                    for answer in answers(&query, act) {
                        let _ = socket.send_to(&answer, client);
                    }
                });
            }
        });
    }

    fn serve_tcp(&self, listener: TcpListener, script: Script) {
        let (seen, stop, connections) = (self.seen.clone(), self.stop.clone(), self.connections.clone());
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                connections.fetch_add(1, Ordering::Relaxed);
                let (seen, script) = (seen.clone(), script.clone());
                std::thread::spawn(move || serve_stream(stream, &seen, &script));
            }
        });
    }
}

fn serve_stream(mut stream: TcpStream, seen: &Mutex<Vec<String>>, script: &Script) {
    stream.set_nonblocking(false).unwrap();
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let act = said(seen, &query, true, script);
        if matches!(act, Act::Close) {
            return;
        }
        for answer in answers(&query, act) {
            let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
            framed.extend(answer);
            let _ = stream.write_all(&framed);
        }
    }
}

fn said(seen: &Mutex<Vec<String>>, query: &[u8], stream: bool, script: &Script) -> Act {
    let mut asked = Asked::default();
    if asked.read(query).is_err() {
        return Act::Silence;
    }
    let how = if stream { "tcp" } else { "udp" };
    seen.lock().unwrap().push(format!("{how} {} {}", asked.question.name, asked.question.rtype));
    script(&asked, stream)
}

/// What goes out for a query.
fn answers(query: &[u8], act: Act) -> Vec<Vec<u8>> {
    let mut asked = Asked::default();
    if asked.read(query).is_err() {
        return Vec::new();
    }
    let good =
        |asked: &Asked| encoded(asked, Rcode::NOERROR, &[(Section::Answer, Type::A, 30, vec![10, 0, 0, 1])]);
    match act {
        Act::Silence | Act::Close => Vec::new(),
        Act::Answer(rcode, addresses) => {
            let records: Vec<_> =
                addresses.iter().map(|ip| (Section::Answer, Type::A, 30, ip.to_vec())).collect();
            vec![encoded(&asked, rcode, &records)]
        }
        Act::Records(rcode, records) => vec![encoded(&asked, rcode, &records)],
        Act::WrongId => {
            let mut other = asked.clone();
            other.id = !asked.id;
            vec![encoded(&other, Rcode::NXDOMAIN, &[]), good(&asked)]
        }
        Act::WrongQuestion => {
            let mut other = asked.clone();
            other.question.name = "evil.example".parse().unwrap();
            vec![good(&other)]
        }
        Act::Truncated => {
            let mut bytes = encoded(&asked, Rcode::NOERROR, &[]);
            bytes[2] |= 0x02;
            vec![bytes]
        }
        Act::Garbage => {
            let mut bytes = good(&asked);
            bytes.truncate(bytes.len() - 7);
            vec![bytes]
        }
        Act::Slow(time) => {
            std::thread::sleep(time);
            vec![good(&asked)]
        }
    }
}

fn encoded(asked: &Asked, rcode: Rcode, records: &[(Section, Type, u32, Vec<u8>)]) -> Vec<u8> {
    let mut reply = Reply::default();
    (reply.rcode, reply.recursion_available) = (rcode, true);
    for (section, rtype, ttl, data) in records {
        reply.push(*section, Owner::QUESTION, *rtype, *ttl, data);
    }
    let mut bytes = Vec::new();
    reply.encode(&Envelope::of(asked, true), &mut Compressor::default(), &mut bytes);
    bytes
}

/// The data of a SOA record.
pub(crate) fn soa(minimum: u32) -> Vec<u8> {
    let mut data = b"\x02ns\x00\x04root\x00".to_vec();
    for number in [1, 7200, 1800, 86400, minimum] {
        data.extend(u32::to_be_bytes(number));
    }
    data
}

/// A directory that goes away.
pub(crate) struct Scratch(PathBuf);

/// A new directory.
pub(crate) fn scratch(name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("portolan-dns-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

impl Scratch {
    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Writes a file, so that a reader sees the old or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let (new, path) = (self.0.join(".new"), self.0.join(name));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
