//! Forwarding to servers that are good, dead, slow, lying, looping and truncating.

use crate::exchange::{Exchange, Outcome};
use crate::testing::{Act, Bench, Told, refused, shown};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::Rcode;

const GOOD: &str = "NOERROR ra a. 30 IN A 10.0.0.1";

fn to(told: &Told, more: &str) -> Bench {
    Bench::of(&format!("forward . {} {{\n{more}\n}}", told.address))
}

fn failed(exchange: &Exchange) -> String {
    match &exchange.outcome {
        Some(Outcome::Failed(what)) => what.clone(),
        other => format!("{other:?}"),
    }
}

/// An address at which nobody listens.
fn dead() -> String {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

#[test]
fn an_upstream_answers_and_its_connection_is_used_again() {
    let told = Told::good();
    let bench = to(&told, "");
    assert_eq!(bench.ask("a A"), GOOD);
    assert_eq!(bench.ask("A A"), "NOERROR ra A. 30 IN A 10.0.0.1", "in the case of the question");
    assert_eq!(bench.ask("a A tcp"), GOOD);
    assert_eq!(bench.ask("a A tcp"), GOOD);
    assert_eq!(told.questions(), ["udp a. A", "udp a. A", "tcp a. A", "tcp a. A"]);
    let label = |proto| format!("{{proxy_name=\"forward\",to=\"{}\",proto=\"{proto}\"}}", told.address);
    for (proto, hits, misses) in [("udp", "1", "1"), ("tcp", "1", "1")] {
        let label = label(proto);
        assert_eq!(bench.metric(&format!("coredns_proxy_conn_cache_hits_total{label}")), hits, "{proto}");
        assert_eq!(bench.metric(&format!("coredns_proxy_conn_cache_misses_total{label}")), misses, "{proto}");
    }
    let took = "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=";
    assert_eq!(bench.metric(&format!("{took}\"{}\",rcode=\"NOERROR\"}}", told.address)), "4");
}

#[test]
fn ports_change() {
    let told = Told::good();
    let bench = to(&told, "");
    for _ in 0..40 {
        assert_eq!(bench.ask("a A"), GOOD);
    }
    let ports = told.ports.lock().unwrap().len();
    assert!((3..=40).contains(&ports), "{ports} ports");
}

#[test]
fn which_transport() {
    let told = Told::new(|_, stream| match stream {
        false => Act::Truncated,
        true => Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, 1]]),
    });
    for (options, question, want, seen) in [
        ("", "a A", "NOERROR tc ra", "udp a. A"),
        ("", "a A tcp", GOOD, "tcp a. A"),
        ("force_tcp", "a A", GOOD, "tcp a. A"),
        ("prefer_udp", "a A", GOOD, "udp a. A, tcp a. A"),
        ("prefer_udp", "a A tcp", GOOD, "udp a. A, tcp a. A"),
        ("prefer_udp\nforce_tcp", "a A", GOOD, "tcp a. A"),
    ] {
        told.seen.lock().unwrap().clear();
        assert_eq!(to(&told, options).ask(question), want, "{options} {question}");
        assert_eq!(told.questions().join(", "), seen, "{options} {question}");
    }
}

#[test]
fn a_dead_upstream_gives_way_to_the_next_and_is_checked() {
    let (told, dead) = (Told::good(), dead());
    let lines = format!(
        "forward . {dead} {} {{\npolicy sequential\nmax_fails 1\nhealth_check 10ms domain check.example\n}}",
        told.address
    );
    let bench = Bench::of(&lines);
    assert_eq!(bench.ask("a A"), GOOD);
    let failures =
        format!("coredns_proxy_healthcheck_failures_total{{proxy_name=\"forward\",to=\"{dead}\"}}");
    wait_until(|| bench.metric(&failures).parse::<u32>().is_ok_and(|count| count > 1));
    let misses = format!(
        "coredns_proxy_conn_cache_misses_total{{proxy_name=\"forward\",to=\"{}\",proto=\"udp\"",
        told.address
    );
    assert_eq!(bench.ask("a A"), GOOD);
    assert_eq!(bench.metric(&misses), "1");
    // It comes to life, and is found to.
    let socket = std::net::UdpSocket::bind(&dead).unwrap();
    let mut query = [0; 512];
    let (size, client) = socket.recv_from(&mut query).unwrap();
    assert_eq!(&query[12..size - 4], b"\x05check\x07example\x00");
    query[2] |= 0x80;
    socket.send_to(&query[..size], client).unwrap();
}

fn wait_until(true_at_last: impl Fn() -> bool) {
    for _ in 0..500 {
        if true_at_last() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never was");
}

#[test]
fn all_dead() {
    let dead = dead();
    let lines = format!("forward . {dead} {{\nhealth_check 5ms\nmax_fails 1\n}}");
    let bench = Bench::of(&lines);
    let what = failed(&bench.exchange_from("10.0.0.1", "a A"));
    assert_eq!(what, format!("{dead}: Connection refused (os error 111)"));
    let broken = "coredns_forward_healthcheck_broken_total";
    wait_until(|| {
        bench.ask("a A");
        bench.metric(broken) != "0"
    });
    let bench = Bench::of(&lines.replace("max_fails", "failfast_all_unhealthy_upstreams\nmax_fails"));
    wait_until(|| failed(&bench.exchange_from("10.0.0.1", "a A")) == "no upstream is healthy");
}

#[test]
fn attempts_are_counted() {
    let told = Told::new(|asked, _| match asked.question.rtype {
        wire::Type::A => Act::Garbage,
        _ => Act::Answer(Rcode::NOERROR, Vec::new()),
    });
    for (option, attempts) in [("", 2), ("max_connect_attempts 3", 3)] {
        told.seen.lock().unwrap().clear();
        let bench = to(&told, option);
        let what = failed(&bench.exchange_from("10.0.0.1", "a A"));
        assert_eq!(what, format!("{}: the answer is no message", told.address));
        let asked = told.questions().iter().filter(|line| line.ends_with(" A")).count();
        assert_eq!(asked, attempts, "{option}");
    }
}

#[test]
fn lies_are_not_believed() {
    let told = Told::new(|_, _| Act::WrongId);
    assert_eq!(to(&told, "").ask("a A"), GOOD);
    let told = Told::new(|_, _| Act::WrongQuestion);
    let bench = to(&told, "read_timeout 50ms");
    let what = failed(&bench.exchange_from("10.0.0.1", "a A"));
    assert_eq!(what, format!("{}: no answer in time", told.address));
    assert_eq!(bench.ask("a A tcp"), "SERVFAIL");
}

#[test]
fn a_slow_upstream_is_given_up() {
    let told = Told::new(|_, _| Act::Slow(Duration::from_millis(300)));
    assert_eq!(to(&told, "read_timeout 50ms").ask("a A"), "SERVFAIL");
    assert_eq!(to(&told, "").ask("a A"), GOOD);
    assert_eq!(to(&told, "read_timeout 50ms").ask("a A tcp"), "SERVFAIL");
}

#[test]
fn a_closed_connection_is_made_again() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let told = Told::new(move |_, _| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => Act::Close,
        _ => Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, 1]]),
    });
    let bench = to(&told, "max_connect_attempts 1");
    assert_eq!(bench.ask("a A tcp"), GOOD);
    assert_eq!(bench.ask("a A tcp"), GOOD);
    assert_eq!(told.connections.load(std::sync::atomic::Ordering::Relaxed), 2);
}

/// Asks many questions at once.
fn at_once(bench: &Bench, questions: &[&str]) -> Vec<String> {
    let all: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = questions.iter().map(|question| scope.spawn(|| bench.ask(question))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    all
}

#[test]
fn equal_questions_are_one_query() {
    let told = Told::new(|_, _| Act::Slow(Duration::from_millis(700)));
    let bench = to(&told, "");
    let answers = at_once(&bench, &["a A", "a A", "A A", "a A do", "a A", "a AAAA"]);
    assert_eq!(answers[0], GOOD);
    assert_eq!(answers[2], "NOERROR ra A. 30 IN A 10.0.0.1");
    let mut seen = told.questions();
    seen.sort();
    assert_eq!(seen, ["udp a. A", "udp a. A", "udp a. AAAA"]);
}

#[test]
fn too_many_at_once_are_refused() {
    let told = Told::new(|_, _| Act::Slow(Duration::from_millis(700)));
    let bench = to(&told, "max_concurrent 2");
    let mut answers = at_once(&bench, &["a A", "a A", "a A", "a A"]);
    answers.sort();
    assert_eq!(answers, [GOOD, GOOD, "REFUSED", "REFUSED"]);
    assert_eq!(bench.metric("coredns_forward_max_concurrent_rejects_total"), "2");
    assert_eq!(bench.ask("a A"), GOOD);
}

#[test]
fn one_that_has_enough_to_do_gets_no_more() {
    let slow = Told::new(|_, _| Act::Slow(Duration::from_millis(700)));
    let other = Told::good();
    let bench = Bench::of(&format!(
        "forward . {} {} {{\npolicy sequential\nmax_concurrent_each 1\n}}",
        slow.address, other.address
    ));
    let answers = at_once(&bench, &["a A", "b A"]);
    assert!(answers.iter().all(|answer| answer.ends_with("10.0.0.1")), "{answers:?}");
    assert_eq!((slow.questions().len(), other.questions().len()), (1, 1));
    for number in ["0", "4097"] {
        let error = refused(&format!("forward . 127.0.0.1 {{\nmax_concurrent_each {number}\n}}"));
        assert!(error.contains("\"max_concurrent_each\": not between 1 and 4096"), "{error}");
    }
}

#[test]
fn letters_at_random() {
    let told = Told::new(|asked, _| {
        let name = asked.question.name.to_string();
        let mixed = name != name.to_lowercase();
        Act::Answer(Rcode::NOERROR, vec![[10, 0, 0, u8::from(mixed)]])
    });
    let bench = to(&told, "random_case");
    let answer = bench.ask("abcdefghijklmnopqrstuvwxyz A");
    assert_eq!(answer, "NOERROR ra abcdefghijklmnopqrstuvwxyz. 30 IN A 10.0.0.1");
}

#[test]
fn names_and_exceptions() {
    let told = Told::good();
    let lines = format!(
        "forward example {} {{\nexcept not.example example\n}}\nforward other {}\nwhoami",
        told.address, told.address
    );
    let bench = Bench::of(&lines);
    for (name, forwarded) in [
        ("example", true),
        ("a.example", false),
        ("not.example", false),
        ("a.not.example", false),
        ("x.other", true),
        ("elsewhere", false),
    ] {
        let answer = bench.exchange_from("10.0.0.1", &format!("{name} A"));
        assert_eq!(answer.settled_by, if forwarded { "forward" } else { "whoami" }, "{name}");
    }
}

#[test]
fn failing_over_and_going_on() {
    let bad = Told::new(|asked, _| match asked.question.name.label_count() {
        1 => Act::Answer(Rcode::SERVFAIL, Vec::new()),
        2 => Act::Answer(Rcode::NXDOMAIN, Vec::new()),
        _ => Act::Answer(Rcode::NOERROR, Vec::new()),
    });
    let good = Told::good();
    let (bad, good) = (bad.address, good.address);
    let of = |first: &str, rest: &str| Bench::of(&format!("forward . {first} {{\npolicy sequential\n{rest}"));
    let both = format!("{bad} {good}");
    let bench = of(&both, "failover SERVFAIL nxdomain\n}");
    let answers = ["a A", "b.a A", "c.b.a A"].map(|question| bench.ask(question));
    assert_eq!(answers, [GOOD, "NOERROR ra b.a. 30 IN A 10.0.0.1", "NOERROR ra"].map(String::from));
    assert_eq!(of(&format!("{bad}"), "failover SERVFAIL\n}").ask("a A"), "SERVFAIL ra");
    let bench = of(&format!("{bad}"), &format!("next NXDOMAIN\nnext_on_nodata\n}}\nforward . {good}"));
    let answers = ["a A", "b.a A", "c.b.a A"].map(|question| bench.ask(question));
    let wants = ["SERVFAIL ra", "NOERROR ra b.a. 30 IN A 10.0.0.1", "NOERROR ra c.b.a. 30 IN A 10.0.0.1"];
    assert_eq!(answers, wants.map(String::from));
    assert_eq!(of(&format!("{bad}"), "next NXDOMAIN\n}").ask("b.a A"), "NXDOMAIN ra", "there is no next");
}

#[test]
fn files_and_host_names() {
    let told = Told::new(|asked, _| match asked.question.rtype {
        wire::Type::A => Act::Answer(Rcode::NOERROR, vec![[127, 0, 0, 1]]),
        _ => Act::Answer(Rcode::NOERROR, Vec::new()),
    });
    let port = told.address.port();
    let bench = Bench::of(&format!("forward . dns.example:{port} {{\nresolver {}\n}}", told.address));
    assert_eq!(bench.ask("a A"), "NOERROR ra a. 30 IN A 127.0.0.1");
    assert_eq!(told.questions(), ["udp dns.example. A", "udp dns.example. AAAA", "udp a. A"]);
    let path = std::env::temp_dir().join(format!("portolan-resolv-{}", std::process::id()));
    std::fs::write(&path, "# comment\nsearch a b\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\n").unwrap();
    let understood = Bench::try_new(&format!(". {{\nforward . {}\n}}", path.display())).is_ok();
    std::fs::write(&path, "search a b\n").unwrap();
    let empty = refused(&format!("forward . {}", path.display()));
    std::fs::remove_file(&path).unwrap();
    assert!(understood);
    assert!(empty.ends_with("no nameserver in this file"), "{empty}");
}

#[test]
fn from_an_address() {
    let told = Told::good();
    assert_eq!(to(&told, "source_address 127.0.0.7").ask("a A"), GOOD);
    assert_eq!(to(&told, "source_address 192.0.2.1\nmax_connect_attempts 1").ask("a A"), "SERVFAIL");
}

#[test]
fn errors_name_the_word() {
    let many = (0..16).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>().join(" ");
    for (lines, want) in [
        ("forward", "Corefile:2: \"forward\": takes a zone and upstreams"),
        ("forward .", "Corefile:2: \"forward\": takes a zone and at least one upstream"),
        ("forward . grpc://10.0.0.1", "\"grpc://10.0.0.1\": no transport for forwarding is called grpc"),
        ("forward . /no/such/file", "\"/no/such/file\": neither an address, nor a file, nor a host name"),
        ("forward . https://10.0.0.1/x", "a path: queries go to /dns-query"),
        (&format!("forward . {many}"), "\"10.0.0.15\": more than 15 upstreams"),
        ("forward . 10.0.0.1 {\nfoo\n}", "Corefile:3: \"foo\": no option of plugin forward"),
        ("forward . 10.0.0.1 {\npolicy best\n}", "\"best\": not random, round_robin or sequential"),
        (
            "forward . 10.0.0.1 {\nexpire 5\n}",
            "\"5\": no duration: a number with a unit was expected, like 30s",
        ),
        ("forward . 10.0.0.1 {\nread_timeout 0s\n}", "\"0s\": must be more than nothing"),
        ("forward . 10.0.0.1 {\nmax_fails -1\n}", "\"-1\": no number, or one that is too large"),
        ("forward . 10.0.0.1 {\nnext WHAT\n}", "\"WHAT\": no response code"),
        ("forward . 10.0.0.1 {\nfailover NOERROR\n}", "\"failover\": NOERROR is no failure"),
        ("forward . 10.0.0.1 {\nhealth_check 1s domain\n}", "\"domain\": takes a name"),
        ("forward . 10.0.0.1 {\nmax_age 5s\n}", "\"max_age\": max_age is less than expire"),
        ("forward . 10.0.0.1 {\nforce_tcp yes\n}", "\"yes\": force_tcp takes 0 arguments, not 1"),
        (
            "forward . tls://10.0.0.1%a {\ntls_servername b\n}",
            "\"b\": an upstream has a name of its own, behind a %",
        ),
        ("forward . tls://10.0.0.1 {\ntls /no/ca\n}", "\"tls\": /no/ca: "),
        ("forward . 10.0.0.1 {\nresolver x\n}", "\"x\": no address"),
    ] {
        let error = refused(lines);
        assert!(error.contains(want), "{lines}: {error}");
    }
}

/// A server in TLS whose certificate is in a file.
struct Secure {
    port: u16,
    authority: std::path::PathBuf,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.authority);
    }
}

impl Secure {
    /// It passes what comes in TLS on to a plain server, if that is DNS, and answers HTTP itself.
    fn new(name: &str, upstream: std::net::SocketAddr, https: bool) -> Secure {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let authority = std::env::temp_dir().join(format!("portolan-{name}-{}.pem", std::process::id()));
        std::fs::write(&authority, certificate.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = config.clone();
                std::thread::spawn(move || serve_secure(stream, config, upstream, https));
            }
        });
        Secure { port, authority }
    }
}

fn serve_secure(
    mut stream: std::net::TcpStream,
    config: Arc<rustls::ServerConfig>,
    upstream: std::net::SocketAddr,
    https: bool,
) {
    use std::io::{Read as _, Write as _};
    let mut connection = rustls::ServerConnection::new(config).unwrap();
    let mut secure = rustls::Stream::new(&mut connection, &mut stream);
    let mut plain = std::net::TcpStream::connect(upstream).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(size) = secure.read(&mut bytes) {
        if size == 0 {
            return;
        }
        let mut query = bytes[..size].to_vec();
        if https {
            let text = String::from_utf8_lossy(&query).into_owned();
            assert!(text.starts_with("POST /dns-query HTTP/1.1\r\n"), "{text}");
            let end = query.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let body = query.split_off(end);
            query = (body.len() as u16).to_be_bytes().to_vec();
            query.extend(body);
        }
        plain.write_all(&query).unwrap();
        let mut length = [0; 2];
        plain.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        plain.read_exact(&mut answer).unwrap();
        let mut out = if https {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", answer.len())
                .into_bytes()
        } else {
            length.to_vec()
        };
        out.extend(answer);
        if https {
            out.extend(b"\r\n0\r\n\r\n");
        }
        secure.write_all(&out).unwrap();
    }
}

#[test]
fn in_tls() {
    let told = Told::good();
    let secure = Secure::new("dns.example", told.address, false);
    let (port, authority) = (secure.port, secure.authority.display().to_string());
    let with = |to: &str, options: &str| {
        Bench::of(&format!("forward . {to} {{\ntls {authority}\nmax_connect_attempts 1\n{options}\n}}"))
    };
    let bench = with(&format!("tls://127.0.0.1:{port}"), "tls_servername dns.example");
    assert_eq!([bench.ask("a A"), bench.ask("a A tcp")], [GOOD, GOOD]);
    let hits = format!("coredns_proxy_conn_cache_hits_total{{proxy_name=\"forward\",to=\"127.0.0.1:{port}\"");
    assert_eq!(bench.metric(&format!("{hits},proto=\"tcp-tls\"}}")), "1");
    assert_eq!(with(&format!("tls://127.0.0.1%dns.example:{port}"), "").ask("a A"), GOOD);
    let other = with(&format!("tls://127.0.0.1:{port}"), "tls_servername other.example");
    let what = failed(&other.exchange_from("10.0.0.1", "a A"));
    assert!(what.contains("certificate"), "{what}");
    let untrusting = Bench::of(&format!("forward . tls://127.0.0.1%dns.example:{port}"));
    assert_eq!(untrusting.ask("a A"), "SERVFAIL");
}

#[test]
fn over_https() {
    let told = Told::good();
    let secure = Secure::new("doh.example", told.address, true);
    let lines = format!(
        "forward . https://127.0.0.1:{} {{\ntls {}\ntls_servername doh.example\n}}",
        secure.port,
        secure.authority.display()
    );
    let bench = Bench::of(&lines);
    assert_eq!([bench.ask("a A"), bench.ask("a A")], [GOOD, GOOD]);
    assert_eq!(told.questions(), ["tcp a. A", "tcp a. A"]);
}

#[test]
fn who_goes_away_disturbs_nobody() {
    let told = Told::new(|_, _| Act::Slow(Duration::from_millis(200)));
    let bench = to(&told, "");
    let routes = bench.routes().clone();
    let asking = bench.runtime.spawn(async move {
        let mut exchange = Exchange::new(Instant::now());
        exchange.asked = wire::Asked::of_question("a".parse().unwrap(), wire::Type::A);
        exchange.begin(Default::default(), Instant::now());
        routes.answer_wholly(&mut exchange).await;
        shown(&exchange)
    });
    std::thread::sleep(Duration::from_millis(50));
    asking.abort();
    assert_eq!(bench.ask("a A"), GOOD);
}
