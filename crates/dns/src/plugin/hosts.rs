//! `hosts`: answers from a file like `/etc/hosts`, and from lines of the Corefile.
//!
//! ```text
//! hosts [FILE [ZONE...]] {
//!     ADDRESS NAME...
//!     ttl SECONDS
//!     no_reverse
//!     reload DURATION
//!     fallthrough [ZONE...]
//!     fallthrough_unsupported
//! }
//! ```
//!
//! The file is read again when its time or size has changed; answers come from a table that is replaced
//! as a whole.

use super::fall::Fall;
use crate::chain::{At, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::{Exchange, Outcome};
use crate::metrics::Gauge;
use crate::say;
use crate::setup::{Setting, duration, number};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use wire::{Name, Owner, Rcode, Section, Type, address_of_reverse};

/// CoreDNS' numbers.
const TTL_DEFAULT_S: u32 = 3600;
const RELOAD_DEFAULT: Duration = Duration::from_secs(5);
/// A larger file is not read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What there is.
#[derive(Default)]
struct Table {
    /// By name in lower case; those of wildcards begin with the label `*`.
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
}

/// How to tell that the file has changed.
type Stamp = Option<(SystemTime, u64)>;

struct Hosts {
    path: PathBuf,
    zones: Vec<Name>,
    inline: String,
    ttl_s: u32,
    reverse: bool,
    reload: Duration,
    fall: Fall,
    fall_unsupported: bool,
    table: ArcSwap<Table>,
    read: Mutex<Stamp>,
    entries: Arc<Gauge>,
    reloaded: Arc<Gauge>,
    reloading: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let (path, zones) = match line.args.split_first() {
        None => (PathBuf::from("/etc/hosts"), &[][..]),
        Some((file, zones)) => {
            let path = setting.block.path(&file.text);
            match path.metadata() {
                Ok(found) if found.is_dir() => return Err(file.error("a directory")),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    say::warning(format_args!("plugin/hosts: File does not exist: {}", path.display()));
                }
                Err(error) => return Err(file.error(error)),
            }
            (path, zones)
        }
    };
    let metrics = &setting.world.metrics;
    let file = path.display().to_string();
    let mut hosts = Hosts {
        path,
        zones: origins(zones, &setting.block.zones)?,
        inline: String::new(),
        ttl_s: TTL_DEFAULT_S,
        reverse: true,
        reload: RELOAD_DEFAULT,
        fall: Fall::default(),
        fall_unsupported: false,
        table: ArcSwap::default(),
        read: Mutex::default(),
        entries: metrics.gauge(
            "coredns_hosts_entries",
            "The combined number of entries in hosts and Corefile.",
            &[("hostsfile", &file)],
        ),
        reloaded: metrics.gauge(
            "coredns_hosts_reload_timestamp_seconds",
            "The timestamp of the last reload of hosts file.",
            &[],
        ),
        reloading: Mutex::default(),
    };
    for option in &line.block {
        hosts.read_option(option)?;
    }
    if hosts.fall_unsupported && hosts.fall.is_empty() {
        return Err(line.error("fallthrough_unsupported wants fallthrough"));
    }
    hosts.read_again(true);
    Ok(Some(Arc::new(hosts)))
}

impl Hosts {
    fn read_option(&mut self, option: &Line) -> Result<(), Error> {
        option.no_block()?;
        match option.name.text.as_str() {
            "fallthrough" => self.fall.read(option)?,
            "fallthrough_unsupported" => {
                option.no_arguments()?;
                self.fall_unsupported = true;
            }
            "no_reverse" => {
                option.no_arguments()?;
                self.reverse = false;
            }
            "ttl" => {
                let [word] = option.exactly()?;
                self.ttl_s = number(word)?;
                if !(1..=65_535).contains(&self.ttl_s) {
                    return Err(word.error("not between 1 and 65535"));
                }
            }
            "reload" => {
                let [word] = option.exactly()?;
                self.reload = duration(word)?;
            }
            address if address.parse::<IpAddr>().is_ok() => {
                self.inline.push_str(address);
                for name in option.at_least_one()? {
                    name.text.parse::<Name>().map_err(|error| name.error(error))?;
                    self.inline.push(' ');
                    self.inline.push_str(&name.text);
                }
                self.inline.push('\n');
            }
            _ => return Err(option.error("neither an option of plugin hosts nor an address")),
        }
        Ok(())
    }

    /// Reads the file where it has changed.
    fn read_again(&self, first: bool) {
        let stamp = stamp(&self.path);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !first && (stamp.is_none() || stamp == *read) {
            return;
        }
        let mut text = String::new();
        if let Some((time, size)) = stamp
            && size <= FILE_BYTES_MAX
        {
            match std::fs::read(&self.path) {
                Ok(bytes) => text = String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) => {
                    say::warning(format_args!("plugin/hosts: {}: {error}", self.path.display()));
                    if !first {
                        return;
                    }
                }
            }
            let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.reloaded.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
        *read = stamp;
        let mut table = Table::default();
        self.add(&text, &mut table);
        self.add(&self.inline, &mut table);
        let entries = table.addresses.values().map(Vec::len).sum::<usize>();
        let names = table.names.values().map(Vec::len).sum::<usize>();
        self.entries.set(i64::try_from(entries + names).unwrap_or(i64::MAX));
        self.table.store(Arc::new(table));
    }

    fn add(&self, text: &str, table: &mut Table) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let address =
                words.next().and_then(|word| word.split('%').next()).and_then(|word| word.parse().ok());
            let Some(address) = address else { continue };
            let address: IpAddr = address;
            let address = address.to_canonical();
            for name in words.filter_map(|word| word.parse::<Name>().ok()) {
                if !self.zones.iter().any(|zone| name.is_in(zone)) {
                    continue;
                }
                let name = name.lowercase();
                table.addresses.entry(name).or_default().push(address);
                if self.reverse && name.labels().next() != Some(b"*") {
                    table.names.entry(address).or_default().push(name);
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = path.metadata().ok().filter(|found| found.is_file())?;
    Some((found.modified().ok()?, found.len()))
}

impl Table {
    /// The addresses of a name, or of the wildcard beside it.
    fn addresses(&self, name: &Name) -> &[IpAddr] {
        let name = name.lowercase();
        if let Some(found) = self.addresses.get(&name) {
            return found;
        }
        let mut wildcard = Name::ROOT;
        let made = wildcard.push(b"*").and_then(|()| wildcard.append(&name.without_first(1)));
        made.ok().and_then(|()| self.addresses.get(&wildcard)).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Plugin for Hosts {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        let Exchange { asked, reply, .. } = exchange;
        let (name, rtype) = (&asked.question.name, asked.question.rtype);
        let table = self.table.load();
        if rtype == Type::PTR {
            let names = address_of_reverse(name).and_then(|address| table.names.get(&address));
            let Some(names) = names else { return Step::Pass };
            for target in names {
                reply.push_name(Section::Answer, Owner::QUESTION, Type::PTR, self.ttl_s, target);
            }
            reply.authoritative = true;
            return Step::Done(Outcome::Records);
        }
        if !self.zones.iter().any(|zone| name.is_in(zone)) {
            return Step::Pass;
        }
        let addressed = matches!(rtype, Type::A | Type::AAAA);
        if !addressed && self.fall_unsupported && self.fall.through(name) {
            return Step::Pass;
        }
        let addresses = table.addresses(name);
        if addresses.is_empty() {
            if self.fall.through(name) {
                return Step::Pass;
            }
            // As CoreDNS does, and without a line in the log for each.
            reply.rcode = Rcode::SERVFAIL;
            return Step::Done(Outcome::Given);
        }
        reply.authoritative = true;
        for address in addresses.iter().filter(|address| addressed && address.is_ipv4() == (rtype == Type::A))
        {
            reply.push_address(Section::Answer, Owner::QUESTION, self.ttl_s, *address);
        }
        Step::Done(Outcome::Records)
    }

    fn start(self: Arc<Self>) {
        if self.reload.is_zero() {
            return;
        }
        let hosts = self.clone();
        let reloading = tokio::spawn(async move {
            loop {
                tokio::time::sleep(hosts.reload).await;
                let hosts = hosts.clone();
                // A file may be large, or on a disk that is slow.
                let _ = tokio::task::spawn_blocking(move || hosts.read_again(false)).await;
            }
        });
        *self.reloading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reloading);
    }

    fn stop(&self) {
        if let Some(reloading) = self.reloading.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reloading.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};
    use std::time::Duration;

    struct File(std::path::PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("portolan-hosts-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            File(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn from_a_file_and_from_the_corefile() {
        let text = "# comment\n10.0.0.1 Web.Example web # both\nfd00::1%eth0 web.example\n10.0.0.2 *.wild.example\n\
                    no.address x.example\n10.0.0.3\n10.0.0.4 other.test\n10.0.0.1 again.example\n";
        let file = File::new("lookup", text);
        let bench = Bench::of(&format!(
            "hosts {} example {{\n10.0.0.9 inline.example web.example\nttl 60\nfallthrough fall.example\n}}\nwhoami",
            file.0.display()
        ));
        for (question, want) in [
            ("WEB.example A", "NOERROR aa WEB.example. 60 IN A 10.0.0.1; WEB.example. 60 IN A 10.0.0.9"),
            ("web.example AAAA", "NOERROR aa web.example. 60 IN AAAA fd00::1"),
            ("web.example MX", "NOERROR aa"),
            ("inline.example AAAA", "NOERROR aa"),
            ("x.wild.example A", "NOERROR aa x.wild.example. 60 IN A 10.0.0.2"),
            ("y.x.wild.example A", "SERVFAIL"),
            ("none.example A", "SERVFAIL"),
            (
                "1.0.0.10.in-addr.arpa PTR",
                "NOERROR aa 1.0.0.10.in-addr.arpa. 60 IN PTR web.example.; 1.0.0.10.in-addr.arpa. 60 IN PTR again.example.",
            ),
        ] {
            assert_eq!(bench.ask(question), want, "{question}");
        }
        for question in ["a.fall.example A", "other.test A", "2.0.0.10.in-addr.arpa PTR"] {
            assert!(bench.ask(question).contains("_udp"), "{question}");
        }
        assert_eq!(bench.metric("coredns_hosts_entries"), "11");
    }

    #[test]
    fn options() {
        let bench = Bench::of(
            "hosts /no/such/file {\n10.0.0.1 a\nno_reverse\nfallthrough\nfallthrough_unsupported\n}\nwhoami",
        );
        assert_eq!(bench.ask("a A"), "NOERROR aa a. 3600 IN A 10.0.0.1");
        for question in ["a MX", "b A", "1.0.0.10.in-addr.arpa PTR"] {
            assert!(bench.ask(question).contains("_udp"), "{question}");
        }
        for (lines, want) in [
            ("hosts /tmp", "\"/tmp\": a directory"),
            ("hosts {\nttl 0\n}", "\"0\": not between 1 and 65535"),
            ("hosts {\nreload 5\n}", "\"5\": no duration"),
            ("hosts {\nwhat x\n}", "\"what\": neither an option of plugin hosts nor an address"),
            ("hosts {\n10.0.0.1\n}", "\"10.0.0.1\": takes an argument"),
            ("hosts {\nfallthrough_unsupported\n}", "fallthrough_unsupported wants fallthrough"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }

    #[test]
    fn read_again_when_it_changes() {
        let file = File::new("reload", "10.0.0.1 a\n");
        let bench = Bench::of(&format!("hosts {} {{\nreload 20ms\n}}", file.0.display()));
        assert_eq!(bench.ask("a A"), "NOERROR aa a. 3600 IN A 10.0.0.1");
        std::fs::write(&file.0, "10.0.0.22 a\n").unwrap();
        for _ in 0..500 {
            if bench.ask("a A").ends_with("10.0.0.22") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it was never read again");
    }
}
