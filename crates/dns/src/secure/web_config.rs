//! The file that `prometheus { tls FILE }` names: the web configuration of Prometheus' exporters, as
//! far as it is about TLS. What else may stand in such a file is refused by name.

use super::{ClientAuth, Files};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebConfig {
    tls_server_config: TlsServerConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsServerConfig {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    client_auth_type: Option<String>,
    #[serde(default)]
    client_ca_file: Option<PathBuf>,
    /// Older ones are not spoken anyhow.
    #[serde(default)]
    min_version: Option<String>,
}

/// Reads the file. What it names is looked for beside it.
pub(crate) fn read(path: &Path) -> Result<Files, String> {
    let about = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let size = path.metadata().map_err(|error| about(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(about(&format_args!("{size} bytes are too many")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| about(&error))?;
    let files = parse(&text).map_err(|what| about(&what))?;
    let beside = |file: PathBuf| path.parent().unwrap_or(Path::new(".")).join(file);
    Ok(Files {
        certificate: beside(files.certificate),
        key: beside(files.key),
        authorities: files.authorities.map(beside),
        ..files
    })
}

fn parse(text: &str) -> Result<Files, String> {
    let config: WebConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let TlsServerConfig { cert_file, key_file, client_auth_type, client_ca_file, min_version } =
        config.tls_server_config;
    if let Some(version) =
        min_version.filter(|version| !["TLS10", "TLS11", "TLS12"].contains(&version.as_str()))
    {
        return Err(format!("min_version {version} is not built: it is TLS12"));
    }
    let client_auth = match client_auth_type.as_deref() {
        None | Some("NoClientCert") => ClientAuth::NoCert,
        Some("RequestClientCert") => ClientAuth::Request,
        Some("RequireAnyClientCert" | "RequireClientCert") => ClientAuth::Require,
        Some("VerifyClientCertIfGiven") => ClientAuth::VerifyIfGiven,
        Some("RequireAndVerifyClientCert") => ClientAuth::RequireAndVerify,
        Some(other) => return Err(format!("client_auth_type: {other} is none")),
    };
    Ok(Files {
        certificate: cert_file,
        key: key_file,
        authorities: client_ca_file,
        client_auth,
        key_log: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_and_what_is_refused() {
        let files = parse("tls_server_config:\n  cert_file: a.pem\n  key_file: /b.key\n").unwrap();
        assert_eq!((files.certificate, files.key), ("a.pem".into(), "/b.key".into()));
        assert_eq!((files.authorities, files.client_auth), (None, ClientAuth::NoCert));
        let files = parse(
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert, \
             client_ca_file: c, min_version: TLS12}",
        );
        let files = files.unwrap();
        assert_eq!((files.authorities, files.client_auth), (Some("c".into()), ClientAuth::RequireAndVerify));
        for (text, want) in [
            ("", "unexpected end"),
            ("basic_auth_users: {a: b}", "basic_auth_users"),
            ("tls_server_config: {cert_file: a}", "key_file"),
            ("tls_server_config: {cert_file: a, key_file: b, cipher_suites: [x]}", "cipher_suites"),
            ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: Some}", "Some is none"),
            ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS13}", "TLS13 is not built"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
