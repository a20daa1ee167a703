//! Who we are, at each request anew: tokens are renewed in their files, and commands are asked again
//! when what they said has run out.

use super::access::{Access, Source};
use super::impersonation::Impersonation;
use super::tls::Identity;
use super::trouble::Trouble;
use crate::manifest::moment;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A command that tells who we are may take so long.
const EXEC_MAX: Duration = Duration::from_secs(60);
/// And may say so much.
const EXEC_OUTPUT_MAX: u64 = 1 << 20;
/// How often we look whether it has ended.
const EXEC_LOOK: Duration = Duration::from_millis(20);
/// What it said is not used to the last moment.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// Who we are, as a kubeconfig has it.
#[derive(Clone, Default)]
pub(super) struct User {
    /// Certificate and key.
    pub(super) identity: Option<(Source, Source)>,
    pub(super) token: Option<Source>,
    /// Name and password.
    pub(super) basic: Option<(String, String)>,
    pub(super) exec: Option<Exec>,
    pub(super) impersonation: Impersonation,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User")
    }
}

/// A command that tells who we are.
#[derive(Clone, Debug)]
pub(super) struct Exec {
    pub(super) api_version: String,
    pub(super) command: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    /// Tell it which cluster it is for.
    pub(super) tell_cluster: bool,
}

/// What a command said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Credential {
    status: CredentialStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CredentialStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

/// Who we are now.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    said: Option<CredentialStatus>,
}

impl Credentials {
    /// The certificate to show, if we have one.
    pub(super) fn identity(&mut self, access: &Access) -> Result<Option<Identity>, Trouble> {
        if let Some((certificate, key)) = &access.user.identity {
            return Ok(Some(Identity { certificate: certificate.read()?, key: key.read()? }));
        }
        let Some(said) = self.ask(access)? else { return Ok(None) };
        let pair = said.client_certificate_data.as_ref().zip(said.client_key_data.as_ref());
        Ok(pair.map(|(certificate, key)| Identity {
            certificate: certificate.clone().into_bytes(),
            key: key.clone().into_bytes(),
        }))
    }

    /// The header `Authorization`, if there is anything to say.
    pub(super) fn authorization(&mut self, access: &Access) -> Result<Option<String>, Trouble> {
        let token = match &access.user.token {
            Some(token) => Some(String::from_utf8_lossy(&token.read()?).trim().to_owned()),
            None => self.ask(access)?.and_then(|said| said.token.clone()),
        };
        if let Some(token) = token {
            if token.chars().any(|c| c.is_control() || c == ' ') {
                return Err(Trouble::Access("the token is not one word".into()));
            }
            return Ok(Some(format!("Bearer {token}")));
        }
        let basic = access.user.basic.as_ref();
        Ok(basic.map(|(name, password)| {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
        }))
    }

    /// What a command said will not do any more.
    pub(super) fn forget(&mut self) {
        self.said = None;
    }

    /// What the command says, asked again when it has run out.
    fn ask(&mut self, access: &Access) -> Result<Option<&CredentialStatus>, Trouble> {
        let Some(exec) = &access.user.exec else { return Ok(None) };
        let expired = |said: &CredentialStatus| {
            let end = said.expiration_timestamp.as_deref().and_then(moment);
            end.is_some_and(|end| end <= SystemTime::now() + EXPIRY_MARGIN)
        };
        if self.said.as_ref().is_none_or(expired) {
            self.said = Some(run(exec, access)?);
        }
        Ok(self.said.as_ref())
    }
}

/// Runs the command, for no longer than it may take.
fn run(exec: &Exec, access: &Access) -> Result<CredentialStatus, Trouble> {
    let Exec { api_version, command, arguments, variables, tell_cluster } = exec;
    let name = command.display();
    let failed = |what: String| Trouble::Access(format!("exec {name}: {what}"));
    let cluster = tell_cluster.then(|| {
        let mut cluster = serde_json::json!({ "server": access.url() });
        if let (Some(authority), Some(fields)) = (&access.authority, cluster.as_object_mut()) {
            let data = BASE64_STANDARD.encode(authority.read().unwrap_or_default());
            fields.insert("certificate-authority-data".into(), data.into());
        }
        if let (Some(proxy), Some(fields)) = (&access.proxy, cluster.as_object_mut()) {
            fields.insert("proxy-url".into(), proxy.url().into());
        }
        cluster
    });
    let mut spec = serde_json::json!({ "interactive": false });
    if let (Some(cluster), Some(fields)) = (cluster, spec.as_object_mut()) {
        fields.insert("cluster".into(), cluster);
    }
    let info = serde_json::json!({ "apiVersion": api_version, "kind": "ExecCredential", "spec": spec });
    let mut child = Command::new(command)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let output = child.stdout.take();
    // Read beside, so that a command that never ends does not hold us up.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.map(|output| output.take(EXEC_OUTPUT_MAX).read_to_end(&mut text));
        read.transpose().map(|_| text)
    });
    let begin = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() < EXEC_MAX => std::thread::sleep(EXEC_LOOK),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it had not ended after {} s", EXEC_MAX.as_secs())));
            }
        }
    };
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    let text = reader.join().ok().and_then(Result::ok).ok_or_else(|| failed("its output was lost".into()))?;
    let credential: Credential =
        serde_json::from_slice(&text).map_err(|error| failed(format!("its output: {error}")))?;
    Ok(credential.status)
}
