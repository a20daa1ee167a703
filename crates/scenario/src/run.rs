//! Runs a scenario: tells its story to a planner step by step, and asks after each step what the
//! file asks. Who answers is the [`Subject`].

use crate::setup::{self, NODE, Setup};
use crate::subject::Subject;
use crate::{Block, Mode, Scenario, Step};
use dataplane::iptables::Variant;
use model::{Change, Cluster, ObjectKey, Touched};
use plan::{Delta, Planner, Rules};
use std::collections::BTreeSet;
use std::fmt;

/// A way to run a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who is asked what becomes of packets.
    pub answers: Answers,
    /// In which order the objects of each step come.
    pub order: Order,
}

/// Who is asked what becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The plan, in each mode that the scenario holds for.
    Trace,
    /// The tables that a plane would have, made step by step.
    Image(Mode),
    /// A kernel that a plane programs, with real packets.
    Kernel(Mode),
    /// The same of mode iptables, by one of its two kinds.
    Iptables(Variant),
}

impl Answers {
    /// The mode that is asked about, if not all are.
    fn mode(self) -> Option<Mode> {
        match self {
            Answers::Trace => None,
            Answers::Image(mode) | Answers::Kernel(mode) => Some(mode),
            Answers::Iptables(_) => Some(Mode::Iptables),
        }
    }
}

/// In which order the objects of a step come. It must make no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the file has them.
    Forward,
    /// The last first.
    Reversed,
}

impl Way {
    /// All ways.
    pub fn all() -> Vec<Way> {
        let images = Mode::ALL.map(Answers::Image);
        let kernels = [Answers::Kernel(Mode::Nftables), Answers::Iptables(Variant::Nft)];
        let answers = [Answers::Trace].into_iter().chain(images).chain(kernels);
        answers.flat_map(Way::both_orders).chain([Way::LEGACY]).collect()
    }

    /// What the plane of mode iptables does is the same for both kinds but for the programs that it
    /// runs, so one of them goes forward only.
    const LEGACY: Way = Way { answers: Answers::Iptables(Variant::Legacy), order: Order::Forward };

    /// The ways for a machine of its own, whose kernel is another one, with IPVS: those that ask it.
    pub fn in_machine() -> Vec<Way> {
        let nftables = Way { answers: Answers::Kernel(Mode::Nftables), order: Order::Forward };
        let iptables = Way { answers: Answers::Iptables(Variant::Nft), order: Order::Forward };
        let forward = [nftables, iptables, Way::LEGACY];
        forward.into_iter().chain(Way::both_orders(Answers::Kernel(Mode::Ipvs))).collect()
    }

    fn both_orders(answers: Answers) -> [Way; 2] {
        [Order::Forward, Order::Reversed].map(|order| Way { answers, order })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { answers, order } = self;
        match answers {
            Answers::Trace => f.write_str("trace")?,
            Answers::Image(mode) => write!(f, "{}-image", mode.name())?,
            Answers::Kernel(mode) => write!(f, "{}-kernel", mode.name())?,
            Answers::Iptables(variant) => write!(f, "iptables-{variant}-kernel")?,
        }
        f.write_str(match order {
            Order::Forward => "",
            Order::Reversed => "-reversed",
        })
    }
}

/// What a run found out: where the file and the facts differ. It prints as a list.
#[derive(Debug, Default)]
pub struct Report {
    differences: Vec<String>,
    tables: Vec<(Block, String)>,
}

impl Report {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.tables.is_empty()
    }

    /// Sections that hold other tables than the plane has, and what it has.
    pub fn tables(&self) -> &[(Block, String)] {
        &self.tables
    }

    /// Notes a difference at a line of the file.
    pub(crate) fn at(&mut self, scenario: &Scenario, line: usize, what: impl fmt::Display) {
        self.differences.push(format!("{}.txt:{line}: {what}", scenario.name()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.differences.iter().try_for_each(|difference| writeln!(f, "{difference}"))?;
        self.tables.iter().try_for_each(|(block, has)| {
            writeln!(f, "tables at line {} (UPDATE=1 rewrites them), now:\n{has}", block.line)
        })
    }
}

/// Runs a scenario in one way.
pub fn run(scenario: &Scenario, way: Way) -> Report {
    let mut report = Report::default();
    match setup::modes(scenario) {
        Ok(modes) => {
            for mode in modes.into_iter().filter(|mode| way.answers.mode().is_none_or(|asked| asked == *mode))
            {
                tell(scenario, mode, way, &mut report);
            }
        }
        Err(what) => report.at(scenario, 1, what),
    }
    report
}

/// Tells the whole story in one mode.
fn tell(scenario: &Scenario, mode: Mode, way: Way, report: &mut Report) {
    let told = setup::setup(scenario, mode).and_then(|setup| {
        let subject = Subject::new(scenario, way.answers)?;
        Ok((Story::new(scenario, mode, way.order, setup), subject))
    });
    let (mut story, mut subject) = match told {
        Ok(told) => told,
        Err(what) => return report.at(scenario, 1, what),
    };
    let nodes = story.setup.nodes.clone();
    let mut news = story.change(nodes.into_iter().map(Change::Apply).collect());
    news.node_changed = true;
    for step in &scenario.steps {
        news.merge(story.step(step, report));
        let rules = story.rules(report);
        for what in subject.update(&rules, &story.setup, &std::mem::take(&mut news)) {
            report.at(scenario, step.line, what);
        }
        let flows = step.verdicts.iter().map(|(line, flow)| (*line, flow));
        let flows: Vec<_> = flows.filter(|(_, flow)| flow.is_for(mode)).collect();
        for (line, difference) in subject.differences(&rules, &story.setup, &flows) {
            let flow = flows.iter().find(|(other, _)| *other == line);
            let flow = flow.map(|(_, flow)| flow.to_string()).unwrap_or_default();
            report.at(scenario, line, format_args!("[{}] {flow}: {difference}", mode.name()));
        }
        story.facts(step, &rules, report);
        if let (Some(block), Some(has)) = (step.tables.get(&mode), subject.tables())
            && block.text.trim_end() != has.trim_end()
        {
            report.tables.push((block.clone(), has));
        }
    }
    let news = story.end(report);
    let rules = story.rules(report);
    for what in subject.update(&rules, &story.setup, &news).into_iter().chain(subject.end()) {
        report.at(scenario, 1, what);
    }
}

/// Shows the plan after each step, in a mode that the scenario holds for.
pub(crate) fn plans(scenario: &Scenario, mode: Mode, mut look: impl FnMut(&Rules)) {
    let holds = setup::modes(scenario).is_ok_and(|modes| modes.contains(&mode));
    let Some(setup) = setup::setup(scenario, mode).ok().filter(|_| holds) else { return };
    let nodes = setup.nodes.clone();
    let mut story = Story::new(scenario, mode, Order::Forward, setup);
    story.change(nodes.into_iter().map(Change::Apply).collect());
    // What is wrong is told by those who run it.
    let mut report = Report::default();
    for step in &scenario.steps {
        story.step(step, &mut report);
        look(&story.rules(&mut report));
    }
}

/// What a change of the cluster changed in the plan.
#[derive(Default)]
pub(crate) struct News {
    /// What changed of Services.
    pub(crate) deltas: Vec<Delta>,
    /// What holds for all Services changed.
    pub(crate) node_changed: bool,
}

impl News {
    fn merge(&mut self, other: News) {
        self.deltas.extend(other.deltas);
        self.node_changed |= other.node_changed;
    }
}

/// The story so far.
struct Story<'s> {
    scenario: &'s Scenario,
    mode: Mode,
    order: Order,
    setup: Setup,
    cluster: Cluster,
    planner: Planner,
    /// All objects that ever came.
    seen: BTreeSet<ObjectKey>,
}

impl<'s> Story<'s> {
    fn new(scenario: &'s Scenario, mode: Mode, order: Order, setup: Setup) -> Story<'s> {
        let planner = Planner::new(setup.settings.clone());
        let (cluster, seen) = (Cluster::new(), BTreeSet::new());
        Story { scenario, mode, order, setup, cluster, planner, seen }
    }

    /// Takes in what a step changes, and compares what is said about its manifests.
    fn step(&mut self, step: &Step, report: &mut Report) -> News {
        let mut problems = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        for block in &step.apply {
            let loaded = setup::load(self.scenario, block);
            changes.extend(loaded.objects.into_iter().map(Change::Apply));
            problems.extend(loaded.problems.iter().map(setup::told));
        }
        changes.extend(step.delete.iter().cloned().map(Change::Delete));
        let said = compare(step.problems.as_ref(), problems);
        let line = step.problems.as_ref().map_or(1, |block| block.line);
        said.into_iter().for_each(|difference| report.at(self.scenario, line, difference));
        self.change(changes)
    }

    fn change(&mut self, mut changes: Vec<Change>) -> News {
        if self.order == Order::Reversed {
            changes.reverse();
        }
        let mut touched = Touched::default();
        for change in changes {
            if let Change::Apply(object) = &change {
                self.seen.insert(object.key());
            }
            touched.merge(self.cluster.apply(change));
        }
        let before = self.planner.node().clone();
        let deltas = self.planner.update(&self.cluster, &touched);
        News { deltas, node_changed: before != *self.planner.node() }
    }

    /// The plan, after a look whether the one made piecemeal is the whole one.
    fn rules(&self, report: &mut Report) -> Rules {
        let rules = plan::rules(&self.cluster, &self.setup.settings);
        if rules != self.planner.rules() {
            report.at(self.scenario, 1, "the plan kept up to date is not the plan made anew");
        }
        rules
    }

    /// Compares what the file says of the plan beside verdicts.
    fn facts(&self, step: &Step, rules: &Rules, report: &mut Report) {
        if let Some(block) = &step.health_checks {
            let checks = rules.services.values().filter_map(|s| s.health_check.map(|c| (&s.name, c)));
            let lines =
                checks.map(|(name, check)| format!("{name} {} {}", check.port, check.local_endpoints));
            self.compare_block(block, lines.collect(), report);
        }
        if let Some(block) = &step.contested {
            let lines = rules.services.values().flat_map(|service| {
                service.contested.iter().map(|c| {
                    let at = match c.at {
                        plan::At::Address(ip, port) => std::net::SocketAddr::new(ip, port).to_string(),
                        plan::At::NodePort(port) => port.to_string(),
                    };
                    let (kind, holder) = (c.kind.name(), &c.holder);
                    format!("{}: {kind} {at}/{} is {holder}'s", service.name, c.protocol)
                })
            });
            self.compare_block(block, lines.collect(), report);
        }
    }

    fn compare_block(&self, block: &Block, got: Vec<String>, report: &mut Report) {
        for difference in compare(Some(block), got) {
            report.at(self.scenario, block.line, format_args!("[{}] {difference}", self.mode.name()));
        }
    }

    /// Deletes everything: nothing must be left of it in the plan.
    fn end(&mut self, report: &mut Report) -> News {
        let changes = std::mem::take(&mut self.seen).into_iter().map(Change::Delete).collect();
        let news = self.change(changes);
        let rules = self.planner.rules();
        if rules != plan::rules(&Cluster::new(), &self.setup.settings) {
            report.at(self.scenario, 1, format_args!("after all is deleted, {NODE} still has {rules:?}"));
        }
        news
    }
}

/// Compares the lines of a block with what they should be, in any order.
fn compare(block: Option<&Block>, got: Vec<String>) -> Vec<String> {
    let want: BTreeSet<String> =
        block.into_iter().flat_map(Block::lines).map(|(_, line)| line.to_owned()).collect();
    let got: BTreeSet<String> = got.into_iter().collect();
    let missing = want.difference(&got).map(|line| format!("expected and not there: {line}"));
    missing.chain(got.difference(&want).map(|line| format!("not expected: {line}"))).collect()
}
