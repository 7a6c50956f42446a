//! JSON objects written in a given key order, with ready JSON inserted unchanged.
//!
//! serde_json's own map sorts its keys; the data directory's files have a fixed order, and a
//! tool call's arguments must go back to the model byte for byte. serde_json does the reading.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Most values that one JSON text may hold: each takes 32 bytes in memory, so that megabytes of
/// `[],` would take twenty times their length.
const VALUES_MAX: usize = 200_000;

/// Parses JSON. Text is read as bytes, too: for `str` serde_json has all of its code once more.
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    text: &'a (impl AsRef<[u8]> + ?Sized),
) -> serde_json::Result<T> {
    serde_json::from_slice(text.as_ref())
}

/// `value` as JSON. (`Value::to_string` would add the code that writes it over several lines.)
pub(crate) fn text(value: &Value) -> String {
    serde_json::to_string(value).expect("a value can always be written")
}

/// Parses JSON from Slack, whose texts may hold one half of a surrogate pair (people's clients
/// cut characters in two, and Slack passes the halves on): see `SplitPair`.
pub(crate) fn parse_lenient(text: &str) -> serde_json::Result<Value> {
    SplitPair::default().parse(text)
}

/// Parses a line of a file that the agent can write; `None` also if it would fill the memory.
pub(crate) fn parse_line(line: &[u8]) -> Option<Value> {
    parse_typed(line)
}

/// The same for a typed value; `None` also when the line has another shape.
pub(crate) fn parse_typed<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Option<T> {
    has_few_values(line).then(|| parse(line).ok())?
}

fn has_few_values(text: &[u8]) -> bool {
    let (mut in_string, mut escaped, mut values) = (false, false, 0);
    // A text of fewer bytes cannot hold too many values.
    for byte in text.iter().filter(|_| text.len() > VALUES_MAX) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values < VALUES_MAX
}

/// Parses consecutive JSON texts between which a character may be cut in two: the first half of
/// its surrogate pair, at the end of a string, is held for the second half at the start of a
/// string of a later text. Any other half becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct SplitPair {
    /// The held first half, as an escape: `\ud83d`. Empty when no half is held.
    first: String,
}

impl SplitPair {
    pub(crate) fn parse(&mut self, text: &str) -> serde_json::Result<Value> {
        if !has_few_values(text.as_bytes()) {
            return Err(serde::de::Error::custom("too many values"));
        }
        let outcome = parse(text);
        if outcome.is_ok() || !text.contains("\\u") {
            return outcome;
        }
        parse(&self.join(text))
    }

    fn join(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            let (before, escape) = rest.split_at(at);
            out += before;
            let unit = |at: usize| {
                let digits = escape.get(at..)?.strip_prefix("\\u")?.get(..4)?;
                u16::from_str_radix(digits, 16).ok()
            };
            let length = match (unit(0), unit(6)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
                (Some(0xD800..=0xDFFF), _) => 6,
                _ => 2,
            };
            let is_first = matches!(unit(0), Some(0xD800..=0xDBFF));
            // A backslash may be the last character, or one of several bytes may follow it.
            let (escape, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
            rest = after;
            if length != 6 {
                out += escape;
            } else if is_first && after.starts_with('"') {
                escape.clone_into(&mut self.first);
            } else if !is_first && out.ends_with('"') && !self.first.is_empty() {
                out += &std::mem::take(&mut self.first);
                out += escape;
            } else {
                out += "\\ufffd";
            }
        }
        out + rest
    }
}

/// `Obj::of("text").str("text", text).end()`
pub(crate) struct Obj(String);

impl Obj {
    pub(crate) fn new() -> Obj {
        Obj(String::from("{"))
    }

    /// An object that begins with its type: `{"type":"text"`.
    pub(crate) fn of(kind: &str) -> Obj {
        Obj::new().str("type", kind)
    }

    /// `json` must be a whole JSON value.
    pub(crate) fn raw(mut self, key: &str, json: &str) -> Obj {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quote(key));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    pub(crate) fn str(self, key: &str, text: &str) -> Obj {
        self.raw(key, &quote(text))
    }

    pub(crate) fn opt_str(self, key: &str, text: Option<&str>) -> Obj {
        match text {
            Some(text) => self.str(key, text),
            None => self,
        }
    }

    /// `items` are whole JSON values; without any the key is left out.
    pub(crate) fn list(self, key: &str, items: impl IntoIterator<Item = String>) -> Obj {
        match array(items) {
            none if none == "[]" => self,
            items => self.raw(key, &items),
        }
    }

    pub(crate) fn num(self, key: &str, number: impl Into<serde_json::Number>) -> Obj {
        self.raw(key, &number.into().to_string())
    }

    pub(crate) fn value(self, key: &str, value: &Value) -> Obj {
        self.raw(key, &text(value))
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// Ends the object with a long list; see `pieces`.
    pub(crate) fn end_with(self, key: &str, items: impl Iterator<Item = String>) -> Vec<String> {
        pieces(self.raw(key, "").0, items, "}")
    }
}

/// `[ITEM,ITEM]` between `head` and `tail`, in pieces of some 60 KB: a single block of memory would
/// be copied as it grows, and when it is freed, glibc keeps twice its size for later blocks.
pub(crate) fn pieces(head: String, items: impl Iterator<Item = String>, tail: &str) -> Vec<String> {
    let (mut pieces, mut last, mut comma) = (Vec::new(), head + "[", "");
    for item in items {
        if last.len() + item.len() > 60_000 {
            pieces.push(std::mem::take(&mut last));
        }
        last += comma;
        last += &item;
        comma = ",";
    }
    pieces.push(last + "]" + tail);
    pieces
}

/// `items` are whole JSON values.
pub(crate) fn array<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from("[");
    for item in items {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(item.as_ref());
    }
    out.push(']');
    out
}

pub(crate) fn texts(items: &[String]) -> String {
    array(items.iter().map(|text| quote(text)))
}

/// The strings of a list; other values are left out.
pub(crate) fn strings(list: &Value) -> impl Iterator<Item = String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned))
}

/// `text` as a JSON string, quotes included.
pub(crate) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always valid JSON")
}

/// Whether `text` is one whole JSON value that begins with `start`; it may be inserted as is.
pub(crate) fn is_whole(text: &str, start: char) -> bool {
    text.starts_with(start) && parse::<&RawValue>(text).is_ok()
}

/// Parses a text that is one number. (With serde_json, since std's tables for it take 15 KB.)
pub(crate) fn number(text: &str) -> Option<f64> {
    parse::<Value>(text).ok()?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    #[rustfmt::skip]
    fn halves_of_pairs_are_joined_or_replaced() {
        for (texts, want) in [
            (&[r#""\u00e9 \ud83d\ude00""#][..], Some("é 😀")),
            (&[r#""a\ud83d b""#], Some("a\u{FFFD} b")),
            (&[r#""\ude00\ud83d""#], Some("\u{FFFD}")),
            (&[r#""\ud83d\ud83d\ude00""#], Some("\u{FFFD}😀")),
            (&[r#""\\ud83d é \ud83d.""#], Some("\\ud83d é \u{FFFD}.")),
            (&[r#""a \ud83d""#, r#""\ude00 b""#], Some("a 😀 b")),
            (&[r#""\uD83D""#, r#""""#, r#""\uDE00\ud83d""#, r#""\ude00""#], Some("😀😀")),
            (&[r#""\\ud83d""#, r#""\ude00""#], Some("\\ud83d\u{FFFD}")),
            (&[r#""\ud83"#], None),
            (&[r#""\ud83d\"#], None),
            (&[r#""\ud83d\é"#], None),
            (&["\"\\u"], None),
        ] {
            let mut pair = SplitPair::default();
            let strings = texts.iter().map(|text| Some(pair.parse(text).ok()?.as_str()?.to_owned()));
            assert_eq!(strings.collect::<Option<String>>().as_deref(), want, "{texts:?}");
        }
    }

    #[test]
    fn keeps_order_and_raw_pieces() {
        let line = Obj::new()
            .str("z", "a\"b")
            .raw("args", "{\"b\":1, \"a\":2}")
            .raw("list", &array(["1", "2"]))
            .opt_str("none", None)
            .list("empty", [])
            .num("n", 3)
            .raw("ok", "true")
            .end();
        assert_eq!(
            line,
            r#"{"z":"a\"b","args":{"b":1, "a":2},"list":[1,2],"n":3,"ok":true}"#
        );
    }

    /// However deep the JSON nests: it is refused where a `Value` would be made of it, and it
    /// overflows no stack where it is only scanned.
    #[test]
    fn nesting_has_no_effect_on_the_stack() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = open.repeat(100_000) + "1" + &close.repeat(100_000);
            for text in [&deep, &deep[..deep.len() / 2], &format!("{deep}\\ud800")] {
                assert!(parse_lenient(text).is_err());
                assert_eq!(number(text), None);
            }
            assert!(is_whole(&deep, '[') || is_whole(&deep, '{'));
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"a":[1,-2.5e3,null,true],"b":"\u00e9\ud83d\ude00","c":{"d":"x\\\"\n"}}"#,
            r#""a\ud83d b\ude00\ud83d\ud83d\ude00""#,
            r#"{"text":"\\ud83d \ud83d","ts":"1767604364.120019"}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let joined = SplitPair::default().join(&text);
            assert_eq!(SplitPair::default().join(&joined), joined);
            assert!(joined.len() <= text.len());
            let strict = serde_json::from_str::<Value>(&text).ok();
            let lenient = parse_lenient(&text).ok();
            assert!(strict.is_none() || strict == lenient);
            if let Some(value) = lenient {
                let written = Obj::new().value(&text, &value).str("", &text).end();
                let read: Value = serde_json::from_str(&written).unwrap();
                assert!(read.get(&*text).is_some() && read[""] == *text);
            }
            assert!(number(&text).is_none_or(f64::is_finite));
        });
    }
}
