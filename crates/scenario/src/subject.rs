//! Who is asked what becomes of packets: the plan, a plane's image, or a kernel.

use crate::kernel::Bench;
use crate::run::{Answers, News};
use crate::setup::Setup;
use crate::{Expectation, Expected, Mode, Scenario};
use dataplane::{iptables, ipvs, nftables};
use model::Family;
use plan::{Rules, VerdictKind};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

/// Who is asked.
pub(crate) enum Subject {
    /// [`plan::trace`], the reference.
    Trace,
    /// The nftables plane's tables, brought up to date by its own steps.
    Nftables(Box<Images<nftables::Image>>),
    /// The IPVS plane's servers and tables, likewise.
    Ipvs(Box<Images<ipvs::Image>>),
    /// The iptables plane's chains, likewise.
    Iptables(Box<Images<iptables::Image>>),
    /// A kernel.
    Kernel(Box<Bench>),
}

/// What both families hold.
#[derive(Default)]
pub(crate) struct Images<I> {
    v4: I,
    v6: I,
}

impl Subject {
    /// Makes ready whoever is to be asked.
    pub(crate) fn new(scenario: &Scenario, answers: Answers) -> Result<Subject, String> {
        match answers {
            Answers::Trace => Ok(Subject::Trace),
            Answers::Image(Mode::Nftables) => Ok(Subject::Nftables(Box::default())),
            Answers::Image(Mode::Ipvs) => Ok(Subject::Ipvs(Box::default())),
            Answers::Image(Mode::Iptables) => Ok(Subject::Iptables(Box::default())),
            Answers::Kernel(mode) => Ok(Subject::Kernel(Box::new(Bench::new(scenario, mode, None)?))),
            Answers::Iptables(variant) => {
                let bench = Bench::new(scenario, Mode::Iptables, Some(variant))?;
                Ok(Subject::Kernel(Box::new(bench)))
            }
        }
    }

    /// Makes it hold the plan as it is now, and says what went wrong with that.
    pub(crate) fn update(&mut self, rules: &Rules, setup: &Setup, news: &News) -> Vec<String> {
        match self {
            Subject::Trace => vec![],
            Subject::Nftables(images) => images.update(rules, setup),
            Subject::Ipvs(images) => images.update(rules, setup),
            Subject::Iptables(images) => images.update(rules, setup),
            Subject::Kernel(bench) => bench.update(rules, setup, news),
        }
    }

    /// Ends it, and says what of it is left that should not be.
    pub(crate) fn end(&mut self) -> Vec<String> {
        match self {
            Subject::Trace | Subject::Nftables(_) | Subject::Ipvs(_) | Subject::Iptables(_) => vec![],
            Subject::Kernel(bench) => bench.remove(),
        }
    }

    /// Its tables in words, where it has some.
    pub(crate) fn tables(&self) -> Option<String> {
        match self {
            Subject::Nftables(images) => Some(images.told()),
            Subject::Ipvs(images) => Some(images.told()),
            Subject::Iptables(images) => Some(images.told()),
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
            Subject::Ipvs(images) => each(&|flow| {
                let mut answer = images.answer(rules, setup, flow);
                if setup.is_node(flow.packet.from) {
                    answer.ignore_masquerade(flow);
                }
                answer.differences(flow)
            }),
            Subject::Iptables(images) => each(&|flow| images.answer(rules, setup, flow).differences(flow)),
            Subject::Kernel(bench) => bench.send(flows),
        }
    }
}

/// What a plane holds in one family, as a value.
pub(crate) trait Tables: Display + PartialEq + Sized {
    /// What a plan asks for.
    fn of(rules: &Rules, family: Family, setup: &Setup) -> Self;
    /// Becomes `wants` by the plane's own steps.
    fn follow(&mut self, wants: &Self);
    /// What is left when all that is only leaving has gone.
    fn settled(&self, wants: &Self) -> Self;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool;
    /// What becomes of a packet.
    fn walk(&self, rules: &Rules, setup: &Setup, packet: &plan::Packet) -> nftables::Walk;
}

impl Tables for nftables::Image {
    fn of(rules: &Rules, family: Family, _: &Setup) -> nftables::Image {
        nftables::Image::of(rules, family)
    }

    fn follow(&mut self, wants: &nftables::Image) {
        let groups = nftables::steps(self, wants).into_iter().flatten();
        groups.flat_map(|group| group.steps).for_each(|step| step.apply(self));
    }

    fn settled(&self, _: &nftables::Image) -> nftables::Image {
        self.clone()
    }

    fn is_empty(&self) -> bool {
        nftables::Image::is_empty(self)
    }

    fn walk(&self, rules: &Rules, setup: &Setup, packet: &plan::Packet) -> nftables::Walk {
        nftables::walk(self, &rules.node, &setup.node_addresses, packet)
    }
}

impl Tables for ipvs::Image {
    fn of(rules: &Rules, family: Family, setup: &Setup) -> ipvs::Image {
        ipvs::Image::of(rules, family, &ipvs_options(rules, &setup.node_addresses))
    }

    fn follow(&mut self, wants: &ipvs::Image) {
        let draft = ipvs::steps(self, wants);
        draft.phases.iter().flatten().for_each(|step| step.apply(self));
    }

    fn settled(&self, wants: &ipvs::Image) -> ipvs::Image {
        let mut image = self.clone();
        for (key, server) in &mut image.servers {
            let wanted = wants.servers.get(key).map(|server| &server.backends);
            let is_wanted = |slot: &_| wanted.is_some_and(|backends| backends.contains_key(slot));
            server.backends.retain(|slot, weight| *weight > 0 || is_wanted(slot));
        }
        image.servers.retain(|key, server| !server.backends.is_empty() || wants.servers.contains_key(key));
        let needed = |ip: &IpAddr| wants.addresses.contains(ip) || image.serves_at(*ip);
        let gone: Vec<IpAddr> = image.addresses.iter().copied().filter(|ip| !needed(ip)).collect();
        for ip in gone {
            image.addresses.remove(&ip);
            image.table.cluster_ips.remove(&ip);
        }
        let servers = &image.servers;
        let owned: BTreeSet<_> = servers.keys().map(ipvs::ServerKey::key).collect();
        image.table.owned.retain(|key| owned.contains(key));
        image
    }

    fn is_empty(&self) -> bool {
        ipvs::Image::is_empty(self)
    }

    fn walk(&self, rules: &Rules, setup: &Setup, packet: &plan::Packet) -> nftables::Walk {
        ipvs::walk(self, &ipvs_options(rules, &setup.node_addresses), packet)
    }
}

impl Tables for iptables::Image {
    fn of(rules: &Rules, family: Family, _: &Setup) -> iptables::Image {
        iptables::Image::of(rules, family, &iptables_options(rules))
    }

    fn follow(&mut self, wants: &iptables::Image) {
        let parts = iptables::steps(self, wants);
        parts.iter().flatten().for_each(|step| step.apply(self));
    }

    fn settled(&self, _: &iptables::Image) -> iptables::Image {
        self.clone()
    }

    fn is_empty(&self) -> bool {
        self.has_no_service()
    }

    fn walk(&self, rules: &Rules, setup: &Setup, packet: &plan::Packet) -> nftables::Walk {
        iptables::walk(self, &rules.node, &setup.node_addresses, packet).verdict
    }
}

/// What decides the iptables plane's image beside the Services.
pub(crate) fn iptables_options(rules: &Rules) -> iptables::Options {
    let bit = iptables::Configuration::default().masquerade_bit;
    iptables::Options { node: rules.node.clone(), drop_invalid: true, mark: 1 << bit, random_fully: true }
}

/// What decides the IPVS plane's image beside the Services.
pub(crate) fn ipvs_options(rules: &Rules, node_addresses: &[IpAddr]) -> ipvs::Options {
    let configuration = ipvs::Configuration::default();
    ipvs::Options {
        node: rules.node.clone(),
        node_addresses: node_addresses.iter().copied().collect(),
        scheduler: configuration.scheduler,
        lacking: BTreeSet::new(),
        drop_invalid: true,
        excluded: configuration.excluded,
    }
}

impl<I: Tables> Images<I> {
    fn of(&self, family: Family) -> &I {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn families(&mut self) -> [(Family, &mut I); 2] {
        [(Family::V4, &mut self.v4), (Family::V6, &mut self.v6)]
    }

    fn told(&self) -> String {
        format!("{}{}", self.v4, self.v6)
    }

    fn update(&mut self, rules: &Rules, setup: &Setup) -> Vec<String> {
        let mut wrong = Vec::new();
        for (family, image) in self.families() {
            let wants = I::of(rules, family, setup);
            image.follow(&wants);
            *image = image.settled(&wants);
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
        let walk = image.walk(rules, setup, &flow.packet);
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
    /// A client that is the node itself may be masqueraded or not: it is the node that is seen.
    fn ignore_masquerade(&mut self, asked: &Expectation) {
        let masqueraded =
            |backend: &SocketAddr| asked.expected.source.is_node_for(*backend, asked.packet.from);
        self.backends = self.backends.iter().map(|(b, _)| (*b, masqueraded(b))).collect();
    }

    fn differences(&self, asked: &Expectation) -> Vec<String> {
        let Expected { kind, service: _, backends, source, affinity_seconds } = &asked.expected;
        let masqueraded = |backend: &SocketAddr| source.is_node_for(*backend, asked.packet.from);
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
