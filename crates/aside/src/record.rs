//! What is remembered of one backend, and what is told of it.

use plan::BackendKey;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a backend is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Neither it nor its host says a word.
    Silent,
    /// Its host lives, but it takes no connections.
    Stuck,
    /// It refuses.
    Refusing,
}

impl Why {
    /// All there are.
    pub const ALL: [Why; 3] = [Why::Silent, Why::Stuck, Why::Refusing];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Why::Silent => "silent",
            Why::Stuck => "stuck",
            Why::Refusing => "refusing",
        }
    }

    /// From that word.
    pub fn from_name(name: &str) -> Option<Why> {
        Why::ALL.into_iter().find(|why| why.name() == name)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Silent => "nobody answers there",
            Why::Stuck => "its host answers, but it takes no connection",
            Why::Refusing => "it refuses connections",
        })
    }
}

/// A backend that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Which.
    pub backend: BackendKey,
    /// Since when.
    pub since: Duration,
    /// Why.
    pub why: Why,
    /// Not before then will it be back.
    pub until: Duration,
    /// How many times in a row, this one included.
    pub times: u32,
}

/// A backend that is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Back {
    /// Which.
    pub backend: BackendKey,
    /// How long it was aside.
    pub after: Duration,
}

/// What has turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is set aside from now on.
    Aside(Aside),
    /// It is back.
    Back(Back),
}

/// How a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is held against it.
    Good,
    /// It has not answered a probe, but its host lives: it may just be busy.
    Busy { since: Duration, failures: u32, next: Duration },
    /// It is set aside; the next probe goes out then.
    Aside { since: Duration, why: Why, until: Duration, next: Duration },
}

/// What is remembered of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) standing: Standing,
    /// Evidence is passed over until then.
    pub(crate) deaf_until: Duration,
    /// For how long it will be passed over the next time a probe is answered.
    pub(crate) deaf_for: Duration,
    /// Until when the record itself is worth keeping.
    pub(crate) keep_until: Duration,
    /// A trial is under way that began then.
    pub(crate) on_trial: Option<Duration>,
    /// There was evidence that called for it.
    pub(crate) accused: bool,
    /// How many times in a row it has been set aside.
    pub(crate) times: u32,
    /// How long it took to answer a probe, at most.
    pub(crate) takes: Duration,
    /// Who can be asked beside.
    pub(crate) controls: Vec<SocketAddr>,
}
