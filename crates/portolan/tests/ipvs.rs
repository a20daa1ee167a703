//! The whole program in mode ipvs: endpoints come and go, it is killed, what it made is taken away,
//! all while connections flow. This is built for the machine of `cargo xtask vm` only,
//! whose kernel has IPVS.

mod common;

use common::Bench;
use lab::{Load, Protocol};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Connections a second, of which so many may be under way: a machine without hardware help may not
/// keep up, and clients that repeat their first packet may be sent elsewhere.
const RATE: u32 = 200;
const AT_ONCE: usize = 12;
/// A machine without hardware help may be slow; what it may not do is lose a connection.
const LONG: Duration = Duration::from_secs(60);

/// Closed connections are remembered for two minutes, which is longer than tests wait for anything.
const DRAIN_LIMIT: &str = "15s";

type Test = (&'static str, fn());
const TESTS: [Test; 13] = [
    ("ipvs_is_found_well_by_the_doctor", doctor),
    ("ipvs_churns_under_load", churn),
    ("ipvs_survives_a_kill_under_load", killed),
    ("ipvs_survives_a_kill_in_the_middle", killed_in_the_middle),
    ("ipvs_repairs_what_others_change", vandalism),
    ("ipvs_rolls_under_load", rolling),
    ("ipvs_is_shown_by_the_demo", demo),
    ("ipvs_gives_way_to_another_mode_and_comes_back", modes),
    ("ipvs_of_kube_proxy_gives_way", after_kube_proxy),
    ("ipvs_is_planned_shown_and_cleaned_up", subcommands),
    ("ipvs_sets_a_silent_backend_aside", silent_backend),
    ("ipvs_sets_a_refusing_backend_aside", refusing_backend),
    ("ipvs_sets_a_silent_node_aside", silent_node),
];

fn main() -> ExitCode {
    // As with the tests of whole programs on the host, a second chance, which is told: a host that takes
    // a CPU from an emulated machine for half a second may be the one that fails.
    let trial = |(name, test): Test| {
        let run = move || -> Result<(), Failed> {
            if std::panic::catch_unwind(test).is_err() {
                println!("FLAKY, or worse: {name} has failed once; trying again");
                test();
            }
            Ok(())
        };
        Trial::test(name, run)
    };
    let mut arguments = Arguments::from_args();
    // Beside others, what a test's connections meet would be the others' load.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, TESTS.into_iter().map(trial).collect()).exit_code()
}

/// What the kernel holds, as `ipvsadm --save` and the others tell it, in an order of no meaning.
fn tables(bench: &Bench) -> Vec<String> {
    let servers = bench.tool("ipvsadm -Sn");
    // Device and table may be away at the moment.
    let routes = bench.tool("ip route show table local");
    let rules = bench.tool("nft --stateless list ruleset");
    let trim = |line: &str| {
        line.trim().trim_start_matches("elements = {").trim_end_matches([',', '}', ' ']).trim().to_owned()
    };
    let mut lines: Vec<String> = servers
        .lines()
        .chain(routes.lines().filter(|line| line.contains("kube-ipvs0")))
        // Notes on backends come and go with connections.
        .chain(
            rules.lines().filter(|line| !["timeout 3s", "timeout 1s"].iter().any(|note| line.contains(note))),
        )
        .map(trim)
        .collect();
    lines.sort();
    lines
}

fn load(bench: &Bench) -> lab::Running {
    let load = Load::new(Protocol::Tcp, bench.cluster_ip()).and(bench.node_port());
    load.own_ports().per_second(RATE).at_once(AT_ONCE).timeout(LONG).start(&[&bench.client]).expect("a load")
}

/// Connections that are held, which may be slow, too.
fn hold(bench: &Bench) -> lab::Held {
    let client = bench.client.client(Protocol::Tcp).timeout(LONG);
    client.hold(bench.cluster_ip(), 5, Duration::from_millis(50)).expect("connections to hold")
}

fn doctor() {
    let bench = Bench::new("ipvs", 1);
    let program = env!("CARGO_BIN_EXE_portolan");
    let answer = bench.tool(&format!("{program} doctor --mode ipvs --json"));
    assert!(answer.contains("{\"mode\":\"ipvs\",\"works\":true,"), "{answer}");
    assert!(answer.contains("schedulers: rr wrr lc wlc lblc lblcr sh dh sed nq mh fo ovf"), "{answer}");
    assert_eq!(bench.tool("ipvsadm -Sn"), "", "nothing is left of the trial");
}

/// Of 200 connections of the demo to three backends, so many may fail where one turns bad at the 50th.
/// It can be none; but an emulated machine that others starve takes its time. Without setting aside it
/// is some 50.
const FAILED_MAX: u64 = 6;

/// What the demo of a fault comes to, at a rate that an emulated machine can make.
fn fault(fault: &str) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_portolan"));
    demo.args(["demo", "--mode", "ipvs", "--json", "--rate", "10", "--fault", fault]);
    let output = demo.output().expect("the demo starts");
    let told = String::from_utf8_lossy(&output.stderr);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&told);
    println!("{summary}");
    assert!(summary["set_aside_after_s"].is_number(), "{summary} {told}");
    assert!(summary["failed"].as_u64().is_some_and(|failed| failed <= FAILED_MAX), "{summary} {told}");
}

fn silent_node() {
    fault("silent-node");
}

fn silent_backend() {
    fault("silent-backend");
}

fn refusing_backend() {
    fault("refusing-backend");
}

fn churn() {
    let mut bench = Bench::new("ipvs", 5);
    bench.start();
    let load = load(&bench);
    let held = bench.client.client(Protocol::Tcp).hold(bench.cluster_ip(), 5, Duration::from_millis(50));
    let held = held.expect("connections to hold");
    // Every set of endpoints but the empty one comes about, by one step or several.
    for change in 0u32..100 {
        let set = (change * 7 + 3) % 31 + 1;
        bench.endpoints(&(0..5).filter(|index| set >> index & 1 == 1).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(80));
    }
    let report = load.stop().expect("a report");
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.answered() > 100, "{report}");
    let held = held.finish();
    assert!(held.unharmed(), "{held:?}");
}

fn killed() {
    let mut bench = Bench::new("ipvs", 3);
    bench.start();
    let before = tables(&bench);
    assert!(before.iter().any(|line| line.starts_with("-a -t 10.96.0.10:80")), "{before:#?}");
    let load = load(&bench);
    for moment in 0..20 {
        bench.kill();
        assert_eq!(tables(&bench), before, "after kill {moment}");
        bench.spawn();
        // Killed while it reads, adopts, compares or idles, as it happens.
        std::thread::sleep(Duration::from_millis(moment * 7));
    }
    bench.kill();
    bench.start();
    assert_eq!(tables(&bench), before);
    let report = load.stop().expect("a report");
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
}

fn killed_in_the_middle() {
    let mut bench = Bench::new("ipvs", 4);
    bench.start();
    let before = tables(&bench);
    let load = load(&bench);
    for round in 0..20u32 {
        let set = round % 15 + 1;
        bench.endpoints(&(0..4).filter(|index| set >> index & 1 == 1).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_micros(u64::from(round) * 1370));
        bench.kill();
        bench.spawn();
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.endpoints(&[0, 1, 2, 3]);
    bench.until("all is as it was", |bench| tables(bench) == before);
    let report = load.stop().expect("a report");
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
}

fn rolling() {
    let mut bench = Bench::new("ipvs", 9);
    let load = |bench: &Bench| load(bench);
    let report = bench.roll(3, load, |bench, ip, serves| (weight_and_active(bench, ip) != (0, 0)) == serves);
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.per_backend.len(), 9, "{report}");
}

/// The weight of a backend, and how many open connections it has, over all virtual servers.
fn weight_and_active(bench: &Bench, ip: &str) -> (u32, u32) {
    let said = bench.tool("ipvsadm -Ln");
    let of_it = said.lines().filter(|line| line.contains(&format!("{ip}:")));
    let numbers = of_it.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse().ok()).unwrap_or(0);
        (number(3), number(4))
    });
    numbers.fold((0, 0), |(weight, active), (w, a)| (weight + w, active + a))
}

/// The other subcommands, on a node where the daemon has done its work.
fn subcommands() {
    let mut bench = Bench::new("ipvs", 3);
    let before = tables(&bench);
    let conntrack = bench.tool("sysctl -n net.ipv4.vs.conntrack");
    bench.start();
    let portolan = env!("CARGO_BIN_EXE_portolan");
    let manifests = bench.manifests.display().to_string();
    let node = "--node node-a --mode ipvs";
    let plan = bench.tool(&format!("{portolan} plan --manifests {manifests} {node} --against kernel"));
    assert!(plan.contains("0 steps for 1 Services"), "{plan}");
    let shown = bench.tool(&format!("{portolan} show --mode ipvs --json"));
    let shown: serde_json::Value = serde_json::from_str(shown.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&shown["mode"], &shown["services"][0]["service"]), (&"ipvs".into(), &"shop/web:http".into()));
    let frontends = shown["services"][0]["frontends"].as_array().expect("frontends");
    let cluster_ip = frontends.iter().find(|f| f["at"] == "10.96.0.10:80").expect("the ClusterIP");
    assert_eq!(cluster_ip["backends"].as_array().map(Vec::len), Some(3), "{shown}");
    let trace = "--from 10.244.1.5 --to 10.96.0.10:81 --json";
    let traced = bench.tool(&format!("{portolan} trace --manifests {manifests} {node} {trace}"));
    assert!(traced.contains("\"verdict\":\"reject\""), "{traced}");
    bench.kill();
    let said = bench.tool(&format!("{portolan} cleanup"));
    assert!(
        said.contains("removed device kube-ipvs0") && said.contains("set back net.ipv4.vs.conntrack"),
        "{said}"
    );
    assert_eq!(tables(&bench), before);
    assert_eq!(bench.tool("sysctl -n net.ipv4.vs.conntrack"), conntrack);
}

fn demo() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    let output = command.args(["demo", "--mode", "ipvs", "--json"]).output().expect("the demo starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!((line["mode"].as_str(), line["failed"].as_u64()), (Some("ipvs"), Some(0)), "{told}");
    assert!(told.contains("ok shop/solo") && told.contains("NodePort at localhost"), "{told}");
}

fn vandalism() {
    let mut bench = Bench::new("ipvs", 3);
    bench.start();
    let before = tables(&bench);
    let own = bench.node.ipv4();
    let backend = bench.backends[0].ipv4();
    for vandalism in [
        "ipvsadm -C",
        "ipvsadm -D -t 10.96.0.10:80",
        &format!("ipvsadm -D -t {own}:30080"),
        &format!("ipvsadm -d -t 10.96.0.10:80 -r {backend}:8080"),
        &format!("ipvsadm -e -t 10.96.0.10:80 -r {backend}:8080 -m -w 7"),
        "ipvsadm -E -t 10.96.0.10:80 -s wlc",
        "ip link del kube-ipvs0",
        "ip link set kube-ipvs0 down",
        "ip route del local 10.96.0.10 dev kube-ipvs0",
        "sysctl -qw net.ipv4.vs.conntrack=0",
        "nft flush ruleset",
        "nft flush map ip portolan-ipvs frontends",
        "nft flush chain ip portolan-ipvs postrouting",
    ] {
        bench.tool(vandalism);
        bench.until(&format!("all is as before {vandalism}"), |bench| {
            tables(bench) == before && bench.tool("sysctl -n net.ipv4.vs.conntrack").trim() == "1"
        });
        assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok(), "{vandalism}");
        assert!(bench.outside.ask(Protocol::Tcp, bench.node_port()).is_ok(), "{vandalism}");
    }
}

/// Established connections go on in the virtual servers that are leaving.
fn modes() {
    let mut bench = Bench::new("ipvs", 3);
    let before = tables(&bench);
    bench.set_drain_limit(DRAIN_LIMIT);
    bench.start();
    let load = load(&bench);
    let held = hold(&bench);
    let change = |bench: &mut Bench, mode| {
        bench.kill();
        bench.set_mode(mode);
        bench.spawn();
    };
    change(&mut bench, "nftables");
    let weighs = |bench: &Bench| bench.tool("ipvsadm -Sn").lines().any(|line| line.ends_with("-w 1"));
    bench.until("virtual servers take no new connections", |bench| {
        bench.tool("ipvsadm -Sn").contains("-w 0") && !weighs(bench)
    });
    assert!(!bench.tool("nft list tables").contains("portolan-ipvs"));
    std::thread::sleep(Duration::from_secs(1));
    let report = held.finish();
    assert!(report.unharmed(), "{report:?}");
    change(&mut bench, "ipvs");
    bench.until("virtual servers take connections again", |bench| {
        weighs(bench) && !bench.tool("nft list tables").lines().any(|table| table.ends_with(" portolan"))
    });
    std::thread::sleep(Duration::from_secs(1));
    change(&mut bench, "iptables");
    bench.until("the tables are gone", |bench| !bench.tool("nft list tables").contains("portolan-ipvs"));
    let report = load.stop().expect("a report");
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    bench.until("virtual servers and device are gone", |bench| {
        bench.tool("ipvsadm -Sn").is_empty() && !bench.tool("ip link show").contains("kube-ipvs0")
    });
    bench.kill();
    let said = bench.tool(&format!("{} cleanup", env!("CARGO_BIN_EXE_portolan")));
    println!("{said}");
    let rest =
        |line: &String| !line.contains("chain ") && !line.contains("table ip") && !line.contains("policy");
    let (now, before): (Vec<_>, Vec<_>) = (tables(&bench), before);
    let of =
        |lines: Vec<String>| lines.into_iter().filter(rest).filter(|l| !l.is_empty()).collect::<Vec<_>>();
    assert_eq!(of(now), of(before));
}

/// What kube-proxy leaves in mode ipvs, by the tools that it uses itself.
fn kube_proxys(bench: &Bench) {
    let (node, ip) = (bench.node.ipv4(), common::CLUSTER_IP);
    bench.tool("sysctl -w net.ipv4.vs.conntrack=1");
    bench.tool("ip link add kube-ipvs0 type dummy");
    bench.tool(&format!("ip addr add {ip}/32 dev kube-ipvs0"));
    let somebody_elses = "192.0.2.77:80";
    for at in [format!("{ip}:80"), format!("{node}:{}", common::NODE_PORT), somebody_elses.to_owned()] {
        bench.tool(&format!("ipvsadm -A -t {at} -s rr"));
        for backend in &bench.backends {
            bench.tool(&format!("ipvsadm -a -t {at} -r {}:8080 -m -w 1", backend.ipv4()));
        }
    }
    bench.tool("ipset create KUBE-CLUSTER-IP hash:ip,port");
    bench.tool("ipset create KUBE-IPVS-IPS hash:ip");
    bench.tool("ipset create others hash:ip");
    bench.tool(&format!("ipset add KUBE-CLUSTER-IP {ip},tcp:80"));
    bench.feed(
        "iptables-legacy-restore --noflush",
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
         :KUBE-LOAD-BALANCER - [0:0]\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MASQUERADE\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-NODE-PORT -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
         -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\nCOMMIT\n\
         *filter\n:KUBE-IPVS-FILTER - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
         -A INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER\n\
         -A INPUT -j KUBE-PROXY-FIREWALL\n\
         -A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN\n\
         -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT\nCOMMIT\n",
    );
}

/// To each of our modes, without a failed connection; in the end nothing is left but what is
/// somebody else's.
fn after_kube_proxy() {
    for mode in ["nftables", "iptables", "ipvs"] {
        let mut bench = Bench::new("ipvs", 3);
        bench.set_drain_limit(DRAIN_LIMIT);
        let (_server, kubeconfig) = bench.api();
        kube_proxys(&bench);
        let load = load(&bench);
        let held = hold(&bench);
        std::thread::sleep(Duration::from_secs(1));
        bench.spawn_in_cluster(mode, &kubeconfig);
        bench.until("kube-proxy's sets are gone", |bench| !bench.tool("ipset list -n").contains("KUBE-"));
        assert_eq!(bench.tool("ipset list -n").trim(), "others", "{mode}");
        std::thread::sleep(Duration::from_secs(1));
        let held = held.finish();
        assert!(held.unharmed(), "{mode}: {held:?}");
        let report = load.stop().expect("a report");
        println!("{mode}: {report}");
        assert_eq!(report.failed(), 0, "{mode}: {report}");
        let chains = bench.tool("iptables-legacy-save");
        for name in ["KUBE-NODE-PORT ", "KUBE-IPVS-FILTER", "KUBE-LOAD-BALANCER"] {
            assert!(!chains.contains(name), "{mode}: {chains}");
        }
        if mode != "ipvs" {
            let only = "-A -t 192.0.2.77:80 -s rr";
            bench.until("virtual servers and device are gone", |bench| {
                let servers = bench.tool("ipvsadm -Sn");
                servers.lines().filter(|line| line.starts_with("-A")).collect::<Vec<_>>() == [only]
                    && !bench.tool("ip link show").contains("kube-ipvs0")
            });
        }
    }
}
