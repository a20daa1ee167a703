//! One line of a `verdicts` section: a flow, and what must become of it.
//!
//! ```text
//! 10.244.1.5 -> 10.96.0.10:80/tcp   dnat ClusterIP shop/web:http to 10.244.1.10:8080 10.244.2.10:8080
//! 203.0.113.10 -> 172.18.0.2:30080/tcp   dnat NodePort shop/web:http to 10.244.1.10:8080, masquerade
//! 10.244.1.5 via cni0 -> [fd00:10:96::10]:53/udp   reject ClusterIP dns/dns:dns   (only ipvs)
//! 10.244.1.5 -> 198.51.100.9:80/tcp   pass
//! ```

use model::{Protocol, parse_ip};
use plan::{FrontendKind, Packet, Verdict, VerdictKind};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The data planes whose differences a line may speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Mode `nftables`.
    Nftables,
    /// Mode `ipvs`.
    Ipvs,
    /// Mode `iptables`.
    Iptables,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Nftables, Mode::Ipvs, Mode::Iptables];

    /// Its name in configuration and in test names.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Ipvs => "ipvs",
            Mode::Iptables => "iptables",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Mode, String> {
        let known = Mode::ALL.into_iter().find(|m| m.name() == word);
        known.ok_or_else(|| format!("{word:?} is no mode: nftables, ipvs or iptables"))
    }
}

/// One flow and what must become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The first packet of the flow.
    pub packet: Packet,
    /// What becomes of it.
    pub expected: Expected,
    /// The only modes that this holds for; none: all.
    pub only: Vec<Mode>,
    /// Why the flow is not tried with real packets, if it is not.
    pub no_packets: Option<String>,
}

/// What must become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What becomes of it.
    pub kind: VerdictKind,
    /// The frontend it finds and that one's port of a Service, `ns/name:port`, where it finds one.
    pub service: Option<(FrontendKind, String)>,
    /// Where it may go.
    pub backends: BTreeSet<SocketAddr>,
    /// Whose source address the backends see.
    pub source: SourceSeen,
    /// How long the client stays with its backend.
    pub affinity_seconds: Option<u32>,
}

/// Whose address the backends see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSeen {
    /// The client's.
    Client,
    /// The node's: the flow is masqueraded.
    Node,
    /// The node's where the backend is the client itself, else the client's.
    NodeOnHairpin,
}

impl SourceSeen {
    /// Whether this backend sees the node and not this client.
    pub fn is_node_for(self, backend: SocketAddr, client: IpAddr) -> bool {
        match self {
            SourceSeen::Client => false,
            SourceSeen::Node => true,
            SourceSeen::NodeOnHairpin => backend.ip() == client,
        }
    }
}

impl Expectation {
    /// Whether it holds for a mode.
    pub fn is_for(&self, mode: Mode) -> bool {
        self.only.is_empty() || self.only.contains(&mode)
    }
}

impl Expected {
    /// How a verdict differs from this, in words; empty when it does not.
    pub fn differences(&self, verdict: &Verdict) -> Vec<String> {
        let Expected { kind, service, backends, source, affinity_seconds } = self;
        let mut differences = Vec::new();
        let mut differ = |what: &str, want: String, got: String| {
            if want != got {
                differences.push(format!("{what}: expected {want}, got {got}"));
            }
        };
        differ("verdict", kind.name().to_owned(), verdict.kind.name().to_owned());
        let got = verdict.frontend.zip(verdict.service.as_ref());
        let got = got.map(|(kind, service)| (kind, service.to_string()));
        differ("service", service_text(service.as_ref()), service_text(got.as_ref()));
        let got: Vec<SocketAddr> = verdict.backends.iter().map(|b| b.socket()).collect();
        differ("backends", list(backends.iter().copied()), list(got.into_iter()));
        let masquerade = *source != SourceSeen::Client;
        differ("masquerade", masquerade.to_string(), verdict.masquerade.to_string());
        differ("affinity", seconds(*affinity_seconds), seconds(verdict.affinity_seconds));
        differences
    }
}

fn service_text(service: Option<&(FrontendKind, String)>) -> String {
    service.map_or_else(|| "none".to_owned(), |(kind, service)| format!("{} {service}", kind.name()))
}

fn list(backends: impl Iterator<Item = SocketAddr>) -> String {
    let mut backends: Vec<_> = backends.collect();
    backends.sort_unstable();
    let texts: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(" ") }
}

fn seconds(affinity: Option<u32>) -> String {
    affinity.map_or_else(|| "none".to_owned(), |s| format!("{s} s"))
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { from, interface, to, port, protocol } = &self.packet;
        write!(f, "{from}")?;
        if let Some(interface) = interface {
            write!(f, " via {interface}")?;
        }
        write!(f, " -> {}/{protocol}", SocketAddr::new(*to, *port))
    }
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(line: &str) -> Result<Expectation, String> {
        let (line, only, no_packets) = take_notes(line)?;
        let (flow, expected) = split_flow(line)?;
        let expected: Expected = expected.parse()?;
        if expected.source == SourceSeen::NodeOnHairpin {
            let own = |b: &SocketAddr| b.ip() == flow.from;
            if !expected.backends.iter().any(own) {
                return Err(format!("hairpin, but no backend is {}", flow.from));
            }
        }
        Ok(Expectation { packet: flow, expected, only, no_packets })
    }
}

/// Takes the notes in parentheses off the end of a line.
fn take_notes(line: &str) -> Result<(&str, Vec<Mode>, Option<String>), String> {
    let (mut rest, mut only, mut no_packets) = (line.trim(), vec![], None);
    while let Some(inner) = rest.strip_suffix(')') {
        let (before, note) = inner.rsplit_once('(').ok_or("a ) without its (")?;
        if let Some(modes) = note.strip_prefix("only ") {
            only = modes.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        } else if let Some(reason) = note.strip_prefix("no packets: ") {
            no_packets = Some(reason.trim().to_owned());
        } else {
            return Err(format!("({note}) is neither (only MODE…) nor (no packets: REASON)"));
        }
        rest = before.trim_end();
    }
    Ok((rest, only, no_packets))
}

/// Splits `FROM [via INTERFACE] -> TO:PORT/PROTOCOL REST`.
fn split_flow(line: &str) -> Result<(Packet, &str), String> {
    let (from, rest) = line.split_once(" -> ").ok_or("a verdict reads FROM -> TO:PORT/PROTOCOL VERDICT")?;
    let (from, interface) = match from.split_once(" via ") {
        Some((from, interface)) => (from, Some(interface.trim().to_owned())),
        None => (from, None),
    };
    let from = parse_ip(from.trim()).map_err(|e| e.to_string())?;
    let (to, rest) = rest.trim().split_once(' ').ok_or("no verdict behind the flow")?;
    let (to, protocol) = to.rsplit_once('/').ok_or_else(|| format!("{to:?} has no /PROTOCOL"))?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.name() == protocol);
    let protocol = protocol.ok_or("the protocol is tcp, udp or sctp")?;
    let to = socket(to)?;
    Ok((Packet { from, interface, to: to.ip(), port: to.port(), protocol }, rest.trim()))
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT"))
}

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Expected, String> {
        let mut clauses = text.split(',').map(str::trim);
        let mut words = clauses.next().unwrap_or_default().split_whitespace();
        let word = words.next().unwrap_or_default();
        let kinds = [VerdictKind::Dnat, VerdictKind::Reject, VerdictKind::Drop, VerdictKind::Pass];
        let kind = kinds.into_iter().find(|k| k.name() == word);
        let kind = kind.ok_or_else(|| format!("{word:?} is no verdict: dnat, reject, drop or pass"))?;
        let service = match (words.next(), words.next()) {
            (None, _) => None,
            (Some(kind), Some(service)) => Some((frontend_kind(kind)?, service.to_owned())),
            (Some(kind), None) => return Err(format!("{kind} of which Service?")),
        };
        let mut backends = BTreeSet::new();
        if let Some(to) = words.next() {
            if to != "to" {
                return Err(format!("{to:?} where \"to\" and backends belong"));
            }
            for word in words {
                backends.insert(socket(word)?);
            }
        }
        if (kind == VerdictKind::Dnat) == backends.is_empty() {
            return Err("dnat has backends, and nothing else has".to_owned());
        }
        if (kind == VerdictKind::Dnat && service.is_none())
            || (kind == VerdictKind::Pass && service.is_some())
        {
            return Err("dnat is for a Service, and pass for none".to_owned());
        }
        let mut expected =
            Expected { kind, service, backends, source: SourceSeen::Client, affinity_seconds: None };
        for clause in clauses {
            expected.add_clause(clause)?;
        }
        Ok(expected)
    }
}

impl Expected {
    fn add_clause(&mut self, clause: &str) -> Result<(), String> {
        if self.kind != VerdictKind::Dnat {
            return Err(format!("{clause:?} is said of dnat only"));
        }
        match clause.split_once(' ') {
            None if clause == "masquerade" => self.source = SourceSeen::Node,
            None if clause == "hairpin" => self.source = SourceSeen::NodeOnHairpin,
            Some(("affinity", seconds)) => {
                let seconds = seconds.trim().parse();
                self.affinity_seconds = Some(seconds.map_err(|_| "affinity for how many seconds?")?);
            }
            _ => return Err(format!("{clause:?} is none of masquerade, hairpin and affinity SECONDS")),
        }
        Ok(())
    }
}

fn frontend_kind(word: &str) -> Result<FrontendKind, String> {
    let kinds = [
        FrontendKind::ClusterIp,
        FrontendKind::ExternalIp,
        FrontendKind::LoadBalancer,
        FrontendKind::NodePort,
    ];
    let kind = kinds.into_iter().find(|k| k.name() == word);
    kind.ok_or_else(|| format!("{word:?} is none of ClusterIP, ExternalIP, LoadBalancer and NodePort"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_full() {
        let line = "10.244.1.5 via cni0 -> [fd00::1]:53/udp  dnat NodePort a/b:dns to 10.244.1.5:1 \
                    [fd00::2]:2, hairpin, affinity 30  (only ipvs) (no packets: no such device)";
        let read: Expectation = line.parse().unwrap();
        assert_eq!(read.to_string(), "10.244.1.5 via cni0 -> [fd00::1]:53/udp");
        assert_eq!(read.only, [Mode::Ipvs]);
        assert_eq!(read.no_packets.as_deref(), Some("no such device"));
        let Expected { kind, service, backends, source, affinity_seconds } = read.expected;
        assert_eq!(kind, VerdictKind::Dnat);
        assert_eq!(service, Some((FrontendKind::NodePort, "a/b:dns".to_owned())));
        assert_eq!(list(backends.into_iter()), "10.244.1.5:1 [fd00::2]:2");
        assert_eq!((source, affinity_seconds), (SourceSeen::NodeOnHairpin, Some(30)));
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let bad = [
            ("10.0.0.1 10.0.0.2:80/tcp pass", "FROM -> TO"),
            ("10.0.0.x -> 10.0.0.2:80/tcp pass", "\"10.0.0.x\" is not an IP address"),
            ("10.0.0.1 -> 10.0.0.2/tcp pass", "not ADDRESS:PORT"),
            ("10.0.0.1 -> 10.0.0.2:80 pass", "no /PROTOCOL"),
            ("10.0.0.1 -> 10.0.0.2:80/icmp pass", "tcp, udp or sctp"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp", "no verdict"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp accept", "\"accept\" is no verdict"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp dnat", "has backends"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp dnat to 10.0.0.3:80", "\"to\" is none of ClusterIP"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp pass ClusterIP a/b:c", "pass for none"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp reject, masquerade", "of dnat only"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp dnat NodePort a/b:c to 10.0.0.3:80, hairpin", "no backend is"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp dnat NodePort a/b:c to 10.0.0.3:80, fast", "\"fast\" is none of"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp pass (only ebpf)", "\"ebpf\" is no mode"),
            ("10.0.0.1 -> 10.0.0.2:80/tcp pass (sometimes)", "neither (only MODE…)"),
        ];
        for (line, want) in bad {
            let got = line.parse::<Expectation>().unwrap_err();
            assert!(got.contains(want), "{line}: {got}");
        }
    }
}
