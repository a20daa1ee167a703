//! What the process uses, in the metrics that every Prometheus client has.

use crate::metrics::head;
use std::fmt::Write as _;
use std::fs;

/// Clock ticks a second in `/proc`: `USER_HZ`, which is 100 on every architecture that we build for.
const TICKS_A_SECOND: f64 = 100.0;
/// Where the kernel tells of our memory.
const STATUS: &str = "/proc/self/status";

/// Appends them; what `/proc` does not tell is left out.
pub fn write(text: &mut String) {
    let status = fs::read_to_string(STATUS).unwrap_or_default();
    let kilobytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    let bytes = |field| kilobytes(field).map(|kilobytes| kilobytes * 1024.0);
    let stat = Stat::read();
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let [received, sent] = network_bytes();
    let samples: [(&str, &str, &str, Option<f64>); 10] = [
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            "counter",
            stat.as_ref().map(|stat| stat.cpu_s),
        ),
        ("process_open_fds", "Number of open file descriptors.", "gauge", open),
        ("process_max_fds", "Maximum number of open file descriptors.", "gauge", limit("Max open files")),
        (
            "process_network_receive_bytes_total",
            "Number of bytes received by the process over the network.",
            "counter",
            received,
        ),
        (
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process over the network.",
            "counter",
            sent,
        ),
        (
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            "gauge",
            limit("Max address space"),
        ),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", bytes("VmRSS")),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", bytes("VmSize")),
        (
            "process_resident_memory_peak_bytes",
            "Highest resident memory size so far in bytes.",
            "gauge",
            bytes("VmHWM"),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            "gauge",
            start_s(),
        ),
    ];
    for (name, help, kind, value) in samples {
        if let Some(value) = value {
            head(text, name, help, kind);
            let _ = writeln!(text, "{name} {value}");
        }
    }
}

/// When we were started, in seconds since 1970.
pub fn start_s() -> Option<f64> {
    Some(boot_s()? + Stat::read()?.start_s)
}

/// What `/proc/self/stat` tells.
struct Stat {
    cpu_s: f64,
    /// After the machine's start.
    start_s: f64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in brackets, may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        // Of `man 5 proc_pid_stat`: utime 14, stime 15, starttime 22; `rest` begins with the third.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat { cpu_s: (field(14)? + field(15)?) / TICKS_A_SECOND, start_s: field(22)? / TICKS_A_SECOND })
    }
}

fn boot_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// A soft limit.
fn limit(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// What came and went by IP, in all of our network namespace: on a node, all of it. So Prometheus'
/// own clients have it.
fn network_bytes() -> [Option<f64>; 2] {
    let text = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    ["InOctets", "OutOctets"].map(|wanted| {
        let mut fields = names.split(' ').zip(values.split(' '));
        fields.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_there() {
        let mut text = String::new();
        write(&mut text);
        assert_eq!(text.lines().filter(|line| line.starts_with("process_")).count(), 10, "{text}");
        let number = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).expect(name)
        };
        let resident = number("process_resident_memory_bytes");
        assert!(resident > 100_000.0 && resident <= number("process_resident_memory_peak_bytes"));
        let year_s = 365.0 * 86_400.0;
        assert!(number("process_start_time_seconds") > 50.0 * year_s);
    }
}
