//! The demo's cluster: hosts, the manifests that say what they are, and the daemons that read them.

use super::hosts::{DNS, HTTP, Hosts, METRICS, Pod, WEB};
use crate::daemon::{Daemon, Line};
use crate::error::Error;
use crate::janitor::{Janitor, Scratch};
use lab::Node;
use serde_json::{Value, json};
use std::time::Duration;

/// The Services, as anybody would write them.
const SERVICES: &str = include_str!("services.yaml");
/// What stands in them for the one client that `shop/members` admits.
const VISITOR: &str = "VISITOR";
/// How long the daemon may take for anything; a virtual machine may be slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The pods behind a Service, and the ports at which they serve it.
struct Endpoints {
    namespace: &'static str,
    service: &'static str,
    ports: &'static [(&'static str, u16)],
    pods: &'static [&'static str],
}

const fn endpoints(
    (namespace, service): (&'static str, &'static str),
    ports: &'static [(&'static str, u16)],
    pods: &'static [&'static str],
) -> Endpoints {
    Endpoints { namespace, service, ports, pods }
}

const ENDPOINTS: [Endpoints; 12] = [
    endpoints(("shop", "web"), &[HTTP], &WEB),
    endpoints(("shop", "door"), &[HTTP], &WEB),
    endpoints(("shop", "front"), &[HTTP], &WEB),
    endpoints(("shop", "members"), &[HTTP], &WEB),
    endpoints(("shop", "legacy"), &[HTTP], &WEB),
    endpoints(("shop", "cart"), &[HTTP], &WEB),
    endpoints(("shop", "agent"), &[HTTP], &["web-1", "web-2"]),
    endpoints(("shop", "guests"), &[HTTP], &["web-1"]),
    endpoints(("shop", "solo"), &[HTTP], &["web-1"]),
    endpoints(("shop", "stats"), &[HTTP, METRICS], &WEB),
    endpoints(("shop", "db"), &[("sql", 5432)], &["web-1"]),
    endpoints(("kube-system", "dns"), &[DNS], &["dns-1", "dns-2"]),
];

/// A whole small cluster. It goes when this value goes.
pub(super) struct Cluster {
    pub(super) hosts: Hosts,
    daemons: Vec<Daemon>,
    manifests: Scratch,
    mode: String,
    flags: Vec<String>,
    janitor: Janitor,
}

impl Cluster {
    /// Makes it, with a daemon on each node that has yet to say that it is ready.
    pub(super) fn new(mode: &str, janitor: &Janitor) -> Result<Cluster, Error> {
        Cluster::with(mode, &[], janitor)
    }

    /// The same with these flags for the daemons.
    pub(super) fn with(mode: &str, flags: &[&str], janitor: &Janitor) -> Result<Cluster, Error> {
        let manifests = janitor.directory(&std::env::temp_dir(), "demo")?;
        let hosts = Hosts::new()?;
        let (daemons, mode, janitor) = (Vec::new(), mode.to_owned(), janitor.clone());
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut cluster = Cluster { hosts, daemons, manifests, mode, flags, janitor };
        cluster.describe()?;
        for place in 0..cluster.hosts.nodes.len() {
            let daemon = cluster.daemon(place)?;
            cluster.daemons.push(daemon);
        }
        Ok(cluster)
    }

    fn daemon(&self, place: usize) -> Result<Daemon, Error> {
        let node = self.hosts.nodes.get(place).ok_or(Error::Demo(format!("there is no node {place}")))?;
        Daemon::start(node, &self.mode, self.manifests.path(), &self.flags, &self.janitor)
    }

    /// Waits until each daemon has told of this, and says what the first one said.
    pub(super) fn wait(&mut self, word: &str) -> Result<Option<Line>, Error> {
        let mut first = None;
        for daemon in &mut self.daemons {
            let line = daemon.wait(word, PATIENCE)?;
            first = first.or(Some(line));
        }
        Ok(first)
    }

    /// The first line that the daemon on node-a has written already, that begins with this word and fits.
    pub(super) fn heard(&mut self, word: &str, fits: impl Fn(&Line) -> bool) -> Option<Line> {
        self.daemons.first_mut()?.heard(word, fits)
    }

    /// Kills the daemon on node-a, as a crash would; says what it had complained about.
    pub(super) fn kill(&mut self) -> Vec<String> {
        if self.daemons.is_empty() {
            return Vec::new();
        }
        self.daemons.remove(0).complaints()
    }

    /// Starts it again, and waits until it is ready.
    pub(super) fn revive(&mut self) -> Result<Line, Error> {
        let mut daemon = self.daemon(0)?;
        let line = daemon.wait("synced", PATIENCE)?;
        self.daemons.insert(0, daemon);
        Ok(line)
    }

    /// What the daemons have complained about since last asked.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        self.daemons.iter_mut().flat_map(Daemon::complaints).collect()
    }

    /// The process on node-a, through which one can look inside.
    pub(super) fn process(&mut self) -> Option<u32> {
        self.daemons.first_mut().map(Daemon::id)
    }

    //--- Manifests

    fn describe(&self) -> Result<(), Error> {
        let visitor = self.hosts.find("visitor")?.ipv4();
        self.write("services.yaml", &SERVICES.replace(VISITOR, &format!("{visitor}/32")))?;
        for node in &self.hosts.nodes {
            let manifest = node_manifest(node);
            self.write(&format!("{}.json", node.name()), &manifest.to_string())?;
        }
        for Endpoints { namespace, service, ports, pods } in ENDPOINTS {
            self.endpoints(namespace, service, ports, pods)?;
        }
        Ok(())
    }

    /// The pods behind `shop/web` are these from now on.
    pub(super) fn set_web(&self, pods: &[&str]) -> Result<(), Error> {
        self.endpoints("shop", "web", &[HTTP], pods)
    }

    /// Writes the EndpointSlices of a Service, one a family, in one file: they change together.
    fn endpoints(
        &self,
        namespace: &str,
        service: &str,
        ports: &[(&str, u16)],
        pods: &[&str],
    ) -> Result<(), Error> {
        let protocol = if ports == [DNS] { "UDP" } else { "TCP" };
        let port = |(name, port): &(&str, u16)| json!({"name": name, "port": port, "protocol": protocol});
        let ports: Vec<Value> = ports.iter().map(port).collect();
        let slice = |family: &str| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": namespace,
                    "name": format!("{service}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": family,
                "ports": ports,
                "endpoints": self.endpoints_of(family, pods),
            })
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [slice("IPv4"), slice("IPv6")]});
        self.write(&format!("{namespace}-{service}.json"), &list.to_string())
    }

    fn endpoints_of(&self, family: &str, pods: &[&str]) -> Vec<Value> {
        let Hosts { nodes, pods: all, .. } = &self.hosts;
        let endpoint = |pod: &Pod| {
            let mut addresses = pod.host.addresses().into_iter();
            let address = addresses.find(|address| address.is_ipv4() == (family == "IPv4"))?;
            let node = nodes.get(pod.node)?.name();
            Some(json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
        };
        all.iter().filter(|pod| pods.contains(&pod.host.name())).filter_map(endpoint).collect()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        self.manifests.replace(name, text.as_bytes()).map_err(|e| Error::Start("write a manifest", e))
    }
}

fn node_manifest(node: &Node) -> Value {
    let addresses: Vec<Value> =
        node.addresses().iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    let networks: Vec<String> = node.pod_networks().iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name()},
        "spec": {"podCIDRs": networks},
        "status": {"addresses": addresses},
    })
}
