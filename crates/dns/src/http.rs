//! Pages over HTTP/1.1, as much of it as kubelet, Prometheus and curl need: GET, one question a
//! connection.

use crate::secure::{Identity, Inside};
use crate::web::{EVERYWHERE, Page, Said};
use arc_swap::{ArcSwap, ArcSwapOption};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// The longest request, headers and all.
const REQUEST_BYTES_MAX: usize = 8192;
/// So many are served at once; others wait.
const CONNECTIONS_MAX: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// So long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pages of one address, by their paths.
pub(crate) type Pages = BTreeMap<&'static str, Page>;

/// One address.
pub(crate) struct Http {
    pages: Arc<ArcSwap<Pages>>,
    identity: Arc<ArcSwapOption<Identity>>,
    task: JoinHandle<()>,
}

impl Http {
    /// Begins to serve.
    pub(crate) fn start(
        address: SocketAddr,
        pages: Pages,
        identity: Option<Arc<Identity>>,
        runtime: &Handle,
    ) -> io::Result<Http> {
        let socket = listen(address)?;
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(socket.into())?;
        let pages = Arc::new(ArcSwap::from_pointee(pages));
        let identity = Arc::new(ArcSwapOption::new(identity));
        let task = runtime.spawn(accept(listener, pages.clone(), identity.clone()));
        Ok(Http { pages, identity, task })
    }

    /// Other pages from now on, and who we are, if they are encrypted.
    pub(crate) fn set(&self, pages: Pages, identity: Option<Arc<Identity>>) {
        self.pages.store(Arc::new(pages));
        self.identity.store(identity);
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Everywhere is both families, where the kernel has both.
fn listen(address: SocketAddr) -> io::Result<Socket> {
    let both =
        (address.ip() == EVERYWHERE).then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port()));
    let open = |address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    match both.map(open) {
        Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Some(Ok(socket)) => Ok(socket),
        _ => open(address),
    }
}

async fn accept(listener: TcpListener, pages: Arc<ArcSwap<Pages>>, identity: Arc<ArcSwapOption<Identity>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.load_full();
                let config = identity.load().as_ref().and_then(|identity| identity.config(Inside::Http1));
                tokio::spawn(async move {
                    let serving = async {
                        match config {
                            None => serve(stream, &pages).await,
                            Some(config) => {
                                serve(TlsAcceptor::from(config).accept(stream).await?, &pages).await
                            }
                        }
                    };
                    let _ = timeout(PATIENCE, serving).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, pages: &Pages) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let more = stream.read_buf(&mut request).await?;
        if more == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
    }
    let said = answer(&request, pages);
    let head = said.status != 0 && request.starts_with(b"HEAD ");
    let reason = match said.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let Said { status, content_type, body } = &said;
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head {
        text.push_str(body);
    }
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    stream.shutdown().await
}

fn answer(request: &[u8], pages: &Pages) -> Said {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !matches!(method, "GET" | "HEAD") {
        return Said::text(405, "only GET and HEAD\n");
    }
    let path = target.split('?').next().unwrap_or_default();
    match pages.get(path) {
        Some(page) => (page.say)(),
        None => Said::text(404, "404 page not found\n"),
    }
}
