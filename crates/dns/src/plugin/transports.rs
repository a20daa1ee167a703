//! `https`, `grpc_server` and `quic`: how much clients of these transports may do.
//!
//! ```text
//! https { max_connections NUMBER }
//! grpc_server { max_connections NUMBER; max_streams NUMBER }
//! quic { max_streams NUMBER; worker_pool_size NUMBER }
//! ```
//!
//! Zero is no limit in CoreDNS where it is allowed; ours is then the largest that there is anyhow.

use crate::chain::Plugin;
use crate::corefile::{Error, Line};
use crate::setup::{Setting, number};
use std::sync::Arc;

type Done = Result<Option<Arc<dyn Plugin>>, Error>;

/// Reads the options, each of which takes a number.
fn options(
    setting: &mut Setting<'_>,
    mut set: impl FnMut(&mut Setting<'_>, &Line, u32) -> Result<(), Error>,
) -> Done {
    let line = setting.once()?;
    line.no_arguments()?;
    for option in &line.block {
        option.no_block()?;
        let [word] = option.exactly()?;
        let number = number(word)?;
        set(setting, option, number)?;
    }
    Ok(None)
}

fn or_all(number: u32) -> usize {
    if number == 0 { usize::MAX } else { usize::try_from(number).unwrap_or(usize::MAX) }
}

fn positive(option: &Line, number: u32) -> Result<u32, Error> {
    if number == 0 { Err(option.error("takes a number that is not zero")) } else { Ok(number) }
}

pub(super) fn https(setting: &mut Setting<'_>) -> Done {
    options(setting, |setting, option, number| match option.name.text.as_str() {
        "max_connections" => {
            setting.block.limits.https_connections = or_all(number);
            Ok(())
        }
        _ => Err(option.unknown_option("https")),
    })
}

pub(super) fn grpc_server(setting: &mut Setting<'_>) -> Done {
    options(setting, |setting, option, number| {
        let limits = &mut setting.block.limits;
        match option.name.text.as_str() {
            "max_connections" => limits.grpc_connections = or_all(number),
            "max_streams" => limits.grpc_streams = if number == 0 { u32::MAX } else { number },
            _ => return Err(option.unknown_option("grpc_server")),
        }
        Ok(())
    })
}

pub(super) fn quic(setting: &mut Setting<'_>) -> Done {
    options(setting, |setting, option, number| {
        let limits = &mut setting.block.limits;
        match option.name.text.as_str() {
            "max_streams" => limits.quic_streams = positive(option, number)?,
            "worker_pool_size" => {
                limits.quic_workers = usize::try_from(positive(option, number)?).unwrap_or(usize::MAX);
            }
            _ => return Err(option.unknown_option("quic")),
        }
        Ok(())
    })
}
