//! A model that makes the same failing call again and again is warned, and then stopped.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::llm::{Content, ToolCall};
use crate::tools::ToolOutput;

/// Failures in a row after which the model is warned.
const WARNED_AT: u32 = 5;
/// Failures in a row after which the run ends.
const REPEATS_MAX: u32 = 10;

#[derive(Default)]
pub(crate) struct Repeats {
    /// Name and arguments of the last call, without the label.
    last: (String, Value),
    count: u32,
}

impl Repeats {
    /// Counts the call; adds a warning to its result when it has failed too often.
    pub(crate) fn count(&mut self, call: &ToolCall, output: &mut ToolOutput) {
        let mut arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        if let Some(fields) = arguments.as_object_mut() {
            fields.remove("label");
        }
        let call = (call.name.clone(), arguments);
        self.count = match (output.is_error, call == self.last) {
            (true, true) => self.count + 1,
            (failed, _) => u32::from(failed),
        };
        self.last = call;
        if (WARNED_AT..REPEATS_MAX).contains(&self.count) {
            output.content.push(Content::Text(format!(
                "This very call has failed {} times in a row. Do not make it again: find out \
                 why it fails, try another way, or say what you need.",
                self.count
            )));
        }
    }

    /// # Errors
    /// `Failed` after `REPEATS_MAX` failures in a row.
    pub(crate) fn check(&self) -> Result<()> {
        if self.count < REPEATS_MAX {
            return Ok(());
        }
        Err(Error::failed(format!(
            "stopped: the model made the same failing tool call {REPEATS_MAX} times in a row"
        )))
    }
}
