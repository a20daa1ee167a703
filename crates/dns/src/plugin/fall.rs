//! `fallthrough [ZONE...]`: about which names the next plugin is asked where this one knows nothing.

use crate::corefile::{Error, Line, origins};
use wire::Name;

/// The names; none by default.
#[derive(Clone, Debug, Default)]
pub(super) struct Fall {
    zones: Vec<Name>,
}

impl Fall {
    /// Reads the option: without zones it is all names.
    pub(super) fn read(&mut self, option: &Line) -> Result<(), Error> {
        self.zones = origins(&option.args, &[Name::ROOT])?;
        Ok(())
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Whether the next plugin is asked about a name.
    pub(super) fn through(&self, name: &Name) -> bool {
        self.zones.iter().any(|zone| name.is_in(zone))
    }
}
