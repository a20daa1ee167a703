//! The rules that gather evidence.
//!
//! All stand right behind destination NAT, where a connection's reply tuple already names the backend:
//! in the same chain for packets that come in and for those that leave the host. What is noted is a
//! backend (address, protocol, port) and a kind of sign, so a flood of packets fills nothing. An
//! element is `add`ed, which does not begin its time anew: what is left of it tells its age.
//!
//! - A first SYN notes that the backend was asked. What stands is the time since when nobody has had
//!   an answer.
//! - A SYN of a connection that is known and unanswered is one sent again.
//! - A SYN+ACK to anybody takes both back.
//! - A reset that answers a SYN, or an ICMP error, is a refusal.
//!
//! Packets of connections that both sides have acknowledged leave at the second rule, and those that
//! are not balanced at the third; what is noted is limited by rate. So it costs healthy traffic next to
//! nothing, and heavy traffic no more.

use crate::program::{ChainSpec, Program, Rule, SetSpec, SetValue};
use crate::write::{RuleWriter, address_len, rule};
use aside::Sign;
use model::{Family, Protocol};
use netlink::nftables::{
    Base, ChainKind, CtDirection, CtKey, Datatype, DynsetOperation, Expression, Hook, Operator, PayloadBase,
    Policy, Register,
};
use std::time::Duration;

/// The table's name, which is how it is known as ours.
pub const TABLE: &str = "portolan-evidence";
/// Backends and kinds of signs.
pub(super) const SIGNS: &str = "signs";
/// Backends that are set aside, with a word on each.
pub(super) const ASIDE: &str = "aside";

/// How many signs there can be at once; those beyond are not noted.
const SIGNS_MAX: u32 = 8192;
/// How long a sign stands.
pub(super) const SIGN_FOR: Duration = Duration::from_secs(3);
/// How many signs of a kind are noted in a second. The first is called for by every connection, the
/// others by trouble only.
const ASKED_PER_S: u64 = 200;
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

/// The kind of sign as the key has it.
pub(super) fn code(sign: Sign) -> u32 {
    match sign {
        Sign::Unanswered => 1,
        Sign::Repeated => 2,
        Sign::Refused => 3,
    }
}

/// The other way round.
pub(super) fn sign(code: u32) -> Option<Sign> {
    [Sign::Unanswered, Sign::Repeated, Sign::Refused].into_iter().find(|sign| self::code(*sign) == code)
}

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
    let set = |name: &str, key, dynamic_max| SetSpec {
        name: name.to_owned(),
        key,
        data: SetValue::Nothing,
        dynamic_max,
    };
    Program {
        chains: vec![
            base("incoming", Hook::Prerouting, rules.chain(!ipvs)),
            base("outgoing", Hook::Output, rules.chain(true)),
        ],
        sets: vec![
            set(SIGNS, [&backend[..], &[Datatype::Mark]].concat(), Some(SIGNS_MAX)),
            set(ASIDE, backend, None),
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
        let mut rules = vec![self.unreachable()];
        rules.push(self.status(STATUS_ASSURED, STATUS_ASSURED).accept().end("both sides know each other"));
        if !self.ipvs {
            rules.push(self.status(STATUS_DNAT, 0).accept().end("not balanced"));
        }
        if asks {
            let first =
                self.tcp(SYN | ACK | RST | FIN, SYN).and(status()).mask(SCRATCH, ne(STATUS_CONFIRMED));
            let first = first.compare(SCRATCH, Operator::Equal, &[0; 4]);
            rules.push(self.note(first, Sign::Unanswered, ASKED_PER_S).end("a client asks"));
            let again = self.tcp(SYN | ACK | RST | FIN, SYN).and(status());
            let again = again.mask(SCRATCH, ne(STATUS_CONFIRMED | STATUS_SEEN_REPLY));
            let again = again.compare(SCRATCH, Operator::Equal, &STATUS_CONFIRMED.to_ne_bytes());
            rules.push(self.note(again, Sign::Repeated, TROUBLE_PER_S).end("a client asks again"));
        }
        for sign in [Sign::Unanswered, Sign::Repeated] {
            let answered = self.reply(self.tcp(SYN | ACK | RST | FIN, SYN | ACK));
            rules.push(self.key(answered, sign).and(delete()).end("a backend answers"));
        }
        let refused = self.reply(self.tcp(SYN | ACK | RST, RST | ACK));
        rules.push(self.note(refused, Sign::Refused, TROUBLE_PER_S).end("a backend refuses"));
        rules
    }

    /// Goes on if these bits of the connection's status are so.
    fn status(&self, mask: u32, value: u32) -> RuleWriter {
        self.rule().and(status()).mask(SCRATCH, ne(mask)).compare(
            SCRATCH,
            Operator::Equal,
            &value.to_ne_bytes(),
        )
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

    /// Loads the key: who answers this connection, and the sign.
    fn key(&self, rule: RuleWriter, sign: Sign) -> RuleWriter {
        let source = match self.family {
            Family::V4 => CtKey::SrcIp,
            Family::V6 => CtKey::SrcIp6,
        };
        let ct = |key, into| Expression::Ct { into, key, direction: Some(CtDirection::Reply) };
        let protocol = KEY.after(address_len(self.family));
        let port = protocol.after(4);
        rule.and(ct(source, KEY))
            .and(ct(CtKey::Protocol, protocol))
            .and(ct(CtKey::ProtoSrc, port))
            .number(code(sign), port.after(4))
    }

    fn note(&self, rule: RuleWriter, sign: Sign, per_s: u64) -> RuleWriter {
        let limit = Expression::Limit { rate: per_s, per_s: 1, burst: per_s as u32, invert: false };
        self.key(rule.and(limit), sign).and(Expression::Dynset {
            operation: DynsetOperation::Add,
            set: SIGNS.into(),
            key: KEY,
            data: None,
            timeout: Some(SIGN_FOR),
            invert: false,
        })
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
        self.note(self.reply(rule), Sign::Refused, TROUBLE_PER_S).end("a backend cannot be reached")
    }
}

fn status() -> Expression {
    Expression::Ct { into: SCRATCH, key: CtKey::Status, direction: None }
}

fn delete() -> Expression {
    let operation = DynsetOperation::Delete;
    Expression::Dynset { operation, set: SIGNS.into(), key: KEY, data: None, timeout: None, invert: false }
}

fn ne(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}
