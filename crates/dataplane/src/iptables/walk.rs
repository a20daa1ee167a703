//! A packet's way through an image, rule by rule as the kernel walks it, with a count of the rules:
//! what a connection pays, and the reason for the other planes.

use super::image::Image;
use super::name::{Chain, Hook, Table};
use super::rule::{Asks, INVALID, KNOWN, KNOWN_OR_TRANSLATED, NEW, Rule, Target, Test};
use crate::nftables;
use crate::pool::Slot;
use plan::{NodeRules, Packet, VerdictKind};
use std::net::IpAddr;

/// What becomes of a packet, and what it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What becomes of it.
    pub verdict: nftables::Walk,
    /// The fewest and the most rules that are evaluated for it, by the backend that it draws.
    pub rules: (u32, u32),
    /// The chains on the longest way, with how many of their rules are evaluated.
    pub way: Vec<(Table, Chain, u32)>,
}

impl Walk {
    /// How many chains it enters on the longest way.
    pub fn chains(&self) -> usize {
        let mut chains: Vec<_> = self.way.iter().map(|(table, chain, _)| (table, chain)).collect();
        chains.sort_unstable();
        chains.dedup();
        chains.len()
    }
}

/// One way that a packet may take, so far.
#[derive(Clone, Debug, Default)]
struct Path {
    marked: bool,
    to: Option<Slot>,
    masquerade: bool,
    way: Vec<(Table, Chain, u32)>,
}

impl Path {
    fn rules(&self) -> u32 {
        self.way.iter().map(|(_, _, count)| count).sum()
    }
}

/// How a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It decided nothing.
    Back,
    /// On to the next table.
    Accept,
    Drop,
    Reject,
}

/// Sends the first packet of a connection through the tables of its family.
pub fn walk(image: &Image, node: &NodeRules, node_addresses: &[IpAddr], packet: &Packet) -> Walk {
    let is_node = |ip: IpAddr| ip.is_loopback() || node_addresses.contains(&ip);
    let mut walker = Walker {
        image,
        packet,
        pod: node.is_local_pod(packet),
        from_node: is_node(packet.from),
        to_node: is_node(packet.to),
        affinity_seconds: None,
    };
    let first = if walker.from_node { Hook::Output } else { Hook::Prerouting };
    let mut done: Vec<(Path, End)> = Vec::new();
    for (path, _) in walker.run(Table::Nat, Chain::Hook(first), 0, Path::default()) {
        let to_node = path.to.map_or(walker.to_node, |slot| is_node(slot.address));
        // What a host sends to itself goes out and comes in again.
        let hooks: &[Hook] = match (walker.from_node, to_node) {
            (true, true) => &[Hook::Output, Hook::Input],
            (true, false) => &[Hook::Output],
            (false, true) => &[Hook::Input],
            (false, false) => &[Hook::Forward],
        };
        let mut paths = vec![(path, End::Back)];
        for hook in hooks {
            paths = paths
                .into_iter()
                .flat_map(|(path, end)| match end {
                    End::Drop | End::Reject => vec![(path, end)],
                    End::Back | End::Accept => walker.run(Table::Filter, Chain::Hook(*hook), 0, path),
                })
                .collect();
        }
        for (path, end) in paths {
            match end {
                End::Drop | End::Reject => done.push((path, end)),
                End::Back | End::Accept => {
                    done.extend(walker.run(Table::Nat, Chain::Hook(Hook::Postrouting), 0, path));
                }
            }
        }
    }
    told(done, walker.affinity_seconds)
}

fn told(done: Vec<(Path, End)>, affinity_seconds: Option<u32>) -> Walk {
    let refused = |wanted: End| done.iter().any(|(_, end)| *end == wanted);
    let mut backends: Vec<(Slot, bool)> =
        done.iter().filter_map(|(path, _)| Some((path.to?, path.masquerade))).collect();
    backends.sort_unstable();
    backends.dedup();
    let kind = match () {
        () if refused(End::Drop) => VerdictKind::Drop,
        () if refused(End::Reject) => VerdictKind::Reject,
        () if backends.is_empty() => VerdictKind::Pass,
        () => VerdictKind::Dnat,
    };
    if kind != VerdictKind::Dnat {
        backends.clear();
    }
    let counts = || done.iter().map(|(path, _)| path.rules());
    let rules = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let longest = done.iter().map(|(path, _)| path).max_by_key(|path| path.rules());
    let way = longest.map(|path| path.way.clone()).unwrap_or_default();
    let (backends, masquerade): (Vec<Slot>, Vec<bool>) = backends.into_iter().unzip();
    let affinity_seconds = affinity_seconds.filter(|_| kind == VerdictKind::Dnat);
    Walk { verdict: nftables::Walk { kind, backends, masquerade, affinity_seconds, lookups: 0 }, rules, way }
}

struct Walker<'a> {
    image: &'a Image,
    packet: &'a Packet,
    pod: bool,
    from_node: bool,
    to_node: bool,
    affinity_seconds: Option<u32>,
}

/// Whether a rule fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    /// As chance has it.
    Maybe,
}

impl Walker<'_> {
    /// Walks through a chain from this rule on, on every way that chance allows.
    fn run(&mut self, table: Table, chain: Chain, from: usize, mut path: Path) -> Vec<(Path, End)> {
        let image = self.image;
        let rules = image.rules(table, chain);
        let mut done = Vec::new();
        path.way.push((table, chain, 0));
        for (index, rule) in rules.iter().enumerate().skip(from) {
            if let Some((_, _, count)) = path.way.last_mut() {
                *count += 1;
            }
            match self.fits(rule, &path) {
                Fit::No => {}
                Fit::Maybe => done.extend(self.act(table, chain, index, rule, path.clone())),
                Fit::Yes => {
                    if rule.target.is_none() {
                        continue;
                    }
                    match rule.target {
                        // These two go on with the next rule.
                        Some(Target::Mark(_)) => path.marked = true,
                        Some(Target::Flip(_)) => path.marked = !path.marked,
                        _ => {
                            done.extend(self.act(table, chain, index, rule, path));
                            return done;
                        }
                    }
                }
            }
        }
        done.push((path, End::Back));
        done
    }

    fn act(
        &mut self,
        table: Table,
        chain: Chain,
        index: usize,
        rule: &Rule,
        mut path: Path,
    ) -> Vec<(Path, End)> {
        match rule.target {
            None | Some(Target::Mark(_) | Target::Flip(_)) => vec![(path, End::Back)],
            Some(Target::Accept) => vec![(path, End::Accept)],
            Some(Target::Drop) => vec![(path, End::Drop)],
            Some(Target::Reject | Target::Reset) => vec![(path, End::Reject)],
            Some(Target::Return) => vec![(path, End::Back)],
            Some(Target::Masquerade(_)) => {
                path.masquerade = true;
                vec![(path, End::Accept)]
            }
            Some(Target::Dnat(to)) => {
                path.to = Some(Slot { address: to.ip(), port: to.port() });
                vec![(path, End::Accept)]
            }
            Some(Target::Jump(to)) => {
                let mut done = Vec::new();
                for (path, end) in self.run(table, to, 0, path) {
                    match end {
                        End::Back => done.extend(self.run(table, chain, index + 1, path)),
                        End::Accept | End::Drop | End::Reject => done.push((path, end)),
                    }
                }
                done
            }
        }
    }

    fn fits(&mut self, rule: &Rule, path: &Path) -> Fit {
        let Asks { source, destination, interface, protocol, port, test } = &rule.asks;
        let (to, to_port) = path.to.map_or((self.packet.to, self.packet.port), |s| (s.address, s.port));
        let plain = source.is_none_or(|(is, network)| network.contains(self.packet.from) == is)
            && destination.is_none_or(|(is, network)| network.contains(to) == is)
            && interface.as_ref().is_none_or(|(is, _)| self.pod == *is)
            && protocol.is_none_or(|protocol| protocol == self.packet.protocol)
            && port.is_none_or(|port| port == to_port);
        if !plain {
            return Fit::No;
        }
        let yes = match test {
            None | Some(Test::Remember(_) | Test::OneIn(1)) => true,
            Some(Test::OneIn(_)) => return Fit::Maybe,
            // The sender has not been here before.
            Some(Test::SeenWithin(_, seconds)) => {
                self.affinity_seconds = Some(*seconds);
                false
            }
            Some(Test::SourceLocal) => self.from_node,
            Some(Test::DestinationLocal) => path.to.map_or(self.to_node, |_| false),
            Some(Test::Mark(is, _)) => path.marked == *is,
            Some(Test::State(is, states)) => *is == Self::is_in(states, path),
        };
        if yes { Fit::Yes } else { Fit::No }
    }

    /// The packet is the first of its connection.
    fn is_in(states: &str, path: &Path) -> bool {
        match states {
            NEW => true,
            KNOWN_OR_TRANSLATED => path.to.is_some(),
            INVALID | KNOWN => false,
            _ => false,
        }
    }
}
