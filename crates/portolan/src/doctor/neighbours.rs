//! Who else works on the same corner of the node: other proxies, what they left behind, and
//! firewalls that drop what we let through.

use super::{Finding, Severity};
use netlink::ipvs::Ipvs;
use netlink::nftables::{ChainInfo, Family, Hook, Policy, Table, chains, tables};
use netlink::{Netfilter, Route, Socket};
use std::fs;
use std::path::Path;

/// Programs that route Services. Cilium does so only if told to, so it is worth a warning at most.
const PROXIES: [(&str, Severity, &str); 3] = [
    ("kube-proxy", Severity::Error, "kubectl -n kube-system delete daemonset kube-proxy"),
    (
        "kube-router",
        Severity::Warning,
        "kubectl -n kube-system set env … (start it with --run-service-proxy=false)",
    ),
    ("cilium-agent", Severity::Warning, "helm upgrade cilium … --set kubeProxyReplacement=false"),
];
/// The chain that kube-proxy's iptables and IPVS modes begin with.
const KUBE_SERVICES: &str = "KUBE-SERVICES";
/// A chain that only our own iptables mode makes.
const KUBE_CLUSTER_IPS: &str = "KUBE-CLUSTER-IPS";
/// The table of kube-proxy's nftables mode.
const KUBE_PROXY: &str = "kube-proxy";
/// Families of tables that are nothing to us, by the kernel's numbers.
const ARP: u8 = 3;
const BRIDGE: u8 = 7;
/// The device of IPVS modes, also of ours.
const KUBE_IPVS: &str = "kube-ipvs0";

/// Looks for all of them.
pub(super) fn look() -> Vec<Finding> {
    let mut findings = processes(Path::new("/proc"));
    match rulesets() {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::note(format!("other programs' rules: {error}"))),
    }
    findings.extend(legacy_iptables(Path::new("/proc/net")));
    // Asking for IPVS would load it.
    if Path::new("/proc/net/ip_vs").exists() {
        findings.extend(ipvs());
    }
    findings
}

fn processes(proc: &Path) -> Vec<Finding> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut findings = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        // We may be called kube-proxy ourselves.
        let own = fs::read_link(entry.path().join("exe")).ok();
        if own.is_some() && own == fs::read_link(proc.join("self/exe")).ok() {
            continue;
        }
        if let Some((name, severity, mend)) = PROXIES.iter().find(|(name, ..)| *name == comm.trim()) {
            findings.push(Finding::new(*severity, format!("{name} runs here, as process {id}"), *mend));
        }
    }
    findings
}

fn rulesets() -> Result<Vec<Finding>, netlink::Error> {
    let mut socket: Socket<Netfilter> = Socket::open()?;
    let mut findings = Vec::new();
    for table in tables(&mut socket)? {
        let name = table.name.clone();
        if name.starts_with("portolan") {
            continue;
        }
        let table = Table { family: table.family, name: &name };
        if name == KUBE_PROXY {
            findings.push(Finding::new(
                Severity::Warning,
                format!("nft table {} {name}: kube-proxy's nftables mode was here", word(table.family)),
                format!("nft delete table {} {name}", word(table.family)),
            ));
            continue;
        }
        let beside = Table { name: "filter", ..table };
        let ours = name == "nat" && chains(&mut socket, beside)?.iter().any(|c| c.name == KUBE_CLUSTER_IPS);
        for chain in chains(&mut socket, table)? {
            findings.extend(judge(table, &chain).filter(|_| !ours));
        }
    }
    Ok(findings)
}

/// What a chain of somebody else's means to us.
fn judge(table: Table<'_>, chain: &ChainInfo) -> Option<Finding> {
    let name = format!("{} {} {}", word(table.family), table.name, chain.name);
    if chain.name == KUBE_SERVICES && table.name == "nat" {
        return Some(Finding::new(
            Severity::Warning,
            format!("iptables chain {KUBE_SERVICES} ({name}): kube-proxy's iptables or IPVS mode was here"),
            "kube-proxy --cleanup",
        ));
    }
    let base = chain.base.as_ref().filter(|base| base.policy == Policy::Drop)?;
    let (what, rule) = match base.hook {
        Hook::Input => {
            ("for this node (NodePorts of host-network pods, health-check ports)", "tcp dport 30000-32767")
        }
        Hook::Forward => ("through this node (all traffic of Services)", "ct status dnat"),
        Hook::Prerouting | Hook::Output | Hook::Postrouting => return None,
    };
    // Accepting a packet elsewhere does not save it from another table's policy.
    Some(Finding::new(
        Severity::Warning,
        format!("chain {name} drops packets {what} unless a rule of its own lets them pass"),
        format!("nft insert rule {name} {rule} accept"),
    ))
}

fn word(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
        Family::Other(ARP) => "arp",
        Family::Other(BRIDGE) => "bridge",
        Family::Other(_) => "netdev",
    }
}

/// Tables of the older iptables, whose rules cannot be listed without its own library.
fn legacy_iptables(net: &Path) -> Option<Finding> {
    let names = fs::read_to_string(net.join("ip_tables_names")).unwrap_or_default();
    let names: Vec<_> = names.split_whitespace().collect();
    (!names.is_empty()).then(|| Finding {
        severity: Severity::Note,
        what: format!(
            "tables of iptables-legacy are in use ({}): kube-proxy's may be among them",
            names.join(", ")
        ),
        mend: Some("iptables-legacy-save | grep KUBE-, then kube-proxy --cleanup".into()),
    })
}

fn ipvs() -> Option<Finding> {
    let servers = Ipvs::open().and_then(|mut ipvs| ipvs.services()).ok()?;
    let mut socket: Socket<Netfilter> = Socket::open().ok()?;
    let ours = tables(&mut socket).ok()?.iter().any(|table| table.name == "portolan-ipvs");
    let device = Socket::<Route>::open().ok()?.link(KUBE_IPVS).is_ok();
    match (ours, servers.len(), device) {
        (true, ..) | (false, 0, false) => None,
        (false, servers, true) => Some(Finding::new(
            Severity::Warning,
            format!(
                "device {KUBE_IPVS} and {servers} virtual servers that are not ours: kube-proxy's IPVS mode was here"
            ),
            "kube-proxy --cleanup (it takes away every virtual server)",
        )),
        (false, servers, false) => Some(Finding::note(format!(
            "{servers} virtual servers are somebody else's; mode ipvs leaves them alone"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::nftables::{Base, ChainKind};

    fn chain(name: &str, hook: Option<(Hook, Policy)>) -> ChainInfo {
        let base = hook.map(|(hook, policy)| Base { kind: ChainKind::Filter, hook, priority: 0, policy });
        ChainInfo { name: name.into(), handle: 1, base, uses: 0, userdata: vec![] }
    }

    #[test]
    fn chains_of_others() {
        let table = |name| Table { family: Family::Inet, name };
        let dropping = judge(table("fw"), &chain("in", Some((Hook::Input, Policy::Drop)))).unwrap();
        assert_eq!(dropping.severity, Severity::Warning);
        assert!(dropping.what.contains("inet fw in"), "{}", dropping.what);
        assert!(judge(table("fw"), &chain("fwd", Some((Hook::Forward, Policy::Drop)))).is_some());
        for harmless in [
            chain("in", Some((Hook::Input, Policy::Accept))),
            chain("out", Some((Hook::Output, Policy::Drop))),
            chain("KUBE-SERVICES", None),
        ] {
            assert_eq!(judge(table("filter"), &harmless), None);
        }
        assert!(judge(table("nat"), &chain(KUBE_SERVICES, None)).is_some());
    }

    #[test]
    fn programs() {
        let root = std::env::temp_dir().join(format!("portolan-proc-{}", std::process::id()));
        for (id, comm) in [("12", "kube-proxy"), ("13", "sh"), ("14", "cilium-agent"), ("self", "kube-proxy")]
        {
            fs::create_dir_all(root.join(id)).unwrap();
            fs::write(root.join(id).join("comm"), format!("{comm}\n")).unwrap();
        }
        let mut found = processes(&root);
        fs::remove_dir_all(&root).unwrap();
        found.sort_by(|a, b| a.what.cmp(&b.what));
        let found: Vec<_> = found.iter().map(|f| (f.severity, &*f.what)).collect();
        assert_eq!(
            found,
            [
                (Severity::Warning, "cilium-agent runs here, as process 14"),
                (Severity::Error, "kube-proxy runs here, as process 12")
            ]
        );
    }
}
