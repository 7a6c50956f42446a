//! Where a run posts: in the thread of its request, with what was said there before.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::events;
use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{BOT, Channel, FakeSlack, Fault};

fn start() -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    (slack, llm, mom)
}

fn wait_usage(slack: &FakeSlack, channel: &str, runs: usize) -> Channel {
    slack.wait_channel(channel, |channel| {
        let all = channel.to_string();
        all.matches(" out · ").count() == runs
    })
}

#[test]
fn what_is_asked_in_a_thread_stays_there() {
    let (slack, llm, mom) = start();
    let root = slack.say("C01", "U08", "the release").send();
    let path = mom.home.path("data/notes.txt");
    llm.reply_tool(
        "write",
        json!({"label": "Write", "path": path, "content": "x"}),
    );
    llm.reply_tool("attach", json!({"label": "Attach", "path": path}));
    llm.reply_text(&"A long answer with many words in it.\n\n".repeat(400));
    let ask = slack.say("C01", "U07", &format!("<@{BOT}> notes?"));
    ask.thread(&root).send();
    let seen = wait_usage(&slack, "C01", 1);
    assert_eq!(seen.roots().len(), 1, "{seen}");
    let hers: Vec<_> = seen
        .messages
        .iter()
        .filter(|said| said.user == BOT)
        .collect();
    assert!(hers.len() >= 4, "status, file, answer, usage: {seen}");
    assert!(
        hers.iter()
            .all(|said| said.thread_ts.as_ref() == Some(&root))
    );
    assert!(hers.iter().any(|said| said.files.len() == 1));
}

#[test]
fn a_threads_earlier_messages_are_known() {
    let (slack, llm, mom) = start();
    // mom has looked for what it missed and does not receive what follows.
    slack.wait_looked_back("C01");
    // Alerts come from other programs.
    let root = slack.say("C01", "B0CI", "").with(
        "blocks",
        json!([{"type": "section", "text": {"type": "mrkdwn", "text": "deploy 41 failed"}}]),
    );
    let root = root.send_unheard();
    let alert = slack.say("C01", "B0CI", "").thread(&root).with(
        "attachments",
        json!([{"title": "disk", "fields": [{"title": "use", "value": "91 %"}]}]),
    );
    alert.send_unheard();
    let first = slack.say("C01", "U08", "it was the <database>");
    first.thread(&root).send_unheard();
    let second = slack.say("C01", "U07", "which one?");
    second.thread(&root).send_unheard();
    slack.say("C01", "U08", "unrelated").send_unheard();
    llm.reply_text("Number two.");
    let ask = slack.say("C01", "U07", &format!("<@{BOT}> what happened?"));
    ask.thread(&root).send();
    let request = llm.next_request();
    let messages = request.body["messages"].to_string();
    let order: Vec<_> = [
        "[ci (app)]: deploy 41",
        "[ci (app)]: disk\\nuse: 91 %",
        "the <database>",
        "which one?",
        "what happened",
    ]
    .iter()
    .map(|text| {
        messages
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {messages}"))
    })
    .collect();
    assert!(order.is_sorted(), "{messages}");
    assert!(!messages.contains("unrelated"));
    wait_usage(&slack, "C01", 1);
    llm.reply_text("Yes.");
    let ask = slack.say("C01", "U07", &format!("<@{BOT}> sure?"));
    ask.thread(&root).send();
    let request = llm.next_request();
    let messages = request.body["messages"].to_string();
    for once in ["deploy 41", "which one?", "what happened", "sure?"] {
        assert_eq!(messages.matches(once).count(), 1, "{once}: {messages}");
    }
    wait_usage(&slack, "C01", 2);
    let log = mom.jsonl("C01/log.jsonl");
    let logged = |ts: &str| log.iter().filter(|line| line["ts"] == ts).count();
    assert_eq!(logged(&root), 1);
}

#[test]
fn a_thread_that_cannot_be_read_stops_nothing() {
    let (slack, llm, mom) = start();
    slack.change(|state| state.scopes.remove("channels:history"));
    slack.allow("missing_scope");
    let root = slack.say("C01", "U08", "hello").send_unheard();
    llm.reply_text("Here.");
    let ask = slack.say("C01", "U07", &format!("<@{BOT}> hi"));
    ask.thread(&root).send();
    wait_usage(&slack, "C01", 1);
    mom.wait_log("cannot read the thread");
}

#[test]
fn the_thread_shows_what_runs_until_it_is_over() {
    for fails in [false, true] {
        let (slack, llm, _mom) = start();
        if fails {
            slack.fault(
                "assistant.threads.setStatus",
                0,
                Fault::Code("internal_error"),
            );
        }
        let root = slack.say("C01", "U08", "the release").send();
        llm.reply_tool(
            "bash",
            json!({"label": "Build <!here>", "command": "sleep 4"}),
        );
        llm.reply_text("Built.");
        let ask = slack.say("C01", "U07", &format!("<@{BOT}> build it"));
        ask.thread(&root).send();
        wait_usage(&slack, "C01", 1);
        if !fails {
            let line = |text: &str| format!("C01/{root}: {text}");
            slack.wait_until("an end of it", |state| {
                (state.statuses.last() == Some(&line(""))).then_some(())
            });
            let shown = slack.change(|state| state.statuses.clone());
            assert!(shown.contains(&line("Build <\u{200B}!here>")), "{shown:?}");
        }
    }
}

#[test]
fn asked_in_the_channel_it_is_answered_there() {
    let (slack, llm, _mom) = start();
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hi");
    let seen = wait_usage(&slack, "C01", 1);
    let answer = seen.answers()[0];
    assert_eq!(answer.shown(), "Here.");
    assert_eq!(seen.replies(&answer.ts).len(), 1, "{seen}");
}

#[test]
fn a_dm_is_answered_where_it_was_asked() {
    let (slack, llm, _mom) = start();
    llm.reply_text("In the DM.");
    let root = slack.dm("U07", "hi");
    let seen = wait_usage(&slack, "D07", 1);
    assert_eq!(seen.answers()[0].shown(), "In the DM.");
    llm.reply_text("In its thread.");
    slack.say("D07", "U07", "and here?").thread(&root).send();
    let seen = wait_usage(&slack, "D07", 2);
    let replies = seen.replies(&root);
    let hers = replies.iter().filter(|said| said.user == BOT);
    assert!(
        hers.into_iter()
            .any(|said| said.shown() == "In its thread."),
        "{seen}"
    );
}

#[test]
fn followed_threads_need_no_mention() {
    for follow in [true, false] {
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        let home = Arc::new(Scratch::new());
        let call = Call::new(&home).slack(&slack).llm(&llm);
        let call = if follow {
            call.arg("--follow-threads")
        } else {
            call
        };
        let mom = call.data().spawn();
        slack.wait_connected();
        let root = slack.say("C01", "U07", "the release").send();
        let say = |user: &str, text: &str| slack.say("C01", user, text).thread(&root).send();
        let wait = |text: &str| {
            slack.wait_channel("C01", |channel| channel.to_string().contains(text));
        };
        say("U07", "nobody is asked yet");
        llm.reply_text("It is out.");
        say("U07", &format!("<@{BOT}> is it out?"));
        wait("mom: It is out.");
        slack.wait_until("the answer in the log", |_| {
            let log = mom.jsonl("C01/log.jsonl");
            log.iter().any(|line| line["isBot"] == true).then_some(())
        });
        slack.change(|state| {
            state.add_user("U09", "gast");
            state.users.get_mut("U09").unwrap()["is_restricted"] = true.into();
        });
        say("U09", "me too");
        for text in [
            "<@U07> and you, what do you think?",
            "*<@U07>* and you?",
            "hey <@U07> what do you think?",
            "<!subteam^S01> can one of you look?",
            "<!here> who knows?",
        ] {
            say("U08", text);
        }
        slack.say("C01", "U08", "elsewhere").send();
        let last = say("U08", "and the notes?");
        slack.wait_acked(&last);
        llm.reply_text("Both are.");
        if !follow {
            slack.mention("C01", "U07", "are both?");
        }
        wait("mom: Both are.");
        let requests = llm.requests();
        assert_eq!(requests.len(), 2, "{follow}");
        let log = mom.jsonl("C01/log.jsonl");
        let asked = log.iter().filter(|line| line["mention"] == true);
        let asked: Vec<_> = asked.map(|line| line["text"].clone()).collect();
        let last = if follow {
            "and the notes?"
        } else {
            "are both?"
        };
        assert_eq!(asked, ["is it out?", last]);
        let seen = slack.channel("C01");
        let shown = seen
            .replies(&root)
            .iter()
            .any(|said| said.shown() == "Both are.");
        assert_eq!(shown, follow, "{seen}");
        assert!(!seen.to_string().contains("Sorry"), "{seen}");
    }
}

#[test]
fn threads_are_followed_for_a_day() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let roots = [25, 23].map(|hours| (hours, slack.say("C01", "U08", "a release").send_unheard()));
    let answers = roots.iter().map(|(hours, root)| {
        let date = events::iso(SystemTime::now() - Duration::from_secs(hours * 3_600));
        let answer = json!({"ts": "1.1", "date": date, "user": "bot", "text": "x",
            "isBot": true, "threadTs": root});
        answer.to_string() + "\n"
    });
    // A thread's root that was read late.
    let old = json!({"ts": "1700000000.000100", "date": "2023-11-14T22:13:20.000Z",
        "user": "U08", "text": "an old word"});
    let log = answers.collect::<String>() + &old.to_string() + "\n";
    home.write("data/C01/log.jsonl", log);
    let call = Call::new(&home).slack(&slack).llm(&llm);
    let _mom = call.env("MOM_FOLLOW_THREADS", "1").data().spawn();
    slack.wait_connected();
    llm.reply_text("Yes.");
    for (hours, root) in &roots {
        let text = format!("asked after {hours} hours");
        slack.say("C01", "U08", &text).thread(root).send();
    }
    let seen = wait_usage(&slack, "C01", 1);
    let answer = |root: &str| seen.replies(root).iter().any(|said| said.shown() == "Yes.");
    assert!(answer(&roots[1].1) && !answer(&roots[0].1), "{seen}");
    assert_eq!(llm.requests().len(), 1);
}

#[test]
fn who_reads_the_answer_before_its_details_are_posted_need_not_mention_mom() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let call = Call::new(&Arc::new(Scratch::new())).slack(&slack).llm(&llm);
    let mom = call.arg("--follow-threads").data().spawn();
    slack.wait_connected();
    let root = slack.say("C01", "U08", "a topic").send();
    let say = |text: &str| slack.say("C01", "U07", text).thread(&root).send();
    let (answer, details) = (Gate::new(), Gate::new());
    llm.reply(Reply::text("Here.").stall(&answer));
    llm.reply_text("Done it.");
    say(&format!("<@{BOT}> hi"));
    slack.wait_channel("C01", |channel| channel.to_string().contains("Thinking"));
    slack.fault("chat.postMessage", 1, Fault::Stall(details.clone()));
    slack.wait_acked(&say("nobody is asked yet"));
    answer.open();
    slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Here."));
    slack.wait_acked(&say("do it"));
    details.open();
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("mom: Done it.")
    });
    let log = mom.jsonl("C01/log.jsonl");
    let asked = log.iter().filter(|line| line["mention"] == true);
    let asked: Vec<_> = asked.map(|line| line["text"].clone()).collect();
    assert_eq!(asked, ["hi", "do it"]);
}

/// The messages were for others, before someone addressed mom.
#[test]
fn a_stop_in_a_threads_past_stops_nothing_after_a_crash() {
    let (slack, llm, mom) = start();
    slack.persist();
    slack.wait_looked_back("C01");
    let root = slack.say("C01", "U08", "the release").send_unheard();
    let stop = slack.say("C01", "U08", "stop").thread(&root);
    stop.send_unheard();
    llm.reply(Reply::text("a long story").stall(&Gate::new()));
    let ask = slack.say("C01", "U07", &format!("<@{BOT}> what now?"));
    ask.thread(&root).send();
    llm.next_request();
    let home = Arc::clone(&mom.home);
    mom.kill9();
    slack.cut();
    llm.reply_text("The end.");
    let _mom = Mom::start_in(&home, &slack, &llm);
    let seen = slack.wait_channel("C01", |seen| {
        let all = seen.to_string();
        all.contains("The end.") || all.contains("Stopped")
    });
    assert!(!seen.to_string().contains("Stopped"), "{seen}");
}
