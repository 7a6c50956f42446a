//! read: a text file from a given line on, or an image. However large a text is, mom gets only
//! its first 64 KB, and another 64 KB from the given line on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::truncate::{BYTES_MAX, By, LINES_MAX, head};
use super::{Args, CallResult, IS_FILE, PATH, Tool, ToolContext, ToolOutput, UploadFn};
use crate::base::stop::Stop;
use crate::base::text;
use crate::host::scripts::{UNWATCH, WATCH};
use crate::llm::{Content, Image, ToolSpec};

pub(super) const TOOL: Tool = Tool {
    spec: ToolSpec {
        name: "read",
        description: "Read a file. Text: at most 2000 lines or 50 KB at once; go on with offset. \
            Images (png, jpeg, gif, webp) are shown to you.",
        schema: r#"{"type":"object","properties":{"label":{"type":"string","description":"What this does, in a few words, shown to the people"},"path":{"type":"string","description":"The file, absolute or relative"},"offset":{"type":"number","description":"The first line to read, counted from 1"},"limit":{"type":"number","description":"Lines to read at most"}},"required":["label","path"]}"#,
    },
    run,
};

/// Prints the beginning of the file, then waits for the answer that says what else to print.
const READ: &str = r#"
head -c 65536 <"$p" || fail ""
say "?"
read -r what offset <&3
[ "$what" != done ] || { say 0; exit; }
"#;
/// Prints the rest; before a text, a line with its size and newlines (-1: too large to count).
const MORE: &str = r#"
case $what in
image) head -c 3932161 <"$p" ;;
text)
    size=$(stat -L -c %s "$p") newlines=-1
    [ "$size" -gt 268435456 ] || newlines=$(wc -l <"$p")
    echo "$size" $newlines
    if [ "$offset" -gt 1 ]; then tail -n "+$offset" <"$p" | head -c 65536
    else head -c 65536 <"$p"
    fi ;;
esac
"#;
const CHUNK_BYTES: usize = 65536;
/// 5 MB in base64, the most a model accepts (Anthropic docs, "Vision"). Also in `MORE`.
const IMAGE_BYTES_MAX: usize = 15 << 18;

/// A piece of a text file that starts at line `offset`, and the size of the file.
struct FilePiece {
    bytes: Vec<u8>,
    /// Newlines + 1; `None`: too large to count.
    total_lines: Option<u64>,
    size: u64,
}

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, _: UploadFn<'_>) -> CallResult {
    let path = args.str("path");
    // The casts saturate, so every number that a model gives becomes a valid one.
    let number = |name| args.opt_number(name).map(|number| number as u64);
    let offset = number("offset").unwrap_or(1).clamp(1, 1 << 53);
    let limit = number("limit").unwrap_or(u64::MAX).max(1);

    let mut start = Vec::new();
    let mut mime = None;
    let mut answer = |bytes: &[u8]| {
        start = bytes.to_vec();
        mime = image_mime(bytes);
        match mime {
            _ if bytes.len() < CHUNK_BYTES => Vec::from(b"done\n"),
            Some(_) => Vec::from(b"image\n"),
            None => format!("text {offset}\n").into_bytes(),
        }
    };
    let script = [PATH, IS_FILE, READ, WATCH, MORE, UNWATCH];
    let more = ctx.run_file(&script, path, IMAGE_BYTES_MAX + 1, Some(&mut answer), stop)?;

    let is_whole = start.len() < CHUNK_BYTES;
    if let Some(mime) = mime {
        return image(path, mime, if is_whole { &start } else { &more });
    }
    let piece = if is_whole {
        let newlines = start.iter().filter(|&&byte| byte == b'\n').count() as u64;
        FilePiece {
            size: start.len() as u64,
            bytes: from_line(start, offset),
            total_lines: Some(newlines + 1),
        }
    } else {
        parse_more(&more).ok_or("the file changed while it was read")?
    };
    show(path, &piece, offset, limit)
}

fn image(path: &str, mime: &str, bytes: &[u8]) -> CallResult {
    if bytes.len() > IMAGE_BYTES_MAX {
        return Err(format!(
            "the image is larger than {}: make it smaller first, for instance: \
             magick IN -resize 1600x1600 OUT.jpg",
            text::bytes(IMAGE_BYTES_MAX as u64)
        ));
    }
    let text = format!("Read image file [{mime}]");
    let image = Image {
        mime: mime.to_owned(),
        data: STANDARD.encode(bytes),
        name: path.to_owned(),
    };
    Ok(ToolOutput {
        content: vec![Content::Text(text), Content::Image(image)],
        is_error: false,
        diff: None,
    })
}

/// The bytes from line `offset` on, counted from 1.
fn from_line(bytes: Vec<u8>, offset: u64) -> Vec<u8> {
    let mut rest = bytes.as_slice();
    for _ in 1..offset {
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(at) => rest = &rest[at + 1..],
            None => return Vec::new(),
        }
    }
    rest.to_vec()
}

fn parse_more(bytes: &[u8]) -> Option<FilePiece> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let header = std::str::from_utf8(&bytes[..end]).ok()?;
    let (size, newlines) = header.split_once(' ')?;
    // -1 is no u64: it becomes `None`.
    let newlines = newlines.trim().parse::<u64>().ok();
    Some(FilePiece {
        bytes: bytes[end + 1..].to_vec(),
        total_lines: newlines.map(|newlines| newlines.saturating_add(1)),
        size: size.parse().ok()?,
    })
}

fn show(path: &str, piece: &FilePiece, offset: u64, limit: u64) -> CallResult {
    let total = piece.total_lines;
    if total.map_or(piece.bytes.is_empty(), |total| offset > total) {
        let of = total.map_or(String::new(), |total| format!(" ({total} lines)"));
        return Err(format!("offset {offset} is beyond the end of the file{of}"));
    }
    let decoded = String::from_utf8_lossy(&piece.bytes);
    let lines_max = usize::try_from(limit).unwrap_or(LINES_MAX).min(LINES_MAX);
    let cut = head(&decoded, lines_max);
    let notice = match cut.by {
        // A piece that was cut at 64 KB is over the 50 KB limit, so it is never shown as whole.
        None if piece.size == 0 => String::from("(empty file)"),
        None if decoded.is_empty() => String::from("(nothing: the file ends before this line)"),
        None => String::new(),
        Some(By::Bytes) if cut.lines == 0 => {
            let quoted = shlex::try_quote(path).map_or(path.into(), |quoted| quoted.into_owned());
            format!(
                "[Line {offset} is longer than {}. Use bash: sed -n '{offset}p' {quoted} | head -c {BYTES_MAX}]",
                text::bytes(BYTES_MAX as u64)
            )
        }
        Some(by) => {
            let size = || format!("a file of {}", text::bytes(piece.size));
            let of = total.map_or_else(size, |total| total.to_string());
            let why = match by {
                By::Bytes => format!(" ({} limit)", text::bytes(BYTES_MAX as u64)),
                By::Lines => String::new(),
            };
            let next = offset + cut.lines as u64;
            let last = next - 1;
            format!("[Showing lines {offset}-{last} of {of}{why}. Use offset={next} to go on]")
        }
    };
    let gap = match (cut.text, &*notice) {
        ("", _) | (_, "") => "",
        _ => "\n\n",
    };
    Ok(ToolOutput::text(format!("{}{gap}{notice}", cut.text)))
}

/// The image type by the first bytes; a file's name may be wrong.
pub(crate) fn image_mime(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', ..] if bytes.get(8..12) == Some(b"WEBP") => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
pub(super) fn survive(bytes: &[u8], offset: u64) {
    let piece = FilePiece {
        bytes: from_line(bytes.to_vec(), offset),
        total_lines: None,
        size: bytes.len() as u64,
    };
    for piece in parse_more(bytes).into_iter().chain([piece]) {
        if let Ok(shown) = show("a", &piece, offset, u64::MAX) {
            assert_eq!(shown.content.len(), 1);
        }
    }
}
