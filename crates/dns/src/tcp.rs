//! Streams: connections on the runtime, in the clear or in TLS. A client may ask many questions without
//! waiting, and answers go out as they are ready, in any order (RFC 7766 6.2.1.1). Connections that
//! carry HTTP begin and are bounded here, too; what goes on inside is [`crate::https`] and
//! [`crate::grpc`].
//!
//! What one connection can hold is bounded: questions that wait, bytes that are read ahead, and the
//! time without a question, for the rest of a question, and for taking an answer. There are only so
//! many connections; a new one beyond that takes the place of the one that has been silent longest.

use crate::answer::{Answered, at_desk};
use crate::corefile::Scheme;
use crate::exchange::{From, Transport};
use crate::secure::Inside;
use crate::setup::{Server, Timeouts};
use crate::{grpc, https};
use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections, in all.
const CONNECTIONS_MAX: usize = 2048;
/// Questions of one connection that wait for an answer.
const PIPELINE_MAX: usize = 128;
/// So much is read ahead of what is answered, of a client that sends so much at a time.
const READ_BYTES: usize = 4096;
/// And of others, so that an idle connection holds next to nothing.
const READ_BYTES_FIRST: usize = 256;
/// Answers are sent once there are so many bytes of them, or nothing more to do.
const WRITE_BYTES: usize = 8 * 1024;
/// So many times that may wait for a client that does not read.
const WRITES_MAX: usize = 2;
/// After an accept that failed for want of something (files, memory) we wait so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So long connections have to end once we are told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// For TLS to be agreed upon, whoever is slow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The listeners of one address and their connections.
pub(crate) struct Tcp {
    /// Where it listens, with the port that it was given.
    pub(crate) local: SocketAddr,
    listeners: Vec<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// The connections that there are.
pub(crate) struct Connections {
    all: Mutex<HashMap<u64, Arc<Connection>>>,
    last: AtomicU64,
    /// We are stopping: connections end as soon as nothing is owed.
    stopping: Notify,
    began: Instant,
}

/// One of them, as the others see it.
struct Connection {
    /// When it last asked something, in milliseconds of our own clock.
    asked_ms: AtomicU64,
    close: Notify,
}

/// A connection's place among the others, which it leaves in the end.
pub(crate) struct Place {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    number: u64,
}

impl Place {
    /// It has asked something.
    pub(crate) fn asked(&self) {
        self.connection.asked_ms.store(self.connections.now_ms(), Ordering::Relaxed);
    }

    /// Waits until the connection is to end, because we stop or because others want its place.
    pub(crate) async fn end(&self) {
        race(self.connections.stopping.notified(), self.connection.close.notified()).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
    }
}

impl Tcp {
    /// Begins to answer.
    pub(crate) fn start(
        scheme: Scheme,
        address: Option<IpAddr>,
        port: u16,
        foreign: bool,
        server: &Arc<ArcSwap<Server>>,
        runtime: &Handle,
    ) -> io::Result<Tcp> {
        let first = listen(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port, foreign)?;
        let local = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (mut sockets, port) = (vec![first], local.port());
        match address {
            Some(_) => {}
            None => match listen(Ipv6Addr::UNSPECIFIED.into(), port, false) {
                Ok(socket) => sockets.push(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(_) => {}
            },
        }
        let connections = Connections::new();
        let mut listeners = Vec::new();
        for socket in sockets {
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(socket.into())?;
            listeners.push(runtime.spawn(accept(scheme, listener, server.clone(), connections.clone())));
        }
        Ok(Tcp { local, listeners, connections })
    }

    /// Takes no more connections, and ends those there are when nothing is owed to them.
    pub(crate) async fn stop(self) {
        for listener in &self.listeners {
            listener.abort();
        }
        self.connections.end_all().await;
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

fn listen(address: IpAddr, port: u16, foreign: bool) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if foreign {
        crate::udp::allow_foreign(&socket, address.is_ipv6())?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

impl Connections {
    pub(crate) fn new() -> Arc<Connections> {
        Arc::new(Connections {
            all: Mutex::default(),
            last: AtomicU64::new(0),
            stopping: Notify::new(),
            began: Instant::now(),
        })
    }

    /// Ends all of them as soon as nothing is owed to them.
    pub(crate) async fn end_all(&self) {
        let end = tokio::time::Instant::now() + GRACE;
        while !self.lock().is_empty() && tokio::time::Instant::now() < end {
            self.stopping.notify_waiters();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and closes the one that has been silent longest when there are too many.
    pub(crate) fn add(self: &Arc<Self>, most: usize) -> Place {
        let connection =
            Arc::new(Connection { asked_ms: AtomicU64::new(self.now_ms()), close: Notify::new() });
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let mut all = self.lock();
        if all.len() >= most.min(CONNECTIONS_MAX) {
            let silent = all.iter().min_by_key(|(_, other)| other.asked_ms.load(Ordering::Relaxed));
            if let Some(number) = silent.map(|(number, _)| *number)
                && let Some(other) = all.remove(&number)
            {
                other.close.notify_one();
            }
        }
        all.insert(number, connection.clone());
        Place { connections: self.clone(), connection, number }
    }
}

async fn accept(
    scheme: Scheme,
    listener: TcpListener,
    server: Arc<ArcSwap<Server>>,
    connections: Arc<Connections>,
) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let limits = server.load().limits;
        let (transport, most) = match scheme {
            Scheme::Dns | Scheme::Quic => (Transport::Tcp, CONNECTIONS_MAX),
            Scheme::Tls => (Transport::Tls, CONNECTIONS_MAX),
            Scheme::Https | Scheme::Https3 => (Transport::Https, limits.https_connections),
            Scheme::Grpc => (Transport::Grpc, limits.grpc_connections),
        };
        let (server, place) = (server.clone(), connections.add(most));
        tokio::spawn(async move {
            // Answers are written whole, so waiting for more helps nobody.
            let _ = stream.set_nodelay(true);
            if let Ok(local) = stream.local_addr() {
                let from = From { client, local, transport };
                let visit = Visit { from, server, place };
                visit.begin(stream).await;
            }
        });
    }
}

/// A connection and all that there is to know about it.
pub(crate) struct Visit {
    /// Who asks.
    pub(crate) from: From,
    /// Who answers.
    pub(crate) server: Arc<ArcSwap<Server>>,
    /// Its place among the others.
    pub(crate) place: Place,
}

impl Visit {
    /// Serves it until it ends or is to end, in TLS if we are somebody.
    async fn begin(self, stream: TcpStream) {
        let inside = match self.from.transport {
            Transport::Https => Inside::Http,
            Transport::Grpc => Inside::Http2,
            _ => Inside::Framed,
        };
        let identity = self.server.load().identity.clone().filter(|_| self.from.transport != Transport::Tcp);
        let Some(config) = identity.and_then(|identity| identity.config(inside)) else {
            return match self.from.transport {
                Transport::Https => Box::pin(https::serve(stream, false, self)).await,
                Transport::Grpc => Box::pin(grpc::serve(stream, self)).await,
                _ => {
                    let (reader, writer) = stream.into_split();
                    serve(reader, writer, &self).await;
                }
            };
        };
        let agreeing = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
        let ending = async {
            self.place.end().await;
            Ok(Err(io::ErrorKind::ConnectionAborted.into()))
        };
        // Each in a box: the room that the largest of them takes is not held all the time.
        let Ok(Ok(stream)) = Box::pin(race(agreeing, ending)).await else { return };
        match self.from.transport {
            Transport::Https => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Box::pin(https::serve(stream, http2, self)).await;
            }
            Transport::Grpc => Box::pin(grpc::serve(stream, self)).await,
            _ => {
                let (reader, writer) = tokio::io::split(stream);
                Box::pin(serve(reader, writer, &self)).await;
            }
        }
    }
}

/// Serves messages behind their lengths.
async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    visit: &Visit,
) {
    let Visit { from, server, place } = visit;
    let (timeouts, limits) = {
        let server = server.load();
        (server.timeouts, server.limits)
    };
    let (answers, ready) = mpsc::channel(WRITES_MAX);
    let writer = tokio::spawn(write_all(writer, ready, timeouts));
    let mut asker = Asker {
        reader,
        from: *from,
        server,
        answers,
        waiting: Arc::new(Semaphore::new(PIPELINE_MAX)),
        timeouts,
        queries_left: limits.queries,
    };
    race(asker.read_all(&|| place.asked()), place.end()).await;
    // The writer ends when the last answer that is owed has been sent.
    drop(asker);
    let _ = writer.await;
}

/// Waits for whichever comes first.
pub(crate) async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    std::future::poll_fn(|context| match first.as_mut().poll(context) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(done),
        std::task::Poll::Pending => second.as_mut().poll(context),
    })
    .await
}

/// The reading half of a connection.
struct Asker<'s, R> {
    reader: R,
    from: From,
    server: &'s Arc<ArcSwap<Server>>,
    answers: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Semaphore>,
    timeouts: Timeouts,
    /// The connection ends after so many.
    queries_left: u64,
}

impl<R: AsyncRead + Unpin> Asker<'_, R> {
    /// Reads and answers questions until there are no more.
    async fn read_all(&mut self, asked: &(dyn Fn() + Sync)) {
        let mut buffer: Vec<u8> = Vec::new();
        let mut room = READ_BYTES_FIRST;
        loop {
            let patience = if buffer.is_empty() { self.timeouts.idle } else { self.timeouts.read };
            buffer.reserve(room);
            match timeout(patience, self.reader.read_buf(&mut buffer)).await {
                Ok(Ok(read @ 1..)) if read >= room => room = READ_BYTES,
                Ok(Ok(1..)) => room = READ_BYTES_FIRST,
                _ => return,
            }
            asked();
            let mut rest = buffer.as_slice();
            let mut out = Vec::new();
            while let Some((length, after)) = rest.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                let Some((message, after)) = after.split_at_checked(length) else { break };
                rest = after;
                if !self.answer(message, &mut out).await {
                    return;
                }
                self.queries_left = self.queries_left.saturating_sub(1);
                if self.queries_left == 0 {
                    let _ = self.answers.send(out).await;
                    return;
                }
                if out.len() >= WRITE_BYTES && self.answers.send(std::mem::take(&mut out)).await.is_err() {
                    return;
                }
            }
            if !out.is_empty() && self.answers.send(out).await.is_err() {
                return;
            }
            let used = buffer.len() - rest.len();
            buffer.drain(..used);
            if buffer.is_empty() {
                buffer = Vec::new();
            }
        }
    }

    /// Answers one question. False ends the connection.
    async fn answer(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let server = self.server.load_full();
        let (answered, silent) = at_desk(|desk| {
            let mut answer = Vec::new();
            let answered = desk.answer(message, self.from, Instant::now(), &server.routes, &mut answer);
            if matches!(answered, Answered::Now) {
                frame(&answer, out);
                desk.more(|message| frame(message, out));
            }
            (answered, desk.exchange.is_silent())
        });
        match answered {
            Answered::Now => {}
            // What is no question is no DNS, and what follows it hardly is.
            Answered::Never => return silent,
            Answered::Later(pending) => {
                let Ok(place) = self.waiting.clone().acquire_owned().await else { return false };
                let answers = self.answers.clone();
                tokio::spawn(async move {
                    let (mut answer, mut rest) = (Vec::new(), Vec::new());
                    if pending.wait_for_all(&mut answer, |message| frame(message, &mut rest)).await {
                        let mut framed = Vec::with_capacity(answer.len() + 2 + rest.len());
                        frame(&answer, &mut framed);
                        framed.append(&mut rest);
                        let _ = answers.send(framed).await;
                    }
                    drop(place);
                });
            }
        }
        true
    }
}

pub(crate) fn frame(answer: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(answer.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(answer.get(..usize::from(length)).unwrap_or_default());
}

/// Sends answers until there can be no more.
async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut ready: mpsc::Receiver<Vec<u8>>,
    timeouts: Timeouts,
) {
    while let Some(mut answers) = ready.recv().await {
        while answers.len() < WRITE_BYTES {
            let Ok(more) = ready.try_recv() else { break };
            answers.extend_from_slice(&more);
        }
        let written = async {
            writer.write_all(&answers).await?;
            writer.flush().await
        };
        match timeout(timeouts.write, written).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
    let _ = timeout(timeouts.write, writer.shutdown()).await;
}
