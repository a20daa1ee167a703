//! The form of a scenario file: a paragraph that says what it shows, then sections.
//!
//! ```text
//! A Service of two endpoints is balanced over both.
//!
//! -- config --        KubeProxyConfiguration, if not the default one
//! -- manifests --     the cluster at first
//! -- verdicts --      what becomes of flows; see `verdict`
//! -- health checks -- NAMESPACE/NAME PORT LOCAL_ENDPOINTS
//! -- contested --     NAMESPACE/NAME: what it asks for and another Service holds
//! -- problems --      what is said about the manifests; without the section, nothing is
//! -- nftables --      the plane's tables
//! -- apply: an endpoint leaves --    objects that come or change; then checks again
//! -- delete: the Service goes --     KIND NAMESPACE/NAME or KIND NAME, one a line
//! -- verdicts --
//! ```
//!
//! What sections hold is not looked at here, lines of our own making excepted.

use crate::error::BadLine;
use crate::{Error, Expectation, Mode};
use model::{ObjectKey, ObjectName};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One scenario file.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it was read.
    pub path: PathBuf,
    /// The paragraphs before the first section: what it shows.
    pub prose: String,
    /// The configuration, if it is not the default one.
    pub config: Option<Block>,
    /// The story, beginning with the manifests.
    pub steps: Vec<Step>,
}

/// A section as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its first line in the file, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// A change of the cluster, and what holds after it.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The line of its first heading in the file, from 1.
    pub line: usize,
    /// What happens, in words; empty for the first step.
    pub title: String,
    /// Manifests of objects that come or change.
    pub apply: Vec<Block>,
    /// Objects that go.
    pub delete: Vec<ObjectKey>,
    /// What becomes of flows, with their lines in the file.
    pub verdicts: Vec<(usize, Expectation)>,
    /// Health-check node ports, if they are looked at.
    pub health_checks: Option<Block>,
    /// Frontends that Services ask for and others hold, if they are looked at.
    pub contested: Option<Block>,
    /// What is said about the manifests of this step.
    pub problems: Option<Block>,
    /// The tables of a plane, if they are looked at.
    pub tables: BTreeMap<Mode, Block>,
}

impl Step {
    fn has_checks(&self) -> bool {
        let Step {
            line: _,
            title: _,
            apply: _,
            delete: _,
            verdicts,
            health_checks,
            contested,
            problems,
            tables,
        } = self;
        let others = [health_checks, contested, problems];
        !verdicts.is_empty() || !tables.is_empty() || others.into_iter().any(Option::is_some)
    }
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it cannot be read, or is no scenario.
    pub fn read(path: &Path) -> Result<Scenario, Error> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Scenario::parse(path, &text)
    }

    /// Takes a scenario apart.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(path: &Path, text: &str) -> Result<Scenario, Error> {
        parse(path, text).map_err(|bad| bad.of(path))
    }

    /// The scenario's name: that of the file, without directory and ending.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Puts other text under headings: the file's text with these sections' bodies replaced.
pub fn rewrite(text: &str, sections: &[(Block, String)]) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut sections: Vec<_> = sections.iter().collect();
    // The last first, so that the lines of those before it stay where they are.
    sections.sort_by_key(|(block, _)| std::cmp::Reverse(block.line));
    for (block, body) in sections {
        let start = block.line.saturating_sub(1).min(lines.len());
        let end = (start + block.text.lines().count()).min(lines.len());
        let gap = if end < lines.len() { Some("") } else { None };
        lines.splice(start..end, body.trim_end().lines().chain(gap));
    }
    lines.join("\n") + "\n"
}

fn parse(path: &Path, text: &str) -> Result<Scenario, BadLine> {
    let (prose, sections) = split(text);
    if prose.trim().is_empty() {
        return Err(BadLine::new(1, "the file does not begin by saying what it shows"));
    }
    let mut scenario = Scenario {
        path: path.to_owned(),
        prose: prose.trim().to_owned(),
        config: None,
        steps: vec![Step { line: 1, ..Step::default() }],
    };
    for Section { line, heading, body } in sections {
        add(&mut scenario, line, heading, body).map_err(|bad| BadLine { line: bad.line.max(line), ..bad })?;
    }
    match scenario.steps.iter().find(|s| !s.has_checks()) {
        Some(step) => Err(BadLine::new(1, format!("nothing is checked after step {:?}", step.title))),
        None => Ok(scenario),
    }
}

/// A heading and what stands under it.
struct Section<'a> {
    line: usize,
    heading: &'a str,
    body: Block,
}

/// Splits the text before the first heading from the sections.
fn split(text: &str) -> (String, Vec<Section<'_>>) {
    let mut prose = String::new();
    let mut sections: Vec<Section<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(heading) = heading(line) {
            let body = Block { line: number + 1, text: String::new() };
            sections.push(Section { line: number, heading, body });
            continue;
        }
        let into = sections.last_mut().map_or(&mut prose, |section| &mut section.body.text);
        into.push_str(line);
        into.push('\n');
    }
    (prose, sections)
}

fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("-- ")?.trim_end().strip_suffix(" --").map(str::trim)
}

fn add(scenario: &mut Scenario, line: usize, heading: &str, body: Block) -> Result<(), BadLine> {
    let (word, title) = heading.split_once(':').unwrap_or((heading, ""));
    let first = scenario.steps.len() == 1 && !scenario.steps.iter().any(Step::has_checks);
    let changes = matches!(word, "apply" | "delete");
    if changes && (first || scenario.steps.last().is_some_and(Step::has_checks)) {
        scenario.steps.push(Step { line, title: title.trim().to_owned(), ..Step::default() });
    }
    if !changes && !title.is_empty() {
        return Err(BadLine::new(0, format!("only apply and delete have titles, not {word}")));
    }
    let Some(step) = scenario.steps.last_mut() else { return Ok(()) };
    let place = match word {
        "apply" => {
            step.apply.push(body);
            return Ok(());
        }
        "delete" => return keys(&body).map(|keys| step.delete.extend(keys)),
        "manifests" if first && step.apply.is_empty() => {
            step.apply.push(body);
            return Ok(());
        }
        "verdicts" => return verdicts(&body).map(|verdicts| step.verdicts.extend(verdicts)),
        "nftables" | "ipvs" | "iptables" => {
            let mode: Mode = word.parse().map_err(|what: String| BadLine::new(0, what))?;
            return match step.tables.insert(mode, body) {
                None => Ok(()),
                Some(_) => Err(BadLine::new(0, format!("a second {word} section in one step"))),
            };
        }
        "config" if first => &mut scenario.config,
        "health checks" => &mut step.health_checks,
        "contested" => &mut step.contested,
        "problems" => &mut step.problems,
        _ => return Err(BadLine::new(0, format!("section {word:?} is unknown, or not at its place"))),
    };
    match place.replace(body) {
        None => Ok(()),
        Some(_) => Err(BadLine::new(0, format!("a second {word} section in one step"))),
    }
}

impl Block {
    /// The lines that say something, with their numbers in the file: no empty ones, and none that
    /// begin with `#`. What follows ` #` on a line is a remark too.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| {
            let line = line.split_once(" #").map_or(line, |(before, _)| before);
            (self.line + index, line.trim())
        });
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }
}

fn verdicts(body: &Block) -> Result<Vec<(usize, Expectation)>, BadLine> {
    let read = |(line, text): (usize, &str)| match text.parse() {
        Ok(expectation) => Ok((line, expectation)),
        Err(what) => Err(BadLine::new(line, what)),
    };
    body.lines().map(read).collect()
}

fn keys(body: &Block) -> Result<Vec<ObjectKey>, BadLine> {
    body.lines().map(|(line, text)| key(text).ok_or_else(|| bad_key(line, text))).collect()
}

fn bad_key(line: usize, text: &str) -> BadLine {
    BadLine::new(line, format!("{text:?} is not KIND NAMESPACE/NAME or KIND NAME"))
}

fn key(text: &str) -> Option<ObjectKey> {
    let (kind, name) = text.split_once(' ')?;
    let in_namespace = || name.split_once('/').map(|(namespace, name)| ObjectName::new(namespace, name));
    Some(match kind {
        "Service" => ObjectKey::Service(in_namespace()?),
        "EndpointSlice" => ObjectKey::Slice(in_namespace()?),
        "Pod" => ObjectKey::Pod(in_namespace()?),
        "Node" => ObjectKey::Node(name.into()),
        "Namespace" => ObjectKey::Namespace(name.into()),
        "ServiceCIDR" => ObjectKey::ServiceCidr(name.into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
