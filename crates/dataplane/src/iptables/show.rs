//! An image read as Services, for `portolan show`: what the rules of the gates lead to.

use super::image::{Gate, Image};
use super::name::{Chain, Kind, Table};
use super::rule::{Rule, Target, Test};
use crate::{ShownFrontend, ShownService, Slot};
use model::{Family, Prefix};
use plan::At;
use std::collections::BTreeMap;

/// The Services of an image, by name. In big clusters rules carry no comments, and there the kernel
/// does not know the names.
pub(super) fn services(image: &Image, family: Family, mark: u32) -> Vec<ShownService> {
    let reader = Reader { image, family, mark };
    let mut services: BTreeMap<String, Vec<ShownFrontend>> = BTreeMap::new();
    for gate in [Gate::Services, Gate::NodePorts, Gate::Rejects, Gate::ExternalRejects] {
        let (table, chain) = gate.place();
        for rule in image.rules(table, chain).iter().filter(|rule| !gate.is_last(rule)) {
            let Some(frontend) = reader.frontend(gate, rule) else { continue };
            let name = rule.comment.as_deref().and_then(|c| c.split(' ').next()).unwrap_or_default();
            let frontends = services.entry(name.to_owned()).or_default();
            // One that only local clients reach stands in both tables, and one at ports of the node
            // once for each network.
            let same =
                |other: &&ShownFrontend| other.at == frontend.at && other.protocol == frontend.protocol;
            if !frontends.iter().any(|other| same(&other)) {
                frontends.push(frontend);
            }
        }
    }
    let shown = services.into_iter().map(|(name, mut frontends)| {
        frontends.sort_by_key(|frontend| (frontend.at, frontend.protocol));
        ShownService { name, frontends }
    });
    shown.collect()
}

struct Reader<'a> {
    image: &'a Image,
    family: Family,
    mark: u32,
}

impl Reader<'_> {
    fn frontend(&self, gate: Gate, rule: &Rule) -> Option<ShownFrontend> {
        let port = rule.asks.port?;
        let host = |(is, network): (bool, Prefix)| {
            (is && network.length() == self.family.bits()).then(|| network.network())
        };
        let is_node_port = gate == Gate::NodePorts || rule.asks.test == Some(Test::DestinationLocal);
        let at = match rule.asks.destination.and_then(host).filter(|_| !is_node_port) {
            Some(ip) => At::Address(ip, port),
            None if is_node_port => At::NodePort(port),
            None => return None,
        };
        let mut shown = ShownFrontend {
            at,
            protocol: rule.asks.protocol?,
            verdict: "dnat",
            backends: vec![],
            backends_for_local_clients: None,
            affinity_seconds: None,
            masquerade: "never",
            sources: vec![],
        };
        match rule.target? {
            Target::Reject | Target::Reset => shown.verdict = "reject",
            Target::Drop => shown.verdict = "drop",
            Target::Jump(chain) => self.chain(chain, at, &mut shown),
            // What table filter refuses stands there.
            _ => return None,
        }
        Some(shown)
    }

    fn chain(&self, chain: Chain, at: At, shown: &mut ShownFrontend) {
        let rules = self.image.rules(Table::Nat, chain);
        match chain {
            Chain::Of(Kind::Firewall, _) => {
                let sources = rules.iter().filter_map(|rule| Some(rule.asks.source?.1));
                shown.sources = sources.collect();
                if let Some(Target::Jump(to)) = rules.first().and_then(|rule| rule.target) {
                    self.chain(to, at, shown);
                }
            }
            Chain::Of(Kind::External, _) => self.external(rules, at, shown),
            _ => {
                let (backends, affinity) = self.pool(rules);
                shown.backends = backends;
                shown.affinity_seconds = affinity;
                let mine = |rule: &&Rule| match (at, rule.asks.destination) {
                    (At::Address(ip, port), Some((_, network))) => {
                        network.contains(ip) && rule.asks.port == Some(port)
                    }
                    _ => false,
                };
                if let Some(rule) = rules.iter().find(mine) {
                    shown.masquerade = self.masquerade(rule);
                }
            }
        }
    }

    fn masquerade(&self, rule: &Rule) -> &'static str {
        let all = rule.asks.source.is_none()
            && rule.asks.interface.is_none()
            && rule.target == Some(Target::Jump(Chain::MarkMasq));
        let marks =
            self.image.rules(Table::Nat, Chain::MarkMasq).contains(&Rule::to(Target::Mark(self.mark)));
        match (marks, all) {
            (false, _) => "never",
            (true, true) => "always",
            (true, false) => "off-cluster",
        }
    }

    fn external(&self, rules: &[Rule], at: At, shown: &mut ShownFrontend) {
        let local = rules.iter().find_map(|rule| match (rule.asks.test, rule.target) {
            (Some(Test::SourceLocal), Some(Target::Jump(to @ Chain::Of(..)))) => Some(to),
            _ => None,
        });
        let all = rules.iter().any(|rule| *rule == Rule::to(Target::Jump(Chain::MarkMasq)));
        shown.verdict = "drop";
        if let Some(Target::Jump(to)) = rules.last().and_then(|rule| rule.target) {
            shown.verdict = "dnat";
            self.chain(to, at, shown);
        }
        shown.masquerade = if all { "always" } else { "never" };
        if let Some(to) = local {
            let (backends, affinity) = self.pool(self.image.rules(Table::Nat, to));
            shown.backends_for_local_clients = Some(backends);
            shown.affinity_seconds = shown.affinity_seconds.or(affinity);
        }
    }

    /// The backends of a chain that picks one, and for how long clients stay with theirs.
    fn pool(&self, rules: &[Rule]) -> (Vec<Slot>, Option<u32>) {
        let mut affinity = None;
        let mut backends = Vec::new();
        for rule in rules {
            let Some(Target::Jump(to @ Chain::Of(Kind::Endpoint, _))) = rule.target else { continue };
            if let Some(Test::SeenWithin(_, seconds)) = rule.asks.test {
                affinity = Some(seconds);
                continue;
            }
            backends.extend(self.image.rules(Table::Nat, to).iter().filter_map(|rule| match rule.target {
                Some(Target::Dnat(to)) => Some(Slot { address: to.ip(), port: to.port() }),
                _ => None,
            }));
        }
        backends.sort_unstable();
        (backends, affinity)
    }
}
