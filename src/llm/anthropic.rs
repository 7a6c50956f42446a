//! Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages): the request's
//! text, and its stream of events made into a reply.

use std::ops::ControlFlow;

use serde_json::Value;

use super::call::{Endpoint, Refusal, parse_event, with_remedies};
use super::draft::{self, Draft, End, Kind};
use super::models::CacheLifetime;
use super::prepare::{Answer, Entry, Omit, Part, Said, prepare};
use super::{Block, Model, OnDelta, Provider, Reply, ToolSpec, Turn, token_count};
use crate::base::error::Result;
use crate::base::json::{Obj, array};
use crate::base::stop::Stop;

pub(super) struct Anthropic {
    pub(super) endpoint: Endpoint,
    pub(super) model: Model,
}

impl Provider for Anthropic {
    fn model(&self) -> &Model {
        &self.model
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_delta: &mut OnDelta<'_>) -> Result<Reply> {
        with_remedies(&self.endpoint, &self.model, turn, |omit| {
            let body = self.request(turn, omit);
            let mut stream = Stream::default();
            let mut on_data = |data: &str| stream.event(data, on_delta);
            let sent = self
                .endpoint
                .stream("/v1/messages", &body, stop, &mut on_data);
            sent.and_then(|()| stream.draft.finish(&self.model))
                .map(Some)
        })
    }
}

impl Anthropic {
    fn request(&self, turn: &Turn<'_>, omit: Omit) -> String {
        let prepared = prepare(turn, self.endpoint.service, &self.model, omit);
        let last = prepared.entries.len().saturating_sub(1);
        let messages = prepared.entries.iter().enumerate().map(|(index, entry)| {
            let (role, mut blocks) = message(entry);
            // The end of the previous run, which this run's requests share, and the end of
            // this request, which the next one begins with.
            if index == last || index + 1 == prepared.run_start {
                if let Some(block) = blocks.last_mut() {
                    *block = self.cached(block);
                }
            }
            let message = Obj::new().str("role", role);
            message.raw("content", &array(blocks)).end()
        });
        let limit = turn.output_tokens_max.min(self.model.output_tokens_max);
        let mut request = Obj::new()
            .str("model", &self.model.id)
            .num("max_tokens", limit)
            .raw("stream", "true");
        // These think on their own; without this their thinking comes without words.
        if self.model.price.is_some() && !self.model.id.contains("-4-") {
            let thinking = Obj::of("adaptive").str("display", "summarized");
            request = request.raw("thinking", &thinking.end());
        }
        let tool = |tool: &ToolSpec| {
            let about = Obj::new().str("name", tool.name);
            let about = about.str("description", tool.description);
            about.raw("input_schema", tool.schema).end()
        };
        let system = Some(turn.system).filter(|system| !system.trim().is_empty());
        request
            .list("tools", turn.tools.iter().map(tool))
            .list("system", system.map(|system| self.cached(&text(system))))
            .raw("messages", &array(messages))
            .end()
    }

    /// The block with a cache breakpoint. No thinking block ever stands last.
    fn cached(&self, block: &str) -> String {
        let control = match self.endpoint.lifetime {
            CacheLifetime::FiveMinutes => r#"{"type":"ephemeral"}"#,
            CacheLifetime::OneHour => r#"{"type":"ephemeral","ttl":"1h"}"#,
        };
        let open = block.strip_suffix('}').unwrap_or(block);
        format!(r#"{open},"cache_control":{control}}}"#)
    }
}

fn message(entry: &Entry<'_>) -> (&'static str, Vec<String>) {
    match entry {
        Entry::User(parts) => ("user", parts.iter().map(part).collect()),
        Entry::Assistant(blocks) => ("assistant", blocks.iter().map(said).collect()),
        Entry::Results(answers) => {
            let mut blocks: Vec<String> = answers.iter().map(result).collect();
            // A failed result takes only text.
            let failed = answers.iter().filter(|answer| answer.is_error);
            let images = failed
                .flat_map(|answer| &answer.content)
                .filter(|part| part.is_image());
            blocks.extend(images.map(part));
            ("user", blocks)
        }
    }
}

fn said(said: &Said<'_>) -> String {
    match said {
        Said::Text(words) => text(words),
        Said::Thinking {
            signature,
            redacted: true,
            ..
        } => Obj::of("redacted_thinking").str("data", signature).end(),
        Said::Thinking {
            text, signature, ..
        } => Obj::of("thinking")
            .str("thinking", text)
            .str("signature", signature)
            .end(),
        Said::Call { id, name, call } => Obj::of("tool_use")
            .str("id", id)
            .str("name", name)
            .raw("input", &call.arguments)
            .end(),
    }
}

fn result(answer: &Answer<'_>) -> String {
    let parts = answer.content.iter();
    let parts = parts.filter(|part| !answer.is_error || !part.is_image());
    let mut blocks: Vec<String> = parts.map(part).collect();
    if blocks.is_empty() {
        blocks.push(text("(see the image below)"));
    }
    let result = Obj::of("tool_result")
        .str("tool_use_id", &answer.call_id)
        .raw("content", &array(blocks));
    if answer.is_error {
        return result.raw("is_error", "true").end();
    }
    result.end()
}

fn part(part: &Part<'_>) -> String {
    match part {
        Part::Text(words) => text(words),
        Part::Image(image) => {
            let source = Obj::of("base64")
                .str("media_type", &image.mime)
                .str("data", &image.data);
            Obj::of("image").raw("source", &source.end()).end()
        }
    }
}

fn text(words: &str) -> String {
    Obj::of("text").str("text", words).end()
}

/// The events of one reply.
#[derive(Default)]
struct Stream {
    draft: Draft,
    /// As the last delta told it; it holds once the message has stopped.
    end: Option<End>,
}

impl Stream {
    fn event(&mut self, data: &str, on_delta: &mut OnDelta<'_>) -> Result<ControlFlow<()>> {
        let event = parse_event(data)?;
        let index = &event["index"];
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.usage(&event["message"]["usage"]),
            "content_block_start" => {
                if let Some(block) = opened(&event["content_block"]) {
                    self.draft.open(index, block)?;
                }
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                // A kind that is not known is left out, whatever its fields are called.
                let (kind, field) = match delta["type"].as_str().unwrap_or_default() {
                    "text_delta" => (Kind::Text, "text"),
                    "thinking_delta" => (Kind::Thinking, "thinking"),
                    "signature_delta" => (Kind::Signature, "signature"),
                    "input_json_delta" => (Kind::Arguments, "partial_json"),
                    _ => return Ok(ControlFlow::Continue(())),
                };
                let piece = delta[field].as_str().unwrap_or_default();
                self.draft.add(index, kind, piece, on_delta);
            }
            "message_delta" => {
                self.end = ending(&event["delta"]).or(self.end.take());
                self.usage(&event["usage"]);
            }
            "message_stop" => self.draft.end = self.end.take().or(Some(End::Done)),
            _ if event["error"].is_null() => {}
            _ => self.draft.failure = Some(Refusal::read(data)),
        }
        Ok(self.draft.flow())
    }

    /// Cumulative counts; a null keeps the earlier one.
    fn usage(&mut self, counts: &Value) {
        let usage = &mut self.draft.usage;
        for (name, count) in [
            ("input_tokens", &mut usage.input),
            ("output_tokens", &mut usage.output),
            ("cache_read_input_tokens", &mut usage.cache_read),
            ("cache_creation_input_tokens", &mut usage.cache_write),
        ] {
            *count = token_count(&counts[name]).unwrap_or(*count);
        }
    }
}

fn opened(block: &Value) -> Option<Block> {
    let field = |name: &str| block[name].as_str().unwrap_or_default();
    Some(match field("type") {
        "text" => Block::Text(field("text").to_owned()),
        "thinking" => draft::thinking(field("thinking"), field("signature")),
        "redacted_thinking" => Block::Thinking {
            text: String::new(),
            signature: field("data").to_owned(),
            redacted: true,
        },
        "tool_use" => draft::call(field("id"), field("name")),
        _ => return None,
    })
}

fn ending(delta: &Value) -> Option<End> {
    Some(match delta["stop_reason"].as_str()? {
        "end_turn" | "tool_use" | "stop_sequence" => End::Done,
        "max_tokens" | "model_context_window_exceeded" => End::Cut,
        "refusal" => {
            let details = &delta["stop_details"];
            let why = [&details["explanation"], &details["category"]];
            let why = why.into_iter().find_map(Value::as_str);
            End::Refused(why.unwrap_or("no reason given").to_owned())
        }
        other => End::unknown(other),
    })
}

#[cfg(test)]
mod tests {
    use super::super::call::{Fault, Tried};
    use super::super::tests::{self, call, image, model, result, said, thought, turn, user};
    use super::super::{Message, StopReason, models};
    use super::*;
    use crate::base::error::Error;
    use crate::base::json::quote;

    const ID: &str = "claude-sonnet-5-5";

    fn request(id: &str, lifetime: CacheLifetime, turn: &Turn<'_>) -> String {
        let mut endpoint = Endpoint::for_tests("anthropic");
        endpoint.lifetime = lifetime;
        let model = models::model(endpoint.service, id, lifetime);
        Anthropic { endpoint, model }.request(turn, Omit::default())
    }

    #[test]
    fn a_request_in_a_tool_loop() {
        let failed = match image("no", 4) {
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
        assert_eq!(request(ID, CacheLifetime::FiveMinutes, &turn), want);
        let hour = want.replace(
            r#"{"type":"ephemeral"}"#,
            r#"{"type":"ephemeral","ttl":"1h"}"#,
        );
        assert_eq!(request(ID, CacheLifetime::OneHour, &turn), hour);
        let old = want
            .replace(
                r#""thinking":{"type":"adaptive","display":"summarized"},"#,
                "",
            )
            .replace(ID, "claude-opus-4-8");
        // Its thinking is another model's now, and empty.
        let old = old.replace(
            r#"{"type":"thinking","thinking":"","signature":"sig"},"#,
            "",
        );
        assert_eq!(
            request("claude-opus-4-8", CacheLifetime::FiveMinutes, &turn),
            old
        );
        assert!(serde_json::from_str::<Value>(want).is_ok());
    }

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        replay_chunks(&[transcript.as_bytes()])
    }

    fn replay_chunks(chunks: &[&[u8]]) -> (String, Tried<Reply>) {
        let mut stream = Stream::default();
        let (deltas, fed) =
            tests::replay(chunks, &mut |data, on_delta| stream.event(data, on_delta));
        let reply = fed.map_err(Fault::Other);
        (
            deltas,
            reply.and_then(|()| stream.draft.finish(&model("anthropic", ID))),
        )
    }

    #[test]
    fn a_reply_with_thinking_and_tools() {
        let transcript = include_str!("../../tests/data/anthropic-tools.sse");
        let (deltas, reply) = replay(transcript);
        let reply = reply.unwrap();
        assert_eq!(deltas, "(Look at )(the disk.)One moment.");
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
            (text, r#""stop_sequence""#, "Stop 1 None None"),
            (text, r#""pause_turn""#, "Stop 1 None None"),
            (text, r#""next_years""#, "Stop 1 None None"),
            (text, "null", "Stop 1 None None"),
            (text, r#""max_tokens""#, "Length 1 None None"),
            (text, r#""model_context_window_exceeded""#, "Length 1 None None"),
            (tool, r#""tool_use""#, "ToolUse 1 None None"),
            (tool, r#""max_tokens""#, "Length 0 None Some(\"bash\")"),
            (text, r#""sensitive""#, "Stop 1 None None"),
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
    fn arguments_in_small_pieces() {
        let mut transcript = String::from(
            "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"write\",\"input\":{}}}\n\n",
        );
        let arguments = Obj::new()
            .str("content", &"0123456789".repeat(10_240))
            .end();
        for piece in arguments.as_bytes().chunks(20) {
            let piece = quote(&String::from_utf8_lossy(piece));
            transcript += &format!(
                "data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"input_json_delta\",\"partial_json\":{piece}}}}}\n\n"
            );
        }
        transcript += "data: {\"type\":\"message_stop\"}\n\n";
        match &replay(&transcript).1.unwrap().blocks[..] {
            [Block::ToolCall(call)] => assert_eq!(call.arguments, arguments),
            other => panic!("{} blocks", other.len()),
        }
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
    fn hostile_events_do_no_harm() {
        for data in [
            "null",
            "[]",
            "1",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"content_block_delta","index":9,"delta":{"text":"x"}}"#,
            r#"{"type":"content_block_start","index":-1,"content_block":null}"#,
            r#"{"type":"message_delta","delta":null,"usage":{"output_tokens":-5}}"#,
            r#"{"type":"message_start","message":[]}"#,
        ] {
            let (_, reply) = replay(&format!("data: {data}\n\n"));
            assert!(
                matches!(reply, Err(Fault::Other(Error::Retry { .. }))),
                "{data}"
            );
        }
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
        tests::survive_stream(&corpus, replay_chunks);
    }

    #[test]
    fn survives_mutation_of_history() {
        let model = models::model(
            models::find_service("anthropic").unwrap(),
            ID,
            CacheLifetime::FiveMinutes,
        );
        tests::survive_history(&model, |turn| request(ID, CacheLifetime::FiveMinutes, turn));
    }
}
