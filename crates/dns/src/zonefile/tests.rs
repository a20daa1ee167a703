//! Zone files that are understood, and those that are not.

use super::*;
use wire::{Reply, Section};

fn shown(record: &Record) -> String {
    let mut reply = Reply::default();
    let owner = reply.own(&record.owner);
    reply.push(Section::Answer, owner, record.rtype, record.ttl, &record.rdata);
    reply.show(&reply.records()[0], &Name::ROOT).to_string()
}

fn read(text: &str) -> Vec<String> {
    let origin = "example.org".parse().unwrap();
    let include = |path: &str| match path {
        "more" => Ok("$ORIGIN deep\nx A 10.0.0.9\n".to_owned()),
        "circle" => Ok("$INCLUDE circle\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    match parse("db", text, &origin, &include) {
        Ok(records) => records.iter().map(shown).collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn a_zone() {
    let text = "
$TTL 1h ; an hour
@   IN SOA ns root.mail ( 2024010100 ; serial
        2h 15m 4w2d3h 300 )
    NS ns
    60 IN NS ns.other.
ns  A 10.0.0.1
    IN 30 AAAA fd00::1
*.w\\.x CNAME @
t   TXT \"a b\" c\\;d \"\" \"\\\"q\\065\"
$ORIGIN sub
y   MX 10 mail
$INCLUDE more
$INCLUDE more other.
z   SRV 1 2 3 y ; still below sub
$GENERATE 1-5/2 h$ A 10.0.1.$
$GENERATE 8-9 g${1,3,x} CNAME \\$.$
";
    let want = [
        "example.org. 3600 IN SOA ns.example.org. root.mail.example.org. 2024010100 7200 900 2602800 300",
        "example.org. 3600 IN NS ns.example.org.",
        "example.org. 60 IN NS ns.other.",
        "ns.example.org. 3600 IN A 10.0.0.1",
        "ns.example.org. 30 IN AAAA fd00::1",
        "*.w\\.x.example.org. 3600 IN CNAME example.org.",
        "t.example.org. 3600 IN TXT \"a b\" \"c;d\" \"\" \"\\\"qA\"",
        "y.sub.example.org. 3600 IN MX 10 mail.sub.example.org.",
        "x.deep.sub.example.org. 3600 IN A 10.0.0.9",
        "x.deep.other. 3600 IN A 10.0.0.9",
        "z.sub.example.org. 3600 IN SRV 1 2 3 y.sub.example.org.",
        "h1.sub.example.org. 3600 IN A 10.0.1.1",
        "h3.sub.example.org. 3600 IN A 10.0.1.3",
        "h5.sub.example.org. 3600 IN A 10.0.1.5",
        "g009.sub.example.org. 3600 IN CNAME \\$.8.sub.example.org.",
        "g00a.sub.example.org. 3600 IN CNAME \\$.9.sub.example.org.",
    ];
    assert_eq!(read(text), want);
}

#[test]
fn data_of_many_types() {
    for (text, hex) in [
        ("a. CAA 0 issue \"ca.example\"", "00056973737565 63612e6578616d706c65"),
        ("a. DS 1 8 2 0aFF 01", "0001 08 02 0aff01"),
        ("a. DNSKEY 256 3 8 AQ ID", "0100 03 08 010203"),
        ("a. SSHFP 1 1 ff", "01 01 ff"),
        ("a. TLSA 3 1 1 00", "03 01 01 00"),
        ("a. NAPTR 1 2 s SIP+D2U \"\" b.", "0001 0002 0173 075349502b443255 00 016200"),
        (
            "a. NSEC b. A MX TYPE1234",
            "016200 0002 4001 04 1b 0000000000000000000000000000000000000000000000000000 20",
        ),
        ("a. NSEC3PARAM 1 0 10 -", "01 00 000a 00"),
        ("a. NSEC3 1 0 10 aabb 0p9mhaveqvm6t7vbl5lop2u3t2rp3tom A", "01 00 000a 02aabb 14..000140"),
        ("a. URI 1 2 \"x:y\"", "0001 0002 783a79"),
        (
            "a. HTTPS 1 . alpn=h2,h3 port=443 ipv4hint=10.0.0.1",
            "0001 00 0001 0006 026832 026833 0003 0002 01bb 0004 0004 0a000001",
        ),
        ("a. HINFO x \"y z\"", "0178 03792 07a"),
        (
            "a. RRSIG A 8 2 300 20260101000000 1735689600 7 b. AQID",
            "0001 08 02 0000012c 6955b900 67748580 0007 016200 010203",
        ),
        ("a. TYPE65280 \\# 3 01 0203", "010203"),
        ("a. A \\# 4 0a000001", "0a000001"),
    ] {
        let record = parse_record(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let bytes: String = record.rdata.iter().map(|byte| format!("{byte:02x}")).collect();
        let want: String = hex.split_whitespace().collect();
        match want.split_once("..") {
            Some((start, end)) => {
                assert!(bytes.starts_with(start) && bytes.ends_with(end), "{text}: {bytes}")
            }
            None => assert_eq!(bytes, want, "{text}"),
        }
    }
}

#[test]
fn errors_name_the_place_and_the_word() {
    for (text, want) in [
        ("a A 10.0.0.1", "db:1: \"A\": no TTL, neither here nor before"),
        ("$TTL 1\n\na A 10.0.0.256", "db:3: \"10.0.0.256\": no IPv4 address"),
        ("$TTL 1\na A 10.0.0.1 x", "db:2: \"x\": more than the data of A"),
        ("$TTL 1\na MX 10", "db:2: the data end too early"),
        ("$TTL x", "db:1: \"x\": no time"),
        ("$WHAT x", "db:1: \"$WHAT\": no directive that is known"),
        ("$TTL 1\na WHAT x", "db:2: \"WHAT\": no type, class or TTL"),
        ("$TTL 1\na 5 IN", "db:2: a type was expected"),
        ("$TTL 1\n  A 10.0.0.1", "db:2: there is no owner yet that this could belong to"),
        ("a SOA ( b c", "db:1: a parenthesis opens that never closes"),
        ("a )", "db:1: a parenthesis closes that never opened"),
        ("$TTL 1\na TXT \"x", "db:2: a quote opens that never closes"),
        ("$TTL 1\na..b A 10.0.0.1", "db:2: \"a..b\": a label is empty"),
        ("$INCLUDE none", "db:1: \"none\": entity not found"),
        ("$INCLUDE circle", "circle:1: \"circle\": included more than 8 deep"),
        ("$GENERATE 5-1 a A 1", "db:1: \"5-1\": no range"),
        ("$GENERATE 0-65535 a A 1", "db:1: \"0-65535\": more than 65535 records"),
        ("$TTL 1\na A \\# 3 0a", "db:2: \"3\": there are 1 bytes"),
        ("$TTL 1\na LOC x", "db:2: LOC: its data are understood in the form \\# only"),
    ] {
        let error = read(text).pop().unwrap();
        assert_eq!(error, want, "{text:?}");
    }
}

#[test]
fn times() {
    for (text, want) in [
        ("0", Some(0)),
        ("1h30m", Some(5400)),
        ("2W", Some(1_209_600)),
        ("1h5", Some(3605)),
        ("", None),
        ("h", None),
        ("99999999999", None),
        ("1x", None),
    ] {
        assert_eq!(ttl(text), want, "{text}");
    }
}

#[test]
fn any_text_and_what_it_prints_as() {
    for text in [
        "$TTL 5\na.b TXT \"\\000\\255 ;\\\"\"\n\\@.x MX 5 \\$y\nq HINFO a b\nu TYPE999 \\# 2 abcd",
        "\\",
        "(",
        "a\\",
        "$GENERATE",
    ] {
        fuzz(text.as_bytes());
    }
}
