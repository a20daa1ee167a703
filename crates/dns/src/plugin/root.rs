//! `root`: where files are looked for whose paths are not absolute.
//!
//! ```text
//! root PATH
//! ```

use crate::chain::Plugin;
use crate::corefile::Error;
use crate::say;
use crate::setup::Setting;
use std::path::Path;
use std::sync::Arc;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    for line in setting.lines {
        let [path] = line.exactly()?;
        line.no_block()?;
        match Path::new(&path.text).metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(path.error("not a directory")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                say::warning(format_args!("Root path does not exist: {}", path.text));
            }
            Err(error) => return Err(path.error(error)),
        }
        setting.block.root = path.text.clone().into();
    }
    Ok(None)
}
