//! Bounds what a command prints: the last bytes in memory, the first ones in a file.

use std::fs::File;
use std::io::Write as _;

use crate::base::error::{Error, Result};

/// Bytes of a long output that go to the spill file at most.
pub(crate) const SPILL_BYTES_MAX: u64 = 10 << 20;

/// Creates the file for an output that is too long: returns it and its path as the agent sees it.
pub(crate) type Spill<'a> = &'a (dyn Fn() -> Result<(File, String)> + Sync);

/// The tail of what was printed (since the last question), and counts of all of it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) tail: Vec<u8>,
    pub(crate) total_bytes: u64,
    pub(crate) newlines: u64,
    /// Number of bytes after the last newline.
    pub(crate) last_line_bytes: u64,
    pub(crate) spilled: Spilled,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) enum Spilled {
    #[default]
    No,
    /// `whole`: nothing was left out.
    To {
        path: String,
        whole: bool,
    },
    Failed(Error),
}

impl Output {
    /// Writes the tail, which must be the whole output so far, to a new spill file.
    pub(crate) fn spill(&mut self, make: Spill<'_>) -> Option<File> {
        let made = make().and_then(|(mut file, path)| match file.write_all(&self.tail) {
            Ok(()) => Ok((file, path)),
            Err(err) => Err(Error::io("write", path, &err)),
        });
        match made {
            Ok((file, path)) => {
                self.spilled = Spilled::To { path, whole: true };
                Some(file)
            }
            Err(err) => {
                self.spilled = Spilled::Failed(err);
                None
            }
        }
    }
}

pub(super) struct Sink<'a> {
    pub(super) out: Output,
    /// At least this many of the last bytes are stored, at most twice as many.
    keep_bytes: usize,
    spill: Option<Spill<'a>>,
    file: Option<File>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(keep_bytes: usize, spill: Option<Spill<'a>>) -> Sink<'a> {
        Sink {
            out: Output::default(),
            keep_bytes,
            spill,
            file: None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let out = &mut self.out;
        let before = out.total_bytes;
        out.total_bytes += bytes.len() as u64;
        out.newlines += newlines(bytes);
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(at) => out.last_line_bytes = (bytes.len() - at - 1) as u64,
            None => out.last_line_bytes += bytes.len() as u64,
        }
        if let (Spilled::No, Some(spill)) = (&out.spilled, self.spill) {
            if out.total_bytes > self.keep_bytes as u64 {
                // Until now the tail is the whole output.
                self.file = out.spill(spill);
            }
        }
        if let Some(file) = &mut self.file {
            let room = SPILL_BYTES_MAX.saturating_sub(before);
            let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let written = file.write_all(&bytes[..fits]);
            if let Spilled::To { path, whole } = &mut out.spilled {
                *whole &= fits == bytes.len();
                if let Err(err) = written {
                    out.spilled = Spilled::Failed(Error::io("write", path, &err));
                    self.file = None;
                }
            }
        }
        out.tail.extend_from_slice(bytes);
        if out.tail.len() > 2 * self.keep_bytes {
            out.tail.drain(..out.tail.len() - self.keep_bytes);
        }
    }
}

/// Counts newlines eight bytes at a time: the program is built for size, and a plain loop would
/// then take longer than the pipe.
fn newlines(bytes: &[u8]) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    let mut words = bytes.chunks_exact(8);
    let mut count = 0;
    for word in &mut words {
        // A byte that is a newline is zero now, and only then its top bit ends up set.
        let word = <[u8; 8]>::try_from(word).map_or(0, u64::from_ne_bytes);
        let word = word ^ u64::from_ne_bytes([b'\n'; 8]);
        count += u64::from((!(((word & LOW) + LOW) | word | LOW)).count_ones());
    }
    let rest = words.remainder().iter().filter(|&&byte| byte == b'\n');
    count + rest.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn newlines_are_counted() {
        let all: Vec<u8> = (0..=255)
            .chain([b'\n'; 11])
            .chain(*b"\x0b\x8a\n\0")
            .collect();
        for start in 0..all.len() {
            for end in start..all.len() {
                let plain = all[start..end].iter().filter(|&&byte| byte == b'\n');
                let plain = plain.count() as u64;
                assert_eq!(newlines(&all[start..end]), plain, "{start}..{end}");
            }
        }
    }

    #[test]
    fn survives_mutation() {
        survive(&["a\nb\n", "x\n\n\ny"], |random, input| {
            let keep_bytes = 1 + random.below(40);
            let mut sink = Sink::new(keep_bytes, None);
            for chunk in random.chunks(input) {
                sink.push(chunk);
            }
            let out = sink.out;
            assert!(input.ends_with(&out.tail) && out.tail.len() <= 2 * keep_bytes);
            assert!(out.tail.len() >= keep_bytes.min(input.len()));
            assert_eq!(out.total_bytes, input.len() as u64);
            let last = input.rsplit(|byte| *byte == b'\n').next();
            assert_eq!(out.last_line_bytes, last.unwrap_or_default().len() as u64);
        });
    }
}
