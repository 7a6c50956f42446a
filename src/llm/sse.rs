//! Server-sent events: bytes in, the name and the data of each event out. Pure.
//!
//! Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Lines may end in
//! LF, CR or CRLF, also across two reads. A body that is one JSON value instead of events is
//! given out as a whole.

use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::base::error::{Error, Result};

/// Bytes of one event's data, of one line, and of a body that is JSON as a whole. The
/// largest real ones carry a whole reply, some 100 KB.
const EVENT_BYTES_MAX: usize = 4 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamPart<'a> {
    Event {
        /// Empty where the stream names none.
        name: &'a str,
        data: &'a str,
    },
    /// The body, when it is one JSON value.
    Whole(&'a str),
}

/// Takes one part of the stream; `Break` ends it.
pub(super) type OnPart<'a> = dyn FnMut(StreamPart<'_>) -> Result<ControlFlow<()>> + 'a;

#[derive(Clone, Copy, Default, PartialEq)]
enum BodyKind {
    #[default]
    Unknown,
    Events,
    Json,
}

#[derive(Default)]
pub(super) struct SseParser {
    /// A line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the event so far, each with its LF; of a JSON body all of it.
    data: Vec<u8>,
    name: String,
    /// The last byte was a CR that ended a line: an LF right after it belongs to it.
    after_cr: bool,
    kind: BodyKind,
    /// Bytes copied into the two buffers: the tests check the cost by it.
    #[cfg(test)]
    copied: usize,
}

impl SseParser {
    /// Calls `on_part` for each event that `bytes` completes, until it breaks.
    ///
    /// # Errors
    /// Those of `on_part`, and `Failed` for an event over `EVENT_BYTES_MAX`.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        on_part: &mut OnPart<'_>,
    ) -> Result<ControlFlow<()>> {
        while !bytes.is_empty() {
            if self.kind == BodyKind::Unknown {
                // A byte order mark and blanks may come first. No event stream begins with a
                // bracket.
                let is_blank = |byte: &u8| byte.is_ascii_whitespace() || BOM.contains(byte);
                let Some(first) = bytes.iter().position(|byte| !is_blank(byte)) else {
                    break;
                };
                bytes = &bytes[first..];
                self.kind = match bytes[0] {
                    b'{' | b'[' => BodyKind::Json,
                    _ => BodyKind::Events,
                };
            }
            if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
                bytes = &bytes[1..];
                continue;
            }
            let end = match self.kind {
                BodyKind::Json => None,
                _ => bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')),
            };
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
            if self.end_line(on_part)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The body has ended. An event whose last blank line is missing still counts (some
    /// servers close right after their last line), half a line does not.
    pub(super) fn finish(mut self, on_part: &mut OnPart<'_>) -> Result<()> {
        if self.kind == BodyKind::Json {
            let body = String::from_utf8_lossy(&self.line);
            return on_part(StreamPart::Whole(body.trim())).map(drop);
        }
        self.line.clear();
        self.end_line(on_part).map(drop)
    }

    fn end_line(&mut self, on_part: &mut OnPart<'_>) -> Result<ControlFlow<()>> {
        let line = std::mem::take(&mut self.line);
        // `data` alone is an empty line of data, `database: x` another field.
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => line.split_at(colon),
            None => (line.as_slice(), &b":"[..]),
        };
        let value = value.strip_prefix(b": ").unwrap_or(&value[1..]);
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
                #[cfg(test)]
                {
                    self.copied += value.len();
                }
            }
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        let done = line.is_empty();
        self.line = line;
        self.line.clear();
        if !done {
            return Ok(ControlFlow::Continue(()));
        }
        let name = std::mem::take(&mut self.name);
        if self.data.pop().is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        let data = String::from_utf8_lossy(&self.data);
        let flow = on_part(StreamPart::Event {
            name: &name,
            data: &data,
        });
        self.data.clear();
        flow
    }
}

/// Some servers cut a character's surrogate pair between two events: the first half at the
/// end of a JSON string waits here for the second at the start of another.
#[derive(Debug, Default)]
pub(super) struct SplitPair {
    /// As an escape: `\ud83d`. Empty while none waits.
    first: String,
}

impl SplitPair {
    /// `data` without a first half at the end of a string, and with the waiting one put
    /// before a second half.
    pub(super) fn join<'a>(&mut self, data: &'a str) -> Cow<'a, str> {
        let unit = |at: usize| {
            let digits = data.get(at..)?.strip_prefix("\\u")?.get(..4)?;
            u16::from_str_radix(digits, 16).ok()
        };
        let mut out = String::with_capacity(data.len() + self.first.len());
        let mut at = 0;
        while let Some(found) = data.get(at..).and_then(|rest| rest.find('\\')) {
            let escape = at + found;
            out += data.get(at..escape).unwrap_or_default();
            let next = data.as_bytes().get(escape + 6);
            let length = match unit(escape) {
                Some(0xD800..=0xDBFF) if matches!(unit(escape + 6), Some(0xDC00..=0xDFFF)) => 12,
                Some(0xD800..=0xDBFF) if next == Some(&b'"') => {
                    self.first = data.get(escape..escape + 6).unwrap_or_default().to_owned();
                    at = escape + 6;
                    continue;
                }
                Some(0xDC00..=0xDFFF) if out.ends_with('"') => {
                    out += &std::mem::take(&mut self.first);
                    6
                }
                _ => 2,
            };
            let end = (escape + length).min(data.len());
            // Behind a backslash may stand a character of several bytes, if it is no JSON.
            let end = (end..=data.len()).find(|end| data.is_char_boundary(*end));
            let end = end.unwrap_or(data.len());
            out += data.get(escape..end).unwrap_or_default();
            at = end;
        }
        out += data.get(at..).unwrap_or_default();
        out.into()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mutate::survive;

    /// A body that comes in these chunks.
    pub(in crate::llm) fn feed(chunks: &[&[u8]], on_part: &mut OnPart<'_>) -> Result<()> {
        let mut parser = SseParser::default();
        for chunk in chunks {
            if parser.feed(chunk, on_part)?.is_break() {
                return Ok(());
            }
        }
        parser.finish(on_part)
    }

    fn parse(chunks: &[&[u8]]) -> (Vec<String>, usize) {
        let mut events = Vec::new();
        let mut on_data = |part: StreamPart<'_>| {
            events.push(match part {
                StreamPart::Event { name: "", data } => data.to_owned(),
                StreamPart::Event { name, data } => format!("{name}: {data}"),
                StreamPart::Whole(body) => format!("whole {body}"),
            });
            Ok(ControlFlow::Continue(()))
        };
        let mut parser = SseParser::default();
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
                &["x: a", "b"],
            ),
            ("json", "\u{feff} \n{\n\n}\n", &["whole {\n\n}"]),
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
    fn halves_of_a_pair_are_joined() {
        for (parts, want) in [
            (
                vec![r#"{"a":"x \ud83d"}"#, r#"{"a":"\ude80 y"}"#],
                r#"{"a":"x "}{"a":"\ud83d\ude80 y"}"#,
            ),
            (
                vec![
                    r#"["\uD83D"]"#,
                    r#"[""]"#,
                    r#"["\uDE80\ud83d"]"#,
                    r#"["\ude80"]"#,
                ],
                r#"[""][""]["\uD83D\uDE80"]["\ud83d\ude80"]"#,
            ),
            (
                vec![r#"["\\ud83d"]"#, r#"["\ude80"]"#],
                r#"["\\ud83d"]["\ude80"]"#,
            ),
            (
                vec![r#"["\ud83d\ude80"]"#, r#"["\ud83d x"]"#],
                r#"["\ud83d\ude80"]["\ud83d x"]"#,
            ),
            (vec!["\\é", "\\u", "\\"], "\\é\\u\\"),
        ] {
            let mut pair = SplitPair::default();
            let joined: String = parts
                .iter()
                .map(|part| pair.join(part).into_owned())
                .collect();
            assert_eq!(joined, want);
        }
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
            let mut parser = SseParser::default();
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
            assert!(
                events.iter().map(String::len).sum::<usize>() <= 3 * input.len() + "whole ".len()
            );
            assert_eq!(parse(&random.chunks(input)), (events, copied));
            SplitPair::default().join(&String::from_utf8_lossy(input));
        });
    }
}
