//! When a file was written last, and how large it is: what tells that it has changed.

use std::path::Path;
use std::time::SystemTime;

/// Both, where there is a file.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

/// Those of the file at a path, links followed.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let found = path.metadata().ok()?;
    Some((found.modified().ok()?, found.len()))
}
