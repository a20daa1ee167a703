//! `ready`: a page that says whether all plugins can do their work.
//!
//! ```text
//! ready [ADDRESS:PORT] {          by default :8181
//!     monitor until-ready|continuously
//! }
//! ```
//!
//! `/ready` says `OK`, or with status 503 which plugins are not ready. By default a plugin that was
//! ready once counts as ready. A process that has been told to stop is not ready.

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::setup::{Setting, socket_address};
use crate::web::{EVERYWHERE, Page, Said};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PORT_DEFAULT: u16 = 8181;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    let address = match line.args.as_slice() {
        [] => SocketAddr::new(EVERYWHERE, PORT_DEFAULT),
        [word] => socket_address(word)?,
        [_, extra, ..] => return Err(extra.error("ready takes one address")),
    };
    let mut continuously = false;
    for option in &line.block {
        option.no_block()?;
        match option.name.text.as_str() {
            "monitor" => {
                let [word] = option.exactly()?;
                continuously = match word.text.as_str() {
                    "until-ready" => false,
                    "continuously" => true,
                    _ => return Err(word.error("not until-ready or continuously")),
                };
            }
            _ => return Err(option.unknown_option("ready")),
        }
    }
    setting.process.ready.push(ReadyPage { address, continuously });
    Ok(None)
}

/// A page that is wanted. It is made when all plugins are known.
pub(crate) struct ReadyPage {
    pub(crate) address: SocketAddr,
    continuously: bool,
}

impl ReadyPage {
    /// The page about these plugins.
    pub(crate) fn page(
        &self,
        plugins: &[(&'static str, Arc<dyn Plugin>)],
        stopping: &Arc<AtomicBool>,
    ) -> Page {
        let was_ready: Vec<AtomicBool> = plugins.iter().map(|_| AtomicBool::new(false)).collect();
        let (plugins, stopping, continuously) = (plugins.to_vec(), stopping.clone(), self.continuously);
        let say = move || {
            if stopping.load(Ordering::Relaxed) {
                return Said::text(503, "Shutting down");
            }
            let mut waiting: Vec<&str> = Vec::new();
            for ((name, plugin), was_ready) in plugins.iter().zip(&was_ready) {
                if !continuously && was_ready.load(Ordering::Relaxed) {
                    continue;
                }
                match plugin.is_ready() {
                    true => was_ready.store(true, Ordering::Relaxed),
                    false => waiting.push(name),
                }
            }
            waiting.sort_unstable();
            waiting.dedup();
            match waiting.as_slice() {
                [] => Said::text(200, "OK"),
                waiting => Said::text(503, waiting.join(",")),
            }
        };
        Page { path: "/ready", say: Arc::new(say) }
    }
}
