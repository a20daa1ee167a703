//! What is there whatever the Services: the chains that are ours alone, and the rules by which the
//! kernel's own chains lead to them.

use super::image::{Gate, Options, pod_networks};
use super::name::{Chain, Hook, Table};
use super::rule::{INVALID, KNOWN, KNOWN_OR_TRANSLATED, NEW, Rule, Target, Test};
use model::{Family, Prefix, Protocol};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ways from the kernel's chains to ours: table, hook, chain, new connections only, and what
/// kube-proxy says of it. The third is not one of its own: there, what the node sends to an address
/// without endpoints goes out to nowhere.
const WAYS: [(Table, Hook, Chain, bool, &str); 13] = [
    (
        Table::Filter,
        Hook::Input,
        Chain::ExternalServices,
        true,
        "kubernetes externally-visible service portals",
    ),
    (
        Table::Filter,
        Hook::Forward,
        Chain::ExternalServices,
        true,
        "kubernetes externally-visible service portals",
    ),
    (
        Table::Filter,
        Hook::Output,
        Chain::ExternalServices,
        true,
        "kubernetes externally-visible service portals",
    ),
    (Table::Filter, Hook::Input, Chain::NodePorts, false, "kubernetes health check service ports"),
    (Table::Filter, Hook::Forward, Chain::Services, true, "kubernetes service portals"),
    (Table::Filter, Hook::Output, Chain::Services, true, "kubernetes service portals"),
    (Table::Filter, Hook::Forward, Chain::Forward, false, "kubernetes forwarding rules"),
    (Table::Filter, Hook::Input, Chain::ProxyFirewall, true, "kubernetes load balancer firewall"),
    (Table::Filter, Hook::Output, Chain::ProxyFirewall, true, "kubernetes load balancer firewall"),
    (Table::Filter, Hook::Forward, Chain::ProxyFirewall, true, "kubernetes load balancer firewall"),
    (Table::Nat, Hook::Output, Chain::Services, false, "kubernetes service portals"),
    (Table::Nat, Hook::Prerouting, Chain::Services, false, "kubernetes service portals"),
    (Table::Nat, Hook::Postrouting, Chain::Postrouting, false, "kubernetes postrouting rules"),
];

/// All of it, gates empty.
pub(crate) fn program(options: &Options, family: Family) -> BTreeMap<(Table, Chain), Vec<Rule>> {
    let mut chains: BTreeMap<(Table, Chain), Vec<Rule>> = BTreeMap::new();
    for gate in Gate::ALL {
        chains.insert(gate.place(), vec![]);
    }
    for table in Table::ALL {
        chains.insert((table, Chain::Canary), vec![]);
    }
    chains.insert((Table::Nat, Chain::MarkMasq), vec![Rule::to(Target::Mark(options.mark))]);
    chains.insert((Table::Nat, Chain::Postrouting), postrouting(options));
    chains.insert((Table::Filter, Chain::Forward), forward(options));
    let reset = Rule::to(Target::Reset).protocol(Protocol::Tcp);
    chains.insert((Table::Filter, Chain::Refuse), vec![reset, Rule::to(Target::Reject)]);
    let networks = pod_networks(options, family);
    if networks.len() > 1 {
        let back = networks.iter().map(|network| Rule::to(Target::Return).from(true, *network));
        let rules = back.chain([Rule::to(Target::Mark(options.mark))]).collect();
        chains.insert((Table::Nat, Chain::MarkOffCluster), rules);
    }
    for (table, hook, chain, new_only, about) in WAYS {
        let way = Rule::to(Target::Jump(chain)).about(about);
        let way = if new_only { way.when(Test::State(true, NEW)) } else { way };
        chains.entry((table, Chain::Hook(hook))).or_default().push(way);
    }
    if let Some(rule) = guard(options, family) {
        chains.insert((Table::Filter, Chain::Firewall), vec![rule]);
        for hook in [Hook::Input, Hook::Output] {
            let way = Rule::to(Target::Jump(Chain::Firewall));
            chains.entry((Table::Filter, Chain::Hook(hook))).or_default().push(way);
        }
    }
    chains
}

/// Masquerades what is marked, and takes the mark away, lest a packet that comes by again, out of a
/// tunnel, carry it still.
fn postrouting(options: &Options) -> Vec<Rule> {
    let about = "kubernetes service traffic requiring SNAT";
    vec![
        Rule::to(Target::Return).when(Test::Mark(false, options.mark)),
        Rule::to(Target::Flip(options.mark)),
        Rule::to(Target::Masquerade(options.random_fully)).about(about),
    ]
}

fn forward(options: &Options) -> Vec<Rule> {
    let mut rules = Vec::new();
    if options.drop_invalid {
        rules.push(Rule::to(Target::Drop).when(Test::State(true, INVALID)));
    }
    let about = "kubernetes forwarding rules";
    rules.push(Rule::to(Target::Accept).about(about).when(Test::Mark(true, options.mark)));
    let about = "kubernetes forwarding conntrack rule";
    rules.push(Rule::to(Target::Accept).about(about).when(Test::State(true, KNOWN)));
    rules
}

/// `route_localnet`, which NodePorts at localhost need, would let packets in to 127.0.0.0/8.
fn guard(options: &Options, family: Family) -> Option<Rule> {
    let needed = family == Family::V4 && options.node.localhost_node_ports;
    let loopback = Prefix::new(IpAddr::from([127, 0, 0, 0]), 8).filter(|_| needed)?;
    let rule = Rule::to(Target::Drop).about("block incoming localnet connections");
    Some(rule.from(false, loopback).at(true, loopback).when(Test::State(false, KNOWN_OR_TRANSLATED)))
}
