//! The language, by example.

use super::*;
use std::collections::HashMap;
use std::path::PathBuf;

/// Files and variables that exist only here.
#[derive(Default)]
struct World {
    files: HashMap<&'static str, &'static str>,
}

impl Surroundings for World {
    fn find(&self, pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
        let pattern = pattern.to_str().unwrap();
        let (start, end) = pattern.split_once('*').unwrap();
        let mut found: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|file| file.starts_with(start) && file.ends_with(end))
            .map(PathBuf::from)
            .collect();
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        self.files
            .get(path.to_str().unwrap())
            .map(|text| (*text).to_owned())
            .ok_or(std::io::ErrorKind::NotFound.into())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "ZONE").then(|| "example.org two".to_owned())
    }
}

/// Blocks in one line: keys, then directives with their blocks.
fn shown(text: &str) -> String {
    shown_in(text, &World::default())
}

fn shown_in(text: &str, world: &World) -> String {
    fn one(line: &Line) -> String {
        let mut words = vec![line.name.text.clone()];
        words.extend(line.args.iter().map(|word| word.text.clone()));
        let mut shown = words.join(" ");
        if !line.block.is_empty() {
            shown += &format!("({})", line.block.iter().map(one).collect::<Vec<_>>().join("; "));
        }
        shown
    }
    fn block(block: &Block) -> String {
        let keys: Vec<&str> = block.keys.iter().map(|key| key.text.as_str()).collect();
        format!("[{}] {}", keys.join(" "), block.lines.iter().map(one).collect::<Vec<_>>().join("; "))
    }
    match parse("dir/Corefile", text, world) {
        Ok(blocks) => blocks.iter().map(block).collect::<Vec<_>>().join(" | "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn blocks() {
    let cases = [
        ("", ""),
        ("# nothing\n", ""),
        (".:53 {\n  whoami\n  log\n}\n", "[.:53] whoami; log"),
        (".:53 { whoami\n log }", "[.:53] whoami; log"),
        ("example.org\nwhoami\nlog . {\n class error\n}\n", "[example.org] whoami; log .(class error)"),
        ("example.org", "[example.org] "),
        ("a, b,\nc {\n errors\n}", "[a b c] errors"),
        ("a b {\n}\nc {\n}", "[a b]  | [c] "),
        ("a {\n x \"y z\" \"q\\\"\\n\" # no\n}", "[a] x y z q\"\\n"),
        ("a {\n x \"{\" \"}\"\n}", "[a] x { }"),
        ("a {\n x {\n  y 1 {\n   z\n  }\n  w\n }\n}", "[a] x(y 1(z); w)"),
        ("a {\r\n x\r\n}\r\n", "[a] x"),
        ("\u{feff}a {\n x\n}", "[a] x"),
    ];
    for (text, want) in cases {
        assert_eq!(shown(text), want, "{text:?}");
    }
}

#[test]
fn errors_name_the_place_and_the_word() {
    for (text, want) in [
        ("a {\n x\n", "dir/Corefile:1: \"{\": this block is never closed"),
        ("a {\n}\n}\n", "dir/Corefile:3: \"}\": no block is open here"),
        ("a{\n}", "dir/Corefile:2: \"}\": no block is open here"),
        ("{\n}", "dir/Corefile:1: \"{\": a server block without a zone"),
        ("a,\n{\n}", "dir/Corefile:2: \"{\": a zone was expected behind the comma"),
        ("a {\n{\n}\n}", "dir/Corefile:2: \"{\": a brace with nothing before it"),
        ("a {\n import\n}", "dir/Corefile:2: \"import\": takes a file, a pattern or a snippet"),
        ("a {\n import b c\n}", "dir/Corefile:2: \"c\": import takes one argument"),
        ("a {\n import b\n}", "dir/Corefile:2: \"b\": read dir/b: entity not found"),
        ("a {\n import *x*\n}", "dir/Corefile:2: \"*x*\": a pattern may have one wildcard only"),
        ("(s) {\n}\n(s) {\n}", "dir/Corefile:3: \"(s)\": a second snippet of this name"),
        ("(s) {\n", "dir/Corefile:1: \"(s)\": its brace is never closed"),
    ] {
        assert_eq!(shown(text), want, "{text:?}");
    }
}

#[test]
fn imports() {
    let files = HashMap::from([
        ("dir/more", "log\nerrors {\n x\n}\n"),
        ("dir/conf.d/1.conf", "b {\n whoami\n}\n"),
        ("dir/conf.d/2.conf", "c {\n import inner\n}\n"),
        ("dir/conf.d/inner", "chaos"),
        ("dir/self", "import self"),
    ]);
    let world = World { files };
    for (text, want) in [
        (
            "(s) {\n log\n errors\n}\na {\n import s\n whoami\n}\nb {\n import s\n}",
            "[a] log; errors; whoami | [b] log; errors",
        ),
        ("a {\n import more\n whoami\n}", "[a] log; errors(x); whoami"),
        ("a {\n x {\n  import more\n }\n}", "[a] x(log; errors(x))"),
        ("import conf.d/*.conf\nd {\n}\n", "[b] whoami | [c] chaos | [d] "),
        ("a {\n import none*\n}", "[a] "),
        ("import self", "dir/self:1: \"self\": more than 10000 imports of files"),
    ] {
        assert_eq!(shown_in(text, &world), want, "{text:?}");
    }
    let circle = "(s) {\n import s\n}\na {\n import s\n}";
    assert_eq!(shown(circle), "dir/Corefile:2: \"s\": more than 10000 imports of snippets");
    let mut doubling = String::from("(s0) {\n log\n}\n");
    for n in 1..40 {
        doubling += &format!("(s{n}) {{\n import s{}\n import s{}\n}}\n", n - 1, n - 1);
    }
    assert!(shown(&format!("{doubling}a {{\n import s39\n}}")).contains("more than"), "it ends");
}

#[test]
fn the_environment() {
    assert_eq!(
        shown("{$ZONE}:53 {\n x {%ZONE%}a{$NONE}b {$ {$} {%ZONE}\n}"),
        "[example.org two:53] x example.org twoab {$ {$} {%ZONE}"
    );
}

#[test]
fn keys() {
    let word = |text: &str| Word { text: text.to_owned(), file: "Corefile".into(), line: 1 };
    let cases = [
        (".", "dns . 53"),
        ("Example.ORG", "dns example.org. 53"),
        ("example.org:1053", "dns example.org. 1053"),
        ("dns://.:5300", "dns . 5300"),
        ("tls://example.org", "tls example.org. 853"),
        ("https://.", "https . 443"),
        ("quic://.:8853", "quic . 8853"),
        ("grpc://.", "grpc . 443"),
        ("10.0.0.0/24", "dns 0.0.10.in-addr.arpa. 53"),
        ("10.0.0.0/8:1053", "dns 10.in-addr.arpa. 1053"),
        ("10.0.0.0/23", "dns 0.0.10.in-addr.arpa. 53, dns 1.0.10.in-addr.arpa. 53"),
        ("10.1.2.0/31", "dns 0.2.1.10.in-addr.arpa. 53, dns 1.2.1.10.in-addr.arpa. 53"),
        ("0.0.0.0/0", "dns in-addr.arpa. 53"),
        ("2001:db8::/32", "dns 8.b.d.0.1.0.0.2.ip6.arpa. 53"),
        ("2001:db8::/31", "dns 8.b.d.0.1.0.0.2.ip6.arpa. 53, dns 9.b.d.0.1.0.0.2.ip6.arpa. 53"),
        ("example.org:", "Corefile:1: \"example.org:\": a port was expected behind the last colon"),
        ("example.org:99999", "Corefile:1: \"example.org:99999\": 99999 is no port"),
        ("ftp://x", "Corefile:1: \"ftp://x\": no transport is called ftp"),
        ("a..b", "Corefile:1: \"a..b\": no domain name: a label is empty"),
    ];
    for (text, want) in cases {
        let shown = match Key::parse(&word(text), 53) {
            Ok(keys) => {
                let keys = keys.iter().map(|key| format!("{} {} {}", key.scheme, key.zone, key.port));
                keys.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, want, "{text}");
    }
}
