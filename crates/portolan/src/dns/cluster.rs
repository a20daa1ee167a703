//! Where the names of a cluster come from: a directory of manifests, or the API server.

use ::dns::cluster::{Batch, ClusterSource, Deliver, Stream, Wanted, of_changes};
use std::sync::Arc;
use watch::{Access, Api, Directory, Keep, Severity};

/// The sources that this program has.
pub(crate) struct Clusters;

/// A watch. Dropping it ends it.
struct Held<T> {
    _watch: T,
}

impl<T: Send + Sync> Stream for Held<T> {}

impl ClusterSource for Clusters {
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        let keep = keep(wanted);
        let mut deliver = of_changes(deliver);
        let (imports, of_files) = (wanted.imports, wanted.manifests.is_some());
        // Of the same files and slices there is another watch, which tells what is wrong with them.
        let is_new = move |problem: &watch::Problem| match &problem.object {
            _ if !imports => true,
            Some(object) => object.starts_with("ServiceImport "),
            None => !of_files,
        };
        let deliver = move |batch: watch::Batch| {
            let watch::Batch { changes, triggers, problems, loaded, errors: _ } = batch;
            for problem in problems.into_iter().filter(|problem| is_new(problem)) {
                match problem.severity {
                    Severity::Error => ::dns::say::error(format_args!("plugin/kubernetes: {problem}")),
                    Severity::Notice => ::dns::say::info(format_args!("plugin/kubernetes: {problem}")),
                }
            }
            deliver(Batch { changes, triggers, synced: loaded })
        };
        let said = |error: watch::Error| crate::output::chain(&error);
        if let Some(path) = &wanted.manifests {
            let watch = Directory::watch(path, keep, deliver).map_err(said)?;
            return Ok(Arc::new(Held { _watch: watch }));
        }
        let access = access(wanted)?;
        let count = Arc::new(|_| ());
        let watch = Api::watch(access, "", keep, count, deliver).map_err(said)?;
        Ok(Arc::new(Held { _watch: watch }))
    }
}

/// What a watch has to keep for it.
pub(crate) fn keep(wanted: &Wanted) -> Keep {
    let Wanted { pod_names, service_labels: labels, pods, imports, .. } = *wanted;
    Keep { names: true, pod_names, labels, pods, imports }
}

fn access(wanted: &Wanted) -> Result<Access, String> {
    let Wanted { endpoint, tls, kubeconfig, .. } = wanted;
    let (path, context) = match kubeconfig {
        Some((path, context)) => (Some(path.as_path()), context.as_deref()),
        None => (None, None),
    };
    let access = Access::find_in(path, context, endpoint.as_deref());
    let access = access.map_err(|error| crate::output::chain(&error))?;
    Ok(match tls {
        Some([certificate, key, authority]) => access.with_certificates(certificate, key, authority),
        None => access,
    })
}
