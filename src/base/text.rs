//! Text for people: cutting, escaping for Slack, numbers with units. Pure functions.
//!
//! Slack counts UTF-16 units after escaping (docs.slack.dev, "Formatting message text"),
//! Rust counts bytes: nothing outside this file slices text by number.

use std::borrow::Cow;
use std::time::Duration;

/// An invisible character: it breaks up what Slack would read as a token or a fence.
pub(crate) const ZERO_WIDTH_SPACE: char = '\u{200B}';

/// The text of a file that someone else wrote: UTF-8 or UTF-16. Also returns why it is not plain
/// UTF-8, if the writer should know.
pub(crate) fn decode(bytes: &[u8]) -> (String, Option<&'static str>) {
    let (order, marked): (Option<ByteOrder>, _) = match bytes {
        [0xff, 0xfe, rest @ ..] => (Some(u16::from_le_bytes), rest),
        [0xfe, 0xff, rest @ ..] => (Some(u16::from_be_bytes), rest),
        _ => (unmarked_order(bytes), bytes),
    };
    if let Some(unit) = order {
        let pairs = marked.chunks_exact(2);
        let units = pairs.map(|pair| unit([pair[0], pair[1]]));
        let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        let text = chars.filter(|c| *c != '\0').collect();
        return (text, Some(UTF16));
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if bytes.contains(&0) {
        return (text.replace('\0', ""), Some("it has NUL bytes"));
    }
    // A character that is cut off at the end is not the writer's mistake.
    let odd = std::str::from_utf8(bytes).is_err_and(|err| err.error_len().is_some());
    (
        text.to_owned(),
        odd.then_some("some of its bytes are not UTF-8"),
    )
}

type ByteOrder = fn([u8; 2]) -> u16;

/// The byte order of UTF-16 without a mark. It shows in scripts below U+0800 (Latin to Arabic);
/// of others nothing is said, because two letters of plain text look like a Chinese one.
fn unmarked_order(bytes: &[u8]) -> Option<ByteOrder> {
    let is_plain = !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok();
    if is_plain || bytes.len() % 2 == 1 {
        return None;
    }
    let orders: [ByteOrder; 2] = [u16::from_le_bytes, u16::from_be_bytes];
    orders.into_iter().find(|unit| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let is_text = |unit: &u16| matches!(unit, 9 | 10 | 13 | 0x20..=0x7e | 0xa0..=0x7ff);
        units.filter(is_text).count() * 20 > bytes.len() / 2 * 18
    })
}

/// The reason that `decode` gives for a file in UTF-16, which it reads all the same.
pub(crate) const UTF16: &str = "it is UTF-16";

/// At most `chars_max` characters; a text that was longer ends in `…`.
pub(crate) fn cut(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
            Cow::Owned(kept + if chars_max > 0 { "…" } else { "" })
        }
    }
}

/// The start of a text on one line: white space and control characters become one space.
pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    // A character has at most four bytes; the loop stops early in a long text.
    for word in words.filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > chars_max.saturating_mul(4) {
            break;
        }
    }
    cut(&out, chars_max).into_owned()
}

/// `text` without control characters, so that its writer cannot control the reader's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "")
}

/// Length as Slack counts it: UTF-16 units.
pub(crate) fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The longest start of `text` of at most `units_max` UTF-16 units, on a character boundary.
pub(crate) fn utf16_prefix(text: &str, units_max: usize) -> &str {
    let mut units = 0;
    for (at, c) in text.char_indices() {
        units += c.len_utf16();
        if units > units_max {
            return &text[..at];
        }
    }
    text
}

/// The longest end of `text` of at most `units_max` UTF-16 units, on a character boundary.
pub(crate) fn utf16_suffix(text: &str, units_max: usize) -> &str {
    let mut units = 0;
    for (at, c) in text.char_indices().rev() {
        units += c.len_utf16();
        if units > units_max {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

/// A long text shortened to its head and its end, cut at line ends where some are near, with a
/// note of how much is missing between them. At most `units_max` UTF-16 units of `text` remain;
/// the note adds under 50 units.
pub(crate) fn cut_middle(text: &str, units_max: usize) -> Cow<'_, str> {
    if utf16_len(text) <= units_max {
        return Cow::Borrowed(text);
    }
    // The end tells the result and where the whole output is: it gets the larger part.
    let mut head = utf16_prefix(text, units_max * 2 / 5);
    let mut tail = utf16_suffix(text, units_max * 3 / 5);
    if let Some((lines, _)) = head.rsplit_once('\n') {
        head = lines;
    }
    if let Some((_, lines)) = tail.split_once('\n') {
        tail = lines;
    }
    let missing = &text[head.len()..text.len() - tail.len()];
    let missing = match missing.trim_matches('\n').split('\n').count() {
        1 => count(missing.chars().count(), "character"),
        lines => count(lines, "line"),
    };
    Cow::Owned(format!("{head}\n... ({missing} left out)\n{tail}"))
}

/// Slack's three escapes, so that text forms no mention, link or broadcast. (Slack refuses or
/// drops NUL; it shows other control characters as boxes.)
pub(crate) fn escape(text: &str) -> String {
    let text = printable(text).replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// Undoes Slack's three escapes, for text that came from Slack.
pub(crate) fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">");
    text.replace("&amp;", "&")
}

/// A fenced code block; its content can neither end the fence nor mention anyone.
pub(crate) fn code_block(text: &str) -> String {
    format!("```\n{}\n```", fence_safe(&escape(text.trim_matches('\n'))))
}

/// Breaks up runs of three backticks, so that they close no fence.
pub(crate) fn fence_safe(text: &str) -> Cow<'_, str> {
    if !text.contains("```") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut ticks = 0;
    for c in text.chars() {
        ticks = if c == '`' { ticks + 1 } else { 0 };
        if ticks == 3 {
            out.push(ZERO_WIDTH_SPACE);
            ticks = 1;
        }
        out.push(c);
    }
    Cow::Owned(out)
}

/// `812B`, `1.2KB`, `34.0MB`: powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    let size = count as f64;
    match count {
        0..0x400 => format!("{count}B"),
        0x400..0x10_0000 => fixed(size / 1024.0, 1) + "KB",
        0x10_0000..0x4000_0000 => fixed(size / 1_048_576.0, 1) + "MB",
        _ => fixed(size / 1_073_741_824.0, 1) + "GB",
    }
}

/// `value`, which is not negative, with this many decimals. (std's formatting adds 12 KB.)
fn fixed(value: f64, decimals: u32) -> String {
    let scale = 10u64.pow(decimals);
    let scaled = (value * scale as f64).round_ties_even() as u64;
    let (whole, rest) = (scaled / scale, scaled % scale);
    format!("{whole}.{rest:0width$}", width = decimals as usize)
}

/// `value` with one decimal, which is left out where it is 0.
pub(crate) fn rounded(value: f64) -> String {
    let text = fixed(value, 1);
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// `310`, `4.2k`, `128k`, `1M`, `1.3M`.
pub(crate) fn tokens(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..9_950 => rounded(count as f64 / 1e3) + "k",
        9_950..999_500 => format!("{}k", (count as f64 / 1e3).round_ties_even() as u64),
        _ => rounded(count as f64 / 1e6) + "M",
    }
}

/// `< 0.1 s`, `0.3 s`, `12.4 s`, `41 s`, `1m 40s`, `2h 5m`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.1 {
        return "< 0.1 s".to_owned();
    }
    // 59.96 s would be shown as `60.0 s`.
    if seconds < 59.95 {
        return rounded(seconds) + " s";
    }
    match seconds.round() as u64 {
        whole @ 0..3600 => format!("{}m {}s", whole / 60, whole % 60),
        whole => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
    }
}

/// `$0`, `$0.0004`, `$0.011`, `$0.42`, `$12.30`.
pub(crate) fn dollars(amount: f64) -> String {
    match amount {
        a if a <= 0.0 => "$0".to_owned(),
        a if a < 0.000_05 => "<$0.0001".to_owned(),
        a if a < 0.001 => format!("${}", fixed(a, 4)),
        a if a < 0.1 => format!("${}", fixed(a, 3)),
        a => format!("${}", fixed(a, 2)),
    }
}

/// `1 step`, `12 steps`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The known name most similar to what was typed, if it is similar enough to be meant.
pub(crate) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let names = known.iter().map(|name| (edits(typed, name), *name));
    let near = names.filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1));
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The number of edits from `a` to `b`: insertions, deletions, replacements, and swaps of
/// neighbours (restricted Damerau-Levenshtein distance).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replace = rows[i][j] + usize::from(from != to);
            let mut least = replace.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn cuts_on_character_boundaries() {
        for (text, max, want) in [
            ("", 0, ""),
            ("ab", 2, "ab"),
            ("abc", 2, "a…"),
            ("äöü", 2, "ä…"),
            ("ab", 0, ""),
            ("👍👍👍", 2, "👍…"),
        ] {
            assert_eq!(cut(text, max), want, "{text} {max}");
        }
        assert_eq!(utf16_len("a👍ä"), 4);
        assert_eq!(utf16_prefix("a👍ä", 2), "a");
        assert_eq!(utf16_prefix("a👍ä", 3), "a👍");
        assert_eq!(utf16_suffix("ä👍a", 2), "a");
        assert_eq!(utf16_suffix("ä👍a", 3), "👍a");
        assert_eq!(one_line(" a\n\n b\0\tc ", 9), "a b c");
        assert_eq!(one_line(&"x ".repeat(100_000), 5), "x x …");
    }

    #[test]
    fn files_are_decoded() {
        for (bytes, text, why) in [
            (&b"\xef\xbb\xbfcaf\xc3\xa9"[..], "café", None),
            (b"caf\xc3", "caf\u{fffd}", None),
            (
                b"c\xe9x",
                "c\u{fffd}x",
                Some("some of its bytes are not UTF-8"),
            ),
            (b"\xff\xfec\0\xe9\0x", "cé", Some("it is UTF-16")),
            (b"\xfe\xff\0c\xd8\x3d\xdc\x4d", "c👍", Some("it is UTF-16")),
            (b"c\0d\0", "cd", Some("it is UTF-16")),
            (b"\x14\x040\x04 \0=\x04", "Да н", Some("it is UTF-16")),
            (b"\x04\x14\x040\0 \x04=", "Да н", Some("it is UTF-16")),
            (b"abc\0de", "abcde", Some("it has NUL bytes")),
            (
                b"c\xe9xy",
                "c\u{fffd}xy",
                Some("some of its bytes are not UTF-8"),
            ),
        ] {
            assert_eq!(decode(bytes), (text.to_owned(), why));
        }
    }

    #[test]
    fn cuts_the_middle_and_counts() {
        let lines: String = (1..=100).map(|i| format!("line {i}\n")).collect();
        let out = cut_middle(&lines, 100);
        assert!(out.starts_with("line 1\nline 2\n"), "{out}");
        assert!(out.ends_with("line 99\nline 100\n"), "{out}");
        let kept = out.lines().filter(|line| line.starts_with("line")).count();
        assert!(
            out.contains(&format!("({} lines left out)", 100 - kept)),
            "{kept} kept of {out}"
        );
        assert_eq!(
            cut_middle(&"ä".repeat(100), 10),
            format!(
                "{}\n... (90 characters left out)\n{}",
                "ä".repeat(4),
                "ä".repeat(6)
            )
        );
        assert_eq!(cut_middle("short", 10), "short");
    }

    #[test]
    fn escapes_and_fences() {
        assert_eq!(
            escape("<!channel> & <@U1>\0"),
            "&lt;!channel&gt; &amp; &lt;@U1&gt;"
        );
        assert_eq!(unescape(&escape("&lt; <a> &amp;")), "&lt; <a> &amp;");
        for hostile in ["```", "a```\n<!here>\n````b`````", "`````````"] {
            let block = code_block(hostile);
            let inner = block
                .strip_prefix("```\n")
                .and_then(|rest| rest.strip_suffix("\n```"))
                .unwrap();
            assert!(!inner.contains("```") && !inner.contains('<'), "{block}");
        }
    }

    #[test]
    fn figures() {
        for (count, want) in [(0, "0B"), (1229, "1.2KB"), (34 << 20, "34.0MB")] {
            assert_eq!(bytes(count), want);
        }
        for (count, want) in [
            (4_210, "4.2k"),
            (9_960, "10k"),
            (1_000_000, "1M"),
            (1_310_000, "1.3M"),
        ] {
            assert_eq!(tokens(count), want);
        }
        for (ms, want) in [
            (0, "< 0.1 s"),
            (41_000, "41 s"),
            (59_960, "1m 0s"),
            (100_000, "1m 40s"),
            (7_500_000, "2h 5m"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), want);
        }
        for (amount, want) in [
            (0.0, "$0"),
            (0.00001, "<$0.0001"),
            (0.0112, "$0.011"),
            (0.42, "$0.42"),
            (12.3, "$12.30"),
        ] {
            assert_eq!(dollars(amount), want);
        }
    }

    #[test]
    fn nearest_name() {
        let known = ["sandbox", "model", "chat", "check"];
        for (typed, want) in [
            ("modle", Some("model")),
            ("chta", Some("chat")),
            ("verbose", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), want, "{typed}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "<!channel> & <@U1> &lt;b&gt; &amp;amp;",
            "line 1\nline 2\n\nline 3 äöü\n```\ncode ````b`````\n",
            "👍🏽 a\u{301}\0\x1b[1m\t \u{a0}word",
            "xoxb-1234567890 sandbox",
        ];
        survive(&corpus, |random, input| {
            let text = String::from_utf8_lossy(input);
            let max = random.below(40);
            let count = |text: &str| text.chars().count();
            assert!(count(&cut(&text, max)) <= max);
            let line = one_line(&text, max);
            assert!(count(&line) <= max && !line.contains(char::is_control));
            let (head, tail) = (utf16_prefix(&text, max), utf16_suffix(&text, max));
            for (end, joins) in [(head, text.starts_with(head)), (tail, text.ends_with(tail))] {
                let units = utf16_len(end);
                assert!(joins && units <= max);
                assert!(units + 1 >= max || end.len() == text.len());
            }
            assert!(utf16_len(&cut_middle(&text, max)) <= max + 50);
            let escaped = escape(&text);
            assert!(!escaped.contains(['<', '>']));
            let shown = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
            assert!(unescape(&escaped).chars().eq(text.chars().filter(shown)));
            let block = code_block(&text);
            assert_eq!(block.matches("```").count(), 2);
            let safe = fence_safe(&text);
            assert_eq!(
                safe.replace(ZERO_WIDTH_SPACE, ""),
                text.replace(ZERO_WIDTH_SPACE, "")
            );
            nearest(head, &["sandbox", "model"]);
        });
    }
}
