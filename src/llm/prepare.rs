//! The messages of a turn made fit to send, the same for every wire format: what no model
//! may see again is dropped, pairs of call and result are mended, images are kept within
//! limits. The formats only write down what comes out of here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::models::Service;
use super::{
    Assistant, Block, Content, Image, Message, Model, StopReason, ToolCall, ToolResult, Turn,
};

/// What a retry leaves out, after the server refused the request because of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Omit {
    pub(super) thinking: bool,
    pub(super) images: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Entry<'a> {
    /// Never empty.
    User(Vec<Part<'a>>),
    /// Never empty.
    Assistant(Vec<Said<'a>>),
    /// One for each call of the assistant entry before it, in the order of the calls.
    Results(Vec<Answer<'a>>),
}

#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    Text(Cow<'a, str>),
    Image(&'a Image),
}

impl Part<'_> {
    pub(super) fn is_image(&self) -> bool {
        matches!(self, Part::Image(_))
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Said<'a> {
    Text(Cow<'a, str>),
    /// Of this very model and this run: goes back unchanged.
    Thinking {
        text: &'a str,
        signature: &'a str,
        redacted: bool,
    },
    Call {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        call: &'a ToolCall,
    },
}

#[derive(Debug, PartialEq)]
pub(super) struct Answer<'a> {
    pub(super) call_id: Cow<'a, str>,
    /// Never empty.
    pub(super) content: Vec<Part<'a>>,
    pub(super) is_error: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Prepared<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// Index of the first entry of the present run.
    pub(super) run_start: usize,
}

/// Base64 bytes of one image; Anthropic's limit, which some of its texts count this way.
const IMAGE_BYTES_MAX: usize = 5 << 20;
/// Base64 bytes of all images: Anthropic's body limit of 32 MB less the text.
const IMAGES_BYTES_MAX: usize = 24 << 20;
/// Old images go in batches, so that the prefix does not change with every new one (prompt
/// caches and signed thinking depend on it).
const IMAGE_BATCH: usize = 8;

const IMAGE_LEFT_OUT: &str = "(an image was here; it is no longer shown)";
const NO_IMAGES: &str = "(an image is here, but this model takes no images)";
const IMAGE_TOO_LARGE: &str = "(an image is here, but it is larger than 3.75 MB)";
const NO_RESULT: &str = "No result: the call was interrupted.";
const NO_OUTPUT: &str = "(no output)";
const STARTED_MIDWAY: &str = "(The conversation before this is not shown.)";

pub(super) fn prepare<'a>(
    turn: &Turn<'a>,
    service: &Service,
    model: &Model,
    omit: Omit,
) -> Prepared<'a> {
    let mut ids = Ids {
        len: service.id_len,
        used: HashSet::new(),
    };
    let takes_none = omit.images || !model.takes_images;
    let images = Images::of(turn.messages, service.images_max, takes_none);
    let mut entries = Vec::new();
    let mut run_start = 0;
    for (index, message) in turn.messages.iter().enumerate() {
        if index == turn.run_start {
            run_start = entries.len();
        }
        match message {
            Message::User { content, .. } => {
                let parts = images.parts(content);
                if !parts.is_empty() {
                    entries.push(Entry::User(parts));
                }
            }
            Message::Assistant(said) if sendable(said) => {
                let thinking =
                    match index >= turn.run_start && !omit.thinking && !turn.tools.is_empty() {
                        false => Thinking::Drop,
                        true if is_by(said, model) => Thinking::Replay,
                        true => Thinking::AsText,
                    };
                let (blocks, calls) = assistant(said, thinking, &mut ids);
                if blocks.is_empty() {
                    continue;
                }
                if entries.is_empty() {
                    entries.push(Entry::User(vec![Part::Text(STARTED_MIDWAY.into())]));
                }
                entries.push(Entry::Assistant(blocks));
                if !calls.is_empty() {
                    let answers = answers(&turn.messages[index + 1..], calls, &images);
                    entries.push(Entry::Results(answers));
                }
            }
            // An answer cut short or failed; results went along with their calls, or are
            // orphans.
            Message::Assistant(_) | Message::ToolResult(_) => {}
        }
    }
    if turn.run_start >= turn.messages.len() {
        run_start = entries.len();
    }
    if turn.tools.is_empty() {
        entries.iter_mut().for_each(without_tools);
    }
    Prepared { entries, run_start }
}

/// Calls and results as words: with no tools defined they are refused as what they are. (For
/// the same reason the thinking is dropped: the tools are part of what it is bound to.)
fn without_tools(entry: &mut Entry<'_>) {
    match entry {
        Entry::User(_) => {}
        Entry::Assistant(blocks) => {
            for block in blocks {
                if let Said::Call { name, call, .. } = block {
                    let words = format!("(called {name} with {})", call.arguments);
                    *block = Said::Text(words.into());
                }
            }
        }
        Entry::Results(answers) => {
            let parts = answers.drain(..).flat_map(|answer| answer.content);
            *entry = Entry::User(parts.collect());
        }
    }
}

fn sendable(said: &Assistant) -> bool {
    !matches!(said.stop_reason, StopReason::Error | StopReason::Aborted)
}

fn is_by(said: &Assistant, model: &Model) -> bool {
    said.api == model.api && said.provider == model.provider && said.model == model.id
}

#[derive(Clone, Copy)]
enum Thinking {
    Replay,
    /// Another model's: its words are worth keeping, its signatures mean nothing here.
    AsText,
    Drop,
}

/// The blocks to send, and the calls among them with the ids they are sent under.
fn assistant<'a>(
    said: &'a Assistant,
    thinking: Thinking,
    ids: &mut Ids,
) -> (Vec<Said<'a>>, Vec<(&'a str, Cow<'a, str>)>) {
    let mut calls = Vec::new();
    let mut blocks = Vec::new();
    for block in &said.blocks {
        match block {
            Block::Text(text) if !blank(text) => blocks.push(Said::Text(text.into())),
            Block::Text(_) => {}
            Block::Thinking {
                text,
                signature,
                redacted,
            } => match thinking {
                Thinking::Replay => blocks.push(Said::Thinking {
                    text,
                    signature,
                    redacted: *redacted,
                }),
                Thinking::AsText if !redacted && !blank(text) => {
                    blocks.push(Said::Text(text.into()));
                }
                Thinking::AsText | Thinking::Drop => {}
            },
            Block::ToolCall(call) => {
                let id = ids.take(&call.id);
                calls.push((call.id.as_str(), id.clone()));
                let name = tool_name(&call.name);
                blocks.push(Said::Call { id, name, call });
            }
        }
    }
    // Signatures of a message that says nothing else are of no use to anyone.
    if blocks
        .iter()
        .all(|block| matches!(block, Said::Thinking { .. }))
    {
        blocks.clear();
    }
    (blocks, calls)
}

/// One answer for each call, looked for up to the next assistant message.
fn answers<'a>(
    rest: &'a [Message],
    calls: Vec<(&'a str, Cow<'a, str>)>,
    images: &Images,
) -> Vec<Answer<'a>> {
    let mut results: Vec<Option<&ToolResult>> = rest
        .iter()
        .take_while(|message| !matches!(message, Message::Assistant(_)))
        .filter_map(|message| match message {
            Message::ToolResult(result) => Some(Some(result)),
            _ => None,
        })
        .collect();
    let mut answer = |(id, call_id): (&str, Cow<'a, str>)| {
        // Taken out: two calls with one id have two results.
        let found = results
            .iter_mut()
            .find(|slot| slot.is_some_and(|result| result.call_id == id))
            .and_then(Option::take);
        let mut content = found.map_or_else(Vec::new, |result| images.parts(&result.content));
        if content.is_empty() {
            let text = if found.is_some() {
                NO_OUTPUT
            } else {
                NO_RESULT
            };
            content.push(Part::Text(text.into()));
        }
        Answer {
            call_id,
            content,
            is_error: found.is_none_or(|result| result.is_error),
        }
    };
    calls.into_iter().map(&mut answer).collect()
}

/// A name that every service accepts; models make up others (`functions.bash`).
fn tool_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        return name.into();
    }
    let name: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() {
        "unknown".into()
    } else {
        name.into()
    }
}

fn blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Tool call ids the service accepts, no two alike.
struct Ids {
    len: (usize, usize),
    used: HashSet<String>,
}

impl Ids {
    fn take<'a>(&mut self, id: &'a str) -> Cow<'a, str> {
        let (min, max) = self.len;
        // Where the length is fixed, `_` and `-` are refused too.
        let fits = |b: u8| b.is_ascii_alphanumeric() || (min < max && matches!(b, b'_' | b'-'));
        let fine = (min..=max).contains(&id.len()) && id.bytes().all(fits);
        if fine && self.used.insert(id.to_owned()) {
            return id.into();
        }
        // The same in every request, for caches and signatures.
        let mut attempt = 0u64;
        loop {
            let mut hasher = DefaultHasher::new();
            (id, attempt).hash(&mut hasher);
            let id = format!("c{:08x}", hasher.finish() >> 32);
            if self.used.insert(id.clone()) {
                return id.into();
            }
            // Not one after the other: there may be many of this id.
            attempt = attempt.max(self.used.len() as u64) + 1;
        }
    }
}

/// Which images still go along: the newest.
struct Images {
    /// By address: the messages outlive the preparation.
    dropped: HashSet<*const Image>,
    takes_none: bool,
}

impl Images {
    fn of(messages: &[Message], images_max: usize, takes_none: bool) -> Images {
        let images: Vec<&Image> = messages
            .iter()
            .flat_map(Message::content)
            .filter_map(|content| match content {
                Content::Image(image) if image.data.len() <= IMAGE_BYTES_MAX => Some(image),
                _ => None,
            })
            .collect();
        let mut bytes = 0;
        let fitting = images.iter().rev().take(images_max).take_while(|image| {
            bytes += image.data.len();
            bytes <= IMAGES_BYTES_MAX
        });
        let drop = images.len() - fitting.count();
        let batches = drop.next_multiple_of(IMAGE_BATCH);
        // Never so many that the last ones go, which are what the turn is about.
        let drop = if batches + IMAGE_BATCH / 2 <= images.len() {
            batches
        } else {
            drop
        };
        Images {
            dropped: images[..drop]
                .iter()
                .map(|image| std::ptr::from_ref::<Image>(image))
                .collect(),
            takes_none,
        }
    }

    fn parts<'a>(&self, content: &'a [Content]) -> Vec<Part<'a>> {
        let part = |content: &'a Content| match content {
            Content::Text(text) => (!blank(text)).then(|| Part::Text(text.into())),
            Content::Image(image) => Some(match image {
                _ if self.takes_none => Part::Text(NO_IMAGES.into()),
                _ if image.data.len() > IMAGE_BYTES_MAX => Part::Text(IMAGE_TOO_LARGE.into()),
                _ if self.dropped.contains(&std::ptr::from_ref(image)) => {
                    Part::Text(IMAGE_LEFT_OUT.into())
                }
                _ => Part::Image(image),
            }),
        };
        content.iter().filter_map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::models::find_service;
    use super::super::tests::{TOOLS, call, image, model, result, said, thought, turn, user};
    use super::*;

    /// `U[..] A[..] R[..]`, the run's start marked by `|`.
    fn outline(prepared: &Prepared<'_>) -> String {
        let parts = |parts: &[Part<'_>]| {
            let words = parts.iter().map(|part| match part {
                Part::Text(text) => text.to_string(),
                Part::Image(image) => format!("<{}>", image.data.len()),
            });
            words.collect::<Vec<_>>().join(",")
        };
        let entry = |entry: &Entry<'_>| match entry {
            Entry::User(content) => format!("U[{}]", parts(content)),
            Entry::Assistant(blocks) => {
                let blocks = blocks.iter().map(|block| match block {
                    Said::Text(text) => text.to_string(),
                    Said::Thinking {
                        text, signature, ..
                    } => format!("{text}~{signature}"),
                    Said::Call { id, name, .. } => format!("{name}#{id}"),
                });
                format!("A[{}]", blocks.collect::<Vec<_>>().join(","))
            }
            Entry::Results(answers) => {
                let answers = answers.iter().map(|answer| {
                    let mark = if answer.is_error { "!" } else { "=" };
                    format!("{}{mark}{}", answer.call_id, parts(&answer.content))
                });
                format!("R[{}]", answers.collect::<Vec<_>>().join(";"))
            }
        };
        let mut entries: Vec<String> = prepared.entries.iter().map(entry).collect();
        entries.insert(prepared.run_start, "|".to_owned());
        entries.join(" ")
    }

    fn check(name: &str, provider: &str, messages: &[Message], run_start: usize, want: &str) {
        let turn = Turn {
            run_start,
            tools: if name == "no tools" { &[] } else { TOOLS },
            ..turn(messages)
        };
        let id = if provider == "anthropic" {
            "claude-sonnet-5-5"
        } else {
            "m"
        };
        let service = find_service(provider).unwrap();
        let prepared = prepare(&turn, service, &model(provider, id), Omit::default());
        assert_eq!(outline(&prepared), want, "{name}");
    }

    #[test]
    #[rustfmt::skip]
    fn messages() {
        let aborted = |mut message: Message| {
            if let Message::Assistant(said) = &mut message {
                said.stop_reason = StopReason::Aborted;
            }
            message
        };
        let foreign = |mut message: Message| {
            if let Message::Assistant(said) = &mut message {
                said.model = "other".to_owned();
            }
            message
        };
        let redacted = Block::Thinking {
            text: String::new(),
            signature: "opaque".to_owned(),
            redacted: true,
        };
        let thinking = || {
            said(vec![
                thought("hm", "sig"),
                redacted.clone(),
                thought("", "s2"),
                call("1", "bash"),
            ])
        };
        let text = |text: &str| Block::Text(text.to_owned());
        for (name, messages, run_start, want) in [
            ("thinking stays in the run and leaves with it", vec![user("a"), thinking(), result("1", "x"), user("b"), thinking(), result("1", "y")], 3, "U[a] A[bash#1] R[1=x] | U[b] A[hm~sig,~opaque,~s2,bash#cd0e369ac] R[cd0e369ac=y]"),
            ("another model's thinking", vec![user("a"), foreign(thinking()), result("1", "x")], 0, "| U[a] A[hm,bash#1] R[1=x]"),
            ("aborted, with the orphans it leaves", vec![user("a"), aborted(thinking()), result("1", "x"), user("b")], 3, "U[a] | U[b]"),
            ("missing and late results, all in the order of the calls", vec![user("a"), said(vec![call("1", "x"), call("2", "y"), call("3", "z")]), result("3", "c"), user("b"), result("1", ""), said(vec![text("d")]), result("2", "too late")], 7, "U[a] A[x#1,y#2,z#3] R[1=(no output);2!No result: the call was interrupted.;3=c] U[b] A[d] |"),
            ("two calls with one id", vec![user("a"), said(vec![call("1", "x"), call("1", "y")]), result("1", "p"), result("1", "q")], 0, "| U[a] A[x#1,y#cd0e369ac] R[1=p;cd0e369ac=q]"),
            ("blanks, and an answer that is only thinking", vec![user(" \n"), user("a"), said(vec![text("\t"), thought("hm", "s")]), said(vec![text(""), text("b")])], 0, "| U[a] A[b]"),
            ("no user at first", vec![said(vec![text("a")])], 0, "| U[(The conversation before this is not shown.)] A[a]"),
            ("no tools", vec![user("a"), said(vec![call("1", "x")]), result("1", "b")], 0, r#"| U[a] A[(called x with {"b":1, "a":2})] U[b]"#),
            ("names models make up", vec![user("a"), said(vec![call("1", "f.x"), call("2", "")])], 0, "| U[a] A[f_x#1,unknown#2] R[1!No result: the call was interrupted.;2!No result: the call was interrupted.]"),
            ("ids of other services", vec![user("a"), said(vec![call("functions.bash:0", "x")]), result("functions.bash:0", "b")], 0, "| U[a] A[x#c754d2176] R[c754d2176=b]"),
        ] {
            check(name, "anthropic", &messages, run_start, want);
        }
        let ids = ["abcDEF123", "call_1234", &"x".repeat(41)];
        let calls = ids.iter().map(|id| call(id, "x")).collect();
        let mut messages = vec![user("a"), said(calls)];
        messages.extend(ids.iter().map(|id| result(id, "b")));
        check(
            "nine letters and digits",
            "mistral",
            &messages,
            0,
            "| U[a] A[x#abcDEF123,x#c18b38bf3,x#c5f562db3] R[abcDEF123=b;c18b38bf3=b;c5f562db3=b]",
        );
        check(
            "up to 40",
            "openai",
            &messages,
            0,
            "| U[a] A[x#abcDEF123,x#call_1234,x#c5f562db3] R[abcDEF123=b;call_1234=b;c5f562db3=b]",
        );
    }

    #[test]
    fn images() {
        let count = |sizes: &[usize], provider: &str| {
            let messages: Vec<Message> = sizes.iter().map(|size| image("1", *size)).collect();
            let id = if provider == "anthropic" {
                "claude-sonnet-5-5"
            } else {
                "openai/gpt-oss-120b"
            };
            let service = find_service(provider).unwrap();
            let turn = turn(&messages);
            let prepared = prepare(&turn, service, &model(provider, id), Omit::default());
            let shown = prepared.entries.iter().map(|entry| match entry {
                Entry::User(parts) => usize::from(matches!(parts[0], Part::Image(_))),
                _ => 0,
            });
            shown.sum::<usize>()
        };
        for (sizes, provider, want) in [
            (vec![1; 20], "anthropic", 20),
            // From here on eight at a time: the prefix stays as it is for seven more.
            (vec![1; 21], "anthropic", 13),
            (vec![1; 28], "anthropic", 20),
            (vec![1; 29], "anthropic", 13),
            (vec![IMAGE_BYTES_MAX + 1, 1], "anthropic", 1),
            (vec![IMAGE_BYTES_MAX; 5], "anthropic", 4),
            (vec![1; 3], "groq", 0),
        ] {
            assert_eq!(count(&sizes, provider), want, "{} {provider}", sizes.len());
        }
    }
}
