//! The API source against an API server of our own: whatever goes wrong, what is handed over adds up
//! to what the server holds in the end, and nothing that is there all along is ever taken away.

use lab::api::{ApiOptions, ApiServer, Fault};
use model::{Change, Cluster, ObjectKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use watch::{Access, Api, Batch, Keep, Waits};

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "node-a";

/// Waits short enough to test what comes after them.
const WAITS: Waits = Waits {
    answer: Duration::from_millis(500),
    list_silence: Duration::from_millis(500),
    watch_silence: Duration::from_millis(800),
    first: Duration::from_millis(5),
    longest: Duration::from_millis(50),
};

/// All that has been handed over.
#[derive(Default)]
struct Seen {
    cluster: Cluster,
    deleted: Vec<ObjectKey>,
    loaded: bool,
    /// Services and slices that were known when it was said that all is.
    known_when_loaded: Option<(usize, usize)>,
    problems: Vec<String>,
    errors: usize,
    triggers: usize,
}

struct Follower {
    seen: Arc<Mutex<Seen>>,
    api: Option<Api>,
    directory: PathBuf,
}

impl Follower {
    fn new(server: &ApiServer, keep: Keep, waits: Waits) -> Follower {
        Follower::with(&server.kubeconfig(), keep, waits)
    }

    fn with(kubeconfig: &str, keep: Keep, waits: Waits) -> Follower {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("portolan-api-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("kubeconfig");
        std::fs::write(&file, kubeconfig).expect("a kubeconfig");
        let access = Access::find(Some(&file), None).expect("a kubeconfig that is right");
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let sink = seen.clone();
        let deliver = move |batch: Batch| {
            take(&mut sink.lock().expect("nobody panicked"), batch);
            true
        };
        let api = Api::watch_with(access, NODE, keep, Arc::new(|_| {}), waits, deliver).expect("threads");
        Follower { seen, api: Some(api), directory }
    }

    fn until(&self, what: &str, is: impl Fn(&Seen) -> bool) {
        let begin = Instant::now();
        while !is(&self.seen.lock().expect("nobody panicked")) {
            let seen = self.seen.lock().expect("nobody panicked");
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}: {:?}", seen.problems);
            drop(seen);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until what has been handed over is what the server holds.
    fn until_right(&self, server: &ApiServer, what: &str) {
        self.until(what, |seen| seen.loaded && seen.cluster == expected(server));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(api) = self.api.take() {
            api.stop();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn take(seen: &mut Seen, batch: Batch) {
    let Batch { changes, triggers, problems, loaded, errors } = batch;
    assert!(loaded || !seen.loaded, "what is loaded stays loaded");
    for change in changes {
        if let Change::Delete(key) = &change {
            seen.deleted.push(key.clone());
        }
        seen.cluster.apply(change);
    }
    seen.problems.extend(problems.iter().map(ToString::to_string));
    seen.triggers += triggers.len();
    seen.errors = errors;
    if loaded && !seen.loaded {
        seen.loaded = true;
        seen.known_when_loaded = Some((seen.cluster.services().len(), seen.cluster.all_slices().count()));
    }
}

/// What the objects on the server mean, read another way, with kube-proxy's selection.
fn expected(server: &ApiServer) -> Cluster {
    let mut cluster = Cluster::new();
    for object in server.objects() {
        let label = |name: &str| object.pointer("/metadata/labels").is_some_and(|l| l.get(name).is_some());
        let foreign = label("service.kubernetes.io/service-proxy-name") && object["kind"] == "Service"
            || label("service.kubernetes.io/headless")
            || object.pointer("/spec/clusterIP") == Some(&json!("None"))
            || object["kind"] == "Node" && object.pointer("/metadata/name") != Some(&json!(NODE));
        if !foreign {
            let text = object.to_string();
            let loaded = watch::parse("expected".as_ref(), text.as_bytes(), Keep::default());
            loaded.objects.into_iter().for_each(|object| drop(cluster.apply(Change::Apply(object))));
        }
    }
    cluster
}

fn service(name: &str, ip: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"clusterIP": format!("10.96.0.{ip}"), "clusterIPs": [format!("10.96.0.{ip}")],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
    })
}

fn slice(service: &str, name: &str, endpoints: &[u8]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|n| json!({"addresses": [format!("10.1.0.{n}")], "conditions": {"ready": true}, "nodeName": "node-b"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service},
                     "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
           "spec": {"podCIDRs": ["10.1.0.0/24"]},
           "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

/// A server with a small cluster in it.
fn server(options: ApiOptions) -> ApiServer {
    let server = ApiServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), options).expect("a server");
    server.set(node(NODE));
    server.set(node("node-b"));
    server.set(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                      "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    for index in 0..20 {
        let name = format!("web-{index}");
        server.set(service(&name, index + 1));
        server.set(slice(&name, &format!("{name}-x"), &[index + 1, index + 101]));
    }
    let mut headless = service("headless", 200);
    headless["spec"]["clusterIP"] = "None".into();
    server.set(headless);
    let mut foreign = service("foreign", 201);
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    server.set(foreign);
    let mut slice = slice("headless", "headless-x", &[250]);
    slice["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    server.set(slice);
    server
}

fn shop(name: &str) -> ObjectKey {
    ObjectKey::Service(model::ObjectName::new("shop", name))
}

/// Faults, and where: before the start, or with the first question after the connections are cut.
type Case = (&'static str, bool, &'static [(&'static str, Fault)]);

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/endpointslices";
const LISTS: &str = "sendInitialEvents";

const CASES: &[Case] = &[
    ("all is well", false, &[]),
    (
        "refused at first",
        false,
        &[
            (SERVICES, Fault::Refuse(500, "InternalError", "etcdserver: no leader")),
            (SLICES, Fault::Refuse(429, "TooManyRequests", "try again")),
            (SLICES, Fault::Refuse(503, "ServiceUnavailable", "starting")),
        ],
    ),
    ("not answered", false, &[(SERVICES, Fault::Hang), (SLICES, Fault::HangAfterHead)]),
    (
        "reset in the middle of a list",
        false,
        &[(SERVICES, Fault::Reset(2000)), (SLICES, Fault::Reset(1)), (SLICES, Fault::Reset(5000))],
    ),
    ("closed in the middle of a list", false, &[(SERVICES, Fault::Close(2000)), (SLICES, Fault::Close(0))]),
    ("closed between two objects", false, &[(SLICES, Fault::Close(700)), (SLICES, Fault::Close(1400))]),
    ("slow", false, &[(SERVICES, Fault::Slow(97, Duration::from_micros(200)))]),
    (
        "no JSON",
        false,
        &[(SERVICES, Fault::Garbage("<html>{\"</html>")), (SLICES, Fault::Garbage("{\"type\":1}"))],
    ),
    ("a list that never ends", false, &[(SERVICES, Fault::NoEnd), (SLICES, Fault::NoEnd)]),
    ("versions that are none", false, &[(LISTS, Fault::Version("")), (LISTS, Fault::Version("x"))]),
    (
        "versions from the future",
        false,
        &[(SERVICES, Fault::Version("99999")), (SLICES, Fault::Version("99999"))],
    ),
    (
        "the streamed list is refused late",
        false,
        &[(LISTS, Fault::Refuse(422, "Invalid", "sendInitialEvents"))],
    ),
    (
        "the field selector is refused",
        false,
        &[
            ("spec.clusterIP", Fault::Refuse(400, "BadRequest", "field label not supported: spec.clusterIP")),
            ("spec.clusterIP", Fault::Refuse(400, "BadRequest", "field label not supported: spec.clusterIP")),
        ],
    ),
    ("cut, and all is well", true, &[]),
    (
        "cut, then refused",
        true,
        &[(SERVICES, Fault::Refuse(500, "InternalError", "")), (SLICES, Fault::Hang)],
    ),
    (
        "cut, then gone",
        true,
        &[
            (SERVICES, Fault::Refuse(410, "Expired", "too old resource version")),
            (SLICES, Fault::Refuse(410, "Gone", "")),
        ],
    ),
    (
        "cut, then gone, then reset in the list",
        true,
        &[
            (SERVICES, Fault::Refuse(410, "Expired", "")),
            (SERVICES, Fault::Reset(900)),
            (SLICES, Fault::Refuse(410, "Expired", "")),
            (SLICES, Fault::Close(900)),
            (SLICES, Fault::Hang),
        ],
    ),
    (
        "cut, then watches that hang",
        true,
        &[(SERVICES, Fault::HangAfterHead), (SLICES, Fault::HangAfterHead)],
    ),
    ("cut, then nonsense", true, &[(SERVICES, Fault::Garbage("{}{}")), (SLICES, Fault::Garbage("]]"))]),
];

fn check(case: &Case, options: ApiOptions) {
    let (name, later, faults) = case;
    let server = server(options);
    let put = || faults.iter().for_each(|(at, fault)| server.fault(at, fault.clone()));
    if !later {
        put();
    }
    let follower = Follower::new(&server, Keep::default(), WAITS);
    if *later {
        follower.until_right(&server, name);
        put();
        server.cut();
    }
    // While that goes on: one more, one changed, one less, and one that is others' from now on.
    server.set(service("new", 100));
    server.set(slice("new", "new-x", &[99]));
    server.set(slice("web-1", "web-1-x", &[77]));
    server.remove("Service", "shop", "web-2");
    server.remove("EndpointSlice", "shop", "web-2-x");
    let mut foreign = service("web-3", 4);
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    server.set(foreign);
    follower.until_right(&server, name);
    // And it goes on following.
    server.set(slice("web-1", "web-1-x", &[78]));
    follower.until_right(&server, name);
    let seen = follower.seen.lock().expect("nobody panicked");
    let slice_key = |name: &str| ObjectKey::Slice(model::ObjectName::new("shop", name));
    let may_go = [shop("web-2"), shop("web-3"), slice_key("web-2-x")];
    let gone: BTreeSet<_> = seen.deleted.iter().filter(|key| !may_go.contains(key)).collect();
    assert!(gone.is_empty(), "{name}: {gone:?} were there all along");
    let (services, slices) = seen.known_when_loaded.expect("it was loaded");
    assert!(services >= 19 && slices >= 19, "{name}: {services} and {slices} when all was said to be known");
}

#[test]
fn with_streamed_lists() {
    CASES.iter().for_each(|case| check(case, ApiOptions::default()));
}

#[test]
fn with_pages() {
    let options = ApiOptions { no_streaming: true, ..ApiOptions::default() };
    CASES.iter().for_each(|case| check(case, options.clone()));
}

#[test]
fn the_server_goes_away_and_comes_back() {
    let server = server(ApiOptions::default());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until_right(&server, "the start");
    for round in 0..5 {
        server.go_away();
        server.set(slice("web-1", "web-1-x", &[round + 10]));
        server.remove("EndpointSlice", "shop", &format!("web-{}-x", round + 4));
        if round % 2 == 1 {
            server.compact();
        }
        follower.until("somebody notices", |seen| seen.problems.iter().any(|p| p.contains("trying again")));
        server.come_back();
        follower.until_right(&server, "it is back");
    }
    assert_eq!(follower.seen.lock().expect("nobody panicked").deleted.len(), 5);
}

#[test]
fn history_is_forgotten() {
    let server = server(ApiOptions::default());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until_right(&server, "the start");
    server.remove("Service", "shop", "web-5");
    server.set(service("late", 120));
    server.compact();
    server.cut();
    follower.until_right(&server, "the history is gone");
    let seen = follower.seen.lock().expect("nobody panicked");
    assert_eq!(seen.deleted, [shop("web-5")]);
}

#[test]
fn storage_is_put_back() {
    let server = server(ApiOptions::default());
    let (old, version) = (server.objects(), server.version());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    server.set(service("after-the-backup", 130));
    server.remove("Service", "shop", "web-6");
    follower.until_right(&server, "the start");
    server.restore(old, version);
    follower.until_right(&server, "the storage is that of before");
    server.set(service("anew", 131));
    follower.until_right(&server, "it goes on");
}

#[test]
fn a_watch_that_hangs_for_ever() {
    let server = server(ApiOptions::default());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until_right(&server, "the start");
    // The next watches answer with a head and nothing else; what happens meanwhile is not told.
    for _ in 0..3 {
        server.fault(SLICES, Fault::HangAfterHead);
    }
    server.cut();
    server.set(slice("web-1", "web-1-x", &[42]));
    follower.until_right(&server, "the third watch that hangs is given up");
    assert_eq!(server.faults_left(), 0);
}

/// One that has just been started refuses everybody until it has read who may what.
#[test]
fn a_server_that_refuses_for_a_moment() {
    let server = server(ApiOptions::default());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until_right(&server, "the start");
    for path in ["/nodes", "/nodes", "/services", "/servicecidrs"] {
        server.fault(path, Fault::Refuse(403, "Forbidden", "not for you, yet"));
    }
    server.cut();
    let mut own = node(NODE);
    own["spec"]["podCIDRs"] = json!(["10.9.0.0/24"]);
    server.set(own);
    server.set(service("meanwhile", 132));
    follower.until_right(&server, "it refuses nobody any more");
    assert_eq!(server.faults_left(), 0);
}

#[test]
fn what_may_be_missing_is_gone_without() {
    let server = server(ApiOptions::default());
    // It asks again after ever longer waits, and is to be refused for as long as the test looks.
    for _ in 0..64 {
        server.fault("/servicecidrs", Fault::Refuse(404, "NotFound", "no such resource"));
        server.fault("/nodes", Fault::Refuse(403, "Forbidden", "not for you"));
    }
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until("all that can be had is", |seen| seen.loaded);
    let seen = follower.seen.lock().expect("nobody panicked");
    assert_eq!((seen.cluster.services().len(), seen.cluster.nodes().count()), (20, 0));
}

#[test]
fn secrets() {
    let tls = ApiOptions { tls: true, ..ApiOptions::default() };
    let cases = [
        tls.clone(),
        ApiOptions { token: Some("secret".into()), ..tls.clone() },
        ApiOptions { certificates: true, ..tls.clone() },
    ];
    for options in cases {
        let server = server(options.clone());
        let follower = Follower::new(&server, Keep::default(), WAITS);
        follower.until_right(&server, &format!("{options:?}"));
    }
    // Who is not believed is not talked to, and who shows nothing is not let in.
    let server = server(ApiOptions { certificates: true, ..tls });
    let kubeconfig: Value = serde_json::from_str(&server.kubeconfig()).expect("JSON");
    let (mut stranger, mut nobody) = (kubeconfig.clone(), kubeconfig);
    let other = self::server(ApiOptions { tls: true, ..ApiOptions::default() });
    let theirs: Value = serde_json::from_str(&other.kubeconfig()).expect("JSON");
    stranger["clusters"][0]["cluster"]["certificate-authority-data"] =
        theirs["clusters"][0]["cluster"]["certificate-authority-data"].clone();
    nobody["users"][0]["user"] = json!({});
    for (kubeconfig, message) in [(stranger, "invalid peer certificate"), (nobody, "ask: ")] {
        let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
        follower.until(message, |seen| seen.problems.iter().any(|problem| problem.contains(message)));
        assert!(!follower.seen.lock().expect("nobody panicked").loaded);
    }
}

#[test]
fn tokens_are_renewed() {
    let server = server(ApiOptions { token: Some("first".into()), ..ApiOptions::default() });
    let directory = std::env::temp_dir().join(format!("portolan-token-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("token");
    std::fs::write(&file, "first\n").expect("a token");
    let mut kubeconfig: Value = serde_json::from_str(&server.kubeconfig()).expect("JSON");
    kubeconfig["users"][0]["user"] = json!({ "tokenFile": file });
    let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
    follower.until_right(&server, "the first token");
    server.set_token("second");
    server.cut();
    server.set(service("late", 120));
    follower.until("the old one is refused", |seen| seen.problems.iter().any(|p| p.contains("401")));
    std::fs::write(&file, "second").expect("a token");
    follower.until_right(&server, "the second token");
    // A command tells who we are, and is asked again when that will not do.
    let script = directory.join("who");
    std::fs::write(&script, "#!/bin/sh\necho '{\"status\":{\"token\":\"'$(cat \"$TOKEN\")'\"}}'\n")
        .expect("a script");
    std::process::Command::new("chmod").arg("755").arg(&script).status().expect("chmod");
    kubeconfig["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": script, "args": null,
        "env": [{"name": "TOKEN", "value": file}], "interactiveMode": "Never",
    }});
    let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
    follower.until_right(&server, "the command's token");
    std::fs::write(&file, "third").expect("a token");
    server.set_token("third");
    server.cut();
    server.set(service("later", 121));
    follower.until_right(&server, "the command's next token");
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn for_somebody_else() {
    let server = server(ApiOptions::default());
    let mut kubeconfig: Value = serde_json::from_str(&server.kubeconfig()).expect("JSON");
    kubeconfig["users"][0]["user"] = json!({"as": "system:kube-proxy", "as-uid": "7", "as-groups": ["a", "b"],
        "as-user-extra": {"Reason": ["why not"]}});
    let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
    follower.until_right(&server, "as somebody else");
    let wanted =
        [("extra-reason", "why not"), ("group", "a, b"), ("uid", "7"), ("user", "system:kube-proxy")];
    let found: Vec<_> = server.impersonated().into_iter().collect();
    assert_eq!(found, wanted.map(|(name, value)| (format!("impersonate-{name}"), value.to_owned())));
}

/// A proxy that knows both CONNECT and SOCKS5, and how each connection through it began. It ends with
/// the process.
fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = listener.local_addr().expect("an address");
    let begun: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = begun.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let note = note.clone();
            std::thread::spawn(move || pass_on(client, &note));
        }
    });
    (address, begun)
}

fn pass_on(mut client: TcpStream, note: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut first = [0; 1];
    client.peek(&mut first)?;
    let (to, begin) = if first == [5] {
        let (mut hello, mut request) = ([0; 3], [0; 10]);
        client.read_exact(&mut hello)?;
        client.write_all(b"\x05\x00")?;
        client.read_exact(&mut request)?;
        client.write_all(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x01")?;
        let [.., a, b, c, d, high, low] = request;
        note.lock().expect("nobody panicked").push("socks".into());
        (SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))), vec![])
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0; 1];
            client.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let target = text.split(' ').nth(1).expect("a target").trim_start_matches("http://");
        let to = target.split('/').next().and_then(|place| place.parse().ok()).expect("a place");
        let connects = text.starts_with("CONNECT ");
        note.lock().expect("nobody panicked").push(text);
        if connects {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        }
        (to, if connects { vec![] } else { head })
    };
    let mut server = TcpStream::connect(to)?;
    server.write_all(&begin)?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    drop(back.join());
    Ok(())
}

#[test]
fn through_a_proxy() {
    for (scheme, tls, begins) in [
        ("http", true, "CONNECT 127.0.0.1:"),
        ("http", false, "GET http://127.0.0.1:"),
        ("socks5", true, "socks"),
    ] {
        let server = server(ApiOptions { tls, ..ApiOptions::default() });
        let (address, begun) = proxy();
        let mut kubeconfig: Value = serde_json::from_str(&server.kubeconfig()).expect("JSON");
        let user = if scheme == "http" { "me:secret@" } else { "" };
        kubeconfig["clusters"][0]["cluster"]["proxy-url"] = format!("{scheme}://{user}{address}").into();
        let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
        follower.until_right(&server, scheme);
        server.cut();
        server.set(service("late", 120));
        follower.until_right(&server, "on another connection");
        let begun = begun.lock().expect("nobody panicked").clone();
        assert!(!begun.is_empty() && begun.iter().all(|head| head.starts_with(begins)), "{begun:?}");
        let secret = "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n";
        assert!(scheme != "http" || begun.iter().all(|head| head.contains(secret)), "{begun:?}");
    }
    // One that is not there is named.
    let server = server(ApiOptions::default());
    let mut kubeconfig: Value = serde_json::from_str(&server.kubeconfig()).expect("JSON");
    kubeconfig["clusters"][0]["cluster"]["proxy-url"] = "http://127.0.0.1:1".into();
    let follower = Follower::with(&kubeconfig.to_string(), Keep::default(), WAITS);
    let message = "http://127.0.0.1:1: Connection refused";
    follower.until(message, |seen| seen.problems.iter().any(|problem| problem.contains(message)));
}

#[test]
fn objects_that_make_no_sense_cost_themselves() {
    let server = server(ApiOptions::default());
    let mut bad = service("bad", 150);
    bad["spec"]["clusterIP"] = "10.96.0.300".into();
    bad["spec"]["clusterIPs"] = json!(["10.96.0.300"]);
    server.set(bad);
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until("the others are there", |seen| seen.loaded && seen.cluster.services().len() == 20);
    let count =
        |seen: &Seen| seen.problems.iter().filter(|problem| problem.contains("Service shop/bad")).count();
    follower.until("it is told", |seen| count(seen) == 1);
    // What was right stays when its next version is wrong, and that is one more error.
    let mut worse = service("web-1", 2);
    worse["spec"]["clusterIPs"] = json!(["none of the kind"]);
    worse["spec"]["clusterIP"] = "none of the kind".into();
    server.set(worse);
    follower.until("both are counted", |seen| seen.errors == 2);
    assert!(follower.seen.lock().expect("nobody panicked").deleted.is_empty());
    // Listing anew tells nothing twice.
    server.compact();
    server.cut();
    server.set(service("late", 120));
    follower
        .until("it goes on", |seen| seen.cluster.service(&model::ObjectName::new("shop", "late")).is_some());
    server.set(service("web-1", 2));
    follower.until("it is mended", |seen| seen.errors == 1 && seen.cluster == expected(&server));
    assert_eq!(count(&follower.seen.lock().expect("nobody panicked")), 1);
}

#[test]
fn names_ask_for_more() {
    let server = server(ApiOptions::default());
    server.set(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"a": "b"}}}),
    );
    let follower = Follower::new(&server, Keep { names: true, ..Keep::default() }, WAITS);
    follower.until("all is there", |seen| seen.loaded);
    let seen = follower.seen.lock().expect("nobody panicked");
    assert_eq!((seen.cluster.services().len(), seen.cluster.namespaces().count()), (22, 1));
}

#[test]
fn moments_of_slices_are_handed_over() {
    let server = server(ApiOptions::default());
    let follower = Follower::new(&server, Keep::default(), WAITS);
    follower.until_right(&server, "the start");
    let before = follower.seen.lock().expect("nobody panicked").triggers;
    server.set(slice("web-1", "web-1-x", &[55]));
    follower.until("it is told", |seen| seen.triggers == before + 1);
}

#[test]
fn imports_instead_of_all_else() {
    let server = server(ApiOptions::default());
    let mut imported = slice("", "imported", &[1, 2]);
    imported["metadata"]["labels"] = json!({
        "kubernetes.io/service-name": "web-1",
        "multicluster.kubernetes.io/service-name": "far",
        "multicluster.kubernetes.io/source-cluster": "east",
    });
    server.set(imported);
    let import = |kind: &str, ips: &[&str]| {
        json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
            "metadata": {"name": "far", "namespace": "shop"},
            "spec": {"type": kind, "ips": ips, "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
        })
    };
    // Few clusters know the kind. One may come to know it.
    server.fault("/serviceimports", Fault::Refuse(404, "NotFound", "no such resource"));
    server.fault("/serviceimports", Fault::Refuse(404, "NotFound", "no such resource"));
    let keep = Keep { names: true, imports: true, ..Keep::default() };
    let follower = Follower::new(&server, keep, WAITS);
    follower.until("all that can be had is", |seen| seen.loaded);
    server.set(import("ClusterSetIP", &["10.112.0.1", "fd00::1"]));
    let far = model::ObjectName::new("shop", "far");
    let kind = |seen: &Seen| {
        seen.cluster.service(&far).map(|service| (service.kind.clone(), service.cluster_ips.len()))
    };
    follower.until("it is there", |seen| kind(seen) == Some((model::ServiceKind::ClusterIp, 2)));
    {
        let seen = follower.seen.lock().expect("nobody panicked");
        assert!(
            seen.problems
                .iter()
                .any(|what| what.contains("ServiceImports") && what.contains("going on without"))
        );
        assert_eq!((seen.cluster.services().len(), seen.cluster.all_slices().count()), (1, 1));
        let slice = seen.cluster.slices(&far).next().expect("its slice");
        assert_eq!(slice.source_cluster().map(|cluster| &**cluster), Some("east"));
    }
    server.set(import("Headless", &[]));
    follower.until("it is headless", |seen| kind(seen) == Some((model::ServiceKind::Headless, 0)));
    server.set(import("Elsewhere", &[]));
    // What makes no sense leaves what was known.
    follower.until("it makes no sense", |seen| kind(seen).is_some() && seen.errors == 1);
    server.remove("ServiceImport", "shop", "far");
    follower.until("it is gone", |seen| kind(seen).is_none() && seen.errors == 0);
}
