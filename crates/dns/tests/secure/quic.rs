//! QUIC.

use super::{IMPATIENT, LINES, Server, framed, good, query, run};
use dns::instance::Event;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A socket of a client.
fn endpoint(server: &Server) -> quinn::Endpoint {
    let client = server.client(None, &[b"doq"]);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client).expect("a configuration");
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// A connection of QUIC.
async fn quic(server: &Server) -> quinn::Connection {
    endpoint(server).connect(server.address, "dns.test").expect("a name").await.expect("agreed")
}

/// Sends bytes on a stream, and gives what comes back.
async fn exchange(connection: &quinn::Connection, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    send.write_all(bytes).await.ok()?;
    send.finish().ok()?;
    receive.read_to_end(70_000).await.ok()
}

#[test]
fn questions_by_quic() {
    let server =
        Server::new("quic", "quic", &format!("{LINES}\nquic {{\nmax_streams 4\nworker_pool_size 2\n}}"));
    run(async {
        let connection = quic(&server).await;
        // More at once than the server allows: they wait for their turn.
        let asking: Vec<_> = (0..40)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move { exchange(&connection, &framed(&query(0, "a.test"))).await })
            })
            .collect();
        for asking in asking {
            let answer = asking.await.expect("it ends").expect("an answer");
            assert_eq!(good(&answer[2..]), 0);
            assert_eq!(usize::from(u16::from_be_bytes([answer[0], answer[1]])), answer.len() - 2);
        }
    });
}

#[test]
fn what_quic_does_not_allow_ends_the_connection() {
    let server = Server::new("quic-errors", "quic", LINES);
    let mut keepalive = query(0, "a.test");
    keepalive[11] = 1;
    keepalive.extend([0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    let mut answer = query(0, "a.test");
    answer[2] |= 0x80;
    run(async {
        for bytes in [
            framed(&query(1, "a.test")),
            framed(&keepalive),
            framed(&answer),
            framed(&query(0, "a.test"))[..20].to_vec(),
            vec![0, 0],
        ] {
            let connection = quic(&server).await;
            assert_eq!(exchange(&connection, &bytes).await, None, "{bytes:?}");
            let error = connection.closed().await;
            let quinn::ConnectionError::ApplicationClosed(closed) = error else { panic!("{error}") };
            assert_eq!(closed.error_code, quinn::VarInt::from_u32(2), "{bytes:?}");
        }
    });
}

#[test]
fn a_quic_connection_outlives_a_reload_and_ends_with_the_server() {
    let server = Server::new("quic-reload", "quic", LINES);
    run(async {
        let connection = quic(&server).await;
        let ask = framed(&query(0, "a.test"));
        assert!(exchange(&connection, &ask).await.is_some());
        server.reload();
        assert!(exchange(&connection, &ask).await.is_some());
        assert!(exchange(&quic(&server).await, &ask).await.is_some());
        server.events.send(Event::StopNow).expect("it listens");
        let error = connection.closed().await;
        let quinn::ConnectionError::ApplicationClosed(closed) = error else { panic!("{error}") };
        assert_eq!(closed.error_code, quinn::VarInt::from_u32(0));
    });
}

#[test]
fn a_question_that_does_not_come_whole_ends_a_quic_connection() {
    let server = Server::new("slow-quic", "quic", &format!("{LINES}\n{IMPATIENT}"));
    run(async {
        let connection = quic(&server).await;
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&framed(&query(0, "a.test"))[..20]).await.expect("sent");
        let error = connection.closed().await;
        let (quinn::ConnectionError::ApplicationClosed(_) | quinn::ConnectionError::TimedOut) = error else {
            panic!("{error}")
        };
    });
}

#[test]
fn of_many_quic_connections_the_silent_make_place() {
    let server = Server::new("quic-many", "quic", &format!("{LINES}\ntimeouts {{\nidle 5m\n}}"));
    run(async {
        let endpoint = endpoint(&server);
        let ask = framed(&query(0, "a.test"));
        let mut all = Vec::new();
        // Beyond a hundred, who comes has to show first that it hears us.
        for _ in 0..201 {
            let connection =
                endpoint.connect(server.address, "dns.test").expect("a name").await.expect("agreed");
            assert!(exchange(&connection, &ask).await.is_some());
            all.push(connection);
        }
        let error = all[0].closed().await;
        assert!(matches!(error, quinn::ConnectionError::ApplicationClosed(_)), "{error}");
        for connection in &all[190..] {
            assert!(exchange(connection, &ask).await.is_some());
        }
    });
}
