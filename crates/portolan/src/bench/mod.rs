//! `portolan bench`: how modes scale on this kernel. The real daemon is given synthetic clusters in
//! a network namespace, and its figures are printed. It judges nothing.

mod measure;
mod plot;
mod report;
mod synthetic;

use crate::error::Error;
use crate::janitor::Janitor;
use crate::{output, rights};
use clap::Args;
use measure::{Row, Task};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use synthetic::{ENDPOINTS_MAX, SERVICES_MAX, Size};

/// Measure how modes scale on this kernel, in network namespaces of its own
#[derive(Args)]
pub(crate) struct Arguments {
    /// Modes to measure: auto, ipvs, nftables, iptables (iptables-legacy, iptables-nft) or ebpf
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', default_value = "auto")]
    mode: Vec<String>,
    /// Numbers of Services to measure with
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,1000,20000")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(SERVICES_MAX)))]
    services: Vec<u32>,
    /// Endpoints of each Service
    #[arg(long, value_name = "E", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    endpoints: u32,
    /// Connections along each way
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Changes of an endpoint
    #[arg(long, value_name = "N", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    changes: u32,
    /// Whether the daemons set backends aside that do not answer, as the flag of `run`: on or off
    #[arg(long, value_name = "WHETHER", value_parser = ["on", "off"], default_value = "on")]
    set_aside: String,
    /// Print one line of JSON for each mode and size
    #[arg(long)]
    json: bool,
    /// Write bench.json, and bench.html with plots, to this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Where manifests are written if it is in memory: reading them is not what is measured.
const MEMORY: &str = "/dev/shm";

/// Measures.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let Arguments { mode: modes, services, endpoints, rounds, changes, set_aside, json, report } = arguments;
    if let Some(most) = services.iter().max().filter(|most| **most > ENDPOINTS_MAX / endpoints) {
        output::usage(format_args!(
            "{most} Services with {endpoints} endpoints are more than {ENDPOINTS_MAX}"
        ));
    }
    rights::become_root()?;
    let janitor = Janitor::on_duty()?;
    let in_memory = statfs(MEMORY).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    let parent = if in_memory { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    let kind = if in_memory { "in memory" } else { "not in memory" };
    output::notice(format_args!("manifests are written to {} ({kind}), one object a file", parent.display()));
    if !json {
        print(&report::heading())?;
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut cannot = false;
    for mode in &modes {
        for services in &services {
            let size = Size { services: *services, endpoints };
            let task =
                Task { mode, size, rounds: rounds as usize, changes, set_aside: &set_aside, parent: &parent };
            let row = match measure::measure(&task, &janitor) {
                Ok(row) => row,
                // The other modes may work.
                Err(error) => {
                    output::error(&error);
                    cannot = true;
                    break;
                }
            };
            print(&if json { report::line(&row)? } else { report::table_row(&row) })?;
            rows.push(row);
        }
    }
    if let Some(directory) = report {
        write_report(&directory, &rows)?;
    }
    Ok(if cannot { ExitCode::from(output::CANNOT) } else { ExitCode::SUCCESS })
}

fn print(line: &str) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{line}").map_err(Error::Output)
}

fn write_report(directory: &Path, rows: &[Row]) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::Output)?;
    let lines = rows.iter().map(report::line).collect::<Result<Vec<_>, _>>()?;
    std::fs::write(directory.join("bench.json"), lines.join("\n") + "\n").map_err(Error::Output)?;
    std::fs::write(directory.join("bench.html"), report::page(rows)).map_err(Error::Output)
}
