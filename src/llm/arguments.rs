//! Tool calls as models really write them: names with a prefix or in another case, arguments
//! that are almost JSON. A call with only one possible meaning is repaired; any other goes back
//! to the model as broken JSON, with the place. `tools` checks whether the fields fit the tool.

use serde_json::Value;

use super::ToolSpec;
use crate::base::json::{self, Obj};

/// Characters shown of the text at the place where the JSON breaks.
const PLACE_CHARS: usize = 30;

/// The tool that `name` means: `Bash`, `functions.bash:0`, `default_api:bash`, `mom_bash`,
/// `bash<|channel|>commentary`, `bash()`.
pub(super) fn canonical_name<'a>(name: &'a str, tools: &[ToolSpec]) -> &'a str {
    let end = name.find("<|").or_else(|| name.find('('));
    let short = name[..end.unwrap_or(name.len())].trim();
    let short = match short.rsplit_once(':') {
        Some((before, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => before,
        _ => short,
    };
    let is = |tool: &&ToolSpec| tool.name.eq_ignore_ascii_case(short);
    let ends = |tool: &&ToolSpec| {
        let at = short.len().saturating_sub(tool.name.len());
        let (prefix, end) = short.split_at_checked(at).unwrap_or((short, ""));
        end.eq_ignore_ascii_case(tool.name) && prefix.ends_with(['.', ':', '_', '-', '/'])
    };
    let trimmed = tools.iter().find(is).or_else(|| tools.iter().find(ends));
    trimmed.map_or(name, |tool| tool.name)
}

/// The arguments as one line that is a JSON object; `None` when they are no JSON object.
pub(super) fn read(text: &str) -> Option<String> {
    let text = text.trim();
    match json::parse(text) {
        // A line break can only be between tokens: within a string it is escaped.
        Ok(Value::Object(_)) => Some(text.replace(['\n', '\r'], " ")),
        Ok(Value::Null) => Some("{}".to_owned()),
        // Some local models write the object as a string.
        Ok(Value::String(inner)) if inner.trim_start().starts_with('{') => read(&inner),
        Ok(_) => None,
        Err(_) if text.is_empty() => Some("{}".to_owned()),
        Err(_) => {
            let repaired = repair(unfenced(text)?);
            let is_object = matches!(json::parse(&repaired), Ok(Value::Object(_)));
            is_object.then_some(repaired)
        }
    }
}

/// Replaces arguments that are no JSON object: holds their text and what is wrong with it.
pub(super) fn broken(text: &str) -> String {
    let why = match json::parse::<Value>(text) {
        Ok(_) => "it is JSON, but no object".to_owned(),
        Err(err) => {
            let line = text.split('\n').nth(err.line().saturating_sub(1));
            // The column counts bytes.
            let before = line.unwrap_or_default().get(..err.column());
            let before = before.unwrap_or_default().chars().rev().take(PLACE_CHARS);
            let before: String = before.collect::<Vec<_>>().into_iter().rev().collect();
            format!("{err}, after {before:?}")
        }
    };
    let object = Obj::new().str("invalid_json", text);
    object.str("why", &why).end()
}

/// The text in a code fence, or the text itself if it has none.
fn unfenced(text: &str) -> Option<&str> {
    let Some(inside) = text.strip_prefix("```") else {
        return Some(text);
    };
    let inside = inside.trim_end().strip_suffix("```")?;
    let (language, inside) = inside.split_once('\n').unwrap_or(("", inside));
    language
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric())
        .then(|| inside.trim())
}

/// The text without trailing commas, with line breaks in strings escaped, and with Python's
/// quotes and constants changed to JSON's. Nothing that is missing is added.
fn repair(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' | '\'' => {
                out.push('"');
                while let Some((_, inner)) = chars.next() {
                    match inner {
                        _ if inner == c => break,
                        '"' => out.push_str("\\\""),
                        '\n' => out.push_str("\\n"),
                        '\r' => out.push_str("\\r"),
                        '\t' => out.push_str("\\t"),
                        // JSON has no \' escape.
                        '\\' if chars.next_if(|(_, next)| *next == '\'').is_some() => {
                            out.push('\'');
                        }
                        '\\' => {
                            out.push('\\');
                            out.extend(chars.next().map(|(_, next)| next));
                        }
                        _ => out.push(inner),
                    }
                    // The text ends within the string: it stays broken.
                    if chars.peek().is_none() {
                        return String::new();
                    }
                }
                out.push('"');
            }
            ',' if text[at + 1..].trim_start().starts_with(['}', ']']) => {}
            '\n' | '\r' => out.push(' '),
            c if c.is_ascii_alphabetic() => {
                let rest = &text[at..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
                let word = &rest[..end.unwrap_or(rest.len())];
                while chars.next_if(|(next, _)| *next < at + word.len()).is_some() {}
                out.push_str(match word {
                    "True" => "true",
                    "False" => "false",
                    "None" => "null",
                    other => other,
                });
            }
            c => out.push(c),
        }
    }
    out
}

/// The marks of a tool call that a server passes on as text.
#[rustfmt::skip]
const CALL_MARKS: &[&str] = &[
    "<tool_call>", "<tool_calls>", "<function=", "<function_call", "<|tool_call", "<|python_tag|>",
    "[TOOL_CALLS]", "<｜tool▁calls▁begin｜>", "<invoke name=", "<|channel|>commentary to=",
];

/// The mark of a call of one of `tools` in the text, outside of code; `None` without one.
pub(super) fn call_in_text(text: &str, tools: &[ToolSpec]) -> Option<&'static str> {
    let mut in_fence = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        let rest = &text[at..];
        let is_call = |mark: &&&str| {
            line.match_indices(**mark)
                .any(|(from, _)| opens_call(rest, from, mark))
        };
        let mark = CALL_MARKS.iter().find(is_call);
        let names_tool = || tools.iter().any(|tool| rest.contains(tool.name));
        if let Some(mark) = mark.filter(|_| !in_fence && names_tool()) {
            return Some(mark);
        }
        at += line.len();
    }
    is_call_object(text.trim(), tools).then_some("a JSON object with name and arguments")
}

/// Whether the mark at `from` in a line (and what follows it) opens a call: it begins the line,
/// or stands outside of code with a call's content after it.
fn opens_call(rest: &str, from: usize, mark: &str) -> bool {
    let (before, after) = (&rest[..from], rest[from + mark.len()..].trim_start());
    let is_content = after.starts_with(['{', '[']) || after.starts_with("<function=");
    before.trim().is_empty() || (is_content && before.matches('`').count() % 2 == 0)
}

/// Whether the whole text, or the one code fence that it consists of, is the JSON of a call or
/// of a list of them.
fn is_call_object(text: &str, tools: &[ToolSpec]) -> bool {
    let json = unfenced(text).unwrap_or(text);
    let value: Value = json::parse(json).unwrap_or_default();
    let call = value.get(0).unwrap_or(&value);
    let call = call.get("function").unwrap_or(call);
    let is_arguments = |field: &Value| match field {
        Value::String(text) => text.trim_start().starts_with('{'),
        field => field.is_object(),
    };
    let has_arguments = is_arguments(&call["arguments"]) || is_arguments(&call["parameters"]);
    has_arguments && tools.iter().any(|tool| call["name"] == tool.name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::TOOLS;
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn almost_json() {
        for (text, want) in [
            (r#"{"b":1, "a":"\n"}"#, Some(r#"{"b":1, "a":"\n"}"#)),
            ("{\n\"a\": 1\r\n}", Some("{ \"a\": 1  }")),
            ("", Some("{}")),
            (" null ", Some("{}")),
            (r#""{\"a\":1}""#, Some(r#"{"a":1}"#)),
            (r#"{"a":"x, }",}"#, Some(r#"{"a":"x, }"}"#)),
            ("{\"a\":[1,2,\n],\n}", Some(r#"{"a":[1,2 ] }"#)),
            ("```json\n{\"a\": 1,}\n```", Some(r#"{"a": 1}"#)),
            ("```{\"a\": 1}```", Some(r#"{"a": 1}"#)),
            ("{'a': 'it\\'s \"so\"', 'b': True, 'c': None}", Some(r#"{"a": "it's \"so\"", "b": true, "c": null}"#)),
            ("{\"a\":\"one\ntwo\tthree\"}", Some(r#"{"a":"one\ntwo\tthree"}"#)),
            (r#"{"a":"b""#, None),
            (r#"{"a":"b"#, None),
            (r#"{"a":"b\"#, None),
            ("{'a': 'it's'}", None),
            (r#"{"a":1}{"a":2}"#, None),
            ("{a: 1}", None),
            ("[1]", None),
            ("ls -l", None),
            ("```", None),
        ] {
            assert_eq!(read(text).as_deref(), want, "{text}");
        }
        for (text, want) in [
            (r#"{"a":"é" "b":1}"#, r#"expected `,` or `}` at line 1 column 11, after \"{\\\"a\\\":\\\"é\\\" \\\""#),
            (r#"{"a":1"#, "EOF while parsing an object at line 1 column 6"),
            ("[1]", "it is JSON, but no object"),
        ] {
            let object = broken(text);
            assert!(object.contains(want), "{object}");
            let object: Value = serde_json::from_str(&object).unwrap();
            assert_eq!(object["invalid_json"], text);
        }
        crate::mutate::survive_some(20_000, &["```json\n{'a': [True, \"x\n\"],}\n```", "<tool_call>\n{\"name\": \"bash\"}"], |_, input| {
            let text = String::from_utf8_lossy(input);
            let line = read(&text).unwrap_or_else(|| broken(&text));
            assert!(!line.contains('\n') && serde_json::from_str::<Value>(&line).unwrap().is_object());
            call_in_text(&text, TOOLS);
        });
    }

    #[test]
    fn names_and_calls_in_text() {
        for (name, want) in [
            ("bash", "bash"),
            ("Bash", "bash"),
            ("functions.bash", "bash"),
            ("default_api:bash", "bash"),
            ("mom_BASH", "bash"),
            ("rebash", "rebash"),
            ("bash2", "bash2"),
            ("é.bash", "bash"),
            ("bash<|channel|>commentary", "bash"),
            ("functions.bash:0", "bash"),
            (" bash", "bash"),
            ("Bash ", "bash"),
            ("bash()", "bash"),
            ("web(bash)", "web(bash)"),
            ("<|bash", "<|bash"),
            (":0", ":0"),
            ("", ""),
        ] {
            assert_eq!(canonical_name(name, TOOLS), want);
        }
        for (text, want) in [
            (
                "Now:\n<tool_call>\n{\"name\": \"bash\"}",
                Some("<tool_call>"),
            ),
            (
                r#"{"name": "bash", "arguments": {}}"#,
                Some("a JSON object with name and arguments"),
            ),
            (
                "I will look. <tool_call>{\"name\": \"bash\"}</tool_call>",
                Some("<tool_call>"),
            ),
            ("So: <tool_call>\n<function=bash>", Some("<tool_call>")),
            (
                "```json\n{\"name\": \"bash\", \"arguments\": {}}\n```\n",
                Some("a JSON object with name and arguments"),
            ),
            (
                r#"[{"name": "bash", "arguments": {}}]"#,
                Some("a JSON object with name and arguments"),
            ),
            (
                r#"{"type": "function", "function": {"name": "bash", "arguments": "{}"}}"#,
                Some("a JSON object with name and arguments"),
            ),
            (
                "Write:\n```json\n{\"name\": \"bash\", \"arguments\": {}}\n```\nThat is all.",
                None,
            ),
            ("Write `<tool_call>{\"name\": \"bash\"}`.", None),
            ("A <tool_call> names bash", None),
            (r#"[{"name": "bash"}]"#, None),
            ("<tool_call>\n{\"name\": \"web\"}", None),
            ("`<tool_call>` is how bash is called", None),
            ("```\n<tool_call>\nbash\n```", None),
        ] {
            assert_eq!(call_in_text(text, TOOLS), want, "{text}");
        }
    }
}
