//! Chat completions (https://platform.openai.com/docs/api-reference/chat), as OpenAI and its
//! imitators implement them: writes the request and makes a reply of the chunks. `services`
//! lists what differs by service; other differences between servers are tolerated here.

use serde_json::Value;

use super::arguments;
use super::call::WireFormat;
use super::learned::Optional;
use super::refusal;
use super::reply::{self, ReplyDraft, ReplyEnd, broken_off};
use super::request::{ContentPart, Outgoing, SentBlock, SentResult, TurnEntry, data_url};
use super::services::{Quirk, other_tokens_field};
use super::{Block, Cost, ToolSpec, token_count};
use crate::base::error::{Error, ModelFault, Result};
use crate::base::json::{self, Obj, array, is_whole, quote};
use crate::base::log;
use crate::base::time;

pub(super) const FORMAT: WireFormat = WireFormat {
    path: "/chat/completions",
    body,
    event,
    whole: event,
    needs_close: false,
};

fn body(outgoing: &Outgoing<'_>) -> Vec<String> {
    let (service, model) = (outgoing.endpoint.service, outgoing.model());
    let mut messages = Messages {
        outgoing,
        out: Vec::new(),
    };
    if let Some(system) = outgoing.system {
        messages.push("system", quote(system), String::new());
    }
    for (index, entry) in outgoing.entries.iter().enumerate() {
        match entry {
            TurnEntry::User(parts) => messages.user(content(parts)),
            TurnEntry::Assistant(blocks) => messages.assistant(index, blocks),
            TurnEntry::Results(results) => messages.results(results),
        }
    }
    if outgoing.has(Quirk::CacheBreakpoints) && model.id.starts_with("anthropic/") {
        messages.set_cache_breakpoints();
    }
    let messages = messages
        .out
        .into_iter()
        .map(|(role, content, rest)| format!(r#"{{"role":"{role}","content":{content}{rest}}}"#));
    let tokens_field = match outgoing.is_refused(Optional::TokensField) {
        true => other_tokens_field(service.tokens_field),
        false => service.tokens_field,
    };
    let mut request = Obj::new()
        .str("model", &model.id)
        .num(tokens_field, outgoing.output_tokens)
        .raw("stream", "true");
    if !outgoing.has(Quirk::NoStreamOptions) && !outgoing.is_refused(Optional::StreamOptions) {
        request = request.raw("stream_options", r#"{"include_usage":true}"#);
    }
    if outgoing.is_refused(Optional::Effort) {
        request = request.str("reasoning_effort", "none");
    }
    let tool = |tool: &ToolSpec| {
        let about = Obj::new().str("name", tool.name);
        let about = about.str("description", tool.description);
        let function = about.raw("parameters", tool.schema).end();
        Obj::of("function").raw("function", &function).end()
    };
    // An empty list of tools is refused by vLLM.
    let request = request.list("tools", outgoing.tools.iter().map(tool));
    request.end_with("messages", messages)
}

struct Messages<'a> {
    outgoing: &'a Outgoing<'a>,
    /// Role, content as JSON, further fields with a comma before each.
    out: Vec<(&'static str, String, String)>,
}

impl Messages<'_> {
    fn push(&mut self, role: &'static str, content: String, rest: String) {
        self.out.push((role, content, rest));
    }

    fn user(&mut self, content: String) {
        let is_after_tool = self.out.last().is_some_and(|(role, ..)| *role == "tool");
        if is_after_tool && self.outgoing.has(Quirk::NoUserAfterTool) {
            self.push("assistant", quote("(read)"), String::new());
        }
        self.push("user", content, String::new());
    }

    fn assistant(&mut self, index: usize, blocks: &[SentBlock<'_>]) {
        let (mut text, mut thought, mut details) = (String::new(), String::new(), None);
        let mut calls = Vec::new();
        for block in blocks {
            match block {
                SentBlock::Text(words) => text += words,
                SentBlock::Thinking { signature, .. } if is_whole(signature, '[') => {
                    details = Some(*signature);
                }
                SentBlock::Thinking { text, .. } => thought += text,
                SentBlock::Call { id, name, call } => {
                    let function = Obj::new().str("name", name);
                    let function = function.str("arguments", &call.arguments).end();
                    let item = Obj::new().str("id", id).str("type", "function");
                    let mut item = item.raw("function", &function);
                    if let Some(signature) = self.call_signature(call.signature.as_deref()) {
                        let google = Obj::new().str("thought_signature", signature).end();
                        item = item.raw("extra_content", &Obj::new().raw("google", &google).end());
                    }
                    calls.push(item.end());
                }
            }
        }
        let takes_null = !self.outgoing.has(Quirk::NoNullContent)
            && !self.outgoing.is_refused(Optional::NullContent);
        let content = match text.is_empty() && takes_null {
            true => "null".to_owned(),
            false => quote(&text),
        };
        let mut rest = String::new();
        if let Some(details) = details {
            rest += &format!(r#","reasoning_details":{details}"#);
        }
        if self.outgoing.has(Quirk::EchoesReasoning) && index >= self.outgoing.run_start {
            rest += &format!(r#","reasoning_content":{}"#, quote(&thought));
        }
        if !calls.is_empty() {
            rest += &format!(r#","tool_calls":{}"#, array(calls));
        }
        self.push("assistant", content, rest);
    }

    /// Gemini's own signature, or the placeholder for calls that Gemini did not make
    /// (https://ai.google.dev/gemini-api/docs/thought-signatures).
    fn call_signature<'a>(&self, signature: Option<&'a str>) -> Option<&'a str> {
        let foreign = self.outgoing.has(Quirk::SignsCalls);
        signature.or(foreign.then_some("skip_thought_signature_validator"))
    }

    /// Tool messages may hold text only: pictures follow them in a user message.
    fn results(&mut self, results: &[SentResult<'_>]) {
        let mut pictures = Vec::new();
        for result in results {
            let (mut texts, before) = (Vec::new(), pictures.len());
            for part in &result.content {
                match part {
                    ContentPart::Text(text) => texts.push(text.as_ref()),
                    picture => pictures.push(content_part(picture)),
                }
            }
            if pictures.len() > before {
                texts.push("(see the image below)");
            }
            let rest = format!(r#","tool_call_id":{}"#, quote(&result.call_id));
            self.push("tool", quote(&texts.join("\n")), rest);
        }
        if !pictures.is_empty() {
            let label = ContentPart::Text("Images from the tools:".into());
            pictures.insert(0, content_part(&label));
            self.user(array(pictures));
        }
    }

    /// Sets one at the system prompt and one at the last message.
    fn set_cache_breakpoints(&mut self) {
        let last = self.out.len().saturating_sub(1);
        for index in [0, last] {
            let Some((_, content, _)) = self.out.get_mut(index) else {
                return;
            };
            if content.starts_with('"') {
                let part = Obj::of("text").raw("text", content);
                let part = part.raw("cache_control", &Obj::of("ephemeral").end());
                *content = array([part.end()]);
            }
        }
    }
}

/// A plain string where there are no pictures: not every server accepts a list.
fn content(parts: &[ContentPart<'_>]) -> String {
    let texts = parts.iter().map(|part| match part {
        ContentPart::Text(text) => Some(text.as_ref()),
        ContentPart::Picture(..) => None,
    });
    if let Some(texts) = texts.collect::<Option<Vec<&str>>>() {
        return quote(&texts.join("\n"));
    }
    array(parts.iter().map(content_part))
}

fn content_part(part: &ContentPart<'_>) -> String {
    match part {
        ContentPart::Text(text) => Obj::of("text").str("text", text).end(),
        ContentPart::Picture(mime, image) => {
            let url = Obj::new().str("url", &data_url(mime, image)).end();
            Obj::of("image_url").raw("image_url", &url).end()
        }
    }
}

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

struct OpenCall {
    index: Option<u64>,
    id: String,
    /// The index of its block in the draft.
    position: usize,
}

/// What is known from the chunks of one reply so far and is not in the draft's blocks.
#[derive(Default)]
pub(super) struct ChunkState {
    calls: Vec<OpenCall>,
    /// The start of the reply's text, held back while it may be thinking between tags.
    held: String,
    is_past_tags: bool,
    /// OpenRouter's reasoning details, put together from their pieces.
    details: Vec<Value>,
    /// Whether a `function_call` came, the older form of `tool_calls`.
    has_function_call: bool,
}

impl ChunkState {
    /// Refuses a reply whose tool call came as text or as the older `function_call`.
    pub(super) fn reject_calls_in_text(&self, blocks: &[Block], tools: &[ToolSpec]) -> Result<()> {
        let in_text = |block: &Block| match block {
            Block::Text(text) => arguments::call_in_text(text, tools),
            _ => None,
        };
        let found = blocks.iter().find_map(in_text);
        let found = found.or(self.has_function_call.then_some("function_call"));
        let Some(found) = found.filter(|_| !tools.is_empty()) else {
            return Ok(());
        };
        Err(Error::Model {
            fault: ModelFault::CallsAsText,
            why: format!(
                "the model's server gave its tool call as {found} instead of tool_calls: start \
                 vLLM with --enable-auto-tool-choice --tool-call-parser NAME, llama-server with \
                 --jinja; with another server switch tool calls on, or use a model that it \
                 supports them for"
            ),
        })
    }
}

fn event(draft: &mut ReplyDraft<'_>, chunk: &Value) -> Result<()> {
    let choice = &chunk["choices"][0];
    for counts in [&chunk["usage"], &choice["usage"]] {
        usage(draft, counts);
    }
    if refusal::is_error(&choice["error"]) {
        draft.fail(&json::text(choice));
        return Ok(());
    }
    let delta = match &choice["delta"] {
        Value::Null => &choice["message"],
        delta => delta,
    };
    reasoning(draft, delta)?;
    match &delta["content"] {
        Value::String(text) => draft.tagged_text(text)?,
        // Mistral: pieces of text and of thinking.
        Value::Array(parts) => {
            for part in parts {
                draft.tagged_text(part["text"].as_str().unwrap_or_default())?;
                for thought in part["thinking"].as_array().into_iter().flatten() {
                    draft.thinking(thought["text"].as_str().unwrap_or_default(), "thinking")?;
                }
            }
        }
        _ => {}
    }
    let refusal = delta["refusal"].as_str().unwrap_or_default();
    draft.grow(refusal.len())?;
    draft.refusal += refusal;
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        draft.call(call)?;
    }
    draft.chunks.has_function_call |= delta["function_call"].is_object();
    let reason = choice["finish_reason"].as_str();
    let reason = reason
        .or(choice["finishReason"].as_str())
        .unwrap_or_default();
    if let Some(end) = ending(reason)? {
        draft.end = Some(end);
    }
    Ok(())
}

fn usage(draft: &mut ReplyDraft<'_>, counts: &Value) {
    let Some(prompt) = token_count(&counts["prompt_tokens"]) else {
        return;
    };
    let details = &counts["prompt_tokens_details"];
    let cached =
        token_count(&details["cached_tokens"]).or(token_count(&counts["prompt_cache_hit_tokens"]));
    let written = token_count(&details["cache_write_tokens"]).unwrap_or(0);
    let usage = &mut draft.usage;
    usage.cache_read = cached.unwrap_or(0).min(prompt);
    usage.cache_write = written.min(prompt - usage.cache_read);
    usage.input = prompt - usage.cache_read - usage.cache_write;
    usage.output = token_count(&counts["completion_tokens"]).unwrap_or(usage.output);
    // OpenRouter gives the price of the request, in dollars.
    if let Some(dollars) = counts["cost"].as_f64().filter(|dollars| *dollars > 0.0) {
        usage.cost = Some(Cost {
            output: dollars,
            ..Cost::default()
        });
    }
}

fn reasoning(draft: &mut ReplyDraft<'_>, delta: &Value) -> Result<()> {
    let fields = ["reasoning_content", "reasoning", "reasoning_text"].into_iter();
    let mut pieces = fields.map(|field| (field, delta[field].as_str().unwrap_or_default()));
    if let Some((field, piece)) = pieces.find(|(_, piece)| !piece.is_empty()) {
        draft.thinking(piece, field)?;
    }
    for piece in delta["reasoning_details"].as_array().into_iter().flatten() {
        draft.grow(json::text(piece).len())?;
        let details = &mut draft.chunks.details;
        let is_full = details.len() == reply::BLOCKS_MAX;
        match details.last_mut() {
            Some(last) if last["type"] == piece["type"] && last["index"] == piece["index"] => {
                merge(last, piece);
            }
            _ if is_full => {}
            _ => details.push(piece.clone()),
        }
    }
    Ok(())
}

impl ReplyDraft<'_> {
    /// Adds text that may start with thinking between tags, which simple servers leave in it.
    fn tagged_text(&mut self, piece: &str) -> Result<()> {
        if self.chunks.is_past_tags {
            return self.text(piece);
        }
        let held = &mut self.chunks.held;
        *held += piece;
        let start = held.trim_start();
        let is_open = match start.strip_prefix(THINK) {
            Some(thought) => !piece.contains('>') || !thought.contains(THINK_END),
            // Up to a limit: text that is only blanks is an answer too.
            None => THINK.starts_with(start) && held.len() < 64,
        };
        match is_open {
            true => self.grow(piece.len()),
            false => self.release(),
        }
    }

    /// Adds the text that was held back, as thinking and text.
    fn release(&mut self) -> Result<()> {
        self.chunks.is_past_tags = true;
        let held = std::mem::take(&mut self.chunks.held);
        let Some(thought) = held.trim_start().strip_prefix(THINK) else {
            return self.text(&held);
        };
        let (thought, text) = thought.split_once(THINK_END).unwrap_or((thought, ""));
        self.thinking(thought, "think")?;
        self.text(text.trim_start())
    }

    /// Templates that open the thinking themselves leave a single `</think>`: the text before it
    /// is thinking. In code (after an odd backtick) the tag is only quoted.
    fn close_thinking(&mut self) {
        let Some(Block::Text(text)) = self.blocks.first_mut() else {
            return;
        };
        let Some((thought, rest)) = text.split_once(THINK_END) else {
            return;
        };
        if thought.contains(THINK) || thought.matches('`').count() % 2 == 1 {
            return;
        }
        let thought = reply::thinking(thought.trim(), "think");
        *text = rest.trim_start().to_owned();
        self.blocks.insert(0, thought);
    }

    fn call(&mut self, piece: &Value) -> Result<()> {
        let function = &piece["function"];
        let id = piece["id"].as_str().unwrap_or_default();
        let name = function["name"].as_str().unwrap_or_default();
        let index = piece["index"].as_u64();
        let position = match self.find_call(index, id, name) {
            Some(position) => position,
            None => {
                let made_up = format!("call_{:x}_{}", time::now_ms(), self.blocks.len());
                let call_id = if id.is_empty() { &made_up } else { id };
                let position = self.push(reply::call(call_id, name))?;
                self.chunks.calls.push(OpenCall {
                    index,
                    id: id.to_owned(),
                    position,
                });
                position
            }
        };
        let arguments = match &function["arguments"] {
            whole @ Value::Object(_) => json::text(whole),
            text => text.as_str().unwrap_or_default().to_owned(),
        };
        self.grow(arguments.len())?;
        let Some(Block::ToolCall(call)) = self.blocks.get_mut(position) else {
            return Ok(());
        };
        if call.name.is_empty() {
            call.name = name.to_owned();
        }
        call.arguments += &arguments;
        if let Some(signature) = piece["extra_content"]["google"]["thought_signature"].as_str() {
            call.signature = Some(signature.to_owned());
        }
        Ok(())
    }

    /// The call that a piece belongs to; `None` for a new one.
    fn find_call(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let mut calls = self.chunks.calls.iter().rev();
        let open = match index {
            Some(_) => calls.find(|call| call.index == index)?,
            None if !id.is_empty() => calls.find(|call| call.id == id)?,
            None if !name.is_empty() => return None,
            None => calls.next()?,
        };
        // Some servers give all calls the same index: another id is another call, and so is
        // another name once the arguments are complete.
        let has_whole_arguments = || match &self.blocks[open.position] {
            Block::ToolCall(call) => {
                call.arguments.ends_with('}') && is_whole(&call.arguments, '{')
            }
            _ => false,
        };
        let is_another = match (id, name) {
            (_, "") => false,
            ("", _) => has_whole_arguments(),
            (id, _) => id != open.id,
        };
        (!is_another).then_some(open.position)
    }
}

/// Adds to the draft what is still held back at the end of the chunks.
pub(super) fn finish(draft: &mut ReplyDraft<'_>) -> Result<()> {
    if draft.chunks.is_past_tags {
        draft.close_thinking();
    } else {
        draft.release()?;
    }
    if !draft.chunks.details.is_empty() {
        // They are kept as well as the text they were shown as, and are sent back instead of it.
        let details = json::text(&Value::Array(std::mem::take(&mut draft.chunks.details)));
        draft.blocks.insert(0, reply::thinking("", &details));
    }
    Ok(())
}

/// The end that a reason means. An unknown reason gives `None`: the answer may be cut off.
pub(super) fn ending(reason: &str) -> Result<Option<ReplyEnd>> {
    Ok(Some(match reason.to_ascii_lowercase().as_str() {
        "" => return Ok(None),
        "stop" | "tool_calls" | "tool_call" | "tool_use" | "function_call" | "end" | "eos"
        | "eos_token" | "end_turn" | "stop_sequence" | "complete" | "completed" => ReplyEnd::Done,
        "length" | "max_tokens" | "model_length" | "model_context_window_exceeded" => ReplyEnd::Cut,
        "content_filter" | "safety" | "refusal" | "sensitive" => ReplyEnd::filtered(),
        "error"
        | "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "network_error"
        | "timeout"
        | "failed"
        | "insufficient_system_resource"
        | "malformed_function_call" => {
            return Err(broken_off(format!("the model's server gave up: {reason}")));
        }
        _ => {
            log::warning!("", "finish reason {reason:?} is not known");
            return Ok(None);
        }
    }))
}

/// Appends a piece of one of OpenRouter's reasoning details.
fn merge(whole: &mut Value, piece: &Value) {
    let (Value::Object(whole), Value::Object(piece)) = (whole, piece) else {
        return;
    };
    for (name, value) in piece {
        match (whole.get_mut(name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more))
                if matches!(name.as_str(), "text" | "summary" | "data") =>
            {
                text.push_str(more);
            }
            _ => {
                whole.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Fault, Tried};
    use super::super::tests::{
        self, call, model, outgoing, picture, png, result, said, thought, turn, user,
    };
    use super::super::{Message, Reply, StopReason, Turn};
    use super::*;

    fn request(provider: &str, id: &str, turn: &Turn<'_>) -> String {
        outgoing(turn, &model(provider, id), body).concat()
    }

    /// One turn of a tool loop, by `provider`'s model `m`.
    fn tool_loop(provider: &str, thoughts: Vec<Block>) -> Vec<Message> {
        let mut blocks = thoughts;
        blocks.push(call("call_0001", "bash"));
        let mut asked = said(blocks);
        if let Message::Assistant(said) = &mut asked {
            said.api = "openai-completions".to_owned();
            said.provider = provider.to_owned();
            said.model = "m".to_owned();
        }
        let mut answered = result("call_0001", "a");
        if let (Message::ToolResult(result), Message::User { content, .. }) =
            (&mut answered, picture("b", 1, 0))
        {
            result.content = content;
        }
        vec![user("go"), asked, answered]
    }

    #[test]
    #[rustfmt::skip]
    fn requests() {
        let tools_json = r#""tools":[{"type":"function","function":{"name":"bash","description":"Runs","parameters":{"z":1,"a":2}}}]"#;
        let system = r#"{"role":"system","content":"S"},{"role":"user","content":"go"}"#;
        let calls = r#""tool_calls":[{"id":"call_0001","type":"function","function":{"name":"bash","arguments":"{\"b\":1, \"a\":2}"}}]"#;
        let tool = r#"{"role":"tool","content":"b\n(see the image below)","tool_call_id":"call_0001"}"#;
        let images = r#"{"role":"user","content":[{"type":"text","text":"Images from the tools:"},{"type":"image_url","image_url":{"url":"data:image/png;base64,PNG"}}]}"#.replace("PNG", &png(1, 0));
        let usage = r#""stream_options":{"include_usage":true}"#;
        for (provider, thoughts, want) in [
            ("together", vec![thought("hm", "reasoning")], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{usage},{tools_json},"messages":[{system},{{"role":"assistant","content":null,{calls}}},{tool},{images}]}}"#)),
            ("mistral", vec![], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{tools_json},"messages":[{system},{{"role":"assistant","content":"",{calls}}},{tool},{{"role":"assistant","content":"(read)"}},{images}]}}"#) .replace("call_0001", "c2d85f82a")),
        ] {
            let messages = tool_loop(provider, thoughts);
            let turn = Turn { system: "S", ..turn(&messages) };
            assert_eq!(request(provider, "m", &turn), want, "{provider}");
        }

        let messages = [user("go")];
        let turn = Turn { system: "S", tools: &[], ..turn(&messages) };
        let claude = request("openrouter", "anthropic/claude", &turn);
        assert_eq!(claude.matches(r#","cache_control":{"type":"ephemeral"}}]"#).count(), 2, "{claude}");
        assert!(!claude.contains("tools"), "{claude}");
    }

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        tests::replay("llamacpp", "m", &[transcript.as_bytes()])
    }

    fn outline(blocks: &[Block]) -> String {
        let block = |block: &Block| match block {
            Block::Text(text) => text.clone(),
            Block::Thinking {
                text, signature, ..
            } => format!("{text}~{signature}"),
            Block::ToolCall(call) => {
                let id = if call.id.starts_with("call_") {
                    "made up"
                } else {
                    &call.id
                };
                let signature = call.signature.as_deref().unwrap_or_default();
                format!("{}#{id}{}{signature}", call.name, call.arguments)
            }
        };
        blocks.iter().map(block).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    #[rustfmt::skip]
    fn a_reply_with_reasoning_and_tools() {
        let (deltas, reply) = replay(include_str!("../../tests/data/openrouter-tools.sse"));
        let reply = reply.unwrap();
        assert_eq!(deltas, "One moment.");
        assert_eq!(
            outline(&reply.blocks),
            concat!(
                r#"~[{"format":"anthropic-claude-v1","index":0,"signature":"sig","text":"Look there.","type":"reasoning.text"},"#,
                r#"{"data":"opaque","index":1,"type":"reasoning.encrypted"}]"#,
                r#" | Look there.~reasoning | One moment. | bash#made up{"command": "ls"} | read#made up{"path":"a"}"#
            )
        );
        assert_eq!(reply.stop_reason, StopReason::ToolUse);
        let usage = reply.usage;
        assert_eq!(
            (usage.input, usage.cache_read, usage.cache_write, usage.output),
            (300, 600, 100, 50)
        );
        assert_eq!(usage.cost.unwrap().total(), 0.0042);
    }

    #[test]
    #[rustfmt::skip]
    fn replies() {
        let stop = r#"{},"finish_reason":"stop""#;
        let tool = |fields: &str| format!(r#"{{"tool_calls":[{{{fields}}}]}}"#);
        for (name, deltas, want) in [
            ("neither id nor index", vec![
                tool(r#""function":{"name":"a","arguments":"{\"p\""}"#), tool(r#""function":{"arguments":":1}"}"#), tool(r#""function":{"name":"b"}"#), stop.into(),
            ], r#"a#made up{"p":1} | b#made up{} ToolUse"#),
            ("one index, no ids", vec![
                tool(r#""index":0,"id":"","function":{"name":"a","arguments":"{}"}"#), tool(r#""index":0,"id":"","function":{"name":"b","arguments":"{}"}"#), stop.into(),
            ], "a#made up{} | b#made up{} ToolUse"),
            ("id and name in each piece", vec![
                tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{"}"#), tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"}"}"#), stop.into(),
            ], "a#x{} ToolUse"),
            ("an object for arguments", vec![tool(r#""index":0,"id":"x","function":{"name":"a","arguments":{"p":1}}"#), stop.into()], r#"a#x{"p":1} ToolUse"#),
            ("cut", vec![tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{\"p"}"#), r#"{},"finish_reason":"length""#.into()], " Length a"),
            ("think", vec![r#"{"content":"\n<th"}"#.into(), r#"{"content":"ink>a</"}"#.into(), r#"{"content":"b</thi"}"#.into(), r#"{"content":"nk>\n\nc <think>"}"#.into(), stop.into()], "a</b~think | c <think> Stop"),
            ("only the end of think", vec![r#"{"content":"a\n</thi"}"#.into(), r#"{"content":"nk>\n\nb"}"#.into(), stop.into()], "a~think | b Stop"),
            ("think spoken of", vec![r#"{"content":"`<think>` and `</think>`"}"#.into(), stop.into()], "`<think>` and `</think>` Stop"),
            ("its end spoken of", vec![r#"{"content":"it ends in `</think>`"}"#.into(), stop.into()], "it ends in `</think>` Stop"),
            ("think without end", vec![r#"{"content":"<think>a</thi"}"#.into(), stop.into()], "a</thi~think Stop"),
            ("no think", vec![r#"{"content":" <t"}"#.into(), r#"{"content":"able>"}"#.into(), stop.into()], " <table> Stop"),
            ("a start of think", vec![r#"{"content":"<thi"}"#.into(), stop.into()], "<thi Stop"),
            ("reasoning_content first", vec![r#"{"reasoning_content":"a","reasoning":"a"}"#.into(), r#"{"reasoning_text":"b"}"#.into(), r#"{"content":"c"},"finish_reason":"eos""#.into()], "a~reasoning_content | b~reasoning_text | c Stop"),
            ("refusal", vec![r#"{"refusal":"I can"}"#.into(), r#"{"refusal":"not"},"finish_reason":"stop""#.into()], " Stop refused: I cannot"),
            ("content filter", vec![r#"{"content":"a"},"finish_reason":"content_filter""#.into()], " Stop refused: the provider's content filter"),
            ("window full", vec![r#"{},"finish_reason":"length","usage":{"prompt_tokens":127000}"#.into()], "ContextFull"),
            ("window exceeded", vec![r#"{"content":"a"},"finish_reason":"stop","usage":{"prompt_tokens":128001}"#.into()], "ContextFull"),
            ("aborted", vec![r#"{"content":"a"},"finish_reason":"abort""#.into()], "Retry"),
            ("capitals, in Google's field", vec![r#"{"content":"a"},"finishReason":"STOP""#.into()], "a Stop"),
            ("halves of a pair", vec![r#"{"content":"a \ud83d"}"#.into(), r#"{"content":"\ude80 b"}"#.into(), stop.into()], "a \u{1F680} b Stop"),
            ("halves of a pair in arguments", vec![
                tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{\"p\":\"\ud83d"}"#), tool(r#""index":0,"function":{"arguments":"\ude80\"}"}"#), stop.into(),
            ], "a#x{\"p\":\"\u{1F680}\"} ToolUse"),
            ("another case and a prefix", vec![tool(r#""index":0,"id":"x","function":{"name":"functions.Bash","arguments":"{'p':True,}"}"#), stop.into()], "bash#x{\"p\":true} ToolUse"),
            ("a call as text", vec![r#"{"content":"<tool_call>\n{\"name\":\"bash\"}"}"#.into(), stop.into()], "the model's server gave its tool call as <tool_call>"),
            ("a call of the old kind", vec![r#"{"function_call":{"name":"bash","arguments":"{}"}},"finish_reason":"function_call""#.into()], "the model's server gave its tool call as function_call"),
        ] {
            let events = deltas.iter().map(|delta: &String| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
            let got = match replay(&events.collect::<String>()).1 {
                Ok(reply) => {
                    let mut got = format!("{} {:?}", outline(&reply.blocks), reply.stop_reason);
                    if let Some(name) = reply.cut_call { got += &format!(" {name}"); }
                    if let Some(why) = reply.refusal { got += &format!(" refused: {why}"); }
                    got
                }
                Err(Fault::Other(Error::Retry { .. })) => "Retry".to_owned(),
                Err(Fault::Other(Error::ContextFull(_))) => "ContextFull".to_owned(),
                Err(Fault::Other(Error::Model { why, .. })) => why.split(" instead").next().unwrap().to_owned(),
                Err(other) => format!("{other:?}"),
            };
            assert_eq!(got, want, "{name}");
        }
        for data in ["null", "[]", "{}", r#"{"error":"","choices":[{"error":{}}]}"#, r#"{"error":{}}"#, r#"{"choices":{}}"#, r#"{"choices":[{"delta":{"tool_calls":[null,1]}}],"usage":[]}"#] {
            let kept = format!("data: {data}\n\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n");
            replay(&kept).1.unwrap();
        }
        for error in [
            r#"data: {"error":{"message":"down","code":502},"choices":[{"finish_reason":"error"}]}"#,
            r#"data: {"object":"error","message":"down","code":502}"#,
            r#"data: {"error":"down"}"#,
            r#"data: {"message":"down"}"#,
            r#"data: {"choices":[{"error":{"message":"down"},"finish_reason":"error"}]}"#,
            "event: error\ndata: down",
            r#"{"error":{"message":"down"}}"#,
            r#"[{"error":{"message":"down"}}]"#,
        ] {
            let stream = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"half\"}}}}]}}\n\n{error}\n\ndata: [DONE]\n\n");
            let stream = if error.starts_with(['{', '[']) { error } else { &stream };
            assert!(matches!(replay(stream).1, Err(Fault::Refused(refusal)) if refusal.message == "down"), "{error}");
        }
        let whole = r#"{"choices":[{"finish_reason":"stop","message":{"content":"a","tool_calls":[{"id":"x","function":{"name":"b","arguments":"{}"}}]}}],"usage":{"prompt_tokens":9}}"#;
        for reason in ["\"preempted\"", "null"] {
            let cut = whole.replace("\"stop\"", reason);
            assert!(matches!(replay(&cut).1, Err(Fault::Other(Error::Retry { .. }))), "{reason}");
        }
        let reply = replay(whole).1.unwrap();
        assert_eq!((outline(&reply.blocks).as_str(), reply.usage.input), ("a | b#x{}", 9));
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            include_str!("../../tests/data/openrouter-tools.sse"),
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"x\",\"function\":{\"name\":\"a\",\"arguments\":\"{\"}}]}}]}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"\",\"function\":{\"name\":\"a\",\"arguments\":\"\\\"p\\\":1}\"}}]},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\n<th\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"ink>a</\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b</think>c\"},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"text\":\"a\"}]},{\"type\":\"text\",\"text\":\"b\"}],\"reasoning_details\":[{\"type\":\"r\",\"index\":0,\"text\":\"x\"}]}}],\"usage\":{\"prompt_tokens\":900,\"completion_tokens\":50,\"prompt_tokens_details\":{\"cached_tokens\":600}}}\n\ndata: [DONE]\n\n",
            "data: {\"error\":{\"message\":\"down\",\"code\":502}}\n\n",
        ];
        tests::survive_stream("llamacpp", "m", &corpus);
    }

    #[test]
    fn survives_mutation_of_history() {
        for (provider, id) in [("openrouter", "anthropic/claude"), ("mistral", "m")] {
            tests::survive_history(&model(provider, id));
        }
    }
}
