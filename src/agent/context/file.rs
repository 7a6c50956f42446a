//! context.jsonl as a file: reads the entries of pi's session format 3 from the end backwards,
//! and appends entries. They form a tree; a conversation is the path from the last entry back
//! to a root. `Context` interprets the messages.

use std::sync::Arc;

use serde_json::Value;

use super::Compaction;
use crate::agent::session;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Obj};
use crate::base::log;
use crate::base::random::random_word;
use crate::base::time;
use crate::llm::Message;
use crate::store::lines::{Appended, Floor};
use crate::store::{self, Store};

/// Bytes of context.jsonl that are read at most, counted from its end; older entries that no
/// compaction has summarised are not read.
const BYTES_MAX: u64 = 32 << 20;
/// Lines that are read at most: about a million tokens in very short messages.
pub(super) const LINES_MAX: usize = 30_000;

pub(super) struct ContextFile {
    pub(super) store: Arc<Store>,
    pub(super) channel: String,
    /// The parent of the next entry.
    pub(super) last_id: Option<String>,
    /// Appended lines that are not synced: a power cut may lose them.
    unsynced: Option<Appended>,
    /// Id of the last message when the file was read, and the position of the end of its line.
    pub(super) last_message: Option<(String, u64)>,
}

/// The path from the last entry back to a root or to the first that the newest compaction kept.
#[derive(Default)]
pub(super) struct Branch {
    /// Oldest first.
    pub(super) steps: Vec<BranchStep>,
    /// When the last entry was written; 0 without one.
    pub(super) newest_ms: i64,
    /// When the original mom wrote its last message, if the last ones are its own: all older
    /// messages of the log are then in the context. 0: it wrote none.
    pub(super) foreign_ms: i64,
    /// Whether mom wrote some of the entries.
    has_own: bool,
}

impl Branch {
    /// Notes who wrote the entry, and when. Called for the newest entry first.
    fn date(&mut self, entry: &Value) {
        if self.newest_ms == 0 {
            let written = entry["timestamp"].as_str().and_then(time::parse_iso);
            self.newest_ms = written.unwrap_or_default();
        }
        self.has_own |= entry["ts"].is_string();
        if !self.has_own && entry["message"]["role"] == "user" {
            let ms = entry["message"]["timestamp"].as_f64().unwrap_or_default() as i64;
            self.foreign_ms = self.foreign_ms.max(ms);
        }
    }

    fn oldest_first(mut self) -> Branch {
        if !self.has_own && self.foreign_ms == 0 {
            self.foreign_ms = self.newest_ms;
        }
        self.steps.reverse();
        self
    }
}

/// Which entry comes next on the path, seen from the last entry.
#[derive(Default)]
struct WayBack {
    next: Option<String>,
    /// Id of the first entry that the newest compaction kept.
    kept: Option<String>,
}

impl WayBack {
    /// Goes on to the parent of the entry; false when the path ends at this entry.
    fn pass(&mut self, step: &BranchStep) -> bool {
        let mut is_last = step.parent.is_none() || self.kept.as_ref() == Some(&step.id);
        let compaction = step.compaction.as_deref();
        if let (None, Some((_, first))) = (&self.kept, compaction) {
            is_last |= *first == step.id || first.is_empty();
            self.kept = Some(first.clone());
        }
        self.next.clone_from(&step.parent);
        !is_last
    }
}

/// An entry on the path.
pub(super) struct BranchStep {
    pub(super) id: String,
    pub(super) parent: Option<String>,
    /// The ts of the message in Slack.
    pub(super) ts: Option<String>,
    pub(super) message: Option<Message>,
    /// A compaction, and the id of the first entry that it keeps.
    pub(super) compaction: Option<Box<(Compaction, String)>>,
    /// The entry is a shortened copy of a message that a compaction keeps.
    pub(super) is_copy: bool,
}

/// A line that is not written yet; `write` adds `parentId`.
pub(super) struct SessionEntry {
    kind: &'static str,
    pub(super) id: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// Whether to follow `leaf`, the position in the file where the path of an entry goes on.
#[derive(Clone, Copy, PartialEq)]
enum Jumps {
    Follow,
    Ignore,
}

impl ContextFile {
    /// # Errors
    /// The file cannot be read. A file that is no session is renamed, with a warning.
    pub(super) fn open(store: &Arc<Store>, channel: &str) -> Result<(ContextFile, Branch)> {
        store.make_channel(channel)?;
        let mut file = ContextFile {
            store: store.clone(),
            channel: channel.to_owned(),
            last_id: None,
            unsynced: None,
            last_message: None,
        };
        file.check_header()?;
        let branch = file.walk(Jumps::Follow)?;
        Ok((file, branch))
    }

    fn path(&self) -> String {
        store::context_path(&self.channel)
    }

    /// Makes sure that the file is one that `walk` can read: a session of version 2 or 3.
    fn check_header(&self) -> Result<()> {
        let (dir, path) = (self.store.dir(), self.path());
        let head = match dir.read_head(&path, 64 * 1024) {
            Err(_) if dir.set_aside(&path) => None,
            head => head?,
        };
        let Some(head) = head.filter(|head| !head.is_empty()) else {
            return Ok(());
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let header = lines.find_map(|line| json::parse::<Value>(line).ok());
        let header = header.unwrap_or_default();
        if header["type"] != "session" || !header["id"].is_string() {
            let aside = format!("context.jsonl.unreadable-{}", time::now_ms());
            let what = format!("{path} is no session file");
            log::warning!(&self.channel, "{what}; it is now {aside}");
            return dir.rename(&path, &aside);
        }
        if header["version"].as_u64().unwrap_or(1) > 1 {
            return Ok(());
        }
        let bytes = dir.read_head(&path, BYTES_MAX as usize)?;
        let bytes = bytes.unwrap_or_default();
        if bytes.len() as u64 >= BYTES_MAX {
            let why = "it has session version 1 and over 32 MB; rename it for a new conversation";
            return Err(Error::failed(format!("cannot read {path}: {why}")));
        }
        let text = session::from_version_1(&String::from_utf8_lossy(&bytes));
        dir.replace(&path, text.as_bytes())
    }

    fn walk(&mut self, jumps: Jumps) -> Result<Branch> {
        (self.last_id, self.last_message) = (None, None);
        let floor = Floor::Last(BYTES_MAX);
        let Some(mut lines) = self.store.dir().lines_back(&self.path(), floor)? else {
            return Ok(Branch::default());
        };
        let mut branch = Branch::default();
        let mut way = WayBack::default();
        let (mut jumped, mut bytes) = (false, 0);
        for _ in 0..LINES_MAX {
            let Some(line) = lines.next().transpose()? else {
                break;
            };
            // Lines that are reached by a jump count as well.
            bytes += line.len() as u64;
            if bytes > BYTES_MAX {
                break;
            }
            let Some((entry, line)) = parse_entry(&line) else {
                continue;
            };
            branch.date(&entry);
            let id = entry["id"].as_str();
            if self.last_id.is_none() {
                self.last_id = id.map(str::to_owned);
                way.next.clone_from(&self.last_id);
            }
            if way.next.as_deref() != id {
                if jumped {
                    return self.walk(Jumps::Ignore);
                }
                continue;
            }
            let step = BranchStep::parse(&entry, line);
            if self.last_message.is_none() && step.message.is_some() {
                self.last_message = Some((step.id.clone(), lines.line_end()));
            }
            let jump = entry["leaf"].as_u64().filter(|_| jumps == Jumps::Follow);
            jumped = jump.is_some();
            if let Some(to) = jump {
                lines.jump(to, BYTES_MAX);
            }
            let goes_on = way.pass(&step);
            branch.steps.push(step);
            if !goes_on {
                break;
            }
        }
        Ok(branch.oldest_first())
    }

    /// When it returns, everything written so far survives a power cut: one fdatasync, or none
    /// when nothing is new.
    pub(super) fn sync(&mut self) -> Result<()> {
        let appended = self.unsynced.take();
        appended.map_or(Ok(()), |appended| appended.settle())
    }

    /// Appends the entries, the first as a child of `parent`, each other of the one before it.
    pub(super) fn write(
        &mut self,
        mut parent: Option<String>,
        entries: Vec<SessionEntry>,
    ) -> Result<()> {
        let now = time::iso(time::now_ms());
        let mut lines = String::new();
        for entry in entries {
            let line = Obj::of(entry.kind).str("id", &entry.id);
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
        let cwd = self.store.path().display().to_string();
        let header = session::header(&random_word()?, &now, &cwd);
        let appended = self.store.dir().append(&self.path(), &header, &lines)?;
        self.unsynced = Some(appended);
        self.last_id = parent;
        Ok(())
    }
}

impl SessionEntry {
    pub(super) fn new(kind: &'static str) -> Result<SessionEntry> {
        let mut id = random_word()?;
        id.truncate(16);
        Ok(SessionEntry {
            kind,
            id,
            fields: Vec::new(),
        })
    }

    /// An entry that only marks a place in the tree, of a type without message in the original.
    pub(super) fn without_message() -> Result<SessionEntry> {
        let mut entry = SessionEntry::new("session_info")?;
        entry.fields = vec![("ts", json::quote(""))];
        Ok(entry)
    }

    /// `kept` is the first entry that the compaction keeps; `None`: it keeps none before itself.
    pub(super) fn compaction(
        compaction: &Compaction,
        kept: Option<&str>,
        tokens: u64,
    ) -> Result<SessionEntry> {
        let mut entry = SessionEntry::new("compaction")?;
        let details = Obj::new()
            .raw("readFiles", &json::texts(&compaction.read_files))
            .raw("modifiedFiles", &json::texts(&compaction.modified_files));
        entry.fields = vec![
            ("summary", json::quote(&compaction.summary)),
            // Its own id: no entry before it has that, so none is kept.
            ("firstKeptEntryId", json::quote(kept.unwrap_or(&entry.id))),
            ("tokensBefore", tokens.to_string()),
            ("details", details.end()),
            ("fromHook", "false".to_owned()),
        ];
        Ok(entry)
    }

    /// `ts` is the ts of the message in Slack, or empty. Messages written by the original have no
    /// such key.
    pub(super) fn message(message: &Message, ts: &str) -> Result<SessionEntry> {
        let mut entry = SessionEntry::new("message")?;
        entry.fields = vec![
            ("message", session::write(message)),
            ("ts", json::quote(ts)),
        ];
        Ok(entry)
    }
}

/// Parses a line; `None` if it is no entry, or the header.
fn parse_entry(line: &[u8]) -> Option<(Value, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let entry = json::parse_line(line.as_bytes())?;
    let id = entry["id"].as_str().unwrap_or_default();
    let is_entry = entry["type"].is_string() && entry["type"] != "session" && !id.is_empty();
    is_entry.then_some((entry, line))
}

impl BranchStep {
    pub(super) fn parse(entry: &Value, line: &str) -> BranchStep {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let paths = |key: &str| json::strings(&entry["details"][key]).collect();
        let compaction = (entry["type"] == "compaction").then(|| {
            let compaction = Compaction {
                summary: text("summary"),
                read_files: paths("readFiles"),
                modified_files: paths("modifiedFiles"),
            };
            Box::new((compaction, text("firstKeptEntryId")))
        });
        BranchStep {
            id: text("id"),
            parent: entry["parentId"].as_str().map(str::to_owned),
            ts: Some(text("ts")).filter(|ts| !ts.is_empty()),
            message: session::parse(entry, line),
            compaction,
            is_copy: entry["copy"] == true,
        }
    }
}
