//! What keeps its meaning within a line of the model's Markdown: mentions of people and channels,
//! and web links. Everything else that Slack could read as a mention is broken. Pure.
//!
//! Slack reads `<@U01>`, `<#C01>`, `<!here>` and `<https://..>` in `markdown` blocks as well as
//! in mrkdwn; an entity (`&lt;`) never becomes a mention. In code Slack would show an entity
//! literally, so a zero-width space breaks the mention there.

use super::{is_channel_id, is_user_id};
use crate::base::text::{self, ZERO_WIDTH_SPACE};

/// How far the end of a link or of code is looked for, in bytes: hostile text must not cost
/// quadratic time.
const LOOK_AHEAD: usize = 2_000;

/// The output format of a line.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// For a `markdown` block: the source, made safe.
    Markdown,
    /// For `text`: the escaped source, with links as Slack writes them.
    Mrkdwn,
}

/// Appends code: a line of a fence, or the inside of a span.
pub(super) fn push_code(out: &mut String, code: &str, form: Form) {
    match form {
        Form::Markdown => push_pingless(out, code),
        Form::Mrkdwn => out.push_str(&text::fence_safe(&text::escape(code))),
    }
}

/// The text of a title, which Slack shows literally: nothing in it can become a mention or a link.
pub(super) fn dead(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if out.ends_with('<') && c != ' ' {
            out.push(ZERO_WIDTH_SPACE);
        }
        out.push(c);
    }
    out
}

fn push_pingless(out: &mut String, text: &str) {
    let mut rest = text;
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

/// Would Slack notify or link someone for a `<` followed by `tail`?
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

const BROADCASTS: [&str; 3] = ["@channel", "@here", "@everyone"];

/// Does `text` start with `word`, in upper or lower case?
fn starts(text: &str, word: &str) -> bool {
    let start = text.get(..word.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// A line outside of fenced code.
pub(super) fn inline(line: &str, form: Form) -> String {
    let mut scan = InlineScan {
        line,
        form,
        at: 0,
        out: String::with_capacity(line.len()),
    };
    while scan.step() {}
    scan.out
}

const ENTITIES: [&str; 3] = ["&amp;", "&lt;", "&gt;"];

struct InlineScan<'a> {
    line: &'a str,
    form: Form,
    at: usize,
    out: String,
}

impl<'a> InlineScan<'a> {
    fn rest(&self) -> &'a str {
        &self.line[self.at..]
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
            // Markdown knows the backslash, Slack's tokens do not.
            '\\' if next == Some('<') => self.at += 1,
            '`' => self.code(),
            '<' => self.token(),
            '@' if self.is_broadcast() => {
                self.copy(1);
                self.out.push(ZERO_WIDTH_SPACE);
            }
            ']' if self.form == Form::Markdown => {
                self.copy(1);
                // A link to anything but the web shows as it is written.
                let target = rest.strip_prefix("](");
                if target.is_some_and(|target| !is_link(target.trim_start_matches([' ', '<']))) {
                    self.out.push(ZERO_WIDTH_SPACE);
                }
            }
            _ if self.form == Form::Markdown => self.copy(c.len_utf8()),
            '!' if next == Some('[') && link(&rest[1..]).is_some() => self.at += 1,
            '[' => self.link(),
            '&' if ENTITIES.iter().any(|entity| rest.starts_with(entity)) => self.copy(1),
            _ => self.escape(c),
        }
        true
    }

    fn escape(&mut self, c: char) {
        self.out += &text::escape(c.encode_utf8(&mut [0; 4]));
        self.at += c.len_utf8();
    }

    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.rest()[..bytes]);
        self.at += bytes;
    }

    /// A span of code, or backticks that open none.
    fn code(&mut self) {
        let rest = self.rest();
        let run = rest.len() - rest.trim_start_matches('`').len();
        let (ticks, inner) = rest.split_at(run);
        let Some(end) = closing_ticks(inner, run) else {
            return self.copy(run);
        };
        let mark = match self.form {
            Form::Markdown => ticks,
            Form::Mrkdwn => "`",
        };
        self.out.push_str(mark);
        push_code(&mut self.out, &inner[..end], self.form);
        self.out.push_str(mark);
        self.at += end + 2 * run;
    }

    /// Writes `<@U01>`, `<#C01|ops>`, `<https://x|label>` unchanged; any other `<` is escaped.
    fn token(&mut self) {
        let rest = self.rest();
        let end = rest.bytes().take(LOOK_AHEAD).position(|byte| byte == b'>');
        let inner = end.map(|end| &rest[1..end]).filter(|inner| is_live(inner));
        let Some(inner) = inner else {
            return self.escape('<');
        };
        if self.form == Form::Markdown || inner.starts_with(['@', '#']) {
            return self.copy(inner.len() + 2);
        }
        let (target, label) = inner.split_once('|').unwrap_or((inner, ""));
        self.push_link(label, target);
        self.at += inner.len() + 2;
    }

    fn link(&mut self) {
        let found = link(self.rest()).filter(|(_, target, _)| is_link(target));
        let Some((label, target, length)) = found else {
            return self.copy(1);
        };
        self.push_link(label, target);
        self.at += length;
    }

    fn push_link(&mut self, label: &str, target: &str) {
        let escape = |text: &str| text::escape(&text::unescape(text));
        let target = escape(target).replace('|', "%7C");
        let label = escape(label).replace('|', "¦");
        self.out.push_str(&match label.trim().is_empty() {
            true => format!("<{target}>"),
            false => format!("<{target}|{label}>"),
        });
    }

    /// `@channel`, `@here` or `@everyone` as a word of its own.
    fn is_broadcast(&self) -> bool {
        let before = self.line[..self.at].chars().next_back();
        if before.is_some_and(char::is_alphanumeric) {
            return false;
        }
        let rest = self.rest();
        BROADCASTS.iter().any(|word| {
            starts(rest, word)
                && !rest[word.len()..]
                    .trim_start_matches('_')
                    .starts_with(char::is_alphanumeric)
        })
    }
}

/// Finds the closing backticks of a code span: exactly `run` of them.
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

/// The text between `opens` at the start of `text` and the matching `closes`.
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

/// May Slack turn `<inner>` into a mention or a link?
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
