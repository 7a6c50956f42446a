//! Files in and out.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::http::{Answer, Gate, Peer, Reply as HttpReply, Request, Scheme, Server};
use crate::llm::{FakeLlm, Reply};
use crate::mom::Mom;
use crate::slack::{BOT, BOT_TOKEN, FakeSlack, Fault};

fn start() -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    (slack, llm, mom)
}

const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

/// Asks about the file; returns what the model receives.
fn ask(slack: &FakeSlack, llm: &FakeLlm, file: &str) -> crate::llm::Asked {
    llm.reply_text("Seen.");
    let say = slack.say("C01", "U07", &format!("<@{BOT}> look at this"));
    say.file(file).send();
    let asked = llm.next_request();
    let answers = llm.requests().len();
    slack.wait_channel("C01", |channel| {
        let seen = channel.answers();
        seen.len() == answers && seen.iter().all(|answer| answer.shown() == "Seen.")
    });
    asked
}

#[test]
fn a_file_is_kept_and_its_path_told() {
    let (slack, llm, mom) = start();
    let name = "../r\u{e9}port <1>.csv";
    let file = slack.file("report.csv", "text/csv", b"a,b\n1,2\n");
    slack.change(|state| state.files.get_mut(&file).unwrap().object["name"] = name.into());
    let asked = ask(&slack, &llm, &file);
    let log = mom.jsonl("C01/log.jsonl");
    let attachment = &log[0]["attachments"][0];
    let local = attachment["local"].as_str().expect("a path");
    assert_eq!(attachment["original"], name);
    assert!(local.starts_with("C01/attachments/"), "{local}");
    assert_eq!(mom.data(local), "a,b\n1,2\n");
    let path = mom.home.path(&format!("data/{local}"));
    assert!(asked.message_text(0).contains(path.to_str().unwrap()));
}

#[test]
fn an_image_goes_to_the_model_as_an_image() {
    let (slack, llm, _mom) = start();
    // The type is read from the bytes, whatever the name says.
    let image = slack.file("photo.dat", "application/octet-stream", PNG);
    let asked = ask(&slack, &llm, &image);
    let last = asked.body["messages"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    let content = last["content"].as_array().unwrap();
    let image = content.iter().find(|block| block["type"] == "image");
    assert_eq!(image.unwrap()["source"]["media_type"], "image/png");
    let text = slack.file("photo.png", "image/png", b"no image at all");
    let asked = ask(&slack, &llm, &text);
    assert!(
        !asked.body["messages"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .to_string()
            .contains("\"image\"")
    );
    assert!(asked.message_text(0).contains("_photo.png"));
}

#[test]
fn what_cannot_be_fetched_is_told() {
    let (slack, llm, mom) = start();
    type Change = fn(&mut crate::slack::File);
    let cases: [(&str, Change, &str); 5] = [
        ("login.txt", |file| file.login_page = true, "login page"),
        (
            "login.canvas",
            |file| {
                file.login_page = true;
                file.object["mode"] = "quip".into();
            },
            "login page",
        ),
        (
            "large.txt",
            |file| file.object["size"] = (100 * 1024 * 1024 + 1).into(),
            "larger than 100 MB",
        ),
        (
            "drive.txt",
            |file| file.object["is_external"] = true.into(),
            "outside Slack",
        ),
        (
            "away.txt",
            |file| {
                let url = file.object["url_private"]
                    .as_str()
                    .unwrap()
                    .replace("/T01-", "/T01-F9");
                file.object["url_private"] = url.as_str().into();
                file.object["url_private_download"] = url.into();
            },
            "404",
        ),
    ];
    for (name, change, told) in cases {
        let file = slack.file(name, "text/plain", b"x");
        slack.change(|state| change(state.files.get_mut(&file).unwrap()));
        let asked = ask(&slack, &llm, &file);
        let text = asked.message_text(0);
        assert!(
            text.contains(told) && text.contains("look at this"),
            "{name}: {text}"
        );
        assert!(!text.contains("<slack_attachments>"), "{name}: {text}");
    }
    let left = std::fs::read_dir(mom.home.path("data/C01/attachments"));
    let left: Vec<_> = left.into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// In rare cases Slack's app_mention lacks the files that its message event has.
#[test]
fn files_that_come_with_the_later_twin_reach_the_run() {
    let (slack, llm, mom) = start();
    slack.wait_looked_back("C01");
    let file = slack.file("late.txt", "text/plain", b"late");
    let text = format!("<@{BOT}> look");
    let ts = slack.say("C01", "U07", &text).file(&file).send_unheard();
    let gate = Gate::new();
    let call = json!({"label": "Look", "command": "true"});
    llm.reply(Reply::tool("bash", &call).stall(&gate));
    let mut event = json!({"type": "app_mention", "channel": "C01", "user": "U07", "text": text,
        "ts": ts, "event_ts": ts});
    slack.emit(event.clone());
    llm.next_request();
    event["type"] = "message".into();
    event["files"] = slack.channel("C01").message(&ts).files.clone().into();
    slack.emit(event);
    // A message that comes after it is handled after it.
    let after = slack.say("C01", "U08", "chatter").send();
    slack.wait_acked(&after);
    llm.reply_text("Seen.");
    gate.open();
    let told = llm.next_request().body["messages"].to_string();
    assert_eq!(told.matches("look").count(), 1, "{told}");
    assert_eq!(told.matches("_late.txt").count(), 1, "{told}");
    slack.wait_channel("C01", |channel| channel.to_string().contains("Seen."));
    let log = mom.jsonl("C01/log.jsonl");
    let newest = log.iter().rfind(|line| line["ts"] == ts).expect("a line");
    let local = newest["attachments"][0]["local"].as_str().expect("a file");
    assert_eq!(mom.data(local), "late");
}

/// A message, and the texts about it that the model and the log should have.
#[test]
fn what_a_message_shows_is_read() {
    let (slack, llm, mom) = start();
    let notes = slack.file("notes.txt", "text/plain", b"of the forwarded message");
    let notes = slack.change(|state| state.files[&notes].object.clone());
    let shared = slack.file("shared.txt", "text/plain", b"of another workspace");
    let stub = json!([{"id": shared, "mode": "file_access", "file_access": "check_file_info"}]);
    let canvas = slack.file(
        "Runbook",
        "application/vnd.slack-docs",
        b"<h1>of the canvas</h1>",
    );
    let canvas = slack.change(|state| {
        let file = state.files.get_mut(&canvas).unwrap();
        file.html = true;
        file.object["mode"] = "quip".into();
        file.object["filetype"] = "quip".into();
        file.object["size"] = 4096.into();
        file.object.clone()
    });
    let cases = [
        (
            "attachments",
            json!([{"is_share": true, "author_name": "Bob", "text": "ends on Friday", "files": [notes]}]),
            "[message from Bob]\nends on Friday",
            Some("of the forwarded message"),
        ),
        ("files", stub, "", Some("of another workspace")),
        ("files", json!([canvas]), "", Some("<h1>of the canvas</h1>")),
        (
            "files",
            json!([{"id": "F0OLD", "mode": "hidden_by_limit"}]),
            "[a file that Slack hides",
            None,
        ),
        (
            "blocks",
            json!([{"type": "table", "rows": [[{"type": "raw_text", "text": "db1"}, {"type": "raw_text", "text": "91 %"}]]}]),
            "db1 | 91 %",
            None,
        ),
    ];
    for (n, (key, value, text, file)) in cases.into_iter().enumerate() {
        llm.reply_text(&format!("Read {n}."));
        let ask = slack.say("C01", "U07", &format!("<@{BOT}> what now?"));
        let ts = ask.with(key, value).send();
        let told = llm.next_request().message_text(0);
        assert!(told.contains("what now?") && told.contains(text), "{told}");
        let path = told.split("<slack_attachments>\n").nth(1);
        let content =
            path.map(|path| std::fs::read_to_string(path.lines().next().unwrap()).unwrap());
        assert_eq!(content.as_deref(), file, "{told}");
        slack.wait_answer("C01", &format!("Read {n}."));
        let log = mom.jsonl("C01/log.jsonl");
        let line = log.iter().find(|line| line["ts"] == ts).expect("a line");
        assert!(line["text"].as_str().unwrap().contains(text), "{line}");
    }
}

#[test]
fn a_run_waits_for_its_files_and_foreign_hosts_get_no_token() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    let asked: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let (ours, held) = (Arc::clone(&asked), gate.clone());
    let handler = Arc::new(move |request: &Request, peer: &Peer<'_>| {
        let token = request.bearer().map(str::to_owned);
        ours.lock().unwrap().push(token);
        match peer.pause(&held, None) {
            Ok(()) => Answer::Reply(HttpReply::new(200, "text/plain", "slow but sure")),
            Err(_) => Answer::HangUp,
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = Server::start("elsewhere", Scheme::Http, listener, handler);
    let file = slack.file("slow.txt", "text/plain", b"x");
    let url = format!("{}/slow.txt", elsewhere.url());
    slack.change(|state| {
        let object = &mut state.files.get_mut(&file).unwrap().object;
        object["url_private"] = url.as_str().into();
        object["url_private_download"] = url.as_str().into();
    });
    llm.reply_text("Seen.");
    let say = slack.say("C01", "U07", &format!("<@{BOT}> look"));
    say.file(&file).send();
    // Names were looked up and the status was posted: all else that precedes the model's request.
    slack.next_call("users.info");
    slack.wait_channel("C01", |channel| channel.answers().len() == 1);
    assert!(llm.requests().is_empty());
    gate.open();
    let text = llm.next_request().message_text(0);
    let path = text.split("<slack_attachments>\n").nth(1).expect("a path");
    let path = path.lines().next().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "slow but sure");
    assert_eq!(*asked.lock().unwrap(), [None], "not {BOT_TOKEN}");
    slack.wait_channel("C01", |channel| channel.to_string().contains("Seen."));
}

#[test]
fn slacks_refusal_of_a_file_is_told_to_the_model() {
    let (slack, llm, mom) = start();
    mom.home.write("data/report.txt", "12345");
    let path = mom.home.path("data/report.txt");
    let attach = || json!({"label": "Attach", "path": path, "title": "The report"});
    slack.fault(
        "files.getUploadURLExternal",
        1,
        Fault::Code("storage_limit_reached"),
    );
    slack.fault(
        "files.completeUploadExternal",
        1,
        Fault::Code("posting_to_channel_denied"),
    );
    llm.reply_tool("attach", attach());
    llm.reply_tool("attach", attach());
    llm.reply_text("It can't be sent.");
    slack.mention("C01", "U07", "the report, please");
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("It can't be sent.")
    });
    let results: Vec<String> = llm.requests()[1..]
        .iter()
        .flat_map(|asked| asked.tool_results())
        .collect();
    assert!(results[0].contains("storage is full"), "{results:?}");
    assert!(
        results[1].contains("posting_to_channel_denied"),
        "{results:?}"
    );
}

#[test]
fn a_large_file_shows_that_it_is_on_its_way() {
    let (slack, llm, mom) = start();
    mom.home.write("data/large.bin", vec![7; 2 << 20]);
    let path = mom.home.path("data/large.bin");
    let gate = Gate::new();
    slack.fault(
        "files.completeUploadExternal",
        1,
        Fault::Stall(gate.clone()),
    );
    llm.reply_tool("attach", json!({"label": "Attach", "path": path}));
    llm.reply_text("Sent.");
    slack.mention("C01", "U07", "send it");
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("Uploading large.bin (2.0MB)")
    });
    gate.open();
    let seen = slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Sent."));
    let files: Vec<&Value> = seen.messages.iter().flat_map(|said| &said.files).collect();
    assert_eq!((files.len(), &files[0]["size"]), (1, &json!(2 << 20)));
}
