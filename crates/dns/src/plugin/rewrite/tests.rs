//! Questions that are rewritten, and what their askers see of it.

use crate::testing::{Act, Bench, Told, refused, soa};
use wire::{Rcode, Section, Type};

/// An upstream that has what is asked for, and names in all their places.
fn told() -> Told {
    Told::new(|asked, _| {
        let name = asked.question.name.lowercase();
        let address = (Section::Answer, Type::A, 30, vec![10, 0, 0, 1]);
        match (name.to_string().as_str(), asked.question.rtype) {
            ("alias.to.", Type::A) => Act::Records(
                Rcode::NOERROR,
                vec![(Section::Answer, Type::CNAME, 30, b"\x01x\x02to\x00".to_vec())],
            ),
            ("bad.to.", _) => Act::Answer(Rcode::SERVFAIL, Vec::new()),
            ("gone.to.", _) => {
                Act::Records(Rcode::NXDOMAIN, vec![(Section::Authority, Type::SOA, 30, soa(30))])
            }
            (_, Type::A) => Act::Records(Rcode::NOERROR, vec![address]),
            (_, Type::SRV) => {
                let data = b"\x00\x01\x00\x02\x00\x03\x01y\x02to\x00".to_vec();
                Act::Records(Rcode::NOERROR, vec![(Section::Answer, Type::SRV, 30, data)])
            }
            (_, Type::PTR) => {
                let data = b"\x03ftp\x02to\x00".to_vec();
                Act::Records(Rcode::NOERROR, vec![(Section::Answer, Type::PTR, 30, data)])
            }
            _ => Act::Answer(Rcode::NOERROR, Vec::new()),
        }
    })
}

fn ask(rules: &str, question: &str) -> (String, Vec<String>) {
    let told = told();
    let bench = Bench::of(&format!("{rules}\nforward . {}", told.address));
    let answer = bench.ask(question).replace(" ra", "");
    (answer, told.questions())
}

#[test]
fn names() {
    for (rules, question, asked, answer) in [
        ("rewrite name a.from a.to", "A.From A", "a.to.", "A.From. 30 IN A 10.0.0.1"),
        ("rewrite name a.from a.to", "b.from A", "b.from.", "b.from. 30 IN A 10.0.0.1"),
        ("rewrite name a.from alias.to", "a.from A", "alias.to.", "a.from. 30 IN CNAME x.to."),
        ("rewrite name prefix a. b.c.", "a.from A", "b.c.from.", "b.c.from. 30 IN A 10.0.0.1"),
        ("rewrite name prefix a. b. answer auto", "a.from A", "b.from.", "a.from. 30 IN A 10.0.0.1"),
        ("rewrite name suffix .from .to", "a.from A", "a.to.", "a.to. 30 IN A 10.0.0.1"),
        ("rewrite name suffix .from .to answer auto", "a.from A", "a.to.", "a.from. 30 IN A 10.0.0.1"),
        (
            "rewrite name suffix .from .to answer auto",
            "a.from SRV",
            "a.to.",
            "a.from. 30 IN SRV 1 2 3 y.from.",
        ),
        ("rewrite name substring x.from y.to", "a.x.from A", "a.y.to.", "a.y.to. 30 IN A 10.0.0.1"),
        (
            "rewrite name regex (.*)-(west)\\.from {1}.{2}.to",
            "a-west.from A",
            "a.west.to.",
            "a.west.to. 30 IN A 10.0.0.1",
        ),
        (
            "rewrite stop {\nname regex (.*)-(west)\\.from {1}.{2}.to\nanswer name (.*)\\.west\\.to {1}-west.from\n}",
            "a-west.from A",
            "a.west.to.",
            "a-west.from. 30 IN A 10.0.0.1",
        ),
        (
            "rewrite stop {\nname suffix .arpa .arpa\nanswer name auto\nanswer value (.*)\\.to\\. {1}.from.\n}",
            "1.in-addr.arpa PTR",
            "1.in-addr.arpa.",
            "1.in-addr.arpa. 30 IN PTR ftp.from.",
        ),
        (
            "rewrite continue name a.from b.from\nrewrite name b.from c.to",
            "a.from A",
            "c.to.",
            "a.from. 30 IN A 10.0.0.1",
        ),
        (
            "rewrite name a.from b.from\nrewrite name b.from c.to",
            "a.from A",
            "b.from.",
            "a.from. 30 IN A 10.0.0.1",
        ),
    ] {
        let (got, seen) = ask(rules, question);
        assert_eq!(got, format!("NOERROR {answer}"), "{rules}");
        let rtype = question.rsplit(' ').next().unwrap();
        assert_eq!(seen, [format!("udp {asked} {rtype}")], "{rules}");
    }
}

#[test]
fn what_is_no_name_fails() {
    let (answer, seen) = ask("rewrite name regex ^(.*)$ {1}{1}..x", "a A");
    assert_eq!((answer.as_str(), seen.len()), ("SERVFAIL", 0));
}

#[test]
fn types_and_classes() {
    let (answer, seen) = ask("rewrite type ANY A", "a ANY");
    assert_eq!((answer.as_str(), seen), ("NOERROR a. 30 IN A 10.0.0.1", vec!["udp a. A".to_owned()]));
    let told = Told::new(|asked, _| match asked.question.class {
        wire::Class::IN => Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, 1]]),
        _ => Act::Answer(Rcode::REFUSED, Vec::new()),
    });
    let bench = Bench::of(&format!("rewrite class CH IN\nforward . {}", told.address));
    assert_eq!(bench.ask("a A ch"), "NOERROR ra a. 30 IN A 10.0.0.1");
}

#[test]
fn ttls_and_codes() {
    for (rules, question, want) in [
        ("rewrite ttl a 15", "a A", "NOERROR a. 15 IN A 10.0.0.1"),
        ("rewrite ttl a 40-60", "a A", "NOERROR a. 40 IN A 10.0.0.1"),
        ("rewrite ttl a -20", "a A", "NOERROR a. 20 IN A 10.0.0.1"),
        ("rewrite ttl a 20-", "a A", "NOERROR a. 30 IN A 10.0.0.1"),
        ("rewrite ttl suffix .x 1", "a A", "NOERROR a. 30 IN A 10.0.0.1"),
        ("rewrite ttl regex (.*)\\.to 1", "b.to A", "NOERROR b.to. 1 IN A 10.0.0.1"),
        ("rewrite rcode bad.to SERVFAIL NOERROR", "bad.to A", "NOERROR"),
        (
            "rewrite rcode suffix .to 3 0",
            "gone.to A",
            "NOERROR | gone.to. 30 IN SOA ns. root. 1 7200 1800 86400 30",
        ),
        ("rewrite rcode other SERVFAIL NOERROR", "bad.to A", "SERVFAIL"),
    ] {
        assert_eq!(ask(rules, question).0, want, "{rules}");
    }
}

#[test]
fn targets_of_aliases() {
    let (answer, seen) = ask("rewrite cname exact x.to z.other", "alias.to A");
    assert_eq!(answer, "NOERROR alias.to. 30 IN CNAME z.other.; z.other. 30 IN A 10.0.0.1");
    assert_eq!(seen, ["udp alias.to. A", "udp z.other. A"]);
    let (answer, _) = ask("rewrite cname regex (.*)\\.to\\. {1}.cdn.", "alias.to A");
    assert_eq!(answer, "NOERROR alias.to. 30 IN CNAME x.cdn.; x.cdn. 30 IN A 10.0.0.1");
    let (answer, _) = ask("rewrite cname y.to z.other", "alias.to A");
    assert_eq!(answer, "NOERROR alias.to. 30 IN CNAME x.to.");
}

#[test]
fn options_of_edns() {
    let options = |rules: &str, question: &str| {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = seen.clone();
        let told = Told::new(move |asked, _| {
            *into.lock().unwrap() = asked.edns().map(|edns| edns.options.clone()).unwrap_or_default();
            Act::Answer(Rcode::NOERROR, Vec::new())
        });
        let bench = Bench::of(&format!("{rules}\nforward . {}", told.address));
        let exchange = bench.exchange_from("10.240.7.9", question);
        let asked = seen.lock().unwrap().clone();
        (asked, exchange.reply.options.clone(), exchange.asked.edns().is_some())
    };
    let abcd = b"\xff\xee\x00\x04abcd".to_vec();
    assert_eq!(
        options("rewrite edns0 local set 0xffee 0x61626364", "a A edns"),
        (abcd.clone(), abcd.clone(), true)
    );
    let (asked, _, has_edns) = options("rewrite edns0 local set 0xffee abcd revert", "a A");
    assert_eq!((asked, has_edns), (abcd.clone(), false));
    let both = "rewrite continue edns0 local set 0xffee abcd\nrewrite edns0 local replace 0xffee wxyz revert";
    assert_eq!(options(both, "a A edns"), (b"\xff\xee\x00\x04wxyz".to_vec(), abcd, true));
    let subnet = options("rewrite edns0 subnet set 20 56", "a A edns").0;
    assert_eq!(subnet, b"\x00\x08\x00\x07\x00\x01\x14\x00\x0a\xf0\x00");
    assert_eq!(options("rewrite edns0 nsid set", "a A edns").0, b"\x00\x03\x00\x00");
    assert_eq!(options("rewrite edns0 nsid unset", "a A nsid").0, b"");
    assert_eq!(options("rewrite edns0 nsid replace", "a A edns").0, b"");
    let variable =
        |name: &str| options(&format!("rewrite edns0 local set 65001 {{{name}}}"), "a A edns").0.split_off(4);
    assert_eq!(variable("qname"), b"a.");
    assert_eq!(variable("qtype"), [0, 1]);
    assert_eq!(variable("client_ip"), [10, 240, 7, 9]);
    assert_eq!(variable("client_port"), 1234_u16.to_be_bytes());
    assert_eq!(variable("protocol"), b"udp");
    assert_eq!(variable("server_ip"), [127, 0, 0, 1]);
}

#[test]
fn errors_name_the_word() {
    for (rule, want) in [
        ("rewrite", "\"rewrite\": takes a field"),
        ("rewrite what a b", "\"what\": not name, type, class, edns0, ttl, cname or rcode"),
        ("rewrite name a", "\"name\": takes a name and another"),
        ("rewrite name best a b", "\"a\": best before it is not exact"),
        ("rewrite name regex ( b", "\"(\": "),
        ("rewrite name regex a {1}", "\"{1}\": more groups than the pattern has"),
        ("rewrite name exact a b c", "\"c\": answer was expected"),
        ("rewrite name exact a b answer name x", "\"name\": takes a pattern and a name"),
        (
            "rewrite name suffix a b answer auto answer name x y",
            "\"name\": names of answers are rewritten by rule",
        ),
        ("rewrite answer name a b", "\"answer\": answers are rewritten after a name"),
        ("rewrite type A", "\"type\": takes two arguments"),
        ("rewrite type A WHAT", "\"WHAT\": no type"),
        ("rewrite ttl a 5-1", "\"5-1\": neither seconds nor a range of them"),
        ("rewrite rcode a 2 999", "\"999\": no response code"),
        ("rewrite edns0 local set 0xfffff a", "\"0xfffff\": no number of an option"),
        ("rewrite edns0 local set 1 0xabc", "\"0xabc\": not hexadecimal"),
        ("rewrite edns0 local set 1 {what}", "\"{what}\": no such variable"),
        ("rewrite edns0 subnet set 33 1", "\"33\": more than 32 bits"),
        ("rewrite edns0 cookie set", "\"cookie\": not local, nsid or subnet"),
    ] {
        let error = refused(rule);
        assert!(error.contains(want), "{rule}: {error}");
    }
}
