//! `multisocket`: how many sockets and workers each address has.
//!
//! ```text
//! multisocket [NUMBER]
//! ```

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::setup::{Setting, number};
use std::sync::Arc;

/// More are refused.
const SOCKETS_MAX: usize = 1024;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    let sockets = match line.args.as_slice() {
        [] => std::thread::available_parallelism().map_or(1, usize::from),
        [word] => match number(word)? {
            sockets @ 1..=SOCKETS_MAX => sockets,
            _ => return Err(word.error(format_args!("not between 1 and {SOCKETS_MAX}"))),
        },
        [_, extra, ..] => return Err(extra.error("multisocket takes one argument")),
    };
    setting.process.sockets = setting.process.sockets.max(Some(sockets));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn so_many_sockets() {
        let sockets = |line: &str| Bench::of(&format!("{line}\nwhoami")).configuration.process.sockets;
        assert_eq!(sockets("multisocket 3"), Some(3));
        assert!(sockets("multisocket").is_some_and(|sockets| sockets > 0));
        assert_eq!(sockets(""), None);
        assert!(refused("multisocket 0").contains("\"0\": not between 1 and 1024"));
        assert!(refused("multisocket 1 2").contains("\"2\": multisocket takes one argument"));
    }
}
