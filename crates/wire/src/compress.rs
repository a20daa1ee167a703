//! Where names already stand in a message that is being written, so that later ones can point there
//! (RFC 1035 4.1.4).
//!
//! A small table of hashes that may forget, never err: a name that is not found is spelled out. It
//! heeds case, so that each name reads as whoever gave it spelled it.

use crate::name::Labels;

/// Places in the table, a power of two.
const SLOTS: usize = 512;
/// So many places are tried for one hash.
const TRIES: usize = 4;
/// A pointer has fourteen bits.
const POINTER_MAX: usize = 0x3fff;
/// A name of more labels is spelled out and forgotten; those of IPv6 addresses have 34.
const LABELS_MAX: usize = 40;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The message that it belongs to.
    message: u32,
    hash: u32,
    at: u16,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Compressor {
    slots: Box<[Slot]>,
    message: u32,
}

impl Default for Compressor {
    fn default() -> Compressor {
        Compressor { slots: vec![Slot::default(); SLOTS].into(), message: 0 }
    }
}

impl Compressor {
    /// Begins another message.
    pub(crate) fn begin(&mut self) {
        self.message = self.message.wrapping_add(1);
        if self.message == 0 {
            self.slots.fill(Slot::default());
            self.message = 1;
        }
    }

    /// Appends a name, its end as a pointer where one is found. With `whole` it is spelled out, and
    /// only remembered.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, name: &[u8], whole: bool) {
        let mut suffixes = [(0_u32, 0_u8); LABELS_MAX];
        let Some(suffixes) = suffixes_of(name, &mut suffixes) else {
            out.extend_from_slice(name);
            return;
        };
        let start = out.len();
        for &(hash, at) in suffixes.iter() {
            let at = usize::from(at);
            let suffix = name.get(at..).unwrap_or_default();
            let found = self.find(out, hash, suffix);
            match found {
                Some(pointer) if !whole => {
                    out.extend_from_slice(name.get(..at).unwrap_or_default());
                    out.extend_from_slice(&(0xc000 | pointer).to_be_bytes());
                    return;
                }
                Some(_) => break,
                None => self.insert(hash, start + at),
            }
        }
        out.extend_from_slice(name);
    }

    /// Remembers a name that has been written as it is.
    pub(crate) fn remember(&mut self, name: &[u8], start: usize) {
        let mut suffixes = [(0_u32, 0_u8); LABELS_MAX];
        for &mut (hash, at) in suffixes_of(name, &mut suffixes).into_iter().flatten() {
            self.insert(hash, start + usize::from(at));
        }
    }

    fn find(&self, out: &[u8], hash: u32, suffix: &[u8]) -> Option<u16> {
        (0..TRIES).find_map(|step| {
            let slot = self.slots.get(place(hash, step))?;
            let hit = slot.message == self.message && slot.hash == hash;
            (hit && stands_at(out, usize::from(slot.at), suffix)).then_some(slot.at)
        })
    }

    fn insert(&mut self, hash: u32, at: usize) {
        let Ok(at) = u16::try_from(at) else { return };
        if usize::from(at) > POINTER_MAX {
            return;
        }
        for step in 0..TRIES {
            if let Some(slot) = self.slots.get_mut(place(hash, step))
                && slot.message != self.message
            {
                *slot = Slot { message: self.message, hash, at };
                return;
            }
        }
    }
}

/// The hash of each end of a name that begins with a label, and where it begins.
fn suffixes_of<'s>(name: &[u8], into: &'s mut [(u32, u8); LABELS_MAX]) -> Option<&'s mut [(u32, u8)]> {
    let mut count = 0;
    let mut labels = Labels::of(name);
    loop {
        let at = name.len() - labels.rest().len();
        if labels.next().is_none() {
            break;
        }
        into.get_mut(count)?.1 = u8::try_from(at).ok()?;
        count += 1;
    }
    let suffixes = into.get_mut(..count)?;
    // From the right, so that each hash continues the one of what follows it.
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    let mut end = name.len();
    for (suffix, at) in suffixes.iter_mut().rev() {
        let at = usize::from(*at);
        let label = name.get(at..end).unwrap_or_default();
        let (words, rest) = label.as_chunks::<8>();
        let mut last = [0; 8];
        for (into, byte) in last.iter_mut().zip(rest) {
            *into = *byte;
        }
        for word in words.iter().chain([&last]) {
            hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^= hash >> 32;
        }
        end = at;
        *suffix = hash as u32;
    }
    Some(suffixes)
}

fn place(hash: u32, step: usize) -> usize {
    ((hash ^ hash >> 15) as usize).wrapping_add(step) & (SLOTS - 1)
}

/// Whether the name at `at` of what has been written is this one, to the byte.
fn stands_at(out: &[u8], mut at: usize, mut name: &[u8]) -> bool {
    loop {
        let Some(&first) = out.get(at) else { return false };
        if first & 0xc0 == 0xc0 {
            let Some(&second) = out.get(at + 1) else { return false };
            let to = usize::from(first & 0x3f) << 8 | usize::from(second);
            if to >= at {
                return false;
            }
            at = to;
            continue;
        }
        let size = 1 + usize::from(first);
        match (out.get(at..at + size), name.get(..size)) {
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
        if first == 0 {
            return true;
        }
        at += size;
        name = name.get(size..).unwrap_or_default();
    }
}
