//! `--approve`: calls that wait for a person, in Slack and at a terminal.

use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::chat::{PROMPT, at_terminal};
use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{Channel, FakeSlack, Fault, Message};

fn start_in(home: &Arc<Scratch>, slack: &FakeSlack, llm: &FakeLlm, args: &[&str]) -> Mom {
    let mut call = Call::new(home).slack(slack).llm(llm);
    for arg in args {
        call = call.arg(arg);
    }
    let mom = call.data().spawn();
    slack.wait_connected();
    mom
}

fn start(args: &[&str]) -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = start_in(&Arc::new(Scratch::new()), &slack, &llm, args);
    (slack, llm, mom)
}

fn bash(command: &str) -> Value {
    json!({"label": "Do it", "command": command})
}

/// Questions whose buttons can be pressed.
fn open_questions(channel: &Channel) -> Vec<Message> {
    let all = channel.messages.iter();
    all.filter(|said| said.buttons().contains(&"Deny".to_owned()))
        .cloned()
        .collect()
}

/// Waits for an open question that shows this.
fn wait_asked(slack: &FakeSlack, text: &str) -> Message {
    slack.wait_until("a question", |state| {
        let channel = state.channels.get("C01")?;
        let mut open = open_questions(channel).into_iter();
        open.find(|said| said.shown().contains(text))
    })
}

fn wait_shown(slack: &FakeSlack, ts: &str, text: &str) -> Message {
    let seen = slack.wait_channel("C01", |channel| channel.message(ts).shown().contains(text));
    seen.message(ts).clone()
}

/// A press of a button that this message had earlier: mom only answers that it has no effect.
fn press_late(slack: &FakeSlack, question: &Message) {
    let blocks = question.blocks.iter();
    let mut buttons = blocks.filter_map(|block| block["elements"][0].as_object());
    let button = buttons.find(|button| button["type"] == "button");
    let payload = json!({"type": "block_actions", "user": {"id": "U07"}, "channel": {"id": "C01"},
        "container": {"type": "message", "message_ts": question.ts, "channel_id": "C01"},
        "actions": [button.expect("a button")]});
    slack.send(
        json!({"type": "interactive", "payload": payload, "accepts_response_payload": false}),
    );
    let said = slack.next_call("chat.postEphemeral");
    assert_eq!(said.arg("user"), "U07");
    assert!(said.arg("text").contains("no longer valid"), "{said:?}");
}

#[test]
fn one_question_for_the_calls_of_a_turn_and_only_those_who_may_use_mom_answer_it() {
    let (slack, llm, mom) = start(&["--approve=changes", "--allow-users=U07"]);
    let two = Reply::tool("bash", &bash("echo one >>~/ran; echo '<!channel>'"));
    llm.reply(two.and_tool("bash", &bash("echo two >>~/ran; echo 2").to_string()));
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "echo two >>~/ran");
    assert!(
        question
            .shown()
            .contains("echo one >>~/ran; echo '<!channel>'")
    );
    assert!(question.pings().is_empty(), "{question:?}");
    let buttons = ["Approve", "Approve all (of this run)", "Deny"];
    assert_eq!(question.buttons(), buttons);
    let seen = slack.wait_channel("C01", |channel| {
        channel.answers()[0]
            .shown()
            .contains("Waiting for approval")
    });
    let status = seen.answers()[0].clone();
    assert_eq!(question.thread_ts.as_ref(), Some(&status.ts), "{seen}");
    assert!(
        status
            .blocks
            .iter()
            .any(|block| block["tasks"][0]["status"] == "pending")
    );
    slack.press("C01", &question.ts, "U08", "Approve");
    mom.wait_log("refused U08");
    // No other call waits, here or elsewhere.
    slack.mention("C01", "U07", "status");
    slack.wait_channel("C01", |channel| {
        let lines = [
            "Approval: changes, a",
            "Budget: none",
            "Threads: not followed",
        ];
        let all = channel.to_string();
        lines.iter().all(|line| all.contains(line))
    });
    let steering = slack.mention("C01", "U07", "and quickly");
    slack.wait_channel("C01", |channel| {
        channel.message(&steering).reactions == ["eyes"]
    });
    llm.reply_text("Quick.");
    slack.mention("C02", "U07", "hurry");
    slack.wait_answer("C02", "Quick.");
    assert_eq!(open_questions(&slack.channel("C01")).len(), 1);
    llm.reply_text("Both done.");
    slack.press("C01", &question.ts, "U07", "Approve");
    slack.wait_answer("C01", "Both done.");
    let answered = wait_shown(&slack, &question.ts, "Approved by lena");
    assert!(answered.buttons().is_empty() && answered.shown().contains("echo one"));
    let last = &llm.requests()[2];
    // Calls in parallel.
    assert_eq!(mom.home.read("ran").len(), "one\ntwo\n".len());
    assert!(last.raw.contains("and quickly"), "{}", last.raw);
}

#[test]
fn an_event_waits_for_a_person_as_well() {
    let (slack, llm, mom) = start(&["--approve=changes"]);
    let path = mom.home.path("data/report.txt");
    llm.reply_tool(
        "write",
        json!({"label": "Report", "path": path, "content": "all is well"}),
    );
    let event = json!({"type": "immediate", "channelId": "C01", "text": "report"});
    mom.home.write("data/events/e.json", event.to_string());
    let question = wait_asked(&slack, "all is well");
    llm.reply_text("Reported.");
    slack.press("C01", &question.ts, "U08", "Approve");
    slack.wait_answer("C01", "Reported.");
    assert_eq!(mom.data("report.txt"), "all is well");
}

#[test]
fn where_slack_refuses_blocks_the_calls_come_as_a_file_or_are_denied_aloud() {
    let (slack, llm, _mom) = start(&["--approve=changes"]);
    slack.refuse_blocks("rich_text");
    llm.reply_tool("bash", bash("echo approved"));
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "in the file above");
    let root = question.thread_ts.clone();
    let seen = slack.channel("C01");
    let shared = seen.messages.iter().filter(|said| said.thread_ts == root);
    let mut files = shared.flat_map(|said| &said.files);
    assert!(files.any(|file| file["name"] == "calls.txt"), "{seen}");
    slack.press("C01", &question.ts, "U07", "Approve");
    slack.wait_answer("C01", "Done.");
    assert_eq!(llm.requests()[1].tool_results(), ["approved"]);

    slack.fault("chat.postMessage", 0, Fault::Blocks("invalid_blocks"));
    llm.reply_tool("bash", bash("echo never"));
    llm.reply_text("Nobody could be asked.");
    slack.mention("C02", "U07", "and here");
    let seen = slack.wait_answer("C02", "Nobody could be asked.");
    let root = &seen.answers()[0].ts;
    let wait = |channel: &Channel| {
        let replies = channel.replies(root).into_iter();
        replies.into_iter().any(|said| {
            said.text
                .starts_with("_Denied: the question could not be asked: ")
        })
    };
    slack.wait_channel("C02", wait);
    let denied = llm.requests()[3].tool_results();
    assert!(denied[0].contains("invalid_blocks"), "{denied:?}");
}

#[test]
fn a_decided_question_loses_its_buttons_also_where_slack_refuses_its_blocks() {
    let (slack, llm, _mom) = start(&["--approve=changes"]);
    llm.reply_tool("bash", bash("echo x"));
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "echo x");
    slack.fault("chat.update", 0, Fault::Blocks("invalid_blocks"));
    slack.press("C01", &question.ts, "U07", "Approve");
    let closed = wait_shown(&slack, &question.ts, "Approved by lena");
    assert!(closed.buttons().is_empty(), "{closed:?}");
    slack.wait_answer("C01", "Done.");
}

#[test]
fn a_denied_call_is_an_error_and_all_of_a_run_can_be_approved() {
    let (slack, llm, _mom) = start(&["--approve=changes"]);
    let edit = json!({"label": "Mend", "path": "a", "oldText": "x\ny", "newText": "z"});
    llm.reply_tool("read", json!({"label": "Look", "path": "none"}));
    llm.reply_tool("edit", edit);
    llm.reply_tool("bash", bash("echo second"));
    llm.reply_tool("bash", bash("echo third"));
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "- x\n- y\n+ z");
    slack.press("C01", &question.ts, "U07", "Deny");
    wait_shown(&slack, &question.ts, "Denied by lena");
    let question = wait_asked(&slack, "echo second");
    slack.press("C01", &question.ts, "U07", "Approve all (of this run)");
    slack.wait_answer("C01", "Done.");
    let results: Vec<String> = (llm.requests().iter())
        .filter_map(|asked| asked.tool_results().pop())
        .collect();
    assert!(
        results[1].starts_with("Not run: lena denied it"),
        "{results:?}"
    );
    assert_eq!(results[2..], ["second", "third"]);
    let denied = llm.requests()[2].body["messages"].to_string();
    assert!(denied.contains(r#""is_error":true"#), "{denied}");
    let seen = slack.wait_channel("C01", |channel| channel.to_string().contains(" out · "));
    let seen = seen.to_string();
    assert!(seen.contains("✗ Mend") && seen.contains("Not run: lena denied it"));
    // Approval ends with the run.
    llm.reply_tool("bash", bash("echo fourth"));
    slack.mention("C01", "U07", "again");
    wait_asked(&slack, "echo fourth");
}

#[test]
fn silence_takes_the_questions_along() {
    let (slack, llm, mom) = start(&["--approve=changes"]);
    llm.reply_tool("bash", bash("echo x"));
    let gate = Gate::new();
    llm.reply(Reply::text("[SILENT] nothing").stall(&gate));
    let event = json!({"type": "immediate", "channelId": "C01", "text": "look"});
    mom.home.write("data/events/e.json", event.to_string());
    let question = wait_asked(&slack, "echo x");
    slack.press("C01", &question.ts, "U07", "Approve");
    wait_shown(&slack, &question.ts, "Approved by lena");
    gate.open();
    slack.wait_channel("C01", |channel| channel.messages.is_empty());
}

#[test]
fn a_stop_ends_the_wait_and_a_late_press_does_nothing() {
    let (slack, llm, _mom) = start(&["--approve=all"]);
    llm.reply_tool("read", json!({"label": "Look", "path": "none"}));
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "none");
    slack.say("C01", "U07", "stop").send();
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("_Stopped_ by lena")
    });
    let closed = wait_shown(&slack, &question.ts, "Not run");
    assert!(closed.buttons().is_empty());
    press_late(&slack, &question);
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "are you there?");
    slack.wait_answer("C01", "Here.");
    assert_eq!(llm.requests().len(), 2);
}

#[test]
fn a_restart_asks_again_and_leaves_no_dead_button() {
    for (signal, line) in [
        (Signal::TERM, "Not run: mom is restarting"),
        (Signal::KILL, "No longer valid: mom was restarted"),
    ] {
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        let home = Arc::new(Scratch::new());
        let mom = start_in(&home, &slack, &llm, &["--approve=changes"]);
        llm.reply_tool("bash", bash("echo x >>~/ran; cat ~/ran"));
        slack.mention("C01", "U07", "do it");
        let old = wait_asked(&slack, "echo x >>~/ran");
        mom.signal(signal);
        mom.ended();
        llm.reply_tool("bash", bash("echo x >>~/ran; cat ~/ran"));
        let _mom = start_in(&home, &slack, &llm, &["--approve=changes"]);
        let new = slack.wait_until("a new question", |state| {
            let open = open_questions(state.channels.get("C01")?);
            open.into_iter().find(|said| said.ts != old.ts)
        });
        let closed = wait_shown(&slack, &old.ts, line);
        assert!(closed.buttons().is_empty());
        press_late(&slack, &old);
        llm.reply_text("Done once.");
        slack.press("C01", &new.ts, "U07", "Approve");
        slack.wait_answer("C01", "Done once.");
        let asked = llm.requests();
        assert_eq!(asked.last().expect("a request").tool_results(), ["x"]);
    }
}

#[test]
fn a_long_command_is_shown_whole() {
    let (slack, llm, _mom) = start(&["--approve=changes"]);
    let command = |count: usize, end: &str| {
        let lines =
            (0..count).map(|n| format!("echo \"line {n} \u{202e}\" # {}\n", "x".repeat(60)));
        lines.collect::<String>() + end
    };
    llm.reply_tool("bash", bash(&command(90, "exit 3")));
    slack.mention("C01", "U07", "do it");
    let question = wait_asked(&slack, "exit 3");
    for n in 0..90 {
        let line = format!("\"line {n} \\u{{202e}}\"");
        assert!(question.shown().contains(&line), "{n}: {question:?}");
    }
    llm.reply_tool("bash", bash(&command(3_000, "exit 4")));
    slack.press("C01", &question.ts, "U07", "Deny");
    let question = wait_asked(&slack, "This is the beginning");
    let seen = slack.channel("C01");
    let mut files = seen.messages.iter().flat_map(|said| &said.files);
    let file = files.find(|file| file["name"] == "calls.txt");
    let size = file.and_then(|file| file["size"].as_u64());
    assert!(size.is_some_and(|size| size > 3_000 * 80), "{seen}");
    llm.reply_text("Denied twice.");
    slack.press("C01", &question.ts, "U07", "Deny");
    slack.wait_answer("C01", "Denied twice.");
}

#[test]
fn a_person_at_the_terminal_is_asked_and_a_pipe_denies() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    for command in ["echo 1st", "echo 2nd", "echo 3rd", "echo 4th"] {
        llm.reply_tool("bash", bash(command));
    }
    llm.reply_text("Done.");
    let call = at_terminal(&home).arg("--approve=changes").llm(&llm);
    let mut mom = call.data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("do it\r");
    for (asked, answer) in ["n\r", "what?\r", "y\r", "all\r"].into_iter().enumerate() {
        mom.wait_shown_times("Run it? [y]es, [a]ll, [n]o", asked + 1);
        mom.type_text(answer);
    }
    let shown = mom.wait_shown("out ·");
    let question = shown.find("Run it?").expect("the question");
    assert!(shown[..question].contains("  echo 1st"), "{shown}");
    let asked = llm.requests();
    let denied = asked[1].tool_results();
    assert!(
        denied[0].starts_with("Not run: the user denied it"),
        "{denied:?}"
    );
    assert_eq!(asked[2].tool_results(), ["2nd"]);
    assert_eq!(asked[4].tool_results(), ["4th"]);
    mom.wait_shown_times(PROMPT, 2);
    mom.type_text("exit\r");
    assert_eq!(mom.ended().code, Some(0));

    let llm = FakeLlm::start();
    llm.reply_tool("bash", bash("echo 1st"));
    llm.reply_text("Denied.");
    let call = Call::new(&home)
        .llm(&llm)
        .arg("--chat")
        .env("MOM_APPROVE", "all");
    let ended = call.data().run("do it\n");
    assert!(ended.stdout.contains("Denied."), "{ended:?}");
    let denied = llm.requests()[1].tool_results();
    assert!(denied[0].contains("no terminal"), "{denied:?}");
}
