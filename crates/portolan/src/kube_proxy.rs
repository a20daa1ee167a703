//! The program called `kube-proxy`: exactly that program's flags, with its rules of what wins.
//!
//! Flags fill in the configuration as typed, and from there on a file and flags are the same. With
//! `--config` all flags but those of logging and `--hostname-override` count for nothing, as they do
//! for kube-proxy; here at least it is said.

use crate::error::Error;
use crate::node::{self, Loaded};
use crate::start::{self, From, Start};
use crate::{cleanup, system};
use clap::{Arg, ArgAction, ArgMatches, Command};
use config::{Configuration, GoDuration, KubeProxyConfiguration, PortolanConfiguration};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use telemetry::{info, warn};

/// The name under which we are it.
pub(crate) const NAME: &str = "kube-proxy";

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Text,
    Whole,
    Fraction,
    Bool,
    Duration,
    /// Several, separated by commas, and the flag may come again.
    List,
}

/// What a flag is for, as far as `--config` asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Always.
    Always,
    /// Only without a configuration file.
    WithoutFile,
}

/// All of kube-proxy's flags, and nothing else.
const FLAGS: &[(&str, Takes, Counts)] = {
    use Counts::{Always, WithoutFile};
    use Takes::{Bool, Duration, Fraction, List, Text, Whole};
    &[
        ("config", Text, Always),
        ("write-config-to", Text, Always),
        ("cleanup", Bool, Always),
        ("init-only", Bool, Always),
        ("hostname-override", Text, Always),
        ("master", Text, Always),
        ("feature-gates", List, WithoutFile),
        ("kubeconfig", Text, WithoutFile),
        ("kube-api-content-type", Text, WithoutFile),
        ("kube-api-burst", Whole, WithoutFile),
        ("kube-api-qps", Fraction, WithoutFile),
        ("bind-address", Text, WithoutFile),
        ("healthz-bind-address", Text, WithoutFile),
        ("metrics-bind-address", Text, WithoutFile),
        ("bind-address-hard-fail", Bool, WithoutFile),
        ("profiling", Bool, WithoutFile),
        ("show-hidden-metrics-for-version", Text, WithoutFile),
        ("healthz-port", Whole, WithoutFile),
        ("metrics-port", Whole, WithoutFile),
        ("proxy-mode", Text, WithoutFile),
        ("iptables-masquerade-bit", Whole, WithoutFile),
        ("masquerade-all", Bool, WithoutFile),
        ("iptables-localhost-nodeports", Bool, WithoutFile),
        ("iptables-sync-period", Duration, WithoutFile),
        ("iptables-min-sync-period", Duration, WithoutFile),
        ("ipvs-sync-period", Duration, WithoutFile),
        ("ipvs-min-sync-period", Duration, WithoutFile),
        ("ipvs-scheduler", Text, WithoutFile),
        ("ipvs-exclude-cidrs", List, WithoutFile),
        ("ipvs-strict-arp", Bool, WithoutFile),
        ("ipvs-tcp-timeout", Duration, WithoutFile),
        ("ipvs-tcpfin-timeout", Duration, WithoutFile),
        ("ipvs-udp-timeout", Duration, WithoutFile),
        ("detect-local-mode", Text, WithoutFile),
        ("pod-bridge-interface", Text, WithoutFile),
        ("pod-interface-name-prefix", Text, WithoutFile),
        ("cluster-cidr", Text, WithoutFile),
        ("nodeport-addresses", List, WithoutFile),
        ("oom-score-adj", Whole, WithoutFile),
        ("conntrack-max-per-core", Whole, WithoutFile),
        ("conntrack-min", Whole, WithoutFile),
        ("conntrack-tcp-timeout-established", Duration, WithoutFile),
        ("conntrack-tcp-timeout-close-wait", Duration, WithoutFile),
        ("conntrack-tcp-be-liberal", Bool, WithoutFile),
        ("conntrack-udp-timeout", Duration, WithoutFile),
        ("conntrack-udp-timeout-stream", Duration, WithoutFile),
        ("config-sync-period", Duration, WithoutFile),
        // Logging. What is about files of logs is gone from kube-proxy too.
        ("v", Whole, Always),
        ("vmodule", Text, Always),
        ("logging-format", Text, Always),
        ("log-flush-frequency", Duration, Always),
        ("log-json-info-buffer-size", Text, Always),
        ("log-json-split-stream", Bool, Always),
        ("log-text-info-buffer-size", Text, Always),
        ("log-text-split-stream", Bool, Always),
        // Of a library that is linked in; of no use to anybody.
        ("boot-id-file", Text, Always),
        ("machine-id-file", Text, Always),
    ]
};

/// kube-proxy's own feature gates and those of what it is made of. Others may be meant for other
/// parts of the cluster: gates are often given to all alike.
const GATES: [&str; 14] = [
    "AllAlpha",
    "AllBeta",
    "AllowServiceExternalIPs",
    "ComponentFlagz",
    "ComponentStatusz",
    "ContextualLogging",
    "InOrderInformers",
    "KubeProxyIPVS",
    "KubeProxyNFTablesLocalhostNodePorts",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
    "NFTablesNetlink",
    "PreferSameTrafficDistribution",
    "WatchListClient",
];

/// The flags as they are read.
pub(crate) fn command() -> Command {
    let flags = FLAGS.iter().map(|(name, takes, _)| {
        let arg = Arg::new(*name).long(*name).allow_hyphen_values(true).overrides_with(*name);
        let arg = if *name == "v" { arg.short('v') } else { arg };
        match takes {
            Takes::Text => arg.action(ArgAction::Set),
            Takes::Whole => arg.action(ArgAction::Set).value_parser(clap::value_parser!(i32)),
            Takes::Fraction => arg.action(ArgAction::Set).value_parser(clap::value_parser!(f32)),
            // `--flag`, or `--flag=false`; never `--flag false`.
            Takes::Bool => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(go_bool),
            Takes::Duration => arg.action(ArgAction::Set).value_parser(GoDuration::from_str),
            Takes::List => Arg::new(*name).long(*name).action(ArgAction::Append).value_delimiter(','),
        }
    });
    let version = Arg::new("version")
        .long("version")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .help("--version, --version=raw prints version information and quits");
    Command::new(NAME)
        .about("Portolan as kube-proxy: the same flags, the same configuration file")
        .disable_version_flag(true)
        .args(flags)
        .arg(version)
}

/// As Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// Flags may be spelled with underscores.
fn normalized(argument: String) -> String {
    match argument.strip_prefix("--") {
        Some(flag) => {
            let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
            format!("--{}{value}", name.replace('_', "-"))
        }
        None => argument,
    }
}

/// What was asked for, decided.
#[derive(Debug)]
struct Asked {
    /// The file that it stands in.
    file: Option<PathBuf>,
    typed: KubeProxyConfiguration,
    configuration: Configuration,
    ours: PortolanConfiguration,
    metrics: Option<SocketAddr>,
    healthz: Option<SocketAddr>,
    /// Flags that count for nothing beside the file.
    ignored: Vec<&'static str>,
}

/// Runs as kube-proxy, with these arguments behind its name.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<ExitCode, Error> {
    let name = std::iter::once(NAME.to_owned());
    let matches = match command().try_get_matches_from(name.chain(arguments.map(normalized))) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            // kube-proxy has no other code for it.
            return Ok(ExitCode::from(u8::from(error.use_stderr())));
        }
    };
    if let Some(version) = matches.get_one::<String>("version") {
        return Ok(print_version(version));
    }
    let asked = ask(&matches)?;
    let logging = &asked.configuration.logging;
    telemetry::log::set_up(u8::try_from(logging.verbosity).unwrap_or(u8::MAX), logging.json);
    for flag in &asked.ignored {
        warn!("--{flag} counts for nothing beside --config");
    }
    tell_gates(&asked.configuration);
    if let Some(file) = matches.get_one::<String>("write-config-to") {
        std::fs::write(file, asked.typed.to_yaml())
            .map_err(|e| Error::Start("write the configuration", e))?;
        info!("wrote the configuration to {file}");
        return Ok(ExitCode::SUCCESS);
    }
    if is_set(&matches, "cleanup") {
        return cleanup::as_kube_proxy();
    }
    let Asked { file, typed, configuration, ours, metrics, healthz, .. } = asked;
    if is_set(&matches, "init-only") {
        system::set_up(&configuration);
        info!("what wants privileges is done");
        return Ok(ExitCode::SUCCESS);
    }
    let kubeconfig = configuration.client.kubeconfig.clone();
    let master = matches.get_one::<String>("master").filter(|master| !master.is_empty());
    let from = From::api(kubeconfig, master.cloned())?;
    let hostname = matches.get_one::<String>("hostname-override").filter(|name| !name.is_empty());
    let loaded = Loaded { typed, configuration, ours };
    let prepared = node::prepare(loaded, None, hostname.map(String::as_str), &node::PREFERRED_OF_KUBE_PROXY)?;
    let checkpoint = prepared.checkpoint.clone();
    start::start(Start { prepared, from, file, checkpoint, metrics, healthz, flags: flags(&matches) })
}

fn print_version(version: &str) -> ExitCode {
    match version {
        "raw" => println!("version.Info{{GitVersion:\"v{}\"}}", env!("CARGO_PKG_VERSION")),
        "false" => {}
        _ => println!("Portolan v{}", env!("CARGO_PKG_VERSION")),
    }
    ExitCode::SUCCESS
}

fn is_set(matches: &ArgMatches, flag: &str) -> bool {
    matches.get_one::<bool>(flag).copied().unwrap_or(false)
}

/// Says which feature gates mean nothing here.
fn tell_gates(configuration: &Configuration) {
    let unknown = configuration.feature_gates.keys().filter(|gate| !GATES.contains(&gate.as_str()));
    let unknown: Vec<&str> = unknown.map(String::as_str).collect();
    if !unknown.is_empty() {
        warn!("unrecognized feature gates: {}", unknown.join(", "));
    }
}

/// What flags have that are not given, where it is not the same for all of a kind.
const FLAG_DEFAULTS: [(&str, &str); 28] = [
    ("bind-address", "0.0.0.0"),
    ("boot-id-file", "/proc/sys/kernel/random/boot_id"),
    ("config-sync-period", "15m0s"),
    ("conntrack-max-per-core", "32768"),
    ("conntrack-min", "131072"),
    ("conntrack-tcp-timeout-close-wait", "1h0m0s"),
    ("conntrack-tcp-timeout-established", "24h0m0s"),
    ("healthz-bind-address", "0.0.0.0:10256"),
    ("healthz-port", "10256"),
    ("iptables-localhost-nodeports", "true"),
    ("iptables-masquerade-bit", "14"),
    ("iptables-min-sync-period", "1s"),
    ("iptables-sync-period", "30s"),
    ("ipvs-min-sync-period", "1s"),
    ("ipvs-sync-period", "30s"),
    ("kube-api-burst", "10"),
    ("kube-api-content-type", "application/vnd.kubernetes.protobuf"),
    ("kube-api-qps", "5"),
    ("log-flush-frequency", "5s"),
    ("log-json-info-buffer-size", "0"),
    ("log-text-info-buffer-size", "0"),
    ("logging-format", "text"),
    ("machine-id-file", "/etc/machine-id,/var/lib/dbus/machine-id"),
    ("metrics-bind-address", "127.0.0.1:10249"),
    ("metrics-port", "10249"),
    ("oom-score-adj", "-999"),
    ("feature-gates", ""),
    ("help", "false"),
];

/// All flags with their values, a line each, as kube-proxy's `/flagz` shows them.
fn flags(matches: &ArgMatches) -> String {
    let shown = |(name, takes, _): &(&str, Takes, Counts)| {
        let given = matches.get_raw(name).map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
        });
        let default = || {
            let known = FLAG_DEFAULTS.iter().find(|(flag, _)| flag == name).map(|(_, value)| *value);
            let of_its_kind = match takes {
                Takes::Bool => "false",
                Takes::Duration => "0s",
                Takes::Whole => "0",
                Takes::List => "[]",
                Takes::Text | Takes::Fraction => "",
            };
            known.unwrap_or(of_its_kind).to_owned()
        };
        let value = match (given, takes) {
            (Some(value), Takes::List) if *name != "feature-gates" => format!("[{value}]"),
            (Some(value), _) => value,
            (None, _) => default(),
        };
        format!("{name}: {value}\n")
    };
    let more = [("help", Takes::Bool, Counts::Always), ("version", Takes::Bool, Counts::Always)];
    let mut lines: Vec<String> = FLAGS.iter().chain(&more).map(shown).collect();
    lines.sort();
    lines.concat()
}

/// Decides what holds.
fn ask(matches: &ArgMatches) -> Result<Asked, Error> {
    let config = matches.get_one::<String>("config").filter(|file| !file.is_empty());
    if let Some(file) = config {
        let file = PathBuf::from(file);
        let Loaded { mut typed, configuration: _, ours } = node::load(Some(&file))?;
        apply_logging(matches, &mut typed)?;
        let configuration = meant(&typed)?;
        let given = |flag: &&(&'static str, Takes, Counts)| matches.contains_id(flag.0);
        let ignored = FLAGS.iter().filter(|flag| flag.2 == Counts::WithoutFile).filter(given);
        let ignored = ignored.map(|flag| flag.0).collect();
        let metrics = Some(configuration.metrics_address);
        let healthz = Some(configuration.healthz_address);
        return Ok(Asked { file: Some(file), typed, configuration, ours, metrics, healthz, ignored });
    }
    let mut typed = KubeProxyConfiguration::default().with_defaults();
    apply(matches, &mut typed)?;
    apply_logging(matches, &mut typed)?;
    let healthz = address(matches, "healthz-port", &mut typed.healthz_bind_address);
    let metrics = address(matches, "metrics-port", &mut typed.metrics_bind_address);
    let configuration = meant(&typed)?;
    let ours = PortolanConfiguration::default();
    let healthz = healthz.then_some(configuration.healthz_address);
    let metrics = metrics.then_some(configuration.metrics_address);
    Ok(Asked { file: None, typed, configuration, ours, metrics, healthz, ignored: Vec::new() })
}

fn meant(typed: &KubeProxyConfiguration) -> Result<Configuration, Error> {
    Configuration::new(typed).map_err(|invalid| {
        let lines: Vec<String> = invalid.iter().map(ToString::to_string).collect();
        Error::Flags(lines.join("; "))
    })
}

/// Gives an address the port of a deprecated flag where it has none. False when it is not to be
/// served.
fn address(matches: &ArgMatches, flag: &str, address: &mut String) -> bool {
    let port = matches.get_one::<i32>(flag).copied();
    if port == Some(0) || address.is_empty() {
        // What is not served is still filled in, so that the rest can be checked.
        address.clear();
        return false;
    }
    if let Some(port) = port
        && let Ok(ip) = model::parse_ip(address)
    {
        *address = match u16::try_from(port) {
            Ok(port) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("{ip}:{port}"),
        };
    }
    true
}

/// Reads flags into fields.
struct Fields<'m>(&'m ArgMatches);

impl Fields<'_> {
    fn text(&self, flag: &str, field: &mut String) {
        if let Some(value) = self.0.get_one::<String>(flag) {
            value.clone_into(field);
        }
    }

    fn bool(&self, flag: &str, field: &mut bool) {
        *field = self.0.get_one(flag).copied().unwrap_or(*field);
    }

    fn whole(&self, flag: &str, field: &mut Option<i32>) {
        *field = self.0.get_one(flag).copied().or(*field);
    }

    fn duration(&self, flag: &str, field: &mut GoDuration) {
        *field = self.0.get_one(flag).copied().unwrap_or(*field);
    }

    fn list(&self, flag: &str, field: &mut Vec<String>) {
        if let Some(values) = self.0.get_many::<String>(flag) {
            *field = values.filter(|value| !value.is_empty()).cloned().collect();
        }
    }
}

/// Periods that may not be 0, which in a file would mean "not given".
const POSITIVE: [&str; 3] = ["iptables-sync-period", "ipvs-sync-period", "config-sync-period"];

fn apply(matches: &ArgMatches, typed: &mut KubeProxyConfiguration) -> Result<(), Error> {
    let fields = Fields(matches);
    for flag in POSITIVE {
        if matches.get_one::<GoDuration>(flag).is_some_and(|period| *period <= GoDuration::ZERO) {
            return Err(Error::Flags(format!("--{flag}: must be greater than 0")));
        }
    }
    let mut gates = Vec::new();
    fields.list("feature-gates", &mut gates);
    for gate in gates {
        let (name, value) = gate.split_once('=').unwrap_or((&gate, ""));
        let value =
            go_bool(value.trim()).map_err(|what| Error::Flags(format!("--feature-gates: {name}: {what}")))?;
        typed.feature_gates.insert(name.trim().to_owned(), value);
    }
    let client = &mut typed.client_connection;
    fields.text("kubeconfig", &mut client.kubeconfig);
    fields.text("kube-api-content-type", &mut client.content_type);
    client.burst = matches.get_one("kube-api-burst").copied().unwrap_or(client.burst);
    client.qps = matches.get_one("kube-api-qps").copied().unwrap_or(client.qps);
    let v6 = matches.get_one::<String>("bind-address").is_some_and(|address| address.contains(':'));
    fields.text("bind-address", &mut typed.bind_address);
    if v6 {
        // The other addresses' defaults follow its family.
        typed.healthz_bind_address = "[::]:10256".to_owned();
        typed.metrics_bind_address = "[::1]:10249".to_owned();
    }
    fields.text("healthz-bind-address", &mut typed.healthz_bind_address);
    fields.text("metrics-bind-address", &mut typed.metrics_bind_address);
    fields.bool("bind-address-hard-fail", &mut typed.bind_address_hard_fail);
    fields.bool("profiling", &mut typed.enable_profiling);
    fields.text("show-hidden-metrics-for-version", &mut typed.show_hidden_metrics_for_version);
    fields.text("proxy-mode", &mut typed.mode);
    fields.text("detect-local-mode", &mut typed.detect_local_mode);
    fields.text("pod-bridge-interface", &mut typed.detect_local.bridge_interface);
    fields.text("pod-interface-name-prefix", &mut typed.detect_local.interface_name_prefix);
    fields.text("cluster-cidr", &mut typed.cluster_cidr);
    fields.list("nodeport-addresses", &mut typed.node_port_addresses);
    fields.whole("oom-score-adj", &mut typed.oom_score_adj);
    fields.duration("config-sync-period", &mut typed.config_sync_period);
    apply_modes(&fields, typed);
    apply_conntrack(&fields, typed);
    Ok(())
}

/// The periods' flags are named after modes and count by mode: those of iptables for all but IPVS.
fn apply_modes(fields: &Fields<'_>, typed: &mut KubeProxyConfiguration) {
    fields.whole("iptables-masquerade-bit", &mut typed.iptables.masquerade_bit);
    fields.bool("masquerade-all", &mut typed.iptables.masquerade_all);
    fields.bool("masquerade-all", &mut typed.nftables.masquerade_all);
    let mut localhost = typed.iptables.localhost_node_ports.unwrap_or(true);
    fields.bool("iptables-localhost-nodeports", &mut localhost);
    typed.iptables.localhost_node_ports = Some(localhost);
    let ipvs = &mut typed.ipvs;
    if typed.mode == "ipvs" {
        fields.duration("ipvs-sync-period", &mut ipvs.sync_period);
        fields.duration("ipvs-min-sync-period", &mut ipvs.min_sync_period);
    } else {
        for (sync, min) in [
            (&mut typed.iptables.sync_period, &mut typed.iptables.min_sync_period),
            (&mut typed.nftables.sync_period, &mut typed.nftables.min_sync_period),
        ] {
            fields.duration("iptables-sync-period", sync);
            fields.duration("iptables-min-sync-period", min);
        }
    }
    fields.text("ipvs-scheduler", &mut ipvs.scheduler);
    fields.list("ipvs-exclude-cidrs", &mut ipvs.exclude_cidrs);
    fields.bool("ipvs-strict-arp", &mut ipvs.strict_arp);
    fields.duration("ipvs-tcp-timeout", &mut ipvs.tcp_timeout);
    fields.duration("ipvs-tcpfin-timeout", &mut ipvs.tcp_fin_timeout);
    fields.duration("ipvs-udp-timeout", &mut ipvs.udp_timeout);
}

fn apply_conntrack(fields: &Fields<'_>, typed: &mut KubeProxyConfiguration) {
    let conntrack = &mut typed.conntrack;
    fields.whole("conntrack-max-per-core", &mut conntrack.max_per_core);
    fields.whole("conntrack-min", &mut conntrack.min);
    let established = conntrack.tcp_established_timeout.get_or_insert(GoDuration::ZERO);
    fields.duration("conntrack-tcp-timeout-established", established);
    let close_wait = conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::ZERO);
    fields.duration("conntrack-tcp-timeout-close-wait", close_wait);
    fields.bool("conntrack-tcp-be-liberal", &mut conntrack.tcp_be_liberal);
    fields.duration("conntrack-udp-timeout", &mut conntrack.udp_timeout);
    fields.duration("conntrack-udp-timeout-stream", &mut conntrack.udp_stream_timeout);
}

/// Flags of logging win over a file.
fn apply_logging(matches: &ArgMatches, typed: &mut KubeProxyConfiguration) -> Result<(), Error> {
    let fields = Fields(matches);
    fields.text("logging-format", &mut typed.logging.format);
    if let Some(level) = matches.get_one::<i32>("v") {
        typed.logging.verbosity =
            u32::try_from(*level).map_err(|_| Error::Flags(format!("-v: {level} is no level")))?;
    }
    fields.duration("log-flush-frequency", &mut typed.logging.flush_frequency.0);
    if matches.get_one::<String>("vmodule").is_some_and(|text| !text.is_empty()) {
        warn!("--vmodule: the parts of this program have other names; -v holds for all of them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Mode;

    fn matches(arguments: &[&str]) -> Result<ArgMatches, clap::Error> {
        let arguments = arguments.iter().map(|argument| normalized((*argument).to_owned()));
        command().try_get_matches_from(std::iter::once(NAME.to_owned()).chain(arguments))
    }

    fn asked(arguments: &[&str]) -> Asked {
        ask(&matches(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}")))
            .expect("it is right")
    }

    #[test]
    fn without_flags_all_is_as_without_a_file() {
        let asked = asked(&[]);
        assert_eq!(asked.configuration, Configuration::default());
        assert_eq!(asked.metrics, Some(SocketAddr::from(([127, 0, 0, 1], 10249))));
        command().debug_assert();
    }

    #[test]
    fn every_flag_is_taken_and_changes_something() {
        let quiet = ["config", "write-config-to", "cleanup", "init-only", "hostname-override", "master"];
        let without = asked(&[]).typed;
        for (name, takes, _) in FLAGS {
            let value = match (*name, takes) {
                ("logging-format", _) => "json",
                ("proxy-mode", _) => "nftables",
                ("bind-address", _) => "192.0.2.9",
                ("healthz-bind-address" | "metrics-bind-address", _) => "192.0.2.9:99",
                ("healthz-port" | "metrics-port", _) => "0",
                ("detect-local-mode", _) => "NodeCIDR",
                ("cluster-cidr" | "nodeport-addresses" | "ipvs-exclude-cidrs", _) => "10.9.0.0/16",
                ("iptables-localhost-nodeports", _) => "false",
                ("iptables-min-sync-period" | "ipvs-min-sync-period", _) => "2s",
                ("feature-gates", _) => "AllAlpha=true",
                ("show-hidden-metrics-for-version", _) => "1.35",
                (_, Takes::Bool) => "true",
                (_, Takes::Duration) => "77s",
                (_, Takes::Whole) => "7",
                (_, Takes::Fraction) => "7.5",
                (_, Takes::Text | Takes::List) => "x",
            };
            let flag = format!("--{name}={value}");
            let ipvs = if name.ends_with("sync-period") && name.starts_with("ipvs") { "ipvs" } else { "" };
            let mode = format!("--proxy-mode={ipvs}");
            if *name == "config" {
                continue;
            }
            let with = asked(&[&mode, &flag]).typed;
            let inert = quiet.contains(name) || name.starts_with("log-") || name.ends_with("id-file");
            let changes = with != asked(&[&mode]).typed;
            assert!(changes || inert || *name == "vmodule", "{flag} changes nothing");
            assert!(!changes || !quiet.contains(name), "{flag} changes the configuration");
        }
        assert_eq!(without, asked(&[]).typed);
    }

    #[test]
    fn spellings() {
        let cases: [&[&str]; 5] = [
            &["--masquerade-all"],
            &["--masquerade_all=true"],
            &["--masquerade-all=T", "-v", "3"],
            &["-v=3", "--masquerade-all=false", "--masquerade-all"],
            &["--masquerade-all", "--v=3"],
        ];
        for arguments in cases {
            assert!(asked(arguments).configuration.nftables.masquerade_all, "{arguments:?}");
        }
        let bad: [&[&str]; 5] = [
            &["--nonsense"],
            &["extra"],
            &["--masquerade-all", "false"],
            &["--masquerade-all=2"],
            &["--v=x"],
        ];
        for arguments in bad {
            assert!(matches(arguments).is_err(), "{arguments:?}");
        }
        let lists =
            asked(&["--nodeport-addresses", "10.0.0.0/8,192.168.0.0/16", "--nodeport-addresses=fd00::/8"]);
        assert_eq!(lists.typed.node_port_addresses, ["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"]);
    }

    #[test]
    fn addresses_and_ports() {
        let cases: [(&[&str], Option<&str>); 6] = [
            (&["--healthz-port=0"], None),
            (&["--healthz-bind-address="], None),
            (&["--healthz-bind-address=192.0.2.1"], Some("192.0.2.1:10256")),
            (&["--healthz-bind-address=192.0.2.1", "--healthz-port=99"], Some("192.0.2.1:99")),
            (&["--healthz-bind-address=192.0.2.1:98", "--healthz-port=99"], Some("192.0.2.1:98")),
            (&["--bind-address=::1"], Some("[::]:10256")),
        ];
        for (arguments, address) in cases {
            let address = address.map(|text| text.parse().expect("an address"));
            assert_eq!(asked(arguments).healthz, address, "{arguments:?}");
        }
    }

    #[test]
    fn periods_by_mode() {
        let periods = |arguments: &[&str], mode| asked(arguments).configuration.periods(mode).sync.as_secs();
        let both = ["--iptables-sync-period=11s", "--ipvs-sync-period=22s"];
        assert_eq!(periods(&both, Mode::NfTables), 11);
        assert_eq!(periods(&both, Mode::Ipvs), 30);
        let ipvs = ["--proxy-mode=ipvs", both[0], both[1]];
        assert_eq!(periods(&ipvs, Mode::Ipvs), 22);
        assert_eq!(periods(&ipvs, Mode::NfTables), 30);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (flag, message) in [
            ("--feature-gates=A", "A: \"\" is neither"),
            ("--proxy-mode=userspace", "mode"),
            ("--cluster-cidr=10.0.0.0/99", "clusterCIDR"),
            ("--iptables-sync-period=0s", "--iptables-sync-period: must be"),
        ] {
            let error = ask(&matches(&[flag]).expect("flags")).expect_err(flag).to_string();
            assert!(error.contains(message), "{flag}: {error}");
        }
    }

    #[test]
    fn beside_a_file_only_logging_counts() {
        let file = std::env::temp_dir().join(format!("portolan-flags-{}", std::process::id()));
        std::fs::write(
            &file,
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nlogging: {verbosity: 1}\n",
        )
        .expect("a file");
        let config = format!("--config={}", file.display());
        let asked = asked(&[&config, "--masquerade-all", "-v=4", "--healthz-port=0"]);
        assert_eq!(asked.ignored, ["healthz-port", "masquerade-all"]);
        assert!(!asked.configuration.nftables.masquerade_all && asked.healthz.is_some());
        assert_eq!(asked.configuration.logging.verbosity, 4);
        assert_eq!(asked.configuration.mode, Mode::NfTables);
        std::fs::remove_file(&file).expect("it is ours");
    }
}
