//! Do the commands exist that README.md tells its reader to type?

use super::Finding;
use crate::workspace::{cargo, output_of, root};
use anyhow::{Context, Result};
use std::fs;

const README: &str = "README.md";
/// How README.md starts the product before a subcommand.
const PRODUCT: &[&str] = &["cargo run --release -- ", "portolan "];
const XTASK: &str = "cargo xtask ";

/// `commands` are xtask's own.
pub(super) fn check(commands: &[String]) -> Result<Vec<Finding>> {
    let Ok(text) = fs::read_to_string(root().join(README)) else {
        return Ok(vec![Finding::new(README, 1, "there is no README.md")]);
    };
    let help =
        output_of(cargo().args(["run", "--quiet", "--locked", "--package", "portolan", "--", "--help"]))
            .context("asking portolan for its commands")?;
    Ok(unknown(&text, commands, &subcommands(&help)))
}

/// The first words of the help's list of commands.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let list = list.take_while(|line| line.starts_with("  "));
    list.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn unknown(text: &str, xtask: &[String], product: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_block = false;
    for (line, text) in (1..).zip(text.lines()) {
        if text.starts_with("```") {
            in_block = !in_block;
        }
        let command = text.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
        if !in_block {
            continue;
        }
        let starts = PRODUCT.iter().map(|start| (*start, product)).chain([(XTASK, xtask)]);
        for (start, known) in starts {
            let word = command.strip_prefix(start).and_then(|rest| rest.split_whitespace().next());
            if let Some(word) =
                word.filter(|word| !word.starts_with('-') && !known.iter().any(|known| known == word))
            {
                findings.push(Finding::new(README, line, format!("there is no command `{start}{word}`")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{subcommands, unknown};

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let text = "cargo xtask prose\n```\ncargo xtask test\n$ cargo xtask tset --x\ncargo run --release -- demo\nportolan dome\n```\n";
        let found = unknown(text, &["test".to_owned()], &["demo".to_owned()]);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "README.md:4: there is no command `cargo xtask tset`",
            "README.md:6: there is no command `portolan dome`",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn help_lists_subcommands() {
        let help =
            "About\n\nUsage: x\n\nCommands:\n  run   Runs\n  demo  Shows\n        more\n\nOptions:\n  -h\n";
        assert_eq!(subcommands(help), ["run", "demo", "more"]);
    }
}
