//! Replies there and back.

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn question() -> Question {
    Question { name: name("Web.shop.svc.cluster.local"), rtype: Type::SRV, class: Class::IN }
}

fn encoded(reply: &Reply, limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let envelope = Envelope { limit, ..Envelope::of_question(7, question()) };
    reply.encode(&envelope, &mut Compressor::default(), &mut out);
    out
}

fn shown(bytes: &[u8]) -> Vec<String> {
    let mut reply = Reply::default();
    reply.read(&Message::read(bytes).unwrap()).unwrap();
    let all = reply.records().iter();
    all.map(|record| format!("{:?}: {}", record.section, reply.show(record, &question().name))).collect()
}

#[test]
fn all_kinds_of_records_there_and_back() {
    let mut reply = Reply { authoritative: true, ..Reply::default() };
    let target =
        reply.push_srv(Owner::QUESTION, 5, [0, 50, 80], &name("10-0-0-1.web.shop.svc.cluster.local"));
    reply.push_address(Section::Additional, target, 5, "10.0.0.1".parse().unwrap());
    reply.push_address(Section::Additional, target, 5, "fd00::1".parse().unwrap());
    let zone = reply.own(&name("cluster.local"));
    let soa =
        [name("ns.dns.cluster.local").as_bytes(), name("hostmaster.cluster.local").as_bytes(), &[0; 20]]
            .concat();
    reply.push(Section::Authority, zone, Type::SOA, 30, &soa);
    reply.push_name(Section::Authority, zone, Type::NS, 30, &name("ns.dns.cluster.local"));
    reply.push_parts(Section::Answer, zone, Type::MX, 30, &[&[0, 10], name("mail.cluster.local").as_bytes()]);
    reply.push(Section::Answer, zone, Type::TXT, 30, b"\x051.1.0\x03a\"b");
    reply.push(Section::Answer, zone, Type(999), 30, b"xy");
    let bytes = encoded(&reply, 512);
    assert_eq!(
        shown(&bytes),
        [
            "Answer: Web.shop.svc.cluster.local. 5 IN SRV 0 50 80 10-0-0-1.web.shop.svc.cluster.local.",
            "Answer: cluster.local. 30 IN MX 10 mail.cluster.local.",
            "Answer: cluster.local. 30 IN TXT \"1.1.0\" \"a\\\"b\"",
            "Answer: cluster.local. 30 IN TYPE999 \\# 2 7879",
            "Authority: cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 0 0 0 0 0",
            "Authority: cluster.local. 30 IN NS ns.dns.cluster.local.",
            "Additional: 10-0-0-1.web.shop.svc.cluster.local. 5 IN A 10.0.0.1",
            "Additional: 10-0-0-1.web.shop.svc.cluster.local. 5 IN AAAA fd00::1",
        ]
    );
    let names = bytes.windows(7).filter(|window| window == b"cluster").count();
    assert_eq!(names, 2, "once in the question, and once in the target of SRV");
    assert_eq!(Header::read(&bytes).unwrap().flags & flags::AA, flags::AA);
}

use crate::Header;

#[test]
fn what_does_not_fit_is_left_out() {
    let mut reply = Reply::default();
    for n in 0..40 {
        reply.push_address(Section::Answer, Owner::QUESTION, 5, IpAddr::from([10, 0, 0, n]));
    }
    let whole = encoded(&reply, 4096);
    assert_eq!((shown(&whole).len(), Header::read(&whole).unwrap().flags & flags::TC), (40, 0));
    let part = encoded(&reply, 512);
    assert_eq!(Header::read(&part).unwrap().flags & flags::TC, flags::TC);
    assert!(part.len() <= 512 && part.len() > 512 - 16);
    assert_eq!(shown(&part).len(), (512 - 12 - 32) / 16);
}

#[test]
fn edns_takes_its_room() {
    let mut reply = Reply { rcode: Rcode::BADVERS, ..Reply::default() };
    reply.push_address(Section::Answer, Owner::QUESTION, 5, IpAddr::from([10, 0, 0, 1]));
    let mut out = Vec::new();
    let envelope = Envelope { edns: Some((1232, true)), limit: 512, ..Envelope::of_question(7, question()) };
    reply.encode(&envelope, &mut Compressor::default(), &mut out);
    let mut read = Reply::default();
    read.read(&Message::read(&out).unwrap()).unwrap();
    assert_eq!((read.rcode, read.records().len()), (Rcode::BADVERS, 1));
}

#[test]
fn pointers_keep_the_case_of_names() {
    let mut reply = Reply::default();
    reply.push_name(Section::Answer, Owner::QUESTION, Type::CNAME, 5, &name("WEB.shop.svc.cluster.local"));
    assert_eq!(
        shown(&encoded(&reply, 512)),
        ["Answer: Web.shop.svc.cluster.local. 5 IN CNAME WEB.shop.svc.cluster.local."]
    );
}

#[test]
fn many_names_in_one_message() {
    let mut reply = Reply::default();
    for n in 0..400 {
        let target = name(&format!("endpoint-{n}.web.shop.svc.cluster.local"));
        let owner = reply.push_srv(Owner::QUESTION, 5, [0, 1, 80], &target);
        reply.push_address(Section::Additional, owner, 5, IpAddr::from([10, 0, (n / 256) as u8, n as u8]));
    }
    assert_eq!(shown(&encoded(&reply, MESSAGE_BYTES_MAX)).len(), 800);
}
