//! `auto`: answers from all zone files of a directory, as they come and go.
//!
//! ```text
//! auto [ZONE...] {
//!     directory DIR [REGEXP ORIGIN]
//!     reload DURATION
//!     fallthrough [ZONE...]
//! }
//! ```
//!
//! A file whose name matches the expression is a zone of the name that `ORIGIN` makes of it, `{1}` being
//! the expression's first group: by default `db.example.org` is `example.org`.

use super::authority::{self, Served, Zones};
use super::fall::Fall;
use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::Exchange;
use crate::say;
use crate::setup::{Notify, Setting, duration};
use crate::stamp::{Stamp, stamp};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use wire::Name;

/// CoreDNS' own.
const RELOAD_DEFAULT: Duration = Duration::from_secs(60);
/// Directories are looked into so deep.
const DEPTH_MAX: u32 = 16;
/// So many files at most are zones.
const FILES_MAX: usize = 100_000;

struct Auto {
    zones: Zones,
    fall: Fall,
    scanner: Arc<Scanner>,
    notifies: Vec<Notify>,
    scanning: Mutex<Option<JoinHandle<()>>>,
}

/// What looks for files.
struct Scanner {
    within: Vec<Name>,
    directory: PathBuf,
    regex: Regex,
    template: String,
    reload: Duration,
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

/// A file as it was read last.
#[derive(Clone)]
struct Known {
    stamp: Stamp,
    served: Arc<Served>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let default = Regex::new(r"db\.(.*)").map_err(|error| line.error(error))?;
    let mut fall = Fall::default();
    let mut scanner = Scanner {
        within: origins(&line.args, &setting.block.zones)?,
        directory: PathBuf::new(),
        regex: default,
        template: "{1}".to_owned(),
        reload: RELOAD_DEFAULT,
        known: Mutex::default(),
    };
    let mut directory = None;
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "directory" => {
                read_directory(option, setting, &mut scanner)?;
                directory = Some(option);
            }
            "reload" => {
                let [word] = option.exactly()?;
                scanner.reload = duration(word)?;
            }
            "fallthrough" => fall.read(option)?,
            "upstream" => {}
            _ => return Err(option.unknown_option("auto")),
        }
    }
    if directory.is_none() {
        return Err(line.error("takes a directory"));
    }
    scanner.scan();
    let zones = Zones::new(scanner.served());
    let notifies = setting.block.notifies.clone();
    let scanner = Arc::new(scanner);
    Ok(Some(Arc::new(Auto { zones, fall, scanner, notifies, scanning: Mutex::default() })))
}

fn read_directory(option: &Line, setting: &Setting<'_>, scanner: &mut Scanner) -> Result<(), Error> {
    let (path, rest) = match option.args.as_slice() {
        [] => return Err(option.error("takes a directory")),
        [path, rest @ ..] => (path, rest),
    };
    scanner.directory = setting.block.path(&path.text);
    match rest {
        [] => {}
        [regex, template] => {
            scanner.regex = Regex::new(&regex.text).map_err(|error| regex.error(error))?;
            scanner.template = template.text.clone();
        }
        [_] => return Err(option.error("takes an origin behind the expression")),
        [_, _, extra, ..] => return Err(extra.error("one argument too many")),
    }
    if !scanner.directory.is_dir() {
        say::warning(format_args!("plugin/auto: Directory does not exist: {}", scanner.directory.display()));
    }
    Ok(())
}

impl Scanner {
    fn served(&self) -> Vec<Arc<Served>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|known| known.served.clone()).collect()
    }

    /// The zone that a file is, by its name.
    fn origin(&self, path: &Path) -> Option<Name> {
        let file = path.file_name()?.to_str()?;
        let groups = self.regex.captures(file)?;
        let mut origin = self.template.clone();
        for (index, group) in groups.iter().enumerate() {
            origin = origin.replace(&format!("{{{index}}}"), group.map_or("", |group| group.as_str()));
        }
        let origin: Name = origin.parse().ok()?;
        self.within.iter().any(|zone| origin.is_in(zone)).then_some(origin.lowercase())
    }

    /// Looks through the directory, and says which zones are new or have changed.
    fn scan(&self) -> Vec<Name> {
        let mut files = Vec::new();
        list(&self.directory, 0, &mut files);
        files.sort();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::new();
        let mut changed = Vec::new();
        for path in files {
            let Some(origin) = self.origin(&path) else { continue };
            let stamp = stamp(&path);
            let old = known.get(&path).cloned();
            if let Some(old) = old.as_ref().filter(|old| old.stamp == stamp) {
                next.insert(path, old.clone());
                continue;
            }
            match authority::read_file(&path, &origin) {
                Ok(zone) => {
                    let same = |old: &Known| {
                        old.served.zone.load().as_ref().is_some_and(|old| old.serial == zone.serial)
                    };
                    let known = match old {
                        // As in CoreDNS, a zone has changed when its serial has.
                        Some(old) if same(&old) => Known { stamp, ..old },
                        _ => {
                            let (serial, path) = (zone.serial, path.display());
                            say::info(format_args!(
                                "plugin/auto: Inserting zone `{origin}' from: {path} with {serial} SOA serial"
                            ));
                            changed.push(origin);
                            Known { stamp, served: Served::new(origin, Some(zone)) }
                        }
                    };
                    next.insert(path, known);
                }
                Err(error) => {
                    say::warning(format_args!("plugin/auto: Parsing zone `{origin}': {error}"));
                    // What was good stays, and is not read again until the file changes.
                    if let Some(old) = old {
                        next.insert(path, Known { stamp, ..old });
                    }
                }
            }
        }
        *known = next;
        changed
    }
}

fn list(directory: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if files.len() >= FILES_MAX {
            return;
        }
        let path = entry.path();
        if path.is_dir() {
            // The directories of mounted ConfigMaps begin with two dots, and stand beside links to them.
            let hidden = entry.file_name().to_string_lossy().starts_with("..");
            if depth < DEPTH_MAX && !hidden {
                list(&path, depth + 1, files);
            }
        } else {
            files.push(path);
        }
    }
}

impl Plugin for Auto {
    fn ask(&self, exchange: &mut Exchange, at: &At<'_>) -> Step {
        authority::ask(&self.zones, &self.fall, exchange, at)
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(authority::chase(exchange, at))
    }

    fn zone_records(&self, zone: &Name) -> Option<Vec<crate::zonefile::Record>> {
        self.zones.records(zone)
    }

    fn start(self: Arc<Self>) {
        for zone in self.zones.all() {
            authority::notify(&self.notifies, &zone.origin);
        }
        if self.scanner.reload.is_zero() {
            return;
        }
        let auto = self.clone();
        let scanning = tokio::spawn(async move {
            loop {
                tokio::time::sleep(auto.scanner.reload).await;
                let scanner = auto.scanner.clone();
                let changed = tokio::task::spawn_blocking(move || scanner.scan()).await.unwrap_or_default();
                auto.zones.replace(auto.scanner.served());
                for origin in changed {
                    authority::notify(&auto.notifies, &origin);
                }
            }
        });
        *self.scanning.lock().unwrap_or_else(PoisonError::into_inner) = Some(scanning);
    }

    fn stop(&self) {
        if let Some(scanning) = self.scanning.lock().unwrap_or_else(PoisonError::into_inner).take() {
            scanning.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused, scratch};
    use std::time::Duration;

    fn zone(serial: u32, last: u8) -> String {
        format!("$TTL 60\n@ SOA ns root {serial} 7200 1800 86400 300\nns A 10.0.0.{last}\n")
    }

    #[test]
    fn zones_come_and_go_with_their_files() {
        let dir = scratch("auto");
        dir.write("db.a.org", &zone(1, 1));
        dir.write("db.b.net", &zone(1, 1));
        dir.write("other", &zone(1, 1));
        let bench = Bench::new(&format!(
            "org {{\nauto {{\ndirectory {}\nreload 20ms\nfallthrough\n}}\nwhoami\n}}",
            dir.path()
        ));
        let until = |name: &str, what: &str| {
            for _ in 0..500 {
                if bench.ask(name).contains(what) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("{name}: never {what}, but {}", bench.ask(name));
        };
        until("ns.a.org A", "10.0.0.1");
        assert!(bench.ask("x.b.org A").contains("_udp"));
        dir.write("db.b.org", &zone(1, 2));
        until("ns.b.org A", "10.0.0.2");
        dir.write("db.b.org", &zone(2, 3));
        until("ns.b.org A", "10.0.0.3");
        dir.write("db.b.org", "no (zone");
        std::thread::sleep(Duration::from_millis(60));
        until("ns.b.org A", "10.0.0.3");
        dir.remove("db.b.org");
        until("ns.b.org A", "_udp");
    }

    #[test]
    fn names_of_zones_are_made_of_those_of_files() {
        let dir = scratch("auto-names");
        dir.write("zone-x.txt", &zone(1, 1));
        let bench =
            Bench::of(&format!("auto {{\ndirectory {} zone-(.*)\\.txt {{1}}.made\n}}\nwhoami", dir.path()));
        assert!(bench.ask("ns.x.made A").contains("10.0.0.1"));
        for (lines, want) in [
            ("auto", "\"auto\": takes a directory"),
            ("auto {\ndirectory\n}", "\"directory\": takes a directory"),
            ("auto {\ndirectory /tmp x\n}", "takes an origin behind the expression"),
            ("auto {\ndirectory /tmp ( y\n}", "\"(\": "),
            ("auto {\nwhat\n}", "\"what\": no option of plugin auto"),
        ] {
            assert!(refused(lines).contains(want), "{lines}");
        }
    }
}
