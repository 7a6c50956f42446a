//! One request to a model's server: POST, the event stream, and what a refusal means.
//! Nothing here knows a wire format.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::RequestBuilder;
use ureq::http::{HeaderMap, Response};

use super::models::{self, CacheLifetime, Service};
use super::prepare::Omit;
use super::{Message, Model, Turn, sse};
use crate::base::error::{Error, ModelFault, Result};
use crate::base::json;
use crate::base::log;
use crate::base::secret::{self, Secret};
use crate::base::stop::Stop;
use crate::base::text;
use crate::net::{self, HttpLimits, Net, NetFault};

/// How long a stream may be silent before it counts as stalled (PRODUCT.md, section 3).
const STREAM_IDLE_MAX: Duration = Duration::from_secs(120);
/// Before the first byte of a local server, which may be loading the model.
const LOCAL_FIRST_BYTE_MAX: Duration = Duration::from_secs(600);
/// Bytes of one event stream: 128,000 tokens in chatty events of 400 bytes are 51 MB.
const STREAM_BYTES_MAX: usize = 64 << 20;
/// Bytes of an error's body.
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Bytes of an answer about models: OpenRouter's list of them is almost one MB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Characters shown of a server's error text.
const ERROR_CHARS_MAX: usize = 400;
/// For questions about a model, whose answers are only nice to have.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// Where requests go.
pub(super) struct Endpoint {
    pub(super) net: Net,
    pub(super) service: &'static Service,
    /// Without a slash at its end.
    pub(super) base_url: String,
    pub(super) key: Option<Secret>,
    pub(super) lifetime: CacheLifetime,
    /// Set once the server has said that the model takes none.
    pub(super) no_images: AtomicBool,
}

pub(super) type Tried<T> = std::result::Result<T, Fault>;

/// Why there is no reply. A provider may know a way around what the server refused.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(Refusal),
    Other(Error),
}

impl Fault {
    pub(super) fn into_error(self, endpoint: &Endpoint, model: &Model) -> Error {
        match self {
            Fault::Refused(refusal) => refusal.into_error(endpoint, model),
            Fault::Other(err) => err,
        }
    }
}

impl From<Error> for Fault {
    fn from(err: Error) -> Fault {
        Fault::Other(err)
    }
}

/// An error as the server tells it.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// HTTP status; 200 for an error inside the stream.
    pub(super) status: u16,
    /// `type`, `code` and the like, joined by blanks.
    pub(super) code: String,
    pub(super) message: String,
    /// Lower case, without backticks: what to search for fragments.
    pub(super) body: String,
    pub(super) request_id: Option<String>,
    pub(super) after: Option<Duration>,
    pub(super) should_retry: Option<bool>,
}

impl Endpoint {
    #[cfg(test)]
    pub(super) fn for_tests(provider: &str) -> Endpoint {
        Endpoint {
            net: Net::from_env(),
            service: models::find_service(provider).unwrap(),
            base_url: "http://x".to_owned(),
            key: None,
            lifetime: CacheLifetime::FiveMinutes,
            no_images: AtomicBool::new(false),
        }
    }

    /// Sends `body` to `path` and hands each event's data to `on_data`, until that breaks
    /// or the body ends: whether all was said is for the caller to know.
    pub(super) fn stream(
        &self,
        path: &str,
        body: &str,
        stop: &Stop,
        on_data: &mut sse::OnData<'_>,
    ) -> Tried<()> {
        stop.check()?;
        let request = self
            .net
            .agent(stop, self.limits(None))
            .post(format!("{}{path}", self.base_url))
            .header("content-type", "application/json")
            .header("accept", "text/event-stream");
        let sent = self.signed(request).send(body);
        let mut response = sent.map_err(|err| self.broken(stop, &err))?;
        match (response.status().as_u16(), response.body().mime_type()) {
            (200, Some("text/html")) => {
                let name = self.service.base_url_variable;
                let text = format!("{} answers with a web page; check {name}", self.base_url);
                return Err(Error::failed(text).into());
            }
            (200, kind) if kind != Some("application/json") => {}
            _ => return Err(Fault::Refused(refusal(response))),
        }
        let mut parser = sse::Parser::default();
        let mut reader = response.body_mut().as_reader();
        let mut buffer = [0; 16 << 10];
        let mut total = 0;
        loop {
            stop.check()?;
            let count = reader
                .read(&mut buffer)
                .map_err(|err| self.broken(stop, &err))?;
            total += count;
            if total > STREAM_BYTES_MAX {
                let url = &self.base_url;
                let why = format!("{url}: the reply is larger than {STREAM_BYTES_MAX} bytes");
                return Err(Error::Failed(why).into());
            }
            if count == 0 {
                return Ok(parser.finish(on_data)?);
            }
            if parser.feed(&buffer[..count], on_data)?.is_break() {
                return Ok(());
            }
        }
    }

    /// A small JSON answer about the server or a model; `None` whatever goes wrong.
    pub(super) fn ask(&self, url: &str, body: Option<&str>, stop: &Stop) -> Option<Value> {
        let fetched = self.fetch(url, body, PROBE_MAX, stop);
        fetched.ok().map(|(answer, _)| answer)
    }

    /// Likewise, with its headers, or with what goes wrong.
    pub(super) fn fetch(
        &self,
        url: &str,
        body: Option<&str>,
        limit: Duration,
        stop: &Stop,
    ) -> Tried<(Value, HeaderMap)> {
        let agent = self.net.agent(stop, self.limits(Some(limit)));
        let sent = match body {
            Some(body) => self.signed(agent.post(url)).send(body),
            None => self.signed(agent.get(url)).call(),
        };
        let mut response = sent.map_err(|err| self.broken(stop, &err))?;
        if response.status() != 200 {
            return Err(Fault::Refused(refusal(response)));
        }
        let headers = response.headers().clone();
        let answer = serde_json::from_slice(&read_bounded(&mut response, ANSWER_BYTES_MAX));
        let answer = answer.map_err(|_| {
            let name = self.service.base_url_variable;
            Error::failed(format!("{url} does not answer with JSON; check {name}"))
        })?;
        Ok((answer, headers))
    }

    /// With the key, or what servers without keys are content with.
    fn signed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let key = self.key.as_ref().map_or("none", Secret::expose);
        match self.service.name {
            // The version works for all models as long as no sampling parameters are sent.
            "anthropic" => request
                .header("x-api-key", key)
                .header("anthropic-version", "2023-06-01"),
            _ => request.header("authorization", format!("Bearer {key}")),
        }
    }

    fn limits(&self, total: Option<Duration>) -> HttpLimits {
        HttpLimits {
            head: match self.service.local {
                true => LOCAL_FIRST_BYTE_MAX,
                false => STREAM_IDLE_MAX,
            },
            idle: STREAM_IDLE_MAX,
            total,
        }
    }

    /// A connection that failed, stalled or broke off: all worth another try.
    fn broken(&self, stop: &Stop, err: &(dyn std::error::Error + 'static)) -> Error {
        let hint = match NetFault::of(err) {
            NetFault::NotSent if self.service.local && err.to_string().contains("refused") => {
                "; is it running?"
            }
            _ => "",
        };
        let why = net::explain(&self.base_url, err) + hint;
        stop.check().err().unwrap_or(Error::Retry {
            after: None,
            why,
            fault: Some(ModelFault::NoAnswer(
                net::host_of(&self.base_url).to_owned(),
            )),
        })
    }
}

fn read_bounded(response: &mut Response<ureq::Body>, bytes_max: u64) -> Vec<u8> {
    let mut body = Vec::new();
    // What came before a failure still says something.
    response
        .body_mut()
        .as_reader()
        .take(bytes_max)
        .read_to_end(&mut body)
        .ok();
    body
}

fn refusal(mut response: Response<ureq::Body>) -> Refusal {
    let body = read_bounded(&mut response, ERROR_BYTES_MAX);
    let headers = response.headers();
    let text = String::from_utf8_lossy(&body);
    let header = |name: &str| net::header(headers, name);
    let request_id = header("request-id").or(header("x-request-id"));
    Refusal {
        status: response.status().as_u16(),
        request_id: request_id.map(str::to_owned),
        after: net::retry_after(headers),
        should_retry: header("x-should-retry").and_then(|value| value.parse().ok()),
        ..Refusal::read(&text)
    }
}

/// The number of seconds behind one of these, which some servers only tell in words:
/// `"retryDelay": "34s"` (Gemini), `Please try again in 7.66s` (Groq, OpenAI).
fn retry_after_in_words(body: &str) -> Option<Duration> {
    let rest = [
        "retrydelay\": \"",
        "retrydelay\":\"",
        "try again in ",
        "retry in ",
    ]
    .iter()
    .find_map(|words| Some(body.split_once(words)?.1))?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number = json::number(&rest[..end])?;
    let unit = match &rest[end..] {
        unit if unit.starts_with("ms") => 0.001,
        unit if unit.starts_with('s') => 1.0,
        unit if unit.starts_with('m') => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Parts that all occur in the text of an overflow, lower case. In order: Anthropic, Bedrock,
/// OpenAI and its kin, Gemini, Groq, llama.cpp, LM Studio, Ollama, xAI, Together, Copilot,
/// MiniMax, Kimi, Z.ai, Qwen, anyone.
#[rustfmt::skip]
const OVERFLOWS: &[&[&str]] = &[
    &["prompt is too long"], &["request_too_large"], &["exceed context limit"],
    &["input is too long for requested model"],
    &["context_length_exceeded"], &["exceeds the context window"], &["maximum context length"],
    &["context window exceeded"], &["maximum allowed input length"],
    &["input token count", "exceeds the maximum"],
    &["reduce the length of the messages"],
    &["exceeds the available context size"], &["exceed_context_size_error"],
    &["greater than the context length"],
    &["prompt too long"], &["exceeded max context length"], &["exceeded context length"],
    &["maximum prompt length is"],
    &["longer than the model's context length"],
    &["token", "exceeds the limit of"],
    &["context window exceeds limit"], &["exceeded model token limit"],
    &["prompt exceeds max length"], &["range of input length should be"],
    &["context length exceeded"], &["token limit exceeded"], &["too many tokens"],
    &["model_context_window_exceeded"],
];

/// Errors inside a stream that the same request would meet again.
#[rustfmt::skip]
const LASTING: &[&str] = &[
    "invalid_request", "authentication", "permission", "not_found", "billing",
    "insufficient_quota", "invalid_api_key", "invalid_prompt", "content_filter",
];

impl Refusal {
    /// Any of the shapes servers use: `{"error":{..}}`, `{"error":"text"}`, `{"message"}`,
    /// `{"detail"}`, a list of those, a page, nothing.
    pub(super) fn read(text: &str) -> Refusal {
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        let outer = json.get(0).unwrap_or(&json);
        let inner = match &outer["error"] {
            Value::Null => outer,
            error => error,
        };
        let upstream = &inner["metadata"]["raw"];
        let message = [&upstream, &&inner["message"], &&inner["detail"], &inner]
            .into_iter()
            .find_map(|value| match value {
                Value::String(text) => Some(text.clone()),
                Value::Array(items) if !items.is_empty() => Some(value.to_string()),
                _ => None,
            })
            .unwrap_or_else(|| page_text(text));
        let words = [
            &inner["type"],
            &inner["code"],
            &inner["status"],
            &inner["details"]["error_code"],
        ];
        let code = words
            .iter()
            .filter_map(|word| match word {
                Value::String(word) if word != "error" => Some(word.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .collect::<Vec<_>>()
            .join(" ");
        let body = text.to_ascii_lowercase().replace('`', "");
        Refusal {
            status: 200,
            code: cut(&code),
            message: cut(&message),
            request_id: outer["request_id"].as_str().map(str::to_owned),
            after: retry_after_in_words(&body),
            should_retry: None,
            body,
        }
    }

    pub(super) fn says(&self, fragment: &str) -> bool {
        self.body.contains(fragment)
    }

    pub(super) fn is_overflow(&self) -> bool {
        let throttled = ["rate limit", "rate_limit", "too many requests", "throttl"];
        match self.status {
            413 => true,
            401..=403 | 429 => false,
            // Cerebras.
            400 if self.body.trim().is_empty() => true,
            _ if throttled.iter().any(|word| self.says(word)) => false,
            _ => OVERFLOWS
                .iter()
                .any(|parts| parts.iter().all(|part| self.says(part))),
        }
    }

    /// Of an error inside a stream, where the status tells nothing: OpenRouter has it as code.
    fn is_lasting(&self) -> bool {
        let mut words = self.code.split(' ');
        LASTING.iter().any(|word| self.code.contains(word))
            || words.any(|word| matches!(word.parse(), Ok(400..=407_u16 | 422)))
    }

    /// What to leave out of the next try, if that may help.
    pub(super) fn remedy(&self, omit: Omit) -> Option<Omit> {
        // In backticks or not, also when bound to another conversation; OpenAI's way.
        let about_thinking =
            self.says("signature in thinking block") || self.says("encrypted content");
        // 404 at OpenRouter, 500 at llama.cpp.
        let about_images = matches!(self.status, 400 | 404 | 415 | 422 | 500) && self.says("image");
        let mut less = omit;
        match self.status {
            400 if about_thinking && !omit.thinking => less.thinking = true,
            _ => less.images |= about_images,
        }
        (less != omit).then_some(less)
    }

    /// The decision, and a sentence for a person.
    pub(super) fn into_error(self, endpoint: &Endpoint, model: &Model) -> Error {
        let service = endpoint.service;
        let status = match self.status {
            200 => "error in the stream".to_owned(),
            status => format!("HTTP {status}"),
        };
        let mut text = format!("{}/{}: {status}", service.name, model.id);
        for piece in [&self.code, &self.message] {
            if !piece.is_empty() {
                text += &format!(": {piece}");
            }
        }
        if let Some(id) = &self.request_id {
            text += &format!(" (request {})", cut(id));
        }
        // Some repeat the key they refuse.
        let text = secret::hide(text);
        if self.is_overflow() {
            return Error::ContextFull(text);
        }
        let spent = self.says("insufficient_quota") || self.says("spend_limit")
            || (self.after.is_none() && (self.says("billing") || self.says("ramp_limit")))
            // Anthropic tells when to come back, unless a spending cap is reached.
            || (service.name == "anthropic" && self.after.is_none());
        let passing = match (self.should_retry, self.status) {
            (Some(should_retry), _) => should_retry,
            (None, 429) => !spent,
            // A call the model wrote wrongly; the next one may be right.
            (None, 200 | 400) if self.says("tool_use_failed") => true,
            (None, 200) => !self.is_lasting(),
            (None, status) => matches!(status, 408 | 409) || status >= 500,
        };
        if passing {
            return Error::Retry {
                after: self.after,
                why: text,
                fault: Some(ModelFault::Overloaded),
            };
        }
        let fault = match self.status {
            401 | 403 => Some(ModelFault::KeyRefused),
            402 | 429 => Some(ModelFault::OutOfCredit),
            _ if self.says("credit balance") || self.says("insufficient_quota") => {
                Some(ModelFault::OutOfCredit)
            }
            _ => None,
        };
        Error::given_up(fault, text + &self.hint(endpoint, model))
    }

    /// How to mend it, when that is known.
    fn hint(&self, endpoint: &Endpoint, model: &Model) -> String {
        let service = endpoint.service;
        match self.status {
            401 | 403 if service.key_variables.is_empty() => String::new(),
            401 | 403 => format!("; check {}", service.key_variables.join(" or ")),
            402 | 429 => format!("; add credit or raise the limit at {}", service.name),
            404 if service.name == "ollama" => format!("; try: ollama pull {}", model.id),
            404 => match models::near(service.name, &model.id).filter(|near| *near != model.id) {
                Some(near) => format!("; did you mean {near}?"),
                None => format!("; check the model's name and {}", service.base_url_variable),
            },
            300..=399 => format!("; check {}", service.base_url_variable),
            _ => String::new(),
        }
    }
}

/// The words of an HTML page or of plain text.
fn page_text(text: &str) -> String {
    let mut words = String::new();
    let mut inside = false;
    for c in text.chars().take(20 * ERROR_CHARS_MAX) {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                words.push(' ');
            }
            _ if inside => {}
            c => words.push(c),
        }
    }
    words
}

fn cut(text: &str) -> String {
    text::one_line(text, ERROR_CHARS_MAX)
}

pub(super) fn parse_event(data: &str) -> Result<Value> {
    let broken = |err| format!("the model's server sent an event that is not JSON: {err}");
    serde_json::from_str(data).map_err(|err| Error::retry(broken(err)))
}

/// Tries `attempt` until it works, leaving out what the server takes no more. `None`: the next
/// request will be made differently.
pub(super) fn with_remedies<T>(
    endpoint: &Endpoint,
    model: &Model,
    turn: &Turn<'_>,
    mut attempt: impl FnMut(Omit) -> Tried<Option<T>>,
) -> Result<T> {
    let mut omit = Omit {
        thinking: false,
        images: endpoint.no_images.load(Ordering::Relaxed),
    };
    let has_images = turn.messages.iter().any(Message::has_image);
    loop {
        match attempt(omit) {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => continue,
            Err(Fault::Other(err)) => return Err(err),
            Err(Fault::Refused(refusal)) => match refusal.remedy(omit) {
                Some(next) if has_images || !next.images => {
                    let never = next.images && refusal.says("support");
                    endpoint.no_images.fetch_or(never, Ordering::Relaxed);
                    omit = next;
                }
                _ => return Err(refusal.into_error(endpoint, model)),
            },
        }
        let what = if omit.images { "images" } else { "thinking" };
        log::warning!("", "{}: asking again without {what}", model.id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, model, result, said, thought, turn, user};
    use std::ops::ControlFlow;

    use super::*;
    use crate::base::json::Obj;
    use crate::mutate::survive;

    /// `Retry 3`, `Full` or `Failed`, then the sentence.
    fn decide(provider: &str, status: u16, after: Option<u64>, body: &str) -> String {
        let read = Refusal::read(body);
        let refusal = Refusal {
            status,
            after: after.map(Duration::from_secs).or(read.after),
            ..read
        };
        describe(refusal.into_error(&Endpoint::for_tests(provider), &model(provider, "m")))
    }

    fn describe(err: Error) -> String {
        match err {
            Error::Retry {
                after: Some(after),
                why,
                ..
            } => format!("Retry {} {why}", after.as_secs()),
            Error::Retry {
                after: None, why, ..
            } => format!("Retry {why}"),
            Error::ContextFull(why) => format!("Full {why}"),
            Error::Failed(why) | Error::Model { why, .. } => format!("Failed {why}"),
            other => format!("{other}"),
        }
    }

    /// A server that gives one response after the other, and what it was sent.
    fn serve(
        provider: &str,
        responses: &[&str],
    ) -> (Endpoint, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let responses: Vec<String> = responses.iter().map(|text| (*text).to_owned()).collect();
        let answer = move |response: &String| {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = std::io::BufReader::new(&stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                std::io::BufRead::read_line(&mut reader, &mut request).unwrap();
            }
            let length = request.split_once("content-length: ").unwrap().1;
            let length = length.split_once("\r\n").unwrap().0.parse().unwrap();
            reader
                .by_ref()
                .take(length)
                .read_to_string(&mut request)
                .unwrap();
            std::io::Write::write_all(&mut &stream, response.as_bytes()).unwrap();
            if response.contains(": hold") {
                // Until the client hangs up.
                reader.read_exact(&mut [0]).ok();
            }
            request
        };
        let server = std::thread::spawn(move || responses.iter().map(answer).collect());
        let endpoint = Endpoint {
            base_url: format!("http://{address}"),
            ..Endpoint::for_tests(provider)
        };
        (endpoint, server)
    }

    /// A refusal, then an answer; returns the two requests.
    fn asked_again(
        provider: &str,
        refusal: &str,
        answer: &str,
        messages: &[Message],
    ) -> Vec<String> {
        let refusal = format!(
            "HTTP/1.1 400 No\r\ncontent-length: {}\r\n\r\n{refusal}",
            refusal.len()
        );
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{answer}");
        let (endpoint, server) = serve(provider, &[&refusal, &answer]);
        let model = model(provider, "claude-sonnet-5-5");
        let provider = crate::llm::open::speak(endpoint, model, 0);
        let reply = provider
            .stream(&turn(messages), &Stop::new(), &mut |_| {})
            .unwrap();
        assert_eq!(reply.blocks, [crate::llm::Block::Text("hi".to_owned())]);
        server.join().unwrap()
    }

    #[test]
    fn asks_again_without_what_was_refused() {
        let messages = [
            user("a"),
            said(vec![thought("hm", "sig"), call("1", "bash")]),
            result("1", "b"),
        ];
        let requests = asked_again(
            "anthropic",
            r#"{"error":{"type":"invalid_request_error","message":"messages.1.content.0: Invalid `signature` in `thinking` block"}}"#,
            "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"hi\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            &messages,
        );
        let counts: Vec<usize> = requests
            .iter()
            .map(|request| request.matches("\"sig\"").count())
            .collect();
        assert_eq!(counts, [1, 0]);
        let requests = asked_again(
            "openai",
            r#"{"error":{"message":"Unsupported parameter: 'max_completion_tokens'"}}"#,
            "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n",
            &messages,
        );
        let fields: Vec<bool> = requests
            .iter()
            .map(|request| request.contains("\"max_tokens\""))
            .collect();
        assert_eq!(fields, [false, true]);
    }

    #[test]
    #[rustfmt::skip]
    fn over_a_socket() {
        for (response, want) in [
            ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: a\n\ndata: b\n\n: end", "a b done"),
            ("HTTP/1.1 200 OK\r\n\r\ndata: stop\n\ndata: b\n\n", "stop done"),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", "Failed openai/m: HTTP 302; check OPENAI_BASE_URL"),
            ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>", "Failed BASE answers with a web page; check OPENAI_BASE_URL"),
            ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"error\":\"down\"}", "Retry openai/m: error in the stream: down"),
            ("HTTP/1.1 429 Slow\r\nretry-after: 7\r\nx-request-id: r1\r\n\r\n{\"message\":\"slow\"}", "Retry 7 openai/m: HTTP 429: slow (request r1)"),
            ("HTTP/1.1 500 Oh\r\nx-should-retry: false\r\n\r\n", "Failed openai/m: HTTP 500"),
            ("", "Retry the connection to BASE broke off"),
        ] {
            let (endpoint, server) = serve("openai", &[response]);
            let mut got = String::new();
            let sent = endpoint.stream("/x", "{}", &Stop::new(), &mut |data| {
                got += &format!("{data} ");
                Ok(if data == "stop" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            got += &match sent {
                Ok(()) => "done".to_owned(),
                Err(fault) => describe(fault.into_error(&endpoint, &model("openai", "m"))),
            };
            let got = got.replace(&endpoint.base_url, "BASE");
            assert!(got.starts_with(want), "{response}: {got}");
            let request = &server.join().unwrap()[0];
            assert!(request.starts_with("POST /x HTTP/1.1\r\n") && request.contains("authorization: Bearer none\r\n"), "{request}");
        }
    }

    #[test]
    fn a_stop_ends_a_silent_stream() {
        let (endpoint, server) = serve("openai", &["HTTP/1.1 200 OK\r\n\r\ndata: a\n\n: hold\n"]);
        let stop = Stop::new();
        for _ in 0..2 {
            // The second time it is set before anything is sent.
            let sent = endpoint.stream("/x", "{}", &stop, &mut |_| {
                let stop = stop.clone();
                std::thread::spawn(move || stop.set(crate::base::stop::Cause::Asked));
                Ok(ControlFlow::Continue(()))
            });
            assert!(matches!(sent, Err(Fault::Other(Error::Stopped))));
        }
        server.join().unwrap();
    }

    #[test]
    #[rustfmt::skip]
    fn refusals() {
        let quota = r#"{"error":{"message":"You exceeded your current quota, check your billing details","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        let gemini = r#"[{"error":{"code":429,"message":"quota, see billing","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34s"}]}}]"#;
        for (provider, status, after, body, want) in [
            ("anthropic", 401, None, r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}"#, "Failed anthropic/m: HTTP 401: authentication_error: invalid x-api-key (request req_1); check ANTHROPIC_API_KEY"),
            ("anthropic", 429, Some(7), r#"{"error":{"type":"rate_limit_error","message":"slow"}}"#, "Retry 7 anthropic/m: HTTP 429: rate_limit_error: slow"),
            ("anthropic", 429, None, r#"{"error":{"type":"rate_limit_error","message":"cap"}}"#, "Failed anthropic/m: HTTP 429: rate_limit_error: cap; add credit or raise the limit at anthropic"),
            ("anthropic", 402, None, r#"{"error":{"type":"billing_error","message":"x"}}"#, "Failed anthropic/m: HTTP 402: billing_error: x; add credit or raise the limit at anthropic"),
            ("anthropic", 400, None, r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"}}"#, "Full anthropic/m: HTTP 400: invalid_request_error: prompt is too long: 9 tokens > 8 maximum"),
            ("anthropic", 413, None, "", "Full anthropic/m: HTTP 413"),
            ("anthropic", 529, None, "<html><body>Over\nloaded</body></html>", "Retry anthropic/m: HTTP 529: Over loaded"),
            ("anthropic", 200, None, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, "Retry anthropic/m: error in the stream: overloaded_error: Overloaded"),
            ("anthropic", 200, None, r#"{"error":{"type":"invalid_request_error","message":"x"}}"#, "Failed anthropic/m: error in the stream: invalid_request_error: x"),
            ("anthropic", 302, None, "", "Failed anthropic/m: HTTP 302; check ANTHROPIC_BASE_URL"),
            ("openai", 429, None, quota, "Failed openai/m: HTTP 429: insufficient_quota insufficient_quota: You exceeded your current quota, check your billing details; add credit or raise the limit at openai"),
            ("openai", 429, None, r#"{"error":{"message":"Rate limit reached. Please try again in 20s.","code":"rate_limit_exceeded"}}"#, "Retry 20 openai/m: HTTP 429: rate_limit_exceeded: Rate limit reached. Please try again in 20s."),
            ("gemini", 429, None, gemini, "Retry 34 gemini/m: HTTP 429: 429 RESOURCE_EXHAUSTED: quota, see billing"),
            ("groq", 413, None, r#"{"error":{"message":"Request too large on tokens per minute","code":"rate_limit_exceeded"}}"#, "Full groq/m: HTTP 413: rate_limit_exceeded: Request too large on tokens per minute"),
            ("groq", 400, None, r#"{"error":{"message":"x","code":"tool_use_failed","failed_generation":"y"}}"#, "Retry groq/m: HTTP 400: tool_use_failed: x"),
            ("mistral", 422, None, r#"{"detail":[{"loc":["body","store"],"msg":"Extra inputs"}]}"#, r#"Failed mistral/m: HTTP 422: [{"loc":["body","store"],"msg":"Extra inputs"}]"#),
            ("ollama", 404, None, r#"{"error":"model \"m\" not found"}"#, "Failed ollama/m: HTTP 404: model \"m\" not found; try: ollama pull m"),
            ("openrouter", 402, None, r#"{"error":{"message":"Insufficient credits","code":402}}"#, "Failed openrouter/m: HTTP 402: 402: Insufficient credits; add credit or raise the limit at openrouter"),
            ("openrouter", 502, None, r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"upstream down"}}}"#, "Retry openrouter/m: HTTP 502: 502: upstream down"),
            ("cerebras", 400, None, "", "Full cerebras/m: HTTP 400"),
            ("llamacpp", 503, None, r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#, "Retry llamacpp/m: HTTP 503: unavailable_error 503: Loading model"),
        ] {
            assert_eq!(decide(provider, status, after, body), want);
        }
        let long = decide("openai", 400, None, &"\u{1F600}".repeat(5000));
        assert_eq!(
            long.chars().count(),
            "Failed openai/m: HTTP 400: ".len() + ERROR_CHARS_MAX
        );
    }

    #[test]
    fn overflows() {
        for text in [
            "input length and `max_tokens` exceed context limit: 9 + 8 > 7",
            "Input is too long for requested model.",
            "Your input exceeds the context window of this model",
            "This model's maximum context length is 8192 tokens. However, you requested 9000",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            "Please reduce the length of the messages or completion.",
            "Prompt contains 9 tokens ... too large for model with 8 maximum context length",
            "the request exceeds the available context size, try increasing it",
            "The number of tokens to keep is greater than the context length",
            "prompt too long; exceeded max context length by 7 tokens",
            "This model's maximum prompt length is 8 but the request contains 9",
            "`inputs` tokens + `max_new_tokens`: input (9 tokens) is longer than the model's context length",
            "prompt token count of 9 exceeds the limit of 8",
            "invalid params, context window exceeds limit",
            "Your request exceeded model token limit: 8",
            "Range of input length should be [1, 8]",
        ] {
            let body = Obj::new().str("error", text).end();
            assert!(
                decide("custom", 400, None, &body).starts_with("Full"),
                "{text}"
            );
            let body = Obj::new()
                .str("error", &format!("Rate limit: {text}"))
                .end();
            assert!(
                !decide("custom", 400, None, &body).starts_with("Full"),
                "{text}"
            );
        }
    }

    #[test]
    #[rustfmt::skip]
    fn remedies() {
        let images = Omit {
            images: true,
            thinking: false,
        };
        for (status, body, omit, want) in [
            (400, "messages.1.content.0: Invalid `signature` in `thinking` block", Omit::default(), Some(Omit { thinking: true, images: false, })),
            (400, "Invalid signature in thinking block", Omit { thinking: true, images: false, }, None),
            (500, "image input is not supported", Omit::default(), Some(images)),
            (400, "image", images, None),
            (529, "image", Omit::default(), None),
        ] {
            let refusal = Refusal {
                status,
                ..Refusal::read(body)
            };
            assert_eq!(refusal.remedy(omit), want, "{body}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"type":"error","error":{"type":"rate_limit_error","code":1302,"message":"slow. Please try again in 7.66s"},"request_id":"req_1"}"#,
            r#"[{"error":{"code":429,"message":"quota, see billing","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay": "34s"}]}}]"#,
            r#"{"detail":[{"loc":["body","store"],"msg":"Extra inputs"}],"error":{"metadata":{"raw":"retry in 900ms"}}}"#,
            "<html><body>Over\nloaded</body></html>",
            r#"{"error":"model \"m\" not found: max_tokens: 99999 > 8192, `context_length_exceeded`"}"#,
        ];
        let (endpoint, model) = (Endpoint::for_tests("ollama"), model("ollama", "m"));
        let statuses = [200, 302, 400, 401, 404, 413, 429, 500];
        survive(&corpus, |random, input| {
            let refusal = Refusal::read(&String::from_utf8_lossy(input));
            assert!(refusal.message.chars().count() <= ERROR_CHARS_MAX);
            assert!(refusal.code.chars().count() <= ERROR_CHARS_MAX);
            refusal.remedy(Omit::default());
            let status = statuses[random.below(statuses.len())];
            let refusal = Refusal { status, ..refusal };
            let text = refusal.into_error(&endpoint, &model).to_string();
            assert!(text.chars().count() < 4 * ERROR_CHARS_MAX, "{text}");
            assert!(!text.contains(char::is_control), "{text}");
        });
    }
}
