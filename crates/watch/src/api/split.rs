//! A stream of JSON cut into objects as it comes in, so that no list is ever held whole.
//!
//! A watch is objects one behind the other, a list is one object with many in its `items`. Only
//! brackets and strings are looked at here; whether what comes out is JSON is for a parser to say.

/// One object of the API server may be so large (etcd holds 1.5 MiB of protobuf).
const OBJECT_MAX: usize = 8 << 20;
/// What stands around the items of a list may be so large.
const AROUND_MAX: usize = 64 << 10;

/// Where the objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One behind the other.
    Stream,
    /// The items of a list.
    List,
}

/// Something is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Cuts bytes as they come.
#[derive(Debug)]
pub(super) struct Splitter {
    shape: Shape,
    depth: u32,
    /// What the second bracket from outside is, in a list.
    in_array: bool,
    /// Inside an object that is wanted.
    taking: bool,
    string: bool,
    escaped: bool,
    object: Vec<u8>,
    around: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(shape: Shape) -> Splitter {
        Splitter {
            shape,
            depth: 0,
            in_array: false,
            taking: false,
            string: false,
            escaped: false,
            object: Vec::new(),
            around: Vec::new(),
        }
    }

    /// Takes in more bytes and hands over each object that is whole.
    pub(super) fn push(&mut self, bytes: &[u8], mut object: impl FnMut(&[u8])) -> Result<(), TooLarge> {
        // From where on this piece has not been put anywhere yet.
        let mut from = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.string {
                at += self.inside_string(bytes.get(at..).unwrap_or_default());
                continue;
            }
            at += 1;
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => {
                    if *byte == b'{' && self.is_start() {
                        self.keep(bytes, from, at - 1)?;
                        from = at - 1;
                        self.taking = true;
                    }
                    self.depth += 1;
                    if self.depth == 2 {
                        self.in_array = *byte == b'[';
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.taking && self.is_outside() {
                        self.keep(bytes, from, at)?;
                        from = at;
                        self.taking = false;
                        object(&self.object);
                        self.object.clear();
                    }
                }
                // What stands between items is dropped: a hundred thousand commas.
                b',' | b' ' | b'\n' if !self.taking && self.is_outside() => {
                    self.keep(bytes, from, at - 1)?;
                    from = at;
                }
                _ => {}
            }
        }
        self.keep(bytes, from, bytes.len())
    }

    /// What stands around the items of a list: `{"metadata":{…},"items":[,,]}` with its items gone,
    /// and the commas between them.
    pub(super) fn around(&self) -> String {
        String::from_utf8_lossy(&self.around).into_owned()
    }

    /// Whether the stream could end here.
    pub(super) fn is_whole(&self) -> bool {
        self.depth == 0 && !self.taking
    }

    fn is_start(&self) -> bool {
        !self.taking && self.is_outside()
    }

    /// Between two objects.
    fn is_outside(&self) -> bool {
        match self.shape {
            Shape::Stream => self.depth == 0,
            Shape::List => self.depth == 2 && self.in_array,
        }
    }

    /// How many of these bytes still belong to the string.
    fn inside_string(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if std::mem::take(&mut self.escaped) {
            at += 1;
        }
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            at += found + 1;
            if bytes.get(at - 1) == Some(&b'"') {
                self.string = false;
                return at;
            }
            // Whatever is behind a backslash is part of the string.
            self.escaped = at >= bytes.len();
            at += 1;
        }
        bytes.len()
    }

    fn keep(&mut self, bytes: &[u8], from: usize, to: usize) -> Result<(), TooLarge> {
        let piece = bytes.get(from..to).unwrap_or_default();
        if self.taking {
            if self.object.len() + piece.len() > OBJECT_MAX {
                return Err(TooLarge);
            }
            self.object.extend_from_slice(piece);
        } else if self.shape == Shape::List {
            self.around.extend_from_slice(piece);
            if self.around.len() > AROUND_MAX {
                return Err(TooLarge);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(shape: Shape, text: &str, piece: usize) -> (Vec<String>, String, bool) {
        let mut splitter = Splitter::new(shape);
        let mut objects = Vec::new();
        for bytes in text.as_bytes().chunks(piece) {
            let take = |object: &[u8]| objects.push(String::from_utf8_lossy(object).into_owned());
            splitter.push(bytes, take).expect("it is small");
        }
        (objects, splitter.around(), splitter.is_whole())
    }

    #[test]
    fn however_it_comes() {
        let list = r#"{"kind":"L","metadata":{"a":["{}"],"resourceVersion":"7"},"items":[{"a":"}\"{","b":[{}]},
            {"c":{}}],"x":[{"y":1}]}"#;
        let stream = "{\"a\":{\"b\":\"]}\\\\\"}}\n{}\n {\"c\":[1]}";
        for piece in 1..list.len() {
            let (objects, around, whole) = split(Shape::List, list, piece);
            assert_eq!(objects, [r#"{"a":"}\"{","b":[{}]}"#, r#"{"c":{}}"#, r#"{"y":1}"#], "{piece}");
            assert_eq!(
                around, r#"{"kind":"L","metadata":{"a":["{}"],"resourceVersion":"7"},"items":[],"x":[]}"#,
                "{piece}"
            );
            assert!(whole);
            let (objects, _, whole) = split(Shape::Stream, stream, piece);
            assert_eq!(objects, ["{\"a\":{\"b\":\"]}\\\\\"}}", "{}", "{\"c\":[1]}"], "{piece}");
            assert!(whole);
        }
        assert!(!split(Shape::List, &list[..80], 9).2);
        assert!(!split(Shape::Stream, &stream[..5], 9).2);
    }

    #[test]
    fn too_large_is_refused() {
        let mut splitter = Splitter::new(Shape::Stream);
        splitter.push(b"{\"a\":\"", |_| {}).expect("the beginning");
        let piece = vec![b'a'; 1 << 20];
        let end = (0..20).find(|_| splitter.push(&piece, |_| {}) == Err(TooLarge));
        assert_eq!(end, Some(7));
    }

    proptest! {
        #[test]
        fn any_bytes_go_in(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for shape in [Shape::Stream, Shape::List] {
                let mut splitter = Splitter::new(shape);
                splitter.push(&bytes, |object| assert!(object.starts_with(b"{"))).expect("small");
            }
        }
    }
}
