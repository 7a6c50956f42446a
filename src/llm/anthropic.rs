//! Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages): writes the
//! request and makes a reply of its stream of events.

use serde_json::Value;

use super::call::WireFormat;
use super::models::{self, CacheLifetime};
use super::reply::{self, PieceKind, ReplyDraft, ReplyEnd};
use super::request::{ContentPart, Outgoing, SentBlock, SentResult, TurnEntry};
use super::{Block, ToolSpec, openai, token_count};
use crate::base::error::Result;
use crate::base::json::{self, Obj, array};

pub(super) const FORMAT: WireFormat = WireFormat {
    path: "/v1/messages",
    body,
    event,
    whole,
    needs_close: true,
};

fn body(outgoing: &Outgoing<'_>) -> Vec<String> {
    let (model, lifetime) = (outgoing.model(), outgoing.endpoint.lifetime);
    let last = outgoing.entries.len().saturating_sub(1);
    let messages = outgoing.entries.iter().enumerate().map(|(index, entry)| {
        let (role, mut blocks) = message(entry);
        // One breakpoint at the end of the previous run, which all requests of this run share,
        // one at the end of this request, which the next one repeats.
        if index == last || index + 1 == outgoing.run_start {
            if let Some(block) = blocks.last_mut() {
                *block = cached(block, lifetime);
            }
        }
        let message = Obj::new().str("role", role);
        message.raw("content", &array(blocks)).end()
    });
    let mut request = Obj::new()
        .str("model", &model.id)
        .num("max_tokens", outgoing.output_tokens)
        .raw("stream", "true");
    // Models after 4.x think by default; without this field their thinking comes without text.
    if models::is_known(model) && !model.id.contains("-4-") {
        let thinking = Obj::of("adaptive").str("display", "summarized");
        request = request.raw("thinking", &thinking.end());
    }
    let tool = |tool: &ToolSpec| {
        let about = Obj::new().str("name", tool.name);
        let about = about.str("description", tool.description);
        about.raw("input_schema", tool.schema).end()
    };
    let system = outgoing
        .system
        .map(|system| cached(&text(system), lifetime));
    request
        .list("tools", outgoing.tools.iter().map(tool))
        .list("system", system)
        .end_with("messages", messages)
}

/// The block with a cache breakpoint. A thinking block is never the last.
fn cached(block: &str, lifetime: CacheLifetime) -> String {
    let control = match lifetime {
        CacheLifetime::FiveMinutes => r#"{"type":"ephemeral"}"#,
        CacheLifetime::OneHour => r#"{"type":"ephemeral","ttl":"1h"}"#,
    };
    let open = block.strip_suffix('}').unwrap_or(block);
    format!(r#"{open},"cache_control":{control}}}"#)
}

fn message(entry: &TurnEntry<'_>) -> (&'static str, Vec<String>) {
    match entry {
        TurnEntry::User(parts) => ("user", parts.iter().map(part).collect()),
        TurnEntry::Assistant(blocks) => ("assistant", blocks.iter().map(said).collect()),
        TurnEntry::Results(results) => {
            let mut blocks: Vec<String> = results.iter().map(result).collect();
            // A failed result may hold only text.
            let failed = results.iter().filter(|result| result.is_error);
            let pictures = failed
                .flat_map(|result| &result.content)
                .filter(|part| part.is_picture());
            blocks.extend(pictures.map(part));
            ("user", blocks)
        }
    }
}

fn said(said: &SentBlock<'_>) -> String {
    match said {
        SentBlock::Text(words) => text(words),
        SentBlock::Thinking {
            signature,
            redacted: true,
            ..
        } => Obj::of("redacted_thinking").str("data", signature).end(),
        SentBlock::Thinking {
            text, signature, ..
        } => Obj::of("thinking")
            .str("thinking", text)
            .str("signature", signature)
            .end(),
        SentBlock::Call { id, name, call } => Obj::of("tool_use")
            .str("id", id)
            .str("name", name)
            .raw("input", &call.arguments)
            .end(),
    }
}

fn result(result: &SentResult<'_>) -> String {
    let parts = result.content.iter();
    let parts = parts.filter(|part| !result.is_error || !part.is_picture());
    let mut blocks: Vec<String> = parts.map(part).collect();
    if blocks.is_empty() {
        blocks.push(text("(see the image below)"));
    }
    let block = Obj::of("tool_result")
        .str("tool_use_id", &result.call_id)
        .raw("content", &array(blocks));
    if result.is_error {
        return block.raw("is_error", "true").end();
    }
    block.end()
}

fn part(part: &ContentPart<'_>) -> String {
    match part {
        ContentPart::Text(words) => text(words),
        ContentPart::Picture(mime, image) => {
            let source = Obj::of("base64").str("media_type", mime);
            let source = source.str("data", &image.data).end();
            Obj::of("image").raw("source", &source).end()
        }
    }
}

fn text(words: &str) -> String {
    Obj::of("text").str("text", words).end()
}

fn event(draft: &mut ReplyDraft<'_>, event: &Value) -> Result<()> {
    let index = &event["index"];
    match event["type"].as_str().unwrap_or_default() {
        "message_start" => usage(draft, &event["message"]["usage"]),
        "content_block_start" => open(draft, index, &event["content_block"])?,
        "content_block_delta" => {
            let delta = &event["delta"];
            // An unknown kind is left out, whatever the names of its fields.
            let (kind, field) = match delta["type"].as_str().unwrap_or_default() {
                "text_delta" => (PieceKind::Text, "text"),
                "thinking_delta" => (PieceKind::Thinking, "thinking"),
                "signature_delta" => (PieceKind::Signature, "signature"),
                "input_json_delta" => (PieceKind::Arguments, "partial_json"),
                _ => return Ok(()),
            };
            draft.add(index, kind, delta[field].as_str().unwrap_or_default())?;
        }
        "message_delta" => {
            draft.end = ending(&event["delta"])?.or(draft.end.take());
            usage(draft, &event["usage"]);
        }
        "message_stop" => draft.is_closed = true,
        _ => {}
    }
    Ok(())
}

/// Reads a message that came as one object instead of events.
fn whole(draft: &mut ReplyDraft<'_>, message: &Value) -> Result<()> {
    for (index, block) in message["content"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let index = Value::from(index);
        open(draft, &index, block)?;
        if block["input"].is_object() {
            draft.add(&index, PieceKind::Arguments, &json::text(&block["input"]))?;
        }
    }
    draft.end = ending(message)?;
    usage(draft, &message["usage"]);
    Ok(())
}

fn open(draft: &mut ReplyDraft<'_>, index: &Value, block: &Value) -> Result<()> {
    let field = |name: &str| block[name].as_str().unwrap_or_default();
    let kind = field("type");
    let opened = match kind {
        "text" => Block::Text(String::new()),
        "thinking" => reply::thinking(field("thinking"), field("signature")),
        "redacted_thinking" => Block::Thinking {
            text: String::new(),
            signature: field("data").to_owned(),
            redacted: true,
        },
        "tool_use" => reply::call(field("id"), field("name")),
        _ => return Ok(()),
    };
    draft.grow(json::text(block).len())?;
    draft.open(index, opened)?;
    if kind == "text" {
        draft.add(index, PieceKind::Text, field("text"))?;
    }
    Ok(())
}

/// Stores the counts, which are cumulative; a null leaves the earlier count.
fn usage(draft: &mut ReplyDraft<'_>, counts: &Value) {
    let usage = &mut draft.usage;
    for (name, count) in [
        ("input_tokens", &mut usage.input),
        ("output_tokens", &mut usage.output),
        ("cache_read_input_tokens", &mut usage.cache_read),
        ("cache_creation_input_tokens", &mut usage.cache_write),
    ] {
        *count = token_count(&counts[name]).unwrap_or(*count);
    }
}

fn ending(delta: &Value) -> Result<Option<ReplyEnd>> {
    let Some(reason) = delta["stop_reason"].as_str() else {
        return Ok(None);
    };
    Ok(Some(match reason {
        "refusal" => {
            let details = &delta["stop_details"];
            let why = [&details["explanation"], &details["category"]];
            let why = why.into_iter().find_map(Value::as_str);
            ReplyEnd::Refused(why.unwrap_or("no reason given").to_owned())
        }
        "sensitive" => ReplyEnd::Done,
        // An unknown reason counts as the end of the turn.
        reason => openai::ending(reason)?.unwrap_or(ReplyEnd::Done),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Fault, Tried};
    use super::super::tests::{
        self, call, model, outgoing, picture, png, result, said, thought, turn, user,
    };
    use super::super::{Message, Reply, StopReason, Turn};
    use super::*;
    use crate::base::error::Error;

    const ID: &str = "claude-sonnet-5-5";

    fn request(id: &str, turn: &Turn<'_>) -> String {
        outgoing(turn, &model("anthropic", id), body).concat()
    }

    #[test]
    fn a_request_in_a_tool_loop() {
        let failed = match picture("no", 1, 0) {
            Message::User { content, .. } => content,
            _ => Vec::new(),
        };
        let mut no = result("2", "");
        if let Message::ToolResult(result) = &mut no {
            result.content = failed;
            result.is_error = true;
        }
        let calls = vec![thought("", "sig"), call("1", "bash"), call("2", "read")];
        let messages = [
            user("a"),
            said(vec![Block::Text("b".to_owned())]),
            user("c"),
            said(calls),
            no,
            result("1", "d"),
        ];
        let turn = Turn {
            system: "S",
            run_start: 2,
            ..turn(&messages)
        };
        let want = concat!(
            r#"{"model":"claude-sonnet-5-5","max_tokens":16000,"stream":true,"#,
            r#""thinking":{"type":"adaptive","display":"summarized"},"#,
            r#""tools":[{"name":"bash","description":"Runs","input_schema":{"z":1,"a":2}}],"#,
            r#""system":[{"type":"text","text":"S","cache_control":{"type":"ephemeral"}}],"#,
            r#""messages":[{"role":"user","content":[{"type":"text","text":"a"}]},"#,
            r#"{"role":"assistant","content":[{"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]},"#,
            r#"{"role":"user","content":[{"type":"text","text":"c"}]},"#,
            r#"{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"sig"},"#,
            r#"{"type":"tool_use","id":"1","name":"bash","input":{"b":1, "a":2}},"#,
            r#"{"type":"tool_use","id":"2","name":"read","input":{"b":1, "a":2}}]},"#,
            r#"{"role":"user","content":["#,
            r#"{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"d"}]},"#,
            r#"{"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"no"}],"is_error":true},"#,
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"},"cache_control":{"type":"ephemeral"}}]}]}"#,
        );
        let want = want.replace("AAAA", &png(1, 0));
        assert_eq!(request(ID, &turn), want);
    }

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        tests::replay("anthropic", ID, &[transcript.as_bytes()])
    }

    #[test]
    fn a_reply_with_thinking_and_tools() {
        let transcript = include_str!("../../tests/data/anthropic-tools.sse");
        let (deltas, reply) = replay(transcript);
        let reply = reply.unwrap();
        assert_eq!(deltas, "One moment.");
        let calls = reply.blocks.iter().filter_map(|block| match block {
            Block::ToolCall(call) => Some((call.id.as_str(), call.arguments.as_str())),
            _ => None,
        });
        let want = [
            ("toolu_1", r#"{"label": "Disk", "command": "df -h"}"#),
            ("toolu_2", "{}"),
        ];
        assert_eq!(calls.collect::<Vec<_>>(), want);
        assert_eq!(reply.blocks[0], thought("Look at the disk.", "EqQB"));
        assert_eq!(reply.blocks[2], Block::Text("One moment.".to_owned()));
        assert_eq!(reply.stop_reason, StopReason::ToolUse);
        let usage = reply.usage;
        assert_eq!((usage.input, usage.output, usage.total()), (12, 80, 3192));
        let cost = (12.0 * 2.0 + 80.0 * 10.0 + 3000.0 * 0.1 + 100.0 * 2.5) / 1e6;
        assert!((usage.cost.unwrap().total() - cost).abs() < 1e-12);

        let cut = &transcript[..transcript.find("event: message_stop").unwrap()];
        assert!(matches!(
            replay(cut).1,
            Err(Fault::Other(Error::Retry { .. }))
        ));
    }

    #[test]
    #[rustfmt::skip]
    fn endings() {
        let text = r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"hi"}}"#;
        let tool = r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"bash","input":{}}}"#;
        for (block, delta, want) in [
            (text, r#""end_turn""#, "Stop 1 None None"),
            (text, r#""next_years""#, "Stop 1 None None"),
            (text, r#""max_tokens""#, "Length 1 None None"),
            (tool, r#""tool_use""#, "ToolUse 1 None None"),
            (tool, r#""max_tokens""#, "Length 0 None Some(\"bash\")"),
            (text, r#""refusal""#, "Stop 0 Some(\"no reason given\") None"),
            (text, r#""refusal","stop_details":{"type":"refusal","category":"cyber","explanation":null}"#, "Stop 0 Some(\"cyber\") None"),
        ] {
            let (_, reply) = replay(&format!(
                "{block}\n\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":{delta}}}}}\n\n\
                 data: {{\"type\":\"message_stop\"}}\n\n"
            ));
            let reply = reply.unwrap();
            let got = format!(
                "{:?} {} {:?} {:?}",
                reply.stop_reason,
                reply.blocks.len(),
                reply.refusal,
                reply.cut_call
            );
            assert_eq!(got, want, "{delta}");
        }
        let whole = r#"{"type":"message","content":[{"type":"text","text":"hi \ud83d\ude80"},{"type":"tool_use","id":"t","name":"bash","input":{"a":1}}],"stop_reason":"tool_use","usage":{"input_tokens":7}}"#;
        let (shown, reply) = replay(whole);
        let reply = reply.unwrap();
        assert_eq!((shown.as_str(), reply.blocks.len(), reply.usage.input), ("hi \u{1F680}", 2, 7));
        let delta = |text: &str| format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n");
        let halves = format!("{text}\n\n{}{}", delta("\\ud83d"), delta("\\ude80"));
        assert_eq!(replay(&halves).0, "hi\u{1F680}");
        assert!(matches!(replay("event: error\ndata: {\"type\":\"api_error\",\"message\":\"x\"}\n\n").1, Err(Fault::Refused(refusal)) if refusal.message == "x"));
        let overloaded = "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
        match replay(overloaded).1 {
            Err(Fault::Refused(refusal)) => assert_eq!(refusal.code, "overloaded_error"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            replay("data: {\"x\n\n").1,
            Err(Fault::Other(Error::Retry { .. }))
        ));
    }

    #[test]
    fn unknown_kinds_of_deltas_add_nothing() {
        let (deltas, _) = replay(
            "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\"}}\n\n\
             data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n\
             data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"new_delta\",\"text\":\"b\"}}\n\n",
        );
        assert_eq!(deltas, "a");
    }

    #[test]
    fn blocks_without_end_are_refused() {
        let start =
            "data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\"}}\n\n";
        assert!(replay(&start.repeat(2000)).1.is_err());
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            include_str!("../../tests/data/anthropic-tools.sse"),
            "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":12,\"cache_read_input_tokens\":3000}}}\n\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"hi\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            "data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"bash\"}}\n\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":[1,\\n2]}\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            "data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"x\"}}\r\n\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":5}}\r\n\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
            "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        ];
        tests::survive_stream("anthropic", ID, &corpus);
    }

    #[test]
    fn survives_mutation_of_history() {
        tests::survive_history(&model("anthropic", ID));
    }
}
