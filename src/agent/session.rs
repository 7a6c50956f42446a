//! Pi's session format, as far as one line of it: messages to JSON and back. Pure. Which
//! lines count is `context`'s to say.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json::{self, Obj};
use crate::llm::{
    Assistant, BLOCKS_MAX, Block, Content, Cost, Image, Message, StopReason, ToolCall, ToolResult,
    Usage, token_count,
};

/// A line that all others descend from. `cwd` is what the original writes there, too.
pub(crate) fn header(id: &str, timestamp: &str, cwd: &str) -> String {
    let line = Obj::new().str("type", "session").num("version", 3);
    let line = line.str("id", id).str("timestamp", timestamp);
    line.str("cwd", cwd).end() + "\n"
}

const STOP_REASONS: [(StopReason, &str); 5] = [
    (StopReason::Stop, "stop"),
    (StopReason::Length, "length"),
    (StopReason::ToolUse, "toolUse"),
    (StopReason::Error, "error"),
    (StopReason::Aborted, "aborted"),
];

/// The `message` of an entry. Always one that `parse` reads: arguments which nest too deep
/// for that are left out.
pub(crate) fn write(message: &Message) -> String {
    match message {
        Message::User {
            content,
            timestamp_ms,
        } => Obj::new()
            .str("role", "user")
            .raw("content", &json::array(content.iter().map(write_content)))
            .num("timestamp", *timestamp_ms)
            .end(),
        Message::Assistant(said) => {
            let json = write_assistant(said, |arguments| arguments);
            // Four levels of the line are around it.
            if serde_json::from_str::<Value>(&format!("[{json}]")).is_ok() {
                json
            } else {
                write_assistant(said, |_| "{}")
            }
        }
        Message::ToolResult(result) => {
            let content = json::array(result.content.iter().map(write_content));
            Obj::new()
                .str("role", "toolResult")
                .str("toolCallId", &result.call_id)
                .str("toolName", &result.name)
                .raw("content", &content)
                .value("isError", &result.is_error.into())
                .num("timestamp", result.timestamp_ms)
                .end()
        }
    }
}

fn write_content(content: &Content) -> String {
    match content {
        Content::Text(text) => Obj::new().str("type", "text").str("text", text).end(),
        Content::Image(image) => Obj::new()
            .str("type", "image")
            .str("data", &image.data)
            .str("mimeType", &image.mime)
            .end(),
    }
}

fn write_assistant<'a>(said: &'a Assistant, arguments: impl Fn(&'a str) -> &'a str) -> String {
    let blocks = said.blocks.iter().map(|block| match block {
        Block::Text(text) => Obj::new().str("type", "text").str("text", text).end(),
        Block::Thinking {
            text,
            signature,
            redacted,
        } => {
            let shown = if *redacted { "[redacted]" } else { text };
            let out = Obj::new().str("type", "thinking").str("thinking", shown);
            let out = out.str("thinkingSignature", signature);
            match redacted {
                true => out.raw("redacted", "true").end(),
                false => out.end(),
            }
        }
        Block::ToolCall(call) => Obj::new()
            .str("type", "toolCall")
            .str("id", &call.id)
            .str("name", &call.name)
            .raw("arguments", arguments(&call.arguments))
            .opt_str("thoughtSignature", call.signature.as_deref())
            .end(),
    });
    let stop_reason = STOP_REASONS
        .iter()
        .find(|(reason, _)| *reason == said.stop_reason);
    Obj::new()
        .str("role", "assistant")
        .raw("content", &json::array(blocks))
        .str("api", &said.api)
        .str("provider", &said.provider)
        .str("model", &said.model)
        .raw("usage", &write_usage(&said.usage))
        .str("stopReason", stop_reason.map_or("stop", |(_, name)| name))
        .num("timestamp", said.timestamp_ms)
        .end()
}

/// Always with a cost: the original adds them up.
pub(crate) fn write_usage(usage: &Usage) -> String {
    let cost = usage.cost.unwrap_or_default();
    let dollars = |key: &'static str, amount: f64| (key, Value::from(amount));
    let cost = [
        dollars("input", cost.input),
        dollars("output", cost.output),
        dollars("cacheRead", cost.cache_read),
        dollars("cacheWrite", cost.cache_write),
        dollars("total", cost.total()),
    ];
    let cost = cost
        .iter()
        .fold(Obj::new(), |out, (key, value)| out.value(key, value));
    Obj::new()
        .num("input", usage.input)
        .num("output", usage.output)
        .num("cacheRead", usage.cache_read)
        .num("cacheWrite", usage.cache_write)
        .num("totalTokens", usage.total())
        .raw("cost", &cost.end())
        .end()
}

/// What an entry says to the model, if anything. `line` is the text that `entry` comes from.
pub(crate) fn parse(entry: &Value, line: &str) -> Option<Message> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    match entry["type"].as_str()? {
        "message" => parse_message(&entry["message"], line),
        "custom_message" => user(contents(&entry["content"]), &Value::Null),
        "branch_summary" if !text("summary").is_empty() => {
            let summary = summary_text("A branch of the conversation was left", text("summary"));
            user(vec![Content::Text(summary)], &Value::Null)
        }
        _ => None,
    }
}

/// How a summary is told to the model.
pub(crate) fn summary_text(what: &str, summary: &str) -> String {
    format!("{what}; this summary stands for it:\n\n<summary>\n{summary}\n</summary>")
}

fn user(content: Vec<Content>, timestamp: &Value) -> Option<Message> {
    Some(Message::User {
        content,
        timestamp_ms: timestamp.as_f64().unwrap_or_default() as i64,
    })
}

fn parse_message(message: &Value, line: &str) -> Option<Message> {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let timestamp = &message["timestamp"];
    let timestamp_ms = timestamp.as_f64().unwrap_or_default() as i64;
    match message["role"].as_str()? {
        "user" | "custom" | "hookMessage" => user(contents(&message["content"]), timestamp),
        "assistant" => Some(Message::Assistant(Assistant {
            blocks: blocks(&message["content"], line),
            api: text("api"),
            provider: text("provider"),
            model: text("model"),
            usage: usage(&message["usage"]),
            stop_reason: STOP_REASONS
                .iter()
                .find(|(_, name)| message["stopReason"] == *name)
                .map_or(StopReason::Stop, |(reason, _)| *reason),
            timestamp_ms,
        })),
        "toolResult" => Some(Message::ToolResult(ToolResult {
            call_id: text("toolCallId"),
            name: text("toolName"),
            content: contents(&message["content"]),
            is_error: message["isError"] == true,
            timestamp_ms,
        })),
        "bashExecution" if message["excludeFromContext"] != true => {
            let mut said = format!("Ran `{}`\n```\n{}\n```", text("command"), text("output"));
            match message["exitCode"].as_i64() {
                _ if message["cancelled"] == true => said.push_str("\n(cancelled)"),
                Some(code) if code != 0 => said.push_str(&format!("\n(exit code {code})")),
                _ => {}
            }
            user(vec![Content::Text(said)], timestamp)
        }
        _ => None,
    }
}

/// A string or blocks; blocks of other kinds are left out.
fn contents(value: &Value) -> Vec<Content> {
    if let Some(text) = value.as_str() {
        return vec![Content::Text(text.to_owned())];
    }
    let blocks = value.as_array().into_iter().flatten();
    let parse = |block: &Value| match block["type"].as_str()? {
        "text" => Some(Content::Text(block["text"].as_str()?.to_owned())),
        "image" => Some(Content::Image(Image {
            mime: block["mimeType"].as_str()?.to_owned(),
            data: block["data"].as_str()?.to_owned(),
        })),
        _ => None,
    };
    blocks.filter_map(parse).collect()
}

/// At most as many as a reply has.
fn blocks(content: &Value, line: &str) -> Vec<Block> {
    let calls_arguments = OnceCell::new();
    let parse = |(index, block): (usize, &Value)| {
        let text = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str()? {
            "text" => Some(Block::Text(text("text"))),
            "thinking" => {
                let redacted = block["redacted"] == true;
                Some(Block::Thinking {
                    text: if redacted {
                        String::new()
                    } else {
                        text("thinking")
                    },
                    signature: text("thinkingSignature"),
                    redacted,
                })
            }
            "toolCall" => Some(Block::ToolCall(ToolCall {
                id: text("id"),
                name: text("name"),
                arguments: calls_arguments
                    .get_or_init(|| raw_arguments(line).unwrap_or_default())
                    .get(index)
                    .copied()
                    .flatten()
                    .filter(|_| block["arguments"].is_object())
                    .map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned()),
                signature: block["thoughtSignature"].as_str().map(str::to_owned),
            })),
            _ => None,
        }
    };
    let blocks = content.as_array().into_iter().flatten();
    let blocks = blocks.take(BLOCKS_MAX).enumerate();
    blocks.filter_map(parse).collect()
}

/// The arguments of each block in the entry's message, byte for byte.
fn raw_arguments(line: &str) -> Option<Vec<Option<&RawValue>>> {
    type Fields<'a> = HashMap<String, &'a RawValue>;
    let entry: Fields<'_> = serde_json::from_str(line).ok()?;
    let message: Fields<'_> = serde_json::from_str(entry.get("message")?.get()).ok()?;
    let content: Vec<&RawValue> = serde_json::from_str(message.get("content")?.get()).ok()?;
    let blocks = content.into_iter().take(BLOCKS_MAX);
    let arguments = blocks.map(|block| {
        let block: Fields<'_> = serde_json::from_str(block.get()).ok()?;
        block.get("arguments").copied()
    });
    Some(arguments.collect())
}

fn usage(value: &Value) -> Usage {
    let tokens = |key: &str| token_count(&value[key]).unwrap_or_default();
    let cost = &value["cost"];
    let dollars = |key: &str| cost[key].as_f64().unwrap_or_default();
    Usage {
        output: tokens("output"),
        input: tokens("input"),
        cache_read: tokens("cacheRead"),
        cache_write: tokens("cacheWrite"),
        cost: cost.is_object().then(|| Cost {
            input: dollars("input"),
            output: dollars("output"),
            cache_read: dollars("cacheRead"),
            cache_write: dollars("cacheWrite"),
        }),
    }
}

/// A file of version 1 as version 3: entries get ids, each the child of the one before, and
/// compactions name what they keep by id. `new_id` is called for each entry.
pub(crate) fn from_version_1(text: &str, mut new_id: impl FnMut() -> String) -> String {
    let parse = |line: &str| json::parse_line(line.as_bytes());
    let mut entries: Vec<Value> = text.lines().filter_map(parse).collect();
    entries.retain(Value::is_object);
    let ids: Vec<String> = entries.iter().map(|_| new_id()).collect();
    let mut out = String::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        if entry["type"] == "session" {
            entry["version"] = 3.into();
        } else {
            entry["id"] = ids[index].as_str().into();
            entry["parentId"] = match index {
                0 | 1 => Value::Null,
                _ => ids[index - 1].as_str().into(),
            };
            if let Some(kept) = entry["firstKeptEntryIndex"].as_u64() {
                let id = ids.get(usize::try_from(kept).unwrap_or(usize::MAX));
                entry["firstKeptEntryId"] = id.map_or("", String::as_str).into();
            }
        }
        out.push_str(&entry.to_string());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    fn parse_line(line: &str) -> Option<Message> {
        parse(&serde_json::from_str(line).ok()?, line)
    }

    fn line(message: &Message) -> String {
        let line = Obj::new().str("type", "message").str("id", "a");
        line.raw("message", &write(message)).end()
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"type":"message","id":"a","parentId":null,"message":{"role":"user","content":[{"type":"text","text":"é"},{"type":"image","data":"AAAA","mimeType":"image/png"}],"timestamp":1767604366100}}"#,
            r#"{"type":"message","message":{"role":"assistant","content":[{"type":"thinking","thinking":"hm","thinkingSignature":"s"},{"type":"thinking","redacted":true,"thinkingSignature":"x"},{"type":"text","text":"t"},{"type":"toolCall","id":"1","name":"bash","arguments":{"b":[1, {"a":"\u00e9"}]},"thoughtSignature":"g"}],"usage":{"input":3,"output":18446744073709551615,"cacheRead":4,"cacheWrite":18446744073709551615,"cost":{"input":0.5,"total":1}},"stopReason":"toolUse","timestamp":-5}}"#,
            r#"{"type":"message","message":{"role":"toolResult","toolCallId":"1","toolName":"bash","content":[{"type":"text","text":"b"}],"details":{"diff":[1e3]},"isError":true,"timestamp":1.5}}"#,
            r#"{"type":"message","message":{"role":"bashExecution","command":"ls","output":"o","exitCode":2,"cancelled":false}}"#,
            r#"{"type":"custom_message","content":"words"}"#,
            r#"{"type":"branch_summary","summary":"s"}"#,
            r#"{"type":"compaction","summary":"s","firstKeptEntryIndex":1,"version":1}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let message = parse_line(&text);
            if let Some(Message::Assistant(said)) = &message {
                said.usage.total();
            }
            // What stands in the file once is read like that for ever.
            if let Some(written) = message.as_ref().map(line) {
                let read = parse_line(&written).unwrap();
                assert_eq!(line(&read), written);
                assert!(written.len() <= 2 * text.len() + 1_000);
            }
            let mut ids = 0;
            let new_id = || {
                ids += 1;
                ids.to_string()
            };
            from_version_1(&text.replace("},{", "}\n{"), new_id);
        });
    }

    /// Arguments are read byte for byte, and that for all blocks at once.
    #[test]
    fn many_calls_cost_no_more_than_their_bytes() {
        let call = r#"{"type":"toolCall","id":"1","name":"bash","arguments":{"b":1, "a":2}}"#;
        let calls = json::array(vec![call; 100_000]);
        let line =
            format!(r#"{{"type":"message","message":{{"role":"assistant","content":{calls}}}}}"#);
        let Some(Message::Assistant(said)) = parse_line(&line) else {
            panic!("no message")
        };
        assert_eq!(said.blocks.len(), BLOCKS_MAX);
        let Some(Block::ToolCall(call)) = said.blocks.last() else {
            panic!("no call")
        };
        assert_eq!(call.arguments, r#"{"b":1, "a":2}"#);
    }
}
