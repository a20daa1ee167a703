//! Taking over, from ourselves in another mode and from a kube-proxy, while connections flow: at every
//! moment somebody answers, and in the end nothing is left of who was there before. (IPVS is in `ipvs.rs`.)

mod common;

use common::{Bench, CLUSTER_IP, NODE_PORT};
use lab::api::ApiServer;
use lab::{Load, Protocol, Running};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long connections flow before and after a change.
const WHILE: Duration = Duration::from_millis(700);

/// From a pod by the ClusterIP, from outside by the NodePort.
fn loads(bench: &Bench) -> [Running; 2] {
    let load = |to: SocketAddr| Load::new(Protocol::Tcp, to).per_second(100);
    let inside = load(bench.cluster_ip()).start(&[&bench.client]).expect("a load");
    [inside, load(bench.node_port()).start(&[&bench.outside]).expect("a load")]
}

fn none_failed(loads: [Running; 2]) {
    std::thread::sleep(WHILE);
    for load in loads {
        let report = load.stop().expect("a report");
        assert_eq!(report.failed(), 0, "{report}");
        assert!(report.answered() > 40, "{report}");
    }
}

/// Nothing in the node's iptables leads to, or is, a proxy's.
fn iptables_are_empty(bench: &Bench) -> bool {
    let saves = ["iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save"];
    saves.iter().all(|save| {
        let saved = bench.tool(save);
        !saved.lines().any(|line| line.contains("KUBE-") && !line.contains("KUBE-KUBELET-CANARY"))
    })
}

/// The tables of mode nftables are there.
fn has_tables(bench: &Bench) -> bool {
    bench.tool("nft list tables").lines().any(|line| line == "table ip portolan")
}

#[test]
fn our_own_mode_changes_under_load() {
    let mut bench = Bench::new("nftables", 4);
    bench.start();
    let flowing = loads(&bench);
    for mode in ["iptables", "nftables", "iptables"] {
        bench.kill();
        bench.set_mode(mode);
        bench.spawn();
        bench.until(&format!("only {mode} is there"), |bench| match mode {
            "iptables" => !has_tables(bench) && !iptables_are_empty(bench),
            _ => has_tables(bench) && iptables_are_empty(bench),
        });
        std::thread::sleep(WHILE);
    }
    none_failed(flowing);
    bench.kill();
    bench.spawn_as("portolan", &["cleanup"]);
    assert_eq!(bench.ended(), Some(0));
    assert!(iptables_are_empty(&bench) && !has_tables(&bench));
}

/// A cluster with an API server, whose Service a kube-proxy routed.
struct After {
    bench: Bench,
    _server: ApiServer,
    kubeconfig: String,
}

impl After {
    fn new(mode: &'static str) -> After {
        let bench = Bench::new(mode, 2);
        let (server, kubeconfig) = bench.api();
        After { bench, _server: server, kubeconfig }
    }

    fn take_over(&mut self, mode: &str) {
        self.bench.spawn_in_cluster(mode, &self.kubeconfig);
    }

    /// What kube-proxy leaves in mode iptables.
    fn chains(&self) -> String {
        let [first, second] = [0, 1].map(|index| self.bench.backends[index].ipv4());
        let node = IpAddr::V4(self.bench.node.ipv4());
        let endpoint = |name: &str, ip| {
            format!(
                "-A KUBE-SEP-{name} -s {ip}/32 -m comment --comment \"shop/web:http\" -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name} -p tcp -m comment --comment \"shop/web:http\" -m tcp -j DNAT --to-destination {ip}:8080\n"
            )
        };
        let (a, b) = ("AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB");
        let service = "FMUEQCDTXFUELH6W";
        format!(
            "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
             *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
             :KUBE-NODEPORTS - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n\
             -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL\n\
             -A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
             -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
             -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
             -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A KUBE-SERVICES -d 10.96.0.99/32 -p tcp -m comment --comment \"shop/none has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             COMMIT\n\
             *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
             :KUBE-PROXY-CANARY - [0:0]\n:KUBE-SVC-{service} - [0:0]\n:KUBE-EXT-{service} - [0:0]\n\
             :KUBE-SEP-{a} - [0:0]\n:KUBE-SEP-{b} - [0:0]\n\
             -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
             -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
             -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-SERVICES -d {CLUSTER_IP}/32 -p tcp -m comment --comment \"shop/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{service}\n\
             -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             -A KUBE-NODEPORTS -d {node}/32 -p tcp -m comment --comment \"shop/web:http\" -m tcp --dport {NODE_PORT} -j KUBE-EXT-{service}\n\
             -A KUBE-EXT-{service} -m comment --comment \"masquerade traffic for shop/web:http external destinations\" -j KUBE-MARK-MASQ\n\
             -A KUBE-EXT-{service} -j KUBE-SVC-{service}\n\
             -A KUBE-SVC-{service} -m comment --comment \"shop/web:http -> {first}:8080\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-{a}\n\
             -A KUBE-SVC-{service} -m comment --comment \"shop/web:http -> {second}:8080\" -j KUBE-SEP-{b}\n\
             {}{}COMMIT\n",
            endpoint(a, first),
            endpoint(b, second),
        )
    }
}

fn after_kube_proxys_chains(kind: &str, mode: &'static str) {
    let mut after = After::new(mode);
    after.bench.feed(&format!("iptables-{kind}-restore --noflush"), &after.chains());
    let flowing = loads(&after.bench);
    std::thread::sleep(WHILE);
    after.take_over(mode);
    after.bench.until("ours alone is there", |bench| match mode {
        // What it left is ours now; what no Service asks for is gone.
        "iptables" => {
            let saved = bench.tool(&format!("iptables-{kind}-save"));
            saved.contains("-j KUBE-CLUSTER-IPS") && !saved.contains("KUBE-SEP-AAAAAAAAAAAAAAAA")
        }
        _ => has_tables(bench) && iptables_are_empty(bench),
    });
    none_failed(flowing);
}

#[test]
fn after_kube_proxys_legacy_chains() {
    after_kube_proxys_chains("legacy", "nftables");
}

#[test]
fn after_kube_proxys_nft_chains() {
    after_kube_proxys_chains("nft", "nftables");
}

#[test]
fn kube_proxys_legacy_chains_are_taken_over() {
    after_kube_proxys_chains("legacy", "iptables");
}

#[test]
fn kube_proxys_nft_chains_are_taken_over() {
    after_kube_proxys_chains("nft", "iptables");
}

/// What kube-proxy leaves in mode nftables, for one Service.
fn table(after: &After) -> String {
    let [first, second] = [0, 1].map(|index| after.bench.backends[index].ipv4());
    let node = after.bench.node.ipv4();
    format!(
        "table ip kube-proxy {{\n\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n\
           elements = {{ {CLUSTER_IP} . tcp . 80 : goto service-web }} }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict\n\
           elements = {{ tcp . {NODE_PORT} : goto external-web }} }}\n\
         set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}\n\
         chain service-web {{ meta l4proto tcp dnat ip addr . port to numgen random mod 2 map {{ 0 : {first} . 8080, 1 : {second} . 8080 }}; }}\n\
         chain external-web {{ meta mark set mark or 0x4000; goto service-web; }}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips\n\
           ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
           mark and 0x4000 != 0 meta mark set mark xor 0x4000 masquerade fully-random; }}\n\
         }}\n"
    )
}

#[test]
fn after_kube_proxys_nftables() {
    for mode in ["nftables", "iptables"] {
        let mut after = After::new(mode);
        let text = table(&after);
        after.bench.feed("nft -f -", &text);
        let flowing = loads(&after.bench);
        std::thread::sleep(WHILE);
        after.take_over(mode);
        after.bench.until("kube-proxy's table is gone", |bench| {
            !bench.tool("nft list tables").contains("kube-proxy")
        });
        none_failed(flowing);
    }
}

/// Manifests may be of a few Services beside those of the cluster.
#[test]
fn with_manifests_a_kube_proxy_is_left_alone() {
    let mut after = After::new("nftables");
    after.bench.feed("iptables-nft-restore --noflush", &after.chains());
    let text = table(&after);
    after.bench.feed("nft -f -", &text);
    after.bench.spawn();
    after.bench.until("ours is there", has_tables);
    std::thread::sleep(WHILE);
    assert!(after.bench.tool("nft list tables").contains("ip kube-proxy"));
    assert!(after.bench.tool("iptables-nft-save").contains("-j KUBE-SEP-AAAAAAAAAAAAAAAA"));
}

/// The way back: a kube-proxy has written its chains over ours, and ours is cleaned up.
#[test]
fn cleaning_up_after_a_kube_proxy_has_come_back() {
    for kind in ["legacy", "nft"] {
        let mut after = After::new("iptables");
        after.bench.tool(&format!("iptables-{kind} -t mangle -N KUBE-KUBELET-CANARY"));
        after.bench.start();
        after.bench.until("all is written", |bench| {
            bench.tool(&format!("iptables-{kind}-save")).contains("-A KUBE-CLUSTER-IPS -d 10.96.0.10/32")
        });
        after.bench.kill();
        let flowing = loads(&after.bench);
        // A kube-proxy has the rules that lead to its chains already, where ours made them.
        let chains: String = after
            .chains()
            .lines()
            .filter(|line| {
                !["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"]
                    .iter()
                    .any(|hook| line.starts_with(&format!("-A {hook} ")))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        after.bench.feed(&format!("iptables-{kind}-restore --noflush"), &chains);
        after.bench.spawn_as("portolan", &["cleanup"]);
        assert_eq!(after.bench.ended(), Some(0));
        let saved = after.bench.tool(&format!("iptables-{kind}-save"));
        assert!(!saved.contains("KUBE-CLUSTER-IPS") && !saved.contains("KUBE-REFUSE"), "{saved}");
        none_failed(flowing);
    }
}

/// As kube-proxy's `--cleanup`: whatever a kube-proxy of any mode has left.
#[test]
fn cleanup_as_kube_proxy() {
    let mut after = After::new("nftables");
    after.bench.feed("iptables-legacy-restore --noflush", &after.chains());
    after.bench.feed("iptables-nft-restore --noflush", &after.chains());
    let text = table(&after);
    after.bench.feed("nft -f -", &text);
    after.bench.spawn_as("kube-proxy", &["--cleanup"]);
    assert_eq!(after.bench.ended(), Some(0));
    assert!(iptables_are_empty(&after.bench));
    assert!(!after.bench.tool("nft list tables").contains("kube-proxy"));
}
