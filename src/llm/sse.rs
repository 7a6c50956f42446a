//! Server-sent events: bytes in, the `data` of each event out. Pure.
//!
//! Of the format (https://html.spec.whatwg.org/multipage/server-sent-events.html) only the
//! data matter here: every provider repeats the event's name inside it. Lines may end in
//! LF, CR or CRLF, also across two reads.

use std::ops::ControlFlow;

use crate::base::error::{Error, Result};

/// Bytes of one event's data, and of one line. The largest real events carry a whole
/// reply or an encrypted reasoning block, some 100 KB.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Takes one event's data; `Break` ends the stream.
pub(crate) type OnData<'a> = dyn FnMut(&str) -> Result<ControlFlow<()>> + 'a;

#[derive(Default)]
pub(crate) struct Parser {
    /// A line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the event so far, each with its LF.
    data: Vec<u8>,
    /// The last byte was a CR that ended a line: an LF right after it belongs to it.
    after_cr: bool,
    started: bool,
    /// Bytes copied into the two buffers: what tests know about cost.
    #[cfg(test)]
    copied: usize,
}

impl Parser {
    /// Calls `on_data` for each event that `bytes` completes, until it breaks.
    ///
    /// # Errors
    /// Those of `on_data`, and `Failed` for an event over `EVENT_BYTES_MAX`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        on_data: &mut OnData<'_>,
    ) -> Result<ControlFlow<()>> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(Error::failed(format!(
                    "the model's server sent an event of more than {EVENT_BYTES_MAX} bytes"
                )));
            }
            self.line.extend_from_slice(piece);
            #[cfg(test)]
            {
                self.copied += piece.len();
            }
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.end_line(on_data)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The body has ended. An event whose last blank line is missing still counts (some
    /// servers close right after their last line), half a line does not.
    pub(crate) fn finish(mut self, on_data: &mut OnData<'_>) -> Result<()> {
        self.line.clear();
        self.end_line(on_data).map(|_| ())
    }

    fn end_line(&mut self, on_data: &mut OnData<'_>) -> Result<ControlFlow<()>> {
        let mut line = self.line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let done = line.is_empty();
        if let Some(rest) = line.strip_prefix(b"data") {
            // `data` alone is an empty line of data, `database: x` another field.
            let value = rest.strip_prefix(b":");
            if let Some(value) = value.or(rest.is_empty().then_some(rest)) {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
                #[cfg(test)]
                {
                    self.copied += value.len();
                }
            }
        }
        self.line.clear();
        if done && !self.data.is_empty() {
            self.data.pop();
            let result = on_data(&String::from_utf8_lossy(&self.data));
            self.data.clear();
            return result;
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mutate::survive;

    /// A body that comes in these chunks.
    pub(in crate::llm) fn feed(chunks: &[&[u8]], on_data: &mut OnData<'_>) -> Result<()> {
        let mut parser = Parser::default();
        for chunk in chunks {
            if parser.feed(chunk, on_data)?.is_break() {
                return Ok(());
            }
        }
        parser.finish(on_data)
    }

    fn parse(chunks: &[&[u8]]) -> (Vec<String>, usize) {
        let mut events = Vec::new();
        let mut on_data = |data: &str| {
            events.push(data.to_owned());
            Ok(ControlFlow::Continue(()))
        };
        let mut parser = Parser::default();
        for chunk in chunks {
            assert!(parser.feed(chunk, &mut on_data).unwrap().is_continue());
        }
        let copied = parser.copied;
        parser.finish(&mut on_data).unwrap();
        (events, copied)
    }

    #[test]
    fn events() {
        for (name, input, want) in [
            ("lf", "data: a\n\ndata: b\n\n", &["a", "b"][..]),
            (
                "crlf",
                "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
                &["a", "b"],
            ),
            ("cr", "data: a\r\rdata: b\r\r", &["a", "b"]),
            (
                "several lines",
                "data: a\ndata:  b\ndata\ndata:\n\n",
                &["a\n b\n\n"],
            ),
            (
                "comments",
                ": OPENROUTER PROCESSING\n\n:\ndata:a\n\n",
                &["a"],
            ),
            (
                "other fields",
                "id: 1\ndatabase: x\nretry\ndata: a\n\n",
                &["a"],
            ),
            ("byte order mark", "\u{feff}data: a\n\n", &["a"]),
            ("no last blank line", "data: a\n", &["a"]),
            ("half a line", "data: a\n\ndata: {\"b", &["a"]),
            ("nothing", "\n\n\n", &[]),
            ("text", "data: é\u{1F600}\n\n", &["é\u{1F600}"]),
        ] {
            assert_eq!(parse(&[input.as_bytes()]).0, want, "{name}");
            let bytes: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
            assert_eq!(parse(&bytes).0, want, "{name}, byte by byte");
        }
        assert_eq!(parse(&[b"data: \xff\n\n"]).0, ["\u{fffd}"]);
    }

    #[test]
    fn each_byte_is_copied_twice_at_most() {
        let event = format!("data: {}\n\n", "x".repeat(1 << 20));
        let chunks: Vec<&[u8]> = event.as_bytes().chunks(20).collect();
        let (events, copied) = parse(&chunks);
        assert_eq!(events[0].len(), 1 << 20);
        assert!(copied <= 2 * event.len(), "{copied}");
    }

    #[test]
    fn an_endless_event_is_refused() {
        for piece in [&[b'x'; 1 << 16][..], &b"data: 0123456789\n".repeat(4096)] {
            let mut parser = Parser::default();
            let mut feed = || parser.feed(piece, &mut |_| Ok(ControlFlow::Continue(())));
            let refused = (0..EVENT_BYTES_MAX / 16384).any(|_| feed().is_err());
            assert!(refused);
            assert!(parser.line.capacity() + parser.data.capacity() <= 4 * EVENT_BYTES_MAX);
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
            "\u{feff}data: a\ndata:  b\ndata\ndata:\n\n: comment\n\n",
            "id: 1\ndatabase: x\nretry\ndata: é\u{1F600}\r\rdata: {\"b",
        ];
        survive(&corpus, |random, input| {
            let (events, copied) = parse(&[input]);
            assert!(copied <= 2 * input.len());
            assert!(events.iter().map(String::len).sum::<usize>() <= 3 * input.len());
            assert_eq!(parse(&random.chunks(input)), (events, copied));
        });
    }
}
