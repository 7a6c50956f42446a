//! Channels that mom is removed from, or that are archived.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::Mom;
use crate::slack::{BOT, Channel, FakeSlack, Fault};

/// Name, channel, how it looks to mom while it is closed, and the event that ends that.
type Closing = (&'static str, &'static str, fn(&mut Channel, bool), Value);

fn closings() -> [Closing; 3] {
    let joined = |id: &str| json!({"type": "member_joined_channel", "user": BOT, "channel": id});
    [
        (
            "archived",
            "C01",
            |channel, closed| channel.is_archived = closed,
            json!({"type": "channel_unarchive", "channel": "C01", "user": "U07"}),
        ),
        (
            "removed",
            "C01",
            |channel, closed| channel.is_member = !closed,
            joined("C01"),
        ),
        (
            "removed from a private one",
            "G01",
            |channel, closed| channel.is_member = !closed,
            joined("G01"),
        ),
    ]
}

fn start() -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    for code in [
        "is_archived",
        "is_inactive",
        "not_in_channel",
        "channel_not_found",
    ] {
        slack.allow(code);
    }
    let mom = Mom::start(&slack, &llm);
    (slack, llm, mom)
}

fn close(slack: &FakeSlack, channel: &str, close: fn(&mut Channel, bool), closed: bool) {
    slack.change(|state| close(state.channels.get_mut(channel).unwrap(), closed));
}

/// Nothing more may be posted, and nothing may look as if it were.
fn wait_once(slack: &FakeSlack, channel: &str, answer: &str) -> Channel {
    let seen = slack.wait_channel(channel, |channel| {
        let text = channel.to_string();
        text.contains(answer) && !text.contains("[Stop]") && !text.contains("Thinking")
    });
    assert_eq!(seen.to_string().matches(answer).count(), 1, "{seen}");
    seen
}

#[test]
fn an_answer_is_kept_until_mom_is_back() {
    for (name, id, change, event) in closings() {
        for restart in [false, true] {
            let (slack, llm, mut mom) = start();
            let gate = Gate::new();
            llm.reply_tool("bash", json!({"label": "Look", "command": "echo x"}));
            llm.reply(Reply::text("The answer.").stall(&gate));
            slack.mention(id, "U07", "a question");
            slack.wait_channel(id, |channel| channel.to_string().contains("Look"));
            llm.wait_until("the second turn", |state| {
                (state.asked.len() == 2).then_some(())
            });
            close(&slack, id, change, true);
            gate.open();
            if name == "removed" {
                // Slack accepts edits nevertheless.
                slack.wait_channel(id, |channel| channel.to_string().contains("The answer."));
            } else {
                mom.wait_log("I keep the answer until I can post here again");
            }
            slack
                .say(id, "U08", &format!("<@{BOT}> are you there?"))
                .send_unheard();
            if restart {
                let home = Arc::clone(&mom.home);
                mom.terminate();
                slack.cut();
                close(&slack, id, change, false);
                llm.reply_text("Back again.");
                mom = Mom::start_in(&home, &slack, &llm);
            } else {
                close(&slack, id, change, false);
                llm.reply_text("Back again.");
                slack.emit(event.clone());
            }
            wait_once(&slack, id, "The answer.");
            let seen = wait_once(&slack, id, "Back again.");
            assert_eq!(llm.requests().len(), 3, "{name}: {seen}");
            let lines = mom.jsonl(&format!("{id}/log.jsonl"));
            let answers = lines.iter().filter(|line| line["text"] == "The answer.");
            assert_eq!(answers.count(), 1, "{name}: {lines:?}");
        }
    }
}

/// A stop counts, and silence leaves no status, also when they can be shown only later.
#[test]
fn a_stop_and_silence_are_kept_too() {
    let (slack, llm, mom) = start();
    let [(_, id, change, event), ..] = closings();
    llm.reply(Reply::text("A story.").stall(&Gate::new()));
    slack.mention(id, "U07", "a story");
    let seen = slack.wait_channel(id, |channel| channel.to_string().contains("[Stop]"));
    llm.next_request();
    close(&slack, id, change, true);
    slack.press(id, &seen.answers()[0].ts, "U07", "Stop");
    mom.wait_log("I keep the answer until I can post here again");
    close(&slack, id, change, false);
    slack.emit(event.clone());
    wait_once(&slack, id, "Stopped_ by lena");
    assert_eq!(llm.requests().len(), 1);
    let gate = Gate::new();
    llm.reply(Reply::text("[SILENT]").stall(&gate));
    let check = json!({"type": "immediate", "channelId": id, "text": "check"});
    mom.home.write("data/events/check.json", check.to_string());
    slack.wait_channel(id, |channel| channel.to_string().contains("Starting event"));
    llm.wait_until("the check", |state| (state.asked.len() == 2).then_some(()));
    close(&slack, id, change, true);
    gate.open();
    mom.wait_log_times("I keep the answer until I can post here again", 2);
    close(&slack, id, change, false);
    slack.emit(event);
    slack.wait_channel(id, |channel| {
        !channel.to_string().contains("Starting event")
    });
}

#[test]
fn a_history_that_never_comes_is_told_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.change(|state| state.channels.retain(|id, _| id == "C01"));
    slack.fault("conversations.history", 0, Fault::Code("is_archived"));
    let mom = Mom::start(&slack, &llm);
    mom.wait_log("[C01] cannot read what was missed: Slack refused: is_archived");
    for n in 1..=2 {
        slack.cut();
        slack.wait_until("another look", |state| {
            let calls = state.calls.iter();
            let looks = calls.filter(|call| call.method == "conversations.history");
            (looks.count() > n).then_some(())
        });
    }
    // The closed channel delays nothing else.
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Here.");
    let log = mom.log();
    assert_eq!(log.matches("cannot read what").count(), 1, "{log}");
}
