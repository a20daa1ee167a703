//! What the tables of one family should hold, as a value: chain by chain, rule by rule.
//!
//! A port of a Service has chains of its own, in table nat, whose rules stand in order ([`chains`]).
//! And it has lines in chains that all Services share, the [`Gate`]s, whose order is of no
//! importance but for a few rules of ours at their ends ([`lines`]). All else is `program.rs`.

use super::name::{Chain, Kind, Letters, Table};
use super::program;
use super::rule::{Rule, Target, Test};
use model::{Family, Name, Prefix, Protocol};
use plan::{
    At, Backend, Frontend, FrontendKind, LocalSources, Masquerade, NodeRules, PoolKind, PortRules, Rules,
    ServiceRules, Target as Fate,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// With more endpoints than this, rules go without comments (kube-proxy's
/// `largeClusterEndpointsThreshold`).
pub(crate) const COMMENTED_ENDPOINTS_MAX: usize = 1000;

/// What decides the tables beside the Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The node.
    pub node: NodeRules,
    /// Drop forwarded packets that belong to no connection.
    pub drop_invalid: bool,
    /// The bit of the packet mark that asks for masquerade.
    pub mark: u32,
    /// Masquerade from ports drawn at random.
    pub random_fully: bool,
}

/// A chain in which all Services have lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    /// ClusterIPs that lead nowhere; at its end the way to [`Gate::ClusterIps`].
    Rejects,
    /// Addresses from outside, and ports of the node, that lead nowhere.
    ExternalRejects,
    /// Load balancers' addresses, for those whom they do not serve.
    Firewall,
    /// Ports for health checks.
    HealthChecks,
    /// ClusterIPs.
    ClusterIps,
    /// Addresses and ports of Services; at its end the way to [`Gate::NodePorts`].
    Services,
    /// Ports of the node.
    NodePorts,
}

impl Gate {
    /// All of them.
    pub const ALL: [Gate; 7] = [
        Gate::Rejects,
        Gate::ExternalRejects,
        Gate::Firewall,
        Gate::HealthChecks,
        Gate::ClusterIps,
        Gate::Services,
        Gate::NodePorts,
    ];

    /// Where it is.
    pub fn place(self) -> (Table, Chain) {
        match self {
            Gate::Rejects => (Table::Filter, Chain::Services),
            Gate::ExternalRejects => (Table::Filter, Chain::ExternalServices),
            Gate::Firewall => (Table::Filter, Chain::ProxyFirewall),
            Gate::HealthChecks => (Table::Filter, Chain::NodePorts),
            Gate::ClusterIps => (Table::Filter, Chain::ClusterIps),
            Gate::Services => (Table::Nat, Chain::Services),
            Gate::NodePorts => (Table::Nat, Chain::NodePorts),
        }
    }

    /// The gate that a chain is, if it is one.
    pub fn at(table: Table, chain: Chain) -> Option<Gate> {
        Gate::ALL.into_iter().find(|gate| gate.place() == (table, chain))
    }

    /// Whether a rule belongs at the end of the chain, behind all Services' lines.
    pub fn is_last(self, rule: &Rule) -> bool {
        match self {
            Gate::Services => rule.target == Some(Target::Jump(Chain::NodePorts)),
            Gate::Rejects => rule.target == Some(Target::Jump(Chain::ClusterIps)),
            Gate::ClusterIps => rule.target == Some(Target::Drop),
            Gate::ExternalRejects | Gate::Firewall | Gate::HealthChecks | Gate::NodePorts => false,
        }
    }
}

/// What the tables of one family hold: chains by table and name.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The chains. Of the kernel's own, only the rules that lead to ours.
    pub chains: BTreeMap<(Table, Chain), Vec<Rule>>,
}

/// Images are equal when they do the same: the order of Services' lines is of no importance.
impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        self.in_order() == other.in_order()
    }
}

impl Image {
    /// The image of a whole plan: the specification of what the steps lead to.
    pub fn of(rules: &Rules, family: Family, options: &Options) -> Image {
        let mut image = Image::default();
        image.chains.extend(program::program(options, family));
        let mut cluster_ips = ClusterIps::default();
        let mut seen: HashSet<(Gate, Rule)> = HashSet::new();
        for service in rules.services.values() {
            for port in service.ports.iter().filter(|p| p.family == family) {
                chains(&PortNames::of(service, port), port, options, &mut |chain, rules| {
                    image.chains.insert((Table::Nat, chain), rules);
                });
            }
            lines(service, family, options, &mut |gate, rule| {
                if seen.insert((gate, rule.clone())) {
                    image.add(gate, rule);
                }
            });
            cluster_ips.count(service, family, options, true);
        }
        for gate in Gate::ALL {
            last_lines(gate, family, options, &cluster_ips).into_iter().for_each(|r| image.add(gate, r));
        }
        image
    }

    fn add(&mut self, gate: Gate, rule: Rule) {
        self.chains.entry(gate.place()).or_default().push(rule);
    }

    /// The rules of a chain; none if it is not there.
    pub fn rules(&self, table: Table, chain: Chain) -> &[Rule] {
        self.chains.get(&(table, chain)).map_or(&[], Vec::as_slice)
    }

    /// Whether there is nothing of ours in it.
    pub fn is_empty(&self) -> bool {
        self.chains.iter().all(|((_, chain), rules)| !chain.is_ours() && rules.is_empty())
    }

    /// Whether no Service has anything in it.
    pub fn has_no_service(&self) -> bool {
        let is_fixed = |((table, chain), rules): (&(Table, Chain), &Vec<Rule>)| match Gate::at(*table, *chain)
        {
            Some(gate) => rules.iter().all(|rule| gate.is_last(rule)),
            None => !matches!(chain, Chain::Of(..)),
        };
        self.chains.iter().all(is_fixed)
    }

    /// The same with the lines of gates, which may stand in any order, in one. Empty chains of the
    /// kernel's own go for none.
    pub(super) fn in_order(&self) -> BTreeMap<(Table, Chain), Vec<String>> {
        let bare = |rule: &Rule| Rule { comment: None, ..rule.clone() }.to_string();
        let mut all = BTreeMap::new();
        for ((table, chain), rules) in &self.chains {
            let mut told: Vec<String> = rules.iter().map(bare).collect();
            if let Some(gate) = Gate::at(*table, *chain) {
                let first = rules.iter().position(|rule| gate.is_last(rule)).unwrap_or(rules.len());
                let (head, tail) = told.split_at_mut(first);
                head.sort_unstable();
                // What stands behind the end and does not belong there is in nobody's order.
                if rules.iter().skip(first).all(|rule| gate.is_last(rule)) {
                    tail.sort_unstable();
                }
            } else if !chain.is_ours() {
                told.sort_unstable();
            }
            if chain.is_ours() || !told.is_empty() {
                all.insert((*table, *chain), told);
            }
        }
        all
    }
}

/// What the chains of a port are called.
#[derive(Clone, Debug)]
pub(crate) struct PortNames {
    /// As kube-proxy calls it, in comments.
    pub(crate) name: String,
    /// What its chains' names are made of: the name, and what tells apart two ports of one name.
    key: String,
    letters: Letters,
}

impl PortNames {
    /// The names of one of a Service's ports.
    pub(crate) fn of(service: &ServiceRules, port: &PortRules) -> PortNames {
        let number = &port.name;
        let colon = if number.port.is_empty() { "" } else { ":" };
        let name = format!("{}/{}{colon}{}", service.name.namespace, service.name.name, number.port);
        let mut key = name.clone();
        // The API server refuses two ports of one name; a manifest may have them all the same.
        let twin = |other: &&PortRules| {
            (&other.name.port, other.name.protocol) == (&number.port, number.protocol)
                && other.family == port.family
        };
        if service.ports.iter().find(twin).is_some_and(|first| first.name.number != number.number) {
            key = format!("{name}#{}", number.number);
        }
        let letters = Letters::of(&[&key, number.protocol.name()]);
        PortNames { name, key, letters }
    }

    fn chain(&self, kind: Kind) -> Chain {
        Chain::Of(kind, self.letters)
    }

    fn endpoint(&self, protocol: Protocol, backend: &Backend) -> Letters {
        Letters::of(&[&self.key, protocol.name(), &backend.socket().to_string()])
    }
}

fn pool_chain(kind: PoolKind) -> Kind {
    match kind {
        PoolKind::Cluster => Kind::Cluster,
        PoolKind::Local => Kind::Local,
    }
}

/// Whether connections through a frontend go anywhere, if only those of local clients.
fn leads(frontend: &Frontend) -> bool {
    frontend.short_circuit || matches!(frontend.outside, Fate::Balance(_))
}

fn is_external(frontend: &&Frontend) -> bool {
    frontend.kind != FrontendKind::ClusterIp
}

/// The chains of one port, those that others lead to first.
pub(crate) fn chains(
    names: &PortNames,
    port: &PortRules,
    options: &Options,
    put: &mut impl FnMut(Chain, Vec<Rule>),
) {
    let used = |kind: &PoolKind| port.uses(*kind) && !port.pool(*kind).is_empty();
    let used: Vec<PoolKind> = [PoolKind::Cluster, PoolKind::Local].into_iter().filter(used).collect();
    let mut seen = BTreeSet::new();
    let mut endpoints = HashMap::new();
    for backend in used.iter().flat_map(|kind| port.pool(*kind).iter()) {
        if seen.insert(backend.socket()) {
            let letters = names.endpoint(port.protocol(), backend);
            endpoints.insert(backend.socket(), letters);
            put(Chain::Of(Kind::Endpoint, letters), endpoint(names, port, backend, letters));
        }
    }
    for kind in used {
        let mut rules = masquerades(names, port, kind, options);
        let pool = port.pool(kind);
        let place = |backend: &Backend| {
            let letters = endpoints.get(&backend.socket()).copied();
            letters.unwrap_or_else(|| names.endpoint(port.protocol(), backend))
        };
        let about = |backend: &Backend| format!("{} -> {}", names.name, backend.socket());
        let to = |letters| Rule::to(Target::Jump(Chain::Of(Kind::Endpoint, letters)));
        if let Some(seconds) = port.affinity_seconds {
            rules.extend(pool.iter().map(|backend| {
                let letters = place(backend);
                to(letters).about(&about(backend)).when(Test::SeenWithin(letters, seconds))
            }));
        }
        for (index, backend) in pool.iter().enumerate() {
            let rule = to(place(backend)).about(&about(backend));
            let left = u32::try_from(pool.len() - index).unwrap_or(u32::MAX);
            rules.push(if left > 1 { rule.when(Test::OneIn(left)) } else { rule });
        }
        put(names.chain(pool_chain(kind)), rules);
    }
    external(names, port, options, put);
}

/// One backend: whoever comes back to himself is masqueraded.
fn endpoint(names: &PortNames, port: &PortRules, backend: &Backend, letters: Letters) -> Vec<Rule> {
    let hairpin = Rule::to(Target::Jump(Chain::MarkMasq)).about(&names.name);
    let dnat = Rule::to(Target::Dnat(backend.socket())).about(&names.name).protocol(port.protocol());
    let dnat = if port.affinity_seconds.is_some() { dnat.when(Test::Remember(letters)) } else { dnat };
    vec![hairpin.from(true, Prefix::host(backend.address)), dnat]
}

/// Who is masqueraded on the way from the port's ClusterIPs to this pool.
fn masquerades(names: &PortNames, port: &PortRules, kind: PoolKind, options: &Options) -> Vec<Rule> {
    let own = |f: &&Frontend| f.kind == FrontendKind::ClusterIp && f.outside == Fate::Balance(kind);
    let rules = port.frontends.iter().filter(own).filter_map(|frontend| {
        let At::Address(ip, number) = frontend.at else { return None };
        let rule = |target| {
            let rule = Rule::to(Target::Jump(target)).about(&format!("{} cluster IP", names.name));
            rule.at(true, Prefix::host(ip)).port(port.protocol(), number)
        };
        match frontend.masquerade {
            Masquerade::Never => None,
            Masquerade::Always => Some(rule(Chain::MarkMasq)),
            Masquerade::OffCluster => off_cluster(options, port.family, rule),
        }
    });
    rules.collect()
}

/// The networks of local pods, where that is how they are told.
pub(super) fn pod_networks(options: &Options, family: Family) -> Vec<Prefix> {
    match &options.node.local_sources {
        LocalSources::Networks(networks) => {
            networks.iter().copied().filter(|n| n.family() == family).collect()
        }
        _ => vec![],
    }
}

/// A rule for what does not come from a pod of this node. One rule can deny one network only, so for
/// several there is a chain.
fn off_cluster(options: &Options, family: Family, rule: impl Fn(Chain) -> Rule) -> Option<Rule> {
    if let Some(interface) = pod_interface(&options.node) {
        return Some(rule(Chain::MarkMasq).via(false, interface));
    }
    match &pod_networks(options, family)[..] {
        [] => None,
        // Everybody is in it, so nobody is off-cluster.
        [all] if all.length() == 0 => None,
        [one] => Some(rule(Chain::MarkMasq).from(false, *one)),
        _ => Some(rule(Chain::MarkOffCluster)),
    }
}

/// The interface of local pods, as a rule has it.
fn pod_interface(node: &NodeRules) -> Option<Name> {
    match &node.local_sources {
        LocalSources::Interface(name) => Some(name.clone()),
        LocalSources::InterfacePrefix(prefix) => Some(format!("{prefix}+").into()),
        LocalSources::Unknown | LocalSources::Networks(_) => None,
    }
}

/// The chains for what comes from outside: who may, and on which terms.
fn external(names: &PortNames, port: &PortRules, options: &Options, put: &mut impl FnMut(Chain, Vec<Rule>)) {
    // All of a port's frontends for outside have the same policy.
    let Some(frontend) = port.frontends.iter().filter(is_external).find(|f| leads(f)) else { return };
    let to = |kind| Rule::to(Target::Jump(names.chain(kind)));
    let mut rules = Vec::new();
    if frontend.short_circuit {
        let pods = to(Kind::Cluster).about(&format!("pod traffic for {} external destinations", names.name));
        match pod_interface(&options.node) {
            Some(interface) => rules.push(pods.via(true, interface)),
            None => {
                let networks = pod_networks(options, port.family);
                rules.extend(networks.into_iter().map(|network| pods.clone().from(true, network)));
            }
        }
        let masquerade = Rule::to(Target::Jump(Chain::MarkMasq))
            .about(&format!("masquerade LOCAL traffic for {} external destinations", names.name));
        let route =
            to(Kind::Cluster).about(&format!("route LOCAL traffic for {} external destinations", names.name));
        rules.push(masquerade.when(Test::SourceLocal));
        rules.push(route.when(Test::SourceLocal));
    }
    if frontend.masquerade == Masquerade::Always {
        let about = format!("masquerade traffic for {} external destinations", names.name);
        rules.push(Rule::to(Target::Jump(Chain::MarkMasq)).about(&about));
    }
    rules.push(match frontend.outside {
        Fate::Balance(kind) => to(pool_chain(kind)),
        // Nobody else's rules are for it: table filter drops it.
        Fate::Reject | Fate::Drop => Rule::to(Target::Accept),
    });
    put(names.chain(Kind::External), rules);
    if let Some(sources) = port.frontends.iter().filter(|f| leads(f)).find_map(|f| f.sources.as_ref()) {
        put(names.chain(Kind::Firewall), firewall(names, sources));
    }
}

fn firewall(names: &PortNames, sources: &Arc<[Prefix]>) -> Vec<Rule> {
    let about = format!("{} loadbalancer IP", names.name);
    let to = Rule::to(Target::Jump(names.chain(Kind::External))).about(&about);
    let mut rules: Vec<Rule> = sources.iter().map(|network| to.clone().from(true, *network)).collect();
    let rest = format!("other traffic to {} will be dropped by KUBE-PROXY-FIREWALL", names.name);
    rules.push(Rule::to(Target::Accept).about(&rest));
    rules
}

/// A Service's lines in the gates.
pub(crate) fn lines(
    service: &ServiceRules,
    family: Family,
    options: &Options,
    put: &mut impl FnMut(Gate, Rule),
) {
    for port in service.ports.iter().filter(|p| p.family == family) {
        let names = PortNames::of(service, port);
        for frontend in &port.frontends {
            frontend_lines(&names, port, frontend, options, put);
        }
    }
    if let Some(check) = service.health_check
        && let Some(port) = service.ports.iter().find(|p| p.family == family)
    {
        let about = format!("{} health check node port", PortNames::of(service, port).name);
        let rule = Rule::to(Target::Accept).about(&about).port(Protocol::Tcp, check.port);
        put(Gate::HealthChecks, rule);
    }
}

fn frontend_lines(
    names: &PortNames,
    port: &PortRules,
    frontend: &Frontend,
    options: &Options,
    put: &mut impl FnMut(Gate, Rule),
) {
    let external = is_external(&frontend);
    let about = |what: &str| format!("{} {what}", names.name);
    let rule = |target: Target, number: u16, what: &str| {
        Rule::to(target).about(&about(what)).port(port.protocol(), number)
    };
    if let (FrontendKind::ClusterIp, At::Address(ip, _)) = (frontend.kind, frontend.at) {
        put(Gate::ClusterIps, Rule::to(Target::Jump(Chain::Refuse)).at(true, Prefix::host(ip)));
    }
    if leads(frontend) {
        let kind = match frontend.outside {
            Fate::Balance(kind) if !external => pool_chain(kind),
            _ if frontend.sources.is_some() => Kind::Firewall,
            _ => Kind::External,
        };
        let target = Target::Jump(names.chain(kind));
        match frontend.at {
            At::Address(ip, number) => {
                let rule = rule(target, number, told(frontend.kind)).at(true, Prefix::host(ip));
                put(Gate::Services, rule);
            }
            At::NodePort(number) => put(Gate::NodePorts, rule(target, number, "node port")),
        }
    }
    let (target, what) = match frontend.outside {
        Fate::Reject => (refusal(port.protocol()), "has no endpoints"),
        Fate::Drop => (Target::Drop, "has no local endpoints"),
        Fate::Balance(_) => return sources(names, port, frontend, put),
    };
    let gate = if external { Gate::ExternalRejects } else { Gate::Rejects };
    match frontend.at {
        At::Address(ip, number) => {
            put(gate, rule(target, number, what).at(true, Prefix::host(ip)));
            if external && !leads(frontend) {
                // Where the address is the node's, the port may be another Service's NodePort.
                let away = rule(Target::Return, number, what).at(true, Prefix::host(ip));
                put(Gate::Services, away);
            }
        }
        At::NodePort(number) => {
            for place in node_port_places(&options.node, port.family) {
                put(gate, place(rule(target, number, what)));
            }
        }
    }
    sources(names, port, frontend, put);
}

/// kube-proxy refuses by ICMP, of which a host sends a client one a second, after the first six: a
/// client that is quicker waits in vain. A reset comes always.
fn refusal(protocol: Protocol) -> Target {
    if protocol == Protocol::Tcp { Target::Reset } else { Target::Reject }
}

fn told(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::LoadBalancer => "loadbalancer IP",
        FrontendKind::NodePort => "node port",
    }
}

fn sources(names: &PortNames, port: &PortRules, frontend: &Frontend, put: &mut impl FnMut(Gate, Rule)) {
    if let (Some(_), At::Address(ip, number)) = (&frontend.sources, frontend.at) {
        let about = format!("{} traffic not accepted by {}", names.name, names.chain(Kind::Firewall));
        let rule = Rule::to(Target::Drop).about(&about).port(port.protocol(), number);
        put(Gate::Firewall, rule.at(true, Prefix::host(ip)));
    }
}

/// The addresses of the node at which NodePorts are served, as what to add to a rule.
fn node_port_places(node: &NodeRules, family: Family) -> Vec<impl Fn(Rule) -> Rule + use<>> {
    let loopback = match family {
        Family::V4 => Prefix::new(IpAddr::from([127, 0, 0, 0]), 8),
        Family::V6 => Prefix::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
    };
    let serves_loopback = family == Family::V4 && node.localhost_node_ports;
    let networks = node.node_port_networks.iter().copied().filter(|network| network.family() == family);
    let mut places: Vec<(bool, Prefix)> = Vec::new();
    let mut has_loopback = false;
    for network in networks {
        let holds = loopback.is_some_and(|l| l.length() >= network.length() && network.contains(l.network()));
        let within = loopback.is_some_and(|l| l.contains(network.network()));
        has_loopback |= holds;
        match loopback {
            // Part of loopback is served whole or not at all, below.
            _ if within && !holds => {}
            Some(loopback) if within && holds && loopback == network => has_loopback = false,
            Some(loopback) if holds && !serves_loopback && network.length() == 0 => {
                places.push((false, loopback));
            }
            _ => places.push((true, network)),
        }
    }
    if serves_loopback && !has_loopback {
        places.extend(loopback.map(|loopback| (true, loopback)));
    }
    let place =
        |(is, network): (bool, Prefix)| move |rule: Rule| rule.at(is, network).when(Test::DestinationLocal);
    places.into_iter().map(place).collect()
}

/// The lines at the end of a gate.
pub(crate) fn last_lines(
    gate: Gate,
    family: Family,
    options: &Options,
    cluster_ips: &ClusterIps,
) -> Vec<Rule> {
    let node = &options.node;
    let cidrs = || node.service_cidrs.iter().copied().filter(move |cidr| cidr.family() == family);
    match gate {
        Gate::Services => {
            let about = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
            let rule = Rule::to(Target::Jump(Chain::NodePorts)).about(about);
            node_port_places(node, family).into_iter().map(|place| place(rule.clone())).collect()
        }
        Gate::Rejects => {
            let to = Rule::to(Target::Jump(Chain::ClusterIps));
            let about = "ports and addresses of Services that lead nowhere";
            let all = cidrs().chain(cluster_ips.beyond());
            all.map(|network| to.clone().about(about).at(true, network)).collect()
        }
        Gate::ClusterIps => {
            let drop = Rule::to(Target::Drop).about("addresses that no Service has");
            cidrs().map(|cidr| drop.clone().at(true, cidr)).collect()
        }
        Gate::ExternalRejects | Gate::Firewall | Gate::HealthChecks | Gate::NodePorts => vec![],
    }
}

/// The ClusterIPs that are in no ServiceCIDR that we know of, and how often each is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterIps(BTreeMap<IpAddr, u32>);

impl ClusterIps {
    /// Takes in, or out, those of a Service.
    pub(crate) fn count(&mut self, service: &ServiceRules, family: Family, options: &Options, more: bool) {
        let frontends = service.ports.iter().filter(|p| p.family == family).flat_map(|p| &p.frontends);
        for frontend in frontends.filter(|f| f.kind == FrontendKind::ClusterIp) {
            let At::Address(ip, _) = frontend.at else { continue };
            if options.node.service_cidrs.iter().any(|cidr| cidr.contains(ip)) {
                continue;
            }
            let uses = self.0.entry(ip).or_insert(0);
            *uses = if more { *uses + 1 } else { uses.saturating_sub(1) };
            if *uses == 0 {
                self.0.remove(&ip);
            }
        }
    }

    /// A network that holds all of them, and as few others as one can.
    fn beyond(&self) -> Option<Prefix> {
        let (first, _) = self.0.first_key_value()?;
        let (last, _) = self.0.last_key_value()?;
        let common = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return None,
        };
        let network = Prefix::new(*first, u8::try_from(common).ok()?)?;
        // Never the whole world.
        (network.length() > 0).then_some(network)
    }
}
