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
    /// Flags that make no sense together, or ask for what may not be.
    #[error("{0}")]
    Flags(String),
    /// What we were started with no longer holds.
    #[error("the content of the configuration file has changed")]
    ConfigurationChanged,
    /// A mode that this program has not.
    #[error("mode {0} is not built")]
    NotBuilt(&'static str),
    /// None of the modes can be had.
    #[error("no mode works here{0}")]
    NoMode(String),
    /// Something that every program needs was refused.
    #[error("{0}")]
    Start(&'static str, #[source] io::Error),
    /// The kernel was not to be read or changed.
    #[error(transparent)]
    Plane(#[from] dataplane::Error),
    /// The DNS server does not start.
    #[error(transparent)]
    Dns(#[from] ::dns::instance::Error),
    /// Namespaces, or what is in them, were not to be had.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// The demo's own tables contradict each other.
    #[error("demo: {0}")]
    Demo(String),
    /// What was to be measured did not work.
    #[error("bench: {0}")]
    Bench(String),
    /// Neither root nor a user namespace of our own.
    #[error("network namespaces of our own want root, or the right to make user namespaces")]
    Unprivileged(#[source] lab::Error),
    /// The daemon that we started has ended.
    #[error("{said}")]
    Ended {
        /// What it said, or how it ended.
        said: String,
    },
    /// The daemon that we started says nothing of what was to happen.
    #[error("the daemon on {node} did not tell that it has {word}")]
    Silent {
        /// Where it runs.
        node: String,
        /// What was waited for.
        word: String,
    },
    /// The answer cannot be written.
    #[error("write the answer")]
    Output(#[source] io::Error),
}
