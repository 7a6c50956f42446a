//! OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), for the
//! models that accept no tools over chat completions. The server stores nothing: mom sends the
//! model's encrypted thinking back to it, within the run.

use serde_json::Value;

use super::call::WireFormat;
use super::learned::Optional;
use super::reply::{self, PieceKind, ReplyDraft, ReplyEnd};
use super::request::{ContentPart, Outgoing, SentBlock, TurnEntry, data_url};
use super::{Block, ToolSpec, token_count};
use crate::base::error::Result;
use crate::base::json::{self, Obj, array, is_whole};

pub(super) const FORMAT: WireFormat = WireFormat {
    path: "/responses",
    body,
    event,
    whole,
    needs_close: true,
};

fn body(outgoing: &Outgoing<'_>) -> Vec<String> {
    let mut items = Vec::new();
    for entry in &outgoing.entries {
        match entry {
            TurnEntry::User(parts) => items.push(message("user", &content(parts))),
            TurnEntry::Assistant(blocks) => items.extend(blocks.iter().filter_map(said)),
            TurnEntry::Results(results) => items.extend(results.iter().map(|result| {
                Obj::of("function_call_output")
                    .str("call_id", &result.call_id)
                    .raw("output", &content(&result.content))
                    .end()
            })),
        }
    }
    let mut request = Obj::new()
        .str("model", &outgoing.model().id)
        .num("max_output_tokens", outgoing.output_tokens)
        .raw("stream", "true")
        .raw("store", "false")
        .raw("include", r#"["reasoning.encrypted_content"]"#);
    if !outgoing.is_refused(Optional::ThinkingSummary) {
        request = request.raw("reasoning", r#"{"summary":"auto"}"#);
    }
    let tool = |tool: &ToolSpec| {
        let about = Obj::of("function").str("name", tool.name);
        let about = about.str("description", tool.description);
        let about = about.raw("parameters", tool.schema);
        about.raw("strict", "false").end()
    };
    request
        .list("tools", outgoing.tools.iter().map(tool))
        .opt_str("instructions", outgoing.system)
        .end_with("input", items.into_iter())
}

fn message(role: &str, content: &str) -> String {
    Obj::new().str("role", role).raw("content", content).end()
}

fn text(kind: &str, words: &str) -> String {
    Obj::of(kind).str("text", words).end()
}

fn content(parts: &[ContentPart<'_>]) -> String {
    array(parts.iter().map(|part| match part {
        ContentPart::Text(words) => text("input_text", words),
        ContentPart::Picture(mime, image) => {
            let item = Obj::of("input_image");
            item.str("image_url", &data_url(mime, image)).end()
        }
    }))
}

fn said(said: &SentBlock<'_>) -> Option<String> {
    match said {
        SentBlock::Text(words) => {
            let content = array([text("output_text", words)]);
            Some(message("assistant", &content))
        }
        // The whole item goes back unchanged.
        SentBlock::Thinking { signature, .. } => {
            is_whole(signature, '{').then(|| (*signature).to_owned())
        }
        SentBlock::Call { id, name, call } => Some(
            Obj::of("function_call")
                .str("call_id", id)
                .str("name", name)
                .str("arguments", &call.arguments)
                .end(),
        ),
    }
}

fn event(draft: &mut ReplyDraft<'_>, event: &Value) -> Result<()> {
    let delta = event["delta"].as_str().unwrap_or_default();
    let (index, item) = (&event["output_index"], &event["item"]);
    match event["type"].as_str().unwrap_or_default() {
        "response.output_item.added" => open(draft, index, item)?,
        "response.output_item.done" => close(draft, index, item)?,
        "response.output_text.delta" => draft.add(index, PieceKind::Text, delta)?,
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            draft.add(index, PieceKind::Thinking, delta)?;
        }
        "response.function_call_arguments.delta" => {
            draft.add(index, PieceKind::Arguments, delta)?;
        }
        "response.refusal.delta" => {
            draft.grow(delta.len())?;
            draft.refusal += delta;
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            end(draft, &event["response"]);
        }
        _ => {}
    }
    Ok(())
}

/// Reads a response that came as one object instead of events.
fn whole(draft: &mut ReplyDraft<'_>, response: &Value) -> Result<()> {
    let items = response["output"].as_array().into_iter().flatten();
    for (index, item) in items.enumerate() {
        let index = Value::from(index);
        open(draft, &index, item)?;
        for part in item["content"].as_array().into_iter().flatten() {
            let text = part["text"].as_str().unwrap_or_default();
            draft.add(&index, PieceKind::Text, text)?;
            draft.refusal += part["refusal"].as_str().unwrap_or_default();
        }
        for part in item["summary"].as_array().into_iter().flatten() {
            let text = part["text"].as_str().unwrap_or_default();
            draft.add(&index, PieceKind::Thinking, text)?;
        }
        close(draft, &index, item)?;
    }
    end(draft, response);
    Ok(())
}

fn open(draft: &mut ReplyDraft<'_>, index: &Value, item: &Value) -> Result<()> {
    let field = |name: &str| item[name].as_str().unwrap_or_default();
    let block = match field("type") {
        "message" => Block::Text(String::new()),
        "reasoning" => reply::thinking("", ""),
        "function_call" => reply::call(field("call_id"), field("name")),
        _ => return Ok(()),
    };
    draft.open(index, block)
}

/// Takes the block from the whole item, not from its pieces.
fn close(draft: &mut ReplyDraft<'_>, index: &Value, item: &Value) -> Result<()> {
    let arguments = item["arguments"].as_str();
    match draft.at(index) {
        Some(Block::ToolCall(call)) => {
            if let Some(arguments) = arguments {
                call.arguments = arguments.to_owned();
                draft.grow(arguments.len())?;
            }
        }
        Some(Block::Thinking { signature, .. }) if item["encrypted_content"].is_string() => {
            *signature = json::text(item);
            let bytes = signature.len();
            draft.grow(bytes)?;
        }
        _ => {}
    }
    Ok(())
}

fn end(draft: &mut ReplyDraft<'_>, response: &Value) {
    let incomplete = response["incomplete_details"]["reason"].as_str();
    draft.end = match (response["status"].as_str(), incomplete) {
        (Some("failed" | "cancelled"), _) => return draft.fail(&json::text(response)),
        (_, Some("content_filter")) => Some(ReplyEnd::filtered()),
        (Some("incomplete"), _) | (_, Some(_)) => Some(ReplyEnd::Cut),
        _ => Some(ReplyEnd::Done),
    };
    draft.is_closed = true;
    let counts = &response["usage"];
    let count = |value: &Value| token_count(value).unwrap_or(0);
    let details = &counts["input_tokens_details"];
    let usage = &mut draft.usage;
    usage.cache_read = count(&details["cached_tokens"]);
    usage.cache_write = count(&details["cache_write_tokens"]);
    let cached = usage.cache_read.saturating_add(usage.cache_write);
    usage.input = count(&counts["input_tokens"]).saturating_sub(cached);
    usage.output = count(&counts["output_tokens"]);
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Fault, Tried};
    use super::super::tests::{self, model, thought};
    use super::super::{Reply, StopReason};
    use super::*;
    use crate::base::error::Error;

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        tests::replay("openai", "gpt-6-sol", &[transcript.as_bytes()])
    }

    #[test]
    #[rustfmt::skip]
    fn a_reply_with_reasoning_and_tools() {
        let transcript = include_str!("../../tests/data/responses-tools.sse");
        let (deltas, reply) = replay(transcript);
        let reply = reply.unwrap();
        assert_eq!(deltas, "One moment.");
        let item = r#"{"encrypted_content":"gAAA","id":"rs_1","summary":[{"text":"Look there.","type":"summary_text"}],"type":"reasoning"}"#;
        assert_eq!(reply.blocks[0], thought("Look there.", item));
        assert_eq!(reply.blocks[1], Block::Text("One moment.".to_owned()));
        assert!(
            matches!(&reply.blocks[2], Block::ToolCall(call) if call.arguments == r#"{"command": "ls"}"#)
        );
        assert_eq!(reply.stop_reason, StopReason::ToolUse);
        let usage = reply.usage;
        assert_eq!(
            (usage.input, usage.cache_read, usage.cache_write, usage.output),
            (300, 600, 100, 50)
        );

        let end = transcript.find("event: response.completed").unwrap();
        assert!(matches!(
            replay(&transcript[..end]).1,
            Err(Fault::Other(Error::Retry { .. }))
        ));
        let cut = transcript
            .find("event: response.function_call_arguments")
            .unwrap();
        let incomplete = r#"data: {"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}"#;
        let reply = replay(&format!("{}{incomplete}\n\n", &transcript[..cut]))
            .1
            .unwrap();
        assert_eq!(
            (reply.stop_reason, reply.cut_call.as_deref()),
            (StopReason::Length, Some("bash"))
        );
        let failed = r#"data: {"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"down"}}}"#;
        assert!(
            matches!(replay(&format!("{failed}\n\n")).1, Err(Fault::Refused(refusal)) if refusal.message == "down")
        );
        let whole = r#"{"object":"response","error":null,"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]},{"type":"function_call","call_id":"c","name":"bash","arguments":"{}"}],"usage":{"input_tokens":7}}"#;
        let (text, reply) = replay(whole);
        let reply = reply.unwrap();
        assert_eq!((text.as_str(), reply.blocks.len(), reply.usage.input), ("hi", 2, 7));
        let error = r#"data: {"type":"error","code":"rate_limit_exceeded","message":"slow"}"#;
        assert!(
            matches!(replay(&format!("{error}\n\n")).1, Err(Fault::Refused(refusal)) if refusal.code == "rate_limit_exceeded")
        );
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            include_str!("../../tests/data/responses-tools.sse"),
            "data: {\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"bash\"}}\n\ndata: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":0,\"delta\":\"{\\\"a\\\":1}\"}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":3}}}\n\n",
            "data: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"message\"}}\n\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\ndata: {\"type\":\"response.incomplete\",\"response\":{\"incomplete_details\":{\"reason\":\"max_output_tokens\"}}}\n\n",
            "data: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"encrypted_content\":\"g\"}}\n\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"down\"}}}\n\n",
        ];
        tests::survive_stream("openai", "gpt-6-sol", &corpus);
    }

    #[test]
    fn survives_mutation_of_history() {
        tests::survive_history(&model("openai", "gpt-6-sol"));
    }
}
