//! Connections of HTTP/2 as a server: many requests at once, each of which is read whole, answered and
//! written within a time. What is answered is not known here (`https`, `grpc`).
//!
//! Bounded: streams at once, work that goes on for streams that were reset, headers, bodies, time
//! without a request, and time for what we send to be taken.

use crate::tcp::{Visit, race};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, request};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// All headers of a request.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams of one connection, whatever is configured.
const STREAMS_MAX: u32 = 1024;
/// So much of an answer is copied ahead of what the client takes.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// So long a connection has to end once we are told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What is said to a request.
pub(crate) struct Said {
    /// Status and headers.
    pub(crate) head: Response<()>,
    /// What follows them.
    pub(crate) body: Vec<u8>,
    /// What follows that.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Who answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// The longest body that is read.
    const BODY_BYTES_MAX: usize;

    /// Answers a request, whose body is `None` where it was too long.
    fn answer(
        &self,
        visit: &Visit,
        head: &request::Parts,
        body: Option<Vec<u8>>,
    ) -> impl Future<Output = Said> + Send;
}

/// A request and the means to answer it.
type Came = (http::Request<RecvStream>, SendResponse<Bytes>);

enum Event {
    /// A request.
    Came(Box<Came>),
    /// The connection has ended.
    Over,
    /// There was no request for long.
    Silence,
    /// We are to end.
    Told,
}

/// Serves a connection until it ends or is to end.
pub(crate) async fn serve<A: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    visit: Visit,
    streams: u32,
    service: A,
) {
    let timeouts = visit.server.load().timeouts;
    let streams = streams.min(STREAMS_MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    let agreeing = async { timeout(timeouts.read, builder.handshake(stream)).await.ok()?.ok() };
    let ending = async {
        visit.place.end().await;
        None
    };
    let Some(mut connection) = race(agreeing, ending).await else { return };
    let shared = Arc::new((visit, service));
    // A stream that was reset counts no more for the client, but until its work ends for us.
    let places = 2 * streams as usize;
    let under_way = Arc::new(Semaphore::new(places));
    let mut end: Option<Instant> = None;
    loop {
        let patience = end.map_or(timeouts.idle, |end| end.saturating_duration_since(Instant::now()));
        match next(&mut connection, &shared.0, patience, end.is_some()).await {
            Event::Over => return,
            Event::Came(came) => {
                shared.0.place.asked();
                let (request, mut respond) = *came;
                match under_way.clone().try_acquire_owned() {
                    Err(_) => respond.send_reset(Reason::REFUSED_STREAM),
                    Ok(place) => {
                        let shared = shared.clone();
                        tokio::spawn(async move {
                            answer(request, respond, &shared.0, &shared.1).await;
                            drop(place);
                        });
                    }
                }
            }
            Event::Silence if end.is_some() => return,
            Event::Silence if under_way.available_permits() < places => {}
            Event::Silence => {
                connection.graceful_shutdown();
                end = Some(Instant::now() + timeouts.write);
            }
            Event::Told => {
                connection.graceful_shutdown();
                end = Some(Instant::now() + GRACE);
            }
        }
    }
}

/// What happens next. A connection that is ending already is not told so again.
async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::server::Connection<S, Bytes>,
    visit: &Visit,
    patience: Duration,
    is_ending: bool,
) -> Event {
    let coming = async {
        match timeout(patience, connection.accept()).await {
            Ok(Some(Ok(came))) => Event::Came(Box::new(came)),
            Ok(_) => Event::Over,
            Err(_) => Event::Silence,
        }
    };
    if is_ending {
        return coming.await;
    }
    let told = async {
        visit.place.end().await;
        Event::Told
    };
    race(coming, told).await
}

async fn answer<A: Service>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    visit: &Visit,
    service: &A,
) {
    let timeouts = visit.server.load().timeouts;
    let (head, body) = request.into_parts();
    let body = match timeout(timeouts.read, read(body, A::BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return,
        Err(_) => return respond.send_reset(Reason::CANCEL),
    };
    let reset = std::future::poll_fn(|context| respond.poll_reset(context));
    let reset = async {
        let _ = reset.await;
        None
    };
    let Some(said) = race(async { Some(service.answer(visit, &head, body).await) }, reset).await else {
        return;
    };
    let Said { head, body, trailers } = said;
    let alone = body.is_empty() && trailers.is_none();
    let Ok(mut stream) = respond.send_response(head, alone) else { return };
    if alone {
        return;
    }
    match timeout(timeouts.write, write(&mut stream, body.into(), trailers)).await {
        // The client is gone, or has what it wanted.
        Ok(_) => {}
        Err(_) => stream.send_reset(Reason::CANCEL),
    }
}

/// Reads a body; nothing of one that is too long.
async fn read(mut body: RecvStream, most: usize) -> Result<Option<Vec<u8>>, h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        if all.len() + part.len() > most {
            return Ok(None);
        }
        all.extend_from_slice(&part);
    }
    Ok(Some(all))
}

async fn write(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => {
                let part = body.split_to(capacity?.min(body.len()));
                stream.send_data(part, body.is_empty() && trailers.is_none())?;
            }
            None => return Ok(()),
        }
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => Ok(()),
    }
}
