//! Draws the model's Markdown at a terminal, piece by piece as it streams in: headings and
//! `**bold**` in bold, code in colour, list marks as bullets. Other Markdown is shown as it was
//! written. What has been drawn is never changed.

use crate::config;

/// Escape sequences (ECMA-48, SGR) that begin and end a style.
const BOLD: (&str, &str) = ("\x1b[1m", "\x1b[22m");
const DIM: (&str, &str) = ("\x1b[2m", "\x1b[22m");
const CODE: (&str, &str) = ("\x1b[36m", "\x1b[39m");

/// Whether escape sequences may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colors {
    Yes,
    No,
}

impl Colors {
    /// `No` if NO_COLOR is set (https://no-color.org), or at a terminal that has no sequences.
    pub(crate) fn of_terminal() -> Colors {
        let is_dumb = config::variable("TERM").as_deref() == Some("dumb");
        match config::variable("NO_COLOR") {
            None if !is_dumb => Colors::Yes,
            _ => Colors::No,
        }
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap(DIM, text)
    }

    fn wrap(self, (begin, end): (&str, &str), text: &str) -> String {
        match self {
            Colors::Yes => format!("{begin}{text}{end}"),
            Colors::No => text.to_owned(),
        }
    }
}

#[derive(Clone, Copy)]
enum Edge {
    Begin,
    End,
}

/// The state of the drawing: in which Markdown elements the next character is.
pub(crate) struct Painter {
    colors: Colors,
    /// Text that is not drawn yet, because its meaning depends on what follows.
    held: String,
    at_line_start: bool,
    in_fence: bool,
    in_heading: bool,
    in_bold: bool,
    in_code: bool,
}

impl Painter {
    pub(crate) fn new(colors: Colors) -> Painter {
        Painter {
            colors,
            held: String::new(),
            at_line_start: true,
            in_fence: false,
            in_heading: false,
            in_bold: false,
            in_code: false,
        }
    }

    /// Adds a piece of text; returns what can be drawn now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let mut out = String::new();
        while self.step(&mut out) {}
        out
    }

    /// Returns the rest at the end of a text, and resets the state for the next text.
    pub(crate) fn end(&mut self) -> String {
        let mut out = String::new();
        if !self.at_line_start || !self.held.is_empty() {
            out = self.push("\n");
        }
        out.push_str(&std::mem::take(&mut self.held));
        *self = Painter::new(self.colors);
        out
    }

    /// Draws the next character or mark; false when more text is needed to decide.
    fn step(&mut self, out: &mut String) -> bool {
        if self.held.is_empty() {
            return false;
        }
        if self.at_line_start {
            return self.line_start(out);
        }
        if self.held.starts_with('\n') {
            self.line_end(out);
            return true;
        }
        if !self.in_fence && self.held.starts_with('`') {
            self.held.remove(0);
            let edge = if self.in_code { Edge::End } else { Edge::Begin };
            self.in_code = !self.in_code;
            self.mark(CODE, edge, "`", out);
            return true;
        }
        if !self.in_fence && !self.in_code && self.held.starts_with('*') {
            return self.star(out);
        }
        out.push(self.held.remove(0));
        true
    }

    /// Decides what kind of line this is.
    fn line_start(&mut self, out: &mut String) -> bool {
        let rest = self.held.trim_start_matches([' ', '\t']);
        let indent = &self.held[..self.held.len() - rest.len()];
        // A whole line is enough to recognise every mark.
        let is_whole = rest.contains('\n');
        if !is_whole && (rest.is_empty() || "```".starts_with(rest)) {
            return false;
        }
        if rest.starts_with("```") {
            let Some((fence, after)) = rest.split_once('\n') else {
                return false;
            };
            out.push_str(indent);
            out.push_str(&self.colors.wrap(DIM, fence));
            out.push('\n');
            self.held = after.to_owned();
            self.in_fence = !self.in_fence;
            return true;
        }
        if self.in_fence {
            self.at_line_start = false;
            self.mark(CODE, Edge::Begin, "", out);
            return true;
        }
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let after = rest[hashes..].chars().next();
        if (hashes > 0 && after.is_none()) || ["-", "*", "+"].contains(&rest) {
            return false;
        }
        if (1..=6).contains(&hashes) && after == Some(' ') {
            self.in_heading = true;
            self.mark(BOLD, Edge::Begin, &"#".repeat(hashes), out);
            self.held = rest[hashes..].trim_start_matches(' ').to_owned();
            if self.colors == Colors::No {
                out.push(' ');
            }
        } else if let Some(item) = ["- ", "* ", "+ "]
            .iter()
            .find_map(|mark| rest.strip_prefix(mark))
        {
            out.push_str(indent);
            out.push_str("• ");
            self.held = item.to_owned();
        }
        self.at_line_start = false;
        true
    }

    fn line_end(&mut self, out: &mut String) {
        self.held.remove(0);
        if self.in_fence {
            self.mark(CODE, Edge::End, "", out);
        }
        if self.in_code {
            self.mark(CODE, Edge::End, "", out);
        }
        if self.in_heading || self.in_bold {
            self.mark(BOLD, Edge::End, "", out);
        }
        (self.in_code, self.in_heading, self.in_bold) = (false, false, false);
        self.at_line_start = true;
        out.push('\n');
    }

    /// `**` before a word begins bold text, `**` after it ends it; a single star is drawn.
    fn star(&mut self, out: &mut String) -> bool {
        let mut chars = self.held.chars().skip(1);
        match (chars.next(), chars.next()) {
            (None, _) => return false,
            (Some('*'), None) if !self.in_bold => return false,
            (Some('*'), next) if self.in_bold || next.is_some_and(|c| !c.is_whitespace()) => {
                self.held.drain(..2);
                let edge = if self.in_bold { Edge::End } else { Edge::Begin };
                self.in_bold = !self.in_bold;
                if !self.in_heading || self.colors == Colors::No {
                    self.mark(BOLD, edge, "**", out);
                }
            }
            _ => out.push(self.held.remove(0)),
        }
        true
    }

    /// Begins or ends a style; without colours it draws the mark as it was written.
    fn mark(&self, (begin, end): (&str, &str), edge: Edge, plain: &str, out: &mut String) {
        out.push_str(match (self.colors, edge) {
            (Colors::Yes, Edge::Begin) => begin,
            (Colors::Yes, Edge::End) => end,
            (Colors::No, _) => plain,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(colors: Colors, text: &str, size: usize) -> String {
        let mut painter = Painter::new(colors);
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(size).map(String::from_iter);
        let mut out: String = pieces.map(|piece| painter.push(&piece)).collect();
        out += &painter.end();
        out
    }

    #[test]
    fn the_same_whatever_the_pieces() {
        for (text, want) in [
            ("a **b c** d", "a \x1b[1mb c\x1b[22m d\n"),
            ("2 ** 3 * 4", "2 ** 3 * 4\n"),
            ("run `ls **` now", "run \x1b[36mls **\x1b[39m now\n"),
            ("# Disk\n#tag", "\x1b[1mDisk\x1b[22m\n#tag\n"),
            ("- one\n  * two\n-3", "• one\n  • two\n-3\n"),
            (
                "```sh\n# no **heading**\n```\nend",
                "\x1b[2m```sh\x1b[22m\n\x1b[36m# no **heading**\x1b[39m\n\x1b[2m```\x1b[22m\nend\n",
            ),
            ("open **bold\nnext", "open \x1b[1mbold\x1b[22m\nnext\n"),
            ("*", "*\n"),
            ("ends\n", "ends\n"),
            ("", ""),
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(drawn(Colors::Yes, text, size), want, "{text:?} by {size}");
            }
        }
        let text = "# A **b** `c`\n```\nd\n```\n";
        for size in [1, 100] {
            assert_eq!(drawn(Colors::No, text, size), text);
        }
    }
}
