//! The node's switches and tables that decide whether Services work, whatever the mode.

use super::{Finding, Severity};
use std::fs;
use std::path::Path;

/// From this share on, in percent, the table of connections counts as full.
const FULL_PERCENT: u64 = 90;

/// Looks at all of them.
pub(super) fn look() -> Vec<Finding> {
    look_below(Path::new("/proc/sys"), Path::new("/sys/class/net"))
}

fn look_below(sys: &Path, links: &Path) -> Vec<Finding> {
    let read = |name: &str| Some(fs::read_to_string(sys.join(name)).ok()?.trim().to_owned());
    let number = |name: &str| read(name)?.parse::<u64>().ok();
    let mut findings = Vec::new();
    if read("net/ipv4/ip_forward").as_deref() == Some("0") {
        findings.push(Finding::new(
            Severity::Warning,
            "IPv4 packets are not forwarded, so no pod of another node is reached",
            "sysctl -w net.ipv4.ip_forward=1",
        ));
    }
    let has_v6 = read("net/ipv6/conf/all/disable_ipv6").as_deref() == Some("0");
    if has_v6 && read("net/ipv6/conf/all/forwarding").as_deref() == Some("0") {
        findings.push(Finding::new(
            Severity::Note,
            "IPv6 packets are not forwarded, which matters where pods have IPv6",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ));
    }
    let bridges = fs::read_dir(links).into_iter().flatten().flatten();
    let bridged = bridges.map(|link| link.path().join("bridge")).any(|path| path.is_dir());
    if bridged && read("net/bridge/bridge-nf-call-iptables").as_deref() != Some("1") {
        findings.push(Finding::new(
            Severity::Note,
            "pods on one bridge answer each other directly, untranslated, when one reaches the other by a Service",
            "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ));
    }
    let (count, max) = (number("net/netfilter/nf_conntrack_count"), number("net/netfilter/nf_conntrack_max"));
    if let (Some(count), Some(max)) = (count, max)
        && max > 0
        && count >= max * FULL_PERCENT / 100
    {
        findings.push(Finding::new(
            Severity::Warning,
            format!("the table of connections holds {count} of {max}: new ones will be dropped"),
            format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of switches, and what is found there.
    fn found(switches: &[(&str, &str)], bridge: bool) -> Vec<String> {
        let root = std::env::temp_dir().join(format!("portolan-switches-{:?}", std::thread::current().id()));
        let links = root.join("links");
        fs::create_dir_all(links.join(if bridge { "cni0/bridge" } else { "eth0" })).unwrap();
        for (name, value) in switches {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let findings = look_below(&root, &links);
        fs::remove_dir_all(&root).unwrap();
        findings.into_iter().filter_map(|finding| finding.mend).collect()
    }

    #[test]
    fn switches() {
        let good = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/netfilter/nf_conntrack_count", "899"),
            ("net/netfilter/nf_conntrack_max", "1000"),
        ];
        assert_eq!(found(&good, false), Vec::<String>::new());
        assert_eq!(found(&[("net/ipv4/ip_forward", "0")], false), ["sysctl -w net.ipv4.ip_forward=1"]);
        let full = [("net/netfilter/nf_conntrack_count", "900"), ("net/netfilter/nf_conntrack_max", "1000")];
        assert_eq!(found(&full, false), ["sysctl -w net.netfilter.nf_conntrack_max=2000"]);
        assert_eq!(found(&good, true).len(), 1);
        assert_eq!(found(&[("net/bridge/bridge-nf-call-iptables", "1")], true), Vec::<String>::new());
        let v6 = [("net/ipv6/conf/all/disable_ipv6", "0"), ("net/ipv6/conf/all/forwarding", "0")];
        assert_eq!(found(&v6, false), ["sysctl -w net.ipv6.conf.all.forwarding=1"]);
    }
}
