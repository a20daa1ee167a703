//! The kernel's switches that the plane needs, how they should stand, and setting them back.
//!
//! How each stood before us is kept in the table beside ([`Element::Earlier`]), where it lives as
//! long as the switches themselves: until the namespace or the machine ends.
//!
//! [`Element::Earlier`]: crate::nftables::Element::Earlier

use super::kernel::Settings;
use crate::Error;
use crate::sysctl;
use model::Family;
use std::fs;

/// What a switch is called in the table beside. Numbers once given stay.
pub type Number = u32;

/// A switch that does not stand as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which one.
    pub number: Number,
    /// Its name.
    pub name: &'static str,
    /// How it stands.
    pub has: u32,
    /// How it should.
    pub wants: u32,
}

/// A switch below `/proc/sys`.
struct Switch {
    number: Number,
    name: &'static str,
    wants: u32,
    when: When,
}

/// When a switch is wanted.
#[derive(PartialEq)]
enum When {
    Always,
    /// For IPv4 only.
    V4,
    /// With `strictARP`.
    StrictArp,
}

/// The number of the first of those that are not below `/proc/sys`: how long IPVS keeps idle
/// connections.
pub(super) const TIMEOUTS: [(Number, &str); 3] =
    [(16, "IPVS timeout tcp"), (17, "IPVS timeout tcpfin"), (18, "IPVS timeout udp")];

/// The kernel since which a connection from a port that was used before is scheduled anew at no cost:
/// before, it lost its first SYN (`ip_vs_in`), a second.
const REUSE_SINCE: (u32, u32) = (5, 9);

fn all() -> [Switch; 7] {
    let switch = |number, name, wants, when| Switch { number, name, wants, when };
    [
        // Without it connections through IPVS have no entry by which to masquerade them.
        switch(1, "net/ipv4/vs/conntrack", 1, When::Always),
        // A connection whose real server is gone is forgotten, so that the client's next try finds
        // another.
        switch(2, "net/ipv4/vs/expire_nodest_conn", 1, When::Always),
        // The same for remembered clients of servers of weight 0.
        switch(3, "net/ipv4/vs/expire_quiescent_template", 1, When::Always),
        // A new connection from a port that was used before does not go where that went, to a server
        // that is leaving perhaps.
        switch(4, "net/ipv4/vs/conn_reuse_mode", u32::from(release() >= REUSE_SINCE), When::Always),
        switch(5, "net/ipv4/ip_forward", 1, When::V4),
        switch(6, "net/ipv4/conf/all/arp_ignore", 1, When::StrictArp),
        switch(7, "net/ipv4/conf/all/arp_announce", 2, When::StrictArp),
    ]
}

/// The kernel's version. One that cannot be read is taken for a new one.
fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&text).unwrap_or((u32::MAX, 0))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What a switch is called.
pub(super) fn name(number: Number) -> &'static str {
    let found = all().into_iter().find(|switch| switch.number == number).map(|switch| switch.name);
    let timeout = TIMEOUTS.into_iter().find(|(other, _)| *other == number).map(|(_, name)| name);
    found.or(timeout).unwrap_or_default()
}

fn is_wanted(switch: &Switch, family: Family, settings: &Settings) -> bool {
    match switch.when {
        When::Always => true,
        When::V4 => family == Family::V4,
        When::StrictArp => family == Family::V4 && settings.strict_arp,
    }
}

/// Whether a switch below `/proc/sys` is wanted; another never is.
pub(super) fn wants(number: Number, family: Family, settings: &Settings) -> bool {
    all().iter().any(|switch| switch.number == number && is_wanted(switch, family, settings))
}

/// Those below `/proc/sys` that do not stand as they should.
pub(super) fn wrong(family: Family, settings: &Settings) -> Result<Vec<Wrong>, Error> {
    let mut wrong = Vec::new();
    for switch in all().iter().filter(|switch| is_wanted(switch, family, settings)) {
        let Switch { number, name, wants, when: _ } = *switch;
        let has = sysctl::read(name)?;
        if has != wants {
            wrong.push(Wrong { number, name, has, wants });
        }
    }
    Ok(wrong)
}

/// Sets a switch below `/proc/sys` back to how it stood, unless somebody has changed it since.
pub(super) fn restore(number: Number, earlier: u32) -> Result<Option<String>, Error> {
    let switches = all();
    let Some(switch) = switches.iter().find(|switch| switch.number == number) else { return Ok(None) };
    let has = sysctl::read(switch.name)?;
    if has != switch.wants || has == earlier {
        return Ok(None);
    }
    sysctl::write(switch.name, earlier)?;
    Ok(Some(said(switch.name, has, earlier)))
}

/// How a change is told.
pub(super) fn said(name: &str, had: u32, has: u32) -> String {
    format!("~ {} = {has} (was {had})", name.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-56-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("5.8-rc1"), Some((5, 8)));
        assert_eq!(version("next"), None);
        assert!((5, 13) > REUSE_SINCE && (5, 8) < REUSE_SINCE);
    }

    #[test]
    fn numbers_are_nobody_elses() {
        let mut numbers: Vec<Number> = all().iter().map(|switch| switch.number).collect();
        numbers.extend(TIMEOUTS.map(|(number, _)| number));
        let before = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), before);
    }

    #[test]
    fn arp_is_strict_when_asked_only() {
        let strict = Settings { strict_arp: true, ..Settings::default() };
        let cases = [
            (1, Family::V6, Settings::default(), true),
            (5, Family::V6, Settings::default(), false),
            (6, Family::V4, Settings::default(), false),
            (6, Family::V4, strict.clone(), true),
            (6, Family::V6, strict, false),
            (16, Family::V4, Settings::default(), false),
        ];
        for (number, family, settings, wanted) in cases {
            assert_eq!(wants(number, family, &settings), wanted, "{number} {family}");
        }
    }
}
