//! Keys and certificates, made when the server starts and gone with it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// All of them, as PEM.
pub(super) struct Keys {
    pub(super) authority: String,
    server: (String, String),
    pub(super) client: (String, String),
}

impl Keys {
    /// New ones for a server at this address.
    pub(super) fn make(address: IpAddr) -> io::Result<Keys> {
        make(address).map_err(io::Error::other)
    }

    /// What the server's side of a connection needs.
    pub(super) fn config(&self, certificates: bool) -> io::Result<Arc<ServerConfig>> {
        config(self, certificates).map_err(io::Error::other)
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn make(address: IpAddr) -> Result<Keys, AnyError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "lab");
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let signed = |name: &str, at: Option<IpAddr>| -> Result<(String, String), AnyError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(at.map(SanType::IpAddress));
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let server = signed("server", Some(address))?;
    let client = signed("client", None)?;
    Ok(Keys { authority, server, client })
}

fn config(keys: &Keys, certificates: bool) -> Result<Arc<ServerConfig>, AnyError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let chain = CertificateDer::pem_slice_iter(keys.server.0.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(keys.server.1.as_bytes())?;
    let builder = match certificates {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_slice_iter(keys.authority.as_bytes()) {
                roots.add(root?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

/// Base64 of a text.
pub(super) fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for piece in text.as_bytes().chunks(3) {
        let group = piece.iter().fold(0usize, |group, byte| group << 8 | usize::from(*byte));
        let group = group << (8 * (3 - piece.len()));
        for place in 0..4 {
            let letter = ALPHABET.get(group >> (18 - 6 * place) & 63).copied();
            encoded.push(char::from(letter.filter(|_| place <= piece.len()).unwrap_or(b'=')));
        }
    }
    encoded
}
