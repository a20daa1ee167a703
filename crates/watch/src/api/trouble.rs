//! What can go wrong between us and the API server, and what to do about it.

use serde::Deserialize;
use std::io;
use std::time::Duration;

/// Something went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// What we need to get there, or to be let in, is not to be had.
    #[error("{0}")]
    Access(String),
    /// The connection.
    #[error("{0}: {1}")]
    Connection(&'static str, #[source] io::Error),
    /// The API server said no.
    #[error("the API server says: {}", said(*code, reason, message))]
    Refused {
        /// HTTP's code.
        code: u16,
        /// Kubernetes' word for it.
        reason: String,
        /// Its explanation.
        message: String,
        /// It wants to be left alone for so long.
        retry_after: Option<Duration>,
    },
    /// What came is not what was asked for.
    #[error("{0}")]
    Nonsense(String),
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

/// What Kubernetes says when something is wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
}

fn said(code: u16, reason: &str, message: &str) -> String {
    let reason = if reason.is_empty() { String::new() } else { format!(" {reason}") };
    let colon = if message.is_empty() { "" } else { ": " };
    format!("{code}{reason}{colon}{message}")
}

/// So much of an explanation is kept.
const MESSAGE_MAX: usize = 500;

impl Trouble {
    /// From the code and body of an answer, or from an event of type ERROR.
    pub(super) fn of_status(code: u16, body: &[u8], retry_after: Option<Duration>) -> Trouble {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let plain = || String::from_utf8_lossy(body).into_owned();
        let message = status.message.unwrap_or_else(plain);
        Trouble::Refused {
            code: status.code.unwrap_or(code),
            reason: status.reason.unwrap_or_default(),
            message: message.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect(),
            retry_after,
        }
    }

    /// The resource version that we named is too old, or is of another history: only a list helps.
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, Trouble::Refused { code, reason, .. } if *code == 410 || reason == "Expired" || reason == "Gone")
    }

    /// The server does not know a version as new as the one that we named: its storage has been put
    /// back, or it lags.
    pub(super) fn is_too_new(&self) -> bool {
        matches!(self, Trouble::Refused { message, .. } if message.contains("Too large resource version"))
    }

    /// The server does not take the question as it was put.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Trouble::Refused { code: 400 | 405 | 415 | 422, .. })
    }

    /// There is no such resource.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Trouble::Refused { code: 404, .. })
    }

    /// We may not read it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Trouble::Refused { code: 403, .. })
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Trouble::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The connection broke or fell silent: another may do better at once.
    pub(super) fn is_connection(&self) -> bool {
        matches!(self, Trouble::Connection(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_says() {
        let gone = br#"{"kind":"Status","status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}"#;
        let trouble = Trouble::of_status(200, gone, None);
        assert!(trouble.is_expired() && !trouble.is_invalid());
        assert_eq!(trouble.to_string(), "the API server says: 410 Expired: too old resource version: 1 (2)");
        let plain = Trouble::of_status(503, b"upstream\nis gone", Some(Duration::from_secs(7)));
        assert_eq!(plain.to_string(), "the API server says: 503: upstreamis gone");
        assert_eq!(plain.retry_after(), Some(Duration::from_secs(7)));
        let new = br#"{"message":"Timeout: Too large resource version: 9, current: 3","reason":"Timeout","code":504}"#;
        assert!(Trouble::of_status(504, new, None).is_too_new());
    }
}
