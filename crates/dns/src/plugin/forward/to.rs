//! Whom to ask: addresses, files like `/etc/resolv.conf`, and host names that are looked up once.

use crate::corefile::{Error, Scheme, Word};
use crate::upstream::Query;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::time::Duration;
use wire::{Message, Reply, Type};

/// More upstreams are refused.
const UPSTREAMS_MAX: usize = 15;
/// For an answer of a resolver to a question about a host name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An upstream as the Corefile names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct To {
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
    /// What its certificate calls it, behind a `%`.
    pub(super) server_name: Option<String>,
}

/// All upstreams of a stanza, in order, each once.
pub(super) fn read(words: &[Word], resolvers: &[SocketAddr]) -> Result<Vec<To>, Error> {
    let mut all: Vec<To> = Vec::new();
    for word in words {
        for to in read_one(word, resolvers)? {
            if !all.contains(&to) {
                all.push(to);
            }
        }
    }
    match (words.last(), all.len()) {
        (Some(word), 0) => Err(word.error("no upstream comes of this")),
        (Some(word), count) if count > UPSTREAMS_MAX => {
            Err(word.error(format_args!("more than {UPSTREAMS_MAX} upstreams")))
        }
        _ => Ok(all),
    }
}

fn read_one(word: &Word, resolvers: &[SocketAddr]) -> Result<Vec<To>, Error> {
    let (scheme, rest) = match word.text.split_once("://") {
        None => (Scheme::Dns, word.text.as_str()),
        Some(("dns", rest)) => (Scheme::Dns, rest),
        Some(("tls", rest)) => (Scheme::Tls, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((other, _)) => {
            return Err(word.error(format_args!("no transport for forwarding is called {other}")));
        }
    };
    if scheme == Scheme::Https && rest.contains('/') {
        return Err(word.error("a path: queries go to /dns-query"));
    }
    let (rest, server_name) = match (scheme, rest.rsplit_once('%')) {
        (Scheme::Tls, Some((address, name))) => {
            let (name, port) = match name.split_once(':') {
                Some((name, port)) => (name, format!(":{port}")),
                None => (name, String::new()),
            };
            (format!("{address}{port}"), Some(name.to_owned()))
        }
        _ => (rest.to_owned(), None),
    };
    let port = scheme.port(53);
    if let Some(address) = address(&rest, port) {
        return Ok(vec![To { scheme, address, server_name }]);
    }
    if scheme == Scheme::Dns && Path::new(&rest).is_file() {
        return name_servers(word, Path::new(&rest));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, digits)) => {
            (host, digits.parse().map_err(|_| word.error(format_args!("{digits} is no port")))?)
        }
        None => (rest.as_str(), port),
    };
    if host.contains('/') || host.parse::<wire::Name>().is_err() || host.is_empty() {
        return Err(word.error("neither an address, nor a file, nor a host name"));
    }
    let found = if resolvers.is_empty() { system(host, port) } else { ask(resolvers, host, port) };
    let found = found.map_err(|what| word.error(format_args!("cannot be looked up: {what}")))?;
    let server_name = server_name.or_else(|| (scheme != Scheme::Dns).then(|| host.to_owned()));
    Ok(found.into_iter().map(|address| To { scheme, address, server_name: server_name.clone() }).collect())
}

/// Reads `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
pub(in crate::plugin) fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).or_else(|_| text.parse()).ok()
}

/// The name servers of a file like `/etc/resolv.conf`.
fn name_servers(word: &Word, path: &Path) -> Result<Vec<To>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| word.error(error))?;
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("nameserver"), Some(server)) = (words.next(), words.next()) {
            // The interface of a link-local address is left out, as CoreDNS does.
            let server = server.split('%').next().unwrap_or(server);
            let ip = server.parse::<IpAddr>();
            let ip = ip.map_err(|_| word.error(format_args!("nameserver {server:?} in it is no address")))?;
            servers.push(To { scheme: Scheme::Dns, address: SocketAddr::new(ip, 53), server_name: None });
        }
    }
    match servers.is_empty() {
        true => Err(word.error("no nameserver in this file")),
        false => Ok(servers),
    }
}

fn system(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    (host, port).to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string())
}

/// Asks resolvers for both kinds of addresses, one after the other until one answers.
fn ask(resolvers: &[SocketAddr], host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let mut trouble = String::from("no address");
    for resolver in resolvers {
        let mut found = Vec::new();
        for rtype in [Type::A, Type::AAAA] {
            match ask_one(*resolver, host, rtype) {
                Ok(addresses) => found.extend(addresses),
                Err(what) => trouble = format!("{resolver}: {what}"),
            }
        }
        if !found.is_empty() {
            return Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        }
    }
    Err(trouble)
}

fn ask_one(resolver: SocketAddr, host: &str, rtype: Type) -> Result<Vec<IpAddr>, String> {
    let text = |error: std::io::Error| error.to_string();
    let name = host.parse().map_err(|error: wire::NameError| error.to_string())?;
    let query = Query::plain(name, rtype, true);
    let any: IpAddr = if resolver.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).map_err(text)?;
    socket.connect(resolver).map_err(text)?;
    socket.set_read_timeout(Some(RESOLVE_TIMEOUT)).map_err(text)?;
    let sent = query.message(false);
    socket.send(&sent).map_err(text)?;
    let mut bytes = vec![0; query.datagram_bytes()];
    let size = socket.recv(&mut bytes).map_err(text)?;
    let answer = bytes.get(..size).unwrap_or_default();
    let fits = matches!(query.fit(&sent, answer), crate::upstream::Fit::Answer);
    let mut reply = Reply::default();
    let read = Message::read(answer).and_then(|message| reply.read(&message));
    if !fits || read.is_err() {
        return Err("what it says is no answer".into());
    }
    Ok(reply.records().iter().filter_map(|record| reply.address(record)).collect())
}
