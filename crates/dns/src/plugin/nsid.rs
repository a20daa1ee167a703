//! `nsid`: tells who wants to know which server answers (RFC 5001).
//!
//! ```text
//! nsid [TEXT...]
//! ```

use crate::chain::{At, Onward, Plugin, Step};
use crate::corefile::Error;
use crate::exchange::Exchange;
use crate::setup::{Setting, host_name};
use std::sync::Arc;

/// The number of the EDNS option.
const NSID: u16 = 3;
/// The longest text.
const TEXT_BYTES_MAX: usize = 255;

struct Nsid {
    /// The option as it goes out.
    option: Vec<u8>,
}

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let line = setting.once()?;
    line.no_block()?;
    let words: Vec<&str> = line.args.iter().map(|word| word.text.as_str()).collect();
    let text = if words.is_empty() { host_name() } else { words.join(" ") };
    if text.len() > TEXT_BYTES_MAX {
        return Err(line.error(format_args!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    let length = u16::try_from(text.len()).unwrap_or(0);
    let option = [&NSID.to_be_bytes()[..], &length.to_be_bytes(), text.as_bytes()].concat();
    Ok(Some(Arc::new(Nsid { option })))
}

impl Plugin for Nsid {
    fn ask(&self, _exchange: &mut Exchange, _at: &At<'_>) -> Step {
        Step::Pass
    }

    fn answered(&self, exchange: &mut Exchange, _at: &At<'_>) -> Onward {
        let wanted = exchange.asked.edns().is_some_and(|edns| edns.options().any(|(code, _)| code == NSID));
        if wanted {
            exchange.reply.options.extend_from_slice(&self.option);
        }
        Onward::Done
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, refused};

    #[test]
    fn only_who_asks_is_told() {
        let bench = Bench::of("nsid some server\nwhoami");
        let options = |question| bench.exchange_from("10.0.0.1", question).reply.options;
        assert_eq!(options("a A nsid"), b"\x00\x03\x00\x0bsome server");
        assert!(options("a A edns").is_empty() && options("a A").is_empty());
        assert!(Bench::of("nsid\nwhoami").exchange_from("10.0.0.1", "a A nsid").reply.options.len() > 4);
        assert!(refused(&format!("nsid {}", "x".repeat(256))).contains("longer than 255 bytes"));
    }
}
