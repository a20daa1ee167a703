//! The plane of one family at work: what the kernel holds, what the Services ask for, and the steps
//! between.
//!
//! There are two seams to the kernel: [`Tables`] for the table beside, and [`Servers`] for virtual
//! servers and addresses. What is refused is left out for the one Service concerned;
//! [`Half::reconcile`] tries again from what the kernel says it has.

mod needs;

use super::image::{Image, Item, ItemKey, Options, Server, ServerKey, items};
use super::steps::{Draft, PHASES, Phase, Step, on_turn};
use super::switches::{Number, Wrong};
use crate::nftables::half::{PICKS_MAX, once};
use crate::nftables::image::Shared;
use crate::nftables::{self, Group, Key, Tables};
use crate::pool::Slot;
use crate::{Error, Report};
use model::{Family, Name, ObjectName};
use plan::{Delta, ServiceRules};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How many steps are under way at most, give or take those of one Service, so that memory for
/// them is bounded.
const STEPS_AT_ONCE: usize = 16_384;
/// How many Services' changes are carried out together.
const DELTAS_AT_ONCE: usize = 1024;

/// What the kernel holds beside the table.
pub type Held = (BTreeMap<ServerKey, Server>, HashSet<IpAddr>);

/// The kernel's virtual servers and addresses, or what stands in for them, in one family.
pub trait Servers {
    /// Whether the kernel has a scheduler of this name, or can get it.
    fn has_scheduler(&mut self, name: &str) -> Result<bool, Error>;
    /// Puts right what must be there before any of them, and says what that took: nothing when it
    /// was right.
    fn install(&mut self) -> Result<Vec<String>, Error>;
    /// The kernel's switches that do not stand as they should.
    fn wrong_switches(&mut self) -> Result<Vec<Wrong>, Error>;
    /// Sets one as it should stand.
    fn set_switch(&mut self, wrong: &Wrong) -> Result<(), Error>;
    /// Whether it should stand in a certain way at all.
    fn wants_switch(&self, number: Number) -> bool;
    /// Sets one back to how it stood, and says so; nothing where somebody has changed it since.
    fn restore_switch(&mut self, number: Number, earlier: u32) -> Result<Option<String>, Error>;
    /// Reads those of these virtual servers and addresses that are there.
    fn read(&mut self, servers: &HashSet<Key>, addresses: &HashSet<IpAddr>) -> Result<Held, Error>;
    /// Reads one virtual server, if it is there.
    fn server(&mut self, key: ServerKey) -> Result<Option<Server>, Error>;
    /// Whether this address is the node's own by our doing.
    fn has_address(&mut self, ip: IpAddr) -> Result<bool, Error>;
    /// Carries steps out, in order, without those that are refused, which it returns by their place:
    /// so are all for a server whose making is, for it is another's.
    fn carry(&mut self, steps: &[Step]) -> Vec<(usize, String)>;
    /// How many connections the real servers of a virtual server have.
    fn connections(&mut self, server: ServerKey) -> Result<BTreeMap<Slot, u64>, Error>;
}

/// The plane of one family.
#[derive(Debug)]
pub struct Half<T, S> {
    family: Family,
    options: Options,
    tables: T,
    servers: S,
    has: Image,
    shared: Shared,
    source_lengths: BTreeMap<u8, u32>,
    /// Real servers that go when they have no connections, and since when.
    leaving: BTreeMap<(ServerKey, Slot), Option<Instant>>,
    /// The server that was looked at last.
    seen: Option<ServerKey>,
    /// Servers that could not be made, whose mark must go again.
    disown: Vec<ServerKey>,
    /// Schedulers that the kernel has.
    schedulers: BTreeSet<Name>,
}

impl<T: Tables, S: Servers> Half<T, S> {
    /// A plane over a kernel that nothing is known of yet.
    pub fn new(family: Family, options: Options, tables: T, servers: S) -> Half<T, S> {
        Half {
            family,
            options,
            tables,
            servers,
            has: Image::default(),
            shared: Shared::default(),
            source_lengths: BTreeMap::new(),
            leaving: BTreeMap::new(),
            seen: None,
            disown: Vec::new(),
            schedulers: BTreeSet::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What is decided for it.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The table beside.
    pub fn tables(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Virtual servers and addresses.
    pub fn servers(&mut self) -> &mut S {
        &mut self.servers
    }

    /// The table beside and what it holds with all else, as far as we know.
    pub(super) fn tables_and_image(&mut self) -> (&mut T, &Image) {
        (&mut self.tables, &self.has)
    }

    /// Looks at so many servers and addresses, and at the next ones the next time; says whether they
    /// are as we left them. What must be there before them is put right at once.
    pub fn patrol(&mut self, count: usize) -> Result<bool, Error> {
        if !self.servers.install()?.is_empty() || !self.servers.wrong_switches()?.is_empty() {
            return Ok(false);
        }
        let from = self.seen.map_or(Bound::Unbounded, Bound::Excluded);
        let mut next = self.has.servers.range((from, Bound::Unbounded)).take(count).peekable();
        if next.peek().is_none() {
            self.seen = None;
            next = self.has.servers.range(..).take(count).peekable();
        }
        for (key, server) in next {
            self.seen = Some(*key);
            if self.servers.server(*key)?.as_ref() != Some(server) {
                return Ok(false);
            }
            let address = self.has.addresses.contains(&key.address);
            if address && !self.servers.has_address(key.address)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the kernel holds, as far as we know.
    pub fn image(&self) -> &Image {
        &self.has
    }

    /// Reads what the kernel holds of ours; `None` where it holds nothing.
    pub fn read(&mut self) -> Result<Option<Image>, Error> {
        let Some(table) = self.tables.read()? else { return Ok(None) };
        let (servers, addresses) = self.servers.read(&table.owned, &table.cluster_ips)?;
        Ok(Some(Image { table, servers, addresses }))
    }

    /// Reads what the kernel holds of ours, and what of all else Services ask for: that is taken over
    /// as it is, from another proxy that worked here before, or from ourselves where somebody has
    /// flushed the table that says what is ours.
    fn adopt<'a>(&mut self, services: impl Iterator<Item = &'a ServiceRules>) -> Result<Image, Error> {
        let table = self.tables.read()?.unwrap_or_default();
        let (mut servers, mut addresses) = (table.owned.clone(), table.cluster_ips.clone());
        servers.extend(&self.has.table.owned);
        addresses.extend(&self.has.table.cluster_ips);
        for service in services {
            items(service, self.family, &self.options, |item| match item.key() {
                ItemKey::Server(key) if !self.options.is_excluded(key.address) => {
                    servers.insert(key.key());
                }
                ItemKey::Address(ip) => {
                    addresses.insert(ip);
                }
                ItemKey::Server(_) | ItemKey::Table(_) => {}
            });
        }
        let (servers, addresses) = self.servers.read(&servers, &addresses)?;
        Ok(Image { table, servers, addresses })
    }

    /// Makes the kernel hold what these Services ask for, whatever it holds now, touching only what
    /// is wrong. Real servers that nobody asks for stay until [`Half::drain`] finds them idle.
    pub fn reconcile<'a>(
        &mut self,
        options: Options,
        services: impl Iterator<Item = &'a ServiceRules> + Clone,
    ) -> Result<Report, Error> {
        self.options = options;
        let table = self.options.table();
        if self.tables.options() != Some(&table) {
            self.tables.set_options(table);
        }
        let program = self.tables.install()?;
        let mut report = Report { commits: usize::from(!program.is_empty()), program, ..Report::default() };
        report.program.extend(self.servers.install()?);
        self.look_for_schedulers(services.clone(), &mut report);
        let adopted = self.adopt(services.clone())?;
        let earlier = std::mem::replace(&mut self.has, adopted).table.earlier;
        self.set_switches(&earlier, &mut report)?;
        self.shared = Shared::default();
        self.source_lengths = BTreeMap::new();
        let before = std::mem::take(&mut self.leaving);
        for service in services.clone() {
            self.count(service, true);
        }
        let mut drafts = Drafts::default();
        drafts.push(self.new_lengths());
        self.run(&mut drafts, &mut report);
        let adopted = !self.has.is_empty() || !self.has.table.picks.is_empty();
        for service in services.clone() {
            drafts.push(self.wants(service));
            if drafts.steps >= STEPS_AT_ONCE {
                self.run(&mut drafts, &mut report);
            }
        }
        self.run(&mut drafts, &mut report);
        if adopted {
            drafts.push(self.leftovers(services));
            self.run(&mut drafts, &mut report);
            let candidates = self.has.table.cluster_ips.union(&self.has.addresses).copied().collect();
            self.forget_addresses(candidates, &mut report);
        }
        for (key, since) in &mut self.leaving {
            *since = before.get(key).copied().flatten();
        }
        Ok(report)
    }

    /// Takes in how Services' rules changed.
    pub fn apply(&mut self, deltas: &[Delta]) -> Report {
        let mut report = Report::default();
        let mut drafts = Drafts::default();
        self.look_for_schedulers(deltas.iter().filter_map(|delta| delta.after.as_deref()), &mut report);
        let taken = self.taken(deltas);
        for chunk in deltas.chunks(DELTAS_AT_ONCE) {
            for delta in chunk {
                delta.after.iter().for_each(|rules| self.count(rules, true));
                delta.before.iter().for_each(|rules| self.count(rules, false));
            }
            drafts.push(self.new_lengths());
            let mut gone = Draft::new(None);
            let mut unshared = HashSet::new();
            let mut addresses = BTreeSet::new();
            for delta in chunk {
                drafts.push(self.turn(delta, &taken, &mut unshared, &mut addresses));
            }
            // As in the nftables plane, chains that are out of use go when everything is compared.
            let spare = self.has.table.picks.len() <= PICKS_MAX;
            let idle = |key: &&ItemKey| spare && matches!(key, ItemKey::Table(nftables::ItemKey::Pick(_)));
            unshared.iter().filter(|key| !idle(key)).for_each(|key| gone.forget(&self.has, key));
            self.old_lengths(&mut gone);
            drafts.push(gone);
            self.run(&mut drafts, &mut report);
            self.forget_addresses(addresses, &mut report);
        }
        report
    }

    /// Takes away leaving real servers that have no connections any more, or have been leaving for
    /// longer than `limit`, and what stood only for their sake.
    pub fn drain(&mut self, now: Instant, limit: Duration) -> Report {
        let mut report = Report::default();
        let servers: BTreeSet<ServerKey> = self.leaving.keys().map(|(server, _)| *server).collect();
        let mut draft = Draft::new(None);
        let mut addresses = BTreeSet::new();
        for server in servers {
            let connections = match self.servers.connections(server) {
                Ok(connections) => connections,
                Err(error) => {
                    report.failures.push((None, error.to_string()));
                    continue;
                }
            };
            let first = (server, Slot::HOLE);
            let mut done = BTreeSet::new();
            for ((_, slot), since) in
                self.leaving.range_mut(first..).take_while(|((key, _), _)| *key == server)
            {
                let since = *since.get_or_insert(now);
                let idle = connections.get(slot).is_none_or(|count| *count == 0);
                if idle || now.saturating_duration_since(since) >= limit {
                    done.insert(*slot);
                }
            }
            let stays = self.has.servers.get(&server);
            if stays.is_some_and(|s| s.backends.keys().any(|slot| !done.contains(slot))) {
                done.iter().for_each(|slot| draft.add(Phase::Retire, Step::RemoveBackend(server, *slot)));
            } else {
                draft.remove_server(&self.has, server);
                self.leaving.retain(|(key, _), _| *key != server);
                addresses.insert(server.address);
            }
        }
        let mut drafts = Drafts::default();
        drafts.push(draft);
        self.run(&mut drafts, &mut report);
        self.forget_addresses(addresses, &mut report);
        report
    }

    /// Takes away what is ours, but for the table itself, without waiting for anybody's connections,
    /// and sets the kernel's switches back.
    pub fn dismantle(&mut self) -> Result<Report, Error> {
        let mut report = Report { program: self.tables.install()?, ..Report::default() };
        self.has = self.adopt(std::iter::empty())?;
        self.shared = Shared::default();
        self.source_lengths = BTreeMap::new();
        let mut drafts = Drafts::default();
        drafts.push(self.leftovers(std::iter::empty()));
        self.run(&mut drafts, &mut report);
        let candidates = self.has.table.cluster_ips.union(&self.has.addresses).copied().collect();
        self.forget_addresses(candidates, &mut report);
        report.merge(self.drain(Instant::now(), Duration::ZERO));
        for (number, value) in self.has.table.earlier.clone() {
            report.program.extend(self.servers.restore_switch(number, value)?);
        }
        Ok(report)
    }

    /// How many real servers are leaving.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// What changed Services ask for now. One may have what another had before, and who loses it must
    /// not take it away.
    fn taken(&self, deltas: &[Delta]) -> Taken {
        let mut taken = Taken::default();
        if deltas.len() > 1 {
            for rules in deltas.iter().filter_map(|delta| delta.after.as_ref()) {
                items(rules, self.family, &self.options, |item| {
                    taken.keys.insert(item.key());
                    if let Item::Table(nftables::Item::Frontend(key, front)) = item
                        && on_turn(&self.has, &key, &front) == Phase::Open
                    {
                        taken.opens.insert(key);
                    }
                });
            }
        }
        taken
    }

    /// What it takes from a Service's old rules to its new ones. Shared items that nobody asks for
    /// any more go into `unshared` and `addresses`.
    fn turn(
        &self,
        delta: &Delta,
        taken: &Taken,
        unshared: &mut HashSet<ItemKey>,
        addresses: &mut BTreeSet<IpAddr>,
    ) -> Draft {
        let name = delta.after.as_ref().or(delta.before.as_ref()).map(|rules| rules.name.clone());
        let mut draft = Draft { opens: taken.opens.clone(), ..Draft::new(name) };
        let mut wanted = HashSet::new();
        if let Some(after) = &delta.after {
            items(after, self.family, &self.options, |item| {
                wanted.insert(item.key());
                draft.want(&self.has, &item);
            });
        }
        if let Some(before) = &delta.before {
            items(before, self.family, &self.options, |item| {
                let key = item.key();
                match (shared_key(&key), key) {
                    (Some(shared), _) if self.shared.holds(&shared) => {}
                    (Some(_), ItemKey::Address(ip)) => {
                        addresses.insert(ip);
                    }
                    (Some(_), _) => {
                        unshared.insert(key);
                    }
                    (None, _) => {
                        if wanted.insert(key) && !taken.keys.contains(&key) {
                            draft.forget(&self.has, &key);
                        }
                    }
                }
            });
        }
        draft
    }

    fn wants(&self, service: &ServiceRules) -> Draft {
        let mut draft = Draft::new(Some(service.name.clone()));
        items(service, self.family, &self.options, |item| draft.want(&self.has, &item));
        draft
    }

    /// What the kernel holds and no Service asks for, addresses aside.
    fn leftovers<'a>(&self, services: impl Iterator<Item = &'a ServiceRules>) -> Draft {
        let mut wanted = HashSet::new();
        let mut living = HashSet::new();
        for service in services {
            items(service, self.family, &self.options, |item| {
                wanted.insert(item.key());
                if let Item::Table(nftables::Item::Pool(id, slots, true)) = item {
                    living.extend(slots.into_iter().map(|slot| (id, slot)));
                }
            });
        }
        let mut draft = Draft::new(None);
        for key in self.has.keys().filter(|key| !wanted.contains(key)) {
            draft.forget(&self.has, &key);
        }
        draft.strays(&self.has, |entry| living.contains(entry));
        self.old_lengths(&mut draft);
        draft
    }

    /// Takes back those of these addresses that no Service asks for and no server needs.
    fn forget_addresses(&mut self, candidates: BTreeSet<IpAddr>, report: &mut Report) {
        let mut draft = Draft::new(None);
        for ip in candidates {
            let wanted = self.shared.holds(&nftables::ItemKey::ClusterIp(ip));
            if !wanted && !self.has.serves_at(ip) {
                draft.forget_address(&self.has, ip);
            }
        }
        let mut drafts = Drafts::default();
        drafts.push(draft);
        self.run(&mut drafts, report);
    }

    fn count(&mut self, service: &ServiceRules, more: bool) {
        let Half { family, options, shared, source_lengths, .. } = self;
        items(service, *family, options, |item| {
            let key = item.key();
            if let Some(key) = shared_key(&key) {
                shared.count(&key, more);
            }
            if let ItemKey::Table(nftables::ItemKey::Source(_, network)) = key {
                let uses = source_lengths.entry(network.length()).or_insert(0);
                *uses = if more { *uses + 1 } else { uses.saturating_sub(1) };
            }
        });
        source_lengths.retain(|_, uses| *uses > 0);
    }

    fn new_lengths(&self) -> Draft {
        let mut draft = Draft::new(None);
        let old = self.tables.source_lengths();
        for length in self.source_lengths.keys().filter(|length| !old.contains(length)) {
            draft.add(Phase::Prepare, Step::Table(nftables::Step::AddSourceLength(*length)));
        }
        draft
    }

    fn old_lengths(&self, draft: &mut Draft) {
        let old = self.tables.source_lengths().into_iter();
        for length in old.filter(|length| !self.source_lengths.contains_key(length)) {
            draft.add(Phase::Sweep, Step::Table(nftables::Step::DropSourceLength(length)));
        }
    }

    /// Carries drafts out, phase by phase, and leaves them empty.
    fn run(&mut self, drafts: &mut Drafts, report: &mut Report) {
        let mut failed: HashSet<Option<ObjectName>> = HashSet::new();
        let Drafts { phases, leaving, staying, steps: _ } = std::mem::take(drafts);
        for entry in &staying {
            self.leaving.remove(entry);
        }
        for entry in leaving {
            self.leaving.entry(entry).or_insert(None);
        }
        for (phase, groups) in Phase::ALL.into_iter().zip(phases) {
            // Whose steps were refused has its others wait: they build upon each other.
            let groups: Vec<_> = groups.into_iter().filter(|(owner, _)| !failed.contains(owner)).collect();
            match phase {
                Phase::Prepare | Phase::Open | Phase::Forget | Phase::Sweep => {
                    let groups =
                        groups.into_iter().map(|(owner, steps)| Group { owner, steps: table_steps(steps) });
                    self.commit(once(groups.collect()), &mut failed, report);
                }
                Phase::Serve | Phase::Appear | Phase::Retire | Phase::Vanish => {
                    self.carry(groups, &mut failed, report);
                }
            }
        }
        let owned = &self.has.table.owned;
        let disowned = std::mem::take(&mut self.disown).into_iter().filter(|key| owned.contains(&key.key()));
        let remove = |key: ServerKey| nftables::Step::Remove(nftables::Element::Owned(key.key()));
        let groups = disowned.map(|key| Group { owner: None, steps: vec![remove(key)] }).collect();
        self.commit(groups, &mut failed, report);
    }

    fn commit(&mut self, groups: Vec<Group>, failed: &mut HashSet<Option<ObjectName>>, report: &mut Report) {
        if groups.is_empty() {
            return;
        }
        let failures = self.tables.commit(&groups);
        report.commits += 1;
        let refused: HashSet<usize> = failures.iter().map(|f| f.group).collect();
        for (index, group) in groups.iter().enumerate() {
            if refused.contains(&index) {
                failed.insert(group.owner.clone());
            } else {
                group.steps.iter().for_each(|step| step.apply(&mut self.has.table));
                report.steps += group.steps.len();
            }
        }
        for failure in failures {
            let owner = groups.get(failure.group).and_then(|g| g.owner.clone());
            report.failures.push((owner, failure.error));
        }
    }

    fn carry(
        &mut self,
        groups: Vec<(Option<ObjectName>, Vec<Step>)>,
        failed: &mut HashSet<Option<ObjectName>>,
        report: &mut Report,
    ) {
        let mut owners = Vec::new();
        let mut steps = Vec::new();
        let mut seen = HashSet::new();
        for (owner, group) in groups {
            if group.iter().any(|step| !self.is_marked(step)) {
                // The table has refused to, and said so.
                failed.insert(owner);
                continue;
            }
            // Several Services may want the same address.
            let new = |step: &Step| !matches!(step, Step::AddAddress(ip) if !seen.insert(*ip));
            let before = steps.len();
            steps.extend(group.into_iter().filter(new));
            owners.resize(owners.len() + steps.len() - before, owner);
        }
        if steps.is_empty() {
            return;
        }
        let refused: BTreeMap<usize, String> = self.servers.carry(&steps).into_iter().collect();
        for (index, (step, owner)) in steps.iter().zip(&owners).enumerate() {
            let Some(error) = refused.get(&index) else {
                step.apply(&mut self.has);
                self.note(step);
                report.steps += 1;
                continue;
            };
            if let Step::AddServer(key, _) = step {
                // If there is one, it is another's.
                self.disown.push(*key);
            }
            // The first refusal says it all; others follow from it.
            if failed.insert(owner.clone()) {
                report.failures.push((owner.clone(), format!("{step}: {error}")));
            }
        }
    }

    /// Whether what a step makes is known as ours, and guarded.
    fn is_marked(&self, step: &Step) -> bool {
        match step {
            Step::AddServer(key, _) => self.has.table.owned.contains(&key.key()),
            Step::AddAddress(ip) => self.has.table.cluster_ips.contains(ip),
            _ => true,
        }
    }

    /// Who is given a weight or taken away is not leaving any more.
    fn note(&mut self, step: &Step) {
        match step {
            Step::AddBackend(server, slot, weight) | Step::SetWeight(server, slot, weight) if *weight > 0 => {
                self.leaving.remove(&(*server, *slot));
            }
            Step::RemoveBackend(server, slot) => {
                self.leaving.remove(&(*server, *slot));
            }
            Step::RemoveServer(server) => self.leaving.retain(|(key, _), _| key != server),
            _ => {}
        }
    }
}

/// What several changed Services ask for.
#[derive(Default)]
struct Taken {
    keys: HashSet<ItemKey>,
    /// Frontends that turn when all else is there.
    opens: HashSet<Key>,
}

/// Under which key items are counted that several Services may ask for.
fn shared_key(key: &ItemKey) -> Option<nftables::ItemKey> {
    match key {
        ItemKey::Table(key) => Shared::is_shared(key).then_some(*key),
        ItemKey::Address(ip) => Some(nftables::ItemKey::ClusterIp(*ip)),
        ItemKey::Server(_) => None,
    }
}

fn table_steps(steps: Vec<Step>) -> Vec<nftables::Step> {
    let step = |step| match step {
        Step::Table(step) => Some(step),
        _ => None,
    };
    steps.into_iter().filter_map(step).collect()
}

/// Drafts that are carried out together.
#[derive(Default)]
struct Drafts {
    phases: [Vec<(Option<ObjectName>, Vec<Step>)>; PHASES],
    leaving: Vec<(ServerKey, Slot)>,
    staying: Vec<(ServerKey, Slot)>,
    steps: usize,
}

impl Drafts {
    fn push(&mut self, draft: Draft) {
        self.steps += draft.len();
        self.leaving.extend(draft.leaving);
        self.staying.extend(draft.staying);
        for (groups, steps) in self.phases.iter_mut().zip(draft.phases) {
            if !steps.is_empty() {
                groups.push((draft.owner.clone(), steps));
            }
        }
    }
}
