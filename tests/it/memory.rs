//! What mom remembers: files of the original and its own, what was said meanwhile, memory, skills,
//! settings, the prompt and its cache, and what happens when the window is full.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{Asked, FakeLlm, Reply};
use crate::mom::{Call, Ended, Mom};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;

const CONTEXT: &str = "data/TERMINAL/context.jsonl";
const LOG: &str = "data/TERMINAL/log.jsonl";

/// Runs `mom --chat`, one message per line.
fn chat(home: &Arc<Scratch>, llm: &FakeLlm, lines: &str) -> Ended {
    let ended = Call::new(home).llm(llm).arg("--chat").data().run(lines);
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    ended
}

/// The messages as the model gets them: `U[a|b] A[text|bash(..)] ..`, results as `=text`, thinking
/// as `~text`, without the times.
fn shown(asked: &Asked) -> String {
    let messages = asked.body["messages"].as_array().unwrap();
    let shown = messages.iter().map(|message| {
        let blocks = match &message["content"] {
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            blocks => blocks.as_array().unwrap().clone(),
        };
        let blocks: Vec<String> = blocks.iter().map(block).collect();
        let role = if message["role"] == "user" { "U" } else { "A" };
        format!("{role}[{}]", blocks.join("|"))
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn block(block: &Value) -> String {
    let text = |key: &str| block[key].as_str().unwrap_or("").to_owned();
    match block["type"].as_str().unwrap() {
        "text" => untimed(&text("text")),
        "thinking" => format!("~{}", text("thinking")),
        "tool_use" => format!("{}{}", text("name"), block["input"]),
        "tool_result" => {
            let parts = block["content"].as_array().cloned().unwrap_or_default();
            let parts: Vec<&str> = parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect();
            format!("={}", parts.join("|"))
        }
        kind => kind.to_owned(),
    }
}

fn untimed(text: &str) -> String {
    match text.split_once("] [") {
        Some((stamp, rest)) if stamp.starts_with("[20") => format!("[{rest}"),
        _ => text.to_owned(),
    }
}

// Files of the original.

const HEADER: &str = r#"{"type":"session","version":3,"id":"6f0c0d53-3b0e-4b6e-9d2a-0d1c2b3a4f55","timestamp":"2026-01-05T09:12:45.000Z","cwd":"/srv/mom"}"#;

/// A line of the file. `{"user": TEXT}`, `{"answer": TEXT}`, `{"call": ID}`, `{"result": ID}`
/// and `{"entry": FIELDS}` are written out, with id and parent; a text is the line itself.
fn line(short: &Value) -> String {
    let (kind, fields) = match short {
        Value::String(text) if text == "HEADER" => return HEADER.to_owned(),
        Value::String(text) => return text.clone(),
        _ => message(short),
    };
    let mut entry = json!({"type": kind, "timestamp": "2026-01-05T09:12:46.101Z"});
    // Without ids: the first version.
    if short["id"].is_string() {
        merge(
            &mut entry,
            &json!({"id": short["id"], "parentId": short["parent"]}),
        );
    }
    merge(&mut entry, &fields);
    entry.to_string()
}

fn merge(into: &mut Value, fields: &Value) {
    let fields = fields.as_object().cloned().unwrap_or_default();
    into.as_object_mut().unwrap().extend(fields);
}

fn message(short: &Value) -> (&'static str, Value) {
    let text = |text: &Value| json!([{"type": "text", "text": text}]);
    let mut message = if let Some(said) = short["user"].as_str() {
        let said = format!("[2026-01-05 10:12:45+01:00] [lena]: {said}");
        json!({"role": "user", "content": text(&said.into()), "timestamp": 1_767_604_366_100_u64})
    } else if short["result"].is_string() {
        json!({"role": "toolResult", "toolCallId": short["result"], "toolName": "bash",
            "content": text(&"a.txt".into()), "isError": false, "timestamp": 1_767_604_369_050_u64})
    } else if short["call"].is_string() {
        answer_of(
            &json!([{"type": "toolCall", "id": short["call"], "name": "bash",
            "arguments": {"label": "List", "command": "ls"}}]),
        )
    } else if short["answer"].is_string() {
        let mut content = text(&short["answer"]);
        if short["thinking"] == true {
            content = json!([{"type": "thinking", "thinking": "hm", "thinkingSignature": "abc"},
                {"type": "thinking", "thinking": "(redacted)", "thinkingSignature": "xyz", "redacted": true},
                content[0]]);
        }
        answer_of(&content)
    } else {
        return ("message", short["entry"].clone());
    };
    merge(&mut message, &short["message"]);
    ("message", json!({"message": message}))
}

fn answer_of(content: &Value) -> Value {
    let usage = json!({"input": 4, "output": 58, "cacheRead": 0, "cacheWrite": 3120, "totalTokens": 3182,
        "cost": {"input": 0.000012, "output": 0.00087, "cacheRead": 0, "cacheWrite": 0.0117, "total": 0.012582}});
    let is_call = content[0]["type"] == "toolCall";
    json!({"role": "assistant", "content": content, "api": "anthropic-messages",
        "provider": "anthropic", "model": "claude-sonnet-4-5", "usage": usage,
        "stopReason": if is_call { "toolUse" } else { "stop" }, "timestamp": 1_767_604_366_400_u64})
}

#[test]
fn files_of_the_original_are_read_and_left_as_they_are() {
    for case in include_str!("../data/sessions.jsonl").lines() {
        let case: Value = serde_json::from_str(case).expect(case);
        let name = case["name"].as_str().unwrap();
        let lines: Vec<String> = case["lines"].as_array().unwrap().iter().map(line).collect();
        let want = case["want"].as_str().unwrap();
        let mut header: Value = serde_json::from_str(HEADER).unwrap();
        let is_old = case.get("version").is_some();
        match &case["version"] {
            _ if !is_old => {}
            Value::Null => drop(header.as_object_mut().unwrap().remove("version")),
            version => header["version"] = version.clone(),
        }
        let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
        let before = format!("{header}\n{}\n", lines.join("\n"));
        home.write(CONTEXT, &before);
        llm.reply_tool("bash", json!({"label": "Look", "command": "echo 42"}));
        llm.reply_text("Done.");
        let ended = chat(&home, &llm, "and now?\n");
        assert_eq!(
            (ended.code, ended.stdout.trim()),
            (Some(0), "Done."),
            "{name}: {ended:?}"
        );
        let messages = shown(&llm.next_request());
        let messages = messages.replace("] U[[lena]: kept", "|[lena]: kept");
        assert!(messages.contains(want), "{name}: {messages}");
        assert!(
            messages.ends_with("[user]: and now?]"),
            "{name}: {messages}"
        );
        if !is_old {
            check_rules(name, &before, &home);
        }
    }
}

/// mom's files can be read by the original: nothing before a change differs, header first, each
/// entry the child of the last, usage with cost, arguments an object.
fn check_rules(name: &str, before: &str, home: &Scratch) {
    let file = home.read(CONTEXT);
    let ours = file
        .strip_prefix(before)
        .unwrap_or_else(|| panic!("{name}: what was there has changed: {file}"));
    let parse = |line: &str| {
        serde_json::from_str::<Value>(line)
            .ok()
            .filter(|entry| entry["id"].is_string())
    };
    assert_eq!(
        parse(file.lines().next().unwrap()).unwrap()["type"],
        "session",
        "{name}"
    );
    let mut last = before
        .lines()
        .filter_map(parse)
        .rfind(|entry| entry["type"] != "session")
        .map(|entry| entry["id"].clone());
    let mut ids: Vec<Value> = before
        .lines()
        .filter_map(parse)
        .map(|entry| entry["id"].clone())
        .collect();
    let mut roles = Vec::new();
    for line in ours.lines() {
        let entry = parse(line).unwrap_or_else(|| panic!("{name}: {line}"));
        if entry["type"] == "session" {
            continue;
        }
        assert_eq!(
            entry["parentId"],
            last.unwrap_or_default(),
            "{name}: {line}"
        );
        assert!(!ids.contains(&entry["id"]), "{name}: {line}");
        assert!(
            entry["timestamp"].as_str().unwrap().ends_with('Z'),
            "{name}: {line}"
        );
        ids.push(entry["id"].clone());
        last = Some(entry["id"].clone());
        assert_eq!(entry["type"], "message", "{name}: {line}");
        let message = &entry["message"];
        assert!(
            message["timestamp"].as_i64().unwrap() > 1_700_000_000_000,
            "{name}: {line}"
        );
        let content = message["content"].as_array().unwrap();
        if message["role"] == "assistant" {
            let usage = &message["usage"];
            assert_eq!(usage["totalTokens"], 110, "{name}: {line}");
            assert!(
                usage["cost"]["total"].as_f64().unwrap() > 0.0,
                "{name}: {line}"
            );
            assert!(
                message["api"].is_string() && message["stopReason"].is_string(),
                "{name}: {line}"
            );
            let calls = content.iter().filter(|block| block["type"] == "toolCall");
            assert!(
                calls.into_iter().all(|call| call["arguments"].is_object()),
                "{name}: {line}"
            );
        }
        roles.push(message["role"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        roles,
        ["user", "assistant", "toolResult", "assistant"],
        "{name}"
    );
}

// What was said meanwhile.

fn log_line(ts: &str, text: &str) -> String {
    let date = format!("2026-01-05T09:{}:{}.000Z", &ts[6..8], &ts[8..10]);
    json!({"date": date, "ts": ts, "user": "U07", "userName": "lena", "displayName": "Lena", "text": text,
        "attachments": [], "isBot": false})
    .to_string()
}

#[test]
fn chatter_reaches_the_model_once_also_over_a_restart() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let home = Arc::clone(&mom.home);
    llm.otherwise(|_| Reply::text("Well."));
    for text in ["ok", "the build is red", "ok"] {
        let ts = slack.say("C01", "U08", text).send();
        slack.wait_acked(&ts);
    }
    slack.mention("C01", "U07", "first");
    let first = shown(&llm.next_request());
    // The same words twice are two messages. (otto's name was not looked up yet.)
    let first = first.replace("[U08]", "[otto]");
    assert_eq!(
        first,
        "U[[otto]: ok] U[[otto]: the build is red] U[[otto]: ok] U[[lena]: first]"
    );
    slack.wait_answer("C01", "Well.");
    let ts = slack.say("C01", "U08", "now it is green").send();
    slack.wait_acked(&ts);
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.mention("C01", "U07", "second");
    let second = shown(&llm.next_request());
    assert_eq!(second.matches("the build is red").count(), 1, "{second}");
    assert_eq!(second.matches("now it is green").count(), 1, "{second}");
    assert!(
        second.replace("[U08]", "[otto]").starts_with(&first)
            && second.ends_with("[lena]: second]"),
        "{second}"
    );
}

/// Two messages wait at once: the run of the first overhears the second, which is answered as well.
#[test]
fn a_message_that_waits_is_not_lost_to_the_run_before_it() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    let gate = Gate::new();
    llm.reply(Reply::text("This takes a while, a long while").stall(&gate));
    let root = slack.mention("C01", "U07", "one");
    llm.next_request();
    llm.otherwise(|_| Reply::text("Well."));
    let others = [
        ("two", slack.say("C01", "U08", "x").send_unheard()),
        ("three", root),
    ];
    for (text, root) in &others {
        let ts = slack
            .say("C01", "U07", &format!("<@U0BOT> {text}"))
            .thread(root)
            .send();
        slack.wait_acked(&ts);
    }
    gate.open();
    for (text, _) in &others {
        let last = llm.next_request().message_text(0);
        assert!(
            last.trim_end().ends_with(&format!("[lena]: {text}")),
            "{last}"
        );
    }
}

#[test]
fn a_log_of_the_original_is_taken_over_from_where_it_stopped() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    // 10:12:45 in the context is 1767604366.100 in milliseconds.
    home.write(
        CONTEXT,
        [
            HEADER,
            &line(&json!({"user": "old", "id": "1"})),
            &line(&json!({"answer": "b", "id": "2", "parent": "1"})),
            "",
        ]
        .join("\n"),
    );
    let old = json!({"date": "2026-01-05T09:12:45.000Z", "ts": "1767604365.000100", "user": "U07", "userName": "lena", "text": "old",
        "attachments": [], "isBot": false});
    let new = json!({"date": "2026-01-05T10:00:00.000Z", "ts": "1767607200.000100", "user": "U07", "userName": "lena", "text": "news",
        "attachments": [], "isBot": false});
    home.write(LOG, format!("{old}\nnot JSON\n{new}\n"));
    llm.reply_text("Done.");
    chat(&home, &llm, "and now?\n");
    assert_eq!(
        shown(&llm.next_request()),
        "U[[lena]: old] A[b] U[[lena]: news] U[[user]: and now?]"
    );
    assert!(
        home.read(LOG)
            .starts_with(&format!("{old}\nnot JSON\n{new}\n"))
    );
}

#[test]
fn a_log_that_was_replaced_or_shortened_is_noticed() {
    for way in ["replaced", "shortened"] {
        let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
        llm.otherwise(|_| Reply::text("Done."));
        chat(
            &home,
            &llm,
            "first, with many words so that the log has some length\n",
        );
        llm.next_request();
        let later = json!({"date": "2036-01-05T10:00:00.000Z", "ts": "2083140000.000100", "user": "U07", "userName": "lena",
            "text": "news", "attachments": [], "isBot": false});
        match way {
            "replaced" => {
                home.write("data/new", format!("{}{later}\n", home.read(LOG)));
                fs::rename(home.path("data/new"), home.path(LOG)).unwrap();
            }
            _ => fs::write(home.path(LOG), format!("{later}\n")).unwrap(),
        }
        chat(&home, &llm, "second\n");
        let messages = shown(&llm.next_request());
        assert_eq!(
            messages.matches("[lena]: news").count(),
            1,
            "{way}: {messages}"
        );
        assert_eq!(
            messages.matches("[user]: first").count(),
            1,
            "{way}: {messages}"
        );
    }
}

#[test]
fn a_backlog_larger_than_the_window_is_answered_at_once() {
    for window in [8_192, 1_000_000] {
        let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
        llm.window(window);
        llm.page(
            "/props",
            json!({"default_generation_settings": {"n_ctx": window}}),
        );
        let lines = (0..100_000_u32).map(|n| {
            log_line(
                &format!("17676{n:05}.000100"),
                &format!("chatter number {n}"),
            ) + "\n"
        });
        home.write(LOG, lines.collect::<String>());
        llm.reply_text("Done.");
        let call = if window > 100_000 {
            Call::new(&home).llm(&llm)
        } else {
            Call::new(&home).local_llm(&llm)
        };
        let ended = call.arg("--chat").data().run("and now?\n");
        assert_eq!(ended.stdout.trim(), "Done.", "{window}: {ended:?}");
        let asked = llm.next_request();
        for part in [
            "chatter number 99999",
            "and now?",
            "stands in this channel's log.jsonl",
        ] {
            assert!(asked.raw.contains(part), "{window}: {part}");
        }
        assert!(!asked.raw.contains("chatter number 1000\""), "{window}");
        assert_eq!(llm.requests().len(), 1);
    }
}

// Memory, skills, settings, prompt.

#[test]
fn an_edited_file_is_at_work_in_the_next_message() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    home.write("data/MEMORY.md", "The cat is called Mia.");
    home.write("data/C01/MEMORY.md", "Here we speak of boats.");
    home.write("data/C02/MEMORY.md", "SECRET of ops");
    let skill =
        |description: &str| format!("---\nname: mail\ndescription: {description}\n---\nRead it.\n");
    home.write("data/skills/mail/SKILL.md", skill("Reads mail of all"));
    home.write(
        "data/skills/zip/SKILL.md",
        "---\nname: zip\ndescription: Packs <files>\n---\n",
    );
    home.write("data/skills/broken/SKILL.md", "no front matter");
    home.write("data/skills/.hidden/SKILL.md", skill("hidden"));
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.otherwise(|_| Reply::text("Well."));
    let turn = |text: &str| {
        slack.mention("C01", "U07", text);
        let asked = llm.next_request();
        slack.wait_channel("C01", |channel| {
            let last = channel.roots().last().map(|root| root.shown());
            last.as_deref() == Some("Well.")
        });
        asked
    };
    let (first, second) = (turn("one"), turn("two"));
    assert_eq!(first.system(), second.system(), "nothing has changed");
    let system = first.system();
    let data = home.path("data").display().to_string();
    for part in [
        "The cat is called Mia.",
        "Here we speak of boats.",
        "Reads mail of all",
        &format!("<location>{data}/skills/mail/SKILL.md</location>"),
        "Packs &lt;files&gt;",
        "- skills/broken/SKILL.md: not used as a skill: it does not start with",
        r#""channelId":"C01""#,
        "Europe/Berlin",
        "U07\t@lena",
    ] {
        assert!(system.contains(part), "{part}: {system}");
    }
    assert!(
        !system.contains("SECRET") && !system.contains("hidden") && !system.contains("otto"),
        "{system}"
    );

    home.write("data/MEMORY.md", "The cat is called Leo.");
    home.write(
        "data/C01/skills/mail/SKILL.md",
        skill("Reads mail of this channel"),
    );
    let system = turn("three").system();
    assert!(
        system.contains("called Leo.") && !system.contains("Mia"),
        "{system}"
    );
    assert!(
        system.contains("mail of this channel") && !system.contains("mail of all"),
        "the nearer one wins"
    );
    assert!(
        system.contains(&format!("{data}/C01/skills/mail/SKILL.md")),
        "{system}"
    );
    fs::remove_file(home.path("data/MEMORY.md")).unwrap();
    fs::remove_dir_all(home.path("data/skills")).unwrap();
    let system = turn("four").system();
    assert!(
        !system.contains("Leo") && !system.contains("Packs"),
        "{system}"
    );
    // This holds after a restart, too.
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.mention("C01", "U07", "five");
    assert_eq!(llm.next_request().system(), system);
}

#[test]
fn settings_are_read_anew() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    let busy = || Reply::error(529, "overloaded_error", "busy").header("retry-after", "0");
    home.write(
        "data/settings.json",
        r#"{"retry":{"enabled":false},"defaultModel":"other","model":"evil/model"}"#,
    );
    let mut mom = Call::new(&home).llm(&llm).arg("--chat").data().spawn();
    llm.reply(busy());
    mom.type_text("one\n");
    mom.wait_log("Sorry, something went wrong");
    assert_eq!(llm.requests().len(), 1);
    home.write("data/settings.json", r#"{"retry":{"maxRetries":2}}"#);
    llm.reply(busy());
    llm.reply(busy());
    llm.reply_text("At last.");
    mom.type_text("two\n");
    mom.wait_stdout("At last.");
    assert!(
        llm.requests()
            .iter()
            .all(|asked| asked.model() == "claude-sonnet-5-5")
    );
    // The settings became invalid: mom uses the defaults and posts that once.
    home.write("data/settings.json", "{");
    for text in ["Three.", "Four."] {
        llm.reply_text(text);
        mom.type_text("more\n");
        mom.wait_stdout(text);
    }
    mom.close_stdin();
    let ended = mom.ended();
    assert_eq!(
        ended
            .stderr
            .matches("settings.json: not valid JSON")
            .count(),
        1,
        "{}",
        ended.stderr
    );
}

// The cache and the thinking.

/// Where the cache marks are, counted in messages from the start, and how long they are valid.
fn marks(asked: &Asked) -> Vec<(usize, String)> {
    let mut marks = Vec::new();
    for (n, message) in asked.body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        for block in message["content"].as_array().into_iter().flatten() {
            if block["cache_control"].is_object() {
                marks.push((
                    n,
                    block["cache_control"]["ttl"]
                        .as_str()
                        .unwrap_or("5m")
                        .to_owned(),
                ));
            }
        }
    }
    marks
}

#[test]
fn the_cache_marks_move_with_the_conversation() {
    for (retention, ttl) in [("", "5m"), ("long", "1h")] {
        let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
        for n in 0..6 {
            llm.reply_tool("bash", json!({"label": "x", "command": "true"}));
            llm.reply(Reply::text(&format!("Done {n}.")).usage(10, 5, 3_900, 20));
        }
        let call = Call::new(&home)
            .llm(&llm)
            .env("PI_CACHE_RETENTION", retention);
        let ended = call.arg("--chat").data().run("a\nb\nc\nd\ne\nf\n");
        assert!(
            ended.stdout.contains("Done 5.") && ended.stderr.contains("3.9k cached"),
            "{ended:?}"
        );
        let mut before: Option<Asked> = None;
        for asked in llm.requests() {
            let (marks, last) = (
                marks(&asked),
                asked.body["messages"].as_array().unwrap().len() - 1,
            );
            assert!(
                marks.len() <= 3 && marks.iter().all(|(_, ttl_of)| ttl_of == ttl),
                "{marks:?}"
            );
            assert_eq!(marks.last().map(|(at, _)| *at), Some(last), "{marks:?}");
            let system = asked.body["system"].to_string();
            assert!(
                system.contains("ephemeral") && system.contains("1h") == (ttl == "1h"),
                "{system}"
            );
            // Everything that was sent before is sent again unchanged.
            if let Some(before) = before {
                let (old, new) = (shown(&before), shown(&asked));
                assert!(new.starts_with(&old), "{old}\n{new}");
            }
            before = Some(asked);
        }
    }
}

#[test]
fn thinking_goes_back_within_a_run_only() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    let step = || Reply::thinking("hm").and_tool("bash", r#"{"label":"x","command":"echo 42"}"#);
    llm.reply(step());
    llm.reply(step());
    llm.reply(Reply::thinking("so").and_text("First."));
    llm.reply_text("Second.");
    chat(&home, &llm, "a\nb\n");
    let counts: Vec<usize> = llm
        .requests()
        .iter()
        .map(|asked| shown(asked).matches('~').count())
        .collect();
    assert_eq!(counts, [0, 1, 2, 0]);
}

#[test]
fn a_signature_that_is_refused_costs_one_retry() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    llm.reply(Reply::thinking("hm").and_tool("bash", r#"{"label":"x","command":"echo 42"}"#));
    let why = "messages.1.content.0: Invalid `signature` in `thinking` block";
    llm.reply(Reply::error(400, "invalid_request_error", why));
    llm.reply_text("Done.");
    let ended = chat(&home, &llm, "a\n");
    assert_eq!(ended.stdout.trim(), "Done.", "{ended:?}");
    let counts: Vec<usize> = llm
        .requests()
        .iter()
        .map(|asked| shown(asked).matches('~').count())
        .collect();
    assert_eq!(counts, [0, 1, 0]);
    assert_eq!(llm.requests()[2].tool_results(), ["42"]);
}

// The window.

/// The request for a summary has no tools.
fn is_summary(asked: &Asked) -> bool {
    asked.raw.contains("<conversation>")
}

/// Answers everything, and counts four bytes as a token.
fn answer(asked: &Asked) -> Reply {
    let text = match is_summary(asked) {
        true => "The summary of it all.".to_owned(),
        false => format!("Answer to {}.", asked.message_text(0).len()),
    };
    Reply::text(&text).usage(asked.raw.len() as u64 / 4, 10, 0, 0)
}

/// Messages of about 2,000 tokens each.
fn long_lines(count: usize) -> String {
    let line = |n| format!("question {n} {}\n", "word ".repeat(1_600));
    (0..count).map(line).collect()
}

#[test]
fn the_window_is_never_full() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    home.write(
        "data/settings.json",
        r#"{"compaction":{"keepRecentTokens":3000}}"#,
    );
    llm.page(
        "/props",
        json!({"default_generation_settings": {"n_ctx": 32_768}}),
    );
    llm.otherwise(answer);
    let mom = Call::new(&home).local_llm(&llm).arg("--chat").data();
    let ended = mom.run(&long_lines(8));
    assert_eq!(ended.stdout.matches("Answer to").count(), 8, "{ended:?}");
    assert!(
        ended.stderr.contains("Compacting context..."),
        "{}",
        ended.stderr
    );
    let asked = llm.requests();
    let at = asked.iter().position(is_summary).expect("a compaction");
    assert!(
        asked[..at]
            .iter()
            .all(|asked| asked.raw.len() / 4 < 32_768 - 16_384 + 3_000),
        "the reserve is kept"
    );
    assert!(asked[at].body["tools"].is_null(), "{}", asked[at].raw);
    let after = &asked[at + 1].raw;
    assert!(
        after.contains("<summary>\\nThe summary of it all."),
        "{after}"
    );
    // The newest exchange is there word for word, the oldest one is not.
    for (n, stays) in [(0, false), (at - 1, true), (at, true)] {
        assert_eq!(after.contains(&format!("question {n} ")), stays, "{n}");
    }
    let entries = home.jsonl(CONTEXT);
    let entry = entries.iter().find(|entry| entry["type"] == "compaction");
    let entry = entry.unwrap();
    assert!(
        entry["tokensBefore"].as_u64().unwrap() > 16_384 && entry["fromHook"] == false,
        "{entry}"
    );
    let kept = entries
        .iter()
        .find(|kept| kept["id"] == entry["firstKeptEntryId"]);
    assert!(
        kept.is_some() && entry["details"]["readFiles"].is_array(),
        "{entry}"
    );
    // No compaction where it is switched off.
    home.write("data/settings.json", r#"{"compaction":{"enabled":false}}"#);
    Call::new(&home)
        .local_llm(&llm)
        .arg("--chat")
        .data()
        .run(&long_lines(8));
    assert!(!llm.requests()[asked.len()..].iter().any(is_summary));
}

#[test]
fn an_overflow_is_compacted_once() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    llm.otherwise(answer);
    chat(&home, &llm, &long_lines(20));
    let full = || {
        Reply::error(
            400,
            "invalid_request_error",
            "prompt is too long: 250001 tokens > 200000 maximum",
        )
    };
    llm.reply(full());
    let ended = chat(&home, &llm, "go on\n");
    assert!(
        ended.stdout.contains("Answer to") && ended.stderr.contains("Compacting context..."),
        "{ended:?}"
    );
    let asked = llm.requests();
    assert!(is_summary(&asked[21]) && !is_summary(&asked[22]));
    assert!(asked[22].raw.len() < asked[20].raw.len() && asked[22].raw.contains("go on"));
    // This does not go on for ever: the second failure in a row is posted, and nothing is lost.
    let before = home.read(CONTEXT);
    llm.otherwise(move |asked| match is_summary(asked) {
        true => answer(asked),
        false => full(),
    });
    let ended = chat(&home, &llm, "and on\n");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("say `new` for a fresh start"),
        "{ended:?}"
    );
    assert!(home.read(CONTEXT).starts_with(&before));
}

/// If making a summary fails, or mom is killed meanwhile, the context stays as it was.
#[test]
fn a_compaction_that_fails_changes_nothing() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    llm.otherwise(answer);
    chat(&home, &llm, &long_lines(20));
    let before = home.read(CONTEXT);
    let full = || Reply::error(400, "invalid_request_error", "prompt is too long: 9 > 8");
    llm.reply(full());
    llm.reply(Reply::text("half a summ").stall(&Gate::new()));
    let mut mom = Call::new(&home).llm(&llm).arg("--chat").data().spawn();
    mom.type_text("go on\n");
    llm.wait_until("the summary's request", |state| {
        (state.asked.len() == 22).then_some(())
    });
    mom.kill9();
    let count = |file: &str| file.matches("\"compaction\"").count();
    let file = home.read(CONTEXT);
    assert!(file.starts_with(&before) && count(&file) == 0);
    llm.reply(full());
    llm.reply(Reply::error(400, "invalid_request_error", "no summary"));
    let ended = chat(&home, &llm, "and on\n");
    assert!(
        ended.stderr.contains("compaction failed") && ended.stdout.contains("Answer to"),
        "{ended:?}"
    );
    assert_eq!(count(&home.read(CONTEXT)), 0);
}

#[test]
fn two_hundred_turns_in_a_small_window_never_fail() {
    for window in [8_192, 32_768] {
        let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
        llm.window(window);
        llm.page(
            "/props",
            json!({"default_generation_settings": {"n_ctx": window}}),
        );
        let mut n = 0;
        llm.otherwise(move |asked| {
            if is_summary(asked) {
                return Reply::text("## Goal\nGo on.");
            }
            n += 1;
            let tokens = asked.raw.len() as u64 / 4;
            let reply = match n % 4 {
                1 => Reply::tool("bash", &json!({"label": "x", "command": "seq 600"})),
                2 => Reply::tool(
                    "bash",
                    &json!({"label": "x", "command": "head -c 3000 /dev/zero | tr '\\0' x"}),
                ),
                _ => Reply::text(&format!("Answer {n}. {}", "blah ".repeat(50))),
            };
            reply.usage(tokens, 100, 0, 0)
        });
        let lines: String = (0..100)
            .map(|n| format!("question {n} {}\n", "please ".repeat(20)))
            .collect();
        let ended = Call::new(&home)
            .local_llm(&llm)
            .arg("--chat")
            .data()
            .run(&lines);
        assert_eq!(ended.code, Some(0), "{window}: {}", ended.stderr);
        let asked = llm.requests();
        let turns: Vec<&Asked> = asked.iter().filter(|asked| !is_summary(asked)).collect();
        assert!(
            turns.len() >= 200 && asked.len() > turns.len(),
            "{window}: {} of {}",
            turns.len(),
            asked.len()
        );
        // The newest exchange is always there.
        for n in 0..100 {
            let first = turns
                .iter()
                .find(|asked| asked.message_text(0).contains(&format!("question {n} ")));
            assert!(first.is_some(), "{window}: {n}");
            let previous = format!("question {} ", n - 1);
            assert!(
                n == 0 || first.unwrap().raw.contains(&previous),
                "{window}: {n}"
            );
        }
    }
}

#[test]
fn old_images_go_before_the_request_is_too_large() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    llm.otherwise(|_| Reply::text("Seen."));
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.resize(3_500_000, 0);
    let files: Vec<String> = (0..9)
        .map(|n| slack.file(&format!("{n}.png"), "image/png", &png))
        .collect();
    for (n, part) in files.chunks(3).enumerate() {
        let say = slack.say("C01", "U07", "<@U0BOT> look");
        part.iter().fold(say, |say, file| say.file(file)).send();
        // The usage line is the last post of a run.
        slack.wait_channel("C01", |channel| {
            channel.to_string().matches(" out · ").count() == n + 1
        });
    }
    let sizes: Vec<usize> = llm
        .requests()
        .iter()
        .map(|asked| asked.raw.matches("\"type\":\"image\"").count())
        .collect();
    assert!(sizes[0] == 3 && (1..9).contains(&sizes[2]), "{sizes:?}");
}

// `new` and `status`.

#[test]
fn new_starts_afresh_and_deletes_nothing() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    mom.home.write("data/MEMORY.md", "The cat is called Mia.");
    llm.otherwise(|_| Reply::text("Well."));
    slack.mention("C01", "U07", "the old story");
    llm.next_request();
    slack.wait_answer("C01", "Well.");
    let before = mom.data("C01/context.jsonl");
    slack.mention("C01", "U07", " New ");
    slack.wait_channel("C01", |channel| channel.to_string().contains("fresh start"));
    slack.mention("C01", "U07", "the new story");
    let asked = llm.next_request();
    assert_eq!(shown(&asked), "U[[lena]: the new story]");
    assert!(asked.system().contains("Mia"), "{}", asked.system());
    assert!(mom.data("C01/context.jsonl").starts_with(&before));
    slack.mention("C01", "U07", "status");
    let channel = slack.wait_channel("C01", |channel| {
        channel.to_string().contains("Sandbox: host")
    });
    let status = channel.answers().last().unwrap().shown();
    for part in [
        "Model: anthropic/claude-sonnet-5-5",
        "Context: ",
        "of 1M tokens",
        "Cost here: $0.00",
        "Running: ",
        "Scheduled: nothing",
        "Up: ",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    slack.mention("C02", "U07", "stop");
    let channel = slack.wait_channel("C02", |channel| {
        channel.to_string().contains("Nothing running")
    });
    assert!(
        channel.to_string().contains("`new`") && channel.to_string().contains("`status`"),
        "{channel}"
    );
}
