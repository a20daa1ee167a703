//! What is shared by tests of `names: local`: a node answers for the cluster DNS Service's address itself, and the cluster's pods do
//! whenever it does not. A client in a pod asks all the while.

use super::{Bench, dns};
use lab::{Host, Process};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The cluster DNS Service.
const DNS: &str = "10.96.0.53:53";
const DNS_V6: &str = "[fd00:96::53]:53";
/// Who answers tells by the address of this name.
pub(crate) const WHO: &str = "who.test";
pub(crate) const NODE: &str = "192.0.2.1";
pub(crate) const PODS: &str = "192.0.2.2";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(crate) fn who(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The cluster's own DNS server, in a pod.
fn pod_server(bench: &Bench, pod: &Host) -> Process {
    let corefile =
        bench.file("Podfile", &format!(".:53 {{\n    hosts {{\n        {PODS} {WHO}\n    }}\n}}\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.arg0("coredns").arg("-conf").arg(corefile).stdin(Stdio::null()).stdout(Stdio::null());
    pod.spawn(&mut command).expect("it starts")
}

/// A cluster with a DNS Service over two pods, one on each node.
pub(crate) fn cluster(mode: &'static str) -> (Bench, Vec<Process>) {
    let bench = Bench::new(mode, 2);
    let pods: Vec<Process> = bench.backends.iter().map(|pod| pod_server(&bench, pod)).collect();
    let ips: String = bench.backends.iter().map(|pod| format!("- addresses: [{}]\n", pod.ipv4())).collect();
    let v6: String =
        bench.backends.iter().map(|pod| format!("- addresses: [\"{}\"]\n", pod.ipv6())).collect();
    let slice = |family: &str, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: dns-{}, namespace: \
             kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}\naddressType: {family}\nports: \
             [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]\nendpoints:\n{endpoints}",
            family.to_lowercase()
        )
    };
    bench.write(
        "dns.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: kube-dns, namespace: kube-system}}\nspec:\n  \
         clusterIP: 10.96.0.53\n  clusterIPs: [10.96.0.53, 'fd00:96::53']\n  ipFamilies: [IPv4, IPv6]\n  \
         ipFamilyPolicy: RequireDualStack\n  ports: [{{name: dns, port: 53, protocol: UDP}}, \
         {{name: dns-tcp, port: 53, protocol: TCP}}]\n{}{}",
            slice("IPv4", &ips),
            slice("IPv6", &v6)
        ),
    );
    (bench, pods)
}

fn start(bench: &mut Bench, mode: &str) {
    let text =
        format!(".:53 {{\n    kubernetes cluster.local\n    hosts {{\n        {NODE} {WHO}\n    }}\n}}\n");
    let corefile = bench.file("Corefile", &text).display().to_string();
    let manifests = bench.manifests.display().to_string();
    bench.run(mode, &["--manifests", &manifests, "--dns", &corefile, "--names-local"]);
    until_answered_by(bench, NODE);
    // Addresses are opened one after the other, and each is led to once it is open.
    for server in [DNS, DNS_V6] {
        bench.until(&format!("{server} answers by stream"), |bench| {
            let answer = dns::ask_by_stream(&bench.client, address(server), WHO);
            answer.is_ok_and(|answer| answer.addresses == [who(NODE)])
        });
    }
}

pub(crate) fn until_answered_by(bench: &Bench, server: &str) {
    bench.until(&format!("{server} answers"), |bench| {
        dns::address(&bench.client, address(DNS), WHO) == Some(who(server))
    });
}

/// Asks from a pod at a constant rate while something is done.
pub(crate) fn meanwhile(bench: &mut Bench, work: impl FnOnce(&mut Bench)) -> dns::Tally {
    let stop = AtomicBool::new(false);
    let client = bench.client.clone();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| dns::steadily(&client, address(DNS), WHO, &stop));
        // Also when the work fails: else nobody would ever know.
        let ends = Ends(&stop);
        work(bench);
        drop(ends);
        asking.join().expect("it ends well")
    })
}

/// Tells the client to stop.
struct Ends<'s>(&'s AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(500));
}

/// All that may happen to the server, in one mode.
pub(crate) fn goes_back_and_forth(mode: &'static str) {
    let (mut bench, _pods) = cluster(mode);
    start(&mut bench, mode);
    bench.tool("conntrack -F");
    // By both protocols and in both families.
    for server in [DNS, DNS_V6] {
        let server = address(server);
        assert_eq!(dns::address(&bench.client, server, WHO), Some(who(NODE)), "{server}");
        let answer = dns::ask_by_stream(&bench.client, server, WHO).expect("an answer");
        assert_eq!(answer.addresses, [who(NODE)], "{server}, by stream");
        let here = bench.client.ask(lab::Protocol::Tcp, bench.cluster_ip());
        assert!(here.is_ok(), "Services go on: {here:?}");
    }
    let flows = bench.tool("conntrack -L");
    assert!(!flows.contains("dport=53 "), "queries are not tracked: {flows}");
    // An orderly end and a new start, three times: nothing is lost.
    let tally = meanwhile(&mut bench, |bench| {
        for _ in 0..3 {
            bench.signal("TERM");
            assert_eq!(bench.ended(), Some(0));
            until_answered_by(bench, PODS);
            pause();
            start(bench, mode);
            pause();
        }
    });
    println!("{mode}, orderly: {tally:?}");
    assert_eq!(tally.lost, 0, "{tally:?}");
    assert!(tally.answers[&who(NODE)] > 100 && tally.answers[&who(PODS)] > 100, "{tally:?}");
    // The process is killed: what lay in its sockets is lost, and nothing else.
    let tally = meanwhile(&mut bench, |bench| {
        for _ in 0..3 {
            pause();
            bench.kill();
            until_answered_by(bench, PODS);
            pause();
            start(bench, mode);
        }
    });
    println!("{mode}, killed: {tally:?}");
    assert!(tally.lost <= 3 * KILLED_MAX, "{tally:?}");
    assert!(tally.answers[&who(NODE)] > 100 && tally.answers[&who(PODS)] > 100, "{tally:?}");
    for server in [DNS, DNS_V6] {
        let answer = dns::ask_by_stream(&bench.client, address(server), WHO).expect("an answer");
        assert_eq!(answer.addresses, [who(NODE)], "{server}, by stream");
    }
    // Somebody takes our table away: queries go to the pods, and before long to us again.
    let tally = meanwhile(&mut bench, |bench| {
        bench.tool("nft delete table ip portolan-names");
        until_answered_by(bench, PODS);
        until_answered_by(bench, NODE);
    });
    // Answers that were under way left from the wrong address.
    assert!(tally.lost <= KILLED_MAX, "{tally:?}");
    bench.kill();
    let mut cleanup = Command::new(env!("CARGO_BIN_EXE_portolan"));
    let mut cleanup = bench.node.spawn(cleanup.arg("cleanup").stdout(Stdio::null())).expect("it starts");
    assert!(cleanup.child().wait().expect("it ends").success());
    assert!(!bench.tool("nft list tables").contains("portolan"));
    assert!(!bench.tool("ip route show table local").contains("169.254.20.53"));
}

/// At one question in two milliseconds: what comes while the kernel takes the process apart.
const KILLED_MAX: usize = 25;
