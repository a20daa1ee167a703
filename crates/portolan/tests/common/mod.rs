//! A small cluster in namespaces with the real program on one of its nodes, for tests of what
//! happens while connections flow.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod dns;
pub(crate) mod local;

use lab::api::{ApiOptions, ApiServer};
use lab::{Host, Lab, Node, Process, Protocol, Server};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The ClusterIP of the Service under test.
pub(crate) const CLUSTER_IP: &str = "10.96.0.10";
/// Its NodePort.
pub(crate) const NODE_PORT: u16 = 30080;
/// The port of its backends.
const BACKEND_PORT: u16 = 8080;

/// Two nodes, pods on both, a client outside, and one Service, `shop/web`.
pub(crate) struct Bench {
    lab: Lab,
    pub(crate) node: Node,
    other: Node,
    pub(crate) outside: Host,
    pub(crate) client: Host,
    pub(crate) backends: Vec<Host>,
    servers: Vec<Option<Server>>,
    pub(crate) manifests: PathBuf,
    program: Option<Process>,
    mode: &'static str,
    configuration: Option<String>,
    environment: Vec<(&'static str, String)>,
}

impl Bench {
    pub(crate) fn new(mode: &'static str, backends: usize) -> Bench {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let manifests = std::env::temp_dir().join(format!("portolan-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&manifests).expect("a directory for manifests");
        let mut lab = Lab::new().expect("a lab (are you root?)");
        let node = lab.node("node-a").expect("a node");
        let other = lab.node("node-b").expect("a node");
        let client = lab.pod(&node, "client").expect("a pod");
        let outside = lab.outside("outside").expect("an outside client");
        let mut hosts = Vec::new();
        let mut servers = Vec::new();
        for index in 0..backends {
            let place = if index % 2 == 0 { &node } else { &other };
            let pod = lab.pod(place, &format!("web-{index}")).expect("a pod");
            servers.push(Some(pod.serve(Protocol::Tcp, BACKEND_PORT).expect("a server")));
            hosts.push(pod);
        }
        let bench = Bench {
            lab,
            node,
            other,
            outside,
            client,
            backends: hosts,
            servers,
            manifests,
            program: None,
            mode,
            configuration: None,
            environment: Vec::new(),
        };
        bench.write("node.yaml", &format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-a}}\nstatus: {{addresses: [{{type: InternalIP, address: {}}}]}}\n",
            bench.node.ipv4()
        ));
        bench.write("service.yaml", &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  type: NodePort\n  clusterIP: {CLUSTER_IP}\n  ports: [{{name: http, port: 80, nodePort: {NODE_PORT}}}]\n"
        ));
        bench.endpoints(&(0..backends).collect::<Vec<_>>());
        bench
    }

    pub(crate) fn cluster_ip(&self) -> SocketAddr {
        SocketAddr::new(CLUSTER_IP.parse().expect("an address"), 80)
    }

    pub(crate) fn node_port(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.node.ipv4()), NODE_PORT)
    }

    /// The Service's endpoints are now these, by number.
    pub(crate) fn endpoints(&self, ready: &[usize]) {
        self.endpoints_with(ready, &[]);
    }

    /// The same, and others that are terminating and still serve.
    pub(crate) fn endpoints_with(&self, ready: &[usize], terminating: &[usize]) {
        let mut text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  namespace: shop\n  labels: {kubernetes.io/service-name: web}\naddressType: IPv4\nports: [{name: http, port: 8080, protocol: TCP}]\nendpoints:\n".to_owned();
        let all = ready.iter().map(|index| (index, "ready: true"));
        for (index, conditions) in all
            .chain(terminating.iter().map(|index| (index, "ready: false, serving: true, terminating: true")))
        {
            let node = if index % 2 == 0 { "node-a" } else { "node-b" };
            let ip = self.backends[*index].ipv4();
            text += &format!("- {{addresses: [{ip}], conditions: {{{conditions}}}, nodeName: {node}}}\n");
        }
        self.write("slice.yaml", &text);
    }

    /// Under load, so many backends at a time are replaced one by one until all have had their turn, as a
    /// Deployment does it: a new one comes, an old one is told to end, and ends when it has nothing to
    /// do. `is` says whether a backend, by its address, serves or is done.
    pub(crate) fn roll(
        &mut self,
        at_a_time: usize,
        load: impl Fn(&Bench) -> lab::Running,
        is: impl Fn(&Bench, &str, bool) -> bool,
    ) -> lab::Report {
        let mut ready: Vec<usize> = (0..at_a_time).collect();
        self.endpoints(&ready);
        self.start();
        let load = load(self);
        // The first must have been met before it leaves, or nobody can say that all were.
        std::thread::sleep(Duration::from_millis(500));
        for new in at_a_time..self.backends.len() {
            ready.push(new);
            self.endpoints(&ready);
            let ip = self.backends[new].ipv4().to_string();
            self.until("the new one serves", |bench| is(bench, &ip, true));
            let old = ready.remove(0);
            self.endpoints_with(&ready, &[old]);
            let ip = self.backends[old].ipv4().to_string();
            self.until("the old one has nothing to do", |bench| is(bench, &ip, false));
            // What has been sent and not yet been seen by anybody.
            std::thread::sleep(Duration::from_secs(1));
            self.servers[old] = None;
            self.endpoints(&ready);
        }
        load.stop().expect("a report")
    }

    /// Nobody serves at this backend any more.
    pub(crate) fn hang_up(&mut self, index: usize) {
        self.servers[index] = None;
    }

    /// Somebody does again.
    pub(crate) fn serve(&mut self, index: usize) {
        let server = self.backends[index].serve(Protocol::Tcp, BACKEND_PORT).expect("a server");
        self.servers[index] = Some(server);
    }

    /// In place of a backend's server there is one that does not take its connections.
    pub(crate) fn clog(&mut self, index: usize) -> Queue {
        self.hang_up(index);
        Queue::new(&self.backends[index])
    }

    /// The other node, with all its pods, loses its cable.
    pub(crate) fn unplug(&self) {
        self.lab.unplug(&self.other).expect("it had one");
    }

    /// And has it back.
    pub(crate) fn plug(&self) {
        self.lab.plug(&self.other).expect("it had one");
    }

    /// One more pod beside the client.
    pub(crate) fn another_client(&mut self) -> Host {
        self.lab.pod(&self.node, "another-client").expect("a pod")
    }

    /// Files come into being whole, as they do from a careful editor.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.manifests.join(name);
        let draft = self.manifests.join(format!(".{name}"));
        fs::write(&draft, text).expect("a manifest");
        fs::rename(&draft, &path).expect("a manifest");
    }

    /// Starts the program and returns once the Service answers.
    pub(crate) fn start(&mut self) {
        self.spawn();
        self.until("the Service answers", |bench| {
            bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok()
        });
    }

    /// From the next start on, the program works in this mode.
    pub(crate) fn set_mode(&mut self, mode: &'static str) {
        self.mode = mode;
    }

    /// From the next start on, the program has this in its environment.
    pub(crate) fn set_environment(&mut self, name: &'static str, value: String) {
        self.environment.push((name, value));
    }

    /// From the next start on, virtual servers that are leaving go after this time.
    pub(crate) fn set_drain_limit(&mut self, limit: &str) {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n---\n\
             apiVersion: portolan.dev/v1alpha1\nkind: PortolanConfiguration\nipvs: {{drainLimit: {limit}}}\n"
        );
        self.set_configuration(&text);
    }

    /// From the next start on, this is the program's configuration.
    pub(crate) fn set_configuration(&mut self, text: &str) {
        self.configuration = Some(self.file("configuration", text).display().to_string());
    }

    /// Starts the program and does not wait.
    pub(crate) fn spawn(&mut self) {
        let manifests = self.manifests.display().to_string();
        self.run(self.mode, &["--manifests", &manifests]);
    }

    /// Starts the program under a name, with these arguments, and does not wait.
    pub(crate) fn spawn_as(&mut self, name: &str, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.arg0(name).args(arguments).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.program = Some(self.node.spawn(&mut command).expect("the program starts"));
    }

    /// Waits until the program ends by itself, and says with which code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let program = self.program.as_mut().expect("it was started");
        program.child().wait().expect("it can be waited for").code()
    }

    /// A file of this test's own.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, text);
        self.manifests.join(name)
    }

    /// Ends the program as a crash would.
    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&mut self, name: &str) {
        let id = self.program.as_mut().expect("it was started").child().id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill is installed");
        assert!(status.success(), "kill -s {name}: {status}");
    }

    /// Waits for something to come about.
    pub(crate) fn until(&self, what: &str, mut is: impl FnMut(&Bench) -> bool) {
        let begin = Instant::now();
        while !is(self) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is served at this address of the node: the whole answer, with its head.
    pub(crate) fn curl(&self, url: &str) -> String {
        self.tool(&format!("curl --silent --show-error --include --max-time 20 {url}"))
    }

    /// Whether anybody answers there, with a success.
    pub(crate) fn is_served(&self, url: &str) -> bool {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "20", "--output", "/dev/null", url]);
        let mut process = self.node.spawn(curl.stdin(Stdio::null())).expect("curl is installed");
        process.child().wait().expect("it ends").success()
    }

    /// Has a tool read this text, in the node's namespace. It must succeed.
    pub(crate) fn feed(&self, command: &str, text: &str) {
        let mut words = command.split_whitespace();
        let mut tool = Command::new(words.next().expect("a tool"));
        tool.args(words).stdin(Stdio::piped());
        let mut process = self.node.spawn(&mut tool).expect("the tool is installed");
        let mut input = process.child().stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut input, text.as_bytes()).expect("it is read");
        drop(input);
        let status = process.child().wait().expect("it ends");
        assert!(status.success(), "{command}: {status}");
    }

    /// An API server on the node, which tells of the node and of the Service with all backends, and the
    /// kubeconfig that leads there.
    pub(crate) fn api(&self) -> (ApiServer, String) {
        let start = || ApiServer::start(SocketAddr::from(([127, 0, 0, 1], 6443)), ApiOptions::default());
        let server = self.node.run(start).expect("the host is there").expect("a server");
        server.set(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "status": {"addresses": [{"type": "InternalIP", "address": self.node.ipv4()}]}}));
        server.set(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "NodePort", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": NODE_PORT}]}}),
        );
        let endpoints: Vec<_> =
            self.backends.iter().map(|host| json!({"addresses": [host.ipv4()]})).collect();
        server.set(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}));
        let kubeconfig = self.file("kubeconfig", &server.kubeconfig()).display().to_string();
        (server, kubeconfig)
    }

    /// Starts the program in this mode, for a cluster that is told of by an API server.
    pub(crate) fn spawn_in_cluster(&mut self, mode: &str, kubeconfig: &str) {
        self.run(mode, &["--kubeconfig", kubeconfig]);
    }

    /// Starts `portolan run` on the node with these arguments, and does not wait.
    pub(crate) fn run(&mut self, mode: &str, more: &[&str]) {
        let configuration = self.configuration.clone();
        let mut arguments = vec!["run", "--mode", mode, "--hostname-override", "node-a"];
        arguments.extend(more);
        arguments.extend(configuration.iter().flat_map(|file| ["--config", file]));
        self.spawn_as("portolan", &arguments);
    }

    /// What a tool prints in the node's namespace. It must succeed.
    pub(crate) fn tool(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let mut tool = Command::new(words.next().expect("a tool"));
        tool.args(words).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = self.node.spawn(&mut tool).expect("the tool is installed");
        let mut text = String::new();
        let mut out = process.child().stdout.take().expect("a pipe");
        std::io::Read::read_to_string(&mut out, &mut text).expect("text");
        let status = process.child().wait().expect("it ends");
        assert!(status.success(), "{command}: {status}");
        text
    }
}

/// A server's queue of connections that nobody takes, short enough to be filled.
pub(crate) struct Queue {
    host: Host,
    flows: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    waiting: std::sync::Mutex<Vec<Socket>>,
}

impl Queue {
    fn new(host: &Host) -> Queue {
        let listener = host.run(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
            listener.set_reuse_address(true).expect("a free socket");
            let at = SocketAddr::from(([0, 0, 0, 0], BACKEND_PORT));
            listener.bind(&at.into()).expect("a free port");
            listener.listen(1).expect("a bound socket");
            listener
        });
        let listener = listener.expect("its namespace");
        let (flows, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (flowing, ending) = (flows.clone(), ends.clone());
        std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                while flowing.load(Ordering::Relaxed) && listener.accept().is_ok() {}
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let queue = Queue { host: host.clone(), flows, ends, waiting: Default::default() };
        queue.fill();
        queue
    }

    /// It is full, and stays so.
    pub(crate) fn fill(&self) {
        self.flows.store(false, Ordering::Relaxed);
        let at = SocketAddr::new(IpAddr::V4(self.host.ipv4()), BACKEND_PORT);
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
            let _ = socket.connect(&at.into());
            socket
        };
        let sockets = self.host.run(|| (0..8).map(|_| connect()).collect::<Vec<_>>());
        self.waiting.lock().expect("one thread").extend(sockets.expect("its namespace"));
    }

    /// Whoever waits is taken, and whoever comes.
    pub(crate) fn drain(&self) {
        self.flows.store(true, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.manifests);
    }
}
