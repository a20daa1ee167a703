//! The kernel's switches that a plane needs, set only where they are not right already: a container
//! may see them read-only, and what is right needs no writing.

use crate::Error;
use std::path::PathBuf;
use std::{fs, io};

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

/// Reads a switch that is a number.
pub(crate) fn read(name: &'static str) -> Result<u32, Error> {
    let failed = |source| Error::Sysctl { doing: "read", name, value: "a number".into(), source };
    let text = fs::read_to_string(PathBuf::from("/proc/sys").join(name)).map_err(failed)?;
    text.trim().parse().map_err(|_| failed(io::ErrorKind::InvalidData.into()))
}

/// Sets a switch that is a number.
pub(crate) fn write(name: &'static str, value: u32) -> Result<(), Error> {
    let failed = |source| Error::Sysctl { doing: "set", name, value: value.to_string(), source };
    fs::write(PathBuf::from("/proc/sys").join(name), value.to_string()).map_err(failed)
}

/// Sets the switch if it is not set, and says so if it was not.
pub(crate) fn ensure(sysctl: &Sysctl) -> Result<Option<String>, Error> {
    let failed =
        |doing, source| Error::Sysctl { doing, name: sysctl.name, value: sysctl.value.to_owned(), source };
    let has = fs::read_to_string(sysctl.path()).map_err(|e| failed("read", e))?;
    if has.trim() == sysctl.value {
        return Ok(None);
    }
    fs::write(sysctl.path(), sysctl.value).map_err(|e| failed("set", e))?;
    Ok(Some(format!("~ {} = {} (was {})", sysctl.name.replace('/', "."), sysctl.value, has.trim())))
}
