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
mode=
if [ -d "$p" ]; then fail "$p is a directory"; fi
if [ -e "$p" ] && [ ! -f "$p" ]; then fail "$p is not a regular file"; fi
case $p in
*/) fail "$p names a directory" ;;
*/*) dir=${p%/*}; [ -d "${dir:=/}" ] || mkdir -p "$dir" || fail "" ;;
esac
say "?"
"#;

/// Replaces the file `$p` with mom's answer (its size, a newline, the bytes; an empty line: leave
/// the file as it is). Uses a temporary file and a rename, so that nobody sees half a file, and
/// keeps owner and mode. Where that is impossible (a mount point like /etc/hosts in a container,
/// a read-only directory, someone else's file) it overwrites the file in place. A link stays one.
///
/// There is no watchdog: each step ends by itself. When mom dies, the content is incomplete and
/// the second question gets no answer. Starting a program costs about 0.7 ms, so a plain mode
/// (rw bits) is set with the umask.
pub(super) const PUT: &str = r#"
read -r size <&3
[ "$size" ] || { say 0; exit; }
if [ -L "$p" ] && [ -e "$p" ]; then link=$(readlink -f "$p" && echo x) && p=${link%?x}; fi
keep=:
if [ -f "$p" ]; then
    set -- ${mode:-$(stat -c '%a %u:%g' "$p")}
    umask 077
    keep='chown $2 "$tmp" && chmod $1 "$tmp"'
    case $1 in [0246][0246][0246])
        [ -O "$p" ] && [ -G "$p" ] && [ ! -g "${p%/*}" ] && umask $((777 - $1)) && keep=:
    esac
fi
# A link to no file yet; busybox would resolve it from the working directory.
[ ! -L "$p" ] || keep=false
tmp=$p.$m
{ true >"$tmp"; } 2>/dev/null || tmp=${TMPDIR:-/tmp}/$m
head -c "$size" <&3 >"$tmp" && say "?" && read -r size <&3
if [ "$size" != done ]; then
    rm -f "$tmp"
    code=1
elif { eval "$keep" && mv -f "$tmp" "$p"; } 2>/dev/null; then
    code=0
else
    cat "$tmp" >"$p"
    code=$?
    rm -f "$tmp"
fi
say $code
"#;

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, _: UploadFn<'_>) -> CallResult {
    let (path, content) = (args.str("path"), args.str("content"));
    if content.len() > FILE_BYTES_MAX {
        return Err(too_large(content.len()));
    }
    let content_of = &mut |_: &[u8]| Some(content.as_bytes().to_vec());
    put(ctx, &[PATH, WRITE, PUT], path, content_of, stop)?;
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
        let size = format!("{}\n", content.len());
        [size.as_bytes(), &content].concat()
    };
    ctx.run_file(scripts, path, FILE_BYTES_MAX + 1, Some(&mut answer), stop)?;
    Ok(())
}

pub(super) fn too_large(size: usize) -> String {
    format!(
        "{} is more than the {} that write and edit take: use bash",
        text::bytes(size as u64),
        text::bytes(FILE_BYTES_MAX as u64)
    )
}
