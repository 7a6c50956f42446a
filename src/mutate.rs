//! Hostile input for the tests of parsers: mutations of what each of them reads, the same in
//! every run. An input is made from its number alone, so that a failure can be replayed.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Inputs for each parser; `MOM_FUZZ=10` makes ten times as many.
const INPUTS: u64 = 100_000;
/// Size limit of an input before its last mutation.
const BYTES_MAX: usize = 4_000;

#[rustfmt::skip]
const PIECES: &[&[u8]] = &[
    b"\"", b"'", b"\\", b"{", b"}", b"[", b"]", b"(", b")", b"<", b">", b",", b":", b";", b"|",
    b"`", b"```", b"*", b"_", b"~", b"#", b"-", b"---", b"/", b"..", b"&", b"%", b"!", b"$(", b"@",
    b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b"\0", b"\x1b[", b"\x07", b"\x7f", b"data: ",
    b"<!channel>", b"<!here|x>", b"<@U1>", b"<#C1|", b"<https://", b"@everyone", b"&lt;", b"&amp;",
    b"0", b"-1", b"1e999", b"1e308", b"0.1", b"255", b"65536", b"4294967296", b"2147483648",
    b"9007199254740993", b"9223372036854775807", b"-9223372036854775808", b"18446744073709551615",
    b"18446744073709551616", b"NaN", b"null", b"true", b"false", b"{}", b"[]", b"\"\"", b"\\u",
    b"\\u0000", b"\\ud800", b"\\udc00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    "\u{feff}".as_bytes(), "\u{200b}".as_bytes(), "\u{202e}".as_bytes(), "\u{a0}".as_bytes(),
    "\u{2028}".as_bytes(), "\u{85}".as_bytes(), "\u{301}".as_bytes(), "\u{10ffff}".as_bytes(),
    "é".as_bytes(), "İ".as_bytes(), "ß".as_bytes(), "👍🏽".as_bytes(), "日本".as_bytes(),
];

/// Marsaglia's xorshift64.
pub(crate) struct Random(u64);

impl Random {
    /// 0 for an empty range.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % end.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// A piece of `bytes`, mostly a short one.
    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let most = if self.below(4) > 0 { 12 } else { bytes.len() };
        start..(start + self.below(most + 1)).min(bytes.len())
    }

    /// The same bytes in pieces of 1 to 60.
    pub(crate) fn chunks<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(1 + self.below(bytes.len().min(60)));
            out.push(head);
            bytes = tail;
        }
        out
    }

    pub(crate) fn mutate(&mut self, corpus: &[&[u8]]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).to_vec();
        for _ in 0..=self.below(5) {
            bytes.truncate(BYTES_MAX);
            let range = self.piece(&bytes);
            let old = &bytes[range.clone()];
            let new = match self.below(16) {
                0..=4 => self.pick(PIECES).to_vec(),
                5..=7 => {
                    let other = self.pick(corpus);
                    other[self.piece(other)].to_vec()
                }
                8 | 9 => old.repeat(2),
                10 => old.repeat(1 << self.below(8)),
                // Deep nesting, long runs.
                11 if self.below(8) == 0 => self.pick(PIECES).repeat(1 << self.below(11)),
                12 => old.iter().map(|byte| byte ^ (1 << self.below(8))).collect(),
                13 => {
                    bytes.truncate(range.start);
                    continue;
                }
                _ => Vec::new(),
            };
            // The new bytes replace something, or are inserted before it.
            let end = if self.below(2) == 0 {
                range.start
            } else {
                range.end
            };
            bytes.splice(range.start..end, new);
        }
        bytes
    }
}

/// Runs `test` on mutations of the corpus. A panic in it becomes one that names the input.
pub(crate) fn survive(corpus: &[&str], test: impl Fn(&mut Random, &[u8])) {
    survive_some(INPUTS, corpus, test);
}

/// Like `survive`, for a test that takes long: on `inputs` mutations.
pub(crate) fn survive_some(inputs: u64, corpus: &[&str], test: impl Fn(&mut Random, &[u8])) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let corpus: Vec<&[u8]> = corpus.iter().map(|text| text.as_bytes()).collect();
    if let Ok(what) = std::env::var("MOM_FUZZER") {
        return serve_fuzzer(&what, &corpus, test);
    }
    let numbers = match number("MOM_FUZZ_INPUT") {
        Some(input) => input..input + 1,
        None => 0..inputs * number("MOM_FUZZ").unwrap_or(1),
    };
    for number in numbers {
        let mut random = Random((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = random.mutate(&corpus);
        let passed = catch_unwind(AssertUnwindSafe(|| test(&mut random, &input)));
        assert!(
            passed.is_ok(),
            "input {number} (MOM_FUZZ_INPUT={number} runs it alone): {:.2000}",
            input.escape_ascii().to_string()
        );
    }
}

/// For a fuzzer that sees which code an input reaches (tests/fuzz.sh): `-` tests the one input
/// that comes on stdin, a directory gets the corpus to begin with.
fn serve_fuzzer(what: &str, corpus: &[&[u8]], test: impl Fn(&mut Random, &[u8])) {
    if what == "-" {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input).expect("an input");
        return test(&mut Random(1), &input);
    }
    for bytes in corpus {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let path = format!("{what}/{:016x}", hasher.finish());
        fs::write(path, bytes).expect("write an input");
    }
}
