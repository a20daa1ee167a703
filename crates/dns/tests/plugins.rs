//! Plugins that concern more than one answer, behind real sockets: zone transfers, search paths of
//! pods, and an upstream that is down while many ask.

use dns::cluster::{Batch, ClusterSource, Deliver, NoClusters, Stream, Wanted, of_changes};
use dns::instance::{Event, Instance, Options, Source};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::{Message, Name, Rcode, Reply, Section, Type, flags};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that ends with the test.
struct Server {
    address: SocketAddr,
    events: SyncSender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(corefile: &str, clusters: Arc<dyn ClusterSource>) -> Server {
        let corefile = Source::Text("Corefile", corefile.to_owned());
        let options = Options { dns_port: 0, quiet: true, ..Options::new(corefile, clusters) };
        let instance = Instance::start(options).expect("it starts");
        let address = *instance.addresses().first().expect("an address");
        let (events, receiver) = sync_channel(16);
        let thread = std::thread::spawn(move || instance.run(&receiver));
        Server { address, events, thread: Some(thread) }
    }

    fn stop(mut self) {
        self.events.send(Event::StopNow).expect("it listens");
        self.thread.take().expect("once").join().expect("it ends well");
    }

    fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(self.address).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        socket
    }

    fn ask(&self, name: &str, rtype: Type) -> Reply {
        let socket = self.client();
        socket.send(&query(1, name, rtype)).expect("sent");
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("an answer");
        read(&buffer[..length])
    }
}

fn query(id: u16, name: &str, rtype: Type) -> Vec<u8> {
    let words = [id, flags::RD, 1, 0, 0, 0];
    let mut query: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
    query.extend(name.parse::<Name>().expect("a name").as_bytes());
    query.extend(rtype.0.to_be_bytes());
    query.extend([0, 1]);
    query
}

fn read(bytes: &[u8]) -> Reply {
    let mut reply = Reply::default();
    reply.read(&Message::read(bytes).expect("a header")).expect("a message");
    reply
}

#[test]
fn a_large_zone_is_transferred_in_many_messages() {
    let path = std::env::temp_dir().join(format!("portolan-axfr-{}", std::process::id()));
    let hosts: String = (0..5000).map(|number| format!("h{number} A 10.0.0.1\n")).collect();
    std::fs::write(&path, format!("$TTL 60\n@ SOA ns root 7 7200 1800 86400 300\n@ NS ns\n{hosts}"))
        .expect("written");
    let corefile =
        format!("example.org:0 {{\nbind 127.0.0.1\nfile {}\ntransfer {{\nto *\n}}\n}}\n", path.display());
    let server = Server::start(&corefile, Arc::new(NoClusters));
    std::fs::remove_file(&path).expect("removed");
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let asked = query(7, "example.org", Type::AXFR);
    let length = u16::try_from(asked.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length[..], &asked].concat()).expect("sent");
    let (mut records, mut messages, mut starts_of_authority) = (0, 0, 0);
    while starts_of_authority < 2 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a length");
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).expect("a message");
        assert_eq!(message.get(..2), Some(&7_u16.to_be_bytes()[..]));
        let reply = read(&message);
        assert_eq!((reply.rcode, reply.truncated), (Rcode::NOERROR, false));
        records += reply.records().len();
        starts_of_authority += reply.records().iter().filter(|record| record.rtype == Type::SOA).count();
        messages += 1;
    }
    assert_eq!(records, 5003);
    assert!(messages > 3, "{messages}");
    server.stop();
}

/// A cluster in which the client's address is a pod's.
struct OnePod;

struct Held;

impl Stream for Held {}

impl ClusterSource for OnePod {
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        assert!(wanted.pods, "search paths want pods");
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: data}\nspec: {clusterIP: 10.96.0.9, \
                    ports: [{port: 1}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\n\
                    spec: {containers: [{name: c, image: i}]}\nstatus: {phase: Running, podIP: 127.0.0.1, podIPs: [{ip: 127.0.0.1}]}\n";
        let loaded = watch::parse(std::path::Path::new("t"), text.as_bytes(), watch::Keep::ALL);
        let changes = loaded.objects.into_iter().map(model::Change::Apply).collect();
        of_changes(deliver)(Batch { changes, triggers: Vec::new(), synced: true });
        Ok(Arc::new(Held))
    }
}

#[test]
fn the_search_path_of_a_pod_is_walked_for_it() {
    let corefile = ".:0 {\nbind 127.0.0.1\nautopath cluster.local @kubernetes\n\
                    kubernetes cluster.local {\npods verified\n}\n}\n";
    let server = Server::start(corefile, Arc::new(OnePod));
    // The pod is in namespace shop, where its first element is.
    let reply = server.ask("db.data.shop.svc.cluster.local", Type::A);
    let asked = "db.data.shop.svc.cluster.local".parse().expect("a name");
    let shown: Vec<String> =
        reply.records().iter().map(|record| reply.show(record, &asked).to_string()).collect();
    assert_eq!(
        shown,
        [
            "db.data.shop.svc.cluster.local. 5 IN CNAME db.data.svc.cluster.local.",
            "db.data.svc.cluster.local. 5 IN A 10.96.0.9",
        ]
    );
    assert_eq!(server.ask("no.data.svc.cluster.local", Type::A).rcode, Rcode::NXDOMAIN);
    server.stop();
}

#[test]
fn an_upstream_that_is_silent_holds_up_nobody_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let corefile = format!(
        ".:0 {{\nbind 127.0.0.1\ncache 30\nlocal\nforward . {} {{\nmax_concurrent 500\n}}\n}}\n",
        silent.local_addr().expect("an address")
    );
    let server = Server::start(&corefile, Arc::new(NoClusters));
    let socket = server.client();
    for id in 0..2000 {
        socket.send(&query(id, &format!("random{id}.example"), Type::A)).expect("sent");
    }
    // While all those wait, or are refused, what needs no upstream is answered.
    for _ in 0..50 {
        let reply = server.ask("localhost", Type::A);
        assert_eq!((reply.rcode, reply.count(Section::Answer)), (Rcode::NOERROR, 1));
    }
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("those beyond the limit are refused at once");
    assert_eq!(read(&buffer[..length]).rcode, Rcode::REFUSED);
    server.stop();
}
