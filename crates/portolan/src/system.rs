//! The node's own settings that kube-proxy makes at its start: how many connections the kernel tracks
//! and for how long, and how unwilling the kernel is to kill us.
//!
//! What cannot be written (an unprivileged container sees `/proc/sys` read-only) and is not as it
//! should be is told and left: an init container with `--init-only` has the rights, and what it wrote
//! stands.

use config::{Configuration, Conntrack};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use telemetry::{info, verbose};

const HASHSIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// Connections for each bucket of the hash table, as kube-proxy has it.
const CONNECTIONS_A_BUCKET: u32 = 4;

/// Makes them all.
pub(crate) fn set_up(configuration: &Configuration) {
    set_oom_score(configuration.oom_score_adj);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    let wanted = wanted(&configuration.conntrack, u32::try_from(cpus).unwrap_or(1));
    for (file, value) in wanted {
        set(Path::new(&file), value, file == HASHSIZE);
    }
}

/// Files and what is to be in them.
fn wanted(conntrack: &Conntrack, cpus: u32) -> Vec<(String, u64)> {
    let Conntrack {
        max_per_core: _,
        min: _,
        tcp_established_timeout,
        tcp_close_wait_timeout,
        tcp_be_liberal,
        udp_timeout,
        udp_stream_timeout,
    } = conntrack;
    let file = |name: &str| format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    let seconds = |name: &str, time: &Option<Duration>| time.map(|time| (file(name), time.as_secs()));
    let max = conntrack.max(cpus);
    let all = [
        max.map(|max| (HASHSIZE.to_owned(), u64::from(max / CONNECTIONS_A_BUCKET))),
        max.map(|max| (file("max"), u64::from(max))),
        seconds("tcp_timeout_established", tcp_established_timeout),
        seconds("tcp_timeout_close_wait", tcp_close_wait_timeout),
        tcp_be_liberal.then(|| (file("tcp_be_liberal"), 1)),
        seconds("udp_timeout", udp_timeout),
        seconds("udp_timeout_stream", udp_stream_timeout),
    ];
    all.into_iter().flatten().collect()
}

/// Sets one, if it is not as it should be; a larger hash table is as good.
fn set(file: &Path, value: u64, or_more: bool) {
    let has: Option<u64> = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if has == Some(value) || or_more && has > Some(value) {
        return;
    }
    match fs::write(file, value.to_string()) {
        Ok(()) => verbose!(1, "{} is {value} now", file.display()),
        Err(error) => left(file, has, value, &error),
    }
}

fn left(file: &Path, has: Option<u64>, value: u64, error: &io::Error) {
    let has = has.map_or_else(|| "unknown".to_owned(), |has| has.to_string());
    info!("{} stays {has}, wanted {value}: {error}", file.display());
}

fn set_oom_score(score: i32) {
    const FILE: &str = "/proc/self/oom_score_adj";
    let has = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if has != Some(score)
        && let Err(error) = fs::write(FILE, score.to_string())
    {
        info!("{FILE} stays {}, wanted {score}: {error}", has.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kube_proxy_sets_them() {
        let value = |conntrack: &Conntrack, cpus, end: &str| {
            let wanted = wanted(conntrack, cpus);
            wanted.iter().find(|(file, _)| file.ends_with(end)).map(|(_, value)| *value)
        };
        let mut conntrack = Configuration::default().conntrack;
        for (cpus, max) in [(1, 131_072), (8, 262_144), (128, 1_048_576)] {
            assert_eq!(value(&conntrack, cpus, "nf_conntrack_max"), Some(max), "{cpus}");
            assert_eq!(value(&conntrack, cpus, "hashsize"), Some(max / 4), "{cpus}");
        }
        assert_eq!(value(&conntrack, 1, "tcp_timeout_established"), Some(86_400));
        assert_eq!(value(&conntrack, 1, "tcp_timeout_close_wait"), Some(3600));
        assert_eq!(value(&conntrack, 1, "udp_timeout"), None);
        assert_eq!(value(&conntrack, 1, "tcp_be_liberal"), None);
        conntrack.max_per_core = 0;
        conntrack.tcp_be_liberal = true;
        conntrack.udp_timeout = Some(Duration::from_secs(7));
        assert_eq!(value(&conntrack, 8, "nf_conntrack_max"), None);
        assert_eq!(value(&conntrack, 8, "tcp_be_liberal"), Some(1));
        assert_eq!(value(&conntrack, 8, "nf_conntrack_udp_timeout"), Some(7));
    }
}
