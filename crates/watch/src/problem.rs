//! What can be wrong with manifests, and what can go wrong in reading them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something worth knowing that may well be meant so.
    Notice,
    /// Something is wrong, and what it concerns has been left out.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Notice => "notice",
            Severity::Error => "error",
        })
    }
}

/// Something about a manifest to tell its author. It prints on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: Arc<Path>,
    /// Which of the file's documents, from 1; 0 when it concerns the whole file.
    pub document: u32,
    /// The line in the file, from 1; 0 when it concerns the whole file.
    pub line: u32,
    /// The object, as `Service shop/web`, where that much could be made out.
    pub object: Option<String>,
    /// What is wrong, and what was done about it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { severity: _, file, document, line, object, what } = self;
        write!(f, "{}", file.display())?;
        if *document > 1 {
            write!(f, ": document {document}")?;
        }
        if *line > 0 {
            write!(f, "{} line {line}", if *document > 1 { "," } else { ":" })?;
        }
        if let Some(object) = object {
            write!(f, ": {object}")?;
        }
        // What others wrote may hold anything; a log line stays one line.
        write!(f, ": ")?;
        for c in what.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// Nothing could be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path that was asked for cannot be opened.
    #[error("read manifests from {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not clear how to get to the API server.
    #[error("find the API server: {what}")]
    Access {
        /// What is wrong.
        what: String,
    },
    /// The kernel would not tell about changes.
    #[error("watch {} for changes", path.display())]
    Watch {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}
