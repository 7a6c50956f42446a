//! The fakes refuse what the real services refuse: tests/data/refused.jsonl, a refusal a line.
//! What they let through is proven by all other tests.

use serde_json::{Value, json};

use crate::llm::{self, FakeLlm};
use crate::slack::{APP_TOKEN, BOT_TOKEN, FakeSlack};

/// `[api, part of the refusal, ..]`: for Slack a method and its arguments, for a model's API
/// what is laid over a request that is in order.
fn refusals(api: &str) -> Vec<Vec<Value>> {
    let lines = include_str!("../data/refused.jsonl").lines();
    let all = lines.map(|line| serde_json::from_str::<Vec<Value>>(line).expect(line));
    all.filter(|row| row[0] == api).collect()
}

/// Names in capitals are those of `names`, `LONG76` is a text of that many characters.
fn filled(value: &Value, names: &Value) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix("LONG").map(str::parse) {
            Some(Ok(count)) => "x".repeat(count).into(),
            _ => names.get(text).unwrap_or(value).clone(),
        },
        Value::Array(all) => all.iter().map(|value| filled(value, names)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), filled(value, names)))
            .collect(),
        _ => value.clone(),
    }
}

fn call(slack: &FakeSlack, method: &str, token: &str, args: &Value) -> Value {
    let request = ureq::post(format!("{}/{method}", slack.api_url()))
        .header("Authorization", format!("Bearer {token}"));
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let args = args.as_object().unwrap().iter();
    let args: Vec<(&str, String)> = args.map(|(key, arg)| (key.as_str(), text(arg))).collect();
    let mut response = request.send_form(args).unwrap();
    serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
}

#[test]
fn slack_refuses_what_slack_refuses() {
    let slack = FakeSlack::start();
    for id in ["C02", "G01"] {
        slack.change(|state| state.channels.get_mut(id).unwrap().is_member = false);
    }
    let say = json!({"channel": "C01", "text": "hi"});
    let person = slack.say("C01", "U07", "hello").send_unheard();
    let own = call(&slack, "chat.postMessage", BOT_TOKEN, &say)["ts"].clone();
    let reply = slack.say("C01", "U07", "reply");
    let reply = reply.thread(own.as_str().unwrap()).send_unheard();
    let names = json!({"OWN": own, "PERSON": person, "REPLY": reply});
    for row in refusals("slack") {
        let (method, args) = (row[2].as_str().unwrap(), filled(&row[3], &names));
        let answer = call(&slack, method, BOT_TOKEN, &args);
        assert_eq!(answer["error"], row[1], "{row:?}");
        assert_eq!(slack.complaints().len(), 1, "{row:?}");
    }
    for (want, token, method) in [
        ("not_allowed_token_type", BOT_TOKEN, "apps.connections.open"),
        ("not_allowed_token_type", APP_TOKEN, "auth.test"),
        ("invalid_auth", "xoxb-other", "auth.test"),
        ("not_authed", "", "auth.test"),
    ] {
        let answer = call(&slack, method, token, &json!({}));
        assert_eq!(answer["error"], want, "{token} {method}");
    }
    slack.change(|state| state.scopes.remove("chat:write"));
    let refused = call(&slack, "chat.postMessage", BOT_TOKEN, &say);
    assert_eq!(refused["error"], "missing_scope");
    assert_eq!(refused["needed"], "chat:write");
    assert_eq!(slack.complaints().len(), 5);
    let seen = slack.channel("C01").to_string();
    assert_eq!(seen, "lena: hello\nmom: hi\n  lena: reply\n");
}

/// The answer of a model's API, whatever its status.
fn ask(llm: &FakeLlm, path: &str, body: &Value) -> String {
    let request = ureq::post(format!("{}/v1/{path}", llm.url()));
    let request = request.config().http_status_as_error(false).build();
    let request = request
        .header("x-api-key", llm::KEY)
        .header("anthropic-version", "2023-06-01")
        .header("Authorization", format!("Bearer {}", llm::OPENAI_KEY))
        .header("content-type", "application/json");
    let mut response = request.send(body.to_string()).unwrap();
    response.body_mut().read_to_string().unwrap()
}

#[test]
fn models_refuse_what_their_apis_refuse() {
    let call = json!({"type": "tool_use", "id": "t1", "name": "bash", "input": {}});
    let function = json!({"name": "bash", "arguments": "{}"});
    let chat_call = json!({"id": "c1", "type": "function", "function": function});
    let names = json!({
        "CALL": {"role": "assistant", "content": [call]},
        "RESULT": {"type": "tool_result", "tool_use_id": "t1", "content": "done"},
        "MARKED": {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
        "CHAT_CALL": {"role": "assistant", "content": null, "tool_calls": [chat_call]},
        "CHAT_RESULT": {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    });
    let user = json!([{"role": "user", "content": "a"}]);
    let tools =
        json!([{"name": "bash", "description": "Runs", "input_schema": {"type": "object"}}]);
    let function = json!({"name": "bash", "description": "", "parameters": {"type": "object"}});
    let functions = json!([{"type": "function", "function": function}]);
    for (api, base) in [
        (
            "messages",
            json!({"model": "claude-sonnet-5-5", "max_tokens": 16000, "stream": true,
                "system": "You are mom.", "messages": user, "tools": tools}),
        ),
        (
            "chat/completions",
            json!({"model": "gpt-5.5", "stream": true, "messages": user, "tools": functions}),
        ),
        (
            "responses",
            json!({"model": "gpt-6-astra", "stream": true, "store": false, "input": user}),
        ),
    ] {
        let llm = FakeLlm::start();
        for row in refusals(api) {
            let mut body = base.clone();
            let change = filled(&row[2], &names);
            let change = change.as_object().unwrap().clone();
            body.as_object_mut().unwrap().extend(change);
            let answer = ask(&llm, api, &body);
            assert!(
                answer.contains(row[1].as_str().unwrap()),
                "{row:?}: {answer}"
            );
            assert_eq!(llm.complaints().len(), 1, "{row:?}");
        }
        // As it is, it is in order.
        llm.reply_text("fine");
        let answer = ask(&llm, api, &base);
        assert!(answer.contains("fine"), "{api}: {answer}");
    }
}
