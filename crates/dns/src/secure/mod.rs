//! Who we are to clients of encrypted transports: a certificate and its key from files, which are
//! looked at now and then and read again when they have changed. What a connection carries is not
//! known here (`tcp`, `https`, `grpc`, `quic`).

mod clients;
mod key_log;
pub(crate) mod web_config;

pub(crate) use clients::ClientAuth;

use crate::say;
use crate::stamp::{Stamp, stamp};
use crate::upstream::tls::{certificates, private_key};
use arc_swap::ArcSwap;
use key_log::KeyLogFile;
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What is spoken inside, as a client asks for it (ALPN). Who asks for nothing is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// DNS behind lengths. No name is wanted: RFC 7858 had none, and Go's servers ignore it.
    Framed,
    /// HTTP of either version.
    Http,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// DNS over QUIC.
    Quic,
}

impl Inside {
    const ALL: [Inside; 5] = [Inside::Framed, Inside::Http, Inside::Http1, Inside::Http2, Inside::Quic];

    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Inside::Framed => &[],
            Inside::Http => &[b"h2", b"http/1.1"],
            Inside::Http1 => &[b"http/1.1"],
            Inside::Http2 => &[b"h2"],
            Inside::Quic => &[b"doq"],
        }
    }
}

/// What a `tls` directive names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The certificate, with those between it and an authority.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Whose certificates clients may have; the system's authorities where it is not given.
    pub(crate) authorities: Option<PathBuf>,
    /// What is asked of clients.
    pub(crate) client_auth: ClientAuth,
    /// Where the secrets of connections are written, for debugging.
    pub(crate) key_log: Option<PathBuf>,
}

/// Who we are.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) files: Files,
    /// By what is spoken inside, in the order of [`Inside::ALL`].
    configs: ArcSwap<Vec<Arc<ServerConfig>>>,
    read: Mutex<Vec<Stamp>>,
}

impl Identity {
    /// Reads the files.
    pub(crate) fn read(files: Files) -> Result<Identity, String> {
        let stamps = files.stamps();
        let configs = files.configs()?;
        Ok(Identity { files, configs: ArcSwap::from_pointee(configs), read: Mutex::new(stamps) })
    }

    /// What a connection is to be accepted with.
    pub(crate) fn config(&self, inside: Inside) -> Option<Arc<ServerConfig>> {
        let place = Inside::ALL.iter().position(|other| *other == inside)?;
        self.configs.load().get(place).cloned()
    }

    /// Reads files that have changed. What was good stays in force until they are good again.
    pub(crate) fn look_again(&self) {
        let stamps = self.files.stamps();
        {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if *read == stamps {
                return;
            }
            *read = stamps;
        }
        let path = self.files.certificate.display();
        match self.files.configs() {
            Ok(configs) => {
                self.configs.store(Arc::new(configs));
                say::info(format_args!("plugin/tls: {path} has changed and is in force"));
            }
            Err(error) => {
                say::error(format_args!(
                    "plugin/tls: {path} has changed, but what was in force stays: {error}"
                ));
            }
        }
    }
}

impl Files {
    fn stamps(&self) -> Vec<Stamp> {
        let paths = [Some(&self.certificate), Some(&self.key), self.authorities.as_ref()];
        paths.into_iter().flatten().map(|path: &PathBuf| stamp(path)).collect()
    }

    fn configs(&self) -> Result<Vec<Arc<ServerConfig>>, String> {
        let provider = Arc::new(default_provider());
        let verifier = self.client_auth.verifier(self.authorities.as_deref(), &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, private_key(&self.key)?)
            .map_err(|error| self.about(&self.certificate, &error))?;
        // Who comes back needs no memory of ours: what we must know is in the ticket, sealed.
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        if let Some(path) = &self.key_log {
            config.key_log = Arc::new(KeyLogFile::open(path).map_err(|error| self.about(path, &error))?);
        }
        let with = |inside: Inside| {
            let mut config = config.clone();
            config.alpn_protocols = inside.protocols().iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Inside::ALL.into_iter().map(with).collect())
    }

    fn about(&self, path: &Path, error: &dyn std::fmt::Display) -> String {
        format!("{}: {error}", path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, scratch};

    /// A certificate for a name, and its key.
    fn write(dir: &Scratch, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        dir.write("key", &made.signing_key.serialize_pem());
        dir.write("pem", &made.cert.pem());
    }

    #[test]
    fn files_are_read_again_when_they_have_changed() {
        let dir = scratch("identity");
        let path = |name: &str| PathBuf::from(format!("{}/{name}", dir.path()));
        let files = Files {
            certificate: path("pem"),
            key: path("key"),
            authorities: None,
            client_auth: ClientAuth::NoCert,
            key_log: None,
        };
        let error = Identity::read(files.clone()).unwrap_err();
        assert!(error.starts_with(&format!("{}: ", path("pem").display())), "{error}");
        write(&dir, "one");
        let identity = Identity::read(files).unwrap();
        let config = || identity.config(Inside::Framed).unwrap();
        let first = config();
        identity.look_again();
        assert!(Arc::ptr_eq(&first, &config()), "nothing has changed");
        // Half of it is there, or none.
        dir.write("key", "of nobody");
        identity.look_again();
        dir.remove("key");
        identity.look_again();
        assert!(Arc::ptr_eq(&first, &config()), "what was good stays");
        write(&dir, "another");
        identity.look_again();
        assert!(!Arc::ptr_eq(&first, &config()));
        assert_eq!(identity.config(Inside::Quic).unwrap().alpn_protocols, [b"doq"]);
    }
}
