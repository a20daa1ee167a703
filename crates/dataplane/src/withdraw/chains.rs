//! Chains of iptables that a proxy of Services has left: which they are, and the restores that take
//! them away. By text and names only, so that rules which nobody here understands go, too.

use crate::Error;
use crate::iptables::{Chain, Saved, Table, Tables};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Chains of kube-proxy's modes iptables and ipvs, and ours beside them, that are there once.
const NAMED: [&str; 17] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-FORWARD",
    "KUBE-FIREWALL",
    "KUBE-CLUSTER-IPS",
    "KUBE-REFUSE",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-MARK-OFF-CLUSTER",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// Those of them that no kube-proxy makes.
const OURS: [&str; 3] = ["KUBE-CLUSTER-IPS", "KUBE-REFUSE", "KUBE-MARK-OFF-CLUSTER"];
/// Where both lead to ours, as long as it was we who wrote last.
const WAY: (&str, &str) = ("KUBE-SERVICES", "KUBE-CLUSTER-IPS");
/// A way to a chain of both that no kube-proxy makes, and that keeps it from taking the chain away.
const OUR_WAY: (&str, &str) = ("OUTPUT", "KUBE-EXTERNAL-SERVICES");
/// What the names of Services' chains begin with; who leads to others first.
const OF_SERVICES: [&str; 6] = ["KUBE-FW-", "KUBE-XLB-", "KUBE-EXT-", "KUBE-SVL-", "KUBE-SVC-", "KUBE-SEP-"];
/// The kernel's own chains.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Chains by which a kubelet is known, and the one that it shares with proxies.
const KUBELETS: [&str; 2] = ["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"];
const SHARED: &str = "KUBE-FIREWALL";
/// How many chains go in one restore for each Service of which one would write the chains.
const CHAINS_OF_SERVICE: usize = 4;

/// Which chains are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// All of them, whoever made them.
    All,
    /// Those that no kube-proxy makes.
    Ours,
    /// Those that mode iptables has no use for: it is at work in these tables.
    Strange,
}

/// What stands in one table.
#[derive(Debug, Default)]
struct Found {
    /// Rules that lead to them from the kernel's chains, as they are printed.
    ways: Vec<String>,
    named: BTreeSet<String>,
    /// By what their names begin with.
    of_services: BTreeMap<usize, Vec<String>>,
    /// Chains that others lead to.
    pinned: BTreeSet<String>,
    /// The way by which our own hand is known is there.
    ours: bool,
    /// Chains that no kube-proxy makes are.
    there: bool,
    /// So are chains of Services.
    services: bool,
}

fn is_proxys(name: &str) -> bool {
    NAMED.contains(&name) || OF_SERVICES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where a printed rule leads.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ').rev();
    let mut after = words.next()?;
    for word in words {
        if word == "-j" || word == "-g" {
            return Some(after);
        }
        after = word;
    }
    None
}

impl Found {
    fn take(&mut self, saved: Saved<'_>, goes: &dyn Fn(&str) -> bool) {
        match saved {
            Saved::Chain(name) => {
                self.there |= OURS.contains(&name);
                self.services |= OF_SERVICES.iter().any(|prefix| name.starts_with(prefix));
                if !goes(name) {
                    return;
                }
                match OF_SERVICES.iter().position(|prefix| name.starts_with(prefix)) {
                    Some(place) => self.of_services.entry(place).or_default().push(name.to_owned()),
                    None => {
                        self.named.insert(name.to_owned());
                    }
                }
            }
            Saved::Rule(chain, rule) => {
                let Some(to) = target(rule) else { return };
                self.ours |= (chain, to) == WAY;
                if (chain, to) == OUR_WAY && goes(OURS[0]) {
                    self.ways.push(format!("-D {chain} {rule}"));
                    return;
                }
                if !goes(to) || goes(chain) {
                    return;
                }
                if HOOKS.contains(&chain) {
                    self.ways.push(format!("-D {chain} {rule}"));
                } else {
                    self.pinned.insert(to.to_owned());
                }
            }
        }
    }

    fn count(&self) -> usize {
        let of_services: usize = self.of_services.values().map(Vec::len).sum();
        self.named.iter().filter(|name| !self.pinned.contains(*name)).count() + of_services
    }

    /// The restores that take it all away: first what leads there, so that no packet comes by any more.
    fn restores(&self, table: Table, at_once: usize) -> Vec<String> {
        let named: Vec<&String> = self.named.iter().filter(|name| !self.pinned.contains(*name)).collect();
        let mut texts = Vec::new();
        let mut restore = |flush: &[&String], lines: &[String], drop: &[&String]| {
            let mut text = format!("*{table}\n");
            // To a String, which does not fail.
            flush.iter().for_each(|name| drop_error(writeln!(text, ":{name} - [0:0]")));
            lines.iter().for_each(|line| drop_error(writeln!(text, "{line}")));
            drop.iter().for_each(|name| drop_error(writeln!(text, "-X {name}")));
            text.push_str("COMMIT\n");
            texts.push(text);
        };
        if !named.is_empty() || !self.ways.is_empty() {
            restore(&named, &self.ways, &[]);
        }
        for names in self.of_services.values() {
            let names: Vec<&String> = names.iter().filter(|name| !self.pinned.contains(*name)).collect();
            names.chunks(at_once).for_each(|piece| restore(piece, &[], piece));
        }
        if !named.is_empty() {
            restore(&[], &[], &named);
        }
        texts
    }
}

fn drop_error(_: std::fmt::Result) {}

/// Takes chains away, and says how many.
pub(crate) fn remove(tables: &mut dyn Tables, which: Which) -> Result<usize, Error> {
    let kubelet = has_kubelet(tables)?;
    let all = |name: &str| is_proxys(name) && !(kubelet && name == SHARED);
    let ours = |name: &str| OURS.contains(&name);
    let strange = |name: &str| is_proxys(name) && name.parse::<Chain>().is_err();
    let goes: &dyn Fn(&str) -> bool = match which {
        Which::All => &all,
        Which::Ours => &ours,
        Which::Strange => &strange,
    };
    let at_once = tables.services_at_once().saturating_mul(CHAINS_OF_SERVICE);
    let mut count = 0;
    // Who is refused in filter is whom nat does not translate; so nat goes last.
    for table in [Table::Filter, Table::Nat, Table::Mangle] {
        let found = read(tables, table, goes)?;
        for text in found.restores(table, at_once) {
            tables
                .restore(&mut |sink| sink(&text))
                .map_err(|refusal| Error::Left(format!("chains in {table}: {}", refusal.what)))?;
        }
        count += found.count();
    }
    Ok(count)
}

fn read(tables: &mut dyn Tables, table: Table, goes: &dyn Fn(&str) -> bool) -> Result<Found, Error> {
    let mut found = Found::default();
    tables.read(table, &mut |saved| found.take(saved, goes))?;
    Ok(found)
}

fn has_kubelet(tables: &mut dyn Tables) -> Result<bool, Error> {
    let mut has = false;
    for table in Table::ALL {
        tables.read(table, &mut |saved| {
            has |= matches!(saved, Saved::Chain(name) if KUBELETS.contains(&name));
        })?;
    }
    Ok(has)
}

/// Takes away what is ours in the tables of all families: all chains, if it was we who wrote them last,
/// for a kube-proxy that has been here since has written KUBE-SERVICES whole; else those that no kube-proxy
/// makes. Where no family has a Service nobody can tell, and nobody misses them. Says how many of each.
pub(crate) fn remove_ours<T: Tables>(families: &mut [&mut T]) -> Result<Vec<usize>, Error> {
    let (mut ours, mut there, mut services) = (false, false, false);
    for tables in &mut *families {
        for table in [Table::Filter, Table::Nat] {
            let found = read(&mut **tables, table, &|_| false)?;
            ours |= found.ours;
            there |= found.there;
            services |= found.services;
        }
    }
    let which = if ours || there && !services { Which::All } else { Which::Ours };
    families.iter_mut().map(|tables| remove(&mut **tables, which)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::{Refusal, Sink};

    /// Tables that are printed, and remember what is restored.
    #[derive(Default)]
    struct Fake {
        saved: Vec<(Table, String)>,
        restored: Vec<String>,
    }

    impl Fake {
        fn new(text: &str) -> Fake {
            let mut table = Table::Filter;
            let mut fake = Fake::default();
            for line in text.lines().map(str::trim) {
                match line.strip_prefix('*') {
                    Some(name) => {
                        table = Table::ALL.into_iter().find(|t| t.name() == name).expect("a table");
                    }
                    None => fake.saved.push((table, line.to_owned())),
                }
            }
            fake
        }
    }

    impl Tables for Fake {
        fn read(&mut self, table: Table, visit: &mut dyn FnMut(Saved<'_>)) -> Result<(), Error> {
            for (_, line) in self.saved.iter().filter(|(of, _)| *of == table) {
                match (line.strip_prefix(':'), line.strip_prefix("-A ").and_then(|l| l.split_once(' '))) {
                    (Some(chain), _) => visit(Saved::Chain(chain)),
                    (None, Some((chain, rule))) => visit(Saved::Rule(chain, rule)),
                    (None, None) => {}
                }
            }
            Ok(())
        }

        fn services_at_once(&self) -> usize {
            usize::MAX
        }

        fn restore(&mut self, feed: &mut dyn FnMut(Sink<'_>)) -> Result<(), Refusal> {
            let mut text = String::new();
            feed(&mut |piece| text.push_str(piece));
            self.restored.push(text);
            Ok(())
        }
    }

    const IPVS: &str = r#"*filter
        :INPUT
        :KUBE-FIREWALL
        :KUBE-IPVS-FILTER
        :KUBE-NODE-PORT
        -A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
        -A INPUT -j KUBE-NODE-PORT
        -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
        *nat
        :KUBE-SERVICES
        :KUBE-MARK-MASQ
        :KUBE-SVC-XPGD46QRK7WJZT7O
        :CNI-HOSTPORT-SETMARK
        -A PREROUTING -m comment --comment "-j KUBE-FIREWALL" -j KUBE-SERVICES
        -A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ
        *mangle
        :KUBE-KUBELET-CANARY
        :KUBE-PROXY-CANARY"#;

    #[test]
    fn what_kube_proxy_has_left_goes_and_what_others_need_stays() {
        let mut fake = Fake::new(IPVS);
        assert_eq!(remove(&mut fake, Which::All).expect("it works"), 5);
        let expected = [
            "*filter\n:KUBE-IPVS-FILTER - [0:0]\n:KUBE-NODE-PORT - [0:0]\n-D INPUT -m comment --comment \"kubernetes \
             ipvs access filter\" -j KUBE-IPVS-FILTER\n-D INPUT -j KUBE-NODE-PORT\nCOMMIT\n",
            "*filter\n-X KUBE-IPVS-FILTER\n-X KUBE-NODE-PORT\nCOMMIT\n",
            "*nat\n:KUBE-SERVICES - [0:0]\n-D PREROUTING -m comment --comment \"-j KUBE-FIREWALL\" -j KUBE-SERVICES\n\
             COMMIT\n",
            "*nat\n:KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]\n-X KUBE-SVC-XPGD46QRK7WJZT7O\nCOMMIT\n",
            "*nat\n-X KUBE-SERVICES\nCOMMIT\n",
            "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n",
            "*mangle\n-X KUBE-PROXY-CANARY\nCOMMIT\n",
        ];
        assert_eq!(fake.restored, expected);
    }

    #[test]
    fn beside_our_own_only_what_is_strange_goes() {
        let mut fake = Fake::new(IPVS);
        assert_eq!(remove(&mut fake, Which::Strange).expect("it works"), 2);
        assert!(fake.restored.iter().all(|text| text.starts_with("*filter\n")), "{:?}", fake.restored);
    }

    #[test]
    fn who_wrote_last_is_whose_they_are() {
        let theirs = "*filter\n-A OUTPUT -j KUBE-EXTERNAL-SERVICES\n:KUBE-SERVICES\n:KUBE-CLUSTER-IPS\n\
                      -A KUBE-CLUSTER-IPS -d 10.96.0.1/32 -j KUBE-REFUSE\n:KUBE-REFUSE\n\
                      *nat\n:KUBE-SERVICES\n:KUBE-MARK-MASQ\n:KUBE-SVC-XPGD46QRK7WJZT7O";
        let removed = |texts: [&str; 2]| {
            let [mut v4, mut v6] = texts.map(Fake::new);
            let counts = remove_ours(&mut [&mut v4, &mut v6]).expect("it works");
            (counts, v4.restored.concat())
        };
        // A family without Services says nothing, and goes with the other.
        let without = "*filter\n:KUBE-SERVICES\n:KUBE-CLUSTER-IPS\n*nat\n:KUBE-SERVICES";
        let (counts, text) = removed([theirs, without]);
        assert_eq!(counts, [2, 1]);
        assert!(text.contains("-D OUTPUT -j KUBE-EXTERNAL-SERVICES"), "{text}");
        let ours = format!("{theirs}\n*filter\n-A KUBE-SERVICES -j KUBE-CLUSTER-IPS");
        assert_eq!(removed([&ours, without]).0, [6, 3]);
        assert_eq!(removed([without, without]).0, [3, 3]);
        let kube_proxys = "*filter\n:KUBE-SERVICES\n*nat\n:KUBE-SERVICES";
        assert_eq!(removed([kube_proxys, kube_proxys]).0, [0, 0]);
    }
}
