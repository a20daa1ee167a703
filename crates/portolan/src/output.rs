//! Messages to whoever started us, and the exit codes.

use std::error::Error;
use std::fmt::Display;

/// The exit code when it could not be done: rights, the kernel, files. (Arguments that make no sense
/// are 2, which `clap` sees to; 1 is an answer that is no.)
pub(crate) const CANNOT: u8 = 3;

/// The exit code when the answer is no.
pub(crate) const NO: u8 = 1;

/// Says why it could not be done, with all causes.
pub(crate) fn error(error: &dyn Error) {
    eprintln!("portolan: {}", chain(error));
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Says what is odd but does not stop us.
pub(crate) fn warning(what: impl Display) {
    eprintln!("portolan: warning: {what}");
}

/// Says what is worth knowing.
pub(crate) fn notice(what: impl Display) {
    eprintln!("portolan: notice: {what}");
}

/// Ends with the code for arguments that make no sense.
pub(crate) fn usage(what: impl Display) -> ! {
    use clap::CommandFactory;
    crate::Arguments::command().error(clap::error::ErrorKind::ValueValidation, what).exit()
}
