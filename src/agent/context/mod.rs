//! context.jsonl: what the model remembers of a conversation, in pi's session format 3
//! (badlogic/pi-mono, packages/coding-agent). Read from its end back to what the last
//! compaction kept, and only ever appended to.
//!
//! Our records (`record`) are `custom` entries, which the original carries along unread. An
//! entry with the message `ts` of Slack has it beside the message.
//!
//! The entries form a tree, and a conversation is the way from the last one back to a root.
//! `fresh` begins a new root; `drop_run` goes on from before the run. Both programs take
//! that for what it means.

mod record;

use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use self::record::Costs;
use self::record::{Run, State};
use crate::agent::prompt;
use crate::agent::session;
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Obj};
use crate::base::log;
use crate::base::random::random_word;
use crate::base::secret;
use crate::base::time;
use crate::llm::{Block, Content, Message, Model, StopReason, ToolResult, Usage};
use crate::store::dir::{Appended, Dir, Floor};
use crate::store::{self, LogEntry, RECORD_TYPE, Store};

/// Bytes of context.jsonl that are read at most; what no compaction has shortened begins
/// that far from its end.
const BYTES_MAX: u64 = 32 << 20;
/// Likewise lines: a million tokens of the shortest messages are about as many.
const LINES_MAX: usize = 30_000;
/// Bytes of log.jsonl that one sync reads, and of text that it takes over.
const SYNC_BYTES_MAX: u64 = 4 << 20;
const SYNC_TEXT_MAX: u64 = 1 << 20;
const OLDER: &str =
    "(More was said here before that; it is not shown, and stands in this channel's log.jsonl.)";

pub(crate) struct Context {
    dir: Arc<Dir>,
    channel: String,
    /// For the header of a new file.
    cwd: String,
    /// The summary of the last compaction is the first of them.
    messages: Vec<Message>,
    /// Entry of each message.
    ids: Vec<String>,
    /// The summary alone, and the files it names.
    compaction: Option<Compaction>,
    /// Messages that were there at the last compaction: their usage says nothing any more.
    uncounted: usize,
    run_start: usize,
    /// Slack messages that are in the context.
    known: HashSet<String>,
    last_id: Option<String>,
    /// What a power cut may take, until it is flushed.
    unsynced: Option<Appended>,
    /// The last message when the file was read, and the byte behind its line.
    last_message: Option<(String, u64)>,
    state: State,
    /// When the newest record was written, and the newest message of the original since.
    state_ms: i64,
    foreign_ms: i64,
}

/// What a compaction leaves in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compaction {
    pub(crate) summary: String,
    /// Paths, sorted.
    pub(crate) read_files: Vec<String>,
    pub(crate) modified_files: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunStatus {
    pub(crate) thread_ts: Option<String>,
}

/// What `begin_run` found of an earlier try.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunRecord {
    /// This one counted: 1 for a first try.
    pub(crate) tries: u32,
    /// The status message of the try before.
    pub(crate) status_ts: Option<String>,
    pub(crate) resumed: bool,
    /// The first message that was asked: names the run.
    pub(crate) name: String,
    /// It has ended before: nothing was begun.
    pub(crate) done: bool,
}

/// A line to be: `id` and `parentId` come when it is written.
struct Entry {
    kind: &'static str,
    id: String,
    fields: Vec<(&'static str, String)>,
}

/// An entry on the way back from the leaf.
struct Step {
    id: String,
    parent: Option<String>,
    ts: Option<String>,
    message: Option<Message>,
    /// With the id of the first entry that is kept.
    compaction: Option<(Compaction, String)>,
    /// Our record that ends a compaction: copies of what was kept may stand before it.
    ends_compaction: bool,
}

#[derive(Clone, Copy)]
enum Jumps {
    Take,
    Leave,
}

impl Context {
    /// # Errors
    /// A file that cannot be read; one that is no session is set aside with a warning.
    pub(crate) fn load(store: &Store, channel: &str) -> Result<Context> {
        store.make_channel(channel)?;
        let cwd = store.path().display().to_string();
        Context::read(store.dir().clone(), channel, cwd)
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The last compaction, whose summary is then the first message.
    pub(crate) fn compaction(&self) -> Option<&Compaction> {
        self.compaction.as_ref()
    }

    /// Of the window, counted by the last reply's usage and estimated from there on.
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

    /// Survives kill -9 when it returns, and a power cut from the next `settle` or record
    /// that is flushed on.
    pub(crate) fn append(&mut self, message: Message) -> Result<()> {
        self.append_all(vec![(message, String::new())])
    }

    /// Everything so far survives a power cut when it returns: one fdatasync, none when
    /// nothing is new. Before each thing that must not be done twice.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.unsynced
            .take()
            .map_or(Ok(()), |appended| appended.settle())
    }

    /// Takes over what people said in log.jsonl since last time, but what is `handled` (ts):
    /// what this run brings along itself, or a later one will. As much as fits into a quarter of the window, newest
    /// first.
    pub(crate) fn sync(
        &mut self,
        store: &Store,
        handled: &dyn Fn(&str) -> bool,
        window_tokens: u64,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        let path = store::log_path(&self.channel);
        let Some(stamp) = store.dir().stamp(&path)? else {
            return Ok(());
        };
        let log_position = self.state.log_position;
        let same = stamp.bytes >= log_position
            && self.state.log_mark == log_mark(store.dir(), &path, log_position)?;
        let (begin, after_ms) = match same {
            true => (log_position, self.foreign_ms),
            // Replaced, edited, or written by the original: what is older is known.
            false => (0, self.foreign_ms.max(self.state_ms)),
        };
        let floor = begin.max(stamp.bytes.saturating_sub(SYNC_BYTES_MAX));
        let Some(mut lines) = store.dir().lines_back(&path, Floor::At(floor))? else {
            return Ok(());
        };
        // A quarter of it, at four bytes a token.
        let mut room = window_tokens.min(SYNC_TEXT_MAX) as usize;
        let mut older = floor > begin;
        let mut taken = HashSet::new();
        let mut found = Vec::new();
        for line in &mut lines {
            let Some(entry) = LogEntry::parse(&line?) else {
                continue;
            };
            let date_ms = entry.date_ms();
            if entry.is_bot
                || date_ms <= after_ms
                || self.known.contains(&entry.ts)
                || Command::parse(&entry.text).is_some()
                // A later line of the same message takes the place of the earlier ones.
                || !taken.insert(entry.ts.clone())
                || entry.is_empty()
                || handled(&entry.ts)
            {
                continue;
            }
            let text = said(&entry, name_of);
            if text.len() > room {
                older = true;
                break;
            }
            room -= text.len();
            found.push((date_ms, text, entry.ts));
        }
        if older {
            let first_ms = found.last().map_or_else(time::now_ms, |(ms, ..)| *ms);
            found.push((first_ms, OLDER.to_owned(), String::new()));
        }
        found.reverse();
        found.sort_by_key(|(date_ms, ..)| *date_ms);
        let messages = found.into_iter().map(|(timestamp_ms, text, ts)| {
            let content = vec![Content::Text(text)];
            let message = Message::User {
                content,
                timestamp_ms,
            };
            (message, ts)
        });
        // Said before the run, though it has begun.
        let before = self.run_start == self.messages.len();
        self.append_all(messages.collect())?;
        if let (true, Some(run)) = (before, &mut self.state.run) {
            if !run.done {
                run.before.clone_from(&self.last_id);
                self.run_start = self.messages.len();
            }
        }
        self.state.log_position = lines.end();
        self.state.log_mark = log_mark(store.dir(), &path, lines.end())?;
        Ok(())
    }

    /// An unfinished run answers one of these.
    pub(crate) fn is_cut(&self, asked_ts: &[String]) -> bool {
        let run = self.state.run.as_ref();
        run.is_some_and(|run| !run.done && run.asked.iter().any(|ts| asked_ts.contains(ts)))
    }

    /// Takes up the unfinished run that one of these messages belongs to, or begins another.
    pub(crate) fn begin_run(
        &mut self,
        asked_ts: &[String],
        status: RunStatus,
    ) -> Result<RunRecord> {
        let last = self.state.run.as_ref();
        let is_done = |ts: &String| match last.filter(|run| run.asked.contains(ts)) {
            Some(run) => run.done,
            // Only its own run brings an event here.
            None => ts.contains(':') && self.known.contains(ts),
        };
        if asked_ts.iter().all(is_done) {
            return Ok(RunRecord {
                done: true,
                ..RunRecord::default()
            });
        }
        let resumed = self.is_cut(asked_ts);
        let unfinished = self.state.run.take().filter(|_| resumed);
        let mut run = unfinished.unwrap_or_else(|| {
            self.run_start = self.messages.len();
            Run {
                before: self.last_id.clone(),
                ..Run::default()
            }
        });
        run.tries = run.tries.saturating_add(1);
        run.thread_ts = status.thread_ts;
        for ts in asked_ts {
            run.ask(ts);
        }
        let found = RunRecord {
            tries: run.tries,
            status_ts: run.status_ts.clone(),
            resumed,
            name: run.asked.first().cloned().unwrap_or_default(),
            done: false,
        };
        self.state.run = Some(run);
        self.flush(vec![self.record("begin")?])?;
        Ok(found)
    }

    /// What was asked is in the context; the status message, if it is posted already.
    pub(crate) fn note_begun(&mut self, status_ts: Option<String>) -> Result<()> {
        if let Some(run) = &mut self.state.run {
            run.status_ts = status_ts.or(run.status_ts.take());
        }
        self.write(vec![self.record("begun")?])
    }

    /// A user message of this run, also one that came while it went on.
    pub(crate) fn append_asked(
        &mut self,
        ts: &str,
        content: Vec<Content>,
        timestamp_ms: i64,
    ) -> Result<()> {
        let message = masked(Message::User {
            content,
            timestamp_ms,
        });
        let before = self.state.run.clone();
        if let Some(run) = &mut self.state.run {
            run.ask(ts);
            run.taken.push(ts.to_owned());
        }
        let entry = message_entry(&message, ts)?;
        let id = entry.id.clone();
        // With one write: what a run answers is never in doubt.
        if let Err(err) = self
            .record("asked")
            .and_then(|record| self.write(vec![entry, record]))
        {
            self.state.run = before;
            return Err(err);
        }
        self.ids.push(id);
        self.messages.push(message);
        self.known.insert(ts.to_owned());
        Ok(())
    }

    /// The run has taken it, so that its answer is one to this, too.
    pub(crate) fn takes(&self, ts: &str) -> bool {
        let run = self.state.run.as_ref();
        run.is_some_and(|run| run.taken.iter().any(|taken| taken == ts))
    }

    /// What the run has written is on the disk when it returns, with all that it answers:
    /// after that its answer may be posted.
    pub(crate) fn note_answer(&mut self) -> Result<()> {
        self.flush(vec![self.record("answer")?])
    }

    /// These get no answer, and are not in the context; `end_run` follows.
    pub(crate) fn drop_asked(&mut self, dropped: Vec<String>) {
        if let Some(run) = &mut self.state.run {
            run.dropped = dropped;
        }
    }

    /// All asked messages of this run are answered. `cost` in dollars.
    pub(crate) fn end_run(&mut self, answer_ts: Option<&str>, cost: Option<f64>) -> Result<Costs> {
        let costs = self.costs();
        let cost = cost.unwrap_or_default();
        self.state.costs = Costs {
            today: costs.today + cost,
            total: costs.total + cost,
        };
        self.state.day = today();
        if let Some(run) = &mut self.state.run {
            run.done = true;
            run.answer_ts = answer_ts.map(str::to_owned);
            self.known.extend(run.asked.iter().cloned());
        }
        self.flush(vec![self.record("end")?])?;
        Ok(self.state.costs)
    }

    /// The run leaves `note` in the context and nothing else, and one of them stands for all
    /// such runs in a row; `end_run` follows.
    pub(crate) fn drop_run(&mut self, note: &str) -> Result<()> {
        let Some(run) = &self.state.run else {
            return Ok(());
        };
        let content = vec![Content::Text(note.to_owned())];
        let is_note = |message: &Message| matches!(message, Message::User { content: found, .. } if *found == content);
        let before = self.run_start.checked_sub(1);
        let noted = before.filter(|at| self.messages.get(*at).is_some_and(is_note));
        let mut entries = vec![self.record("drop")?];
        let before = match noted.and_then(|at| self.ids.get(at)) {
            Some(id) => {
                let leaf = self.last_message.as_ref().filter(|(last, _)| last == id);
                let leaf = leaf.map(|(_, end)| ("leaf", end.to_string()));
                entries[0].fields.extend(leaf);
                Some(id.clone())
            }
            None => {
                let message = Message::User {
                    content,
                    timestamp_ms: time::now_ms(),
                };
                entries.insert(0, message_entry(&message, "")?);
                run.before.clone()
            }
        };
        let last_id = std::mem::replace(&mut self.last_id, before);
        if let Err(err) = self.write(entries) {
            self.last_id = last_id;
            return Err(err);
        }
        *self = Context::read(self.dir.clone(), &self.channel, self.cwd.clone())?;
        Ok(())
    }

    pub(crate) fn costs(&self) -> Costs {
        match self.state.day == today() {
            true => self.state.costs,
            false => Costs {
                today: 0.0,
                ..self.state.costs
            },
        }
    }

    /// A JSON array in the session file's shapes, images left out.
    pub(crate) fn messages_json(&self) -> String {
        let write = |message: &Message| {
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
        };
        json::array(self.messages.iter().map(write))
    }

    /// Index in `messages` of this run's first message.
    pub(crate) fn run_start(&self) -> usize {
        self.run_start
    }

    /// Starts anew: nothing before this is remembered, and nothing is deleted.
    pub(crate) fn fresh(&mut self) -> Result<()> {
        let mut state = self.state.clone();
        state.run = None;
        let path = store::log_path(&self.channel);
        if let Some(stamp) = self.dir.stamp(&path)? {
            state.log_position = stamp.bytes;
            state.log_mark = log_mark(&self.dir, &path, stamp.bytes)?;
        }
        let last_id = self.last_id.take();
        let old = std::mem::replace(&mut self.state, state);
        if let Err(err) = self
            .record("fresh")
            .and_then(|entry| self.flush(vec![entry]))
        {
            self.state = old;
            self.last_id = last_id;
            return Err(err);
        }
        self.messages.clear();
        self.ids.clear();
        self.known.clear();
        self.compaction = None;
        (self.uncounted, self.run_start) = (0, 0);
        Ok(())
    }

    /// Puts a summary in the place of the messages before `cut`. `tail` stands for those from
    /// there on where they had to be shortened; it has as many. `spent` is for `--usage`.
    pub(crate) fn compacted(
        &mut self,
        compaction: Compaction,
        cut: usize,
        tail: Option<Vec<Message>>,
        spent: Option<(&Model, &Usage)>,
    ) -> Result<()> {
        let mut entry = Entry::new("compaction")?;
        // Its own id is found nowhere before it: then nothing is kept, and the copies follow.
        let kept = match (&tail, self.ids.get(cut)) {
            (None, Some(id)) => id.clone(),
            _ => entry.id.clone(),
        };
        let paths = json::texts;
        let details = Obj::new()
            .raw("readFiles", &paths(&compaction.read_files))
            .raw("modifiedFiles", &paths(&compaction.modified_files));
        entry.fields = vec![
            ("summary", json::quote(&compaction.summary)),
            ("firstKeptEntryId", json::quote(&kept)),
            ("tokensBefore", self.tokens().to_string()),
            ("details", details.end()),
            ("fromHook", "false".to_owned()),
        ];
        if let Some((model, usage)) = spent {
            entry.fields.extend([
                ("provider", json::quote(model.provider)),
                ("model", json::quote(&model.id)),
                ("usage", session::write_usage(usage)),
            ]);
        }
        let mut ids = vec![entry.id.clone()];
        let mut entries = vec![entry];
        for message in tail.iter().flatten() {
            let mut copy = message_entry(message, "")?;
            copy.fields.push(("copy", "true".to_owned()));
            entries.push(copy);
        }
        match tail {
            Some(_) => ids.extend(entries[1..].iter().map(|entry| entry.id.clone())),
            None => ids.extend_from_slice(self.ids.get(cut..).unwrap_or_default()),
        }
        entries.push(self.record("compacted")?);
        self.flush(entries)?;
        let tail = tail.unwrap_or_else(|| self.messages.split_off(cut));
        self.messages = vec![summary(&compaction)];
        self.messages.extend(tail);
        self.ids = ids;
        self.compaction = Some(compaction);
        self.uncounted = self.messages.len();
        // Signed thinking is bound to what stood before it: none is replayed from here on.
        self.run_start = self.messages.len();
        Ok(())
    }

    fn read(dir: Arc<Dir>, channel: &str, cwd: String) -> Result<Context> {
        let mut context = Context {
            dir,
            channel: channel.to_owned(),
            cwd,
            messages: Vec::new(),
            ids: Vec::new(),
            compaction: None,
            uncounted: 0,
            run_start: 0,
            known: HashSet::new(),
            last_id: None,
            unsynced: None,
            last_message: None,
            state: State::default(),
            state_ms: 0,
            foreign_ms: 0,
        };
        context.check_header()?;
        let steps = context.walk(Jumps::Take)?;
        context.take(steps);
        Ok(context)
    }

    /// Makes of the file one that `walk` reads: a session of version 2 or 3.
    fn check_header(&self) -> Result<()> {
        let path = store::context_path(&self.channel);
        let head = self.dir.read_head(&path, 64 * 1024)?.unwrap_or_default();
        if head.is_empty() {
            return Ok(());
        }
        let mut lines = head.split(|byte| *byte == b'\n');
        let header = lines.find_map(|line| serde_json::from_slice::<Value>(line).ok());
        let header = header.unwrap_or_default();
        if header["type"] != "session" || !header["id"].is_string() {
            let aside = format!("context.jsonl.unreadable-{}", time::now_ms());
            log::warning!(
                &self.channel,
                "{path} is no session file; it is now {aside}"
            );
            return self.dir.rename(&path, &aside);
        }
        if header["version"].as_u64().unwrap_or(1) > 1 {
            return Ok(());
        }
        let bytes = self.dir.read_head(&path, BYTES_MAX as usize)?;
        let bytes = bytes.unwrap_or_default();
        if bytes.len() as u64 >= BYTES_MAX {
            let why = "it is of session version 1 and larger than 32 MB; rename it to begin anew";
            return Err(Error::failed(format!("cannot read {path}: {why}")));
        }
        let mut number = 0u32;
        let text = session::from_version_1(&String::from_utf8_lossy(&bytes), || {
            number += 1;
            format!("{number:08x}")
        });
        self.dir.replace(&path, text.as_bytes())
    }

    /// The way from the last entry back to a root or to what the newest compaction kept,
    /// oldest first. Finds the newest record on its way, or behind it. What silent runs left
    /// behind is jumped over, if that leads to where it should.
    fn walk(&mut self, jumps: Jumps) -> Result<Vec<Step>> {
        let path = store::context_path(&self.channel);
        (self.last_id, self.last_message) = (None, None);
        let Some(mut lines) = self.dir.lines_back(&path, Floor::Last(BYTES_MAX))? else {
            return Ok(Vec::new());
        };
        let mut jumped = false;
        let mut steps: Vec<Step> = Vec::new();
        let mut newest_ms = None;
        let mut state = None;
        let mut wanted = None;
        let mut kept: Option<String> = None;
        let mut over = false;
        let mut bytes = 0;
        for _ in 0..LINES_MAX {
            let Some(line) = lines.next().transpose()? else {
                break;
            };
            // What jumps lead to counts like all else.
            bytes += line.len() as u64;
            if over && state.is_some() || bytes > BYTES_MAX {
                break;
            }
            if state.is_none() {
                if let Some(record) = store::record(&line) {
                    self.state_ms = store::iso_ms(&record["timestamp"]).unwrap_or_default();
                    state = Some(State::parse(&record["data"]));
                }
            }
            if over {
                continue;
            }
            let Ok(line) = std::str::from_utf8(&line) else {
                continue;
            };
            let entry = json::parse_line(line.as_bytes()).unwrap_or_default();
            let id = entry["id"].as_str().unwrap_or_default();
            if entry["type"] == "session" || !entry["type"].is_string() || id.is_empty() {
                continue;
            }
            let message = &entry["message"];
            if state.is_none() && message["role"] == "user" && entry["ts"].is_null() {
                let ms = message["timestamp"].as_f64().unwrap_or_default() as i64;
                self.foreign_ms = self.foreign_ms.max(ms);
            }
            if self.last_id.is_none() {
                self.last_id = Some(id.to_owned());
                wanted = Some(id.to_owned());
                newest_ms = store::iso_ms(&entry["timestamp"]);
            }
            if wanted.as_deref() != Some(id) {
                if jumped {
                    return self.walk(Jumps::Leave);
                }
                continue;
            }
            jumped = false;
            let step = Step::parse(&entry, line);
            if self.last_message.is_none() && step.message.is_some() {
                self.last_message = Some((step.id.clone(), lines.line_end()));
            }
            if let (Jumps::Take, Some(to)) = (jumps, entry["leaf"].as_u64()) {
                jumped = true;
                lines.jump(to, BYTES_MAX);
            }
            over = step.parent.is_none() || kept.as_ref() == Some(&step.id);
            if let (None, Some((_, first))) = (&kept, &step.compaction) {
                over |= *first == step.id || first.is_empty();
                kept = Some(first.clone());
            }
            wanted.clone_from(&step.parent);
            steps.push(step);
        }
        if state.is_none() && self.foreign_ms == 0 {
            self.foreign_ms = newest_ms.unwrap_or_default();
        }
        self.state = state.unwrap_or_default();
        steps.reverse();
        Ok(steps)
    }

    /// Makes of the way the messages, in the order the model gets them.
    fn take(&mut self, mut steps: Vec<Step>) {
        let run = self.state.run.clone().unwrap_or_default();
        self.known
            .extend(if run.done { run.asked } else { run.taken });
        let mut run_start = None;
        let compacted = steps.iter().rposition(|step| step.compaction.is_some());
        let mut after = 0;
        if let Some(at) = compacted {
            let found = steps.remove(at);
            let kept = found.compaction.as_ref().map(|(_, first)| first);
            let from = steps[..at].iter().position(|step| Some(&step.id) == kept);
            let from = from.unwrap_or(at);
            after = at - from;
            steps.drain(..from);
            if let Some((compaction, _)) = found.compaction {
                self.messages.push(summary(&compaction));
                self.ids.push(found.id);
                self.compaction = Some(compaction);
            }
        }
        for (index, step) in steps.into_iter().enumerate() {
            if compacted.is_some() && (index == after || step.ends_compaction) {
                self.uncounted = self.messages.len();
            }
            if step.parent == run.before {
                run_start = run_start.or(Some(self.messages.len()));
            }
            self.known.extend(step.ts);
            if let Some(message) = step.message {
                self.messages.push(message);
                self.ids.push(step.id);
            }
        }
        if compacted.is_some() && self.uncounted == 0 {
            self.uncounted = self.messages.len();
        }
        // As after `compacted`: what it kept counts as before the run.
        self.run_start = match self.state.run {
            Some(Run { done: false, .. }) => run_start.unwrap_or(0).max(self.uncounted),
            _ => self.messages.len(),
        };
    }

    /// Messages, each with the ts it has in Slack.
    fn append_all(&mut self, messages: Vec<(Message, String)>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let masked = messages
            .into_iter()
            .map(|(message, ts)| (masked(message), ts));
        let messages: Vec<_> = masked.collect();
        let entries = messages
            .iter()
            .map(|(message, ts)| message_entry(message, ts));
        let entries = entries.collect::<Result<Vec<Entry>>>()?;
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        self.write(entries)?;
        self.ids.extend(ids);
        for (message, ts) in messages {
            self.messages.push(message);
            self.known.extend(Some(ts).filter(|ts| !ts.is_empty()));
        }
        Ok(())
    }

    fn record(&self, event: &str) -> Result<Entry> {
        let mut entry = Entry::new("custom")?;
        entry.fields = vec![
            ("customType", json::quote(RECORD_TYPE)),
            ("data", self.state.write(event)),
        ];
        Ok(entry)
    }

    fn flush(&mut self, entries: Vec<Entry>) -> Result<()> {
        let parent = self.last_id.clone();
        self.write(entries)?;
        let flushed = self.unsynced.take().map_or(Ok(()), Appended::sync);
        if flushed.is_err() {
            // They are gone again: nothing may descend from them.
            self.last_id = parent;
        }
        flushed
    }

    /// Each entry becomes the child of the one before it, the first that of the last in the
    /// file.
    fn write(&mut self, entries: Vec<Entry>) -> Result<()> {
        let now = time::iso(time::now_ms());
        let mut parent = self.last_id.clone();
        let mut lines = String::new();
        for entry in entries {
            // `record` looks for the type near the beginning of a line.
            let line = Obj::new().str("type", entry.kind).str("id", &entry.id);
            let line = match &parent {
                Some(parent) => line.str("parentId", parent),
                None => line.raw("parentId", "null"),
            };
            let mut line = line.str("timestamp", &now);
            for (key, json) in &entry.fields {
                line = line.raw(key, json);
            }
            lines.push_str(&line.end());
            lines.push('\n');
            parent = Some(entry.id);
        }
        let path = store::context_path(&self.channel);
        let header = session::header(&random_word()?, &now, &self.cwd);
        self.unsynced = Some(self.dir.append(&path, &header, &lines)?);
        self.last_id = parent;
        Ok(())
    }
}

/// FNV-1a of the last bytes before `end`, enough to hold the ts of a line; empty at the start.
fn log_mark(dir: &Dir, path: &str, end: u64) -> Result<String> {
    let Some(file) = dir.read(path)?.filter(|_| end > 0) else {
        return Ok(String::new());
    };
    let mut bytes = [0; 512];
    let bytes = &mut bytes[..end.min(512) as usize];
    // It may have become shorter just now.
    let read = file.read_exact_at(bytes, end - bytes.len() as u64);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(read.map_or(String::new(), |()| format!("{hash:016x}")))
}

impl Entry {
    fn new(kind: &'static str) -> Result<Entry> {
        let mut id = random_word()?;
        id.truncate(16);
        Ok(Entry {
            kind,
            id,
            fields: Vec::new(),
        })
    }
}

impl Step {
    fn parse(entry: &Value, line: &str) -> Step {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let paths = |key: &str| json::strings(&entry["details"][key]).collect();
        let compaction = (entry["type"] == "compaction").then(|| {
            let compaction = Compaction {
                summary: text("summary"),
                read_files: paths("readFiles"),
                modified_files: paths("modifiedFiles"),
            };
            (compaction, text("firstKeptEntryId"))
        });
        Step {
            id: text("id"),
            parent: entry["parentId"].as_str().map(str::to_owned),
            ts: Some(text("ts")).filter(|ts| !ts.is_empty()),
            message: session::parse(entry, line),
            compaction,
            ends_compaction: entry["data"]["event"] == "compacted",
        }
    }
}

/// As it goes to the model and to the file.
fn masked(mut message: Message) -> Message {
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

/// `ts` as Slack has the message, empty for none; the original's own messages have no such key.
fn message_entry(message: &Message, ts: &str) -> Result<Entry> {
    let mut entry = Entry::new("message")?;
    entry.fields = vec![
        ("message", session::write(message)),
        ("ts", json::quote(ts)),
    ];
    Ok(entry)
}

fn summary(compaction: &Compaction) -> Message {
    let what = "The conversation before this was compacted";
    Message::User {
        content: vec![Content::Text(session::summary_text(
            what,
            &compaction.summary,
        ))],
        timestamp_ms: 0,
    }
}

/// As the original's sync has it, and the files by their path below the data directory.
fn said(entry: &LogEntry, name_of: &dyn Fn(&str) -> String) -> String {
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

/// Tokens, roughly: four bytes each, an image 1,200.
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

/// `2026-01-05`, local.
fn today() -> String {
    let mut stamp = time::prompt_stamp(time::now_ms());
    stamp.truncate(10);
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Assistant, ToolCall};
    use crate::mutate::{survive, survive_some};
    use crate::store::tests::{Scratch, entry, log, two_lines};

    const FILE: &str = "C1/context.jsonl";

    fn user(text: &str) -> Message {
        Message::User {
            content: vec![Content::Text(text.to_owned())],
            timestamp_ms: 0,
        }
    }

    fn said(blocks: Vec<Block>, tokens: u64) -> Message {
        Message::Assistant(Assistant {
            blocks,
            api: "anthropic-messages".to_owned(),
            provider: "anthropic".to_owned(),
            model: "claude-sonnet-4-5".to_owned(),
            usage: Usage {
                input: tokens,
                ..Usage::default()
            },
            stop_reason: StopReason::Stop,
            timestamp_ms: 7,
        })
    }

    fn answer(text: &str) -> Message {
        said(vec![Block::Text(text.to_owned())], 0)
    }

    fn texts(context: &Context) -> Vec<String> {
        let text = |message: &Message| match message {
            Message::Assistant(said) => match said.blocks.first() {
                Some(Block::Text(text)) => text.clone(),
                Some(Block::ToolCall(call)) => call.arguments.clone(),
                _ => String::new(),
            },
            _ => match message.content().first() {
                Some(Content::Text(text)) => text.clone(),
                _ => String::new(),
            },
        };
        context.messages().iter().map(text).collect()
    }

    fn load(lines: &[String]) -> Vec<String> {
        let scratch = Scratch::new("context-load");
        scratch.write(FILE, &lines.concat());
        texts(&Context::load(&scratch.store(), "C1").unwrap())
    }

    fn header(version: u32) -> String {
        format!(
            "{{\"type\":\"session\",\"version\":{version},\"id\":\"s\",\"timestamp\":\"2026-01-05T09:12:45.000Z\",\"cwd\":\"/\"}}\n"
        )
    }

    fn line(id: &str, parent: Option<&str>, kind: &str, rest: &str) -> String {
        let parent = parent.map_or("null".to_owned(), json::quote);
        format!(
            "{{\"type\":\"{kind}\",\"id\":\"{id}\",\"parentId\":{parent},\"timestamp\":\"2026-01-05T09:12:46.101Z\",{rest}}}\n"
        )
    }

    fn told(id: &str, parent: Option<&str>) -> String {
        let rest = format!(
            "\"message\":{{\"role\":\"user\",\"content\":\"{id}\",\"timestamp\":1767604366100}}"
        );
        line(id, parent, "message", &rest)
    }

    fn compacted(id: &str, parent: &str, kept: &str) -> String {
        let rest =
            format!("\"summary\":\"sum {id}\",\"firstKeptEntryId\":\"{kept}\",\"tokensBefore\":1");
        line(id, Some(parent), "compaction", &rest)
    }

    fn sum(id: &str) -> String {
        let Some(Content::Text(text)) = summary(&Compaction {
            summary: format!("sum {id}"),
            ..Compaction::default()
        })
        .content()
        .first()
        .cloned() else {
            unreachable!()
        };
        text
    }

    #[test]
    fn reads_what_the_original_wrote() {
        let chain = [told("a", None), told("b", Some("a")), told("c", Some("b"))].concat();
        let other = "\"customType\":\"x\",\"data\":{}";
        let v1 = "{\"type\":\"session\",\"id\":\"s\",\"timestamp\":\"\",\"cwd\":\"/\"}\n{\"type\":\"message\",\"message\":{\"role\":\"user\",\"content\":\"one\"}}\n{\"type\":\"message\",\"message\":{\"role\":\"user\",\"content\":\"two\"}}\n{\"type\":\"compaction\",\"summary\":\"sum z\",\"firstKeptEntryIndex\":2,\"tokensBefore\":1}\n{\"type\":\"message\",\"message\":{\"role\":\"user\",\"content\":\"three\"}}\n";
        let v2 = line(
            "a",
            None,
            "message",
            "\"message\":{\"role\":\"hookMessage\",\"content\":[{\"type\":\"text\",\"text\":\"hook\"},{\"type\":\"odd\"}]}",
        );
        let bash = line(
            "a",
            None,
            "message",
            "\"message\":{\"role\":\"bashExecution\",\"command\":\"ls\",\"output\":\"x\",\"exitCode\":2}",
        );
        let branch = line(
            "b",
            Some("a"),
            "branch_summary",
            "\"fromId\":\"q\",\"summary\":\"side\"",
        );
        let owned = |want: &[&str]| {
            want.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        for (name, lines, want) in [
            ("nothing", vec![], vec![]),
            ("header alone", vec![header(3)], vec![]),
            (
                "a chain",
                vec![header(3), chain.clone()],
                owned(&["a", "b", "c"]),
            ),
            (
                "a branch",
                vec![header(3), chain.clone(), told("d", Some("a"))],
                owned(&["a", "d"]),
            ),
            (
                "a new root",
                vec![header(3), chain.clone(), told("d", None)],
                owned(&["d"]),
            ),
            (
                "a missing parent",
                vec![header(3), chain.clone(), told("d", Some("q"))],
                owned(&["d"]),
            ),
            (
                "written twice",
                vec![
                    header(3),
                    told("a", None),
                    header(3),
                    told("a", None),
                    told("b", Some("a")),
                ],
                owned(&["a", "b"]),
            ),
            (
                "unknown types",
                vec![
                    header(3),
                    told("a", None),
                    line("x", Some("a"), "label", other),
                    told("b", Some("x")),
                    line("y", Some("b"), "odd", other),
                ],
                owned(&["a", "b"]),
            ),
            (
                "torn lines",
                vec![
                    header(3),
                    told("a", None),
                    "{\"type\":\"mess\n\n[]\n7\n".to_owned(),
                    told("b", Some("a")),
                    "{\"type".to_owned(),
                ],
                owned(&["a", "b"]),
            ),
            (
                "compacted",
                vec![
                    header(3),
                    chain.clone(),
                    compacted("z", "c", "b"),
                    told("d", Some("z")),
                ],
                owned(&[&sum("z"), "b", "c", "d"]),
            ),
            (
                "compacted last",
                vec![header(3), chain.clone(), compacted("z", "c", "b")],
                owned(&[&sum("z"), "b", "c"]),
            ),
            (
                "nothing kept",
                vec![
                    header(3),
                    chain.clone(),
                    compacted("z", "c", "q"),
                    told("d", Some("z")),
                ],
                owned(&[&sum("z"), "d"]),
            ),
            (
                "compacted twice",
                vec![
                    header(3),
                    chain.clone(),
                    compacted("y", "c", "b"),
                    told("d", Some("y")),
                    compacted("z", "d", "c"),
                ],
                owned(&[&sum("z"), "c", "d"]),
            ),
            (
                "version 1",
                vec![v1.to_owned()],
                owned(&[&sum("z"), "two", "three"]),
            ),
            ("version 2", vec![header(2), v2], owned(&["hook"])),
            (
                "from the interactive pi",
                vec![header(3), bash, branch],
                owned(&[
                    "Ran `ls`\n```\nx\n```\n(exit code 2)",
                    "A branch of the conversation was left; this summary stands for it:\n\n<summary>\nside\n</summary>",
                ]),
            ),
            (
                "its own parent",
                vec![header(3), told("a", Some("a"))],
                owned(&["a"]),
            ),
        ] {
            assert_eq!(load(&lines), want, "{name}");
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

    /// What goes in comes out, arguments byte for byte; and the file is as the original
    /// would have written it.
    #[test]
    fn keeps_messages_as_they_are() {
        let scratch = Scratch::new("context-keep");
        let store = scratch.store();
        let call = |id: &str, arguments: &str| {
            Block::ToolCall(ToolCall {
                id: id.to_owned(),
                name: "bash".to_owned(),
                arguments: arguments.to_owned(),
                signature: Some("sig".to_owned()),
            })
        };
        let thinking = |text: &str, redacted| Block::Thinking {
            text: text.to_owned(),
            signature: "abc".to_owned(),
            redacted,
        };
        let raw = r#"{"z":1.0, "a":[1e3,"\u00e9"],"message":{"content":[]}}"#;
        let blocks = vec![thinking("hm", false), thinking("", true), call("t1", raw)];
        let result = Message::ToolResult(ToolResult {
            call_id: "t1".to_owned(),
            name: "bash".to_owned(),
            content: vec![
                Content::Text("a.txt".to_owned()),
                Content::Image(crate::llm::Image {
                    mime: "image/png".to_owned(),
                    data: "AAAA".to_owned(),
                }),
            ],
            is_error: true,
            timestamp_ms: 1_767_604_369_060,
        });
        let mut written = said(blocks, 12);
        if let Message::Assistant(said) = &mut written {
            said.usage.cost = Some(crate::llm::Cost {
                input: 0.25,
                ..Default::default()
            });
        }
        let messages = [user("list"), written, result];
        let mut context = Context::load(&store, "C1").unwrap();
        for message in &messages {
            context.append(message.clone()).unwrap();
        }
        assert_eq!(context.tokens(), 12 + (5u64 + 4_800).div_ceil(4));
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(loaded.messages(), messages);
        assert_eq!(loaded.tokens(), context.tokens());
        assert!(loaded.messages_json().contains("(4 bytes of base64)"));
        let file = scratch.read(FILE);
        let lines: Vec<Value> = file
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines[0]["version"], 3);
        assert!(lines[1]["parentId"].is_null());
        assert_eq!(lines[2]["parentId"], lines[1]["id"]);
        assert_eq!(lines[2]["message"]["usage"]["cost"]["total"], 0.25);
        // Too deep to be read back: the entry stays readable without them.
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(124), "]".repeat(124));
        context.append(said(vec![call("t2", &deep)], 0)).unwrap();
        context.append(user("after")).unwrap();
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(texts(&loaded)[3..], ["{}", "after"]);
        assert_eq!(loaded.messages().len(), 5);
    }

    #[test]
    fn torn_anywhere() {
        let scratch = Scratch::new("context-torn");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
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

    fn asked_run(context: &mut Context, ts: &str) -> RunRecord {
        let record = context.begin_run(&[ts.to_owned()], RunStatus::default());
        if !context.takes(ts) {
            let content = vec![Content::Text(format!("asked {ts}"))];
            context.append_asked(ts, content, 0).unwrap();
        }
        record.unwrap()
    }

    #[test]
    fn a_run_is_resumed_until_it_ends() {
        let scratch = Scratch::new("context-run");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
        let again = |name: &str, tries, status: Option<&str>| RunRecord {
            tries,
            status_ts: status.map(str::to_owned),
            resumed: tries > 1,
            name: name.to_owned(),
            done: false,
        };
        assert_eq!(asked_run(&mut context, "1.0"), again("1.0", 1, None));
        context.end_run(Some("9.0"), Some(0.5)).unwrap();
        assert_eq!(asked_run(&mut context, "2.0"), again("2.0", 1, None));
        context.note_begun(Some("2.1".to_owned())).unwrap();
        context.append(answer("working")).unwrap();
        context.append_asked("2.2", vec![], 0).unwrap();
        for tries in 2..4 {
            let mut context = Context::load(&store, "C1").unwrap();
            assert!(context.takes("2.0") && context.takes("2.2"));
            assert_eq!(
                asked_run(&mut context, "2.0"),
                again("2.0", tries, Some("2.1"))
            );
            assert_eq!(texts(&context), ["asked 1.0", "asked 2.0", "working", ""]);
            assert_eq!(context.run_start(), 1);
        }
        let mut context = Context::load(&store, "C1").unwrap();
        let costs = context.end_run(None, Some(0.25)).unwrap();
        assert_eq!((costs.today, costs.total), (0.75, 0.75));
        context.state.day = "2000-01-01".to_owned();
        assert_eq!((context.costs().today, context.costs().total), (0.0, 0.75));
        let mut context = Context::load(&store, "C1").unwrap();
        assert_eq!(context.costs(), costs);
        assert_eq!(asked_run(&mut context, "3.0"), again("3.0", 1, None));
        assert_eq!(context.run_start(), 4);
    }

    #[test]
    fn a_silent_run_leaves_a_line() {
        let scratch = Scratch::new("context-silent");
        let store = scratch.store();
        log(&store, &[entry("1.0", "before"), entry("2.0", "event")]);
        let mut context = Context::load(&store, "C1").unwrap();
        context
            .begin_run(&["2.0".to_owned()], RunStatus::default())
            .unwrap();
        context
            .sync(&store, &|ts| ts == "2.0", 1_000, &str::to_owned)
            .unwrap();
        assert_eq!(context.run_start(), 1);
        asked_run(&mut context, "2.0");
        context.append(answer("[SILENT]")).unwrap();
        context.drop_run("(nothing to report)").unwrap();
        context.end_run(None, Some(1.0)).unwrap();
        for context in [context, Context::load(&store, "C1").unwrap()] {
            assert_eq!(texts(&context), ["[lena]: before", "(nothing to report)"]);
            assert!(context.known.contains("2.0"));
            assert_eq!(context.costs().total, 1.0);
        }
        assert_eq!(store.unanswered("C1", 0), Ok(Vec::new()));
    }

    /// However much such runs wrote, it is not read again.
    #[test]
    fn silent_runs_in_a_row_leave_one_line_and_cost_nothing() {
        let scratch = Scratch::new("context-silent-row");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
        context.append(user("before")).unwrap();
        for (n, bytes) in [(1, 0), (2, 1 << 40), (3, 0), (4, 0)] {
            let mut context = Context::load(&store, "C1").unwrap();
            asked_run(&mut context, &format!("{n}:a.json"));
            let path = scratch.0.join(FILE);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len + bytes).unwrap();
            context.append(answer("[SILENT]")).unwrap();
            context.drop_run("(nothing to report)").unwrap();
            context.end_run(None, Some(1.0)).unwrap();
            let loaded = Context::load(&store, "C1").unwrap();
            assert_eq!(texts(&loaded), ["before", "(nothing to report)"], "{n}");
            assert_eq!(loaded.costs().total, f64::from(n));
        }
        context = Context::load(&store, "C1").unwrap();
        context.append(user("after")).unwrap();
        let want = ["before", "(nothing to report)", "after"];
        assert_eq!(texts(&Context::load(&store, "C1").unwrap()), want);
    }

    /// Where someone edited the file, the places in it have moved.
    #[test]
    fn a_jump_that_leads_astray_is_not_taken() {
        let scratch = Scratch::new("context-astray");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
        context.append(user("before")).unwrap();
        for n in 1..4 {
            let mut context = Context::load(&store, "C1").unwrap();
            asked_run(&mut context, &format!("{n}:a.json"));
            context.drop_run("(nothing)").unwrap();
            context.end_run(None, None).unwrap();
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
        context.end_run(None, Some(1.0)).unwrap();
        log(&store, &[entry("2.0", "said before new")]);
        context.fresh().unwrap();
        log(&store, &[entry("3.0", "said after")]);
        for mut context in [context, Context::load(&store, "C1").unwrap()] {
            assert_eq!(context.costs().total, 1.0);
            context
                .sync(&store, &|_| false, 1_000, &str::to_owned)
                .unwrap();
            assert_eq!(texts(&context), ["[lena]: said after"]);
        }
        assert!(scratch.read(FILE).contains("asked 1.0"));
    }

    #[test]
    fn takes_over_what_was_said() {
        let scratch = Scratch::new("context-sync");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
        let sync = |context: &mut Context, handled: &str, window| {
            let known = context.messages().len();
            context
                .sync(&store, &|ts| ts == handled, window, &str::to_owned)
                .unwrap();
            texts(context).split_off(known)
        };
        let bot = LogEntry {
            is_bot: true,
            ..entry("3.0", "I")
        };
        let mut file = entry("2.0", "see");
        file.attachments = Store::attachments("C1", "2.0", &["a.txt"]);
        log(
            &store,
            &[
                entry("1.0", "ok"),
                file,
                bot,
                entry("4.0", "STOP"),
                entry("5.0", "asked"),
            ],
        );
        let seen =
            "[lena]: see\n\n<slack_attachments>\nC1/attachments/2000_a.txt\n</slack_attachments>";
        assert_eq!(sync(&mut context, "5.0", 9_000), ["[lena]: ok", seen]);
        // The same words again are another message; a message of the run is not.
        asked_run(&mut context, "5.0");
        log(
            &store,
            &[
                entry("6.0", "ok"),
                entry("7.0", "steered"),
                entry("7.0", "steered"),
            ],
        );
        context.append_asked("7.0", vec![], 0).unwrap();
        context.end_run(None, None).unwrap();
        context = Context::load(&store, "C1").unwrap();
        assert_eq!(sync(&mut context, "", 9_000), ["[lena]: ok"]);
        // More than fits: the newest, and where the rest is.
        let many: Vec<_> = (10..60)
            .map(|n| entry(&format!("{n}.0"), "0123456789"))
            .collect();
        log(&store, &many);
        let found = sync(&mut context, "", 100);
        assert_eq!((found.len(), found[0].as_str()), (6, OLDER));
        assert_eq!(sync(&mut context, "", 100), [""; 0]);
        // Another log in its place: what is older than the last record is known.
        context.end_run(None, None).unwrap();
        let log_file = scratch.read("C1/log.jsonl");
        std::fs::remove_file(scratch.0.join("C1/log.jsonl")).unwrap();
        scratch.write("C1/log.jsonl", &log_file);
        let later = format!("{}.0", time::now_ms() / 1000 + 60);
        log(&store, &[entry(&later, "news")]);
        context = Context::load(&store, "C1").unwrap();
        assert_eq!(sync(&mut context, "", 9_000), ["[lena]: news"]);
    }

    /// The agent can write anything there, but not fill the memory or hold a run up.
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

    /// Nor by jumps, each of which may go back as far as the file is read at all.
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

    /// Whatever the bytes are: it loads, and what is appended then is what comes after it.
    #[test]
    fn survives_mutations() {
        let scratch = Scratch::new("context-mutations");
        let store = scratch.store();
        let call = Block::ToolCall(ToolCall {
            id: "1".to_owned(),
            name: "bash".to_owned(),
            arguments: "{\"b\":[1, {\"a\":\"\\u00e9\"}]}".to_owned(),
            signature: None,
        });
        let mut context = Context::load(&store, "C1").unwrap();
        for turn in 0..3 {
            asked_run(&mut context, &format!("{turn}.0"));
            context.append(said(vec![call.clone()], turn)).unwrap();
            context.append(user("é <b>")).unwrap();
            context.end_run(Some("9.0"), Some(0.5)).unwrap();
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
            context
                .sync(&store, &|_| false, 10_000, &str::to_owned)
                .unwrap();
            context.append(user("newest")).unwrap();
            context.tokens();
            let loaded = Context::load(&store, "C1").unwrap();
            assert_eq!(loaded.messages(), context.messages());
            store.people("C1").unwrap();
            store.heard_until("C1").unwrap();
            store.unanswered("C1", 0).unwrap();
            log(&store, &[entry("9.000001", "newest")]);
            let tail = scratch.read_lossy("C1/log.jsonl");
            let last = tail.lines().last().map(str::as_bytes);
            assert_eq!(LogEntry::parse(last.unwrap()).unwrap().text, "newest");
        });
    }

    #[test]
    fn survives_mutation_of_a_line() {
        let corpus = [
            r#"{"type":"custom","id":"a","parentId":"b","customType":"mom.run","data":{"event":"compacted","run":{"asked":["1.5"],"taken":[],"dropped":["2"],"tries":3,"thread":"1.0","before":"x","done":false},"logPosition":99,"logMark":"ab","day":"2026-01-05","costToday":0.5,"costTotal":1e308}}"#,
            r#"{"type":"compaction","id":"a","parentId":null,"summary":"s","firstKeptEntryId":"b","details":{"readFiles":["/r"],"modifiedFiles":[]}}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let Ok(entry) = serde_json::from_str::<Value>(&text) else {
                return;
            };
            let step = Step::parse(&entry, &text);
            assert!(step.id.len() <= text.len());
            let state = State::parse(&entry["data"]);
            let written: Value = serde_json::from_str(&state.write("x")).unwrap();
            assert_eq!(State::parse(&written).write("x"), state.write("x"));
        });
    }

    /// A line may be seen while it is still being written.
    #[test]
    fn a_line_half_written_is_taken_over_when_it_is_whole() {
        let scratch = Scratch::new("context-half");
        let store = scratch.store();
        let (whole, last) = two_lines(&scratch, &store);
        for len in last..whole.len() {
            scratch.write("C1/log.jsonl", &whole[..len]);
            let mut context = Context::load(&store, "C1").unwrap();
            context
                .sync(&store, &|_| false, 100_000, &str::to_owned)
                .unwrap();
            // Not replaced: the same file grows.
            let log = scratch.0.join("C1/log.jsonl");
            let rest = &whole.as_bytes()[len..];
            let mut log = std::fs::File::options().append(true).open(log).unwrap();
            std::io::Write::write_all(&mut log, rest).unwrap();
            context
                .sync(&store, &|_| false, 100_000, &str::to_owned)
                .unwrap();
            assert_eq!(texts(&context), ["[lena]: one", "[lena]: two"], "at {len}");
            std::fs::remove_file(scratch.0.join(FILE)).unwrap();
        }
    }

    /// The original wrote the context, or went on with ours for a while.
    #[test]
    fn takes_over_from_the_original() {
        let scratch = Scratch::new("context-original");
        scratch.write(FILE, &[header(3), told("a", None)].concat());
        let store = scratch.store();
        // `told` speaks at 1767604366.1.
        log(
            &store,
            &[
                entry("1767604366.000000", "old"),
                entry("1767604367.000000", "news"),
            ],
        );
        let mut context = Context::load(&store, "C1").unwrap();
        context
            .sync(&store, &|_| false, 9_000, &str::to_owned)
            .unwrap();
        assert_eq!(texts(&context), ["a", "[lena]: news"]);
        asked_run(&mut context, "1767604368.000000");
        context.end_run(None, Some(2.0)).unwrap();
        let ours = scratch.read(FILE);
        let last = context.last_id.clone();
        let next = told("b", last.as_deref()).replace("1767604366100", "1767604400000");
        scratch.write(FILE, &(ours + &next));
        log(
            &store,
            &[
                entry("1767604399.000000", "synced"),
                entry("1767604401.000000", "later"),
            ],
        );
        let mut context = Context::load(&store, "C1").unwrap();
        context
            .sync(&store, &|_| false, 9_000, &str::to_owned)
            .unwrap();
        assert_eq!(texts(&context)[3..], ["b", "[lena]: later"]);
        assert_eq!(context.costs().total, 2.0);
    }

    /// Only the ends of the files are read, however large they are.
    #[test]
    fn history_costs_nothing() {
        let scratch = Scratch::new("context-large");
        let store = scratch.store();
        log(&store, &[entry("1.0", "one")]);
        let mut context = Context::load(&store, "C1").unwrap();
        asked_run(&mut context, "1.0");
        context.end_run(None, None).unwrap();
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
        assert_eq!(store.heard_until("C1").unwrap(), Some(later));
        context.append(user("last")).unwrap();
        let mut context = Context::load(&store, "C1").unwrap();
        context
            .sync(&store, &|_| false, 9_000, &str::to_owned)
            .unwrap();
        assert_eq!(texts(&context), ["last", OLDER, "[lena]: two"]);
    }

    #[test]
    fn compaction_keeps_the_end_and_the_run() {
        let scratch = Scratch::new("context-compacted");
        let store = scratch.store();
        let mut context = Context::load(&store, "C1").unwrap();
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
        let check = |context: &Context, want: &[&str], start: usize| {
            for context in [context, &Context::load(&store, "C1").unwrap()] {
                assert_eq!(texts(context), want);
                assert_eq!(context.run_start(), start);
                assert!(context.tokens() < 1_000, "{}", context.tokens());
                assert!(context.known.contains("1.0"));
            }
        };
        context.compacted(compaction("x"), 1, None, None).unwrap();
        check(&context, &[&sum("x"), "b", "asked 1.0", "c"], 4);
        let loaded = Context::load(&store, "C1").unwrap();
        assert_eq!(loaded.compaction(), Some(&compaction("x")));
        context.append(user("d")).unwrap();
        let cut = said(vec![Block::Text("c, cut".to_owned())], 5_000);
        let tail = vec![cut, user("d")];
        context
            .compacted(compaction("y"), 3, Some(tail), None)
            .unwrap();
        check(&context, &[&sum("y"), "c, cut", "d"], 3);
        context.append(said(vec![], 700)).unwrap();
        assert_eq!(context.tokens(), 700);
        context.compacted(compaction("z"), 4, None, None).unwrap();
        check(&context, &[&sum("z")], 1);
    }
}
