//! FakeLlm: a model server whose answers the test scripts and whose requests it records. It checks
//! every request as strictly as the real API, and answers 400 where the real one would.
//!
//! When it is dropped, the test fails if mom sent what the API refuses, or sent more requests than
//! the script has answers.

mod anthropic;
mod openai;
mod responses;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::http::{Answer, Body, Chunks, Gate, Peer, Reply as HttpReply, Request, Scheme, Server};
use crate::watch::Watched;

/// For ANTHROPIC_API_KEY.
pub(crate) const KEY: &str = "sk-ant-test";
/// For OPENAI_API_KEY and the keys of similar services.
pub(crate) const OPENAI_KEY: &str = "sk-test";

/// A refusal: status, error type, message.
type Refused = (u16, &'static str, String);

/// One wire format: its rules, its errors, its stream.
struct Api {
    check: fn(&State, &Request, &Value) -> Result<(), Refused>,
    error: fn(u16, &str, &str) -> HttpReply,
    error_event: fn(&str) -> String,
    stream: fn(&mut State, &Reply, &Value) -> String,
}

const ANTHROPIC: Api = Api {
    check: anthropic::check,
    error: anthropic::error,
    error_event: anthropic::error_event,
    stream: anthropic::stream,
};
const COMPLETIONS: Api = Api {
    check: openai::check,
    error: openai::error,
    error_event: openai::error_event,
    stream: openai::stream,
};
const RESPONSES: Api = Api {
    check: responses::check,
    error: openai::error,
    error_event: responses::error_event,
    stream: responses::stream,
};

/// One scripted answer: what the model says, how it stops, and how the stream misbehaves.
#[derive(Clone)]
pub(crate) struct Reply {
    blocks: Vec<Block>,
    /// As the Messages API names it; empty: `tool_use` or `end_turn`, as fits.
    stop_reason: String,
    /// input, output, cache read, cache write
    usage: [u64; 4],
    /// Sent in place of all the above.
    status: Option<Status>,
    /// Sent as the stream, byte for byte.
    raw: Option<String>,
    /// Sent after the first half of the stream.
    middle: Option<Middle>,
    /// Bytes in one chunk of the stream.
    chunk_bytes: usize,
    /// Bytes in one delta of a tool's arguments or of text.
    delta_bytes: usize,
}

/// Status, headers, body.
type Status = (u16, Vec<(String, String)>, String);

#[derive(Clone)]
enum Block {
    Text(String),
    Thinking(String),
    Tool {
        id: String,
        name: String,
        arguments: String,
    },
}

#[derive(Clone)]
enum Middle {
    /// The connection ends.
    Cut,
    /// The stream pauses until the gate opens.
    Stall(Gate),
    /// An `error` event of this type ends the stream.
    Error(String),
}

impl Reply {
    fn new() -> Reply {
        Reply {
            blocks: Vec::new(),
            stop_reason: String::new(),
            usage: [100, 10, 0, 0],
            status: None,
            raw: None,
            middle: None,
            chunk_bytes: 61,
            delta_bytes: 20,
        }
    }

    pub(crate) fn text(text: &str) -> Reply {
        Reply::new().and_text(text)
    }

    pub(crate) fn thinking(text: &str) -> Reply {
        let mut reply = Reply::new();
        reply.blocks.push(Block::Thinking(text.into()));
        reply
    }

    pub(crate) fn tool(name: &str, arguments: &Value) -> Reply {
        Reply::new().and_tool(name, &arguments.to_string())
    }

    /// The stream as the test wrote it.
    pub(crate) fn raw(sse: &str) -> Reply {
        Reply {
            raw: Some(sse.into()),
            ..Reply::new()
        }
    }

    /// An HTTP error as the Messages API words it.
    pub(crate) fn error(status: u16, kind: &str, message: &str) -> Reply {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
        Reply::status(status, &body.to_string())
    }

    pub(crate) fn status(status: u16, body: &str) -> Reply {
        Reply {
            status: Some((status, Vec::new(), body.into())),
            ..Reply::new()
        }
    }

    /// Adds a header; for `error` and `status`.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        let (_, headers, _) = self.status.as_mut().expect("a reply with a status");
        headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn and_text(mut self, text: &str) -> Reply {
        self.blocks.push(Block::Text(text.into()));
        self
    }

    /// `arguments` as the model writes them, valid JSON or not.
    pub(crate) fn and_tool(mut self, name: &str, arguments: &str) -> Reply {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        self.blocks.push(Block::Tool {
            id: format!("toolu_{:04}", NEXT.fetch_add(1, Ordering::SeqCst)),
            name: name.into(),
            arguments: arguments.into(),
        });
        self
    }

    pub(crate) fn usage(
        mut self,
        input: u64,
        output: u64,
        cache_read: u64,
        cache_write: u64,
    ) -> Reply {
        self.usage = [input, output, cache_read, cache_write];
        self
    }

    pub(crate) fn chunks(mut self, chunk_bytes: usize, delta_bytes: usize) -> Reply {
        (self.chunk_bytes, self.delta_bytes) = (chunk_bytes, delta_bytes);
        self
    }

    /// The connection ends in the middle of the stream.
    pub(crate) fn cut(mut self) -> Reply {
        self.middle = Some(Middle::Cut);
        self
    }

    /// The stream pauses in its middle until the gate opens.
    pub(crate) fn stall(mut self, gate: &Gate) -> Reply {
        self.middle = Some(Middle::Stall(gate.clone()));
        self
    }

    /// An `error` event in the middle of the stream.
    pub(crate) fn breaks(mut self, kind: &str) -> Reply {
        self.middle = Some(Middle::Error(kind.into()));
        self
    }

    fn stop_reason(&self) -> &str {
        let calls = self
            .blocks
            .iter()
            .any(|block| matches!(block, Block::Tool { .. }));
        match self.stop_reason.as_str() {
            "" if calls => "tool_use",
            "" => "end_turn",
            given => given,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) body: Value,
    /// The body as it came, for what must stay the same byte for byte.
    pub(crate) raw: String,
}

impl Asked {
    /// The text of the system prompt.
    pub(crate) fn system(&self) -> String {
        texts(&self.body["system"])
    }

    /// All text of the n-th message, counted from the end: 0 is the last.
    pub(crate) fn message_text(&self, from_end: usize) -> String {
        let messages = self.body["messages"].as_array().unwrap();
        texts(&messages[messages.len() - 1 - from_end]["content"])
    }

    pub(crate) fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or("")
    }

    /// The results of the last tool calls, as text, in order; in all three wire formats.
    pub(crate) fn tool_results(&self) -> Vec<String> {
        let all = [list(&self.body["messages"]), list(&self.body["input"])].concat();
        let is_result = |message: &&Value| {
            message["role"] == "tool" || message["type"] == "function_call_output"
        };
        let mut results: Vec<String> = all.iter().rev().take_while(is_result).map(texts).collect();
        results.reverse();
        let blocks = all.last().map_or(&[][..], |last| list(&last["content"]));
        results.extend(
            blocks
                .iter()
                .filter(|block| block["type"] == "tool_result")
                .map(texts),
        );
        results
    }
}

/// All text in a message, a block or a list of them, results of tools included.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(texts).collect::<Vec<_>>().join("\n"),
        Value::Object(_) => {
            let fields = ["text", "content", "output"].into_iter();
            fields
                .map(|key| texts(&value[key]))
                .find(|text| !text.is_empty())
                .unwrap_or_default()
        }
        _ => String::new(),
    }
}

type Responder = Box<dyn FnMut(&Asked) -> Reply + Send>;

#[derive(Default)]
pub(crate) struct State {
    script: VecDeque<Reply>,
    otherwise: Option<Responder>,
    pub(crate) asked: Vec<Asked>,
    /// Requests whose reply mom did not read to its end.
    pub(crate) hung_up: usize,
    pub(crate) complaints: Vec<String>,
    allowed: Vec<String>,
    /// Tokens that fit, a token being four bytes of the request; 0: any number.
    window: usize,
    /// Signatures and sealed reasoning that were issued.
    sealed: HashSet<String>,
    /// Answers to other requests, by path: `/v1/models`, `/props`, `/api/show`.
    pages: BTreeMap<String, Value>,
}

pub(crate) struct FakeLlm {
    state: Arc<Watched<State>>,
    read: Mutex<usize>,
    pub(crate) server: Server,
}

impl FakeLlm {
    pub(crate) fn start() -> FakeLlm {
        FakeLlm::with(Scheme::Http)
    }

    pub(crate) fn start_tls() -> FakeLlm {
        FakeLlm::with(Scheme::Https)
    }

    fn with(scheme: Scheme) -> FakeLlm {
        let state = Arc::new(Watched::<State>::default());
        let ours = Arc::clone(&state);
        let handler = Arc::new(move |request: &Request, _: &Peer<'_>| answer(&ours, request));
        FakeLlm {
            state,
            read: Mutex::new(0),
            server: Server::start(
                "llm",
                scheme,
                TcpListener::bind("127.0.0.1:0").unwrap(),
                handler,
            ),
        }
    }

    /// For ANTHROPIC_BASE_URL; OPENAI_BASE_URL and similar ones are this with `/v1`.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Adds the next answer to the script.
    pub(crate) fn reply(&self, reply: Reply) {
        self.state.change(|state| state.script.push_back(reply));
    }

    pub(crate) fn reply_text(&self, text: &str) {
        self.reply(Reply::text(text));
    }

    pub(crate) fn reply_tool(&self, name: &str, arguments: Value) {
        self.reply(Reply::tool(name, &arguments));
    }

    pub(crate) fn reply_raw(&self, sse: &str) {
        self.reply(Reply::raw(sse));
    }

    /// The test does not need the rest of the script.
    pub(crate) fn forget_script(&self) {
        self.state.change(|state| state.script.clear());
    }

    /// Answers requests after the end of the script.
    pub(crate) fn otherwise(&self, responder: impl FnMut(&Asked) -> Reply + Send + 'static) {
        self.state
            .change(|state| state.otherwise = Some(Box::new(responder)));
    }

    /// Sets the answer for any other path.
    pub(crate) fn page(&self, path: &str, page: Value) {
        self.state
            .change(|state| state.pages.insert(path.into(), page));
    }

    /// A window of 8,192 tokens, and replies whose tool output soon fills it, so that the
    /// conversation is compacted again and again.
    pub(crate) fn fill_a_small_window(&self) {
        self.window(8_192);
        let window = json!({"default_generation_settings": {"n_ctx": 8_192}});
        self.page("/props", window);
        let mut n = 0;
        self.otherwise(move |asked| {
            n += 1;
            let reply = match n % 3 {
                1 if asked.body.get("tools").is_some() => {
                    Reply::tool("bash", &json!({"label": "x", "command": "seq 900"}))
                }
                _ => Reply::text("Done."),
            };
            reply.usage(asked.raw.len() as u64 / 4, 100, 0, 0)
        });
    }

    /// Requests longer than this are refused as too long.
    pub(crate) fn window(&self, tokens: usize) {
        self.state.change(|state| state.window = tokens);
    }

    /// The test expects refusals with this text in them.
    pub(crate) fn allow(&self, text: &str) {
        self.state.change(|state| state.allowed.push(text.into()));
    }

    /// What mom did wrong so far; the test checks these itself, so that dropping does not fail.
    pub(crate) fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().complaints)
    }

    /// The next request that no `next_request` has returned yet.
    pub(crate) fn next_request(&self) -> Asked {
        let mut read = self.read.lock().unwrap();
        let asked = self.wait_until("a request to the model", |state| {
            state.asked.get(*read).cloned()
        });
        *read += 1;
        asked
    }

    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.requests_since(0)
    }

    /// The requests without this many at the beginning.
    pub(crate) fn requests_since(&self, first: usize) -> Vec<Asked> {
        self.state.lock().asked[first..].to_vec()
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.lock().asked.len()
    }

    pub(crate) fn wait_until<R>(&self, what: &str, look: impl FnMut(&mut State) -> Option<R>) -> R {
        self.state.poll(look).unwrap_or_else(|| {
            let state = self.state.lock();
            panic!(
                "{what}: it never came; {} requests so far, complaints: {:#?}",
                state.asked.len(),
                state.complaints
            )
        })
    }

    /// Waits until mom has given up on a reply before its end, `times` times in all.
    pub(crate) fn wait_hung_up(&self, times: usize) {
        self.wait_until("mom hanging up", |state| {
            (state.hung_up >= times).then_some(())
        });
    }
}

impl Drop for FakeLlm {
    fn drop(&mut self) {
        let complaints = std::mem::take(&mut self.state.lock().complaints);
        if !std::thread::panicking() {
            assert!(
                complaints.is_empty(),
                "the model's API would refuse: {complaints:#?}"
            );
        }
    }
}

fn answer(state: &Arc<Watched<State>>, request: &Request) -> Answer {
    let api = match request.path.as_str() {
        "/v1/messages" => ANTHROPIC,
        "/v1/chat/completions" => COMPLETIONS,
        "/v1/responses" => RESPONSES,
        path => {
            let page = state.lock().pages.get(path).cloned();
            let missing = || openai::error(404, "not_found_error", path);
            return Answer::Reply(page.map_or_else(missing, |page| HttpReply::json(200, &page)));
        }
    };
    let asked = Asked {
        path: request.path.clone(),
        body: serde_json::from_slice(&request.body).unwrap_or_default(),
        raw: String::from_utf8_lossy(&request.body).into_owned(),
    };
    let reply = state.change(|state| {
        state.asked.push(asked.clone());
        if let Err((status, kind, why)) = (api.check)(state, request, &asked.body) {
            let expected = state.allowed.iter().any(|text| why.contains(text.as_str()));
            if !expected {
                state.complaints.push(why.clone());
            }
            return Err((api.error)(status, kind, &why));
        }
        let scripted = state.script.pop_front();
        let otherwise = state.otherwise.as_mut();
        scripted
            .or_else(|| otherwise.map(|responder| responder(&asked)))
            .ok_or_else(|| {
                state.complaints.push(format!(
                    "a request that the script does not know: {}",
                    asked.raw
                ));
                (api.error)(400, "invalid_request_error", "the script is at its end")
            })
    });
    let reply = match reply {
        Ok(reply) => reply,
        Err(refusal) => return Answer::Reply(refusal),
    };
    if let Some((status, headers, body)) = reply.status {
        let refusal = HttpReply::new(status, "application/json", body);
        return Answer::Reply(
            headers
                .iter()
                .fold(refusal, |reply, (name, value)| reply.header(name, value)),
        );
    }
    let stream = match &reply.raw {
        Some(raw) => raw.clone(),
        None => state.change(|state| (api.stream)(state, &reply, &asked.body)),
    };
    let ours = Arc::clone(state);
    let send = move |chunks: &mut Chunks<'_>| {
        let sent = send(chunks, &stream, &reply, &api);
        if sent.is_err() && !matches!(reply.middle, Some(Middle::Cut)) {
            ours.change(|state| state.hung_up += 1);
        }
        sent
    };
    let reply =
        HttpReply::new(200, "text/event-stream; charset=utf-8", "").header("request-id", "req_1");
    Answer::Reply(HttpReply {
        body: Body::Stream(Box::new(send)),
        ..reply
    })
}

/// The stream in small chunks that respect neither lines nor characters; its middle is the
/// end of the event nearest to it.
fn send(chunks: &mut Chunks<'_>, stream: &str, reply: &Reply, api: &Api) -> std::io::Result<()> {
    let middle = stream.as_bytes()[..stream.len() / 2]
        .windows(2)
        .rposition(|two| two == b"\n\n");
    let (first, second) = stream.as_bytes().split_at(middle.map_or(0, |at| at + 2));
    first
        .chunks(reply.chunk_bytes)
        .try_for_each(|chunk| chunks.send(chunk))?;
    match &reply.middle {
        None => {}
        Some(Middle::Cut) => {
            chunks.cut()?;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Some(Middle::Stall(gate)) => chunks.pause(gate)?,
        Some(Middle::Error(kind)) => return chunks.send((api.error_event)(kind).as_bytes()),
    }
    second
        .chunks(reply.chunk_bytes)
        .try_for_each(|chunk| chunks.send(chunk))
}

/// The deltas of a text.
fn pieces<'a>(text: &'a str, reply: &Reply) -> impl Iterator<Item = &'a str> {
    let (mut rest, size) = (text, reply.delta_bytes);
    std::iter::from_fn(move || {
        let at = (size..rest.len())
            .find(|at| rest.is_char_boundary(*at))
            .unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(at);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A tool's or a function's name, or an id.
fn is_name(value: &Value) -> bool {
    let text = value.as_str().unwrap_or("");
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(fits)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
