//! One rule as a value: printed as `iptables-save` prints it, and read from there.
//!
//! Two rules are equal when they do the same: their comments, which big clusters go without, do not
//! count.

use super::name::{Chain, Kind, Letters};
use model::{Name, Prefix, Protocol};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// A rule: what it asks of a packet, and what it does.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// What it is about, for those who read the tables.
    pub comment: Option<Box<str>>,
    /// What it asks, in the order in which it is printed.
    pub asks: Asks,
    /// What it does with a packet that fits; nothing: it only stands there.
    pub target: Option<Target>,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asks {
    /// From there (`true`), or not from there.
    pub source: Option<(bool, Prefix)>,
    /// To there, or not.
    pub destination: Option<(bool, Prefix)>,
    /// In by this interface, or not. One that ends in `+` stands for all that begin so.
    pub interface: Option<(bool, Name)>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// To this port.
    pub port: Option<u16>,
    /// And what there is beside.
    pub test: Option<Test>,
}

/// What a match beyond addresses and ports asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// The source is one of the host's addresses.
    SourceLocal,
    /// The destination is one of the host's addresses.
    DestinationLocal,
    /// The connection's state is (or is not) one of these.
    State(bool, &'static str),
    /// The mark is (or is not) set.
    Mark(bool, u32),
    /// One time in so many.
    OneIn(u32),
    /// The sender was seen here within so many seconds.
    SeenWithin(Letters, u32),
    /// Always, and it is remembered that the sender was here.
    Remember(Letters),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Walks through another chain.
    Jump(Chain),
    /// Lets the packet go on to the next table.
    Accept,
    /// Drops it.
    Drop,
    /// Refuses it by an ICMP error, of which a host sends a few a second only.
    Reject,
    /// Refuses a TCP connection by a reset.
    Reset,
    /// Goes back to the chain that led here.
    Return,
    /// Sets a mark.
    Mark(u32),
    /// Turns a mark around.
    Flip(u32),
    /// Masquerades; with ports drawn at random.
    Masquerade(bool),
    /// Sends the connection there.
    Dnat(SocketAddr),
}

/// The states that rules of ours ask about, as `iptables-save` orders them.
pub(crate) const NEW: &str = "NEW";
pub(crate) const INVALID: &str = "INVALID";
pub(crate) const KNOWN: &str = "RELATED,ESTABLISHED";
pub(crate) const KNOWN_OR_TRANSLATED: &str = "RELATED,ESTABLISHED,DNAT";
const STATES: [&str; 4] = [NEW, INVALID, KNOWN, KNOWN_OR_TRANSLATED];

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.asks == other.asks && self.target == other.target
    }
}

impl Eq for Rule {}

impl Hash for Rule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.asks.hash(state);
        self.target.hash(state);
    }
}

impl Rule {
    /// A rule that asks nothing.
    pub fn to(target: Target) -> Rule {
        Rule { target: Some(target), ..Rule::default() }
    }

    /// Says what it is about. What a comment cannot hold is left out of it.
    pub(crate) fn about(mut self, comment: &str) -> Rule {
        let fits = |c: char| if c.is_ascii_graphic() && !"\"'\\".contains(c) { c } else { ' ' };
        self.comment = Some(comment.chars().map(fits).take(COMMENT_MAX).collect());
        self
    }

    pub(crate) fn from(mut self, is: bool, network: Prefix) -> Rule {
        // Everybody is in a network of length 0, and `iptables-save` does not print it.
        self.asks.source = (!is || network.length() > 0).then_some((is, network));
        self
    }

    pub(crate) fn at(mut self, is: bool, network: Prefix) -> Rule {
        self.asks.destination = (!is || network.length() > 0).then_some((is, network));
        self
    }

    pub(crate) fn via(mut self, is: bool, interface: Name) -> Rule {
        self.asks.interface = Some((is, interface));
        self
    }

    pub(crate) fn port(mut self, protocol: Protocol, port: u16) -> Rule {
        self.asks.protocol = Some(protocol);
        self.asks.port = Some(port);
        self
    }

    pub(crate) fn protocol(mut self, protocol: Protocol) -> Rule {
        self.asks.protocol = Some(protocol);
        self
    }

    pub(crate) fn when(mut self, test: Test) -> Rule {
        self.asks.test = Some(test);
        self
    }
}

/// The longest comment that we make. The kernel's limit is 255.
const COMMENT_MAX: usize = 240;

fn network(f: &mut fmt::Formatter<'_>, flag: &str, (is, network): &(bool, Prefix)) -> fmt::Result {
    write!(f, "{}{flag} {network} ", not(*is))
}

fn not(is: bool) -> &'static str {
    if is { "" } else { "! " }
}

/// The rule behind `-A CHAIN `.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { comment, asks, target } = self;
        let Asks { source, destination, interface, protocol, port, test } = asks;
        source.as_ref().map_or(Ok(()), |s| network(f, "-s", s))?;
        destination.as_ref().map_or(Ok(()), |d| network(f, "-d", d))?;
        if let Some((is, name)) = interface {
            write!(f, "{}-i {name} ", not(*is))?;
        }
        if let Some(protocol) = protocol {
            write!(f, "-p {} ", protocol.name())?;
        }
        if let Some(comment) = comment {
            write!(f, "-m comment --comment \"{comment}\" ")?;
        }
        if let (Some(protocol), Some(port)) = (protocol, port) {
            write!(f, "-m {} --dport {port} ", protocol.name())?;
        }
        if let Some(test) = test {
            write!(f, "{test} ")?;
        }
        target.map_or(Ok(()), |target| write!(f, "{target}"))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |letters: &Letters| Chain::Of(Kind::Endpoint, *letters);
        match self {
            Test::SourceLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Test::DestinationLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            Test::State(is, states) => write!(f, "-m conntrack {}--ctstate {states}", not(*is)),
            Test::Mark(is, bit) => write!(f, "-m mark {}--mark {bit:#x}/{bit:#x}", not(*is)),
            Test::OneIn(count) => {
                let chance = 1.0 / f64::from(*count);
                write!(f, "-m statistic --mode random --probability {chance:.10}")
            }
            Test::SeenWithin(letters, seconds) => {
                write!(f, "-m recent --rcheck --seconds {seconds} --reap --name {} --rsource", seen(letters))
            }
            Test::Remember(letters) => write!(f, "-m recent --set --name {} --rsource", seen(letters)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Jump(chain) => write!(f, "-j {chain}"),
            Target::Accept => f.write_str("-j ACCEPT"),
            Target::Drop => f.write_str("-j DROP"),
            Target::Reject => f.write_str("-j REJECT"),
            Target::Reset => f.write_str("-j REJECT --reject-with tcp-reset"),
            Target::Return => f.write_str("-j RETURN"),
            Target::Mark(bit) => write!(f, "-j MARK --set-xmark {bit:#x}/{bit:#x}"),
            Target::Flip(bit) => write!(f, "-j MARK --set-xmark {bit:#x}/0x0"),
            Target::Masquerade(false) => f.write_str("-j MASQUERADE"),
            Target::Masquerade(true) => f.write_str("-j MASQUERADE --random-fully"),
            Target::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
        }
    }
}

/// Splits a line into words; what stands in quotes is one.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line.trim();
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        rest = after;
        Some(word)
    })
}

/// What has been read of a rule whose words come one by one.
#[derive(Default)]
struct Reader {
    rule: Rule,
    /// The next word was denied.
    not: bool,
    seconds: Option<u32>,
    checks: bool,
    sets: bool,
}

impl Rule {
    /// Reads what stands behind `-A CHAIN `. `None`: no rule of ours is like that.
    pub fn read(line: &str) -> Option<Rule> {
        let mut words = words(line);
        let mut reader = Reader::default();
        while let Some(word) = words.next() {
            match word {
                "!" => reader.not = true,
                _ => {
                    reader.take(word, &mut words)?;
                    reader.not = false;
                }
            }
        }
        let plain = !reader.checks && !reader.sets && reader.seconds.is_none();
        // `recent` was taken in whole when its name came.
        plain.then_some(reader.rule)
    }
}

impl Reader {
    fn take<'a>(&mut self, word: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<()> {
        let is = !self.not;
        let Asks { source, destination, interface, protocol, port, test } = &mut self.rule.asks;
        // What cannot be denied in a rule of ours may not be.
        let deniable = ["-s", "-d", "-i", "--ctstate", "--mark"].contains(&word);
        (is || deniable).then_some(())?;
        let found = match word {
            "-s" => return put(source, (is, words.next()?.parse().ok()?)),
            "-d" => return put(destination, (is, words.next()?.parse().ok()?)),
            "-i" => return put(interface, (is, words.next()?.into())),
            "-p" => {
                let name = words.next()?;
                return put(protocol, Protocol::ALL.into_iter().find(|p| p.name() == name)?);
            }
            "--dport" => return put(port, words.next()?.parse().ok()?),
            "--comment" => return put(&mut self.rule.comment, words.next()?.into()),
            "-m" => return known(words.next()?),
            "-j" => {
                let target = target(words)?;
                return put(&mut self.rule.target, target);
            }
            // What `recent` says of itself and what is so in every rule of ours.
            "--rsource" | "--reap" => return Some(()),
            "--mask" => return words.next()?.parse::<IpAddr>().ok().map(drop),
            "--rcheck" => {
                self.checks = true;
                return Some(());
            }
            "--set" => {
                self.sets = true;
                return Some(());
            }
            "--seconds" => return put(&mut self.seconds, words.next()?.parse().ok()?),
            "--mode" => return (words.next()? == "random").then_some(()),
            "--name" => {
                let Ok(Chain::Of(Kind::Endpoint, letters)) = words.next()?.parse() else { return None };
                match (std::mem::take(&mut self.checks), std::mem::take(&mut self.sets)) {
                    (true, false) => Test::SeenWithin(letters, self.seconds.take()?),
                    (false, true) => Test::Remember(letters),
                    _ => return None,
                }
            }
            "--src-type" => (words.next()? == "LOCAL").then_some(Test::SourceLocal)?,
            "--dst-type" => (words.next()? == "LOCAL").then_some(Test::DestinationLocal)?,
            "--ctstate" => {
                let states = words.next()?;
                Test::State(is, STATES.into_iter().find(|known| *known == states)?)
            }
            "--mark" => {
                let (bit, mask) = pair(words.next()?)?;
                (bit == mask).then_some(Test::Mark(is, bit))?
            }
            "--probability" => Test::OneIn(one_in(words.next()?)?),
            _ => return None,
        };
        put(test, found)
    }
}

/// Whether we know what a match of this name asks.
fn known(name: &str) -> Option<()> {
    let names = ["comment", "tcp", "udp", "sctp", "addrtype", "conntrack", "mark", "statistic", "recent"];
    names.contains(&name).then_some(())
}

/// Puts a value that may be there once.
fn put<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn pair(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/')?;
    Some((number(value)?, number(mask)?))
}

/// The kernel keeps 31 bits of a probability.
const CHANCE_ERROR: f64 = 1.0 / (1u64 << 30) as f64;

fn one_in(text: &str) -> Option<u32> {
    let chance: f64 = text.parse().ok()?;
    let count = (1.0 / chance).round();
    let near = (1.0..=1e6).contains(&count) && (1.0 / count - chance).abs() <= CHANCE_ERROR;
    // In range, as has just been seen.
    near.then_some(count as u32)
}

fn target<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Target> {
    Some(match words.next()? {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => match (words.next(), words.next()) {
            (None, None) => Target::Reject,
            (Some("--reject-with"), Some("tcp-reset")) => Target::Reset,
            (Some("--reject-with"), Some("icmp-port-unreachable" | "icmp6-port-unreachable")) => {
                Target::Reject
            }
            _ => return None,
        },
        "MARK" => match (words.next()?, pair(words.next()?)?) {
            ("--set-xmark", (bit, 0)) => Target::Flip(bit),
            ("--set-xmark", (bit, mask)) if bit == mask => Target::Mark(bit),
            _ => return None,
        },
        "MASQUERADE" => match words.next() {
            None => Target::Masquerade(false),
            Some("--random-fully") => Target::Masquerade(true),
            Some(_) => return None,
        },
        "DNAT" => match words.next()? {
            "--to-destination" => Target::Dnat(words.next()?.parse().ok()?),
            _ => return None,
        },
        chain => Target::Jump(chain.parse().ok()?),
    })
}
