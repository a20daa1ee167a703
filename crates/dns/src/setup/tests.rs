//! Corefiles that are understood, and those that are not.

use super::*;
use crate::cluster::NoClusters;
use crate::corefile::{Surroundings, parse};
use std::path::Path;

struct Nothing;

impl Surroundings for Nothing {
    fn find(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn read(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// The servers of a Corefile with their zones and plugins, or the error.
fn shown(text: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let world = World::new(Arc::new(NoClusters), 53, runtime.handle().clone());
    let configuration = parse("Corefile", text, &Nothing).and_then(|blocks| set_up(&blocks, &world));
    match configuration {
        Err(error) => error.to_string(),
        Ok(configuration) => {
            let servers = configuration.servers.iter().map(|(listen, server)| {
                let mut chains: Vec<String> = server
                    .routes
                    .chains()
                    .map(|chain| {
                        let names: Vec<&str> = chain.links().iter().map(|link| link.name).collect();
                        format!("{} {}", chain.zone_label, names.join(" "))
                    })
                    .collect();
                chains.sort();
                format!("{}: {}", listen.label(), chains.join(", "))
            });
            servers.collect::<Vec<_>>().join(" | ")
        }
    }
}

#[test]
fn plugins_stand_in_the_order_of_the_list() {
    assert_eq!(shown(". {\n whoami\n log\n errors\n debug\n}"), "dns://:53: . errors log whoami");
    assert_eq!(
        shown("a b:1053 {\n whoami\n}\nc {\n log\n whoami\n}"),
        "dns://:53: a. whoami, c. log whoami | dns://:1053: b. whoami"
    );
    assert_eq!(shown("10.0.0.0/8 {\n whoami\n}"), "dns://:53: 10.in-addr.arpa. whoami");
}

#[test]
fn errors_name_the_place_and_the_word() {
    for (text, want) in [
        (". {\n forwrad . 1.1.1.1\n}", "Corefile:2: \"forwrad\": no such plugin"),
        (". {\n trace\n}", "Corefile:2: \"trace\": this plugin is not built"),
        (". {\n whoami x\n}", "Corefile:2: \"x\": whoami takes 0 arguments, not 1"),
        (". {\n whoami {\n  y\n }\n}", "Corefile:3: \"y\": whoami has no options"),
        (". {\n whoami\n whoami\n}", "Corefile:3: \"whoami\": only once in a server block"),
        (". {\n bufsize 1\n}", "Corefile:2: \"1\": not between 512 and 4096"),
        (
            ". {\n errors {\n  consolidate 5m\n }\n}",
            "Corefile:3: \"consolidate\": takes a duration and a regular expression",
        ),
        (
            ". {\n errors {\n  consolidate 5 x\n }\n}",
            "Corefile:3: \"5\": no duration: a number with a unit was expected, like 30s",
        ),
        (
            ". {\n errors {\n  consolidate 5m x nowhere\n }\n}",
            "Corefile:3: \"nowhere\": neither a level nor show_first",
        ),
        (". {\n errors x\n}", "Corefile:2: \"x\": errors go to stdout only"),
        (". {\n log {\n  class good\n }\n}", "Corefile:3: \"good\": not success, denial, error or all"),
        (". {\n log {\n  color\n }\n}", "Corefile:3: \"color\": no option of plugin log"),
        ("a {\n whoami\n}\na:53 {\n}", "Corefile:4: \"a:53\": a. is served already by the block at line 1"),
        ("https3://a {\n}", "Corefile:1: \"https3://a\": transport https3 is not built"),
        ("quic://a {\n}", "Corefile:1: \"quic://a\": quic://:853 wants plugin tls with a certificate"),
    ] {
        assert_eq!(shown(text), want, "{text:?}");
    }
}

#[test]
fn durations() {
    let word = |text: &str| Word { text: text.to_owned(), file: "Corefile".into(), line: 1 };
    for (text, want) in
        [("30s", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("500ms", 0.5), ("0", 0.0), ("0s", 0.0)]
    {
        assert_eq!(duration(&word(text)).unwrap().as_secs_f64(), want, "{text}");
    }
    for text in ["", "5", "s", "-5s", "5x", "1.2.3s", "5s5"] {
        assert!(duration(&word(text)).is_err(), "{text}");
    }
}
