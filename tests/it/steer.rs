//! What people write to mom while it works, and messages in unusual form.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::Mom;
use crate::slack::socket::HALF_PAIR;
use crate::slack::{BOT, Channel, FakeSlack, Fault};

fn start() -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    (slack, llm, mom)
}

/// The model's next reply: it waits for the gate and then calls a tool.
fn looks_after(llm: &FakeLlm) -> Gate {
    let gate = Gate::new();
    let call = json!({"label": "Look", "command": "true"});
    let reply = Reply::text("I look.").and_tool("bash", &call.to_string());
    llm.reply(reply.stall(&gate));
    gate
}

/// A run that works until the gate is opened.
fn busy(slack: &FakeSlack, llm: &FakeLlm) -> Gate {
    let gate = looks_after(llm);
    slack.mention("C01", "U07", "look");
    llm.next_request();
    gate
}

fn wait_over(slack: &FakeSlack, runs: usize) -> Channel {
    slack.wait_channel("C01", |channel| {
        channel.to_string().matches(" out · ").count() == runs
    })
}

fn wait_eyes(slack: &FakeSlack, ts: &str) {
    slack.wait_channel("C01", |channel| {
        channel.message(ts).reactions == ["eyes".to_owned()]
    });
}

#[test]
fn words_on_the_way_reach_the_model_at_its_next_turn() {
    let (slack, llm, _mom) = start();
    let gate = busy(&slack, &llm);
    let said =
        ["the second disk", "only /srv", "and /home"].map(|text| slack.mention("C01", "U08", text));
    said.iter().for_each(|ts| wait_eyes(&slack, ts));
    llm.reply_text("Looked at /srv and /home.");
    gate.open();
    let request = llm.next_request();
    let messages = request.body["messages"].to_string();
    let order = ["the second disk", "only /srv", "and /home"].map(|text| messages.find(text));
    assert!(order.is_sorted() && order[0].is_some(), "{messages}");
    let seen = wait_over(&slack, 1);
    assert_eq!(seen.answers().len(), 1, "{seen}");
    llm.reply_text("Yes.");
    slack.mention("C01", "U07", "done?");
    let messages = llm.next_request().body["messages"].to_string();
    assert_eq!(messages.matches("only /srv").count(), 1, "{messages}");
    wait_over(&slack, 2);
}

/// The message is in the log when the run reads new messages, and waits to be passed to the model.
#[test]
fn what_comes_while_a_run_begins_is_told_once_and_in_its_place() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    slack.fault("conversations.info", 1, Fault::Stall(gate.clone()));
    slack.mention("C01", "U07", "the first");
    slack.next_call("conversations.info");
    for text in ["the second", "the third"] {
        wait_eyes(&slack, &slack.mention("C01", "U07", text));
    }
    llm.reply_text("All three.");
    gate.open();
    let messages = llm.next_request().body["messages"].to_string();
    let order = ["the first", "the second", "the third"].map(|text| messages.find(text));
    assert!(order.is_sorted() && order[0].is_some(), "{messages}");
    for text in ["the first", "the second", "the third"] {
        assert_eq!(messages.matches(text).count(), 1, "{text}: {messages}");
    }
    wait_over(&slack, 1);
}

#[test]
fn what_waits_can_be_edited_and_deleted() {
    let (slack, llm, _mom) = start();
    let gate = busy(&slack, &llm);
    let edited = slack.mention("C01", "U08", "check /tmq");
    let deleted = slack.mention("C01", "U08", "delete everything");
    wait_eyes(&slack, &deleted);
    slack.edit("C01", &edited, &format!("<@{BOT}> check /tmp"));
    slack.delete("C01", &deleted);
    // Envelopes are handled in order: a later message is handled later.
    let last = slack.mention("C01", "U08", "that is all");
    wait_eyes(&slack, &last);
    llm.reply_text("Checked.");
    gate.open();
    let messages = llm.next_request().body["messages"].to_string();
    assert!(messages.contains("check /tmp"), "{messages}");
    assert!(!messages.contains("check /tmq"), "{messages}");
    assert!(!messages.contains("delete everything"), "{messages}");
    wait_over(&slack, 1);
    llm.reply_text("Fine.");
    slack.mention("C01", "U08", "fine?");
    let messages = llm.next_request().body["messages"].to_string();
    assert!(!messages.contains("check /tmq"), "{messages}");
    assert!(!messages.contains("delete everything"), "{messages}");
    wait_over(&slack, 2);
}

#[test]
fn what_comes_too_late_starts_the_next_run() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    // The rest of the answer, after the status.
    slack.fault("chat.postMessage", 2, Fault::Stall(gate.clone()));
    llm.reply_text(&"A long answer with many words in it.\n\n".repeat(400));
    slack.mention("C01", "U07", "tell me");
    slack.next_call("chat.postMessage");
    let held = slack.next_call("chat.postMessage");
    assert_eq!(held.answer, "stalled");
    let late = slack.mention("C01", "U08", "one more thing");
    wait_eyes(&slack, &late);
    llm.reply_text("That too.");
    gate.open();
    let seen = wait_over(&slack, 2);
    let answers = seen.answers();
    assert_eq!(answers.len(), 2, "{seen}");
    assert_eq!(answers[1].shown(), "That too.", "{seen}");
    let requests = llm.requests();
    assert_eq!(requests.len(), 2);
    let messages = requests[1].body["messages"].to_string();
    assert_eq!(messages.matches("one more thing").count(), 1, "{messages}");
}

#[test]
fn what_belongs_elsewhere_waits_for_its_own_run() {
    let (slack, llm, _mom) = start();
    let root = slack.say("C01", "U08", "the release").send();
    let gate = busy(&slack, &llm);
    let ask = slack.say("C01", "U08", &format!("<@{BOT}> in the thread"));
    let asked = ask.thread(&root).send();
    wait_eyes(&slack, &asked);
    llm.reply_text("Looked.");
    llm.reply_text("For the thread.");
    gate.open();
    let seen = wait_over(&slack, 2);
    let replies = seen.replies(&root);
    assert!(
        replies.iter().any(|said| said.shown() == "For the thread."),
        "{seen}"
    );
    assert_eq!(seen.answers().len(), 1, "{seen}");
}

#[test]
fn a_stopped_run_takes_what_waited_with_it() {
    let (slack, llm, _mom) = start();
    let _gate = busy(&slack, &llm);
    let waits = slack.mention("C01", "U08", "and then this");
    wait_eyes(&slack, &waits);
    slack.mention("C01", "U07", "stop");
    slack.wait_channel("C01", |channel| {
        channel.answers()[0].shown().starts_with("_Stopped_")
    });
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hello?");
    let messages = llm.next_request().body["messages"].to_string();
    let known = messages.matches("and then this").count();
    assert_eq!(known, 1, "part of the conversation: {messages}");
    slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Here."));
    assert_eq!(llm.requests().len(), 2);
}

#[test]
fn a_stop_is_for_its_run_alone() {
    let (slack, llm, mom) = start();
    let root = slack.say("C01", "U08", "the release").send();
    let _gate = busy(&slack, &llm);
    let dropped = slack.mention("C01", "U08", "delete the backups");
    let ask = slack.say("C01", "U08", &format!("<@{BOT}> what is new?"));
    let asked = ask.thread(&root).send();
    slack.mention("C01", "U08", "new");
    wait_eyes(&slack, &dropped);
    wait_eyes(&slack, &asked);
    llm.reply_text("For the thread.");
    slack.mention("C01", "U07", "stop");
    let seen = slack.wait_channel("C01", |channel| {
        let said = channel.to_string();
        said.contains("For the thread.") && said.contains("A fresh start")
    });
    assert_eq!(llm.requests().len(), 2);
    // A restart does not bring back what the stop removed.
    let home = Arc::clone(&mom.home);
    mom.terminate();
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    let gate = Gate::new();
    llm.reply(Reply::text("Here.").stall(&gate));
    slack.mention("C01", "U07", "hello?");
    llm.next_request();
    let request = llm.next_request().body["messages"].to_string();
    assert!(request.contains("hello?"), "{request}");
    // The button of a run that is over: `stop` came to all that was before.
    let mut payload = json!({"type": "block_actions", "user": {"id": "U07"}, "channel": {"id": "C01"},
        "actions": [{"action_id": "stop", "value": "1.000001"}]});
    payload["message"] = json!({"ts": seen.answers()[0].ts});
    slack.send(json!({"type": "interactive", "payload": payload}));
    let last = slack.mention("C01", "U08", "that is all");
    wait_eyes(&slack, &last);
    llm.reply_text("Good.");
    gate.open();
    slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Good."));
    assert_eq!(llm.requests().len(), 4);
}

#[test]
fn odd_mentions_are_answered() {
    let (slack, llm, mom) = start();
    // Slack does not know U99.
    slack.allow("user_not_found");
    let long = format!("begin {} end", "word ".repeat(8_000));
    let file = slack.file("notes.txt", "text/plain", b"hello");
    let half = format!("cut {HALF_PAIR} in two");
    type Ask<'a> = Box<dyn Fn() -> String + 'a>;
    let say = |text: &str| slack.mention("C01", "U07", text);
    let asks: [(&str, Ask<'_>, &str); 6] = [
        ("empty", Box::new(|| say("")), "[lena]:"),
        (
            "a file alone",
            Box::new(|| {
                let ask = slack.say("C01", "U07", &format!("<@{BOT}>"));
                ask.file(&file).send()
            }),
            "_notes.txt",
        ),
        ("40,000 characters", Box::new(|| say(&long)), "word  end"),
        ("NUL", Box::new(|| say("a\0b")), "[lena]: a"),
        ("half a pair", Box::new(|| say(&half)), "\u{FFFD} in two"),
        (
            "a foreign token",
            Box::new(|| say("<@U99|x> <!here")),
            "[lena]:",
        ),
    ];
    for (n, (name, ask, known)) in asks.iter().enumerate() {
        llm.reply_text(&format!("Answer {n}."));
        let ts = ask();
        let request = llm.next_request();
        assert!(
            request.message_text(0).contains(known),
            "{name}: {}",
            request.raw
        );
        slack.wait_acked(&ts);
        let seen = wait_over(&slack, n + 1);
        assert_eq!(seen.answers()[n].shown(), format!("Answer {n}."), "{name}");
    }
    let log = mom.jsonl("C01/log.jsonl");
    let asked = log.iter().filter(|line| line["mention"] == true);
    assert_eq!(asked.count(), 6, "{log:?}");
}

/// A link's preview, and a clip's transcript, as Slack adds them to a message.
fn additions() -> [(&'static str, Value, Value, &'static str); 2] {
    let clip = |status: &str, content: Value| {
        json!([{"id": "F0CLIP", "name": "clip.mp4", "mode": "hosted", "subtype": "slack_video",
            "transcription": {"status": status, "preview": content}}])
    };
    [
        (
            "attachments",
            json!([]),
            json!([{"title": "Runbook", "text": "restart db1 first", "from_url": "https://x"}]),
            "restart db1 first",
        ),
        (
            "files",
            clip("processing", Value::Null),
            clip(
                "complete",
                json!({"content": "look at db2", "has_more": false}),
            ),
            "[transcript: look at db2]",
        ),
    ]
}

/// Slack reports that `key` of the message became `after`.
fn add(slack: &FakeSlack, ts: &str, key: &str, after: &Value) {
    let message = slack.channel("C01").message(ts).clone();
    let mut before = json!({"type": "message", "user": message.user, "text": message.text,
        "ts": ts});
    before[key] = message.extra[key].clone();
    let mut now = before.clone();
    now[key] = after.clone();
    slack.emit(
        json!({"type": "message", "subtype": "message_changed", "hidden": true,
        "channel": "C01", "channel_type": "channel", "message": now,
        "previous_message": before, "event_ts": ts}),
    );
}

#[test]
fn what_slack_adds_to_a_message_is_read() {
    for (key, before, after, text) in additions() {
        let (slack, llm, mom) = start();
        slack.allow("file_not_found");
        let say = |text: &str| slack.say("C01", "U07", text).with(key, before.clone());
        // An addition to a message that is only overheard.
        let overheard = say("see here").send();
        add(&slack, &overheard, key, &after);
        // An addition to a message that a run has begun to answer.
        let gate = looks_after(&llm);
        let asked = say(&format!("<@{BOT}> look")).send();
        let told = llm.next_request().body["messages"].to_string();
        assert_eq!(told.matches(text).count(), 1, "{told}");
        add(&slack, &asked, key, &after);
        wait_logged(&slack, &mom, text, 2);
        llm.reply_text("Looked.");
        gate.open();
        let told = llm.next_request().body["messages"].to_string();
        assert_eq!(told.matches(text).count(), 2, "{told}");
        wait_over(&slack, 1);
        // An addition to a message that was answered: it does not ask for another answer.
        llm.reply_text("Second.");
        let asked = say(&format!("<@{BOT}> again")).send();
        wait_over(&slack, 2);
        llm.next_request();
        add(&slack, &asked, key, &after);
        wait_logged(&slack, &mom, text, 3);
        llm.reply_text("Third.");
        slack.mention("C01", "U07", "and now?");
        let told = llm.next_request().body["messages"].to_string();
        assert_eq!(told.matches(text).count(), 3, "{told}");
        let seen = wait_over(&slack, 3);
        assert_eq!(seen.answers().len(), 3, "{seen}");
    }
}

fn wait_logged(slack: &FakeSlack, mom: &Mom, text: &str, times: usize) {
    let path = mom.home.path("data/C01/log.jsonl");
    slack.wait_until(text, |_| {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        (log.matches(text).count() >= times).then_some(())
    });
}

#[test]
fn who_asks_something_of_an_events_run_is_told_that_there_is_nothing_to_say() {
    let (slack, llm, mom) = start();
    let gate = Gate::new();
    llm.reply(Reply::tool("bash", &json!({"label": "Look", "command": "true"})).stall(&gate));
    llm.reply_text("[SILENT] nothing");
    let event = json!({"type": "immediate", "channelId": "C01", "text": "report"});
    mom.home.write("data/events/e.json", event.to_string());
    llm.next_request();
    let asked = slack.mention("C01", "U07", "and how are you?");
    wait_eyes(&slack, &asked);
    gate.open();
    slack.wait_answer("C01", "_(nothing to say)_");
    assert_eq!(llm.requests().len(), 2);
}
