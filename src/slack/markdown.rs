//! Converts the model's Markdown for Slack: makes it safe, splits it into messages, and writes the
//! `text` that goes with each `markdown` block. Pure.
//!
//! The text is the escaped source; only headings, lists and links are written with Slack's
//! marks. It is what notifications show, and the whole message where Slack refuses the block. Format: docs.slack.dev, "Formatting message text" and "Markdown block".

use super::inline::{Form, inline, push_code};
use crate::base::text;

/// UTF-16 units of all `markdown` blocks of a message (Slack docs, markdown block).
const MARKDOWN_UNITS_MAX: usize = 12_000;
/// Limit of `text`: chat.update refuses more than 4,000, chat.postMessage recommends the same.
pub(crate) const TEXT_UNITS_MAX: usize = 3_900;
/// Limit of `text` next to a block, for notifications and screen readers.
const FALLBACK_UNITS_MAX: usize = 3_000;
/// Extra weight of a heading or a fence. Slack turns a markdown block into blocks of its own (these
/// two end the run of text before them), allows 50 of them, and adds about 100 units for a heading:
/// both were observed as `msg_blocks_too_long` below 12,000.
const BLOCK_UNITS: usize = 500;

/// Splits the answer into the texts of `markdown` blocks, one per message; nothing is lost, no
/// piece is blank, and there is at least one.
pub(crate) fn pieces(markdown: &str) -> Vec<String> {
    let mut parts = split(&safe(markdown), MARKDOWN_UNITS_MAX, BLOCK_UNITS);
    if parts.is_empty() {
        parts.push("_(an answer without words)_".to_owned());
    }
    parts
}

/// The `text` next to the block of a piece.
pub(crate) fn fallback(piece: &str) -> String {
    let text = mrkdwn(piece);
    match cut_at(&text, FALLBACK_UNITS_MAX) {
        at if at == text.len() => text,
        at => format!("{}…", &text[..at]),
    }
}

/// A piece without a block: texts of at most `TEXT_UNITS_MAX`.
pub(crate) fn texts(piece: &str) -> Vec<String> {
    split(&mrkdwn(piece), TEXT_UNITS_MAX, 0)
}

/// Markdown in which only mentions of people and channels and web links keep their meaning.
pub(crate) fn safe(markdown: &str) -> String {
    let markdown = text::printable(markdown);
    let mut fences = Fences::default();
    let mut out = String::with_capacity(markdown.len());
    for line in markdown.split_inclusive('\n') {
        match fences.line(line) {
            FenceLine::Text => out.push_str(&inline(line, Form::Markdown)),
            _ => push_code(&mut out, line, Form::Markdown),
        }
    }
    out
}

/// The escaped source with Slack's marks. An open fence is closed.
pub(crate) fn mrkdwn(markdown: &str) -> String {
    let mut out = String::with_capacity(markdown.len());
    let mut fences = Fences::default();
    for line in markdown.lines() {
        match fences.line(line) {
            FenceLine::Text => push_line(&mut out, line),
            FenceLine::Code => push_code(&mut out, line, Form::Mrkdwn),
            FenceLine::Opens | FenceLine::Closes => out.push_str("```"),
        }
        out.push('\n');
    }
    if fences.open.is_some() {
        out.push_str("```\n");
    }
    out.truncate(out.trim_end().len());
    out
}

fn push_line(out: &mut String, line: &str) {
    let body = line.trim_start();
    let indent = &line[..line.len() - body.len()];
    let mut bullets = ["- ", "* ", "+ "].iter();
    let bullet = bullets.find_map(|bullet| body.strip_prefix(bullet));
    if is_heading(line) {
        let title = inline(body.trim_matches('#').trim(), Form::Mrkdwn);
        let mark = if title.contains('*') { "" } else { "*" };
        out.push_str(&format!("{mark}{title}{mark}"));
    } else if let Some(item) = bullet {
        out.push_str(&format!("{indent}• {}", inline(item, Form::Mrkdwn)));
    } else if let Some(quote) = body.strip_prefix('>') {
        out.push_str(&format!(">{}", inline(quote, Form::Mrkdwn)));
    } else {
        out.push_str(&format!("{indent}{}", inline(body, Form::Mrkdwn)));
    }
}

/// Whether a walk over lines is within a code fence.
#[derive(Default)]
struct Fences {
    open: Option<(char, usize)>,
}

#[derive(Clone, Copy, PartialEq)]
enum FenceLine {
    Text,
    Opens,
    Code,
    Closes,
}

impl Fences {
    fn line(&mut self, line: &str) -> FenceLine {
        let line = line.trim();
        let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'));
        let run = line.chars().take_while(|c| Some(*c) == mark).count();
        match (self.open, mark) {
            (Some((open, least)), Some(mark))
                if mark == open && run >= least && line.len() == run =>
            {
                self.open = None;
                FenceLine::Closes
            }
            (Some(_), _) => FenceLine::Code,
            (None, Some(mark))
                if run >= 3
                    && !(mark == '`' && line.get(run..).is_some_and(|info| info.contains('`'))) =>
            {
                self.open = Some((mark, run));
                FenceLine::Opens
            }
            (None, _) => FenceLine::Text,
        }
    }
}

/// The end of a text that is still being written: whole lines where possible, code that
/// began before them opened again. At most `units_max` after `safe` and as mrkdwn.
pub(crate) fn tail(markdown: &str, units_max: usize) -> String {
    let markdown = markdown.trim();
    let mut kept = units_max;
    loop {
        let mut tail = text::utf16_suffix(markdown, kept);
        if tail.len() < markdown.len() {
            tail = tail.split_once('\n').map_or(tail, |(_, lines)| lines);
        }
        let mut fences = Fences::default();
        for line in markdown[..markdown.len() - tail.len()].lines() {
            fences.line(line);
        }
        let fence = if fences.open.is_some() { "```\n" } else { "" };
        let out = safe(&format!("{fence}{tail}"));
        if units(&out) <= units_max && units(&mrkdwn(&out)) <= units_max {
            return out;
        }
        kept /= 2;
    }
}

// Splitting.

/// Splits into parts of at most `units_max`: between paragraphs if possible, else lines, else
/// words. A fence that is cut is closed and opened again. White space at the cuts is dropped.
/// `block_units`: extra weight of a heading or a fence.
pub(super) fn split(text: &str, units_max: usize, block_units: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text.to_owned();
    loop {
        let (at, fence) = first_cut(&rest, units_max, block_units);
        let is_last = at == rest.len();
        let tail = rest.split_off(at);
        let part = rest.trim_end().trim_start_matches(['\n', '\r']);
        let (opener, mark) = fence.unwrap_or_default();
        if !part.is_empty() {
            parts.push(match mark.is_empty() {
                true => part.to_owned(),
                false => format!("{part}\n{mark}"),
            });
        }
        if is_last {
            return parts;
        }
        rest = opener + &tail;
    }
}

/// Where the first part ends; if that cuts a fence, also the lines that open it again and close it.
fn first_cut(
    text: &str,
    units_max: usize,
    block_units: usize,
) -> (usize, Option<(String, String)>) {
    let mut walk = Walk::default();
    let mut fence: Option<(String, String)> = None;
    // The last place that is good for a cut, in the second half.
    let mut seam = None;
    let (mut at, mut weight) = (0, 0);
    for line in text.split_inclusive('\n') {
        let (kind, is_seam, blocks) = walk.line(line);
        let extra = blocks * block_units;
        if is_seam && weight > units_max / 2 {
            seam = Some(at);
        }
        // A fence of 80 or more marks is not meant as one: it is split like text.
        let open = walk.fences.open.filter(|(_, run)| *run < 80);
        // Leaves room for the closing line, also if this line closes the fence but does not fit.
        let closer = fence.as_ref().map(|(_, mark)| mark.len());
        let closer = closer.or(open.map(|(_, run)| run));
        let room = units_max - closer.map_or(0, |run| run + 1);
        let left = room.saturating_sub(weight);
        if units(line) + extra > left {
            let begun = fence.as_ref().map_or(0, |(opener, _)| opener.len());
            // A line too long for any part fills this one first.
            let fills = left > room / 4 && units(line) > room;
            return match seam {
                Some(seam) => (seam, None),
                None if at > begun && !fills => (at, fence),
                None => (at + cut_at(line, left.max(1)), fence),
            };
        }
        match kind {
            FenceLine::Opens => fence = open.map(|open| reopened(line, open)),
            FenceLine::Closes => fence = None,
            FenceLine::Text | FenceLine::Code => {}
        }
        weight += units(line) + extra;
        at += line.len();
    }
    (text.len(), None)
}

/// The lines that open a fence again and close it; a long opener loses its info string.
fn reopened(opener: &str, (mark, run): (char, usize)) -> (String, String) {
    let mark = mark.to_string().repeat(run);
    let opener = match opener.len() {
        0..=80 => opener.trim_end(),
        _ => &mark,
    };
    (format!("{opener}\n"), mark)
}

#[derive(Default)]
struct Walk {
    fences: Fences,
    /// After a blank line or a fence: a new paragraph begins.
    after_gap: bool,
    /// A heading stays with what follows it.
    after_heading: bool,
}

impl Walk {
    /// What a line is, whether a part may end before it, and how many blocks it begins.
    fn line(&mut self, line: &str) -> (FenceLine, bool, usize) {
        let kind = self.fences.line(line);
        let blank = line.trim().is_empty();
        let heading = kind == FenceLine::Text && is_heading(line);
        let is_seam = match kind {
            FenceLine::Opens => !self.after_heading,
            FenceLine::Text => heading || !blank && self.after_gap && !self.after_heading,
            FenceLine::Code | FenceLine::Closes => false,
        };
        self.after_gap = blank || kind == FenceLine::Closes;
        self.after_heading = heading || self.after_heading && blank;
        let blocks = usize::from(heading || kind == FenceLine::Opens);
        (kind, is_seam, blocks)
    }
}

fn is_heading(line: &str) -> bool {
    let line = line.trim_start();
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with([' ', '\t'])
}

/// UTF-16 units after escaping.
fn units(text: &str) -> usize {
    text.chars().map(char_units).sum()
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
    fn text_is_the_escaped_source_with_slacks_marks() {
        for (markdown, want) in [
            ("# Disk *full*\n\ntext", "Disk *full*\n\ntext"),
            ("## Title ##", "*Title*"),
            (
                "a **b**, _i_, https://x.de/a",
                "a **b**, _i_, https://x.de/a",
            ),
            ("- one\n  * two\n3. three", "• one\n  • two\n3. three"),
            ("> said <b>\n---", "> said &lt;b&gt;\n---"),
            ("`a < b**` ``x ` y``", "`a &lt; b**` `x ` y`"),
            ("```rust\na < b; **x**\n```", "```\na &lt; b; **x**\n```"),
            ("~~~\n```\n~~~", "```\n``\u{200B}`\n```"),
            ("```\nopen", "```\nopen\n```"),
            (
                "[docs](https://x.de/a_(b)?c=1&d=2 \"t\") ![pic](http://y.de) [](mailto:a@b.de)",
                "<https://x.de/a_(b)?c=1&amp;d=2|docs> <http://y.de|pic> <mailto:a@b.de>",
            ),
            (
                "[a](README.md) [b](javascript:x)",
                "[a](README.md) [b](javascript:x)",
            ),
            ("\\*no\\* a & b &lt;", "\\*no\\* a &amp; b &lt;"),
            (
                "| a | b |\n|---|--:|\n| `<!here>` | 1 |",
                "| a | b |\n|---|--:|\n| `&lt;!here&gt;` | 1 |",
            ),
        ] {
            assert_eq!(mrkdwn(markdown), want, "{markdown}");
        }
        let long = fallback(&pieces(&"word & ".repeat(1_000))[0]);
        assert!(
            text::utf16_len(&long) <= 3_001 && long.ends_with("word &amp; …"),
            "{long}"
        );
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
                "| <!here> | <@U01> |\n|---|---|\n| `<!channel>` | b |",
                &["@U01"],
            ),
            ("[x]: <!here>\n![<!here>](x.de/<!here>)", &[]),
        ] {
            let piece = &pieces(markdown)[0];
            let texts = texts(piece).join("\n");
            assert_eq!(alive(&texts), want, "{texts}");
            assert_eq!(alive(&fallback(piece)), want, "{texts}");
            for token in alive(piece) {
                let known = want.iter().any(|known| known.starts_with(token));
                assert!(known, "{token} in {piece}");
            }
        }
        for (markdown, want) in [
            ("@channel @here, (@everyone) _@here_", true),
            ("a@here.com @channels @heretic", false),
        ] {
            for text in [safe(markdown), mrkdwn(markdown)] {
                assert_eq!(text.contains("@\u{200B}"), want, "{text}");
                assert!(!want || !text.contains("@h"), "{text}");
            }
        }
    }

    #[test]
    fn markdown_stays_markdown() {
        let markdown = "# T\n\n**b** `a<b` [x](https://y.de/a&b) | <https://x.de> &amp; 1 > 0\n> q\n```html\n<!DOCTYPE html>\n<a @here>\n```\n";
        assert_eq!(safe(markdown), markdown);
        assert_eq!(
            safe("a < b [x](javascript:y) <br>"),
            "a &lt; b [x]\u{200B}(javascript:y) &lt;br>"
        );
    }

    #[test]
    fn splits_into_few_messages() {
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
            let pieces = pieces(&markdown);
            let count = pieces.len();
            assert!(messages.contains(&count), "{name}: {count} messages");
            for piece in &pieces {
                assert!(text::utf16_len(piece) <= MARKDOWN_UNITS_MAX, "{name}");
                assert!(!fallback(piece).trim().is_empty(), "{name}");
                for part in texts(piece) {
                    assert!(text::utf16_len(&part) <= TEXT_UNITS_MAX, "{name}");
                    let is_whole = part.matches("```").count() % 2 == 0;
                    assert!(is_whole || name == "hostile fence", "{name}: {part}");
                }
            }
        }
        assert_eq!(pieces(" \n"), ["_(an answer without words)_"]);
        // Not between a heading and its text, not inside a token.
        let text = format!("{}\n\n## Head\n\n{}", "a ".repeat(5_600), "b ".repeat(200));
        let second = &pieces(&text)[1];
        assert!(second.starts_with("## Head\n\nb "), "{second}");
        let text = format!(
            "{} <https://example.org/{}>",
            "a".repeat(11_980),
            "b".repeat(60)
        );
        assert!(pieces(&text)[1].starts_with("<https://"));
    }

    #[test]
    fn a_closing_fence_that_does_not_fit_is_cut_within_the_limit() {
        let text = format!("```\n{}\n{}\nend", "a".repeat(400), "`".repeat(2_000));
        for part in split(&text, 900, 0) {
            assert!(text::utf16_len(&part) <= 900, "{part}");
        }
    }

    #[test]
    fn survives_hostile_text_in_linear_time() {
        let units = "* _ **a [ [a]( [[a](b)](c) ` ``a < <@U1 & \\ | |-|\n ~~ @here https://( # ```\n \u{200B} 🦀*";
        for unit in units.split(' ') {
            let pieces = pieces(&unit.repeat(20_000 / unit.len()));
            let fits = |piece: &String| text::utf16_len(piece) <= MARKDOWN_UNITS_MAX;
            assert!(!pieces.is_empty() && pieces.iter().all(fits), "{unit}");
            let mut texts = texts(&pieces[0]).into_iter();
            let fits = texts.all(|part| text::utf16_len(&part) <= TEXT_UNITS_MAX);
            assert!(fits, "{unit}");
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
                assert!(text::utf16_len(piece) <= MARKDOWN_UNITS_MAX);
                assert!(!piece.trim().is_empty());
                let texts = texts(piece);
                for text in std::iter::once(piece).chain(&texts) {
                    for (at, _) in text.match_indices('<') {
                        let tail = &text[at + 1..];
                        let live = tail
                            .split_once('>')
                            .is_some_and(|(inner, _)| is_live(inner));
                        assert!(live || !is_ping(tail), "{text}");
                    }
                }
                let mut sizes = texts.iter().map(|part| text::utf16_len(part));
                assert!(sizes.all(|size| size <= TEXT_UNITS_MAX));
                assert!(text::utf16_len(&fallback(piece)) <= FALLBACK_UNITS_MAX + 1);
            }
            // No text is lost; only fences may come twice.
            let max = 900 + random.below(200);
            let parts = split(&text, max, 0);
            assert!(parts.iter().all(|part| text::utf16_len(part) <= max));
            if !text.contains("```") && !text.contains("~~~") {
                let bare = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(bare(&parts.concat()), bare(&text));
            }
        });
    }
}
