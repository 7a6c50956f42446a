//! The text that people see of a message, in Slack's own encoding (mrkdwn, with `&amp;`, `&lt;` and
//! `&gt;`), and the files that belong to it. All readers of messages (events, threads, catching up,
//! --download) use `shown`. Pure.
//! https://docs.slack.dev/reference/block-kit/blocks and
//! https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments

use std::collections::HashSet;

use serde_json::Value;

use crate::base::json;
use crate::base::text;
use crate::base::time;

use super::files::SlackFile;

/// Limit for the text of blocks and attachments, in characters; a line end counts as one.
const CHARS_MAX: usize = 40_000;
/// Files of one message, those of forwarded messages included.
const FILES_MAX: usize = 50;
/// Blocks that are not text: their type, what people call it, and the values that are shown.
const MARKED: [(&str, &str, &[&str]); 4] = [
    ("image", "image", &["/title", "/alt_text"]),
    ("video", "video", &["/title", "/title_url", "/description"]),
    (
        "call",
        "video call",
        &["/call/v1/name", "/call/v1/join_url"],
    ),
    ("file", "file", &["/file/name", "/external_id"]),
];
/// Keys that hold the visible text of all other blocks, in reading order.
#[rustfmt::skip]
const SHOWN_KEYS: [&str; 20] = [
    "author_name", "title", "subtitle", "caption", "text", "description", "label", "element",
    "initial_value", "body", "fields", "elements", "blocks", "child_blocks", "cards", "tasks", "details", "output",
    "sources", "accessory",
];

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Shown {
    /// What its author wrote: `text` and blocks.
    pub(crate) body: String,
    /// Attachments, forwarded messages, and notes about files that can't be fetched.
    pub(crate) beside: String,
    /// Files that can be fetched, those of forwarded messages included.
    pub(crate) files: Vec<SlackFile>,
}

impl Shown {
    pub(crate) fn text(&self) -> String {
        match (self.body.as_str(), self.beside.as_str()) {
            (text, "") | ("", text) => text.to_owned(),
            (body, beside) => format!("{body}\n{beside}"),
        }
    }
}

/// A message as events, conversations.history and conversations.replies have it.
pub(crate) fn shown(message: &Value) -> Shown {
    let mut blocks = Lines::default();
    blocks.show(&message["blocks"]);
    let body = merged(string(&message["text"]), &blocks);
    let mut reader = Reader::default();
    let room = &message["room"];
    if room.is_object() {
        reader.lines.push(&mark("huddle", &[string(&room["name"])]));
    }
    reader.files(&message["files"]);
    let known = lines_of(&body);
    for attachment in list(&message["attachments"]) {
        reader.attachment(attachment, &known);
    }
    reader.files.truncate(FILES_MAX);
    Shown {
        body,
        beside: reader.lines.joined("\n"),
        files: reader.files,
    }
}

/// `text`, and what only the blocks contain: Slack sends most messages in both forms.
/// Whole lines are compared: the words of a short line (`failed`) occur in many texts.
fn merged(text: &str, blocks: &Lines) -> String {
    let whole = blocks.joined("\n");
    let (known, shown) = (words(text), words(&whole));
    let lines = lines_of(text);
    let mut new = blocks.lines.clone();
    new.retain(|line| !lines.contains(&words(line)));
    let is_bare = new.iter().all(|line| words(line).is_empty());
    if (is_bare || shown == known) && !text.trim().is_empty() {
        return text.to_owned();
    }
    if shown.contains(&known) {
        return whole;
    }
    new.iter()
        .fold(text.to_owned(), |text, line| text + "\n" + line)
}

/// The `words` of each line that has some.
fn lines_of(text: &str) -> HashSet<String> {
    let lines = text.split('\n').map(words);
    lines.filter(|words| !words.is_empty()).collect()
}

/// The words and signs of a text in lower case, a space around each, without formatting, bullets
/// and the names in `<#C1|name>`. Texts that read alike give the same result.
fn words(text: &str) -> String {
    let mut words = String::new();
    for line in text.split('\n') {
        let line = line.trim_start();
        let line = line.strip_prefix("&gt;").unwrap_or(line).trim_start();
        // Slack writes other bullets for the inner lists of `text`.
        let item = line.strip_prefix(['•', '◦', '▪', '▫']).unwrap_or_default();
        add_words(&mut words, if item.is_empty() { line } else { item });
    }
    match words.is_empty() {
        true => words,
        false => words + " ",
    }
}

fn add_words(words: &mut String, line: &str) {
    for part in line.split('<') {
        let token = part
            .split_once('>')
            .filter(|_| part.starts_with(['@', '#', '!']));
        let (id, rest) = match token {
            Some((token, rest)) => (token.split('|').next().unwrap_or_default(), rest),
            None => ("", part),
        };
        for text in [id, rest] {
            let mut is_inside = false;
            for c in text.chars() {
                let is_letter = c.is_alphanumeric();
                let is_format = c.is_whitespace() || matches!(c, '*' | '_' | '~' | '`' | '>');
                if !is_format {
                    if !(is_inside && is_letter) {
                        words.push(' ');
                    }
                    words.extend(c.to_lowercase());
                }
                is_inside = is_letter;
            }
        }
    }
}

/// `[a video: name, address]`: a placeholder for content that is not text.
fn mark(kind: &str, details: &[&str]) -> String {
    let kind = text::one_line(&kind.replace('_', " "), 40);
    let article = match kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    };
    let mut details = details.to_vec();
    details.retain(|text| !text.is_empty());
    let colon = if details.is_empty() { "" } else { ": " };
    format!("[{article} {kind}{colon}{}]", details.join(", "))
}

/// The string or text object at this JSON pointer.
fn at<'a>(value: &'a Value, path: &str) -> &'a str {
    let found = value.pointer(path).unwrap_or(&Value::Null);
    found["text"].as_str().unwrap_or(string(found))
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The first of these keys that holds a text.
pub(super) fn first<'a>(value: &'a Value, keys: &[&str]) -> &'a str {
    let mut texts = keys.iter().map(|key| string(&value[*key]).trim());
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

/// Lines of text, up to `CHARS_MAX` characters.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    chars: usize,
}

impl Lines {
    fn push(&mut self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        for line in text.trim_end().split('\n') {
            if self.is_full() {
                return;
            }
            let line = text::cut(line, CHARS_MAX + 1 - self.chars);
            self.chars += line.chars().count() + 1;
            self.lines.push(line.into_owned());
            if self.is_full() {
                let mark = "[the rest is too long to be shown]";
                self.lines.push(mark.to_owned());
            }
        }
    }

    fn is_full(&self) -> bool {
        self.chars > CHARS_MAX
    }

    fn joined(&self, separator: &str) -> String {
        self.lines.join(separator)
    }

    /// A string, a block, a text object, an element, or a list of these.
    fn show(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.push(text),
            Value::Array(items) => items.iter().for_each(|item| self.show(item)),
            Value::Object(_) => self.block(value),
            _ => {}
        }
    }

    fn block(&mut self, block: &Value) {
        let kind = string(&block["type"]);
        if let Some((_, name, details)) = MARKED.iter().find(|(marked, ..)| *marked == kind) {
            let details: Vec<&str> = details.iter().map(|path| at(block, path)).collect();
            return self.push(&mark(name, &details));
        }
        match kind {
            "divider" => {}
            "button" | "workflow_button" => {
                self.push(&format!("[{}]", first(&block["text"], &["text"])));
            }
            "url" => self.push(&element(block)),
            "checkboxes" | "radio_buttons" => self.show(&block["options"]),
            "raw_number" => match &block["text"] {
                Value::String(text) => self.push(text),
                _ => self.push(&json::text(&block["value"])),
            },
            "table" | "data_table" => {
                self.show(&block["caption"]);
                for row in list(&block["rows"]) {
                    let cells = list(row).map(|cell| {
                        let mut lines = Lines::default();
                        lines.show(cell);
                        lines.joined(" ")
                    });
                    self.push(&cells.collect::<Vec<_>>().join(" | "));
                }
            }
            "overflow" => {}
            kind if kind.ends_with("_select") || kind.ends_with("picker") => {
                let shown = ["/initial_option/text", "/initial_date", "/placeholder"];
                self.push(&mark(kind, &shown.map(|path| at(block, path))));
            }
            kind if kind.starts_with("rich_text_") => self.rich(block, kind),
            kind => {
                let before = self.lines.len();
                SHOWN_KEYS.iter().for_each(|key| self.show(&block[*key]));
                // An empty text shows nothing.
                let is_text = kind.is_empty() || kind.contains("text") || kind == "mrkdwn";
                if self.lines.len() == before && !is_text {
                    self.push(&mark(kind, &[]));
                }
            }
        }
    }

    /// A part of a rich_text block.
    fn rich(&mut self, part: &Value, kind: &str) {
        let inline = |part: &Value| list(&part["elements"]).map(element).collect::<String>();
        match kind {
            "rich_text_list" => {
                let indent = part["indent"].as_u64().unwrap_or_default().min(8);
                let first = part["offset"].as_u64().unwrap_or_default() + 1;
                for (number, item) in (first..).zip(list(&part["elements"])) {
                    let bullet = match string(&part["style"]) {
                        "ordered" => format!("{number}. "),
                        _ => "• ".to_owned(),
                    };
                    self.push(&format!(
                        "{}{bullet}{}",
                        "   ".repeat(indent as usize),
                        inline(item)
                    ));
                }
            }
            "rich_text_quote" => {
                self.push(&format!("&gt; {}", inline(part).replace('\n', "\n&gt; ")));
            }
            "rich_text_preformatted" => self.push(&format!("```\n{}\n```", inline(part))),
            _ => self.push(&inline(part)),
        }
    }
}

/// An element of rich text; its strings are not encoded, unlike those of other blocks.
fn element(value: &Value) -> String {
    let text = |key: &str| text::escape(string(&value[key]));
    let kind = string(&value["type"]);
    let shown = match kind {
        "user" => format!("<@{}>", text("user_id")),
        "usergroup" => format!("<!subteam^{}>", text("usergroup_id")),
        "channel" => format!("<#{}>", text("channel_id")),
        "broadcast" => format!("<!{}>", text("range")),
        "emoji" => match value["skin_tone"].as_u64() {
            Some(tone) => format!(":{}::skin-tone-{tone}:", text("name")),
            None => format!(":{}:", text("name")),
        },
        "date" if string(&value["fallback"]).is_empty() => {
            let seconds = value["timestamp"].as_i64().unwrap_or_default();
            time::utc_stamp(seconds.saturating_mul(1000)) + " UTC"
        }
        _ => {
            let label = text::escape(first_raw(value));
            match text("url") {
                url if url.is_empty() && label.is_empty() => mark(kind, &[]),
                url if url.is_empty() => label,
                url if label.is_empty() => format!("<{url}>"),
                url => format!("<{url}|{label}>"),
            }
        }
    };
    if shown.trim().is_empty() || shown.contains('\n') {
        return shown;
    }
    let styles = [
        ("code", '`'),
        ("bold", '*'),
        ("italic", '_'),
        ("strike", '~'),
    ];
    let styles = styles
        .iter()
        .filter(|(name, _)| value["style"][name] == true);
    styles.fold(shown, |shown, (_, sign)| format!("{sign}{shown}{sign}"))
}

/// The first non-empty text, not trimmed: its spaces separate it from the elements around it.
fn first_raw(element: &Value) -> &str {
    let keys = [
        "text", "label", "title", "fallback", "value", "name", "team_id", "file_id",
    ];
    let mut texts = keys.iter().map(|key| string(&element[*key]));
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

/// Collects the attachments and files of a message.
#[derive(Default)]
struct Reader {
    lines: Lines,
    files: Vec<SlackFile>,
}

impl Reader {
    /// `known`: the lines of the message itself, which many attachments repeat.
    fn attachment(&mut self, attachment: &Value, known: &HashSet<String>) {
        let originals = list(&attachment["message_blocks"]).map(|part| &part["message"]);
        let originals: Vec<&Value> = originals.collect();
        let mut blocks = Lines::default();
        for original in &originals {
            blocks.show(&original["blocks"]);
        }
        blocks.show(&attachment["blocks"]);
        let text = merged(string(&attachment["text"]), &blocks);
        let mut card = card(attachment, &text);
        if is_forwarded(attachment) {
            self.lines.push(&forwarder(attachment));
        } else {
            card.lines.retain(|line| !known.contains(&words(line)));
        }
        for line in &card.lines {
            self.lines.push(line);
        }
        for part in originals.into_iter().chain([attachment]) {
            list(&part["attachments"]).for_each(|inner| self.attachment(inner, &HashSet::new()));
            self.files(&part["files"]);
        }
    }

    fn files(&mut self, files: &Value) {
        for value in list(files) {
            match SlackFile::parse(value) {
                Ok(file) => self.files.push(file),
                Err(why) => self.lines.push(&format!("[{why}]")),
            }
            self.file_text(value);
        }
    }

    /// Adds the text that Slack has of a file: transcript, description, e-mail.
    fn file_text(&mut self, file: &Value) {
        let speech = &file["transcription"];
        let transcript = string(&speech["preview"]["content"]);
        let vtt = string(&file["vtt"]);
        let is_partial = transcript.is_empty() || speech["preview"]["has_more"] == true;
        let rest = if is_partial {
            " ... (the rest is in the file)"
        } else {
            ""
        };
        if !transcript.is_empty() {
            self.lines
                .push(&format!("[transcript: {}{rest}]", text::escape(transcript)));
        } else if speech.is_object() && vtt.is_empty() {
            self.lines.push("[a clip of which Slack has no transcript]");
        }
        if is_partial && speech["status"] == "complete" && !vtt.is_empty() {
            self.files.push(SlackFile::transcript(file, vtt));
        }
        let mut named = |name: &str, content: &str| {
            if !content.is_empty() {
                self.lines
                    .push(&format!("[{name}: {}]", text::escape(content)));
            }
        };
        named("the picture shows", string(&file["alt_txt"]));
        let mail = first(file, &["plain_text", "preview_plain_text"]);
        if !mail.is_empty() {
            let from = list(&file["from"]).map(|from| first(from, &["name", "address"]));
            let from = from.map(|name| format!(" from {}", text::escape(name)));
            let from: String = from.collect();
            named(&format!("e-mail{from}"), string(&file["subject"]));
            self.lines.push(&text::escape(mail));
            for inner in list(&file["attachments"]) {
                let name = text::escape(string(&inner["filename"]));
                self.lines.push(&mark("file of the e-mail", &[&name]));
            }
        }
    }
}

fn is_forwarded(attachment: &Value) -> bool {
    let flags = ["is_share", "is_msg_unfurl", "is_reply_unfurl"];
    flags.iter().any(|flag| attachment[*flag] == true) || attachment["message_blocks"].is_array()
}

/// What an attachment shows: an alert, what a link leads to, or a forwarded message, whose author
/// and place `forwarder` names.
fn card(attachment: &Value, text: &str) -> Lines {
    let value = |key: &str| string(&attachment[key]);
    let is_message = is_forwarded(attachment);
    let mut lines = Lines::default();
    lines.push(value("pretext"));
    if !is_message {
        lines.push(value("author_name"));
    }
    match (value("title"), value("title_link")) {
        (title, "") => lines.push(title),
        ("", link) => lines.push(&format!("<{link}>")),
        (title, link) => lines.push(&format!("<{link}|{title}>")),
    }
    lines.push(text);
    for field in list(&attachment["fields"]) {
        let mut parts = vec![string(&field["title"]), string(&field["value"])];
        parts.retain(|part| !part.is_empty());
        lines.push(&parts.join(": "));
    }
    for action in list(&attachment["actions"]) {
        lines.push(&format!("[{}]", string(&action["text"])));
    }
    if lines.lines.is_empty() {
        lines.push(fallback(attachment));
    }
    match value("image_url") {
        image if lines.lines.is_empty() && !is_message => {
            lines.push(&mark("attachment", &[image]));
        }
        "" => {}
        image => lines.push(&mark("image", &[image])),
    }
    if !is_message {
        lines.push(value("footer"));
    }
    lines
}

fn fallback(attachment: &Value) -> &str {
    match string(&attachment["fallback"]) {
        "[no preview available]" => "",
        text => text,
    }
}

/// `[message from Bob in ops]`
fn forwarder(attachment: &Value) -> String {
    let author = match first(attachment, &["author_name", "author_subname"]) {
        "" => match string(&attachment["author_id"]) {
            "" => "someone".to_owned(),
            id => format!("<@{id}>"),
        },
        name => name.to_owned(),
    };
    match string(&attachment["channel_name"]) {
        "" => format!("[message from {author}]"),
        channel => format!("[message from {author} in {channel}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_what_people_see() {
        let rich = |elements: Value| json!([{"type": "rich_text", "elements": elements}]);
        let section =
            |elements: Value| rich(json!([{"type": "rich_text_section", "elements": elements}]));
        let words = |text: &str| json!([{"type": "text", "text": text}]);
        let attached = |attachment: Value| json!({"text": "", "attachments": [attachment]});
        let fields = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
            json!([{"type": "section", "fields": texts}])
        };
        let of_file = |file: Value| json!({"text": "", "files": [file]});
        for (name, message, want) in [
            (
                "the same twice",
                json!({"text": "1. a *b* <#C1|ops>\n2. c", "blocks": rich(json!([{"type": "rich_text_list",
                    "style": "ordered", "elements": [{"type": "rich_text_section", "elements": [
                    {"type": "text", "text": "a "}, {"type": "text", "text": "b", "style": {"bold": true}},
                    {"type": "text", "text": " "}, {"type": "channel", "channel_id": "C1"}]},
                    {"type": "rich_text_section", "elements": words("c")}]}]))}),
                "1. a *b* <#C1|ops>\n2. c",
            ),
            (
                "rich text alone",
                json!({"text": "", "blocks": section(json!([
                    {"type": "text", "text": "a<b ", "style": {"code": true}},
                    {"type": "user", "user_id": "U7"}, {"type": "usergroup", "usergroup_id": "S1"},
                    {"type": "broadcast", "range": "here"}, {"type": "emoji", "name": "wave", "skin_tone": 2},
                    {"type": "date", "timestamp": 0, "format": "{date}"}, {"type": "color", "value": "#fff"},
                    {"type": "link", "url": "https://x", "text": "y"}, {"type": "link", "url": "https://z"},
                    {"type": "message_mention", "url": "https://m"}, {"type": "canvas", "file_id": "F1"},
                    {"type": "new_thing"}]))}),
                "`a&lt;b `<@U7><!subteam^S1><!here>:wave::skin-tone-2:1970-01-01 00:00:00 UTC#fff\
                 <https://x|y><https://z><https://m>F1[a new thing]",
            ),
            (
                "quotes, code and lists",
                json!({"blocks": rich(json!([
                    {"type": "rich_text_quote", "elements": words("a\nb")},
                    {"type": "rich_text_preformatted", "elements": words("c")},
                    {"type": "rich_text_list", "style": "bullet", "indent": 1, "elements": [
                        {"type": "rich_text_section", "elements": words("d")}]}]))}),
                "&gt; a\n&gt; b\n```\nc\n```\n   • d",
            ),
            (
                "text is the start of the blocks",
                json!({"text": "Build failed", "blocks": [
                    {"type": "header", "text": {"type": "plain_text", "text": "Build failed"}},
                    {"type": "divider"},
                    {"type": "section", "text": {"type": "mrkdwn", "text": "on *db1*"},
                     "fields": [{"type": "mrkdwn", "text": "at\nnine"}],
                     "accessory": {"type": "image", "alt_text": "a chart", "image_url": "https://x"}},
                    {"type": "context", "elements": [{"type": "mrkdwn", "text": "by ci"}]},
                    {"type": "actions", "elements": [{"type": "button", "text": {"text": "Retry"}}]}]}),
                "Build failed\non *db1*\nat\nnine\n[an image: a chart]\nby ci\n[Retry]",
            ),
            (
                "text that the blocks lack",
                json!({"text": "An alert", "blocks": [{"type": "markdown", "text": "**disk** is full"}]}),
                "An alert\n**disk** is full",
            ),
            (
                "a table",
                json!({"blocks": [{"type": "table", "rows": [
                    [{"type": "raw_text", "text": "host"}, {"type": "raw_text", "text": "use"}],
                    [section(words("db1"))[0], {"type": "raw_number", "value": 91}]]}]}),
                "host | use\ndb1 | 91",
            ),
            (
                "blocks of other kinds",
                json!({"blocks": [
                    {"type": "call", "call": {"v1": {"name": "Stand-up", "join_url": "https://z"}}},
                    {"type": "video", "title": {"text": "Demo"}, "title_url": "https://v"},
                    {"type": "image", "title": {"text": "Graph"}, "alt_text": "it falls"},
                    {"type": "card", "title": {"text": "T"}, "body": {"text": "B"}},
                    {"type": "container", "child_blocks": [{"type": "section", "text": {"text": "in"}}]},
                    {"type": "data_visualization"},
                    {"type": "section", "accessory": {"type": "checkboxes", "options": [{"text": {"text": "pick"}}]}}]}),
                "[a video call: Stand-up, https://z]\n[a video: Demo, https://v]\n\
                 [an image: Graph, it falls]\nT\nB\nin\n[a data visualization]\npick",
            ),
            (
                "an alert",
                json!({"text": "disk", "attachments": [{"pretext": "disk", "title": "db1", "title_link": "https://x",
                    "text": "the whole text", "fallback": "short", "fields": [{"title": "use", "value": "91"}],
                    "actions": [{"text": "Ack"}], "footer": "grafana"}]}),
                "disk\n<https://x|db1>\nthe whole text\nuse: 91\n[Ack]\ngrafana",
            ),
            (
                "a fallback",
                attached(json!({"fallback": "short"})),
                "short",
            ),
            (
                "a picture with a title",
                attached(json!({"title": "cat.png", "image_url": "https://i"})),
                "cat.png\n[an image: https://i]",
            ),
            (
                "menus, a form, empty cells",
                json!({"blocks": [
                    {"type": "actions", "elements": [
                        {"type": "static_select", "placeholder": {"type": "plain_text", "text": "Pick"}},
                        {"type": "overflow", "options": []}]},
                    {"type": "input", "label": {"type": "plain_text", "text": "Why"},
                        "element": {"type": "plain_text_input", "initial_value": "because"}},
                    {"type": "rich_text", "elements": []},
                    {"type": "table", "rows": [[{"type": "raw_text", "text": ""}, {"type": "raw_text", "text": "b"}]]}]}),
                "[a static select: Pick]\nWhy\nbecause\n | b",
            ),
            (
                "no fallback",
                attached(json!({"fallback": "[no preview available]"})),
                "[an attachment]",
            ),
            (
                "forwarded",
                json!({"text": "see: yes", "attachments": [{"is_share": true, "author_id": "U8", "channel_name": "ops",
                    "text": "yes", "fallback": "[9:12] bob: yes", "footer": "Posted in #ops"}]}),
                "see: yes\n[message from <@U8> in ops]\nyes",
            ),
            (
                "forwarded as blocks, with another inside",
                attached(
                    json!({"is_msg_unfurl": true, "author_name": "Bob", "message_blocks": [
                    {"message": {"blocks": section(words("deep"))}}],
                    "attachments": [{"is_share": true, "author_name": "Eve", "text": "deeper"}]}),
                ),
                "[message from Bob]\ndeep\n[message from Eve]\ndeeper",
            ),
            (
                "a forwarded alert",
                attached(
                    json!({"is_msg_unfurl": true, "author_name": "Bot", "text": "Alarm", "title": "db9 down",
                    "fields": [{"title": "since", "value": "3h"}], "footer": "Posted in #ops"}),
                ),
                "[message from Bot]\ndb9 down\nAlarm\nsince: 3h",
            ),
            (
                "a forwarded file",
                attached(json!({"is_share": true, "files": [{"id": "F1", "mode": "tombstone"}]})),
                "[message from someone]\n[a file that was deleted]",
            ),
            (
                "words that the text has elsewhere",
                json!({"text": "api scaled from 3 to 5 replicas", "blocks": fields(&["Wanted", "5", "Running", "3"])}),
                "api scaled from 3 to 5 replicas\nWanted\n5\nRunning\n3",
            ),
            (
                "an answer that the question has",
                json!({"text": "Backup of db1: passed or failed?",
                    "blocks": fields(&["Backup of db1: passed or failed?", "failed"])}),
                "Backup of db1: passed or failed?\nfailed",
            ),
            (
                "an attachment that the question has",
                json!({"text": "Backup of db1: passed or failed?",
                    "attachments": [{"text": "failed"}, {"text": "Backup of *db1*: passed or failed?"}]}),
                "Backup of db1: passed or failed?\nfailed",
            ),
            (
                "lines of the text",
                json!({"text": "a\nb", "blocks": fields(&["x", "*b*", "a"])}),
                "a\nb\nx",
            ),
            (
                "a sign",
                json!({"text": "Deploy api", "blocks": fields(&["Deploy api", "❌"])}),
                "Deploy api\n❌",
            ),
            (
                "signs in a table",
                json!({"text": "Nightly", "blocks": [{"type": "table", "rows": [
                    [{"type": "raw_text", "text": "✅"}, {"type": "raw_text", "text": "❌"}]]}]}),
                "Nightly\n✅ | ❌",
            ),
            (
                "a minus",
                json!({"text": "Balance 500 EUR", "blocks": fields(&["-500 EUR"])}),
                "Balance 500 EUR\n-500 EUR",
            ),
            (
                "inner lists and code, the same twice",
                json!({"text": "• a\n    ◦ b\n```c```\n&gt;d", "blocks": rich(json!([
                    {"type": "rich_text_list", "style": "bullet", "elements": [
                        {"type": "rich_text_section", "elements": words("a")}]},
                    {"type": "rich_text_list", "style": "bullet", "indent": 1, "elements": [
                        {"type": "rich_text_section", "elements": words("b")}]},
                    {"type": "rich_text_preformatted", "elements": words("c")},
                    {"type": "rich_text_quote", "elements": words("d")}]))}),
                "• a\n    ◦ b\n```c```\n&gt;d",
            ),
            (
                "deleted",
                of_file(json!({"id": "F1", "mode": "tombstone"})),
                "[a file that was deleted]",
            ),
            (
                "elsewhere, without a link",
                of_file(json!({"id": "F1", "name": "Plan", "is_external": true})),
                "[a file outside Slack: Plan]",
            ),
            (
                "a list",
                of_file(
                    json!({"id": "F1", "title": "Jobs", "mode": "list", "permalink": "https://l"}),
                ),
                "[a list that can't be fetched: <https://l|Jobs>]",
            ),
            (
                "a mail",
                of_file(
                    json!({"id": "F1", "mode": "email", "subject": "Hi", "plain_text": "a\nb",
                    "from": [{"name": "Ann"}], "attachments": [{"filename": "i.pdf"}],
                    "url_private": "https://m"}),
                ),
                "[e-mail from Ann: Hi]\na\nb\n[a file of the e-mail: i.pdf]",
            ),
            (
                "a clip too new",
                of_file(
                    json!({"id": "F1", "url_private": "x", "transcription": {"status": "processing"}}),
                ),
                "[a clip of which Slack has no transcript]",
            ),
        ] {
            assert_eq!(shown(&message).text(), want, "{name}");
        }
    }

    #[test]
    fn files_are_those_of_forwarded_messages_too() {
        let file = |id: &str| json!({"id": id, "name": "a.txt", "url_private": "https://x"});
        let message = json!({"files": [file("F1"), {"id": "F2", "mode": "file_access"},
            {"id": "F3", "name": "Runbook", "mode": "quip", "url_private": "https://q"},
            {"id": "F4", "name": "clip.mp4", "url_private": "https://c", "vtt": "https://v",
             "transcription": {"status": "complete", "preview": {"content": "one", "has_more": true}}}],
            "attachments": [{"is_share": true, "text": "b", "files": [file("F5")]}]});
        let shown = shown(&message);
        let files: Vec<_> = shown
            .files
            .iter()
            .map(|file| (&*file.name, &*file.url))
            .collect();
        let want = [
            ("a.txt", "https://x"),
            ("F2", ""),
            ("Runbook.html", "https://q"),
            ("clip.mp4", "https://c"),
            ("clip.mp4.vtt", "https://v"),
            ("a.txt", "https://x"),
        ];
        assert_eq!(files, want);
        let want = "[transcript: one ... (the rest is in the file)]\n[message from someone]\nb";
        assert_eq!(shown.beside, want);
    }

    #[test]
    fn is_bounded() {
        let long = "x ".repeat(CHARS_MAX);
        let many: Vec<Value> = (0..CHARS_MAX / 4)
            .map(|n| json!({"text": format!("{n}")}))
            .collect();
        for message in [
            json!({"attachments": [{"text": long}]}),
            json!({"blocks": [{"type": "section", "text": {"text": long}}]}),
            json!({"blocks": [{"type": "context", "elements": many}]}),
        ] {
            let text = shown(&message).text();
            assert!(text.ends_with("[the rest is too long to be shown]"));
            assert!(text.chars().count() < CHARS_MAX + 100);
        }
    }
}
