//! The whole plane: the tables of both families, and noticing when somebody else changed them.

use super::half::{Half, Tables};
use super::image::Image;
use super::kernel::Kernel;
use super::ruleset::{Balancer, Options};
use super::show::services;
use super::steps::{Step, steps};
use crate::sysctl::{self, Sysctl};
use crate::{Error, Report, ShownService};
use model::Family;
use plan::{Delta, NodeRules, Rules, ServiceRules};

/// The nftables plane of one node.
#[derive(Debug)]
pub struct Plane {
    halves: Vec<Half<Kernel>>,
    drop_invalid: bool,
    /// The ruleset's generation if nobody but us changes it.
    generation: u32,
}

/// One commit in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// In the tables of which family.
    pub family: Family,
    /// Its steps.
    pub steps: Vec<String>,
}

/// What a look at the kernel showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Nobody changed anything.
    None,
    /// Somebody changed something somewhere, but our tables look right at a glance.
    Elsewhere,
    /// Our tables are not as we left them.
    Here,
}

impl Plane {
    /// Opens the plane for these families; touches nothing yet.
    pub fn open(families: &[Family], drop_invalid: bool) -> Result<Plane, Error> {
        let open = |family: &Family| {
            let options = Options { node: NodeRules::default(), drop_invalid, balancer: Balancer::Maps };
            Ok(Half::new(*family, Kernel::open(*family, options)?))
        };
        let halves = families.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Plane { halves, drop_invalid, generation: 0 })
    }

    /// Makes the kernel hold what these Services ask for, whatever it holds now, touching only what
    /// is wrong.
    pub fn reconcile<'a>(
        &mut self,
        node: &NodeRules,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        // Read first: what somebody changes while we are at it must show as a difference later.
        let before = self.read_generation()?;
        let mut report = Report::default();
        if node.localhost_node_ports {
            report.program.extend(sysctl::ensure(&ROUTE_LOCALNET)?);
        }
        for half in &mut self.halves {
            let (node, drop_invalid) = (node.clone(), self.drop_invalid);
            let options = Options { node, drop_invalid, balancer: Balancer::Maps };
            report.merge(half.reconcile(options, services.clone())?);
        }
        self.expect(before, &report);
        Ok(report)
    }

    /// Every commit of ours is one generation; somebody else's in between shows as a rest.
    fn expect(&mut self, before: u32, report: &Report) {
        self.generation = before.wrapping_add(u32::try_from(report.commits).unwrap_or(u32::MAX));
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        for half in &mut self.halves {
            report.merge(half.apply(deltas));
        }
        self.expect(self.generation, &report);
        report
    }

    /// Looks whether somebody changed the ruleset since the last look, and whether that was here.
    pub fn drift(&mut self) -> Result<Drift, Error> {
        let generation = self.read_generation()?;
        if generation == self.generation {
            return Ok(Drift::None);
        }
        for half in &mut self.halves {
            if !half.looks_right()? {
                return Ok(Drift::Here);
            }
        }
        self.generation = generation;
        Ok(Drift::Elsewhere)
    }

    /// The steps from what the kernel holds, or from nothing, to what these Services ask for, in
    /// words: those of the fixed program first, then each commit's.
    pub fn preview(&mut self, rules: &Rules, from_nothing: bool) -> Result<Vec<Preview>, Error> {
        let mut previews = Vec::new();
        for half in &mut self.halves {
            let family = half.family();
            let (node, drop_invalid) = (rules.node.clone(), self.drop_invalid);
            let options = Options { node, drop_invalid, balancer: Balancer::Maps };
            let (program, has) = match from_nothing {
                true => (vec![format!("+ table {}", half.tables().name())], Image::default()),
                false => (half.tables().preview(options)?, half.tables().read()?.unwrap_or_default()),
            };
            if !program.is_empty() {
                previews.push(Preview { family, steps: program });
            }
            for commit in steps(&has, &Image::of(rules, family)) {
                let steps = commit.iter().flat_map(|group| &group.steps).map(Step::to_string).collect();
                previews.push(Preview { family, steps });
            }
        }
        Ok(previews)
    }

    /// Takes our tables away.
    pub fn remove(&mut self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for half in &mut self.halves {
            if half.tables().remove()? {
                removed.push(format!("table {}", half.tables().name()));
            }
        }
        Ok(removed)
    }

    /// What the kernel holds, read back as Services.
    pub fn show(&mut self) -> Result<Vec<ShownService>, Error> {
        let images = self.read()?;
        Ok(images
            .iter()
            .filter_map(|(_, image)| image.as_ref())
            .flat_map(|image| services(image, |_| None))
            .collect())
    }

    /// Reads what the kernel holds, one image for each family; `None` where there are no tables.
    pub fn read(&mut self) -> Result<Vec<(Family, Option<Image>)>, Error> {
        self.halves.iter_mut().map(|half| Ok((half.family(), half.tables().read()?))).collect()
    }

    fn read_generation(&mut self) -> Result<u32, Error> {
        self.halves.first_mut().map_or(Ok(0), |half| half.tables().generation())
    }
}

/// Packets to 127.0.0.0/8 may leave through other interfaces, once translated.
pub(crate) const ROUTE_LOCALNET: Sysctl = Sysctl { name: "net/ipv4/conf/all/route_localnet", value: "1" };
