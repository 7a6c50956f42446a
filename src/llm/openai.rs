//! Chat completions (https://platform.openai.com/docs/api-reference/chat), as OpenAI and
//! everybody who imitates it speaks it. What differs by service is a column of
//! `models::SERVICES`; what differs without saying so is dealt with where it shows.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

use super::call::{Endpoint, Fault, Refusal, Tried, parse_event, with_remedies};
use super::draft::{self, Draft, End};
use super::models::{COMPLETION_TOKENS, Service};
use super::prepare::{Answer, Entry, Omit, Part, Said, prepare};
use super::{
    Block, Cost, Delta, Image, Model, OnDelta, Provider, Reply, ToolSpec, Turn, probe, token_count,
};
use crate::base::error::{Error, Result};
use crate::base::json::{Obj, array, is_whole, quote};
use crate::base::stop::Stop;
use crate::base::time;

pub(super) struct OpenAi {
    endpoint: Endpoint,
    assumed: Model,
    /// With the window the server told us of.
    probed: OnceLock<Model>,
    /// Questions about the model that may still be asked.
    probes: AtomicU8,
    learned: Mutex<Learned>,
}

/// What refusals taught us about a server.
#[derive(Clone, Copy, Default, PartialEq)]
struct Learned {
    other_tokens_field: bool,
    no_stream_options: bool,
    /// GPT-5.4 and later refuse tools here unless they do not think.
    effort_none: bool,
    /// The most tokens a reply may have.
    output_tokens_max: Option<u32>,
}

impl Provider for OpenAi {
    fn model(&self) -> &Model {
        self.probed.get().unwrap_or(&self.assumed)
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_delta: &mut OnDelta<'_>) -> Result<Reply> {
        self.probe(stop);
        with_remedies(&self.endpoint, self.model(), turn, |omit| {
            let learned = *self.learned.lock().unwrap();
            let body = self.request(turn, omit, learned);
            let mut stream = Stream::default();
            let mut on_data = |data: &str| stream.event(data, on_delta);
            let sent = self
                .endpoint
                .stream("/chat/completions", &body, stop, &mut on_data);
            match sent {
                Err(Fault::Refused(refusal)) if self.learn(&refusal, learned, turn) => {
                    return Ok(None);
                }
                // Some keep the connection open and silent after the last word.
                Err(Fault::Other(Error::Retry { .. })) if stream.draft.end.is_some() => {}
                sent => sent?,
            }
            let reply = stream.finish(self.endpoint.service, self.model(), on_delta);
            reply.map(Some)
        })
    }
}

impl OpenAi {
    pub(super) fn new(endpoint: Endpoint, model: Model, probes: u8) -> OpenAi {
        OpenAi {
            endpoint,
            assumed: model,
            probed: OnceLock::new(),
            probes: AtomicU8::new(probes),
            learned: Mutex::default(),
        }
    }

    /// Asks the server for the window, while it is not known.
    fn probe(&self, stop: &Stop) {
        let left = self.probes.load(Ordering::Relaxed);
        if left > 0 && self.probed.get().is_none() {
            self.probes.store(left - 1, Ordering::Relaxed);
            if let Some(model) = probe::probe(&self.endpoint, &self.assumed, stop) {
                self.probed.get_or_init(|| model);
            }
        }
    }

    /// Whether the same turn is worth another request, made differently than by `known`.
    fn learn(&self, refusal: &Refusal, known: Learned, turn: &Turn<'_>) -> bool {
        const UNWANTED: &str = "support unrecognized unknown unexpected permitted extra";
        let learned = &mut *self.learned.lock().unwrap();
        if let Some(smaller) = smaller_limit(refusal, self.limit(turn, known)) {
            learned.output_tokens_max = Some(smaller);
        } else if matches!(refusal.status, 400 | 422)
            && UNWANTED.split(' ').any(|word| refusal.says(word))
        {
            let fields = [
                ("reasoning_effort", &mut learned.effort_none),
                ("stream_options", &mut learned.no_stream_options),
                (self.tokens_field(known), &mut learned.other_tokens_field),
            ];
            let field = fields.into_iter().find(|(field, _)| refusal.says(field));
            field.into_iter().for_each(|(_, lesson)| *lesson = true);
        }
        *learned != known
    }

    /// Tokens the reply may have.
    fn limit(&self, turn: &Turn<'_>, learned: Learned) -> u32 {
        let limit = turn.output_tokens_max.min(self.model().output_tokens_max);
        limit.min(learned.output_tokens_max.unwrap_or(limit))
    }

    fn tokens_field(&self, learned: Learned) -> &'static str {
        let usual = self.endpoint.service.tokens_field == COMPLETION_TOKENS;
        match usual != learned.other_tokens_field {
            true => COMPLETION_TOKENS,
            false => "max_tokens",
        }
    }

    fn request(&self, turn: &Turn<'_>, omit: Omit, learned: Learned) -> String {
        let (service, model) = (self.endpoint.service, self.model());
        let prepared = prepare(turn, service, model, omit);
        let mut messages = Messages {
            service,
            out: Vec::new(),
        };
        if !turn.system.trim().is_empty() {
            messages.push("system", quote(turn.system), String::new());
        }
        for (index, entry) in prepared.entries.iter().enumerate() {
            match entry {
                Entry::User(parts) => messages.user(content(parts)),
                Entry::Assistant(blocks) => {
                    messages.assistant(blocks, index >= prepared.run_start);
                }
                Entry::Results(answers) => messages.results(answers),
            }
        }
        // Claude behind OpenRouter caches only where it is told to.
        if service.name == "openrouter" && model.id.starts_with("anthropic/") {
            let last = messages.out.len().checked_sub(1);
            for index in last.into_iter().flat_map(|last| [0, last]) {
                let content = &mut messages.out[index].1;
                if content.starts_with('"') {
                    let part = Obj::of("text").raw("text", content);
                    *content =
                        array([part.raw("cache_control", &Obj::of("ephemeral").end()).end()]);
                }
            }
        }
        let messages = messages.out.iter().map(|(role, content, rest)| {
            format!(r#"{{"role":"{role}","content":{content}{rest}}}"#)
        });
        let mut request = Obj::new()
            .str("model", &model.id)
            .num(self.tokens_field(learned), self.limit(turn, learned))
            .raw("stream", "true");
        if service.stream_options && !learned.no_stream_options {
            request = request.raw("stream_options", r#"{"include_usage":true}"#);
        }
        if learned.effort_none {
            request = request.str("reasoning_effort", "none");
        }
        let tool = |tool: &ToolSpec| {
            let about = Obj::new().str("name", tool.name);
            let about = about.str("description", tool.description);
            let function = about.raw("parameters", tool.schema).end();
            Obj::of("function").raw("function", &function).end()
        };
        // An empty list of tools is refused by vLLM.
        let request = request.list("tools", turn.tools.iter().map(tool));
        request.raw("messages", &array(messages)).end()
    }
}

/// The output limit below `sent` that a refusal of it names, in whatever words: the largest
/// number that is smaller. Small numbers are those of a model's name, or the least allowed.
fn smaller_limit(refusal: &Refusal, sent: u32) -> Option<u32> {
    let fields = ["max_tokens", COMPLETION_TOKENS];
    let about_limit = matches!(refusal.status, 400 | 422)
        && !refusal.is_overflow()
        && fields.iter().any(|field| refusal.says(field));
    let numbers = refusal.message.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter_map(|number| number.parse().ok());
    let smaller = numbers.filter(|number| (256..sent).contains(number)).max();
    smaller.filter(|_| about_limit)
}

struct Messages {
    service: &'static Service,
    /// Role, content as JSON, further fields with a comma before each.
    out: Vec<(&'static str, String, String)>,
}

impl Messages {
    fn push(&mut self, role: &'static str, content: String, rest: String) {
        self.out.push((role, content, rest));
    }

    fn user(&mut self, content: String) {
        if self.service.strict_turns && self.out.last().is_some_and(|(role, ..)| *role == "tool") {
            self.push("assistant", quote("(read)"), String::new());
        }
        self.push("user", content, String::new());
    }

    fn assistant(&mut self, blocks: &[Said<'_>], in_run: bool) {
        let (mut text, mut thought, mut details) = (String::new(), String::new(), None);
        let mut calls = Vec::new();
        for block in blocks {
            match block {
                Said::Text(words) => text += words,
                Said::Thinking { signature, .. } if is_whole(signature, '[') => {
                    details = Some(*signature);
                }
                Said::Thinking { text, .. } => thought += text,
                Said::Call { id, name, call } => {
                    let function = Obj::new().str("name", name);
                    let function = function.str("arguments", &call.arguments).end();
                    let item = Obj::new().str("id", id).str("type", "function");
                    let mut item = item.raw("function", &function);
                    if let Some(signature) = self.gemini_signature(call.signature.as_deref()) {
                        let google = Obj::new().str("thought_signature", signature).end();
                        item = item.raw("extra_content", &Obj::new().raw("google", &google).end());
                    }
                    calls.push(item.end());
                }
            }
        }
        let content = match text.is_empty() && !self.service.strict_turns {
            true => "null".to_owned(),
            false => quote(&text),
        };
        let mut rest = String::new();
        if let Some(details) = details {
            rest += &format!(r#","reasoning_details":{details}"#);
        }
        if self.service.echo_reasoning && in_run {
            rest += &format!(r#","reasoning_content":{}"#, quote(&thought));
        }
        if !calls.is_empty() {
            rest += &format!(r#","tool_calls":{}"#, array(calls));
        }
        self.push("assistant", content, rest);
    }

    /// Gemini refuses calls without a signature; this one stands for calls it did not make
    /// (https://ai.google.dev/gemini-api/docs/thought-signatures).
    fn gemini_signature<'a>(&self, signature: Option<&'a str>) -> Option<&'a str> {
        match self.service.name {
            "gemini" => Some(signature.unwrap_or("skip_thought_signature_validator")),
            _ => signature,
        }
    }

    /// Tool messages take text only: images follow them in a user message.
    fn results(&mut self, answers: &[Answer<'_>]) {
        let mut images = Vec::new();
        for answer in answers {
            let (mut texts, before) = (Vec::new(), images.len());
            for part in &answer.content {
                match part {
                    Part::Text(text) => texts.push(text.as_ref()),
                    Part::Image(data) => images.push(image(data)),
                }
            }
            if images.len() > before {
                texts.push("(see the image below)");
            }
            let rest = format!(r#","tool_call_id":{}"#, quote(&answer.call_id));
            self.push("tool", quote(&texts.join("\n")), rest);
        }
        if !images.is_empty() {
            images.insert(0, text("Images from the tools:"));
            self.user(array(images));
        }
    }
}

/// A plain string where there are no images: not every server takes a list.
fn content(parts: &[Part<'_>]) -> String {
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => Some(text.as_ref()),
        Part::Image(_) => None,
    });
    if let Some(texts) = texts.collect::<Option<Vec<&str>>>() {
        return quote(&texts.join("\n"));
    }
    array(parts.iter().map(|part| match part {
        Part::Text(words) => text(words),
        Part::Image(data) => image(data),
    }))
}

fn text(words: &str) -> String {
    Obj::of("text").str("text", words).end()
}

fn image(image: &Image) -> String {
    let url = Obj::new().str("url", &image.data_url()).end();
    Obj::of("image_url").raw("image_url", &url).end()
}

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// Where a reply's text stands with regard to `<think>`, which raw servers leave in it.
enum Think {
    /// Nothing but what may become `<think>` has come yet.
    Maybe(String),
    /// What may become `</think>` is held back.
    Inside(String),
    Over,
}

impl Default for Think {
    fn default() -> Think {
        Think::Maybe(String::new())
    }
}

struct OpenCall {
    index: Option<u64>,
    id: String,
    /// In the draft.
    position: usize,
}

#[derive(Default)]
struct Stream {
    draft: Draft,
    calls: Vec<OpenCall>,
    think: Think,
    /// OpenRouter's, put together from their pieces.
    details: Vec<Value>,
}

impl Stream {
    fn event(&mut self, data: &str, on_delta: &mut OnDelta<'_>) -> Result<ControlFlow<()>> {
        if data.trim() == "[DONE]" {
            self.draft.end.get_or_insert(End::Done);
            return Ok(ControlFlow::Break(()));
        }
        let chunk = parse_event(data)?;
        if !chunk["error"].is_null() {
            self.draft.failure = Some(Refusal::read(data));
            return Ok(ControlFlow::Break(()));
        }
        let choice = &chunk["choices"][0];
        for usage in [&chunk["usage"], &choice["usage"]] {
            self.usage(usage);
        }
        let delta = match &choice["delta"] {
            Value::Null => &choice["message"],
            delta => delta,
        };
        self.reasoning(delta, on_delta)?;
        match &delta["content"] {
            Value::String(text) => self.text(text, on_delta)?,
            // Mistral: pieces of text and of thinking.
            Value::Array(parts) => {
                let words = |value: &Value| value["text"].as_str().unwrap_or_default().to_owned();
                for part in parts {
                    self.text(&words(part), on_delta)?;
                    for thought in part["thinking"].as_array().into_iter().flatten() {
                        self.thinking(&words(thought), "thinking", on_delta)?;
                    }
                }
            }
            _ => {}
        }
        self.draft.refusal += delta["refusal"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call)?;
        }
        if let Some(end) = ending(choice["finish_reason"].as_str().unwrap_or_default())? {
            self.draft.end = Some(end);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn usage(&mut self, counts: &Value) {
        let Some(prompt) = token_count(&counts["prompt_tokens"]) else {
            return;
        };
        let details = &counts["prompt_tokens_details"];
        let cached = token_count(&details["cached_tokens"])
            .or(token_count(&counts["prompt_cache_hit_tokens"]));
        let usage = &mut self.draft.usage;
        usage.cache_read = cached.unwrap_or(0).min(prompt);
        usage.cache_write = token_count(&details["cache_write_tokens"])
            .unwrap_or(0)
            .min(prompt - usage.cache_read);
        usage.input = prompt - usage.cache_read - usage.cache_write;
        usage.output = token_count(&counts["completion_tokens"]).unwrap_or(usage.output);
        // OpenRouter says what it takes, in dollars.
        if let Some(dollars) = counts["cost"].as_f64().filter(|dollars| *dollars > 0.0) {
            usage.cost = Some(Cost {
                output: dollars,
                ..Cost::default()
            });
        }
    }

    fn reasoning(&mut self, delta: &Value, on_delta: &mut OnDelta<'_>) -> Result<()> {
        for field in ["reasoning_content", "reasoning", "reasoning_text"] {
            let piece = delta[field].as_str().unwrap_or_default();
            if !piece.is_empty() {
                self.thinking(piece, field, on_delta)?;
                break;
            }
        }
        for piece in delta["reasoning_details"].as_array().into_iter().flatten() {
            match self.details.last_mut() {
                Some(last) if last["type"] == piece["type"] && last["index"] == piece["index"] => {
                    merge(last, piece);
                }
                _ => self.details.push(piece.clone()),
            }
        }
        Ok(())
    }

    fn thinking(&mut self, piece: &str, source: &str, on_delta: &mut OnDelta<'_>) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        on_delta(Delta::Thinking(piece));
        self.draft.thinking(piece, source)
    }

    fn answer(&mut self, piece: &str, on_delta: &mut OnDelta<'_>) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        on_delta(Delta::Text(piece));
        self.draft.text(piece)
    }

    fn text(&mut self, piece: &str, on_delta: &mut OnDelta<'_>) -> Result<()> {
        match &mut self.think {
            Think::Over => self.answer(piece, on_delta),
            Think::Maybe(held) => {
                held.push_str(piece);
                let start = held.trim_start();
                if let Some(rest) = start.strip_prefix(THINK) {
                    let rest = rest.to_owned();
                    self.think = Think::Inside(String::new());
                    return self.text(&rest, on_delta);
                }
                // Not for ever: blanks are an answer too, if a poor one.
                if THINK.starts_with(start) && held.len() < 64 {
                    return Ok(());
                }
                let held = std::mem::take(held);
                self.think = Think::Over;
                self.answer(&held, on_delta)
            }
            Think::Inside(held) => {
                let text = std::mem::take(held) + piece;
                if let Some((thought, rest)) = text.split_once(THINK_END) {
                    self.think = Think::Over;
                    self.thinking(thought, "think", on_delta)?;
                    return self.answer(rest.trim_start(), on_delta);
                }
                let mut starts = (0..THINK_END.len()).rev();
                let start = starts.find(|len| text.ends_with(&THINK_END[..*len]));
                let (thought, tail) = text.split_at(text.len() - start.unwrap_or(0));
                *held = tail.to_owned();
                self.thinking(thought, "think", on_delta)
            }
        }
    }

    /// Templates that open the thinking themselves leave a lone `</think>`: what stands before
    /// it was thought. In code it is only spoken of.
    fn close_thinking(&mut self) {
        let Some(Block::Text(text)) = self.draft.blocks.first_mut() else {
            return;
        };
        let Some((thought, rest)) = text.split_once(THINK_END) else {
            return;
        };
        if thought.contains(THINK) || thought.matches('`').count() % 2 == 1 {
            return;
        }
        let thought = draft::thinking(thought.trim(), "think");
        *text = rest.trim_start().to_owned();
        self.draft.blocks.insert(0, thought);
    }

    fn call(&mut self, piece: &Value) -> Result<()> {
        let function = &piece["function"];
        let id = piece["id"].as_str().unwrap_or_default();
        let name = function["name"].as_str().unwrap_or_default();
        let index = piece["index"].as_u64();
        let position = match self.find_call(index, id, name) {
            Some(position) => position,
            None => {
                let made_up = format!("call_{:x}_{}", time::now_ms(), self.draft.blocks.len());
                let call_id = if id.is_empty() { &made_up } else { id };
                let position = self.draft.push(draft::call(call_id, name))?;
                self.calls.push(OpenCall {
                    index,
                    id: id.to_owned(),
                    position,
                });
                position
            }
        };
        let Some(Block::ToolCall(call)) = self.draft.blocks.get_mut(position) else {
            return Ok(());
        };
        if call.name.is_empty() {
            call.name = name.to_owned();
        }
        match &function["arguments"] {
            Value::String(text) => call.arguments.push_str(text),
            whole @ Value::Object(_) => call.arguments = whole.to_string(),
            _ => {}
        }
        if let Some(signature) = piece["extra_content"]["google"]["thought_signature"].as_str() {
            call.signature = Some(signature.to_owned());
        }
        Ok(())
    }

    /// The call a piece belongs to; `None` for a new one.
    fn find_call(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let mut calls = self.calls.iter().rev();
        let open = match index {
            Some(_) => calls.find(|call| call.index == index)?,
            None if !id.is_empty() => calls.find(|call| call.id == id)?,
            None if !name.is_empty() => return None,
            None => calls.next()?,
        };
        // All calls under one index: another id is another call, and so is another name
        // once the arguments are whole.
        let is_whole = || match &self.draft.blocks[open.position] {
            Block::ToolCall(call) => {
                call.arguments.ends_with('}')
                    && serde_json::from_str::<Value>(&call.arguments).is_ok()
            }
            _ => false,
        };
        let another = match (id, name) {
            (_, "") => false,
            ("", _) => is_whole(),
            (id, _) => id != open.id,
        };
        (!another).then_some(open.position)
    }

    fn finish(
        mut self,
        service: &Service,
        model: &Model,
        on_delta: &mut OnDelta<'_>,
    ) -> Tried<Reply> {
        match std::mem::replace(&mut self.think, Think::Over) {
            Think::Maybe(held) => self.answer(&held, on_delta)?,
            Think::Inside(held) => self.thinking(&held, "think", on_delta)?,
            Think::Over => self.close_thinking(),
        }
        if !self.details.is_empty() {
            // Beside the words they were shown as, and instead of them when sent back.
            let details = Value::Array(self.details).to_string();
            self.draft.blocks.insert(0, draft::thinking("", &details));
        }
        let usage = self.draft.usage;
        let input = usage.total_input();
        // Servers that cut a long prompt in silence, or leave no room for an answer.
        let overflow = match self.draft.end {
            Some(End::Done) => service.local && input > model.context_window,
            Some(End::Cut) => {
                usage.output == 0 && input > 0 && input >= model.context_window / 100 * 99
            }
            Some(End::Refused(_)) | None => false,
        };
        if overflow {
            let id = &model.id;
            let text = format!("{id} was given {input} tokens, more than its window");
            return Err(Error::ContextFull(text).into());
        }
        self.draft.finish(model)
    }
}

fn ending(reason: &str) -> Result<Option<End>> {
    Ok(Some(match reason {
        "" => return Ok(None),
        "stop" | "tool_calls" | "function_call" | "end" | "eos" | "end_turn" => End::Done,
        "length" | "model_context_window_exceeded" => End::Cut,
        "content_filter" => End::filtered(),
        "error" | "network_error" | "insufficient_system_resource" => {
            return Err(Error::retry(format!(
                "the model's server gave up: {reason}"
            )));
        }
        other => End::unknown(other),
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
    use super::super::tests::{self, call, image, model, result, said, thought, turn, user};
    use super::super::{Message, StopReason, models};
    use super::*;

    fn openai(provider: &str, id: &str) -> OpenAi {
        let endpoint = Endpoint::for_tests(provider);
        let model = models::model(endpoint.service, id, models::CacheLifetime::FiveMinutes);
        OpenAi::new(endpoint, model, 0)
    }

    /// One turn of a tool loop, said by `provider`'s model `m`.
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
            (&mut answered, image("b", 4))
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
        let images = r#"{"role":"user","content":[{"type":"text","text":"Images from the tools:"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}"#;
        let usage = r#""stream_options":{"include_usage":true}"#;
        for (provider, thoughts, want) in [
            ("together", vec![thought("hm", "reasoning")], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{usage},{tools_json},"messages":[{system},{{"role":"assistant","content":null,{calls}}},{tool},{images}]}}"#)),
            ("deepseek", vec![thought("hm", "reasoning_content")], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{usage},{tools_json},"messages":[{system},{{"role":"assistant","content":null,"reasoning_content":"hm",{calls}}},{tool},{images}]}}"#)),
            ("openrouter", vec![thought("hm", "reasoning"), thought("", r#"[{"type":"x"}]"#)], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{usage},{tools_json},"messages":[{system},{{"role":"assistant","content":null,"reasoning_details":[{{"type":"x"}}],{calls}}},{tool},{images}]}}"#)),
            ("mistral", vec![], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{tools_json},"messages":[{system},{{"role":"assistant","content":"",{calls}}},{tool},{{"role":"assistant","content":"(read)"}},{images}]}}"#) .replace("call_0001", "c2d85f82a")),
            ("gemini", vec![], format!(r#"{{"model":"m","max_tokens":16000,"stream":true,{usage},{tools_json},"messages":[{system},{{"role":"assistant","content":null,{calls}}},{tool},{images}]}}"#) .replace(r#"\"a\":2}"}}"#, r#"\"a\":2}"},"extra_content":{"google":{"thought_signature":"skip_thought_signature_validator"}}}"#)),
        ] {
            let messages = tool_loop(provider, thoughts);
            let turn = Turn { system: "S", ..turn(&messages) };
            assert_eq!(openai(provider, "m").request(&turn, Omit::default(), Learned::default()), want, "{provider}");
        }

        let messages = [user("go")];
        let turn = Turn { system: "S", tools: &[], ..turn(&messages) };
        let claude = openai("openrouter", "anthropic/claude").request(&turn, Omit::default(), Learned::default());
        assert_eq!(claude.matches(r#","cache_control":{"type":"ephemeral"}}]"#).count(), 2, "{claude}");
        assert!(!claude.contains("tools"), "{claude}");
    }

    #[test]
    #[rustfmt::skip]
    fn a_refusal_teaches_once() {
        let openai = openai("openai", "gpt-4o");
        let messages = [user("go")];
        for (status, body, learned, has) in [
            (400, "Unsupported parameter: 'max_completion_tokens'", true, r#""max_tokens":16000"#),
            (422, "stream_options: Extra inputs are not permitted", true, r#""stream":true,"tools""#),
            (400, "Function tools with reasoning_effort are not supported for x in /v1/chat/completions", true, r#""reasoning_effort":"none""#),
            (400, "Unsupported parameter: 'max_completion_tokens'", false, ""),
            (400, "reasoning_effort is not supported", false, ""),
            (400, "tools are not supported", false, ""),
            (500, "stream_options is not supported", false, ""),
        ] {
            let refusal = Refusal { status, ..Refusal::read(body) };
            let known = *openai.learned.lock().unwrap();
            assert_eq!(openai.learn(&refusal, known, &turn(&messages)), learned, "{body}");
            let known = *openai.learned.lock().unwrap();
            let request = openai.request(&turn(&messages), Omit::default(), known);
            assert!(request.contains(has), "{request}");
        }
    }

    fn replay(transcript: &str) -> (String, Tried<Reply>) {
        replay_chunks(&[transcript.as_bytes()])
    }

    fn replay_chunks(chunks: &[&[u8]]) -> (String, Tried<Reply>) {
        let mut stream = Stream::default();
        let (deltas, fed) =
            tests::replay(chunks, &mut |data, on_delta| stream.event(data, on_delta));
        let service = models::find_service("llamacpp").unwrap();
        let finish = || stream.finish(service, &model("llamacpp", "m"), &mut |_| {});
        (deltas, fed.map_err(Fault::Other).and_then(|()| finish()))
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
        assert_eq!(deltas, "(Look )(there.)One moment.");
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
            ("by id", vec![
                tool(r#""id":"x","function":{"name":"a","arguments":"{"}"#), tool(r#""id":"y","function":{"name":"b","arguments":"{"}"#),
                tool(r#""id":"x","function":{"arguments":"}"}"#), tool(r#""id":"y","function":{"arguments":"}"}"#), stop.into(),
            ], "a#x{} | b#y{} ToolUse"),
            ("neither id nor index", vec![
                tool(r#""function":{"name":"a","arguments":"{\"p\""}"#), tool(r#""function":{"arguments":":1}"}"#), tool(r#""function":{"name":"b"}"#), stop.into(),
            ], r#"a#made up{"p":1} | b#made up{} ToolUse"#),
            ("one index for all", vec![
                tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{}"}"#), tool(r#""index":0,"id":"y","function":{"name":"a","arguments":"{}"}"#), stop.into(),
            ], "a#x{} | a#y{} ToolUse"),
            ("one index, no ids", vec![
                tool(r#""index":0,"id":"","function":{"name":"a","arguments":"{}"}"#), tool(r#""index":0,"id":"","function":{"name":"b","arguments":"{}"}"#), stop.into(),
            ], "a#made up{} | b#made up{} ToolUse"),
            ("id and name in each piece", vec![
                tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{"}"#), tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"}"}"#), stop.into(),
            ], "a#x{} ToolUse"),
            ("an object for arguments", vec![tool(r#""index":0,"id":"x","function":{"name":"a","arguments":{"p":1}}"#), stop.into()], r#"a#x{"p":1} ToolUse"#),
            ("gemini's signature", vec![
                tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{}"},"extra_content":{"google":{"thought_signature":"S"}}"#), stop.into(),
            ], "a#x{}S ToolUse"),
            ("cut", vec![tool(r#""index":0,"id":"x","function":{"name":"a","arguments":"{\"p"}"#), r#"{},"finish_reason":"length""#.into()], " Length a"),
            ("think", vec![r#"{"content":"\n<th"}"#.into(), r#"{"content":"ink>a</"}"#.into(), r#"{"content":"b</thi"}"#.into(), r#"{"content":"nk>\n\nc <think>"}"#.into(), stop.into()], "a</b~think | c <think> Stop"),
            ("only the end of think", vec![r#"{"content":"a\n</thi"}"#.into(), r#"{"content":"nk>\n\nb"}"#.into(), stop.into()], "a~think | b Stop"),
            ("think spoken of", vec![r#"{"content":"`<think>` and `</think>`"}"#.into(), stop.into()], "`<think>` and `</think>` Stop"),
            ("its end spoken of", vec![r#"{"content":"it ends in `</think>`"}"#.into(), stop.into()], "it ends in `</think>` Stop"),
            ("think without end", vec![r#"{"content":"<think>a</thi"}"#.into(), stop.into()], "a</thi~think Stop"),
            ("no think", vec![r#"{"content":" <t"}"#.into(), r#"{"content":"able>"}"#.into(), stop.into()], " <table> Stop"),
            ("a start of think", vec![r#"{"content":"<thi"}"#.into(), stop.into()], "<thi Stop"),
            ("reasoning_content first", vec![r#"{"reasoning_content":"a","reasoning":"a"}"#.into(), r#"{"reasoning_text":"b"}"#.into(), r#"{"content":"c"},"finish_reason":"eos""#.into()], "a~reasoning_content | b~reasoning_text | c Stop"),
            ("mistral's parts", vec![r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]},{"type":"text","text":"b"}]}"#.into(), stop.into()], "a~thinking | b Stop"),
            ("usage in the choice", vec![r#"{"content":"a"},"finish_reason":"stop","usage":{"prompt_tokens":9,"prompt_cache_hit_tokens":4}"#.into()], "a Stop 5+4"),
            ("refusal", vec![r#"{"refusal":"I can"}"#.into(), r#"{"refusal":"not"},"finish_reason":"stop""#.into()], " Stop refused: I cannot"),
            ("content filter", vec![r#"{"content":"a"},"finish_reason":"content_filter""#.into()], " Stop refused: the provider's content filter"),
            ("window full", vec![r#"{},"finish_reason":"length","usage":{"prompt_tokens":127000}"#.into()], "ContextFull"),
            ("window exceeded", vec![r#"{"content":"a"},"finish_reason":"stop","usage":{"prompt_tokens":128001}"#.into()], "ContextFull"),
            ("server gave up", vec![r#"{"content":"a"},"finish_reason":"network_error""#.into()], "Retry"),
            ("broken off", vec![r#"{"content":"a"}"#.into()], "Retry"),
        ] {
            let events = deltas.iter().map(|delta: &String| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
            let got = match replay(&events.collect::<String>()).1 {
                Ok(reply) => {
                    let mut got = format!("{} {:?}", outline(&reply.blocks), reply.stop_reason);
                    if let Some(name) = reply.cut_call { got += &format!(" {name}"); }
                    if let Some(why) = reply.refusal { got += &format!(" refused: {why}"); }
                    if reply.usage.cache_read > 0 { got += &format!(" {}+{}", reply.usage.input, reply.usage.cache_read); }
                    got
                }
                Err(Fault::Other(Error::Retry { .. })) => "Retry".to_owned(),
                Err(Fault::Other(Error::ContextFull(_))) => "ContextFull".to_owned(),
                Err(other) => format!("{other:?}"),
            };
            assert_eq!(got, want, "{name}");
        }
        for data in ["null", "[]", "{}", r#"{"choices":{}}"#, r#"{"choices":[{"delta":{"tool_calls":[null,1]}}],"usage":[]}"#] {
            replay(&format!("data: {data}\n\ndata: [DONE]\n\n")).1.unwrap();
        }
        let error = "data: {\"error\":{\"message\":\"down\",\"code\":502},\"choices\":[{\"finish_reason\":\"error\"}]}\n\n";
        assert!(matches!(replay(error).1, Err(Fault::Refused(refusal)) if refusal.code == "502"));
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
        tests::survive_stream(&corpus, replay_chunks);
    }

    #[test]
    fn survives_mutation_of_history() {
        for (provider, id) in [("openrouter", "anthropic/claude"), ("mistral", "m")] {
            let openai = openai(provider, id);
            tests::survive_history(&openai.assumed, |turn| {
                openai.request(turn, Omit::default(), Learned::default())
            });
        }
    }
}
