//! The data directory as the rest of mom sees it: log.jsonl (appended here and nowhere else),
//! attachments, spilled output, the lock. Formats are the original's, so that a directory
//! works with either program; every open goes through `dir`.

use std::fs::File;
use std::path::Path;

use crate::dir::Dir;
use crate::error::Result;

pub(crate) struct Store {
    dir: Dir,
}

/// A line of log.jsonl.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogEntry {
    pub(crate) ts: String,
    /// Slack user id; `bot` for mom.
    pub(crate) user: String,
    pub(crate) user_name: Option<String>,
    pub(crate) display_name: Option<String>,
    /// See `clean_text`.
    pub(crate) text: String,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) is_bot: bool,
    pub(crate) thread_ts: Option<String>,
    /// It asks something of mom: a mention or a DM.
    pub(crate) mention: bool,
    /// `None`: derived from `ts`. For mom's own lines: now.
    pub(crate) date_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attachment {
    /// The name its sender gave it.
    pub(crate) original: String,
    /// Relative to the data directory.
    pub(crate) local: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    Known,
    /// Logged before, but not as something asked of mom.
    NowMention,
}

/// Where someone's id, handle and display name come from: their newest line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) user_name: Option<String>,
    pub(crate) display_name: Option<String>,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Store> {
        Ok(Store {
            dir: Dir::open(path)?,
        })
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Absolute.
    pub(crate) fn path(&self) -> &Path {
        todo!()
    }

    /// Durable when it returns: one write and one fdatasync a channel. `(channel, entry)`.
    pub(crate) fn log(&self, _entries: &[(String, LogEntry)]) -> Result<()> {
        todo!()
    }

    pub(crate) fn seen(&self, _channel: &str, _ts: &str, _mention: bool) -> Result<Seen> {
        todo!()
    }

    /// A new file in the channel's scratch/ and its path below the data directory.
    pub(crate) fn spill(&self, _channel: &str) -> Result<(File, String)> {
        todo!()
    }

    /// The path below the data directory that a file of message `ts` is kept at.
    pub(crate) fn attachment(&self, _channel: &str, _ts: &str, _original: &str) -> String {
        todo!()
    }

    /// `local` as `attachment` gave it.
    pub(crate) fn create_attachment(&self, _local: &str) -> Result<File> {
        todo!()
    }

    pub(crate) fn last_prompt(&self, _channel: &str, _json: &str) -> Result<()> {
        todo!()
    }

    /// Directories named like a conversation.
    pub(crate) fn channels(&self) -> Result<Vec<String>> {
        todo!()
    }

    /// What people asked since then and no run has ended for, oldest first.
    pub(crate) fn unanswered(&self, _channel: &str, _since_ms: i64) -> Result<Vec<LogEntry>> {
        todo!()
    }

    /// Who spoke lately, newest first.
    pub(crate) fn people(&self, _channel: &str) -> Result<Vec<Person>> {
        todo!()
    }

    pub(crate) fn last_ts(&self, _channel: &str) -> Result<Option<String>> {
        todo!()
    }
}

/// `raw` as log.jsonl has it: `<@ID>` taken out, trimmed, entities left encoded.
pub(crate) fn clean_text(_raw: &str) -> String {
    todo!()
}
