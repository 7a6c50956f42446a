//! One run with two tools and an image for every quirk of the servers that imitate OpenAI, and for
//! the Responses API: the built program against strict fakes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::llm::{Asked, FakeLlm, KEY, OPENAI_KEY, Reply};
use crate::mom::{Call, Ended};
use crate::scratch::Scratch;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
const ANSWER: &str = "A dot and 42.";

/// A conversation with one service.
struct Talk {
    home: Arc<Scratch>,
    llm: FakeLlm,
}

impl Talk {
    fn new() -> Talk {
        let home = Arc::new(Scratch::new());
        home.write("data/dot.png", PNG);
        home.write("data/settings.json", r#"{"retry": {"baseDelayMs": 100}}"#);
        let llm = FakeLlm::start();
        Talk { home, llm }
    }

    /// Arguments of the two calls: `bash` prints 42, `read` shows the image.
    fn arguments(&self) -> [String; 2] {
        let path = self.home.path("data/dot.png");
        [
            json!({"label": "Count", "command": "echo $((6 * 7))"}).to_string(),
            json!({"label": "Look", "path": path}).to_string(),
        ]
    }

    fn run(&self, model: &str) -> Ended {
        self.say(model, "count and look\n")
    }

    fn say(&self, model: &str, lines: &str) -> Ended {
        let provider = model.split('/').next().unwrap();
        // The one place for a key that all of them have.
        let auth = json!({provider: {"type": "api_key", "key": OPENAI_KEY}});
        self.home.write(".pi/mom/auth.json", auth.to_string());
        let variable = match provider {
            "custom" => "OPENAI_BASE_URL".to_owned(),
            name => format!("{}_BASE_URL", name.to_uppercase()),
        };
        Call::new(&self.home)
            .env(&variable, &format!("{}/v1", self.llm.url()))
            .arg("--chat")
            .arg(&format!("--model={model}"))
            .env("MOM_PRICE", "1,2")
            .data()
            .run(lines)
    }

    /// The service sends both calls in one piece, with these ids.
    fn both(&self, bash: &str, read: &str) -> String {
        let [count, look] = self.arguments();
        calls(&json!([
            whole(bash, "bash", &count, &json!({"index": 0})),
            whole(read, "read", &look, &json!({"index": 1}))
        ]))
    }

    /// The calls come in this stream, the answer after them.
    fn plays(&self, model: &str, sse: &str) -> Vec<Asked> {
        self.llm.reply_raw(sse);
        self.llm.reply_text(ANSWER);
        self.check(model)
    }

    /// Checks that both tools ran, that the model got their results, and the person only the
    /// answer.
    fn check(&self, model: &str) -> Vec<Asked> {
        let ended = self.run(model);
        assert_eq!(ended.code, Some(0), "{model}: {ended:?}");
        assert!(ended.stdout.contains(ANSWER), "{model}: {ended:?}");
        for secret in ["PONDER", "think>"] {
            assert!(!ended.stdout.contains(secret), "{model}: {ended:?}");
        }
        let asked = self.llm.requests();
        let last = asked.last().unwrap();
        assert!(last.path.ends_with("/chat/completions"), "{model}");
        let messages = last.body["messages"].as_array().unwrap();
        let roles: Vec<&str> = messages
            .iter()
            .map(|message| message["role"].as_str().unwrap())
            .collect();
        let want: &[&str] = match model.starts_with("mistral/") {
            true => &[
                "system",
                "user",
                "assistant",
                "tool",
                "tool",
                "assistant",
                "user",
            ],
            false => &["system", "user", "assistant", "tool", "tool", "user"],
        };
        assert_eq!(roles, want, "{model}");
        let calls = messages[2]["tool_calls"].as_array().unwrap();
        for (n, name) in ["bash", "read"].into_iter().enumerate() {
            let (call, result) = (&calls[n], &messages[3 + n]);
            assert_eq!(call["function"]["name"], name, "{model}");
            assert_eq!(
                call["function"]["arguments"],
                self.arguments()[n],
                "{model}"
            );
            assert_eq!(call["id"], result["tool_call_id"], "{model}");
        }
        assert!(messages[3]["content"].as_str().unwrap().contains("42"));
        let image = messages.last().unwrap()["content"].as_array().unwrap();
        assert_eq!(image[1]["type"], "image_url", "{model}");
        asked
    }

    /// input, output of the last reply in the context file
    fn usage(&self) -> (u64, u64) {
        let entries = self.home.jsonl("data/TERMINAL/context.jsonl");
        let said = entries
            .iter()
            .rfind(|entry| entry["message"]["role"] == "assistant")
            .unwrap();
        let usage = &said["message"]["usage"];
        (
            usage["input"].as_u64().unwrap(),
            usage["output"].as_u64().unwrap(),
        )
    }
}

fn data(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

fn delta(delta: &Value) -> String {
    data(&json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}))
}

fn end(reason: &str) -> String {
    data(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
        + "data: [DONE]\n\n"
}

fn calls(calls: &Value) -> String {
    delta(&json!({"tool_calls": calls}))
}

/// A call `{"id", "function": {"name", "arguments"}}` with the fields of `more` in it.
fn whole(id: &str, name: &str, arguments: &str, more: &Value) -> Value {
    let mut call =
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    call.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    call
}

#[test]
fn fragments_without_index() {
    let talk = Talk::new();
    let mut sse = String::new();
    for ((id, name), arguments) in [("a", "bash"), ("b", "read")]
        .into_iter()
        .zip(talk.arguments())
    {
        sse += &calls(&json!([whole(id, name, "", &json!({}))]));
        for piece in arguments.split_inclusive(' ') {
            sse += &calls(&json!([{"function": {"arguments": piece}}]));
        }
    }
    talk.plays("custom/m", &(sse + &end("tool_calls")));
}

#[test]
fn interleaved_fragments_with_id_and_name_in_each() {
    let talk = Talk::new();
    let [bash, read] = talk.arguments();
    let (bash, read) = (bash.split_at(9), read.split_at(20));
    let mut sse = String::new();
    for (bash, read) in [(bash.0, read.0), (bash.1, read.1)] {
        sse += &calls(&json!([
            whole("a", "bash", bash, &json!({"index": 0})),
            whole("b", "read", read, &json!({"index": 1}))
        ]));
    }
    talk.plays("vllm/m", &(sse + &end("tool_calls")));
}

#[test]
fn whole_calls_all_of_index_zero() {
    let talk = Talk::new();
    let [bash, read] = talk.arguments();
    let sse = calls(&json!([whole("a", "bash", &bash, &json!({"index": 0}))]))
        + &calls(&json!([whole("b", "read", &read, &json!({"index": 0}))]));
    talk.plays("together/m", &(sse + &end("tool_calls")));
}

#[test]
fn one_id_for_two_calls() {
    let talk = Talk::new();
    let sse = talk.both("call", "call");
    let asked = talk.plays("zai/m", &(sse + &end("tool_calls")));
    let calls = &asked[1].body["messages"][2]["tool_calls"];
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[test]
fn gemini_without_ids_and_with_signatures() {
    let talk = Talk::new();
    let [bash, read] = talk.arguments();
    let signed = json!({"index": 0, "extra_content": {"google": {"thought_signature": "SIG=="}}});
    let sse = calls(&json!([
        whole("", "bash", &bash, &signed),
        whole("", "read", &read, &json!({"index": 1}))
    ]));
    let asked = talk.plays("gemini/gemini-3.8-flash", &(sse + &end("stop")));
    let calls = &asked[1].body["messages"][2]["tool_calls"];
    let signature = "/0/extra_content/google/thought_signature";
    assert_eq!(calls.pointer(signature), Some(&json!("SIG==")));
}

#[test]
fn mistral_has_its_own_rules() {
    let talk = Talk::new();
    let sse = delta(
        &json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "PONDER"}]}]}),
    ) + &talk.both("call_00000000001", "call_00000000002");
    let asked = talk.plays("mistral/mistral-large-4", &(sse + &end("tool_calls")));
    for request in &asked {
        const KNOWN: &[&str] = &["model", "max_tokens", "stream", "tools", "messages"];
        let body = request.body.as_object().unwrap();
        let unknown = body.keys().find(|key| !KNOWN.contains(&key.as_str()));
        assert_eq!(unknown, None);
    }
    let said = &asked[1].body["messages"][2];
    assert!(said["content"].is_string(), "{said}");
    for call in said["tool_calls"].as_array().unwrap() {
        let id = call["id"].as_str().unwrap();
        let fits = id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        assert!(fits, "{id}");
    }
}

#[test]
fn ollama_stops_with_calls_and_reasons_beside() {
    let talk = Talk::new();
    let sse = delta(&json!({"role": "assistant", "content": "", "reasoning": "PONDER"}))
        + &talk.both("a", "b");
    talk.plays("ollama/m", &(sse + &end("stop")));
}

#[test]
fn usage_inside_a_choice() {
    let talk = Talk::new();
    let sse = talk.both("bash:0", "read:1");
    talk.llm.reply_raw(&(sse + &end("tool_calls")));
    let usage = json!({"prompt_tokens": 50, "completion_tokens": 7, "cached_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 20}});
    let last =
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]});
    talk.llm
        .reply_raw(&(delta(&json!({"content": ANSWER})) + &data(&last)));
    talk.check("moonshot/m");
    assert_eq!(talk.usage(), (30, 7));
}

#[test]
fn openrouter_keeps_alive_and_wants_its_reasoning_back() {
    let talk = Talk::new();
    let details = json!([{"type": "reasoning.encrypted", "data": "SEALED", "id": "r", "index": 0}]);
    let sse = ": OPENROUTER PROCESSING\n\n".repeat(3)
        + &delta(&json!({"reasoning": "PONDER", "reasoning_details": details}))
        + ": OPENROUTER PROCESSING\n\n"
        + &talk.both("a", "b");
    let sse = (sse + &end("tool_calls")).replace('\n', "\r\n");
    talk.llm.reply_raw(&sse);
    talk.llm.reply_text(ANSWER);
    let asked = talk.check("openrouter/v/m");
    assert_eq!(asked[1].body["messages"][2]["reasoning_details"], details);
}

#[test]
fn deepseek_wants_its_reasoning_back() {
    let talk = Talk::new();
    let sse =
        delta(&json!({"content": null, "reasoning_content": "PONDER"})) + &talk.both("a", "b");
    let asked = talk.plays("deepseek/m", &(sse + &end("tool_calls")));
    let said = &asked[1].body["messages"][2];
    assert_eq!(said["reasoning_content"], "PONDER");
}

#[test]
fn think_tags_in_pieces_and_no_last_word() {
    let talk = Talk::new();
    let thought = || {
        ["<th", "ink>PON", "DER</thi", "nk>\n\n"]
            .map(|piece| delta(&json!({"content": piece})))
            .concat()
    };
    let sse = thought() + &talk.both("a", "b");
    let done = "data: [DONE]\n\n";
    talk.llm
        .reply_raw(&(sse + &end("tool_calls")).replace(done, ""));
    let sse = thought() + &delta(&json!({"content": ANSWER})) + &end("stop");
    talk.llm.reply_raw(&sse.replace(done, ""));
    talk.check("llamacpp/m");
}

/// Errors inside the stream: temporary ones cost a retry, permanent ones end the run at once.
#[test]
fn errors_inside_the_stream() {
    let talk = Talk::new();
    let half = delta(&json!({"content": "Let me"}));
    for error in [
        json!({"message": "Provider returned error", "code": 502}),
        json!({"message": "Failed to call a function", "type": "invalid_request_error",
            "code": "tool_use_failed", "failed_generation": "<function=bash"}),
    ] {
        talk.llm
            .reply_raw(&(half.clone() + &data(&json!({"error": error}))));
    }
    // Neither a stop reason nor an end: the stream broke off.
    talk.llm.reply_raw(&half);
    let sse = talk.both("a", "b");
    talk.llm.reply_raw(&(sse + &end("tool_calls")));
    talk.llm.reply_text(ANSWER);
    assert_eq!(talk.check("groq/m").len(), 5);

    for error in [
        json!({"message": "no credit", "code": 402}),
        json!({"message": "flagged", "code": 403}),
        json!({"message": "quota", "code": "insufficient_quota"}),
    ] {
        let talk = Talk::new();
        talk.llm
            .reply_raw(&(half.clone() + &data(&json!({"error": error}))));
        let ended = talk.run("openrouter/v/m");
        assert!(!ended.stdout.contains(ANSWER), "{ended:?}");
        assert_eq!(talk.llm.requests().len(), 1, "{error}: {ended:?}");
    }
}

/// A model that mom does not know: its refusals show which limit it takes, and how large.
#[test]
fn refused_parameters_are_learned() {
    let talk = Talk::new();
    talk.llm.allow("Use 'max_completion_tokens' instead");
    let [bash, read] = talk.arguments();
    talk.llm
        .reply(Reply::tool("bash", &serde_json::from_str(&bash).unwrap()).and_tool("read", &read));
    talk.llm.reply_text(ANSWER);
    let asked = talk.check("custom/gpt-5-like");
    assert!(
        asked[0].body["max_tokens"].is_u64() && asked[1].body["max_completion_tokens"].is_u64()
    );

    for (model, message, want) in [
        (
            "deepseek/m",
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            8192,
        ),
        (
            "openai/gpt-4-turbo",
            "max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you provided 16384.",
            4096,
        ),
        (
            "groq/m",
            "`max_completion_tokens` must be less than or equal to `8192`, the maximum value for `max_completion_tokens` is less than the `context_window` for this model",
            8192,
        ),
    ] {
        let talk = Talk::new();
        let refusal = json!({"error": {"message": message, "type": "invalid_request_error"}});
        talk.llm.reply(Reply::status(400, &refusal.to_string()));
        talk.llm.reply(
            Reply::tool("bash", &serde_json::from_str(&bash).unwrap()).and_tool("read", &read),
        );
        talk.llm.reply_text("ok");
        let ended = talk.run(model);
        assert!(ended.stdout.contains("ok"), "{model}: {ended:?}");
        let asked = talk.llm.requests();
        assert_eq!(asked.len(), 3, "{model}: {ended:?}");
        let limit = |asked: &Asked| {
            let body = &asked.body;
            body["max_tokens"]
                .as_u64()
                .or(body["max_completion_tokens"].as_u64())
        };
        assert_eq!(limit(&asked[2]), Some(want), "{model}");
    }
}

/// mom does not know how large the server's window is; the refusals show it.
#[test]
fn a_small_window_is_learned_and_the_conversation_goes_on() {
    let talk = Talk::new();
    talk.llm.window(16_000);
    talk.llm.allow("maximum context length is 16000");
    talk.llm.otherwise(|_| Reply::text("ok"));
    let line = "word ".repeat(3_000) + "\n";
    let ended = talk.say("custom/m", &line.repeat(8));
    assert_eq!(ended.stdout.matches("ok").count(), 8, "{ended:?}");
    assert!(ended.stderr.contains("window of 16000 tokens"), "{ended:?}");
    assert!(ended.stderr.contains("$0.0"), "{ended:?}");

    let talk = Talk::new();
    let refusal = json!({"error": {"message": "the request exceeds the available context size", "n_ctx": 4096}});
    let refusal = refusal.to_string();
    talk.llm.otherwise(move |_| Reply::status(400, &refusal));
    let ended = talk.run("custom/m");
    let told = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        told.contains("llama-server: -c") && !told.contains("say `new`"),
        "{ended:?}"
    );
}

#[test]
fn the_same_failing_call_is_warned_of_and_then_ends_the_run() {
    let talk = Talk::new();
    let arguments = json!({"label": "Try", "command": "exit 3"});
    talk.llm.otherwise(move |_| Reply::tool("Bash", &arguments));
    let ended = talk.run("custom/m");
    let told = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        told.contains("same failing tool call 10 times"),
        "{ended:?}"
    );
    let asked = talk.llm.requests();
    assert_eq!(asked.len(), 10);
    let warned = |asked: &Asked| asked.raw.contains("failed 5 times in a row");
    assert_eq!(asked.iter().position(warned), Some(5));
}

#[test]
fn a_typo_is_told_once() {
    let talk = Talk::new();
    let list = json!({"data": [{"id": "qwen3", "max_model_len": 32_768}]});
    talk.llm.page("/v1/models", list);
    talk.llm.reply_text("ok");
    let ended = talk.run("vllm/qwen4");
    let told = ended.stderr.matches("did you mean qwen3?");
    assert_eq!(told.count(), 1, "{ended:?}");
}

#[test]
fn no_credit_is_not_a_rate_limit() {
    let talk = Talk::new();
    let refusal = |code: &str, message: &str| {
        Reply::status(
            429,
            &json!({"error": {"message": message, "type": code, "param": null, "code": code}})
                .to_string(),
        )
    };
    let limited = "Rate limit reached on tokens per min. Please try again in 10ms.";
    talk.llm.reply(refusal("rate_limit_exceeded", limited));
    let [bash, read] = talk.arguments();
    talk.llm
        .reply(Reply::tool("bash", &serde_json::from_str(&bash).unwrap()).and_tool("read", &read));
    talk.llm.reply_text(ANSWER);
    talk.check("xai/m");

    let talk = Talk::new();
    talk.llm.reply(refusal(
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ));
    let ended = talk.run("openai/gpt-4o");
    assert!(
        ended.stdout.contains("add credit") || ended.stderr.contains("add credit"),
        "{ended:?}"
    );
    assert_eq!(talk.llm.requests().len(), 1);
}

#[test]
fn the_responses_api_takes_images_in_results() {
    let talk = Talk::new();
    let [bash, read] = talk.arguments();
    talk.llm.reply(
        Reply::thinking("PONDER")
            .and_tool("bash", &bash)
            .and_tool("read", &read),
    );
    talk.llm.reply_text(ANSWER);
    let ended = talk.run("openai/gpt-6-sol");
    assert!(ended.stdout.contains(ANSWER), "{ended:?}");
    assert!(!ended.stdout.contains("PONDER"), "{ended:?}");
    let asked = talk.llm.requests();
    assert_eq!(asked[1].path, "/v1/responses");
    let input = asked[1].body["input"].as_array().unwrap();
    let kinds: Vec<&str> = input
        .iter()
        .map(|item| item["type"].as_str().or(item["role"].as_str()).unwrap())
        .collect();
    let want = ["user", "reasoning", "function_call", "function_call"];
    assert_eq!(kinds[..4], want);
    assert_eq!(kinds[4..], ["function_call_output"; 2]);
    assert!(asked[1].raw.contains("input_image"));
    assert!(asked[1].tool_results()[0].contains("42"));
}

/// A key that a command prints is hidden like one that is in the file.
#[test]
fn a_key_from_a_command_is_never_shown() {
    let talk = Talk::new();
    let auth = json!({"anthropic": {"type": "api_key", "key": "!printf sk-ant-%s test"}});
    talk.home.write(".pi/mom/auth.json", auth.to_string());
    let text = format!("Incorrect API key provided: {KEY}");
    talk.llm
        .reply(Reply::error(401, "authentication_error", &text));
    let ended = Call::new(&talk.home)
        .env("ANTHROPIC_BASE_URL", &talk.llm.url())
        .arg("--chat")
        .data()
        .run("hello\n");
    assert!(ended.stderr.contains("API key provided: ***"), "{ended:?}");
    let context = talk.home.read("data/TERMINAL/context.jsonl");
    assert!(!context.contains(KEY), "{context}");
}
