//! `view`: a server block takes only the questions for which its expressions hold.
//!
//! ```text
//! view NAME {
//!     expr EXPRESSION
//! }
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::expression::{Environment, Expression, Names};
use crate::setup::Setting;
use std::sync::Arc;

struct View {
    expressions: Vec<Expression>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let [name] = line.exactly()?;
    let mut expressions = Vec::new();
    for option in &line.block {
        option.no_block()?;
        if option.name.text != "expr" {
            return Err(option.unknown_option("view"));
        }
        let words: Vec<&str> = option.at_least_one()?.iter().map(|word| word.text.as_str()).collect();
        let expression = Expression::parse(&words.join(" "), &Names::default());
        expressions.push(expression.map_err(|what| option.error(what))?);
    }
    setting.block.view = name.text.clone();
    Ok(Some(Arc::new(View { expressions })))
}

impl Plugin for View {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn admits(&self, exchange: &Exchange) -> bool {
        let environment = Environment { exchange: Some(exchange), ..Environment::default() };
        self.expressions.iter().all(|expression| expression.holds(&environment))
    }
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
            ("view a {\nexpr metadata('x/y') == ''\n}", "\"expr\": metadata: not built here"),
            ("view a {\nonly x\n}", "\"only\": no option of plugin view"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
