//! Where the API server is and who we are there: from a kubeconfig, from what a pod is given, or from
//! an address alone. Files that may be renewed are named here and read when they are needed.

use super::credentials::{Exec, User};
use super::impersonation::Impersonation;
use super::proxy::Proxy;
use super::trouble::Trouble;
use crate::Error;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

/// What a pod is given.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// How to get to the API server.
#[derive(Clone, Debug)]
pub struct Access {
    pub(super) server: Server,
    pub(super) proxy: Option<Proxy>,
    /// The name that its certificate must have, where that is not the host's.
    pub(super) tls_name: Option<String>,
    pub(super) authority: Option<Source>,
    /// Believe anybody.
    pub(super) insecure: bool,
    pub(super) user: User,
}

/// Where the API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What all paths begin with, without a slash at its end.
    pub(super) path: String,
}

impl Server {
    /// From a URL, or from a host and port alone.
    pub(super) fn parse(text: &str) -> Option<Server> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return None,
            // As client-go: what names no scheme and no secrets is plain.
            None => (false, text),
        };
        Server::parse_with(tls, if tls { 443 } else { 80 }, rest)
    }

    /// From what stands after the scheme.
    pub(super) fn parse_with(tls: bool, default: u16, text: &str) -> Option<Server> {
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':').map_or(Some(default), |port| port.parse().ok())?)
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (authority, default),
            },
        };
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        (!host.is_empty() && !host.contains(['@', ':', ' ']) || host.parse::<std::net::Ipv6Addr>().is_ok())
            .then(|| Server { tls, host: host.to_owned(), port, path })
    }

    /// Without TLS and at no path.
    pub(super) fn plain(host: &str, port: u16) -> Server {
        Server { tls: false, host: host.to_owned(), port, path: String::new() }
    }

    /// Host and port as HTTP has them.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// As messages call it.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Something secret or long: a file, or its content.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(file) => write!(f, "{}", file.display()),
            // It may be a key.
            Source::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

impl Source {
    pub(super) fn read(&self) -> Result<Vec<u8>, Trouble> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.clone()),
            Source::File(file) => std::fs::read(file)
                .map_err(|error| Trouble::Access(format!("read {}: {error}", file.display()))),
        }
    }
}

impl Access {
    /// As kube-proxy finds it: a kubeconfig, whose server `master` replaces; `master` alone; or what
    /// a pod is given.
    pub fn find(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Access, Error> {
        Access::find_in(kubeconfig, None, master)
    }

    /// The same with another context of the kubeconfig than its current one.
    pub fn find_in(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        master: Option<&str>,
    ) -> Result<Access, Error> {
        let wrong = |what: String| Error::Access { what };
        let mut access = match (kubeconfig, master) {
            (Some(file), _) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| wrong(format!("read kubeconfig {}: {error}", file.display())))?;
                let directory = file.parent().unwrap_or(Path::new("."));
                parse(&text, directory, context, master.is_some())
                    .map_err(|what| wrong(format!("kubeconfig {}: {what}", file.display())))?
            }
            (None, Some(_)) => Access {
                server: Server::plain("", 0),
                proxy: None,
                tls_name: None,
                authority: None,
                insecure: false,
                user: User::default(),
            },
            (None, None) => Access::of_pod().map_err(wrong)?,
        };
        if let Some(master) = master {
            access.server =
                Server::parse(master).ok_or_else(|| wrong(format!("--master: {master:?} is no URL")))?;
        }
        Ok(access)
    }

    /// With a certificate and a key of ours, and the authority that the server's must be of, all in files.
    pub fn with_certificates(self, certificate: &Path, key: &Path, authority: &Path) -> Access {
        let file = |path: &Path| Source::File(path.to_path_buf());
        let identity = Some((file(certificate), file(key)));
        Access { authority: Some(file(authority)), user: User { identity, ..self.user }, ..self }
    }

    /// As messages call the API server.
    pub fn url(&self) -> String {
        self.server.url()
    }

    fn of_pod() -> Result<Access, String> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(host), Some(port)) =
            (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
        else {
            return Err("no kubeconfig is given, and this is no pod: KUBERNETES_SERVICE_HOST and \
                        KUBERNETES_SERVICE_PORT are not set"
                .into());
        };
        let port = port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT: {port:?} is no port"))?;
        let token = Some(Source::File(POD_TOKEN.into()));
        Ok(Access {
            server: Server { tls: true, host, port, path: String::new() },
            proxy: None,
            tls_name: None,
            authority: Some(Source::File(POD_AUTHORITY.into())),
            insecure: false,
            user: User { token, ..User::default() },
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
    current_context: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: WireCluster,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct WireCluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: WireContext,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireContext {
    cluster: String,
    user: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: WireUser,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct WireUser {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<WireExec>,
    auth_provider: Option<serde::de::IgnoredAny>,
    #[serde(rename = "as")]
    impersonate: String,
    as_uid: String,
    as_groups: Option<Vec<String>>,
    as_user_extra: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireExec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<WireVariable>>,
    provide_cluster_info: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireVariable {
    name: String,
    value: String,
}

/// Reads a kubeconfig. Files in it are named from its own directory. Where the server is given
/// otherwise, none need be in it.
fn parse(text: &str, directory: &Path, wanted: Option<&str>, has_server: bool) -> Result<Access, String> {
    let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Kubeconfig { clusters, contexts, users, current_context } = config;
    let named = |name: &str, by: &str| {
        let found = contexts.into_iter().find(|context| context.name == name);
        found.map(|found| found.context).ok_or_else(|| format!("{by}there is no context {name:?}"))
    };
    let context = match (wanted, current_context.as_str()) {
        (Some(name), _) => named(name, "")?,
        (None, "") => WireContext::default(),
        (None, name) => named(name, "current-context: ")?,
    };
    let cluster = match clusters.into_iter().find(|cluster| cluster.name == context.cluster) {
        Some(cluster) => cluster.cluster,
        None if has_server => WireCluster::default(),
        None => return Err(format!("there is no cluster {:?}", context.cluster)),
    };
    let user = match users.into_iter().find(|user| user.name == context.user) {
        Some(user) => user.user,
        None if context.user.is_empty() => WireUser::default(),
        None => return Err(format!("there is no user {:?}", context.user)),
    };
    let proxy = match cluster.proxy_url.as_str() {
        "" => None,
        text => Some(Proxy::parse(text).map_err(|what| format!("proxy-url: {what}"))?),
    };
    let server = match cluster.server.as_str() {
        "" if has_server => Server::plain("", 0),
        text => Server::parse(text).ok_or_else(|| format!("server: {text:?} is no URL"))?,
    };
    let insecure = cluster.insecure_skip_tls_verify;
    let authority = source(directory, &cluster.certificate_authority, &cluster.certificate_authority_data)
        .map_err(|what| format!("certificate-authority-data: {what}"))?;
    if insecure && authority.is_some() {
        return Err("insecure-skip-tls-verify and a certificate authority exclude each other".into());
    }
    Ok(Access {
        server,
        proxy,
        tls_name: Some(cluster.tls_server_name).filter(|name| !name.is_empty()),
        authority,
        insecure,
        user: read_user(user, directory)?,
    })
}

fn read_user(wire: WireUser, directory: &Path) -> Result<User, String> {
    if wire.auth_provider.is_some() {
        return Err("auth-provider: gone from Kubernetes since 1.26; use exec".into());
    }
    let impersonation =
        Impersonation::read(wire.impersonate, wire.as_uid, wire.as_groups, wire.as_user_extra)?;
    let certificate = source(directory, &wire.client_certificate, &wire.client_certificate_data)
        .map_err(|what| format!("client-certificate-data: {what}"))?;
    let key = source(directory, &wire.client_key, &wire.client_key_data)
        .map_err(|what| format!("client-key-data: {what}"))?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("client-certificate and client-key go together".into()),
    };
    // A file wins over a token in the kubeconfig: it is renewed.
    let token = match (wire.token_file.as_str(), wire.token) {
        ("", token) if token.is_empty() => None,
        ("", token) => Some(Source::Bytes(token.into_bytes())),
        (file, _) => Some(Source::File(directory.join(file))),
    };
    let basic = (!wire.username.is_empty()).then_some((wire.username, wire.password));
    let exec = wire.exec.map(|wire| read_exec(wire, directory)).transpose()?;
    Ok(User { identity, token, basic, exec, impersonation })
}

fn read_exec(wire: WireExec, directory: &Path) -> Result<Exec, String> {
    let WireExec { api_version, command, args, env, provide_cluster_info } = wire;
    match api_version.as_str() {
        "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1" => {}
        other => return Err(format!("exec.apiVersion: {other:?} is not client.authentication.k8s.io/v1")),
    }
    if command.is_empty() {
        return Err("exec.command: missing".into());
    }
    let variables = env.unwrap_or_default().into_iter().map(|WireVariable { name, value }| (name, value));
    Ok(Exec {
        api_version,
        // A bare name is looked for in PATH.
        command: if command.contains('/') { directory.join(command) } else { command.into() },
        arguments: args.unwrap_or_default(),
        variables: variables.collect(),
        tell_cluster: provide_cluster_info,
    })
}

/// What is in the kubeconfig wins over a file.
fn source(directory: &Path, file: &str, data: &str) -> Result<Option<Source>, String> {
    match (file, data) {
        ("", "") => Ok(None),
        (file, "") => Ok(Some(Source::File(directory.join(file)))),
        (_, data) => match from_base64(data) {
            Some(bytes) => Ok(Some(Source::Bytes(bytes))),
            None => Err("not base64".into()),
        },
    }
}

/// Reads base64; white space is stepped over, and padding may be missing.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    LENIENT.decode(digits).ok()
}

/// Takes any text as a kubeconfig.
pub(super) fn fuzz(text: &str) {
    if let Ok(access) = parse(text, Path::new("."), None, false) {
        assert_eq!(Server::parse(&access.url()), Some(access.server), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let server = |tls, host: &str, port, path: &str| {
            Some(Server { tls, host: host.into(), port, path: path.into() })
        };
        let cases = [
            ("https://10.0.0.1:6443", server(true, "10.0.0.1", 6443, "")),
            ("https://api.example.com/k8s/", server(true, "api.example.com", 443, "/k8s")),
            ("http://[fd00::1]:8080", server(false, "fd00::1", 8080, "")),
            ("https://[fd00::1]", server(true, "fd00::1", 443, "")),
            ("localhost:8080", server(false, "localhost", 8080, "")),
            ("ftp://a", None),
            ("https://", None),
            ("https://a:b", None),
            ("https://user@a", None),
        ];
        for (text, want) in cases {
            assert_eq!(Server::parse(text), want, "{text}");
        }
        assert_eq!(
            server(true, "fd00::1", 1, "/a").map(|s| s.url()).as_deref(),
            Some("https://[fd00::1]:1/a")
        );
    }

    #[test]
    fn base64_as_people_paste_it() {
        for text in ["Zm9vYg==", "Zm9vYg", "Zm 9v\nYg=="] {
            assert_eq!(from_base64(text).as_deref(), Some(&b"foob"[..]), "{text}");
        }
        assert_eq!((from_base64("Zm9*"), from_base64("Zg==Zg")), (None, None));
    }

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
current-context: here
preferences: {}
contexts:
- {name: elsewhere, context: {cluster: b, user: none}}
- name: here
  context: {cluster: a, user: me, namespace: x}
clusters:
- name: a
  cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: Zm9v, tls-server-name: api}
- {name: b, cluster: {server: "http://b", certificate-authority: ca.crt}}
users:
- name: me
  user: {tokenFile: token, token: old}
- name: none
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: ./get, env: [{name: A, value: b}]}}
"#;

    #[test]
    fn a_kubeconfig() {
        let here = parse(KUBECONFIG, Path::new("/d"), None, false).expect("it is right");
        assert_eq!(here.server.url(), "https://10.0.0.1:6443");
        assert_eq!(here.authority, Some(Source::Bytes(b"foo".to_vec())));
        assert_eq!(here.user.token, Some(Source::File("/d/token".into())));
        assert_eq!(here.tls_name.as_deref(), Some("api"));
        let text = KUBECONFIG.replace("current-context: here", "current-context: elsewhere");
        let elsewhere = parse(&text, Path::new("/d"), None, false).expect("it is right");
        assert_eq!(elsewhere.authority, Some(Source::File("/d/ca.crt".into())));
        let exec = elsewhere.user.exec.expect("a command");
        assert_eq!((exec.command, exec.variables), ("/d/./get".into(), vec![("A".into(), "b".into())]));
    }

    #[test]
    fn kubeconfigs_that_will_not_do() {
        let cases = [
            ("current-context: here", "current-context: nowhere", "no context \"nowhere\""),
            ("cluster: a, user: me", "cluster: c, user: me", "no cluster \"c\""),
            ("cluster: a, user: me", "cluster: a, user: you", "no user \"you\""),
            ("Zm9v", "\"*\"", "not base64"),
            ("Zm9v", "Zm9v, insecure-skip-tls-verify: true", "exclude each other"),
            ("Zm9v", "Zm9v, proxy-url: \"https://p\"", "proxy-url: https://p: a proxy that talks TLS"),
            ("token: old", "as-groups: [a]", "as-groups: nobody is named by as"),
            ("token: old", "as: \"a\\r\\nb\"", "as: control characters"),
            ("token: old", "client-key: k", "go together"),
            ("token: old", "auth-provider: {name: gcp}", "auth-provider"),
            ("token: old", "exec: {apiVersion: v9, command: x}", "\"v9\""),
            ("https://10.0.0.1:6443", "gopher://x", "no URL"),
            ("clusters:", "clusters: [", ""),
        ];
        for (old, new, message) in cases {
            let error = parse(&KUBECONFIG.replace(old, new), Path::new("."), None, false).expect_err(new);
            assert!(error.contains(message), "{new}: {error}");
        }
    }
}
