//! `portolan trace --explain`: what one packet costs in each mode. The tables are made from the
//! manifests as the planes make them, and the packet walks through them as it does in the kernel;
//! the numbers are counted on the way, not known beforehand.

use config::{Configuration, Mode};
use dataplane::{iptables, ipvs, nftables};
use model::{Cluster, Family};
use plan::{Packet, Settings};
use serde::Serialize;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A packet's way in one mode.
#[derive(Serialize)]
pub(crate) struct Way {
    mode: &'static str,
    verdict: &'static str,
    /// How many hash tables are asked.
    lookups: u32,
    /// Mode iptables: the fewest and the most rules that are evaluated, by the backend drawn.
    rules: Option<(u32, u32)>,
    /// The chains on the longest way; else those of the fixed program.
    chains: usize,
    /// The rules that there are.
    rules_in_all: usize,
    /// Mode iptables: the chains on the longest way, with how many of their rules are evaluated.
    way: Vec<Stop>,
}

#[derive(Serialize)]
struct Stop {
    table: &'static str,
    chain: String,
    evaluated: u32,
    rules: usize,
}

/// A packet's way in all modes.
pub(crate) fn ways(
    cluster: &Cluster,
    configuration: &Configuration,
    settings: &Settings,
    node_addresses: &[IpAddr],
    packet: &Packet,
) -> Vec<Way> {
    let rules_of = |mode| {
        let name = settings.node_name.clone();
        let settings = config::settings(configuration, mode, name, settings.interface_addresses.clone());
        plan::rules(cluster, &settings)
    };
    let family = Family::of(packet.to);
    let drop_invalid = !configuration.conntrack.tcp_be_liberal;
    vec![
        by_iptables(&rules_of(Mode::IpTables), configuration, drop_invalid, node_addresses, packet),
        by_nftables(&rules_of(Mode::NfTables), family, drop_invalid, node_addresses, packet),
        by_ipvs(&rules_of(Mode::Ipvs), configuration, drop_invalid, node_addresses, packet),
    ]
}

fn by_iptables(
    rules: &plan::Rules,
    configuration: &Configuration,
    drop_invalid: bool,
    node_addresses: &[IpAddr],
    packet: &Packet,
) -> Way {
    let mark = 1u32.checked_shl(configuration.iptables.masquerade_bit.into()).unwrap_or_default();
    let options = iptables::Options { node: rules.node.clone(), drop_invalid, mark, random_fully: true };
    let image = iptables::Image::of(rules, Family::of(packet.to), &options);
    let walk = iptables::walk(&image, &rules.node, node_addresses, packet);
    let mut way: Vec<Stop> = Vec::new();
    for (table, chain, evaluated) in &walk.way {
        let name = chain.to_string();
        // Back from another chain, the walk goes on where it left.
        match way.iter_mut().find(|stop| stop.table == table.name() && stop.chain == name) {
            Some(stop) => stop.evaluated += evaluated,
            None => {
                let rules = image.rules(*table, *chain).len();
                way.push(Stop { table: table.name(), chain: name, evaluated: *evaluated, rules });
            }
        }
    }
    Way {
        mode: "iptables",
        verdict: walk.verdict.kind.name(),
        lookups: 0,
        rules: Some(walk.rules),
        chains: walk.chains(),
        rules_in_all: image.chains.values().map(Vec::len).sum(),
        way,
    }
}

fn by_nftables(
    rules: &plan::Rules,
    family: Family,
    drop_invalid: bool,
    node_addresses: &[IpAddr],
    packet: &Packet,
) -> Way {
    let image = nftables::Image::of(rules, family);
    let walk = nftables::walk(&image, &rules.node, node_addresses, packet);
    let options =
        nftables::Options { node: rules.node.clone(), drop_invalid, balancer: nftables::Balancer::Maps };
    fixed("nftables", &walk, nftables::program_size(family, &options, &image))
}

fn by_ipvs(
    rules: &plan::Rules,
    configuration: &Configuration,
    drop_invalid: bool,
    node_addresses: &[IpAddr],
    packet: &Packet,
) -> Way {
    let family = Family::of(packet.to);
    let options = ipvs::Options {
        node: rules.node.clone(),
        node_addresses: node_addresses.iter().copied().collect(),
        scheduler: (&*configuration.ipvs.scheduler).into(),
        lacking: Default::default(),
        drop_invalid,
        excluded: configuration.ipvs.exclude_cidrs.clone(),
    };
    let image = ipvs::Image::of(rules, family, &options);
    let walk = ipvs::walk(&image, &options, packet);
    fixed("ipvs", &walk, nftables::program_size(family, &options.table(), &image.table))
}

fn fixed(mode: &'static str, walk: &nftables::Walk, (chains, rules_in_all): (usize, usize)) -> Way {
    let (verdict, lookups) = (walk.kind.name(), walk.lookups);
    Way { mode, verdict, lookups, rules: None, chains, rules_in_all, way: vec![] }
}

/// The ways in words, that of the mode that was asked for first.
pub(crate) fn told(ways: &[Way], asked: &str) -> String {
    let mut text = String::new();
    let (first, others): (Vec<_>, Vec<_>) = ways.iter().partition(|way| way.mode == asked);
    for way in first.into_iter().chain(others) {
        // Writing to a string cannot fail.
        let Way { mode, verdict, lookups, rules, chains, rules_in_all, way } = way;
        let _ = match rules {
            Some((least, most)) if least == most => {
                writeln!(
                    text,
                    "{mode}: {verdict}, after {most} rules in {chains} chains, of {rules_in_all} rules"
                )
            }
            Some((least, most)) => writeln!(
                text,
                "{mode}: {verdict}, after {least} to {most} rules in {chains} chains, of {rules_in_all} rules"
            ),
            None => writeln!(
                text,
                "{mode}: {verdict}, after {lookups} hash look-ups; {rules_in_all} rules in {chains} chains, none of them a Service's"
            ),
        };
        for Stop { table, chain, evaluated, rules } in way {
            let _ = writeln!(text, "  {table:<7}{chain:<28}{evaluated:>7} of {rules}");
        }
    }
    text
}
