//! Scenarios of names (`scenarios/names`), each asked in two ways: of crate `names` alone, and over UDP
//! of a server that was started from a Corefile and a directory of manifests.
//!
//! `UPDATE=1` writes down what was answered; what is then expected is for its author to say.

use dns::cluster::{Batch, ClusterSource, Deliver, Stream, Wanted, of_changes};
use dns::corefile::{self, Surroundings};
use dns::instance::{Event, Instance, Options, Source};
use libtest_mimic::{Arguments, Failed, Trial};
use model::{Change, Cluster, Touched};
use names::{External, ExternalOutcome, Names, Outcome, Zone};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use watch::{Directory, Keep};
use wire::{Header, Message, Name, Question, Rcode, Reply, Section, Type, flags};

/// A scenario: a Corefile's block, manifests, and questions with their answers.
struct Scenario {
    path: PathBuf,
    /// What stands before the questions, as it is.
    head: String,
    corefile: String,
    /// `None`: the cluster is never known.
    manifests: Option<String>,
    /// The server's own addresses. A server over UDP has none that count, being at 127.0.0.1.
    server: Vec<IpAddr>,
    questions: Vec<Asked>,
}

/// A question, and the lines of its answer.
struct Asked {
    text: String,
    name: Name,
    rtype: Type,
    expected: String,
}

impl Scenario {
    fn read(path: &Path) -> Result<Scenario, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut sections: Vec<(String, String)> = Vec::new();
        let mut head = String::new();
        for line in text.lines() {
            match line.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
                Some(title) => sections.push((title.to_owned(), String::new())),
                None => {
                    if let Some((_, section)) = sections.last_mut() {
                        section.push_str(line);
                        section.push('\n');
                    }
                }
            }
            if sections.last().is_none_or(|(title, _)| title != "questions") {
                head.push_str(line);
                head.push('\n');
            }
        }
        let section =
            |title: &str| sections.iter().find(|(other, _)| other == title).map(|(_, text)| text.clone());
        let questions = section("questions").ok_or("no section `questions`")?;
        Ok(Scenario {
            path: path.to_owned(),
            head,
            corefile: section("corefile").ok_or("no section `corefile`")?,
            manifests: section("manifests"),
            server: section("server")
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect(),
            questions: read_questions(&questions)?,
        })
    }

    fn write(&self, answers: &[String]) -> io::Result<()> {
        let mut text = self.head.clone() + "-- questions --\n";
        for (asked, answer) in self.questions.iter().zip(answers) {
            text.push_str(&asked.text);
            text.push_str(answer);
        }
        std::fs::write(&self.path, text)
    }

    /// Holds answers against what is expected.
    fn judge(&self, answers: &[String]) -> Result<(), Failed> {
        if std::env::var_os("UPDATE").is_some() {
            self.write(answers)?;
            return Ok(());
        }
        let mut wrong = String::new();
        for (asked, answer) in self.questions.iter().zip(answers) {
            if asked.expected != *answer {
                let _ = write!(
                    wrong,
                    "{} {}\nexpected\n{}got\n{answer}\n",
                    asked.name, asked.rtype, asked.expected
                );
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
    }
}

/// A question begins its line; remarks stand before it and its answer, indented, behind it.
fn read_questions(text: &str) -> Result<Vec<Asked>, String> {
    let mut questions: Vec<Asked> = Vec::new();
    let mut remarks = String::new();
    for line in text.lines() {
        if line.starts_with("  ") {
            let asked = questions.last_mut().ok_or("an answer before the first question")?;
            asked.expected.push_str(line);
            asked.expected.push('\n');
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            remarks.push_str(line);
            remarks.push('\n');
            continue;
        }
        let (name, rtype) = line.split_once(' ').ok_or_else(|| format!("no question: {line:?}"))?;
        questions.push(Asked {
            text: format!("{remarks}{line}\n"),
            name: name.parse().map_err(|error| format!("{name}: {error}"))?,
            rtype: rtype.trim().parse().map_err(|()| format!("{rtype:?} is no type"))?,
            expected: String::new(),
        });
        remarks.clear();
    }
    Ok(questions)
}

/// An answer as scenarios have it: the code and the flags, then the records by section. The SOA's
/// serial, which is a time, is written as 1.
fn show(reply: &Reply, flag_words: &[&str], question: &Name) -> String {
    let mut text = format!("  {} {}\n", reply.rcode, flag_words.join(" ")).replace(" \n", "\n");
    for (section, word) in
        [(Section::Answer, "answer"), (Section::Authority, "authority"), (Section::Additional, "additional")]
    {
        for record in reply.section(section) {
            let mut line = reply.show(record, question).to_string();
            if record.rtype == Type::SOA {
                let mut words: Vec<&str> = line.split(' ').collect();
                if let Some(serial) = words.get_mut(6) {
                    *serial = "1";
                }
                line = words.join(" ");
            }
            let _ = writeln!(text, "    {word} {line}");
        }
    }
    text
}

struct Nothing;

impl Surroundings for Nothing {
    fn find(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// Asks crate `names` alone.
fn alone(scenario: &Scenario) -> Result<(), Failed> {
    let text = format!(". {{\n{}\n}}", scenario.corefile);
    let blocks = corefile::parse("Corefile", &text, &Nothing)?;
    let line = |name| blocks.iter().flat_map(|block| &block.lines).find(move |line| line.name.text == name);
    let mut options = dns::plugin::kubernetes_options(line("kubernetes").ok_or("no kubernetes")?)?;
    let external = line("k8s_external").map(dns::plugin::k8s_external_options).transpose()?;
    options.local = scenario.server.clone();
    let mut cluster = Cluster::new();
    let mut touched = Touched::default();
    let mut names = Names::new();
    if let Some(manifests) = &scenario.manifests {
        let loaded = watch::parse(&scenario.path, manifests.as_bytes(), Keep::ALL);
        for object in loaded.objects {
            touched.merge(cluster.apply(Change::Apply(object)));
        }
        names.update(&cluster, &touched, 1);
        names.set_synced();
    }
    let zone = names.zone();
    let imports = scenario.manifests.as_ref().map(|manifests| imports(&scenario.path, manifests));
    let mut answers = Vec::new();
    for asked in &scenario.questions {
        let mut reply = Reply::default();
        let question = Question { name: asked.name, rtype: asked.rtype, class: wire::Class::IN };
        let mut outcome = Outcome::Pass;
        if let Some(external) = &external {
            outcome = outside(&zone, &options, external, &question, &mut reply);
        }
        if matches!(outcome, Outcome::Pass | Outcome::NotOurs) {
            outcome = names::answer(&zone, imports.as_deref(), &options, &question, &mut reply);
        }
        reply.rcode = match &outcome {
            Outcome::Records | Outcome::NoData | Outcome::Elsewhere(_) => Rcode::NOERROR,
            Outcome::NoSuchName => Rcode::NXDOMAIN,
            Outcome::Refused => Rcode::REFUSED,
            // Nobody else answers them in the server.
            Outcome::NotOurs | Outcome::Pass | Outcome::NotSynced => Rcode::SERVFAIL,
        };
        let mut flags = vec!["qr"];
        if reply.authoritative {
            flags.push("aa");
        }
        flags.push("rd");
        answers.push(show(&reply, &flags, &asked.name));
    }
    scenario.judge(&answers)
}

/// The names of the ServiceImports.
fn imports(path: &Path, manifests: &str) -> Arc<Zone> {
    let mut cluster = Cluster::new();
    let mut touched = Touched::default();
    let loaded = watch::parse(path, manifests.as_bytes(), Keep { imports: true, ..Keep::ALL });
    for object in loaded.objects {
        touched.merge(cluster.apply(Change::Apply(object)));
    }
    let mut names = Names::new();
    names.update(&cluster, &touched, 1);
    names.set_synced();
    names.zone()
}

/// Asks the view from outside. There are no other names that its host names could lead to.
fn outside(
    zone: &Zone,
    options: &names::Options,
    external: &External,
    question: &Question,
    reply: &mut Reply,
) -> Outcome {
    match names::external(zone, options, external, question, reply) {
        ExternalOutcome::Settled(outcome) => outcome,
        ExternalOutcome::Hosts(_) => {
            if reply.count(Section::Answer) == 0 {
                names::external_soa(zone, external, question, reply);
            }
            Outcome::Records
        }
    }
}

/// Clusters from directories; one that is called `unknown` never comes.
struct Clusters;

struct Held {
    _directory: Option<Directory>,
}

impl Stream for Held {}

impl ClusterSource for Clusters {
    fn open(&self, wanted: &Wanted, deliver: Deliver) -> Result<Arc<dyn Stream>, String> {
        let path = wanted.manifests.as_ref().ok_or("no manifests")?;
        if path.ends_with("unknown") {
            return Ok(Arc::new(Held { _directory: None }));
        }
        let mut deliver = of_changes(deliver);
        let keep = Keep { imports: wanted.imports, ..Keep::ALL };
        let deliver = move |batch: watch::Batch| {
            deliver(Batch { changes: batch.changes, triggers: Vec::new(), synced: batch.loaded })
        };
        let directory = Directory::watch(path, keep, deliver).map_err(|error| error.to_string())?;
        Ok(Arc::new(Held { _directory: Some(directory) }))
    }
}

/// Asks a server over UDP.
fn over_udp(scenario: &Scenario) -> Result<(), Failed> {
    let stem = scenario.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let scratch = std::env::temp_dir().join(format!("portolan-names-{stem}-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let path = match &scenario.manifests {
        Some(manifests) => {
            std::fs::write(scratch.join("cluster.yaml"), manifests)?;
            scratch.clone()
        }
        None => scratch.join("unknown"),
    };
    let manifests = format!("manifests {}\nstartup_timeout 5s", path.display());
    let manifests = if scenario.manifests.is_some() { manifests } else { manifests.replace("5s", "1ms") };
    let kubernetes = scenario.corefile.trim_end();
    let kubernetes = match kubernetes.strip_suffix('}') {
        Some(open) => format!("{open}\n{manifests}\n}}"),
        None => format!("{kubernetes} {{\n{manifests}\n}}"),
    };
    let text = format!(".:0 {{\nbind 127.0.0.1\n{kubernetes}\n}}");
    let corefile = Source::Text("Corefile", text);
    let options = Options { dns_port: 0, quiet: true, ..Options::new(corefile, Arc::new(Clusters)) };
    let instance = Instance::start(options)?;
    let address = *instance.addresses().first().ok_or("no address")?;
    let (stop, events) = sync_channel(1);
    let server = std::thread::spawn(move || instance.run(&events));
    let answers = ask_all(scenario, address);
    stop.send(Event::StopNow)?;
    server.join().map_err(|_| "the server panicked")?;
    std::fs::remove_dir_all(&scratch)?;
    scenario.judge(&answers?)
}

fn ask_all(scenario: &Scenario, server: std::net::SocketAddr) -> Result<Vec<String>, Failed> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = Vec::new();
    for (number, asked) in (1_u16..).zip(&scenario.questions) {
        let mut query = Vec::new();
        for word in [number, flags::RD, 1, 0, 0, 1] {
            query.extend(word.to_be_bytes());
        }
        query.extend(asked.name.as_bytes());
        for word in [asked.rtype.0, 1] {
            query.extend(word.to_be_bytes());
        }
        // EDNS, so that nothing is cut off.
        query.extend([0, 0, 41, 0x20, 0, 0, 0, 0, 0, 0, 0]);
        socket.send(&query)?;
        let mut buffer = [0; 8192];
        let length = socket.recv(&mut buffer)?;
        let message = Message::read(buffer.get(..length).unwrap_or_default())?;
        if message.header.id != number || message.question()?.name != asked.name {
            return Err(format!("{} was answered by another answer", asked.name).into());
        }
        let mut reply = Reply::default();
        reply.read(&message)?;
        answers.push(show(&reply, &flag_words(message.header), &asked.name));
    }
    Ok(answers)
}

fn flag_words(header: Header) -> Vec<&'static str> {
    let all = [
        (flags::QR, "qr"),
        (flags::AA, "aa"),
        (flags::TC, "tc"),
        (flags::RD, "rd"),
        (flags::RA, "ra"),
        (flags::AD, "ad"),
        (flags::CD, "cd"),
    ];
    all.into_iter().filter(|(bit, _)| header.flags & bit != 0).map(|(_, word)| word).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/names");
    let mut trials = Vec::new();
    let mut count = 0;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "txt")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let scenario =
            Arc::new(Scenario::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
        count += scenario.questions.len();
        for (way, run) in [("alone", alone as fn(&Scenario) -> Result<(), Failed>), ("udp", over_udp)] {
            if way == "udp" && !scenario.server.is_empty() {
                continue;
            }
            let scenario = scenario.clone();
            trials.push(Trial::test(format!("{name}::{way}"), move || run(&scenario)));
        }
    }
    trials.push(Trial::test("there_are_enough_questions", move || {
        if count >= 200 { Ok(()) } else { Err(format!("{count} questions").into()) }
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
