//! write: a whole file, new or replaced. The content goes through stdin, byte for byte.

use super::{Args, CallResult, PATH, Tool, ToolContext, ToolOutput, UploadFn};
use crate::base::stop::Stop;
use crate::base::text;
use crate::llm::ToolSpec;

pub(super) const TOOL: Tool = Tool {
    spec: ToolSpec {
        name: "write",
        description: "Write a file: makes it with the directories above it, or replaces what is \
            there.",
        schema: r#"{"type":"object","properties":{"label":{"type":"string","description":"What this does, in a few words, shown to the people"},"path":{"type":"string","description":"The file, absolute or relative"},"content":{"type":"string","description":"All of the file"}},"required":["label","path","content"]}"#,
    },
    run,
};

/// Size of a file that write and edit accept.
pub(super) const FILE_BYTES_MAX: usize = 10 << 20;

const WRITE: &str = r#"
if [ -d "$p" ]; then fail "$p is a directory"; fi
if [ -e "$p" ] && [ ! -f "$p" ]; then fail "$p is not a regular file"; fi
case $p in
*/) fail "$p names a directory" ;;
*/*) dir=${p%/*}; [ -d "${dir:=/}" ] || mkdir -p "$dir" || fail "" ;;
esac
"#;
const ASK: &str = "say \"?\"\n";

/// Begins to replace the file `$p`: makes a temporary file `$tmp` next to it, which `PUT` renames.
/// So nobody sees half a file, and it has the same owner and mode. A link stays one.
///
/// Starting a program costs about 0.7 ms: where the owner is the same by itself, the mode is copied
/// in the background (busybox can't do that).
pub(super) const PREPARE: &str = r#"
if [ -L "$p" ] && [ -e "$p" ]; then link=$(readlink -f "$p" && echo x) && p=${link%?x}; fi
[ ! -e "$p" ] || umask 077
tmp=$p.$m copied=
{ true >"$tmp"; } 2>/dev/null || tmp=${TMPDIR:-/tmp}/$m
if [ -O "$p" ] && [ -G "$p" ] && [ ! -g "${p%/*}" ]; then
    chmod --reference="$p" "$tmp" 2>/dev/null &
    copied=$!
fi
"#;

/// Fills the temporary file with mom's answer (`answer_with`) and puts it in the place of `$p`. Where
/// that is impossible (a mount point like /etc/hosts in a container, a read-only directory,
/// someone else's file) it overwrites the file in place.
///
/// There is no watchdog: each step ends by itself. When mom dies, the content is incomplete: the
/// line has no end, or the second question gets no answer.
pub(super) const PUT: &str = r#"
keep() {
    # A link to no file yet; busybox would resolve it from the working directory.
    [ ! -L "$p" ] || return 1
    [ -e "$p" ] || return 0
    [ "$copied" ] && wait $copied && return
    set -- $(stat -c '%a %u:%g' "$p")
    [ "$copied" ] || chown $2 "$tmp" && chmod $1 "$tmp"
}
read -r size <&3
case $size in
'') ;;
text) IFS= read -r text <&3 && printf %b "$text" >"$tmp" && size=done ;;
*) head -c "$size" <&3 >"$tmp" && say "?" && read -r size <&3 ;;
esac
if [ "$size" != done ]; then
    rm -f "$tmp"
    code=${size:+1}
elif { keep && mv -f "$tmp" "$p"; } 2>/dev/null; then
    code=0
else
    cat "$tmp" >"$p"
    code=$?
    rm -f "$tmp"
fi
say ${code:-0}
"#;
/// The shell reads a line byte by byte: 2 KB in the time in which a program starts.
const LINE_BYTES_MAX: usize = 1000;

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, _: UploadFn<'_>) -> CallResult {
    let (path, content) = (args.str("path"), args.str("content"));
    if content.len() > FILE_BYTES_MAX {
        return Err(too_large(content.len()));
    }
    let content_of = &mut |_: &[u8]| Some(content.as_bytes().to_vec());
    put(
        ctx,
        &[PATH, WRITE, PREPARE, ASK, PUT],
        path,
        content_of,
        stop,
    )?;
    let bytes = content.len();
    Ok(ToolOutput::text(format!("Wrote {bytes} bytes to {path}")))
}

/// Runs scripts; the last one is `PUT`. `new_content` gets what they print of the file, and
/// returns the new content; `None`: leave the file as it is.
pub(super) fn put(
    ctx: &ToolContext<'_>,
    scripts: &[&str],
    path: &str,
    new_content: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
    stop: &Stop,
) -> Result<(), String> {
    let mut has_content = false;
    let mut answer = |printed: &[u8]| {
        if std::mem::replace(&mut has_content, true) {
            return Vec::from(b"done\n");
        }
        let Some(content) = new_content(printed) else {
            return Vec::from(b"\n");
        };
        answer_with(&content)
    };
    ctx.run_file(scripts, path, FILE_BYTES_MAX + 1, Some(&mut answer), stop)?;
    Ok(())
}

/// The answer to `PUT`: for a short content the word `text` and a line for `printf %b`; otherwise the
/// size, a newline, the bytes. (An empty line: leave the file as it is.)
fn answer_with(content: &[u8]) -> Vec<u8> {
    let mut line = String::from("text\n");
    for &byte in content.iter().take(LINE_BYTES_MAX) {
        match byte {
            b' '..=b'~' if byte != b'\\' => line.push(char::from(byte)),
            _ => line.push_str(&format!("\\0{byte:03o}")),
        }
    }
    line.push('\n');
    if content.len() <= LINE_BYTES_MAX && line.len() <= LINE_BYTES_MAX {
        return line.into_bytes();
    }
    let size = format!("{}\n", content.len());
    [size.as_bytes(), content].concat()
}

pub(super) fn too_large(size: usize) -> String {
    format!(
        "{} is more than the {} that write and edit take: use bash",
        text::bytes(size as u64),
        text::bytes(FILE_BYTES_MAX as u64)
    )
}
