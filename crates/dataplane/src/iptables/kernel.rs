//! The kernel's tables through iptables' own programs: `iptables-restore` writes them, `iptables-save`
//! reads them, and the kernel itself tells whether somebody has been there since.

use super::half::{Refusal, Saved, Sink, Tables};
use super::name::{Chain, Table};
use super::variant::{Programs, Variant};
use crate::Error;
use model::Family;
use netlink::{Netfilter, Socket, nftables, xtables};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long `iptables-restore` waits for the lock that all who write share, as kube-proxy does.
const LOCK_WAIT_S: &str = "5";
/// What programs say when another one has had the lock all that time.
const LOCKED: &str = "xtables lock";

/// What iptables-legacy says while another process has the kernel load its module, how often one asks
/// again then, and when.
const NOT_LOADED: &str = "do you need to insmod?";
const LOAD_TRIES: u32 = 5;
const LOAD_WAIT: Duration = Duration::from_millis(200);

/// The tables of one family.
#[derive(Debug)]
pub struct Kernel {
    family: Family,
    programs: Programs,
    restore: PathBuf,
    save: PathBuf,
    netfilter: Socket<Netfilter>,
}

/// By what a later look sees that somebody has been at the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Of iptables-nft: the generation of all rules in the namespace.
    generation: u32,
    /// Of iptables-legacy: how many rules each table has, and how big it is.
    sizes: Vec<xtables::Info>,
}

impl Seal {
    /// After so many commits of ours.
    pub(super) fn after(mut self, commits: usize) -> Seal {
        let commits = u32::try_from(commits).unwrap_or(u32::MAX);
        self.generation = self.generation.wrapping_add(commits);
        self
    }

    /// Whether one of the tables lost much since then: a tenth of its rules and more than a few.
    pub(super) fn lost_much_since(&self, before: &Seal) -> bool {
        let lost = |(now, then): (&xtables::Info, &xtables::Info)| {
            let few = (then.entries / 10).max(8);
            then.entries.saturating_sub(now.entries) > few
        };
        self.sizes.iter().zip(&before.sizes).any(lost)
    }
}

impl Kernel {
    /// The tables of a family in this network namespace.
    pub(super) fn open(family: Family, programs: &Programs) -> Result<Kernel, Error> {
        Ok(Kernel {
            family,
            restore: programs.path(family, "restore")?,
            save: programs.path(family, "save")?,
            programs: programs.clone(),
            netfilter: Socket::open()?,
        })
    }

    /// The tables of a family in this network namespace, by this kind of iptables.
    pub fn of_variant(variant: Variant, family: Family) -> Result<Kernel, Error> {
        Kernel::open(family, &Programs::find(Some(variant))?)
    }

    /// Which iptables a plane would use that is asked to use this one, or whichever the node uses.
    pub fn variant_in_use(wanted: Option<Variant>) -> Result<Variant, Error> {
        Ok(Programs::find(wanted)?.variant)
    }

    /// Which iptables this is.
    pub fn variant(&self) -> Variant {
        self.programs.variant
    }

    /// The state of the tables as a seal.
    pub(super) fn seal(&mut self) -> Result<Seal, Error> {
        match self.programs.variant {
            Variant::Nft => {
                Ok(Seal { generation: nftables::generation(&mut self.netfilter)?.id, sizes: vec![] })
            }
            Variant::Legacy => {
                if let Ok(seal) = self.sizes() {
                    return Ok(seal);
                }
                // The kernel does not load the module for a mere question, the program does.
                for table in Table::ALL {
                    self.read(table, &mut |_| {})?;
                }
                self.sizes()
            }
        }
    }

    fn sizes(&self) -> Result<Seal, Error> {
        let version = match self.family {
            Family::V4 => netlink::IpVersion::V4,
            Family::V6 => netlink::IpVersion::V6,
        };
        let infos = Table::ALL.map(|table| xtables::info(version, table.name()));
        Ok(Seal { generation: 0, sizes: infos.into_iter().collect::<Result<_, _>>()? })
    }

    /// Whether the canary is in all tables: one that was flushed whole has lost it. Cheap for
    /// iptables-nft only.
    pub(super) fn has_canary(&self) -> Result<bool, Error> {
        let program = self.programs.path(self.family, "")?;
        let canary = Chain::Canary.to_string();
        for table in Table::ALL {
            let mut command = Command::new(&program);
            command.args(["-t", table.name(), "-S", &canary]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if !command.status().map_err(|e| failed(&program, e))?.success() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one table; what fails has printed nothing.
    fn read_once(&self, table: Table, visit: &mut dyn FnMut(Saved<'_>)) -> Result<(), Error> {
        let fail = |source| failed(&self.save, source);
        let mut command = Command::new(&self.save);
        command.args(["-t", table.name()]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fail)?;
        let stdout = child.stdout.take().ok_or_else(|| fail(std::io::ErrorKind::BrokenPipe.into()))?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        while reader.read_line(&mut line).map_err(fail)? > 0 {
            if let Some(saved) = saved(line.trim_end()) {
                visit(saved);
            }
            line.clear();
        }
        match end(child).map_err(fail)? {
            (true, _) => Ok(()),
            (false, said) => Err(Error::Restore(format!("{} -t {table}: {said}", self.save.display()))),
        }
    }
}

fn failed(program: &std::path::Path, source: std::io::Error) -> Error {
    Error::Program { program: program.display().to_string(), source }
}

/// What one iptables-nft-restore should be given at most: with the number of new chains in one batch
/// its time grows by the square or worse (1.8.9: 250 Services with 10 endpoints 0.2 s, 1,000 2 s,
/// 2,000 18 s, whatever there is already). The other kind reads and writes the whole table each time.
const SERVICES_AT_ONCE: usize = 250;

impl Tables for Kernel {
    fn services_at_once(&self) -> usize {
        match self.programs.variant {
            Variant::Nft => SERVICES_AT_ONCE,
            Variant::Legacy => usize::MAX,
        }
    }

    fn read(&mut self, table: Table, visit: &mut dyn FnMut(Saved<'_>)) -> Result<(), Error> {
        for _ in 1..LOAD_TRIES {
            match self.read_once(table, visit) {
                Err(Error::Restore(said)) if said.contains(NOT_LOADED) => std::thread::sleep(LOAD_WAIT),
                done => return done,
            }
        }
        self.read_once(table, visit)
    }

    fn restore(&mut self, feed: &mut dyn FnMut(Sink<'_>)) -> Result<(), Refusal> {
        let program = self.restore.display();
        let cannot = |error: std::io::Error| Refusal {
            what: format!("run {program}: {error}"),
            line: None,
            in_general: true,
        };
        let mut command = Command::new(&self.restore);
        command.arg("--noflush");
        if self.programs.modern {
            command.args(["-w", LOCK_WAIT_S]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let mut stdin = child.stdin.take();
        // One that has had enough closes its end; what it thinks of the rest, its exit code says.
        feed(&mut |text| {
            if stdin.as_mut().is_some_and(|pipe| pipe.write_all(text.as_bytes()).is_err()) {
                stdin = None;
            }
        });
        drop(stdin);
        let (worked, said) = end(child).map_err(cannot)?;
        if worked {
            return Ok(());
        }
        let in_general = said.contains(LOCKED);
        let line = refused_line(&said);
        Err(Refusal { what: format!("{program}: {said}"), line, in_general })
    }
}

/// Waits for a program, and returns whether it worked and what it had to say.
fn end(mut child: Child) -> std::io::Result<(bool, String)> {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(64 << 10).read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    let advice = |line: &&str| !line.starts_with("Try `") && !line.trim().is_empty();
    let said: Vec<&str> = said.lines().filter(advice).map(str::trim).collect();
    let said = if said.is_empty() { status.to_string() } else { said.join(" ") };
    Ok((status.success(), said))
}

/// A line of `iptables-save`, if it tells of a chain or a rule.
fn saved(line: &str) -> Option<Saved<'_>> {
    if let Some(chain) = line.strip_prefix(':') {
        return chain.split(' ').next().map(Saved::Chain);
    }
    let rule = line.strip_prefix("-A ")?;
    let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
    Some(Saved::Rule(chain, rule))
}

/// The line that was refused, where it is told: `Error occurred at line: 7`, `line 7: RULE_APPEND
/// failed`. Of `line 7 failed` that is the line of the COMMIT, which is nobody's.
fn refused_line(said: &str) -> Option<usize> {
    let (_, after) = said.rsplit_once("line: ").or_else(|| said.split_once("line "))?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_refused() {
        let cases = [
            ("iptables-restore v1.8.9 (legacy): Couldn't load target `X' Error occurred at line: 3", Some(3)),
            ("iptables-restore: line 7 failed", Some(7)),
            ("iptables-nft-restore v1.8.9 (nf_tables): line 19: RULE_INSERT failed (Invalid)", Some(19)),
            ("Bad rule (does a matching rule exist in that chain?).", None),
        ];
        for (said, line) in cases {
            assert_eq!(refused_line(said), line, "{said}");
        }
    }
}
