//! What a scenario takes for granted: the nodes, and how the node under test is configured.

use crate::{Block, Mode, Scenario};
use config::Configuration;
use model::{Object, parse_ip};
use plan::Settings;
use std::net::IpAddr;
use watch::{Keep, Loaded, Problem, Severity};

/// The node under test.
pub const NODE: &str = "node-a";

/// The file beside the scenarios that holds the nodes.
const NODES_FILE: &str = "nodes.yaml";

/// The addresses on the interfaces of the node under test.
const NODE_ADDRESSES: [&str; 3] = ["172.18.0.2", "fd00:172:18::2", "172.19.0.2"];

/// How the node under test is set up.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    /// The addresses on the node's interfaces.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The nodes of the cluster.
    pub(crate) nodes: Vec<Object>,
}

impl Setup {
    /// Whether an address is the node under test's own.
    pub(crate) fn is_node(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.node_addresses.contains(&ip)
    }
}

/// The modes that a scenario holds for: the one that its configuration names, else all.
pub(crate) fn modes(scenario: &Scenario) -> Result<Vec<Mode>, String> {
    match configuration(scenario)?.mode {
        config::Mode::Auto => Ok(Mode::ALL.to_vec()),
        config::Mode::NfTables => Ok(vec![Mode::Nftables]),
        config::Mode::Ipvs => Ok(vec![Mode::Ipvs]),
        config::Mode::IpTables => Ok(vec![Mode::Iptables]),
        other => Err(format!("mode {other}: no scenario can be run in it")),
    }
}

pub(crate) fn setup(scenario: &Scenario, mode: Mode) -> Result<Setup, String> {
    let configuration = configuration(scenario)?;
    let settings = config::settings(&configuration, as_configured(mode), NODE.into(), vec![]);
    let node_addresses = NODE_ADDRESSES.into_iter().filter_map(address).collect();
    Ok(Setup { settings, node_addresses, nodes: nodes(scenario)? })
}

fn as_configured(mode: Mode) -> config::Mode {
    match mode {
        Mode::Nftables => config::Mode::NfTables,
        Mode::Ipvs => config::Mode::Ipvs,
        Mode::Iptables => config::Mode::IpTables,
    }
}

/// The configuration of the node under test. Nothing may be odd about it.
fn configuration(scenario: &Scenario) -> Result<Configuration, String> {
    let Some(block) = &scenario.config else { return Ok(Configuration::default()) };
    let loaded = config::parse(&at_its_line(block), &scenario.path).map_err(|error| error.to_string())?;
    if loaded.warnings.is_empty() { Ok(loaded.configuration) } else { Err(loaded.warnings.join("\n")) }
}

/// A section with empty lines in front, so that lines are numbered as in the file.
fn at_its_line(block: &Block) -> String {
    "\n".repeat(block.line.saturating_sub(1)) + &block.text
}

/// An address, `None` where the text is none.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    parse_ip(text).ok()
}

fn nodes(scenario: &Scenario) -> Result<Vec<Object>, String> {
    let path = scenario.path.with_file_name(NODES_FILE);
    let Loaded { objects, problems } = watch::load(&path, Keep::default()).map_err(|e| e.to_string())?;
    match problems.first() {
        None => Ok(objects),
        Some(problem) => Err(problem.to_string()),
    }
}

/// Reads the manifests of a section.
pub(crate) fn load(scenario: &Scenario, block: &Block) -> Loaded {
    watch::parse(&scenario.path, at_its_line(block).as_bytes(), Keep::default())
}

/// What is said of a manifest, without the place.
pub(crate) fn told(problem: &Problem) -> String {
    let severity = match problem.severity {
        Severity::Notice => "notice",
        Severity::Error => "error",
    };
    match &problem.object {
        Some(object) => format!("{severity}: {object}: {}", problem.what),
        None => format!("{severity}: {}", problem.what),
    }
}
