//! The kernel's switches that a plane needs, set only where they are not right already: a container
//! may see them read-only, and what is right needs no writing.

use crate::Error;
use std::fs;
use std::path::PathBuf;

/// A switch and how it should stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Its path below `/proc/sys`.
    pub(crate) name: &'static str,
    /// Its value.
    pub(crate) value: &'static str,
}

impl Sysctl {
    fn path(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.name)
    }
}

/// Sets the switch if it is not set, and says so if it was not.
pub(crate) fn ensure(sysctl: &Sysctl) -> Result<Option<String>, Error> {
    let failed = |doing, source| Error::Sysctl { doing, name: sysctl.name, value: sysctl.value, source };
    let has = fs::read_to_string(sysctl.path()).map_err(|e| failed("read", e))?;
    if has.trim() == sysctl.value {
        return Ok(None);
    }
    fs::write(sysctl.path(), sysctl.value).map_err(|e| failed("set", e))?;
    Ok(Some(format!("~ {} = {} (was {})", sysctl.name.replace('/', "."), sysctl.value, has.trim())))
}
