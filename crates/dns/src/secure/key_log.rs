//! The secrets of connections in a file, with which other programs can read what they carried
//! (`keylog`): the text form of NSS, as Wireshark wants it.

use rustls::KeyLog;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The file.
#[derive(Debug)]
pub(super) struct KeyLogFile(File);

impl KeyLogFile {
    pub(super) fn open(path: &Path) -> io::Result<KeyLogFile> {
        // Nobody else is to read it.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(KeyLogFile)
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = label.to_owned();
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                // Writing to a String does not fail.
                let _ = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        // One call, so that lines of several threads stay whole. There is nobody to tell if it fails.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}
