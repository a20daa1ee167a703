//! Which Corefile is in force: `coredns_reload_version_info`, by a hash of all that it says.

use crate::corefile::{Block, Line};
use crate::metrics::{Collect, Exposition, Kind, labels_text};
use sha2::{Digest as _, Sha512};
use std::sync::{Mutex, PoisonError};

/// The version in force; none where nothing is ever reloaded.
#[derive(Default)]
pub(crate) struct Version(Mutex<Option<String>>);

impl Version {
    /// These blocks are in force, and may be followed by others.
    pub(crate) fn set(&self, blocks: &[Block], reloads: bool) {
        let version = reloads.then(|| digest(blocks));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }
}

impl Collect for Version {
    fn collect(&self, text: &mut Exposition) {
        let version = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(version) = version {
            let help =
                "A metric with a constant '1' value labeled by hash, and value which type of hash generated.";
            let labels = labels_text(&[("hash", "sha512"), ("value", &version)]);
            text.family("coredns_reload_version_info", help, Kind::Gauge).signed(&labels, 1);
        }
    }
}

/// The SHA-512 of a Corefile with all that it imports, whatever its spaces and comments.
fn digest(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        block.keys.iter().for_each(|key| text.push_str(&format!("{:?} ", key.text)));
        spell(&block.lines, &mut text);
    }
    Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spell(lines: &[Line], text: &mut String) {
    text.push_str("{\n");
    for line in lines {
        text.push_str(&format!("{:?} ", line.name.text));
        line.args.iter().for_each(|word| text.push_str(&format!("{:?} ", word.text)));
        spell(&line.block, text);
    }
    text.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::parse;
    use crate::metrics::Metrics;
    use crate::testing::Nothing;
    use std::sync::Arc;

    #[test]
    fn what_is_said_counts_and_not_how() {
        let of = |text: &str| digest(&parse("Corefile", text, &Nothing).unwrap());
        let one = of(". {\n whoami\n log {\n class all\n }\n}");
        assert_eq!(one.len(), 128);
        assert_eq!(one, of("# comment\n.  {\nwhoami\n\nlog {\nclass   \"all\"\n}\n}"));
        for other in [
            ". {\n whoami\n log\n class all\n}",
            ". {\n whoami\n}",
            ". x {\n whoami\n log {\n class all\n }\n}",
        ] {
            assert_ne!(one, of(other), "{other}");
        }
        let (metrics, version) = (Metrics::default(), Arc::new(Version::default()));
        metrics.add_collector(&version);
        let blocks = parse("Corefile", ". {\n whoami\n}", &Nothing).unwrap();
        version.set(&blocks, false);
        assert_eq!(metrics.collect(), "");
        version.set(&blocks, true);
        let line =
            format!("coredns_reload_version_info{{hash=\"sha512\",value=\"{}\"}} 1\n", digest(&blocks));
        assert!(metrics.collect().ends_with(&line));
    }
}
