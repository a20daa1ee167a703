//! What the plane needs of the kernel beside tables and servers: switches that stand right, and the
//! schedulers that Services ask for.

use super::super::schedulers;
use super::super::switches::{self, Number, Wrong};
use super::{Half, Servers};
use crate::nftables::{self, Group, Tables};
use crate::{Error, Report};
use plan::ServiceRules;
use std::collections::{BTreeMap, HashSet};

impl<T: Tables, S: Servers> Half<T, S> {
    /// Sets the kernel's switches. How each stood before is written down first (what we still know of
    /// it, where somebody has emptied the table), so that it can be set back; that happens as well when
    /// it is not wanted any more.
    pub(super) fn set_switches(
        &mut self,
        earlier: &BTreeMap<Number, u32>,
        report: &mut Report,
    ) -> Result<(), Error> {
        for (number, value) in earlier {
            self.note_switch(*number, *value, report);
        }
        for wrong in self.servers.wrong_switches()? {
            let Wrong { number, name, has, wants } = wrong;
            self.note_switch(number, has, report);
            self.servers.set_switch(&wrong)?;
            report.program.push(switches::said(name, has, wants));
        }
        let unwanted = |(number, _): &(&Number, &u32)| !self.servers.wants_switch(**number);
        let earlier: Vec<(Number, u32)> =
            self.has.table.earlier.iter().filter(unwanted).map(|(number, value)| (*number, *value)).collect();
        for (number, value) in earlier {
            report.program.extend(self.servers.restore_switch(number, value)?);
            let step = nftables::Step::Remove(nftables::Element::Earlier(number, value, ""));
            self.commit(vec![Group { owner: None, steps: vec![step] }], &mut HashSet::new(), report);
        }
        Ok(())
    }

    fn note_switch(&mut self, number: Number, stood: u32, report: &mut Report) {
        if !self.has.table.earlier.contains_key(&number) {
            let element = nftables::Element::Earlier(number, stood, switches::name(number));
            let steps = vec![nftables::Step::Put(element)];
            self.commit(vec![Group { owner: None, steps }], &mut HashSet::new(), report);
        }
    }

    /// Asks the kernel for schedulers that Services ask for; those that it lacks are noted, so that the
    /// default stands in.
    pub(super) fn look_for_schedulers<'a>(
        &mut self,
        services: impl Iterator<Item = &'a ServiceRules>,
        report: &mut Report,
    ) {
        for service in services {
            let Some(name) = schedulers::asked(service) else { continue };
            if self.schedulers.contains(name) || *name == self.options.scheduler {
                continue;
            }
            if !self.options.lacking.contains(name) {
                if schedulers::is_known(name) && self.servers.has_scheduler(name).unwrap_or(false) {
                    self.schedulers.insert(name.clone());
                    continue;
                }
                self.options.lacking.insert(name.clone());
            }
            report.warnings.push(schedulers::instead(&service.name, name, &self.options.scheduler));
        }
    }

    /// Whether a scheduler that was asked for in vain has come.
    pub fn has_new_scheduler(&mut self) -> Result<bool, Error> {
        for name in self.options.lacking.iter().filter(|name| schedulers::is_known(name)) {
            if self.servers.has_scheduler(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
