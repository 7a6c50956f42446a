//! context.jsonl: what the model remembers of a conversation, in pi's session format 3
//! (badlogic/pi-mono, packages/coding-agent). Read from its end back to what the last
//! compaction kept, and only ever appended to. Holds messages and compactions alone; which
//! requests a run answers, and how far log.jsonl was read, is in the ledger.
//!
//! mom's own entries have Slack's `ts` next to the message. A conversation is the path from the
//! last entry back to a root: `start_anew` begins a new root, `drop_run` goes on from the entry
//! before the run. The original mom reads both in the same way.

mod file;

use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use self::file::{Branch, BranchStep, ContextFile, SessionEntry};
use crate::agent::prompt;
use crate::agent::session;
use crate::base::command::Command;
use crate::base::error::Result;
use crate::base::json;
use crate::base::secret;
use crate::base::time;
use crate::llm::{Block, Content, Message, Model, StopReason, ToolResult, Usage};
use crate::store::dir::Dir;
use crate::store::ledger::{Cursor, LedgerRun};
use crate::store::lines::{Floor, LinesBack};
use crate::store::{self, LogEntry, Store};

/// Bytes of log.jsonl that one sync reads.
const SYNC_BYTES_MAX: u64 = 4 << 20;
/// Bytes of text that one sync appends at most: about 1,500 messages, 2 MB of memory.
const SYNC_TEXT_MAX: u64 = 128 << 10;
/// Messages that one write of a sync appends.
const SYNC_BATCH: usize = 50;
const OLDER: &str =
    "(More was said here before that; it is not shown, and stands in this channel's log.jsonl.)";

/// Time in ms since 1970, text, ts of the message.
type OverheardLine = (i64, String, String);

pub(crate) struct Context {
    file: ContextFile,
    /// What the model gets; the first message is the summary of the last compaction, if any.
    messages: Vec<Message>,
    /// Which entry each message comes from.
    origins: Vec<Origin>,
    /// The last compaction: its summary, and the files it names.
    compaction: Option<Compaction>,
    /// Number of messages that the last compaction kept: the usage in them is out of date.
    uncounted: usize,
    run: ContextRun,
    cursor: Cursor,
    /// Both as in `Branch` when the file was read.
    newest_ms: i64,
    foreign_ms: i64,
}

struct Origin {
    id: String,
    /// The ts of the message in Slack; empty for none.
    ts: String,
}

/// Where the run is in the context.
#[derive(Default)]
struct ContextRun {
    /// Index of the run's first message, or of the first after a compaction in the run: thinking
    /// is sent to the model again from there on.
    start: usize,
    /// The entry before the run's first; `None` at the root.
    after: Option<String>,
    /// The ts of people's messages in the run.
    requests: HashSet<String>,
}

/// What a compaction writes to the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compaction {
    pub(crate) summary: String,
    /// Paths, sorted.
    pub(crate) read_files: Vec<String>,
    pub(crate) modified_files: Vec<String>,
}

impl Context {
    /// # Errors
    /// The file cannot be read. A file that is no session is renamed, with a warning.
    pub(crate) fn load(store: &Arc<Store>, channel: &str) -> Result<Context> {
        let (file, branch) = ContextFile::open(store, channel)?;
        let mut context = Context {
            file,
            messages: Vec::new(),
            origins: Vec::new(),
            compaction: None,
            uncounted: 0,
            run: ContextRun::default(),
            cursor: store.ledger.cursor(channel)?,
            newest_ms: branch.newest_ms,
            foreign_ms: branch.foreign_ms,
        };
        let run = store.ledger.run(channel)?;
        context.fill(branch, run);
        Ok(context)
    }

    pub(crate) fn channel(&self) -> &str {
        &self.file.channel
    }

    fn dir(&self) -> &Dir {
        self.file.store.dir()
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The last compaction, if any; its summary is the first message.
    pub(crate) fn compaction(&self) -> Option<&Compaction> {
        self.compaction.as_ref()
    }

    /// Tokens in the window: the last reply's usage, plus an estimate of the messages after it.
    pub(crate) fn tokens(&self) -> u64 {
        let newer = self.messages.iter().enumerate().skip(self.uncounted);
        let counted = newer.rev().find_map(|(index, message)| match message {
            Message::Assistant(said)
                if said.usage.total() > 0
                    && !matches!(said.stop_reason, StopReason::Error | StopReason::Aborted) =>
            {
                Some((said.usage.total(), index + 1))
            }
            _ => None,
        });
        let (tokens, from) = counted.unwrap_or((0, 0));
        tokens + self.messages[from..].iter().map(estimate).sum::<u64>()
    }

    /// When it returns, the message survives kill -9; a power cut only after `sync_to_disk`.
    pub(crate) fn append(&mut self, message: Message) -> Result<()> {
        self.append_all(vec![(message, String::new())])
    }

    /// When it returns, everything so far survives a power cut: one fdatasync, none when nothing
    /// is new. Called before each action that must not be done twice.
    pub(crate) fn sync_to_disk(&mut self) -> Result<()> {
        self.file.sync()
    }

    /// Appends people's messages that were logged in log.jsonl since the last time, as much as
    /// fits into a quarter of the window, newest first. Leaves out the `handled` ones (by ts):
    /// requests that this run or a later one appends itself.
    pub(crate) fn sync(
        &mut self,
        handled: &dyn Fn(&str) -> bool,
        window_tokens: u64,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        let path = store::log_path(self.channel());
        let Some(stamp) = self.dir().stamp(&path)? else {
            return Ok(());
        };
        let (begin, after_ms) = self.unread(&path, stamp.bytes)?;
        let floor = begin.max(stamp.bytes.saturating_sub(SYNC_BYTES_MAX));
        let Some(mut lines) = self.dir().lines_back(&path, Floor::At(floor))? else {
            return Ok(());
        };
        // A quarter of the window, at four bytes per token: as many bytes as the window has tokens.
        let room = window_tokens.min(SYNC_TEXT_MAX) as usize;
        let is_new = |entry: &LogEntry| entry.date_ms() > after_ms && !handled(&entry.ts);
        let (mut found, is_full) = self.overheard(&mut lines, room, &is_new, name_of)?;
        if is_full || floor > begin {
            let first_ms = found.last().map_or_else(time::now_ms, |(ms, ..)| *ms);
            found.push((first_ms, OLDER.to_owned(), String::new()));
        }
        found.sort_unstable_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        let found = found.into_iter();
        let mut messages = found.map(|(ms, text, ts)| (Message::user(text, ms), ts));
        // These messages came before the run, although it has begun.
        let is_before = self.run.start == self.messages.len();
        // A few at a time: what is written and what is kept must not be in memory twice.
        while messages.len() > 0 {
            self.append_all(messages.by_ref().take(SYNC_BATCH).collect())?;
        }
        if is_before {
            self.start_run();
        }
        self.cursor = log_cursor(self.dir(), &path, lines.end())?;
        Ok(())
    }

    /// People's new messages in these lines, and whether there are more than fit into `room`
    /// bytes.
    fn overheard(
        &self,
        lines: &mut LinesBack,
        mut room: usize,
        is_new: &dyn Fn(&LogEntry) -> bool,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<(Vec<OverheardLine>, bool)> {
        let known = self.origins.iter().map(|origin| origin.ts.clone());
        let mut known: HashSet<String> = known.collect();
        let mut found = Vec::new();
        for line in lines {
            let Some(entry) = LogEntry::parse(&line?) else {
                continue;
            };
            // The lines come newest first: a later line of a message replaces the earlier ones.
            let is_first = known.insert(entry.ts.clone());
            let is_command = Command::parse(&entry.text).is_some();
            let is_said = !entry.is_bot && !entry.is_empty() && !is_command;
            if !is_first || !is_said || !is_new(&entry) {
                continue;
            }
            let text = overheard(&entry, name_of);
            if text.len() > room {
                return Ok((found, true));
            }
            room -= text.len();
            found.push((entry.date_ms(), text, entry.ts));
        }
        Ok((found, false))
    }

    /// Where to begin in the log of so many `bytes`, and up to when its messages are known.
    fn unread(&self, path: &str, bytes: u64) -> Result<(u64, i64)> {
        let position = self.cursor.position;
        if bytes >= position && self.cursor == log_cursor(self.dir(), path, position)? {
            return Ok((position, self.foreign_ms));
        }
        // The log was replaced, edited, or written by the original: go by the messages' dates.
        Ok((0, self.foreign_ms.max(self.newest_ms)))
    }

    /// Messages from here on belong to a new run.
    pub(crate) fn start_run(&mut self) {
        self.run = ContextRun {
            start: self.messages.len(),
            after: self.file.last_id.clone(),
            requests: HashSet::new(),
        };
    }

    /// Id of the entry before the run's first.
    pub(crate) fn before_run(&self) -> Option<&str> {
        self.run.after.as_deref()
    }

    pub(crate) fn last_entry(&self) -> Option<&str> {
        self.file.last_id.as_deref()
    }

    /// Records the cost of a reply or a summary in the ledger.
    pub(crate) fn spend(&self, usage: &Usage) -> Result<()> {
        let dollars = usage.cost.map_or(0.0, |cost| cost.total());
        if dollars > 0.0 {
            self.file.store.ledger.spend(self.channel(), dollars)?;
        }
        Ok(())
    }

    /// How far log.jsonl has been read into the context; valid once `sync_to_disk` has returned.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Appends a request of this run, also one that came while the run went on.
    pub(crate) fn append_request(
        &mut self,
        ts: &str,
        content: Vec<Content>,
        timestamp_ms: i64,
    ) -> Result<()> {
        let message = Message::User {
            content,
            timestamp_ms,
        };
        self.append_all(vec![(message, ts.to_owned())])?;
        self.run.requests.insert(ts.to_owned());
        Ok(())
    }

    /// Appends what was added to a message that is in the context.
    pub(crate) fn append_addition(
        &mut self,
        entry: &LogEntry,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        if !self.origins.iter().any(|origin| origin.ts == entry.ts) {
            return Ok(());
        }
        let message = Message::User {
            content: vec![Content::Text(overheard(entry, name_of))],
            timestamp_ms: entry.date_ms(),
        };
        self.append_all(vec![(message, entry.ts.clone())])?;
        self.sync_to_disk()
    }

    /// Whether the request is in the run, so that the run's answer also answers this request.
    pub(crate) fn has_request(&self, ts: &str) -> bool {
        self.run.requests.contains(ts)
    }

    /// Removes the run from the conversation and puts `note` in its place. Several such runs in a
    /// row share one note.
    pub(crate) fn drop_run(&mut self, note: &str) -> Result<()> {
        let note = Message::user(note.to_owned(), time::now_ms());
        let mut before = self.messages.iter().zip(&self.origins).take(self.run.start);
        let last = before.next_back();
        let noted = last.filter(|(said, _)| said.content() == note.content());
        let (parent, entry) = match noted {
            Some((_, Origin { id, .. })) => {
                let mut entry = SessionEntry::without_message()?;
                let last = self.file.last_message.as_ref();
                let end = last.filter(|(last, _)| last == id).map(|(_, end)| end);
                let leaf = end.map(|end| ("leaf", end.to_string()));
                entry.fields.extend(leaf);
                (Some(id.clone()), entry)
            }
            None => (self.run.after.clone(), SessionEntry::message(&note, "")?),
        };
        self.file.write(parent, vec![entry])?;
        self.sync_to_disk()?;
        self.reload()
    }

    /// Loads the context from disk again, but keeps the cursor.
    fn reload(&mut self) -> Result<()> {
        let loaded = Context::load(&self.file.store, self.channel())?;
        let before = std::mem::replace(self, loaded);
        self.cursor = before.cursor;
        Ok(())
    }

    /// Each message as JSON, in the session file's format, without the images' data.
    pub(crate) fn messages_json(&self) -> impl Iterator<Item = String> {
        self.messages.iter().map(|message| {
            let mut message = message.clone();
            if let Message::User { content, .. } | Message::ToolResult(ToolResult { content, .. }) =
                &mut message
            {
                for content in content {
                    if let Content::Image(image) = content {
                        image.data = format!("({} bytes of base64)", image.data.len());
                    }
                }
            }
            session::write(&message)
        })
    }

    /// Index in `messages` of this run's first message.
    pub(crate) fn run_start(&self) -> usize {
        self.run.start
    }

    /// Starts a new conversation: the model no longer gets what came before; nothing is deleted.
    pub(crate) fn start_anew(&mut self) -> Result<()> {
        let path = store::log_path(self.channel());
        if let Some(stamp) = self.dir().stamp(&path)? {
            self.cursor = log_cursor(self.dir(), &path, stamp.bytes)?;
        }
        self.file
            .write(None, vec![SessionEntry::without_message()?])?;
        self.sync_to_disk()?;
        let ledger = &self.file.store.ledger;
        ledger.set_cursor(self.channel(), self.cursor.clone())?;
        self.reload()
    }

    /// Replaces the messages before `cut` with a summary. `tail` replaces those from `cut` on if
    /// they had to be shortened: copies, each with the index of its original. `spent`: the model
    /// and usage of the summary, for `--usage`.
    pub(crate) fn compacted(
        &mut self,
        compaction: Compaction,
        cut: usize,
        tail: Option<Vec<(usize, Message)>>,
        spent: Option<(&Model, &Usage)>,
    ) -> Result<()> {
        // If copies follow the compaction entry, it keeps no earlier entry.
        let kept = self.origins.get(cut).filter(|_| tail.is_none());
        let kept = kept.map(|origin| &*origin.id);
        let mut entry = SessionEntry::compaction(&compaction, kept, self.tokens())?;
        if let Some((model, usage)) = spent {
            entry.fields.extend([
                ("provider", json::quote(model.provider)),
                ("model", json::quote(&model.id)),
                ("usage", session::write_usage(usage)),
            ]);
        }
        let mut entries = vec![entry];
        for (index, message) in tail.iter().flatten() {
            let mut copy = SessionEntry::message(message, &self.origins[*index].ts)?;
            copy.fields.push(("copy", "true".to_owned()));
            entries.push(copy);
        }
        self.file.write(self.file.last_id.clone(), entries)?;
        self.sync_to_disk()?;
        let ledger = &self.file.store.ledger;
        ledger.set_cursor(self.channel(), self.cursor.clone())?;
        // The run still has the requests whose messages are now in the summary.
        let requests = std::mem::take(&mut self.run.requests);
        self.reload()?;
        self.run.requests.extend(requests);
        Ok(())
    }

    /// Fills `messages` from the branch, in the order the model gets them. `run` has not ended.
    fn fill(&mut self, branch: Branch, run: Option<LedgerRun>) {
        let mut steps = branch.steps;
        let mut run_start = None;
        let compacted = steps.iter().rposition(|step| step.compaction.is_some());
        // Number of messages before the compaction that it kept.
        let mut kept = 0;
        if let Some(at) = compacted {
            let step = steps.remove(at);
            if let Some((compaction, first)) = step.compaction.map(|boxed| *boxed) {
                let from = steps[..at].iter().position(|step| step.id == first);
                let from = from.unwrap_or(at);
                kept = at - from;
                steps.drain(..from);
                self.push(summary(&compaction), step.id, String::new());
                self.compaction = Some(compaction);
            }
        }
        let is_before =
            |step: &BranchStep| run.as_ref().is_some_and(|run| step.parent == run.after);
        self.uncounted = self.messages.len();
        for (index, step) in steps.into_iter().enumerate() {
            if is_before(&step) {
                run_start = run_start.or(Some(self.messages.len()));
            }
            if let Some(message) = step.message {
                self.push(message, step.id, step.ts.unwrap_or_default());
            }
            if compacted.is_some() && (index < kept || step.is_copy) {
                self.uncounted = self.messages.len();
            }
        }
        let Some(run) = run.filter(|run| run.after != self.file.last_id) else {
            return self.start_run();
        };
        // After a compaction in the run, all kept messages may belong to the run.
        let start = run_start.unwrap_or(match compacted {
            Some(_) => 0,
            None => self.messages.len(),
        });
        let of_run = self.origins.iter().skip(start);
        self.run = ContextRun {
            // As after `compacted`: the kept messages count as before the run.
            start: start.max(self.uncounted),
            after: run.after,
            requests: of_run.map(|origin| origin.ts.clone()).collect(),
        };
    }

    fn push(&mut self, message: Message, id: String, ts: String) {
        self.messages.push(message);
        self.origins.push(Origin { id, ts });
    }

    /// Appends messages, each with its ts in Slack.
    fn append_all(&mut self, messages: Vec<(Message, String)>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::new();
        let mut appended = Vec::new();
        for (message, ts) in messages {
            let message = masked_message(message);
            let entry = SessionEntry::message(&message, &ts)?;
            appended.push((message, entry.id.clone(), ts));
            entries.push(entry);
        }
        self.file.write(self.file.last_id.clone(), entries)?;
        for (message, id, ts) in appended {
            self.push(message, id, ts);
        }
        Ok(())
    }
}

/// The cursor at this position of the log. Its mark is the FNV-1a hash of up to 512 bytes before
/// the position, enough to include the ts of a line; empty at the start.
fn log_cursor(dir: &Dir, path: &str, position: u64) -> Result<Cursor> {
    let mut mark = String::new();
    if let Some(file) = dir.read(path)?.filter(|_| position > 0) {
        let mut bytes = [0; 512];
        let bytes = &mut bytes[..position.min(512) as usize];
        let read = file.read_exact_at(bytes, position - bytes.len() as u64);
        // Fails if the file has become shorter since.
        if read.is_ok() {
            let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            mark = format!("{hash:016x}");
        }
    }
    Ok(Cursor { position, mark })
}

/// The message with secrets masked, as the model and the file get it.
fn masked_message(mut message: Message) -> Message {
    let hide = |text: &mut String| *text = secret::hide(std::mem::take(text));
    match &mut message {
        Message::User { content, .. } | Message::ToolResult(ToolResult { content, .. }) => {
            for content in content {
                if let Content::Text(text) = content {
                    hide(text);
                }
            }
        }
        Message::Assistant(said) => {
            for block in &mut said.blocks {
                match block {
                    Block::Text(text) | Block::Thinking { text, .. } => hide(text),
                    Block::ToolCall(call) => hide(&mut call.arguments),
                }
            }
        }
    }
    message
}

fn summary(compaction: &Compaction) -> Message {
    let what = "The conversation before this was compacted";
    Message::user(session::summary_text(what, &compaction.summary), 0)
}

/// An overheard message as in the original, but with file paths below the data directory.
fn overheard(entry: &LogEntry, name_of: &dyn Fn(&str) -> String) -> String {
    let name = entry.user_name.clone();
    let name = name.unwrap_or_else(|| name_of(&entry.user));
    let mut text = prompt::unforged(&format!("[{name}]: {}", entry.text));
    if !entry.attachments.is_empty() {
        let paths = entry.attachments.iter().map(|file| file.local.as_str());
        let paths = paths.collect::<Vec<_>>().join("\n");
        text.push_str(&format!(
            "\n\n<slack_attachments>\n{paths}\n</slack_attachments>"
        ));
    }
    text
}

/// A rough number of tokens: one per four bytes, 1,200 per image.
pub(crate) fn estimate(message: &Message) -> u64 {
    let content = message.content().iter().map(|content| match content {
        Content::Text(text) => text.len(),
        Content::Image(_) => 4_800,
    });
    let mut bytes: usize = content.sum();
    if let Message::Assistant(said) = message {
        let blocks = said.blocks.iter().map(|block| match block {
            Block::Text(text) | Block::Thinking { text, .. } => text.len(),
            Block::ToolCall(call) => call.name.len() + call.arguments.len(),
        });
        bytes += blocks.sum::<usize>();
    }
    (bytes as u64).div_ceil(4)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::file::LINES_MAX;
    use super::*;
    use crate::llm::{self, Assistant, Cost, ToolCall};
    use crate::mutate::{survive, survive_some};
    use crate::store::ledger::{Ending, LedgerEnd, LedgerRequest};
    use crate::store::tests::{Scratch, entry, log, two_lines};
    use serde_json::Value;

    const FILE: &str = "C1/context.jsonl";

    pub(crate) fn user(text: &str) -> Message {
        Message::user(text.to_owned(), 0)
    }

    pub(crate) fn said(blocks: Vec<Block>, tokens: u64) -> Message {
        Message::Assistant(Assistant {
            blocks,
            api: "anthropic-messages".to_owned(),
            provider: "anthropic".to_owned(),
            model: "claude-sonnet-4-5".to_owned(),
            usage: Usage {
                input: tokens,
                // The file can't store an unknown cost.
                cost: Some(Cost::default()),
                ..Usage::default()
            },
            stop_reason: StopReason::Stop,
            timestamp_ms: 7,
        })
    }

    fn fresh(name: &str) -> (Scratch, Arc<Store>, Context) {
        let scratch = Scratch::new(name);
        let store = scratch.store();
        let context = Context::load(&store, "C1").unwrap();
        (scratch, store, context)
    }

    fn sync(context: &mut Context) {
        context.sync(&|_| false, 9_000, &str::to_owned).unwrap();
    }

    pub(crate) fn answer(text: &str) -> Message {
        said(vec![Block::Text(text.to_owned())], 0)
    }

    pub(crate) fn call(name: &str, arguments: &str) -> Message {
        let call = ToolCall {
            id: "1".to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            signature: None,
        };
        said(vec![Block::ToolCall(call)], 0)
    }

    pub(crate) fn result(text: &str) -> Message {
        Message::ToolResult(ToolResult {
            call_id: "1".to_owned(),
            name: "bash".to_owned(),
            content: vec![Content::Text(text.to_owned())],
            is_error: false,
            timestamp_ms: 0,
        })
    }

    fn texts(context: &Context) -> Vec<String> {
        let text = |message: &Message| match message {
            Message::Assistant(said) => match said.blocks.first() {
                Some(Block::Text(text)) => text.clone(),
                Some(Block::ToolCall(call)) => call.arguments.clone(),
                _ => String::new(),
            },
            _ => llm::words(message.content()),
        };
        context.messages().iter().map(text).collect()
    }

    fn told(id: &str, parent: Option<&str>) -> String {
        let message = r#"{"role":"user","content":"ID","timestamp":1767604366100}"#;
        let fields = format!(r#""message":{}"#, message.replace("ID", id));
        entry_line(id, parent, "message", &fields)
    }

    fn entry_line(id: &str, parent: Option<&str>, kind: &str, fields: &str) -> String {
        let parent = parent.map_or("null".to_owned(), json::quote);
        let time = "2026-01-05T09:12:46.101Z";
        format!(
            "{{\"type\":\"{kind}\",\"id\":\"{id}\",\"parentId\":{parent},\"timestamp\":\"{time}\",{fields}}}\n"
        )
    }

    fn sum(id: &str) -> String {
        let compaction = Compaction {
            summary: format!("sum {id}"),
            ..Compaction::default()
        };
        llm::words(summary(&compaction).content())
    }

    /// `b<a` is a message whose parent is `a`; `z<c:b` is a compaction after `c` that keeps the
    /// messages from `b` on; `Sz` is the summary of `z`.
    #[test]
    fn the_way_back() {
        for (tree, want) in [
            ("", ""),
            ("a b<a c<b d", "d"),
            ("a b<a d<q", "d"),
            ("a<a", "a"),
            ("a b<a c<b z<c:b", "Sz b c"),
            ("a b<a c<b z<c:q d<z", "Sz d"),
            ("a b<a c<b y<c:b d<y z<d:c", "Sz c d"),
        ] {
            let scratch = Scratch::new("context-way");
            let mut file = session::header("s", "2026-01-05T09:12:45.000Z", "/");
            for entry in tree.split_whitespace() {
                let (entry, kept) = entry.split_once(':').unwrap_or((entry, ""));
                let split = entry.split_once('<');
                let (id, parent) = split.map_or((entry, None), |(id, of)| (id, Some(of)));
                let fields = format!(r#""summary":"sum {id}","firstKeptEntryId":"{kept}""#);
                file += &match kept {
                    "" => told(id, parent),
                    _ => entry_line(id, parent, "compaction", &fields),
                };
            }
            scratch.write(FILE, &file);
            let got = texts(&Context::load(&scratch.store(), "C1").unwrap());
            let want = want.split_whitespace();
            let want = want.map(|word| word.strip_prefix('S').map_or(word.to_owned(), sum));
            assert_eq!(got, want.collect::<Vec<_>>(), "{tree}");
        }
    }

    #[test]
    fn what_is_no_session_is_set_aside() {
        let scratch = Scratch::new("context-aside");
        scratch.write(FILE, "my notes\n{\"type\":\"message\"}\n");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
        context.append(user("hello")).unwrap();
        assert_eq!(texts(&Context::load(&store, "C1").unwrap()), ["hello"]);
        let names = store.dir().list("C1", 9).unwrap().unwrap();
        let aside = names.iter().find(|entry| entry.name.contains("unreadable"));
        let aside = scratch.read(&format!("C1/{}", aside.unwrap().name));
        assert!(aside.starts_with("my notes\n"));
        assert!(Context::load(&store, "../C1").is_err());
    }

    #[test]
    fn keeps_what_is_appended() {
        let (scratch, store, mut context) = fresh("context-keep");
        let image = Content::Image(crate::llm::Image {
            mime: "image/png".to_owned(),
            data: "AAAA".to_owned(),
            name: "/workspace/a.png".to_owned(),
        });
        let mut seen = result("a.txt");
        if let Message::ToolResult(result) = &mut seen {
            result.content.push(image);
        }
        for message in [user("list"), said(vec![], 12), call("bash", "{}"), seen] {
            context.append(message).unwrap();
        }
        assert_eq!(context.tokens(), 12 + 2 + (5u64 + 4_800).div_ceil(4));
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(loaded.messages(), context.messages());
        assert_eq!(loaded.tokens(), context.tokens());
        let written: String = loaded.messages_json().collect();
        assert!(written.contains("(4 bytes of base64)"));
        let file = scratch.read(FILE);
        let lines = file.lines().map(serde_json::from_str);
        let lines: Vec<Value> = lines.collect::<std::result::Result<_, _>>().unwrap();
        assert_eq!(lines[0]["version"], 3);
        assert!(lines[1]["parentId"].is_null());
        assert_eq!(lines[2]["parentId"], lines[1]["id"]);
        // Arguments nested too deep to be read back: they are left out, the entry stays readable.
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(124), "]".repeat(124));
        context.append(call("bash", &deep)).unwrap();
        context.append(user("after")).unwrap();
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(texts(&loaded)[4..], ["{}", "after"]);
    }

    #[test]
    fn torn_anywhere() {
        let (scratch, store, mut context) = fresh("context-torn");
        context.append(user("one")).unwrap();
        context.append(answer("two")).unwrap();
        let whole = scratch.read(FILE);
        let last = whole.trim_end().rfind('\n').unwrap() + 1;
        for len in last..whole.len() {
            scratch.write(FILE, &whole[..len]);
            let mut context = Context::load(&store, "C1").unwrap();
            context.append(user("three")).unwrap();
            let want = if len + 1 < whole.len() {
                &["one", "three"][..]
            } else {
                &["one", "two", "three"]
            };
            assert_eq!(texts(&context), want, "cut at {len}");
            assert_eq!(texts(&Context::load(&store, "C1").unwrap()), want, "{len}");
        }
    }

    fn begin(context: &mut Context, ts: &str) {
        let request = LedgerRequest {
            ts: ts.to_owned(),
            ..LedgerRequest::default()
        };
        let ledger = &context.file.store.ledger;
        let start = ledger.begin("C1", &[request], context.last_entry());
        if !start.unwrap().resumed {
            context.start_run();
        }
    }

    fn asked_run(context: &mut Context, ts: &str) {
        begin(context, ts);
        let content = vec![Content::Text(format!("asked {ts}"))];
        context.append_request(ts, content, 0).unwrap();
    }

    fn end_run(context: &Context, ts: &str) {
        let ended = LedgerEnd::of(Ending::Answered, vec![ts.to_owned()], None);
        let cursor = Some(context.cursor().clone());
        let ledger = &context.file.store.ledger;
        ledger.end("C1", vec![ended], cursor).unwrap();
    }

    #[test]
    fn a_silent_run_leaves_a_line() {
        let scratch = Scratch::new("context-silent");
        let store = scratch.store();
        log(&store, &[entry("1.0", "before"), entry("2.0", "event")]);
        let mut context = Context::load(&store, "C1").unwrap();
        begin(&mut context, "2.0");
        context
            .sync(&|ts| ts == "2.0", 1_000, &str::to_owned)
            .unwrap();
        assert_eq!(context.run_start(), 1);
        asked_run(&mut context, "2.0");
        context.append(answer("[SILENT]")).unwrap();
        context.drop_run("(nothing to report)").unwrap();
        end_run(&context, "2.0");
        for mut context in [context, Context::load(&store, "C1").unwrap()] {
            sync(&mut context);
            assert_eq!(texts(&context), ["[lena]: before", "(nothing to report)"]);
        }
    }

    /// What such runs wrote is not read again, however much it is.
    #[test]
    fn silent_runs_in_a_row_leave_one_line_and_cost_nothing() {
        let (scratch, store, mut context) = fresh("context-silent-row");
        context.append(user("before")).unwrap();
        for (n, bytes) in [(1, 0), (2, 1 << 40), (3, 0), (4, 0)] {
            let mut context = Context::load(&store, "C1").unwrap();
            asked_run(&mut context, &format!("{n}:a.json"));
            let file = std::fs::File::options()
                .write(true)
                .open(scratch.0.join(FILE));
            let file = file.unwrap();
            file.set_len(file.metadata().unwrap().len() + bytes)
                .unwrap();
            context.append(answer("[SILENT]")).unwrap();
            context.drop_run("(nothing to report)").unwrap();
            end_run(&context, &format!("{n}:a.json"));
            let loaded = Context::load(&store, "C1").unwrap();
            assert_eq!(texts(&loaded), ["before", "(nothing to report)"], "{n}");
        }
        context = Context::load(&store, "C1").unwrap();
        context.append(user("after")).unwrap();
        let want = ["before", "(nothing to report)", "after"];
        assert_eq!(texts(&Context::load(&store, "C1").unwrap()), want);
    }

    /// After someone edited the file, the positions that entries name are wrong.
    #[test]
    fn a_jump_that_leads_astray_is_not_taken() {
        let (scratch, store, mut context) = fresh("context-astray");
        context.append(user("before")).unwrap();
        for n in 1..4 {
            let mut context = Context::load(&store, "C1").unwrap();
            asked_run(&mut context, &format!("{n}:a.json"));
            context.drop_run("(nothing)").unwrap();
            end_run(&context, &format!("{n}:a.json"));
        }
        let file = scratch.read(FILE);
        assert!(file.contains("\"leaf\":"));
        scratch.write(FILE, &file.replacen("before", "in the beginning", 1));
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(texts(&loaded), ["in the beginning", "(nothing)"]);
    }

    #[test]
    fn fresh_begins_anew() {
        let scratch = Scratch::new("context-fresh");
        let store = scratch.store();
        log(&store, &[entry("1.0", "old")]);
        let mut context = Context::load(&store, "C1").unwrap();
        asked_run(&mut context, "1.0");
        end_run(&context, "1.0");
        log(&store, &[entry("2.0", "said before new")]);
        context.start_anew().unwrap();
        log(&store, &[entry("3.0", "said after")]);
        for mut context in [context, Context::load(&store, "C1").unwrap()] {
            sync(&mut context);
            assert_eq!(texts(&context), ["[lena]: said after"]);
        }
        assert!(scratch.read(FILE).contains("asked 1.0"));
    }

    #[test]
    fn takes_over_what_was_said() {
        let (_scratch, store, mut context) = fresh("context-sync");
        let sync = |context: &mut Context, handled: &str, window| {
            let known = context.messages().len();
            context
                .sync(&|ts| ts == handled, window, &str::to_owned)
                .unwrap();
            texts(context).split_off(known)
        };
        let bot = LogEntry {
            is_bot: true,
            ..entry("3.0", "I")
        };
        let mut file = entry("2.0", "see");
        file.attachments = Store::attachments("C1", "2.0", &["a.txt"]);
        let (stop, asked) = (entry("4.0", "STOP"), entry("5.0", "asked"));
        log(&store, &[entry("1.0", "ok"), file, bot, stop, asked]);
        let seen =
            "[lena]: see\n\n<slack_attachments>\nC1/attachments/2000_a.txt\n</slack_attachments>";
        assert_eq!(sync(&mut context, "5.0", 9_000), ["[lena]: ok", seen]);
        // The same text with another ts is a new message; a message of the run is not.
        asked_run(&mut context, "5.0");
        let steered = entry("7.0", "steered");
        log(&store, &[entry("6.0", "ok"), steered.clone(), steered]);
        context.append_request("7.0", vec![], 0).unwrap();
        end_run(&context, "5.0");
        context = Context::load(&store, "C1").unwrap();
        assert_eq!(sync(&mut context, "", 9_000), ["[lena]: ok"]);
        // More than fits: the newest messages, and a note where the rest is.
        let many: Vec<_> = (10..60)
            .map(|n| entry(&format!("{n}.0"), "0123456789"))
            .collect();
        log(&store, &many);
        let found = sync(&mut context, "", 100);
        assert_eq!((found.len(), found[0].as_str()), (6, OLDER));
        assert_eq!(sync(&mut context, "", 100), [""; 0]);
    }

    /// The agent can write anything into the file, but can't fill the memory or delay a run.
    #[test]
    fn lines_are_bounded() {
        let scratch = Scratch::new("context-lines");
        let store = scratch.store();
        let mut file = session::header("s", "", "/");
        for id in 0..LINES_MAX + 9 {
            file += &format!(
                r#"{{"type":"message","id":"{id}","parentId":"{}","message":{{"role":"user","content":"{id}"}}}}"#,
                id.wrapping_sub(1),
            );
            file += "\n";
        }
        scratch.write(FILE, &file);
        let messages = texts(&Context::load(&store, "C1").unwrap());
        assert_eq!(messages.len(), LINES_MAX);
        assert_eq!(messages.last(), Some(&(LINES_MAX + 8).to_string()));
    }

    /// Jumps can't do that either, though each may go back as far as the file is read.
    #[test]
    fn jumps_lead_no_further() {
        let scratch = Scratch::new("context-jumps");
        scratch.write(FILE, &session::header("s", "", "/"));
        let path = scratch.0.join(FILE);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let text = "x".repeat(1 << 20);
        let (mut end, mut hole) = (0, 4096);
        for id in 0..40 {
            let line = format!(
                "\n{{\"type\":\"message\",\"id\":\"{id}\",\"parentId\":\"{}\",\"leaf\":{end},\
                 \"message\":{{\"role\":\"user\",\"content\":\"{text}\"}}}}\n",
                id - 1,
            );
            file.write_all_at(line.as_bytes(), hole).unwrap();
            end = hole + line.len() as u64;
            hole = end + (4 << 20);
        }
        let context = Context::load(&scratch.store(), "C1").unwrap();
        assert_eq!(context.messages().len(), 31);
    }

    /// Whatever the bytes are, the file loads, and appended messages come after its own.
    #[test]
    fn survives_mutations() {
        let (scratch, store, mut context) = fresh("context-mutations");
        let call = call("bash", r#"{"b":[1, {"a":"\u00e9"}]}"#);
        for turn in 0..3 {
            asked_run(&mut context, &format!("{turn}.0"));
            context.append(call.clone()).unwrap();
            context.append(user("é <b>")).unwrap();
            end_run(&context, &format!("{turn}.0"));
            let compaction = Compaction::default();
            context
                .compacted(compaction, context.messages().len() - 1, None, None)
                .unwrap();
        }
        log(&store, &[entry("1.000001", "é"), entry("2.000001", "two")]);
        let (seed, log_seed) = (scratch.read(FILE), scratch.read("C1/log.jsonl"));
        survive_some(1_000, &[&seed], |random, input| {
            std::fs::write(scratch.0.join(FILE), input).unwrap();
            let input = random.mutate(&[log_seed.as_bytes()]);
            std::fs::write(scratch.0.join("C1/log.jsonl"), input).unwrap();
            let mut context = Context::load(&store, "C1").unwrap();
            sync(&mut context);
            context.append(user("newest")).unwrap();
            context.tokens();
            let loaded = Context::load(&store, "C1").unwrap();
            assert_eq!(loaded.messages(), context.messages());
            store.people("C1").unwrap();
            store.logged_until("C1").unwrap();
            log(&store, &[entry("9.000001", "newest")]);
            let tail = scratch.read_lossy("C1/log.jsonl");
            let last = tail.lines().last().map(str::as_bytes);
            assert_eq!(LogEntry::parse(last.unwrap()).unwrap().text, "newest");
        });
    }

    #[test]
    fn survives_mutation_of_a_line() {
        let corpus = [
            r#"{"type":"compaction","id":"a","parentId":null,"summary":"s","firstKeptEntryId":"b","details":{"readFiles":["/r"],"modifiedFiles":[]}}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let Ok(entry) = serde_json::from_str::<Value>(&text) else {
                return;
            };
            let step = BranchStep::parse(&entry, &text);
            assert!(step.id.len() <= text.len());
        });
    }

    /// A line of the log may be read while it is still being written.
    #[test]
    fn a_line_half_written_is_taken_over_when_it_is_whole() {
        let scratch = Scratch::new("context-half");
        let store = scratch.store();
        let (whole, last) = two_lines(&scratch, &store);
        for len in last..whole.len() {
            scratch.write("C1/log.jsonl", &whole[..len]);
            let mut context = Context::load(&store, "C1").unwrap();
            sync(&mut context);
            // The file is appended to, not replaced.
            let log = scratch.0.join("C1/log.jsonl");
            let rest = &whole.as_bytes()[len..];
            let mut log = std::fs::File::options().append(true).open(log).unwrap();
            std::io::Write::write_all(&mut log, rest).unwrap();
            sync(&mut context);
            assert_eq!(texts(&context), ["[lena]: one", "[lena]: two"], "at {len}");
            std::fs::remove_file(scratch.0.join(FILE)).unwrap();
        }
    }

    /// The original mom used our context file for a while.
    #[test]
    fn takes_over_from_the_original() {
        let (scratch, store, mut context) = fresh("context-original");
        log(&store, &[entry("1767604367.000000", "news")]);
        sync(&mut context);
        asked_run(&mut context, "1767604368.000000");
        end_run(&context, "1767604368.000000");
        let ours = scratch.read(FILE);
        let next = told("b", context.last_entry()).replace("1767604366100", "1767604400000");
        scratch.write(FILE, &(ours + &next));
        let synced = entry("1767604399.000000", "synced");
        log(&store, &[synced, entry("1767604401.000000", "later")]);
        let mut context = Context::load(&store, "C1").unwrap();
        sync(&mut context);
        assert_eq!(texts(&context)[2..], ["b", "[lena]: later"]);
    }

    /// Only the ends of the files are read, however large they are.
    #[test]
    fn history_costs_nothing() {
        let scratch = Scratch::new("context-large");
        let store = scratch.store();
        log(&store, &[entry("1.0", "one")]);
        let mut context = Context::load(&store, "C1").unwrap();
        asked_run(&mut context, "1.0");
        end_run(&context, "1.0");
        for name in ["C1/log.jsonl", FILE] {
            let file = std::fs::File::options()
                .write(true)
                .open(scratch.0.join(name));
            file.unwrap().set_len(1 << 40).unwrap();
        }
        let later = format!("{}.0", time::now_ms() / 1000 + 60);
        log(&store, &[entry(&later, "two")]);
        assert_eq!(
            store.seen("C1", &later, store::Now::default()).unwrap(),
            store::Seen::Known
        );
        assert_eq!(store.logged_until("C1").unwrap(), Some(later));
        context.append(user("last")).unwrap();
        let mut context = Context::load(&store, "C1").unwrap();
        sync(&mut context);
        assert_eq!(texts(&context), ["last", OLDER, "[lena]: two"]);
    }

    #[test]
    fn compaction_keeps_the_end_and_the_run() {
        let (_scratch, store, mut context) = fresh("context-compacted");
        for text in ["a", "b"] {
            context.append(user(text)).unwrap();
        }
        asked_run(&mut context, "1.0");
        context
            .append(said(vec![Block::Text("c".to_owned())], 5_000))
            .unwrap();
        let compaction = |word: &str| Compaction {
            summary: format!("sum {word}"),
            read_files: vec!["/r".to_owned()],
            modified_files: vec!["/m".to_owned()],
        };
        let check = |context: &Context, want: &[&str]| {
            for context in [context, &Context::load(&store, "C1").unwrap()] {
                assert_eq!(texts(context), want);
                assert_eq!(context.run_start(), want.len());
                assert!(context.tokens() < 1_000, "{}", context.tokens());
                assert!(context.has_request("1.0"));
            }
        };
        context.compacted(compaction("x"), 1, None, None).unwrap();
        check(&context, &[&sum("x"), "b", "asked 1.0", "c"]);
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(loaded.compaction(), Some(&compaction("x")));
        context.append(user("d")).unwrap();
        let cut = said(vec![Block::Text("c, cut".to_owned())], 5_000);
        let asked = context.messages()[2].clone();
        let tail = vec![(2, asked), (3, cut), (4, user("d"))];
        context
            .compacted(compaction("y"), 2, Some(tail), None)
            .unwrap();
        check(&context, &[&sum("y"), "asked 1.0", "c, cut", "d"]);
        context.append(said(vec![], 700)).unwrap();
        assert_eq!(context.tokens(), 700);
        context.compacted(compaction("z"), 5, None, None).unwrap();
        assert_eq!(texts(&Context::load(&store, "C1").unwrap()), [sum("z")]);
    }
}
