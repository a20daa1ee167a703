//! Backends that are set aside: alive as far as the cluster knows, but not answering. They are left
//! out of pools, as long as enough others are left in.
//!
//! Who is set aside, and for how long, is decided elsewhere; here is what it means for a pool.

use crate::{Backend, Pool, ServiceRules};
use model::{Protocol, Words};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The annotation of a Service whose backends stay in its pools whatever happens, and its value.
const ANNOTATION: &str = "set-aside";
const OFF: &str = "off";

/// A backend as the network knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its address and port.
    pub at: SocketAddr,
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.at, self.protocol)
    }
}

/// The backends that are set aside, those who were first first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    ranks: HashMap<BackendKey, usize>,
}

impl Aside {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Whether this one is.
    pub fn contains(&self, key: &BackendKey) -> bool {
        self.ranks.contains_key(key)
    }

    /// All of them, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &BackendKey> {
        self.ranks.keys()
    }

    /// Takes those that are set aside out of a pool and adds them to `out`: never more than half of
    /// it, so never the last one. Where more are aside than that, those who were first go.
    pub(crate) fn thin(&self, protocol: Protocol, pool: Pool, out: &mut Vec<Backend>) -> Pool {
        if self.is_empty() {
            return pool;
        }
        let rank = |b: &Backend| self.ranks.get(&BackendKey { protocol, at: b.socket() }).copied();
        let mut aside: Vec<(usize, Backend)> = pool.iter().filter_map(|b| Some((rank(b)?, *b))).collect();
        aside.sort_unstable();
        aside.truncate(pool.len() / 2);
        if aside.is_empty() {
            return pool;
        }
        out.extend(aside.iter().map(|(_, backend)| *backend));
        pool.iter().filter(|b| !aside.iter().any(|(_, other)| other == *b)).copied().collect()
    }
}

impl FromIterator<BackendKey> for Aside {
    fn from_iter<I: IntoIterator<Item = BackendKey>>(keys: I) -> Aside {
        let mut ranks = HashMap::new();
        for (rank, key) in keys.into_iter().enumerate() {
            ranks.entry(key).or_insert(rank);
        }
        Aside { ranks }
    }
}

/// Whether a Service wants none of it.
pub(crate) fn is_off(annotations: &Words) -> bool {
    annotations.get(ANNOTATION).is_some_and(|word| &**word == OFF)
}

impl ServiceRules {
    /// Its backends, set aside or not, each with the members of the pools it belongs to. One may be
    /// shown more than once.
    pub fn each_backend(&self, mut visit: impl FnMut(BackendKey, &[Backend])) {
        for port in &self.ports {
            let protocol = port.protocol();
            for pool in [&port.cluster, &port.local] {
                for backend in pool.iter() {
                    visit(BackendKey { protocol, at: backend.socket() }, pool);
                }
            }
            for backend in port.aside.iter() {
                visit(BackendKey { protocol, at: backend.socket() }, &port.cluster);
            }
        }
    }

    /// Whether its backends stay in its pools whatever happens.
    pub fn keeps_all(&self) -> bool {
        is_off(&self.annotations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(number: u8) -> Backend {
        Backend { address: [10, 0, 0, number].into(), port: 80, weight: 1, near: false }
    }

    fn key(number: u8) -> BackendKey {
        BackendKey { protocol: Protocol::Tcp, at: backend(number).socket() }
    }

    #[test]
    fn never_more_than_half_and_never_the_last() {
        let cases: &[(&[u8], &[u8], &[u8])] = &[
            // The pool, who is set aside in order, who stays.
            (&[1], &[1], &[1]),
            (&[1, 2], &[2], &[1]),
            (&[1, 2], &[2, 1], &[1]),
            (&[1, 2, 3], &[3, 1], &[1, 2]),
            (&[1, 2, 3, 4], &[3, 1, 2], &[2, 4]),
            (&[1, 2, 3, 4], &[9], &[1, 2, 3, 4]),
            (&[], &[1], &[]),
        ];
        for (pool, aside, stays) in cases {
            let aside: Aside = aside.iter().copied().map(key).collect();
            let pool: Pool = pool.iter().copied().map(backend).collect();
            let mut out = Vec::new();
            let thinned = aside.thin(Protocol::Tcp, pool.clone(), &mut out);
            assert_eq!(thinned.to_vec(), stays.iter().copied().map(backend).collect::<Vec<_>>(), "{aside:?}");
            assert_eq!(out.len() + thinned.len(), pool.len());
            // Another protocol's backend is another backend.
            assert_eq!(aside.thin(Protocol::Udp, pool.clone(), &mut Vec::new()), pool);
        }
    }
}
