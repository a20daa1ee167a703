//! What is taken where nothing is given: kube-proxy's defaults (`SetDefaults_KubeProxyConfiguration`).

use crate::duration::GoDuration;
use crate::v1alpha1::KubeProxyConfiguration;
use model::parse_ip;
use std::net::IpAddr;

/// Where the health check is served.
pub(crate) const HEALTHZ_PORT: u16 = 10256;

/// Where metrics are served.
pub(crate) const METRICS_PORT: u16 = 10249;

/// The bit of the packet mark that asks for masquerade.
pub(crate) const MASQUERADE_BIT: i32 = 14;

/// How often everything is compared.
pub(crate) const SYNC_PERIOD: GoDuration = GoDuration::from_seconds(30);

/// How often at most a plane is rewritten.
pub(crate) const MIN_SYNC_PERIOD: GoDuration = GoDuration::from_seconds(1);

const CONFIG_SYNC_PERIOD: GoDuration = GoDuration::from_seconds(15 * 60);
const FLUSH_FREQUENCY: GoDuration = GoDuration::from_seconds(5);
const TCP_ESTABLISHED_TIMEOUT: GoDuration = GoDuration::from_seconds(24 * 3600);
const TCP_CLOSE_WAIT_TIMEOUT: GoDuration = GoDuration::from_seconds(3600);
const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
const CONNTRACK_MAX_PER_CORE: i32 = 32 * 1024;
const CONNTRACK_MIN: i32 = 128 * 1024;
const OOM_SCORE_ADJ: i32 = -999;

impl KubeProxyConfiguration {
    /// The same with every field given.
    pub fn with_defaults(mut self) -> KubeProxyConfiguration {
        text(&mut self.bind_address, "0.0.0.0");
        let is_v4 = parse_ip(&self.bind_address).is_ok_and(|ip| ip.is_ipv4());
        let (healthz, metrics) = if is_v4 { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
        address(&mut self.healthz_bind_address, healthz, HEALTHZ_PORT);
        address(&mut self.metrics_bind_address, metrics, METRICS_PORT);
        self.oom_score_adj.get_or_insert(OOM_SCORE_ADJ);
        self.iptables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        self.iptables.localhost_node_ports.get_or_insert(true);
        time(&mut self.iptables.sync_period, SYNC_PERIOD);
        time(&mut self.iptables.min_sync_period, MIN_SYNC_PERIOD);
        // IPVS alone has no least period.
        time(&mut self.ipvs.sync_period, SYNC_PERIOD);
        self.nftables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        time(&mut self.nftables.sync_period, SYNC_PERIOD);
        time(&mut self.nftables.min_sync_period, MIN_SYNC_PERIOD);
        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(CONNTRACK_MAX_PER_CORE);
        conntrack.min.get_or_insert(CONNTRACK_MIN);
        conntrack.tcp_established_timeout.get_or_insert(TCP_ESTABLISHED_TIMEOUT);
        conntrack.tcp_close_wait_timeout.get_or_insert(TCP_CLOSE_WAIT_TIMEOUT);
        time(&mut self.config_sync_period, CONFIG_SYNC_PERIOD);
        text(&mut self.client_connection.content_type, CONTENT_TYPE);
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        text(&mut self.logging.format, "text");
        time(&mut self.logging.flush_frequency.0, FLUSH_FREQUENCY);
        self
    }
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn time(field: &mut GoDuration, default: GoDuration) {
    if *field == GoDuration::ZERO {
        *field = default;
    }
}

/// An address without a port gets one. What is neither is left for the checks to name.
fn address(field: &mut String, default: &str, port: u16) {
    text(field, default);
    match parse_ip(field) {
        Ok(IpAddr::V4(_)) => *field = format!("{field}:{port}"),
        Ok(IpAddr::V6(_)) => *field = format!("[{field}]:{port}"),
        Err(_) => {}
    }
}
