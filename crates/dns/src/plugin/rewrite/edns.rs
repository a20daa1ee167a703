//! EDNS options of questions: set, appended, replaced and unset.

use crate::corefile::{Error, Line, Word};
use crate::exchange::Exchange;
use crate::setup::number;
use std::net::IpAddr;
use wire::Edns;

/// The numbers of the options (RFC 5001, RFC 7871).
const NSID: u16 = 3;
const SUBNET: u16 = 8;
/// What a question that had no EDNS takes.
const UDP_BYTES: u16 = 4096;

/// What is done to the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Set,
    Append,
    Replace,
    Unset,
}

/// What the option holds.
#[derive(Clone, Debug)]
enum Data {
    Bytes(Vec<u8>),
    Variable(Variable),
    Metadata(String),
    /// The client's network, of so many bits.
    Subnet(u8, u8),
}

#[derive(Clone, Copy, Debug)]
enum Variable {
    Name,
    Type,
    ClientIp,
    ClientPort,
    Protocol,
    ServerIp,
    ServerPort,
}

/// A rule.
#[derive(Clone, Debug)]
pub(super) struct EdnsRule {
    code: u16,
    action: Action,
    data: Data,
    local: bool,
    /// The answer shows nothing of it.
    pub(super) revert: bool,
}

/// Reads what follows `edns0`.
pub(super) fn read(line: &Line, words: &[Word]) -> Result<EdnsRule, Error> {
    let [kind, action, rest @ ..] = words else {
        return Err(line.error("edns0 takes an option and an action"));
    };
    let action_of = |word: &Word| match word.text.to_ascii_lowercase().as_str() {
        "set" => Ok(Action::Set),
        "append" => Ok(Action::Append),
        "replace" => Ok(Action::Replace),
        "unset" => Ok(Action::Unset),
        _ => Err(word.error("not set, append, replace or unset")),
    };
    let action = action_of(action)?;
    let (rest, revert) = match rest.split_last() {
        Some((last, rest)) if last.text == "revert" && action != Action::Unset => (rest, true),
        _ => (rest, false),
    };
    let rule = |code, data, local| EdnsRule { code, action, data, local, revert };
    let none = Data::Bytes(Vec::new());
    Ok(match (kind.text.to_ascii_lowercase().as_str(), rest) {
        ("local", [code]) if action == Action::Unset => rule(read_code(code)?, none, true),
        ("local", [code, data]) if action != Action::Unset => rule(read_code(code)?, read_data(data)?, true),
        ("nsid", []) => rule(NSID, none, false),
        ("subnet", []) if action == Action::Unset => rule(SUBNET, none, false),
        ("subnet", [v4, v6]) if action != Action::Unset => {
            rule(SUBNET, Data::Subnet(bits(v4, 32)?, bits(v6, 128)?), false)
        }
        ("local" | "nsid" | "subnet", _) => return Err(kind.error("other arguments were expected")),
        _ => return Err(kind.error("not local, nsid or subnet")),
    })
}

fn read_code(word: &Word) -> Result<u16, Error> {
    match word.text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).map_err(|_| word.error("no number of an option")),
        None => number(word),
    }
}

fn bits(word: &Word, most: u8) -> Result<u8, Error> {
    let bits: u8 = number(word)?;
    if bits > most { Err(word.error(format_args!("more than {most} bits"))) } else { Ok(bits) }
}

fn read_data(word: &Word) -> Result<Data, Error> {
    if let Some(name) = word.text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return Ok(Data::Variable(match name {
            "qname" => Variable::Name,
            "qtype" => Variable::Type,
            "client_ip" => Variable::ClientIp,
            "client_port" => Variable::ClientPort,
            "protocol" => Variable::Protocol,
            "server_ip" => Variable::ServerIp,
            "server_port" => Variable::ServerPort,
            label if label.contains('/') => return Ok(Data::Metadata(label.to_owned())),
            _ => return Err(word.error("no such variable")),
        }));
    }
    let Some(hex) = word.text.strip_prefix("0x") else {
        return Ok(Data::Bytes(word.text.as_bytes().to_vec()));
    };
    let digits: Option<Vec<u8>> =
        hex.chars().map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits.as_deref().map(<[u8]>::as_chunks::<2>) {
        Some((pairs, [])) => Ok(Data::Bytes(pairs.iter().map(|[high, low]| high << 4 | low).collect())),
        _ => Err(word.error("not hexadecimal")),
    }
}

impl EdnsRule {
    /// The option that answers carry, too: those of local meaning.
    pub(super) fn echoed(&self) -> Option<u16> {
        self.local.then_some(self.code)
    }

    /// Whether it was for this question.
    pub(super) fn apply(&self, exchange: &mut Exchange) -> bool {
        let data = match self.action {
            Action::Unset => None,
            _ => match self.data(exchange) {
                None => return false,
                data => data,
            },
        };
        let mut edns =
            exchange.asked.edns().cloned().unwrap_or(Edns { udp_size: UDP_BYTES, ..Edns::default() });
        let has = edns.options().any(|(code, _)| code == self.code);
        let done = match self.action {
            Action::Unset => true,
            Action::Set => true,
            Action::Append => !has || self.local,
            Action::Replace => has,
        };
        if done {
            let keep_old = self.action == Action::Append;
            edns.options = changed(&edns, self.code, data.as_deref(), keep_old);
        }
        exchange.asked.set_edns(Some(edns));
        done
    }

    fn data(&self, exchange: &Exchange) -> Option<Vec<u8>> {
        let Exchange { asked, from, .. } = exchange;
        Some(match &self.data {
            Data::Bytes(bytes) => bytes.clone(),
            Data::Metadata(label) => exchange.told(label)?.as_bytes().to_vec(),
            Data::Subnet(v4, v6) => subnet(from.client.ip().to_canonical(), *v4, *v6),
            Data::Variable(variable) => match variable {
                Variable::Name => asked.question.name.to_string().into_bytes(),
                Variable::Type => asked.question.rtype.0.to_be_bytes().to_vec(),
                Variable::ClientIp => octets(from.client.ip()),
                Variable::ClientPort => from.client.port().to_be_bytes().to_vec(),
                Variable::Protocol => from.transport.protocol().into(),
                Variable::ServerIp => octets(from.local.ip()),
                Variable::ServerPort => from.local.port().to_be_bytes().to_vec(),
            },
        })
    }
}

/// The options with one of them changed, or without it.
fn changed(edns: &Edns, code: u16, data: Option<&[u8]>, keep_old: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut data = data;
    for (of, old) in edns.options() {
        if of != code || keep_old {
            push(&mut out, of, old);
        } else if let Some(data) = data.take() {
            push(&mut out, code, data);
        }
    }
    if let Some(data) = data {
        push(&mut out, code, data);
    }
    out
}

fn push(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    let Ok(length) = u16::try_from(data.len()) else { return };
    out.extend(code.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(data);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// RFC 7871 6: family, length, scope, and the address as far as it counts.
fn subnet(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> Vec<u8> {
    let (family, bits) = if ip.is_ipv4() { (1, v4_bits) } else { (2, v6_bits) };
    let mut out = vec![0, family, bits, 0];
    for (index, octet) in octets(ip).into_iter().take(usize::from(bits).div_ceil(8)).enumerate() {
        let left = usize::from(bits) - index * 8;
        let mask = if left >= 8 { 0xff } else { 0xff_u8 << (8 - left) };
        out.push(octet & mask);
    }
    out
}

/// Puts options of a question into those of its answer.
pub(super) fn echo(question: &[u8], codes: &[u16], answer: &mut Vec<u8>) {
    let edns = Edns { options: question.to_vec(), ..Edns::default() };
    for (code, data) in edns.options().filter(|(code, _)| codes.contains(code)) {
        push(answer, code, data);
    }
}
