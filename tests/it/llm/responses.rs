//! The Responses API side of FakeLlm, as far as a stateless client uses it.

use serde_json::{Value, json};

use super::openai::{check_function, check_head, is_image};
use super::{Block, Refused, Reply, State, list, pieces};
use crate::http::Request;

pub(super) fn error_event(kind: &str) -> String {
    event("error", json!({"code": kind, "message": kind}))
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = name.into();
    format!("event: {name}\ndata: {data}\n\n")
}

pub(super) fn stream(state: &mut State, reply: &Reply, request: &Value) -> String {
    let mut out = event(
        "response.created",
        json!({"response": {"id": "resp_1", "status": "in_progress"}}),
    );
    let mut output = Vec::new();
    for (n, block) in reply.blocks.iter().enumerate() {
        let (item, kind, text) = match block {
            Block::Text(text) => {
                let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
                let item = json!({"id": format!("msg_{n}"), "type": "message", "role": "assistant", "content": content});
                (item, "response.output_text", text)
            }
            Block::Thinking(text) => {
                let secret = format!("sealed-{n}-{}", state.asked.len());
                state.sealed.insert(secret.clone());
                let summary = json!([{"type": "summary_text", "text": text}]);
                let item = json!({"id": format!("rs_{n}"), "type": "reasoning", "summary": summary, "encrypted_content": secret});
                (item, "response.reasoning_summary_text", text)
            }
            Block::Tool {
                id,
                name,
                arguments,
            } => {
                let item = json!({"id": format!("fc_{n}"), "type": "function_call", "call_id": id, "name": name, "arguments": arguments});
                (item, "response.function_call_arguments", arguments)
            }
        };
        let mut added = item.clone();
        for (key, empty) in [
            ("content", json!([])),
            ("summary", json!([])),
            ("arguments", json!("")),
        ] {
            if let Some(field) = added.get_mut(key) {
                *field = empty;
            }
        }
        out += &event(
            "response.output_item.added",
            json!({"output_index": n, "item": added}),
        );
        let deltas = pieces(text, reply).map(|piece| {
            event(
                &format!("{kind}.delta"),
                json!({"output_index": n, "item_id": item["id"], "delta": piece}),
            )
        });
        out.extend(deltas);
        out += &event(
            "response.output_item.done",
            json!({"output_index": n, "item": item}),
        );
        output.push(item);
    }
    let [input, tokens, cache_read, cache_write] = reply.usage;
    let input = input + cache_read + cache_write;
    let usage = json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cache_read}, "output_tokens": tokens,
        "total_tokens": input + tokens});
    let cut = reply.stop_reason() == "max_tokens";
    let (status, why) = if cut {
        ("incomplete", json!({"reason": "max_output_tokens"}))
    } else {
        ("completed", Value::Null)
    };
    let response = json!({"id": "resp_1", "status": status, "incomplete_details": why, "model": request["model"],
        "output": output, "usage": usage});
    out + &event(&format!("response.{status}"), json!({"response": response}))
}

const FIELDS: &[&str] = &[
    "model",
    "input",
    "instructions",
    "stream",
    "store",
    "include",
    "tools",
    "tool_choice",
    "max_output_tokens",
    "reasoning",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
];

pub(super) fn check(state: &State, request: &Request, body: &Value) -> Result<(), Refused> {
    check_head(state, request, body, FIELDS)?;
    check_body(state, body).map_err(|why| (400, "invalid_request_error", why))
}

fn check_body(state: &State, body: &Value) -> Result<(), String> {
    if body
        .get("max_output_tokens")
        .is_some_and(|max| max.as_u64().is_none_or(|n| n < 16))
    {
        return Err("max_output_tokens: at least 16".into());
    }
    for tool in list(&body["tools"]) {
        if tool["type"] != "function" {
            return Err(format!("tools: {tool}"));
        }
        check_function(tool)?;
    }
    let input = list(&body["input"]);
    let ids = |kind: &str| -> Vec<&str> {
        let items = input.iter().filter(|item| item["type"] == kind);
        items
            .map(|item| item["call_id"].as_str().unwrap_or(""))
            .collect()
    };
    let (mut calls, mut outputs) = (ids("function_call"), ids("function_call_output"));
    calls.sort_unstable();
    outputs.sort_unstable();
    if calls != outputs {
        return Err(format!(
            "No tool output found for function call: {calls:?} against {outputs:?}"
        ));
    }
    if input.is_empty() {
        return Err("input: must not be empty".into());
    }
    input.iter().try_for_each(|item| check_item(state, item))
}

fn check_item(state: &State, item: &Value) -> Result<(), String> {
    let parts_fit = |content: &Value, text: &str| {
        content.is_string()
            || list(content)
                .iter()
                .all(|part| match part["type"].as_str() {
                    Some("input_image") => text == "input_text" && is_image(&part["image_url"]),
                    kind => kind == Some(text) && part["text"].is_string(),
                })
    };
    let good = match (item["type"].as_str(), item["role"].as_str()) {
        (Some("function_call"), _) => {
            let arguments = item["arguments"].as_str().unwrap_or("");
            serde_json::from_str::<Value>(arguments).is_ok() && item["name"].is_string()
        }
        (Some("function_call_output"), _) => {
            !item["output"].is_null() && parts_fit(&item["output"], "input_text")
        }
        (Some("reasoning"), _) => {
            state
                .sealed
                .contains(item["encrypted_content"].as_str().unwrap_or(""))
                && item["summary"].is_array()
        }
        (None | Some("message"), Some("user" | "developer" | "system")) => {
            parts_fit(&item["content"], "input_text")
        }
        (None | Some("message"), Some("assistant")) => parts_fit(&item["content"], "output_text"),
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(format!("input: {item}"))
    }
}
