//! The fakes themselves: they refuse what the real services refuse, and what they let
//! through has the effect it has there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};
use ureq::Body;
use ureq::http::Response;

use crate::http::Gate;
use crate::llm::{self, FakeLlm, Reply};
use crate::slack::{APP_TOKEN, BOT_TOKEN, FakeSlack, Fault};
use crate::tls;

fn post(
    slack: &FakeSlack,
    method: &str,
    token: &str,
    args: &[(&str, &str)],
) -> Result<Response<Body>, ureq::Error> {
    let request = ureq::post(format!("{}/{method}", slack.api_url()))
        .header("Authorization", format!("Bearer {token}"));
    let request = request.config().http_status_as_error(false).build();
    request.send_form(args.iter().copied())
}

fn call(slack: &FakeSlack, method: &str, args: &[(&str, &str)]) -> Value {
    let token = if method == "apps.connections.open" {
        APP_TOKEN
    } else {
        BOT_TOKEN
    };
    let mut response = post(slack, method, token, args).unwrap();
    serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
}

#[test]
fn slack_refuses_what_slack_refuses() {
    let slack = FakeSlack::start();
    slack.change(|state| state.channels.get_mut("C02").unwrap().is_member = false);
    slack.change(|state| state.channels.get_mut("G01").unwrap().is_member = false);
    let person = slack.say("C01", "U07", "hello").send_unheard();
    let own = call(
        &slack,
        "chat.postMessage",
        &[("channel", "C01"), ("text", "hi")],
    );
    let own = own["ts"].as_str().unwrap();
    let reply = slack.say("C01", "U07", "reply").thread(own).send_unheard();
    let (long, longer) = ("x".repeat(4001), "y".repeat(12_001));
    let many = Value::from(vec![json!({"type": "divider"}); 51]).to_string();
    let markdown = |text: &str| json!([{"type": "markdown", "text": text}]).to_string();
    let (empty, longer_block) = (markdown(""), markdown(&longer));
    let button = json!([{"type": "actions", "elements": [{"type": "button", "action_id": "stop",
        "text": {"type": "plain_text", "text": "z".repeat(76)}}]}]);
    let button = button.to_string();
    for (want, method, args) in [
        ("unknown_method", "chat.postMassage", vec![]),
        (
            "invalid_arguments",
            "chat.update",
            vec![("channel", "C01"), ("text", "x")],
        ),
        (
            "no_text",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "  ")],
        ),
        (
            "channel_not_found",
            "chat.postMessage",
            vec![("channel", "C99"), ("text", "x")],
        ),
        (
            "channel_not_found",
            "conversations.history",
            vec![("channel", "G01")],
        ),
        (
            "not_in_channel",
            "conversations.history",
            vec![("channel", "C02")],
        ),
        (
            "not_in_channel",
            "chat.postMessage",
            vec![("channel", "C02"), ("text", "x")],
        ),
        (
            "thread_not_found",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("thread_ts", "1.000001")],
        ),
        (
            "cannot_reply_to_message",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("thread_ts", &reply)],
        ),
        (
            "invalid_blocks",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("blocks", &many)],
        ),
        (
            "invalid_blocks",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("blocks", &empty)],
        ),
        (
            "invalid_blocks",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("blocks", &button)],
        ),
        (
            "invalid_blocks_format",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("blocks", "{")],
        ),
        (
            "msg_blocks_too_long",
            "chat.postMessage",
            vec![("channel", "C01"), ("text", "x"), ("blocks", &longer_block)],
        ),
        (
            "msg_too_long",
            "chat.update",
            vec![("channel", "C01"), ("ts", own), ("text", &long)],
        ),
        (
            "message_not_found",
            "chat.update",
            vec![("channel", "C01"), ("ts", "1.000001"), ("text", "x")],
        ),
        (
            "cant_update_message",
            "chat.update",
            vec![("channel", "C01"), ("ts", &person), ("text", "x")],
        ),
        (
            "cant_delete_message",
            "chat.delete",
            vec![("channel", "C01"), ("ts", &person)],
        ),
        (
            "thread_not_found",
            "conversations.replies",
            vec![("channel", "C01"), ("ts", "1.000001")],
        ),
        (
            "invalid_name",
            "reactions.add",
            vec![("channel", "C01"), ("timestamp", own), ("name", ":eyes:")],
        ),
        (
            "invalid_arguments",
            "files.getUploadURLExternal",
            vec![("filename", "a"), ("length", "0")],
        ),
        (
            "file_not_found",
            "files.completeUploadExternal",
            vec![("files", r#"[{"id":"F9"}]"#)],
        ),
        ("user_not_found", "users.info", vec![("user", "U99")]),
    ] {
        assert_eq!(
            call(&slack, method, &args)["error"],
            want,
            "{method} {args:?}"
        );
        assert_eq!(slack.complaints().len(), 1, "{method} {args:?}");
    }
    for (want, token, method) in [
        ("not_allowed_token_type", BOT_TOKEN, "apps.connections.open"),
        ("not_allowed_token_type", APP_TOKEN, "auth.test"),
        ("invalid_auth", "xoxb-other", "auth.test"),
        ("not_authed", "", "auth.test"),
    ] {
        let mut response = post(&slack, method, token, &[]).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        assert!(text.contains(want), "{want}: {text}");
    }
    slack.change(|state| state.scopes.remove("chat:write"));
    let refused = call(
        &slack,
        "chat.postMessage",
        &[("channel", "C01"), ("text", "x")],
    );
    assert_eq!(
        (&refused["error"], &refused["needed"]),
        (&json!("missing_scope"), &json!("chat:write"))
    );
    assert_eq!(slack.complaints().len(), 5);
    assert_eq!(
        slack.channel("C01").to_string(),
        "lena: hello\nmom: hi\n  lena: reply\n"
    );
}

#[test]
fn slack_keeps_what_people_see() {
    let slack = FakeSlack::start();
    let asked = slack.say("C01", "U07", "hello").send_unheard();
    let blocks = json!([{"type": "markdown", "text": "**bold** <!channel>"}, {"type": "actions", "elements": [{"type": "button",
        "action_id": "stop", "text": {"type": "plain_text", "text": "Stop"}}]}]);
    let metadata = json!({"event_type": "mom_status", "event_payload": {"run": "1"}}).to_string();
    let args = [
        ("channel", "C01"),
        ("text", "bold"),
        ("blocks", &blocks.to_string()),
        ("metadata", &metadata),
    ];
    let posted = call(&slack, "chat.postMessage", &args);
    let ts = posted["ts"].as_str().unwrap();
    assert_eq!(slack.channel("C01").message(ts).pings(), ["<!channel>"]);
    let url = call(
        &slack,
        "files.getUploadURLExternal",
        &[("filename", "a.txt"), ("length", "5")],
    );
    ureq::post(url["upload_url"].as_str().unwrap())
        .send("12345")
        .unwrap();
    let files = json!([{"id": url["file_id"], "title": "A"}]).to_string();
    call(
        &slack,
        "files.completeUploadExternal",
        &[("files", &files), ("channel_id", "C01"), ("thread_ts", ts)],
    );
    call(
        &slack,
        "reactions.add",
        &[("channel", "C01"), ("timestamp", &asked), ("name", "eyes")],
    );
    let want = "lena: hello :eyes:\nmom: **bold** <!channel> [Stop]\n  mom: (a.txt, 5 bytes)\n";
    assert_eq!(slack.channel("C01").to_string(), want);

    call(
        &slack,
        "chat.update",
        &[("channel", "C01"), ("ts", ts), ("text", "done")],
    );
    let history = call(
        &slack,
        "conversations.history",
        &[
            ("channel", "C01"),
            ("limit", "1"),
            ("include_all_metadata", "true"),
        ],
    );
    assert_eq!(history["messages"][0]["text"], "done");
    assert_eq!(
        history["messages"][0]["metadata"]["event_payload"]["run"],
        "1"
    );
    assert_eq!(history["messages"][0]["reply_count"], 1);
    let cursor = history["response_metadata"]["next_cursor"]
        .as_str()
        .unwrap();
    let older = call(
        &slack,
        "conversations.history",
        &[("channel", "C01"), ("cursor", cursor)],
    );
    assert_eq!(
        (&older["messages"][0]["text"], &older["has_more"]),
        (&json!("hello"), &json!(false))
    );
    assert_eq!(
        call(
            &slack,
            "conversations.replies",
            &[("channel", "C01"), ("ts", ts)]
        )["messages"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    call(&slack, "chat.delete", &[("channel", "C01"), ("ts", ts)]);
    assert_eq!(
        slack.channel("C01").to_string(),
        "lena: hello :eyes:\nmom: (deleted)\n  mom: (a.txt, 5 bytes)\n"
    );
}

#[test]
fn slack_fails_as_told() {
    let slack = FakeSlack::start();
    let say = [("channel", "C01"), ("text", "x")];
    slack.fault("chat.postMessage", 2, Fault::Drop);
    slack.fault("chat.postMessage", 3, Fault::DropAfter);
    slack.fault("chat.postMessage", 4, Fault::Html(500));
    slack.fault("chat.postMessage", 5, Fault::Limited(1));
    let outcomes: Vec<_> = (0..6)
        .map(|_| post(&slack, "chat.postMessage", BOT_TOKEN, &say).map(|r| r.status().as_u16()))
        .collect();
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::ok).collect();
    assert_eq!(
        outcomes,
        [Some(200), None, None, Some(500), Some(429), Some(429)]
    );
    assert_eq!(slack.channel("C01").roots().len(), 2);
    assert!(slack.complaints()[0].contains("before its Retry-After"));
    slack.limit("users.info", 2, Duration::from_secs(3600));
    let statuses = [0; 3].map(|_| {
        post(&slack, "users.info", BOT_TOKEN, &[("user", "U07")])
            .unwrap()
            .status()
            .as_u16()
    });
    assert_eq!(statuses, [200, 200, 429]);
    let gate = Gate::new();
    slack.fault("auth.test", 1, Fault::Stall(gate.clone()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| call(&slack, "auth.test", &[]));
        assert_eq!(slack.next_call("auth.test").answer, "stalled");
        gate.open();
        assert_eq!(waiting.join().unwrap()["ok"], true);
    });
}

/// Opens a socket as mom does and reads its hello.
fn connect(slack: &FakeSlack) -> (String, WebSocket<TcpStream>) {
    let url = call(slack, "apps.connections.open", &[])["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let tcp = TcpStream::connect(slack.server.addr).unwrap();
    let (mut socket, _) = tungstenite::client(url.as_str(), tcp).unwrap();
    assert_eq!(next(&mut socket)["type"], "hello");
    (url, socket)
}

fn next(socket: &mut WebSocket<TcpStream>) -> Value {
    serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap()
}

#[test]
fn sockets_deliver_and_take_acks() {
    let slack = FakeSlack::start();
    let (url, mut socket) = connect(&slack);
    let again = tungstenite::client(url.as_str(), TcpStream::connect(slack.server.addr).unwrap());
    assert!(again.is_err(), "the URL works twice");
    let ts = slack.mention("C01", "U07", "hi");
    let twins = [next(&mut socket), next(&mut socket)];
    let mut types = twins.clone().map(|twin| {
        twin["payload"]["event"]["type"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    types.sort();
    assert_eq!(types, ["app_mention", "message"]);
    for twin in &twins {
        socket
            .send(Message::text(
                json!({"envelope_id": twin["envelope_id"]}).to_string(),
            ))
            .unwrap();
    }
    assert_eq!(slack.wait_acked(&ts).len(), 2);
    slack.redeliver(&ts);
    let again = next(&mut socket);
    let ids: Vec<&Value> = twins
        .iter()
        .map(|twin| &twin["payload"]["event_id"])
        .collect();
    assert!(
        again["retry_attempt"] == 1 && ids.contains(&&again["payload"]["event_id"]),
        "{again}"
    );
    socket
        .send(Message::text(r#"{"envelope_id":"never"}"#))
        .unwrap();
    slack.wait_until("a complaint", |state| state.complaints.pop());
}

#[test]
fn sockets_end_as_told() {
    let slack = FakeSlack::start();
    let (_, mut old) = connect(&slack);
    slack.ping();
    slack.disconnect("refresh_requested");
    assert!(matches!(old.read(), Ok(Message::Ping(_))));
    assert_eq!(next(&mut old)["reason"], "refresh_requested");
    let (_, mut new) = connect(&slack);
    slack.say("C01", "U07", "to the new one").send();
    assert_eq!(next(&mut new)["payload"]["event"]["text"], "to the new one");
    slack.cut();
    assert!(old.read().is_err() && new.read().is_err());
    let (_, mut frozen) = connect(&slack);
    slack.freeze();
    frozen
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    frozen.send(Message::Ping("anyone?".into())).unwrap();
    assert!(frozen.read().is_err(), "a frozen socket answers");
}

#[test]
fn people_press_edit_delete_and_share() {
    let slack = FakeSlack::start();
    let (_, mut socket) = connect(&slack);
    let button = json!([{"type": "actions", "elements": [{"type": "button", "action_id": "stop", "value": "C01",
        "text": {"type": "plain_text", "text": "Stop"}}]}]);
    let posted = call(
        &slack,
        "chat.postMessage",
        &[
            ("channel", "C01"),
            ("text", "x"),
            ("blocks", &button.to_string()),
        ],
    );
    assert_eq!(next(&mut socket)["payload"]["event"]["bot_id"], "B0BOT");
    slack.press("C01", posted["ts"].as_str().unwrap(), "U07", "Stop");
    let pressed = next(&mut socket);
    assert_eq!(
        (
            &pressed["type"],
            &pressed["payload"]["actions"][0]["action_id"]
        ),
        (&json!("interactive"), &json!("stop"))
    );
    let file = slack.file("a.png", "image/png", b"\x89PNG");
    let ts = slack.say("C01", "U07", "look").file(&file).send();
    let event = next(&mut socket)["payload"]["event"].clone();
    assert_eq!(
        (&event["subtype"], &event["files"][0]["size"]),
        (&json!("file_share"), &json!(4))
    );
    slack.edit("C01", &ts, "look here");
    assert_eq!(
        next(&mut socket)["payload"]["event"]["message"]["text"],
        "look here"
    );
    slack.delete("C01", &ts);
    assert_eq!(
        next(&mut socket)["payload"]["event"]["deleted_ts"],
        ts.as_str()
    );
    let url = event["files"][0]["url_private_download"].as_str().unwrap();
    let get = |token: &str| {
        let request = ureq::get(url).header("Authorization", format!("Bearer {token}"));
        request.call().unwrap().body_mut().read_to_vec().unwrap()
    };
    assert_eq!(get(BOT_TOKEN), b"\x89PNG");
    assert!(get("xoxb-other").starts_with(b"<!DOCTYPE html>"));
}

#[test]
fn tls_is_that_of_the_fixture() {
    let llm = FakeLlm::start_tls();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(tls::CA_FILE).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    for name in ["localhost", "127.0.0.1"] {
        let client =
            ClientConnection::new(Arc::clone(&config), ServerName::try_from(name).unwrap())
                .unwrap();
        let mut stream = StreamOwned::new(client, TcpStream::connect(llm.server.addr).unwrap());
        stream
            .write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 404", "{name}");
    }
}

/// Status and body, or why it is broken.
fn ask(llm: &FakeLlm, path: &str, body: &Value) -> (u16, String) {
    let request = ureq::post(format!("{}/v1/{path}", llm.url()));
    let request = request.config().http_status_as_error(false).build();
    let request = match path {
        "messages" => request
            .header("x-api-key", llm::KEY)
            .header("anthropic-version", "2023-06-01"),
        _ => request.header("Authorization", format!("Bearer {}", llm::OPENAI_KEY)),
    };
    let mut response = request
        .header("content-type", "application/json")
        .send(body.to_string())
        .unwrap();
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string();
    (status, body.unwrap_or_else(|err| format!("broken: {err}")))
}

fn request(messages: Value) -> Value {
    json!({"model": "claude-sonnet-5-5", "max_tokens": 16000, "stream": true, "system": "You are mom.", "messages": messages,
        "tools": [{"name": "bash", "description": "Runs", "input_schema": {"type": "object", "properties": {}}}]})
}

#[test]
fn the_model_refuses_what_the_api_refuses() {
    let llm = FakeLlm::start();
    let user = |text: &str| json!({"role": "user", "content": text});
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "bash", "input": {}}]});
    let results = |blocks: Value| json!({"role": "user", "content": blocks});
    let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": "done"});
    let text = json!({"type": "text", "text": "and"});
    let marked = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "made up"});
    let gif = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "R0lGODlh"}});
    for (want, messages) in [
        ("first message", json!([])),
        (
            "non-empty content",
            json!([user("a"), {"role": "assistant", "content": []}, user("b")]),
        ),
        ("must be non-empty", json!([user(" \n")])),
        (
            "first message",
            json!([{"role": "assistant", "content": "a"}, user("b")]),
        ),
        (
            "prefill",
            json!([user("a"), {"role": "assistant", "content": "b"}]),
        ),
        ("without tool_result", json!([user("a"), call, user("b")])),
        (
            "unexpected tool_use_id",
            json!([user("a"), call, results(json!([result, result]))]),
        ),
        (
            "before other content",
            json!([user("a"), call, results(json!([text, result]))]),
        ),
        (
            "unexpected tool_use_id",
            json!([user("a"), call, results(json!([result])), {"role": "assistant", "content": "b"}, results(json!([result]))]),
        ),
        (
            "ids must be unique",
            json!([
                user("a"),
                call,
                results(json!([result])),
                call,
                results(json!([result]))
            ]),
        ),
        (
            "A maximum of 4",
            json!([results(json!([marked, marked, marked, marked, marked]))]),
        ),
        (
            "Invalid `signature`",
            json!([user("a"), {"role": "assistant", "content": [thought, text]}, user("b")]),
        ),
        ("image is image/gif", json!([results(json!([gif]))])),
        (
            "not allowed for assistant",
            json!([user("a"), {"role": "assistant", "content": [result]}, user("b")]),
        ),
    ] {
        let (status, body) = ask(&llm, "messages", &request(messages.clone()));
        assert!(status == 400 && body.contains(want), "{want}: {body}");
        assert_eq!(llm.complaints().len(), 1, "{want}");
    }
    for (field, value, want) in [
        ("max_tokens", json!(0), "max_tokens"),
        ("max_tokens", json!(200_000), "max_tokens"),
        ("temperature", json!(1), "temperature"),
        ("stream", json!(false), "streaming"),
        ("system", json!(""), "non-empty"),
        (
            "thinking",
            json!({"type": "enabled", "budget_tokens": 2000}),
            "thinking",
        ),
        ("model", json!("gpt-5"), "not_found_error"),
        (
            "tools",
            json!([{"name": "a b", "description": "", "input_schema": {"type": "object"}}]),
            "tools",
        ),
        ("tools", json!([]), "the script is at its end"),
    ] {
        let mut body = request(json!([user("a")]));
        body[field] = value;
        let (_, answer) = ask(&llm, "messages", &body);
        assert!(answer.contains(want), "{want}: {answer}");
    }
    llm.complaints();
}

#[test]
fn the_model_streams_and_binds_its_thinking() {
    let llm = FakeLlm::start();
    llm.reply(Reply::thinking("hm").and_tool("bash", r#"{"b":1,"a":2}"#));
    let first = request(json!([{"role": "user", "content": "hä?"}]));
    let (_, stream) = ask(&llm, "messages", &first);
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let find = |path: &str| events.iter().find_map(|event| event.pointer(path)).unwrap();
    let signature = find("/delta/signature");
    let id = find("/content_block/id");
    assert_eq!(find("/delta/stop_reason"), "tool_use");
    let mut second = first.clone();
    let messages = second["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": signature},
        {"type": "tool_use", "id": id, "name": "bash", "input": {"a": 2, "b": 1}}]}));
    messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "ok",
        "cache_control": {"type": "ephemeral"}}]}));
    llm.reply_text("done");
    assert_eq!(ask(&llm, "messages", &second).0, 200);
    second["system"] = "You are someone else.".into();
    llm.allow("different conversation");
    assert_eq!(ask(&llm, "messages", &second).0, 400);
    llm.reply(Reply::text("a long enough text").cut());
    assert!(ask(&llm, "messages", &first).1.starts_with("broken: "));
}

#[test]
fn completions_refuse_what_openai_refuses() {
    let llm = FakeLlm::start();
    let tools = json!([{"type": "function", "function": {"name": "bash", "description": "", "parameters": {"type": "object"}}}]);
    let base =
        json!({"model": "gpt-5.5", "stream": true, "messages": [{"role": "user", "content": "a"}]});
    let call = |id: &str, arguments: &str| {
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": id, "type": "function",
            "function": {"name": "bash", "arguments": arguments}}]})
    };
    let result = json!({"role": "tool", "tool_call_id": "c1", "content": "ok"});
    for (want, change) in [
        ("Unrecognized", json!({"temperature_": 1})),
        ("stream", json!({"stream": false})),
        ("too short", json!({"tools": []})),
        ("max_completion_tokens", json!({"max_tokens": 10})),
        (
            "not supported for gpt-5.6",
            json!({"model": "gpt-5.6-sol", "tools": tools}),
        ),
        (
            "does not support 'none'",
            json!({"model": "gpt-6-astra", "tools": tools, "reasoning_effort": "none"}),
        ),
        ("must be followed", json!({"messages": [call("c1", "{}")]})),
        (
            "must be followed",
            json!({"messages": [call("c1", "{}"), {"role": "user", "content": "b"}]}),
        ),
        ("no tool_call before", json!({"messages": [result]})),
        (
            "bad tool call",
            json!({"messages": [call("c1", "{"), result]}),
        ),
        (
            "bad tool call",
            json!({"messages": [call(&"c".repeat(41), "{}"), result]}),
        ),
        (
            "neither content",
            json!({"messages": [{"role": "assistant", "content": null}]}),
        ),
        (
            "content part",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}),
        ),
    ] {
        let mut body = base.clone();
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let (status, answer) = ask(&llm, "chat/completions", &body);
        assert!(status == 400 && answer.contains(want), "{want}: {answer}");
    }
    llm.complaints();
    llm.reply(
        Reply::text("hä?")
            .and_tool("bash", r#"{"a":1}"#)
            .usage(7, 5, 3, 0),
    );
    let mut body = base.clone();
    body["messages"] = json!([{"role": "user", "content": "a"}, call("c1", "{}"), result]);
    body["stream_options"] = json!({"include_usage": true});
    let (_, stream) = ask(&llm, "chat/completions", &body);
    for part in [
        r#""content":"hä?""#,
        r#""arguments":"{\"a\":1}""#,
        r#""finish_reason":"tool_calls""#,
        r#""prompt_tokens":10"#,
        "[DONE]",
    ] {
        assert!(stream.contains(part), "{part}: {stream}");
    }
    assert_eq!(llm.next_request().model(), "gpt-5.5");
}

#[test]
fn responses_refuse_what_openai_refuses() {
    let llm = FakeLlm::start();
    llm.reply(Reply::thinking("hm").and_tool("bash", "{}"));
    llm.reply_text("done");
    let mut body = json!({"model": "gpt-6-astra", "stream": true, "store": false, "input": [{"role": "user", "content": "a"}]});
    let (_, stream) = ask(&llm, "responses", &body);
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let events = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
    let done: Vec<Value> = events
        .filter(|event| event["type"] == "response.output_item.done")
        .collect();
    let input = body["input"].as_array_mut().unwrap();
    input.extend(done.iter().map(|event| event["item"].clone()));
    let unanswered = ask(&llm, "responses", &body);
    assert!(
        unanswered.1.contains("No tool output found"),
        "{unanswered:?}"
    );
    let input = body["input"].as_array_mut().unwrap();
    input.push(json!({"type": "function_call_output", "call_id": done[1]["item"]["call_id"], "output": "ok"}));
    assert!(
        ask(&llm, "responses", &body)
            .1
            .contains("response.completed")
    );
    body["input"][1]["encrypted_content"] = "made up".into();
    assert_eq!(ask(&llm, "responses", &body).0, 400);
    assert_eq!(llm.complaints().len(), 2);
}
