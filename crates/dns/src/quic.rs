//! DNS over QUIC (RFC 9250): a stream for each question, on connections of the runtime.
//!
//! Bounded: connections, of which the one that has been silent longest makes place; streams of a
//! connection, and questions of all together; bytes that either side may have under way; the time
//! for a question to come whole, for an answer to be taken, and without a question. An address
//! that has not shown that it hears us gets no more than three times what it sent (RFC 9000 8.1),
//! and has to show it first when there are many. Early data (0-RTT) is not taken: it can be
//! replayed.

use crate::answer::answer_wholly;
use crate::exchange::{From, Transport};
use crate::secure::Inside;
use crate::setup::Server;
use crate::tcp::{Connections, Place, race};
use arc_swap::ArcSwap;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Asked, Refusal};

/// Connections, in all (CoreDNS' `DefaultQUICMaxConnections`).
const CONNECTIONS_MAX: usize = 200;
/// With so many, new ones have to show first that they hear us.
const CONNECTIONS_EASY: usize = CONNECTIONS_MAX / 2;
/// For a connection to be agreed upon.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What one stream may send before it is read: a question.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024 + 2;
/// The same for all streams of a connection, and what we keep for it until it has been taken.
const WINDOW_BYTES: u32 = 256 * 1024;
/// The EDNS option of RFC 7828, which has no place here (RFC 9250 5.5.2).
const TCP_KEEPALIVE: u16 = 11;

/// Codes with which connections end (RFC 9250 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    NoError = 0,
    ProtocolError = 2,
    ExcessiveLoad = 4,
}

impl Code {
    fn number(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// As CoreDNS' metrics call it.
    fn label(self) -> &'static str {
        match self {
            Code::NoError => "0x0",
            Code::ProtocolError => "0x2",
            Code::ExcessiveLoad => "0x4",
        }
    }
}

/// The sockets of one address and their connections.
pub(crate) struct Quic {
    /// Where it listens, with the port that it was given.
    pub(crate) local: SocketAddr,
    endpoints: Vec<Endpoint>,
    tasks: Vec<JoinHandle<()>>,
    connections: Arc<Connections>,
}

impl Quic {
    /// Begins to answer.
    pub(crate) fn start(
        address: Option<IpAddr>,
        port: u16,
        server: &Arc<ArcSwap<Server>>,
        runtime: &Handle,
    ) -> io::Result<Quic> {
        let first = open(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port)?;
        let local = first.local_addr()?;
        let mut sockets = vec![first];
        if address.is_none() {
            match open(Ipv6Addr::UNSPECIFIED.into(), local.port()) {
                Ok(socket) => sockets.push(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                // Kernels without IPv6 are none the worse.
                Err(_) => {}
            }
        }
        let _inside = runtime.enter();
        let connections = Connections::new();
        let workers = Arc::new(Semaphore::new(server.load().limits.quic_workers.min(Semaphore::MAX_PERMITS)));
        let (mut endpoints, mut tasks) = (Vec::new(), Vec::new());
        for socket in sockets {
            let config = server_config(&server.load())?;
            let endpoint =
                Endpoint::new(Default::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))?;
            let door = Door {
                endpoint: endpoint.clone(),
                local,
                server: server.clone(),
                connections: connections.clone(),
                workers: workers.clone(),
            };
            tasks.push(runtime.spawn(door.accept_all()));
            endpoints.push(endpoint);
        }
        Ok(Quic { local, endpoints, tasks, connections })
    }

    /// Takes no more connections, and ends those there are when nothing is owed to them.
    pub(crate) async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.connections.end_all().await;
        for endpoint in &self.endpoints {
            endpoint.close(Code::NoError.number(), &[]);
        }
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn open(address: IpAddr, port: u16) -> io::Result<std::net::UdpSocket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What connections begin with from now on.
fn server_config(server: &Server) -> io::Result<quinn::ServerConfig> {
    let identity = server.identity.as_ref().and_then(|identity| identity.config(Inside::Quic));
    let identity = identity.ok_or_else(|| io::Error::other("there is no certificate"))?;
    let crypto = QuicServerConfig::try_from(identity).map_err(io::Error::other)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(server.limits.quic_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(server.timeouts.idle.try_into().ok());
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// One socket's way in.
struct Door {
    endpoint: Endpoint,
    local: SocketAddr,
    server: Arc<ArcSwap<Server>>,
    connections: Arc<Connections>,
    workers: Arc<Semaphore>,
}

impl Door {
    async fn accept_all(self) {
        let mut known: Option<Known> = None;
        while let Some(incoming) = self.endpoint.accept().await {
            if self.connections.count() >= CONNECTIONS_EASY && !incoming.remote_address_validated() {
                // It fails only for who has shown it.
                let _ = incoming.retry();
                continue;
            }
            let server = self.server.load_full();
            if !known.as_ref().is_some_and(|known| known.is_of(&server)) {
                known = Known::of(&server);
            }
            let Some(known) = &known else {
                incoming.refuse();
                continue;
            };
            let visit = Arc::new(Visit {
                local: self.local,
                server: self.server.clone(),
                place: self.connections.add(CONNECTIONS_MAX),
                workers: self.workers.clone(),
            });
            tokio::spawn(begin(incoming, known.config.clone(), visit));
        }
    }
}

/// What connections begin with, and what that was made of.
struct Known {
    server: Arc<Server>,
    identity: Arc<rustls::ServerConfig>,
    config: Arc<quinn::ServerConfig>,
}

impl Known {
    fn of(server: &Arc<Server>) -> Option<Known> {
        let identity = server.identity.as_ref()?.config(Inside::Quic)?;
        let config = server_config(server).ok()?.into();
        Some(Known { server: server.clone(), identity, config })
    }

    fn is_of(&self, server: &Arc<Server>) -> bool {
        let identity = server.identity.as_ref().and_then(|identity| identity.config(Inside::Quic));
        Arc::ptr_eq(&self.server, server)
            && identity.is_some_and(|identity| Arc::ptr_eq(&self.identity, &identity))
    }
}

/// A connection, and all that there is to know about it.
struct Visit {
    local: SocketAddr,
    server: Arc<ArcSwap<Server>>,
    place: Place,
    workers: Arc<Semaphore>,
}

async fn begin(incoming: Incoming, config: Arc<quinn::ServerConfig>, visit: Arc<Visit>) {
    let Ok(connecting) = incoming.accept_with(config) else { return };
    let ending = async {
        visit.place.end().await;
        None
    };
    let agreeing = async { timeout(HANDSHAKE_TIMEOUT, connecting).await.ok()?.ok() };
    let Some(connection) = race(agreeing, ending).await else { return };
    serve(connection, visit).await;
}

async fn serve(connection: Connection, visit: Arc<Visit>) {
    let streams = visit.server.load().limits.quic_streams;
    let places = Arc::new(Semaphore::new(streams as usize));
    loop {
        let ending = async {
            visit.place.end().await;
            None
        };
        let coming = async { connection.accept_bi().await.ok() };
        let Some((mut send, receive)) = race(coming, ending).await else { break };
        visit.place.asked();
        let working = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, visit.workers.clone().acquire_owned().await.ok()?))
        };
        let gone = async {
            connection.closed().await;
            None
        };
        let Some(working) = race(working, gone).await else { break };
        let (connection, visit) = (connection.clone(), visit.clone());
        tokio::spawn(async move {
            if let Err(code) = answer(&mut send, receive, &connection, &visit).await {
                count(&visit, code);
                connection.close(code.number(), &[]);
            }
            drop(working);
        });
    }
    // What was asked is answered first.
    let all = places.acquire_many(streams);
    race(async { drop(all.await) }, async { drop(connection.closed().await) }).await;
    connection.close(Code::NoError.number(), &[]);
}

/// Answers the question of a stream. An error ends the connection.
async fn answer(
    send: &mut SendStream,
    receive: RecvStream,
    connection: &Connection,
    visit: &Visit,
) -> Result<(), Code> {
    let server = visit.server.load_full();
    let query = match timeout(server.timeouts.read, read(receive)).await {
        Ok(Ok(query)) => query,
        Ok(Err(Some(code))) => return Err(code),
        Ok(Err(None)) => return Ok(()),
        // As CoreDNS does: a place for a question is not for waiting.
        Err(_) => return Err(Code::ExcessiveLoad),
    };
    let mut asked = Asked::default();
    let read = asked.read(&query);
    let keepalive = asked.edns().is_some_and(|edns| edns.options().any(|(code, _)| code == TCP_KEEPALIVE));
    if read == Err(Refusal::Ignore) || asked.id != 0 || keepalive {
        return Err(Code::ProtocolError);
    }
    let local = SocketAddr::new(connection.local_ip().unwrap_or(visit.local.ip()), visit.local.port());
    let from = From { client: connection.remote_address(), local, transport: Transport::Quic };
    let mut rest = Vec::new();
    let framed = |message: &[u8], out: &mut Vec<u8>| crate::tcp::frame(message, out);
    let answer = answer_wholly(&query, from, &server.routes, |message| framed(message, &mut rest)).await;
    let Some(answer) = answer else {
        // Nothing is said: the asker is to ask again elsewhere.
        let _ = send.reset(Code::NoError.number());
        return Ok(());
    };
    let mut out = Vec::with_capacity(answer.len() + 2 + rest.len());
    framed(&answer, &mut out);
    out.append(&mut rest);
    let writing = async {
        send.write_all(&out).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    if timeout(server.timeouts.write, writing).await.is_ok() {
        count(visit, Code::NoError);
    }
    Ok(())
}

/// Reads a question. An error without a code is a client that wants no answer any more.
async fn read(mut receive: RecvStream) -> Result<Vec<u8>, Option<Code>> {
    use quinn::ReadExactError::{FinishedEarly, ReadError};
    let wrong = |error| match error {
        FinishedEarly(_) => Some(Code::ProtocolError),
        ReadError(_) => None,
    };
    let mut length = [0; 2];
    receive.read_exact(&mut length).await.map_err(wrong)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    receive.read_exact(&mut query).await.map_err(wrong)?;
    Ok(query)
}

fn count(visit: &Visit, code: Code) {
    let server = visit.server.load();
    let labels = [("server", &*server.routes.server), ("status", code.label())];
    let help = "Counter of DoQ responses per server and QUIC application code.";
    server.metrics.counter("coredns_dns_quic_responses_total", help, &labels).count();
}
