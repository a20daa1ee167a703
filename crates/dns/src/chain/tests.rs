//! Chains of made-up plugins: who is asked, in which order, and what comes of it.

use super::*;
use std::sync::Mutex;
use std::time::Instant;
use wire::{Asked, Owner, Section};

/// A plugin that does as it is told and writes down what happens.
struct Told {
    name: &'static str,
    says: fn() -> Step,
    later: fn() -> Step,
    onward: Onward,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn see(&self, what: &str) {
        self.seen.lock().unwrap().push(format!("{} {what}", self.name));
    }
}

impl Plugin for Told {
    fn ask(&self, _: &mut Exchange, _: &At<'_>) -> Step {
        self.see("asked");
        (self.says)()
    }

    fn later<'a>(&'a self, _: &'a mut Exchange, _: &'a At<'a>) -> Later<'a, Step> {
        self.see("later");
        Box::pin(async { (self.later)() })
    }

    fn answered(&self, _: &mut Exchange, _: &At<'_>) -> Onward {
        self.see("answered");
        self.onward
    }

    fn answered_later<'a>(&'a self, _: &'a mut Exchange, _: &'a At<'a>) -> Later<'a, ()> {
        self.see("answered later");
        Box::pin(async {})
    }
}

fn pass() -> Step {
    Step::Pass
}

fn done() -> Step {
    Step::Done(Outcome::NoSuchName)
}

fn later() -> Step {
    Step::Later
}

struct Bench {
    seen: Arc<Mutex<Vec<String>>>,
    links: Vec<Link>,
}

impl Bench {
    fn new() -> Bench {
        Bench { seen: Arc::default(), links: Vec::new() }
    }

    fn with(mut self, name: &'static str, says: fn() -> Step, later: fn() -> Step, onward: Onward) -> Bench {
        let plugin = Arc::new(Told { name, says, later, onward, seen: self.seen.clone() });
        self.links.push(Link { name, plugin });
        self
    }

    fn run(self) -> (Exchange, String) {
        let chain = Chain::new(Name::ROOT, "dns://:53".into(), String::new(), 0, self.links);
        let routes = Arc::new(Routes::new("dns://:53".into(), vec![Arc::new(chain)]));
        let mut exchange = asking("a.example", Type::A);
        block_on(routes.answer_wholly(&mut exchange));
        let seen = self.seen.lock().unwrap().join(", ");
        (exchange, seen)
    }
}

fn asking(name: &str, rtype: Type) -> Exchange {
    let mut exchange = Exchange::new(Instant::now());
    exchange.asked = Asked::of_question(name.parse().unwrap(), rtype);
    exchange.begin(Default::default(), Instant::now());
    exchange
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn in_and_out_again() {
    let bench = Bench::new()
        .with("a", pass, pass, Onward::Done)
        .with("b", pass, pass, Onward::Done)
        .with("c", done, pass, Onward::Done)
        .with("d", done, pass, Onward::Done);
    let (exchange, seen) = bench.run();
    assert_eq!(seen, "a asked, b asked, c asked, b answered, a answered");
    assert_eq!((exchange.outcome, exchange.settled_by), (Some(Outcome::NoSuchName), "c"));
    assert_eq!(exchange.reply.rcode, wire::Rcode::NXDOMAIN);
}

#[test]
fn waiting_changes_nothing_but_the_time() {
    let bench = Bench::new().with("a", later, pass, Onward::Later).with("b", pass, pass, Onward::Done).with(
        "c",
        later,
        done,
        Onward::Done,
    );
    let (exchange, seen) = bench.run();
    assert_eq!(seen, "a asked, a later, b asked, c asked, c later, b answered, a answered, a answered later");
    assert_eq!(exchange.settled_by, "c");
}

#[test]
fn what_nobody_answers_fails() {
    for bench in
        [Bench::new().with("a", pass, pass, Onward::Done), Bench::new().with("a", later, later, Onward::Done)]
    {
        let (exchange, _) = bench.run();
        assert!(matches!(exchange.outcome, Some(Outcome::Failed(_))), "{:?}", exchange.outcome);
        assert_eq!(exchange.reply.rcode, wire::Rcode::SERVFAIL);
    }
    let (exchange, _) = Bench::new().run();
    assert_eq!(exchange.outcome, Some(Outcome::Refused));
}

/// Asks for the next name until it is at the last.
struct Chase;

impl Plugin for Chase {
    fn ask(&self, exchange: &mut Exchange, _: &At<'_>) -> Step {
        match exchange.asked.question.name.label_count() {
            1 => {
                exchange.reply.push(Section::Answer, Owner::QUESTION, Type::A, 5, &[10, 0, 0, 1]);
                Step::Done(Outcome::Records)
            }
            _ => Step::Later,
        }
    }

    fn later<'a>(&'a self, exchange: &'a mut Exchange, at: &'a At<'a>) -> Later<'a, Step> {
        Box::pin(async {
            let target = exchange.asked.question.name.without_first(1);
            exchange.reply.push_name(Section::Answer, Owner::QUESTION, Type::CNAME, 5, &target);
            match at.look_up(exchange, target, Type::A).await {
                Some(found) => exchange.reply.extend(&found, &target, |_| true),
                None => return Step::Done(Outcome::Failed("too far".into())),
            }
            Step::Done(Outcome::Records)
        })
    }
}

#[test]
fn further_questions_go_so_deep_and_no_deeper() {
    for (name, records) in
        [("a", Some(1)), ("c.b.a", Some(3)), ("i.h.g.f.e.d.c.b.a", Some(9)), ("j.i.h.g.f.e.d.c.b.a", None)]
    {
        let links = vec![Link { name: "chase", plugin: Arc::new(Chase) }];
        let chain = Chain::new(Name::ROOT, "s".into(), String::new(), 0, links);
        let routes = Arc::new(Routes::new("s".into(), vec![Arc::new(chain)]));
        let mut exchange = asking(name, Type::A);
        block_on(routes.answer_wholly(&mut exchange));
        let found = (exchange.outcome == Some(Outcome::Records)).then(|| exchange.reply.records().len());
        assert_eq!(found, records, "{name}");
    }
}

#[test]
fn the_longest_zone_has_the_question() {
    let chain = |zone: &str| {
        let links = vec![Link { name: "whoami", plugin: Arc::new(Chase) }];
        Arc::new(Chain::new(zone.parse().unwrap(), "s".into(), String::new(), 0, links))
    };
    let all = |zones: &[&str]| Routes::new("s".into(), zones.iter().map(|zone| chain(zone)).collect());
    let zones = all(&["example.org", "sub.example.org", "net"]);
    let rooted = all(&[".", "example.org", "sub.example.org"]);
    for (name, rtype, want, want_rooted) in [
        ("example.org", Type::A, Some("example.org."), "example.org."),
        ("A.B.Example.ORG", Type::A, Some("example.org."), "example.org."),
        ("x.sub.example.org", Type::A, Some("sub.example.org."), "sub.example.org."),
        ("sub.example.org", Type::DS, Some("example.org."), "example.org."),
        ("example.org", Type::DS, Some("example.org."), "example.org."),
        ("xexample.org", Type::A, None, "."),
        ("org", Type::A, None, "."),
        (".", Type::A, None, "."),
        (".", Type::DS, None, "."),
    ] {
        let exchange = asking(name, rtype);
        let zone = |routes: &Routes| routes.route(&exchange).map(|chain| chain.zone_label.clone());
        assert_eq!(zone(&zones).as_deref(), want, "{name} {rtype}");
        assert_eq!(zone(&rooted).as_deref(), Some(want_rooted), "{name} {rtype}");
    }
    let mut chaos = asking("example.org", Type::TXT);
    chaos.asked.question.class = Class::CH;
    assert!(zones.route(&chaos).is_none());
}
