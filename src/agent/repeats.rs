//! A model that makes the same failing call again and again is warned, and then stopped.

use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::llm::{Content, ToolCall};
use crate::tools::{self, ToolOutput};

/// Failures in a row after which the model is warned.
const WARNED_AT: u32 = 5;
/// Failures in a row after which the run ends.
const REPEATS_MAX: u32 = 10;

#[derive(Default)]
pub(crate) struct Repeats {
    /// Name and arguments of the last call, without the label; `None`: arguments that the tool
    /// refuses, or no such tool, which is the same failure whatever they say.
    last: (String, Option<Map<String, Value>>),
    count: u32,
}

impl Repeats {
    /// Counts the call; adds a warning to its result when it has failed too often.
    pub(crate) fn count(&mut self, call: &ToolCall, output: &mut ToolOutput) {
        let call = (call.name.clone(), tools::without_label(call));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten calls that all fail; N is another number in each.
    #[test]
    fn the_same_call_is_known_in_other_words() {
        for (tool, arguments, is_stopped) in [
            ("bash", r#"{"label":"try N","command":"cat /nope"}"#, true),
            ("bash", r#"{"description":"try N","cmd":"cat /nope"}"#, true),
            ("bash", r#"{"Label":"try N","command":"cat /nope"}"#, true),
            ("bash", r#"{"note":"try N","command":"cat /nope"}"#, true),
            ("bash", r#"{"command":"cat /nopeN"}"#, false),
            ("bash", r#"{"command":"cat /nope","timeout":N}"#, false),
            ("bash", r#"{"command":"cat N"#, true),
            ("bash", r#"{"invalid_json":"{N","why":"N"}"#, true),
            ("write", r#"{"content":"N"}"#, true),
            ("grep", r#"{"pattern":"N"}"#, true),
        ] {
            let mut repeats = Repeats::default();
            for n in 1..=REPEATS_MAX {
                assert!(repeats.check().is_ok(), "{arguments}");
                let call = ToolCall {
                    id: n.to_string(),
                    name: tool.to_owned(),
                    arguments: arguments.replace('N', &n.to_string()),
                    signature: None,
                };
                let mut output = ToolOutput {
                    content: Vec::new(),
                    is_error: true,
                    diff: None,
                };
                repeats.count(&call, &mut output);
            }
            assert_eq!(repeats.check().is_err(), is_stopped, "{arguments}");
        }
    }
}
