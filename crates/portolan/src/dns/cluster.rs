//! Where the names of a cluster come from: a directory of manifests.

use ::dns::cluster::{Batch, ClusterSource, Deliver, Stream, Wanted};
use std::sync::Arc;
use watch::{Directory, Keep, Severity};

/// The sources that this program has.
pub(crate) struct Clusters;

/// A directory that is watched. Dropping it ends the watch.
struct Manifests {
    _directory: Directory,
}

impl Stream for Manifests {}

impl ClusterSource for Clusters {
    fn open(&self, wanted: &Wanted, mut deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        let Some(path) = &wanted.manifests else {
            return Err(
                "the API server as a source is not built: name a directory with `manifests DIR`".into()
            );
        };
        let deliver = move |batch: watch::Batch| {
            for problem in &batch.problems {
                match problem.severity {
                    Severity::Error => ::dns::say::error(format_args!("plugin/kubernetes: {problem}")),
                    Severity::Notice => ::dns::say::info(format_args!("plugin/kubernetes: {problem}")),
                }
            }
            deliver(Batch { changes: batch.changes, synced: batch.loaded })
        };
        let directory = Directory::watch(path, Keep { names: true }, deliver).map_err(|error| {
            let source = std::error::Error::source(&error);
            source.map_or(error.to_string(), |source| format!("{error}: {source}"))
        })?;
        Ok(Arc::new(Manifests { _directory: directory }))
    }
}
