//! A small zone with everything in it, and questions to it.

use super::*;
use crate::zonefile::{no_includes, parse};
use wire::{Class, Question, Reply, Section};

const ZONE: &str = "$ORIGIN example.org.
$TTL 60
@ SOA ns root 7 7200 1800 86400 300
@ NS ns
@ NS ns.other.
ns A 10.0.0.1
web A 10.0.0.2
web A 10.0.0.3
web TXT hello
alias CNAME web
far CNAME web.other.
a1 CNAME a2
a2 CNAME a1
gone CNAME missing
mail MX 10 web
mail MX 20 mx.other.
deep.down.empty A 10.0.0.4
*.wild A 10.0.0.5
closer.wild TXT x
*.walias CNAME web
sub NS ns.sub
sub NS ns
ns.sub A 10.0.0.6
sub DS 1 8 2 00
in.sub A 10.0.0.7
old DNAME new
x.new A 10.0.0.8
outside.test. A 10.0.0.9
";

fn zone(text: &str) -> Zone {
    let origin = "example.org".parse().unwrap();
    Zone::new(&origin, parse("db", text, &origin, &no_includes).unwrap()).unwrap()
}

fn ask(zone: &Zone, name: &str, rtype: Type, dnssec: bool) -> String {
    let mut reply = Reply::default();
    let question = Question { name: name.parse().unwrap(), rtype, class: Class::IN };
    let answer = zone.answer(&question, dnssec, &mut reply);
    let mut text = format!("{:?}", answer.found);
    text.push_str(if reply.authoritative { " aa" } else { "" });
    if let Some(target) = answer.target {
        text.push_str(&format!(" to {target}"));
    }
    for (section, sign) in Section::ALL.into_iter().zip(["", " |", " +"]) {
        let shown = |record: &wire::Record| {
            let shown = reply.show(record, &question.name).to_string();
            shown.replace(" 60 IN", "").replace(".example.org.", "@")
        };
        let records: Vec<String> = reply.section(section).map(shown).collect();
        if !records.is_empty() {
            text.push_str(&format!("{sign} {}", records.join(", ")));
        }
    }
    text
}

#[test]
fn answers() {
    let zone = zone(ZONE);
    let servers = "| example.org. NS ns@, example.org. NS ns.other.";
    let soa = "| example.org. SOA ns@ root@ 7 7200 1800 86400 300";
    for (name, rtype, want) in [
        ("web.example.org", Type::A, format!("Records aa web@ A 10.0.0.2, web@ A 10.0.0.3 {servers}")),
        ("WEB.Example.ORG", Type::TXT, format!("Records aa WEB.Example.ORG. TXT \"hello\" {servers}")),
        ("web.example.org", Type::AAAA, format!("NoData aa {soa}")),
        ("no.example.org", Type::A, format!("NoSuchName aa {soa}")),
        (
            "example.org",
            Type::SOA,
            format!("Records aa example.org. SOA ns@ root@ 7 7200 1800 86400 300 {servers}"),
        ),
        (
            "example.org",
            Type::NS,
            "Records aa example.org. NS ns@, example.org. NS ns.other. + ns@ A 10.0.0.1".into(),
        ),
        (
            "alias.example.org",
            Type::A,
            format!("Records aa alias@ CNAME web@, web@ A 10.0.0.2, web@ A 10.0.0.3 {servers}"),
        ),
        ("alias.example.org", Type::CNAME, format!("Records aa alias@ CNAME web@ {servers}")),
        ("alias.example.org", Type::MX, format!("NoData aa alias@ CNAME web@ {soa}")),
        ("far.example.org", Type::A, "Records aa to web.other. far@ CNAME web.other.".into()),
        ("gone.example.org", Type::A, format!("NoSuchName aa gone@ CNAME missing@ {soa}")),
        (
            "mail.example.org",
            Type::MX,
            format!(
                "Records aa mail@ MX 10 web@, mail@ MX 20 mx.other. {servers} + web@ A 10.0.0.2, web@ A 10.0.0.3"
            ),
        ),
        ("empty.example.org", Type::A, format!("Empty aa {soa}")),
        ("x.empty.example.org", Type::A, format!("NoSuchName aa {soa}")),
        ("x.wild.example.org", Type::A, format!("Records aa x.wild@ A 10.0.0.5 {servers}")),
        ("y.x.wild.example.org", Type::A, format!("Records aa y.x.wild@ A 10.0.0.5 {servers}")),
        ("x.wild.example.org", Type::TXT, format!("NoData aa {soa}")),
        ("closer.wild.example.org", Type::A, format!("NoData aa {soa}")),
        ("x.closer.wild.example.org", Type::A, format!("NoSuchName aa {soa}")),
        (
            "x.walias.example.org",
            Type::A,
            format!("Records aa x.walias@ CNAME web@, web@ A 10.0.0.2, web@ A 10.0.0.3 {servers}"),
        ),
        (
            "sub.example.org",
            Type::A,
            "Delegation | sub@ NS ns.sub@, sub@ NS ns@ + ns.sub@ A 10.0.0.6, ns@ A 10.0.0.1".into(),
        ),
        (
            "in.sub.example.org",
            Type::A,
            "Delegation | sub@ NS ns.sub@, sub@ NS ns@ + ns.sub@ A 10.0.0.6, ns@ A 10.0.0.1".into(),
        ),
        ("sub.example.org", Type::DS, format!("Records aa sub@ DS \\# 5 0001080200 {servers}")),
        (
            "x.old.example.org",
            Type::A,
            format!("Records aa old@ DNAME new@, x.old@ CNAME x.new@, x.new@ A 10.0.0.8 {servers}"),
        ),
        ("old.example.org", Type::A, format!("NoData aa {soa}")),
    ] {
        assert_eq!(ask(&zone, name, rtype, false), want, "{name} {rtype}");
    }
    let circle = ask(&zone, "a1.example.org", Type::A, false);
    assert_eq!(circle.matches("CNAME").count(), 9, "{circle}");
}

#[test]
fn denials_in_dnssec() {
    let text = "$ORIGIN example.org.\n$TTL 60\n@ SOA ns root 7 7200 1800 86400 300\n@ RRSIG SOA 8 2 60 1 1 1 example.org. AQID\n\
        @ NSEC b SOA NSEC RRSIG\nb A 10.0.0.1\nb RRSIG A 8 2 60 1 1 1 example.org. AQID\nb NSEC d A\nd A 10.0.0.2\nd NSEC @ A\n";
    let zone = zone(text);
    let types = |name: &str, rtype, dnssec| {
        let answer = ask(&zone, name, rtype, dnssec);
        (answer.matches(" NSEC ").count(), answer.matches(" RRSIG ").count())
    };
    assert_eq!(types("b.example.org", Type::A, true), (0, 1));
    assert_eq!(types("b.example.org", Type::A, false), (0, 0));
    assert_eq!(types("b.example.org", Type::MX, true), (1, 1));
    assert!(ask(&zone, "c.example.org", Type::A, true).contains("b@ NSEC"));
    // The name itself, and the wildcard that might have been.
    assert_eq!(types("c.example.org", Type::A, true), (2, 1));
}

#[test]
fn what_is_no_zone() {
    let origin = "example.org".parse().unwrap();
    let records = parse("db", "$TTL 5\na A 10.0.0.1", &origin, &no_includes).unwrap();
    assert_eq!(Zone::new(&origin, records).err(), Some("no SOA record for origin example.org.".into()));
}

#[test]
fn records_come_out_as_they_went_in() {
    let zone = zone(ZONE);
    let records = zone.records();
    assert_eq!((records[0].rtype, zone.serial, records.len()), (Type::SOA, 7, 25));
    assert_eq!(zone.soa().map(|soa| soa.retry_s), Some(1800));
    assert!(is_newer(1, u32::MAX) && is_newer(2, 1) && !is_newer(1, 1) && !is_newer(1, 2));
}
