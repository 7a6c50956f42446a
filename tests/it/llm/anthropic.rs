//! The Messages API side of FakeLlm: what it refuses, and how it streams.
//! Rules: platform.claude.com, Messages API; the wording of errors is free, their type is not.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{Block, KEY, Refused, Reply, State, is_name, list, pieces};
use crate::http::{Reply as HttpReply, Request};

pub(super) fn error(status: u16, kind: &str, message: &str) -> HttpReply {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
    HttpReply::json(status, &body).header("request-id", "req_1")
}

pub(super) fn error_event(kind: &str) -> String {
    event("error", json!({"error": {"type": kind, "message": kind}}))
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = name.into();
    format!("event: {name}\ndata: {data}\n\n")
}

// The stream.

pub(super) fn stream(state: &mut State, reply: &Reply, request: &Value) -> String {
    let [input, output, cache_read, cache_write] = reply.usage;
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": 1,
        "cache_read_input_tokens": cache_read, "cache_creation_input_tokens": cache_write}});
    let mut out = event("message_start", json!({"message": message}));
    out += ": a comment, then an event that nobody knows\n\n";
    out += &event("ping", json!({}));
    out += &event("later_invention", json!({"index": 0}));
    let before = prefix(request, usize::MAX);
    for (index, block) in reply.blocks.iter().enumerate() {
        let (start, deltas) = match block {
            Block::Text(text) => (
                json!({"type": "text", "text": ""}),
                deltas("text_delta", "text", text, reply),
            ),
            Block::Tool {
                id,
                name,
                arguments,
            } => (
                json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                deltas("input_json_delta", "partial_json", arguments, reply),
            ),
            Block::Thinking(text) => {
                let signature = signature(&before, text);
                state.sealed.insert(signature.clone());
                let mut all = deltas("thinking_delta", "thinking", text, reply);
                all.push(json!({"type": "signature_delta", "signature": signature}));
                (
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    all,
                )
            }
        };
        out += &event(
            "content_block_start",
            json!({"index": index, "content_block": start}),
        );
        for delta in deltas {
            out += &event(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            );
        }
        out += &event("content_block_stop", json!({"index": index}));
    }
    let details = match reply.stop_reason() {
        "refusal" => json!({"type": "refusal", "category": "cyber", "explanation": "not this"}),
        _ => Value::Null,
    };
    let delta =
        json!({"stop_reason": reply.stop_reason(), "stop_sequence": null, "stop_details": details});
    out += &event(
        "message_delta",
        json!({"delta": delta, "usage": {"output_tokens": output, "input_tokens": null}}),
    );
    out + &event("message_stop", json!({}))
}

fn deltas(kind: &str, field: &str, text: &str, reply: &Reply) -> Vec<Value> {
    pieces(text, reply)
        .map(|piece| json!({"type": kind, field: piece}))
        .collect()
}

/// A signature stands for everything before the block, and for the block.
fn signature(before: &str, thinking: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (before, thinking).hash(&mut hasher);
    format!("sig-{:016x}", hasher.finish())
}

/// System, tools and the first `count` messages in one normal form: content as blocks,
/// without cache marks, neighbours of one role merged.
fn prefix(request: &Value, count: usize) -> String {
    let mut merged: Vec<(Value, Vec<Value>)> = Vec::new();
    for message in list(&request["messages"]).iter().take(count) {
        let content = blocks(&message["content"]);
        match merged.last_mut() {
            Some((role, blocks)) if *role == message["role"] => blocks.extend(content),
            _ => merged.push((message["role"].clone(), content)),
        }
    }
    let mut all = json!([blocks(&request["system"]), request["tools"], merged]);
    remove_cache_marks(&mut all);
    all.to_string()
}

fn remove_cache_marks(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(remove_cache_marks),
        Value::Object(map) => {
            map.remove("cache_control");
            map.values_mut().for_each(remove_cache_marks);
        }
        _ => {}
    }
}

fn blocks(content: &Value) -> Vec<Value> {
    match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        other => list(other).to_vec(),
    }
}

// The rules.

const FIELDS: &[&str] = &[
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
    "stream",
    "metadata",
    "stop_sequences",
    "service_tier",
];

pub(super) fn check(state: &State, request: &Request, body: &Value) -> Result<(), Refused> {
    let bad = |why: String| (400, "invalid_request_error", why);
    if request.header("x-api-key") != KEY {
        return Err((401, "authentication_error", "invalid x-api-key".into()));
    }
    if !matches!(
        request.header("anthropic-version"),
        "2023-06-01" | "2026-10-21"
    ) {
        return Err(bad("anthropic-version: header is required".into()));
    }
    if !request
        .header("content-type")
        .starts_with("application/json")
    {
        return Err(bad("content-type must be application/json".into()));
    }
    if request.body.len() > 32 << 20 {
        return Err((
            413,
            "request_too_large",
            "Request exceeds the maximum size".into(),
        ));
    }
    let model = body["model"].as_str().unwrap_or("");
    if !model.starts_with("claude-") {
        return Err((404, "not_found_error", format!("model: {model}")));
    }
    check_body(body, model).map_err(bad)?;
    check_thinking(state, body).map_err(bad)?;
    let tokens = request.body.len() / 4;
    if state.window > 0 && tokens > state.window {
        let why = format!(
            "prompt is too long: {tokens} tokens > {} maximum",
            state.window
        );
        return Err(bad(why));
    }
    Ok(())
}

fn check_body(body: &Value, model: &str) -> Result<(), String> {
    let fields = body.as_object().ok_or("the body is no JSON object")?;
    if let Some(extra) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Err(format!("{extra}: Extra inputs are not permitted"));
    }
    let small = matches!(model.trim_start_matches("claude-"), name if name.contains("-4-5"));
    if !body["max_tokens"]
        .as_u64()
        .is_some_and(|n| (1..=if small { 64_000 } else { 128_000 }).contains(&n))
    {
        return Err(format!("max_tokens: {}", body["max_tokens"]));
    }
    if body["stream"] != true {
        return Err("streaming is required for operations that may take long".into());
    }
    if body["thinking"]["type"] == "enabled" && !small {
        return Err("thinking.type: enabled is not supported by this model".into());
    }
    if let Some(system) = fields.get("system") {
        let blocks = blocks(system);
        if blocks.is_empty() {
            return Err("system: must not be empty".into());
        }
        blocks
            .iter()
            .try_for_each(|block| text_block(block, "system"))?;
    }
    check_tools(body)?;
    check_messages(body)?;
    check_cache_marks(body)
}

fn text_block(block: &Value, at: &str) -> Result<(), String> {
    let text = block["text"].as_str().ok_or(format!("{at}: no text"))?;
    match (block["type"] == "text", text.trim().is_empty()) {
        (false, _) => Err(format!("{at}: only text here")),
        (_, true) => Err(format!("{at}: text content blocks must be non-empty")),
        _ => Ok(()),
    }
}

fn check_tools(body: &Value) -> Result<(), String> {
    let mut names = HashSet::new();
    for tool in list(&body["tools"]) {
        let name = tool["name"].as_str().unwrap_or("");
        let schema = &tool["input_schema"];
        let required = list(&schema["required"]).iter().filter_map(Value::as_str);
        let good = is_name(&tool["name"])
            && tool["description"].is_string()
            && schema["type"] == "object"
            && required
                .into_iter()
                .all(|name| schema["properties"].get(name).is_some());
        if !good || !names.insert(name) {
            return Err(format!("tools: {tool}"));
        }
    }
    Ok(())
}

fn check_messages(body: &Value) -> Result<(), String> {
    let messages = list(&body["messages"]);
    let mut merged: Vec<(&str, Vec<Value>)> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or("");
        let content = blocks(&message["content"]);
        let at = format!("messages.{n}");
        if !matches!(role, "user" | "assistant") {
            return Err(format!("{at}: role {role:?}"));
        }
        if content.is_empty() {
            return Err(format!("{at}: all messages must have non-empty content"));
        }
        content
            .iter()
            .try_for_each(|block| check_block(block, role, &at))?;
        match merged.last_mut() {
            Some((last, blocks)) if *last == role => blocks.extend(content),
            _ => merged.push((role, content)),
        }
    }
    if merged.first().map(|first| first.0) != Some("user") {
        return Err("messages: first message must use the user role".into());
    }
    if merged.last().map(|last| last.0) != Some("user") {
        return Err("messages: this model does not support assistant message prefill".into());
    }
    let count = |kind: &str| {
        merged
            .iter()
            .flat_map(|(_, blocks)| blocks)
            .filter(|block| block["type"] == kind)
            .count()
    };
    if count("tool_use") > 0 && list(&body["tools"]).is_empty() {
        return Err("requests with tool_use blocks must define tools".into());
    }
    if count("image") > 100 {
        return Err("too many images".into());
    }
    let mut seen = HashSet::new();
    let nobody = ("user", Vec::new());
    for (before, message) in std::iter::once(&nobody).chain(&merged).zip(&merged) {
        check_answers(&before.1, &message.1, &mut seen)?;
    }
    Ok(())
}

/// Every call is answered once, right in the next message and before anything else there.
fn check_answers(
    before: &[Value],
    message: &[Value],
    seen: &mut HashSet<String>,
) -> Result<(), String> {
    let id = |block: &Value, key: &str| block[key].as_str().unwrap_or("").to_owned();
    let calls = before.iter().filter(|block| block["type"] == "tool_use");
    let mut open: Vec<String> = calls.map(|call| id(call, "id")).collect();
    if let Some(twice) = open.iter().find(|id| !seen.insert((*id).clone())) {
        return Err(format!("tool_use ids must be unique: {twice}"));
    }
    let results = message
        .iter()
        .take_while(|block| block["type"] == "tool_result")
        .count();
    for (n, block) in message.iter().enumerate() {
        if block["type"] != "tool_result" {
            continue;
        }
        let id = id(block, "tool_use_id");
        let answered = open.iter().position(|call| *call == id);
        if n >= results {
            return Err(format!("tool_result {id} must come before other content"));
        }
        open.remove(answered.ok_or(format!(
            "unexpected tool_use_id {id}: no call without a result in the message before"
        ))?);
    }
    match open.first() {
        Some(id) => Err(format!("tool_use {id} without tool_result right after it")),
        None => Ok(()),
    }
}

fn check_block(block: &Value, role: &str, at: &str) -> Result<(), String> {
    let kind = block["type"].as_str().unwrap_or("");
    match (kind, role) {
        ("text", _) => text_block(block, at),
        ("image", "user") => check_image(block, at),
        ("tool_use", "assistant") => {
            let good = is_name(&block["id"]) && is_name(&block["name"]);
            if good && block["input"].is_object() {
                Ok(())
            } else {
                Err(format!("{at}: tool_use {block}"))
            }
        }
        ("tool_result", "user") => {
            let inner = match &block["content"] {
                Value::Null => Vec::new(),
                Value::String(text) if text.is_empty() => Vec::new(),
                content => blocks(content),
            };
            if block["is_error"] == true && inner.iter().any(|part| part["type"] != "text") {
                return Err(format!(
                    "{at}: all content must be type text if is_error is true"
                ));
            }
            inner
                .iter()
                .try_for_each(|part| match part["type"].as_str() {
                    Some("image") => check_image(part, at),
                    _ => text_block(part, at),
                })
        }
        ("thinking", "assistant")
            if block["thinking"].is_string() && block["signature"].is_string() =>
        {
            Ok(())
        }
        ("redacted_thinking", "assistant") if block["data"].is_string() => Ok(()),
        _ => Err(format!("{at}: a {kind:?} block is not allowed for {role}")),
    }
}

fn check_image(block: &Value, at: &str) -> Result<(), String> {
    let source = &block["source"];
    let text = source["data"].as_str().unwrap_or("");
    let data = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap_or_default();
    let found = match data.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "image/webp",
        _ => "no image",
    };
    if source["type"] != "base64" || source["media_type"] != found {
        return Err(format!(
            "{at}: image is {found}, media_type {}",
            source["media_type"]
        ));
    }
    if text.len() > 5 << 20 {
        return Err(format!("{at}: image exceeds 5 MB"));
    }
    Ok(())
}

/// At most four, none on thinking, those of an hour before those of five minutes.
fn check_cache_marks(body: &Value) -> Result<(), String> {
    let mut marked: Vec<Value> = list(&body["tools"]).to_vec();
    marked.extend(blocks(&body["system"]));
    for message in list(&body["messages"]) {
        for block in blocks(&message["content"]) {
            marked.extend(list(&block["content"]).to_vec());
            marked.push(block);
        }
    }
    marked.push(Value::Object(Map::from_iter(
        body.get("cache_control")
            .map(|mark| ("cache_control".into(), mark.clone())),
    )));
    marked.retain(|block| block.get("cache_control").is_some());
    if marked.len() > 4 {
        return Err(format!(
            "A maximum of 4 blocks with cache_control may be provided. Found {}",
            marked.len()
        ));
    }
    let mut short = false;
    for block in marked {
        let mark = &block["cache_control"];
        let hour = mark["ttl"] == "1h";
        if mark["type"] != "ephemeral"
            || !(hour || matches!(mark["ttl"].as_str(), None | Some("5m")))
        {
            return Err(format!("cache_control: {mark}"));
        }
        if matches!(
            block["type"].as_str(),
            Some("thinking" | "redacted_thinking")
        ) {
            return Err("cache_control cannot be set on thinking blocks".into());
        }
        if hour && short {
            return Err("a ttl='1h' cache_control block must not come after a ttl='5m' one".into());
        }
        short |= !hour;
    }
    Ok(())
}

fn check_thinking(state: &State, body: &Value) -> Result<(), String> {
    for (n, message) in list(&body["messages"]).iter().enumerate() {
        for (m, block) in list(&message["content"]).iter().enumerate() {
            if block["type"] != "thinking" {
                continue;
            }
            let thinking = block["thinking"].as_str().unwrap_or("");
            let bound = signature(&prefix(body, n), thinking);
            if block["signature"] != bound.as_str() || !state.sealed.contains(&bound) {
                return Err(format!(
                    "messages.{n}.content.{m}: Invalid `signature` in `thinking` block: it is bound to a different conversation"
                ));
            }
        }
    }
    Ok(())
}
