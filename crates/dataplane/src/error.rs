//! What can go wrong between us and the kernel, and what came of an attempt.

use model::ObjectName;

/// Why the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or could not be asked.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The configuration asks for what this kernel does not have.
    #[error("{0}")]
    Lacking(String),
    /// Something of ours could not be taken away.
    #[error("take away what is ours: {0}")]
    Left(String),
    /// A switch of the kernel could not be read or set.
    #[error("{doing} the kernel's switch {name} (wanted: {value}): {source}")]
    Sysctl {
        /// What was tried.
        doing: &'static str,
        /// Which switch.
        name: &'static str,
        /// How it should stand.
        value: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A program that a plane needs is not there.
    #[error("mode iptables needs iptables' own programs: {0}")]
    NoProgram(String),
    /// A program could not be run, or not be talked to.
    #[error("run {program}: {source}")]
    Program {
        /// Which.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program did not do what it was to do.
    #[error("{0}")]
    Restore(String),
}

impl Error {
    /// There is no such thing here as was asked for.
    pub fn is_missing(&self) -> bool {
        match self {
            Error::Netlink(error) => error.is_not_found(),
            Error::Lacking(_) | Error::NoProgram(_) => true,
            Error::Sysctl { .. } | Error::Left(_) | Error::Program { .. } | Error::Restore(_) => false,
        }
    }
}

/// A group of steps that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which group of the commit.
    pub group: usize,
    /// What the kernel said.
    pub error: String,
}

/// What an attempt came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What of the fixed program had to be put right.
    pub program: Vec<String>,
    /// How many commits it took.
    pub commits: usize,
    /// How many steps were done.
    pub steps: usize,
    /// Whose steps were refused, and why.
    pub failures: Vec<(Option<ObjectName>, String)>,
    /// What was done otherwise than asked for, and will be as long as nobody changes it.
    pub warnings: Vec<(Option<ObjectName>, String)>,
}

impl Report {
    /// Adds what another attempt came to.
    pub fn merge(&mut self, other: Report) {
        let Report { program, commits, steps, failures, warnings } = other;
        self.program.extend(program);
        self.commits += commits;
        self.steps += steps;
        self.failures.extend(failures);
        self.warnings.extend(warnings);
    }

    /// Whether nothing had to be done.
    pub fn is_quiet(&self) -> bool {
        self.program.is_empty() && self.steps == 0 && self.failures.is_empty()
    }
}
