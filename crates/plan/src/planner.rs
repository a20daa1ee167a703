//! The whole plan, and the same plan kept up to date change by change.

use crate::claims::{Claims, asked};
use crate::decide::{is_routed, service_rules};
use crate::{NodeRules, Rules, ServiceRules, Settings};
use model::{Cluster, ObjectName, Service, Touched};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The whole plan: the specification of what [`Planner`] does piecemeal.
pub fn rules(cluster: &Cluster, settings: &Settings) -> Rules {
    let node = NodeRules::new(cluster, settings);
    let mut claims = Claims::default();
    for service in cluster.services().filter(|s| is_routed(s)) {
        for (_, _, key) in asked(service, node.ignore_external_ips) {
            claims.add(key, &service.name);
        }
    }
    let services = cluster.services().filter(|s| is_routed(s));
    let services =
        services.map(|s| (s.name.clone(), Arc::new(service_rules(cluster, &node, &claims, s)))).collect();
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
    /// What each Service claimed, that is, its object when its claims were entered.
    claimed: HashMap<ObjectName, Arc<Service>>,
    services: HashMap<ObjectName, Arc<ServiceRules>>,
}

impl Planner {
    /// The plan of a cluster that is empty.
    pub fn new(settings: Settings) -> Planner {
        let node = NodeRules::new(&Cluster::new(), &settings);
        Planner {
            settings,
            node,
            claims: Claims::default(),
            claimed: HashMap::new(),
            services: HashMap::new(),
        }
    }

    /// What holds for all Services.
    pub fn node(&self) -> &NodeRules {
        &self.node
    }

    /// The rules of all Services that are routed, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceRules>> + Clone {
        self.services.values()
    }

    /// The plan as a value.
    pub fn rules(&self) -> Rules {
        let services = self.services.iter().map(|(name, rules)| (name.clone(), rules.clone())).collect();
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

    /// Replaces a Service's claims, and notes whom that may concern.
    fn claim(&mut self, cluster: &Cluster, name: &ObjectName, concerned: &mut BTreeSet<ObjectName>) {
        let service = cluster.service(name).filter(|s| is_routed(s));
        let ignore_external_ips = self.node.ignore_external_ips;
        let same = match (self.claimed.get(name), service) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(old) = self.claimed.remove(name) {
            for (_, _, key) in asked(&old, ignore_external_ips) {
                self.claims.rivals(&key, name, concerned);
                self.claims.remove(&key, name);
            }
        }
        if let Some(new) = service {
            for (_, _, key) in asked(new, ignore_external_ips) {
                self.claims.add(key, name);
                self.claims.rivals(&key, name, concerned);
            }
            self.claimed.insert(name.clone(), new.clone());
        }
    }

    fn decide(&mut self, cluster: &Cluster, name: &ObjectName) -> Option<Delta> {
        let service = cluster.service(name).filter(|s| is_routed(s));
        let after = service.map(|s| Arc::new(service_rules(cluster, &self.node, &self.claims, s)));
        let before = match &after {
            Some(after) => self.services.insert(name.clone(), after.clone()),
            None => self.services.remove(name),
        };
        (before != after).then_some(Delta { before, after })
    }
}
