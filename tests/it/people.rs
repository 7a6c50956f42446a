//! Who is who, and who may use mom.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{BOT, Channel, FakeSlack, Fault};

fn start() -> (FakeSlack, FakeLlm, Mom) {
    start_with(&[])
}

fn start_with(args: &[&str]) -> (FakeSlack, FakeLlm, Mom) {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let call = Call::new(&home).slack(&slack).llm(&llm);
    let call = args.iter().fold(call, |call, arg| call.arg(arg));
    let mom = call.data().spawn();
    slack.wait_connected();
    (slack, llm, mom)
}

fn wait_said(slack: &FakeSlack, channel: &str, text: &str) -> Channel {
    slack.wait_channel(channel, |channel| channel.to_string().contains(text))
}

/// After this all that was sent before has been handled: envelopes come in order.
fn wait_handled(slack: &FakeSlack) {
    let last = slack.say("C02", "U07", "and so on").send();
    slack.wait_acked(&last);
}

#[test]
fn names_are_looked_up_once_and_read_as_names() {
    let (slack, llm, _mom) = start();
    for n in 0..3 {
        llm.reply_text(&format!("Answer {n}, <@U08>."));
        slack.mention("C01", "U07", "tell <@U08> and <@U08|otto> about it");
        let seen = wait_said(&slack, "C01", &format!("Answer {n}, <@U08>."));
        let answer = seen.answers()[n];
        assert_eq!(answer.pings()[0], "<@U08>");
    }
    let asked = llm.next_request();
    let text = asked.message_text(0);
    assert!(
        text.contains("[lena]: tell <@U08|otto> and <@U08|otto>"),
        "{text}"
    );
    assert!(asked.system().contains("U07"), "{}", asked.system());
    for user in ["U07", "U08"] {
        let lookups = slack.calls("users.info");
        let lookups = lookups.iter().filter(|call| call.arg("user") == user);
        assert_eq!(lookups.count(), 1, "{user}");
    }
    assert_eq!(slack.calls("conversations.info").len(), 1);
}

#[test]
fn who_is_not_listed_is_refused_once_a_day() {
    let (slack, llm, mom) = start_with(&["--allow-users=U07"]);
    for _ in 0..3 {
        slack.mention("C01", "U08", "do this");
    }
    slack.dm("U08", "or this");
    wait_said(&slack, "C01", "_Sorry, I can't help here");
    wait_handled(&slack);
    llm.reply_text("For Lena.");
    slack.mention("C01", "U07", "hi");
    let seen = wait_said(&slack, "C01", "For Lena.");
    assert_eq!(seen.to_string().matches("Sorry").count(), 1, "{seen}");
    assert!(!slack.channel("D08").to_string().contains("mom:"));
    assert_eq!(llm.requests().len(), 1);
    mom.wait_log("refused U08");
    assert!(!mom.log().contains("no list of allowed users"));
}

#[test]
fn channels_that_are_not_listed_are_refused() {
    let (slack, llm, mom) = start_with(&["--allow-channels=C02"]);
    slack.mention("C01", "U07", "hi");
    wait_said(&slack, "C01", "_Sorry, I can't help here");
    llm.reply_text("Here.");
    slack.mention("C02", "U07", "hi");
    wait_said(&slack, "C02", "Here.");
    assert_eq!(llm.requests().len(), 1);
    mom.wait_log("no list of allowed users");
    // An event gets nobody past the list.
    let event = json!({"type": "immediate", "channelId": "C01", "text": "x"});
    mom.home.write("data/events/a.json", event.to_string());
    mom.wait_log("event a.json does not run: --allow-channels");
}

#[test]
fn who_may_not_ask_may_not_stop() {
    let (slack, llm, _mom) = start_with(&["--allow-users=U07"]);
    let gate = Gate::new();
    llm.reply(Reply::text("At last, an answer.").stall(&gate));
    slack.mention("C01", "U07", "hi");
    llm.next_request();
    let seen = wait_said(&slack, "C01", "[Stop]");
    slack.press("C01", &seen.answers()[0].ts, "U08", "Stop");
    slack.say("C01", "U08", "stop").send();
    slack.mention("C01", "U08", "and do this");
    wait_handled(&slack);
    gate.open();
    wait_said(&slack, "C01", "At last, an answer.");
    assert_eq!(llm.requests().len(), 1);
}

/// Reading the users of a large workspace takes minutes; nothing else waits for it.
#[test]
fn everyone_is_listed_after_the_first_answer_and_beside_all_else() {
    let (slack, llm, mom) = start();
    let gate = Gate::new();
    slack.fault("users.list", 1, Fault::StallAfter(gate.clone()));
    llm.reply_text("First.");
    slack.mention("C01", "U07", "hi");
    wait_said(&slack, "C01", "First.");
    slack.wait_until("the list", |state| {
        let position = |method: &str| state.calls.iter().rposition(|call| call.method == method);
        let (listed, answered) = (position("users.list")?, position("chat.update")?);
        assert!(listed > answered, "listed before the answer");
        Some(())
    });
    slack.mention("C01", "U07", "help");
    wait_said(&slack, "C01", "I am mom");
    llm.reply_text("Second.");
    slack.mention("C01", "U07", "hi");
    wait_said(&slack, "C01", "Second.");
    gate.open();
    mom.wait_log("directory.tsv lists 6 users and channels");
    let lines = mom.data("directory.tsv");
    assert!(
        lines.contains("U08\t@otto\totto\n") && lines.contains("C02\t#ops\n"),
        "{lines}"
    );
}

#[test]
fn a_name_among_the_allowed_ends_the_start() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    for list in ["--allow-users=U07,lena", "--allow-channels=#ops"] {
        let home = Arc::new(Scratch::new());
        let call = Call::new(&home).slack(&slack).llm(&llm).arg(list);
        let ended = call.data().run("");
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("take ids, not names"),
            "{}",
            ended.stderr
        );
    }
    assert!(slack.calls("auth.test").is_empty());
}

#[test]
fn help_is_answered_without_a_model() {
    let (slack, llm, _mom) = start_with(&["--allow-users=U07"]);
    slack.mention("C01", "U07", "*Help*, please");
    let seen = wait_said(&slack, "C01", "I am mom");
    let said = seen.answers()[0].shown();
    for word in ["`stop`", "`new`", "`status`", "sandbox host", "lena"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(seen.answers()[0].pings().is_empty(), "{seen}");
    assert!(llm.requests().is_empty());
}

/// What users.info says of a guest, and of a stranger from a connected workspace.
fn outsiders() -> [(&'static str, Value); 3] {
    [
        ("is_restricted", json!(true)),
        ("is_ultra_restricted", json!(true)),
        ("team_id", json!("T99")),
    ]
}

/// mom does nothing for them: no run, no command, and it tells them nothing.
#[test]
fn who_is_no_member_gets_nothing() {
    let codes = [
        "user_not_visible",
        "user_not_found",
        "team_access_not_granted",
        "missing_scope",
    ];
    let codes = codes.map(|code| (code, None));
    let flags = outsiders().map(|(key, value)| (key, Some(value)));
    for (why, flag) in flags.into_iter().chain(codes) {
        let (slack, llm, mom) = start();
        llm.reply_text("Noted.");
        slack.mention("C01", "U07", "the number is 42");
        wait_said(&slack, "C01", "Noted.");
        match flag {
            Some(value) => {
                slack.change(|state| state.users.get_mut("U08").unwrap()[why] = value);
            }
            None => slack.fault("users.info", 0, Fault::Code(why)),
        }
        for text in ["new", "status", "help", "do this"] {
            slack.mention("C01", "U08", text);
        }
        wait_said(&slack, "C01", "_Sorry, I can't help here");
        slack.dm("U08", "status");
        for n in 1..=5 {
            mom.wait_log_times("refused U08", n);
        }
        llm.reply_text("For Lena.");
        slack.mention("C01", "U07", "which number?");
        let seen = wait_said(&slack, "C01", "For Lena.");
        assert_eq!(seen.answers().len(), 3, "{why}: {seen}");
        assert!(!slack.channel("D08").to_string().contains("mom:"), "{why}");
        let requests = llm.requests();
        assert_eq!(requests.len(), 2, "{why}");
        assert!(requests[1].raw.contains("the number is 42"), "{why}");
    }
    let (slack, llm, _mom) = start_with(&["--allow-users=U08"]);
    slack.change(|state| state.users.get_mut("U08").unwrap()["is_restricted"] = true.into());
    llm.reply_text("For Otto.");
    slack.mention("C01", "U08", "do this");
    wait_said(&slack, "C01", "For Otto.");
}

#[test]
fn who_is_not_known_yet_waits() {
    let (slack, llm, _mom) = start();
    let gate = Gate::new();
    slack.fault("users.info", 0, Fault::Stall(gate.clone()));
    let first = slack.mention("C01", "U07", "are you there?");
    let second = slack.mention("C01", "U07", "or is it Sunday?");
    wait_handled(&slack);
    let seen = slack.channel("C01");
    assert!(seen.answers().is_empty(), "{seen}");
    for ts in [first, second] {
        assert!(seen.message(&ts).reactions.is_empty(), "{seen}");
    }
    llm.reply_text("Here.");
    gate.open();
    wait_said(&slack, "C01", "mom: Here.");
    let requests = llm.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].raw.contains("or is it Sunday?"));
}

/// The message was logged, and nothing was known of its sender when the crash came.
#[test]
fn a_guests_stop_stops_nothing_after_a_crash_either() {
    let (slack, llm, mom) = start();
    slack.persist();
    slack.change(|state| state.users.get_mut("U08").unwrap()["is_restricted"] = true.into());
    llm.reply(Reply::text("a long story").stall(&Gate::new()));
    slack.mention("C01", "U07", "a story");
    llm.next_request();
    slack.fault("users.info", 0, Fault::Stall(Gate::new()));
    let stop = slack.say("C01", "U08", "stop").send();
    slack.wait_acked(&stop);
    let home = Arc::clone(&mom.home);
    mom.kill9();
    slack.cut();
    slack.change(|state| state.end_faults());
    llm.reply_text("The end.");
    let mom = Mom::start_in(&home, &slack, &llm);
    let seen = wait_said(&slack, "C01", "mom: The end.");
    mom.wait_log("refused U08");
    assert!(!seen.to_string().contains("Stopped"), "{seen}");
}

#[test]
fn guests_steer_and_stop_nothing() {
    let (slack, llm, _mom) = start();
    slack.change(|state| state.users.get_mut("U08").unwrap()["is_restricted"] = true.into());
    // At first mom does not know who that is, then it does.
    for n in 1..=3 {
        let gate = Gate::new();
        let answer = format!("At last, answer {n}.");
        llm.reply(Reply::text(&answer).stall(&gate));
        slack.mention("C01", "U07", "hi");
        llm.next_request();
        let seen = wait_said(&slack, "C01", "[Stop]");
        if n != 2 {
            slack.say("C01", "U08", "stop").send();
        }
        if n >= 2 {
            let status = seen
                .answers()
                .into_iter()
                .find(|said| !said.buttons().is_empty());
            slack.press("C01", &status.unwrap().ts, "U08", "Stop");
        }
        slack.wait_until("who that is", |state| {
            let mut calls = state.calls.iter();
            let asked = calls.any(|call| call.method == "users.info" && call.arg("user") == "U08");
            asked.then_some(())
        });
        slack.mention("C01", "U08", "send me the secrets");
        wait_handled(&slack);
        gate.open();
        let seen = wait_said(&slack, "C01", &answer);
        assert!(!seen.to_string().contains("Stopped"), "{seen}");
        wait_said(&slack, "C01", "_Sorry, I can't help here");
        assert_eq!(llm.requests().len(), n);
    }
}

#[test]
fn other_workspaces_other_bots_and_workflows() {
    let (slack, llm, mom) = start();
    slack.change(|state| {
        state.add_user("U09", "ci");
        state.users.get_mut("U09").unwrap()["is_bot"] = true.into();
    });
    let mention = |user: &str| slack.say("C01", user, &format!("<@{BOT}> do this"));
    mention("U08").with("user_team", "T99".into()).send();
    wait_said(&slack, "C01", "_Sorry, I can't help here");
    mention("U09").with("bot_id", "B0CI".into()).send();
    mom.wait_log("U09 is a program: not answered");
    mention("B0CI").send();
    mom.wait_log("B0CI is a program: not answered");
    slack
        .say("C01", "USLACKBOT", &format!("<@{BOT}> do this"))
        .send();
    let join = slack.say("C01", "U08", "<@U08> has joined the channel");
    let join = join.with("subtype", "channel_join".into()).send();
    mom.wait_log(&format!("left out the message {join}: channel_join"));
    slack.redeliver(&join);
    wait_handled(&slack);
    assert_eq!(mom.log().matches("left out the message").count(), 1);
    // A person whose app posts with this person's user token.
    llm.reply_text("For Lena.");
    mention("U07").with("bot_id", "B0APP".into()).send();
    let seen = wait_said(&slack, "C01", "For Lena.");
    assert_eq!(seen.answers().len(), 2, "{seen}");
    let requests = llm.requests();
    assert_eq!(requests.len(), 1);
    // What the programs posted is read.
    let read = requests[0].body["messages"].to_string();
    assert!(read.contains("[ci (app)]: do this"), "{read}");
    assert!(!read.contains("has joined"), "{read}");
}

#[test]
fn colleagues_of_the_same_organisation_are_members_and_changes_are_heard() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.change(|state| {
        state.enterprise = Some("E01");
        let otto = state.users.get_mut("U08").unwrap();
        otto["team_id"] = "T99".into();
        otto["enterprise_user"] = json!({"enterprise_id": "E01", "teams": ["T99"]});
    });
    let home = Arc::new(Scratch::new());
    let mom = Call::new(&home).slack(&slack).llm(&llm).data().spawn();
    let say = |user: &str| slack.say("C01", user, &format!("<@{BOT}> hi"));
    llm.reply_text("For Otto.");
    say("U08").with("user_team", "T99".into()).send();
    wait_said(&slack, "C01", "For Otto.");
    let change = |change: fn(&mut Value)| {
        let user = slack.change(|state| {
            let user = state.users.get_mut("U08").unwrap();
            change(user);
            user.clone()
        });
        slack.emit(json!({"type": "user_change", "user": user, "event_ts": "1.1"}));
    };
    change(|user| user["real_name"] = "Otto Ohm".into());
    llm.reply_text("Renamed.");
    say("U08").send();
    wait_said(&slack, "C01", "Renamed.");
    let log = mom.jsonl("C01/log.jsonl");
    let said = log.iter().rfind(|line| line["user"] == "U08").unwrap();
    assert_eq!(said["displayName"], "Otto Ohm");
    change(|user| user["is_restricted"] = true.into());
    say("U08").send();
    wait_said(&slack, "C01", "_Sorry, I can't help here");
    assert_eq!(llm.requests().len(), 2);
    slack.change(|state| "lounge".clone_into(&mut state.channels.get_mut("C01").unwrap().name));
    slack.emit(json!({"type": "channel_rename", "channel": {"id": "C01", "name": "lounge"}}));
    llm.reply_text("Here.");
    say("U07").send();
    wait_said(&slack, "C01", "Here.");
    let request = llm.requests().pop().unwrap();
    assert!(request.system().contains("#lounge"), "{}", request.system());
}

#[test]
fn it_introduces_itself_once_for_each_channel() {
    let (slack, llm, mom) = start();
    let events = [
        json!({"type": "member_joined_channel", "user": BOT, "channel": "C02"}),
        json!({"type": "app_home_opened", "user": "U07", "channel": "D07", "tab": "messages"}),
    ];
    slack.change(|state| state.im_of("U07"));
    let send = || {
        for event in &events {
            let payload = json!({"type": "event_callback", "event": event});
            slack.send(json!({"type": "events_api", "payload": payload}));
        }
    };
    send();
    send();
    for channel in ["C02", "D07"] {
        wait_said(&slack, channel, "`help`");
    }
    let home = Arc::clone(&mom.home);
    mom.terminate();
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    send();
    wait_handled(&slack);
    slack.mention("C01", "U07", "status");
    wait_said(&slack, "C01", "Model: ");
    for channel in ["C02", "D07"] {
        let seen = slack.channel(channel);
        assert_eq!(seen.answers().len(), 1, "{seen}");
    }
}

#[test]
fn it_introduces_itself_to_members_only() {
    let (slack, _llm, _mom) = start();
    slack.change(|state| {
        state.users.get_mut("U08").unwrap()["is_restricted"] = true.into();
        state.im_of("U07");
        state.im_of("U08");
    });
    for (channel, user) in [("D08", "U08"), ("D07", "U07")] {
        slack.emit(
            json!({"type": "app_home_opened", "user": user, "channel": channel,
            "tab": "messages"}),
        );
    }
    wait_said(&slack, "D07", "`help`");
    let seen = slack.channel("D08");
    assert!(seen.answers().is_empty(), "{seen}");
}

/// Waits for lines of people in the log of C01 that show this; name and display name of each.
fn wait_lines(slack: &FakeSlack, mom: &Mom, count: usize) -> Vec<(String, Value, Value)> {
    let path = mom.home.path("data/C01/log.jsonl");
    slack.wait_until("the lines", |_| {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        (log.lines().count() >= count && log.ends_with('\n')).then_some(())
    });
    let lines = mom.jsonl("C01/log.jsonl");
    let lines = lines.iter().filter(|line| line["isBot"] == false);
    let fields = |line: &Value| {
        let text = line["text"].as_str().unwrap_or("").to_owned();
        (text, line["userName"].clone(), line["displayName"].clone())
    };
    lines.map(fields).collect()
}

#[test]
fn first_words_are_logged_with_the_name_and_no_ack_waits_for_it() {
    let (slack, _llm, mom) = start();
    slack.change(|state| state.users.get_mut("U07").unwrap()["real_name"] = "Lena Berg".into());
    let gate = Gate::new();
    slack.fault("users.info", 1, Fault::Stall(gate.clone()));
    let first = slack.say("C01", "U07", "first words").send();
    slack.wait_acked(&first);
    gate.open();
    let named = |text: &str| (text.to_owned(), json!("lena"), json!("Lena Berg"));
    assert_eq!(wait_lines(&slack, &mom, 1), [named("first words")]);
    slack.redeliver(&first);
    let more = slack.say("C01", "U07", "more").send();
    slack.wait_acked(&more);
    assert_eq!(
        wait_lines(&slack, &mom, 2),
        [named("first words"), named("more")]
    );
}

/// The line of an edit comes after the line that it changes.
#[test]
fn a_name_that_does_not_come_holds_up_no_line() {
    let (slack, llm, mom) = start();
    slack.change(|state| state.add_user("U09", "ann"));
    let gate = Gate::new();
    slack.fault("users.info", 0, Fault::Stall(gate.clone()));
    let ts = slack.say("C01", "U08", "db1 is down").send();
    slack.wait_acked(&ts);
    let no_name = |text: &str| (text.to_owned(), Value::Null, Value::Null);
    assert_eq!(wait_lines(&slack, &mom, 1), [no_name("db1 is down")]);
    let ts = slack.say("C01", "U09", "what?").send();
    slack.edit("C01", &ts, "which one?");
    let lines = wait_lines(&slack, &mom, 3);
    assert_eq!(lines[1..], [no_name("what?"), no_name("which one?")]);
    llm.reply_text("It is.");
    gate.open();
    slack.change(|state| state.end_faults());
    slack.mention("C01", "U07", "is it?");
    slack.wait_answer("C01", "It is.");
    let told = llm.next_request().body["messages"].to_string();
    assert!(
        told.contains("db1 is down") && told.contains("which one?"),
        "{told}"
    );
}

/// A run that begins reads lines that still wait for a name.
#[test]
fn what_someone_new_said_is_read_by_the_run_that_follows() {
    let (slack, llm, _mom) = start();
    llm.reply_text("Hello.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Hello.");
    let gate = Gate::new();
    slack.fault("users.info", 1, Fault::Stall(gate.clone()));
    let ts = slack.say("C01", "U08", "db1 is down").send();
    slack.wait_acked(&ts);
    llm.reply_text("It is.");
    slack.mention("C01", "U07", "is it?");
    slack.wait_answer("C01", "It is.");
    let told = llm.requests()[1].body["messages"].to_string();
    assert!(told.contains("db1 is down"), "{told}");
    gate.open();
}

#[test]
fn first_words_survive_a_crash_once() {
    let (slack, llm, mom) = start();
    slack.persist();
    slack.fault("users.info", 0, Fault::Stall(Gate::new()));
    let said = ["one", "two"].map(|text| slack.say("C01", "U07", text).send());
    let asked = slack.mention("C01", "U07", "three");
    for ts in said.iter().chain([&asked]) {
        slack.wait_acked(ts);
    }
    let home = Arc::clone(&mom.home);
    mom.kill9();
    slack.cut();
    slack.change(|state| state.end_faults());
    llm.reply_text("Here.");
    let mom = Mom::start_in(&home, &slack, &llm);
    slack.redeliver(&said[0]);
    slack.wait_answer("C01", "Here.");
    let lines = wait_lines(&slack, &mom, 4);
    let texts: Vec<&str> = lines.iter().map(|(text, ..)| text.as_str()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    assert_eq!(llm.requests().len(), 1);
}
