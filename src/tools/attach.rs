//! attach: sends a file to the conversation. Its bytes come through the sandbox.

use super::{Args, CallResult, IS_FILE, PATH, Tool, ToolContext, ToolOutput, Upload, UploadFn};
use crate::base::secret;
use crate::base::stop::Stop;
use crate::base::text;
use crate::host::scripts::{UNWATCH, WATCH};
use crate::llm::ToolSpec;

pub(super) const TOOL: Tool = Tool {
    spec: ToolSpec {
        name: "attach",
        description: "Send a file to the people of this conversation (at most 50 MB).",
        schema: r#"{"type":"object","properties":{"label":{"type":"string","description":"What this does, in a few words, shown to the people"},"path":{"type":"string","description":"The file, absolute or relative"},"title":{"type":"string","description":"Its title; without it, the file's name"}},"required":["label","path"]}"#,
    },
    run,
};

/// The file is in memory during the upload, and mom runs on small machines. Slack accepts 1 GB.
const BYTES_MAX: usize = 50 << 20;

const ATTACH: &str = r#"
size=$(stat -L -c %s "$p") || fail ""
[ "$size" -le 52428800 ] || fail "$p has $size bytes, more than the 50 MB that attach takes: compress or split it"
"#;
/// Prints one byte more than allowed: the file may have grown since `ATTACH` checked its size.
const PRINT: &str = "head -c 52428801 <\"$p\"\n";

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, upload: UploadFn<'_>) -> CallResult {
    let path = args.str("path");
    let script = [PATH, IS_FILE, ATTACH, WATCH, PRINT, UNWATCH];
    let bytes = ctx.run_file(&script, path, BYTES_MAX + 1, None, stop)?;
    if bytes.is_empty() {
        return Err(format!("{path} is empty, and Slack takes no empty files"));
    }
    if bytes.len() > BYTES_MAX {
        return Err(format!("{path} is larger than 50 MB"));
    }
    if secret::holds(&bytes) {
        return Err(format!(
            "{path} holds a key or token of mom's own and stays here"
        ));
    }
    let clean = |text: &str| secret::hide(text::one_line(text, 200));
    let name = clean(path.rsplit('/').next().unwrap_or(path));
    let title = clean(args.opt_str("title").unwrap_or_default());
    let title = if title.is_empty() {
        name.clone()
    } else {
        title
    };
    let done = format!("Attached {name}");
    upload(Upload { name, title, bytes }).map_err(|err| format!("cannot attach {path}: {err}"))?;
    Ok(ToolOutput::text(done))
}
