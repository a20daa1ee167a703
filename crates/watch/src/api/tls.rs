//! TLS to the API server: whom we believe, and who we are.

use super::access::{Access, Source};
use super::trouble::Trouble;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Where distributions keep the certificates that the world believes.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who we are, where that is told by a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// PEM.
    pub(super) certificate: Vec<u8>,
    /// PEM.
    pub(super) key: Vec<u8>,
}

/// What a connection needs. Files are read anew each time: they may have been renewed.
pub(super) fn config(access: &Access, identity: Option<Identity>) -> Result<Arc<ClientConfig>, Trouble> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::Access(format!("TLS: {error}")))?;
    let builder = match access.insecure {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        false => builder.with_root_certificates(roots(access.authority.as_ref())?),
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
                .collect::<Result<_, _>>()
                .map_err(|error| Trouble::Access(format!("client certificate: {error}")))?;
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| Trouble::Access(format!("client key: {error}")))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Trouble::Access(format!("client certificate: {error}")))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(authority: Option<&Source>) -> Result<RootCertStore, Trouble> {
    let pem = match authority {
        Some(source) => source.read()?,
        None => SYSTEM
            .iter()
            .find_map(|file| std::fs::read(file).ok())
            .ok_or_else(|| Trouble::Access("no certificate authority is given or installed".into()))?,
    };
    let mut store = RootCertStore::empty();
    // One that cannot be used is no reason not to believe the others.
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let (good, bad) = store.add_parsable_certificates(certificates);
    match good {
        0 => Err(Trouble::Access(format!("certificate authority: no certificate in it, {bad} unreadable"))),
        _ => Ok(store),
    }
}

/// Believes anybody: `insecure-skip-tls-verify`. That the other side holds the key to what it shows is
/// checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
