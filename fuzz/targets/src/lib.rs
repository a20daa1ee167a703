//! The doors through which foreign bytes come in, each as a function that must return, whatever
//! it is given: neither panic nor hang.
//!
//! Two drivers run them: `cargo xtask fuzz` (this package's program; stable Rust, blind mutation
//! of seeds, part of every test run) and cargo-fuzz (`fuzz/fuzz_targets`; nightly, guided by
//! coverage, for long runs).
#![forbid(unsafe_code)]

pub mod mutate;
mod netlink_replies;

/// How the seeds of a target are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// Each file is one input.
    Files,
    /// The sections of a scenario, between lines like `-- manifests --`, are an input each.
    Sections,
    /// Each line of a file that is all hexadecimal digits is one input, in binary.
    HexLines,
}

/// One door.
#[derive(Debug)]
pub struct Target {
    /// As the command line calls it; also its directory below `fuzz/seeds`.
    pub name: &'static str,
    /// Takes anything.
    pub run: fn(&[u8]),
    /// Further places of seeds, below the workspace's root.
    pub places: &'static [(&'static str, Seeds)],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "api_answers", run: watch::fuzz_api, places: &[] },
    Target {
        name: "configurations",
        run: config::fuzz,
        places: &[("crates/config/tests/files", Seeds::Files)],
    },
    Target { name: "corefiles", run: dns::corefile::fuzz, places: &[] },
    Target { name: "dns_messages", run: wire::fuzz, places: &[] },
    Target { name: "dns_transports", run: dns::fuzz_transports, places: &[] },
    Target { name: "http_requests", run: telemetry::http::fuzz, places: &[] },
    Target { name: "manifests", run: watch::fuzz, places: &[("crates/watch/tests/cases", Seeds::Files)] },
    Target {
        name: "netlink_messages",
        run: netlink_replies::messages,
        places: &[("crates/netlink/tests/recorded", Seeds::HexLines)],
    },
    Target {
        name: "nftables_expressions",
        run: netlink_replies::expressions,
        places: &[("crates/netlink/tests/recorded", Seeds::HexLines)],
    },
    Target { name: "zone_files", run: dns::zonefile::fuzz, places: &[] },
];

/// Gives `data` to the target called `name`.
///
/// # Panics
/// When there is no such target: a mistake in the driver, not in the input.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => (target.run)(data),
        None => panic!("no fuzz target is called {name}"),
    }
}
