//! The kernel's tables of one family: reading them, putting the program right, carrying steps out.

use super::half::Tables;
use super::image::{Image, Pick, Placement};
use super::ruleset::{self, Balancer, Options, program, set};
use super::spell::{self, Spelled, pick_code, spell};
use super::steps::{Element, Group, Step, dependents};
use crate::pool::Slot;
use crate::program::{Installed, install, needs_new_table, remove_table, rule_userdata, table};
use crate::{Error, Failure};
use model::Family;
use netlink::nftables::{
    self as nft, Batch, Chain, Data, Element as Raw, ElementWriter, Table, Verdict, elements, tables,
};
use netlink::{Netfilter, Socket};
use std::collections::{BTreeSet, HashMap};

/// The most slots that one pool read from the kernel may have; what is beyond is not ours.
const SLOTS_MAX: u32 = super::image::BACKENDS_MAX;

/// The tables of one family in the network namespace that the socket was opened in.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket<Netfilter>,
    family: Family,
    table: Table<'static>,
    options: Options,
    /// For which lengths of source networks there are sets.
    source_lengths: BTreeSet<u8>,
    batch: Batch,
    userdata: Vec<u8>,
}

impl Kernel {
    /// Opens a way to the tables of one family; touches nothing yet.
    pub fn open(family: Family, options: Options) -> Result<Kernel, Error> {
        Ok(Kernel {
            socket: Socket::open()?,
            family,
            table: table(family, options.balancer.table()),
            options,
            source_lengths: BTreeSet::new(),
            batch: Batch::new(),
            userdata: Vec::new(),
        })
    }

    /// The table's family and name.
    pub fn name(&self) -> Table<'static> {
        self.table
    }

    /// Whether an element is there, with this value.
    pub fn holds(&mut self, element: &Element) -> Result<bool, Error> {
        let Spelled { set, length, key, value } = spell(element);
        let name = length.map(set::sources);
        let set = name.as_deref().unwrap_or(set);
        let same = |raw: Raw<'_>| match (&raw.data, &value) {
            (Some(Data::Value(has)), Some(wants)) => *has == wants.as_slice(),
            (None, None) => true,
            _ => false,
        };
        match nft::get_element(&mut self.socket, self.table, set, key.as_slice(), same) {
            Ok(same) => Ok(same),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether our table is there.
    pub fn exists(&mut self) -> Result<bool, Error> {
        let tables = tables(&mut self.socket)?;
        Ok(tables.iter().any(|t| t.family == self.table.family && t.name == self.table.name))
    }

    /// The number of the ruleset's generation, which every commit of anybody raises.
    pub fn generation(&mut self) -> Result<u32, Error> {
        Ok(nft::generation(&mut self.socket)?.id)
    }

    /// Takes our table away, with all that is in it.
    pub fn remove(&mut self) -> Result<bool, Error> {
        if !self.exists()? {
            return Ok(false);
        }
        remove_table(&mut self.socket, self.table)?;
        Ok(true)
    }

    fn send(&mut self, what: &str) -> Result<(), Error> {
        self.socket.make_room(self.batch.byte_len());
        let doing = format_args!("{what} nftables table {}", self.table);
        Ok(self.batch.commit(&mut self.socket, &doing, None)?)
    }

    fn each(&mut self, set: &str, mut visit: impl FnMut(&mut Image, Raw<'_>)) -> Result<Image, Error> {
        Ok(elements(&mut self.socket, self.table, set, Image::default, |image, raw| visit(image, raw))?)
    }

    /// Pick chains that a map of verdicts leads to, and how many fixed verdicts it has.
    fn read_dispatch(&mut self, placement: Placement) -> Result<BTreeSet<Pick>, Error> {
        let image = self.each(placement.dispatch(), |image, raw| {
            let Some(pick) = spell::read_pick(placement, raw.key) else { return };
            if matches!(&raw.data, Some(Data::Verdict(Verdict::Goto(chain))) if **chain == pick.chain()) {
                image.picks.insert(pick);
            }
        })?;
        Ok(image.picks)
    }

    /// The fixed verdicts that are missing.
    fn missing_verdicts(&mut self) -> Result<Vec<(&'static str, u32, &'static str)>, Error> {
        let mut missing = Vec::new();
        for (map, code, chain) in ruleset::fixed_verdicts(self.options.balancer) {
            let key = code.to_ne_bytes();
            let right =
                |raw: Raw<'_>| matches!(&raw.data, Some(Data::Verdict(Verdict::Goto(to))) if **to == *chain);
            match nft::get_element(&mut self.socket, self.table, map, &key, right) {
                Ok(true) => {}
                // One that leads elsewhere is somebody's mistake: the new one is refused and the log says so.
                Ok(false) => missing.push((map, code, chain)),
                Err(error) if error.is_not_found() => missing.push((map, code, chain)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(missing)
    }

    fn picks(&mut self) -> Result<BTreeSet<Pick>, Error> {
        let mut picks = BTreeSet::new();
        for placement in Placement::ALL {
            picks.extend(self.read_dispatch(placement)?);
        }
        Ok(picks)
    }

    fn read_elements(&mut self) -> Result<Image, Error> {
        let family = self.family;
        let mut image = Image { picks: self.picks()?, ..Image::default() };
        for placement in [Placement::Address, Placement::Node] {
            let found = self.each(placement.map(), |image, raw| {
                let Some(Data::Value(value)) = raw.data else { return };
                let front = spell::read_front(placement, family, raw.key, value, raw.userdata);
                image.frontends.extend(front);
            })?;
            image.frontends.extend(found.frontends);
        }
        for placement in [Placement::AddressInside, Placement::NodeInside] {
            let found = self.each(placement.map(), |image, raw| {
                let Some(Data::Value(value)) = raw.data else { return };
                image.inside.extend(spell::read_inside(placement, family, raw.key, value));
            })?;
            image.inside.extend(found.inside);
        }
        image.pools = self.read_pools()?;
        image.living =
            self.each(set::LIVING, |i, raw| i.living.extend(spell::read_living(family, raw.key)))?.living;
        image.near = self.each(set::NEAR, |i, raw| i.near.extend(spell::read_address(family, raw.key)))?.near;
        image.cluster_ips = self
            .each(set::CLUSTER_IPS, |i, raw| i.cluster_ips.extend(spell::read_address(family, raw.key)))?
            .cluster_ips;
        if self.options.balancer == Balancer::Ipvs {
            image.owned =
                self.each(set::OWNED, |i, raw| i.owned.extend(spell::read_owned(family, raw.key)))?.owned;
            let earlier = self.each(set::EARLIER, |image, raw| {
                let Some(Data::Value(value)) = raw.data else { return };
                image.earlier.extend(spell::read_earlier(raw.key, value));
            })?;
            image.earlier = earlier.earlier;
        }
        for length in self.source_lengths.clone() {
            let found = self.each(&set::sources(length), |image, raw| {
                image.sources.extend(spell::read_source(family, length, raw.key));
            })?;
            image.sources.extend(found.sources);
        }
        Ok(image)
    }

    fn read_pools(&mut self) -> Result<HashMap<crate::PoolId, Vec<Slot>>, Error> {
        let family = self.family;
        let image = self.each(set::SLOTS, |image, raw| {
            let Some(Data::Value(value)) = raw.data else { return };
            let Some((pool, index, slot)) = spell::read_slot(family, raw.key, value) else { return };
            if index >= SLOTS_MAX {
                return;
            }
            let slots = image.pools.entry(pool).or_default();
            let index = index as usize;
            if slots.len() <= index {
                slots.resize(index + 1, Slot::HOLE);
            }
            if let Some(seat) = slots.get_mut(index) {
                *seat = slot;
            }
        })?;
        Ok(image.pools)
    }

    /// Writes into the batch what puts the fixed program right, and says in words what that is, and
    /// whether the table that is there must go first.
    fn draft_program(&mut self) -> Result<(Vec<String>, bool), Error> {
        let mut said = Vec::new();
        let exists = self.exists()?;
        let mut installed = match exists {
            true => Installed::read(&mut self.socket, self.table)?,
            false => Installed::default(),
        };
        self.batch.clear();
        self.source_lengths = source_lengths(&installed);
        let shape = program(self.family, &self.options, &BTreeSet::new(), &self.source_lengths);
        let usable = exists && !needs_new_table(&installed, &shape);
        if exists && !usable {
            said.push(format!("- table {} of another make", self.table));
            installed = Installed::default();
            self.source_lengths.clear();
        }
        if !usable {
            self.batch.add_table(self.table, &[]);
            said.push(format!("+ table {}", self.table));
        }
        let has_maps = ruleset::fixed_verdicts(self.options.balancer)
            .iter()
            .all(|(map, ..)| installed.sets.contains_key(*map));
        let picks = if has_maps { self.picks()? } else { BTreeSet::new() };
        let missing =
            if has_maps { self.missing_verdicts()? } else { ruleset::fixed_verdicts(self.options.balancer) };
        let program = program(self.family, &self.options, &picks, &self.source_lengths);
        said.extend(install(self.table, &installed, &program, &mut self.batch));
        for (map, code, chain) in missing {
            self.verdict(map, &code.to_ne_bytes(), chain);
            said.push(format!("+ way from {map} to {chain}"));
        }
        Ok((said, exists && !usable))
    }

    /// What putting the fixed program right would take, in words.
    pub fn preview(&mut self, options: Options) -> Result<Vec<String>, Error> {
        self.options = options;
        Ok(self.draft_program()?.0)
    }

    fn write(&mut self, step: &Step) {
        match step {
            Step::Put(element) => self.put(element),
            Step::Replace(element) => {
                self.take(element);
                self.put(element);
            }
            Step::Remove(element) => self.take(element),
            Step::AddPick(pick) => {
                let chain = ruleset::pick_chain(self.family, &self.options, pick);
                self.batch.add_chain(self.table, &Chain { name: &chain.name, base: None, userdata: &[] });
                // It may be left over from a removal that was cut short.
                self.batch.flush_chain(self.table, &chain.name);
                for rule in &chain.rules {
                    let userdata = rule_userdata(self.table, rule);
                    self.batch.add_rule(self.table, &chain.name, &rule.expressions, &userdata);
                }
                let key = pick_code(pick).to_ne_bytes();
                self.verdict(pick.placement.dispatch(), &key, &chain.name);
            }
            Step::UnlinkPick(pick) => {
                let key = pick_code(pick).to_ne_bytes();
                self.batch.delete_elements(self.table, pick.placement.dispatch(), |w| w.key(&key));
            }
            Step::DropPick(pick) => {
                self.batch.flush_chain(self.table, &pick.chain());
                self.batch.delete_chain(self.table, &pick.chain());
            }
            Step::AddSourceLength(length) => {
                self.source_lengths.insert(*length);
                let spec = ruleset::source_set(self.family, *length);
                self.batch.add_set(self.table, &spec.set());
                self.write_sources_chain();
            }
            Step::DropSourceLength(length) => {
                self.source_lengths.remove(length);
                self.write_sources_chain();
                self.batch.delete_set(self.table, &set::sources(*length));
            }
        }
    }

    fn write_sources_chain(&mut self) {
        let chain = ruleset::sources_chain(self.family, &self.options, &self.source_lengths);
        self.batch.flush_chain(self.table, &chain.name);
        for rule in &chain.rules {
            let userdata = rule_userdata(self.table, rule);
            self.batch.add_rule(self.table, &chain.name, &rule.expressions, &userdata);
        }
    }

    fn verdict(&mut self, map: &str, key: &[u8], chain: &str) {
        let data = Some(Data::Verdict(Verdict::Goto(chain.into())));
        self.batch.add_elements(self.table, map, |w| w.element(&Raw { key, data, ..Raw::default() }));
    }

    fn put(&mut self, element: &Element) {
        let Spelled { set, length, key, value } = spell(element);
        let name = length.map(set::sources);
        let set = name.as_deref().unwrap_or(set);
        let userdata = match element {
            Element::Frontend(_, front) => {
                spell::label_userdata(&front.label, &mut self.userdata);
                &self.userdata[..]
            }
            Element::Earlier(.., name) => {
                spell::label_userdata(name, &mut self.userdata);
                &self.userdata[..]
            }
            _ => &[],
        };
        self.batch.create_elements(self.table, set, |writer: &mut ElementWriter<'_>| match &value {
            Some(value) => writer.pair(key.as_slice(), value.as_slice(), userdata),
            None => writer.key(key.as_slice()),
        });
    }

    fn take(&mut self, element: &Element) {
        let Spelled { set, length, key, value: _ } = spell(element);
        let name = length.map(set::sources);
        let set = name.as_deref().unwrap_or(set);
        self.batch.delete_elements(self.table, set, |writer| writer.key(key.as_slice()));
    }
}

impl Tables for Kernel {
    fn options(&self) -> Option<&Options> {
        Some(&self.options)
    }

    fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    fn source_lengths(&self) -> BTreeSet<u8> {
        self.source_lengths.clone()
    }

    fn read(&mut self) -> Result<Option<Image>, Error> {
        if !self.exists()? {
            self.source_lengths.clear();
            return Ok(None);
        }
        self.source_lengths = source_lengths(&Installed::read(&mut self.socket, self.table)?);
        self.read_elements().map(Some)
    }

    fn install(&mut self) -> Result<Vec<String>, Error> {
        let (said, replace) = self.draft_program()?;
        if replace {
            // In a commit of its own: beside the old chains, the kernel counts the new as too deep.
            let program = std::mem::take(&mut self.batch);
            self.batch.delete_table(self.table);
            self.send("replace")?;
            self.batch = program;
        }
        if !said.is_empty() {
            self.send("install")?;
        }
        Ok(said)
    }

    fn commit(&mut self, groups: &[Group]) -> Vec<Failure> {
        let mut failures: Vec<Failure> = Vec::new();
        let mut tried: Vec<usize> = (0..groups.len()).collect();
        let lengths = self.source_lengths.clone();
        // Each round leaves out at least one group that was refused, so this ends.
        while !tried.is_empty() {
            self.batch.clear();
            self.source_lengths.clone_from(&lengths);
            let mut starts = Vec::with_capacity(tried.len());
            for index in &tried {
                starts.push(self.batch.len());
                for step in groups.get(*index).iter().flat_map(|g| &g.steps) {
                    self.write(step);
                }
            }
            let Err(error) = self.send("change") else { break };
            let Error::Netlink(cause) = &error else { return fail_all(&tried, &error, failures) };
            let mut refused: BTreeSet<usize> = BTreeSet::new();
            for refusal in cause.refused() {
                let place = starts.partition_point(|start| *start <= refusal.index).saturating_sub(1);
                if let Some(group) = tried.get(place)
                    && refused.insert(*group)
                {
                    failures.push(Failure { group: *group, error: error.to_string() });
                }
            }
            for index in dependents(groups, &refused) {
                refused.insert(index);
                failures.push(Failure { group: index, error: "needs what was refused before".to_owned() });
            }
            if refused.is_empty() {
                self.source_lengths = lengths;
                return fail_all(&tried, &error, failures);
            }
            tried.retain(|index| !refused.contains(index));
        }
        if tried.is_empty() {
            self.source_lengths = lengths;
        }
        failures
    }
}

/// The whole commit was refused, and the kernel did not say for whose sake.
fn fail_all(tried: &[usize], error: &Error, mut failures: Vec<Failure>) -> Vec<Failure> {
    let error = error.to_string();
    failures.extend(tried.iter().map(|group| Failure { group: *group, error: error.clone() }));
    failures
}

fn source_lengths(installed: &Installed) -> BTreeSet<u8> {
    let lengths = installed.sets.keys().filter_map(|name| {
        let length: u8 = name.strip_prefix("sources-")?.parse().ok()?;
        (set::sources(length) == *name).then_some(length)
    });
    lengths.collect()
}
