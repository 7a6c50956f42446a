//! edit: replaces one exact piece of a file. The script prints the file, mom finds and replaces
//! the bytes, the script writes the file back: one command, and bytes that are no UTF-8 stay.

use super::write::{FILE_BYTES_MAX, PREPARE, PUT, put, too_large};
use super::{Args, CallResult, IS_FILE, PATH, Tool, ToolContext, ToolOutput, UploadFn};
use crate::base::stop::Stop;
use crate::llm::ToolSpec;

pub(super) const TOOL: Tool = Tool {
    spec: ToolSpec {
        name: "edit",
        description: "Replace a piece of a file. oldText must be in the file exactly once, white \
            space and line ends included.",
        schema: r#"{"type":"object","properties":{"label":{"type":"string","description":"What this does, in a few words, shown to the people"},"path":{"type":"string","description":"The file, absolute or relative"},"oldText":{"type":"string","description":"What is there now"},"newText":{"type":"string","description":"What shall be there instead"}},"required":["label","path","oldText","newText"]}"#,
    },
    run,
};

const IS_WRITABLE: &str = r#"
[ -w "$p" ] || fail "$p: permission denied"
"#;
/// Prints one byte more than allowed, so that mom sees that a file is too large.
const PRINT: &str = r#"
head -c 10485761 <"$p" || { rm -f "$tmp"; fail ""; }
say "?"
"#;

/// Lines shown around a change.
const CONTEXT_LINES: usize = 4;

fn run(ctx: &ToolContext<'_>, args: &Args, stop: &Stop, _: UploadFn<'_>) -> CallResult {
    let path = args.str("path");
    let (old, new) = (args.str("oldText"), args.str("newText"));
    let mut replaced = Err(String::from("it was not read"));
    let new_content = &mut |file: &[u8]| {
        replaced = replace(file, old, new);
        let (content, _) = replaced.as_ref().ok()?;
        Some(content.clone())
    };
    let script = [PATH, IS_FILE, IS_WRITABLE, PREPARE, PRINT, PUT];
    put(ctx, &script, path, new_content, stop)?;
    let (_, diff) = replaced.map_err(|why| format!("{path}: {why}"))?;
    Ok(ToolOutput {
        diff: Some(diff),
        ..ToolOutput::text(format!("Replaced the text in {path}"))
    })
}

/// The new file and the diff for people.
fn replace(file: &[u8], old: &str, new: &str) -> Result<(Vec<u8>, String), String> {
    if file.len() > FILE_BYTES_MAX {
        return Err(too_large(file.len()));
    }
    if old.is_empty() {
        return Err(String::from("oldText is empty; use write to make a file"));
    }
    if old == new {
        return Err(String::from("oldText and newText are the same: no change"));
    }
    let (first, count) = find(file, old);
    let Some(at) = first else {
        let crlf = !old.contains('\r') && file.windows(2).any(|pair| pair == b"\r\n");
        let hint = if crlf {
            " (its lines end in \\r\\n)"
        } else {
            ""
        };
        return Err(format!(
            "oldText is not in the file{hint}; it must match exactly, white space included"
        ));
    };
    if count > 1 {
        return Err(format!(
            "oldText is in the file {count} times; take more of the text around it"
        ));
    }
    let mut out = Vec::with_capacity(file.len() - old.len() + new.len());
    out.extend_from_slice(&file[..at]);
    out.extend_from_slice(new.as_bytes());
    out.extend_from_slice(&file[at + old.len()..]);
    if out.len() > FILE_BYTES_MAX {
        return Err(too_large(out.len()));
    }
    let diff = diff(file, &out, at, old.len(), new.len());
    Ok((out, diff))
}

/// The first position of `piece` in `file`, and how often it occurs without overlaps. Searches
/// only the valid UTF-8, where a text can match and the search takes linear time.
fn find(file: &[u8], piece: &str) -> (Option<usize>, usize) {
    let mut first = None;
    let mut count = 0;
    let mut start = 0;
    for chunk in file.utf8_chunks() {
        for (at, _) in chunk.valid().match_indices(piece) {
            first = first.or(Some(start + at));
            count += 1;
        }
        start += chunk.valid().len() + chunk.invalid().len();
    }
    (first, count)
}

/// The changed lines, old and new, with some around them: ` 11 same`, `-12 old`, `+12 new`.
fn diff(old: &[u8], new: &[u8], at: usize, old_len: usize, new_len: usize) -> String {
    let is_newline = |&(_, &byte): &(usize, &u8)| byte == b'\n';
    let mut before = old[..at].iter().enumerate().rev().filter(is_newline);
    let start = before.nth(CONTEXT_LINES).map_or(0, |(at, _)| at + 1);
    let lines = |file: &[u8], end: usize| -> Vec<String> {
        let mut after = file[end..].iter().enumerate().filter(is_newline);
        let end = after
            .nth(CONTEXT_LINES)
            .map_or(file.len(), |(at, _)| end + at);
        let text = String::from_utf8_lossy(&file[start..end]);
        text.split('\n').map(str::to_owned).collect()
    };
    let (old_lines, new_lines) = (lines(old, at + old_len), lines(new, at + new_len));
    let same = |(a, b): &(&String, &String)| a == b;
    let head = old_lines.iter().zip(&new_lines).take_while(same).count();
    let tail = old_lines[head..]
        .iter()
        .rev()
        .zip(new_lines[head..].iter().rev());
    let tail = tail.take_while(same).count();
    let old_end = old_lines.len() - tail;
    let new_end = new_lines.len() - tail;

    let first = old[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let width = (first + new_lines.len()).to_string().len();
    let mut out = String::new();
    let mut add = |sign: char, lines: &[String], number: usize| {
        for (index, line) in lines.iter().enumerate() {
            out += &format!("{sign}{:width$} {line}\n", number + index);
        }
    };
    let from = head.saturating_sub(CONTEXT_LINES);
    let to = (new_end + CONTEXT_LINES).min(new_lines.len());
    add(' ', &old_lines[from..head], first + from);
    add('-', &old_lines[head..old_end], first + head);
    add('+', &new_lines[head..new_end], first + head);
    add(' ', &new_lines[new_end..to], first + new_end);
    out
}

#[cfg(test)]
pub(super) fn survive(file: &[u8], old: &str) {
    if let Ok((new, diff)) = replace(file, old, "new") {
        assert_eq!(new.len(), file.len() - old.len() + 3);
        assert!(diff.lines().all(|line| line.starts_with([' ', '-', '+'])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_once_and_says_why_not() {
        let large = vec![b'a'; FILE_BYTES_MAX + 1];
        for (file, old, new, want) in [
            (&b"a b c"[..], "b", "B", Ok(&b"a B c"[..])),
            (
                b"\xff\0one\xfe two\xe2\x82",
                "one",
                "\0",
                Ok(b"\xff\0\0\xfe two\xe2\x82"),
            ),
            (b"\xe2\x82\xac\xe2\x82", "€", "", Ok(b"\xe2\x82")),
            (b"aaa", "aa", "b", Ok(b"ba")),
            (b"aaaa", "aa", "b", Err("2 times")),
            (b"a", "b", "c", Err("not in the file;")),
            (b"a\r\nb", "a\nb", "c", Err("(its lines end in \\r\\n)")),
            (b"a", "a", "a", Err("no change")),
            (b"a", "", "a", Err("empty")),
            (&large, "b", "c", Err("10.0MB")),
        ] {
            let got = replace(file, old, new);
            match (&got, want) {
                (Ok((got, _)), Ok(want)) => assert_eq!(got, want, "{old:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{old:?}: {got}"),
                _ => panic!("{old:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_diff_has_line_numbers_and_four_lines_around() {
        let file: String = (1..=12).map(|n| format!("l{n}\n")).collect();
        let (_, diff) = replace(file.as_bytes(), "l7\nl8\n", "l7\nnew\nmore\n").unwrap();
        let want = "  4 l4\n  5 l5\n  6 l6\n  7 l7\n- 8 l8\n+ 8 new\n+ 9 more\n 10 l9\n 11 l10\n 12 l11\n 13 l12\n";
        assert_eq!(diff, want);
        let (_, diff) = replace(b"a", "a", "b").unwrap();
        assert_eq!(diff, "-1 a\n+1 b\n");
    }
}
