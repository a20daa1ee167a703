//! `bufsize`: no datagrams larger than this, whatever the asker says it takes.
//!
//! ```text
//! bufsize [SIZE]      512 to 4096, by default 1232
//! ```

use crate::chain::{At, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::setup::{Setting, number};
use std::sync::Arc;

/// What fits into one packet nearly everywhere (DNS flag day 2020).
const SIZE_DEFAULT: u16 = 1232;

struct Bufsize {
    size: u16,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    let size = match line.args.as_slice() {
        [] => SIZE_DEFAULT,
        [word] => match number(word)? {
            size @ 512..=4096 => size,
            _ => return Err(word.error("not between 512 and 4096")),
        },
        [_, extra, ..] => return Err(extra.error("bufsize takes one argument")),
    };
    Ok(Some(Arc::new(Bufsize { size })))
}

impl Plugin for Bufsize {
    fn ask(&self, exchange: &mut Exchange, _at: &At<'_>) -> Step {
        if let Some(edns) = exchange.asked.edns_mut() {
            edns.udp_size = edns.udp_size.min(self.size);
        }
        Step::Pass
    }
}
