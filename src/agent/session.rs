//! One line of pi's session format: messages to JSON and back. Pure. `context` decides which
//! lines belong to the conversation.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::json::{self, Obj};
use crate::llm::{
    Assistant, BLOCKS_MAX, Block, Content, Cost, Image, Message, StopReason, ToolCall, ToolResult,
    Usage, token_count,
};

/// The first line of a session file. `cwd` is the working directory, as the original writes it.
pub(crate) fn header(id: &str, timestamp: &str, cwd: &str) -> String {
    let line = Obj::of("session").num("version", 3);
    let line = line.str("id", id).str("timestamp", timestamp);
    line.str("cwd", cwd).end() + "\n"
}

/// A message as the JSON of an entry's `message` field.
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
        Message::Assistant(said) => write_assistant(said),
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
        Content::Text(text) => Obj::of("text").str("text", text).end(),
        Content::Image(image) => Obj::of("image")
            .str("data", &image.data)
            .str("mimeType", &image.mime)
            .opt_str(
                "name",
                Some(image.name.as_str()).filter(|name| !name.is_empty()),
            )
            .end(),
    }
}

fn write_block(block: &Block) -> String {
    match block {
        Block::Text(text) => Obj::of("text").str("text", text).end(),
        Block::Thinking {
            text,
            signature,
            redacted,
        } => {
            let shown = if *redacted { "[redacted]" } else { text };
            let out = Obj::of("thinking").str("thinking", shown);
            out.str("thinkingSignature", signature)
                .value("redacted", &(*redacted).into())
                .end()
        }
        Block::ToolCall(call) => {
            // Arguments nested so deep that the whole line could not be read back are left out.
            let nested = format!("[[[[{}]]]]", call.arguments);
            let is_read = json::parse::<Value>(&nested).is_ok();
            let arguments = if is_read { &call.arguments } else { "{}" };
            Obj::of("toolCall")
                .str("id", &call.id)
                .str("name", &call.name)
                .raw("arguments", arguments)
                .opt_str("thoughtSignature", call.signature.as_deref())
                .end()
        }
    }
}

fn write_assistant(said: &Assistant) -> String {
    let stop_reason = serde_json::to_value(said.stop_reason).unwrap_or_default();
    Obj::new()
        .str("role", "assistant")
        .raw("content", &json::array(said.blocks.iter().map(write_block)))
        .str("api", &said.api)
        .str("provider", &said.provider)
        .str("model", &said.model)
        .raw("usage", &write_usage(&said.usage))
        .value("stopReason", &stop_reason)
        .num("timestamp", said.timestamp_ms)
        .end()
}

/// Always with a cost, because the original adds up the costs.
pub(crate) fn write_usage(usage: &Usage) -> String {
    let cost = usage.cost.unwrap_or_default();
    let cost = Obj::new()
        .value("input", &cost.input.into())
        .value("output", &cost.output.into())
        .value("cacheRead", &cost.cache_read.into())
        .value("cacheWrite", &cost.cache_write.into())
        .value("total", &cost.total().into());
    Obj::new()
        .num("input", usage.input)
        .num("output", usage.output)
        .num("cacheRead", usage.cache_read)
        .num("cacheWrite", usage.cache_write)
        .num("totalTokens", usage.total())
        .raw("cost", &cost.end())
        .end()
}

/// The message that an entry is for the model, if it is one. `line` is the entry's JSON text.
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

/// A summary as the model reads it.
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
            stop_reason: StopReason::deserialize(&message["stopReason"])
                .unwrap_or(StopReason::Stop),
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

/// The content from a string or from blocks; blocks other than text and image are left out.
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
            name: block["name"].as_str().unwrap_or_default().to_owned(),
        })),
        _ => None,
    };
    let mut parsed: Vec<_> = blocks.filter_map(parse).collect();
    // Most often one, and a conversation has thousands.
    parsed.shrink_to_fit();
    parsed
}

/// The blocks of an assistant message, at most `BLOCKS_MAX`.
fn blocks(content: &Value, line: &str) -> Vec<Block> {
    let raw = json::parse::<RawEntry<'_>>(line);
    let raw = raw.map_or(Vec::new(), |raw| raw.message.content);
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
                arguments: raw
                    .get(index)
                    .and_then(|raw| raw.arguments)
                    .filter(|_| block["arguments"].is_object())
                    .map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned()),
                signature: block["thoughtSignature"].as_str().map(str::to_owned),
            })),
            _ => None,
        }
    };
    let blocks = content.as_array().into_iter().flatten();
    let blocks = blocks.take(BLOCKS_MAX).enumerate();
    let mut parsed: Vec<_> = blocks.filter_map(parse).collect();
    // Most often one, and a conversation has thousands.
    parsed.shrink_to_fit();
    parsed
}

/// The raw JSON of the arguments of each block in an entry's message, byte for byte.
#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    message: RawMessage<'a>,
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow)]
    content: Vec<RawBlock<'a>>,
}

#[derive(Deserialize)]
struct RawBlock<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

fn usage(value: &Value) -> Usage {
    let tokens = |key: &str| token_count(&value[key]).unwrap_or_default();
    Usage {
        output: tokens("output"),
        input: tokens("input"),
        cache_read: tokens("cacheRead"),
        cache_write: tokens("cacheWrite"),
        cost: Cost::deserialize(&value["cost"]).ok(),
    }
}

/// A file of version 1 as version 3: entries get ids, each is the child of the one before, and
/// compactions name their first kept entry by its id.
pub(crate) fn from_version_1(text: &str) -> String {
    let parse = |line: &str| json::parse_line(line.as_bytes());
    let mut entries: Vec<Value> = text.lines().filter_map(parse).collect();
    entries.retain(Value::is_object);
    let id = |index: u64| Value::from(format!("{index:08x}"));
    let mut out = String::new();
    for (index, entry) in (0..).zip(&mut entries) {
        if entry["type"] == "session" {
            entry["version"] = 3.into();
        } else {
            entry["id"] = id(index);
            // The first line is the header.
            entry["parentId"] = if index < 2 {
                Value::Null
            } else {
                id(index - 1)
            };
            if let Some(kept) = entry["firstKeptEntryIndex"].as_u64() {
                entry["firstKeptEntryId"] = id(kept);
            }
        }
        out.push_str(&json::text(entry));
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
            // What is written is read back unchanged.
            if let Some(written) = message.as_ref().map(line) {
                let read = parse_line(&written).unwrap();
                assert_eq!(line(&read), written);
                assert!(written.len() <= 2 * text.len() + 1_000);
            }
            from_version_1(&text.replace("},{", "}\n{"));
        });
    }

    /// Arguments byte for byte; and the usage always with its cost, as the original has it.
    #[test]
    fn messages_are_written_as_they_are_read() {
        for message in [
            r#"{"role":"user","content":[{"type":"text","text":"list"}],"timestamp":1}"#,
            concat!(
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":"hm","#,
                r#""thinkingSignature":"abc","redacted":false},{"type":"thinking","#,
                r#""thinking":"[redacted]","thinkingSignature":"xyz","redacted":true},"#,
                r#"{"type":"toolCall","id":"t1","name":"bash","#,
                r#""arguments":{"z":1.0, "a":[1e3,"\u00e9"],"message":{"content":[]}},"#,
                r#""thoughtSignature":"sig"}],"api":"anthropic-messages","provider":"p","#,
                r#""model":"m","usage":{"input":12,"output":0,"cacheRead":0,"cacheWrite":0,"#,
                r#""totalTokens":12,"cost":{"input":0.25,"output":0.0,"cacheRead":0.0,"#,
                r#""cacheWrite":0.0,"total":0.25}},"stopReason":"toolUse","timestamp":7}"#,
            ),
            concat!(
                r#"{"role":"toolResult","toolCallId":"t1","toolName":"bash","content":["#,
                r#"{"type":"text","text":"a"},{"type":"image","data":"AA","#,
                r#""mimeType":"image/png"}],"isError":true,"timestamp":1767604369060}"#,
            ),
        ] {
            let line = format!(r#"{{"type":"message","id":"a","message":{message}}}"#);
            assert_eq!(write(&parse_line(&line).unwrap()), message);
        }
    }

    #[test]
    fn commands_of_the_interactive_pi() {
        let line = r#"{"type":"message","message":{"role":"bashExecution","command":"ls","output":"x","exitCode":2}}"#;
        let want = Message::user("Ran `ls`\n```\nx\n```\n(exit code 2)".to_owned(), 0);
        assert_eq!(parse_line(line), Some(want));
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
