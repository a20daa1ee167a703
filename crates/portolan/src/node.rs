//! This node: its name, its addresses, its families, and what the configuration says of it.

use crate::dns::{LocalOptions, Wanted};
use crate::error::Error;
use clap::Args;
use config::{Configuration, IpvsAddresses, KubeProxyConfiguration, PortolanConfiguration};
use dataplane::{Mode, Plane, PlaneOptions, iptables, ipvs};
use model::{Family, Name};
use netlink::{Route, Socket};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use plan::Settings;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use telemetry::{info, verbose, warn};

/// What the API server is asked for.
const JSON: &str = "application/json";

/// What subcommands that are about this node share.
#[derive(Args)]
pub(crate) struct NodeArguments {
    /// A KubeProxyConfiguration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to route: auto, ipvs, nftables, iptables or ebpf
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<config::Mode>,
    /// The node's name, if not the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
}

/// What a node needs to begin.
pub(crate) struct Prepared {
    pub(crate) configuration: Configuration,
    /// The same as typed, with the defaults filled in.
    pub(crate) typed: KubeProxyConfiguration,
    /// Where to remember the cluster.
    pub(crate) checkpoint: Option<PathBuf>,
    /// How names are to be served, if they are.
    pub(crate) names: Option<Wanted>,
    pub(crate) settings: Settings,
    pub(crate) mode: Mode,
    pub(crate) options: PlaneOptions,
    /// When backends that do not answer are set aside, if they are.
    pub(crate) aside: Option<aside::Thresholds>,
}

impl Prepared {
    /// How long drift may go unnoticed.
    pub(crate) fn sync_period(&self) -> Duration {
        self.configuration.periods(configured(self.mode)).sync
    }

    /// How long to wait between two changes: where each is a rewriting. The other planes write what
    /// changed at once.
    pub(crate) fn min_sync_period(&self) -> Duration {
        match self.mode {
            Mode::Iptables => self.configuration.iptables.periods.min_sync,
            Mode::Nftables | Mode::Ipvs => Duration::ZERO,
        }
    }

    /// Says what was asked for and counts for nothing here.
    pub(crate) fn tell_ignored(&self) {
        let floor = self.configuration.periods(configured(self.mode)).min_sync;
        if self.mode != Mode::Iptables && !floor.is_zero() {
            let mode = self.mode;
            info!(
                "minSyncPeriod of {} s counts for nothing in mode {mode}: changes are written at once",
                floor.as_secs_f64()
            );
        }
        let asked = &self.configuration.client.content_type;
        if !asked.is_empty() && asked != JSON {
            // It is the default.
            verbose!(1, "contentType {asked} counts for nothing: the API server is asked for {JSON}");
        }
    }
}

impl NodeArguments {
    /// Reads the configuration and looks at the node. The command line wins over the file.
    pub(crate) fn prepare(&self) -> Result<Prepared, Error> {
        self.prepare_with(|_| {})
    }

    /// The same with something changed in what the file says.
    pub(crate) fn prepare_with(&self, change: impl FnOnce(&mut Loaded)) -> Result<Prepared, Error> {
        let mut loaded = load(self.config.as_deref())?;
        change(&mut loaded);
        prepare(loaded, self.mode, self.hostname_override.as_deref(), &PREFERRED)
    }
}

/// Looks at the node. A mode or a name that is given wins over the configuration's; `auto` chooses from
/// `preferred`, the best first.
pub(crate) fn prepare(
    loaded: Loaded,
    mode: Option<config::Mode>,
    hostname: Option<&str>,
    preferred: &[Mode],
) -> Result<Prepared, Error> {
    let Loaded { mut typed, configuration, ours } = loaded;
    let node_name = match hostname.or(configuration.hostname_override.as_deref()) {
        Some(name) => name.trim().to_lowercase(),
        None => self::hostname()?,
    };
    if hostname.is_some() {
        typed.hostname_override.clone_from(&node_name);
    }
    let options = plane_options(&configuration, &ours);
    let mode = choose_mode(mode.unwrap_or(configuration.mode), preferred, &options)?;
    let settings =
        config::settings(&configuration, configured(mode), Name::from(node_name), interface_addresses()?);
    let aside = thresholds(&ours.set_aside);
    let checkpoint = Some(ours.checkpoint).filter(|file| !file.is_empty()).map(PathBuf::from);
    let local = ours.names.local.then(|| LocalOptions::read(&ours.names, &options.families)).transpose()?;
    if ours.names.corefile.is_empty() && local.is_some() {
        return Err(Error::Flags("names.local wants names.corefile".into()));
    }
    let names = Some(ours.names.corefile).filter(|file| !file.is_empty());
    let names = names.map(|corefile| Wanted { corefile: corefile.into(), local });
    Ok(Prepared { configuration, typed, checkpoint, names, settings, mode, options, aside })
}

fn thresholds(configured: &config::SetAside) -> Option<aside::Thresholds> {
    let config::SetAside { enabled, probe_timeout, hold, hold_max } = *configured;
    let (probe, hold, hold_max) = (probe_timeout.time(), hold.time(), hold_max.time());
    enabled.then_some(aside::Thresholds { probe, hold, hold_max })
}

pub(crate) fn mode(text: &str) -> Result<config::Mode, config::NotAMode> {
    text.parse()
}

/// A configuration, and what there is beside.
#[derive(Default)]
pub(crate) struct Loaded {
    /// As typed, with the defaults filled in.
    pub(crate) typed: KubeProxyConfiguration,
    pub(crate) configuration: Configuration,
    pub(crate) ours: PortolanConfiguration,
}

/// Reads a configuration file, or takes the defaults; oddities go to the log.
pub(crate) fn load(file: Option<&Path>) -> Result<Loaded, Error> {
    let Some(file) = file else {
        let typed = KubeProxyConfiguration::default().with_defaults();
        return Ok(Loaded { typed, ..Loaded::default() });
    };
    let config::Loaded { typed, configuration, warnings, portolan: ours } = config::load(file)?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(Loaded { typed, configuration, ours })
}

/// What the configuration and the node say to all planes.
pub(crate) fn plane_options(configuration: &Configuration, ours: &PortolanConfiguration) -> PlaneOptions {
    PlaneOptions {
        families: families(),
        drop_invalid: !configuration.conntrack.tcp_be_liberal,
        ipvs: ipvs_options(&configuration.ipvs, ours),
        iptables: iptables::Configuration {
            masquerade_bit: configuration.iptables.masquerade_bit,
            ..iptables::Configuration::default()
        },
    }
}

/// What the configuration says of IPVS, in the plane's words.
fn ipvs_options(configured: &config::Ipvs, ours: &PortolanConfiguration) -> ipvs::Configuration {
    let seconds = |time: Option<Duration>| time.map_or(0, |t| u32::try_from(t.as_secs()).unwrap_or(u32::MAX));
    ipvs::Configuration {
        scheduler: Name::from(&*configured.scheduler),
        drain_limit: ours.ipvs.drain_limit.0.positive().unwrap_or_default(),
        excluded: configured.exclude_cidrs.clone(),
        kernel: ipvs::Settings {
            addresses: match ours.ipvs.addresses {
                IpvsAddresses::Routes => ipvs::Addresses::Routes,
                IpvsAddresses::Addresses => ipvs::Addresses::Device,
            },
            strict_arp: configured.strict_arp,
            timeouts: ipvs::Timeouts {
                tcp_s: seconds(configured.tcp_timeout),
                tcp_fin_s: seconds(configured.tcp_fin_timeout),
                udp_s: seconds(configured.udp_timeout),
            },
        },
    }
}

/// A mode in the configuration's words.
pub(crate) fn configured(mode: Mode) -> config::Mode {
    match mode {
        Mode::Nftables => config::Mode::NfTables,
        Mode::Ipvs => config::Mode::Ipvs,
        Mode::Iptables => config::Mode::IpTables,
    }
}

/// What `auto` chooses from, the best first.
pub(crate) const PREFERRED: [Mode; 3] = [Mode::Ipvs, Mode::Nftables, Mode::Iptables];

/// The same under the name kube-proxy, where it may stand for iptables: a cluster that never asked for
/// IPVS should not find itself on it.
pub(crate) const PREFERRED_OF_KUBE_PROXY: [Mode; 2] = [Mode::Nftables, Mode::Iptables];

/// Picks the mode and says why. A mode that was asked for by name and cannot be had is an error.
fn choose_mode(asked: config::Mode, preferred: &[Mode], options: &PlaneOptions) -> Result<Mode, Error> {
    match asked {
        config::Mode::Auto => {
            let mut passed_over = String::new();
            for mode in preferred {
                match is_there(*mode, options) {
                    Ok(()) => {
                        info!("mode {mode}, which is the best that works here{passed_over}");
                        return Ok(*mode);
                    }
                    Err(error) => passed_over += &format!("; not {mode}: {}", crate::output::chain(&error)),
                }
            }
            Err(Error::NoMode(passed_over))
        }
        config::Mode::NfTables => Ok(Mode::Nftables),
        config::Mode::Ipvs => Ok(Mode::Ipvs),
        config::Mode::IpTables => Ok(Mode::Iptables),
        other => Err(Error::NotBuilt(other.name())),
    }
}

/// Whether the kernel has what a mode is made of, at a glance (`doctor` looks closely). Changes nothing.
fn is_there(mode: Mode, options: &PlaneOptions) -> Result<(), dataplane::Error> {
    Plane::open(mode, options)?;
    if mode == Mode::Nftables {
        netlink::nftables::generation(&mut Socket::open()?)?;
    }
    Ok(())
}

/// The host's name as Kubernetes spells it.
pub(crate) fn hostname() -> Result<String, Error> {
    let name = nix::unistd::gethostname().map_err(|e| Error::Start("read the host's name", e.into()))?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

/// The addresses on the node's interfaces that others can reach it at, in the kernel's order.
pub(crate) fn interface_addresses() -> Result<Vec<IpAddr>, Error> {
    let mut socket: Socket<Route> = Socket::open().map_err(dataplane::Error::from)?;
    let addresses = socket.addresses(None).map_err(dataplane::Error::from)?;
    let services = socket.link(ipvs::DEVICE).map(|link| link.index).ok();
    let addresses = addresses.into_iter().filter(|address| Some(address.link) != services);
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    Ok(addresses.map(|a| a.prefix.address).filter(reachable).collect())
}

/// The families that the node has: IPv4 always, IPv6 unless the kernel lacks it or it is off.
fn families() -> Vec<Family> {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let has_v6 = Path::new("/proc/net/if_inet6").exists() && off.is_ok_and(|off| off.trim() == "0");
    if has_v6 { Family::ALL.to_vec() } else { vec![Family::V4] }
}

/// What the process has used so far.
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident_mb: f64,
}

/// Reads what the process has used.
pub(crate) fn usage() -> Usage {
    // Programs that we ran count, too: in mode iptables they do most of the work.
    let of = |who| {
        getrusage(who).map_or(Duration::ZERO, |usage| {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            Duration::from_micros(u64::try_from(micros).unwrap_or(0))
        })
    };
    let cpu = of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    Usage { cpu, resident_mb: kilobytes.unwrap_or(0.0) / 1024.0 }
}
