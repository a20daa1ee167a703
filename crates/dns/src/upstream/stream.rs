//! A connection that carries messages behind their lengths (RFC 1035 4.2.2), plain or in TLS.

use super::{Carrier, Trouble};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use wire::HEADER_BYTES;

/// A connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, from an address of ours if one is given.
    pub(crate) async fn connect(
        to: SocketAddr,
        source: Option<IpAddr>,
        carrier: &Carrier,
    ) -> Result<Stream, Trouble> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(to).await?;
        // A query is one segment; there is nothing to wait for.
        stream.set_nodelay(true)?;
        match carrier {
            Carrier::Plain => Ok(Stream::Plain(stream)),
            Carrier::Tls(client) | Carrier::Https(client, _) => {
                Ok(Stream::Tls(Box::new(client.connect(stream).await?)))
            }
        }
    }

    /// Writes a message.
    pub(crate) async fn write_message(&mut self, message: &[u8]) -> Result<(), Trouble> {
        let length = u16::try_from(message.len()).map_err(|_| Trouble::Malformed)?;
        let mut framed = Vec::with_capacity(2 + message.len());
        framed.extend(length.to_be_bytes());
        framed.extend(message);
        self.write_all(&framed).await?;
        Ok(self.flush().await?)
    }

    /// Reads a message.
    pub(crate) async fn read_message(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut length = [0; 2];
        self.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length < HEADER_BYTES {
            return Err(Trouble::Malformed);
        }
        let mut message = vec![0; length];
        self.read_exact(&mut message).await?;
        Ok(message)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
