//! Just enough of ELF64 to answer two questions without running a foreign program: which shared
//! libraries does this executable want, and what does this kernel module say about itself.
//!
//! Reads sections only, little-endian x86-64 only. Damaged files give `None`, never a panic.

/// A file that begins as a little-endian ELF64 file does.
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

const MAGIC_ELF64_LE: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const SECTION_TABLE_OFFSET: usize = 0x28;
const SECTION_ENTRY_SIZE: usize = 0x3a;
const SECTION_COUNT: usize = 0x3c;
const SECTION_NAMES_INDEX: usize = 0x3e;
const DT_NEEDED: u64 = 1;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

impl<'a> Elf<'a> {
    /// `None` when the bytes are no ELF64 file (a script, say).
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        bytes.starts_with(&MAGIC_ELF64_LE).then_some(Self { bytes })
    }

    /// The contents of the section called `name`.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names = self.section_at(usize::from(self.u16(SECTION_NAMES_INDEX)?))?;
        (0..usize::from(self.u16(SECTION_COUNT)?)).find_map(|index| {
            let header = self.section_header(index)?;
            let at = usize::try_from(self.u32(header)?).ok()?;
            (text_at(names, at)? == name).then(|| self.section_at(index)).flatten()
        })
    }

    /// The loader that the kernel starts for this executable.
    pub(crate) fn interpreter(&self) -> Option<&'a str> {
        text_at(self.section(".interp")?, 0)
    }

    /// Names of the shared libraries that this file asks for.
    pub(crate) fn needed(&self) -> Vec<&'a str> {
        self.dynamic_texts(&[DT_NEEDED])
    }

    /// Directories that this file wants searched before the usual ones.
    pub(crate) fn run_path(&self) -> Vec<&'a str> {
        self.dynamic_texts(&[DT_RPATH, DT_RUNPATH]).into_iter().flat_map(|path| path.split(':')).collect()
    }

    /// Values of `key=` in a kernel module's `.modinfo`.
    pub(crate) fn module_info(&self, key: &str) -> Vec<&'a str> {
        let info = self.section(".modinfo").unwrap_or_default();
        info.split(|byte| *byte == 0)
            .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(key)?.strip_prefix('='))
            .collect()
    }

    fn dynamic_texts(&self, tags: &[u64]) -> Vec<&'a str> {
        let (Some(dynamic), Some(texts)) = (self.section(".dynamic"), self.section(".dynstr")) else {
            return Vec::new();
        };
        dynamic
            .as_chunks::<16>()
            .0
            .iter()
            .filter_map(|entry| {
                let (tag, value) = (le64(entry, 0)?, le64(entry, 8)?);
                if tags.contains(&tag) { text_at(texts, usize::try_from(value).ok()?) } else { None }
            })
            .collect()
    }

    fn section_at(&self, index: usize) -> Option<&'a [u8]> {
        let header = self.section_header(index)?;
        let start = usize::try_from(le64(self.bytes, header + 0x18)?).ok()?;
        let length = usize::try_from(le64(self.bytes, header + 0x20)?).ok()?;
        self.bytes.get(start..start.checked_add(length)?)
    }

    fn section_header(&self, index: usize) -> Option<usize> {
        let table = usize::try_from(le64(self.bytes, SECTION_TABLE_OFFSET)?).ok()?;
        table.checked_add(index * usize::from(self.u16(SECTION_ENTRY_SIZE)?))
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The NUL-terminated text at `at`.
fn text_at(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::Elf;

    #[test]
    fn reads_the_libraries_of_this_test_itself() {
        let bytes = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
        let elf = Elf::parse(&bytes).expect("an ELF file");
        assert!(elf.needed().contains(&"libc.so.6"), "needed: {:?}", elf.needed());
        assert!(elf.interpreter().expect("an interpreter").contains("ld-linux"));
    }

    #[test]
    fn damaged_files_give_nothing() {
        assert!(Elf::parse(b"#!/bin/sh\n").is_none());
        let bytes = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
        for length in [6, 40, 63, 64, 100, 4096] {
            let elf = Elf::parse(&bytes[..length]).expect("the magic is whole");
            assert!(elf.needed().is_empty());
            assert!(elf.interpreter().is_none());
        }
    }
}
