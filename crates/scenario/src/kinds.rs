//! Which kinds of rules mode iptables makes of a scenario, by which one knows that some scenarios make
//! all that there are. Two rules are of one kind when they differ in addresses, ports and the like.

use crate::run::plans;
use crate::subject::iptables_options;
use crate::{Mode, Scenario};
use dataplane::iptables::{Image, Rule};
use model::Family;
use std::collections::BTreeSet;

/// How many letters of a hash end the name of a Service's chain, with the dash before them.
const HASH_LETTERS: usize = 17;

/// The kinds of rules that there are at any time of the story, as one line each.
pub fn iptables_rules(scenario: &Scenario) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    plans(scenario, Mode::Iptables, |rules| {
        for family in [Family::V4, Family::V6] {
            let image = Image::of(rules, family, &iptables_options(rules));
            for ((table, chain), rules) in &image.chains {
                let place = format!("{table} {}", kind_of(&chain.to_string()));
                kinds.extend(rules.iter().map(|rule| format!("{place}: {}", kind(rule))));
            }
        }
    });
    kinds
}

fn kind(rule: &Rule) -> String {
    let rule = Rule { comment: None, ..rule.clone() };
    rule.to_string().split(' ').map(kind_of).collect::<Vec<_>>().join(" ")
}

/// A word without what differs from one Service, node or packet to another.
fn kind_of(word: &str) -> &str {
    let hashed = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];
    if hashed.iter().any(|prefix| word.starts_with(prefix)) {
        return word.get(..word.len().saturating_sub(HASH_LETTERS)).unwrap_or(word);
    }
    if word.contains(|c: char| c.is_ascii_digit() || c == ':') { "#" } else { word }
}
