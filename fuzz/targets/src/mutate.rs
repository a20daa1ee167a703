//! Inputs made from seeds: the same seed number and index always give the same input, so that a
//! failure is found again from two numbers.

/// Numbers that only look random (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Longer inputs are cut.
pub const INPUT_SIZE_MAX: usize = 64 << 10;
/// Numbers at which programs err.
const INTERESTING: [u64; 12] = [0, 1, 2, 3, 4, 7, 8, 15, 16, 0x7fff, 0xffff, u64::MAX];
const MUTATIONS_MAX_LOG2: u64 = 5;

impl Random {
    /// A sequence of its own for each pair.
    pub fn new(seed: u64, index: u64) -> Self {
        let mut random = Self(seed ^ index.rotate_left(32));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`; 0 when there is nothing below it.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A part of `0..length`, mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let most = (length - start).min(1 << self.below(10));
        start..start + self.below(most + 1)
    }
}

/// Input number `index`: first the seeds as they are, then mutations of them.
pub fn input(seeds: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    if let Some(seed) = usize::try_from(index).ok().and_then(|index| seeds.get(index)) {
        return seed.clone();
    }
    let mut random = Random::new(seed, index);
    let pick = |random: &mut Random| seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    let mut data = pick(&mut random);
    let mutations = 1 << (random.next() % MUTATIONS_MAX_LOG2);
    for _ in 0..mutations {
        if random.below(8) == 0 {
            let other = pick(&mut random);
            splice(&mut data, &other, &mut random);
        } else {
            mutate(&mut data, &mut random);
        }
    }
    data.truncate(INPUT_SIZE_MAX);
    data
}

/// Puts a part of `other` somewhere.
fn splice(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let part = random.range(other.len());
    let at = random.range(data.len());
    data.splice(at, other.get(part).unwrap_or_default().iter().copied());
}

fn mutate(data: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(data.len());
    match random.below(8) {
        0 => change(data, at, |byte| byte ^ (1 << (at % 8))),
        1 => {
            let byte = random.byte();
            change(data, at, |_| byte);
        }
        2 => data.insert(at.min(data.len()), random.byte()),
        3 => drop(data.drain(random.range(data.len()))),
        4 => {
            let part = random.range(data.len());
            let copy = data.get(part).unwrap_or_default().to_vec();
            data.splice(at..at, copy);
        }
        5 => number(data, at, random),
        // Texts: a digit for a digit, a letter's neighbour.
        6 => {
            let digit = b'0' + random.byte() % 10;
            change(data, at, |byte| if byte.is_ascii_digit() { digit } else { byte.wrapping_add(1) });
        }
        _ => data.truncate(at),
    }
}

fn change(data: &mut [u8], at: usize, with: impl FnOnce(u8) -> u8) {
    if let Some(byte) = data.get_mut(at) {
        *byte = with(*byte);
    }
}

/// Writes an interesting number at an aligned place, in one of the sizes and orders.
fn number(data: &mut [u8], at: usize, random: &mut Random) {
    let length = 1 << random.below(4);
    let start = at - at % length;
    let number = INTERESTING.get(random.below(INTERESTING.len())).copied().unwrap_or_default();
    let mut bytes = number.to_le_bytes();
    if random.below(2) == 0 {
        bytes.reverse();
        bytes.rotate_left(8 - length);
    }
    if let Some(place) = data.get_mut(start..start + length) {
        place.copy_from_slice(bytes.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::input;
    use std::collections::HashSet;

    #[test]
    fn the_same_numbers_give_the_same_input() {
        let seeds = [b"hello, world 42".to_vec(), vec![0; 100]];
        assert_eq!(input(&seeds, 1, 0), seeds[0]);
        assert_eq!(input(&seeds, 7, 1), seeds[1]);
        for index in 2..500 {
            assert_eq!(input(&seeds, 1, index), input(&seeds, 1, index));
        }
        assert!((2..500).any(|index| input(&seeds, 1, index) != input(&seeds, 2, index)));
    }

    #[test]
    fn inputs_differ_and_no_seed_is_too_small() {
        for seeds in [vec![], vec![vec![]], vec![vec![1]], vec![b"some longer seed".to_vec()]] {
            let inputs: HashSet<_> = (1..2000).map(|index| input(&seeds, 1, index)).collect();
            assert!(inputs.len() > 20, "{} different inputs of {seeds:?}", inputs.len());
        }
    }
}
