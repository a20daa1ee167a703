//! The fixed program of the plane: every chain and rule but the pick chains, of which there is one
//! for each number of backends in use, and every set.
//!
//! A rule knows nothing of the one before (kernels since 6.9 refuse to read a register that the
//! same rule has not written), so each loads what it needs; a look-up costs some tens of
//! nanoseconds, whatever the table's size. Registers: an address takes one or four.

use super::image::{Jump, Masquerading, Pick, Placement};
use super::spell::{jump_code, masquerading_code};
use crate::program::{ChainSpec, Dynamic, Program, Rule, SetSpec, SetValue};
use crate::write::{End, RuleWriter, address_len, rule};
use model::{Family, Prefix, Protocol};
use netlink::nftables::{
    Base, ChainKind, Datatype, DynsetOperation, Expression, Hook, NumgenKind, Policy, Register,
};
use plan::{LocalSources, NodeRules};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How many clients are remembered at most, over all Services with affinity. A client beyond that
/// is balanced without being remembered.
pub(super) const AFFINITY_MAX: u32 = 1 << 20;

/// Names of sets and maps.
pub(super) mod set {
    /// Address, protocol and port to what the frontend there does.
    pub(in super::super) const FRONTENDS: &str = "frontends";
    /// The same for protocol and port of the node.
    pub(in super::super) const NODE_FRONTENDS: &str = "node-frontends";
    /// The short circuits of frontends.
    pub(in super::super) const INSIDE: &str = "inside";
    /// The short circuits of NodePorts.
    pub(in super::super) const NODE_INSIDE: &str = "node-inside";
    /// Pool and number to backend.
    pub(in super::super) const SLOTS: &str = "slots";
    /// Client and pool to the backend it was sent to.
    pub(in super::super) const AFFINITY: &str = "affinity";
    /// Pools and backends that clients may be sent to again.
    pub(in super::super) const LIVING: &str = "living";
    /// Backends that may be their own clients, as source and destination.
    pub(in super::super) const NEAR: &str = "near";
    /// ClusterIPs; beside IPVS, every address that is the node's only for the sake of Services.
    pub(in super::super) const CLUSTER_IPS: &str = "cluster-ips";
    /// Virtual servers that are ours, in a kernel that keeps no such mark.
    pub(in super::super) const OWNED: &str = "owned-servers";
    /// How the kernel's switches that we have set stood before, by their numbers.
    pub(in super::super) const EARLIER: &str = "earlier-switches";
    /// Where frontends send packets that are not simply balanced. These are not among the picks,
    /// to which they lead in the end: the kernel suspects a loop in every circle of chains.
    pub(in super::super) const CHECKS: &str = "checks";
    /// The same for NodePorts.
    pub(in super::super) const NODE_CHECKS: &str = "node-checks";
    /// What the number in a frontend says of masquerading, as a verdict.
    pub(in super::super) const MASQUERADING: &str = "masquerading";

    /// Frontends and the networks, of one length, whose clients they serve.
    pub(in super::super) fn sources(length: u8) -> String {
        format!("sources-{length}")
    }
}

impl Placement {
    /// The map that its packets are looked up in.
    pub(super) fn map(self) -> &'static str {
        match self {
            Placement::Address => set::FRONTENDS,
            Placement::Node => set::NODE_FRONTENDS,
            Placement::AddressInside => set::INSIDE,
            Placement::NodeInside => set::NODE_INSIDE,
        }
    }

    /// The map of verdicts that leads to its pick chains.
    pub(super) fn dispatch(self) -> &'static str {
        match self {
            Placement::Address => "picks",
            Placement::Node => "node-picks",
            Placement::AddressInside => "inside-picks",
            Placement::NodeInside => "node-inside-picks",
        }
    }

    fn has_address(self) -> bool {
        matches!(self, Placement::Address | Placement::AddressInside)
    }
}

/// Names of chains that maps of verdicts lead to.
mod chain {
    pub(super) const SERVICES: &str = "services";
    pub(super) const NODE_PORTS: &str = "node-ports";
    pub(super) const NODE_SERVICES: &str = "node-services";
    pub(super) const CHECK_SOURCES: &str = "check-sources";
    pub(super) const SOURCES: &str = "sources";
    pub(super) const INSIDE: &str = "from-inside";
    pub(super) const NODE_INSIDE: &str = "node-from-inside";
    pub(super) const REJECT: &str = "refuse";
    pub(super) const DROP: &str = "discard";
    pub(super) const IPVS: &str = "to-ipvs";
    pub(super) const MASQUERADE: &str = "masquerade";
    pub(super) const MASQUERADE_OFF_CLUSTER: &str = "masquerade-off-cluster";
    pub(super) const MASQUERADE_NODE: &str = "masquerade-node";
    pub(super) const NO_MASQUERADE: &str = "no-masquerade";
}

/// Where values go in the registers: the key from 0 on, what it led to from 7 on.
///
/// Whatever a map leads to begins with an empty word, for the sake of `nft list`: nft 1.0 knows the
/// register that a map was looked up into, but not the length of what is there, and aborts when that
/// is the beginning of another key. Of the registers behind it knows nothing, and says so.
const KEY: Register = Register::new(0);
const FOUND: Register = Register::new(7);
/// The pool, in two words, and behind it room for the number drawn, or for the backend.
const POOL: Register = Register::new(8);
const INDEX: Register = Register::new(10);
/// Where to go first and last, and when to masquerade.
const FIRST: Register = Register::new(10);
const LAST: Register = Register::new(11);
const MASQUERADE: Register = Register::new(12);
/// The backend: an empty word, its address, its port.
const BACKEND: Register = Register::new(10);
const BACKEND_ADDRESS: Register = Register::new(11);

/// Who sends packets on to backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// The maps of this table.
    Maps,
    /// The kernel's IPVS, to which this table leaves all but what IPVS cannot do.
    Ipvs,
}

impl Balancer {
    /// The name of its tables, which is how they are known as ours. Each has its own, so that both
    /// can be there while one takes over from the other.
    pub fn table(self) -> &'static str {
        match self {
            Balancer::Maps => "portolan",
            Balancer::Ipvs => "portolan-ipvs",
        }
    }
}

/// What of the program the configuration decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What holds for the node.
    pub node: NodeRules,
    /// Forwarded packets that belong to no connection are dropped, so that they reach no client
    /// untranslated and have it reset its connection.
    pub drop_invalid: bool,
    /// Who sends packets on.
    pub balancer: Balancer,
}

/// The program, with the pick chains and source networks' lengths in use.
pub(super) fn program(
    family: Family,
    options: &Options,
    picks: &BTreeSet<Pick>,
    source_lengths: &BTreeSet<u8>,
) -> Program {
    let rules = Ruleset { family, options };
    let mut chains = picks.iter().map(|pick| rules.pick(pick)).collect::<Vec<_>>();
    chains.extend(rules.chains(source_lengths));
    let mut sets = rules.sets();
    sets.extend(source_lengths.iter().map(|length| source_set(family, *length)));
    Program { chains, sets }
}

/// How many chains and rules the program has beside an image, in which no Service has one of its own.
pub fn program_size(family: Family, options: &Options, image: &super::Image) -> (usize, usize) {
    let program = program(family, options, &image.picks, &image.source_lengths());
    (program.chains.len(), program.chains.iter().map(|chain| chain.rules.len()).sum())
}

/// The chain of one pick.
pub(super) fn pick_chain(family: Family, options: &Options, pick: &Pick) -> ChainSpec {
    Ruleset { family, options }.pick(pick)
}

/// The chain that looks for a packet's source in the sets for these lengths.
pub(super) fn sources_chain(family: Family, options: &Options, lengths: &BTreeSet<u8>) -> ChainSpec {
    Ruleset { family, options }.sources(lengths)
}

/// The set for source networks of one length.
pub(super) fn source_set(family: Family, length: u8) -> SetSpec {
    let key = vec![address_type(family), Datatype::InetProto, Datatype::InetService, address_type(family)];
    SetSpec { name: set::sources(length), key, data: SetValue::Nothing, dynamic: None }
}

fn address_type(family: Family) -> Datatype {
    match family {
        Family::V4 => Datatype::Ipv4Addr,
        Family::V6 => Datatype::Ipv6Addr,
    }
}

/// The verdicts that maps of verdicts always hold, beside those of picks.
pub(super) fn fixed_verdicts(balancer: Balancer) -> Vec<(&'static str, u32, &'static str)> {
    let mut verdicts = Vec::new();
    for placement in Placement::ALL {
        if balancer == Balancer::Ipvs {
            verdicts.push((placement.dispatch(), jump_code(Jump::Ipvs), chain::IPVS));
        }
        verdicts.push((placement.dispatch(), jump_code(Jump::Reject), chain::REJECT));
        verdicts.push((placement.dispatch(), jump_code(Jump::Drop), chain::DROP));
    }
    verdicts.push((set::CHECKS, jump_code(Jump::Sources), chain::CHECK_SOURCES));
    verdicts.push((set::CHECKS, jump_code(Jump::Inside), chain::INSIDE));
    verdicts.push((set::NODE_CHECKS, jump_code(Jump::Inside), chain::NODE_INSIDE));
    for (masquerading, chain) in [
        (Masquerading::Never, chain::NO_MASQUERADE),
        (Masquerading::OffCluster, chain::MASQUERADE_OFF_CLUSTER),
        (Masquerading::Always, chain::MASQUERADE),
        (Masquerading::Node, chain::MASQUERADE_NODE),
    ] {
        verdicts.push((set::MASQUERADING, masquerading_code(masquerading), chain));
    }
    verdicts
}

struct Ruleset<'a> {
    family: Family,
    options: &'a Options,
}

impl Ruleset<'_> {
    fn rule(&self) -> RuleWriter {
        rule(self.family)
    }

    /// The register behind an address that begins at `register`.
    fn behind(&self, register: Register) -> Register {
        register.after(address_len(self.family))
    }

    fn sets(&self) -> Vec<SetSpec> {
        let address = address_type(self.family);
        let at = vec![address, Datatype::InetProto, Datatype::InetService];
        let node_at = vec![Datatype::InetProto, Datatype::InetService];
        let pool = [Datatype::EtherAddr];
        let backend = [Datatype::Mark, address, Datatype::InetService];
        let front = SetValue::Data([&[Datatype::Mark][..], &pool, &[Datatype::Mark; 3]].concat());
        let inside = SetValue::Data([&[Datatype::Mark][..], &pool, &[Datatype::Mark]].concat());
        let spec = |name: &str, key: Vec<Datatype>, data| SetSpec {
            name: name.to_owned(),
            key,
            data,
            dynamic: None,
        };
        let mut sets = vec![
            spec(set::FRONTENDS, at.clone(), front.clone()),
            spec(set::NODE_FRONTENDS, node_at.clone(), front),
            spec(set::INSIDE, at, inside.clone()),
            spec(set::NODE_INSIDE, node_at, inside),
            spec(set::SLOTS, [&pool[..], &[Datatype::Mark]].concat(), SetValue::Data(backend.to_vec())),
            spec(set::LIVING, [&pool[..], &backend].concat(), SetValue::Nothing),
            spec(set::NEAR, vec![address, address], SetValue::Nothing),
            spec(set::CLUSTER_IPS, vec![address], SetValue::Nothing),
            spec(set::MASQUERADING, vec![Datatype::Mark], SetValue::Verdict),
            spec(set::CHECKS, vec![Datatype::Mark], SetValue::Verdict),
            spec(set::NODE_CHECKS, vec![Datatype::Mark], SetValue::Verdict),
        ];
        sets.extend(Placement::ALL.map(|p| spec(p.dispatch(), vec![Datatype::Mark], SetValue::Verdict)));
        if self.options.balancer == Balancer::Ipvs {
            let at = vec![address, Datatype::InetProto, Datatype::InetService];
            sets.push(spec(set::OWNED, at, SetValue::Nothing));
            let number = || vec![Datatype::Mark];
            sets.push(spec(set::EARLIER, number(), SetValue::Data(number())));
        }
        let affinity = [&[address][..], &pool].concat();
        let affinity = spec(set::AFFINITY, affinity, SetValue::Data(backend.to_vec()));
        sets.push(SetSpec { dynamic: Some(Dynamic { most: AFFINITY_MAX, collect_every: None }), ..affinity });
        sets
    }

    fn chains(&self, source_lengths: &BTreeSet<u8>) -> Vec<ChainSpec> {
        let chain = |name: &str, rules| ChainSpec { name: name.to_owned(), base: None, rules };
        let base = |name: &str, kind, hook, priority, rules| ChainSpec {
            name: name.to_owned(),
            base: Some(Base { kind, hook, priority, policy: Policy::Accept }),
            rules,
        };
        let to_services = || vec![self.rule().goto(chain::SERVICES).end("")];
        let mut chains = vec![
            chain(
                chain::REJECT,
                vec![
                    self.rule().if_protocol(Protocol::Tcp, KEY).reset().end("no endpoint"),
                    self.rule().unreachable().end("no endpoint"),
                ],
            ),
            chain(chain::DROP, vec![self.rule().drop().end("no local endpoint")]),
            chain(chain::MASQUERADE, vec![self.rule().masquerade().end("")]),
            chain(chain::NO_MASQUERADE, vec![self.rule().back().end("")]),
            chain(chain::MASQUERADE_OFF_CLUSTER, self.masquerade_off_cluster()),
            chain(chain::MASQUERADE_NODE, self.masquerade_node()),
            chain(chain::INSIDE, self.inside(Placement::Address, Placement::AddressInside)),
            chain(chain::NODE_INSIDE, self.inside(Placement::Node, Placement::NodeInside)),
            self.sources(source_lengths),
            chain(
                chain::CHECK_SOURCES,
                vec![
                    self.rule().jump(chain::SOURCES).end("clients that are served"),
                    self.rule().drop().end("clients that are not"),
                ],
            ),
            chain(chain::NODE_SERVICES, self.node_services()),
            chain(chain::NODE_PORTS, self.node_ports()),
            chain(chain::SERVICES, self.services()),
            base("prerouting", ChainKind::Nat, Hook::Prerouting, -100, to_services()),
            base("output", ChainKind::Nat, Hook::Output, -100, to_services()),
            base("postrouting", ChainKind::Nat, Hook::Postrouting, 100, self.postrouting()),
        ];
        if self.options.balancer == Balancer::Ipvs {
            chains.insert(0, chain(chain::IPVS, vec![self.rule().accept().end("a virtual server takes it")]));
        }
        if self.options.drop_invalid {
            let rules = vec![self.rule().if_invalid(KEY).drop().end("would reach the client untranslated")];
            chains.push(base("forward", ChainKind::Filter, Hook::Forward, 0, rules));
        }
        if self.family == Family::V4 && self.options.node.localhost_node_ports {
            chains.push(base("guard-localhost", ChainKind::Filter, Hook::Prerouting, -300, self.guard()));
        }
        chains
    }

    /// Loads the key that packets of this placement are looked up by.
    fn key(&self, placement: Placement) -> RuleWriter {
        if placement.has_address() {
            let protocol = self.behind(KEY);
            self.rule().address(End::Destination, KEY).protocol(protocol).port(protocol.after(4))
        } else {
            self.rule().protocol(KEY).port(KEY.after(4))
        }
    }

    fn services(&self) -> Vec<Rule> {
        let placement = Placement::Address;
        let found = || self.key(placement).lookup(placement.map(), KEY, FOUND);
        let node = self.key(Placement::Node).lookup(Placement::Node.map(), KEY, FOUND);
        let node = node.if_host(End::Destination, KEY).goto(chain::NODE_PORTS).end("to a NodePort");
        let cluster_ip = || self.rule().address(End::Destination, KEY).if_in(set::CLUSTER_IPS, KEY);
        let mut rules = vec![
            found().dispatch(placement.dispatch(), FIRST).end("to a Service"),
            found().dispatch(set::CHECKS, FIRST).end("to a Service, but who asks?"),
        ];
        match self.options.balancer {
            Balancer::Maps => {
                let other_port = cluster_ip().goto(chain::REJECT).end("to a port that is no Service's");
                rules.extend([node, other_port]);
            }
            // These addresses are the node's own here: what is refused there is not a NodePort, and
            // they can be pinged.
            Balancer::Ipvs => {
                // The reset by which the node refuses itself goes to such an address, too.
                let answer = cluster_ip().if_no_answer(KEY).goto(chain::REJECT);
                let ping = cluster_ip().if_icmp(KEY).accept().end("to an address of a Service");
                rules.extend([ping, answer.end("to a port that is no Service's"), node]);
            }
        }
        for network in self.of_family(&self.options.node.service_cidrs) {
            let rule = self.rule().if_within(End::Destination, network, KEY).drop();
            rules.push(rule.end("to a ClusterIP that nobody has"));
        }
        rules
    }

    fn node_ports(&self) -> Vec<Rule> {
        let loopback = match self.family {
            Family::V4 => Prefix::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
            Family::V6 => Some(Prefix::host(IpAddr::V6(Ipv6Addr::LOCALHOST))),
        };
        let mut rules = Vec::new();
        if let Some(network) = loopback {
            let rule = self.rule().if_within(End::Destination, network, KEY);
            let served = self.family == Family::V4 && self.options.node.localhost_node_ports;
            rules.push(match served {
                true => rule.goto(chain::NODE_SERVICES).end("served at localhost"),
                false => rule.back().end("not served at localhost"),
            });
        }
        // At the node's other addresses IPVS serves them, and they are frontends like others.
        let maps = self.options.balancer == Balancer::Maps;
        for network in self.of_family(&self.options.node.node_port_networks).filter(|_| maps) {
            let rule = self.rule().if_within(End::Destination, network, KEY).goto(chain::NODE_SERVICES);
            rules.push(rule.end("served here"));
        }
        rules
    }

    fn node_services(&self) -> Vec<Rule> {
        let placement = Placement::Node;
        let found = || self.key(placement).lookup(placement.map(), KEY, FOUND);
        if self.options.balancer == Balancer::Ipvs {
            // Virtual servers at localhost do not work, so its clients have their picks here.
            let inside = Placement::NodeInside;
            let picked = self.key(inside).lookup(inside.map(), KEY, FOUND).dispatch(inside.dispatch(), FIRST);
            return vec![
                picked.end("to a Service, from localhost"),
                found().dispatch(placement.dispatch(), LAST).end("to a Service without endpoints"),
            ];
        }
        vec![
            found().dispatch(placement.dispatch(), FIRST).end("to a Service"),
            found().dispatch(set::NODE_CHECKS, FIRST).end("to a Service, but who asks?"),
        ]
    }

    fn sources(&self, lengths: &BTreeSet<u8>) -> ChainSpec {
        let source = self.behind(KEY).after(4).after(4);
        let rules = lengths.iter().filter_map(|length| {
            let any = match self.family {
                Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let mask = crate::write::octets(Prefix::new(any, *length)?.netmask());
            let rule = self.key(Placement::Address).address(End::Source, source).mask(source, mask);
            Some(rule.if_in(&set::sources(*length), KEY).goto(chain::INSIDE).end(""))
        });
        ChainSpec { name: chain::SOURCES.to_owned(), base: None, rules: rules.collect() }
    }

    /// Local clients take the short circuit, others what the frontend says last.
    fn inside(&self, outside: Placement, inside: Placement) -> Vec<Rule> {
        let short = |rule: RuleWriter| {
            let key = self.key(inside).expressions();
            let rule = key.into_iter().fold(rule, RuleWriter::and);
            rule.lookup(inside.map(), KEY, FOUND).dispatch(inside.dispatch(), FIRST)
        };
        let mut rules = Vec::new();
        for rule in self.local_pods() {
            rules.push(short(rule).end("from a pod of this node"));
        }
        rules.push(short(self.rule().if_host(End::Source, KEY)).end("from the node"));
        let rule = self.key(outside).lookup(outside.map(), KEY, FOUND);
        rules.push(rule.dispatch(outside.dispatch(), LAST).end("from elsewhere"));
        rules
    }

    /// The beginnings of rules for packets from pods of this node, one for each way to tell.
    fn local_pods(&self) -> Vec<RuleWriter> {
        match &self.options.node.local_sources {
            LocalSources::Unknown => vec![],
            LocalSources::Networks(networks) => {
                let rule = |network| self.rule().if_within(End::Source, network, KEY);
                self.of_family(networks).map(rule).collect()
            }
            LocalSources::Interface(name) => vec![self.rule().if_interface(name, KEY)],
            LocalSources::InterfacePrefix(prefix) => vec![self.rule().if_interface_prefix(prefix, KEY)],
        }
    }

    fn of_family(&self, networks: &[Prefix]) -> impl Iterator<Item = Prefix> {
        networks.iter().copied().filter(|n| n.family() == self.family)
    }

    fn postrouting(&self) -> Vec<Rule> {
        let near = self.rule().address(End::Source, KEY).address(End::Destination, self.behind(KEY));
        let original = self.rule().original_destination(KEY).protocol(self.behind(KEY));
        let original = original.original_port(self.behind(KEY).after(4));
        let original = original.lookup(set::FRONTENDS, KEY, FOUND).dispatch(set::MASQUERADING, MASQUERADE);
        let node = self.rule().protocol(KEY).original_port(KEY.after(4));
        let node = node.lookup(set::NODE_FRONTENDS, KEY, FOUND).dispatch(set::MASQUERADING, MASQUERADE);
        let near = near.if_in(set::NEAR, KEY).goto(chain::MASQUERADE).end("back to its own sender");
        let original = original.end("through a Service");
        let other = || self.rule().if_translated(false, KEY).back();
        let node = node.end("through a NodePort");
        match self.options.balancer {
            Balancer::Maps => vec![other().end("not through a Service"), near, original, node],
            // IPVS leaves no trace in a connection's status. What has the address of a Service as its
            // source comes from the node, for which the way to that address is one to itself.
            Balancer::Ipvs => {
                let own = self.rule().address(End::Source, KEY).if_in(set::CLUSTER_IPS, KEY);
                let own = own.goto(chain::MASQUERADE).end("from the node by an address of a Service");
                vec![near, own, original, other().end("not through localhost"), node]
            }
        }
    }

    fn masquerade_off_cluster(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> =
            self.local_pods().into_iter().map(|rule| rule.back().end("from a pod")).collect();
        rules.push(self.rule().goto(chain::MASQUERADE).end(""));
        rules
    }

    fn masquerade_node(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> =
            self.local_pods().into_iter().map(|rule| rule.back().end("from a pod")).collect();
        rules.push(self.rule().if_host(End::Source, KEY).goto(chain::MASQUERADE).end("from the node"));
        rules
    }

    /// With `route_localnet` on, which NodePorts at localhost need, the kernel no longer refuses
    /// such packets from outside.
    fn guard(&self) -> Vec<Rule> {
        let Some(loopback) = Prefix::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8) else { return vec![] };
        [End::Destination, End::Source]
            .map(|end| {
                let rule = self.rule().if_not_loopback(KEY).if_within(end, loopback, KEY);
                rule.drop().end("localhost is reached from the node only")
            })
            .to_vec()
    }

    fn pick(&self, pick: &Pick) -> ChainSpec {
        let Pick { placement, count, affinity_seconds } = *pick;
        let pool = || self.key(placement).lookup(placement.map(), KEY, FOUND);
        let draw = Expression::Numgen { into: INDEX, kind: NumgenKind::Random, modulus: count, offset: 0 };
        let send = |rule: RuleWriter| {
            rule.lookup(set::SLOTS, POOL, BACKEND).translate(BACKEND_ADDRESS, self.behind(BACKEND_ADDRESS))
        };
        let mut rules = Vec::new();
        if affinity_seconds > 0 {
            rules.extend(self.remembered(pick));
        }
        rules.push(send(pool().and(draw)).end("one of the pool"));
        if count > 1 {
            // A packet that read the old count may draw a number that has just gone.
            rules.push(send(pool().number(0, INDEX)).end("the pool shrank: its first"));
        }
        rules.push(self.rule().drop().end("the pool is changing: a retransmission finds it"));
        ChainSpec { name: pick.chain(), base: None, rules }
    }

    /// A client goes back to its backend if that still lives. The client's address stands right
    /// before the pool, and the backend right behind it, so that (client, pool) and (pool, backend)
    /// are both keys.
    fn remembered(&self, pick: &Pick) -> [Rule; 3] {
        let Pick { placement, count, affinity_seconds } = *pick;
        let client = match self.family {
            Family::V4 => Register::new(7),
            Family::V6 => Register::new(4),
        };
        let port = self.behind(BACKEND_ADDRESS);
        let known = || {
            let rule = self.key(placement).lookup(placement.map(), KEY, FOUND);
            rule.address(End::Source, client)
        };
        let remember = |operation| Expression::Dynset {
            operation,
            set: set::AFFINITY.into(),
            key: client,
            data: Some(BACKEND),
            timeout: Some(Duration::from_secs(affinity_seconds.into())),
            invert: false,
        };
        let draw = Expression::Numgen { into: INDEX, kind: NumgenKind::Random, modulus: count, offset: 0 };
        let honoured =
            known().lookup(set::AFFINITY, client, BACKEND).number(0, BACKEND).if_in(set::LIVING, POOL);
        let forgotten = known().lookup(set::AFFINITY, client, BACKEND).number(0, BACKEND);
        let drawn = known().and(draw).lookup(set::SLOTS, POOL, BACKEND).number(0, BACKEND);
        let send = |rule: RuleWriter| rule.translate(BACKEND_ADDRESS, port);
        [
            send(honoured.and(remember(DynsetOperation::Update))).end("back to its backend"),
            forgotten.and(remember(DynsetOperation::Delete)).end("its backend has gone"),
            send(drawn.and(remember(DynsetOperation::Update))).end("one of the pool"),
        ]
    }
}
