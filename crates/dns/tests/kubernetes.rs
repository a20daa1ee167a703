//! The plugin `kubernetes` among others: its zones handed over as a whole, and what it says of questions.

use dns::cluster::{Batch, ClusterSource, Deliver, Stream, Wanted, of_changes};
use dns::instance::{Event, Instance, Options, Source};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::{Message, Name, Rcode, Reply, Section, Type, flags};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00::10']
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.1], hostname: db-0}
- {addresses: [10.244.1.2]}
- {addresses: [10.244.1.3], conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
spec: {containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 127.0.0.1, podIPs: [{ip: 127.0.0.1}]}
";

/// What the outside calls a cluster's Services, too: one by an address, one by a host name, one by both.
const OUTSIDE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]}
status: {loadBalancer: {ingress: [{hostname: lb.example.net}]}}
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.12, externalIPs: [198.51.100.2], ports: [{name: http, port: 80}]}
status: {loadBalancer: {ingress: [{hostname: lb.example.net}]}}
---
apiVersion: v1
kind: Service
metadata: {name: lost, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.13, ports: [{name: http, port: 80}]}
status: {loadBalancer: {ingress: [{hostname: a.example.net}, {hostname: b.example.net}]}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.1], hostname: db-0}
";

/// A small cluster.
struct Small(&'static str);

struct Held;

impl Stream for Held {}

impl ClusterSource for Small {
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        let keep = watch::Keep { imports: wanted.imports, ..watch::Keep::ALL };
        let loaded = watch::parse(std::path::Path::new("t"), self.0.as_bytes(), keep);
        let bad = |problem: &&watch::Problem| problem.severity == watch::Severity::Error;
        assert_eq!(loaded.problems.iter().find(bad).map(ToString::to_string), None);
        let changes = loaded.objects.into_iter().map(model::Change::Apply).collect();
        of_changes(deliver)(Batch { changes, triggers: Vec::new(), synced: true });
        Ok(Arc::new(Held))
    }
}

/// A server that ends with the test.
struct Server {
    address: SocketAddr,
    events: SyncSender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(lines: &str) -> Server {
        Server::of(CLUSTER, lines)
    }

    fn of(cluster: &'static str, lines: &str) -> Server {
        let corefile = Source::Text("Corefile", format!(".:0 {{\nbind 127.0.0.1\n{lines}\n}}\n"));
        let options =
            Options { dns_port: 0, quiet: true, ..Options::new(corefile, Arc::new(Small(cluster))) };
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

    fn ask(&self, name: &str, rtype: Type) -> Reply {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(self.address).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        socket.send(&query(name, rtype)).expect("sent");
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("an answer");
        read(&buffer[..length])
    }

    /// The records of a zone as lines, in the order in which they came.
    fn transfer(&self, zone: &str) -> Result<Vec<(Name, Type, String)>, Rcode> {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let asked = query(zone, Type::AXFR);
        let length = u16::try_from(asked.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length[..], &asked].concat()).expect("sent");
        let zone: Name = zone.parse().expect("a name");
        let mut records = Vec::new();
        while records.iter().filter(|(_, rtype, _)| *rtype == Type::SOA).count() < 2 {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).expect("a message");
            let reply = read(&message);
            if reply.rcode != Rcode::NOERROR {
                return Err(reply.rcode);
            }
            records.extend(reply.section(Section::Answer).map(|record| {
                (reply.owner(record, &zone), record.rtype, reply.show(record, &zone).to_string())
            }));
        }
        Ok(records)
    }
}

fn query(name: &str, rtype: Type) -> Vec<u8> {
    let words = [7, flags::RD, 1, 0, 0, 0];
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

/// The names and types of transferred zones, each of which is answered as it was transferred.
fn transferred(server: &Server, zones: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for zone in zones {
        let records = server.transfer(zone).expect("a zone");
        assert_eq!((records[0].1, records.last().map(|last| last.1)), (Type::SOA, Some(Type::SOA)));
        for (owner, rtype, line) in &records {
            // As it is answered, each by itself. The alias leads on to where there is nobody to ask.
            let reply = server.ask(&owner.to_string(), *rtype);
            let answered =
                reply.section(Section::Answer).any(|record| reply.show(record, owner).to_string() == *line);
            assert!(answered, "{line}");
            names.insert(format!("{owner} {rtype}"));
        }
        let once: BTreeSet<&String> = records.iter().map(|(_, _, line)| line).collect();
        assert_eq!(once.len() + 1, records.len(), "nothing but the SOA comes twice");
    }
    names
}

#[test]
fn a_transferred_zone_holds_what_is_answered_and_all_of_it() {
    let server =
        Server::start("kubernetes cluster.local 244.10.in-addr.arpa 96.10.in-addr.arpa\ntransfer {\nto *\n}");
    let mut names = transferred(&server, &["cluster.local", "244.10.in-addr.arpa", "96.10.in-addr.arpa"]);
    for (name, types) in [
        ("cluster.local.", "SOA NS"),
        ("dns-version.cluster.local.", "TXT"),
        ("web.shop.svc.cluster.local.", "A AAAA SRV"),
        ("_http._tcp.web.shop.svc.cluster.local.", "SRV"),
        ("_dns._udp.web.shop.svc.cluster.local.", "SRV"),
        ("db.shop.svc.cluster.local.", "A SRV"),
        ("_pg._tcp.db.shop.svc.cluster.local.", "SRV"),
        ("db-0.db.shop.svc.cluster.local.", "A"),
        ("10-244-1-2.db.shop.svc.cluster.local.", "A"),
        ("out.shop.svc.cluster.local.", "CNAME"),
        ("10.0.96.10.in-addr.arpa.", "PTR"),
        ("1.1.244.10.in-addr.arpa.", "PTR"),
        ("2.1.244.10.in-addr.arpa.", "PTR"),
    ] {
        for rtype in types.split(' ').filter(|rtype| *rtype != "NS") {
            assert!(names.remove(&format!("{name} {rtype}")), "{name} {rtype}: {names:?}");
        }
    }
    names.retain(|name| !name.ends_with(" SOA") && !name.ends_with(" NS"));
    assert!(names.is_empty(), "{names:?}");
    server.stop();
    let server = Server::start("kubernetes cluster.local\ntransfer {\nto 192.0.2.1\n}");
    assert_eq!(server.transfer("cluster.local"), Err(Rcode::REFUSED));
    server.stop();
}

#[test]
fn what_is_said_of_a_question() {
    let labels = [
        "kind",
        "namespace",
        "service",
        "endpoint",
        "port-name",
        "protocol",
        "client-namespace",
        "client-pod-name",
    ];
    let meta: String =
        labels.iter().map(|label| format!("<{{{{ .Meta \\\"kubernetes/{label}\\\" }}}}>")).collect();
    let lines = format!(
        "metadata\nkubernetes cluster.local {{\npods verified\n}}\n\
         template IN TXT . {{\nanswer \"{{{{ .Name }}}} 60 IN TXT {meta}\"\n}}"
    );
    let server = Server::start(&lines);
    let said = |name: &str| {
        let reply = server.ask(name, Type::TXT);
        let record = reply.section(Section::Answer).next().expect("an answer");
        let rdata = reply.rdata(record);
        String::from_utf8_lossy(rdata.get(1..).expect("text")).into_owned()
    };
    let client = "<shop><p>";
    assert_eq!(
        said("_http._tcp.web.shop.svc.cluster.local"),
        format!("<svc><shop><web><><http><tcp>{client}")
    );
    assert_eq!(said("db-0.db.shop.svc.cluster.local"), format!("<svc><shop><db><db-0><><>{client}"));
    assert_eq!(said("10-0-0-1.shop.pod.cluster.local"), format!("<pod><shop><10-0-0-1><><><>{client}"));
    assert_eq!(said("example.org"), format!("<><><><><><>{client}"));
    server.stop();
}

#[test]
fn a_view_for_the_pods_of_a_namespace() {
    for (namespace, want) in [("shop", [10, 0, 0, 1]), ("other", [10, 0, 0, 2])] {
        let lines = format!(
            "view pods {{\nexpr metadata('kubernetes/client-namespace') == '{namespace}'\n}}\nmetadata\n\
             kubernetes cluster.local {{\npods verified\n}}\nhosts {{\n10.0.0.1 a.test\n}}\n}}\n\
             .:0 {{\nbind 127.0.0.1\nhosts {{\n10.0.0.2 a.test\n}}"
        );
        let server = Server::start(&lines);
        let reply = server.ask("a.test", Type::A);
        let record = reply.section(Section::Answer).next().expect("an answer");
        assert_eq!(reply.address(record), Some(std::net::IpAddr::from(want)), "{namespace}");
        server.stop();
    }
}

const OUTSIDE_LINES: &str = "k8s_external example.org 198.51.100.0/24 {\nheadless\n}\n\
    kubernetes cluster.local\ntransfer {\nto *\n}\n\
    hosts {\n192.0.2.7 lb.example.net\n2001:db8::7 lb.example.net\nttl 3\nfallthrough\n}";

#[test]
fn host_names_of_balancers_are_looked_up() {
    let server = Server::of(OUTSIDE, OUTSIDE_LINES);
    let asked = |name: &str, rtype| {
        let reply = server.ask(name, rtype);
        let question: Name = name.parse().expect("a name");
        let lines = [Section::Answer, Section::Additional].map(|section| {
            let records = reply.section(section).map(|record| reply.show(record, &question).to_string());
            records.collect::<Vec<String>>().join("; ")
        });
        (reply.rcode, lines.join(" | "))
    };
    for (name, rtype, want) in [
        (
            "named.shop.example.org",
            Type::A,
            "named.shop.example.org. 5 IN CNAME lb.example.net.; lb.example.net. 3 IN A 192.0.2.7 | ",
        ),
        (
            "named.shop.example.org",
            Type::AAAA,
            "named.shop.example.org. 5 IN CNAME lb.example.net.; lb.example.net. 3 IN AAAA 2001:db8::7 | ",
        ),
        ("named.shop.example.org", Type::CNAME, "named.shop.example.org. 5 IN CNAME lb.example.net. | "),
        ("named.shop.example.org", Type::TXT, " | "),
        (
            "named.shop.example.org",
            Type::SRV,
            "named.shop.example.org. 5 IN SRV 0 100 80 lb.example.net. | \
             lb.example.net. 3 IN A 192.0.2.7; lb.example.net. 3 IN AAAA 2001:db8::7",
        ),
        (
            "mixed.shop.example.org",
            Type::A,
            "mixed.shop.example.org. 5 IN A 198.51.100.2; mixed.shop.example.org. 3 IN A 192.0.2.7 | ",
        ),
        ("mixed.shop.example.org", Type::AAAA, "mixed.shop.example.org. 3 IN AAAA 2001:db8::7 | "),
        (
            "_http._tcp.mixed.shop.example.org",
            Type::SRV,
            "_http._tcp.mixed.shop.example.org. 5 IN SRV 0 50 80 mixed.shop.example.org.; \
             _http._tcp.mixed.shop.example.org. 5 IN SRV 0 50 80 lb.example.net. | \
             mixed.shop.example.org. 5 IN A 198.51.100.2; lb.example.net. 3 IN A 192.0.2.7; \
             lb.example.net. 3 IN AAAA 2001:db8::7",
        ),
        ("lost.shop.example.org", Type::A, " | "),
    ] {
        assert_eq!(asked(name, rtype), (Rcode::NOERROR, want.to_owned()), "{name} {rtype}");
    }
    // Nothing is found, and that is said with the SOA.
    let authority = server.ask("lost.shop.example.org", Type::A);
    assert_eq!(
        authority.section(Section::Authority).map(|record| record.rtype).collect::<Vec<_>>(),
        [Type::SOA]
    );
    server.stop();
}

#[test]
fn the_outside_of_a_cluster_is_transferred_too() {
    let server = Server::of(OUTSIDE, OUTSIDE_LINES);
    let mut names = transferred(&server, &["example.org", "100.51.198.in-addr.arpa"]);
    names.retain(|name| !name.ends_with(" SOA") && !name.ends_with(" NS"));
    let want = [
        "1.100.51.198.in-addr.arpa. PTR",
        "2.100.51.198.in-addr.arpa. PTR",
        "_http._tcp.lost.shop.example.org. SRV",
        "_http._tcp.mixed.shop.example.org. SRV",
        "_http._tcp.named.shop.example.org. SRV",
        "_http._tcp.web.shop.example.org. SRV",
        "_pg._tcp.db.shop.example.org. SRV",
        "db-0.db.shop.example.org. A",
        "db-0.db.shop.example.org. SRV",
        "db.shop.example.org. A",
        "db.shop.example.org. SRV",
        "lost.shop.example.org. SRV",
        "mixed.shop.example.org. A",
        "mixed.shop.example.org. SRV",
        "named.shop.example.org. CNAME",
        "named.shop.example.org. SRV",
        "web.shop.example.org. A",
        "web.shop.example.org. SRV",
    ];
    assert_eq!(names, want.into_iter().map(str::to_owned).collect());
    // The zone of the inside is another.
    assert!(server.transfer("cluster.local").expect("a zone").len() > 10);
    assert_eq!(server.transfer("shop.example.org"), Err(Rcode::REFUSED));
    server.stop();
}

const SET: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: far, namespace: shop}
spec: {type: ClusterSetIP, ips: [10.112.0.1], ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: db, namespace: shop}
spec: {type: Headless, ports: [{name: pg, port: 5432, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-1
  namespace: shop
  labels: {multicluster.kubernetes.io/service-name: db, multicluster.kubernetes.io/source-cluster: east}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.1.0.1], hostname: db-0}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-2
  namespace: shop
  labels: {multicluster.kubernetes.io/service-name: db}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.1.0.2], hostname: db-0}]
";

#[test]
fn a_set_of_clusters_is_transferred_too() {
    let lines = "kubernetes cluster.local set.local {\nmulticluster set.local\n}\ntransfer {\nto *\n}";
    let server = Server::of(SET, lines);
    let mut names = transferred(&server, &["set.local"]);
    names.retain(|name| !name.ends_with(" SOA") && !name.ends_with(" NS"));
    let want = [
        "_http._tcp.far.shop.svc.set.local. SRV",
        "_pg._tcp.db.shop.svc.set.local. SRV",
        "db-0.db.shop.svc.set.local. A",
        "db-0.east.db.shop.svc.set.local. A",
        "db.shop.svc.set.local. A",
        "db.shop.svc.set.local. SRV",
        "dns-version.set.local. TXT",
        "far.shop.svc.set.local. A",
        "far.shop.svc.set.local. SRV",
    ];
    assert_eq!(names, want.into_iter().map(str::to_owned).collect());
    server.stop();
}

#[test]
fn zones_of_multicluster_are_among_the_others() {
    let error = |lines: &str| {
        let text = format!(".:0 {{\nbind 127.0.0.1\nkubernetes cluster.local {{\n{lines}\n}}\n}}\n");
        let options = Options::new(Source::Text("Corefile", text), Arc::new(Small(SET)));
        match Instance::start(Options { dns_port: 0, quiet: true, ..options }) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let far = error("multicluster set.local");
    assert!(far.contains("\"set.local\": not among the zones of this kubernetes"), "{far}");
    assert_eq!(error("multicluster"), "");
    assert_eq!(error("multicluster cluster.local"), "");
}
