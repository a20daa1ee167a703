//! Endpoints come and go, the program is killed, tables are flushed, all while connections flow:
//! none may fail.

mod common;

use common::Bench;
use lab::{Load, Protocol};
use std::time::Duration;

/// What the kernel's tables hold, in an order of no meaning.
fn tables(bench: &Bench) -> Vec<String> {
    let mut lines: Vec<String> = bench
        .tool("nft --stateless list ruleset")
        .lines()
        .map(|line| {
            line.trim().trim_start_matches("elements = {").trim_end_matches([',', '}', ' ']).trim().to_owned()
        })
        // Notes on backends come and go with connections.
        .filter(|line| !["timeout 3s", "timeout 1s"].iter().any(|note| line.contains(note)))
        .collect();
    lines.sort();
    lines
}

#[test]
fn endpoints_churn_under_load() {
    let mut bench = Bench::new("nftables", 5);
    bench.start();
    let hosts = [&bench.client, &bench.outside];
    let inside = Load::new(Protocol::Tcp, bench.cluster_ip()).per_second(100);
    let inside = inside.start(&hosts[..1]).expect("a load");
    let outside = Load::new(Protocol::Tcp, bench.node_port()).per_second(100);
    let outside = outside.start(&hosts[1..]).expect("a load");
    let held = bench.client.client(Protocol::Tcp).hold(bench.cluster_ip(), 5, Duration::from_millis(50));
    let held = held.expect("connections to hold");
    // Every set of endpoints but the empty one comes about, by one step or several.
    for change in 0u32..100 {
        let set = (change * 7 + 3) % 31 + 1;
        bench.endpoints(&(0..5).filter(|index| set >> index & 1 == 1).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(40));
    }
    let (inside, outside) = (inside.stop().expect("a report"), outside.stop().expect("a report"));
    assert_eq!(inside.failed() + outside.failed(), 0, "inside: {inside}; outside: {outside}");
    assert!(inside.answered() + outside.answered() > 500, "inside: {inside}; outside: {outside}");
    assert_eq!(inside.per_backend.len(), 5, "{inside}");
    let held = held.finish();
    assert!(held.unharmed(), "{held:?}");
}

#[test]
fn every_backend_is_replaced_under_load() {
    let mut bench = Bench::new("nftables", 9);
    let load = |bench: &Bench| {
        let load = Load::new(Protocol::Tcp, bench.cluster_ip()).and(bench.node_port());
        load.per_second(200).at_once(12).start(&[&bench.client]).expect("a load")
    };
    let report = bench.roll(3, load, |bench, ip, serves| {
        bench.tool("nft list map ip portolan slots").contains(ip) == serves
    });
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.per_backend.len(), 9, "{report}");
}

#[test]
fn killed_and_started_again_under_load() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    let before = tables(&bench);
    assert!(before.iter().any(|line| line.contains("10.96.0.10 . tcp . 80")), "{before:#?}");
    let load = Load::new(Protocol::Tcp, bench.cluster_ip()).per_second(200);
    let load = load.start(&[&bench.client]).expect("a load");
    for moment in 0..20 {
        bench.kill();
        assert!(tables(&bench) == before, "the tables changed after kill {moment}");
        bench.spawn();
        // Killed while it reads, adopts, compares or idles, as it happens.
        std::thread::sleep(Duration::from_millis(moment * 7));
    }
    bench.kill();
    bench.start();
    assert!(tables(&bench) == before, "the tables are not as before");
    let report = load.stop().expect("a report");
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn killed_in_the_middle_of_changes() {
    let mut bench = Bench::new("nftables", 4);
    bench.start();
    let load = Load::new(Protocol::Tcp, bench.cluster_ip()).per_second(200);
    let load = load.start(&[&bench.client]).expect("a load");
    for round in 0..20u32 {
        let set = round % 15 + 1;
        bench.endpoints(&(0..4).filter(|index| set >> index & 1 == 1).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_micros(u64::from(round) * 137));
        bench.kill();
        bench.spawn();
        std::thread::sleep(Duration::from_millis(30));
    }
    bench.endpoints(&[0, 1, 2, 3]);
    let report = load.stop().expect("a report");
    assert_eq!(report.failed(), 0, "{report}");
    // A start from nothing leads to the same tables.
    bench.until("all four are back", |bench| {
        bench.tool("nft list map ip portolan slots").matches(". 8080").count() == 4
    });
    // A start also sweeps up the chains for counts that came and went.
    bench.kill();
    bench.spawn();
    bench.until("they are swept", |bench| {
        bench.tool("nft --stateless list table ip portolan").matches("chain pick-").count() == 1
    });
    let adopted = tables(&bench).len();
    bench.kill();
    bench.tool("nft flush ruleset");
    bench.start();
    assert_eq!(tables(&bench).len(), adopted);
}

#[test]
fn flushed_tables_come_back() {
    let mut bench = Bench::new("nftables", 3);
    bench.start();
    let before = tables(&bench);
    for vandalism in [
        "nft flush ruleset",
        "nft delete table ip portolan",
        "nft flush map ip portolan slots",
        "nft flush map ip portolan frontends",
        "nft flush map ip portolan picks",
        "nft flush chain ip portolan services",
        "nft flush chain ip portolan pick-3",
        "nft flush chain ip portolan prerouting",
        "nft insert rule ip portolan services drop",
        "nft add chain ip portolan foreign",
    ] {
        // Succeeds, so it did something; what it did may be mended before anybody could look.
        bench.tool(vandalism);
        bench.until(&format!("the tables are as before {vandalism}"), |bench| tables(bench) == before);
        assert!(bench.client.ask(Protocol::Tcp, bench.cluster_ip()).is_ok(), "{vandalism}");
    }
}

#[test]
fn what_is_not_ours_stays() {
    let mut bench = Bench::new("nftables", 2);
    bench.tool("nft add table ip portolan-not");
    bench.tool("nft add table inet theirs");
    bench.tool("nft add chain inet theirs kept { type filter hook input priority 5 ; }");
    bench.start();
    let listing = bench.tool("nft list tables");
    for table in ["ip portolan-not", "inet theirs", "ip portolan", "ip6 portolan"] {
        assert!(listing.lines().any(|line| line == format!("table {table}")), "{table}: {listing}");
    }
}
