//! What it takes to make network namespaces.

use crate::error::Error;

/// Namespaces want root, or a user namespace in which we are it. Says whether we had to enter one.
/// To be called before any thread starts: the kernel refuses it to a process with a second one.
pub(crate) fn become_root() -> Result<bool, Error> {
    let unprivileged = !nix::unistd::geteuid().is_root();
    if unprivileged {
        lab::enter_user_namespace().map_err(Error::Unprivileged)?;
    }
    Ok(unprivileged)
}
