//! Our bytes against those `nft` sent for the same ruleset. How they were recorded is said in
//! the files themselves.

mod common;

use std::borrow::Cow;
use std::time::Duration;

use common::{Recorded, recorded};
use netlink::message::{Message, NLM_F_ACK, messages};
use netlink::nftables::*;
use netlink::{Attribute, attributes};

const NEW_TABLE: u16 = 0xa00;
const NEW_RULE: u16 = 0xa06;
const RULE_EXPRESSIONS: u16 = 4;
const NEW_SET: u16 = 0xa09;
const NEW_ELEMENT: u16 = 0xa0c;

const T: Table<'_> = Table { family: Family::Ip, name: "portolan" };

/// The steps whose meaning `nft` printed: what we read prints the same, and what we write of it
/// is the same bytes.
fn check_rules(recording: &[Recorded]) {
    let mut rules = 0;
    for step in recording.iter().filter(|step| step.message().kind == NEW_RULE) {
        let attribute = |kind| step.message().attributes(4).find(kind);
        let chain = attribute(2).and_then(|chain| chain.str()).unwrap();
        let family = Family::from_number(step.message().payload[0]);
        let rule = RuleInfo {
            chain: chain.to_string(),
            handle: 0,
            userdata: Vec::new(),
            raw: attribute(4).unwrap().value.to_vec(),
        };
        let expressions = rule.expressions();
        let printed: Vec<_> = expressions.iter().map(|expression| expression.to_string()).collect();
        let theirs: Vec<_> = step.printed.iter().map(|line| without_implied_flags(line)).collect();
        assert_eq!(printed, theirs);

        let mut batch = Batch::new();
        batch.add_rule(Table { family, name: "portolan" }, chain, &expressions, &[]);
        let ours = messages(batch.as_bytes()).next().unwrap();
        assert_eq!((ours.kind, ours.flags), (NEW_RULE, step.message().flags & !NLM_F_ACK));
        assert_eq!(tree(ours), tree(step.message()), "{printed:?}");
        rules += 1;
    }
    assert!(rules > 4);
}

/// Whether addresses (1) and ports (2) are translated, the kernel concludes from the registers;
/// `nft` says the latter when they are constant.
fn without_implied_flags(line: &str) -> String {
    match line.starts_with("[ nat ") {
        true => line.replace("flags 0xe", "flags 0xc").replace(" flags 0x2", ""),
        false => line.to_string(),
    }
}

/// A rule's message: its attributes, and the name and attributes of each expression, in order.
fn tree(message: Message<'_>) -> Vec<(String, Vec<(u16, String)>)> {
    let mut tree = vec![(hex(&message.payload[..4]), Vec::new())];
    for attribute in message.attributes(4).filter(|attribute| attribute.kind != RULE_EXPRESSIONS) {
        tree[0].1.push((attribute.kind, hex(attribute.value)));
    }
    for element in message.attributes(4).find(RULE_EXPRESSIONS).unwrap().nested() {
        let name = element.nested().find(1).and_then(|name| name.str()).unwrap();
        let body = element.nested().find(2).map_or(&[][..], |body| body.value);
        // In some rules `nft` leaves the default operation of a bitwise out.
        let implied = |kind, value: &[u8]| match name {
            "bitwise" => kind == 6 && value == [0; 4],
            "socket" => kind == 3 && value == [0; 4],
            "nat" => kind == 7 && [2, 0xc, 0xe].iter().any(|flags| value == [0, 0, 0, *flags]),
            _ => false,
        };
        let attributes = attributes(body).filter(|a| !implied(a.kind, a.value));
        tree.push((name.to_string(), attributes.map(|a| (a.kind, hex(a.value))).collect()));
    }
    tree
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rules_of_nat() {
    check_rules(&recorded(include_str!("recorded/nat.txt")));
}

#[test]
fn rules_of_all_expressions() {
    check_rules(&recorded(include_str!("recorded/expressions.txt")));
}

/// Attributes we leave out on purpose: the set's number within the batch where the name says it,
/// and `nft`'s notes to itself on how to print a set.
fn comparable(bytes: &[u8]) -> (u16, Vec<u8>, Vec<(u16, String)>) {
    let message = messages(bytes).next().unwrap();
    let left_out = |kind| match message.kind {
        NEW_SET => kind == 10 || kind == 13,
        NEW_ELEMENT => kind == 4,
        _ => false,
    };
    // `nft` numbers the elements of a list where the kernel's name for each is 1.
    let value = |a: Attribute<'_>| match (message.kind, a.kind) {
        (NEW_ELEMENT, 3) => a.nested().map(|element| hex(element.value)).collect::<Vec<_>>().join("\n"),
        _ => hex(a.value),
    };
    let attributes = message.attributes(4).filter(|a| !left_out(a.kind));
    (message.kind, message.payload[..4].to_vec(), attributes.map(|a| (a.kind, value(a))).collect())
}

const BACKEND_KEY: &[Datatype] = &[Datatype::Mark, Datatype::Mark];
const ENDPOINT: &[Datatype] = &[Datatype::Ipv4Addr, Datatype::InetService];

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, policy: Policy) -> Chain<'_> {
    Chain { name, base: Some(Base { kind, hook, priority, policy }), userdata: &[] }
}

/// What `nat.nft` says, rules aside, with our own words.
fn nat_objects() -> Batch {
    use Datatype::*;
    let mut batch = Batch::new();
    batch.add_table(T, &userdata::comment("of the test"));
    batch.add_chain(T, &chain("services", ChainKind::Nat, Hook::Prerouting, -100, Policy::Accept));
    batch.add_chain(T, &chain("outgoing", ChainKind::Nat, Hook::Postrouting, 100, Policy::Accept));
    batch.add_chain(T, &chain("early", ChainKind::Filter, Hook::Prerouting, -110, Policy::Drop));
    batch.add_chain(T, &Chain { name: "pick_2", base: None, userdata: &[] });
    let frontend = [Ipv4Addr, InetProto, InetService];
    batch.add_set(T, &Set::map("frontends", &frontend, SetData::Value(BACKEND_KEY)));
    batch.add_set(T, &Set::map("backends", BACKEND_KEY, SetData::Value(ENDPOINT)));
    batch.add_elements(T, "backends", |elements| {
        elements.pair(&[1, 0, 0, 0, 0, 0, 0, 0], &[10, 1, 0, 1, 0, 80, 0, 0], &[]);
        elements.pair(&[1, 0, 0, 0, 1, 0, 0, 0], &[10, 1, 0, 2, 0x1f, 0x90, 0, 0], &[]);
    });
    let seconds = |s| Some(Duration::from_secs(s));
    batch.add_set(
        T,
        &Set {
            size: Some(65_536),
            dynamic: true,
            timeout: seconds(30),
            gc_interval: seconds(5),
            ..Set::new("suspects", ENDPOINT)
        },
    );
    batch.add_set(T, &Set { timeout: seconds(0), ..Set::new("once", &[Ipv4Addr]) });
    batch.add_elements(T, "once", |elements| {
        elements.element(&Element { key: &[10, 9, 9, 9], timeout: seconds(90), ..Element::default() });
    });
    let affinity = Set::map("affinity", &[Ipv4Addr, Mark], SetData::Value(ENDPOINT));
    batch.add_set(T, &Set { size: Some(1000), dynamic: true, timeout: seconds(10_800), ..affinity });
    batch.add_set(T, &Set::map("counts", &[Mark], SetData::Verdict));
    batch.add_elements(T, "counts", |elements| {
        let goto = Data::Verdict(Verdict::Goto(Cow::Borrowed("pick_2")));
        elements.element(&Element { key: &[2, 0, 0, 0], data: Some(goto), ..Element::default() });
        let drop = Data::Verdict(Verdict::Drop);
        elements.element(&Element { key: &[0; 4], data: Some(drop), ..Element::default() });
    });
    batch
}

#[test]
fn tables_chains_sets_and_elements() {
    let recording = recorded(include_str!("recorded/nat.txt"));
    let batch = nat_objects();
    let theirs: Vec<_> =
        recording.iter().filter(|step| step.message().kind != NEW_RULE).map(|step| &step.bytes).collect();
    let mut rest = batch.as_bytes();
    assert_eq!(batch.len(), theirs.len());
    for theirs in theirs {
        assert_eq!(comparable(rest), comparable(theirs));
        rest = &rest[u32::from_ne_bytes(*rest.first_chunk().unwrap()) as usize..];
    }
    assert_eq!(rest, []);
    assert_eq!(recording[0].message().kind, NEW_TABLE);
}
