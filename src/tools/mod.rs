//! The five tools: what the model is told of them, and one call from its JSON arguments
//! to its result. A tool that fails is a result for the model, never an `Error`. Each call
//! is one command in the sandbox; the host opens no path that the model named.
//!
//! - Enters: a `ToolCall` of the model, from `agent`.
//! - Leaves: a `ToolOutput` for the model and the people; files to upload.
//! - State: none; what a call changes is in the sandbox.

mod args;
mod attach;
mod bash;
mod edit;
mod read;
mod truncate;
mod write;

use std::time::Duration;

use crate::base::error::Result;
use crate::base::stop::Stop;
use crate::base::text;
use crate::host::output::Spill;
use crate::host::process::{self, AnswerFn, Exec, ExecEnd, ExecResult};
use crate::host::sandbox::Sandbox;
use crate::llm::{Content, ToolCall, ToolSpec};

pub(crate) use args::{arguments_text, label, proposal_text};
pub(crate) use read::image_mime;

use args::Args;

/// What a tool needs of the world. Shared by calls that run at once.
pub(crate) struct ToolContext<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// Makes a new file in the channel's scratch/ for output that is too long for the
    /// model: open for writing, and its path as the agent sees it. Called once per call at
    /// most, only when needed.
    pub(crate) spill: Spill<'a>,
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
    /// Never empty.
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
    /// What an edit changed, for people; the model knows it.
    pub(crate) diff: Option<String>,
}

/// What a tool gives back; an `Err` is the text of an error result.
type CallResult = std::result::Result<ToolOutput, String>;
type UploadFn<'a> = &'a mut dyn FnMut(Upload) -> Result<()>;

struct Tool {
    spec: ToolSpec,
    run: fn(&ToolContext<'_>, &Args, &Stop, UploadFn<'_>) -> CallResult,
}

/// In the order they are sent.
const TOOLS: [Tool; 5] = [
    read::TOOL,
    bash::TOOL,
    edit::TOOL,
    write::TOOL,
    attach::TOOL,
];

/// Of read, write, edit and attach: a file may be on a dead network mount.
const FILE_MAX: Duration = Duration::from_secs(120);
/// Linux takes no longer argument (MAX_ARG_STRLEN).
const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;
const ABORTED: &str = "Command aborted";

/// Sets `p` to the path that `$2` means. `fail` ends the script with an error's text.
const PATH: &str = r#"
p=$2
case $p in "~") p=$HOME ;; "~/"*) p=$HOME/${p#??} ;; -*) p=./$p ;; esac
fail() { printf '%s' "$1"; say 1; exit; }
"#;

/// Only a regular file is opened: a FIFO or a device would hang, or never end.
const IS_FILE: &str = r#"
if [ -d "$p" ]; then fail "$p is a directory"
elif [ ! -e "$p" ]; then fail "$p does not exist (or a directory above it is closed to you)"
elif [ ! -f "$p" ]; then fail "$p is not a regular file"
elif [ ! -r "$p" ]; then fail "$p: permission denied"
fi
"#;

/// In the order they are sent: read, bash, edit, write, attach.
pub(crate) fn specs() -> Vec<ToolSpec> {
    TOOLS.iter().map(|tool| tool.spec).collect()
}

/// Calls that may run beside each other: all calls of a turn must be such for that.
pub(crate) fn can_run_beside(name: &str) -> bool {
    matches!(name, "bash" | "read")
}

/// Calls that change something, in the sandbox or in Slack.
pub(crate) fn has_effects(name: &str) -> bool {
    name != "read"
}

/// Calls that may change something in the sandbox; so may a tool that comes later.
pub(crate) fn changes(name: &str) -> bool {
    !matches!(name, "read" | "attach")
}

/// Runs one call. Never panics and never fails: a wrong call, a stop, a timeout are results
/// with `is_error`. `upload` is called by `attach` alone; its error becomes the result.
pub(crate) fn call(
    ctx: &ToolContext<'_>,
    call: &ToolCall,
    stop: &Stop,
    upload: UploadFn<'_>,
) -> ToolOutput {
    let tool = const { &TOOLS }
        .iter()
        .find(|tool| tool.spec.name == call.name);
    let done = match tool {
        None => {
            let names: Vec<&str> = TOOLS.iter().map(|tool| tool.spec.name).collect();
            Err(format!(
                "there is no tool {:?}, only {}",
                call.name,
                names.join(", ")
            ))
        }
        Some(tool) => Args::parse(&tool.spec, &call.arguments).and_then(|args| {
            let done = (tool.run)(ctx, &args, stop, upload);
            done.map(|output| output.with_ignored(&args.unknown))
        }),
    };
    done.unwrap_or_else(|text| ToolOutput {
        is_error: true,
        ..ToolOutput::text(text)
    })
}

impl ToolOutput {
    fn text(text: impl Into<String>) -> ToolOutput {
        ToolOutput {
            content: vec![Content::Text(text.into())],
            is_error: false,
            diff: None,
        }
    }

    /// With a note about arguments that were meant to change what the call does, and did not.
    fn with_ignored(mut self, names: &[String]) -> ToolOutput {
        if !names.is_empty() {
            let names = text::one_line(&names.join(", "), 200);
            let note = format!("[Ignored, for the tool has no such argument: {names}]");
            self.content.push(Content::Text(note));
        }
        self
    }
}

/// Within which limits a script runs.
struct ScriptLimits<'a> {
    /// `None`: without end.
    timeout: Option<Duration>,
    keep_bytes: usize,
    spill: Option<Spill<'a>>,
    answer: Option<AnswerFn<'a>>,
}

impl ToolContext<'_> {
    /// Runs a script in the sandbox; `arg` is its `$2`. `Err` is for the model: nothing was done.
    fn run(
        &self,
        script: &[&str],
        arg: &str,
        limits: ScriptLimits<'_>,
        stop: &Stop,
    ) -> std::result::Result<ExecResult, String> {
        if arg.contains('\0') {
            return Err("a NUL character can't be passed to a program".to_owned());
        }
        if arg.len() > ARGUMENT_BYTES_MAX {
            let why = "too long for a command line, which takes 128 KB";
            return Err(format!(
                "{why}: put it in a file with the write tool and run that"
            ));
        }
        let mark = crate::base::random::random_word().map_err(|err| err.to_string())?;
        let exec = Exec {
            command: self.sandbox.command(script, &mark, &[arg]),
            mark: Some(mark),
            timeout: limits.timeout,
            keep_bytes: limits.keep_bytes,
            spill: limits.spill,
            answer: limits.answer,
        };
        let result = process::run(exec, stop).map_err(|err| err.to_string())?;
        if let ExecEnd::NotBegun(_) = result.end {
            let text = complaint(&result.output.tail);
            return Err(self.sandbox.unusable(&text, None).to_string());
        }
        Ok(result)
    }

    /// The same for a script that says itself what went wrong: all it printed, if it
    /// succeeded.
    fn run_file(
        &self,
        script: &[&str],
        path: &str,
        keep_bytes: usize,
        answer: Option<AnswerFn<'_>>,
        stop: &Stop,
    ) -> std::result::Result<Vec<u8>, String> {
        let limits = ScriptLimits {
            timeout: Some(FILE_MAX),
            keep_bytes,
            spill: None,
            answer,
        };
        let result = self.run(script, path, limits, stop)?;
        match result.end {
            ExecEnd::Exited(0) => Ok(result.output.tail),
            ExecEnd::Exited(_) | ExecEnd::NotBegun(_) => Err(complaint(&result.output.tail)),
            ExecEnd::Cut(code) => Err(self.sandbox.cut(code, &result.output.tail, stop)),
            ExecEnd::TimedOut => Err(format!("no end after {} seconds", FILE_MAX.as_secs())),
            ExecEnd::Stopped => Err(String::from(ABORTED)),
        }
    }
}

/// The end of what a script said that went wrong: it may have been a flood.
fn complaint(output: &[u8]) -> String {
    let from = output.len().saturating_sub(truncate::BYTES_MAX);
    let text = String::from_utf8_lossy(&output[from..]);
    truncate::tail(text.trim(), 20).text.to_owned()
}

#[cfg(test)]
mod tests;
