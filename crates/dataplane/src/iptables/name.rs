//! How tables and chains are called. Chains of Services carry kube-proxy's names, hash and all, so
//! that what it left is taken over and tools that look for it find it.

use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Who may pass.
    Filter,
    /// Where connections go.
    Nat,
    /// Nothing of ours but a canary.
    Mangle,
}

impl Table {
    /// All that we have something in.
    pub const ALL: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
            Table::Mangle => "mangle",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A chain that the kernel enters by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Whatever comes in.
    Prerouting,
    /// What is for this host.
    Input,
    /// What goes through.
    Forward,
    /// What this host sends.
    Output,
    /// Whatever goes out.
    Postrouting,
}

/// What a chain of one port of a Service is for; those that others lead to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One backend.
    Endpoint,
    /// Picks one of the cluster's backends.
    Cluster,
    /// Picks one of this node's backends.
    Local,
    /// What comes by an address from outside.
    External,
    /// Who may use a load balancer's address.
    Firewall,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Endpoint, Kind::Cluster, Kind::Local, Kind::External, Kind::Firewall];

    fn prefix(self) -> &'static str {
        match self {
            Kind::Cluster => "KUBE-SVC-",
            Kind::Local => "KUBE-SVL-",
            Kind::External => "KUBE-EXT-",
            Kind::Firewall => "KUBE-FW-",
            Kind::Endpoint => "KUBE-SEP-",
        }
    }
}

/// How many letters of the hash a chain's name carries.
const HASH_LETTERS: usize = 16;

/// What tells one port of a Service, or one backend of it, from all others: 80 bits of SHA-256, in
/// base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letters([u8; HASH_LETTERS]);

impl Letters {
    /// Of these words, one behind the other.
    pub(crate) fn of(words: &[&str]) -> Letters {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut hash = Sha256::new();
        words.iter().for_each(|word| hash.update(word.as_bytes()));
        let digest: [u8; 32] = hash.finalize().into();
        let mut letters = [b'A'; HASH_LETTERS];
        for (index, letter) in letters.iter_mut().enumerate() {
            let bit = index * 5;
            let high = digest.get(bit / 8).copied().unwrap_or_default();
            let low = digest.get(bit / 8 + 1).copied().unwrap_or_default();
            let word = u16::from_be_bytes([high, low]);
            let place = usize::from(word >> (11 - bit % 8)) & 31;
            *letter = ALPHABET.get(place).copied().unwrap_or(b'A');
        }
        Letters(letters)
    }

    fn read(text: &str) -> Option<Letters> {
        let bytes = text.as_bytes();
        let is_letter = |b: &u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(b);
        bytes.iter().all(is_letter).then_some(())?;
        Some(Letters(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A chain that we know of: the kernel's, or one that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// One of the kernel's.
    Hook(Hook),
    /// nat: which address is which Service's. filter: ClusterIPs that lead nowhere.
    Services,
    /// filter: addresses from outside that lead nowhere.
    ExternalServices,
    /// nat: which port of the node is which Service's. filter: ports for health checks.
    NodePorts,
    /// filter: whom load balancers do not serve.
    ProxyFirewall,
    /// filter: what is forwarded because of Services, and what belongs to no connection.
    Forward,
    /// filter: what comes to localhost from outside. Older kubelets have it, too.
    Firewall,
    /// filter: ClusterIPs at ports that are no Service's. Not one of kube-proxy's.
    ClusterIps,
    /// filter: refuse, by the means of the protocol. Not one of kube-proxy's.
    Refuse,
    /// nat: masquerade what is marked.
    Postrouting,
    /// nat: mark.
    MarkMasq,
    /// nat: mark what does not come from a pod here, where one rule cannot tell. Not one of
    /// kube-proxy's.
    MarkOffCluster,
    /// Is there, or somebody has flushed the table.
    Canary,
    /// One of a Service's.
    Of(Kind, Letters),
}

/// The chains with names of their own.
const NAMED: [(Chain, &str); 17] = [
    (Chain::Hook(Hook::Prerouting), "PREROUTING"),
    (Chain::Hook(Hook::Input), "INPUT"),
    (Chain::Hook(Hook::Forward), "FORWARD"),
    (Chain::Hook(Hook::Output), "OUTPUT"),
    (Chain::Hook(Hook::Postrouting), "POSTROUTING"),
    (Chain::Services, "KUBE-SERVICES"),
    (Chain::ExternalServices, "KUBE-EXTERNAL-SERVICES"),
    (Chain::NodePorts, "KUBE-NODEPORTS"),
    (Chain::ProxyFirewall, "KUBE-PROXY-FIREWALL"),
    (Chain::Forward, "KUBE-FORWARD"),
    (Chain::Firewall, "KUBE-FIREWALL"),
    (Chain::ClusterIps, "KUBE-CLUSTER-IPS"),
    (Chain::Refuse, "KUBE-REFUSE"),
    (Chain::Postrouting, "KUBE-POSTROUTING"),
    (Chain::MarkMasq, "KUBE-MARK-MASQ"),
    (Chain::MarkOffCluster, "KUBE-MARK-OFF-CLUSTER"),
    (Chain::Canary, "KUBE-PROXY-CANARY"),
];

impl Chain {
    /// Whether it is ours, and not the kernel's.
    pub fn is_ours(self) -> bool {
        !matches!(self, Chain::Hook(_))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Of(kind, letters) => write!(f, "{}{letters}", kind.prefix()),
            other => {
                let name = NAMED.iter().find(|(chain, _)| chain == other);
                f.write_str(name.map_or("", |(_, name)| name))
            }
        }
    }
}

/// A chain that is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger;

impl FromStr for Chain {
    type Err = Stranger;

    fn from_str(name: &str) -> Result<Chain, Stranger> {
        if let Some((chain, _)) = NAMED.iter().find(|(_, known)| *known == name) {
            return Ok(*chain);
        }
        let of = |kind: Kind| Some(Chain::Of(kind, Letters::read(name.strip_prefix(kind.prefix())?)?));
        Kind::ALL.into_iter().find_map(of).ok_or(Stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names from kube-proxy's own tests (`pkg/proxy/iptables/proxier_test.go`).
    #[test]
    fn names_as_kube_proxy_has_them() {
        let cases = [
            (Kind::Cluster, vec!["ns1/svc1:p80", "tcp"], "KUBE-SVC-XPGD46QRK7WJZT7O"),
            (Kind::Cluster, vec!["ns2/svc2:p80", "tcp"], "KUBE-SVC-GNZBNJ2PO5MGZ6GT"),
            (Kind::External, vec!["ns2/svc2:p80", "tcp"], "KUBE-EXT-GNZBNJ2PO5MGZ6GT"),
            (Kind::Endpoint, vec!["ns1/svc1:p80", "tcp", "10.180.0.1:80"], "KUBE-SEP-SXIVWICOYRO3J4NJ"),
            (Kind::Endpoint, vec!["ns2/svc2:p80", "tcp", "10.180.0.2:80"], "KUBE-SEP-RS4RBKLTHTF2IUXJ"),
        ];
        for (kind, words, name) in cases {
            let chain = Chain::Of(kind, Letters::of(&words));
            assert_eq!(chain.to_string(), name);
            assert_eq!(name.parse(), Ok(chain));
        }
    }

    #[test]
    fn names_of_others() {
        for name in ["KUBE-SVC-", "KUBE-SVC-xpgd46qrk7wjzt7o", "KUBE-SVC-XPGD46QRK7WJZT7OO", "DOCKER", ""] {
            assert_eq!(name.parse::<Chain>(), Err(Stranger), "{name}");
        }
        for (chain, name) in NAMED {
            assert_eq!((chain.to_string().as_str(), name.parse()), (name, Ok(chain)));
        }
    }
}
