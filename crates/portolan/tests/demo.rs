//! `portolan demo`, as anybody would start it.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.arg("demo").args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn ends_with_one_line_that_says_that_nothing_failed() {
    let output = demo(&["--json"]).output().expect("the demo starts");
    let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert_eq!(out.lines().count(), 1, "{out}");
    let line: Value = serde_json::from_str(&out).expect("a line of JSON");
    let mut keys: Vec<_> = line.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["connections", "dns_answers", "failed", "mode", "per_backend", "seconds"]);
    assert_eq!(line["failed"], 0, "{told}");
    assert!(line["connections"].as_u64() > Some(500), "{line}");
    for backend in ["web-1", "web-2", "web-3", "dns-1", "dns-2"] {
        assert!(line["per_backend"][backend].as_u64() > Some(0), "{line}");
    }
    // What a newcomer is to see.
    for words in ["shop/soon", "refused after", "web-2 goes", "web-2 comes back", "0 failed"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

/// What the demo of a fault comes to.
fn fault(arguments: &[&str]) -> Value {
    let output = demo(&[&["--json", "--fault"], arguments].concat()).output().expect("the demo starts");
    let told = String::from_utf8_lossy(&output.stderr);
    let line: Value = serde_json::from_slice(&output.stdout).expect(&told);
    let mut keys: Vec<_> = line.as_object().expect("an object").keys().collect();
    keys.sort();
    let wanted = ["connections", "failed", "fault", "mode", "over_1s", "set_aside_after_s", "slowest_s"];
    assert_eq!(keys, wanted);
    assert_eq!((&line["connections"], &line["fault"]), (&200.into(), &arguments[0].into()), "{told}");
    let noticed = line["set_aside_after_s"].is_number();
    let good = if line["fault"] == "refusing-backend" { noticed } else { line["failed"] == 0 };
    assert!(output.status.success() == good || line["slowest_s"].as_f64() > Some(3.1), "{line} {told}");
    line
}

#[test]
fn a_backend_or_a_node_that_fails_is_not_noticed() {
    for mode in ["nftables", "iptables"] {
        for what in ["silent-backend", "silent-node"] {
            let line = fault(&[what, "--mode", mode]);
            assert_eq!(line["failed"], 0, "{line}");
            assert!(line["set_aside_after_s"].is_number(), "{line}");
        }
    }
    let line = fault(&["refusing-backend", "--mode", "nftables"]);
    assert!(line["set_aside_after_s"].is_number() && line["failed"].as_u64() < Some(40), "{line}");
}

#[test]
fn without_setting_aside_it_is() {
    for what in ["silent-backend", "refusing-backend"] {
        let line = fault(&[what, "--off", "--mode", "nftables"]);
        assert!(line["failed"].as_u64() > Some(20) && line["set_aside_after_s"].is_null(), "{line}");
    }
}

#[test]
fn a_mode_that_cannot_work_is_an_error_of_its_own() {
    let output = demo(&["--json", "--mode", "ebpf"]).output().expect("the demo starts");
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("portolan: ") && told.contains("ebpf"), "{told}");
}

#[test]
fn where_there_is_no_ipvs_it_says_what_is_missing() {
    // In the machine that has it, the demo in this mode is a test of its own.
    if netlink::ipvs::Ipvs::open().is_err() {
        let output = demo(&["--json", "--mode", "ipvs"]).output().expect("the demo starts");
        assert_eq!(output.status.code(), Some(3));
        let told = String::from_utf8_lossy(&output.stderr);
        for words in ["no IPVS", "modprobe ip_vs", "linux-modules-extra"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let scratch = std::env::temp_dir().join(format!("portolan-demo-test-{}", std::process::id()));
    std::fs::create_dir(&scratch).expect("a directory");
    let mut command = demo(&["--keep"]);
    command.env("TMPDIR", &scratch).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("the demo starts");
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let lines = out.lines().map_while(Result::ok);
    let hint = lines.into_iter().find(|line| line.contains("nsenter")).expect("how to look around");
    let daemon = hint.split_whitespace().skip_while(|word| *word != "--target").nth(1).expect("a process");
    let daemon = Path::new("/proc").join(daemon);
    assert!(daemon.exists(), "{hint}");
    let id = i32::try_from(child.id()).expect("a process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM)
        .expect("it is there");
    // Nothing failed, so ending it is no failure.
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    // The daemon is our grandchild: it may take a moment until its new parent has buried it.
    while std::fs::read_to_string(daemon.join("cmdline")).is_ok_and(|line| line.contains("portolan")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(std::fs::read_dir(&scratch).expect("the directory").count(), 0);
    std::fs::remove_dir(&scratch).expect("the directory");
}
