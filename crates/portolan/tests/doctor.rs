//! `portolan doctor` on a node of its own, with neighbours that are in the way.

use lab::{Lab, Node};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Runs a program on the node, with this on its standard input: its exit code, and what it printed.
fn run(node: &Node, program: &str, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = node.spawn(&mut command).expect("the program starts");
    let child = process.child();
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input");
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    (child.wait().expect("it ends").code(), text)
}

fn doctor(node: &Node, mode: &str) -> (Option<i32>, Value) {
    let program = env!("CARGO_BIN_EXE_portolan");
    let (code, text) = run(node, program, &["doctor", "--mode", mode, "--json"], "");
    assert_eq!(text.lines().count(), 1, "{text}");
    (code, serde_json::from_str(&text).expect("JSON"))
}

/// What was found of the node, by severity.
fn findings(answer: &Value, severity: &str) -> Vec<String> {
    let all = answer["findings"].as_array().expect("a list").iter();
    let those = all.filter(|finding| finding["severity"] == severity);
    those.map(|finding| finding["what"].as_str().expect("words").to_owned()).collect()
}

#[test]
fn neighbours_are_named_and_nothing_is_changed() {
    let mut lab = Lab::new().expect("a lab (are you root?)");
    let node = lab.node("node-a").expect("a node");
    let (code, answer) = doctor(&node, "nftables");
    assert_eq!(
        (code, &answer["healthy"], &answer["mode"]),
        (Some(0), &true.into(), &"nftables".into()),
        "{answer}"
    );
    assert_eq!(findings(&answer, "warning"), Vec::<String>::new());

    let rules = "add table ip kube-proxy\n\
                 add table ip nat\n\
                 add chain ip nat KUBE-SERVICES\n\
                 add table inet firewall\n\
                 add chain inet firewall in { type filter hook input priority 0; policy drop; }\n\
                 add chain inet firewall out { type filter hook output priority 0; policy drop; }\n";
    assert_eq!(run(&node, "nft", &["-f", "-"], rules).0, Some(0));
    let before = run(&node, "nft", &["list", "ruleset"], "").1;
    let (code, answer) = doctor(&node, "nftables");
    assert_eq!(code, Some(0), "warnings are no illness: {answer}");
    let warnings = findings(&answer, "warning");
    for word in ["table ip kube-proxy", "KUBE-SERVICES", "inet firewall in drops"] {
        assert!(warnings.iter().any(|what| what.contains(word)), "{word}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(run(&node, "nft", &["list", "ruleset"], "").1, before);
}

#[test]
fn a_mode_that_is_not_built_is_not_healthy() {
    let mut lab = Lab::new().expect("a lab (are you root?)");
    let node = lab.node("node-a").expect("a node");
    let (code, answer) = doctor(&node, "ebpf");
    assert_eq!(
        (code, &answer["healthy"], &answer["mode"]),
        (Some(1), &false.into(), &Value::Null),
        "{answer}"
    );
    assert_eq!(findings(&answer, "error").len(), 1);
    let works = |mode: &str| {
        let modes = answer["modes"].as_array().expect("a list");
        modes.iter().find(|other| other["mode"] == mode).expect("each mode")["works"].clone()
    };
    assert_eq!((works("ebpf"), works("nftables")), (false.into(), true.into()));
}
