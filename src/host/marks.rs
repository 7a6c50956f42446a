//! Marks: lines that a script prints for mom among its output. Finds them in the stream and passes
//! on everything else unchanged.
//!
//! A mark is a control character, the call's random word, a blank, one of the words below
//! and a newline. The random word keeps a command from printing one of its own.

/// Starts a mark. A control character that text has no use for, so the search is cheap.
const MARK_START: u8 = 0x1e;
/// What follows the random word: one of the words of `MarkPiece`, and a newline.
const MARK_WORD_MAX: usize = 8;

#[derive(Debug, PartialEq)]
pub(super) enum MarkPiece<'a> {
    /// Output; no mark.
    Bytes(&'a [u8]),
    /// `!`: the script runs. Without it nothing of a call was done.
    Begun,
    /// `?`: the script waits for an answer on its stdin.
    Question,
    /// A number: the script has ended with this exit code.
    Exit(i32),
}

/// Finds marks however the stream is cut into reads.
pub(super) struct MarkScan {
    /// Start byte, random word and blank; empty: there are no marks.
    start: Vec<u8>,
    /// Bytes that may be the beginning of a mark.
    carry: Vec<u8>,
}

impl MarkScan {
    /// `mark` is the random word; `None` for a program without marks.
    pub(super) fn new(mark: Option<&str>) -> MarkScan {
        let mut start = Vec::new();
        if let Some(mark) = mark {
            start.push(MARK_START);
            start.extend_from_slice(mark.as_bytes());
            start.push(b' ');
        }
        MarkScan {
            start,
            carry: Vec::new(),
        }
    }

    pub(super) fn feed(&mut self, chunk: &[u8], emit: &mut dyn FnMut(MarkPiece<'_>)) {
        if self.start.is_empty() {
            return emit(MarkPiece::Bytes(chunk));
        }
        let mut carried = std::mem::take(&mut self.carry);
        let mut rest = chunk;
        if !carried.is_empty() {
            carried.extend_from_slice(chunk);
            rest = &carried;
        }
        // The standard library's search is many times as fast as the loop below.
        if !rest.contains(&MARK_START) {
            return emit(MarkPiece::Bytes(rest));
        }
        // No mark begins before `from`.
        let mut from = 0;
        while let Some(at) = rest[from..].iter().position(|&byte| byte == MARK_START) {
            let at = from + at;
            match self.parse(&rest[at..]) {
                MarkParse::Not => from = at + 1,
                MarkParse::Cut => {
                    emit(MarkPiece::Bytes(&rest[..at]));
                    self.carry = rest[at..].to_vec();
                    return;
                }
                MarkParse::Mark(piece, len) => {
                    emit(MarkPiece::Bytes(&rest[..at]));
                    emit(piece);
                    rest = &rest[at + len..];
                    from = 0;
                }
            }
        }
        emit(MarkPiece::Bytes(rest));
    }

    /// Parses the beginning of `bytes`, which starts with `MARK_START`.
    fn parse(&self, bytes: &[u8]) -> MarkParse {
        let common = bytes.len().min(self.start.len());
        if bytes[..common] != self.start[..common] {
            return MarkParse::Not;
        }
        let word = &bytes[common..];
        let word = &word[..word.len().min(MARK_WORD_MAX)];
        let Some(end) = word.iter().position(|&byte| byte == b'\n') else {
            return if word.len() == MARK_WORD_MAX {
                MarkParse::Not
            } else {
                MarkParse::Cut
            };
        };
        let piece = match &word[..end] {
            b"!" => MarkPiece::Begun,
            b"?" => MarkPiece::Question,
            digits => match std::str::from_utf8(digits).map(str::parse) {
                Ok(Ok(code)) => MarkPiece::Exit(code),
                _ => return MarkParse::Not,
            },
        };
        MarkParse::Mark(piece, common + end + 1)
    }

    pub(super) fn has_marks(&self) -> bool {
        !self.start.is_empty()
    }

    /// Call it at the end of the stream: what looked like the beginning of a mark is output.
    pub(super) fn finish(&mut self, emit: &mut dyn FnMut(&[u8])) {
        emit(&std::mem::take(&mut self.carry));
    }
}

enum MarkParse {
    Not,
    /// It may be a mark when more bytes come.
    Cut,
    /// The mark and its length in bytes.
    Mark(MarkPiece<'static>, usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    /// Marks with the number of output bytes before them, and the output.
    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, usize)>, Vec<u8>) {
        let mut scan = MarkScan::new(Some("nonce"));
        let mut seen = Vec::new();
        let mut bytes = Vec::new();
        for chunk in chunks {
            scan.feed(chunk, &mut |piece| match piece {
                MarkPiece::Bytes(piece) => bytes.extend_from_slice(piece),
                mark => seen.push((format!("{mark:?}"), bytes.len())),
            });
        }
        scan.finish(&mut |piece| bytes.extend_from_slice(piece));
        (seen, bytes)
    }

    #[test]
    fn marks_are_found_however_the_stream_is_cut() {
        let stream =
            b"\x1enonce !\na\x1eb\x1enonce x\n\x1enonce ?\nc\x1e\x1enonce 137\nlate\x1enonc"
                .as_slice();
        let want_bytes = b"a\x1eb\x1enonce x\nc\x1elate\x1enonc".to_vec();
        let want = [("Begun", 0), ("Question", 12), ("Exit(137)", 14)];
        let want = want.map(|(mark, at)| (String::from(mark), at));
        for size in 1..=stream.len() {
            let found = scan(stream.chunks(size));
            assert_eq!(found, (want.to_vec(), want_bytes.clone()), "{size}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "a\x1eb\x1enonce x\n\x1enonce ?\nc\x1e\x1enonce 137\nlate\x1enonc",
            "\x1enonce -1\n\x1enonce 99999999999\n\x1enonce \x1enonce 0\n\n\x1e",
        ];
        survive(&corpus, |random, input| {
            let (marks, bytes) = scan([input]);
            assert!(bytes.len() <= input.len() && marks.iter().all(|(_, at)| *at <= bytes.len()));
            assert_eq!(scan(random.chunks(input)), (marks, bytes));
        });
    }
}
