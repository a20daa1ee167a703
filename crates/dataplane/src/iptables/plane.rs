//! The whole plane: both families, and noticing when somebody else changed what is ours.

use super::half::{Half, RuleCount};
use super::image::{Image, Options};
use super::kernel::{Kernel, Seal};
use super::show::services;
use super::steps::steps;
use super::variant::{Programs, Variant};
use crate::nftables::plane::ROUTE_LOCALNET;
use crate::nftables::{Drift, Preview};
use crate::withdraw::remove_ours;
use crate::{Error, Report, ShownService, sysctl};
use model::Family;
use plan::{Delta, NodeRules, Rules, ServiceRules};

/// Tables with so few chains and lines are read whole when somebody has been there; bigger ones are
/// only looked at, and read within the sync period.
const READ_AT_ONCE: usize = 5000;

/// What the configuration decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The bit of the packet mark that asks for masquerade, 0 to 31.
    pub masquerade_bit: u8,
    /// Which iptables; none: the one that the node uses.
    pub variant: Option<Variant>,
}

/// kube-proxy's.
const MASQUERADE_BIT: u8 = 14;

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration { masquerade_bit: MASQUERADE_BIT, variant: None }
    }
}

/// The iptables plane of one node.
#[derive(Debug)]
pub struct Plane {
    halves: Vec<Half<Kernel>>,
    seals: Vec<Seal>,
    /// Legacy tables were written since they were last read: somebody may have been there between our
    /// restore and the taking of the seal.
    unread: bool,
    options: Options,
    variant: Variant,
}

impl Plane {
    /// Opens the plane for these families; touches nothing yet.
    pub fn open(
        families: &[Family],
        drop_invalid: bool,
        configuration: Configuration,
    ) -> Result<Plane, Error> {
        let Configuration { masquerade_bit, variant } = configuration;
        let programs = Programs::find(variant)?;
        let mark = 1u32.checked_shl(masquerade_bit.into()).unwrap_or(1 << MASQUERADE_BIT);
        let options =
            Options { node: NodeRules::default(), drop_invalid, mark, random_fully: programs.modern };
        let open =
            |family: &Family| Ok(Half::new(*family, options.clone(), Kernel::open(*family, &programs)?));
        let halves = families.iter().map(open).collect::<Result<Vec<_>, Error>>()?;
        Ok(Plane { halves, seals: vec![], unread: false, options, variant: programs.variant })
    }

    /// Which iptables the node uses.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Makes the kernel hold what these Services ask for, whatever it holds now, touching only what
    /// is wrong.
    pub fn reconcile<'a>(
        &mut self,
        node: &NodeRules,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        // Read first: what somebody changes while we are at it must show as a difference later.
        self.seals = self.read_seals()?;
        let mut report = Report::default();
        if node.localhost_node_ports {
            report.program.extend(sysctl::ensure(&ROUTE_LOCALNET)?);
        }
        self.options.node = node.clone();
        for half in &mut self.halves {
            report.merge(half.reconcile(self.options.clone(), services.clone())?);
        }
        self.expect(report.commits)?;
        Ok(report)
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        for half in &mut self.halves {
            report.merge(half.apply(deltas));
        }
        if let Err(error) = self.expect(report.commits) {
            report.failures.push((None, error.to_string()));
        }
        report
    }

    /// iptables-nft raises the generation once for each commit. The other kind tells sizes only,
    /// which are taken anew.
    fn expect(&mut self, commits: usize) -> Result<(), Error> {
        if commits == 0 {
            return Ok(());
        }
        self.seals = match self.variant {
            Variant::Nft => self.seals.drain(..).map(|seal| seal.after(commits)).collect(),
            Variant::Legacy => {
                self.unread = true;
                self.read_seals()?
            }
        };
        Ok(())
    }

    fn read_seals(&mut self) -> Result<Vec<Seal>, Error> {
        self.halves.iter_mut().map(|half| half.tables().seal()).collect()
    }

    /// Looks whether somebody changed the tables since the last look, and whether what is ours.
    pub fn drift(&mut self) -> Result<Drift, Error> {
        let now = self.read_seals()?;
        let mut drift = Drift::None;
        let unread = std::mem::take(&mut self.unread);
        for ((half, seal), before) in self.halves.iter_mut().zip(&now).zip(&self.seals) {
            let is_small = half.size() <= READ_AT_ONCE;
            if seal == before && !(unread && is_small) {
                continue;
            }
            let looks_right = match self.variant {
                _ if is_small => half.is_unchanged()?,
                Variant::Nft => half.tables().has_canary()?,
                Variant::Legacy => !seal.lost_much_since(before),
            };
            if !looks_right {
                return Ok(Drift::Here);
            }
            if !is_small {
                drift = Drift::Elsewhere;
            }
        }
        self.seals = now;
        Ok(drift)
    }

    /// The steps from what the kernel holds, or from nothing, to what these Services ask for, in
    /// words, restore by restore.
    pub fn preview(&mut self, rules: &Rules, from_nothing: bool) -> Result<Vec<Preview>, Error> {
        let options = Options { node: rules.node.clone(), ..self.options.clone() };
        let mut previews = Vec::new();
        for half in &mut self.halves {
            let family = half.family();
            let has = if from_nothing { None } else { half.image()? }.unwrap_or_default();
            for part in steps(&has, &Image::of(rules, family, &options)) {
                if !part.is_empty() {
                    previews.push(Preview { family, steps: part.iter().map(ToString::to_string).collect() });
                }
            }
        }
        Ok(previews)
    }

    /// What the kernel holds, read back as Services.
    pub fn show(&mut self) -> Result<Vec<ShownService>, Error> {
        let mark = self.options.mark;
        Ok(self
            .read()?
            .iter()
            .filter_map(|(family, image)| Some((family, image.as_ref()?)))
            .flat_map(|(family, image)| services(image, *family, mark))
            .collect())
    }

    /// Takes away all that is ours, and says what that was.
    pub fn remove(&mut self) -> Result<Vec<String>, Error> {
        let families: Vec<Family> = self.halves.iter().map(Half::family).collect();
        let mut tables: Vec<&mut Kernel> = self.halves.iter_mut().map(Half::tables).collect();
        let counts = remove_ours(&mut tables)?.into_iter().zip(families);
        let removed = counts.filter(|(count, _)| *count > 0);
        Ok(removed.map(|(count, family)| format!("{count} chains of {family}")).collect())
    }

    /// Reads what the kernel holds, one image for each family; `None` where there is nothing of ours.
    pub fn read(&mut self) -> Result<Vec<(Family, Option<Image>)>, Error> {
        self.halves.iter_mut().map(|half| Ok((half.family(), half.image()?))).collect()
    }

    /// How many rules of ours each table has, and how many the last sync wrote.
    pub fn rule_counts(&self) -> Vec<RuleCount> {
        self.halves.iter().flat_map(Half::rule_counts).collect()
    }

    /// What decides the tables beside the Services.
    pub fn options(&self) -> &Options {
        &self.options
    }
}
