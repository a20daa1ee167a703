//! The server as its clients meet it: over UDP and TCP, while it is reloaded, and when it stops.

use dns::cluster::{Batch, ClusterSource, Deliver, NoClusters, Stream, Wanted, of_changes};
use dns::instance::{Event, Instance, Options, Source};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::{Header, Message, Name, Reply, Section, Type, flags};

/// Longer than anything here takes, so that what never comes is told from what comes late.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that ends with the test.
struct Server {
    address: SocketAddr,
    events: SyncSender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(corefile: Source, clusters: Arc<dyn ClusterSource>) -> Server {
        let options = Options { dns_port: 0, quiet: true, ..Options::new(corefile, clusters) };
        let instance = Instance::start(options).expect("it starts");
        let address = *instance.addresses().first().expect("an address");
        let (events, receiver) = sync_channel(16);
        let thread = std::thread::spawn(move || instance.run(&receiver));
        Server { address, events, thread: Some(thread) }
    }

    fn of_text(text: &str) -> Server {
        Server::start(Source::Text("Corefile", text.to_owned()), Arc::new(NoClusters))
    }

    fn stop(mut self) {
        self.events.send(Event::StopNow).expect("it listens");
        self.thread.take().expect("once").join().expect("it ends well");
    }
}

fn query(id: u16, name: &str, rtype: Type) -> Vec<u8> {
    let mut query = Vec::new();
    for word in [id, flags::RD, 1, 0, 0, 0] {
        query.extend(word.to_be_bytes());
    }
    query.extend(name.parse::<Name>().expect("a name").as_bytes());
    query.extend(rtype.0.to_be_bytes());
    query.extend([0, 1]);
    query
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message");
    [&length.to_be_bytes()[..], message].concat()
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    socket
}

fn ask(socket: &UdpSocket, query: &[u8]) -> Vec<u8> {
    socket.send(query).expect("sent");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer[..length].to_vec()
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).expect("a message");
    message
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}

const WHOAMI: &str = ".:0 {\nbind 127.0.0.1\nwhoami\n}\n";

#[test]
fn many_questions_on_one_stream() {
    let server = Server::of_text(WHOAMI);
    let mut stream = connect(server.address);
    let all: Vec<u8> = (0..500).flat_map(|id| framed(&query(id, "example.org", Type::A))).collect();
    // In two parts, the cut within a question.
    let (first, second) = all.split_at(all.len() / 2 + 7);
    stream.write_all(first).expect("sent");
    stream.write_all(second).expect("sent");
    let mut ids: Vec<u16> =
        (0..500).map(|_| Header::read(&read_framed(&mut stream)).expect("a header").id).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..500));
    server.stop();
}

#[test]
fn a_stream_that_ends_within_a_question_is_let_go() {
    let server = Server::of_text(WHOAMI);
    for bytes in [&b"\x00"[..], b"\x00\x20abc", b"\xff\xff", b"\x00\x00", b"\x00\x02ab"] {
        let mut stream = connect(server.address);
        stream.write_all(bytes).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0, "{bytes:?}");
    }
    server.stop();
}

#[test]
fn what_is_no_question_stops_nothing() {
    let server = Server::of_text(WHOAMI);
    let socket = client(server.address);
    let good = query(7, "example.org", Type::A);
    for bytes in [vec![], vec![0; 11], vec![0xff; 600], vec![0; 12], good[..20].to_vec(), vec![0xc0; 4000]] {
        socket.send(&bytes).expect("sent");
    }
    // An answer that is sent to us is not answered.
    let mut answer = query(8, "example.org", Type::A);
    answer[2] |= 0x80;
    socket.send(&answer).expect("sent");
    loop {
        let answer = ask(&socket, &good);
        let header = Header::read(&answer).expect("a header");
        assert_ne!(header.id, 8);
        if header.id == 7 && header.rcode().0 == 0 {
            break;
        }
    }
    server.stop();
}

/// A headless Service with a hundred endpoints.
struct Hundred;

struct Held;

impl Stream for Held {}

impl ClusterSource for Hundred {
    fn open(&self, _: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        let endpoints: String = (1..=100).map(|n| format!("- addresses: [10.244.1.{n}]\n")).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{clusterIP: None}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: db-1\n  namespace: shop\n  \
             labels: {{kubernetes.io/service-name: db}}\naddressType: IPv4\nendpoints:\n{endpoints}"
        );
        let loaded = watch::parse(std::path::Path::new("t"), text.as_bytes(), watch::Keep::ALL);
        let changes = loaded.objects.into_iter().map(model::Change::Apply).collect();
        of_changes(deliver)(Batch { changes, triggers: Vec::new(), synced: true });
        Ok(Arc::new(Held))
    }
}

#[test]
fn what_does_not_fit_comes_by_stream() {
    let text = ".:0 {\nbind 127.0.0.1\nkubernetes cluster.local\nloadbalance\n}\n".to_owned();
    let server = Server::start(Source::Text("Corefile", text), Arc::new(Hundred));
    let question = query(1, "db.shop.svc.cluster.local", Type::A);
    let addresses = |bytes: &[u8]| {
        let mut reply = Reply::default();
        reply.read(&Message::read(bytes).expect("a header")).expect("a message");
        let truncated = reply.truncated;
        let mut all: Vec<_> = reply.section(Section::Answer).map(|record| reply.address(record)).collect();
        all.sort();
        all.dedup();
        (all.len(), truncated)
    };
    let short = ask(&client(server.address), &question);
    assert!(short.len() <= 512);
    assert_eq!(addresses(&short), ((512 - 12 - 31) / 16, true));
    let mut stream = connect(server.address);
    stream.write_all(&framed(&question)).expect("sent");
    assert_eq!(addresses(&read_framed(&mut stream)), (100, false));
    server.stop();
}

/// A Corefile that the test changes.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        File(std::env::temp_dir().join(format!("portolan-{name}-{}", std::process::id())))
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("written");
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_reload_loses_no_question() {
    let file = File::new("reload");
    let size = |size: u16| format!(".:0 {{\nbind 127.0.0.1\nbufsize {size}\nwhoami\n}}\n");
    file.write(&size(1232));
    let server = Server::start(Source::File(file.0.clone()), Arc::new(NoClusters));
    let done = Arc::new(AtomicBool::new(false));
    let asking: Vec<JoinHandle<u32>> = (0..4)
        .map(|_| {
            let (done, address) = (done.clone(), server.address);
            std::thread::spawn(move || {
                let socket = client(address);
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) {
                    ask(&socket, &query(1, "example.org", Type::A));
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    // With EDNS the size says which configuration answers.
    let mut with_edns = query(2, "example.org", Type::A);
    with_edns[11] = 1;
    with_edns.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    let socket = client(server.address);
    let in_force = || {
        let answer = ask(&socket, &with_edns);
        let at = answer.windows(3).rposition(|window| window == [0, 0, 41]).expect("an OPT record");
        u16::from_be_bytes([answer[at + 3], answer[at + 4]])
    };
    for round in 0..20 {
        let wanted = if round % 2 == 0 { 600 } else { 1000 };
        file.write(&size(wanted));
        server.events.send(Event::Reload).expect("it listens");
        while in_force() != wanted {}
    }
    // A Corefile that is wrong changes nothing.
    file.write(".:0 {\nnonsense\n}\n");
    server.events.send(Event::Reload).expect("it listens");
    file.write(&size(700));
    server.events.send(Event::Reload).expect("it listens");
    while in_force() != 700 {}
    done.store(true, Ordering::Relaxed);
    let asked: u32 =
        asking.into_iter().map(|thread| thread.join().expect("every question was answered")).sum();
    assert!(asked > 0);
    server.stop();
}

#[test]
fn what_has_come_is_answered_before_the_end() {
    let server = Server::of_text(WHOAMI);
    let socket = client(server.address);
    for id in 0..50 {
        socket.send(&query(id, "example.org", Type::A)).expect("sent");
    }
    server.stop();
    let mut buffer = [0; 512];
    for id in 0..50 {
        let length = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(Header::read(&buffer[..length]).expect("a header").id, id);
    }
}

fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a page");
    text
}

/// A port that nobody listens on, most likely.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn pages_about_the_server() {
    let at = format!("127.0.0.1:{}", free_port());
    let text = format!(
        ".:0 {{\nbind 127.0.0.1\nerrors\nhealth {at}\nready {at}\nprometheus {at}\nkubernetes cluster.local\nreload\nloadbalance\n}}\n"
    );
    let server = Server::start(Source::Text("Corefile", text), Arc::new(Hundred));
    assert!(page(&at, "/health").ends_with("\r\n\r\nOK"));
    assert!(page(&at, "/ready").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(page(&at, "/nothing").starts_with("HTTP/1.1 404 "));
    ask(&client(server.address), &query(1, "db.shop.svc.cluster.local", Type::A));
    let metrics = page(&at, "/metrics");
    let server_label = "server=\"dns://127.0.0.1:0\",zone=\".\",view=\"\"";
    for line in [
        format!("coredns_dns_requests_total{{{server_label},proto=\"udp\",family=\"1\",type=\"A\"}} 1\n"),
        format!("coredns_dns_responses_total{{{server_label},rcode=\"NOERROR\",plugin=\"kubernetes\"}} 1\n"),
        format!("coredns_plugin_enabled{{{server_label},name=\"kubernetes\"}} 1\n"),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    server.stop();
}
