//! One question on its way through the plugins: what was asked, by whom, and the answer so far.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;
use wire::{Asked, Question, Rcode, Reply, Section};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
    /// A stream in TLS.
    Tls,
    /// HTTP.
    Https,
    /// QUIC.
    Quic,
    /// gRPC.
    Grpc,
    /// From a plugin of ours: nothing goes over the network, and nothing is counted.
    Inside,
}

impl Transport {
    /// Whether answers may be as long as they like.
    pub fn is_stream(self) -> bool {
        self != Transport::Udp
    }

    /// Whether an answer may be several messages, as a zone transfer is.
    pub fn takes_many(self) -> bool {
        matches!(self, Transport::Tcp | Transport::Tls | Transport::Quic | Transport::Inside)
    }

    /// The word for it in metrics, logs and expressions: CoreDNS knows two, by what is below.
    pub fn protocol(self) -> &'static str {
        match self {
            Transport::Udp | Transport::Quic => "udp",
            Transport::Tcp | Transport::Tls | Transport::Https | Transport::Grpc | Transport::Inside => "tcp",
        }
    }
}

/// Who asks, and where.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The asker.
    pub client: SocketAddr,
    /// The address of ours that was asked, which also answers.
    pub local: SocketAddr,
    /// How.
    pub transport: Transport,
}

impl Default for From {
    fn default() -> From {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        From { client: nobody, local: nobody, transport: Transport::Inside }
    }
}

/// How a question was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply has the records.
    Records,
    /// The name exists, but has no records of this type. The SOA is in the reply.
    NoData,
    /// The name does not exist. The SOA is in the reply.
    NoSuchName,
    /// We do not answer this question from this client.
    Refused,
    /// Something did not work, and the reply is a SERVFAIL. The text is for the log.
    Failed(String),
    /// The reply is whole, its code included: it is somebody else's answer, or a cached one.
    Given,
    /// No answer is sent.
    Silence,
}

/// Something that a plugin keeps from the way in to the way out.
type Note = (usize, Box<dyn Any + Send + Sync>);

/// One question and its answer.
#[derive(Debug)]
pub struct Exchange {
    /// The question as it stands; plugins may change it on the way in.
    pub asked: Asked,
    /// The answer as it stands; plugins may change it on the way out.
    pub reply: Reply,
    /// Messages that follow the reply on a stream: the rest of a zone transfer.
    pub more: Vec<Reply>,
    /// Who asks.
    pub from: From,
    /// When the question came.
    pub received: Instant,
    /// The question as it came, which is also how it is repeated in the answer.
    pub original: Question,
    /// How it was settled, once it is.
    pub outcome: Option<Outcome>,
    /// The plugin that settled it.
    pub settled_by: &'static str,
    /// How many questions of our own lie between this one and a client's.
    pub depth: u32,
    /// When waiting for an answer ends, and with it the exchange (`cancel`).
    pub gives_up: Option<Instant>,
    notes: Vec<Note>,
    /// What plugins say about it, where that is collected (`metadata`).
    metadata: Option<Vec<(&'static str, String)>>,
}

impl Exchange {
    /// An exchange in which nothing has been asked yet.
    pub fn new(now: Instant) -> Exchange {
        Exchange {
            asked: Asked::default(),
            reply: Reply::default(),
            more: Vec::new(),
            from: From::default(),
            received: now,
            original: Question::default(),
            outcome: None,
            settled_by: "",
            depth: 0,
            gives_up: None,
            notes: Vec::new(),
            metadata: None,
        }
    }

    /// Begins with the question in `asked`.
    pub fn begin(&mut self, from: From, now: Instant) {
        self.original = self.asked.question;
        self.from = from;
        self.received = now;
        self.reply.clear();
        self.more.clear();
        self.outcome = None;
        self.settled_by = "";
        self.depth = 0;
        self.gives_up = None;
        self.notes.clear();
        self.metadata = None;
    }

    /// A question of our own on behalf of this one's asker.
    pub fn another(&self, question: Question) -> Exchange {
        let mut other = Exchange::new(self.received);
        other.asked = self.asked.asking(question);
        other.begin(From { transport: Transport::Inside, ..self.from }, self.received);
        other.depth = self.depth + 1;
        other
    }

    /// Settles the question.
    pub fn settle(&mut self, outcome: Outcome, by: &'static str) {
        match &outcome {
            Outcome::Records | Outcome::NoData => self.reply.rcode = Rcode::NOERROR,
            Outcome::NoSuchName => self.reply.rcode = Rcode::NXDOMAIN,
            Outcome::Refused => self.reply.rcode = Rcode::REFUSED,
            Outcome::Failed(_) => self.reply.rcode = Rcode::SERVFAIL,
            Outcome::Given | Outcome::Silence => {}
        }
        self.outcome = Some(outcome);
        self.settled_by = by;
    }

    /// Whether no answer goes out.
    pub fn is_silent(&self) -> bool {
        self.outcome == Some(Outcome::Silence)
    }

    /// Keeps something for the plugin at this place of the chain.
    pub fn note(&mut self, place: usize, note: impl Any + Send + Sync) {
        self.notes.push((place, Box::new(note)));
    }

    /// Takes back what this plugin kept last.
    pub fn take_note<T: Any>(&mut self, place: usize) -> Option<Box<T>> {
        let at = self.notes.iter().rposition(|(of, note)| *of == place && note.is::<T>())?;
        self.notes.remove(at).1.downcast().ok()
    }

    /// From here on what plugins say about this exchange is kept.
    pub fn collect_metadata(&mut self) {
        self.metadata.get_or_insert_default();
    }

    /// Says something about this exchange, under a label like `forward/upstream`.
    pub fn tell(&mut self, label: &'static str, value: impl FnOnce() -> String) {
        if let Some(metadata) = &mut self.metadata {
            metadata.retain(|(other, _)| *other != label);
            metadata.push((label, value()));
        }
    }

    /// What was said under a label.
    pub fn told(&self, label: &str) -> Option<&str> {
        let metadata = self.metadata.as_ref()?;
        metadata.iter().find(|(of, _)| *of == label).map(|(_, value)| value.as_str())
    }

    /// What kind of answer the reply is, whoever made it.
    pub fn class(&self) -> AnswerClass {
        let answers = self.reply.section(Section::Answer).next().is_some();
        match (self.reply.rcode, answers) {
            (Rcode::NXDOMAIN, _) => AnswerClass::Denial,
            (Rcode::NOERROR, true) => AnswerClass::Success,
            (Rcode::NOERROR, false) => {
                let soa =
                    self.reply.section(Section::Authority).any(|record| record.rtype == wire::Type::SOA);
                if soa { AnswerClass::Denial } else { AnswerClass::Success }
            }
            _ => AnswerClass::Error,
        }
    }
}

/// What kind of answer a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerClass {
    /// There are records, or a referral to them.
    Success,
    /// There are none, or no such name.
    Denial,
    /// Something else.
    Error,
}
