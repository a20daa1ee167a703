//! Each mode tried on the kernel: a Service of every kind is routed by the real plane, in a network
//! namespace that is gone afterwards.

use super::modules::{Modules, Place};
use super::{Finding, ModeAnswer, Severity};
use crate::node;
use config::Configuration;
use dataplane::iptables::{self, Variant};
use dataplane::{Mode, Plane, Report};
use lab::Namespace;
use model::{
    Change, Cluster, Conditions, Endpoint, Family, Object, ObjectName, Policy, Prefix, Protocol, Service,
    ServiceKind, ServicePort, Slice, SlicePort,
};
use netlink::ipvs::{Ipvs, Service as Server, ServiceKey};
use netlink::route::LinkChange;
use netlink::{Route, Socket};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// What mode nftables is made of.
const NFTABLES: [&str; 10] = [
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_reject",
];
/// What mode ipvs is made of beside.
const IPVS: [&str; 2] = ["ip_vs", "dummy"];
/// The kernel's schedulers, each a module `ip_vs_NAME`.
const SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"];
/// An address to try schedulers with (of a network for documentation).
const TRIED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Tries all modes.
pub(super) fn try_all(configuration: &Configuration, modules: &Modules) -> Vec<ModeAnswer> {
    vec![
        ipvs(configuration, modules),
        nftables(configuration, modules),
        iptables(configuration, modules),
        not_built("ebpf"),
    ]
}

/// Nothing could be tried, for this reason.
pub(super) fn untried(why: &str) -> Vec<ModeAnswer> {
    let answer = |mode| {
        let what = format!("it cannot be tried: {why}");
        let findings = vec![Finding::new(Severity::Error, what, "run this as root")];
        ModeAnswer { mode, works: false, findings }
    };
    ["ipvs", "nftables", "iptables"].map(answer).into_iter().chain(["ebpf"].map(not_built)).collect()
}

fn not_built(mode: &'static str) -> ModeAnswer {
    let what = "this program has not been taught it";
    ModeAnswer { mode, works: false, findings: vec![Finding::note(what)] }
}

/// What mode iptables is made of, whichever of the two kinds it is.
const IPTABLES: [&str; 11] = [
    "nf_conntrack",
    "nf_nat",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_recent",
    "xt_statistic",
    "xt_tcpudp",
];
/// And each kind beside.
const LEGACY: [&str; 3] = ["ip_tables", "iptable_nat", "iptable_filter"];
const NFT: [&str; 2] = ["nf_tables", "nft_compat"];

fn iptables(configuration: &Configuration, modules: &Modules) -> ModeAnswer {
    let options = node::plane_options(configuration, &Default::default());
    let opened = iptables::Plane::open(&options.families, options.drop_invalid, options.iptables);
    let variant = match opened {
        Ok(plane) => plane.variant(),
        Err(error) => {
            let mend = "apt-get install iptables";
            let findings = vec![Finding::new(Severity::Error, crate::output::chain(&error), mend)];
            return ModeAnswer { mode: "iptables", works: false, findings };
        }
    };
    let fact = Finding::note(format!("this node uses iptables-{variant}"));
    match route(Mode::Iptables, configuration) {
        Ok(()) => ModeAnswer { mode: "iptables", works: true, findings: vec![fact] },
        Err(error) => {
            let own = match variant {
                Variant::Legacy => &LEGACY[..],
                Variant::Nft => &NFT[..],
            };
            let names = [own, &IPTABLES[..]].concat();
            let findings = [fact].into_iter().chain(missing(&error, &names, modules)).collect();
            ModeAnswer { mode: "iptables", works: false, findings }
        }
    }
}

fn nftables(configuration: &Configuration, modules: &Modules) -> ModeAnswer {
    let findings = match route(Mode::Nftables, configuration) {
        Ok(()) => return ModeAnswer { mode: "nftables", works: true, findings: vec![] },
        Err(error) => missing(&error, &NFTABLES, modules),
    };
    ModeAnswer { mode: "nftables", works: false, findings }
}

fn ipvs(configuration: &Configuration, modules: &Modules) -> ModeAnswer {
    let scheduler = match &*configuration.ipvs.scheduler {
        "" => "rr",
        scheduler => scheduler,
    };
    let own = format!("ip_vs_{scheduler}");
    match route(Mode::Ipvs, configuration) {
        Ok(()) => ModeAnswer { mode: "ipvs", works: true, findings: ipvs_facts() },
        Err(error) => {
            // What nftables is made of, the kernel loads by itself when it is asked for.
            let names: Vec<&str> = IPVS.into_iter().chain([&*own]).collect();
            ModeAnswer { mode: "ipvs", works: false, findings: missing(&error, &names, modules) }
        }
    }
}

/// What is worth knowing of an IPVS that works.
fn ipvs_facts() -> Vec<Finding> {
    let mut findings = Vec::new();
    match schedulers() {
        Ok((has, lacks)) => {
            findings.push(Finding::note(format!("schedulers: {}", has.join(" "))));
            if !lacks.is_empty() {
                let modules: Vec<_> = lacks.iter().map(|name| format!("ip_vs_{name}")).collect();
                findings.push(Finding::note(format!("this kernel lacks modules {}", modules.join(" "))));
            }
        }
        Err(error) => findings.push(Finding::note(format!("schedulers: {error}"))),
    }
    if let Ok(bits) = fs::read_to_string("/sys/module/ip_vs/parameters/conn_tab_bits") {
        let what = format!("connections are kept in 2^{} buckets (ip_vs.conn_tab_bits)", bits.trim());
        findings.push(Finding::note(what));
    }
    findings
}

/// The schedulers that the kernel has, and those that it has not.
fn schedulers() -> Result<(Vec<&'static str>, Vec<&'static str>), String> {
    let namespace = Namespace::new().map_err(|e| crate::output::chain(&e))?;
    let attempt = || -> Result<_, netlink::Error> {
        let mut ipvs = Ipvs::open()?;
        let key = ServiceKey::Address { protocol: Protocol::Tcp.number(), address: TRIED, port: 1 };
        let mut has = |name: &&str| {
            let mut requests = ipvs.requests();
            requests.add_service(&Server::new(key, name));
            requests.delete_service(&key);
            ipvs.send(&format!("try scheduler {name}"), &mut requests).is_ok()
        };
        Ok(SCHEDULERS.into_iter().partition(|name| has(name)))
    };
    let tried = namespace.run(attempt).map_err(|e| crate::output::chain(&e))?;
    tried.map_err(|error| error.to_string())
}

/// Routes a Service of every kind in a namespace of its own.
fn route(mode: Mode, configuration: &Configuration) -> Result<(), String> {
    let namespace = Namespace::new().map_err(|e| crate::output::chain(&e))?;
    let options = node::plane_options(configuration, &Default::default());
    let settings = config::settings(configuration, node::configured(mode), "doctor".into(), vec![TRIED]);
    let rules = plan::rules(&patient(), &settings);
    let attempt = || {
        // Without any local address IPVS takes all others for broadcasts.
        let mut route = Socket::<Route>::open()?;
        let lo = route.link("lo")?.index;
        route.change_link(lo, LinkChange::Up)?;
        let mut plane = Plane::open(mode, &options)?;
        plane.reconcile(&rules.node, rules.services.values().map(|service| &**service))
    };
    let tried: Result<Report, dataplane::Error> =
        namespace.run(attempt).map_err(|e| crate::output::chain(&e))?;
    match tried.map_err(|e| crate::output::chain(&e))?.failures.into_iter().next() {
        Some((_, refused)) => Err(refused),
        None => Ok(()),
    }
}

/// Why a mode does not work, and what to do about it.
fn missing(error: &str, names: &[&str], modules: &Modules) -> Vec<Finding> {
    let release = &modules.release;
    let mut findings = vec![Finding { severity: Severity::Error, what: error.to_owned(), mend: None }];
    for name in names {
        findings.extend(match modules.place(name) {
            Place::Here | Place::Unknown => None,
            Place::OnDisk => Some(Finding::new(
                Severity::Error,
                format!("module {name} is on disk and not loaded"),
                format!("modprobe {name}"),
            )),
            Place::Nowhere => Some(Finding::new(
                Severity::Error,
                format!("Linux {release} has no module {name}"),
                "install a kernel that has it: linux-image-amd64 on Debian, linux-modules-extra on Ubuntu",
            )),
        });
    }
    if names.iter().any(|name| modules.place(name) == Place::Unknown) {
        findings.push(Finding::new(
            Severity::Note,
            format!("/lib/modules/{release} is not to be seen, so which modules there are cannot be told"),
            "in a container: mount the node's /lib/modules; else boot a kernel with them (linux-image-amd64 on Debian)",
        ));
    }
    findings
}

/// A cluster in which every kind of table entry comes about.
fn patient() -> Cluster {
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: Some(node_port),
    };
    let service = |name: &str, last: u8, affinity_seconds, external_policy| Service {
        cluster_ips: Box::new([IpAddr::from([198, 51, 100, last])]),
        load_balancer_ips: Box::new([IpAddr::from([203, 0, 113, last])]),
        source_ranges: Prefix::new(IpAddr::from([192, 0, 2, 0]), 24).into_iter().collect(),
        ports: Box::new([
            port("t", Protocol::Tcp, 80, 30000 + u16::from(last)),
            port("u", Protocol::Udp, 53, 31000 + u16::from(last)),
        ]),
        affinity_seconds,
        external_policy,
        ..Service::new(ObjectName::new("doctor", name), ServiceKind::LoadBalancer)
    };
    let slice = |name: &str| Slice {
        name: ObjectName::new("doctor", format!("{name}-1")),
        service: name.into(),
        family: Family::V4,
        ports: Box::new([
            SlicePort { name: "t".into(), protocol: Protocol::Tcp, port: 8080 },
            SlicePort { name: "u".into(), protocol: Protocol::Udp, port: 5353 },
        ]),
        endpoints: [1, 2]
            .map(|last| Endpoint {
                address: IpAddr::from([192, 0, 2, last]),
                conditions: Conditions::READY,
                place: Default::default(),
                identity: None,
            })
            .into(),
        annotations: Default::default(),
    };
    let mut cluster = Cluster::new();
    for object in [
        Object::Service(service("plain", 10, None, Policy::Cluster)),
        Object::Slice(slice("plain")),
        Object::Service(service("sticky", 11, Some(60), Policy::Local)),
        Object::Slice(slice("sticky")),
        Object::Service(service("empty", 12, None, Policy::Cluster)),
    ] {
        cluster.apply(Change::Apply(object));
    }
    cluster
}
