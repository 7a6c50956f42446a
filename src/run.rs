//! The loop: one `Job` in, `Update`s on the way, one `Outcome` at the end.

use std::time::Duration;

use crate::error::Result;
use crate::llm::Usage;
use crate::tools::Upload;

/// What to do: someone's message or an event, and where the answer goes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Conversation id: `C..`, `D..`, `G..` or `TERMINAL`.
    pub(crate) channel: String,
    pub(crate) asked: Vec<Asked>,
    /// Root of the thread the answer belongs to; `None`: the channel itself.
    pub(crate) thread_ts: Option<String>,
    /// File name of the event that woke her; `None` for a person's message.
    pub(crate) event: Option<String>,
}

/// One message that asks something of mom.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Slack ts; for events due time (epoch milliseconds) and file name: `1767604364120:a.json`.
    pub(crate) ts: String,
    /// Slack user id, or `EVENT`.
    pub(crate) user: String,
    /// As it stands in log.jsonl: mentions removed, entities still encoded.
    pub(crate) text: String,
}

/// What a run tells its front end while it works, in order.
pub(crate) enum Update {
    /// The next piece of the model's text; `TurnEnd` closes it.
    TextDelta(String),
    /// A model turn is over; `text` is all it wrote, `thinking` what it thought.
    /// `more`: tools follow, so this is not the answer.
    TurnEnd {
        text: String,
        thinking: String,
        more: bool,
    },
    ToolStart {
        label: String,
    },
    ToolEnd(ToolReport),
    /// `Compacting context...`, `Retrying (1/3)...`: a line of the status.
    Note(String),
    /// A file for the conversation; an error becomes the tool's result.
    Upload(Upload),
    /// What the run used, at its end.
    Usage(UsageReport),
}

#[derive(Clone, Debug)]
pub(crate) struct ToolReport {
    pub(crate) name: String,
    pub(crate) label: String,
    /// The arguments as a person reads them: values only, one a line, label left out.
    pub(crate) arguments: String,
    pub(crate) result: String,
    pub(crate) is_error: bool,
    pub(crate) duration: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UsageReport {
    /// Sum over the run's requests.
    pub(crate) run: Usage,
    /// Tokens in the window after the last reply, and the window's size.
    pub(crate) context_tokens: u64,
    pub(crate) context_window: u64,
    /// Dollars today in this channel, this run included; `None` when prices are unknown.
    pub(crate) cost_today: Option<f64>,
}

/// How a run ended; failures are `Err`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Markdown, never empty.
    Answered(String),
    /// `[SILENT]`: leave no trace.
    Silent,
    Stopped,
}

/// Shows an update; returns an error only for `Update::Upload`.
pub(crate) type Show<'a> = dyn FnMut(Update) -> Result<()> + 'a;
