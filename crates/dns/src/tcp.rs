//! Streams: connections on the runtime. A client may ask many questions without waiting, and answers
//! go out as they are ready, in any order (RFC 7766 6.2.1.1).
//!
//! What one connection can hold is bounded: questions that wait, bytes that are read ahead, and the
//! time without a question, for the rest of a question, and for taking an answer. There are only so
//! many connections; a new one beyond that takes the place of the one that has been silent longest.

use crate::answer::{Answered, Desk};
use crate::exchange::{From, Transport};
use crate::setup::{Server, Timeouts};
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

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections, in all.
const CONNECTIONS_MAX: usize = 2048;
/// Questions of one connection that wait for an answer.
const PIPELINE_MAX: usize = 128;
/// So much is read ahead of what is answered.
const READ_BYTES: usize = 4096;
/// Answers are sent once there are so many bytes of them, or nothing more to do.
const WRITE_BYTES: usize = 8 * 1024;
/// So many times that may wait for a client that does not read.
const WRITES_MAX: usize = 2;
/// After an accept that failed for want of something (files, memory) we wait so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So long connections have to end once we are told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// The listeners of one address and their connections.
pub(crate) struct Tcp {
    listeners: Vec<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// The connections that there are.
#[derive(Default)]
struct Connections {
    all: Mutex<HashMap<u64, Arc<Connection>>>,
    last: AtomicU64,
    /// We are stopping: connections end as soon as nothing is owed.
    stopping: Notify,
}

/// One of them, as the others see it.
struct Connection {
    /// When it last asked something, in milliseconds of our own clock.
    asked_ms: AtomicU64,
    close: Notify,
}

impl Tcp {
    /// Begins to answer.
    pub(crate) fn start(
        address: Option<IpAddr>,
        port: u16,
        server: &Arc<ArcSwap<Server>>,
        runtime: &Handle,
    ) -> io::Result<Tcp> {
        let mut sockets = Vec::new();
        match address {
            Some(address) => sockets.push(listen(address, port)?),
            None => {
                sockets.push(listen(Ipv4Addr::UNSPECIFIED.into(), port)?);
                match listen(Ipv6Addr::UNSPECIFIED.into(), port) {
                    Ok(socket) => sockets.push(socket),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                    Err(_) => {}
                }
            }
        }
        let connections = Arc::new(Connections::default());
        let mut listeners = Vec::new();
        for socket in sockets {
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(socket.into())?;
            listeners.push(runtime.spawn(accept(listener, server.clone(), connections.clone())));
        }
        Ok(Tcp { listeners, connections })
    }

    /// Takes no more connections, and ends those there are when nothing is owed to them.
    pub(crate) async fn stop(self) {
        for listener in &self.listeners {
            listener.abort();
        }
        let end = tokio::time::Instant::now() + GRACE;
        while !self.connections.lock().is_empty() && tokio::time::Instant::now() < end {
            self.connections.stopping.notify_waiters();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

fn listen(address: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
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
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and closes the one that has been silent longest when there are too many.
    fn add(&self, now_ms: u64) -> (u64, Arc<Connection>) {
        let connection = Arc::new(Connection { asked_ms: AtomicU64::new(now_ms), close: Notify::new() });
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let mut all = self.lock();
        if all.len() >= CONNECTIONS_MAX {
            let silent = all.iter().min_by_key(|(_, other)| other.asked_ms.load(Ordering::Relaxed));
            if let Some(number) = silent.map(|(number, _)| *number)
                && let Some(other) = all.remove(&number)
            {
                other.close.notify_one();
            }
        }
        all.insert(number, connection.clone());
        (number, connection)
    }
}

async fn accept(listener: TcpListener, server: Arc<ArcSwap<Server>>, connections: Arc<Connections>) {
    let began = Instant::now();
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (number, connection) = connections.add(milliseconds(began));
        let (server, connections) = (server.clone(), connections.clone());
        tokio::spawn(async move {
            // Answers are written whole, so waiting for more helps nobody.
            let _ = stream.set_nodelay(true);
            if let Ok(local) = stream.local_addr() {
                let from = From { client, local, transport: Transport::Tcp };
                serve(stream, from, &server, &connections, &connection, began).await;
            }
            connections.lock().remove(&number);
        });
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Serves one connection until it ends or is to end.
async fn serve(
    stream: TcpStream,
    from: From,
    server: &Arc<ArcSwap<Server>>,
    connections: &Connections,
    connection: &Connection,
    began: Instant,
) {
    let (reader, writer) = stream.into_split();
    let timeouts = server.load().timeouts;
    let (answers, ready) = mpsc::channel(WRITES_MAX);
    let writer = tokio::spawn(write_all(writer, ready, timeouts));
    let mut asker = Asker {
        reader,
        from,
        server,
        answers,
        waiting: Arc::new(Semaphore::new(PIPELINE_MAX)),
        desk: Desk::new(Instant::now()),
        timeouts,
    };
    let asked = || connection.asked_ms.store(milliseconds(began), Ordering::Relaxed);
    let stopping = async {
        race(connections.stopping.notified(), connection.close.notified()).await;
    };
    race(asker.read_all(&asked), stopping).await;
    // The writer ends when the last answer that is owed has been sent.
    drop(asker);
    let _ = writer.await;
}

/// Waits for whichever comes first.
async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
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
    desk: Desk,
    timeouts: Timeouts,
}

impl<R: AsyncRead + Unpin> Asker<'_, R> {
    /// Reads and answers questions until there are no more.
    async fn read_all(&mut self, asked: &(dyn Fn() + Sync)) {
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let patience = if buffer.is_empty() { self.timeouts.idle } else { self.timeouts.read };
            buffer.reserve(READ_BYTES);
            match timeout(patience, self.reader.read_buf(&mut buffer)).await {
                Ok(Ok(1..)) => {}
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
                // An idle connection holds next to nothing.
                buffer = Vec::new();
            }
        }
    }

    /// Answers one question. False ends the connection.
    async fn answer(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let mut answer = Vec::new();
        let server = self.server.load_full();
        match self.desk.answer(message, self.from, Instant::now(), &server.routes, &mut answer) {
            Answered::Now => {
                frame(&answer, out);
                self.desk.more(|message| frame(message, out));
            }
            // What is no question is no DNS, and what follows it hardly is.
            Answered::Never => return self.desk.exchange.is_silent(),
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

fn frame(answer: &[u8], out: &mut Vec<u8>) {
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
        match timeout(timeouts.write, writer.write_all(&answers)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
    let _ = timeout(timeouts.write, writer.shutdown()).await;
}
