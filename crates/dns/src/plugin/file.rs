//! `file`: answers from zone files.
//!
//! ```text
//! file FILE [ZONE...] {
//!     reload DURATION
//!     reload_by_mtime
//!     fallthrough [ZONE...]
//! }
//! ```

use super::authority::{self, Served, Zones};
use super::fall::Fall;
use crate::chain::{At, Later, Plugin, Step};
use crate::corefile::{Error, Line, origins};
use crate::exchange::Exchange;
use crate::say;
use crate::setup::{Notify, Setting, duration};
use crate::stamp::{Stamp, stamp};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use wire::Name;

/// CoreDNS' own.
const RELOAD_DEFAULT: Duration = Duration::from_secs(60);

struct File {
    zones: Zones,
    fall: Fall,
    sources: Vec<Arc<Source>>,
    notifies: Vec<Notify>,
    reloading: Mutex<Vec<JoinHandle<()>>>,
}

/// A file, and the zones that it makes.
struct Source {
    path: PathBuf,
    zones: Vec<Arc<Served>>,
    reload: Duration,
    by_time: bool,
    read: Mutex<Stamp>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut fall = Fall::default();
    let mut sources = Vec::new();
    for line in setting.lines {
        sources.push(Arc::new(source(line, setting, &mut fall)?));
    }
    let zones = Zones::new(sources.iter().flat_map(|source| source.zones.iter().cloned()));
    let notifies = setting.block.notifies.clone();
    Ok(Some(Arc::new(File { zones, fall, sources, notifies, reloading: Mutex::default() })))
}

fn source(line: &Line, setting: &Setting<'_>, fall: &mut Fall) -> Result<Source, Error> {
    let Some((file, zones)) = line.args.split_first() else { return Err(line.error("takes a file")) };
    let mut source = Source {
        path: setting.block.path(&file.text),
        zones: Vec::new(),
        reload: RELOAD_DEFAULT,
        by_time: false,
        read: Mutex::default(),
    };
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "reload" => {
                let [word] = option.exactly()?;
                source.reload = duration(word)?;
            }
            "reload_by_mtime" => {
                option.no_arguments()?;
                source.by_time = true;
            }
            "fallthrough" => fall.read(option)?,
            // It has had no meaning for long, and still stands in Corefiles.
            "upstream" => {}
            _ => return Err(option.unknown_option("file")),
        }
    }
    source.read = Mutex::new(stamp(&source.path));
    for origin in origins(zones, &setting.block.zones)? {
        let zone = match authority::read_file(&source.path, &origin) {
            Ok(zone) => Some(zone),
            // The file may come later.
            Err(error) if !source.path.exists() && !source.reload.is_zero() => {
                let again = source.reload.as_secs();
                say::warning(format_args!("plugin/file: Failed to open {error}: trying again in {again}s"));
                None
            }
            Err(error) => return Err(file.error(error)),
        };
        source.zones.push(Served::new(origin, zone));
    }
    Ok(source)
}

impl Source {
    /// Reads the file again where it has changed; the zones that have are given back.
    fn read_again(&self) -> Vec<Name> {
        let stamp = stamp(&self.path);
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if stamp.is_none() || *read == stamp {
                return Vec::new();
            }
            *read = stamp;
        }
        let mut changed = Vec::new();
        for served in &self.zones {
            match authority::read_file(&self.path, &served.origin) {
                Ok(zone) => {
                    let old = served.zone.load().as_ref().map(|old| old.serial);
                    if old == Some(zone.serial) && !self.by_time {
                        continue;
                    }
                    let (origin, path) = (served.origin, self.path.display());
                    let serial = zone.serial;
                    say::info(format_args!(
                        "plugin/file: Successfully reloaded zone \"{origin}\" in \"{path}\" with {serial} SOA serial"
                    ));
                    served.zone.store(Some(Arc::new(zone)));
                    changed.push(served.origin);
                }
                // What was good stays.
                Err(error) => say::error(format_args!("plugin/file: Parsing zone: {error}")),
            }
        }
        changed
    }
}

impl Plugin for File {
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
        let mut reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        for source in self.sources.iter().filter(|source| !source.reload.is_zero()) {
            let (source, notifies) = (source.clone(), self.notifies.clone());
            reloading.push(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(source.reload).await;
                    let source = source.clone();
                    let changed = tokio::task::spawn_blocking(move || source.read_again()).await;
                    for origin in changed.unwrap_or_default() {
                        authority::notify(&notifies, &origin);
                    }
                }
            }));
        }
    }

    fn stop(&self) {
        for task in self.reloading.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, Told, refused, scratch};
    use std::time::Duration;

    const ZONE: &str = "$TTL 60\n@ SOA ns root 7 7200 1800 86400 300\n@ NS ns\nns A 10.0.0.1\nfar CNAME web.other.\n\
                        out CNAME x.elsewhere.\n";

    #[test]
    fn zones_from_files() {
        let told = Told::good();
        let dir = scratch("file-answers");
        dir.write("db", ZONE);
        let bench = Bench::new(&format!(
            "example.org example.net {{\nroot {}\nfile db {{\nfallthrough pass.example.org\n}}\nforward . {}\n}}\n\
             other {{\nforward . {}\n}}",
            dir.path(),
            told.address,
            told.address
        ));
        let servers = " | example.org. 60 IN NS ns.example.org.";
        for (question, want) in [
            ("ns.example.org A", format!("NOERROR aa ns.example.org. 60 IN A 10.0.0.1{servers}")),
            ("ns.example.net A", "NOERROR aa ns.example.net. 60 IN A 10.0.0.1 | example.net. 60 IN NS ns.example.net.".into()),
            ("no.example.org A", "NXDOMAIN aa | example.org. 60 IN SOA ns.example.org. root.example.org. 7 7200 1800 86400 300".into()),
            ("far.example.org A", format!("NOERROR aa far.example.org. 60 IN CNAME web.other.; web.other. 30 IN A 10.0.0.1{servers}")),
            ("out.example.org A", format!("NOERROR aa out.example.org. 60 IN CNAME x.elsewhere.{servers}")),
            ("a.pass.example.org A", "NOERROR ra a.pass.example.org. 30 IN A 10.0.0.1".into()),
            ("example.org AXFR tcp", "REFUSED".into()),
        ] {
            assert_eq!(bench.ask(question), want, "{question}");
        }
    }

    #[test]
    fn files_are_read_again_when_their_serial_changes() {
        let dir = scratch("file-reload");
        let bench = Bench::new(&format!("example.org {{\nfile {}/db {{\nreload 20ms\n}}\n}}", dir.path()));
        assert_eq!(bench.ask("ns.example.org A"), "SERVFAIL", "there is no file yet");
        dir.write("db", ZONE);
        let until = |what: &str| {
            for _ in 0..500 {
                if bench.ask("ns.example.org A").contains(what) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("never {what}");
        };
        until("10.0.0.1");
        dir.write("db", "this is (no zone");
        std::thread::sleep(Duration::from_millis(100));
        until("10.0.0.1");
        dir.write("db", &ZONE.replace("10.0.0.1", "10.0.0.2").replace("root 7", "root 8"));
        until("10.0.0.2");
    }

    #[test]
    fn errors_name_the_place() {
        let dir = scratch("file-errors");
        dir.write("bad", "$TTL 5\na A 10.0.0.999");
        dir.write("none", "$TTL 5\na A 10.0.0.1");
        let path = dir.path();
        for (lines, want) in [
            ("file".to_owned(), "\"file\": takes a file".to_owned()),
            (format!("file {path}/bad"), format!("{path}/bad:2: \"10.0.0.999\": no IPv4 address")),
            (format!("file {path}/none"), "no SOA record for origin .".to_owned()),
            (format!("file {path}/missing {{\nreload 0\n}}"), "No such file or directory".to_owned()),
            (format!("file {path}/none {{\nwhat\n}}"), "\"what\": no option of plugin file".to_owned()),
        ] {
            let error = refused(&lines);
            assert!(error.contains(&want), "{lines}: {error}");
        }
    }
}
