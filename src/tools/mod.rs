//! The five tools: their descriptions for the model, and one call from its JSON arguments to
//! its result. When a tool fails, the model gets an error result; it is never an `Error`. Each
//! call is one command in the sandbox; mom itself opens no path that the model named.
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

use serde_json::{Map, Value};

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

/// What a tool call uses besides its arguments. Shared by calls that run in parallel.
pub(crate) struct ToolContext<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// Makes a new file in the channel's scratch/ for output that is too long for the model;
    /// returns it open for writing, with its path as the agent sees it. Called at most once per
    /// call.
    pub(crate) spill: Spill<'a>,
}

/// A file for the conversation, read through the sandbox.
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) title: String,
    /// Never empty; `attach` limits the size.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolOutput {
    /// Never empty.
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
    /// The lines that an edit changed, for people; the model does not get them.
    pub(crate) diff: Option<String>,
}

/// What a tool returns; an `Err` is the text of an error result.
type CallResult = std::result::Result<ToolOutput, String>;
type UploadFn<'a> = &'a mut dyn FnMut(Upload) -> Result<()>;

struct Tool {
    spec: ToolSpec,
    run: fn(&ToolContext<'_>, &Args, &Stop, UploadFn<'_>) -> CallResult,
}

/// In the order in which they are sent to the model.
const TOOLS: [Tool; 5] = [
    read::TOOL,
    bash::TOOL,
    edit::TOOL,
    write::TOOL,
    attach::TOOL,
];

/// Time limit of read, write, edit and attach: a file may be on a dead network mount.
const FILE_MAX: Duration = Duration::from_secs(120);
/// Linux accepts no longer argument (MAX_ARG_STRLEN).
const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;
const ABORTED: &str = "Command aborted";

/// Shell code that sets `p` to the path in `$2`. `fail` ends the script with an error text. The
/// programs of such a script need no locale, and to load one takes each of them up to 0.4 ms.
const PATH: &str = r#"
p=$2
export LC_ALL=C
case $p in "~") p=$HOME ;; "~/"*) p=$HOME/${p#??} ;; -*) p=./$p ;; esac
fail() { printf '%s' "$1"; say 1; exit; }
"#;

/// Shell code that refuses all but a regular file: reading a FIFO or a device may never end.
const IS_FILE: &str = r#"
if [ -d "$p" ]; then fail "$p is a directory"
elif [ ! -e "$p" ]; then fail "$p does not exist (or a directory above it is closed to you)"
elif [ ! -f "$p" ]; then fail "$p is not a regular file"
elif [ ! -r "$p" ]; then fail "$p: permission denied"
fi
"#;

/// The tools as the model sees them, in this order: read, bash, edit, write, attach.
pub(crate) fn specs() -> Vec<ToolSpec> {
    TOOLS.iter().map(|tool| tool.spec).collect()
}

/// Whether calls of this tool may run in parallel; they do if it is true of all calls of a turn.
pub(crate) fn is_parallel(name: &str) -> bool {
    matches!(name, "bash" | "read")
}

/// Whether the tool changes something in the sandbox or in Slack.
pub(crate) fn has_effects(name: &str) -> bool {
    name != "read"
}

/// Whether the tool may change something in the sandbox; true for tools that are added later.
pub(crate) fn changes(name: &str) -> bool {
    !matches!(name, "read" | "attach")
}

/// What the tool makes of the call's arguments, without the label, which has no effect. `None`: it
/// refuses them, or there is no such tool.
pub(crate) fn without_label(call: &ToolCall) -> Option<Map<String, Value>> {
    let mut tools = const { &TOOLS }.iter();
    let tool = tools.find(|tool| tool.spec.name == call.name)?;
    let args = Args::parse(&tool.spec, &call.arguments).ok()?;
    Some(args.without_label())
}

/// Runs one call. Never panics and never fails: a wrong call, a stop, a timeout are results
/// with `is_error`. Only `attach` calls `upload`; its error becomes the result.
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

    /// Adds a note about arguments that the tool does not have and that had no effect.
    fn with_ignored(mut self, names: &[String]) -> ToolOutput {
        if !names.is_empty() {
            let names = text::one_line(&names.join(", "), 200);
            let note = format!("[Ignored, for the tool has no such argument: {names}]");
            self.content.push(Content::Text(note));
        }
        self
    }
}

/// The limits of a script, and how its output and questions are handled.
struct ScriptLimits<'a> {
    /// `None`: no limit.
    timeout: Option<Duration>,
    keep_bytes: usize,
    spill: Option<Spill<'a>>,
    answer: Option<AnswerFn<'a>>,
}

impl ToolContext<'_> {
    /// Runs a script in the sandbox; `arg` is its `$2`. `Err`: a text for the model, nothing ran.
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

    /// Runs a script that prints its own error text. Returns all it printed if it succeeded, and
    /// that text as `Err` if it failed.
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

/// The error text of a script: only the end of its output, which may be very long.
fn complaint(output: &[u8]) -> String {
    let from = output.len().saturating_sub(truncate::BYTES_MAX);
    let text = String::from_utf8_lossy(&output[from..]);
    truncate::tail(text.trim(), 20).text.to_owned()
}

#[cfg(test)]
mod tests;
