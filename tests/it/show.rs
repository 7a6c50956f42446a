//! How a run looks to people in the channel: the status while it runs, the answer in its place, the
//! details in the thread, and what remains when Slack is slow or refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::Mom;
use crate::scratch::Scratch;
use crate::slack::{BOT, Call, Channel, FakeSlack, Fault};

fn start() -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    (slack, llm, mom)
}

fn wait_said(slack: &FakeSlack, channel: &str, text: &str) -> Channel {
    slack.wait_channel(channel, |channel| {
        let hers = channel.messages.iter().filter(|said| said.user == BOT);
        hers.into_iter().any(|said| said.shown().contains(text))
    })
}

/// Waits for the usage line, which a run posts last.
fn wait_over(slack: &FakeSlack, channel: &str) -> Channel {
    wait_said(slack, channel, " out · ")
}

fn bash(label: &str, command: &str) -> serde_json::Value {
    json!({"label": label, "command": command})
}

/// A turn with ten calls of `bash`, one after the other.
fn ten_tools(llm: &FakeLlm, command: &str) {
    for i in 0..10 {
        llm.reply_tool("bash", bash(&format!("step {i}"), command));
    }
}

/// Number of calls in a run whose people and channel are known; others belong to the start.
fn chat_calls(slack: &FakeSlack) -> usize {
    let chat = |call: &&Call| call.method.starts_with("chat.");
    slack.change(|state| state.calls.iter().filter(chat).count())
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

#[test]
fn the_first_sign_waits_for_nothing() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    // Except for the sender: who that is must be known before anything is posted.
    for method in ["conversations.info", "conversations.replies"] {
        slack.fault(method, 1, Fault::Stall(gate.clone()));
    }
    llm.reply_text("Hello.");
    slack.mention("C01", "U07", "hi");
    let seen = wait_said(&slack, "C01", "_Thinking_ ...");
    assert_eq!(seen.answers()[0].buttons(), ["Stop"]);
    assert!(llm.requests().is_empty());
    gate.open();
    wait_said(&slack, "C01", "Hello.");
}

#[test]
fn text_streams_into_the_status() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    let story = "The **disk** of the build server is nearly full. ".repeat(40);
    llm.reply(Reply::text(&story).stall(&gate));
    slack.mention("C01", "U07", "is the disk full?");
    let seen = wait_said(&slack, "C01", "The **disk** of the build server");
    assert_eq!(seen.answers().len(), 1, "{seen}");
    let shown = seen.answers()[0].shown();
    assert!(shown.contains("▌") && shown.contains("[Stop]"), "{shown}");
    gate.open();
    let seen = slack.wait_channel("C01", |channel| channel.answers()[0].buttons().is_empty());
    let answer = seen.answers()[0];
    assert_eq!(answer.shown(), story.trim(), "{seen}");
    assert!(answer.text.starts_with("The **disk** of"));
}

#[test]
fn the_status_is_edited_once_a_second_and_stays_short() {
    let (slack, llm, _mom) = start();
    let label = "Look at a very long path & <that> is why this line is long ".repeat(3);
    // Long enough for several edits: they come every 3 s at the least.
    for _ in 0..60 {
        llm.reply_tool("bash", bash(&label, "sleep 0.2"));
    }
    llm.reply_text("Looked.");
    slack.mention("C01", "U07", "look");
    wait_over(&slack, "C01");
    let progress: Vec<Call> = slack.calls("chat.update");
    let progress: Vec<&Call> = progress
        .iter()
        .filter(|call| call.arg("blocks").contains("\"Stop\""))
        .collect();
    assert!(progress.len() > 2, "{}", slack.story());
    for call in &progress {
        assert!(units(call.arg("text")) < 4_000);
    }
    // The first edit may follow the post at once.
    for pair in progress[1..].windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart > Duration::from_millis(950), "{apart:?}");
    }
}

#[test]
fn ten_tools_on_a_slow_slack() {
    let (slack, llm, _mom) = start();
    llm.reply_text("Warm.");
    slack.mention("C01", "U07", "warm up");
    wait_over(&slack, "C01");
    let before = chat_calls(&slack);
    slack.latency(Duration::from_millis(150));
    ten_tools(&llm, "sleep 0.05; echo fine");
    llm.reply_text("All ten are fine.");
    let ts = slack.mention("C01", "U07", "check all ten");
    let seen = wait_said(&slack, "C01", "All ten are fine.");
    // Its details did not delay the answer.
    let answer = seen.answers()[1];
    assert!(answer.ts > ts);
    assert!(seen.replies(&answer.ts).len() <= 1, "{seen}");
    let seen = slack.wait_channel("C01", |channel| {
        let details = channel.replies(&answer.ts);
        details.iter().any(|said| said.shown().contains(" out · "))
    });
    let details: String = seen
        .replies(&answer.ts)
        .iter()
        .map(|said| said.shown() + "\n")
        .collect();
    let order: Vec<usize> = (0..10)
        .map(|i| details.find(&format!("step {i}")).expect("every step"))
        .collect();
    assert!(order.is_sorted(), "{details}");
    let calls = chat_calls(&slack) - before;
    assert!(calls <= 8, "{calls} calls\n{}", slack.story());
    assert_eq!(
        seen.replies(&answer.ts).len(),
        1,
        "one message grows: {seen}"
    );
}

#[test]
fn a_hundred_tools_stay_readable() {
    let (slack, llm, _mom) = start();
    for n in 1..=100 {
        llm.reply_tool(
            "bash",
            bash(&format!("step {n}"), &format!("echo result-{n}")),
        );
    }
    llm.reply_text("All done.");
    slack.mention("C01", "U07", "work");
    let seen = wait_over(&slack, "C01");
    let plans = slack.calls("chat.update").into_iter();
    for call in plans.chain(slack.calls("chat.postMessage")) {
        assert!(units(call.arg("blocks")) <= 11_000 && units(call.arg("text")) < 4_000);
        assert!(call.arg("blocks").matches("task_card").count() <= 40);
    }
    let all = seen.to_string();
    for n in 1..=100 {
        assert!(all.contains(&format!("result-{n}\n")), "{n}: {all}");
    }
    assert!(
        all.lines().count() > 300 && seen.replies(&seen.answers()[0].ts).len() <= 5,
        "{all}"
    );
}

#[test]
fn no_message_of_details_is_left_behind() {
    let (slack, llm, mom) = start();
    let go = mom.home.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    let mut turn = Reply::tool("bash", &bash("Call 0", &wait));
    for n in 1..6 {
        turn = turn.and_tool("bash", &bash(&format!("Call {n}"), &wait).to_string());
    }
    llm.reply(turn);
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "go");
    // While they run, room is kept for their output.
    slack.wait_channel("C01", |channel| {
        let answers = channel.answers();
        (answers.first()).is_some_and(|status| channel.replies(&status.ts).len() == 2)
    });
    mom.home.write("go", "");
    let seen = wait_over(&slack, "C01");
    let details = seen.replies(&seen.answers()[0].ts);
    for said in &details {
        let is_stale =
            said.text.contains('→') || format!("{:?}", said.blocks).contains("in_progress");
        assert!(!is_stale, "{seen}");
    }
    let all = seen.to_string();
    for n in 0..6 {
        assert_eq!(all.matches(&format!("✓ Call {n} · ")).count(), 1, "{all}");
    }
}

/// Slack takes two messages of details with blocks, and no more from then on.
#[test]
fn blocks_refused_after_two_messages_of_details() {
    let (slack, llm, mom) = start();
    let go = mom.home.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    let result = |n| format!("echo result-{n}");
    for n in 0..45 {
        llm.reply_tool("bash", bash(&format!("Call {n}"), &result(n)));
    }
    llm.reply_tool("bash", bash("Call 45", &format!("{wait}; {}", result(45))));
    for n in 46..60 {
        llm.reply_tool("bash", bash(&format!("Call {n}"), &result(n)));
    }
    llm.reply_text("Done.");
    slack.mention("C01", "U07", "go");
    slack.wait_channel("C01", |channel| {
        let answers = channel.answers();
        (answers.first()).is_some_and(|status| channel.replies(&status.ts).len() == 2)
    });
    slack.refuse_blocks("plan");
    mom.home.write("go", "");
    let shown = |channel: &Channel| -> String {
        let details = channel.replies(&channel.answers()[0].ts);
        details.iter().map(|said| said.shown() + "\n").collect()
    };
    let seen = slack.wait_channel("C01", |channel| {
        (0..60).all(|n| shown(channel).contains(&format!("\nresult-{n}\n")))
    });
    let all = shown(&seen);
    assert!(!all.contains('→') && !all.contains("in_progress"), "{all}");
    for n in 0..60 {
        let label = format!("Call {n} · ");
        assert_eq!(all.matches(&label).count(), 1, "{label}: {all}");
    }
}

#[test]
fn the_line_below_a_thread_keeps_up_with_fast_steps() {
    let (slack, llm, _mom) = start();
    let is_seen = Arc::new(AtomicBool::new(false));
    let enough = Arc::clone(&is_seen);
    let mut steps = 0;
    llm.otherwise(move |_| match enough.load(Ordering::SeqCst) {
        true => Reply::text("Done."),
        false => {
            steps += 1;
            let label = format!("Step {steps}");
            Reply::tool("bash", &bash(&label, "sleep 0.7"))
        }
    });
    let root = slack.say("C01", "U08", "a topic").send();
    let go = format!("<@{BOT}> go");
    slack.say("C01", "U07", &go).thread(&root).send();
    slack.wait_until("three lines", |state| {
        let calls = state.calls.iter();
        let lines = calls.filter(|call| call.arg("status").starts_with("Step"));
        (lines.count() >= 3).then_some(())
    });
    is_seen.store(true, Ordering::SeqCst);
    wait_over(&slack, "C01");
}

#[test]
fn no_card_runs_for_ever_after_a_restart() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        let home = Arc::new(Scratch::new());
        let mom = Mom::start_in(&home, &slack, &llm);
        llm.reply_tool("bash", bash("Look", "echo first"));
        llm.reply_tool("bash", bash("Long", "sleep 1000"));
        slack.mention("C01", "U07", "go");
        let is_shown = |channel: &Channel, mark: &str| {
            let mut threads = channel
                .messages
                .iter()
                .filter(|said| said.thread_ts.is_some());
            threads.any(|said| said.shown().contains(&format!("{mark} Long")))
        };
        slack.wait_channel("C01", |channel| is_shown(channel, "→"));
        mom.signal(signal);
        mom.ended();
        if signal == Signal::TERM {
            let seen = slack.channel("C01");
            assert!(is_shown(&seen, "✗") && !is_shown(&seen, "→"), "{seen}");
        }
        llm.reply_text("The answer.");
        let _mom = Mom::start_in(&home, &slack, &llm);
        let seen = slack.wait_channel("C01", |channel| {
            channel.to_string().contains(" out · ") && is_shown(channel, "✗")
        });
        assert!(!is_shown(&seen, "→"), "{seen}");
        assert!(seen.to_string().contains("✓ Look"), "{seen}");
        assert!(
            !format!("{:?}", seen.messages).contains("in_progress"),
            "{seen}"
        );
    }
}

#[test]
fn a_run_costs_few_calls() {
    let (slack, llm, _mom) = start();
    llm.reply_text("Warm.");
    slack.mention("C01", "U07", "warm up");
    wait_over(&slack, "C01");
    let mut before = chat_calls(&slack);
    for (tools, most) in [(0, 4), (1, 5)] {
        for _ in 0..tools {
            llm.reply_tool("bash", bash("Check", "echo fine"));
        }
        llm.reply_text("Fine.");
        slack.mention("C01", "U07", "check");
        slack.wait_channel("C01", |channel| {
            let answers = channel.answers();
            answers.len() == 2 + tools && !channel.replies(&answers[1 + tools].ts).is_empty()
        });
        let calls = chat_calls(&slack);
        assert!(calls - before <= most, "{tools}: {}", slack.story());
        before = calls;
    }
}

#[test]
fn a_rate_limit_drops_progress_and_no_answer() {
    let (slack, llm, _mom) = start();
    slack.limit("chat.update", 1, Duration::from_secs(2));
    ten_tools(&llm, "sleep 0.2");
    llm.reply_text("Here it is.");
    slack.mention("C01", "U07", "work");
    let seen = wait_said(&slack, "C01", "Here it is.");
    assert_eq!(seen.answers().len(), 1, "{seen}");
    let limited = |call: &&Call| call.answer == "429";
    let dropped = slack.calls("chat.update").iter().filter(limited).count();
    assert!(dropped > 0, "{}", slack.story());
}

#[test]
fn the_button_stops_and_says_who_pressed_it() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    type Begin = fn(&FakeLlm, &Gate);
    let waits: [(&str, Begin); 3] = [
        ("a tool", |llm, _| {
            llm.reply_tool("bash", bash("Wait", "sleep 1000"))
        }),
        ("the model", |llm, gate| {
            llm.reply(Reply::text(&"A story without an end. ".repeat(40)).stall(gate));
        }),
        ("a Retry-After", |llm, _| {
            let limited = Reply::error(429, "rate_limit_error", "slow down");
            llm.reply(limited.header("retry-after", "50"));
        }),
    ];
    for (n, (name, begin)) in waits.iter().enumerate() {
        begin(&llm, &gate);
        slack.mention("C01", "U07", name);
        let sign = ["→ Wait", "A story", "Retrying"][n];
        let seen = wait_said(&slack, "C01", sign);
        let status = seen.answers()[n].ts.clone();
        slack.press("C01", &status, "U07", "Stop");
        let seen = wait_said_at(&slack, &status, "_Stopped_ by lena");
        let status = seen.message(&status);
        assert!(status.buttons().is_empty(), "{name}: {seen}");
        assert_eq!(seen.answers().len(), n + 1, "{name}: {seen}");
    }
}

fn wait_said_at(slack: &FakeSlack, ts: &str, text: &str) -> Channel {
    slack.wait_channel("C01", |channel| channel.message(ts).shown().contains(text))
}

#[test]
fn stopping_becomes_stopped() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    llm.reply_tool("bash", bash("Wait", "sleep 1000"));
    slack.mention("C01", "U07", "wait");
    let seen = wait_said(&slack, "C01", "→ Wait");
    let status = seen.answers()[0].ts.clone();
    // The next edit says `Stopping...`, or `Stopped` when the tool died at once.
    slack.fault("chat.update", 1, Fault::StallAfter(gate.clone()));
    slack.mention("C01", "U08", "STOP");
    wait_said(&slack, "C01", "_Stopp");
    gate.open();
    let seen = wait_said_at(&slack, &status, "_Stopped_ by otto");
    assert!(!llm.requests().is_empty());
    slack.wait_channel("C01", |channel| {
        let hers = channel.messages.iter().filter(|said| said.user == BOT);
        hers.into_iter()
            .all(|said| !said.shown().contains("Stopping"))
    });
    drop(seen);
}

#[test]
fn blocks_refused_go_out_as_mrkdwn() {
    let (slack, llm, _mom) = start();
    slack.refuse_blocks("markdown");
    llm.reply_text("# Result\n\nThe **disk** is [full](https://x.example/).\n\n- one\n- two");
    slack.mention("C01", "U07", "hi");
    let seen = slack.wait_channel("C01", |channel| {
        let answers = channel.answers();
        answers.iter().any(|said| said.text.contains("Result"))
            && answers.iter().all(|said| said.buttons().is_empty())
    });
    assert_eq!(seen.answers().len(), 1, "{seen}");
    let text = &seen.answers()[0].text;
    for part in ["*Result*", "*disk*", "<https://x.example/|full>", "• one"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn refused_blocks_come_as_text_at_once_and_nothing_is_lost() {
    let calls = [
        ("chat.postMessage", 1),
        ("chat.update", 1),
        ("chat.postMessage", 2),
        ("chat.update", 3),
    ];
    for (method, nth) in calls {
        let (slack, llm, _mom) = start();
        slack.fault(method, nth, Fault::Blocks("msg_blocks_too_long"));
        for n in 0..5 {
            llm.reply_tool(
                "bash",
                bash(&format!("step {n}"), &format!("sleep 1.2; echo result-{n}")),
            );
        }
        llm.reply_text("Done **it**.");
        slack.mention("C01", "U07", "work");
        let seen = wait_over(&slack, "C01");
        let plain = |call: &&Call| call.ok() && call.arg("blocks").len() <= 2;
        let all = [slack.calls("chat.update"), slack.calls("chat.postMessage")].concat();
        assert!(
            all.iter().any(|call| plain(&call)),
            "{method} {nth}: {}",
            slack.story()
        );
        let [answer] = seen.answers()[..] else {
            panic!("{seen}")
        };
        assert!(
            ["Done **it**.", "Done *it*."].contains(&answer.shown().as_str()),
            "{seen}"
        );
        let replies = seen.replies(&answer.ts);
        let details: String = replies.iter().map(|said| said.shown() + "\n").collect();
        for n in 0..5 {
            assert!(
                details.contains(&format!("✓ *bash*  step {n} · ")),
                "{details}"
            );
            assert!(details.contains(&format!("result-{n}")), "{details}");
        }
    }
}

#[test]
fn an_update_refused_is_posted_anew() {
    for code in ["edit_window_closed", "msg_too_long"] {
        let (slack, llm, _mom) = start();
        slack.fault("chat.update", 0, Fault::Code(code));
        llm.reply_text("Here all the same.");
        slack.mention("C01", "U07", "hi");
        wait_over(&slack, "C01");
        let seen = slack.channel("C01");
        let shown: Vec<String> = seen.answers().iter().map(|said| said.shown()).collect();
        let answers = shown.iter().filter(|said| *said == "Here all the same.");
        assert_eq!(answers.count(), 1, "{code}: {seen}");
        assert!(!seen.to_string().contains("Thinking"), "{code}: {seen}");
    }
}

#[test]
fn an_answer_of_any_length_stands_whole_and_in_order() {
    let (slack, llm, _mom) = start();
    let mut answer = String::new();
    for n in 0..1_400 {
        answer += &match n % 20 {
            0 => format!("## Part <{n}>\n\n"),
            7 => format!("```\ncode <{n}>\n{}```\n\n", "x = 1\n".repeat(20)),
            _ => format!("Paragraph <{n}> of this report {}.\n\n", "word ".repeat(9)),
        };
    }
    assert!(answer.len() > 100_000);
    llm.reply(Reply::text(&answer).chunks(8_000, 2_000));
    slack.mention("C01", "U07", "the whole report");
    wait_over(&slack, "C01");
    let seen = slack.channel("C01");
    let [first] = seen.answers()[..] else {
        panic!("{seen}")
    };
    let rest = seen.replies(&first.ts);
    let parts = std::iter::once(&first).chain(rest.iter());
    let whole: String = parts
        .filter(|said| said.blocks.iter().any(|block| block["type"] == "markdown"))
        .map(|said| {
            assert!(!said.text.trim().is_empty() && units(&said.text) <= 4_000);
            said.shown() + "\n\n"
        })
        .collect();
    let numbers = |text: &str| -> Vec<usize> {
        let words = text.split(['<', '>', ';', '&']);
        words.filter_map(|word| word.parse().ok()).collect()
    };
    assert_eq!(numbers(&whole), (0..1_400).collect::<Vec<_>>());
    assert_eq!(whole.matches("x = 1").count(), 70 * 20);
    assert_eq!(whole.matches("```").count() % 2, 0);
}

#[test]
fn a_continuation_whose_fate_is_unknown_is_not_doubled() {
    let (slack, llm, _mom) = start();
    llm.reply_text(&"A sentence of the report, and another one.\n\n".repeat(500));
    // The first post is the status.
    slack.fault("chat.postMessage", 2, Fault::DropAfter);
    slack.mention("C01", "U07", "the report");
    let seen = wait_over(&slack, "C01");
    let root = seen.answers()[0].ts.clone();
    let parts = seen.replies(&root);
    let parts = parts.iter().filter(|said| said.shown().contains("report"));
    assert_eq!(parts.count(), 1, "{}", slack.story());
}

#[test]
fn a_wordless_answer_is_no_empty_message() {
    let (slack, llm, _mom) = start();
    llm.reply_text(" \n ");
    slack.mention("C01", "U07", "say nothing");
    let seen = wait_said(&slack, "C01", "without a word");
    assert_eq!(seen.answers().len(), 1);
}

#[test]
fn details_say_what_was_done() {
    let (slack, llm, mom) = start();
    llm.reply_tool("bash", bash("Count", "seq 1 20000"));
    llm.reply_tool("bash", bash("Fail", "echo '```'; echo broken >&2; exit 3"));
    mom.home.write("data/names.txt", "one\ntwo\n");
    let path = mom.home.path("data/names.txt");
    llm.reply_tool(
        "edit",
        json!({"label": "Rename", "path": path, "oldText": "two", "newText": "three"}),
    );
    llm.reply_text("Counted.");
    slack.mention("C01", "U07", "count");
    let seen = wait_over(&slack, "C01");
    let root = seen.answers()[0].ts.clone();
    let details: String = seen
        .replies(&root)
        .iter()
        .map(|said| said.shown() + "\n")
        .collect();
    for part in [
        "✓ Count · ",
        "\nseq 1 20000\n",
        " lines left out",
        "✗ Fail · ",
        "broken",
        "exited with code 3",
        "\n-2 two\n+2 three",
        "400 in · ",
    ] {
        assert!(details.contains(part), "{part}: {details}");
    }
    let spilled = details.split("scratch/out-").nth(1).expect("a path");
    let spilled = format!("C01/scratch/out-{}", &spilled[..10]);
    assert!(mom.data(&spilled).contains("\n12345\n"), "{spilled}");
}

#[test]
fn nobody_is_pinged_by_accident() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let hostile = "<!channel> <@U08> <#C01> <https://evil.example|ok> @here ``` <!here> ";
    home.write("data/hostile.txt", hostile.repeat(9));
    slack.change(|state| {
        let user = state.users.get_mut("U07").expect("lena");
        user["real_name"] = "<!channel> <@U08>".into();
        user["name"] = "<!here>".into();
    });
    let _mom = Mom::start_in(&home, &slack, &llm);
    let path = home.path("data/hostile.txt");
    llm.reply_tool("read", json!({"label": hostile, "path": path}));
    llm.reply_tool("bash", bash(hostile, &format!("echo '{hostile}'; exit 1")));
    let name = home.path("data/<!channel> <@U08>.txt");
    llm.reply_tool(
        "write",
        json!({"label": "Write", "path": name, "content": "x"}),
    );
    llm.reply_tool(
        "attach",
        json!({"label": hostile, "path": name, "title": hostile}),
    );
    llm.reply_text("All done.");
    slack.mention("C01", "U07", hostile);
    let seen = wait_over(&slack, "C01");
    for said in seen.messages.iter().filter(|said| said.user == BOT) {
        assert!(said.pings().is_empty(), "{said:?}");
        assert!(!said.parsed().contains("<https"), "{said:?}");
    }
    // The model's own text can mention people, channels and links, but no groups.
    llm.reply(
        Reply::thinking(hostile)
            .and_text(&format!("{hostile} and **{hostile}**\n\n```\n{hostile}\n"))
            .and_tool("bash", &bash("Last", "true").to_string()),
    );
    llm.reply_text(
        "Ask <@U08> in <#C02>, see <https://ok.example|this>; <!channel> <!subteam^S1> @here",
    );
    slack.mention("C02", "U07", "and you?");
    let seen = wait_over(&slack, "C02");
    for said in seen.messages.iter().filter(|said| said.user == BOT) {
        let pings = said.pings();
        let meant = ["<@U08>", "<#C01>", "<#C02>"];
        let mut wrong = pings.iter().filter(|ping| !meant.contains(&ping.as_str()));
        assert_eq!(wrong.next(), None, "{said:?}");
    }
    let answer = seen.answers()[0];
    assert!(answer.pings().contains(&"<@U08>".to_owned()), "{seen}");
    assert!(answer.shown().contains("https://ok.example"), "{seen}");
    llm.reply(Reply::text("A story").stall(&Gate::new()));
    slack.mention("C02", "U07", "again");
    let running = wait_said(&slack, "C02", "[Stop]");
    slack.press("C02", &running.answers()[1].ts, "U07", "Stop");
    let stopped = wait_said(&slack, "C02", "_Stopped_ by");
    assert!(stopped.answers()[1].pings().is_empty(), "{stopped}");
}

#[test]
fn silence_leaves_no_trace_but_that() {
    let (slack, llm, mom) = start();
    llm.reply_tool("bash", bash("Look", "sleep 2.5; echo nothing new"));
    llm.reply_tool("bash", bash("Look again", "sleep 2.5; echo nothing"));
    llm.reply_text("[SILENT] nothing to report");
    let asked = slack.mention("C01", "U07", "speak only if there is news");
    wait_said(&slack, "C01", "→ Look");
    slack.wait_channel("C01", |channel| channel.messages.len() == 3);
    let seen = wait_said(&slack, "C01", "_(nothing to say)_");
    assert_eq!((seen.messages.len(), &seen.messages[0].ts), (2, &asked));
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hello");
    let seen = wait_over(&slack, "C01");
    assert_eq!(seen.answers().len(), 2, "{seen}");
    assert!(mom.data("C01/log.jsonl").contains("speak only"));
}

#[test]
fn usage_stands_in_the_thread() {
    let (slack, llm, _mom) = start();
    llm.reply(Reply::text("One.").usage(4_200, 310, 3_900, 0));
    slack.mention("C01", "U07", "one");
    let seen = wait_over(&slack, "C01");
    let root = seen.answers()[0].ts.clone();
    let usage = |channel: &Channel, root: &str| channel.replies(root)[0].shown();
    let line = usage(&seen, &root);
    for part in ["in · 310 out", "3.9k cached", "% of 1M", "$", "(today $"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    llm.reply(Reply::text("Two.").usage(4_200, 310, 3_900, 0));
    slack.mention("C01", "U07", "two");
    let seen = slack.wait_channel("C01", |channel| {
        let answers = channel.answers();
        answers.len() == 2 && !channel.replies(&answers[1].ts).is_empty()
    });
    let second = usage(&seen, &seen.answers()[1].ts);
    let today = |line: &str| line.split("today $").nth(1).unwrap_or("").to_owned();
    assert_ne!(today(&line), today(&second), "{line} / {second}");
}
