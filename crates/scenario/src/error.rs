//! What is wrong with a scenario file, and where.

use std::path::{Path, PathBuf};

/// A scenario file that cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read at all.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file can be read and makes no sense.
    #[error("{}:{line}: {what}", path.display())]
    Bad {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
}

/// What is wrong on one line of a file; the file is added further up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl BadLine {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> BadLine {
        BadLine { line, what: what.into() }
    }

    pub(crate) fn of(self, path: &Path) -> Error {
        let BadLine { line, what } = self;
        Error::Bad { path: path.to_owned(), line, what }
    }
}
