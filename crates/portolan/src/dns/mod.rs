//! `portolan dns`, and the program under the name `coredns`: CoreDNS' flags, signals and defaults
//! around the server of crate `dns`.

mod cluster;
mod local;
mod own;
mod thread;

pub(crate) use local::{Local, Options as LocalOptions, default_addresses};
pub(crate) use own::Own;
pub(crate) use thread::{Control, Names, Wanted};

use crate::error::Error;
use ::dns::instance::{Event, Instance, Options, Source};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

/// So many signals may wait.
const EVENTS_MAX: usize = 16;

/// The port of servers whose key names none.
const PORT_DEFAULT: u16 = 53;

/// The Corefile that is taken where none is named, if it is there.
const COREFILE_DEFAULT: &str = "Corefile";

/// What counts where there is no Corefile.
const COREFILE_NONE: &str = ". {\nwhoami\nlog\n}\n";

/// The exit code when the flags make no sense, also Go's.
const USAGE: u8 = 2;

const HELP: &str = "\
Usage of portolan dns:
  -conf FILE
    \tCorefile to load (default \"Corefile\"); \"stdin\" reads standard input
  -dns.port, -p PORT
    \tDefault port (default 53)
  -pidfile FILE
    \tPath to write pid file
  -plugins
    \tList installed plugins
  -quiet
    \tQuiet mode (no initialization output)
  -version
    \tShow version
";

/// What the flags say.
#[derive(Debug, PartialEq, Eq)]
struct Flags {
    conf: Option<PathBuf>,
    port: u16,
    pid_file: Option<PathBuf>,
    plugins: bool,
    quiet: bool,
    version: bool,
    help: bool,
}

/// Runs the server with these arguments.
pub(crate) fn run(arguments: Vec<OsString>) -> Result<ExitCode, Error> {
    let flags = match Flags::parse(arguments) {
        Ok(flags) => flags,
        Err(what) => {
            eprint!("{what}\n{HELP}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    if flags.help {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    if flags.version {
        println!("Portolan-{}", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    if flags.plugins {
        for name in ::dns::plugin::built_names() {
            println!("dns.{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    serve(flags)
}

fn serve(flags: Flags) -> Result<ExitCode, Error> {
    // Blocked before any thread is started, so that none of them is interrupted.
    let signals = block_signals()?;
    let corefile = corefile(flags.conf)?;
    let options = Options::new(corefile, Arc::new(cluster::Clusters));
    let options = Options { dns_port: flags.port, quiet: flags.quiet, ..options };
    let instance = Instance::start(options)?;
    if let Some(path) = &flags.pid_file {
        let write = std::fs::write(path, format!("{}\n", std::process::id()));
        write.map_err(|error| Error::Start("write the pid file", error))?;
    }
    let (sender, events) = sync_channel(EVENTS_MAX);
    let thread = std::thread::Builder::new().name("signals".into());
    let wait = move || wait_for_signals(signals, &sender);
    thread.spawn(wait).map_err(|e| Error::Start("start the thread that waits for signals", e))?;
    instance.run(&events);
    if let Some(path) = &flags.pid_file {
        // It may have been taken away already.
        let _ = std::fs::remove_file(path);
    }
    Ok(ExitCode::SUCCESS)
}

fn corefile(conf: Option<PathBuf>) -> Result<Source, Error> {
    match conf {
        Some(path) if path == Path::new("stdin") => {
            let text = std::io::read_to_string(std::io::stdin());
            Ok(Source::Text("stdin", text.map_err(|e| Error::Start("read the Corefile from stdin", e))?))
        }
        Some(path) => Ok(Source::File(path)),
        None if Path::new(COREFILE_DEFAULT).exists() => Ok(Source::File(COREFILE_DEFAULT.into())),
        None => Ok(Source::Text(COREFILE_DEFAULT, COREFILE_NONE.to_owned())),
    }
}

fn block_signals() -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|e| Error::Start("block signals", e.into()))?;
    Ok(signals)
}

fn wait_for_signals(signals: SigSet, sender: &SyncSender<Event>) {
    while let Ok(signal) = signals.wait() {
        let event = match signal {
            Signal::SIGUSR1 => Event::Reload,
            Signal::SIGTERM => Event::Stop,
            // CoreDNS does not end by a hang-up.
            Signal::SIGHUP => continue,
            _ => Event::StopNow,
        };
        if sender.send(event).is_err() {
            return;
        }
    }
}

impl Flags {
    /// Reads flags as Go's package `flag` does: `-name value`, `-name=value`, one dash or two.
    fn parse(arguments: Vec<OsString>) -> Result<Flags, String> {
        let mut flags = Flags {
            conf: None,
            port: PORT_DEFAULT,
            pid_file: None,
            plugins: false,
            quiet: false,
            version: false,
            help: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let text = argument.to_str().ok_or("an argument is not UTF-8 text")?;
            let Some(flag) =
                text.strip_prefix("--").or(text.strip_prefix('-')).filter(|flag| !flag.is_empty())
            else {
                return Err(format!("extra command line arguments: {text}"));
            };
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (flag, None),
            };
            let switch = match name {
                "plugins" => Some(&mut flags.plugins),
                "quiet" => Some(&mut flags.quiet),
                "version" => Some(&mut flags.version),
                "h" | "help" => Some(&mut flags.help),
                _ => None,
            };
            if let Some(switch) = switch {
                *switch = match value.as_ref().and_then(|value| value.to_str()) {
                    None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => true,
                    Some("false" | "0" | "f" | "F" | "FALSE" | "False") => false,
                    Some(value) => return Err(format!("invalid boolean value {value:?} for -{name}")),
                };
                continue;
            }
            let mut take = || value.take().or_else(|| arguments.next());
            let missing = || format!("flag needs an argument: -{name}");
            match name {
                "conf" => {
                    let path = take().ok_or_else(missing)?;
                    flags.conf = Some(path.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty());
                }
                "pidfile" => flags.pid_file = Some(take().ok_or_else(missing)?.into()),
                "dns.port" | "p" => {
                    let value = take().ok_or_else(missing)?;
                    let port = value.to_str().and_then(|value| value.parse().ok());
                    flags.port = port.ok_or_else(|| format!("invalid port {value:?} for -{name}"))?;
                }
                _ => return Err(format!("flag provided but not defined: -{name}")),
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        Flags::parse(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn flags_as_go_reads_them() {
        let flags = parse(&["-conf", "/etc/coredns/Corefile", "--dns.port=1053", "-quiet", "-version=false"]);
        let flags = flags.expect("good flags");
        assert_eq!(flags.conf, Some("/etc/coredns/Corefile".into()));
        assert_eq!((flags.port, flags.quiet, flags.version), (1053, true, false));
        assert_eq!(parse(&["-p", "5"]).map(|flags| flags.port), Ok(5));
        assert_eq!(parse(&[]).map(|flags| (flags.port, flags.conf)), Ok((53, None)));
        for (arguments, what) in [
            (&["-conf"][..], "flag needs an argument: -conf"),
            (&["-p", "x"], "invalid port \"x\" for -p"),
            (&["-nothing"], "flag provided but not defined: -nothing"),
            (&["extra"], "extra command line arguments: extra"),
            (&["-quiet=x"], "invalid boolean value \"x\" for -quiet"),
        ] {
            assert_eq!(parse(arguments), Err(what.to_owned()));
        }
    }
}
