//! Markdown within a line, as `markdown` wants it: emphasis, code, links, and the tokens of
//! Slack's that stay alive. Pure.

use super::{is_channel_id, is_user_id};
use crate::base::text::{self, ZERO_WIDTH_SPACE};

/// How far the end of a link or an emphasis is looked for, in bytes: hostile text must not
/// cost quadratic time.
const LOOK_AHEAD: usize = 2_000;

/// What is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dialect {
    /// Markdown stays Markdown.
    Block,
    Mrkdwn,
    Plain,
}

/// Code, in a fence or a span.
pub(super) fn push_code(out: &mut String, code: &str, dialect: Dialect) {
    if dialect != Dialect::Block {
        out.push_str(&text::fence_safe(&text::escape(code)));
        return;
    }
    let mut rest = code;
    while let Some(at) = rest.find('<') {
        let (head, tail) = rest.split_at(at + 1);
        out.push_str(head);
        if is_ping(tail) {
            out.push(ZERO_WIDTH_SPACE);
        }
        rest = tail;
    }
    out.push_str(rest);
}

/// After a `<`: would Slack ring or link someone?
pub(super) fn is_ping(tail: &str) -> bool {
    let mut chars = tail.chars();
    let kinds = match chars.next() {
        Some('@') => "UW",
        Some('#') => "CGD",
        Some('!') => {
            let mut names = ["channel", "here", "everyone", "group", "subteam"].iter();
            return names.any(|name| starts(chars.as_str(), name));
        }
        _ => return false,
    };
    chars.next().is_some_and(|kind| kinds.contains(kind))
        && chars
            .next()
            .is_some_and(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

/// In any case.
fn starts(text: &str, word: &str) -> bool {
    let start = text.get(..word.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// A line without its block marks.
pub(super) fn inline(line: &str, dialect: Dialect) -> String {
    let mut writer = Inline {
        line,
        dialect,
        at: 0,
        out: String::with_capacity(line.len()),
        closers: Vec::new(),
    };
    while writer.step() {}
    writer.out
}

const ENTITIES: [&str; 3] = ["&amp;", "&lt;", "&gt;"];

struct Inline<'a> {
    line: &'a str,
    dialect: Dialect,
    at: usize,
    out: String,
    /// Where an emphasis ends, how long its mark is, and what is written for it.
    closers: Vec<(usize, usize, &'static str)>,
}

impl<'a> Inline<'a> {
    fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    fn before(&self) -> Option<char> {
        self.line[..self.at].chars().next_back()
    }

    /// Writes the next thing; false at the end of the line.
    fn step(&mut self) -> bool {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(c) = chars.next() else {
            return false;
        };
        let next = chars.next();
        match c {
            '\\' if next.is_some_and(|c| c.is_ascii_punctuation()) => self.backslash(next),
            '`' => self.code(),
            '<' => self.token(),
            '@' if self.is_broadcast() => {
                self.copy('@');
                self.out.push(ZERO_WIDTH_SPACE);
            }
            'h' if !self.before().is_some_and(char::is_alphanumeric) && is_url(rest) => self.url(),
            ']' if self.dialect == Dialect::Block => {
                self.copy(']');
                // A link to anything but the web shows as it is written.
                let target = rest.strip_prefix("](");
                if target.is_some_and(|target| !is_link(target.trim_start_matches([' ', '<']))) {
                    self.out.push(ZERO_WIDTH_SPACE);
                }
            }
            _ if self.dialect == Dialect::Block => self.copy(c),
            '!' if next == Some('[') && link(&rest[1..]).is_some() => self.at += 1,
            '[' => match link(rest) {
                Some((label, target, length)) => self.link(label, target, length),
                None => self.copy(c),
            },
            '*' | '_' | '~' => self.emphasis(c),
            '&' if ENTITIES.iter().any(|entity| rest.starts_with(entity)) => self.copy(c),
            _ => self.escape(c),
        }
        true
    }

    fn escape(&mut self, c: char) {
        text::escape_char(&mut self.out, c);
        self.at += c.len_utf8();
    }

    fn copy(&mut self, c: char) {
        self.out.push(c);
        self.at += c.len_utf8();
    }

    fn backslash(&mut self, next: Option<char>) {
        self.at += 1;
        match next {
            // Markdown knows the backslash, Slack's tokens do not.
            Some('<') | None => {}
            Some(next) if self.dialect == Dialect::Block => {
                self.out.push('\\');
                if next != '@' && next != ']' {
                    self.copy(next);
                }
            }
            Some(next) => self.escape(next),
        }
    }

    /// A span of code, or backticks that open none.
    fn code(&mut self) {
        let rest = self.rest();
        let run = rest.len() - rest.trim_start_matches('`').len();
        let (ticks, inner) = rest.split_at(run);
        self.at += run;
        let Some(end) = closing_ticks(inner, run) else {
            self.out.push_str(ticks);
            return;
        };
        let mark = match self.dialect {
            Dialect::Block => ticks,
            Dialect::Mrkdwn => "`",
            Dialect::Plain => "",
        };
        self.out.push_str(mark);
        push_code(&mut self.out, &inner[..end], self.dialect);
        self.out.push_str(mark);
        self.at += end + run;
    }

    /// `<@U01>`, `<#C01|ops>`, `<https://x|label>` live; any other `<` is only a sign.
    fn token(&mut self) {
        let rest = self.rest();
        let end = rest.bytes().take(LOOK_AHEAD).position(|byte| byte == b'>');
        let inner = end.map(|end| &rest[1..end]).filter(|inner| is_live(inner));
        let Some(inner) = inner else {
            self.escape('<');
            return;
        };
        self.at += inner.len() + 2;
        if self.dialect == Dialect::Block || inner.starts_with(['@', '#']) {
            self.out.push_str(&format!("<{inner}>"));
        } else {
            let (target, label) = inner.split_once('|').unwrap_or((inner, inner));
            self.push_link(&text::escape(label), target);
        }
    }

    fn url(&mut self) {
        let rest = self.rest();
        let mut depth = 0;
        let end = rest.find(|c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth < 0 || c.is_whitespace() || c.is_control() || "<>\"`|*]\\".contains(c)
        });
        let url = &rest[..end.unwrap_or(rest.len())];
        let url = url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '_', '~']);
        self.at += url.len();
        match self.dialect {
            Dialect::Block => self.out.push_str(url),
            _ => self.push_link(&text::escape(url), url),
        }
    }

    fn link(&mut self, label: &str, target: &str, length: usize) {
        let label = inline(label, Dialect::Plain);
        // Tokens within a label would end the link.
        let label = label.replace('<', "&lt;").replace('>', "&gt;");
        if is_link(target) {
            self.push_link(&label, target);
        } else {
            let target = text::escape(target);
            self.out.push_str(&match label == target {
                true => label,
                false => format!("{label} ({target})"),
            });
        }
        self.at += length;
    }

    /// `label` is escaped, `target` is not.
    fn push_link(&mut self, label: &str, target: &str) {
        let target = text::escape(target).replace('|', "%7C");
        let bare = label.is_empty() || label == target;
        self.out.push_str(&match (self.dialect, bare) {
            (Dialect::Mrkdwn, true) => format!("<{target}>"),
            (Dialect::Mrkdwn, false) => format!("<{target}|{}>", label.replace('|', "¦")),
            (_, true) => target,
            (_, false) => format!("{label} ({target})"),
        });
    }

    fn emphasis(&mut self, c: char) {
        let rest = self.rest();
        // Those that a span of code has swallowed.
        self.closers.retain(|(at, ..)| *at >= self.at);
        if let Some(index) = self.closers.iter().position(|(at, ..)| *at == self.at) {
            let (_, length, mark) = self.closers.remove(index);
            self.out.push_str(mark);
            self.at += length;
            return;
        }
        let run = rest.len() - rest.trim_start_matches(c).len();
        let (length, mark) = match (c, run) {
            ('~', 2) => (2, "~"),
            ('*' | '_', 1) => (1, "_"),
            ('*' | '_', 2..) => (2, "*"),
            _ => (0, ""),
        };
        let mark = if self.dialect == Dialect::Mrkdwn {
            mark
        } else {
            ""
        };
        // Within a word only `**` means something; `snake_case` does not.
        let word_before = self.before().is_some_and(char::is_alphanumeric);
        let opens = length > 0 && (!word_before || (c == '*' && length == 2));
        let end = opens.then(|| closer(rest, c, length)).flatten();
        match end {
            Some(end) => {
                self.closers.push((self.at + end, length, mark));
                self.out.push_str(mark);
                self.at += length;
            }
            None => {
                self.out.push_str(&rest[..run]);
                self.at += run;
            }
        }
    }

    /// `@channel`, `@here` or `@everyone` as a word of its own.
    fn is_broadcast(&self) -> bool {
        if self.before().is_some_and(|c| c.is_alphanumeric()) {
            return false;
        }
        let mut words = ["@channel", "@here", "@everyone"].iter();
        words.any(|word| {
            let rest = self.rest();
            starts(rest, word)
                && !rest[word.len()..]
                    .trim_start_matches('_')
                    .starts_with(char::is_alphanumeric)
        })
    }
}

/// Where the mark of `length` `c`s that opens `rest` is closed again.
fn closer(rest: &str, c: char, length: usize) -> Option<usize> {
    let mut before = c;
    let mut chars = rest.char_indices().skip(length).peekable();
    if chars.peek().is_none_or(|(_, first)| first.is_whitespace()) {
        return None;
    }
    while let Some((at, found)) = chars.next() {
        if at > LOOK_AHEAD {
            return None;
        }
        if found == c {
            let mut run = 1;
            while chars.next_if(|(_, next)| *next == c).is_some() {
                run += 1;
            }
            let ends_word =
                c == '*' || !chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
            // A longer run closes the inner emphasis first: `**a *b***`.
            if run >= length
                && (run == length || run >= 3)
                && !before.is_whitespace()
                && before != c
                && ends_word
            {
                return Some(if length == 1 { at } else { at + run - 2 });
            }
        }
        before = found;
    }
    None
}

/// Where `run` backticks, not more and not fewer, close a span of code.
fn closing_ticks(code: &str, run: usize) -> Option<usize> {
    let mut from = 0;
    while from <= LOOK_AHEAD {
        let at = from + code[from..].find('`')?;
        let tail = &code[at..];
        let closing = tail.len() - tail.trim_start_matches('`').len();
        if closing == run {
            return Some(at);
        }
        from = at + closing;
    }
    None
}

/// `[label](target "title")` at the start of `rest`: label, target, length in bytes.
fn link(rest: &str) -> Option<(&str, &str, usize)> {
    let label = balanced(rest, '[', ']')?;
    let inner = balanced(&rest[label.len() + 2..], '(', ')')?;
    let target = inner.trim().split([' ', '\t']).next().unwrap_or_default();
    let target = target.trim_start_matches('<').trim_end_matches('>');
    (!target.is_empty()).then_some((label, target, label.len() + inner.len() + 4))
}

/// What stands between `opens` at the start of `text` and the `closes` that belongs to it.
fn balanced(text: &str, opens: char, closes: char) -> Option<&str> {
    let inner = text.strip_prefix(opens)?;
    let mut depth = 1;
    let near = inner.char_indices().take_while(|(at, _)| *at < LOOK_AHEAD);
    let mut marks = near.filter(|(_, c)| *c == opens || *c == closes);
    let (end, _) = marks.find(|(_, c)| {
        depth = if *c == opens { depth + 1 } else { depth - 1 };
        depth == 0
    })?;
    Some(&inner[..end])
}

fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        starts(text, scheme)
            && text[scheme.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '[')
    })
}

fn is_link(text: &str) -> bool {
    is_url(text) || starts(text, "mailto:")
}

/// The inside of `<...>` that Slack may act on.
pub(super) fn is_live(inner: &str) -> bool {
    let (target, label) = inner.split_once('|').unwrap_or((inner, ""));
    if label.contains(['<', '\n']) {
        return false;
    }
    match (target.strip_prefix('@'), target.strip_prefix('#')) {
        (Some(id), _) => is_user_id(id),
        (_, Some(id)) => is_channel_id(id),
        _ => is_link(target) && !target.contains(['<', ' ', '\n', '`']),
    }
}
