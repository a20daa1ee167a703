//! A file tree in memory and its form as a cpio archive (`newc`), which the kernel unpacks as its
//! first root file system (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A tree of files, keyed by absolute path. Parents are made as needed.
#[derive(Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

enum Node {
    Directory,
    File { executable: bool, bytes: Vec<u8> },
    Symlink { to: PathBuf },
    CharDevice { major: u32, minor: u32 },
}

const MODE_DIRECTORY: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_644;
const MODE_EXECUTABLE: u32 = 0o100_755;
const MODE_SYMLINK: u32 = 0o120_777;
const MODE_CHAR_DEVICE: u32 = 0o020_600;
const TRAILER: &str = "TRAILER!!!";

impl Tree {
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) {
        let path = self.resolve(path.as_ref());
        self.parents(&path);
        self.nodes.entry(path).or_insert(Node::Directory);
    }

    pub(crate) fn file(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        self.insert(path.as_ref(), Node::File { executable: false, bytes: bytes.into() });
    }

    pub(crate) fn executable(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        self.insert(path.as_ref(), Node::File { executable: true, bytes: bytes.into() });
    }

    pub(crate) fn symlink(&mut self, path: impl AsRef<Path>, to: impl Into<PathBuf>) {
        self.insert(path.as_ref(), Node::Symlink { to: to.into() });
    }

    pub(crate) fn char_device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) {
        self.insert(path.as_ref(), Node::CharDevice { major, minor });
    }

    /// Is there something at `path`? Directories on the way may be symlinks.
    pub(crate) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.nodes.contains_key(&self.resolve(path.as_ref()))
    }

    fn insert(&mut self, path: &Path, node: Node) {
        let path = self.resolve(path);
        self.parents(&path);
        self.nodes.insert(path, node);
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.nodes.entry(parent.to_owned()).or_insert(Node::Directory);
        }
    }

    /// Where `path` leads when directories on its way are symlinks of this tree (`/bin` →
    /// `/usr/bin`): the kernel would not unpack a file below a symlink that dangles at that point.
    fn resolve(&self, path: &Path) -> PathBuf {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return path.to_owned() };
        let parent = self.resolve(parent);
        match self.nodes.get(&parent) {
            Some(Node::Symlink { to }) => {
                self.resolve(&parent.parent().unwrap_or(&parent).join(to).join(name))
            }
            _ => parent.join(name),
        }
    }

    /// Writes the archive. Sorted by path, so a directory precedes what is in it.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, node)) in (1u32..).zip(&self.nodes) {
            let link;
            let (mode, device, bytes): (u32, (u32, u32), &[u8]) = match node {
                Node::Directory => (MODE_DIRECTORY, (0, 0), &[]),
                Node::File { executable: true, bytes } => (MODE_EXECUTABLE, (0, 0), bytes),
                Node::File { executable: false, bytes } => (MODE_FILE, (0, 0), bytes),
                Node::CharDevice { major, minor } => (MODE_CHAR_DEVICE, (*major, *minor), &[]),
                Node::Symlink { to } => {
                    link = to.as_os_str().as_encoded_bytes();
                    (MODE_SYMLINK, (0, 0), link)
                }
            };
            let name = path.as_os_str().as_encoded_bytes();
            write_entry(out, inode, name.strip_prefix(b"/").unwrap_or(name), mode, device, bytes)?;
        }
        write_entry(out, 0, TRAILER.as_bytes(), 0, (0, 0), &[])
    }
}

fn write_entry(
    out: &mut impl Write,
    inode: u32,
    name: &[u8],
    mode: u32,
    device: (u32, u32),
    bytes: &[u8],
) -> io::Result<()> {
    let too_big = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a cpio entry holds less than 4 GiB");
    let size = u32::try_from(bytes.len()).map_err(too_big)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
    // inode, mode, uid, gid, links, mtime, size, device ×2, own device ×2, name size, checksum
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08X}"));
    }
    out.write_all(header.as_bytes())?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    out.write_all(padding(header.len() + name.len() + 1))?;
    out.write_all(bytes)?;
    out.write_all(padding(bytes.len()))
}

/// Zeros up to the next multiple of four.
fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..(4 - length % 4) % 4]
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn an_archive_is_the_bytes_of_the_format() {
        let mut tree = Tree::default();
        tree.executable("/a/b", "xyz");
        let mut archive = Vec::new();
        tree.write(&mut archive).expect("writes to memory do not fail");
        let zero = "00000000";
        let one = "00000001";
        let directory = format!(
            "070701{one}000041ED{zero}{zero}{one}{zero}{zero}{zero}{zero}{zero}{zero}00000002{zero}a\0"
        );
        let file = format!(
            "07070100000002000081ED{zero}{zero}{one}{zero}00000003{zero}{zero}{zero}{zero}00000004{zero}a/b\0\0\0xyz\0"
        );
        let trailer = format!(
            "070701{zero}{zero}{zero}{zero}{one}{zero}{zero}{zero}{zero}{zero}{zero}0000000B{zero}TRAILER!!!\0\0\0\0"
        );
        assert_eq!(String::from_utf8(archive).expect("text"), format!("{directory}{file}{trailer}"));
    }

    #[test]
    fn files_below_a_symlink_go_where_it_leads() {
        let mut tree = Tree::default();
        tree.symlink("/bin", "usr/bin");
        tree.file("/bin/tool", "");
        assert!(tree.has("/usr/bin/tool"));
        assert!(tree.has("/bin/tool"));
        assert!(!tree.has("/usr/bin/other"));
    }
}
