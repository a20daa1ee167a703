//! How images and steps read: as `iptables-save` prints them.

use super::image::Image;
use super::name::Table;
use super::steps::Step;
use std::fmt;

/// Table by table and chain by chain, in an order that does not depend on how the image came about.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for ((table, chain), rules) in self.in_order() {
            if before != Some(table) {
                writeln!(f, "*{table}")?;
                before = Some::<Table>(table);
            }
            if chain.is_ours() && rules.is_empty() {
                writeln!(f, ":{chain}")?;
            }
            rules.iter().try_for_each(|rule| writeln!(f, "-A {chain} {rule}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Put(table, chain, rules) => {
                write!(f, "{table}: write {chain}")?;
                rules.iter().try_for_each(|rule| write!(f, "\n    {rule}"))
            }
            Step::Flush(table, chain) => write!(f, "{table}: empty {chain}"),
            Step::Drop(table, chain) => write!(f, "{table}: - {chain}"),
            Step::Insert(table, chain, rule) => write!(f, "{table}: first in {chain}: {rule}"),
            Step::Append(table, chain, rule) => write!(f, "{table}: last in {chain}: {rule}"),
            Step::Delete(table, chain, rule) => write!(f, "{table}: out of {chain}: {rule}"),
        }
    }
}
