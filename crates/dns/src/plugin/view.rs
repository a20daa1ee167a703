//! `view`: a server block takes only the questions for which its expressions hold.
//!
//! ```text
//! view NAME {
//!     expr EXPRESSION
//! }
//! ```

use crate::chain::{At, Chain, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::expression::{Environment, Expression, Names};
use crate::setup::Setting;
use std::sync::Arc;

struct View {
    expressions: Vec<Expression>,
    /// Some of them ask for metadata.
    metadata: bool,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let [name] = line.exactly()?;
    let mut expressions = Vec::new();
    let mut metadata = false;
    for option in &line.block {
        option.no_block()?;
        if option.name.text != "expr" {
            return Err(option.unknown_option("view"));
        }
        let words: Vec<&str> = option.at_least_one()?.iter().map(|word| word.text.as_str()).collect();
        let text = words.join(" ");
        metadata |= text.contains("metadata");
        let expression = Expression::parse(&text, &Names { metadata: true, ..Names::default() });
        expressions.push(expression.map_err(|what| option.error(what))?);
    }
    setting.block.view = name.text.clone();
    Ok(Some(Arc::new(View { expressions, metadata })))
}

impl Plugin for View {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn admits(&self, exchange: &Exchange, chain: &Chain) -> bool {
        let described = self.metadata.then(|| describe(exchange, chain));
        let exchange = described.as_ref().unwrap_or(exchange);
        let environment = Environment { exchange: Some(exchange), ..Environment::default() };
        self.expressions.iter().all(|expression| expression.holds(&environment))
    }
}

/// The question with all that plugins of this block say about it, which another block must not see.
fn describe(exchange: &Exchange, chain: &Chain) -> Exchange {
    let mut described = Exchange::new(exchange.received);
    described.asked = exchange.asked.clone();
    described.begin(exchange.from, exchange.received);
    if chain.links().iter().any(|link| link.plugin.collects(exchange)) {
        described.collect_metadata();
        chain.links().iter().for_each(|link| link.plugin.describe(&mut described));
    }
    described
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn the_first_block_whose_view_holds() {
        let bench = Bench::new(
            ". {\nview one {\nexpr incidr(client_ip(), '127.0.0.0/24')\n}\nhosts {\n1.1.1.1 test\n}\n}\n\
             . {\nview two {\nexpr type() in ['A', 'AAAA']\nexpr name() matches '^t.*\\\\.$'\n}\nhosts {\n2.2.2.2 test\n}\n}\n\
             . {\nhosts {\n3.3.3.3 test\n}\n}",
        );
        for (client, question, want) in [
            ("127.0.0.1", "test A", "1.1.1.1"),
            ("10.0.0.1", "test A", "2.2.2.2"),
            ("fd00::1", "test A", "2.2.2.2"),
        ] {
            let answer = bench.ask_from(client, question);
            assert!(answer.ends_with(want), "{client} {question}: {answer}");
        }
        for (lines, want) in [
            ("view", "\"view\": takes 1 arguments, not 0"),
            ("view a {\nexpr\n}", "\"expr\": takes an argument"),
            ("view a {\nexpr what()\n}", "\"expr\": no function is called what"),
            ("view a {\nonly x\n}", "\"only\": no option of plugin view"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
