//! One request to a model's server: POST, the event stream, and what a refusal means.
//! Nothing here knows a wire format.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response};

use super::models::{self, Service};
use super::prepare::Omit;
use super::{LOCAL_FIRST_BYTE_MAX, Message, Model, STREAM_IDLE_MAX, Turn, sse};
use crate::error::{Error, Result};
use crate::net::{Limits, Net};
use crate::secret::Secret;
use crate::stop::Stop;
use crate::{log, text, time};

/// Bytes of one event stream: 128,000 tokens in chatty events of 400 bytes are 51 MB.
const STREAM_BYTES_MAX: usize = 128 << 20;
/// Bytes of an error's body, or of an answer about a model.
const BODY_BYTES_MAX: u64 = 256 << 10;
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
    /// Set once the server has said that the model takes none.
    pub(super) no_images: AtomicBool,
}

/// Why there is no reply. A provider may know a way around what the server refused.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(Refusal),
    Other(Error),
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
            no_images: AtomicBool::new(false),
        }
    }

    /// Sends `body` to `path` and hands each event's data to `on_data`, until that breaks
    /// or the server is done. Says whether it broke: some servers just stop.
    pub(super) fn stream(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        stop: &Stop,
        on_data: &mut sse::OnData<'_>,
    ) -> std::result::Result<ControlFlow<()>, Fault> {
        stop.check()?;
        let agent = self.net.agent(stop, self.limits());
        let mut request = agent
            .post(format!("{}{path}", self.base_url))
            .config()
            .http_status_as_error(false)
            // A redirect would take the key along to wherever it points.
            .max_redirects(0)
            .build()
            .header("content-type", "application/json")
            .header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body).map_err(|err| self.broken(stop, &err))?;
        let kind = response.body().mime_type().unwrap_or_default();
        let is_page = kind.ends_with("json") || kind.ends_with("html");
        if response.status() != 200 || is_page {
            return Err(Fault::Refused(refusal(response)));
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
                return Err(Fault::Other(Error::failed(format!(
                    "{}: the reply is larger than {STREAM_BYTES_MAX} bytes",
                    self.base_url
                ))));
            }
            if count == 0 {
                return Ok(parser.finish(on_data)?);
            }
            if parser.feed(&buffer[..count], on_data)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// A small JSON answer about the server or a model; `None` whatever goes wrong.
    pub(super) fn ask(&self, url: &str, body: Option<&str>, stop: &Stop) -> Option<Value> {
        let agent = self.net.agent(stop, self.limits());
        let sent = match body {
            Some(body) => agent
                .post(url)
                .config()
                .timeout_global(Some(PROBE_MAX))
                .build()
                .send(body),
            None => agent
                .get(url)
                .config()
                .timeout_global(Some(PROBE_MAX))
                .build()
                .header("authorization", format!("Bearer {}", self.bearer()))
                .call(),
        };
        let mut response = sent.ok().filter(|response| response.status() == 200)?;
        serde_json::from_slice(&read_bounded(&mut response)).ok()
    }

    /// The key, or what servers without keys are content with.
    pub(super) fn bearer(&self) -> &str {
        self.key.as_ref().map_or("none", Secret::expose)
    }

    fn limits(&self) -> Limits {
        Limits {
            first_byte: match self.service.local {
                true => LOCAL_FIRST_BYTE_MAX,
                false => STREAM_IDLE_MAX,
            },
            idle: STREAM_IDLE_MAX,
            // A long answer is no stall.
            total: None,
        }
    }

    /// A connection that failed, stalled or broke off: all worth another try.
    fn broken(&self, stop: &Stop, err: &dyn std::fmt::Display) -> Error {
        match stop.check() {
            Err(stopped) => stopped,
            Ok(()) => Error::retry(format!("cannot reach {}: {err}", self.base_url)),
        }
    }
}

fn read_bounded(response: &mut Response<ureq::Body>) -> Vec<u8> {
    let mut body = Vec::new();
    // What came before a failure still says something.
    response
        .body_mut()
        .as_reader()
        .take(BODY_BYTES_MAX)
        .read_to_end(&mut body)
        .ok();
    body
}

fn refusal(mut response: Response<ureq::Body>) -> Refusal {
    let body = read_bounded(&mut response);
    let headers = response.headers();
    let text = String::from_utf8_lossy(&body);
    let request_id = ["request-id", "x-request-id"];
    Refusal {
        status: response.status().as_u16(),
        request_id: request_id
            .iter()
            .find_map(|name| header(headers, name))
            .map(str::to_owned),
        after: retry_after(headers, time::now_ms()),
        should_retry: header(headers, "x-should-retry").and_then(|value| value.parse().ok()),
        ..Refusal::read(&text)
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    if let Some(ms) = header(headers, "retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let value = header(headers, "retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()?;
    let ms = date.as_millisecond().saturating_sub(now_ms);
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
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
    let number: f64 = rest[..end].parse().ok()?;
    let unit = match &rest[end..] {
        unit if unit.starts_with("ms") => 0.001,
        unit if unit.starts_with('s') => 1.0,
        unit if unit.starts_with('m') => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Parts that all occur in the text of an overflow, by service; lower case.
const OVERFLOWS: &[&[&str]] = &[
    &["prompt is too long"],
    &["request_too_large"],
    &["exceed context limit"],
    &["input is too long for requested model"],
    &["context_length_exceeded"],
    &["exceeds the context window"],
    &["maximum context length"],
    &["context window exceeded"],
    &["maximum allowed input length"],
    &["input token count", "exceeds the maximum"],
    &["reduce the length of the messages"],
    &["exceeds the available context size"],
    &["exceed_context_size_error"],
    &["greater than the context length"],
    &["prompt too long"],
    &["exceeded max context length"],
    &["exceeded context length"],
    &["maximum prompt length is"],
    &["longer than the model's context length"],
    &["token", "exceeds the limit of"],
    &["context window exceeds limit"],
    &["exceeded model token limit"],
    &["prompt exceeds max length"],
    &["range of input length should be"],
    &["context length exceeded"],
    &["token limit exceeded"],
    &["too many tokens"],
    &["model_context_window_exceeded"],
];

/// Errors inside a stream that the same request would meet again.
const LASTING: &[&str] = &[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "billing",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_prompt",
    "content_filter",
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
        let body = text.to_lowercase().replace('`', "");
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

    fn is_overflow(&self) -> bool {
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

    /// What to leave out of the next try, if that may help.
    pub(super) fn remedy(&self, omit: Omit) -> Option<Omit> {
        // In backticks or not; also when bound to another conversation.
        if self.status == 400 && !omit.thinking && self.says("signature in thinking block") {
            return Some(Omit {
                thinking: true,
                ..omit
            });
        }
        // 404 at OpenRouter, 500 at llama.cpp.
        let about_images = matches!(self.status, 400 | 404 | 415 | 422 | 500) && self.says("image");
        (about_images && !omit.images).then_some(Omit {
            images: true,
            ..omit
        })
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
            (None, 200) => !LASTING.iter().any(|word| self.code.contains(word)),
            // A call the model wrote wrongly; the next one may be right.
            (None, 400) => self.says("tool_use_failed"),
            (None, status) => matches!(status, 408 | 409) || status >= 500,
        };
        if passing {
            return Error::Retry {
                after: self.after,
                why: text,
            };
        }
        Error::Failed(text + &self.hint(endpoint, model))
    }

    /// How to mend it, when that is known.
    fn hint(&self, endpoint: &Endpoint, model: &Model) -> String {
        let service = endpoint.service;
        match self.status {
            401 | 403 if service.key_variables.is_empty() => String::new(),
            401 | 403 => format!("; check {}", service.key_variables.join(" or ")),
            402 | 429 => format!("; add credit or raise the limit at {}", service.name),
            404 if service.name == "ollama" => format!("; try: ollama pull {}", model.id),
            404 => match models::near(service.name, &model.id) {
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
    text::one_line(text, ERROR_CHARS_MAX).trim().to_owned()
}

/// Tries `attempt` until it works, leaving out what the server takes no more.
pub(super) fn with_remedies<T>(
    endpoint: &Endpoint,
    model: &Model,
    turn: &Turn<'_>,
    mut attempt: impl FnMut(Omit) -> std::result::Result<T, Fault>,
) -> Result<T> {
    let mut omit = Omit {
        thinking: false,
        images: endpoint.no_images.load(Ordering::Relaxed),
    };
    let has_images = turn.messages.iter().any(Message::has_image);
    loop {
        match attempt(omit) {
            Ok(done) => return Ok(done),
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
    use super::super::tests::model;
    use super::*;
    use crate::json::Obj;

    /// `Retry 3`, `Full` or `Failed`, then the sentence.
    fn decide(provider: &str, status: u16, after: Option<u64>, body: &str) -> String {
        let read = Refusal::read(body);
        let refusal = Refusal {
            status,
            after: after.map(Duration::from_secs).or(read.after),
            ..read
        };
        match refusal.into_error(&Endpoint::for_tests(provider), &model(provider, "m")) {
            Error::Retry {
                after: Some(after),
                why,
            } => format!("Retry {} {why}", after.as_secs()),
            Error::Retry { after: None, why } => format!("Retry {why}"),
            Error::ContextFull(why) => format!("Full {why}"),
            Error::Failed(why) => format!("Failed {why}"),
            other => format!("{other}"),
        }
    }

    #[test]
    fn refusals() {
        let quota = r#"{"error":{"message":"You exceeded your current quota, check your billing details","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        let gemini = r#"[{"error":{"code":429,"message":"quota, see billing","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34s"}]}}]"#;
        for (provider, status, after, body, want) in [
            (
                "anthropic",
                401,
                None,
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}"#,
                "Failed anthropic/m: HTTP 401: authentication_error: invalid x-api-key (request req_1); check ANTHROPIC_API_KEY",
            ),
            (
                "anthropic",
                429,
                Some(7),
                r#"{"error":{"type":"rate_limit_error","message":"slow"}}"#,
                "Retry 7 anthropic/m: HTTP 429: rate_limit_error: slow",
            ),
            (
                "anthropic",
                429,
                None,
                r#"{"error":{"type":"rate_limit_error","message":"cap"}}"#,
                "Failed anthropic/m: HTTP 429: rate_limit_error: cap; add credit or raise the limit at anthropic",
            ),
            (
                "anthropic",
                402,
                None,
                r#"{"error":{"type":"billing_error","message":"x"}}"#,
                "Failed anthropic/m: HTTP 402: billing_error: x; add credit or raise the limit at anthropic",
            ),
            (
                "anthropic",
                400,
                None,
                r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"}}"#,
                "Full anthropic/m: HTTP 400: invalid_request_error: prompt is too long: 9 tokens > 8 maximum",
            ),
            ("anthropic", 413, None, "", "Full anthropic/m: HTTP 413"),
            (
                "anthropic",
                529,
                None,
                "<html><body>Over\nloaded</body></html>",
                "Retry anthropic/m: HTTP 529: Over loaded",
            ),
            (
                "anthropic",
                200,
                None,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                "Retry anthropic/m: error in the stream: overloaded_error: Overloaded",
            ),
            (
                "anthropic",
                200,
                None,
                r#"{"error":{"type":"invalid_request_error","message":"x"}}"#,
                "Failed anthropic/m: error in the stream: invalid_request_error: x",
            ),
            (
                "anthropic",
                302,
                None,
                "",
                "Failed anthropic/m: HTTP 302; check ANTHROPIC_BASE_URL",
            ),
            (
                "openai",
                429,
                None,
                quota,
                "Failed openai/m: HTTP 429: insufficient_quota insufficient_quota: You exceeded your current quota, check your billing details; add credit or raise the limit at openai",
            ),
            (
                "openai",
                429,
                None,
                r#"{"error":{"message":"Rate limit reached. Please try again in 20s.","code":"rate_limit_exceeded"}}"#,
                "Retry 20 openai/m: HTTP 429: rate_limit_exceeded: Rate limit reached. Please try again in 20s.",
            ),
            (
                "gemini",
                429,
                None,
                gemini,
                "Retry 34 gemini/m: HTTP 429: 429 RESOURCE_EXHAUSTED: quota, see billing",
            ),
            (
                "groq",
                413,
                None,
                r#"{"error":{"message":"Request too large on tokens per minute","code":"rate_limit_exceeded"}}"#,
                "Full groq/m: HTTP 413: rate_limit_exceeded: Request too large on tokens per minute",
            ),
            (
                "groq",
                400,
                None,
                r#"{"error":{"message":"x","code":"tool_use_failed","failed_generation":"y"}}"#,
                "Retry groq/m: HTTP 400: tool_use_failed: x",
            ),
            (
                "mistral",
                422,
                None,
                r#"{"detail":[{"loc":["body","store"],"msg":"Extra inputs"}]}"#,
                r#"Failed mistral/m: HTTP 422: [{"loc":["body","store"],"msg":"Extra inputs"}]"#,
            ),
            (
                "ollama",
                404,
                None,
                r#"{"error":"model \"m\" not found"}"#,
                "Failed ollama/m: HTTP 404: model \"m\" not found; try: ollama pull m",
            ),
            (
                "openrouter",
                402,
                None,
                r#"{"error":{"message":"Insufficient credits","code":402}}"#,
                "Failed openrouter/m: HTTP 402: 402: Insufficient credits; add credit or raise the limit at openrouter",
            ),
            (
                "openrouter",
                502,
                None,
                r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"upstream down"}}}"#,
                "Retry openrouter/m: HTTP 502: 502: upstream down",
            ),
            ("cerebras", 400, None, "", "Full cerebras/m: HTTP 400"),
            (
                "llamacpp",
                503,
                None,
                r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
                "Retry llamacpp/m: HTTP 503: unavailable_error 503: Loading model",
            ),
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
    fn remedies() {
        let images = Omit {
            images: true,
            thinking: false,
        };
        for (status, body, omit, want) in [
            (
                400,
                "messages.1.content.0: Invalid `signature` in `thinking` block",
                Omit::default(),
                Some(Omit {
                    thinking: true,
                    images: false,
                }),
            ),
            (
                400,
                "Invalid signature in thinking block",
                Omit {
                    thinking: true,
                    images: false,
                },
                None,
            ),
            (
                500,
                "image input is not supported",
                Omit::default(),
                Some(images),
            ),
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
    fn waits() {
        for (name, value, want_ms) in [
            ("retry-after", "7", Some(7000)),
            ("retry-after", "0.5", Some(500)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Mon, 05 Jan 2026 09:12:54 GMT", Some(10_000)),
            ("retry-after", "Mon, 05 Jan 2026 09:12:00 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "1e99", None),
            ("retry-after", "soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let wait = retry_after(&headers, 1_767_604_364_000);
            assert_eq!(
                wait.map(|wait| wait.as_millis()),
                want_ms,
                "{name}: {value}"
            );
        }
    }
}
