//! The functions that expressions may call: about the question, and about values.

use super::value::TEXT_BYTES_MAX;
use super::{Environment, Names, Value};
use model::Prefix;
use std::net::IpAddr;

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Bufsize,
    Class,
    ClientIp,
    Do,
    Id,
    Name,
    Opcode,
    Port,
    Proto,
    ServerIp,
    ServerPort,
    Size,
    Type,
    InCidr,
    Metadata,
    Group,
    Len,
    Lower,
    Upper,
    Trim,
    TrimPrefix,
    TrimSuffix,
    HasPrefix,
    HasSuffix,
    IndexOf,
    Split,
    Join,
    Replace,
    Int,
    String,
}

/// Each by its name, with the fewest and the most arguments.
const ALL: &[(&str, Function, usize, usize)] = &[
    ("bufsize", Function::Bufsize, 0, 0),
    ("class", Function::Class, 0, 0),
    ("client_ip", Function::ClientIp, 0, 0),
    ("do", Function::Do, 0, 0),
    ("id", Function::Id, 0, 0),
    ("name", Function::Name, 0, 0),
    ("opcode", Function::Opcode, 0, 0),
    ("port", Function::Port, 0, 0),
    ("proto", Function::Proto, 0, 0),
    ("server_ip", Function::ServerIp, 0, 0),
    ("server_port", Function::ServerPort, 0, 0),
    ("size", Function::Size, 0, 0),
    ("type", Function::Type, 0, 0),
    ("incidr", Function::InCidr, 2, 2),
    ("metadata", Function::Metadata, 1, 1),
    ("group", Function::Group, 1, 1),
    ("len", Function::Len, 1, 1),
    ("lower", Function::Lower, 1, 1),
    ("upper", Function::Upper, 1, 1),
    ("trim", Function::Trim, 1, 1),
    ("trimPrefix", Function::TrimPrefix, 2, 2),
    ("trimSuffix", Function::TrimSuffix, 2, 2),
    ("hasPrefix", Function::HasPrefix, 2, 2),
    ("hasSuffix", Function::HasSuffix, 2, 2),
    ("indexOf", Function::IndexOf, 2, 2),
    ("split", Function::Split, 2, 2),
    ("join", Function::Join, 1, 2),
    ("replace", Function::Replace, 3, 3),
    ("int", Function::Int, 1, 1),
    ("string", Function::String, 1, 1),
];

impl Function {
    /// The function of this name, for so many arguments.
    pub(super) fn named(name: &str, arguments: usize, names: &Names<'_>) -> Result<Function, String> {
        let found = ALL.iter().find(|(other, ..)| *other == name);
        let Some((_, function, least, most)) = found else {
            return Err(format!("no function is called {name}"));
        };
        match function {
            Function::Group if !names.groups => return Err("group: there is no pattern here".into()),
            Function::Metadata if !names.metadata => {
                return Err("metadata: there is none here".into());
            }
            _ => {}
        }
        if !(*least..=*most).contains(&arguments) {
            return Err(format!("{name} takes {least} arguments, not {arguments}"));
        }
        Ok(*function)
    }

    /// Whether a name is taken.
    pub(super) fn is_named(name: &str) -> bool {
        ALL.iter().any(|(other, ..)| *other == name)
    }

    pub(super) fn call(self, arguments: &[Value], environment: &Environment<'_>) -> Result<Value, String> {
        if arguments.is_empty() {
            return self.ask(environment);
        }
        let text = |index: usize| arguments.get(index).map_or(Err("too few arguments".into()), Value::text);
        let bool = |value| Ok(Value::Bool(value));
        match self {
            Function::InCidr => {
                let ip = text(0)?.trim_start_matches('[').trim_end_matches(']');
                let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is no address"))?;
                let network: Prefix = text(1)?.parse().map_err(|_| "no network".to_owned())?;
                bool(network.contains(ip))
            }
            Function::Metadata => {
                let told = environment.exchange.and_then(|exchange| exchange.told(text(0).ok()?));
                Ok(Value::from(told.unwrap_or_default()))
            }
            Function::Group => {
                let name = arguments.first().map(Value::to_string).unwrap_or_default();
                Ok(Value::from(environment.groups.get(&name).map_or("", String::as_str)))
            }
            Function::Len => match arguments.first() {
                Some(Value::List(values)) => Ok(number(values.len())),
                _ => Ok(number(text(0)?.chars().count())),
            },
            Function::Lower => Ok(Value::Text(text(0)?.to_lowercase())),
            Function::Upper => Ok(Value::Text(text(0)?.to_uppercase())),
            Function::Trim => Ok(Value::from(text(0)?.trim())),
            Function::TrimPrefix => Ok(Value::from(text(0)?.strip_prefix(text(1)?).unwrap_or(text(0)?))),
            Function::TrimSuffix => Ok(Value::from(text(0)?.strip_suffix(text(1)?).unwrap_or(text(0)?))),
            Function::HasPrefix => bool(text(0)?.starts_with(text(1)?)),
            Function::HasSuffix => bool(text(0)?.ends_with(text(1)?)),
            Function::IndexOf => Ok(text(0)?.find(text(1)?).map_or(Value::Int(-1), number)),
            Function::Split => Ok(Value::List(text(0)?.split(text(1)?).map(Value::from).collect())),
            Function::Join => {
                let Some(Value::List(values)) = arguments.first() else {
                    return Err("join takes a list".into());
                };
                let between = arguments.get(1).map_or(Ok(""), Value::text)?;
                let texts = values.iter().map(Value::text).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::Text(texts.join(between)))
            }
            Function::Replace => {
                let new = text(0)?.replace(text(1)?, text(2)?);
                if new.len() > TEXT_BYTES_MAX { Err("too long a text".into()) } else { Ok(Value::Text(new)) }
            }
            Function::Int => match arguments.first() {
                Some(Value::Float(number)) => Ok(Value::Int(*number as i64)),
                Some(Value::Int(number)) => Ok(Value::Int(*number)),
                _ => text(0)?.parse().map(Value::Int).map_err(|_| "no whole number".to_owned()),
            },
            Function::String => Ok(Value::Text(arguments.first().map(Value::to_string).unwrap_or_default())),
            _ => Err("no arguments were expected".into()),
        }
    }

    /// What a question is like.
    fn ask(self, environment: &Environment<'_>) -> Result<Value, String> {
        let exchange = environment.exchange.ok_or("there is no question")?;
        let (asked, from) = (&exchange.asked, &exchange.from);
        let address = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => Value::Text(ip.to_string()),
            IpAddr::V6(ip) => Value::Text(format!("[{ip}]")),
        };
        Ok(match self {
            Function::Bufsize => {
                let stream = from.transport.is_stream();
                Value::Int(i64::from(if stream { u16::MAX } else { asked.udp_size() }))
            }
            Function::Class => Value::Text(asked.question.class.to_string()),
            Function::ClientIp => address(from.client.ip()),
            Function::Do => Value::Bool(asked.dnssec_ok()),
            Function::Id => Value::Int(i64::from(asked.id)),
            Function::Name => Value::Text(asked.question.name.lowercase().to_string()),
            Function::Opcode => Value::Int(i64::from(asked.flags >> 11 & 15)),
            Function::Port => Value::Text(from.client.port().to_string()),
            Function::Proto => Value::from(from.transport.protocol()),
            Function::ServerIp => address(from.local.ip()),
            Function::ServerPort => Value::Text(from.local.port().to_string()),
            Function::Size => number(asked.size),
            Function::Type => Value::Text(asked.question.rtype.to_string()),
            _ => return Err("too few arguments".into()),
        })
    }
}

fn number(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Whether a name can be that of a variable.
pub(crate) fn is_free_name(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "true",
        "false",
        "nil",
        "and",
        "or",
        "not",
        "in",
        "matches",
        "contains",
        "startsWith",
        "endsWith",
        "let",
        "if",
        "else",
    ];
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|char| char.is_ascii_alphabetic() || char == '_');
    first
        && chars.all(|char| char.is_ascii_alphanumeric() || char == '_')
        && !WORDS.contains(&name)
        && !Function::is_named(name)
}
