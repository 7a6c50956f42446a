//! context.jsonl: what the model remembers of a conversation, in pi's session format 3. Read
//! from its end back to what the last compaction kept, appended line by line.

use crate::error::Result;
use crate::llm::{Content, Message};
use crate::store::Store;

pub(crate) struct Context {
    channel: String,
    messages: Vec<Message>,
    run_start: usize,
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
}

/// Dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Costs {
    /// By local date.
    pub(crate) today: f64,
    pub(crate) total: f64,
}

impl Context {
    pub(crate) fn load(_store: &Store, _channel: &str) -> Result<Context> {
        todo!()
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Of the window, counted by the last reply's usage and estimated from there on.
    pub(crate) fn tokens(&self) -> u64 {
        todo!()
    }

    /// Durable when it returns.
    pub(crate) fn append(&mut self, _message: Message) -> Result<()> {
        todo!()
    }

    /// Takes over what people said in log.jsonl since last time, `handled` (ts) left out.
    pub(crate) fn sync(
        &mut self,
        _store: &Store,
        _handled: &[String],
        _window_tokens: u64,
    ) -> Result<()> {
        todo!()
    }

    pub(crate) fn begin_run(
        &mut self,
        _asked_ts: &[String],
        _status: RunStatus,
    ) -> Result<RunRecord> {
        todo!()
    }

    pub(crate) fn note_status(&mut self, _status_ts: &str) -> Result<()> {
        todo!()
    }

    /// A user message of this run, also one that came while it went on.
    pub(crate) fn append_asked(
        &mut self,
        _ts: &str,
        _content: Vec<Content>,
        _timestamp_ms: i64,
    ) -> Result<()> {
        todo!()
    }

    /// Message `ts` is in the context already.
    pub(crate) fn has(&self, _ts: &str) -> bool {
        todo!()
    }

    /// All asked messages of this run are answered. `cost` in dollars.
    pub(crate) fn end_run(
        &mut self,
        _answer_ts: Option<&str>,
        _cost: Option<f64>,
    ) -> Result<Costs> {
        todo!()
    }

    /// The run leaves `note` in the context and nothing else; `end_run` follows.
    pub(crate) fn drop_run(&mut self, _note: &str) -> Result<()> {
        todo!()
    }

    pub(crate) fn costs(&self) -> Costs {
        todo!()
    }

    /// A JSON array in the session file's shapes, images left out.
    pub(crate) fn messages_json(&self) -> String {
        todo!()
    }

    /// Index in `messages` of this run's first message.
    pub(crate) fn run_start(&self) -> usize {
        self.run_start
    }

    /// Starts anew: nothing before this is remembered, and nothing is deleted.
    pub(crate) fn fresh(&mut self) -> Result<()> {
        todo!()
    }
}
