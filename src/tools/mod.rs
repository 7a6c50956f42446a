//! The five tools: what the model is told of them, and one call from its JSON arguments
//! to its result. A tool that fails is a result for the model, never an `Error`. Each call
//! is one command in the sandbox; the host opens no path that the model named.

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
use crate::host::process::{self, Answer, Ended, Finished, Run, Spill};
use crate::host::sandbox::Sandbox;
use crate::llm::{Content, ToolCall, ToolSpec};

pub(crate) use read::image_mime;

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
    /// A JSON object for the session file: the diff of an edit, what was truncated.
    pub(crate) details: Option<String>,
}

/// What a tool gives back; an `Err` is the text of an error result.
type Done = std::result::Result<ToolOutput, String>;
type UploadFn<'a> = &'a mut dyn FnMut(Upload) -> Result<()>;

struct Tool {
    spec: ToolSpec,
    run: fn(&ToolContext<'_>, &Args, &Stop, UploadFn<'_>) -> Done,
}

/// In the order they are sent.
const TOOLS: [Tool; 5] = [
    read::TOOL,
    bash::TOOL,
    edit::TOOL,
    write::TOOL,
    attach::TOOL,
];

/// Read, write, edit, attach on what hangs (a dead network mount).
const FILE_MAX: Duration = Duration::from_secs(120);
/// Linux takes no longer argument (MAX_ARG_STRLEN).
const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;

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

/// Runs one call. Never panics and never fails: a wrong call, a stop, a timeout are results
/// with `is_error`. `upload` is called by `attach` alone; its error becomes the result.
pub(crate) fn call(
    ctx: &ToolContext<'_>,
    call: &ToolCall,
    stop: &Stop,
    upload: &mut dyn FnMut(Upload) -> Result<()>,
) -> ToolOutput {
    let done = match find(&call.name) {
        None => {
            let names: Vec<&str> = TOOLS.iter().map(|tool| tool.spec.name).collect();
            Err(format!(
                "there is no tool {:?}, only {}",
                call.name,
                names.join(", ")
            ))
        }
        Some(tool) => Args::parse(&tool.spec, &call.arguments)
            .and_then(|args| (tool.run)(ctx, &args, stop, upload)),
    };
    done.unwrap_or_else(|text| ToolOutput {
        is_error: true,
        ..ToolOutput::text(text)
    })
}

/// What a person reads while the call runs: its `label`, or the tool's name. One line.
pub(crate) fn label(call: &ToolCall) -> String {
    let args: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    let label = text::one_line(args["label"].as_str().unwrap_or_default(), 150);
    if label.is_empty() {
        text::one_line(&call.name, 150)
    } else {
        label
    }
}

/// The arguments as a person reads them: values only, one a line, label left out.
pub(crate) fn arguments_text(call: &ToolCall) -> String {
    let Ok(Value::Object(mut args)) = serde_json::from_str(&call.arguments) else {
        return call.arguments.clone();
    };
    let mut lines = Vec::new();
    args.remove("label");
    // serde_json sorts the keys; a person wants to see them as the schema has them.
    for field in find(&call.name)
        .map(|tool| fields(&tool.spec))
        .unwrap_or_default()
    {
        let Some(value) = args.remove(&field.name) else {
            continue;
        };
        let mut line = show(&value);
        if field.name == "path" {
            line += &range(args.remove("offset"), args.remove("limit"));
        }
        lines.push(line);
    }
    lines.extend(args.values().map(show));
    lines.join("\n")
}

fn show(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// `:120-160` behind a path, for an offset of 120 and a limit of 40.
fn range(offset: Option<Value>, limit: Option<Value>) -> String {
    let number = |value: Option<Value>| Some(value?.as_f64()? as u64);
    match (number(offset), number(limit)) {
        (None, None) => String::new(),
        (Some(offset), None) => format!(":{offset}"),
        (offset, Some(limit)) => {
            let offset = offset.unwrap_or(1);
            format!(":{offset}-{}", offset.saturating_add(limit))
        }
    }
}

fn find(name: &str) -> Option<&'static Tool> {
    const { &TOOLS }.iter().find(|tool| tool.spec.name == name)
}

struct Field {
    name: String,
    is_number: bool,
    required: bool,
}

/// A schema's fields, the required ones first and in their order.
fn fields(spec: &ToolSpec) -> Vec<Field> {
    let schema: Value = serde_json::from_str(spec.schema).unwrap_or_default();
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut names: Vec<&str> = required.iter().filter_map(Value::as_str).collect();
    let all = schema["properties"].as_object().into_iter().flatten();
    names.extend(
        all.map(|(name, _)| name.as_str())
            .filter(|name| required.iter().all(|known| known != name)),
    );
    let field = |(index, name): (usize, &&str)| Field {
        name: (*name).to_owned(),
        is_number: schema["properties"][*name]["type"] == "number",
        required: index < required.len(),
    };
    names.iter().enumerate().map(field).collect()
}

/// A call's arguments, checked against the tool's schema.
struct Args(Map<String, Value>);

impl Args {
    fn parse(spec: &ToolSpec, arguments: &str) -> std::result::Result<Args, String> {
        let wrong = |what: &str| format!("{}: {what}. Call it again with this mended.", spec.name);
        let mut args = match serde_json::from_str(arguments) {
            Ok(Value::Object(args)) => args,
            Ok(_) => return Err(wrong("the arguments must be an object")),
            Err(err) => return Err(wrong(&format!("the arguments are no JSON object: {err}"))),
        };
        // Some models write null for what they leave out.
        args.retain(|_, value| !value.is_null());
        for Field {
            name,
            is_number,
            required,
        } in fields(spec)
        {
            let (fits, kind) = match args.get(&name) {
                None if required => return Err(wrong(&format!("`{name}` is missing"))),
                None => continue,
                Some(value) if is_number => {
                    let number = value.as_f64().is_some_and(|number| number.is_finite());
                    (number, "a number")
                }
                Some(value) => (value.is_string(), "a string"),
            };
            if !fits {
                return Err(wrong(&format!("`{name}` must be {kind}")));
            }
        }
        Ok(Args(args))
    }

    /// A required field; its presence was checked.
    fn str(&self, name: &str) -> &str {
        self.opt_str(name).unwrap_or_default()
    }

    fn opt_str(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn opt_number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }
}

impl ToolOutput {
    fn text(text: impl Into<String>) -> ToolOutput {
        ToolOutput {
            content: vec![Content::Text(text.into())],
            is_error: false,
            details: None,
        }
    }
}

impl ToolContext<'_> {
    /// Runs a script in the sandbox; `limits` holds all of the run but command and mark.
    fn run(
        &self,
        script: &[&str],
        args: &[&str],
        limits: Limits<'_>,
        stop: &Stop,
    ) -> std::result::Result<Finished, String> {
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(String::from("a NUL character can't be passed to a program"));
        }
        if args.iter().any(|arg| arg.len() > ARGUMENT_BYTES_MAX) {
            return Err(String::from(
                "too long for a command line, which takes 128 KB: put it in a file with the \
                 write tool and run that",
            ));
        }
        let mark = crate::base::random::random_word().map_err(|err| err.to_string())?;
        let run = Run {
            command: self.sandbox.command(script, &mark, args),
            mark: Some(mark),
            timeout: limits.timeout,
            keep_bytes: limits.keep_bytes,
            spill: limits.spill,
            answer: limits.answer,
        };
        let finished = process::run(run, stop).map_err(|err| err.to_string())?;
        if let Ended::Lost(_) = finished.ended {
            let text = complaint(&finished.output.tail);
            return Err(self.sandbox.mend(&text, None).to_string());
        }
        Ok(finished)
    }

    /// The same for a script that says itself what went wrong: all it printed, if it
    /// succeeded.
    fn run_file(
        &self,
        script: &[&str],
        args: &[&str],
        keep_bytes: usize,
        answer: Option<Answer<'_>>,
        stop: &Stop,
    ) -> std::result::Result<Vec<u8>, String> {
        let limits = Limits {
            timeout: Some(FILE_MAX),
            keep_bytes,
            spill: None,
            answer,
        };
        let finished = self.run(script, args, limits, stop)?;
        match finished.ended {
            Ended::Exited(0) => Ok(finished.output.tail),
            Ended::Exited(_) | Ended::Lost(_) => Err(complaint(&finished.output.tail)),
            Ended::TimedOut => Err(format!("no end after {} seconds", FILE_MAX.as_secs())),
            Ended::Stopped => Err(String::from(ABORTED)),
        }
    }
}

/// The end of what a script said that went wrong: it may have been a flood.
fn complaint(output: &[u8]) -> String {
    let from = output.len().saturating_sub(truncate::BYTES_MAX);
    let text = String::from_utf8_lossy(&output[from..]);
    truncate::tail(text.trim(), 20).text.to_owned()
}

const ABORTED: &str = "Command aborted";

struct Limits<'a> {
    timeout: Option<Duration>,
    keep_bytes: usize,
    spill: Option<Spill<'a>>,
    answer: Option<Answer<'a>>,
}

#[cfg(test)]
mod tests;
