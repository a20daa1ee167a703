//! `tls`: who we are to clients of `tls://`, `https://`, `grpc://` and `quic://`.
//!
//! ```text
//! tls CERT KEY [CA] {
//!     client_auth nocert|request|require|verify_if_given|require_and_verify
//!     keylog FILE
//! }
//! ```
//!
//! No place in the chain: what it changes is how connections begin.

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::say;
use crate::secure::{ClientAuth, Files, Identity};
use crate::setup::Setting;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// So often we look whether files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks at the files.
struct Looker {
    identity: Arc<Identity>,
    task: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let (certificate, key, authorities) = match line.args.as_slice() {
        [certificate, key] => (certificate, key, None),
        [certificate, key, authorities] => (certificate, key, Some(authorities)),
        [] if line.block.iter().any(|option| option.name.text == "acme") => {
            return Err(line.error("certificates by ACME are not built: name a certificate and a key"));
        }
        _ => return Err(line.error("takes a certificate, a key and perhaps an authority")),
    };
    let (mut client_auth, mut key_log) = (ClientAuth::default(), None);
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "client_auth" => {
                let [word] = option.exactly()?;
                client_auth = ClientAuth::of(&word.text).ok_or_else(|| {
                    word.error("not nocert, request, require, verify_if_given or require_and_verify")
                })?;
            }
            "keylog" => {
                let [word] = option.exactly()?;
                let path = setting.block.path(&word.text);
                say::warning(format_args!("plugin/tls: Writing TLS Key Log to {:?}", path.display()));
                key_log = Some(path);
            }
            _ => return Err(option.unknown_option("tls")),
        }
    }
    let files = Files {
        certificate: setting.block.path(&certificate.text),
        key: setting.block.path(&key.text),
        authorities: authorities.map(|word| setting.block.path(&word.text)),
        client_auth,
        key_log,
    };
    let identity = Arc::new(Identity::read(files).map_err(|error| line.error(error))?);
    setting.block.identity = Some(identity.clone());
    setting.process.plugins.push(looker(identity));
    Ok(None)
}

/// What looks at the files of an identity while it is in force.
pub(super) fn looker(identity: Arc<Identity>) -> Arc<dyn Plugin> {
    Arc::new(Looker { identity, task: Mutex::default() })
}

impl Plugin for Looker {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn start(self: Arc<Self>) {
        let identity = self.identity.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let identity = identity.clone();
                // A task that panicked has said so.
                let _ = tokio::task::spawn_blocking(move || identity.look_again()).await;
            }
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}
