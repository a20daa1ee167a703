//! `debug`: tells more in the log.
//!
//! ```text
//! debug
//! ```

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::setup::Setting;
use std::sync::Arc;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    for line in setting.lines {
        line.no_arguments()?;
        line.no_block()?;
    }
    setting.process.debug = true;
    Ok(None)
}
