//! The plugin's block of the Corefile, read.

use crate::cluster::Wanted;
use crate::corefile::{Error, Line, origins};
use crate::setup::{BlockSettings, duration, number};
use names::{Options, PodMode, Selector, ZoneName};
use std::net::IpAddr;
use std::time::Duration;
use wire::Name;

/// The longest time for which answers may be kept.
const TTL_MAX_S: u32 = 3600;
/// So long the server waits for the cluster at its start.
const STARTUP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What it says.
pub(super) struct Read {
    pub(super) options: Options,
    pub(super) wanted: Wanted,
    pub(super) startup_timeout: Duration,
}

/// Reads it.
pub(super) fn read(line: &Line, block: &BlockSettings) -> Result<Read, Error> {
    let zones = origins(&line.args, &block.zones)?;
    let zones = zones.iter().map(|zone| ZoneName::new(zone, false)).collect();
    let options = Options::new(zones).ok_or_else(|| line.error("wants a zone that is not a reverse one"))?;
    let wanted = Wanted::default();
    let mut read = Read { options, wanted, startup_timeout: STARTUP_TIMEOUT_DEFAULT };
    read.options.local = local_addresses(block);
    for option in &line.block {
        option.no_block()?;
        if !(read.of_names(option)? || read.of_source(option, block)?) {
            return Err(option.unknown_option("kubernetes"));
        }
    }
    let Read { options, wanted, .. } = &mut read;
    let find = |name: &str| line.block.iter().find(|option| option.name.text == name);
    if !options.namespaces.is_empty()
        && let Some(option) = find("namespace_labels")
    {
        return Err(option.error("not together with namespaces"));
    }
    if options.no_endpoints
        && let Some(option) = find("zonal")
    {
        return Err(option.error("not together with noendpoints"));
    }
    wanted.pod_names = options.endpoint_pod_names;
    wanted.pods = options.pods == PodMode::Verified;
    wanted.service_labels = options.labels.is_some();
    wanted.no_endpoints = options.no_endpoints;
    Ok(read)
}

impl Read {
    /// Options about names. False for others.
    fn of_names(&mut self, option: &Line) -> Result<bool, Error> {
        let options = &mut self.options;
        match option.name.text.as_str() {
            "namespaces" => {
                for word in option.at_least_one()? {
                    options.namespaces.insert(word.text.as_str().into());
                }
            }
            "namespace_labels" => options.namespace_labels = Some(selector(option)?),
            "labels" => options.labels = Some(selector(option)?),
            "pods" => {
                let [word] = option.exactly()?;
                options.pods = match word.text.as_str() {
                    "disabled" => PodMode::Disabled,
                    "insecure" => PodMode::Insecure,
                    "verified" => PodMode::Verified,
                    _ => return Err(word.error("not disabled, insecure or verified")),
                };
            }
            "endpoint_pod_names" => {
                option.no_arguments()?;
                options.endpoint_pod_names = true;
            }
            "ttl" => {
                let [word] = option.exactly()?;
                options.ttl_s = match number(word)? {
                    ttl @ 0..=TTL_MAX_S => ttl,
                    _ => return Err(word.error(format_args!("not between 0 and {TTL_MAX_S}"))),
                };
            }
            "noendpoints" => {
                option.no_arguments()?;
                options.no_endpoints = true;
            }
            "zonal" => {
                option.no_arguments()?;
                options.zonal = true;
            }
            "fallthrough" => {
                // Without zones it is for all names.
                options.fallthrough = origins(&option.args, &[Name::ROOT])?;
            }
            "ignore" => {
                let [word] = option.exactly()?;
                if word.text != "empty_service" {
                    return Err(word.error("only empty_service can be ignored"));
                }
                options.ignore_empty = true;
            }
            "multicluster" => {
                // Without zones it is for none.
                for (word, zone) in option.args.iter().zip(origins(&option.args, &[])?) {
                    if !options.zones.iter().any(|of| of.name == zone.lowercase()) {
                        return Err(word.error("not among the zones of this kubernetes"));
                    }
                    // The zones below it are the same.
                    for of in options.zones.iter_mut().filter(|of| of.name.is_in(&zone)) {
                        of.multicluster = true;
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options about where the cluster is. False for others.
    fn of_source(&mut self, option: &Line, block: &BlockSettings) -> Result<bool, Error> {
        let wanted = &mut self.wanted;
        match option.name.text.as_str() {
            "manifests" => {
                let [path] = option.exactly()?;
                wanted.manifests = Some(block.path(&path.text));
            }
            "endpoint" => {
                // Of several, which CoreDNS gave up, the first counts.
                wanted.endpoint = option.at_least_one()?.first().map(|word| word.text.clone());
            }
            "tls" => {
                let [certificate, key, authority] = option.exactly()?;
                wanted.tls = Some([certificate, key, authority].map(|word| block.path(&word.text)));
            }
            "kubeconfig" => {
                let (path, context) = match option.at_least_one()? {
                    [path] => (path, None),
                    [path, context] => (path, Some(context.text.clone())),
                    [_, _, extra, ..] => return Err(extra.error("kubeconfig takes a file and a context")),
                    [] => return Ok(true),
                };
                wanted.kubeconfig = Some((block.path(&path.text), context));
            }
            "startup_timeout" => {
                let [word] = option.exactly()?;
                self.startup_timeout = duration(word)?;
            }
            // One list and one watch for each kind of object, and never another question: there is
            // nothing to limit. The words are checked, and then they are kept.
            "apiserver_qps" => {
                let [word] = option.exactly()?;
                let qps: f64 = number(word)?;
                if qps.is_nan() || qps < 0.0 {
                    return Err(word.error("less than nothing"));
                }
            }
            "apiserver_burst" | "apiserver_max_inflight" => {
                let [word] = option.exactly()?;
                number::<u32>(word)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn selector(option: &Line) -> Result<Selector, Error> {
    let words: Vec<&str> = option.at_least_one()?.iter().map(|word| word.text.as_str()).collect();
    Selector::parse(&words.join(" ")).map_err(|error| option.error(error))
}

/// The server's own addresses, by which it is found among endpoints.
fn local_addresses(block: &BlockSettings) -> Vec<IpAddr> {
    let is_ours = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    if !block.listen.is_empty() {
        return block.listen.iter().copied().filter(is_ours).collect();
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let mut addresses: Vec<IpAddr> = addresses.filter(is_ours).collect();
    addresses.dedup();
    addresses
}
