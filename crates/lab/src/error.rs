//! The one error of this crate: what was being done, to whom, and what the kernel said.
//! How a *connection* failed is not an error here but a result worth counting: see
//! [`Failure`](crate::Failure).

use std::io;

/// The lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or a file refused.
    #[error("{doing}: {source}")]
    System {
        /// What was attempted, and on which host.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Netlink refused.
    #[error("{doing}: {source}")]
    Netlink {
        /// What was attempted, and on which host.
        doing: String,
        /// The kernel's answer.
        source: netlink::Error,
    },
    /// The lab was asked for something it cannot give (an address range used up, a name twice).
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub(crate) fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::System { doing: doing.into(), source: source.into() }
    }
}

/// Says what was being done when a result turns out to be an error.
pub(crate) trait Doing<T> {
    /// The same result, its error explained by `doing`, which is only called when needed.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|source| Error::System { doing: doing().into(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|errno| Error::System { doing: doing().into(), source: errno.into() })
    }
}

impl<T> Doing<T> for Result<T, netlink::Error> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|source| Error::Netlink { doing: doing().into(), source })
    }
}
