//! What a start does with what the last life left: commands that were logged and not done, files
//! that were being downloaded or uploaded, a history that was not read to its end.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{BOT, Channel, FakeSlack, Fault, Message};

fn answered(slack: &FakeSlack, channel: &str, text: &str) -> Channel {
    slack.wait_channel(channel, |channel| channel.to_string().contains(text))
}

/// Lines of what people said.
fn said(mom: &Mom, channel: &str) -> usize {
    let lines = mom.jsonl(&format!("{channel}/log.jsonl"));
    lines.iter().filter(|line| line["isBot"] == false).count()
}

fn wait_logged(slack: &FakeSlack, mom: &Mom, channel: &str, text: &str) {
    let path = mom.home.path(&format!("data/{channel}/log.jsonl"));
    slack.wait_until(text, |_| {
        let log = fs::read_to_string(&path).unwrap_or_default();
        log.contains(text).then_some(())
    });
}

/// Messages that were logged, and nothing more, when the power was cut.
struct Logged<'a> {
    slack: &'a FakeSlack,
    home: &'a Scratch,
}

impl<'a> Logged<'a> {
    /// With a Slack that forgets nothing that was not acked.
    fn new(slack: &'a FakeSlack, home: &'a Scratch) -> Logged<'a> {
        slack.persist();
        Logged { slack, home }
    }

    fn say(&self, channel: &str, thread: Option<&str>, text: &str, files: &[&str]) -> String {
        let mut say = self.slack.say(channel, "U07", text);
        if let Some(root) = thread {
            say = say.thread(root);
        }
        for id in files {
            say = say.file(id);
        }
        let ts = say.send_unheard();
        let ms = ts.replace('.', "")[..13].to_owned();
        let attachment = |id: &&str| {
            let name = self
                .slack
                .change(|state| state.files[*id].object["name"].clone());
            let name = name.as_str().expect("a name");
            json!({"original": name, "local": format!("{channel}/attachments/{ms}_{name}")})
        };
        let attachments: Vec<Value> = files.iter().map(attachment).collect();
        let seconds = &ts[..10];
        let date = std::process::Command::new("date")
            .args([
                "-u",
                "-d",
                &format!("@{seconds}"),
                "+%Y-%m-%dT%H:%M:%S.999Z",
            ])
            .output()
            .expect("date");
        let date = String::from_utf8(date.stdout).expect("a date");
        let mention = format!("<@{BOT}>");
        let mut line = json!({"date": date.trim(), "ts": ts, "user": "U07",
            "text": text.replace(&mention, "").trim(), "attachments": attachments, "isBot": false});
        if let Some(root) = thread {
            line["threadTs"] = root.into();
        }
        if text.contains(&mention) {
            line["mention"] = true.into();
        }
        self.append(&format!("data/{channel}/log.jsonl"), &line);
        // A `stop` counts without a mention while something runs.
        if text.contains(&mention) || text == "Stop" {
            let text = line["text"].clone();
            let locals = attachments.iter().map(|file| file["local"].clone());
            let mut request = json!({"ts": ts, "user": "U07", "text": text, "access": "unknown",
                "files": locals.collect::<Vec<_>>()});
            if let Some(root) = thread {
                request["thread"] = root.into();
            }
            let path = format!("data/{channel}/runs.jsonl");
            self.append(&path, &json!({"requested": request}));
        }
        ts
    }

    fn append(&self, path: &str, line: &Value) {
        let before = std::fs::read_to_string(self.home.path(path)).unwrap_or_default();
        self.home.write(path, format!("{before}{line}\n"));
    }
}

#[test]
fn a_command_that_was_logged_and_cut_off_is_obeyed_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.allow("already_reacted");
    let home = Arc::new(Scratch::new());
    let logged = Logged::new(&slack, &home);
    let root = logged.say("C01", None, "a thread", &[]);
    logged.say("C01", Some(&root), "<@U0BOT> and here?", &[]);
    logged.say("C01", None, "<@U0BOT> delete everything", &[]);
    logged.say("C01", None, "no, stop", &[]);
    logged.say("C01", None, "Stop", &[]);
    logged.say("C01", None, "<@U0BOT> list everything", &[]);
    logged.say("C02", None, "old words", &[]);
    logged.say("C02", None, "<@U0BOT> new", &[]);
    logged.say("C02", None, "<@U0BOT> status", &[]);
    logged.say("C02", None, "<@U0BOT> new words", &[]);
    llm.otherwise(|_| Reply::text("Here."));
    for life in 1..=3 {
        let mom = Mom::start_in(&home, &slack, &llm);
        let mut channel = answered(&slack, "C01", "_Stopped_");
        for text in ["Model: ", "A fresh start", "Here."] {
            answered(&slack, "C02", text);
        }
        for n in 1..=life {
            // This comes after everything that the start found.
            slack.mention("C02", "U07", &format!("more {n}"));
            channel = slack.wait_channel("C01", |channel| {
                channel.to_string().matches("Here.").count() == 2
            });
        }
        let (one, two) = (channel.to_string(), slack.channel("C02").to_string());
        assert_eq!(one.matches("_Stopped_").count(), 1, "{life}: {one}");
        for text in ["Model: ", "A fresh start"] {
            assert_eq!(two.matches(text).count(), 1, "{life}: {two}");
        }
        assert_eq!(mom.terminate().code, Some(0));
        slack.cut();
    }
    for asked in llm.requests() {
        assert!(!asked.raw.contains("old words"), "{}", asked.raw);
        let stopped = asked.raw.contains("delete everything");
        assert!(!stopped || asked.raw.contains("list everything"));
    }
}

/// The kill comes between the stop and its end in Slack.
#[test]
fn a_stop_is_shown_once_after_a_crash() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    let mom = Mom::start(&slack, &llm);
    llm.reply(Reply::text("a long story").stall(&Gate::new()));
    slack.mention("C01", "U07", "a story");
    llm.next_request();
    slack.fault("chat.update", 0, Fault::Stall(Gate::new()));
    let stop = slack.mention("C01", "U08", "stop");
    slack.wait_channel("C01", |channel| {
        channel.message(&stop).reactions == ["octagonal_sign"]
    });
    let home = Arc::clone(&mom.home);
    mom.kill9();
    slack.cut();
    slack.change(|state| state.end_faults());
    let _mom = Mom::start_in(&home, &slack, &llm);
    let channel = answered(&slack, "C01", "_Stopped_ by otto");
    assert_eq!(channel.answers().len(), 1, "{channel}");
    assert_eq!(llm.requests().len(), 1);
}

/// The kill comes between the answer and the usage line, which takes the label away.
#[test]
fn a_label_below_a_thread_goes_after_a_crash() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    let mom = Mom::start(&slack, &llm);
    let gate = Gate::new();
    llm.reply(Reply::text("Here I am.").stall(&gate));
    let root = slack.say("C01", "U08", "the build is red").send();
    let asked = slack.say("C01", "U07", "<@U0BOT> are you there?");
    asked.thread(&root).send();
    slack.next_call("assistant.threads.setStatus");
    slack.fault("chat.postMessage", 0, Fault::Stall(Gate::new()));
    gate.open();
    slack.wait_until("the usage line", |state| {
        let mut posts = state.calls.iter();
        posts.find(|call| call.answer == "stalled").map(drop)
    });
    let home = Arc::clone(&mom.home);
    mom.kill9();
    slack.cut();
    slack.change(|state| state.end_faults());
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.wait_until("no label", |state| {
        state.statuses.last()?.ends_with(": ").then_some(())
    });
    answered(&slack, "C01", "Here I am.");
}

#[test]
fn files_that_were_on_their_way_come_after_the_start() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.allow("thread_not_found");
    let home = Arc::new(Scratch::new());
    let logged = Logged::new(&slack, &home);
    let file = |name: &str| slack.file(name, "text/plain", name.as_bytes());
    let (asked, heard) = (file("asked.txt"), file("heard.txt"));
    let (reply, gone) = (file("reply.txt"), file("gone.txt"));
    let root = logged.say("C01", None, "look", &[&heard]);
    logged.say("C01", Some(&root), "and at this", &[&reply]);
    logged.say("C02", None, "<@U0BOT> erstens", &[&asked]);
    let deleted = logged.say("G01", None, "<@U0BOT> zweitens", &[&gone]);
    // mom did not learn of its deletion, otherwise there would be no run.
    slack.change(|state| {
        let channel = state.channels.get_mut("G01").expect("G01");
        channel.messages.retain(|message| message.ts != deleted);
    });
    llm.otherwise(|_| Reply::text("Read."));
    let mom = Mom::start_in(&home, &slack, &llm);
    answered(&slack, "C02", "Read.");
    answered(&slack, "G01", "Read.");
    let request = |mark: &str| {
        let requests = llm.requests();
        let found = requests.iter().find(|asked| asked.raw.contains(mark));
        found.expect("a request").raw.clone()
    };
    assert!(request("erstens").contains("asked.txt"));
    let told = request("zweitens");
    assert!(told.contains("could not be fetched: Slack"), "{told}");
    slack.wait_until("the other files", |_| {
        let lines = ["C01", "C02"]
            .iter()
            .flat_map(|id| mom.jsonl(&format!("{id}/log.jsonl")));
        let files = lines.flat_map(|line| line["attachments"].as_array().cloned());
        let files = files.flatten().map(|file| {
            let local = file["local"].as_str().expect("a path").to_owned();
            (file["original"].as_str().expect("a name").to_owned(), local)
        });
        let files: Vec<(String, String)> = files.collect();
        let is_here = |(name, local): &(String, String)| {
            std::fs::read_to_string(home.path(&format!("data/{local}"))).is_ok_and(|is| is == *name)
        };
        (files.len() == 3 && files.iter().all(is_here)).then_some(())
    });
}

/// A newer message is in the log when the power is cut: what was missed before it must still be
/// read.
#[test]
fn a_history_that_was_not_read_to_its_end_is_read_after_the_next_start() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let logged = Logged::new(&slack, &home);
    logged.say("C01", None, "long ago", &[]);
    slack.say("C01", "U07", "<@U0BOT> missed").send_unheard();
    llm.otherwise(|_| Reply::text("Here."));
    for life in 1..=2 {
        slack.fault("conversations.history", 0, Fault::Stall(Gate::new()));
        let mom = Mom::start_in(&home, &slack, &llm);
        let ts = slack.say("C01", "U08", &format!("chatter {life}")).send();
        slack.wait_acked(&ts);
        mom.kill9();
        slack.cut();
        slack.change(|state| state.end_faults());
    }
    let mom = Mom::start_in(&home, &slack, &llm);
    let channel = answered(&slack, "C01", "Here.");
    assert_eq!(channel.answers().len(), 1);
    assert_eq!(said(&mom, "C01"), 4);
}

/// mom's own line is the newest of the log then, and does not show up to where it has received
/// messages.
#[test]
fn what_she_said_herself_hides_nothing_that_was_missed() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    let mom = Mom::start(&slack, &llm);
    slack.wait_looked_back("C01");
    slack.say("C01", "U08", "overheard").send();
    slack.say("C01", "U07", "<@U0BOT> missed").send_unheard();
    llm.reply_text("An event.");
    let event = json!({"type": "immediate", "channelId": "C01", "text": "wake"});
    mom.home.write("data/events/wake.json", event.to_string());
    answered(&slack, "C01", "An event.");
    wait_logged(&slack, &mom, "C01", "An event.");
    llm.reply_text("Here.");
    slack.cut();
    answered(&slack, "C01", "Here.");
    assert_eq!(said(&mom, "C01"), 2);
}

/// Messages of an hour ago that are in Slack and in the log; the first one addressed mom and was
/// answered, in the thread of the one before it.
fn long_ago(slack: &FakeSlack, home: &Scratch, count: usize) -> (Vec<String>, u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let began = now.expect("a clock").as_secs() - 3_600;
    let tss: Vec<String> = (0..count)
        .map(|n| format!("{began}.{:06}", n + 1))
        .collect();
    let mut log = String::new();
    for (n, ts) in tss.iter().enumerate() {
        let root = (n == 1).then(|| tss[0].clone());
        let text = if n == 1 { "<@U0BOT> asked" } else { "chatter" };
        let mut line = json!({"ts": ts, "user": "U07", "text": text, "attachments": [],
            "isBot": false, "mention": n == 1});
        if let Some(root) = &root {
            line["threadTs"] = root.as_str().into();
        }
        log += &format!("{line}\n");
        if n == 1 {
            let answer = json!({"ts": format!("{began}.500000"), "user": "bot",
                "text": "Done.", "attachments": [], "isBot": true, "threadTs": root});
            log += &format!("{answer}\n");
        }
        let message = Message {
            ts: ts.clone(),
            thread_ts: root,
            user: "U07".into(),
            text: text.into(),
            ..Message::default()
        };
        slack.change(|state| {
            state
                .channels
                .get_mut("C01")
                .unwrap()
                .messages
                .push(message)
        });
    }
    home.write("data/C01/log.jsonl", log);
    (tss, began)
}

/// The history was not read to its end for long, and more messages came than mom remembers.
#[test]
fn what_stands_far_back_in_the_log_was_not_missed() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let (tss, began) = long_ago(&slack, &home, 1_200);
    let kept = json!({"gaps": {"C01": format!("{began}.000000")}});
    home.write("data/mom.json", kept.to_string());
    slack.say("C01", "U07", "<@U0BOT> missed").send_unheard();
    llm.reply_text("Here.");
    let mom = Mom::start_in(&home, &slack, &llm);
    answered(&slack, "C01", "Here.");
    assert_eq!(
        (said(&mom, "C01"), llm.requests().len()),
        (tss.len() + 1, 1)
    );
}

#[test]
fn a_mention_in_a_thread_of_long_ago_is_answered() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let (tss, _) = long_ago(&slack, &home, 250);
    let missed = slack.say("C01", "U07", "<@U0BOT> and now?");
    missed.thread(&tss[0]).send_unheard();
    llm.reply_text("Here.");
    let mom = Mom::start_in(&home, &slack, &llm);
    answered(&slack, "C01", "Here.");
    assert_eq!(said(&mom, "C01"), tss.len() + 1);
}

/// A conversation without a log may have begun while mom was away; what is before mom's own posts
/// there was answered with another data directory.
#[test]
fn a_first_word_that_was_missed_is_answered() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.say("C01", "U07", "<@U0BOT> first").send_unheard();
    slack.say("C02", "U07", "<@U0BOT> of old").send_unheard();
    slack.say("C02", BOT, "Answered of old.").send_unheard();
    let after = slack.say("C02", "U08", "nothing to do");
    after.send_unheard();
    llm.otherwise(|_| Reply::text("Here."));
    let mom = Mom::start(&slack, &llm);
    answered(&slack, "C01", "Here.");
    wait_logged(&slack, &mom, "C02", "nothing to do");
    llm.reply_text("And here.");
    slack.mention("C02", "U07", "hello");
    let channel = answered(&slack, "C02", "And here.");
    assert!(!channel.to_string().contains("Here."), "{channel}");
}

/// Many names take longer than the one that a new message waits for; here Slack asks for a pause.
#[test]
fn what_many_new_people_said_is_logged_with_their_names() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let users: Vec<String> = (10..20).map(|n| format!("U{n}")).collect();
    slack.change(|state| {
        for user in &users {
            state.add_user(user, &format!("name-{user}"));
        }
    });
    for user in &users {
        slack.say("C01", user, "while you were away").send_unheard();
    }
    slack.fault("users.info", 1, Fault::Limited(2));
    let mom = Mom::start(&slack, &llm);
    wait_logged(&slack, &mom, "C01", "while you were away");
    let lines = mom.jsonl("C01/log.jsonl");
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|l| l["userName"].as_str())
        .collect();
    let want: Vec<String> = users.iter().map(|user| format!("name-{user}")).collect();
    assert_eq!(names, want);
}

#[test]
fn a_history_that_slack_does_not_give_is_asked_for_again() {
    let methods = [
        ("users.conversations", 1),
        ("conversations.history", 1),
        ("conversations.history", 2),
        ("conversations.replies", 1),
    ];
    for (name, fault) in Fault::passing() {
        for (method, nth) in methods {
            let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
            let home = Arc::new(Scratch::new());
            let logged = Logged::new(&slack, &home);
            let root = logged.say("C01", None, "long ago", &[]);
            logged.say("C01", None, "and later", &[]);
            let reply = slack.say("C01", "U07", "<@U0BOT> missed").thread(&root);
            reply.send_unheard();
            llm.reply_text("Here.");
            slack.fault(method, nth, fault.clone());
            let mom = Mom::start_in(&home, &slack, &llm);
            let channel = answered(&slack, "C01", "Here.");
            let count = channel.to_string().matches("Here.").count();
            assert_eq!(count, 1, "{method}, call {nth}: {name}");
            assert_eq!(said(&mom, "C01"), 3, "{method}: {name}");
        }
    }
}

/// Half a minute: longer than mom repeats one call.
#[test]
fn a_history_that_slack_does_not_give_for_long_is_asked_for_again() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let logged = Logged::new(&slack, &home);
    logged.say("C01", None, "long ago", &[]);
    slack.say("C01", "U07", "<@U0BOT> missed").send_unheard();
    slack.fault("conversations.history", 0, Fault::Html(404));
    slack.change(|state| {
        let others = state
            .channels
            .values_mut()
            .filter(|channel| channel.id != "C01");
        others.for_each(|channel| channel.is_member = false);
    });
    let mom = Mom::start_in(&home, &slack, &llm);
    slack.next_call("conversations.history");
    // The other channels continue meanwhile.
    llm.reply_text("Quick.");
    slack.dm("U07", "hurry");
    answered(&slack, "D07", "Quick.");
    slack.dm("U07", "status");
    answered(&slack, "D07", "Model: ");
    // One wait for all tries would exceed its guard, so each try has a wait of its own.
    for tries in [4, 6, 7] {
        slack.wait_until("a try", |state| {
            let calls = state.calls.iter();
            let tried = calls.filter(|call| call.method == "conversations.history");
            (tried.count() >= tries).then_some(())
        });
    }
    mom.wait_log("[C01] cannot read what was missed: conversations.history: HTTP 404");
    slack.change(|state| state.end_faults());
    llm.reply_text("Here.");
    answered(&slack, "C01", "Here.");
}

#[test]
fn who_was_refused_today_is_not_refused_again_after_a_restart() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    for life in 1..=2 {
        let call = Call::new(&home).slack(&slack).llm(&llm);
        let mom = call.arg("--allow-users=U07").data().spawn();
        slack.wait_connected();
        slack.mention("C01", "U08", "do this");
        mom.wait_log("refused U08");
        let status = "status".to_owned();
        slack.mention("C01", "U07", &status);
        let channel = slack.wait_channel("C01", |channel| {
            channel.to_string().matches("Model: ").count() == life
        });
        let sorry = channel.to_string().matches("Sorry").count();
        assert_eq!(sorry, 1, "{life}: {channel}");
        assert_eq!(mom.terminate().code, Some(0));
        slack.cut();
    }
}

/// Any app of the workspace can post mom's metadata.
#[test]
fn another_apps_post_is_no_answer() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let logged = Logged::new(&slack, &home);
    let asked = logged.say("C01", None, "<@U0BOT> are you there?", &[]);
    let command = logged.say("C01", None, "<@U0BOT> status", &[]);
    for (run, part) in [
        (&asked, "status"),
        (&asked, "answer-0"),
        (&command, "status"),
    ] {
        let ts = slack.say("C01", "B0EVE", "Done.").send_unheard();
        slack.change(|state| {
            let messages = &mut state.channels.get_mut("C01").unwrap().messages;
            let forged = messages.iter_mut().find(|message| message.ts == ts);
            let payload = json!({"run": run, "part": part});
            forged.unwrap().metadata = json!({"event_type": "mom", "event_payload": payload});
        });
    }
    llm.otherwise(|_| Reply::text("Here."));
    let _mom = Mom::start_in(&home, &slack, &llm);
    answered(&slack, "C01", "mom: Here.");
    answered(&slack, "C01", "mom: Model: ");
}

#[test]
fn the_answer_of_a_long_run_that_was_cut_rings_a_bell() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply(Reply::text("a long story").stall(&Gate::new()));
    let asked = slack.mention("C01", "U07", "go");
    llm.next_request();
    let status = answered(&slack, "C01", "Thinking").answers()[0].ts.clone();
    mom.kill9();
    slack.cut();
    // As if all of it was a minute ago.
    let earlier = |ts: &str| {
        let (seconds, micros) = ts.split_once('.').expect("a ts");
        format!("{}.{micros}", seconds.parse::<u64>().expect("seconds") - 60)
    };
    let shift = |text: String| {
        [&asked, &status]
            .into_iter()
            .fold(text, |text, ts| text.replace(ts, &earlier(ts)))
    };
    for file in ["data/C01/log.jsonl", "data/C01/runs.jsonl"] {
        home.write(file, shift(home.read(file)));
    }
    slack.change(|state| {
        for message in &mut state.channels.get_mut("C01").expect("a channel").messages {
            message.ts = earlier(&message.ts);
            let metadata = shift(message.metadata.to_string());
            message.metadata = serde_json::from_str(&metadata).expect("JSON");
        }
    });
    llm.reply_text("The answer.");
    let _mom = Mom::start_in(&home, &slack, &llm);
    let seen = slack.wait_channel("C01", |channel| channel.to_string().contains("_Done: "));
    let hers: Vec<_> = seen
        .answers()
        .into_iter()
        .map(|said| (said.ts.clone(), said.shown()))
        .collect();
    assert_eq!(hers.len(), 2, "{seen}");
    assert!(
        hers[0].0 == earlier(&status) && hers[0].1.contains("_Done: "),
        "{seen}"
    );
    assert_eq!(hers[1].1, "The answer.");
}

/// tests/data/old-dir was written by a mom without runs.jsonl, and killed while it answered
/// `count the bikes`; `and the cars` waited for the next turn.
#[test]
fn a_run_that_an_earlier_version_left_is_resumed() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let began = now.expect("a clock").as_secs() - 600;
    let iso = |seconds: u64| {
        let date = std::process::Command::new("date")
            .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"])
            .output();
        let date = String::from_utf8(date.expect("date").stdout).expect("a date");
        date.trim().to_owned()
    };
    let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/old-dir");
    for file in ["mom.json", "C01/log.jsonl", "C01/context.jsonl"] {
        let mut text = fs::read_to_string(old.join(file)).expect("read");
        for n in 0..2 {
            text = text.replace(&format!("{}", 1_796_022_806 + n), &format!("{}", began + n));
            text = text.replace(&format!("2026-11-30T07:13:2{}", 6 + n), &iso(began + n));
        }
        home.write(&format!("data/{file}"), text);
    }
    let said = [
        (".921502", "U07", "<@U0BOT> which day is it?"),
        (".003509", BOT, "Monday."),
        (".069039", "U08", "the build is red"),
        (".069227", "U07", "<@U0BOT> count the bikes"),
        (".115292", BOT, "_Thinking_ ..."),
        (".189226", "U07", "<@U0BOT> and the cars"),
    ];
    for (n, (micros, user, text)) in said.into_iter().enumerate() {
        let message = Message {
            ts: format!("{}{micros}", began + u64::from(n > 0)),
            user: user.into(),
            text: text.into(),
            ..Message::default()
        };
        slack.change(|state| {
            let channel = state.channels.get_mut("C01").expect("a channel");
            channel.messages.push(message);
        });
    }
    llm.reply_text("42 bikes, no cars.");
    let mom = Mom::start_in(&home, &slack, &llm);
    let channel = slack.wait_answer("C01", "42 bikes, no cars.");
    // Its status is ten minutes old, so the answer is a message of its own.
    assert_eq!(channel.answers().len(), 3, "{channel}");
    let asked = llm.next_request();
    let order = [
        "Monday.",
        "the build is red",
        "count the bikes",
        "42",
        "and the cars",
    ];
    let places = order.map(|text| asked.raw.find(text).expect(text));
    assert!(
        places.is_sorted() && asked.raw.matches("count the bikes").count() == 1,
        "{}",
        asked.raw
    );
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    // No work remains, and what was requested before is known.
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hello");
    slack.wait_answer("C01", "Here.");
    assert_eq!(llm.requests().len(), 2);
    assert_eq!(mom.terminate().code, Some(0));
}
