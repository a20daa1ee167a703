//! What the tests share: reading recorded messages, and network namespaces of their own.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::process::Command;

use netlink::message::{Message, messages};

/// One recorded message, and the lines that were printed of it.
pub struct Recorded {
    pub bytes: Vec<u8>,
    pub printed: Vec<String>,
}

impl Recorded {
    pub fn message(&self) -> Message<'_> {
        messages(&self.bytes).next().expect("a recorded message")
    }
}

pub fn recorded(text: &str) -> Vec<Recorded> {
    let mut all: Vec<Recorded> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.starts_with('[') {
            true => all.last_mut().expect("a message first").printed.push(line.to_string()),
            false => all.push(Recorded { bytes: from_hex(line), printed: Vec::new() }),
        }
    }
    assert!(!all.is_empty());
    all
}

fn from_hex(line: &str) -> Vec<u8> {
    assert!(line.len().is_multiple_of(2), "{line}");
    let digits: Vec<char> = line.chars().collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hexadecimal"))
        .collect()
}

/// Takes this thread into a new network namespace, which ends with it.
pub fn enter_new_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare: these tests need root");
}

/// Runs a tool that only checks, in this thread's namespace.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
