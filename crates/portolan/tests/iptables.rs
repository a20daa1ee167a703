//! Mode iptables, by both kinds of iptables: endpoints come and go and the program is killed while
//! connections flow, and none may fail; what somebody breaks is mended.

mod common;

use common::Bench;
use lab::{Load, Protocol};
use std::time::Duration;

/// Changes are gathered for a second in this mode.
const BETWEEN_CHANGES: Duration = Duration::from_millis(1100);

/// A bench whose node uses this kind of iptables, as a kubelet's chain says.
fn bench(kind: &str, backends: usize) -> Bench {
    let bench = Bench::new("iptables", backends);
    bench.tool(&format!("iptables-{kind} -t mangle -N KUBE-KUBELET-CANARY"));
    bench
}

/// What the tables hold, in an order of no meaning.
fn tables(bench: &Bench, kind: &str) -> Vec<String> {
    let saved = bench.tool(&format!("iptables-{kind}-save"));
    let told = saved.lines().filter(|line| line.starts_with("-A") || line.starts_with(":KUBE"));
    let mut lines: Vec<String> =
        told.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect();
    lines.sort();
    lines
}

/// How many rules for IPv4 the metrics tell of.
fn counted(bench: &Bench) -> usize {
    let name = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",";
    let metrics = bench.curl("http://127.0.0.1:10249/metrics");
    let counts = metrics.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').next_back());
    counts.filter_map(|count| count.parse::<usize>().ok()).sum()
}

fn churn(kind: &str) {
    let mut bench = bench(kind, 4);
    bench.start();
    let hosts = [&bench.client, &bench.outside];
    let inside = Load::new(Protocol::Tcp, bench.cluster_ip()).per_second(100);
    let inside = inside.start(&hosts[..1]).expect("a load");
    let outside = Load::new(Protocol::Tcp, bench.node_port()).per_second(100);
    let outside = outside.start(&hosts[1..]).expect("a load");
    for change in 0u32..8 {
        let set = (change * 7 + 3) % 15 + 1;
        bench.endpoints(&(0..4).filter(|index| set >> index & 1 == 1).collect::<Vec<_>>());
        std::thread::sleep(BETWEEN_CHANGES);
        if change % 3 == 0 {
            bench.kill();
            bench.spawn();
        }
    }
    let (inside, outside) = (inside.stop().expect("a report"), outside.stop().expect("a report"));
    assert_eq!(inside.failed() + outside.failed(), 0, "inside: {inside}; outside: {outside}");
    assert!(inside.answered() + outside.answered() > 500, "inside: {inside}; outside: {outside}");
    assert_eq!(inside.per_backend.len(), 4, "{inside}");
}

#[test]
fn endpoints_churn_under_load_by_legacy() {
    churn("legacy");
}

#[test]
fn endpoints_churn_under_load_by_nft() {
    churn("nft");
}

fn vandals(kind: &str) {
    let mut bench = bench(kind, 3);
    bench.start();
    // The Service answers before all is written; this comes last.
    let last = "-A KUBE-CLUSTER-IPS -d 10.96.0.10/32";
    bench.until("all is written", |bench| tables(bench, kind).iter().any(|line| line.contains(last)));
    let before = tables(&bench, kind);
    assert!(before.iter().filter(|line| line.contains("-j DNAT")).count() == 3, "{before:#?}");
    let rules = before.iter().filter(|line| line.starts_with("-A")).count();
    bench.until("all rules are counted", |bench| counted(bench) == rules);
    // A restart changes nothing.
    bench.kill();
    bench.start();
    assert_eq!(tables(&bench, kind), before);
    for vandalism in
        ["-t nat -F", "-t filter -F", "-t nat -D KUBE-SERVICES 1", "-t mangle -X KUBE-PROXY-CANARY"]
    {
        bench.tool(&format!("iptables-{kind} {vandalism}"));
        bench.until(&format!("the tables are as before {vandalism}"), |bench| tables(bench, kind) == before);
        assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok(), "{vandalism}");
    }
}

#[test]
fn what_is_broken_is_mended_by_legacy() {
    vandals("legacy");
}

#[test]
fn what_is_broken_is_mended_by_nft() {
    vandals("nft");
}

/// All who write iptables-legacy share a lock. One that does not come free is told and counted, and
/// when it does, all is written.
#[test]
fn a_lock_that_another_program_holds() {
    let mut bench = bench("legacy", 2);
    let path = bench.file("xtables.lock", "");
    bench.set_environment("XTABLES_LOCKFILE", path.display().to_string());
    let lock = std::fs::File::open(&path).expect("it is there");
    lock.lock().expect("nobody has it");
    bench.spawn();
    let failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv4\"} ";
    bench.until("a failure is counted", |bench| {
        let served = bench.is_served("http://127.0.0.1:10249/metrics");
        let metrics = if served { bench.curl("http://127.0.0.1:10249/metrics") } else { String::new() };
        metrics.lines().filter_map(|line| line.strip_prefix(failures)).any(|count| count != "0")
    });
    assert!(!tables(&bench, "legacy").iter().any(|line| line.contains("DNAT")));
    lock.unlock().expect("it is ours");
    bench.until("the Service answers", |bench| bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok());
}

/// Changes wait for each other as long as `minSyncPeriod` says. What changes nothing is no change.
#[test]
fn what_changes_nothing_makes_nobody_wait() {
    let mut bench = bench("nft", 2);
    bench.endpoints(&[0]);
    bench.set_configuration(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         iptables: {syncPeriod: 1h, minSyncPeriod: 1h}\n",
    );
    bench.start();
    let changes = |bench: &Bench| {
        let name = "kubeproxy_sync_proxy_rules_service_changes_total ";
        let metrics = bench.curl("http://127.0.0.1:10249/metrics");
        metrics.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    bench.until("metrics are served", |bench| bench.is_served("http://127.0.0.1:10249/metrics"));
    let before = changes(&bench);
    bench.write(
        "other.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: none, namespace: shop}\n\
         spec: {clusterIP: None, ports: [{port: 80}]}\n",
    );
    bench.until("it has been read", |bench| changes(bench) != before);
    bench.endpoints(&[0, 1]);
    bench.until("the other endpoint is there", |bench| {
        tables(bench, "nft").iter().filter(|line| line.contains("-j DNAT")).count() == 2
    });
}
