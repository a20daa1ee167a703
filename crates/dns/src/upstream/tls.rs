//! TLS as a client: whom we trust, who we are, and what the other is called.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where systems keep the authorities that they trust (Go's `crypto/x509`, root_linux.go).
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Files of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// Our certificate and its key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
    /// Whom we trust; the system's authorities where it is not given.
    pub(crate) authorities: Option<PathBuf>,
}

/// How connections to one server are made.
#[derive(Clone)]
pub(crate) struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Client {
    /// A client of a server by this name.
    pub(crate) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Client {
        Client { connector: config.into(), name }
    }

    /// What the server is called, where it has a name.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        }
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// The name of a server: a host name, or its address where it has none.
pub(crate) fn server_name(name: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, String> {
    match name {
        None => Ok(ServerName::IpAddress(address.into())),
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| format!("{name} is no host name")),
    }
}

/// Reads the certificates of a file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(format!("{}: no certificate", path.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Reads the key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Trust and identity from files. `protocols` are those of HTTP, if any.
pub(crate) fn client_config(files: &Files, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let trusted = match &files.authorities {
        Some(path) => certificates(path)?,
        None => system_authorities(),
    };
    // Systems carry some that are not understood; those do no harm.
    let (added, _) = roots.add_parsable_certificates(trusted);
    if added == 0
        && let Some(path) = &files.authorities
    {
        return Err(format!("{}: no certificate of an authority", path.display()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| format!("{}: {error}", certificate.display()))?,
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

pub(crate) fn system_authorities() -> Vec<CertificateDer<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let mut places = named.into_iter().chain(SYSTEM_AUTHORITIES.iter().map(PathBuf::from));
    // A system without any trusts nobody, which shows when a connection is made.
    places.find_map(|path| certificates(&path).ok()).unwrap_or_default()
}
