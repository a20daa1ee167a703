//! Caching what an upstream says, while time passes as the test says.

use crate::testing::{Act, Bench, Told, refused, soa};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;
use wire::{Asked, Rcode, Section, Type};

/// An upstream whose answers carry a number that a test changes, and a cache before it.
struct Cached {
    told: Told,
    bench: Bench,
    number: Arc<AtomicU8>,
    broken: Arc<AtomicUsize>,
}

const FINE: usize = 0;
const DEAD: usize = 1;
const FAILING: usize = 2;
const SLOW: usize = 3;

/// `x30` has an address for 30 s, `n60` has none for 60 s, `d60` does not exist, `f` fails.
fn says(asked: &Asked, number: u8) -> Act {
    let name = asked.question.name.to_string();
    let ttl = name.trim_end_matches('.').get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let address = (Section::Answer, Type::A, ttl, vec![10, 0, 0, number]);
    let denial = (Section::Authority, Type::SOA, ttl, soa(ttl));
    match name.as_bytes().first() {
        Some(b'x' | b'X') => Act::Records(Rcode::NOERROR, vec![address]),
        Some(b'n') => Act::Records(Rcode::NOERROR, vec![denial]),
        Some(b'd') => Act::Records(Rcode::NXDOMAIN, vec![denial]),
        Some(b't') => Act::Truncated,
        Some(b'f') => Act::Answer(Rcode::SERVFAIL, Vec::new()),
        Some(b'r') => Act::Answer(Rcode::REFUSED, Vec::new()),
        Some(b'm') => Act::Answer(Rcode::NXDOMAIN, Vec::new()),
        Some(b'c') => {
            let target = (Section::Answer, Type::CNAME, ttl, b"\x05other\x00".to_vec());
            Act::Records(Rcode::NOERROR, vec![target])
        }
        _ => Act::Silence,
    }
}

impl Cached {
    fn new(options: &str) -> Cached {
        let (number, broken) = (Arc::new(AtomicU8::new(1)), Arc::new(AtomicUsize::new(FINE)));
        let (by, how) = (number.clone(), broken.clone());
        let told = Told::new(move |asked, _| match how.load(Ordering::Relaxed) {
            DEAD => Act::Silence,
            FAILING => Act::Answer(Rcode::SERVFAIL, Vec::new()),
            SLOW => Act::Slow(Duration::from_millis(300)),
            _ => says(asked, by.load(Ordering::Relaxed)),
        });
        let lines = format!(
            "{options}\nforward . {} {{\nmax_connect_attempts 1\nread_timeout 1500ms\nmax_fails 0\n}}",
            told.address
        );
        Cached { bench: Bench::of(&lines), told, number, broken }
    }

    fn ask(&self, question: &str) -> String {
        self.bench.ask(question)
    }

    fn pass(&self, seconds: u64) {
        self.bench.pass_time(Duration::from_secs(seconds));
    }

    fn is(&self, how: usize) {
        self.broken.store(how, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.told.questions().len()
    }

    fn metric(&self, name: &str, kind: &str) -> String {
        let kind = if kind.is_empty() { String::new() } else { format!("type=\"{kind}\",") };
        self.bench
            .metric(&format!("coredns_cache_{name}{{server=\"dns://:53\",{kind}zones=\".\",view=\"\"}}"))
    }

    fn wait_for(&self, true_at_last: impl Fn() -> bool) {
        for _ in 0..500 {
            if true_at_last() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never was");
    }
}

#[test]
fn answers_age_and_end() {
    let cached = Cached::new("cache");
    assert_eq!(cached.ask("x30 A"), "NOERROR ra x30. 30 IN A 10.0.0.1");
    cached.number.store(2, Ordering::Relaxed);
    cached.pass(10);
    assert_eq!(cached.ask("X30 A"), "NOERROR aa ra X30. 20 IN A 10.0.0.1");
    cached.pass(19);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 1 IN A 10.0.0.1");
    cached.pass(1);
    assert_eq!(cached.ask("x30 A"), "NOERROR ra x30. 30 IN A 10.0.0.2");
    assert_eq!(cached.asked(), 2);
    assert_eq!(cached.metric("requests_total", ""), "4");
    assert_eq!(cached.metric("hits_total", "success"), "2");
    assert_eq!(cached.metric("misses_total", ""), "2");
    assert_eq!(cached.metric("entries", "success"), "1");
}

#[test]
fn ttls_have_limits_from_the_first_answer_on() {
    let cached = Cached::new("cache 100");
    assert_eq!(cached.ask("x9999 A"), "NOERROR ra x9999. 100 IN A 10.0.0.1");
    assert_eq!(cached.ask("x1 A"), "NOERROR ra x1. 5 IN A 10.0.0.1");
    let cached = Cached::new("cache {\nsuccess 5000 50 2\ndenial 100 20 1\n}");
    assert_eq!(cached.ask("x9999 A"), "NOERROR ra x9999. 50 IN A 10.0.0.1");
    assert_eq!(cached.ask("x1 A"), "NOERROR ra x1. 2 IN A 10.0.0.1");
    assert!(cached.ask("n99 A").contains("n99. 20 IN SOA"));
    let cached = Cached::new("cache {\nsuccess 100 50 0\n}");
    assert_eq!(cached.ask("x0 A"), "NOERROR ra x0. 0 IN A 10.0.0.1");
    cached.ask("x0 A");
    assert_eq!(cached.asked(), 2, "what is good for no time is not kept");
}

#[test]
fn denials_and_failures() {
    let cached = Cached::new("cache");
    for (name, code, kept) in [
        ("n60", "NOERROR", true),
        ("d60", "NXDOMAIN", true),
        ("f", "SERVFAIL", true),
        ("r", "REFUSED", false),
        ("m", "NXDOMAIN", false),
        ("t", "NOERROR tc", false),
        ("c30", "NOERROR", false),
    ] {
        let before = cached.asked();
        let first = cached.ask(&format!("{name} A"));
        assert!(first.starts_with(code), "{first}");
        let again = cached.ask(&format!("{name} A"));
        assert!(again.starts_with(code), "{again}");
        assert_eq!(cached.asked() - before, if kept { 1 } else { 2 }, "{name}");
    }
    cached.ask("c30 CNAME");
    cached.ask("c30 CNAME");
    assert_eq!(cached.told.questions().iter().filter(|line| line.ends_with("CNAME")).count(), 1);
    assert_eq!(cached.metric("entries", "denial"), "3");
    cached.pass(6);
    let before = cached.asked();
    assert_eq!(cached.ask("f A"), "SERVFAIL ra");
    assert_eq!(cached.asked(), before + 1, "failures are kept for 5 s");
    let cached = Cached::new("cache {\nservfail 0\n}");
    assert_eq!([cached.ask("f A"), cached.ask("f A")], ["SERVFAIL ra", "SERVFAIL ra"]);
    assert_eq!(cached.asked(), 2);
}

#[test]
fn bits_are_part_of_the_key_and_large_answers_serve_all() {
    let cached = Cached::new("cache");
    for (question, asked) in [
        ("x30 A", 1),
        ("x30 A tcp", 1),
        ("x30 A edns", 1),
        ("x30 A do", 2),
        ("x30 A cd", 3),
        ("x30 A do cd", 4),
        ("x30 A ad", 4),
        ("x30 AAAA", 5),
    ] {
        cached.ask(question);
        assert_eq!(cached.asked(), asked, "{question}");
    }
}

#[test]
fn zones_and_exceptions() {
    let cached = Cached::new("cache x30 {\ndisable denial x30\n}");
    for (question, asked) in [("x30 A", 1), ("x30 A", 1), ("x40 A", 2), ("x40 A", 3)] {
        cached.ask(question);
        assert_eq!(cached.asked(), asked, "{question}");
    }
    let cached = Cached::new("cache {\ndisable success x30\ndisable denial\n}");
    for (question, asked) in
        [("x30 A", 1), ("x30 A", 2), ("x40 A", 3), ("x40 A", 3), ("d60 A", 4), ("d60 A", 5)]
    {
        cached.ask(question);
        assert_eq!(cached.asked(), asked, "{question}");
    }
}

#[test]
fn ttls_can_be_kept() {
    let cached = Cached::new("cache {\nkeepttl\n}");
    cached.ask("x30 A");
    cached.pass(20);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 30 IN A 10.0.0.1");
}

#[test]
fn asked_for_often_is_refreshed_ahead_of_time() {
    let cached = Cached::new("cache {\nprefetch 2 1m 20%\n}");
    cached.ask("x100 A");
    cached.pass(50);
    cached.ask("x100 A");
    cached.pass(31);
    cached.number.store(2, Ordering::Relaxed);
    assert_eq!(cached.ask("x100 A"), "NOERROR aa ra x100. 19 IN A 10.0.0.1");
    cached.wait_for(|| cached.ask("x100 A") == "NOERROR aa ra x100. 100 IN A 10.0.0.2");
    assert_eq!(cached.asked(), 2);
    assert_eq!(cached.metric("prefetch_total", ""), "1");
    // One that is asked for seldom is not.
    cached.ask("x200 A");
    cached.pass(190);
    cached.ask("x200 A");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cached.asked(), 3);
}

#[test]
fn stale_at_once() {
    let cached = Cached::new("cache {\nserve_stale\n}");
    cached.ask("x30 A");
    cached.pass(40);
    cached.number.store(2, Ordering::Relaxed);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.1");
    cached.wait_for(|| cached.ask("x30 A") == "NOERROR aa ra x30. 30 IN A 10.0.0.2");
    cached.is(FAILING);
    cached.pass(3000);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.2");
    cached.pass(700);
    assert_eq!(cached.ask("x30 A"), "SERVFAIL ra", "more than an hour old");
    let cached = Cached::new("cache {\nserve_stale 1h immediate 30s\n}");
    cached.ask("x30 A");
    cached.pass(40);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 30 IN A 10.0.0.1");
}

#[test]
fn a_failed_refresh_is_not_tried_again_at_once() {
    let cached = Cached::new("cache {\nserve_stale 1h immediate 0s 10s\n}");
    cached.ask("x30 A");
    cached.is(FAILING);
    cached.pass(40);
    cached.ask("x30 A");
    cached.wait_for(|| cached.asked() == 2);
    std::thread::sleep(Duration::from_millis(50));
    cached.ask("x30 A");
    cached.pass(5);
    cached.ask("x30 A");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cached.asked(), 2);
    cached.pass(6);
    cached.ask("x30 A");
    cached.wait_for(|| cached.asked() == 3);
}

#[test]
fn stale_after_a_look() {
    let cached = Cached::new("cache {\nserve_stale 1h verify\n}");
    cached.ask("x30 A");
    cached.pass(40);
    cached.number.store(2, Ordering::Relaxed);
    assert_eq!(cached.ask("x30 A"), "NOERROR ra x30. 30 IN A 10.0.0.2");
    for how in [DEAD, FAILING] {
        cached.is(how);
        cached.pass(40);
        assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.2");
    }
    assert_eq!(cached.metric("served_stale_total", ""), "2");
}

#[test]
fn a_look_that_takes_too_long() {
    let cached = Cached::new("cache {\nserve_stale 1h verify 50ms\n}");
    cached.ask("x30 A");
    cached.pass(40);
    cached.is(SLOW);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.1");
    // What comes after all is kept.
    cached.wait_for(|| cached.ask("x30 A") == "NOERROR aa ra x30. 30 IN A 10.0.0.1");
}

#[test]
fn what_answers_is_preferred() {
    let cached = Cached::new("cache {\nserve_stale\nserve_stale_policy prefer_positive\n}");
    let name = Arc::new(AtomicUsize::new(0));
    cached.ask("x30 A");
    cached.pass(40);
    cached.is(FAILING);
    for _ in 0..3 {
        assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.1");
        std::thread::sleep(Duration::from_millis(20));
        name.fetch_add(1, Ordering::Relaxed);
    }
    assert!(cached.asked() > 1);
}

#[test]
fn a_failure_hides_nothing_good() {
    let cached = Cached::new("cache {\nserve_stale\n}");
    cached.ask("x30 A");
    cached.is(FAILING);
    cached.pass(31);
    assert_eq!(cached.ask("x30 A"), "NOERROR aa ra x30. 0 IN A 10.0.0.1");
}

#[test]
fn errors_name_the_word() {
    for (block, want) in [
        ("cache 0", "Corefile:2: \"0\": a TTL of zero"),
        ("cache -1", "\"-1\": no number, or one that is too large"),
        ("cache {\nsuccess\n}", "Corefile:3: \"success\": takes a capacity"),
        ("cache {\nsuccess 1 0\n}", "\"0\": a TTL of zero"),
        ("cache {\ndenial 1 2 3 4\n}", "\"4\": takes a capacity and two TTLs"),
        ("cache {\nprefetch\n}", "\"prefetch\": takes a number of hits"),
        ("cache {\nprefetch 1 1m 9%\n}", "\"9%\": not between 10% and 90%"),
        ("cache {\nserve_stale 1h maybe\n}", "\"maybe\": neither immediate nor verify"),
        ("cache {\nserve_stale 1h immediate 1s 6m\n}", "\"6m\": more than five minutes"),
        ("cache {\nserve_stale 1h verify 1s 1s 1s 1s\n}", "\"1s\": one argument too many"),
        ("cache {\nserve_stale_policy prefer_positive\n}", "\"serve_stale_policy\": wants serve_stale"),
        ("cache {\nserve_stale_policy x\n}", "\"x\": not prefer_positive"),
        ("cache {\nservfail 6m\n}", "\"6m\": more than 300 seconds"),
        ("cache {\ndisable all\n}", "\"all\": neither success nor denial"),
        ("cache {\nkeepttl 5\n}", "\"5\": keepttl takes 0 arguments, not 1"),
        ("cache {\nwhat\n}", "\"what\": no option of plugin cache"),
    ] {
        let error = refused(block);
        assert!(error.contains(want), "{block}: {error}");
    }
}
