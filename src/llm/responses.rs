//! OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), for the
//! models that take no tools over chat completions. Nothing is kept at the server: what a
//! model thought goes back encrypted, within the run.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::call::{Endpoint, Fault, Refusal, parse_event, with_remedies};
use super::draft::{self, Draft, End, Kind};
use super::prepare::{Entry, Omit, Part, Said, prepare};
use super::{Block, Model, OnDelta, Provider, Reply, ToolSpec, Turn, token_count};
use crate::base::error::Result;
use crate::base::json::{Obj, array, is_whole};
use crate::base::stop::Stop;

pub(super) struct Responses {
    endpoint: Endpoint,
    model: Model,
    /// Summaries of the thinking are for verified organizations only.
    no_summary: AtomicBool,
}

impl Provider for Responses {
    fn model(&self) -> &Model {
        &self.model
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_delta: &mut OnDelta<'_>) -> Result<Reply> {
        with_remedies(&self.endpoint, &self.model, turn, |omit| {
            let summary = !self.no_summary.load(Ordering::Relaxed);
            let body = self.request(turn, omit, summary);
            let mut draft = Draft::default();
            let mut on_data = |data: &str| event(&mut draft, data, on_delta);
            match self
                .endpoint
                .stream("/responses", &body, stop, &mut on_data)
            {
                Err(Fault::Refused(refusal))
                    if summary && refusal.status == 400 && refusal.says("summar") =>
                {
                    self.no_summary.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                sent => sent.and_then(|()| draft.finish(&self.model)).map(Some),
            }
        })
    }
}

impl Responses {
    pub(super) fn new(endpoint: Endpoint, model: Model) -> Responses {
        Responses {
            endpoint,
            model,
            no_summary: AtomicBool::new(false),
        }
    }

    fn request(&self, turn: &Turn<'_>, omit: Omit, summary: bool) -> String {
        let prepared = prepare(turn, self.endpoint.service, &self.model, omit);
        let mut items = Vec::new();
        for entry in &prepared.entries {
            match entry {
                Entry::User(parts) => items.push(message("user", &content(parts))),
                Entry::Assistant(blocks) => items.extend(blocks.iter().filter_map(said)),
                Entry::Results(answers) => items.extend(answers.iter().map(|answer| {
                    Obj::of("function_call_output")
                        .str("call_id", &answer.call_id)
                        .raw("output", &content(&answer.content))
                        .end()
                })),
            }
        }
        let limit = turn.output_tokens_max.min(self.model.output_tokens_max);
        let mut request = Obj::new()
            .str("model", &self.model.id)
            .num("max_output_tokens", limit)
            .raw("stream", "true")
            .raw("store", "false")
            .raw("include", r#"["reasoning.encrypted_content"]"#);
        if summary {
            request = request.raw("reasoning", r#"{"summary":"auto"}"#);
        }
        let tool = |tool: &ToolSpec| {
            let about = Obj::of("function").str("name", tool.name);
            let about = about.str("description", tool.description);
            about
                .raw("parameters", tool.schema)
                .raw("strict", "false")
                .end()
        };
        let system = Some(turn.system).filter(|system| !system.trim().is_empty());
        request
            .list("tools", turn.tools.iter().map(tool))
            .opt_str("instructions", system)
            .raw("input", &array(items))
            .end()
    }
}

fn message(role: &str, content: &str) -> String {
    Obj::new().str("role", role).raw("content", content).end()
}

fn text(kind: &str, words: &str) -> String {
    Obj::of(kind).str("text", words).end()
}

fn content(parts: &[Part<'_>]) -> String {
    array(parts.iter().map(|part| {
        match part {
            Part::Text(words) => text("input_text", words),
            Part::Image(image) => Obj::of("input_image")
                .str("image_url", &image.data_url())
                .end(),
        }
    }))
}

fn said(said: &Said<'_>) -> Option<String> {
    match said {
        Said::Text(words) => Some(message("assistant", &array([text("output_text", words)]))),
        // The whole item, as it came.
        Said::Thinking { signature, .. } => {
            is_whole(signature, '{').then(|| (*signature).to_owned())
        }
        Said::Call { id, name, call } => Some(
            Obj::of("function_call")
                .str("call_id", id)
                .str("name", name)
                .str("arguments", &call.arguments)
                .end(),
        ),
    }
}

fn event(draft: &mut Draft, data: &str, on_delta: &mut OnDelta<'_>) -> Result<ControlFlow<()>> {
    let event = parse_event(data)?;
    let delta = event["delta"].as_str().unwrap_or_default();
    let (index, item, response) = (&event["output_index"], &event["item"], &event["response"]);
    match event["type"].as_str().unwrap_or_default() {
        "response.output_item.added" => {
            if let Some(block) = opened(item) {
                draft.open(index, block)?;
            }
        }
        // The item as a whole, which is what counts.
        "response.output_item.done" => match (draft.at(index), item["arguments"].as_str()) {
            (Some(Block::ToolCall(call)), Some(arguments)) => call.arguments = arguments.to_owned(),
            (Some(Block::Thinking { signature, .. }), _)
                if item["encrypted_content"].is_string() =>
            {
                *signature = item.to_string();
            }
            _ => {}
        },
        "response.output_text.delta" => draft.add(index, Kind::Text, delta, on_delta),
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            draft.add(index, Kind::Thinking, delta, on_delta);
        }
        "response.function_call_arguments.delta" => {
            draft.add(index, Kind::Arguments, delta, on_delta);
        }
        "response.refusal.delta" => draft.refusal += delta,
        "response.completed" => draft.end = Some(End::Done),
        "response.incomplete" => {
            draft.end = Some(match response["incomplete_details"]["reason"].as_str() {
                Some("content_filter") => End::filtered(),
                _ => End::Cut,
            });
        }
        "response.failed" => draft.failure = Some(Refusal::read(&response.to_string())),
        "error" => draft.failure = Some(Refusal::read(data)),
        _ => {}
    }
    let flow = draft.flow();
    if flow.is_break() {
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
    Ok(flow)
}

fn opened(item: &Value) -> Option<Block> {
    let field = |name: &str| item[name].as_str().unwrap_or_default();
    match field("type") {
        "message" => Some(Block::Text(String::new())),
        "reasoning" => Some(draft::thinking("", "")),
        "function_call" => Some(draft::call(field("call_id"), field("name"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Tried;
    use super::super::tests::{self, call, image, model, result, said, thought, turn, user};
    use super::super::{Message, StopReason};
    use super::*;
    use crate::base::error::Error;

    #[test]
    fn a_request_in_a_tool_loop() {
        let item = r#"{"id":"rs_1","type":"reasoning","encrypted_content":"gA"}"#;
        let mut asked = said(vec![
            thought("hm", item),
            Block::Text("t".to_owned()),
            call("1", "bash"),
        ]);
        if let Message::Assistant(said) = &mut asked {
            said.api = "openai-responses".to_owned();
            said.provider = "openai".to_owned();
            said.model = "gpt-6-sol".to_owned();
        }
        let messages = [user("go"), asked, result("1", "a"), image("b", 4)];
        let model = model("openai", "gpt-6-sol");
        assert_eq!(model.api, "openai-responses");
        let responses = Responses::new(Endpoint::for_tests("openai"), model);
        let turn = Turn {
            system: "S",
            ..turn(&messages)
        };
        let want = format!(
            "{}{item},{}",
            concat!(
                r#"{"model":"gpt-6-sol","max_output_tokens":16000,"stream":true,"store":false,"#,
                r#""include":["reasoning.encrypted_content"],"reasoning":{"summary":"auto"},"#,
                r#""tools":[{"type":"function","name":"bash","description":"Runs","parameters":{"z":1,"a":2},"strict":false}],"instructions":"S","#,
                r#""input":[{"role":"user","content":[{"type":"input_text","text":"go"}]},"#,
            ),
            concat!(
                r#"{"role":"assistant","content":[{"type":"output_text","text":"t"}]},"#,
                r#"{"type":"function_call","call_id":"1","name":"bash","arguments":"{\"b\":1, \"a\":2}"},"#,
                r#"{"type":"function_call_output","call_id":"1","output":[{"type":"input_text","text":"a"}]},"#,
                r#"{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"},{"type":"input_text","text":"b"}]}]}"#,
            )
        );
        assert_eq!(responses.request(&turn, Omit::default(), true), want);
    }

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        replay_chunks(&[transcript.as_bytes()])
    }

    fn replay_chunks(chunks: &[&[u8]]) -> (String, Tried<Reply>) {
        let mut draft = Draft::default();
        let (deltas, fed) = tests::replay(chunks, &mut |data, on_delta| {
            event(&mut draft, data, on_delta)
        });
        let finish = || draft.finish(&model("openai", "gpt-6-sol"));
        (deltas, fed.map_err(Fault::Other).and_then(|()| finish()))
    }

    #[test]
    #[rustfmt::skip]
    fn a_reply_with_reasoning_and_tools() {
        let transcript = include_str!("../../tests/data/responses-tools.sse");
        let (deltas, reply) = replay(transcript);
        let reply = reply.unwrap();
        assert_eq!(deltas, "(Look there.)One moment.");
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
        let failed = r#"data: {"type":"response.failed","response":{"error":{"code":"server_error","message":"down"}}}"#;
        assert!(
            matches!(replay(&format!("{failed}\n\n")).1, Err(Fault::Refused(refusal)) if refusal.message == "down")
        );
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
        tests::survive_stream(&corpus, replay_chunks);
    }

    #[test]
    fn survives_mutation_of_history() {
        let model = model("openai", "gpt-6-sol");
        let responses = Responses::new(Endpoint::for_tests("openai"), model.clone());
        tests::survive_history(&model, |turn| {
            responses.request(turn, Omit::default(), true)
        });
    }
}
