//! The model's Markdown as Slack shows it: pieces that fit a message each, and the same
//! text in Slack's own mrkdwn and in plain words. Pure.
//!
//! Nobody is pinged by accident. Slack reads its `<...>` tokens in `markdown` blocks too,
//! and decodes entities without reading the result as a token. So of what stands in angle
//! brackets only people, channels and http(s) or mailto links stay alive; the rest is
//! escaped. In code, where an entity would show as it is, a zero-width space breaks the
//! token instead. Format: docs.slack.dev, "Formatting message text" and "Markdown block".

use super::inline::{Dialect, inline, push_code};
use crate::base::text;

/// UTF-16 units of all `markdown` blocks of a message (Slack docs, markdown block).
const MARKDOWN_UNITS_MAX: usize = 12_000;
/// For `text`: chat.update refuses more than 4,000, chat.postMessage advises it.
pub(crate) const MRKDWN_UNITS_MAX: usize = 3_900;
/// For notifications and screen readers; the limit is 4,000.
const FALLBACK_UNITS_MAX: usize = 3_000;
/// What a heading or a fence weighs on top. Slack makes blocks of its own of a markdown
/// block (these two end the run of text before them), allows 50 of them, and adds about
/// 100 units for a heading: both were observed as `msg_blocks_too_long` below 12,000.
const BLOCK_UNITS: usize = 500;

/// One message of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    /// For a `markdown` block.
    pub(crate) markdown: String,
    /// The plain text beside the block; never blank.
    pub(crate) fallback: String,
}

impl Piece {
    /// The same for when Slack refuses the block: texts of at most `MRKDWN_UNITS_MAX`.
    pub(crate) fn mrkdwn(&self) -> Vec<String> {
        let text = mrkdwn(&self.markdown);
        match text.trim().is_empty() {
            true => split(&self.fallback, MRKDWN_UNITS_MAX),
            false => split(&text, MRKDWN_UNITS_MAX),
        }
    }
}

/// The answer in order, nothing cut; at least one piece.
pub(crate) fn pieces(markdown: &str) -> Vec<Piece> {
    let piece = |mut markdown: String| {
        let fallback = plain(&markdown);
        if markdown.trim().is_empty() {
            markdown.clone_from(&fallback);
        }
        Piece { markdown, fallback }
    };
    let parts = split(&neutralise(markdown), MARKDOWN_UNITS_MAX);
    parts.into_iter().map(piece).collect()
}

/// Slack's own markup. An open fence is closed.
pub(crate) fn mrkdwn(markdown: &str) -> String {
    convert(markdown, Dialect::Mrkdwn)
}

fn plain(markdown: &str) -> String {
    let text = convert(markdown, Dialect::Plain);
    let text = text.trim();
    match cut_at(text, FALLBACK_UNITS_MAX) {
        0 => "(an answer without words)".to_owned(),
        at if at == text.len() => text.to_owned(),
        at => format!("{}…", &text[..at]),
    }
}

/// Where a walk over lines stands with code fences.
#[derive(Default)]
struct Fences {
    open: Option<(char, usize)>,
}

#[derive(PartialEq)]
enum Line {
    Text,
    Opens,
    Code,
    Closes,
}

impl Fences {
    fn line(&mut self, line: &str) -> Line {
        let line = line.trim();
        let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'));
        let run = line.chars().take_while(|c| Some(*c) == mark).count();
        match (self.open, mark) {
            (Some((open, least)), Some(mark))
                if mark == open && run >= least && line.len() == run =>
            {
                self.open = None;
                Line::Closes
            }
            (Some(_), _) => Line::Code,
            (None, Some(mark))
                if run >= 3
                    && !(mark == '`' && line.get(run..).is_some_and(|info| info.contains('`'))) =>
            {
                self.open = Some((mark, run));
                Line::Opens
            }
            (None, _) => Line::Text,
        }
    }
}

// Splitting.

/// Parts of at most `units_max`, at paragraphs where possible, else at lines, else at words.
/// A fence that is cut is closed and opened again. White space at the seams is dropped.
fn split(text: &str, units_max: usize) -> Vec<String> {
    let mut parts = Parts {
        units_max,
        ..Parts::default()
    };
    for block in blocks(text) {
        parts.add(block);
    }
    parts.flush();
    if parts.done.is_empty() {
        parts.done.push(String::new());
    }
    parts.done
}

#[derive(Default)]
struct Parts {
    units_max: usize,
    done: Vec<String>,
    part: String,
    units: usize,
    /// The part holds more than white space and the mark that opens its fence again.
    words: bool,
}

impl Parts {
    fn add(&mut self, block: &str) {
        let units = weigh(block);
        if self.units + units <= self.units_max {
            self.push(block, units);
        } else if units <= self.units_max {
            self.flush();
            self.push(block, units);
        } else {
            self.add_lines(block);
        }
    }

    /// A block that is too long for one part.
    fn add_lines(&mut self, block: &str) {
        if self.units > self.units_max / 2 {
            self.flush();
        }
        let opener = block.lines().next().unwrap_or_default();
        let mut fences = Fences::default();
        fences.line(opener);
        // A fence too long to be meant is split like text.
        let open = fences.open.filter(|(_, run)| *run < 80);
        let mark = open.map(|(mark, run)| mark.to_string().repeat(run));
        // A hostile opener may be as long as a part: it is opened again without its words.
        let again = match &mark {
            Some(mark) if opener.len() > 80 => mark.as_str(),
            _ => opener,
        };
        let room = self.units_max - mark.as_ref().map_or(0, |mark| mark.len() + 1);
        let opening = mark.as_ref().map(|_| format!("{again}\n"));
        for (number, line) in block.split_inclusive('\n').enumerate() {
            let before = self.words;
            let mut rest = line;
            while !rest.is_empty() {
                let mut at = rest.len();
                let left = room.saturating_sub(self.units);
                if is_over(rest, left) {
                    // A line too long for any part fills this one first.
                    let fills = left > room / 4 && is_over(rest, room);
                    let opened = opening.as_deref().map_or(0, units);
                    if !fills && (self.words || self.units > opened) {
                        match &mark {
                            _ if !self.words => self.part.clear(),
                            Some(mark) => {
                                self.part.truncate(self.part.trim_end().len());
                                self.push(&format!("\n{mark}"), 0);
                            }
                            None => {}
                        }
                        self.flush();
                        self.push(opening.as_deref().unwrap_or_default(), opened);
                        self.words = false;
                        continue;
                    }
                    at = cut_at(rest, left.max(1));
                }
                let (head, tail) = rest.split_at(at);
                self.push(head, units(head));
                rest = tail;
            }
            if number == 0 && mark.is_some() {
                self.words = before;
            }
        }
    }

    fn push(&mut self, text: &str, units: usize) {
        self.part.push_str(text);
        self.units += units;
        self.words |= !text.trim().is_empty();
    }

    fn flush(&mut self) {
        let part = std::mem::take(&mut self.part);
        (self.units, self.words) = (0, false);
        let part = part.trim_end().trim_start_matches(['\n', '\r']);
        if !part.is_empty() {
            self.done.push(part.to_owned());
        }
    }
}

/// Paragraphs, headings with what follows them, fenced code: together they are the text.
fn blocks(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fences = Fences::default();
    let (mut start, mut at) = (0, 0);
    let (mut after_blank, mut after_heading) = (false, false);
    for line in text.split_inclusive('\n') {
        let kind = fences.line(line);
        let blank = line.trim().is_empty();
        let is_seam = match kind {
            Line::Opens => !after_heading,
            Line::Text => !blank && (after_blank && !after_heading || is_heading(line)),
            Line::Code | Line::Closes => false,
        };
        if is_seam && at > start {
            found.push(&text[start..at]);
            start = at;
        }
        at += line.len();
        // What follows a fence is a block of its own, blank line or not.
        after_blank = blank || kind == Line::Closes;
        after_heading = is_heading(line) && kind == Line::Text || after_heading && blank;
    }
    found.push(&text[start..]);
    found
}

fn is_heading(line: &str) -> bool {
    let line = line.trim_start();
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with([' ', '\t'])
}

fn weigh(block: &str) -> usize {
    let mut fences = Fences::default();
    let extra = block.lines().filter(|line| match fences.line(line) {
        Line::Opens => true,
        Line::Text => is_heading(line),
        Line::Code | Line::Closes => false,
    });
    units(block) + BLOCK_UNITS * extra.count()
}

/// UTF-16 units after escaping.
fn units(text: &str) -> usize {
    text.chars().map(char_units).sum()
}

/// Looks no further than need be.
fn is_over(text: &str, units_max: usize) -> bool {
    let mut left = units_max;
    text.chars().any(|c| match left.checked_sub(char_units(c)) {
        Some(less) => {
            left = less;
            false
        }
        None => true,
    })
}

fn char_units(c: char) -> usize {
    match c {
        '&' => 5,
        '<' | '>' => 4,
        c => c.len_utf16(),
    }
}

/// Where to cut `text` so that its start has at most `units_max` (but one character at
/// least): after a word if there is one near, never inside a token or an entity.
fn cut_at(text: &str, units_max: usize) -> usize {
    let mut weight = 0;
    let over = text.char_indices().find(|(_, c)| {
        weight += char_units(*c);
        weight > units_max
    });
    let Some((end, first)) = over else {
        return text.len();
    };
    let space = text[..end].rfind([' ', '\n']).map(|at| at + 1);
    let end = space.filter(|at| *at > end / 2).unwrap_or(end);
    let head = &text[..end];
    let open = |opens, closes| {
        let at = head.rfind(opens)?;
        (!head[at..].contains(closes) && head.len() - at < 500).then_some(at)
    };
    let end = open('<', '>').unwrap_or(end).min(end);
    let entity = open('&', ';').filter(|at| head.len() - at < 6);
    match entity.unwrap_or(end).min(end) {
        0 => head.len().max(first.len_utf8()),
        end => end,
    }
}

// Safe Markdown, mrkdwn and plain text: one walk, three ways to write.

fn neutralise(markdown: &str) -> String {
    let mut fences = Fences::default();
    let mut out = String::with_capacity(markdown.len());
    for line in markdown.split_inclusive('\n') {
        match fences.line(line) {
            Line::Text => out.push_str(&inline(line, Dialect::Block)),
            _ => push_code(&mut out, line, Dialect::Block),
        }
    }
    out
}

fn convert(markdown: &str, dialect: Dialect) -> String {
    let mut out = String::with_capacity(markdown.len());
    let mut fences = Fences::default();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        match fences.line(line) {
            Line::Text => {
                if line.contains('|') && lines.peek().is_some_and(|next| is_table_rule(next)) {
                    let mut rows = vec![cells(line)];
                    lines.next();
                    let is_row = |row: &&str| row.contains('|') && !row.contains("```");
                    while let Some(row) = lines.next_if(is_row) {
                        rows.push(cells(row));
                    }
                    push_table(&mut out, &rows, dialect);
                } else {
                    push_line(&mut out, line, dialect);
                }
            }
            Line::Code => {
                push_code(&mut out, line, dialect);
                out.push('\n');
            }
            Line::Opens | Line::Closes if dialect == Dialect::Mrkdwn => out.push_str("```\n"),
            Line::Opens | Line::Closes => {}
        }
    }
    if fences.open.is_some() && dialect == Dialect::Mrkdwn {
        out.push_str("```\n");
    }
    out.truncate(out.trim_end().len());
    out
}

fn push_line(out: &mut String, line: &str, dialect: Dialect) {
    let body = line.trim_start();
    let indent = &line[..line.len() - body.len()];
    let mut bullets = ["- ", "* ", "+ "].iter();
    let bullet = bullets.find_map(|bullet| body.strip_prefix(bullet));
    if is_rule(body) {
        if dialect == Dialect::Mrkdwn {
            out.push_str("──────────");
        }
    } else if is_heading(line) {
        let title = inline(body.trim_matches('#').trim(), dialect);
        let mark = match dialect {
            Dialect::Mrkdwn if !title.is_empty() && !title.contains('*') => "*",
            _ => "",
        };
        out.push_str(&format!("{mark}{title}{mark}"));
    } else if let Some(item) = bullet {
        out.push_str(&format!("{indent}• {}", inline(item, dialect)));
    } else if let Some(quote) = body.strip_prefix('>') {
        let mark = if dialect == Dialect::Mrkdwn { "> " } else { "" };
        out.push_str(&format!("{mark}{}", inline(quote.trim_start(), dialect)));
    } else {
        out.push_str(&format!("{indent}{}", inline(body, dialect)));
    }
    out.push('\n');
}

/// `---`, `* * *`, `___`
fn is_rule(body: &str) -> bool {
    let mark = body.chars().next().unwrap_or_default();
    matches!(mark, '-' | '*' | '_')
        && body.chars().all(|c| c == mark || c.is_whitespace())
        && body.chars().filter(|c| *c == mark).count() >= 3
}

/// `| --- | :-: |`
fn is_table_rule(line: &str) -> bool {
    let is_mark = |c| matches!(c, '|' | '-' | ':' | ' ' | '\t');
    line.contains('-') && line.contains('|') && line.chars().all(is_mark)
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim();
    let row = row.strip_prefix('|').unwrap_or(row);
    let row = row.strip_suffix('|').unwrap_or(row);
    let mut cells = vec![String::new()];
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, cells.last_mut()) {
            ('\\', Some(cell)) if chars.next_if_eq(&'|').is_some() => cell.push('|'),
            ('|', _) => cells.push(String::new()),
            (c, Some(cell)) => cell.push(c),
            (_, None) => {}
        }
    }
    let cell = |cell: &String| {
        // What is still alive here are tokens: code pings too.
        let cell = inline(cell.trim(), Dialect::Plain);
        text::fence_safe(&cell.replace('<', "&lt;").replace('>', "&gt;")).into_owned()
    };
    cells.iter().map(cell).collect()
}

fn push_table(out: &mut String, rows: &[Vec<String>], dialect: Dialect) {
    if dialect != Dialect::Mrkdwn {
        out.extend(rows.iter().map(|row| row.join(", ") + "\n"));
        return;
    }
    let width = |cell: &String| text::unescape(cell).chars().count();
    let mut widths = vec![0; rows.iter().map(Vec::len).max().unwrap_or_default()];
    for (widest, cell) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        // One endless cell must not pad all the others.
        widths[widest] = width(cell).min(60).max(widths[widest]);
    }
    let rules = widths.iter().map(|widest| "-".repeat(*widest)).collect();
    let (head, body) = rows.split_at(1);
    out.push_str("```\n");
    for row in head.iter().chain([&rules]).chain(body) {
        let pad = |(cell, widest): (&String, &usize)| {
            format!("{cell}{}", " ".repeat(widest.saturating_sub(width(cell))))
        };
        let padded: Vec<String> = row.iter().zip(&widths).map(pad).collect();
        out.push_str(&format!("{}\n", padded.join("  ").trim_end()));
    }
    out.push_str("```\n");
}

#[cfg(test)]
mod tests {
    use super::super::inline::{is_live, is_ping};
    use super::*;
    use crate::mutate::survive;

    /// Everything in angle brackets that Slack could act on.
    fn alive(text: &str) -> Vec<&str> {
        text.split('<')
            .skip(1)
            .filter_map(|part| part.split_once('>').map(|(inner, _)| inner))
            .filter(|inner| inner.starts_with(['@', '#', '!']) || inner.contains(':'))
            .collect()
    }

    #[test]
    fn writes_mrkdwn() {
        for (markdown, want) in [
            ("# Disk **full**\n\ntext", "Disk *full*\n\ntext"),
            ("## Title ##", "*Title*"),
            (
                "a **bold** and *it* and __b__ and _i_ ~~no~~",
                "a *bold* and _it_ and *b* and _i_ ~no~",
            ),
            ("***both***", "*_both_*"),
            ("**a *b***", "*a _b_*"),
            (
                "2 * 3 * 4 and snake_case_name and *args",
                "2 * 3 * 4 and snake_case_name and *args",
            ),
            ("- one\n  * two\n3. three", "• one\n  • two\n3. three"),
            ("> said <b>\n---", "> said &lt;b&gt;\n──────────"),
            ("`a < b` ``x ` y``", "`a &lt; b` `x ` y`"),
            (
                "```rust\nlet a = b < c; **x**\n```",
                "```\nlet a = b &lt; c; **x**\n```",
            ),
            ("~~~\n```\n~~~", "```\n``\u{200B}`\n```"),
            ("```\nopen", "```\nopen\n```"),
            (
                "[docs](https://x.de/a_(b)?c=1&d=2 \"t\") ![pic](http://y.de)",
                "<https://x.de/a_(b)?c=1&amp;d=2|docs> <http://y.de|pic>",
            ),
            (
                "see https://x.de/_a_?b=<c>, **https://y.de**.",
                "see <https://x.de/_a_?b=>&lt;c&gt;, *<https://y.de>*.",
            ),
            (
                "[a](README.md) [b](javascript:alert(1))",
                "a (README.md) b (javascript:alert(1))",
            ),
            ("\\*no\\* a & b &lt;", "*no* a &amp; b &lt;"),
            (
                "| name | size |\n|---|--:|\n| a\\|b | **1** |\n| `<!here>` | [x](http://z) |\nend",
                "```\nname     size\n-------  ------------\na|b      1\n&lt;!here&gt;  x (http://z)\n```\nend",
            ),
        ] {
            assert_eq!(mrkdwn(markdown), want, "{markdown}");
        }
    }

    #[test]
    fn only_people_channels_and_links_stay_alive() {
        for (markdown, want) in [
            (
                "<@U01> <@W0A|x> <#C01> <#C01|ops>",
                &["@U01", "@W0A|x", "#C01", "#C01|ops"][..],
            ),
            (
                "<https://x.de|x> <mailto:a@b.de>",
                &["https://x.de|x", "mailto:a@b.de"],
            ),
            (
                "<!channel> <!here|here> <!everyone> <!subteam^S1|@ops> <!CHANNEL>",
                &[],
            ),
            (
                "\\<!channel> *<!channel>* [<!here>](https://x.de/) <<!here>>",
                &["https://x.de/|&lt;!here&gt;"],
            ),
            ("<@U01 > <@u01> <@> <#> <@U01", &[]),
            ("<javascript:x> <slack://x> <https:// y>", &[]),
            ("`<!channel>` `` <@U01> `` `<!channel", &[]),
            ("```\n<!channel> <@U01> <#C01>\n```", &[]),
            ("``` <!channel>\n<!here>", &[]),
            ("    <!channel>\n\t<!here>", &[]),
            (
                "| <!here> | <@U01> |\n|---|---|\n| `<!channel>` | <#C01> |",
                &[],
            ),
            ("[x]: <!here>\n![<!here>](x.de/<!here>)", &[]),
        ] {
            let piece = &pieces(markdown)[0];
            let mrkdwn = piece.mrkdwn().join("\n");
            assert_eq!(alive(&mrkdwn), want, "{mrkdwn}");
            assert!(
                !alive(&piece.fallback)
                    .iter()
                    .any(|token| token.starts_with('!')),
                "{}",
                piece.fallback
            );
            for token in alive(&piece.markdown) {
                let known = want.iter().any(|known| known.starts_with(token));
                assert!(
                    known || markdown.starts_with('|') && !token.starts_with('!'),
                    "{token} in {}",
                    piece.markdown
                );
            }
        }
        for (markdown, want) in [
            ("@channel @here, (@everyone) _@here_", true),
            ("a@here.com @channels @heretic", false),
        ] {
            for text in [neutralise(markdown), mrkdwn(markdown), plain(markdown)] {
                assert_eq!(text.contains("@\u{200B}"), want, "{text}");
                assert!(!want || !text.contains("@h"), "{text}");
            }
        }
    }

    #[test]
    fn markdown_stays_markdown() {
        let markdown = "# T\n\n**b** `a<b` [x](https://y.de/a&b) | <https://x.de> &amp; 1 > 0\n> q\n```html\n<!DOCTYPE html>\n<a @here>\n```\n";
        assert_eq!(neutralise(markdown), markdown);
        assert_eq!(
            neutralise("a < b [x](javascript:y) <br>"),
            "a &lt; b [x]\u{200B}(javascript:y) &lt;br>"
        );
    }

    #[test]
    fn fallback_is_a_sentence() {
        for (markdown, want) in [
            (
                "## Disk\nThe **backup** disk is `91 %` full, see [x](http://y.de).",
                "Disk\nThe backup disk is 91 % full, see x (http://y.de).",
            ),
            ("```sh\nls < a\n```", "ls &lt; a"),
            ("| a | b |\n|---|---|\n| 1 | 2 |", "a, b\n1, 2"),
            ("---", "(an answer without words)"),
            ("", "(an answer without words)"),
        ] {
            assert_eq!(plain(markdown), want, "{markdown}");
        }
        let long = plain(&"word & ".repeat(10_000));
        assert!(
            text::utf16_len(&long) <= 3_001 && long.ends_with("word &amp; …"),
            "{long}"
        );
    }

    #[test]
    fn splits_without_loss() {
        let paragraph = |n: usize| format!("p{n} {}\n\n", "word ".repeat(100));
        let code = |n: usize| {
            (0..n)
                .map(|i| format!("# line {i} <é>\n"))
                .collect::<String>()
        };
        let headings = |n: usize| {
            (0..n)
                .map(|i| format!("## H{i}\n\nfew words\n\n"))
                .collect::<String>()
        };
        for (name, markdown, messages) in [
            ("short", "hello".to_owned(), 1..=1),
            ("paragraphs", (0..60).map(paragraph).collect(), 3..=3),
            (
                "code",
                format!("a\n\n```py\n{}```\nb\n", code(1_500)),
                3..=4,
            ),
            ("headings", headings(60), 3..=4),
            ("long line", "x<".repeat(10_000), 5..=8),
            ("emoji", "👍".repeat(10_000), 2..=2),
            ("open fence", format!("```\n{}", code(1_000)), 2..=3),
            (
                "hostile fence",
                format!("{}\n{}", "`".repeat(13_000), "x\n".repeat(9_000)),
                2..=6,
            ),
            (
                "long opener",
                format!("```{}\n{}```", "x".repeat(13_000), "y\n".repeat(9_000)),
                2..=6,
            ),
            (
                "long code line",
                format!("```\n{}\n```", "z".repeat(30_000)),
                3..=4,
            ),
        ] {
            let safe = neutralise(&markdown);
            let pieces = pieces(&markdown);
            assert!(
                messages.contains(&pieces.len()),
                "{name}: {} messages",
                pieces.len()
            );
            let bare = |text: &str| text.split_whitespace().collect::<String>();
            let mut seen = String::new();
            for (number, piece) in pieces.iter().enumerate() {
                assert!(
                    text::utf16_len(&piece.markdown) <= MARKDOWN_UNITS_MAX,
                    "{name}"
                );
                assert!(
                    !piece.fallback.trim().is_empty() && text::utf16_len(&piece.fallback) <= 4_000,
                    "{name}"
                );
                for part in piece.mrkdwn() {
                    assert!(text::utf16_len(&part) <= MRKDWN_UNITS_MAX, "{name}");
                    assert!(
                        part.matches("```").count() % 2 == 0 || name == "hostile fence",
                        "{name}: {part}"
                    );
                }
                let mut part = bare(&piece.markdown);
                if name.contains("code") && number > 0 && part.starts_with("```") {
                    part = part
                        .trim_start_matches("```")
                        .trim_start_matches("py")
                        .to_owned();
                }
                if name.contains("code") && number + 1 < pieces.len() {
                    part = part.trim_end_matches("```").to_owned();
                }
                seen += &part;
            }
            if !["open fence", "long opener", "hostile fence"].contains(&name) {
                assert_eq!(seen, bare(&safe), "{name}");
            }
        }
        assert_eq!(pieces(" \n")[0].mrkdwn(), ["(an answer without words)"]);
        // Not between a heading and its text, not inside a token.
        let text = format!("{}\n\n## Head\n\n{}", "a ".repeat(5_600), "b ".repeat(200));
        assert!(
            pieces(&text)[1].markdown.starts_with("## Head\n\nb "),
            "{}",
            pieces(&text)[1].markdown
        );
        let text = format!(
            "{} <https://example.org/{}>",
            "a".repeat(11_980),
            "b".repeat(60)
        );
        assert!(pieces(&text)[1].markdown.starts_with("<https://"));
    }

    #[test]
    fn survives_hostile_text_in_linear_time() {
        for unit in [
            "*",
            "_",
            "**a",
            "[",
            "[a](",
            "[[a](b)](c)",
            "`",
            "``a",
            "<",
            "<@U1",
            "&",
            "\\",
            "|",
            "|-|\n",
            "~~",
            "@here",
            "https://(",
            "> ",
            "#",
            "```\n",
            "\u{200B}",
            "*a* _b_",
            "🦀*",
        ] {
            let hostile = unit.repeat(20_000 / unit.len());
            let pieces = pieces(&hostile);
            assert!(
                !pieces.is_empty()
                    && pieces
                        .iter()
                        .all(|piece| text::utf16_len(&piece.markdown) <= MARKDOWN_UNITS_MAX),
                "{unit}"
            );
            assert!(
                pieces[0]
                    .mrkdwn()
                    .iter()
                    .all(|part| text::utf16_len(part) <= MRKDWN_UNITS_MAX),
                "{unit}"
            );
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "# T\n\n**b** *i* ~~s~~ `a<b` [x](https://y.de/a&b \"t\") | <https://x.de> &amp; 1 > 0\n> q\n",
            "```html\n<!DOCTYPE html>\n<a @here>\n```\n~~~\n```\n~~~\nend",
            "<@U01> <@W0A|x> <#C01|ops> <!channel> <!subteam^S1|@ops> \\<!here> [<!here>](https://x.de/)",
            "| name | size |\n|---|--:|\n| a\\|b | **1** |\n| `<!here>` | [x](http://z) |\nend",
            "- one\n  * two\n3. three\n---\n![pic](mailto:a@b.de) @channel, (@everyone) _@here_",
            "``x ` y`` *** ** _a_ [[a](b)](c) https://a.b/(c)_d_. \\*no\\*",
        ];
        survive(&corpus, |random, input| {
            let text = String::from_utf8_lossy(input);
            let pieces = pieces(&text);
            assert!(!pieces.is_empty());
            for piece in &pieces {
                assert!(text::utf16_len(&piece.markdown) <= MARKDOWN_UNITS_MAX);
                assert!(!piece.markdown.trim().is_empty() && !piece.fallback.trim().is_empty());
                let mrkdwn = piece.mrkdwn();
                for text in [&piece.markdown, &piece.fallback]
                    .into_iter()
                    .chain(&mrkdwn)
                {
                    for (at, _) in text.match_indices('<') {
                        let tail = &text[at + 1..];
                        let live = tail
                            .split_once('>')
                            .is_some_and(|(inner, _)| is_live(inner));
                        assert!(live || !is_ping(tail), "{text}");
                    }
                }
                let mut sizes = mrkdwn.iter().map(|part| text::utf16_len(part));
                assert!(sizes.all(|size| size <= MRKDWN_UNITS_MAX));
                assert!(text::utf16_len(&piece.fallback) <= FALLBACK_UNITS_MAX + 1);
            }
            // Nothing is lost; the fences are what may come twice.
            let max = 900 + random.below(200);
            let parts = split(&text, max);
            assert!(parts.iter().all(|part| text::utf16_len(part) <= max));
            if !text.contains("```") && !text.contains("~~~") {
                let bare = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(bare(&parts.concat()), bare(&text));
            }
        });
    }
}
