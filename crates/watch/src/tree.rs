//! Which files below a path are manifests, in which order, and what is in one.

use crate::Error;
use nix::libc::O_NONBLOCK;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How deep below the given directory manifests are looked for.
pub(crate) const DEPTH_MAX: usize = 16;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A buffer that has grown past this is given back after the file.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// Whether a file of this name is a manifest. Hidden files and what editors and kubelets leave
/// beside (`.web.yaml.swp`, `web.yaml~`, `..data`) are not.
pub(crate) fn is_manifest(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let ending = [&b".yaml"[..], b".yml", b".json"];
    !is_hidden(name) && ending.iter().any(|ending| name.ends_with(ending))
}

/// Whether a directory of this name is looked into.
pub(crate) fn is_searched(name: &OsStr) -> bool {
    !is_hidden(name.as_bytes())
}

fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
}

/// What a walk comes across.
pub(crate) enum Entry {
    /// A directory, before what is in it.
    Directory,
    /// A file that should be a manifest.
    File,
    /// A directory that cannot be read.
    Unreadable(io::Error),
    /// A directory too deep to look into.
    TooDeep,
}

/// Walks a directory, everything in it in the order of the names.
pub(crate) fn walk(directory: &Path, depth: usize, visit: &mut dyn FnMut(&Path, Entry)) {
    if depth > DEPTH_MAX {
        visit(directory, Entry::TooDeep);
        return;
    }
    visit(directory, Entry::Directory);
    let mut names = match list(directory) {
        Ok(names) => names,
        Err(error) => {
            visit(directory, Entry::Unreadable(error));
            return;
        }
    };
    names.sort_unstable();
    for (name, is_directory) in names {
        let path = directory.join(name);
        if is_directory {
            walk(&path, depth + 1, visit);
        } else {
            visit(&path, Entry::File);
        }
    }
}

/// The names in a directory that matter, and which of them are directories. A symbolic link to a
/// file counts as the file; one to a directory is not followed, so there are no circles.
fn list(directory: &Path) -> io::Result<Vec<(std::ffi::OsString, bool)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_directory = entry.file_type()?.is_dir();
        if if is_directory { is_searched(&name) } else { is_manifest(&name) } {
            names.push((name, is_directory));
        }
    }
    Ok(names)
}

/// Where a load begins: a directory to walk or a single file.
pub(crate) enum Root {
    /// A directory.
    Directory(PathBuf),
    /// A file, whatever its name.
    File(PathBuf),
}

impl Root {
    pub(crate) fn of(path: &Path) -> Result<Root, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        if fs::metadata(path).map_err(open)?.is_dir() {
            // Whether it can be read is better said now than found empty later.
            fs::read_dir(path).map_err(open)?;
            Ok(Root::Directory(path.to_owned()))
        } else {
            File::open(path).map_err(open)?;
            Ok(Root::File(path.to_owned()))
        }
    }
}

/// Reads files, one after the other, into one buffer.
#[derive(Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// Opens a file and hands over its contents together with the open file and what it looked like
    /// before it was read.
    pub(crate) fn read<T>(
        &mut self,
        path: &Path,
        take: impl FnOnce(&[u8], &File, &Metadata) -> T,
    ) -> io::Result<T> {
        // A FIFO that is called web.yaml must not hold us up.
        let mut file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() > FILE_BYTES_MAX {
            let what = format!("{} bytes are more than {FILE_BYTES_MAX}", metadata.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        self.0.clear();
        // It may grow while it is read.
        file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut self.0)?;
        let taken = take(&self.0, &file, &metadata);
        if self.0.capacity() > BUFFER_KEPT_MAX {
            self.0 = Vec::new();
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_by_name() {
        for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml"] {
            assert!(is_manifest(OsStr::new(name)), "{name}");
        }
        for name in
            [".a.yaml", "..data", "a.yaml~", "a.yaml.swp", "a.yaml.tmp", "a.txt", "yaml", ".yaml", "a.YAML"]
        {
            assert!(!is_manifest(OsStr::new(name)), "{name}");
        }
    }
}
