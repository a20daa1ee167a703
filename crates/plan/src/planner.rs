//! The whole plan, and the same plan kept up to date change by change.

use crate::claims::{ClaimKey, Claims, asked, had_asked};
use crate::decide::{is_routed, service_rules};
use crate::{Aside, BackendKey, NodeRules, Rules, ServiceRules, Settings};
use model::{ByName, Cluster, Named, ObjectName, Touched};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The whole plan: the specification of what [`Planner`] does piecemeal.
pub fn rules(cluster: &Cluster, settings: &Settings) -> Rules {
    rules_beside(cluster, settings, &Aside::default())
}

/// The same while backends are set aside.
pub fn rules_beside(cluster: &Cluster, settings: &Settings, aside: &Aside) -> Rules {
    let node = NodeRules::new(cluster, settings);
    let mut claims = Claims::default();
    for service in cluster.services().filter(|s| is_routed(s)) {
        for (_, _, key) in asked(service, node.ignore_external_ips) {
            claims.add(key, &service.name);
        }
    }
    let services = cluster.services().filter(|s| is_routed(s));
    let services = services
        .map(|s| (s.name.clone(), Arc::new(service_rules(cluster, &node, &claims, aside, s))))
        .collect();
    Rules { node, services }
}

/// How one Service's rules changed. Before and after are never equal.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rules that were, if it was routed.
    pub before: Option<Arc<ServiceRules>>,
    /// The rules that are, if it is routed.
    pub after: Option<Arc<ServiceRules>>,
}

/// The plan, kept up to date.
#[derive(Clone, Debug)]
pub struct Planner {
    settings: Settings,
    node: NodeRules,
    claims: Claims,
    aside: Aside,
    services: ByName<Arc<ServiceRules>>,
}

impl Named for ServiceRules {
    fn name(&self) -> (&str, &str) {
        self.name.words()
    }
}

impl Planner {
    /// The plan of a cluster that is empty.
    pub fn new(settings: Settings) -> Planner {
        let node = NodeRules::new(&Cluster::new(), &settings);
        Planner {
            settings,
            node,
            claims: Claims::default(),
            aside: Aside::default(),
            services: ByName::default(),
        }
    }

    /// What holds for all Services.
    pub fn node(&self) -> &NodeRules {
        &self.node
    }

    /// The rules of all Services that are routed, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceRules>> + Clone {
        self.services.iter()
    }

    /// The plan as a value.
    pub fn rules(&self) -> Rules {
        let services = self.services.iter().map(|rules| (rules.name.clone(), rules.clone())).collect();
        Rules { node: self.node.clone(), services }
    }

    /// Takes in what changes touched, and says what changed in the plan. [`Planner::node`] may have
    /// changed too.
    pub fn update(&mut self, cluster: &Cluster, touched: &Touched) -> Vec<Delta> {
        let mut work: BTreeSet<ObjectName> = touched.services.clone();
        if touched.service_cidrs || touched.nodes.contains(&self.settings.node_name) {
            let node = NodeRules::new(cluster, &self.settings);
            if node != self.node {
                self.node = node;
                work.extend(cluster.services().map(|s| s.name.clone()));
            }
        }
        for name in &touched.services {
            self.claim(cluster, name, &mut work);
        }
        work.into_iter().filter_map(|name| self.decide(cluster, &name)).collect()
    }

    /// Who is set aside.
    pub fn aside(&self) -> &Aside {
        &self.aside
    }

    /// From now on these are set aside and no others; says what changed in the plan.
    pub fn set_aside(&mut self, cluster: &Cluster, aside: Aside) -> Vec<Delta> {
        let before = std::mem::replace(&mut self.aside, aside);
        // Where more are aside than may be left out, another's turn may come.
        let concerned = |key: &BackendKey| before.contains(key) || self.aside.contains(key);
        let mut work = BTreeSet::new();
        for rules in self.services.iter() {
            let mut is_concerned = false;
            rules.each_backend(|key, _| is_concerned |= concerned(&key));
            if is_concerned {
                work.insert(rules.name.clone());
            }
        }
        work.into_iter().filter_map(|name| self.decide(cluster, &name)).collect()
    }

    /// Shows each backend of each Service that does not keep all of its own; see
    /// [`ServiceRules::each_backend`].
    pub fn each_backend(&self, mut visit: impl FnMut(BackendKey, &[crate::Backend])) {
        self.services
            .iter()
            .filter(|rules| !rules.keeps_all())
            .for_each(|rules| rules.each_backend(&mut visit));
    }

    /// Replaces a Service's claims, and notes whom that may concern. The rules that were made last say
    /// what it had claimed.
    fn claim(&mut self, cluster: &Cluster, name: &ObjectName, concerned: &mut BTreeSet<ObjectName>) {
        let service = cluster.service(name).filter(|s| is_routed(s));
        let ignore_external_ips = self.node.ignore_external_ips;
        let old: BTreeSet<ClaimKey> =
            self.services.get(name.words()).into_iter().flat_map(|rules| had_asked(rules)).collect();
        let new: BTreeSet<ClaimKey> = service
            .into_iter()
            .flat_map(|service| asked(service, ignore_external_ips))
            .map(|(_, _, key)| key)
            .collect();
        // Also of those that stay: the Service may have become another, younger one.
        old.iter().for_each(|key| self.claims.rivals(key, name, concerned));
        old.difference(&new).for_each(|key| self.claims.remove(key, name));
        new.difference(&old).for_each(|key| self.claims.add(*key, name));
        new.iter().for_each(|key| self.claims.rivals(key, name, concerned));
    }

    fn decide(&mut self, cluster: &Cluster, name: &ObjectName) -> Option<Delta> {
        let service = cluster.service(name).filter(|s| is_routed(s));
        let after =
            service.map(|s| Arc::new(service_rules(cluster, &self.node, &self.claims, &self.aside, s)));
        let before = match &after {
            Some(after) => self.services.insert(after.clone()),
            None => self.services.remove(name.words()),
        };
        (before != after).then_some(Delta { before, after })
    }
}
