//! `metadata`: lets plugins say more about an exchange, for `log`, `rewrite` and `template` to use.
//!
//! ```text
//! metadata [ZONE...]
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::{Error, origins};
use crate::exchange::Exchange;
use crate::setup::Setting;
use std::sync::Arc;
use wire::Name;

struct Metadata {
    zones: Vec<Name>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    Ok(Some(Arc::new(Metadata { zones: origins(&line.args, &setting.block.zones)? })))
}

impl Plugin for Metadata {
    fn collects(&self, exchange: &Exchange) -> bool {
        self.zones.iter().any(|zone| exchange.asked.question.name.is_in(zone))
    }

    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        if self.collects(exchange) {
            exchange.collect_metadata();
            if !at.chain.view.is_empty() {
                exchange.tell("view/name", || at.chain.view.clone());
            }
            at.chain.links().iter().for_each(|link| link.plugin.describe(exchange));
        }
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, Told};

    #[test]
    fn what_is_said_is_kept_where_it_is_wanted() {
        let told = Told::good();
        let bench = Bench::of(&format!("metadata example\nforward . {}", told.address));
        let said = |name: &str| {
            let exchange = bench.exchange_from("10.0.0.1", name);
            exchange.told("forward/upstream").map(str::to_owned)
        };
        assert_eq!(said("a.example A"), Some(told.address.to_string()));
        assert_eq!(said("a.other A"), None);
    }
}
