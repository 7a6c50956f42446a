//! Cuts a text to the length that a model should get at once: whole lines, from its beginning
//! or its end. Pure. Lines are the parts between newlines, so a text that ends in a newline has
//! an empty last line.

/// Lines of one result.
pub(crate) const LINES_MAX: usize = 2000;
/// Bytes of one result.
pub(crate) const BYTES_MAX: usize = 50 << 10;

#[derive(Debug, PartialEq)]
pub(crate) struct Cut<'a> {
    pub(crate) text: &'a str,
    pub(crate) lines: usize,
    /// Which limit kept the next line out; `None`: the text is whole.
    pub(crate) by: Option<By>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum By {
    Lines,
    Bytes,
}

/// The first lines; no line when the first one alone is too long.
pub(crate) fn head(text: &str, lines_max: usize) -> Cut<'_> {
    let mut end = 0;
    for (lines, line) in text.split('\n').enumerate() {
        // All lines but the first count with the newline before them.
        let line_end = end + line.len() + usize::from(lines > 0);
        if let Some(by) = reached(lines, lines_max, line_end) {
            return Cut {
                text: &text[..end],
                lines,
                by: Some(by),
            };
        }
        end = line_end;
    }
    whole(text)
}

/// The last lines; when the last one alone is too long, the end of it (then `lines` is 0).
pub(crate) fn tail(text: &str, lines_max: usize) -> Cut<'_> {
    let mut start = text.len();
    for (lines, line) in text.rsplit('\n').enumerate() {
        // All lines but the last count with the newline after them.
        let line_start = start - line.len() - usize::from(lines > 0);
        if let Some(by) = reached(lines, lines_max, text.len() - line_start) {
            if lines == 0 {
                start = text.len() - BYTES_MAX;
                while !text.is_char_boundary(start) {
                    start += 1;
                }
            }
            return Cut {
                text: &text[start..],
                lines,
                by: Some(by),
            };
        }
        start = line_start;
    }
    whole(text)
}

/// Which limit keeps the next line out, after `lines` lines, if `bytes` include that line.
fn reached(lines: usize, lines_max: usize, bytes: usize) -> Option<By> {
    if lines == lines_max {
        return Some(By::Lines);
    }
    (bytes > BYTES_MAX).then_some(By::Bytes)
}

fn whole(text: &str) -> Cut<'_> {
    let lines = text.split('\n').count();
    Cut {
        text,
        lines,
        by: None,
    }
}

/// Terminal output as plain text for a model: without colours and other escape sequences, and
/// without control characters other than newline and tab.
pub(crate) fn plain(text: &str) -> String {
    let mut pieces = text.split('\x1b');
    let mut out = String::with_capacity(text.len());
    let first = pieces.next().unwrap_or_default();
    for piece in [first].into_iter().chain(pieces.map(after_escape)) {
        out.extend(
            piece
                .chars()
                .filter(|c| !c.is_control() || matches!(c, '\n' | '\t')),
        );
    }
    out
}

/// The text after the escape sequence at its start, whose ESC is removed already. A newline is
/// never part of a sequence.
fn after_escape(text: &str) -> &str {
    match text.chars().next() {
        // CSI: parameters, then one final character, mostly a letter.
        Some('[') => {
            let rest = text[1..].trim_start_matches(|c| ('\x20'..='\x3f').contains(&c));
            without_first(rest, is_final)
        }
        // OSC (titles, links): up to BEL, or to the ESC of `ESC \`.
        Some(']') => {
            let rest = text.trim_start_matches(|c| c != '\x07' && c != '\n');
            without_first(rest, |c| c == '\x07')
        }
        Some(' '..='/') => without_first(&text[1..], is_final),
        _ => without_first(text, |c| c != '\n'),
    }
}

fn is_final(c: char) -> bool {
    ('\x40'..='\x7e').contains(&c)
}

fn without_first(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    text.strip_prefix(is_part).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_from_both_ends() {
        let line = "x".repeat(1023) + "\n"; // 50 fill the bytes but for the last newline
        let long = "y".repeat(BYTES_MAX + 1);
        let kb51 = line.repeat(51);
        let e = "é".repeat(BYTES_MAX); // two bytes each
        for (name, text, lines_max, head_want, tail_want) in [
            ("empty", "", 9, ("", 1, None), ("", 1, None)),
            ("all", "a\nb\n", 9, ("a\nb\n", 3, None), ("a\nb\n", 3, None)),
            (
                "lines",
                "a\nb\nc",
                2,
                ("a\nb", 2, Some(By::Lines)),
                ("b\nc", 2, Some(By::Lines)),
            ),
            (
                "bytes",
                &kb51,
                2000,
                (&kb51[..50 * 1024 - 1], 50, Some(By::Bytes)),
                (&kb51[kb51.len() - 50 * 1024..], 51, Some(By::Bytes)),
            ),
            (
                "one long",
                &long,
                2000,
                ("", 0, Some(By::Bytes)),
                (&long[1..], 0, Some(By::Bytes)),
            ),
            (
                "wide",
                &e,
                9,
                ("", 0, Some(By::Bytes)),
                (&e[BYTES_MAX..], 0, Some(By::Bytes)),
            ),
        ] {
            let cut = head(text, lines_max);
            assert_eq!((cut.text, cut.lines, cut.by), head_want, "head {name}");
            let cut = tail(text, lines_max);
            assert_eq!((cut.text, cut.lines, cut.by), tail_want, "tail {name}");
        }
    }

    #[test]
    fn plain_text_of_terminal_output() {
        for (text, want) in [
            ("\x1b[1;31mred\x1b[0m\tx\r\n", "red\tx\n"),
            ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link", "alink"),
            ("a\0b\x08c\x1b", "abc"),
            ("\x1b[12\nnext", "\nnext"),
            ("\x1b(Bé\u{9b}\x1b\n", "é\n"),
        ] {
            assert_eq!(plain(text), want, "{text:?}");
        }
    }
}
