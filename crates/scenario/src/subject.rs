//! Who is asked what becomes of packets: the plan, a plane's image, or a kernel.

use crate::kernel::Bench;
use crate::run::{Answers, News};
use crate::setup::Setup;
use crate::{Expectation, Expected, Mode, Scenario, SourceSeen};
use dataplane::nftables::{self, Image};
use model::Family;
use plan::{Rules, VerdictKind};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Who is asked.
pub(crate) enum Subject {
    /// [`plan::trace`], the reference.
    Trace,
    /// The nftables plane's tables, brought up to date by its own steps.
    Nftables(Box<Images>),
    /// A kernel.
    Kernel(Box<Bench>),
}

/// The tables of both families.
#[derive(Default)]
pub(crate) struct Images {
    v4: Image,
    v6: Image,
}

impl Images {
    fn of(&self, family: Family) -> &Image {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn families(&mut self) -> [(Family, &mut Image); 2] {
        [(Family::V4, &mut self.v4), (Family::V6, &mut self.v6)]
    }
}

impl Subject {
    /// Makes ready whoever is to be asked.
    pub(crate) fn new(scenario: &Scenario, answers: Answers) -> Result<Subject, String> {
        match answers {
            Answers::Trace => Ok(Subject::Trace),
            Answers::Image(Mode::Nftables) => Ok(Subject::Nftables(Box::default())),
            Answers::Image(Mode::Ipvs) => Err("mode ipvs has no image yet".to_owned()),
            Answers::Kernel(mode) => Ok(Subject::Kernel(Box::new(Bench::new(scenario, mode)?))),
        }
    }

    /// Makes it hold the plan as it is now, and says what went wrong with that.
    pub(crate) fn update(&mut self, rules: &Rules, news: &News) -> Vec<String> {
        match self {
            Subject::Trace => vec![],
            Subject::Nftables(images) => images.update(rules),
            Subject::Kernel(bench) => bench.update(rules, &news.deltas, news.node_changed),
        }
    }

    /// Ends it, and says what of it is left that should not be.
    pub(crate) fn end(&mut self) -> Vec<String> {
        match self {
            Subject::Trace | Subject::Nftables(_) => vec![],
            Subject::Kernel(bench) => bench.remove(),
        }
    }

    /// Its tables in words, where it has some.
    pub(crate) fn tables(&self) -> Option<String> {
        match self {
            Subject::Nftables(images) => Some(format!("{}{}", images.v4, images.v6)),
            Subject::Trace | Subject::Kernel(_) => None,
        }
    }

    /// How what becomes of flows differs from what is expected, by their lines.
    pub(crate) fn differences(
        &self,
        rules: &Rules,
        setup: &Setup,
        flows: &[(usize, &Expectation)],
    ) -> Vec<(usize, String)> {
        let each = |differences: &dyn Fn(&Expectation) -> Vec<String>| {
            let all = flows.iter().flat_map(|(line, flow)| differences(flow).into_iter().map(|d| (*line, d)));
            all.collect()
        };
        match self {
            Subject::Trace => each(&|flow| {
                flow.expected.differences(&plan::trace(rules, &setup.node_addresses, &flow.packet))
            }),
            Subject::Nftables(images) => each(&|flow| images.answer(rules, setup, flow).differences(flow)),
            Subject::Kernel(bench) => bench.send(flows),
        }
    }
}

impl Images {
    fn update(&mut self, rules: &Rules) -> Vec<String> {
        let mut wrong = Vec::new();
        for (family, image) in self.families() {
            let wants = Image::of(rules, family);
            let groups = nftables::steps(image, &wants).into_iter().flatten();
            groups.flat_map(|group| group.steps).for_each(|step| step.apply(image));
            if *image != wants {
                wrong.push(format!("the steps lead to\n{image}and not to\n{wants}"));
            }
            if rules.services.is_empty() && !image.is_empty() {
                wrong.push(format!("without any Service there is still\n{image}"));
            }
        }
        wrong
    }

    fn answer(&self, rules: &Rules, setup: &Setup, flow: &Expectation) -> Answer {
        let image = self.of(Family::of(flow.packet.to));
        let walk = nftables::walk(image, &rules.node, &setup.node_addresses, &flow.packet);
        let backends = walk.backends.iter().map(|slot| SocketAddr::new(slot.address, slot.port));
        Answer {
            kind: walk.kind,
            backends: backends.zip(walk.masquerade.iter().copied()).collect(),
            affinity_seconds: walk.affinity_seconds,
        }
    }
}

/// What a plane's tables say of a flow.
struct Answer {
    kind: VerdictKind,
    /// The backends, and whether each is reached with the node's address as the source.
    backends: BTreeSet<(SocketAddr, bool)>,
    affinity_seconds: Option<u32>,
}

impl Answer {
    fn differences(&self, asked: &Expectation) -> Vec<String> {
        let Expected { kind, service: _, backends, source, affinity_seconds } = &asked.expected;
        let masqueraded = |backend: &SocketAddr| match source {
            SourceSeen::Client => false,
            SourceSeen::Node => true,
            SourceSeen::NodeOnHairpin => backend.ip() == asked.packet.from,
        };
        let backends: BTreeSet<_> = backends.iter().map(|b| (*b, masqueraded(b))).collect();
        let mut differences = Vec::new();
        if *kind != self.kind {
            differences.push(format!("expected {}, got {}", kind.name(), self.kind.name()));
        }
        if backends != self.backends {
            differences.push(format!("expected {}, got {}", told(&backends), told(&self.backends)));
        }
        if *affinity_seconds != self.affinity_seconds {
            differences
                .push(format!("expected affinity {affinity_seconds:?}, got {:?}", self.affinity_seconds));
        }
        differences
    }
}

fn told(backends: &BTreeSet<(SocketAddr, bool)>) -> String {
    let told = |(backend, masquerade): &(SocketAddr, bool)| {
        if *masquerade { format!("{backend} masqueraded") } else { backend.to_string() }
    };
    let told: Vec<_> = backends.iter().map(told).collect();
    if told.is_empty() { "no backend".to_owned() } else { told.join(", ") }
}
