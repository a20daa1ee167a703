//! The seam to whoever knows the cluster: the cluster itself, and each time what of it is new.
//!
//! The plugin `kubernetes` asks for a source by what its Corefile says; the program that contains
//! the server decides what that means (a directory of manifests, the API server, the proxy's own
//! model) and tells of it from a thread of its own. So names cost no second copy of a cluster that
//! somebody keeps anyway.

use model::{Change, Cluster, ObjectName, Touched};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Some changes, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What has changed.
    pub changes: Vec<Change>,
    /// When what slices among them tell of happened, by their Services, where they say so.
    pub triggers: Vec<(ObjectName, SystemTime)>,
    /// With this batch, all that was there at the start has been handed over. True from then on.
    pub synced: bool,
}

/// Which cluster, and what of it is to be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// `manifests DIR`: a directory of manifests, followed as it changes.
    pub manifests: Option<PathBuf>,
    /// `endpoint URL`: the API server.
    pub endpoint: Option<String>,
    /// `tls CERT KEY CA` for the API server.
    pub tls: Option<[PathBuf; 3]>,
    /// `kubeconfig FILE [CONTEXT]`.
    pub kubeconfig: Option<(PathBuf, Option<String>)>,
    /// Names of pods behind endpoints (`endpoint_pod_names`).
    pub pod_names: bool,
    /// Pods themselves (`pods verified`, `autopath`).
    pub pods: bool,
    /// Labels of Services (`labels`).
    pub service_labels: bool,
    /// No endpoints at all (`noendpoints`).
    pub no_endpoints: bool,
    /// Instead of all else: ServiceImports as Services, and their endpoints (`multicluster`).
    pub imports: bool,
}

impl Wanted {
    /// The ServiceImports of the same cluster.
    pub(crate) fn of_imports(&self) -> Wanted {
        Wanted { pods: false, service_labels: false, no_endpoints: false, imports: true, ..self.clone() }
    }
}

/// A cluster as it is now, and what of it is new.
#[derive(Clone, Copy)]
pub struct Told<'c> {
    /// The cluster.
    pub cluster: &'c Cluster,
    /// What has changed since the last time, all of it at the first.
    pub touched: &'c Touched,
    /// When what slices among that tell of happened, by their Services, where they say so.
    pub triggers: &'c [(ObjectName, SystemTime)],
    /// All that was there at the start has been told. True from then on.
    pub synced: bool,
}

/// Takes what is told. False ends the stream.
pub type Deliver = Box<dyn FnMut(Told<'_>) -> bool + Send>;

/// For a source that knows changes only: keeps the cluster that they come to.
pub fn of_changes(mut deliver: Deliver) -> impl FnMut(Batch) -> bool + Send {
    let mut cluster = Cluster::new();
    move |Batch { changes, triggers, synced }| {
        let mut touched = Touched::default();
        for change in changes {
            touched.merge(cluster.apply(change));
        }
        deliver(Told { cluster: &cluster, touched: &touched, triggers: &triggers, synced })
    }
}

/// A stream that is flowing. Dropping it ends it.
pub trait Stream: Send + Sync {}

/// Where clusters come from.
pub trait ClusterSource: Send + Sync {
    /// Opens a stream, or says why that cannot be.
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String>;
}

/// There are none.
pub struct NoClusters;

impl ClusterSource for NoClusters {
    fn open(&self, _wanted: &Wanted, _deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        Err("this program has no source of clusters".into())
    }
}
