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
    let mut lines = 0;
    for line in text.split_inclusive('\n').chain(last_empty(text)) {
        let line_end = end + line.len();
        let by = if lines == lines_max {
            By::Lines
        } else if line_end - usize::from(line.ends_with('\n')) > BYTES_MAX {
            By::Bytes
        } else {
            end = line_end;
            lines += 1;
            continue;
        };
        let text = &text[..end];
        let text = text.strip_suffix('\n').unwrap_or(text);
        return Cut {
            text,
            lines,
            by: Some(by),
        };
    }
    Cut {
        text,
        lines,
        by: None,
    }
}

/// The last lines; of a last line that alone is too long, its end (`lines` is 0 then).
pub(crate) fn tail(text: &str, lines_max: usize) -> Cut<'_> {
    let mut start = text.len();
    for (lines, line) in text.rsplit('\n').enumerate() {
        // With the newline behind it, but for the last.
        let line_start = start - line.len() - usize::from(lines > 0);
        let by = if lines == lines_max {
            By::Lines
        } else if text.len() - line_start > BYTES_MAX {
            By::Bytes
        } else {
            start = line_start;
            continue;
        };
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
    let lines = text.split('\n').count();
    Cut {
        text,
        lines,
        by: None,
    }
}

/// The empty line after a last newline, which `split_inclusive` does not give.
fn last_empty(text: &str) -> Option<&str> {
    (text.is_empty() || text.ends_with('\n')).then_some("")
}

/// Terminal output as plain text: colours and other escape sequences, and control
/// characters but newline and tab, mean nothing to a model.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next_if(|&c| c != '\n') {
                Some(' '..='/') => {}
                // CSI: parameters, then one letter or other final character.
                Some('[') => while chars.next_if(|c| ('\x20'..='\x3f').contains(c)).is_some() {},
                // OSC (titles, links): up to BEL or ESC \.
                Some(']') => {
                    while chars
                        .next_if(|&c| c != '\x07' && c != '\x1b' && c != '\n')
                        .is_some()
                    {}
                    if chars.next_if_eq(&'\x1b').is_none() {
                        chars.next_if_eq(&'\x07');
                        continue;
                    }
                }
                _ => continue,
            },
            '\n' | '\t' => {
                out.push(c);
                continue;
            }
            c => {
                if !c.is_control() {
                    out.push(c);
                }
                continue;
            }
        }
        // The final character of a sequence; a newline never is one.
        chars.next_if(|c| ('\x40'..='\x7e').contains(c));
    }
    out
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
