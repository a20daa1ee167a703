//! The daemon's metrics: kube-proxy's by their names, labels and meanings, so that dashboards go on
//! working, and ours beside them under `portolan_`.
//!
//! Nothing here grows with the number of Services: what is counted over all of them is kept as a
//! [`Tally`] that changes with each change of the plan.

use aside::{Aside, Turn, Why};
use dataplane::Mode;
use dataplane::iptables::{RuleCount, Table};
use model::Family;
use plan::{Delta, FrontendKind, ServiceRules, Target};
use std::time::{Duration, SystemTime};
use telemetry::metrics::{Counter, Gauge, Histogram, Registry, exponential, linear};

/// What kube-proxy has for each family.
pub(crate) struct OfFamily {
    pub(crate) family: Family,
    sync: Histogram,
    full: Histogram,
    partial: Histogram,
    last: Gauge,
    last_queued: Gauge,
    programming: Histogram,
    failures: Counter,
    iptables: Option<OfIptables>,
    no_local: [Gauge; 2],
    flows: Counter,
    flows_took: Histogram,
}

/// And in mode iptables only.
struct OfIptables {
    partial_failures: Counter,
    /// Of nat and of filter: all rules, and those that the last sync wrote.
    rules: [[Gauge; 2]; 2],
}

/// All that the daemon counts.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) families: Vec<OfFamily>,
    endpoint_changes: Counter,
    endpoint_pending: Gauge,
    service_changes: Counter,
    service_pending: Gauge,
    services: Gauge,
    contested: Gauge,
    source_errors: Gauge,
    refused: Counter,
    steps: Counter,
    commits: Counter,
    repairs: Counter,
    from_checkpoint: Gauge,
    change: Histogram,
    aside: Gauge,
    set_aside: [(Why, Counter); 3],
    back: Counter,
}

const NO_LOCAL: (&str, &str) = (
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "[ALPHA] Number of services with a Local traffic policy and no endpoints",
);

impl Metrics {
    /// Metrics at the beginning, all of them there.
    pub(crate) fn new(mode: Mode, families: &[Family]) -> Metrics {
        let registry = Registry::default();
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let counter = |name, help| registry.counter(name, help, &[]);
        registry
            .gauge(
                "portolan_build_info",
                "What is running, and in which mode; always 1",
                &[("version", env!("CARGO_PKG_VERSION")), ("mode", mode.name())],
            )
            .set(1.0);
        Metrics {
            families: families.iter().map(|family| OfFamily::new(&registry, mode, *family)).collect(),
            endpoint_changes: counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "[ALPHA] Cumulative proxy rules Endpoint changes",
            ),
            endpoint_pending: gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "[ALPHA] Pending proxy rules Endpoint changes",
            ),
            service_changes: counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "[ALPHA] Cumulative proxy rules Service changes",
            ),
            service_pending: gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "[ALPHA] Pending proxy rules Service changes",
            ),
            services: gauge("portolan_services", "Services that are routed"),
            contested: gauge(
                "portolan_contested_frontends",
                "Frontends (address and port) that a Service asks for and an older one has; the log names them",
            ),
            source_errors: gauge(
                "portolan_source_errors",
                "Errors that stand in the objects that were read; what they concern is left out",
            ),
            refused: counter(
                "portolan_refused_changes_total",
                "Changes of single Services that the kernel refused; they are tried again",
            ),
            steps: counter("portolan_steps_total", "Entries added to, changed in or removed from the kernel"),
            commits: counter("portolan_commits_total", "Transactions with the kernel"),
            repairs: counter(
                "portolan_repairs_total",
                "How often our tables were not as we left them and were put right",
            ),
            from_checkpoint: gauge(
                "portolan_from_checkpoint",
                "1 while what is routed was read from disk, because the API server has told nothing yet",
            ),
            change: registry.histogram(
                "portolan_change_duration_seconds",
                "From changes in hand to the kernel's acknowledgement",
                &[],
                &exponential(0.0001, 2.0, 16),
            ),
            aside: gauge("portolan_backends_aside", "Backends that are set aside because they do not answer"),
            set_aside: Why::ALL.map(|why| {
                let help = "How often backends were set aside, by what was wrong with them";
                (why, registry.counter("portolan_set_aside_total", help, &[("why", why.name())]))
            }),
            back: counter("portolan_back_total", "How often backends that were set aside came back"),
            registry,
        }
    }

    /// Backends were set aside or came back, and now so many are aside.
    pub(crate) fn turned(&self, turns: &[Turn], aside: usize) {
        for turn in turns {
            match turn {
                Turn::Aside(Aside { why, .. }) => {
                    let of = self.set_aside.iter().filter(|(other, _)| other == why);
                    of.for_each(|(_, counter)| counter.increment());
                }
                Turn::Back(_) => self.back.increment(),
            }
        }
        self.aside.count(aside);
    }

    /// Takes in what a source told.
    pub(crate) fn told(&self, services: usize, slices: usize, errors: usize) {
        // kube-proxy counts a Service once for each family.
        self.service_changes.add((services * self.families.len()) as u64);
        self.endpoint_changes.add(slices as u64);
        self.service_pending.count(services);
        self.endpoint_pending.count(slices);
        self.source_errors.count(errors);
        let now = since_1970(SystemTime::now());
        if services + slices > 0 {
            self.families.iter().for_each(|of| of.last_queued.set(now));
        }
    }

    /// The kernel has been told all, or was to be: how long that took, and whether it worked. As with
    /// kube-proxy, what changes waited for before is no part of it.
    pub(crate) fn synced(&self, sync: Sync, took: Duration, worked: bool) {
        let now = since_1970(SystemTime::now());
        self.idle();
        if let Sync::Partial { waited } = sync {
            self.change.observe_time(waited + took);
        }
        for of in &self.families {
            of.sync.observe_time(took);
            match sync {
                Sync::Full => of.full.observe_time(took),
                Sync::Partial { .. } => of.partial.observe_time(took),
            }
            match worked {
                true => of.last.set(now),
                false => of.failures.increment(),
            }
            if let (Some(iptables), Sync::Partial { .. }, false) = (&of.iptables, sync, worked) {
                iptables.partial_failures.increment();
            }
        }
    }

    /// Nothing waits to be programmed.
    pub(crate) fn idle(&self) {
        self.service_pending.set(0.0);
        self.endpoint_pending.set(0.0);
    }

    /// Adds what one attempt came to.
    pub(crate) fn report(&self, report: &dataplane::Report) {
        self.steps.add((report.steps + report.program.len()) as u64);
        self.commits.add(report.commits as u64);
        self.refused.add(report.failures.iter().filter(|(owner, _)| owner.is_some()).count() as u64);
    }

    /// So many rules of ours are in the tables of iptables.
    pub(crate) fn rules(&self, counts: &[RuleCount]) {
        for RuleCount { family, table, total, last } in counts {
            let of = self.families.iter().filter(|of| of.family == *family);
            for of in of.filter_map(|of| of.iptables.as_ref()) {
                let [total_gauge, last_gauge] = &of.rules[usize::from(*table == Table::Filter)];
                total_gauge.count(*total);
                last_gauge.count(*last);
            }
        }
    }

    /// Our tables had been changed by others.
    pub(crate) fn repaired(&self) {
        self.repairs.increment();
    }

    /// Whether what is routed was read from disk.
    pub(crate) fn set_from_checkpoint(&self, is: bool) {
        self.from_checkpoint.set(if is { 1.0 } else { 0.0 });
    }

    /// What happened then is in the kernel now.
    pub(crate) fn programmed(&self, happened: SystemTime) {
        // A clock that runs ahead of ours would make it negative.
        let took = SystemTime::now().duration_since(happened).unwrap_or_default();
        self.families.iter().for_each(|of| of.programming.observe_time(took));
    }

    /// So many flows of a family were forgotten, which took so long.
    pub(crate) fn forgot(&self, family: Family, flows: usize, took: Duration) {
        for of in self.families.iter().filter(|of| of.family == family) {
            of.flows.add(flows as u64);
            of.flows_took.observe_time(took);
        }
    }

    /// What is counted over all Services.
    pub(crate) fn tallied(&self, tally: &Tally, services: usize) {
        self.services.count(services);
        self.contested.count(tally.contested);
        for of in &self.families {
            let [internal, external] = tally.no_local[usize::from(of.family == Family::V6)];
            of.no_local[0].count(internal);
            of.no_local[1].count(external);
        }
    }
}

/// Whether everything is compared or only what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Full,
    Partial {
        /// How long the first of the changes had been in hand.
        waited: Duration,
    },
}

impl OfIptables {
    fn new(registry: &Registry, family: &str) -> OfIptables {
        let rules = |table| {
            let labels = [("ip_family", family), ("table", table)];
            let gauge = |name, help| registry.gauge(name, help, &labels);
            [
                gauge(
                    "kubeproxy_sync_proxy_rules_iptables_total",
                    "[ALPHA] Total number of iptables rules owned by kube-proxy",
                ),
                gauge(
                    "kubeproxy_sync_proxy_rules_iptables_last",
                    "[ALPHA] Number of iptables rules written by kube-proxy in last sync",
                ),
            ]
        };
        OfIptables {
            partial_failures: registry.counter(
                "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                "[ALPHA] Cumulative proxy iptables partial restore failures",
                &[("ip_family", family)],
            ),
            rules: [rules("nat"), rules("filter")],
        }
    }
}

impl OfFamily {
    fn new(registry: &Registry, mode: Mode, family: Family) -> OfFamily {
        let name = family.to_string();
        let labels = [("ip_family", name.as_str())];
        let took = |name, help| registry.histogram(name, help, &labels, &exponential(0.001, 2.0, 15));
        let gauge = |name, help| registry.gauge(name, help, &labels);
        let failures = match mode {
            Mode::Nftables => {
                registry.counter(
                    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
                    "[ALPHA] Cumulative proxy nftables cleanup failures",
                    &labels,
                );
                registry.counter(
                    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                    "[ALPHA] Cumulative proxy nftables sync failures",
                    &labels,
                )
            }
            Mode::Ipvs | Mode::Iptables => registry.counter(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "[ALPHA] Cumulative proxy iptables restore failures",
                &labels,
            ),
        };
        let no_local = |policy| {
            registry.gauge(NO_LOCAL.0, NO_LOCAL.1, &[("ip_family", &name), ("traffic_policy", policy)])
        };
        OfFamily {
            family,
            sync: took(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "[ALPHA] SyncProxyRules latency in seconds",
            ),
            full: took(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "[ALPHA] SyncProxyRules latency in seconds for full resyncs",
            ),
            partial: took(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "[ALPHA] SyncProxyRules latency in seconds for partial resyncs",
            ),
            last: gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] The last time proxy rules were successfully synced",
            ),
            last_queued: gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] The last time a sync of proxy rules was queued",
            ),
            programming: registry.histogram(
                "kubeproxy_network_programming_duration_seconds",
                "[ALPHA] In Cluster Network Programming Latency in seconds",
                &labels,
                &programming_bounds(),
            ),
            failures,
            iptables: (mode == Mode::Iptables).then(|| OfIptables::new(registry, &name)),
            no_local: [no_local("internal"), no_local("external")],
            flows: registry.counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler",
                &labels,
            ),
            flows_took: took(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "[ALPHA] ReconcileConntrackFlowsLatency in seconds",
            ),
        }
    }
}

/// kube-proxy's: to 5 minutes, with a first bound of 0.
fn programming_bounds() -> Vec<f64> {
    let parts = [linear(0.25, 0.25, 2), linear(1.0, 1.0, 59), linear(60.0, 5.0, 12), linear(120.0, 30.0, 7)];
    std::iter::once(0.0).chain(parts.into_iter().flatten()).collect()
}

fn since_1970(moment: SystemTime) -> f64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What is counted over all Services, kept up change by change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    contested: usize,
    /// Ports with a Local policy and endpoints elsewhere only: by family, then internal and external.
    no_local: [[usize; 2]; 2],
}

impl Tally {
    /// Takes in how Services changed.
    pub(crate) fn change(&mut self, deltas: &[Delta]) {
        for Delta { before, after } in deltas {
            if let Some(rules) = before {
                self.count(rules, |number, more| *number = number.saturating_sub(more));
            }
            if let Some(rules) = after {
                self.count(rules, |number, more| *number += more);
            }
        }
    }

    fn count(&mut self, rules: &ServiceRules, add: impl Fn(&mut usize, usize)) {
        add(&mut self.contested, rules.contested.len());
        for port in &rules.ports {
            let dropped = |internal: bool| {
                let mut frontends = port.frontends.iter();
                let is = |kind| (kind == FrontendKind::ClusterIp) == internal;
                frontends.any(|frontend| is(frontend.kind) && frontend.outside == Target::Drop)
            };
            let of_family = &mut self.no_local[usize::from(port.family == Family::V6)];
            add(&mut of_family[0], usize::from(dropped(true)));
            add(&mut of_family[1], usize::from(dropped(false)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Change, Cluster, Touched};
    use plan::{Planner, Settings};
    use std::path::Path;

    /// A Service that wants what `shop/first` has, and Local endpoints that are not here.
    const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: first, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {clusterIP: 10.96.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, creationTimestamp: "2024-01-02T00:00:00Z"}
spec:
  type: NodePort
  clusterIP: 10.96.0.2
  externalIPs: [192.0.2.1]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], nodeName: elsewhere}]
"#;

    #[test]
    fn the_tally_goes_up_and_down_again() {
        let objects = watch::parse(Path::new("t"), MANIFEST.as_bytes(), watch::Keep::default()).objects;
        let mut planner = Planner::new(Settings { node_name: "here".into(), ..Settings::default() });
        let mut cluster = Cluster::new();
        let mut tally = Tally::default();
        let keys: Vec<_> = objects.iter().map(model::Object::key).collect();
        for object in objects {
            let touched: Touched = cluster.apply(Change::Apply(object));
            tally.change(&planner.update(&cluster, &touched));
        }
        assert_eq!(tally, Tally { contested: 1, no_local: [[1, 1], [0, 0]] });
        let metrics = Metrics::new(Mode::Nftables, &Family::ALL);
        metrics.tallied(&tally, 2);
        let mut text = String::new();
        metrics.registry.write(&mut text);
        for line in [
            "portolan_contested_frontends 1",
            "portolan_services 2",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        for key in keys {
            let touched = cluster.apply(Change::Delete(key));
            tally.change(&planner.update(&cluster, &touched));
        }
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn bounds_of_kube_proxy() {
        let bounds = programming_bounds();
        assert_eq!(bounds.len(), 81);
        assert!(bounds.is_sorted() && bounds.last() == Some(&300.0));
    }
}
