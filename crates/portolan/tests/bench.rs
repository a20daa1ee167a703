//! `portolan bench`, in small. What it measures is not judged here, only that it measures.

use serde_json::Value;
use std::process::Command;

/// What other programs rely on, in this order.
const KEYS: [&str; 14] = [
    "mode",
    "services",
    "endpoints",
    "full_sync_s",
    "cpu_s",
    "rss_mb",
    "change_p50_ms",
    "change_p99_ms",
    "connect_direct_p50_us",
    "connect_service_p50_us",
    "connect_ratio",
    "no_service_ratio",
    "connections_per_s",
    "connections_per_s_direct",
];

#[test]
fn each_size_is_a_line_and_a_point_of_the_plots() {
    let directory = std::env::temp_dir().join(format!("portolan-bench-test-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["bench", "--mode", "nftables", "--services", "1,50", "--endpoints", "2"]);
    command.args(["--rounds", "300", "--changes", "10", "--json", "--report"]).arg(&directory);
    let output = command.output().expect("the bench starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, services) in lines.iter().zip([1, 50]) {
        let keys: Vec<_> = line.split('"').filter(|word| KEYS.contains(word)).collect();
        assert_eq!(keys, KEYS, "{line}");
        assert!(line.starts_with("{\"mode\":\"nftables\",\"services\":"), "{line}");
        let row: Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(
            (row["services"].as_u64(), row["endpoints"].as_u64()),
            (Some(services), Some(2)),
            "{line}"
        );
        for key in &KEYS[3..] {
            assert!(row[key].as_f64() > Some(0.0), "{key}: {line}");
        }
    }
    let saved = std::fs::read_to_string(directory.join("bench.json")).expect("the figures");
    assert_eq!(saved, text);
    let page = std::fs::read_to_string(directory.join("bench.html")).expect("the page");
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(!page.contains("http"), "a page that needs nothing from anywhere");
    std::fs::remove_dir_all(&directory).expect("the directory");
}

#[test]
fn a_mode_that_cannot_work_does_not_keep_the_others_from_being_measured() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["bench", "--mode", "ebpf,nftables", "--services", "1", "--endpoints", "1"]);
    let output =
        command.args(["--rounds", "10", "--changes", "2", "--json"]).output().expect("the bench starts");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ebpf"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("{\"mode\":\"nftables\"") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_cluster_too_large_is_an_argument_that_makes_no_sense() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    let output =
        command.args(["bench", "--services", "500000", "--endpoints", "1000"]).output().expect("a start");
    assert_eq!(output.status.code(), Some(2));
}
