//! Server-sent events: reads a body as its events, one after the other.
//!
//! Format: https://html.spec.whatwg.org/multipage/server-sent-events.html; lines end in LF or
//! CRLF, a single CR does not end a line. A body that is one JSON value instead of events is
//! returned as a whole.

use std::io::{self, BufRead as _, BufReader, Read};

/// Bytes of one line, of one event's data, and of a body that is JSON as a whole. The largest
/// real ones carry a whole reply, some 100 KB.
const EVENT_BYTES_MAX: usize = 4 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamPart {
    Event {
        /// Empty where the stream gives no name.
        name: String,
        data: String,
    },
    /// The body, when it is one JSON value.
    Whole(String),
}

pub(super) struct SseReader<R> {
    body: BufReader<R>,
    has_begun: bool,
}

impl<R: Read> SseReader<R> {
    pub(super) fn new(body: R) -> SseReader<R> {
        SseReader {
            body: BufReader::new(body),
            has_begun: false,
        }
    }

    /// The next part; `None` at the end. An event whose last blank line is missing still counts
    /// (some servers close right after their last line), half a line does not.
    pub(super) fn next(&mut self) -> io::Result<Option<StreamPart>> {
        if !self.has_begun {
            self.has_begun = true;
            if self.is_json()? {
                return self.whole().map(Some);
            }
        }
        let (mut name, mut data) = (String::new(), String::new());
        while let Some(line) = self.line()? {
            if line.is_empty() && !data.is_empty() {
                break;
            }
            // `data` alone is an empty line of data, `database: x` another field.
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data += &format!("{value}\n"),
                "event" => name = value.to_owned(),
                // An event without data is ignored.
                "" if line.is_empty() => name.clear(),
                _ => {}
            }
            if data.len() > EVENT_BYTES_MAX {
                return Err(too_large());
            }
        }
        // The last line break is not part of the data.
        Ok(data.pop().map(|_| StreamPart::Event { name, data }))
    }

    /// Whether the body begins with a bracket, which no event stream does. A byte order mark and
    /// blanks may come before it.
    fn is_json(&mut self) -> io::Result<bool> {
        loop {
            match self.body.fill_buf()?.first() {
                Some(byte) if byte.is_ascii_whitespace() || BOM.contains(byte) => {}
                first => return Ok(matches!(first, Some(b'{' | b'['))),
            }
            self.body.consume(1);
        }
    }

    fn whole(&mut self) -> io::Result<StreamPart> {
        let mut bytes = Vec::new();
        self.limited().read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(StreamPart::Whole(text.trim().to_owned()))
    }

    /// The next line without its end.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        self.limited().read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(whole) => {
                let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
                Ok(Some(String::from_utf8_lossy(whole).into_owned()))
            }
            None if line.len() == EVENT_BYTES_MAX => Err(too_large()),
            None => Ok(None),
        }
    }

    fn limited(&mut self) -> io::Take<&mut BufReader<R>> {
        self.body.by_ref().take(EVENT_BYTES_MAX as u64)
    }
}

fn too_large() -> io::Error {
    io::Error::other(format!("an event of more than {EVENT_BYTES_MAX} bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mutate::survive;

    /// A body that comes in these chunks, none of them empty.
    pub(in crate::llm) struct Chunks<'a>(pub(in crate::llm) Vec<&'a [u8]>);

    impl Read for Chunks<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Some(first) = self.0.first_mut() else {
                return Ok(0);
            };
            let count = first.read(buf)?;
            if first.is_empty() {
                self.0.remove(0);
            }
            Ok(count)
        }
    }

    fn parse(chunks: Vec<&[u8]>) -> Vec<String> {
        let mut body = SseReader::new(Chunks(chunks));
        let next = || {
            Some(match body.next().unwrap()? {
                StreamPart::Event { name, data } if name.is_empty() => data,
                StreamPart::Event { name, data } => format!("{name}: {data}"),
                StreamPart::Whole(body) => format!("whole {body}"),
            })
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn events() {
        for (name, input, want) in [
            ("lf", "data: a\n\ndata: b\n\n", &["a", "b"][..]),
            ("crlf", "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", &["x: a", "b"]),
            ("json", "\u{feff} \n{\n\n}\n", &["whole {\n\n}"]),
            ("several lines", "data: a\ndata:  b\ndata\ndata:\n\n", &["a\n b\n\n"]),
            ("comments", ": OPENROUTER PROCESSING\n\n:\ndata:a\n\n", &["a"]),
            ("other fields", "id: 1\ndatabase: x\nretry\ndata: a\n\n", &["a"]),
            ("a name without data", "event: x\n\ndata: a\n\n", &["a"]),
            ("byte order mark", "\u{feff}data: a\n\n", &["a"]),
            ("no last blank line", "data: a\n", &["a"]),
            ("half a line", "data: a\n\ndata: {\"b", &["a"]),
            ("nothing", "\n\n\n", &[]),
            ("text", "data: é\u{1F600}\n\n", &["é\u{1F600}"]),
        ] {
            let input = input.as_bytes();
            assert_eq!(parse(vec![input]), want, "{name}");
            assert_eq!(parse(input.chunks(1).collect()), want, "{name}, byte by byte");
        }
        assert_eq!(parse(vec![b"data: \xff\n\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        for piece in [&[b'x'; 1 << 16][..], &b"data: 0123456789\n".repeat(4096)] {
            let chunks = vec![piece; EVENT_BYTES_MAX / 16384];
            assert!(SseReader::new(Chunks(chunks)).next().is_err());
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
            "\u{feff}data: a\ndata:  b\ndata\ndata:\n\n: comment\n\n",
            "id: 1\ndatabase: x\nretry\ndata: é\u{1F600}\n\ndata: {\"b",
        ];
        survive(&corpus, |random, input| {
            let events = parse(
                vec![input]
                    .into_iter()
                    .filter(|all| !all.is_empty())
                    .collect(),
            );
            let bytes: usize = events.iter().map(String::len).sum();
            assert!(bytes <= 3 * input.len() + "whole ".len());
            assert_eq!(parse(random.chunks(input)), events);
        });
    }
}
