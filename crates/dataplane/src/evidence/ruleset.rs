//! The rules that gather evidence.
//!
//! All stand right behind destination NAT, where a connection's reply tuple already names the backend:
//! in the same chain for packets that come in and for those that leave the host. An element is `add`ed, which
//! does not begin its time anew: what is left of it tells its age.
//!
//! - A SYN that begins a connection is noted as that connection, of which whoever looks asks the connection
//!   tracker whether it was answered. So is one sent again. No more of them than a sample is noted: where
//!   there are many, there will be another.
//! - A reset that answers a SYN, or an ICMP error, is a refusal by a backend (address, protocol, port).
//!
//! Packets of TCP that neither ask nor refuse anything leave at the first rule, after a look at
//! their flags; what is noted is limited by rate before anything is loaded for it. So it costs healthy
//! traffic next to nothing, and heavy traffic no more, and no flood fills a table.

use crate::program::{ChainSpec, Dynamic, Program, Rule, SetSpec, SetValue};
use crate::write::{RuleWriter, address_len, rule};
use model::{Family, Protocol};
use netlink::nftables::{
    Base, ChainKind, CtDirection, CtKey, Datatype, DynsetOperation, Expression, Hook, Operator, PayloadBase,
    Policy, Register,
};
use std::time::Duration;

/// The table's name, which is how it is known as ours.
pub const TABLE: &str = "portolan-evidence";
/// Connections that were asked for.
pub(super) const ASKED: &str = "asked";
/// Backends that refused somebody.
pub(super) const REFUSED: &str = "refused";
/// Backends that are set aside, with a word on each.
pub(super) const ASIDE: &str = "aside";

/// How many notes of a set there can be at once; those beyond are not made.
const NOTES_MAX: u32 = 8192;
/// How long a refusal stands.
const REFUSED_FOR: Duration = Duration::from_secs(3);
/// How long a connection is noted as asked for: long enough to be looked at also where the machine is out of
/// breath, and no longer, for all of them are read at each look.
pub(super) const ASKED_FOR: Duration = Duration::from_secs(1);
/// How often the kernel collects what has expired.
const COLLECT_EVERY: Duration = Duration::from_millis(250);
/// How many notes of a kind are made in a second. The first is called for by connections, the others by
/// trouble only.
const ASKED_PER_S: u64 = 100;
const TROUBLE_PER_S: u64 = 1000;

/// Right behind destination NAT, and behind IPVS, which stands 2 behind that (`ip_vs_ops4`).
const PRIORITY: i32 = -90;

const STATUS_SEEN_REPLY: u32 = 1 << 1;
const STATUS_ASSURED: u32 = 1 << 2;
const STATUS_CONFIRMED: u32 = 1 << 3;
const STATUS_DNAT: u32 = 1 << 5;
/// A packet that is an error message about a connection (`NF_CT_STATE_BIT(IP_CT_RELATED)`).
const STATE_RELATED: u32 = 1 << 2;

/// Where TCP has its flags, and which of them there are.
const TCP_FLAGS: u32 = 13;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// ICMP's and ICMPv6's "destination unreachable", and the one code of ICMP's that is about packets' sizes.
const UNREACHABLE: u8 = 3;
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG: u8 = 4;

const KEY: Register = Register::new(0);
const SCRATCH: Register = Register::new(12);

/// The chain of SYNs.
const ASKS: &str = "asks";

/// The whole program. Beside IPVS, which leaves no trace in a connection's status, connections are known
/// where it sends them on: as leaving the host. Those of the host itself are among them, and harmless.
pub(super) fn program(family: Family, ipvs: bool) -> Program {
    let rules = Rules { family, ipvs };
    let base = |name: &str, hook, rules| ChainSpec {
        name: name.to_owned(),
        base: Some(Base { kind: ChainKind::Filter, hook, priority: PRIORITY, policy: Policy::Accept }),
        rules,
    };
    let address = match family {
        Family::V4 => Datatype::Ipv4Addr,
        Family::V6 => Datatype::Ipv6Addr,
    };
    let backend = vec![address, Datatype::InetProto, Datatype::InetService];
    let noted = |name: &str, key| SetSpec {
        name: name.to_owned(),
        key,
        data: SetValue::Nothing,
        dynamic: Some(Dynamic { most: NOTES_MAX, collect_every: Some(COLLECT_EVERY) }),
    };
    Program {
        chains: vec![
            ChainSpec { name: ASKS.to_owned(), base: None, rules: rules.asks() },
            base("incoming", Hook::Prerouting, rules.chain(!ipvs)),
            base("outgoing", Hook::Output, rules.chain(true)),
        ],
        sets: vec![
            noted(ASKED, vec![address, address, Datatype::InetService, Datatype::InetService]),
            noted(REFUSED, backend.clone()),
            SetSpec { name: ASIDE.to_owned(), key: backend, data: SetValue::Nothing, dynamic: None },
        ],
    }
}

struct Rules {
    family: Family,
    ipvs: bool,
}

impl Rules {
    fn rule(&self) -> RuleWriter {
        rule(self.family)
    }

    /// `asks`: whether connections begin here, too.
    fn chain(&self, asks: bool) -> Vec<Rule> {
        let nothing = self.tcp(ACK | RST, ACK).accept();
        let mut rules = vec![nothing.end("neither asks nor refuses")];
        if asks {
            rules.push(self.tcp(SYN | ACK | RST | FIN, SYN).goto(ASKS).end("a client asks"));
        }
        let refuses = self.reply(self.tcp(SYN | ACK | RST, RST | ACK));
        let refuses = self.balanced(refuses, STATUS_ASSURED, 0);
        rules.push(self.refuses(refuses).end("a backend refuses"));
        rules.push(self.unreachable());
        rules
    }

    /// SYNs.
    fn asks(&self) -> Vec<Rule> {
        let note = |rule, per_s| add(self.original(limit(rule, per_s)), ASKED, ASKED_FOR);
        let first = self.balanced(self.rule(), STATUS_CONFIRMED, 0);
        let again = self.balanced(self.rule(), STATUS_CONFIRMED | STATUS_SEEN_REPLY, STATUS_CONFIRMED);
        vec![
            note(first, ASKED_PER_S).end("a client asks"),
            note(again, TROUBLE_PER_S).end("a client asks again"),
        ]
    }

    /// Goes on if the connection is balanced, as far as that can be told, and these bits of its status
    /// are so.
    fn balanced(&self, rule: RuleWriter, mask: u32, value: u32) -> RuleWriter {
        let dnat = if self.ipvs { 0 } else { STATUS_DNAT };
        if mask | dnat == 0 {
            return rule;
        }
        let status = rule.and(Expression::Ct { into: SCRATCH, key: CtKey::Status, direction: None });
        let value = (value | dnat).to_ne_bytes();
        status.mask(SCRATCH, ne(mask | dnat)).compare(SCRATCH, Operator::Equal, &value)
    }

    /// Goes on for TCP with these of its flags.
    fn tcp(&self, mask: u8, value: u8) -> RuleWriter {
        let flags =
            Expression::Payload { into: SCRATCH, base: PayloadBase::Transport, offset: TCP_FLAGS, len: 1 };
        let rule = self.rule().if_protocol(Protocol::Tcp, SCRATCH).and(flags);
        rule.mask(SCRATCH, vec![mask]).compare(SCRATCH, Operator::Equal, &[value])
    }

    /// Goes on for packets in the direction of answers.
    fn reply(&self, rule: RuleWriter) -> RuleWriter {
        rule.and(Expression::Ct { into: SCRATCH, key: CtKey::Direction, direction: None }).compare(
            SCRATCH,
            Operator::Equal,
            &[CtDirection::Reply as u8],
        )
    }

    /// The source address of a direction.
    fn source(&self) -> CtKey {
        match self.family {
            Family::V4 => CtKey::SrcIp,
            Family::V6 => CtKey::SrcIp6,
        }
    }

    /// Loads the connection: what its first packet said.
    fn original(&self, rule: RuleWriter) -> RuleWriter {
        let destination = KEY.after(address_len(self.family));
        let source_port = destination.after(address_len(self.family));
        let ct = |key, into| Expression::Ct { into, key, direction: Some(CtDirection::Original) };
        rule.and(ct(self.source(), KEY))
            .original_destination(destination)
            .and(ct(CtKey::ProtoSrc, source_port))
            .original_port(source_port.after(4))
    }

    /// Notes who was to answer this connection.
    fn refuses(&self, rule: RuleWriter) -> RuleWriter {
        let ct = |key, into| Expression::Ct { into, key, direction: Some(CtDirection::Reply) };
        let protocol = KEY.after(address_len(self.family));
        let rule = limit(rule, TROUBLE_PER_S)
            .and(ct(self.source(), KEY))
            .and(ct(CtKey::Protocol, protocol))
            .and(ct(CtKey::ProtoSrc, protocol.after(4)));
        add(rule, REFUSED, REFUSED_FOR)
    }

    /// An ICMP error about a connection: whoever sent it says that the backend is not there.
    fn unreachable(&self) -> Rule {
        let kind = match self.family {
            Family::V4 => UNREACHABLE,
            Family::V6 => UNREACHABLE_V6,
        };
        let byte =
            |offset| Expression::Payload { into: SCRATCH, base: PayloadBase::Transport, offset, len: 1 };
        let rule = self.rule().if_icmp(SCRATCH).and(byte(0)).compare(SCRATCH, Operator::Equal, &[kind]);
        let rule = match self.family {
            Family::V4 => rule.and(byte(1)).compare(SCRATCH, Operator::NotEqual, &[TOO_BIG]),
            Family::V6 => rule,
        };
        let rule = rule
            .and(Expression::Ct { into: SCRATCH, key: CtKey::State, direction: None })
            .mask(SCRATCH, ne(STATE_RELATED))
            .compare(SCRATCH, Operator::NotEqual, &[0; 4]);
        self.refuses(self.reply(rule)).end("a backend cannot be reached")
    }
}

/// Goes on for so many packets in a second.
fn limit(rule: RuleWriter, per_s: u64) -> RuleWriter {
    rule.and(Expression::Limit { rate: per_s, per_s: 1, burst: per_s as u32, invert: false })
}

fn add(rule: RuleWriter, set: &str, time: Duration) -> RuleWriter {
    let operation = DynsetOperation::Add;
    let (set, timeout) = (set.into(), Some(time));
    rule.and(Expression::Dynset { operation, set, key: KEY, data: None, timeout, invert: false })
}

fn ne(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}
