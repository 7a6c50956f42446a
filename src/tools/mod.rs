//! The five tools: what the model is told of them, and one call from its JSON arguments
//! to its result. A tool that fails is a result for the model, never an `Error`.

use std::fs::File;

use crate::error::Result;
use crate::llm::{Content, ToolCall, ToolSpec};
use crate::sandbox::Sandbox;
use crate::stop::Stop;

/// What a tool needs of the world. Shared by calls that run at once.
pub(crate) struct ToolContext<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// Makes a new file in the channel's scratch/ for output that is too long for the
    /// model: open for writing, and its path as the agent sees it. Called once per call at
    /// most, only when needed.
    pub(crate) spill: &'a (dyn Fn() -> Result<(File, String)> + Sync),
}

/// A file for the conversation, read through the sandbox.
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) title: String,
    /// Never empty; `attach` caps it.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolOutput {
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
    /// A JSON object for the session file: the diff of an edit, what was truncated.
    pub(crate) details: Option<String>,
}

/// In the order they are sent: read, bash, edit, write, attach.
pub(crate) fn specs() -> Vec<ToolSpec> {
    Vec::new()
}

/// Calls that may run beside each other: all calls of a turn must be such for that.
pub(crate) fn can_run_beside(name: &str) -> bool {
    matches!(name, "bash" | "read")
}

/// Runs one call. Never panics and never fails: a wrong call, a stop, a timeout are results
/// with `is_error`. `upload` is called by `attach` alone; its error becomes the result.
pub(crate) fn call(
    _ctx: &ToolContext<'_>,
    _call: &ToolCall,
    _stop: &Stop,
    _upload: &mut dyn FnMut(Upload) -> Result<()>,
) -> ToolOutput {
    ToolOutput {
        content: Vec::new(),
        is_error: true,
        details: None,
    }
}

/// What a person reads while the call runs: its `label`, or the tool's name.
pub(crate) fn label(call: &ToolCall) -> String {
    call.name.clone()
}

/// The arguments as a person reads them: values only, one a line, label left out.
pub(crate) fn arguments_text(_call: &ToolCall) -> String {
    String::new()
}
