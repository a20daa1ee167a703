//! KubeProxyConfiguration v1alpha1 as typed: every field with its own name, and no opinion.
//!
//! What an absent field means is in `defaults`, what a field may not be in `check`.

use crate::decode::{Field, Findings, fields};
use crate::duration::GoDuration;
use crate::quantity::Quantity;
use crate::tree::{FieldPath, Tree};
use crate::yaml;
use serde_json::Value;
use std::collections::BTreeMap;

/// The version of the document.
pub(crate) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";

/// Its kind.
pub(crate) const KIND: &str = "KubeProxyConfiguration";

/// The document. `Default` is a document without any field. An empty string, a zero duration and
/// `None` all stand for "not given".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubeProxyConfiguration {
    /// `featureGates`.
    pub feature_gates: BTreeMap<String, bool>,
    /// `clientConnection`.
    pub client_connection: ClientConnection,
    /// `logging`.
    pub logging: LoggingSection,
    /// `hostnameOverride`.
    pub hostname_override: String,
    /// `bindAddress`.
    pub bind_address: String,
    /// `healthzBindAddress`.
    pub healthz_bind_address: String,
    /// `metricsBindAddress`.
    pub metrics_bind_address: String,
    /// `bindAddressHardFail`.
    pub bind_address_hard_fail: bool,
    /// `enableProfiling`.
    pub enable_profiling: bool,
    /// `showHiddenMetricsForVersion`.
    pub show_hidden_metrics_for_version: String,
    /// `mode`.
    pub mode: String,
    /// `iptables`.
    pub iptables: IpTablesSection,
    /// `ipvs`.
    pub ipvs: IpvsSection,
    /// `nftables`.
    pub nftables: NfTablesSection,
    /// `winkernel`.
    pub winkernel: WinkernelSection,
    /// `detectLocalMode`.
    pub detect_local_mode: String,
    /// `detectLocal`.
    pub detect_local: DetectLocalSection,
    /// `clusterCIDR`.
    pub cluster_cidr: String,
    /// `nodePortAddresses`.
    pub node_port_addresses: Vec<String>,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// `conntrack`.
    pub conntrack: ConntrackSection,
    /// `configSyncPeriod`.
    pub config_sync_period: GoDuration,
    /// `portRange`.
    pub port_range: String,
    /// `windowsRunAsService`.
    pub windows_run_as_service: bool,
}

fields!(KubeProxyConfiguration {
    feature_gates: "featureGates",
    client_connection: "clientConnection",
    logging: "logging",
    hostname_override: "hostnameOverride",
    bind_address: "bindAddress",
    healthz_bind_address: "healthzBindAddress",
    metrics_bind_address: "metricsBindAddress",
    bind_address_hard_fail: "bindAddressHardFail",
    enable_profiling: "enableProfiling",
    show_hidden_metrics_for_version: "showHiddenMetricsForVersion",
    mode: "mode",
    iptables: "iptables",
    ipvs: "ipvs",
    nftables: "nftables",
    winkernel: "winkernel",
    detect_local_mode: "detectLocalMode",
    detect_local: "detectLocal",
    cluster_cidr: "clusterCIDR",
    node_port_addresses: "nodePortAddresses",
    oom_score_adj: "oomScoreAdj",
    conntrack: "conntrack",
    config_sync_period: "configSyncPeriod",
    port_range: "portRange",
    windows_run_as_service: "windowsRunAsService",
});

impl KubeProxyConfiguration {
    /// The document as JSON, with every field.
    pub fn to_json(&self) -> Value {
        let mut fields = match self.write() {
            Some(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        fields.insert("apiVersion".into(), API_VERSION.into());
        fields.insert("kind".into(), KIND.into());
        Value::Object(fields)
    }

    /// The document as YAML, with every field.
    pub fn to_yaml(&self) -> String {
        yaml::write(&self.to_json())
    }
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientConnection {
    /// `kubeconfig`.
    pub kubeconfig: String,
    /// `acceptContentTypes`.
    pub accept_content_types: String,
    /// `contentType`.
    pub content_type: String,
    /// `qps`.
    pub qps: f32,
    /// `burst`.
    pub burst: i32,
}

fields!(ClientConnection {
    kubeconfig: "kubeconfig",
    accept_content_types: "acceptContentTypes",
    content_type: "contentType",
    qps: "qps",
    burst: "burst",
});

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoggingSection {
    /// `format`.
    pub format: String,
    /// `flushFrequency`.
    pub flush_frequency: TimeOrDuration,
    /// `verbosity`.
    pub verbosity: u32,
    /// `vmodule`.
    pub vmodule: Vec<VmoduleItem>,
    /// `options`.
    pub options: FormatOptions,
}

fields!(LoggingSection {
    format: "format",
    flush_frequency: "flushFrequency",
    verbosity: "verbosity",
    vmodule: "vmodule",
    options: "options",
});

/// A duration that may also be written as a number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeOrDuration(pub GoDuration);

impl Field for TimeOrDuration {
    fn read(&mut self, tree: &Tree, at: &FieldPath, findings: &mut Findings) {
        match tree {
            Tree::Integer(nanoseconds) => self.0 = GoDuration::from_nanoseconds(*nanoseconds),
            other => self.0.read(other, at, findings),
        }
    }

    fn write(&self) -> Option<Value> {
        self.0.write()
    }
}

/// An item of `logging.vmodule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmoduleItem {
    /// `filePattern`.
    pub file_pattern: String,
    /// `verbosity`.
    pub verbosity: u32,
}

fields!(VmoduleItem { file_pattern: "filePattern", verbosity: "verbosity" });

/// `logging.options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// `text`.
    pub text: OutputOptions,
    /// `json`.
    pub json: OutputOptions,
}

fields!(FormatOptions { text: "text", json: "json" });

/// `logging.options.text` and `.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// `splitStream`.
    pub split_stream: bool,
    /// `infoBufferSize`.
    pub info_buffer_size: Quantity,
}

fields!(OutputOptions { split_stream: "splitStream", info_buffer_size: "infoBufferSize" });

/// `iptables`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpTablesSection {
    /// `masqueradeBit`.
    pub masquerade_bit: Option<i32>,
    /// `masqueradeAll`.
    pub masquerade_all: bool,
    /// `localhostNodePorts`.
    pub localhost_node_ports: Option<bool>,
    /// `syncPeriod`.
    pub sync_period: GoDuration,
    /// `minSyncPeriod`.
    pub min_sync_period: GoDuration,
}

fields!(IpTablesSection {
    masquerade_bit: "masqueradeBit",
    masquerade_all: "masqueradeAll",
    localhost_node_ports: "localhostNodePorts",
    sync_period: "syncPeriod",
    min_sync_period: "minSyncPeriod",
});

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpvsSection {
    /// `syncPeriod`.
    pub sync_period: GoDuration,
    /// `minSyncPeriod`.
    pub min_sync_period: GoDuration,
    /// `scheduler`.
    pub scheduler: String,
    /// `excludeCIDRs`.
    pub exclude_cidrs: Vec<String>,
    /// `strictARP`.
    pub strict_arp: bool,
    /// `tcpTimeout`.
    pub tcp_timeout: GoDuration,
    /// `tcpFinTimeout`.
    pub tcp_fin_timeout: GoDuration,
    /// `udpTimeout`.
    pub udp_timeout: GoDuration,
}

fields!(IpvsSection {
    sync_period: "syncPeriod",
    min_sync_period: "minSyncPeriod",
    scheduler: "scheduler",
    exclude_cidrs: "excludeCIDRs",
    strict_arp: "strictARP",
    tcp_timeout: "tcpTimeout",
    tcp_fin_timeout: "tcpFinTimeout",
    udp_timeout: "udpTimeout",
});

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NfTablesSection {
    /// `masqueradeBit`.
    pub masquerade_bit: Option<i32>,
    /// `masqueradeAll`.
    pub masquerade_all: bool,
    /// `syncPeriod`.
    pub sync_period: GoDuration,
    /// `minSyncPeriod`.
    pub min_sync_period: GoDuration,
}

fields!(NfTablesSection {
    masquerade_bit: "masqueradeBit",
    masquerade_all: "masqueradeAll",
    sync_period: "syncPeriod",
    min_sync_period: "minSyncPeriod",
});

/// `winkernel`. It is for Windows, and here only so that such a file can be read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WinkernelSection {
    /// `networkName`.
    pub network_name: String,
    /// `sourceVip`.
    pub source_vip: String,
    /// `enableDSR`.
    pub enable_dsr: bool,
    /// `rootHnsEndpointName`.
    pub root_hns_endpoint_name: String,
    /// `forwardHealthCheckVip`.
    pub forward_health_check_vip: bool,
}

fields!(WinkernelSection {
    network_name: "networkName",
    source_vip: "sourceVip",
    enable_dsr: "enableDSR",
    root_hns_endpoint_name: "rootHnsEndpointName",
    forward_health_check_vip: "forwardHealthCheckVip",
});

/// `detectLocal`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetectLocalSection {
    /// `bridgeInterface`.
    pub bridge_interface: String,
    /// `interfaceNamePrefix`.
    pub interface_name_prefix: String,
}

fields!(DetectLocalSection {
    bridge_interface: "bridgeInterface",
    interface_name_prefix: "interfaceNamePrefix",
});

/// `conntrack`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackSection {
    /// `maxPerCore`.
    pub max_per_core: Option<i32>,
    /// `min`.
    pub min: Option<i32>,
    /// `tcpEstablishedTimeout`.
    pub tcp_established_timeout: Option<GoDuration>,
    /// `tcpCloseWaitTimeout`.
    pub tcp_close_wait_timeout: Option<GoDuration>,
    /// `tcpBeLiberal`.
    pub tcp_be_liberal: bool,
    /// `udpTimeout`.
    pub udp_timeout: GoDuration,
    /// `udpStreamTimeout`.
    pub udp_stream_timeout: GoDuration,
}

fields!(ConntrackSection {
    max_per_core: "maxPerCore",
    min: "min",
    tcp_established_timeout: "tcpEstablishedTimeout",
    tcp_close_wait_timeout: "tcpCloseWaitTimeout",
    tcp_be_liberal: "tcpBeLiberal",
    udp_timeout: "udpTimeout",
    udp_stream_timeout: "udpStreamTimeout",
});
