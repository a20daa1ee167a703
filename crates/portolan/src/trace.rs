//! `portolan trace`: asks the plan what becomes of one packet. The kernel is not asked and not
//! touched; the same manifests, configuration and flags give the same answer on any machine.

use crate::error::Error;
use crate::output;
use clap::Args;
use config::{Configuration, Mode};
use model::{Change, Cluster, Family, PortName, Protocol, parse_ip};
use plan::{FrontendKind, Packet, Rules, Settings, Verdict, VerdictKind};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use watch::{Keep, Severity};

/// Ask what becomes of the first packet of a connection, without touching the kernel
#[derive(Args)]
pub(crate) struct Arguments {
    /// A directory or file of Kubernetes manifests
    #[arg(long, value_name = "PATH")]
    manifests: PathBuf,
    /// The node that the packet is on
    #[arg(long, value_name = "NAME")]
    node: String,
    /// A KubeProxyConfiguration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The mode, if not the configuration's: auto, ipvs, nftables or iptables
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<Mode>,
    /// An address on the node's interfaces (repeatable); without it, those of the Node object
    #[arg(long = "node-address", value_name = "IP", value_parser = address)]
    node_addresses: Vec<IpAddr>,
    /// Who sends the packet
    #[arg(long, value_name = "IP", value_parser = address)]
    from: IpAddr,
    /// Where it is sent; IPv6 as [IP]:PORT
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    to: SocketAddr,
    /// Its protocol
    #[arg(long = "proto", value_name = "tcp|udp|sctp", value_parser = protocol, default_value = "tcp")]
    protocol: Protocol,
    /// The interface that it comes in through, where local pods are told by interfaces
    #[arg(long = "in-interface", value_name = "NAME")]
    in_interface: Option<String>,
    /// Tell its way as the kernel walks it, too: rules evaluated in mode iptables against look-ups
    /// in the others, counted in the tables that these manifests make
    #[arg(long)]
    explain: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|error: <Mode as std::str::FromStr>::Err| error.to_string())
}

fn address(text: &str) -> Result<IpAddr, String> {
    parse_ip(text).map_err(|error| error.to_string())
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let form = || format!("{text:?} is not IP:PORT, or [IP]:PORT for IPv6");
    let (ip, port) = text.rsplit_once(':').ok_or_else(form)?;
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let ip = match bare {
        Some(ip) => parse_ip(ip).map_err(|error| error.to_string())?,
        None if ip.contains(':') => return Err(form()),
        None => parse_ip(ip).map_err(|error| error.to_string())?,
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!("{port:?} is not a port from 1 to 65535")),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let text = text.to_ascii_lowercase();
    let known = Protocol::ALL.into_iter().find(|p| p.name() == text);
    known.ok_or_else(|| format!("{text:?} is none of tcp, udp and sctp"))
}

/// Answers one question.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Arguments {
        manifests,
        node,
        config,
        mode,
        node_addresses,
        from,
        to,
        protocol,
        in_interface,
        explain: ways,
        json,
    } = arguments;
    if Family::of(from) != Family::of(to.ip()) {
        output::usage(format_args!("--from {from} and --to {to} are not of one family"));
    }
    let cluster = load(&manifests)?;
    let configuration = configuration(config.as_deref())?;
    let settings = settings(&configuration, mode, &node, &node_addresses)?;
    let on_interfaces = on_interfaces(&cluster, &settings, node_addresses);
    let rules = plan::rules(&cluster, &settings);
    let packet = Packet { from, interface: in_interface, to: to.ip(), port: to.port(), protocol };
    let verdict = plan::trace(&rules, &on_interfaces, &packet);
    let ways = match ways {
        true => Some(crate::explain::ways(&cluster, &configuration, &settings, &on_interfaces, &packet)),
        false => None,
    };
    let text = match json {
        true => {
            let answer = Answer { ways, ..Answer::of(&verdict) };
            serde_json::to_string(&answer).map_err(|e| Error::Output(e.into()))? + "\n"
        }
        false => {
            let asked = mode.unwrap_or(configuration.mode);
            let ways = ways.map(|ways| crate::explain::told(&ways, asked.name())).unwrap_or_default();
            explain(&rules, &packet, &verdict) + &ways
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn load(manifests: &Path) -> Result<Cluster, Error> {
    let mut cluster = Cluster::new();
    let problems = watch::load_each(manifests, Keep::default(), |object| {
        cluster.apply(Change::Apply(object));
    })?;
    for problem in problems {
        match problem.severity {
            Severity::Error => output::warning(problem),
            Severity::Notice => output::notice(problem),
        }
    }
    Ok(cluster)
}

fn configuration(file: Option<&Path>) -> Result<Configuration, Error> {
    let Some(file) = file else { return Ok(Configuration::default()) };
    let config::Loaded { configuration, warnings, .. } = config::load(file)?;
    warnings.iter().for_each(output::warning);
    Ok(configuration)
}

/// What the plan needs to know. The mode on the command line wins over the file's.
fn settings(
    configuration: &Configuration,
    mode: Option<Mode>,
    node: &str,
    given: &[IpAddr],
) -> Result<Settings, Error> {
    match mode.unwrap_or(configuration.mode) {
        Mode::Ebpf => Err(Error::NotBuilt("ebpf")),
        mode => Ok(config::settings(configuration, mode, node.into(), given.to_vec())),
    }
}

/// The addresses on the node's interfaces, as far as anybody says.
fn on_interfaces(cluster: &Cluster, settings: &Settings, given: Vec<IpAddr>) -> Vec<IpAddr> {
    let node = &settings.node_name;
    let known = cluster.node(node);
    if known.is_none() {
        output::warning(format_args!("no Node {node} in the manifests: it has no zone and no pod networks"));
    }
    if !given.is_empty() {
        return given;
    }
    // The address to bind to is one of the node's, whatever the Node object says.
    let own = known.map_or(&[][..], |node| &node.addresses);
    let addresses = [&settings.node_addresses, own].concat();
    if addresses.is_empty() {
        output::warning(format_args!(
            "no address of {node} is known: it serves no NodePorts but at 127.0.0.1"
        ));
    }
    addresses
}

/// The verdict in the form that other programs read.
#[derive(Serialize)]
struct Answer {
    verdict: &'static str,
    service: Option<String>,
    frontend: Option<&'static str>,
    backends: Vec<SocketAddr>,
    masquerade: bool,
    affinity_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ways: Option<Vec<crate::explain::Way>>,
}

impl Answer {
    fn of(verdict: &Verdict) -> Answer {
        let Verdict { kind, service, frontend, backends, masquerade, affinity_seconds } = verdict;
        Answer {
            verdict: kind.name(),
            service: service.as_ref().map(PortName::to_string),
            frontend: frontend.map(FrontendKind::name),
            backends: backends.iter().map(|b| b.socket()).collect(),
            masquerade: *masquerade,
            affinity_seconds: *affinity_seconds,
            ways: None,
        }
    }
}

/// The verdict in words.
fn explain(rules: &Rules, packet: &Packet, verdict: &Verdict) -> String {
    let Packet { from, interface, to, port, protocol } = packet;
    let mut text = format!("{from}");
    // Writing to a string cannot fail.
    if let Some(interface) = interface {
        let _ = write!(text, " (in through {interface})");
    }
    let _ = writeln!(text, " -> {}/{protocol} on {}", SocketAddr::new(*to, *port), rules.node.name);
    if let (Some(kind), Some(service)) = (verdict.frontend, &verdict.service) {
        let _ = writeln!(text, "  is for {service}, by its {}", kind.name());
    }
    for sentence in because(rules, packet, verdict) {
        let _ = writeln!(text, "  {sentence}");
    }
    text
}

fn because(rules: &Rules, packet: &Packet, verdict: &Verdict) -> Vec<String> {
    let sentence = match (verdict.kind, &verdict.service) {
        (VerdictKind::Dnat, _) => return balanced(packet, verdict),
        (VerdictKind::Pass, _) => "is none of our business: no Service has this address and port",
        (VerdictKind::Reject, Some(_)) => "is refused: the Service has no endpoint anywhere",
        (VerdictKind::Reject, None) => {
            "is refused: the address is a ClusterIP, and its Service has no such port"
        }
        (VerdictKind::Drop, None) => "is dropped: the address is in a ServiceCIDR, and no Service has it",
        (VerdictKind::Drop, Some(_)) if refused_by_source(rules, packet, verdict) => {
            "is dropped: the sender is in none of loadBalancerSourceRanges"
        }
        (VerdictKind::Drop, Some(_)) => "is dropped: traffic policy Local, and no endpoint is on this node",
    };
    vec![sentence.to_owned()]
}

fn balanced(packet: &Packet, verdict: &Verdict) -> Vec<String> {
    let backends: Vec<_> = verdict.backends.iter().map(|b| b.socket().to_string()).collect();
    let mut sentences = vec![match &backends[..] {
        [one] => format!("goes to {one}"),
        several => format!("goes to one of {}", several.join(" ")),
    }];
    let to_itself = verdict.backends.iter().any(|b| b.address == packet.from);
    sentences.push(
        match (verdict.masquerade, to_itself) {
            (false, _) => "keeps its source address",
            (true, false) => "leaves with the node's address as its source",
            (true, true) => {
                "leaves with the node's address as its source, at least where it comes back to its sender"
            }
        }
        .to_owned(),
    );
    sentences.extend(
        verdict
            .affinity_seconds
            .map(|s| format!("the sender stays with its backend for {s} s after its last connection")),
    );
    sentences
}

fn refused_by_source(rules: &Rules, packet: &Packet, verdict: &Verdict) -> bool {
    let service = verdict.service.as_ref().and_then(|port| rules.services.get(&port.service));
    let frontends = service.into_iter().flat_map(|s| &s.ports).flat_map(|p| &p.frontends);
    let at = plan::At::Address(packet.to, packet.port);
    frontends
        .filter(|f| f.at == at)
        .filter_map(|f| f.sources.as_ref())
        .any(|sources| !sources.iter().any(|s| s.contains(packet.from)))
}
