//! A mention or a DM, from the message to the answer.

use std::sync::Arc;

use serde_json::json;

use crate::docker::{self, Container};
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;

#[test]
fn a_mention_runs_a_command_and_is_answered() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.reply_tool(
        "bash",
        json!({"label": "Check the disk", "command": "echo $((6 * 7)) %"}),
    );
    llm.reply_text("The disk is **42 %** full.");
    let ts = slack.mention("C02", "U07", "is the disk full?");
    let status = slack.next_call("chat.postMessage");
    assert!(status.arg("text").contains("Thinking"), "{status:?}");
    let channel = slack.wait_channel("C02", |channel| {
        channel
            .answers()
            .iter()
            .any(|answer| answer.shown().contains("**42 %**"))
    });
    assert_eq!(channel.answers().len(), 1, "{channel}");
    assert!(channel.answers()[0].buttons().is_empty(), "{channel}");
    let first = llm.next_request();
    assert!(
        first.message_text(0).contains("is the disk full?"),
        "{}",
        first.raw
    );
    assert_eq!(llm.next_request().tool_results(), ["42 %"]);
    let root = channel.answers()[0].ts.clone();
    slack.wait_channel("C02", |channel| {
        channel
            .replies(&root)
            .iter()
            .any(|reply| reply.shown().contains("42 %"))
    });
    let log = mom.jsonl("C02/log.jsonl");
    assert_eq!(
        (&log[0]["text"], &log[0]["ts"]),
        (&json!("is the disk full?"), &json!(ts))
    );
    assert_eq!(mom.terminate().code, Some(0));
}

#[test]
fn the_same_over_tls_with_the_tools_in_a_container() {
    let Some(image) = docker::image() else { return };
    let (slack, llm) = (FakeSlack::start_tls(), FakeLlm::start_tls());
    let home = Arc::new(Scratch::new());
    home.write("data/note.txt", "from the host");
    let container = Container::by_hand(image, &home.path("data"));
    let mom = Call::new(&home)
        .slack(&slack)
        .llm(&llm)
        .arg(&container.sandbox())
        .data()
        .spawn();
    llm.reply_tool(
        "bash",
        json!({"label": "Look", "command": "hostname; cat /workspace/note.txt"}),
    );
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "look");
    slack.wait_answer("C01", "Done.");
    let results = llm.requests()[1].tool_results();
    assert!(
        results[0].contains(&container.sh("hostname")) && results[0].contains("from the host"),
        "{results:?}"
    );
    drop(mom);
}

#[test]
fn a_dm_needs_no_mention() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    llm.reply_text("Hello Otto.");
    slack.dm("U08", "hello");
    slack.wait_answer("D08", "Hello Otto.");
}

#[test]
fn chatter_is_logged_and_reaches_the_model_with_the_next_mention() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let chatter = slack.say("C01", "U08", "the build is red").send();
    slack.wait_acked(&chatter);
    // The first message of a person waits for the name.
    let log = mom.home.path("data/C01/log.jsonl");
    slack.wait_until("the line", |_| log.exists().then_some(()));
    assert_eq!(mom.jsonl("C01/log.jsonl")[0]["text"], "the build is red");
    llm.reply_text("I read it.");
    slack.mention("C01", "U07", "what did otto say?");
    let request = llm.next_request();
    assert!(
        request.body["messages"]
            .to_string()
            .contains("the build is red"),
        "{}",
        request.raw
    );
    slack.wait_answer("C01", "I read it.");
}

#[test]
fn what_comes_twice_is_answered_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.reply_text("Once.");
    llm.reply_text("Next.");
    let ts = slack.mention("C01", "U07", "hi");
    slack.redeliver(&ts);
    slack.wait_acked(&ts);
    slack.wait_answer("C01", "Once.");
    let home = Arc::clone(&mom.home);
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    let mom = Mom::start_in(&home, &slack, &llm);
    slack.redeliver(&ts);
    slack.wait_acked(&ts);
    slack.mention("C01", "U07", "and now?");
    let channel = slack.wait_answer("C01", "Next.");
    assert_eq!(channel.answers().len(), 2, "{channel}");
    let said = mom
        .jsonl("C01/log.jsonl")
        .iter()
        .filter(|line| line["ts"] == ts.as_str() && line["isBot"] == false)
        .count();
    assert_eq!(said, 1);
}

#[test]
fn a_failing_model_is_told_and_the_next_mention_works() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    llm.reply(Reply::error(400, "invalid_request_error", "the sky fell"));
    slack.mention("C01", "U07", "hi");
    let channel = slack.wait_channel("C01", |channel| {
        channel
            .answers()
            .iter()
            .any(|answer| answer.shown().contains("Sorry, something went wrong"))
    });
    let root = channel.answers()[0].ts.clone();
    slack.wait_channel("C01", |channel| {
        channel
            .replies(&root)
            .iter()
            .any(|reply| reply.shown().contains("the sky fell"))
    });
    for (status, kind, text, times, want) in [
        (
            401,
            "authentication_error",
            "invalid x-api-key",
            1,
            "_Sorry, the model's key is refused_",
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low",
            1,
            "no credit left",
        ),
        (
            529,
            "overloaded_error",
            "too many at once",
            4,
            "_Sorry, the model is overloaded: try again later_",
        ),
    ] {
        for _ in 0..times {
            llm.reply(Reply::error(status, kind, text).header("retry-after", "0"));
        }
        slack.mention("C01", "U07", "again");
        let channel = slack.wait_channel("C01", |channel| channel.to_string().contains(want));
        assert!(
            !channel
                .answers()
                .iter()
                .any(|answer| answer.shown().contains(text)),
            "{channel}"
        );
        slack.wait_channel("C01", |channel| channel.to_string().contains(text));
    }
    llm.reply_text("Back.");
    slack.mention("C01", "U07", "again");
    slack.wait_answer("C01", "Back.");
}

#[test]
fn hiccups_of_the_model_are_retried() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    llm.reply(Reply::error(429, "rate_limit_error", "slow down").header("retry-after", "0"));
    llm.reply(Reply::text("this one breaks off").breaks("overloaded_error"));
    llm.reply(Reply::text("and this one is cut").cut());
    llm.reply_text("Whole.");
    slack.mention("C01", "U07", "hi");
    let channel = slack.wait_answer("C01", "Whole.");
    assert_eq!(
        (channel.answers().len(), llm.requests().len()),
        (1, 4),
        "{channel}"
    );
}

#[test]
fn a_file_from_the_workspace_is_attached() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let path = mom.home.path("data/report.txt");
    llm.reply_tool(
        "write",
        json!({"label": "Write", "path": path, "content": "12345"}),
    );
    llm.reply_tool(
        "attach",
        json!({"label": "Attach", "path": path, "title": "The report"}),
    );
    llm.reply_text("There it is.");
    slack.mention("C01", "U07", "a report, please");
    slack.wait_answer("C01", "There it is.");
    let channel = slack.channel("C01");
    let files: Vec<_> = channel
        .messages
        .iter()
        .flat_map(|message| &message.files)
        .collect();
    assert_eq!(
        (files.len(), &files[0]["title"], &files[0]["size"]),
        (1, &json!("The report"), &json!(5)),
        "{channel}"
    );
}

#[test]
fn other_bots_and_her_own_words_are_not_answered() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    slack.wait_looked_back("C01");
    let bot = slack
        .say("C01", "U08", "<@U0BOT> hi")
        .with("bot_id", "B9".into())
        .send();
    slack.wait_acked(&bot);
    llm.reply_text("For Lena.");
    slack.mention("C01", "U07", "hi");
    let channel = slack.wait_answer("C01", "For Lena.");
    assert_eq!(
        (channel.answers().len(), llm.requests().len()),
        (1, 1),
        "{channel}"
    );
}

#[test]
fn systemd_hears_that_she_is_ready_and_alive() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let path = home.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).expect("bind a socket");
    let guard = Some(crate::watch::GUARD);
    systemd.set_read_timeout(guard).expect("set a time limit");
    let call = Call::new(&home).slack(&slack).llm(&llm);
    let _mom = call
        .env("NOTIFY_SOCKET", path.to_str().expect("a plain path"))
        .data()
        .spawn();
    let mut heard = Vec::new();
    while !(heard.contains(&"READY=1".to_owned()) && heard.contains(&"WATCHDOG=1".to_owned())) {
        let mut state = [0; 64];
        let read = systemd.recv(&mut state).expect("a word from mom");
        heard.push(String::from_utf8_lossy(&state[..read]).into_owned());
    }
}

#[test]
fn what_stands_in_the_place_of_a_file_is_set_aside_and_told() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let files = ["log.jsonl", "context.jsonl", "runs.jsonl"];
    for file in files {
        home.write(&format!("data/C01/{file}/mine"), "kept");
    }
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_text("Here I am.");
    slack.mention("C01", "U07", "are you there?");
    slack.wait_channel("C01", |channel| {
        let all = channel.to_string();
        all.matches("was not a regular file").count() == 3 && all.contains("Here I am.")
    });
    assert_eq!(mom.jsonl("C01/log.jsonl").len(), 2);
    let names = std::fs::read_dir(home.path("data/C01")).expect("list");
    let names: Vec<_> = names.flatten().map(|entry| entry.path()).collect();
    for file in files {
        assert!(home.path(&format!("data/C01/{file}")).is_file(), "{file}");
        let aside = format!("{file}.set-aside-");
        let aside = names
            .iter()
            .find(|path| path.display().to_string().contains(&aside));
        let kept = std::fs::read_to_string(aside.expect(file).join("mine"));
        assert_eq!(kept.expect("read"), "kept", "{file}");
    }
}
