//! Why a subcommand could not do what it was asked.

use std::io;

/// Why it could not be done. The causes are told with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No manifest can be read at all.
    #[error(transparent)]
    Manifests(#[from] watch::Error),
    /// The configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] config::Error),
    /// A mode that this program has not.
    #[error("mode {0} is not built")]
    NotBuilt(&'static str),
    /// Something that every program needs was refused.
    #[error("{0}")]
    Start(&'static str, #[source] io::Error),
    /// The kernel was not to be read or changed.
    #[error(transparent)]
    Plane(#[from] dataplane::Error),
    /// The answer cannot be written.
    #[error("write the answer")]
    Output(#[source] io::Error),
}
