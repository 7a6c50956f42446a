//! What a server says when it refuses, in any of the shapes servers use, and what follows from
//! it: another try, a full window, or a failure with a sentence for the people in the channel
//! and the details for the operator.

use std::time::Duration;

use serde_json::Value;

use super::endpoint::Endpoint;
use super::{Model, models};
use crate::base::error::{Error, ModelFault};
use crate::base::json;
use crate::base::secret;
use crate::base::text;

/// Characters shown of a server's error text.
const ERROR_CHARS_MAX: usize = 400;

/// An error as the server describes it.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// HTTP status; 200 for an error inside the stream.
    pub(super) status: u16,
    /// `type`, `code` and the like, joined by blanks.
    pub(super) code: String,
    pub(super) message: String,
    /// The whole text in lower case, without backticks, to be searched for phrases. Also without
    /// backslashes: OpenRouter gives another server's JSON as a string.
    pub(super) body: String,
    pub(super) request_id: Option<String>,
    pub(super) after: Option<Duration>,
    pub(super) should_retry: Option<bool>,
}

/// Sets of phrases that all occur in the text of an overflow, lower case. In order: Anthropic,
/// Bedrock, OpenAI and its kin, Gemini, Groq, llama.cpp, LM Studio, Ollama, xAI, Together,
/// Copilot, MiniMax, Kimi, Z.ai, Qwen, any.
#[rustfmt::skip]
const OVERFLOWS: &[&[&str]] = &[
    &["prompt is too long"], &["request_too_large"], &["exceed context limit"],
    &["input is too long for requested model"],
    &["context_length_exceeded"], &["exceeds the context window"], &["maximum context length"],
    &["context window exceeded"], &["maximum allowed input length"],
    &["input token count", "exceeds the maximum"],
    &["reduce the length of the messages"],
    &["exceeds the available context size"], &["exceed_context_size_error"], &["exceed context window of"],
    &["greater than the context length"],
    &["prompt too long"], &["exceeded max context length"], &["exceeded context length"],
    &["maximum prompt length is"],
    &["longer than the model's context length"],
    &["token", "exceeds the limit of"],
    &["context window exceeds limit"], &["exceeded model token limit"],
    &["prompt exceeds max length"], &["range of input length should be"],
    &["context length exceeded"], &["token limit exceeded"], &["too many tokens"],
    &["model_context_window_exceeded"],
    // vLLM, SambaNova, text-generation-inference, Ollama, LM Studio, ExLlama, TensorRT-LLM.
    &["too long to fit into the model"], &["maximum supported sequence length"],
    &["longer than the maximum model length"], &["inputs", "must have less than", "tokens"],
    &["max_new_tokens must be <="], &["exceeds the context length"],
    &["context length of only"], &["greater than max_seq_len"],
    &["exceeds maximum input length"],
    // OpenAI: the request alone exceeds the tokens allowed per minute.
    &["request too large", "tokens per min"],
];

/// The text right before the window's size in the text of an overflow. In order: llama.cpp,
/// Mistral, OpenAI and its kin, xAI, vLLM, llama-cpp-python, Together, Copilot, Kimi, Qwen,
/// vLLM, SambaNova, Cerebras, Anthropic.
#[rustfmt::skip]
const WINDOW_MARKS: &[&str] = &[
    "\"n_ctx\"", "for model with", "maximum context length", "maximum prompt length", "maximum allowed input length",
    "context window of", "context length (", "model's context length", "context size (", "context size of",
    "context length of", "exceeds the limit of", "token limit:", "token limit of", "input length should be [1,",
    "maximum model length of", "must have less than", "must be <=", "context length of only",
    "max_seq_len", "maximum input length", "cannot exceed", "tokens allowed (",
    "(context length", "supported sequence length is", "while limit is", " > ",
];

/// The HTTP status that the code of an error inside a stream stands for.
const STATUS_OF_CODES: &[(&str, u16)] = &[
    ("insufficient_quota", 402),
    ("billing", 402),
    ("authentication", 401),
    ("invalid_api_key", 401),
    ("permission", 403),
    ("not_found", 404),
    ("rate_limit", 429),
    ("overloaded", 529),
    ("invalid_", 400),
    ("content_filter", 400),
];

/// Phrases of a refusal when there is no credit left, or a spending limit is reached.
const SPENT: &[&str] = &[
    "insufficient_quota",
    "spend_limit",
    "ramp_limit",
    "credit balance is too low",
    // xAI, Moonshot.
    "any credits",
    "exceeded_current_quota",
];

/// Phrases for a bad key that Gemini and xAI send with the status of a bad request.
const BAD_KEYS: &[&str] = &["api key not valid", "incorrect api key", "invalid api key"];

/// Phrases of a refusal that is not about the pictures in the request.
#[rustfmt::skip]
const OTHER_CAUSES: &[&str] = &[
    "authentication", "billing", "quota", "credit", "model_not_found", "tool_use_failed",
    "api key", "api_key",
];

/// Whether the field `error` of an event or a choice tells of one: some servers always send it.
pub(super) fn is_error(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Whether an event is an error in one of the shapes that servers use.
pub(super) fn is_error_object(value: &Value) -> bool {
    let kind = value["type"].as_str().unwrap_or_default();
    let is_flat =
        value["choices"].is_null() && (value["message"].is_string() || !value["detail"].is_null());
    is_error(&value["error"])
        || value["object"] == "error"
        || kind == "error"
        || kind.ends_with("_error")
        || (is_flat && kind.is_empty())
}

/// The pause that some servers name only in the text: `"retryDelay": "34s"` (Gemini), `Please
/// try again in 1h12m3.5s` (Groq, OpenAI).
fn retry_after_in_words(body: &str) -> Option<Duration> {
    let marks = [
        "retrydelay\": \"",
        "retrydelay\":\"",
        "try again in ",
        "retry in ",
    ];
    let mut rest = marks
        .iter()
        .find_map(|mark| Some(body.split_once(mark)?.1))?;
    let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let mut sum = None;
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit() && c != '.') {
        let (number, after) = rest.split_at(end);
        let unit = units.iter().find(|(unit, _)| after.starts_with(unit));
        let (Some(number), Some((unit, seconds))) = (json::number(number), unit) else {
            break;
        };
        *sum.get_or_insert(0.0) += number * seconds;
        rest = &after[unit.len()..];
    }
    Duration::try_from_secs_f64(sum?).ok()
}

impl Refusal {
    /// Reads `{"error":{..}}`, `{"error":"text"}`, `{"message"}`, `{"detail"}`, a list of those,
    /// an HTML page, or an empty text.
    pub(super) fn read(text: &str) -> Refusal {
        let json: Value = json::parse(text).unwrap_or_default();
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
                Value::Array(items) if !items.is_empty() => Some(json::text(value)),
                _ => None,
            })
            .unwrap_or_else(|| text.to_owned());
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
        let body = text.to_ascii_lowercase().replace(['`', '\\'], "");
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
        let is_named = || {
            let mut overflows = OVERFLOWS.iter();
            overflows.any(|parts| parts.iter().all(|part| self.says(part)))
        };
        match self.status {
            // Any other words are those of a web server in front of the model's.
            413 => self.body.trim().is_empty() || is_named(),
            429 => self.says("request too large") && self.says("tokens per min"),
            401..=403 => false,
            // Cerebras.
            400 if self.body.trim().is_empty() => true,
            _ if throttled.iter().any(|word| self.says(word)) => false,
            _ => is_named(),
        }
    }

    /// The window that the text of an overflow names, in tokens.
    pub(super) fn window(&self) -> Option<u64> {
        if !self.is_overflow() {
            return None;
        }
        let window = WINDOW_MARKS.iter().find_map(|mark| {
            let (_, rest) = self.body.split_once(mark)?;
            // `is 8192 tokens`, `":4096`, `(8,192)`: at most a few words come before the number.
            let start = rest.find(|c: char| c.is_ascii_digit())?;
            (start <= 16).then(|| number_at(&rest[start..]))?
        });
        window.filter(|tokens| (256..=100_000_000).contains(tokens))
    }

    /// How many pictures a request may have, where the text says so: `At most 1 image(s) may be
    /// provided` (vLLM), `Too many images in request: 5 > 4`.
    pub(super) fn pictures_max(&self) -> Option<usize> {
        let is_count = self.says("too many images") || self.says("image(s) may be provided");
        let marks = ["at most ", " > "].iter();
        let mut numbers = marks.filter_map(|mark| number_at(self.body.split_once(mark)?.1));
        let number = numbers.next().filter(|_| is_count)?;
        usize::try_from(number).ok()
    }

    /// The HTTP status; for an error inside a stream, the status that its code means.
    fn status(&self) -> u16 {
        if self.status != 200 {
            return self.status;
        }
        let mut named = self.code.split(' ').filter_map(|word| word.parse().ok());
        let named = named.find(|status| (400..600).contains(status));
        named.unwrap_or_else(|| {
            let mut codes = STATUS_OF_CODES.iter();
            codes
                .find(|(code, _)| self.code.contains(code))
                .map_or(200, |(_, status)| *status)
        })
    }

    /// Whether the request's content may be the reason, whatever the wording.
    pub(super) fn is_about_content(&self) -> bool {
        let has_other_cause = OTHER_CAUSES.iter().any(|word| self.says(word));
        match self.status() {
            400 | 415 | 422 => !has_other_cause,
            // OpenRouter; llama.cpp.
            404 | 500 => self.says("image"),
            _ => false,
        }
    }

    /// The error that the caller acts on, with the sentence for the channel and the details.
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
        // Some servers repeat the key that they refuse.
        let text = secret::hide(text);
        if self.is_overflow() {
            let setting = service.local.map(|setting| format!("; {setting}"));
            return Error::ContextFull(text + &setting.unwrap_or_default());
        }
        let (fault, hint) = self.meaning(endpoint, model);
        let may_pass = self.should_retry.unwrap_or(match fault {
            Some(ModelFault::RateLimited(_) | ModelFault::Overloaded) => true,
            Some(ModelFault::ServerFault | ModelFault::BrokenOff) => true,
            Some(_) => false,
            // The model wrote a call wrongly; the next one may be right.
            None => matches!(self.status(), 408 | 409) || self.says("tool_use_failed"),
        });
        if !may_pass {
            return Error::given_up(fault, text + &hint);
        }
        let long = self.after.filter(|pause| pause.as_secs() >= 60);
        let pause = long.map(|pause| format!("; it asks to wait {}", text::duration(pause)));
        Error::Retry {
            after: self.after,
            why: text + &pause.unwrap_or_default(),
            fault,
        }
    }

    /// What people in the channel read, and how to fix it where that is known.
    fn meaning(&self, endpoint: &Endpoint, model: &Model) -> (Option<ModelFault>, String) {
        let service = endpoint.service;
        let variable = service.base_url_variable();
        // Not another server with the same API.
        let is_anthropic = service.name == "anthropic" && endpoint.base_url == service.base_url;
        let is_capped = self.status() == 429
            && self.after.is_none()
            // Anthropic itself says when to try again, unless a spending limit is reached.
            && (self.code.contains("billing") || is_anthropic);
        if is_capped || self.status() == 402 || SPENT.iter().any(|words| self.says(words)) {
            let hint = format!("; add credit or raise the limit at {}", service.name);
            return (Some(ModelFault::OutOfCredit), hint);
        }
        let has_bad_key = BAD_KEYS.iter().any(|words| self.says(words));
        let status = match self.status() {
            400 if has_bad_key => 401,
            status => status,
        };
        match status {
            401 | 403 if service.key_variables.is_empty() => {
                (Some(ModelFault::KeyRefused), String::new())
            }
            401 | 403 => (
                Some(ModelFault::KeyRefused),
                format!("; check {}", service.key_variables.join(" or ")),
            ),
            404 => {
                let near = models::near(service.name, &model.id).filter(|near| *near != model.id);
                let hint = match near {
                    _ if service.name == "ollama" => format!("; try: ollama pull {}", model.id),
                    Some(near) => format!("; did you mean {near}?"),
                    None => format!("; check the model's name and {variable}"),
                };
                (Some(ModelFault::UnknownModel), hint)
            }
            413 => {
                let hint = "; this is the limit of a web server in front of the model's (nginx: \
                            client_max_body_size)";
                (None, hint.to_owned())
            }
            300..=399 => (None, format!("; check {variable}")),
            429 => (Some(ModelFault::RateLimited(self.after)), String::new()),
            503 | 529 => (Some(ModelFault::Overloaded), String::new()),
            500.. => (Some(ModelFault::ServerFault), String::new()),
            200 => (Some(ModelFault::BrokenOff), String::new()),
            _ => (None, String::new()),
        }
    }
}

/// The number a text begins with, also with commas in it.
fn number_at(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ',');
    let digits = text[..end.unwrap_or(text.len())].replace(',', "");
    digits.parse().ok()
}

fn cut(text: &str) -> String {
    text::one_line(text, ERROR_CHARS_MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tests::model;
    use super::*;
    use crate::mutate::survive;

    /// `Retry 3`, `Full` or `Failed`, then the details.
    pub(in crate::llm) fn describe(err: Error) -> String {
        match err {
            Error::Retry { after, why, .. } => {
                let after = after.map(|after| format!("{} ", after.as_secs()));
                format!("Retry {}{why}", after.unwrap_or_default())
            }
            Error::ContextFull(why) => format!("Full {why}"),
            Error::Failed(why) | Error::Model { why, .. } => format!("Failed {why}"),
            other => format!("{other}"),
        }
    }

    fn refusal(status: u16, after: Option<u64>, body: &str) -> Refusal {
        let read = Refusal::read(body);
        Refusal {
            status,
            after: after.map(Duration::from_secs).or(read.after),
            ..read
        }
    }

    fn decide(provider: &str, status: u16, after: Option<u64>, body: &str) -> String {
        let endpoint = Endpoint::for_tests(provider);
        describe(refusal(status, after, body).into_error(&endpoint, &model(provider, "m")))
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
            ("anthropic", 400, None, r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"}}"#, "Full anthropic/m: HTTP 400: invalid_request_error: prompt is too long: 9 tokens > 8 maximum"),
            ("anthropic", 413, None, "", "Full anthropic/m: HTTP 413"),
            ("custom", 413, None, "<html><title>413 Request Entity Too Large</title>nginx</html>", "Failed custom/m: HTTP 413: <html><title>413 Request Entity Too Large</title>nginx</html>; this is the limit of a web server in front of the model's (nginx: client_max_body_size)"),
            ("custom", 413, None, r#"{"message":"Request size limit exceeded"}"#, "Failed custom/m: HTTP 413: Request size limit exceeded; this is the limit of a web server in front of the model's (nginx: client_max_body_size)"),
            ("anthropic", 413, None, r#"{"error":{"type":"request_too_large","message":"big"}}"#, "Full anthropic/m: HTTP 413: request_too_large: big"),
            ("custom", 429, Some(3600), r#"{"message":"slow"}"#, "Retry 3600 custom/m: HTTP 429: slow; it asks to wait 1h 0m"),
            ("custom", 200, None, r#"{"object":"error","message":"engine gave up","code":500}"#, "Retry custom/m: error in the stream: 500: engine gave up"),
            ("anthropic", 529, None, "<html><body>Over\nloaded</body></html>", "Retry anthropic/m: HTTP 529: <html><body>Over loaded</body></html>"),
            ("anthropic", 200, None, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, "Retry anthropic/m: error in the stream: overloaded_error: Overloaded"),
            ("anthropic", 200, None, r#"{"error":{"type":"invalid_request_error","message":"x"}}"#, "Failed anthropic/m: error in the stream: invalid_request_error: x"),
            ("openai", 429, None, quota, "Failed openai/m: HTTP 429: insufficient_quota insufficient_quota: You exceeded your current quota, check your billing details; add credit or raise the limit at openai"),
            ("openai", 429, None, r#"{"error":{"message":"Rate limit reached. Please try again in 20s.","code":"rate_limit_exceeded"}}"#, "Retry 20 openai/m: HTTP 429: rate_limit_exceeded: Rate limit reached. Please try again in 20s."),
            ("groq", 429, None, r#"{"message":"Please try again in 1h12m3.5s."}"#, "Retry 4323 groq/m: HTTP 429: Please try again in 1h12m3.5s.; it asks to wait 1h 12m"),
            ("groq", 429, None, r#"{"message":"Please try again in 1m30s"}"#, "Retry 90 groq/m: HTTP 429: Please try again in 1m30s; it asks to wait 1m 30s"),
            ("groq", 429, None, r#"{"message":"Please try again in 900ms."}"#, "Retry 0 groq/m: HTTP 429: Please try again in 900ms."),
            ("gemini", 429, None, gemini, "Retry 34 gemini/m: HTTP 429: 429 RESOURCE_EXHAUSTED: quota, see billing"),
            ("custom", 413, None, "request entity too large", "Failed custom/m: HTTP 413: request entity too large; this is the limit of a web server in front of the model's (nginx: client_max_body_size)"),
            ("openai", 429, None, r#"{"error":{"message":"Request too large for gpt on tokens per min (TPM): Limit 30000, Requested 45000.","code":"rate_limit_exceeded"}}"#, "Full openai/m: HTTP 429: rate_limit_exceeded: Request too large for gpt on tokens per min (TPM): Limit 30000, Requested 45000."),
            ("xai", 400, None, r#"{"error":"Incorrect API key provided: xa***."}"#, "Failed xai/m: HTTP 400: Incorrect API key provided: xa***.; check XAI_API_KEY"),
            ("groq", 400, None, r#"{"error":{"message":"x","code":"tool_use_failed","failed_generation":"y"}}"#, "Retry groq/m: HTTP 400: tool_use_failed: x"),
            ("ollama", 404, None, r#"{"error":"model \"m\" not found"}"#, "Failed ollama/m: HTTP 404: model \"m\" not found; try: ollama pull m"),
            ("openrouter", 502, None, r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"upstream down"}}}"#, "Retry openrouter/m: HTTP 502: 502: upstream down"),
            ("cerebras", 400, None, "", "Full cerebras/m: HTTP 400"),
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
    #[rustfmt::skip]
    fn overflows_and_the_window_they_name() {
        for (text, want) in [
            ("input length and `max_tokens` exceed context limit: 9 + 8 > 7", None),
            ("Input is too long for requested model.", None),
            ("Your input exceeds the context window of this model", None),
            ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in the completion)", Some(8192)),
            ("maximum context length is 8 tokens", None),
            ("maximum context length of 131,072 tokens exceeded", Some(131_072)),
            ("prompt is too long: 210000 tokens > 200000 maximum", Some(200_000)),
            ("The input token count (9) exceeds the maximum number of tokens allowed (8).", None),
            ("Please reduce the length of the messages or completion.", None),
            ("Prompt contains 9000 tokens, too large for model with 8192 maximum context length", Some(8192)),
            (r#"the request exceeds the available context size","n_prompt_tokens":9000,"n_ctx":4096"#, Some(4096)),
            ("The number of tokens to keep is greater than the context length", None),
            ("prompt too long; exceeded max context length by 7 tokens", None),
            ("maximum prompt length is 131072 but the request contains 200000 tokens", Some(131_072)),
            ("Requested tokens (2285) exceed context window of 2048", Some(2048)),
            ("input (9000 tokens) is longer than the model's context length (8192 tokens)", Some(8192)),
            ("prompt token count of 90000 exceeds the limit of 64000", Some(64_000)),
            ("invalid params, context window exceeds limit", None),
            ("Your request exceeded model token limit: 262144", Some(262_144)),
            ("Range of input length should be [1, 30720]", Some(30_720)),
            ("the input length exceeds the context length", None),
            ("The decoder prompt (length 5021) is longer than the maximum model length of 4096.", Some(4096)),
            ("`inputs` must have less than 4096 tokens. Given: 5000", Some(4096)),
            ("`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens", Some(8193)),
            ("the model is loaded with context length of only 4096 tokens, which is not enough", Some(4096)),
            ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", Some(1_048_576)),
            ("too many tokens: the prompt cannot exceed 4081 - received 5000", Some(4081)),
            ("Prompt length 9000 is greater than max_seq_len 8192", Some(8192)),
            ("The prompt (total length 20000) is too long to fit into the model (context length 16384). Make sure that `max_model_len` is no smaller", Some(16_384)),
            ("generating 4096 tokens requires a sequence length of 24096, but the maximum supported sequence length is just 16384!", Some(16_384)),
            ("Please reduce the length of the messages or completion. Current length is 20000 while limit is 16384", Some(16_384)),
            (r#"{"error":{"metadata":{"raw":"{\"message\":\"exceeds the available context size\",\"n_ctx\":16384}"}}}"#, Some(16_384)),
            ("prompt length (9000) exceeds maximum input length (8192)", Some(8192)),
        ] {
            let found = refusal(400, None, text);
            assert!(found.is_overflow(), "{text}");
            assert_eq!(found.window(), want, "{text}");
            let limited = refusal(400, None, &format!("Rate limit: {text}"));
            assert!(!limited.is_overflow() && limited.window().is_none(), "{text}");
        }
        assert_eq!(refusal(400, None, "no such model, maximum 8192").window(), None);
    }

    #[test]
    #[rustfmt::skip]
    fn sentences_for_the_people() {
        for (provider, status, after, body, want) in [
            ("anthropic", 401, None, "", "the model's key is refused"),
            ("openai", 429, None, "insufficient_quota", "there is no credit left for the model"),
            ("openrouter", 402, None, "", "there is no credit left for the model"),
            ("anthropic", 400, None, "Your credit balance is too low", "there is no credit left for the model"),
            ("gemini", 400, None, "API key not valid. Please pass a valid API key.", "the model's key is refused"),
            ("xai", 403, None, "Your team doesn't have any credits yet", "there is no credit left for the model"),
            ("custom", 429, None, "exceeded_current_quota_error", "there is no credit left for the model"),
            ("custom", 429, Some(3600), "", "the model's rate limit is reached: try again in 1h 0m"),
            ("custom", 429, Some(5), "", "the model's rate limit is reached: try again later"),
            ("anthropic", 529, None, "", "the model is overloaded: try again later"),
            ("anthropic", 200, None, r#"{"error":{"type":"overloaded_error"}}"#, "the model is overloaded: try again later"),
            ("openai", 404, None, "", "the model is not known to its service"),
        ] {
            let endpoint = Endpoint::for_tests(provider);
            let err = refusal(status, after, body).into_error(&endpoint, &model(provider, "m"));
            let (Error::Model { fault, .. } | Error::Retry { fault: Some(fault), .. }) = err else {
                panic!("{status}: {err}");
            };
            assert_eq!(fault.to_string(), want);
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
            refusal.window();
            let status = statuses[random.below(statuses.len())];
            let refusal = Refusal { status, ..refusal };
            let text = refusal.into_error(&endpoint, &model).to_string();
            assert!(text.chars().count() < 4 * ERROR_CHARS_MAX, "{text}");
            assert!(!text.contains(char::is_control), "{text}");
        });
    }
}
