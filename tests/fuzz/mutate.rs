//! Changes seeds at random: a mutator of the kind that fuzzers use, without their coverage.

/// Draws inputs from seeds.
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
}

/// Pieces that parsers have opinions about.
const WORDS: [&[u8]; 28] = [
    b"\xff",
    b"\0",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"18446744073709551616",
    b"0.1e-400",
    b"NaN",
    b"\n",
    b"=",
    b"'''",
    b"\"\"\"",
    b"[[",
    b"#",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    "\u{202e}".as_bytes(),
    b"1979-05-27T07:32:00Z",
];

/// The longest input that mutations grow to.
const LONGEST: usize = 8 << 10;

impl Mutator {
    pub(crate) fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        let seeds = if seeds.is_empty() { vec![b"{}".to_vec()] } else { seeds };
        Self { state: seed, seeds }
    }

    /// The next number of a `SplitMix64` series.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 where that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.draw() % bound).unwrap()
    }

    /// A seed with one to eight changes.
    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        let which = self.below(self.seeds.len());
        let mut input = self.seeds[which].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(input.len() - at + 1).min(64);
        match self.below(8) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            2 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            3 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..end, word.iter().copied());
            }
            4 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            5 => {
                let byte = u8::try_from(self.below(256)).unwrap();
                if let Some(place) = input.get_mut(at) {
                    *place = byte;
                }
            }
            6 => {
                // A piece of another seed.
                let other = self.below(self.seeds.len());
                let length = self.seeds[other].len();
                let from = self.below(length + 1);
                let to = from + self.below(length - from + 1);
                let piece = self.seeds[other][from..to].to_vec();
                input.splice(at..end, piece);
            }
            _ => {
                // Many of one: depth and length.
                let Some(byte) = input.get(at).copied() else { return };
                let many = 1 + self.below(200);
                input.splice(at..at, std::iter::repeat_n(byte, many));
            }
        }
    }
}
