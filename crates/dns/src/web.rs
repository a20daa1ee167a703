//! Small pages over HTTP: `health`, `ready`, metrics. Defined by plugins, served by [`crate::http`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// All addresses.
pub const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What a page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The status code.
    pub status: u16,
    /// The type of the text.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

impl Said {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Said {
        Said { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// A page.
#[derive(Clone)]
pub struct Page {
    /// Its path.
    pub path: &'static str,
    /// Makes what it says.
    pub say: Arc<dyn Fn() -> Said + Send + Sync>,
}
