//! What is asked of clients: five words of `client_auth`, which are those of Go's `crypto/tls`.

use crate::upstream::tls::{certificates, system_authorities};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// What is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    /// Nothing.
    #[default]
    NoCert,
    /// A certificate, whoever signed it, if there is one.
    Request,
    /// A certificate, whoever signed it.
    Require,
    /// A certificate that an authority signed, if there is one.
    VerifyIfGiven,
    /// A certificate that an authority signed.
    RequireAndVerify,
}

impl ClientAuth {
    /// The meaning of a word.
    pub(crate) fn of(word: &str) -> Option<ClientAuth> {
        Some(match word {
            "nocert" => ClientAuth::NoCert,
            "request" => ClientAuth::Request,
            "require" => ClientAuth::Require,
            "verify_if_given" => ClientAuth::VerifyIfGiven,
            "require_and_verify" => ClientAuth::RequireAndVerify,
            _ => return None,
        })
    }

    pub(super) fn verifier(
        self,
        authorities: Option<&Path>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let any = |mandatory| {
            let algorithms = provider.signature_verification_algorithms;
            Arc::new(AnyCertificate { mandatory, algorithms })
        };
        let builder = || -> Result<_, String> {
            let mut roots = RootCertStore::empty();
            let trusted = match authorities {
                Some(path) => certificates(path)?,
                None => system_authorities(),
            };
            // Systems carry some that are not understood; those do no harm.
            roots.add_parsable_certificates(trusted);
            Ok(WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()))
        };
        let said = |error: rustls::server::VerifierBuilderError| {
            let path = authorities.unwrap_or(Path::new("the system's authorities"));
            format!("{}: {error}", path.display())
        };
        Ok(match self {
            ClientAuth::NoCert => Arc::new(NoClientAuth),
            ClientAuth::Request => any(false),
            ClientAuth::Require => any(true),
            ClientAuth::VerifyIfGiven => builder()?.allow_unauthenticated().build().map_err(said)?,
            ClientAuth::RequireAndVerify => builder()?.build().map_err(said)?,
        })
    }
}

/// Takes any certificate whose key its holder has.
#[derive(Debug)]
struct AnyCertificate {
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
