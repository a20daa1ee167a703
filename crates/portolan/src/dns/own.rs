//! The daemon's own cluster as a source of names, so that routes and names have one watch and one
//! model between them.
//!
//! A Corefile that does not say which cluster it means is about the one whose Services are routed, and so
//! is one that names the same manifests or the same kubeconfig. One that names another, or that after a
//! reload wants more of the objects than the daemon keeps, gets a watch of its own.

use super::cluster::{Clusters, keep};
use ::dns::cluster::{ClusterSource, Deliver, Stream, Told, Wanted};
use model::{Cluster, ObjectName, Touched};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use watch::Keep;

/// The cluster, to those who make names of it.
pub(crate) struct Own {
    /// How a Corefile would say where the daemon has it from.
    source: Wanted,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the daemon keeps, once that is decided.
    decided: Option<Keep>,
    wanted: Keep,
    askers: Vec<Asker>,
}

/// Somebody who makes names.
struct Asker {
    deliver: Deliver,
    /// He has been told all that there was.
    knows: bool,
}

struct Following;

impl Stream for Following {}

impl Own {
    /// Nobody has asked for anything yet. `source` is what the daemon follows.
    pub(crate) fn new(source: Wanted) -> Own {
        Own { source, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been asked for so far; the daemon keeps that and no more.
    pub(crate) fn decide(&self) -> Keep {
        let mut state = self.lock();
        let keep = state.wanted;
        state.decided = Some(keep);
        keep
    }

    /// Whether somebody waits to be told all.
    pub(crate) fn has_news_to_tell(&self) -> bool {
        self.lock().askers.iter().any(|asker| !asker.knows)
    }

    /// Tells everybody: those who know what has changed, the others everything but what is held back.
    pub(crate) fn tell(
        &self,
        cluster: &Cluster,
        touched: &Touched,
        triggers: &[(ObjectName, SystemTime)],
        held: &BTreeSet<ObjectName>,
    ) {
        let mut state = self.lock();
        let all = state.askers.iter().any(|asker| !asker.knows).then(|| {
            let mut all = cluster.all();
            all.services.retain(|name| !held.contains(name));
            all
        });
        state.askers.retain_mut(|asker| {
            let told = match &all {
                Some(all) if !asker.knows => Told { cluster, touched: all, triggers: &[], synced: true },
                _ => Told { cluster, touched, triggers, synced: true },
            };
            asker.knows = true;
            (asker.deliver)(told)
        });
    }

    /// Whether this is the daemon's own cluster.
    fn is_meant(&self, wanted: &Wanted) -> bool {
        let Wanted { manifests, endpoint, tls, kubeconfig, .. } = wanted;
        let same = |path: &Path, source: Option<&PathBuf>| {
            let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            source.is_some_and(|source| real(source) == real(path))
        };
        match (manifests, endpoint, tls, kubeconfig) {
            (None, None, None, None) => true,
            (Some(path), _, _, _) => same(path, self.source.manifests.as_ref()),
            (None, endpoint, None, Some((path, None))) => {
                *endpoint == self.source.endpoint
                    && same(path, self.source.kubeconfig.as_ref().map(|(path, _)| path))
            }
            _ => false,
        }
    }
}

/// Whether the one keeps what the other wants.
fn holds(has: Keep, wants: Keep) -> bool {
    merge(has, wants) == has
}

fn merge(one: Keep, other: Keep) -> Keep {
    Keep {
        names: one.names || other.names,
        pod_names: one.pod_names || other.pod_names,
        labels: one.labels || other.labels,
        pods: one.pods || other.pods,
        imports: one.imports || other.imports,
    }
}

/// The daemon's own cluster, and all others.
pub(crate) struct OwnAndOthers(pub(crate) Arc<Own>);

impl ClusterSource for OwnAndOthers {
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        if !self.0.is_meant(wanted) {
            return Clusters.open(wanted, deliver);
        }
        let elsewhere = |deliver| {
            let Wanted { manifests, endpoint, tls, kubeconfig, .. } = self.0.source.clone();
            Clusters.open(&Wanted { manifests, endpoint, tls, kubeconfig, ..wanted.clone() }, deliver)
        };
        if wanted.imports {
            // Nothing of them is routed.
            return elsewhere(deliver);
        }
        let mut state = self.0.lock();
        let wants = keep(wanted);
        match state.decided {
            None => state.wanted = merge(state.wanted, wants),
            Some(has) if holds(has, wants) => {}
            Some(_) => {
                drop(state);
                ::dns::say::info(format_args!(
                    "plugin/kubernetes: a watch of its own, for more than routes and names want so far"
                ));
                return elsewhere(deliver);
            }
        }
        state.askers.push(Asker { deliver, knows: false });
        Ok(Arc::new(Following))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn service(name: &str) -> model::Change {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: None}}\n"
        );
        let loaded = watch::parse(Path::new("t"), text.as_bytes(), Keep::ALL);
        model::Change::Apply(loaded.objects.into_iter().next().expect("a Service"))
    }

    #[test]
    fn who_comes_late_is_told_all_and_others_only_what_is_new() {
        let own = Arc::new(Own::new(Wanted::default()));
        let source = OwnAndOthers(own.clone());
        let ask = || {
            let (sender, told) = channel();
            let deliver = move |news: Told<'_>| {
                let names = news.touched.services.iter().map(|name| name.name.to_string());
                sender.send(names.collect::<Vec<_>>()).is_ok()
            };
            source.open(&Wanted::default(), Box::new(deliver)).expect("it is our own");
            told
        };
        let first = ask();
        assert!(own.decide().names && !own.decide().pods);
        let mut cluster = Cluster::new();
        let touched = cluster.apply(service("a"));
        own.tell(&cluster, &touched, &[], &BTreeSet::new());
        let late = ask();
        assert!(own.has_news_to_tell());
        let touched = cluster.apply(service("b"));
        own.tell(&cluster, &touched, &[], &BTreeSet::new());
        assert!(!own.has_news_to_tell());
        assert_eq!(first.try_iter().collect::<Vec<_>>(), [["a"], ["b"]]);
        assert_eq!(late.try_iter().collect::<Vec<_>>(), [["a", "b"]]);
        drop((first, late));
        own.tell(&cluster, &touched, &[], &BTreeSet::new());
        assert!(own.lock().askers.is_empty(), "who does not listen is forgotten");
    }

    #[test]
    fn which_cluster_is_meant() {
        let path = |path: &str| Some(PathBuf::from(path));
        let own = Own::new(Wanted { manifests: path("/etc"), ..Wanted::default() });
        assert!(own.is_meant(&Wanted::default()));
        assert!(own.is_meant(&Wanted { manifests: path("/etc/../etc"), ..Wanted::default() }));
        assert!(!own.is_meant(&Wanted { manifests: path("/tmp"), ..Wanted::default() }));
        assert!(!own.is_meant(&Wanted { endpoint: Some("http://h".into()), ..Wanted::default() }));
        let kubeconfig = |file: &str| Some((PathBuf::from(file), None));
        let own = Own::new(Wanted { kubeconfig: kubeconfig("/etc/hosts"), ..Wanted::default() });
        assert!(own.is_meant(&Wanted { kubeconfig: kubeconfig("/etc/hosts"), ..Wanted::default() }));
        assert!(!own.is_meant(&Wanted { kubeconfig: kubeconfig("/etc/passwd"), ..Wanted::default() }));
    }
}
