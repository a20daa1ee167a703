//! Encrypted transports as their clients meet them: TLS, HTTPS of both versions, gRPC and QUIC.

mod quic;

use bytes::Bytes;
use dns::cluster::NoClusters;
use dns::instance::{Event, Instance, Options, Source};
use http::{Method, Request};
use rcgen::{CertificateParams, CertifiedIssuer, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::{Header, Name, Type, flags};

/// Longer than anything here takes, so that what never comes is told from what comes late.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with certificates of its own, all of which end with the test.
struct Server {
    address: SocketAddr,
    directory: PathBuf,
    events: SyncSender<Event>,
    thread: Option<JoinHandle<()>>,
}

/// An authority, which has signed `server.pem`, `other.pem` and `client.pem`.
fn write_certificates(directory: &std::path::Path) {
    std::fs::create_dir_all(directory).expect("a directory");
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).expect("written");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
    write("ca.pem", authority.pem());
    let issuer: &Issuer<'_, _> = &authority;
    for name in ["server", "other", "client"] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["dns.test".into(), name.to_owned()]).expect("parameters");
        write(&format!("{name}.pem"), params.signed_by(&key, issuer).expect("signed").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

impl Server {
    /// One with the lines of a block for the root, in this transport.
    fn new(name: &str, scheme: &str, lines: &str) -> Server {
        let directory = std::env::temp_dir().join(format!("portolan-secure-{name}-{}", std::process::id()));
        write_certificates(&directory);
        let root = directory.display();
        let text = format!("{scheme}://.:0 {{\nbind 127.0.0.1\nroot {root}\n{lines}\n}}\n");
        let corefile = Source::Text("Corefile", text);
        let options = Options { dns_port: 0, quiet: true, ..Options::new(corefile, Arc::new(NoClusters)) };
        let instance = Instance::start(options).expect("it starts");
        let address = *instance.addresses().first().expect("an address");
        let (events, receiver) = sync_channel(16);
        let thread = std::thread::spawn(move || instance.run(&receiver));
        Server { address, directory, events, thread: Some(thread) }
    }

    /// What a client must have to trust it, with a certificate of its own or without.
    fn client(&self, own: Option<&str>, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let path = |name: &str| self.directory.join(name);
        roots.add(CertificateDer::from_pem_file(path("ca.pem")).expect("a certificate")).expect("trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(path(&format!("{name}.pem"))).expect("one")];
                let key = PrivateKeyDer::from_pem_file(path(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("they match")
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    async fn connect(&self, own: Option<&str>, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let connector = TlsConnector::from(Arc::new(self.client(own, protocols)));
        connector.connect(ServerName::try_from("dns.test").expect("a name"), stream).await.expect("agreed")
    }

    /// Waits until what has changed is in force.
    fn reload(&self) {
        self.events.send(Event::Reload).expect("it listens");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.events.send(Event::StopNow);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "it ends well");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Runs a test on a runtime of its own.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = Vec::new();
    for word in [id, flags::RD, 1, 0, 0, 0] {
        query.extend(word.to_be_bytes());
    }
    query.extend(name.parse::<Name>().expect("a name").as_bytes());
    query.extend(Type::A.0.to_be_bytes());
    query.extend([0, 1]);
    query
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message");
    [&length.to_be_bytes()[..], message].concat()
}

async fn read_framed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The number of an answer that is a good one.
fn good(answer: &[u8]) -> u16 {
    let header = Header::read(answer).expect("a header");
    assert!(header.is_response() && header.rcode().0 == 0, "{header:?}");
    header.id
}

const LINES: &str = "tls server.pem server.key\nhosts {\n10.0.0.1 a.test\nttl 77\nfallthrough\n}\nwhoami";

#[test]
fn many_questions_on_one_stream_in_tls() {
    let server = Server::new("many", "tls", LINES);
    run(async {
        let mut stream = server.connect(None, &[]).await;
        let all: Vec<u8> = (0..500).flat_map(|id| framed(&query(id, "example.org"))).collect();
        let (first, second) = all.split_at(all.len() / 2 + 7);
        stream.write_all(first).await.expect("sent");
        stream.flush().await.expect("sent");
        stream.write_all(second).await.expect("sent");
        stream.flush().await.expect("sent");
        let mut ids = Vec::new();
        for _ in 0..500 {
            ids.push(good(&read_framed(&mut stream).await.expect("an answer")));
        }
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..500));
        // What is no TLS is let go, and nothing listens to datagrams.
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(&framed(&query(1, "example.org"))).await.expect("sent");
        let _ = stream.read_to_end(&mut Vec::new()).await;
        std::net::UdpSocket::bind(server.address).expect("a port that nobody has");
    });
}

#[test]
fn a_connection_asks_so_much_and_no_more() {
    let server = Server::new("queries", "tls", &format!("{LINES}\ntimeouts {{\nmaxtcpqueries 3\n}}"));
    run(async {
        let mut stream = server.connect(None, &[]).await;
        let all: Vec<u8> = (0..5).flat_map(|id| framed(&query(id, "example.org"))).collect();
        stream.write_all(&all).await.expect("sent");
        stream.flush().await.expect("sent");
        for id in 0..3 {
            assert_eq!(good(&read_framed(&mut stream).await.expect("an answer")), id);
        }
        assert!(read_framed(&mut stream).await.is_err());
    });
}

/// Whether a client gets an answer in TLS.
async fn answered(server: &Server, own: Option<&str>) -> bool {
    let Ok(stream) = TcpStream::connect(server.address).await else { return false };
    let connector = TlsConnector::from(Arc::new(server.client(own, &[])));
    let name = ServerName::try_from("dns.test").expect("a name");
    // With TLS 1.3 a client learns that it is refused only once it reads.
    let Ok(mut stream) = connector.connect(name, stream).await else { return false };
    if stream.write_all(&framed(&query(1, "example.org"))).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    read_framed(&mut stream).await.is_ok()
}

#[test]
fn who_may_ask() {
    // With a certificate that our authority signed, with one that nobody signed, without one.
    for (auth, want) in [
        ("nocert", [true, true, true]),
        ("request", [true, true, true]),
        ("require", [true, true, false]),
        ("verify_if_given", [true, false, true]),
        ("require_and_verify", [true, false, false]),
    ] {
        let lines = format!("tls server.pem server.key ca.pem {{\nclient_auth {auth}\n}}\nwhoami");
        let server = Server::new(&format!("auth-{auth}"), "tls", &lines);
        let key = KeyPair::generate().expect("a key");
        let alone = CertificateParams::new(vec!["alone".into()]).expect("parameters");
        let certificate = alone.self_signed(&key).expect("signed");
        std::fs::write(server.directory.join("alone.pem"), certificate.pem()).expect("written");
        std::fs::write(server.directory.join("alone.key"), key.serialize_pem()).expect("written");
        run(async {
            for (own, want) in [Some("client"), Some("alone"), None].into_iter().zip(want) {
                assert_eq!(answered(&server, own).await, want, "{auth} {own:?}");
            }
        });
    }
}

#[test]
fn another_certificate_after_a_reload() {
    let server = Server::new("reload", "tls", LINES);
    let shown = |stream: &TlsStream<TcpStream>| {
        let (_, session) = stream.get_ref();
        session.peer_certificates().and_then(|all| all.first()).expect("a certificate").to_vec()
    };
    run(async {
        let mut old = server.connect(None, &[]).await;
        let path = |name: &str| server.directory.join(name);
        for kind in ["pem", "key"] {
            std::fs::rename(path(&format!("other.{kind}")), path(&format!("server.{kind}"))).expect("moved");
        }
        server.reload();
        loop {
            if shown(&server.connect(None, &[]).await) != shown(&old) {
                break;
            }
        }
        // The connection that there was goes on.
        old.write_all(&framed(&query(7, "example.org"))).await.expect("sent");
        old.flush().await.expect("sent");
        assert_eq!(good(&read_framed(&mut old).await.expect("an answer")), 7);
    });
}

/// A request and what is said to it: status, type of the text, how long it may be kept, body.
type Said = (u16, String, String, Vec<u8>);

/// A request: method, target, type, body; and the status and age that are wanted.
type Wanted = (Method, String, &'static str, Vec<u8>, u16, &'static str);

fn requests() -> Vec<Wanted> {
    const DNS: &str = "application/dns-message";
    let get = |message: &[u8]| format!("/dns-query?dns={}", base64url(message));
    let known = query(0, "a.test");
    vec![
        (Method::GET, get(&known), "", vec![], 200, "max-age=77"),
        (Method::GET, format!("{}&x=y", get(&known)), "", vec![], 200, "max-age=77"),
        (Method::POST, "/dns-query".into(), DNS, known.clone(), 200, "max-age=77"),
        (Method::POST, "/dns-query".into(), "", known.clone(), 200, "max-age=77"),
        (Method::POST, "/dns-query".into(), DNS, query(9, "b.test"), 200, "max-age=0"),
        (Method::GET, "/dns-query".into(), "", vec![], 400, ""),
        (Method::GET, "/dns-query?dns=AAA%3D".into(), "", vec![], 400, ""),
        (Method::GET, format!("{}&dns=AAAA", get(&known)), "", vec![], 400, ""),
        (Method::GET, get(&known[..20]), "", vec![], 400, ""),
        (Method::POST, "/dns-query".into(), DNS, vec![], 400, ""),
        (Method::POST, "/dns-query".into(), "text/plain", known.clone(), 415, ""),
        (Method::PUT, "/dns-query".into(), DNS, known.clone(), 405, ""),
        (Method::GET, "/".into(), "", vec![], 404, ""),
        (Method::POST, "/dns-query".into(), DNS, vec![0; 66_000], 413, ""),
    ]
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let digit = |six: &[u8]| {
        let six = format!("{:0<6}", String::from_utf8_lossy(six));
        char::from(DIGITS[usize::from_str_radix(&six, 2).expect("bits")])
    };
    bits.as_bytes().chunks(6).map(digit).collect()
}

fn check_said(what: &str, said: Said, status: u16, age: &str) {
    let (got, media, kept, body) = said;
    assert_eq!(got, status, "{what}");
    assert_eq!(kept, age, "{what}");
    if status == 200 {
        assert_eq!(media, "application/dns-message", "{what}");
        good(&body);
    }
}

#[test]
fn https_of_version_2() {
    let server = Server::new("http2", "https", LINES);
    run(async {
        let stream = server.connect(None, &[b"h2", b"http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut client, connection) = h2::client::handshake(stream).await.expect("agreed");
        tokio::spawn(connection);
        // All at once.
        let mut waiting = Vec::new();
        for (method, target, media, body, status, age) in requests() {
            let mut request = Request::builder().method(&method).uri(format!("https://dns.test{target}"));
            if !media.is_empty() {
                request = request.header("content-type", media);
            }
            client = client.ready().await.expect("a place");
            let request = request.body(()).expect("a request");
            let (response, mut stream) = client.send_request(request, body.is_empty()).expect("sent");
            if !body.is_empty() {
                stream.send_data(Bytes::from(body), true).expect("sent");
            }
            waiting.push((format!("{method} {target} {media}"), response, status, age));
        }
        for (what, response, status, age) in waiting {
            let (head, mut stream) = response.await.expect("a response").into_parts();
            let mut body = Vec::new();
            while let Some(part) = stream.data().await {
                body.extend_from_slice(&part.expect("a part"));
            }
            let header = |name| head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            assert_eq!(header("content-length"), Some(body.len().to_string()), "{what}");
            let [media, kept] =
                ["content-type", "cache-control"].map(|name| header(name).unwrap_or_default());
            check_said(&what, (head.status.as_u16(), media, kept, body), status, age);
        }
    });
}

/// Reads one response of HTTP/1.1.
async fn read_response(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Said {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let header = |name: &str| {
        let found = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_default().to_owned()
    };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    let mut body = vec![0; header("content-length").parse().expect("a length")];
    stream.read_exact(&mut body).await.expect("a body");
    (status, header("content-type"), header("cache-control"), body)
}

#[test]
fn https_of_version_1() {
    let server = Server::new("http1", "https", LINES);
    run(async {
        let mut stream = server.connect(None, &[]).await;
        // One after the other on one connection; one that is too long comes last and ends it.
        for (method, target, media, body, status, age) in requests() {
            let mut text = format!("{method} {target} HTTP/1.1\r\nHost: dns.test\r\n");
            if !media.is_empty() {
                text.push_str(&format!("Content-Type: {media}\r\n"));
            }
            text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            stream.write_all(text.as_bytes()).await.expect("sent");
            stream.flush().await.expect("sent");
            if status != 413 {
                stream.write_all(&body).await.expect("sent");
                stream.flush().await.expect("sent");
            }
            let said = read_response(&mut stream).await;
            check_said(&format!("{method} {target} {media}"), said, status, age);
        }
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the end"), 0);
        // In chunks, two requests by one write, and what makes no sense.
        let message = query(0, "a.test");
        let (first, second) = message.split_at(5);
        let mut chunks =
            b"POST /dns-query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in [first, second] {
            chunks.extend(format!("{:x};a=b\r\n", part.len()).as_bytes());
            chunks.extend(part);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\nX: y\r\n\r\n");
        let mut stream = server.connect(None, &[b"http/1.1"]).await;
        stream.write_all(&[&chunks[..], &chunks[..], b"nonsense\r\n\r\n"].concat()).await.expect("sent");
        stream.flush().await.expect("sent");
        for status in [200, 200, 400] {
            assert_eq!(read_response(&mut stream).await.0, status);
        }
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the end"), 0);
        for head in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: -1",
            "Transfer-Encoding: gzip",
            " folded: x",
        ] {
            let mut stream = server.connect(None, &[]).await;
            let text = format!("POST /dns-query HTTP/1.1\r\n{head}\r\n\r\n");
            stream.write_all(text.as_bytes()).await.expect("sent");
            stream.flush().await.expect("sent");
            assert_eq!(read_response(&mut stream).await.0, 400, "{head}");
        }
    });
}

#[test]
fn https_without_tls_is_http() {
    let server = Server::new("clear", "https", "whoami");
    run(async {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let text = format!("GET /dns-query?dns={} HTTP/1.0\r\n\r\n", base64url(&query(3, "x")));
        stream.write_all(text.as_bytes()).await.expect("sent");
        assert_eq!(good(&read_response(&mut stream).await.3), 3);
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the end"), 0);
    });
}

#[test]
fn a_new_connection_takes_the_place_of_the_one_that_is_silent() {
    let server = Server::new("places", "https", &format!("{LINES}\nhttps {{\nmax_connections 2\n}}"));
    run(async {
        let mut first = server.connect(None, &[]).await;
        let mut second = server.connect(None, &[]).await;
        let get = format!("GET /dns-query?dns={} HTTP/1.1\r\n\r\n", base64url(&query(0, "x")));
        // So that the second is the one that asked last.
        tokio::time::sleep(Duration::from_millis(20)).await;
        second.write_all(get.as_bytes()).await.expect("sent");
        second.flush().await.expect("sent");
        assert_eq!(read_response(&mut second).await.0, 200);
        let mut third = server.connect(None, &[]).await;
        assert_eq!(first.read(&mut [0; 1]).await.unwrap_or(0), 0, "the first has ended");
        for stream in [&mut second, &mut third] {
            stream.write_all(get.as_bytes()).await.expect("sent");
            stream.flush().await.expect("sent");
            assert_eq!(read_response(stream).await.0, 200);
        }
    });
}

#[test]
fn grpc() {
    let server = Server::new("grpc", "grpc", LINES);
    run(async {
        let stream = server.connect(None, &[b"h2"]).await;
        let (mut client, connection) = h2::client::handshake(stream).await.expect("agreed");
        tokio::spawn(connection);
        let mut good_packet = vec![0x0a, 24];
        good_packet.extend(query(5, "a.test"));
        let good_packet = [&[0, 0, 0, 0, 26][..], &good_packet].concat();
        let compressed = [&[1][..], &good_packet[1..]].concat();
        const QUERY: &str = "/coredns.dns.DnsService/Query";
        for (path, body, want) in [
            (QUERY, good_packet.clone(), "0"),
            (QUERY, compressed, "12"),
            (QUERY, vec![0; 70_000], "8"),
            (QUERY, vec![0, 0, 0, 0, 0], "3"),
            (QUERY, good_packet[..9].to_vec(), "3"),
            ("/coredns.dns.DnsService/Watch", good_packet.clone(), "12"),
        ] {
            client = client.ready().await.expect("a place");
            let request = Request::post(format!("https://dns.test{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let request = request.body(()).expect("a request");
            let (response, mut stream) = client.send_request(request, false).expect("sent");
            stream.send_data(Bytes::from(body), true).expect("sent");
            let (head, mut stream) = response.await.expect("a response").into_parts();
            let mut body = Vec::new();
            while let Some(part) = stream.data().await {
                body.extend_from_slice(&part.expect("a part"));
            }
            let trailers = stream.trailers().await.expect("an end").unwrap_or_default();
            let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
            assert_eq!(status.and_then(|status| status.to_str().ok()), Some(want), "{path}");
            if want == "0" {
                assert_eq!(good(&body[7..]), 5);
            }
        }
    });
}

#[test]
fn metrics_in_tls() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    let lines = format!("{LINES}\nprometheus 127.0.0.1:{port} {{\ntls web.yml\n}}");
    let directory = std::env::temp_dir().join(format!("portolan-secure-metrics-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let config = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    std::fs::write(directory.join("web.yml"), config).expect("written");
    let mut server = Server::new("metrics", "https", &lines);
    server.address.set_port(port);
    run(async {
        let mut stream = server.connect(None, &[b"http/1.1"]).await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        stream.flush().await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("a page");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("coredns_build_info"), "{text}");
        // In the clear there is nothing.
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        assert!(!bytes.starts_with(b"HTTP/"), "{bytes:?}");
    });
}

/// Timeouts as short as they may be.
const IMPATIENT: &str = "timeouts {\nread 1s\nwrite 1s\nidle 1s\n}";

/// A connection on which nothing comes, one on which a handshake begins, and one on which nothing
/// follows it: all end.
fn let_go(scheme: &str, protocols: &[&[u8]]) {
    let lines = format!("{LINES}\n{IMPATIENT}");
    let server = Server::new(&format!("idle-{scheme}-{}", protocols.len()), scheme, &lines);
    run(async {
        let silent = TcpStream::connect(server.address).await.expect("connected");
        let mut half = TcpStream::connect(server.address).await.expect("connected");
        half.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sent");
        let agreed = server.connect(None, protocols).await;
        for mut stream in [silent, half] {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        let (mut reader, _writer) = tokio::io::split(agreed);
        let _ = reader.read_to_end(&mut Vec::new()).await;
    });
}

#[test]
fn who_is_silent_is_let_go() {
    std::thread::scope(|scope| {
        scope.spawn(|| let_go("tls", &[]));
        scope.spawn(|| let_go("https", &[b"h2"]));
        scope.spawn(|| let_go("https", &[]));
        scope.spawn(|| let_go("grpc", &[b"h2"]));
    });
}

#[test]
fn a_request_that_does_not_come_whole_holds_no_place() {
    let server = Server::new("slow-http", "https", &format!("{LINES}\n{IMPATIENT}"));
    run(async {
        let mut stream = server.connect(None, &[]).await;
        stream.write_all(b"POST /dns-query HTTP/1.1\r\nContent-Length: 20\r\n\r\nabc").await.expect("sent");
        stream.flush().await.expect("sent");
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let stream = server.connect(None, &[b"h2"]).await;
        let (client, connection) = h2::client::handshake(stream).await.expect("agreed");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("a place");
        let request = Request::post("https://dns.test/dns-query").body(()).expect("a request");
        let (response, mut stream) = client.send_request(request, false).expect("sent");
        stream.send_data(Bytes::from_static(b"abc"), false).expect("sent");
        let error = response.await.expect_err("it was given up");
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    });
}

#[test]
fn streams_that_are_reset_hold_up_nobody() {
    // All questions wait for somebody who says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let lines = format!(
        "tls server.pem server.key\nhosts {{\n10.0.0.1 a.test\nfallthrough\n}}\nforward . {}",
        silent.local_addr().expect("an address")
    );
    let server = Server::new("resets", "https", &lines);
    run(async {
        let stream = server.connect(None, &[b"h2"]).await;
        let (mut client, connection) = h2::client::handshake(stream).await.expect("agreed");
        tokio::spawn(connection);
        let target = |name: &str| format!("https://dns.test/dns-query?dns={}", base64url(&query(0, name)));
        for n in 0..2000 {
            let Ok(ready) = client.ready().await else { break };
            client = ready;
            let request = Request::get(target(&format!("x{n}.test"))).body(()).expect("a request");
            let (_, mut stream) = client.send_request(request, true).expect("sent");
            stream.send_reset(h2::Reason::CANCEL);
        }
        // Whether it still serves that connection or not, it serves others.
        let stream = server.connect(None, &[b"h2"]).await;
        let (client, connection) = h2::client::handshake(stream).await.expect("agreed");
        tokio::spawn(connection);
        let request = Request::get(target("a.test")).body(()).expect("a request");
        let mut client = client.ready().await.expect("a place");
        let (response, _) = client.send_request(request, true).expect("sent");
        assert_eq!(response.await.expect("a response").status(), 200);
    });
}

#[test]
fn blocks_of_one_address_share_a_certificate() {
    let directory = std::env::temp_dir().join(format!("portolan-secure-shared-{}", std::process::id()));
    write_certificates(&directory);
    let started = |second: &str| {
        let root = directory.display();
        let block = |zone: &str, name: &str| {
            format!("tls://{zone}:0 {{\nbind 127.0.0.1\nroot {root}\ntls {name}.pem {name}.key\nwhoami\n}}\n")
        };
        let corefile = Source::Text("Corefile", block("a", "server") + &block("b", second));
        let options = Options { dns_port: 0, quiet: true, ..Options::new(corefile, Arc::new(NoClusters)) };
        Instance::start(options).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(started("server"), Ok(()));
    let error = started("other").expect_err("a client cannot be shown both");
    assert!(error.contains("Corefile:7: \"tls://b:0\": another block of this address"), "{error}");
    std::fs::remove_dir_all(&directory).expect("removed");
}
