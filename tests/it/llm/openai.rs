//! The OpenAI-compatible side of FakeLlm: chat completions as api.openai.com checks and
//! streams them, plus what is common to it and the Responses API.

use serde_json::{Value, json};

use super::{Block, OPENAI_KEY, Refused, Reply, State, is_name, list, pieces};
use crate::http::{Reply as HttpReply, Request};

pub(super) fn error(status: u16, kind: &str, message: &str) -> HttpReply {
    HttpReply::json(
        status,
        &json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
    )
}

pub(super) fn error_event(kind: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"error": {"message": kind, "type": kind, "code": 502}})
    )
}

// The stream.

pub(super) fn stream(_: &mut State, reply: &Reply, request: &Value) -> String {
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": request["model"],
            "choices": choices, "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value| {
        chunk(
            json!([{"index": 0, "delta": delta, "finish_reason": null}]),
            Value::Null,
        )
    };
    let mut out = String::from(": OPENROUTER PROCESSING\n\n");
    out += &delta(json!({"role": "assistant", "content": ""}));
    let mut calls = 0;
    for block in &reply.blocks {
        match block {
            Block::Text(text) => {
                let deltas = pieces(text, reply).map(|piece| delta(json!({"content": piece})));
                out.extend(deltas);
            }
            Block::Thinking(text) => {
                let deltas =
                    pieces(text, reply).map(|piece| delta(json!({"reasoning_content": piece})));
                out.extend(deltas);
            }
            Block::Tool {
                id,
                name,
                arguments,
            } => {
                out += &delta(
                    json!({"tool_calls": [{"index": calls, "id": id, "type": "function",
                    "function": {"name": name, "arguments": ""}}]}),
                );
                let deltas = pieces(arguments, reply).map(|piece| {
                    delta(
                        json!({"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}),
                    )
                });
                out.extend(deltas);
                calls += 1;
            }
        }
    }
    let reason = match reply.stop_reason() {
        "end_turn" => "stop",
        "tool_use" => "tool_calls",
        "max_tokens" => "length",
        "refusal" => "content_filter",
        other => other,
    };
    out += &chunk(
        json!([{"index": 0, "delta": {}, "finish_reason": reason}]),
        Value::Null,
    );
    if request["stream_options"]["include_usage"] == true {
        let [input, output, cache_read, cache_write] = reply.usage;
        let prompt = input + cache_read + cache_write;
        let details = json!({"cached_tokens": cache_read, "cache_write_tokens": cache_write});
        out += &chunk(
            json!([]),
            json!({"prompt_tokens": prompt, "completion_tokens": output,
            "total_tokens": prompt + output, "prompt_tokens_details": details}),
        );
    }
    out + "data: [DONE]\n\n"
}

// The rules.

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

pub(super) fn check(state: &State, request: &Request, body: &Value) -> Result<(), Refused> {
    check_head(state, request, body, FIELDS)?;
    check_body(body).map_err(|why| (400, "invalid_request_error", why))
}

/// Key, content type, size, field names, streaming: the same for both APIs.
pub(super) fn check_head(
    state: &State,
    request: &Request,
    body: &Value,
    fields: &[&str],
) -> Result<(), Refused> {
    let bad = |why: String| Err((400, "invalid_request_error", why));
    if request.bearer() != Some(OPENAI_KEY) {
        return Err((401, "invalid_api_key", "Incorrect API key provided".into()));
    }
    if !request
        .header("content-type")
        .starts_with("application/json")
    {
        return bad("content-type must be application/json".into());
    }
    let Some(given) = body.as_object() else {
        return bad("the body is no JSON object".into());
    };
    if let Some(extra) = given.keys().find(|key| !fields.contains(&key.as_str())) {
        return bad(format!("Unrecognized request argument supplied: {extra}"));
    }
    if body["stream"] != true || body["model"].as_str().is_none_or(str::is_empty) {
        return bad("model and stream are needed".into());
    }
    if given
        .get("tools")
        .is_some_and(|tools| list(tools).is_empty())
    {
        return bad("tools: array too short".into());
    }
    let tokens = request.body.len() / 4;
    if state.window > 0 && tokens > state.window {
        return bad(format!(
            "This model's maximum context length is {} tokens, got {tokens}",
            state.window
        ));
    }
    Ok(())
}

/// `function` is the description of a function tool.
pub(super) fn check_function(function: &Value) -> Result<(), String> {
    let good = is_name(&function["name"])
        && function["description"].is_string()
        && function["parameters"]["type"] == "object";
    if good {
        Ok(())
    } else {
        Err(format!("tools: {function}"))
    }
}

fn check_body(body: &Value) -> Result<(), String> {
    let model = body["model"].as_str().unwrap_or("");
    let reasoning = ["gpt-5", "gpt-6", "o1", "o3", "o4"]
        .iter()
        .any(|start| model.starts_with(start));
    if reasoning && body.get("max_tokens").is_some() {
        return Err("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.".into());
    }
    let limit = [&body["max_tokens"], &body["max_completion_tokens"]];
    if limit
        .iter()
        .filter(|limit| !limit.is_null())
        .any(|limit| limit.as_u64().is_none_or(|n| n == 0))
    {
        return Err("max tokens must be a positive integer".into());
    }
    for tool in list(&body["tools"]) {
        if tool["type"] != "function" {
            return Err(format!("tools: {tool}"));
        }
        check_function(&tool["function"])?;
    }
    check_effort(model, body)?;
    check_messages(list(&body["messages"]))
}

/// Newer models refuse function tools here unless they are told not to reason.
fn check_effort(model: &str, body: &Value) -> Result<(), String> {
    let effort = body["reasoning_effort"].as_str();
    let refuses_none = model.starts_with("gpt-6-astra") || model.starts_with("gpt-6.1-sol");
    if refuses_none && effort == Some("none") {
        return Err(
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model".into(),
        );
    }
    let needs_none = model.starts_with("gpt-5.6") || model.starts_with("gpt-6");
    let wrong = if needs_none {
        effort != Some("none")
    } else {
        model.starts_with("gpt-5.4") && effort.is_some_and(|effort| effort != "none")
    };
    if wrong && body.get("tools").is_some() {
        return Err(format!(
            "Function tools with reasoning_effort are not supported for {model} in /v1/chat/completions"
        ));
    }
    Ok(())
}

fn check_messages(messages: &[Value]) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let (role, content) = (message["role"].as_str().unwrap_or(""), &message["content"]);
        let wrong = |why: &str| Err(format!("messages[{n}]: {why}: {message}"));
        if role != "tool" && !open.is_empty() {
            return wrong(&format!(
                "tool_calls {open:?} must be followed by tool messages responding to each"
            ));
        }
        match role {
            "system" | "developer" if content.is_string() => {}
            "user" if content.is_string() => {}
            "user" if !list(content).is_empty() => list(content).iter().try_for_each(check_part)?,
            "tool" => {
                let id = message["tool_call_id"].as_str().unwrap_or("");
                let Some(at) = open.iter().position(|call| *call == id) else {
                    return wrong("no tool_call before it asked for this");
                };
                open.remove(at);
                if !content.is_string() {
                    return wrong("tool content is text");
                }
            }
            "assistant" => {
                if message
                    .get("tool_calls")
                    .is_some_and(|calls| list(calls).is_empty())
                {
                    return wrong("empty tool_calls");
                }
                for call in list(&message["tool_calls"]) {
                    let id = call["id"].as_str().unwrap_or("");
                    let arguments = call["function"]["arguments"].as_str().unwrap_or("");
                    let object = serde_json::from_str::<Value>(arguments)
                        .is_ok_and(|value| value.is_object());
                    if call["type"] != "function"
                        || id.is_empty()
                        || id.len() > 40
                        || !is_name(&call["function"]["name"])
                        || !object
                    {
                        return wrong("bad tool call");
                    }
                    open.push(id);
                }
                if !(content.is_string() || content.is_null() && !open.is_empty()) {
                    return wrong("neither content nor tool calls");
                }
            }
            _ => return wrong("role or content"),
        }
    }
    match (open.is_empty(), messages.last()) {
        (false, _) => Err(format!(
            "tool_calls {open:?} must be followed by tool messages responding to each"
        )),
        (true, None) => Err("messages: array too short".into()),
        _ => Ok(()),
    }
}

fn check_part(part: &Value) -> Result<(), String> {
    let good = match part["type"].as_str() {
        Some("text") => part["text"].as_str().is_some_and(|text| !text.is_empty()),
        Some("image_url") => is_image(&part["image_url"]["url"]),
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(format!("content part: {part}"))
    }
}

pub(super) fn is_image(url: &Value) -> bool {
    let url = url.as_str().unwrap_or("");
    ["png", "jpeg", "gif", "webp"]
        .iter()
        .any(|kind| url.starts_with(&format!("data:image/{kind};base64,")))
}
