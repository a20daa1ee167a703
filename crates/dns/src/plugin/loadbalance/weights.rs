//! The weights of addresses, from a file that is looked at now and then: which address stands first in
//! an answer, and how often.

use crate::random;
use crate::say;
use crate::stamp::{Stamp, stamp};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::{Name, Record, Reply, Section, Type};

/// What has no weight has this one.
const WEIGHT_DEFAULT: u8 = 1;

/// The weights of addresses, by names in lower case.
type Weights = HashMap<Name, Vec<(IpAddr, u8)>>;

/// A file of weights.
pub(super) struct WeightFile {
    path: PathBuf,
    /// How often it is looked at; zero for never.
    pub(super) reload: Duration,
    weights: ArcSwap<Weights>,
    read: Mutex<Stamp>,
}

impl WeightFile {
    /// Reads it. It may come later where it is looked at again.
    pub(super) fn open(path: PathBuf, reload: Duration) -> Result<WeightFile, String> {
        let read = Mutex::new(stamp(&path));
        let weights = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|what| format!("{}: {what}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !reload.is_zero() => {
                let path = path.display();
                say::warning(format_args!(
                    "plugin/loadbalance: Failed to open weight file {path}: will try again in {reload:?}"
                ));
                Weights::new()
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Ok(WeightFile { path, reload, weights: ArcSwap::from_pointee(weights), read })
    }

    /// Reads it again if it has changed. One that is wrong changes nothing.
    pub(super) fn look_again(&self) {
        let stamp = stamp(&self.path);
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if *read == stamp {
                return;
            }
            *read = stamp;
        }
        let text = std::fs::read_to_string(&self.path).map_err(|error| error.to_string());
        let path = self.path.display();
        match text.and_then(|text| parse(&text)) {
            Ok(weights) => {
                self.weights.store(Arc::new(weights));
                say::info(format_args!("plugin/loadbalance: Successfully reloaded weight file {path}"));
            }
            Err(what) => say::error(format_args!("plugin/loadbalance: {path}: {what}")),
        }
    }

    /// Puts one of the addresses of each section first, chosen by their weights.
    pub(super) fn choose(&self, reply: &mut Reply, question: &Name) {
        let weights = self.weights.load();
        for section in [Section::Answer, Section::Additional] {
            let is_address =
                |record: &Record| record.section == section && matches!(record.rtype, Type::A | Type::AAAA);
            let places = reply.records().iter().enumerate().filter(|(_, record)| is_address(record));
            let mut weighted: Vec<(usize, usize)> = Vec::new();
            for (place, record) in places {
                let weight = reply.address(record).map_or(WEIGHT_DEFAULT, |address| {
                    let of_name = weights.get(&reply.owner(record, question).lowercase());
                    let found = of_name.into_iter().flatten().find(|(other, _)| *other == address);
                    found.map_or(WEIGHT_DEFAULT, |(_, weight)| *weight)
                });
                weighted.push((place, usize::from(weight)));
            }
            let mut left = random::below(weighted.iter().map(|(_, weight)| weight).sum());
            let chosen = weighted.iter().find(|(_, weight)| {
                let found = left < *weight;
                left = left.saturating_sub(*weight);
                found
            });
            if let (Some((first, _)), Some((chosen, _))) = (weighted.first(), chosen) {
                reply.records_mut().swap(*first, *chosen);
            }
        }
    }
}

/// Understands lines: a name, and behind it addresses with their weights.
fn parse(text: &str) -> Result<Weights, String> {
    let mut weights = Weights::new();
    let mut of: Option<Name> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |what: &str, word: &str| Err(format!("line {number}: {word:?}: {what}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [name] => {
                if name.parse::<IpAddr>().is_ok() {
                    return wrong("an address without a weight", name);
                }
                let Ok(name) = name.parse::<Name>() else { return wrong("no domain name", name) };
                weights.entry(name.lowercase()).or_default();
                of = Some(name.lowercase());
            }
            [address, weight] => {
                let Ok(ip) = address.parse::<IpAddr>() else { return wrong("no address", address) };
                let weight = match weight.parse::<u8>() {
                    Ok(weight @ 1..) => weight,
                    Ok(0) | Err(_) => return wrong("no weight from 1 to 255", weight),
                };
                let Some(name) = of else { return wrong("no name stands before it", address) };
                weights.entry(name).or_default().push((ip, weight));
            }
            [_, _, extra, ..] => return wrong("one word too many", extra),
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;
    use wire::Owner;

    #[test]
    fn the_heavier_stands_first_more_often() {
        let dir = scratch("weights");
        dir.write("w", "# of a test\n\nWWW.example.com\n10.0.0.1 3\n10.0.0.2 1\n\nother\n10.0.0.3 200\n");
        let file = WeightFile::open(format!("{}/w", dir.path()).into(), Duration::ZERO).unwrap();
        let question: Name = "www.EXAMPLE.com".parse().unwrap();
        let mut first = HashMap::<_, u32>::new();
        for _ in 0..10_000 {
            let mut reply = Reply::default();
            reply.push_name(Section::Answer, Owner::QUESTION, Type::CNAME, 5, &Name::ROOT);
            for n in 1..=3 {
                reply.push_address(Section::Answer, Owner::QUESTION, 5, IpAddr::from([10, 0, 0, n]));
            }
            file.choose(&mut reply, &question);
            assert_eq!(reply.records()[0].rtype, Type::CNAME);
            *first.entry(reply.address(&reply.records()[1]).unwrap()).or_default() += 1;
        }
        // 3 to 1 to 1, of 10,000; six standard deviations are 300.
        for (n, want) in [(1, 6000), (2, 2000), (3, 2000)] {
            let got = first[&IpAddr::from([10, 0, 0, n])];
            assert!(got.abs_diff(want) < 300, "{n}: {got}");
        }
        // Another file is taken, one with a mistake is not.
        for (text, weight) in [("www.example.com\n10.0.0.2 255\n", 255), ("10.0.0.2 1\n", 255)] {
            dir.write("w", text);
            file.look_again();
            let weights = file.weights.load();
            assert_eq!(weights[&question.lowercase()], [(IpAddr::from([10, 0, 0, 2]), weight)]);
        }
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, want) in [
            ("10.0.0.1", "line 1: \"10.0.0.1\": an address without a weight"),
            ("10.0.0.1 1", "line 1: \"10.0.0.1\": no name stands before it"),
            ("a\n10.0.0 1", "line 2: \"10.0.0\": no address"),
            ("a\n10.0.0.1 0", "line 2: \"0\": no weight from 1 to 255"),
            ("a\n10.0.0.1 256", "line 2: \"256\": no weight from 1 to 255"),
            ("a\n\n10.0.0.1 1 x", "line 3: \"x\": one word too many"),
            ("a..b", "line 1: \"a..b\": no domain name"),
        ] {
            assert_eq!(parse(text), Err(want.to_owned()));
        }
    }
}
