//! bash: runs a command and returns the end of its output.

use std::time::Duration;

use super::truncate::{BYTES_MAX, By, LINES_MAX, plain, tail};
use super::{ABORTED, Args, CallResult, ScriptLimits, Tool, ToolContext, ToolOutput, UploadFn};
use crate::base::stop::Stop;
use crate::base::text;
use crate::host::output::{Output, Spilled};
use crate::host::process::ExecEnd;
use crate::host::scripts::{UNWATCH, WATCH};
use crate::llm::ToolSpec;

pub(super) const TOOL: Tool = Tool {
    spec: ToolSpec {
        name: "bash",
        description: "Run a shell command (with bash where it is installed, else sh) and get its \
            output, stdout and stderr as they come. Without stdin and without a terminal. Of a \
            long output the last 2000 lines or 50 KB are shown; all of it, up to 10 MB, is then \
            in a file whose path is told. A process left running with & stays; send its output \
            to a file.",
        schema: r#"{"type":"object","properties":{"label":{"type":"string","description":"What this does, in a few words, shown to the people"},"command":{"type":"string","description":"The command"},"timeout":{"type":"number","description":"Seconds after which it is killed with all its children; without it, it may run for ever"}},"required":["label","command"]}"#,
    },
    run,
};

/// Runs the command in a session of its own (if there is a `setsid`), and watchdog and script in
/// another process group: the watchdog kills the command's group without killing itself.
///
/// The `cat` in the first line keeps background processes alive: they would get SIGPIPE on their
/// next output, after mom (or the docker engine, two seconds after the end) has closed the pipe
/// they write to. It has the reading end of that pipe and, when fd 3 ends, reads and discards
/// all output until no writer is left. It is started first, when a fork still succeeds, and loads
/// while the command runs.
const RUN: &str = r#"
LC_ALL=C cat - /proc/self/fd/4 <&3 4</proc/self/fd/1 >/dev/null 2>&1 &
exec 2>/dev/null
setsid=setsid; command -v setsid >/dev/null || setsid=
( export MOM_CALL="$m"; exec $setsid $b -c "$2" 2>&1 3<&- )
"#;

/// More than is shown: colours are removed, and the first line is mostly incomplete.
const KEEP_BYTES: usize = 2 * BYTES_MAX;

/// The signal that an exit code above 128 means, where that helps the model.
const SIGNALS: [(i32, &str); 7] = [
    (130, "SIGINT"),
    (132, "SIGILL"),
    (134, "SIGABRT"),
    (137, "SIGKILL: killed, perhaps for lack of memory"),
    (139, "SIGSEGV"),
    (141, "SIGPIPE"),
    (143, "SIGTERM"),
];

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, _: UploadFn<'_>) -> CallResult {
    let timeout = match args.opt_number("timeout") {
        None => None,
        Some(seconds) if seconds > 0.0 => Duration::try_from_secs_f64(seconds).ok(),
        Some(_) => return Err(String::from("bash: `timeout` must be more than 0 seconds")),
    };
    let limits = ScriptLimits {
        timeout,
        keep_bytes: KEEP_BYTES,
        spill: Some(ctx.spill),
        answer: None,
    };
    let mut result = ctx.run(&[WATCH, RUN, UNWATCH], args.str("command"), limits, stop)?;
    let how = match result.end {
        ExecEnd::Exited(0) => None,
        ExecEnd::Exited(code) | ExecEnd::NotBegun(code) => {
            Some(match SIGNALS.iter().find(|(known, _)| *known == code) {
                Some((_, signal)) => format!("Command exited with code {code} ({signal})"),
                None => format!("Command exited with code {code}"),
            })
        }
        ExecEnd::Cut(code) => Some(ctx.sandbox.cut(code, &result.output.tail, stop)),
        ExecEnd::TimedOut => {
            let seconds = timeout.unwrap_or_default().as_secs_f64();
            let seconds = text::rounded(seconds);
            Some(format!("Command timed out after {seconds} seconds"))
        }
        ExecEnd::Stopped => Some(String::from(ABORTED)),
    };
    let mut text = show(&mut result.output, ctx);
    if let Some(how) = &how {
        text += "\n\n";
        text += how;
    }
    Ok(ToolOutput {
        is_error: how.is_some(),
        ..ToolOutput::text(text)
    })
}

/// The end of the output, and a notice about the part that is left out.
fn show(output: &mut Output, ctx: &ToolContext<'_>) -> String {
    let mut window = output.tail.as_slice();
    let mut total_lines = output.newlines + 1;
    if output.total_bytes > window.len() as u64 {
        // It starts in the middle of a line, which is left out unless it is the only one.
        let start = window.iter().position(|&byte| byte == b'\n');
        window = &window[start.map_or(0, |at| at + 1)..];
    }
    if let Some(rest) = window.strip_suffix(b"\n") {
        window = rest;
        total_lines -= 1;
    }
    let decoded = plain(&String::from_utf8_lossy(window));
    let cut = tail(&decoded, LINES_MAX);
    let is_whole = output.total_bytes <= output.tail.len() as u64;
    if cut.by.is_none() && is_whole {
        return if decoded.is_empty() {
            String::from("(no output)")
        } else {
            decoded
        };
    }
    if is_whole && output.spilled == Spilled::No {
        output.spill(ctx.spill);
    }
    let full = match &output.spilled {
        Spilled::To { path, whole: true } => format!("Full output: {path}"),
        Spilled::To { path, whole: false } => format!("First 10 MB: {path}"),
        Spilled::Failed(err) => format!("The full output is lost: {err}"),
        Spilled::No => String::from("The full output is lost"),
    };
    let lines = cut.lines as u64;
    let what = if lines == 0 {
        let shown = cut.text.len() as u64;
        format!(
            "Showing the last {} of line {total_lines} (this line is {})",
            text::bytes(shown),
            text::bytes(output.last_line_bytes.max(shown)),
        )
    } else {
        let limit = match cut.by {
            Some(By::Lines) => String::new(),
            Some(By::Bytes) | None => format!(" ({} limit)", text::bytes(BYTES_MAX as u64)),
        };
        let first = total_lines.saturating_sub(lines) + 1;
        format!("Showing lines {first}-{total_lines} of {total_lines}{limit}")
    };
    format!("{}\n\n[{what}. {full}]", cut.text)
}
