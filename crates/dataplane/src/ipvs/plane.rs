//! The whole plane: both families, the node's addresses, leaving real servers, and noticing when
//! somebody else changed what is ours.

use super::half::{Half, Servers};
use super::image::{Image, Options, ServerKey};
use super::kernel::{Kernel, Settings};
use super::schedulers;
use super::steps::{Step, steps};
use super::switches::Number;
use crate::nftables::plane::ROUTE_LOCALNET;
use crate::nftables::show::services;
use crate::nftables::{self, Drift, Key, Preview, Tables as _};
use crate::sysctl;
use crate::{Error, Report, ShownService};
use model::{Family, Name, Prefix};
use plan::{At, Delta, NodeRules, Rules, ServiceRules};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The scheduler of Services when nobody chose one.
pub const DEFAULT_SCHEDULER: &str = "rr";
/// How many servers and addresses are looked at each time.
const LOOK_AT: usize = 128;
/// How many looks for drift there are to one for schedulers that were missing.
const LOOKS_FOR_SCHEDULERS: u32 = 30;
/// How long a leaving TCP server may keep its connections.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the configuration decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The scheduler of Services that do not ask for another.
    pub scheduler: Name,
    /// How long a leaving TCP server may keep its connections.
    pub drain_limit: Duration,
    /// Networks in which virtual servers of others are left alone even where a Service asks for
    /// their place.
    pub excluded: Vec<Prefix>,
    /// What of the kernel it decides.
    pub kernel: Settings,
}

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration {
            scheduler: DEFAULT_SCHEDULER.into(),
            drain_limit: DRAIN_LIMIT,
            excluded: vec![],
            kernel: Settings::default(),
        }
    }
}

/// What is left when the tables are gone.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The virtual servers.
    pub servers: BTreeSet<Key>,
    /// Switches of the kernel, and how they stood before us.
    pub switches: Vec<(Family, Number, u32)>,
    /// The tables that were taken away.
    pub tables: Vec<String>,
}

/// The IPVS plane of one node.
#[derive(Debug)]
pub struct Plane {
    halves: Vec<Half<nftables::Kernel, Kernel>>,
    configuration: Configuration,
    drop_invalid: bool,
    /// The ruleset's generation if nobody but us changes it.
    generation: u32,
    /// How often it was looked for drift.
    looks: u32,
}

impl Plane {
    /// Opens the plane for these families; touches nothing yet.
    pub fn open(
        families: &[Family],
        drop_invalid: bool,
        configuration: Configuration,
    ) -> Result<Plane, Error> {
        let open = |family: &Family| {
            let options = Options {
                node: NodeRules::default(),
                node_addresses: BTreeSet::new(),
                scheduler: configuration.scheduler.clone(),
                lacking: BTreeSet::new(),
                drop_invalid,
                excluded: configuration.excluded.clone(),
            };
            let tables = nftables::Kernel::open(*family, options.table())?;
            let servers = Kernel::open(*family, configuration.kernel.clone())?;
            Ok(Half::new(*family, options, tables, servers))
        };
        let halves = families.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Plane { halves, configuration, drop_invalid, generation: 0, looks: 0 })
    }

    /// Whether the kernel has what the configuration asks for.
    pub fn check(&mut self) -> Result<(), Error> {
        for half in &mut self.halves {
            let name = &self.configuration.scheduler;
            if !half.servers().has_scheduler(name)? {
                return Err(Error::Lacking(schedulers::missing(name)));
            }
        }
        Ok(())
    }

    /// Makes the kernel hold what these Services ask for, whatever it holds now, touching only what
    /// is wrong.
    pub fn reconcile<'a>(
        &mut self,
        node: &NodeRules,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        let before = self.read_generation()?;
        if node.localhost_node_ports {
            report.program.extend(sysctl::ensure(&ROUTE_LOCALNET)?);
        }
        for half in &mut self.halves {
            let options = Options {
                node: node.clone(),
                node_addresses: half.servers().node_addresses()?.into_iter().collect(),
                scheduler: self.configuration.scheduler.clone(),
                lacking: BTreeSet::new(),
                drop_invalid: self.drop_invalid,
                excluded: self.configuration.excluded.clone(),
            };
            report.merge(half.reconcile(options, services.clone())?);
        }
        // If the commits were not ours alone, or not only these, the next look finds a difference.
        self.generation = before;
        self.count(&report);
        Ok(report)
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        for half in &mut self.halves {
            report.merge(half.apply(deltas));
        }
        self.count(&report);
        report
    }

    /// Takes away leaving real servers that have no connections any more. To be called every second
    /// or so while [`Plane::leaving`] is not 0.
    pub fn drain(&mut self, now: Instant) -> Report {
        let mut report = Report::default();
        for half in &mut self.halves {
            report.merge(half.drain(now, self.configuration.drain_limit));
        }
        self.count(&report);
        report
    }

    /// How many real servers are leaving.
    pub fn leaving(&self) -> usize {
        self.halves.iter().map(Half::leaving).sum()
    }

    /// Looks whether somebody changed what is ours, or the node's addresses. IPVS does not tell, so
    /// each look is at some of the servers.
    pub fn drift(&mut self) -> Result<Drift, Error> {
        self.looks = self.looks.wrapping_add(1);
        for half in &mut self.halves {
            // The kernel looks for a module each time it is asked.
            if self.looks.is_multiple_of(LOOKS_FOR_SCHEDULERS) && half.has_new_scheduler()? {
                return Ok(Drift::Here);
            }
            let addresses: BTreeSet<_> = half.servers().node_addresses()?.into_iter().collect();
            if addresses != half.options().node_addresses || !half.patrol(LOOK_AT)? {
                return Ok(Drift::Here);
            }
        }
        let generation = self.read_generation()?;
        if generation == self.generation {
            return Ok(Drift::None);
        }
        for half in &mut self.halves {
            if !half.table_looks_right()? {
                return Ok(Drift::Here);
            }
        }
        self.generation = generation;
        Ok(Drift::Elsewhere)
    }

    /// Takes away all that is ours, and says what that was.
    pub fn remove(&mut self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for half in &mut self.halves {
            removed.extend(half.remove()?);
        }
        if let Some(half) = self.halves.first_mut()
            && half.servers().remove_device()?
        {
            removed.push(format!("device {}", super::kernel::DEVICE));
        }
        Ok(removed)
    }

    /// Makes room for another plane that is at work already: takes the tables away, whose rules would
    /// stand in its way, and says which virtual servers are ours. Those still have connections.
    pub fn give_up(&mut self) -> Result<Left, Error> {
        let mut left = Left::default();
        for half in &mut self.halves {
            let family = half.family();
            if let Some(table) = half.tables().read()? {
                left.servers.extend(table.owned);
                left.switches.extend(table.earlier.into_iter().map(|(number, was)| (family, number, was)));
                let name = half.tables().name();
                half.tables().remove()?;
                left.tables.push(format!("table {name}"));
            }
        }
        Ok(left)
    }

    /// Sets the kernel's switches back to how they stood before us, when the last connection has ended.
    pub fn restore_switches(&mut self, left: &Left) -> Result<Vec<String>, Error> {
        let mut said = Vec::new();
        for half in &mut self.halves {
            let family = half.family();
            for (_, number, was) in left.switches.iter().filter(|(of, ..)| *of == family) {
                said.extend(half.servers().restore_switch(*number, *was)?);
            }
        }
        Ok(said)
    }

    /// The steps from what the kernel holds, or from nothing, to what these Services ask for, in
    /// words: those of the fixed program first, then each phase's.
    pub fn preview(&mut self, rules: &Rules, from_nothing: bool) -> Result<Vec<Preview>, Error> {
        let mut previews = Vec::new();
        for half in &mut self.halves {
            let family = half.family();
            let node_addresses = half.servers().node_addresses()?.into_iter().collect();
            let options = Options { node: rules.node.clone(), node_addresses, ..half.options().clone() };
            let (program, has) = match from_nothing {
                true => (vec![format!("+ table {}", half.tables().name())], Image::default()),
                false => (half.tables().preview(options.table())?, half.read()?.unwrap_or_default()),
            };
            if !program.is_empty() {
                previews.push(Preview { family, steps: program });
            }
            let draft = steps(&has, &Image::of(rules, family, &options));
            for phase in draft.phases.iter().filter(|steps| !steps.is_empty()) {
                previews.push(Preview { family, steps: phase.iter().map(Step::to_string).collect() });
            }
        }
        Ok(previews)
    }

    /// What the kernel holds, read back as Services.
    pub fn show(&mut self) -> Result<Vec<ShownService>, Error> {
        let images = self.read()?;
        let shown = images.iter().filter_map(|(_, image)| image.as_ref()).flat_map(|image| {
            services(&image.table, |key| {
                let At::Address(address, port) = key.at else { return None };
                let server = image.servers.get(&ServerKey { address, port, protocol: key.protocol })?;
                let takes = server.backends.iter().filter(|(_, weight)| **weight > 0);
                Some((takes.map(|(slot, _)| *slot).collect(), server.config.affinity_seconds))
            })
        });
        Ok(shown.collect())
    }

    /// Reads what the kernel holds, one image for each family; `None` where there is nothing of ours.
    pub fn read(&mut self) -> Result<Vec<(Family, Option<Image>)>, Error> {
        self.halves.iter_mut().map(|half| Ok((half.family(), half.read()?))).collect()
    }

    /// Every commit of ours is one generation; somebody else's in between shows as a rest.
    fn count(&mut self, report: &Report) {
        self.generation = self.generation.wrapping_add(u32::try_from(report.commits).unwrap_or(u32::MAX));
    }

    fn read_generation(&mut self) -> Result<u32, Error> {
        self.halves.first_mut().map_or(Ok(0), |half| half.tables().generation())
    }
}

impl Half<nftables::Kernel, Kernel> {
    /// Whether the table looks right at a glance; its program is put right at once.
    fn table_looks_right(&mut self) -> Result<bool, Error> {
        let (tables, image) = self.tables_and_image();
        nftables::half::looks_right(tables, &image.table)
    }

    /// Takes away all that is ours in this family.
    fn remove(&mut self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        if !self.tables().exists()? {
            return Ok(removed);
        }
        let servers = self.read()?.map_or(0, |image| image.servers.len());
        let report = self.dismantle()?;
        if let Some((_, failure)) = report.failures.first() {
            return Err(Error::Left(failure.clone()));
        }
        removed.push(format!("{servers} virtual servers"));
        removed.extend(report.program);
        let name = self.tables().name();
        if self.tables().remove()? {
            removed.push(format!("table {name}"));
        }
        Ok(removed)
    }
}
