//! What a configuration may not say: kube-proxy's rules (`pkg/proxy/apis/config/validation`), with
//! messages that name the field as it is written in the file.
//!
//! As there, the sections of modes that are not used are not looked at. Where the mode is left open
//! any of them may be used, so all are.

use crate::duration::GoDuration;
use crate::meant::Mode;
use crate::tree::FieldPath;
use crate::v1alpha1::{ConntrackSection, IpvsSection, KIND, KubeProxyConfiguration, LoggingSection};
use model::{Prefix, parse_ip};
use std::fmt;

/// A field that says what it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as `KubeProxyConfiguration.ipvs.syncPeriod`.
    pub field: String,
    /// What it says.
    pub value: String,
    /// What is wrong with that.
    pub what: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invalid { field, value, what } = self;
        write!(f, "{field}: Invalid value: {value}: {what}")
    }
}

impl std::error::Error for Invalid {}

/// Collects what is wrong.
struct Checks {
    root: FieldPath,
    invalid: Vec<Invalid>,
}

impl Checks {
    fn refuse(&mut self, at: &FieldPath, value: impl fmt::Display, what: impl Into<String>) {
        self.invalid.push(Invalid { field: at.to_string(), value: value.to_string(), what: what.into() });
    }

    fn refuse_text(&mut self, at: &FieldPath, value: &str, what: impl Into<String>) {
        self.refuse(at, format_args!("{value:?}"), what);
    }

    fn not_negative(&mut self, at: &FieldPath, duration: GoDuration) {
        if duration < GoDuration::ZERO {
            self.refuse_text(at, &duration.to_string(), "must be greater than or equal to 0");
        }
    }

    fn number_not_negative(&mut self, at: &FieldPath, number: i32) {
        if number < 0 {
            self.refuse(at, number, "must be greater than or equal to 0");
        }
    }

    fn positive(&mut self, at: &FieldPath, duration: GoDuration) {
        if duration <= GoDuration::ZERO {
            self.refuse_text(at, &duration.to_string(), "must be greater than 0");
        }
    }

    fn masquerade_bit(&mut self, section: &FieldPath, bit: Option<i32>) {
        if let Some(bit) = bit.filter(|bit| !(0..=31).contains(bit)) {
            self.refuse(&section.field("masqueradeBit"), bit, "must be within the range [0, 31]");
        }
    }

    fn periods(&mut self, section: &FieldPath, sync: GoDuration, min: GoDuration) {
        let (sync_at, min_at) = (section.field("syncPeriod"), section.field("minSyncPeriod"));
        self.positive(&sync_at, sync);
        self.not_negative(&min_at, min);
        if min > sync {
            let what = format!("must be greater than or equal to {min_at}");
            self.refuse_text(&sync_at, &sync.to_string(), what);
        }
    }

    fn ipvs(&mut self, section: &IpvsSection) {
        let at = self.root.field("ipvs");
        self.periods(&at, section.sync_period, section.min_sync_period);
        self.not_negative(&at.field("tcpTimeout"), section.tcp_timeout);
        self.not_negative(&at.field("tcpFinTimeout"), section.tcp_fin_timeout);
        self.not_negative(&at.field("udpTimeout"), section.udp_timeout);
        for (index, cidr) in section.exclude_cidrs.iter().enumerate() {
            self.cidr(&at.field("excludeCIDRs").item(index), cidr);
        }
    }

    fn cidr(&mut self, at: &FieldPath, text: &str) -> Option<Prefix> {
        let prefix = text.parse().ok();
        if prefix.is_none() {
            self.refuse_text(
                at,
                text,
                "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
            );
        }
        prefix
    }

    fn conntrack(&mut self, section: &ConntrackSection) {
        let at = self.root.field("conntrack");
        self.number_not_negative(&at.field("maxPerCore"), section.max_per_core.unwrap_or(0));
        self.number_not_negative(&at.field("min"), section.min.unwrap_or(0));
        let established = section.tcp_established_timeout.unwrap_or_default();
        self.not_negative(&at.field("tcpEstablishedTimeout"), established);
        let close_wait = section.tcp_close_wait_timeout.unwrap_or_default();
        self.not_negative(&at.field("tcpCloseWaitTimeout"), close_wait);
        self.not_negative(&at.field("udpTimeout"), section.udp_timeout);
        self.not_negative(&at.field("udpStreamTimeout"), section.udp_stream_timeout);
    }

    fn host_port(&mut self, at: &FieldPath, text: &str) {
        let Some((host, port)) = split_host_port(text) else {
            return self.refuse_text(at, text, "must be IP:port");
        };
        if parse_ip(host).is_err() {
            self.refuse_text(at, host, "must be a valid IP");
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            self.refuse_text(at, port, "must be a valid port");
        }
    }

    fn cluster_cidr(&mut self, text: &str) {
        let at = self.root.field("clusterCIDR");
        let cidrs: Vec<&str> = text.split(',').map(str::trim).collect();
        let pair = "must be either a single CIDR or a dual-stack pair of CIDRs (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
        if cidrs.len() > 2 {
            return self.refuse_text(&at, text, pair);
        }
        let prefixes: Vec<Prefix> = cidrs.iter().filter_map(|cidr| self.cidr(&at, cidr)).collect();
        if let [first, second] = *prefixes
            && first.family() == second.family()
        {
            self.refuse_text(&at, text, pair);
        }
    }

    fn node_port_addresses(&mut self, addresses: &[String]) {
        let at = self.root.field("nodePortAddresses");
        for (index, address) in addresses.iter().enumerate() {
            let at = at.item(index);
            if address != "primary" {
                self.cidr(&at, address);
            } else if addresses.len() > 1 {
                self.refuse_text(&at, address, "can't use both 'primary' and CIDRs");
            }
        }
    }

    fn logging(&mut self, section: &LoggingSection) {
        let at = self.root.field("logging");
        if !["text", "json"].contains(&section.format.as_str()) {
            self.refuse_text(&at.field("format"), &section.format, "must be text or json");
        }
        let verbosity_max = i32::MAX.unsigned_abs();
        if section.verbosity > verbosity_max {
            let what = format!("must be less than or equal to {verbosity_max}");
            self.refuse(&at.field("verbosity"), section.verbosity, what);
        }
        if !section.vmodule.is_empty() && section.format != "text" {
            self.refuse(&at.field("vmodule"), "a list", "only supported for text log format");
        }
        for (index, item) in section.vmodule.iter().enumerate() {
            let at = at.field("vmodule").item(index).field("filePattern");
            if item.file_pattern.is_empty() {
                self.refuse_text(&at, "", "must not be empty");
            } else if item.file_pattern.contains(['=', ',']) {
                self.refuse_text(&at, &item.file_pattern, "must not contain equal sign or comma");
            }
        }
    }

    fn detect_local(&mut self, configuration: &KubeProxyConfiguration) {
        let at = self.root.field("detectLocal");
        let name = |checks: &mut Checks, field: &str, name: &str| {
            if name.is_empty() {
                checks.refuse_text(&at.field(field), name, "must not be empty");
            }
        };
        match configuration.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => {
                if !configuration.cluster_cidr.is_empty() {
                    self.cluster_cidr(&configuration.cluster_cidr);
                }
            }
            "NodeCIDR" => {}
            "BridgeInterface" => {
                name(self, "bridgeInterface", &configuration.detect_local.bridge_interface);
            }
            "InterfaceNamePrefix" => {
                name(self, "interfaceNamePrefix", &configuration.detect_local.interface_name_prefix);
            }
            other => {
                let what = "must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or blank";
                self.refuse_text(&self.root.field("detectLocalMode"), other, what);
            }
        }
    }

    /// The sections of the modes that may come to be used.
    fn modes(&mut self, configuration: &KubeProxyConfiguration) {
        let KubeProxyConfiguration { iptables, ipvs, nftables, .. } = configuration;
        let Ok(mode) = configuration.mode.parse::<Mode>() else {
            let what = "must be iptables, ipvs, nftables, ebpf or blank (blank means the best that works)";
            return self.refuse_text(&self.root.field("mode"), &configuration.mode, what);
        };
        let at = self.root.field("iptables");
        self.masquerade_bit(&at, iptables.masquerade_bit);
        if matches!(mode, Mode::Auto | Mode::IpTables) {
            self.periods(&at, iptables.sync_period, iptables.min_sync_period);
        }
        if matches!(mode, Mode::Auto | Mode::Ipvs) {
            self.ipvs(ipvs);
        }
        if matches!(mode, Mode::Auto | Mode::NfTables | Mode::Ebpf) {
            let at = self.root.field("nftables");
            self.masquerade_bit(&at, nftables.masquerade_bit);
            self.periods(&at, nftables.sync_period, nftables.min_sync_period);
        }
    }
}

impl KubeProxyConfiguration {
    /// What is wrong with it, once [`with_defaults`](Self::with_defaults) has filled it in.
    pub fn check(&self) -> Vec<Invalid> {
        let mut checks = Checks { root: FieldPath::root(KIND), invalid: vec![] };
        let root = checks.root.clone();
        checks.modes(self);
        checks.conntrack(&self.conntrack);
        if let Some(adj) = self.oom_score_adj.filter(|adj| !(-1000..=1000).contains(adj)) {
            checks.refuse(&root.field("oomScoreAdj"), adj, "must be within the range [-1000, 1000]");
        }
        let client = root.field("clientConnection");
        checks.number_not_negative(&client.field("burst"), self.client_connection.burst);
        checks.positive(&root.field("configSyncPeriod"), self.config_sync_period);
        if parse_ip(&self.bind_address).is_err() {
            let what = "not a valid textual representation of an IP address";
            checks.refuse_text(&root.field("bindAddress"), &self.bind_address, what);
        }
        checks.host_port(&root.field("healthzBindAddress"), &self.healthz_bind_address);
        checks.host_port(&root.field("metricsBindAddress"), &self.metrics_bind_address);
        if !is_port_range(&self.port_range) {
            let what = "must be a valid port range (e.g. 300-2000)";
            checks.refuse_text(&root.field("portRange"), &self.port_range, what);
        }
        checks.node_port_addresses(&self.node_port_addresses);
        if !is_minor_version(&self.show_hidden_metrics_for_version) {
            let what = "must be omitted or a version such as 1.35";
            let at = root.field("showHiddenMetricsForVersion");
            checks.refuse_text(&at, &self.show_hidden_metrics_for_version, what);
        }
        checks.detect_local(self);
        checks.logging(&self.logging);
        checks.invalid
    }
}

/// Splits `1.2.3.4:80` and `[::1]:80`.
pub(crate) fn split_host_port(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => text.split_once(':').filter(|(_, port)| !port.contains(':')),
    }
}

/// `300-2000`, `300+50`, `300`, or nothing. Nothing uses it any more.
fn is_port_range(text: &str) -> bool {
    let port = |text: &str| text.trim().parse::<u16>().ok();
    let text = text.trim();
    if text.is_empty() {
        true
    } else if let Some((low, high)) = text.split_once('-') {
        port(low).zip(port(high)).is_some_and(|(low, high)| low <= high)
    } else if let Some((low, more)) = text.split_once('+') {
        port(low).zip(port(more)).is_some()
    } else {
        port(text).is_some()
    }
}

fn is_minor_version(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
    text.is_empty() || text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
}
