//! Cuts text to what a model should get at once: whole lines, from the head or the tail.
//! Pure. Lines are what stands between newlines, so a text that ends in one has an empty
//! last line.

/// Lines of one result.
pub(crate) const LINES_MAX: usize = 2000;
/// Bytes of one result.
pub(crate) const BYTES_MAX: usize = 50 << 10;

#[derive(Debug, PartialEq)]
pub(crate) struct Cut<'a> {
    pub(crate) text: &'a str,
    pub(crate) lines: usize,
    /// What kept the next line out.
    pub(crate) by: Option<By>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum By {
    Lines,
    Bytes,
}

/// The first lines; none when the first alone is too long.
pub(crate) fn head(text: &str, lines_max: usize) -> Cut<'_> {
    let mut end = 0;
    for (lines, line) in text.split('\n').enumerate() {
        // With the newline before it, but for the first.
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

/// The last lines; of a last line that alone is too long, its end (`lines` is 0 then).
pub(crate) fn tail(text: &str, lines_max: usize) -> Cut<'_> {
    let mut start = text.len();
    for (lines, line) in text.rsplit('\n').enumerate() {
        // With the newline behind it, but for the last.
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

/// What keeps the next line out, after so many lines, if `bytes` are those with it.
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

/// Terminal output as plain text: colours and other escape sequences, and control
/// characters but newline and tab, mean nothing to a model.
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

/// What follows the escape sequence that begins the text, its ESC left out. A newline never
/// belongs to one.
fn after_escape(text: &str) -> &str {
    match text.chars().next() {
        // CSI: parameters, then one letter or other final character.
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
