//! A proxy on the way to the API server: `proxy-url` of a kubeconfig. An HTTP proxy is asked to CONNECT
//! where the server talks TLS, and is given whole URLs where it does not; a SOCKS5 proxy makes any
//! connection. The server's name is looked up by the proxy. Proxies that talk TLS themselves are
//! refused, and the environment's are not looked at.

use super::access::Server;
use super::http::read_head;
use super::trouble::Trouble;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, BufReader, Read, Write};

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    kind: Kind,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Name and password.
    user: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url())
    }
}

impl Proxy {
    /// From a URL.
    pub(super) fn parse(text: &str) -> Result<Proxy, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("{text:?} is no URL"))?;
        // The name may be secret, too.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (kind, default) = match scheme {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            "https" => return Err(format!("https://{rest}: a proxy that talks TLS itself is not built")),
            other => return Err(format!("{other}: no proxy that we know; http and socks5 are")),
        };
        let nonsense = || format!("{scheme}://{rest} is no URL of a proxy");
        let server = Server::parse_with(false, default, rest).ok_or_else(nonsense)?;
        let user = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            unescape(name).zip(unescape(password))
        });
        let user = match user {
            Some(None) => return Err(nonsense()),
            Some(user) => user,
            None => None,
        };
        if !server.path.is_empty() {
            return Err(nonsense());
        }
        Ok(Proxy { kind, host: server.host, port: server.port, user })
    }

    /// As messages call it.
    pub(super) fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
        };
        format!("{scheme}://{}", Server::plain(&self.host, self.port).authority())
    }

    /// Whether it wants to know of each question where it goes, instead of a connection.
    pub(super) fn wants_whole_urls(&self, server: &Server) -> bool {
        self.kind == Kind::Http && !server.tls
    }

    /// The header that tells an HTTP proxy who we are.
    pub(super) fn authorization(&self) -> Option<String> {
        let (name, password) = self.user.as_ref()?;
        let secret = BASE64_STANDARD.encode(format!("{name}:{password}"));
        Some(format!("Proxy-Authorization: Basic {secret}\r\n"))
    }

    /// Has the proxy at the other end of `wire` connect us with `server`.
    pub(super) fn connect(&self, wire: &mut (impl Read + Write), server: &Server) -> Result<(), Trouble> {
        match self.kind {
            Kind::Http if !server.tls => Ok(()),
            Kind::Http => self.connect_by_http(wire, server),
            Kind::Socks5 => self.connect_by_socks(wire, server),
        }
    }

    fn connect_by_http(&self, wire: &mut (impl Read + Write), server: &Server) -> Result<(), Trouble> {
        let place = server.authority();
        let authorization = self.authorization().unwrap_or_default();
        let question = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n");
        wire.write_all(question.as_bytes()).and_then(|()| wire.flush()).map_err(talking)?;
        let mut reader = BufReader::new(wire);
        let code = read_head(&mut reader)?.code;
        if !(200..300).contains(&code) {
            return Err(self.refused(format!("HTTP's code {code}")));
        }
        match reader.buffer() {
            [] => Ok(()),
            // The server waits for us to begin.
            _ => Err(Trouble::Nonsense(format!("{self:?} goes on talking after CONNECT"))),
        }
    }

    /// RFC 1928, and RFC 1929 for the password.
    fn connect_by_socks(&self, wire: &mut (impl Read + Write), server: &Server) -> Result<(), Trouble> {
        const VERSION: u8 = 5;
        const NO_SECRET: u8 = 0;
        const PASSWORD: u8 = 2;
        const CONNECT: u8 = 1;
        let too_long = || Trouble::Access(format!("{self:?}: a name or password of more than 255 bytes"));
        let methods: &[u8] = if self.user.is_some() { &[NO_SECRET, PASSWORD] } else { &[NO_SECRET] };
        let count = u8::try_from(methods.len()).unwrap_or(1);
        send(wire, &[&[VERSION, count], methods].concat())?;
        match (receive(wire)?, &self.user) {
            ([VERSION, NO_SECRET], _) => {}
            ([VERSION, PASSWORD], Some((name, password))) => {
                let mut message = vec![1];
                for text in [name, password] {
                    message.push(u8::try_from(text.len()).map_err(|_| too_long())?);
                    message.extend_from_slice(text.as_bytes());
                }
                send(wire, &message)?;
                let [_, status] = receive(wire)?;
                if status != 0 {
                    return Err(self.refused("the password will not do".into()));
                }
            }
            ([VERSION, _], _) => return Err(self.refused("it wants another kind of secret".into())),
            _ => return Err(Trouble::Nonsense(format!("{self:?} does not talk SOCKS5"))),
        }
        let mut message = vec![VERSION, CONNECT, 0];
        message.extend(place(&server.host).ok_or_else(too_long)?);
        message.extend(server.port.to_be_bytes());
        send(wire, &message)?;
        let [_, status, _, kind] = receive(wire)?;
        if status != 0 {
            return Err(self.refused(format!("SOCKS5 code {status}")));
        }
        // The address that it uses, which nobody wants to know.
        match kind {
            1 => receive::<6>(wire).map(drop),
            4 => receive::<18>(wire).map(drop),
            3 => {
                let [length] = receive(wire)?;
                let mut rest = vec![0; usize::from(length) + 2];
                wire.read_exact(&mut rest).map_err(talking)
            }
            _ => Err(Trouble::Nonsense(format!("{self:?} does not talk SOCKS5"))),
        }
    }

    fn refused(&self, why: String) -> Trouble {
        Trouble::Connection("connect", io::Error::other(format!("the proxy {self:?} refuses: {why}")))
    }
}

/// Where to, as SOCKS5 has it.
fn place(host: &str) -> Option<Vec<u8>> {
    Some(match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => [&[1][..], &ip.octets()].concat(),
        Ok(std::net::IpAddr::V6(ip)) => [&[4][..], &ip.octets()].concat(),
        Err(_) => [&[3, u8::try_from(host.len()).ok()?][..], host.as_bytes()].concat(),
    })
}

fn send(wire: &mut impl Write, bytes: &[u8]) -> Result<(), Trouble> {
    wire.write_all(bytes).and_then(|()| wire.flush()).map_err(talking)
}

fn receive<const N: usize>(wire: &mut impl Read) -> Result<[u8; N], Trouble> {
    let mut bytes = [0; N];
    wire.read_exact(&mut bytes).map_err(talking)?;
    Ok(bytes)
}

fn talking(error: io::Error) -> Trouble {
    Trouble::Connection("talk to the proxy", error)
}

/// Takes `%40` and the like for what they stand for.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let good = [
            ("http://10.0.0.1:3128", "http://10.0.0.1:3128", None),
            ("http://me:a%40b@proxy/", "http://proxy:80", Some(("me", "a@b"))),
            ("socks5://[fd00::1]", "socks5://[fd00::1]:1080", None),
            ("socks5h://me@p:1", "socks5://p:1", Some(("me", ""))),
        ];
        for (text, url, user) in good {
            let proxy = Proxy::parse(text).expect(text);
            assert_eq!(proxy.url(), url);
            let found = proxy.user.as_ref().map(|(name, password)| (name.as_str(), password.as_str()));
            assert_eq!(found, user, "{text}");
        }
        let bad = [
            ("https://me:secret@p", "https://p: a proxy that talks TLS itself is not built"),
            ("ftp://p", "ftp: no proxy that we know; http and socks5 are"),
            ("p:3128", "\"p:3128\" is no URL"),
            ("http://p/path", "http://p/path is no URL of a proxy"),
            ("http://a%4:b@p", "http://p is no URL of a proxy"),
            ("http://", "http:// is no URL of a proxy"),
        ];
        for (text, message) in bad {
            assert_eq!(Proxy::parse(text).expect_err(text), message);
        }
    }

    /// The other side of a conversation that is known beforehand.
    struct Other {
        says: io::Cursor<Vec<u8>>,
        hears: Vec<u8>,
    }

    impl Read for Other {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Other {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hears.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn talk(proxy: &str, server: &str, says: &[u8]) -> (Vec<u8>, Option<String>) {
        let server = Server::parse(server).expect("a server");
        let mut other = Other { says: io::Cursor::new(says.to_vec()), hears: vec![] };
        let done = Proxy::parse(proxy).expect("a proxy").connect(&mut other, &server);
        (other.hears, done.err().map(|trouble| trouble.to_string()))
    }

    #[test]
    fn http_proxies() {
        let ask = |says: &str| talk("http://me:pw@p:1", "https://api.example.com", says.as_bytes());
        let (heard, trouble) = ask("HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n");
        let wanted = "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\
                      Proxy-Authorization: Basic bWU6cHc=\r\n\r\n";
        assert_eq!((String::from_utf8_lossy(&heard).as_ref(), trouble), (wanted, None));
        for (says, message) in [
            ("HTTP/1.1 407 No\r\n\r\n", "connect: the proxy http://p:1 refuses: HTTP's code 407"),
            ("HTTP/1.1 200 OK\r\n\r\nHello", "http://p:1 goes on talking after CONNECT"),
            ("SSH-2.0\r\n\r\n", "what answers is not HTTP: its first line"),
            ("", "ask: it ends in the middle"),
        ] {
            assert_eq!(ask(says).1.as_deref(), Some(message), "{says:?}");
        }
        // In plain text there is nothing to connect.
        assert_eq!(talk("http://p:1", "http://api", b""), (vec![], None));
    }

    #[test]
    fn socks_proxies() {
        let ask = |says: &[u8]| talk("socks5://me:pw@p:1", "http://api:8080", says);
        let (heard, trouble) = ask(b"\x05\x02\x01\x00\x05\x00\x00\x03\x01x\x00\x50");
        assert_eq!(heard, b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x03\x03api\x1f\x90");
        assert_eq!(trouble, None);
        let (heard, trouble) = talk(
            "socks5://p:1",
            "https://10.0.0.1:6443",
            b"\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50",
        );
        assert_eq!(
            (&heard[..], trouble),
            (&b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x19\x2b"[..], None)
        );
        for (says, message) in [
            (&b"\x05\xff"[..], "connect: the proxy socks5://p:1 refuses: it wants another kind of secret"),
            (b"\x05\x02\x01\x01", "connect: the proxy socks5://p:1 refuses: the password will not do"),
            (b"\x05\x00\x05\x05\x00\x01", "connect: the proxy socks5://p:1 refuses: SOCKS5 code 5"),
            (b"HTTP/1.1", "socks5://p:1 does not talk SOCKS5"),
            (b"\x05", "talk to the proxy: failed to fill whole buffer"),
        ] {
            assert_eq!(ask(says).1.as_deref(), Some(message), "{says:?}");
        }
    }
}
