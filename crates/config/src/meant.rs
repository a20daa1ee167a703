//! What a configuration means: nothing in it is open or wrong any more.

use crate::check::{Invalid, split_host_port};
use crate::defaults::{HEALTHZ_PORT, MASQUERADE_BIT, METRICS_PORT, MIN_SYNC_PERIOD, SYNC_PERIOD};
use crate::duration::GoDuration;
use crate::v1alpha1::KubeProxyConfiguration;
use model::{Prefix, parse_ip};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The most connections that are asked for (kube-proxy's limit since 1.36).
const CONNTRACK_MAX: u32 = 1_048_576;

/// The configuration of the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Feature gates. None changes anything here; they are handed on as they came.
    pub feature_gates: BTreeMap<String, bool>,
    /// How to reach the API server.
    pub client: Client,
    /// What to log.
    pub logging: Logging,
    /// The node's name, where it is not the host's.
    pub hostname_override: Option<String>,
    /// What the node's own address is taken to be; unspecified: what the cluster says.
    pub bind_address: IpAddr,
    /// Where the health check is served.
    pub healthz_address: SocketAddr,
    /// Where metrics are served.
    pub metrics_address: SocketAddr,
    /// End when one of these addresses cannot be had.
    pub bind_address_hard_fail: bool,
    /// Serve profiles.
    pub enable_profiling: bool,
    /// The version whose hidden metrics are wanted.
    pub show_hidden_metrics_for_version: Option<String>,
    /// Which plane.
    pub mode: Mode,
    /// The iptables plane.
    pub iptables: IpTables,
    /// The IPVS plane.
    pub ipvs: Ipvs,
    /// The nftables plane.
    pub nftables: NfTables,
    /// How traffic of the node's own pods is told from other traffic.
    pub detect_local: DetectLocal,
    /// At which of the node's addresses NodePorts are served.
    pub node_port_addresses: NodePortAddresses,
    /// The process's `oom_score_adj`.
    pub oom_score_adj: i32,
    /// The connection tracker.
    pub conntrack: Conntrack,
    /// How often everything is read from the API server again.
    pub config_sync_period: Duration,
}

/// How to reach the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The kubeconfig; none: as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// What to accept, where it is not the default.
    pub accept_content_types: Option<String>,
    /// In what to talk.
    pub content_type: String,
    /// Requests a second.
    pub qps: f32,
    /// Requests at once.
    pub burst: u32,
}

/// What to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// As JSON, not as text.
    pub json: bool,
    /// How much.
    pub verbosity: u32,
    /// How much of single files.
    pub vmodule: Vec<(String, u32)>,
    /// How often it is flushed.
    pub flush_frequency: Duration,
}

/// Which plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The best that works.
    #[default]
    Auto,
    /// `iptables`.
    IpTables,
    /// `ipvs`.
    Ipvs,
    /// `nftables`.
    NfTables,
    /// `ebpf`, which kube-proxy does not have.
    Ebpf,
}

impl Mode {
    /// Its name, as in the file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::IpTables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::NfTables => "nftables",
            Mode::Ebpf => "ebpf",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text names no mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAMode(String);

impl fmt::Display for NotAMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not auto, iptables, ipvs, nftables or ebpf", self.0)
    }
}

impl std::error::Error for NotAMode {}

impl FromStr for Mode {
    type Err = NotAMode;

    fn from_str(text: &str) -> Result<Self, NotAMode> {
        Ok(match text {
            "" | "auto" => Mode::Auto,
            "iptables" => Mode::IpTables,
            "ipvs" => Mode::Ipvs,
            "nftables" => Mode::NfTables,
            "ebpf" => Mode::Ebpf,
            other => return Err(NotAMode(other.to_owned())),
        })
    }
}

/// How often a plane is compared with what it should be, and how often it is rewritten at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// At least this often.
    pub sync: Duration,
    /// At most this often.
    pub min_sync: Duration,
}

/// The iptables plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpTables {
    /// The bit of the packet mark that asks for masquerade, 0 to 31. IPVS uses it, too.
    pub masquerade_bit: u8,
    /// Masquerade everything that goes to a ClusterIP.
    pub masquerade_all: bool,
    /// Serve NodePorts on 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Its periods.
    pub periods: Periods,
}

/// The IPVS plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipvs {
    /// The scheduler.
    pub scheduler: String,
    /// Networks whose virtual servers are not ours.
    pub exclude_cidrs: Vec<Prefix>,
    /// Answer ARP only for addresses of the interface asked on.
    pub strict_arp: bool,
    /// The time-out of TCP connections, where it is to be changed.
    pub tcp_timeout: Option<Duration>,
    /// The time-out after a FIN, where it is to be changed.
    pub tcp_fin_timeout: Option<Duration>,
    /// The time-out of UDP, where it is to be changed.
    pub udp_timeout: Option<Duration>,
    /// Its periods.
    pub periods: Periods,
}

/// The nftables plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NfTables {
    /// The bit of the packet mark that asks for masquerade, 0 to 31.
    pub masquerade_bit: u8,
    /// Masquerade everything that goes to a ClusterIP.
    pub masquerade_all: bool,
    /// Its periods.
    pub periods: Periods,
}

/// How traffic of the node's own pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By these networks, one a family at most; without any, it is not told.
    ClusterCidr(Vec<Prefix>),
    /// By the node's own `podCIDRs`.
    NodeCidr,
    /// By the bridge it comes from.
    BridgeInterface(String),
    /// By the beginning of the name of the interface it comes from.
    InterfaceNamePrefix(String),
}

/// At which of the node's addresses NodePorts are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Not said: all in iptables and IPVS, the primary ones in nftables.
    #[default]
    Default,
    /// The primary ones.
    Primary,
    /// Those in these networks.
    Cidrs(Vec<Prefix>),
}

/// The connection tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections for each CPU; 0: leave the limit alone.
    pub max_per_core: u32,
    /// Connections at least.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`, where it is to be changed.
    pub tcp_established_timeout: Option<Duration>,
    /// `nf_conntrack_tcp_timeout_close_wait`, where it is to be changed.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// `nf_conntrack_tcp_be_liberal`.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`, where it is to be changed.
    pub udp_timeout: Option<Duration>,
    /// `nf_conntrack_udp_timeout_stream`, where it is to be changed.
    pub udp_stream_timeout: Option<Duration>,
}

impl Conntrack {
    /// What `nf_conntrack_max` is to be on a node with so many CPUs; none: leave it alone.
    pub fn max(&self, cpus: u32) -> Option<u32> {
        let scaled = self.max_per_core.saturating_mul(cpus);
        (self.max_per_core > 0).then(|| scaled.max(self.min).min(CONNTRACK_MAX))
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration::from(&KubeProxyConfiguration::default().with_defaults())
    }
}

impl Configuration {
    /// What a file means, or all that is wrong with it.
    pub fn new(typed: &KubeProxyConfiguration) -> Result<Configuration, Vec<Invalid>> {
        let typed = typed.clone().with_defaults();
        let invalid = typed.check();
        if invalid.is_empty() { Ok(Configuration::from(&typed)) } else { Err(invalid) }
    }

    /// The periods of a mode.
    pub fn periods(&self, mode: Mode) -> Periods {
        match mode {
            Mode::Auto | Mode::IpTables => self.iptables.periods,
            Mode::Ipvs => self.ipvs.periods,
            Mode::NfTables | Mode::Ebpf => self.nftables.periods,
        }
    }

    /// From a file that has been filled in and checked. What was not checked, because its mode is
    /// not used, and makes no sense gives way to the default.
    fn from(typed: &KubeProxyConfiguration) -> Configuration {
        let KubeProxyConfiguration { iptables, ipvs, nftables, conntrack, .. } = typed;
        Configuration {
            feature_gates: typed.feature_gates.clone(),
            client: client(typed),
            logging: logging(typed),
            hostname_override: said(&typed.hostname_override),
            bind_address: parse_ip(&typed.bind_address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            healthz_address: socket(&typed.healthz_bind_address, HEALTHZ_PORT),
            metrics_address: socket(&typed.metrics_bind_address, METRICS_PORT),
            bind_address_hard_fail: typed.bind_address_hard_fail,
            enable_profiling: typed.enable_profiling,
            show_hidden_metrics_for_version: said(&typed.show_hidden_metrics_for_version),
            mode: typed.mode.parse().unwrap_or_default(),
            iptables: IpTables {
                masquerade_bit: bit(iptables.masquerade_bit),
                masquerade_all: iptables.masquerade_all,
                localhost_node_ports: iptables.localhost_node_ports.unwrap_or(true),
                periods: periods(iptables.sync_period, iptables.min_sync_period, MIN_SYNC_PERIOD),
            },
            ipvs: Ipvs {
                scheduler: said(&ipvs.scheduler).unwrap_or_else(|| "rr".into()),
                exclude_cidrs: prefixes(ipvs.exclude_cidrs.iter().map(String::as_str)),
                strict_arp: ipvs.strict_arp,
                tcp_timeout: ipvs.tcp_timeout.positive(),
                tcp_fin_timeout: ipvs.tcp_fin_timeout.positive(),
                udp_timeout: ipvs.udp_timeout.positive(),
                periods: periods(ipvs.sync_period, ipvs.min_sync_period, GoDuration::ZERO),
            },
            nftables: NfTables {
                masquerade_bit: bit(nftables.masquerade_bit),
                masquerade_all: nftables.masquerade_all,
                periods: periods(nftables.sync_period, nftables.min_sync_period, MIN_SYNC_PERIOD),
            },
            detect_local: detect_local(typed),
            node_port_addresses: node_port_addresses(&typed.node_port_addresses),
            oom_score_adj: typed.oom_score_adj.unwrap_or_default(),
            conntrack: Conntrack {
                max_per_core: unsigned(conntrack.max_per_core),
                min: unsigned(conntrack.min),
                tcp_established_timeout: conntrack.tcp_established_timeout.and_then(GoDuration::positive),
                tcp_close_wait_timeout: conntrack.tcp_close_wait_timeout.and_then(GoDuration::positive),
                tcp_be_liberal: conntrack.tcp_be_liberal,
                udp_timeout: conntrack.udp_timeout.positive(),
                udp_stream_timeout: conntrack.udp_stream_timeout.positive(),
            },
            config_sync_period: typed.config_sync_period.time(),
        }
    }
}

fn client(typed: &KubeProxyConfiguration) -> Client {
    let client = &typed.client_connection;
    Client {
        kubeconfig: said(&client.kubeconfig).map(PathBuf::from),
        accept_content_types: said(&client.accept_content_types),
        content_type: client.content_type.clone(),
        qps: client.qps,
        burst: unsigned(Some(client.burst)),
    }
}

fn logging(typed: &KubeProxyConfiguration) -> Logging {
    let logging = &typed.logging;
    Logging {
        json: logging.format == "json",
        verbosity: logging.verbosity,
        vmodule: logging.vmodule.iter().map(|item| (item.file_pattern.clone(), item.verbosity)).collect(),
        flush_frequency: logging.flush_frequency.0.time(),
    }
}

fn detect_local(typed: &KubeProxyConfiguration) -> DetectLocal {
    let section = &typed.detect_local;
    match typed.detect_local_mode.as_str() {
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::BridgeInterface(section.bridge_interface.clone()),
        "InterfaceNamePrefix" => DetectLocal::InterfaceNamePrefix(section.interface_name_prefix.clone()),
        _ => DetectLocal::ClusterCidr(prefixes(typed.cluster_cidr.split(',').map(str::trim))),
    }
}

fn node_port_addresses(addresses: &[String]) -> NodePortAddresses {
    match addresses {
        [] => NodePortAddresses::Default,
        [address] if address == "primary" => NodePortAddresses::Primary,
        addresses => NodePortAddresses::Cidrs(prefixes(addresses.iter().map(String::as_str))),
    }
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn prefixes<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<Prefix> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn unsigned(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

fn bit(number: Option<i32>) -> u8 {
    let number = number.filter(|number| (0..=31).contains(number)).unwrap_or(MASQUERADE_BIT);
    u8::try_from(number).unwrap_or_default()
}

fn periods(sync: GoDuration, min: GoDuration, min_default: GoDuration) -> Periods {
    let sync = sync.positive().unwrap_or_else(|| SYNC_PERIOD.time());
    let min = if min < GoDuration::ZERO { min_default } else { min };
    Periods { sync, min_sync: min.time() }
}

/// An address that has been checked.
fn socket(text: &str, port: u16) -> SocketAddr {
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let parts = split_host_port(text);
    let host = parts.and_then(|(host, _)| parse_ip(host).ok()).unwrap_or(unspecified);
    SocketAddr::new(host, parts.and_then(|(_, port)| port.parse().ok()).unwrap_or(port))
}
