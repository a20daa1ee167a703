//! One file's bytes into its documents, before anything is parsed, so that a document that cannot
//! be parsed does not take the others with it.
//!
//! YAML allows `---` at the start of a line nowhere but between documents (inside a block it would
//! be indented, inside quotes it is forbidden), and JSON has no such line at all, so the cut needs
//! no parser.

/// One document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'t> {
    /// Its bytes, from the first line that is no comment.
    pub(crate) text: &'t [u8],
    /// Which document of the file, from 1; those without content do not count.
    pub(crate) index: u32,
    /// The line of the file on which it begins, from 1.
    pub(crate) line: u32,
}

/// The documents of a file that have any content.
pub(crate) fn documents(file: &[u8]) -> impl Iterator<Item = Document<'_>> {
    let mut rest = Some(file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file));
    let mut line = 1;
    let pieces = std::iter::from_fn(move || {
        let text = rest?;
        let first_line = line;
        let Some(cut) = next_cut(text) else {
            rest = None;
            return Some((text, first_line));
        };
        line += count_lines(text.get(..cut.next).unwrap_or_default());
        rest = text.get(cut.next..);
        Some((text.get(..cut.end).unwrap_or_default(), first_line))
    });
    let full = pieces.filter_map(|(text, line)| {
        let blank = blank(text)?;
        Some((text.get(blank..)?, line + count_lines(text.get(..blank)?)))
    });
    full.zip(1..).map(|((text, line), index)| Document { text, index, line })
}

/// How many lines end in the text.
pub(crate) fn count_lines(text: &[u8]) -> u32 {
    let count = text.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Where a document ends and where the next begins.
struct Cut {
    end: usize,
    next: usize,
}

/// The first separator in the text.
fn next_cut(text: &[u8]) -> Option<Cut> {
    let mut start = 0;
    loop {
        let line = line_at(text, start)?;
        let next = start + line.len();
        let marked = line.starts_with(b"---") || line.starts_with(b"...");
        let behind = line.get(3..).unwrap_or_default();
        if marked && behind.first().is_none_or(u8::is_ascii_whitespace) {
            let content = behind.trim_ascii();
            if content.is_empty() || content.starts_with(b"#") {
                return Some(Cut { end: start, next });
            }
            // `--- {kind: …}`: the document begins on the line of its separator, which stays with it.
            if start > 0 {
                return Some(Cut { end: start, next: start });
            }
        }
        start = next;
    }
}

/// The line that begins at a place, with its end.
fn line_at(text: &[u8], start: usize) -> Option<&[u8]> {
    let rest = text.get(start..)?;
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => rest.get(..=end),
        None if rest.is_empty() => None,
        None => Some(rest),
    }
}

/// Where the first line begins that is not blank, a comment or a directive, if there is one.
fn blank(text: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let line = line_at(text, start)?;
        let content = line.trim_ascii();
        if !content.is_empty() && !content.starts_with(b"#") && !content.starts_with(b"%") {
            return Some(start);
        }
        start += line.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting() {
        let cases: &[(&str, &[(&str, u32)])] = &[
            ("", &[]),
            ("\n# nothing\n---\n---\n", &[]),
            ("a: 1", &[("a: 1", 1)]),
            ("---\na: 1\n", &[("a: 1\n", 2)]),
            ("a: 1\n---\nb: 2\n", &[("a: 1\n", 1), ("b: 2\n", 3)]),
            ("a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 1), ("b: 2\r\n", 3)]),
            ("a: 1\n--- # why\n\n---\nb: 2", &[("a: 1\n", 1), ("b: 2", 5)]),
            ("%YAML 1.2\n---\na: 1\n...\n---\nb: 2\n...\n", &[("a: 1\n", 3), ("b: 2\n", 6)]),
            ("a: 1\n--- {b: 2}\n--- {c: 3}", &[("a: 1\n", 1), ("--- {b: 2}\n", 2), ("--- {c: 3}", 3)]),
            ("a: |\n  ---\n  x\n----\n", &[("a: |\n  ---\n  x\n----\n", 1)]),
            ("\u{feff}a: 1\n---\n{}", &[("a: 1\n", 1), ("{}", 3)]),
        ];
        for (file, want) in cases {
            let got: Vec<_> = documents(file.as_bytes())
                .map(|document| (std::str::from_utf8(document.text).unwrap(), document.line))
                .collect();
            assert_eq!(got, *want, "{file:?}");
            let indexes: Vec<_> = documents(file.as_bytes()).map(|document| document.index).collect();
            assert_eq!(indexes, (1..).take(want.len()).collect::<Vec<_>>(), "{file:?}");
        }
    }
}
